//! The command line of `skiff`. Every flag may also stand in a YAML file
//! (`--config`) or in a variable `SKIFF_…`; the flag wins over the variable,
//! the variable over the file.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use ipnet::Ipv4Net;

use super::etcd_url::EtcdUrl;
use super::resource_args::ResourceArgs;
use super::shutdown_args::ShutdownArgs;

/// Where a daemon keeps its files unless told otherwise.
const DATA_DIR: &str = "/var/lib/skiff";
const DOCKER_SOCKET: &str = "/var/run/docker.sock";

/// A small Kubernetes in one program.
#[derive(Debug, Parser)]
#[command(name = "skiff", version, disable_help_subcommand = true, args_override_self = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// What is wrong between flags that are right each for itself, and the way
    /// out.
    pub fn check(&self) -> Result<(), String> {
        match &self.command {
            Command::Up(args) => args.node.check(),
            Command::Agent(args) => args.node.check(),
            _ => Ok(()),
        }
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole cluster, master and node, in the foreground
    Up(UpArgs),
    /// Remove the containers, interfaces, routes and rules that Skiff made
    Down(DownArgs),
    /// Run a master
    Server(ServerArgs),
    /// Run a node that joins a master
    Agent(AgentArgs),
    /// Make, list and delete the tokens that nodes and masters join with
    Token(TokenArgs),
    /// List, add, promote and remove masters
    Member(MemberArgs),
    /// Show who leads and how the masters are
    Status(StatusArgs),
    /// Write the cluster's state to a file
    Backup(BackupArgs),
    /// Make a new data directory out of a backup
    Restore(RestoreArgs),
    /// Run clusters of many machines on this one
    Lab(LabArgs),
}

/// What every daemon is told.
#[derive(Debug, Clone, Args)]
pub struct CommonArgs {
    /// YAML file with these flags, without the dashes
    #[arg(long, value_name = "FILE", env = "SKIFF_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where certificates, the store and the pods' files are kept
    #[arg(long, value_name = "DIR", env = "SKIFF_DATA_DIR", default_value = DATA_DIR)]
    pub data_dir: PathBuf,
    /// What to report on stderr: error, warn, info, debug, or by part
    #[arg(
        long,
        value_name = "FILTER",
        env = "SKIFF_LOG",
        default_value = "info,hickory_server=warn,raft_engine=warn"
    )]
    pub log: String,
    /// Address of this machine [default: the one that routes to the others]
    #[arg(long, value_name = "IP", env = "SKIFF_NODE_IP")]
    pub node_ip: Option<IpAddr>,
    /// Seconds that a node may be silent before its pods are moved
    #[arg(long, value_name = "SECONDS", env = "SKIFF_NODE_LEASE_SECONDS", default_value_t = 40,
          value_parser = clap::value_parser!(u32).range(4..))]
    pub node_lease_seconds: u32,
}

/// What shapes a cluster; said to its masters.
#[derive(Debug, Clone, Args)]
pub struct ClusterArgs {
    /// Port of the API server
    #[arg(long, value_name = "PORT", env = "SKIFF_API_PORT", default_value_t = 6443)]
    pub api_port: u16,
    /// Addresses of pods; every node gets a /24 of it
    #[arg(long, value_name = "CIDR", env = "SKIFF_CLUSTER_CIDR", default_value = "10.244.0.0/16")]
    pub cluster_cidr: Ipv4Net,
    /// Addresses of services; the tenth is the cluster DNS
    #[arg(long, value_name = "CIDR", env = "SKIFF_SERVICE_CIDR", default_value = "10.96.0.0/16")]
    pub service_cidr: Ipv4Net,
    /// Further names and addresses that the server's certificate carries
    #[arg(long, value_name = "NAME", env = "SKIFF_TLS_SAN", value_delimiter = ',')]
    pub tls_san: Vec<String>,
    /// Write down who did what, as far as this policy (audit.k8s.io/v1) says
    #[arg(long, value_name = "FILE", env = "SKIFF_AUDIT_POLICY_FILE", requires = "audit_log_path")]
    pub audit_policy_file: Option<PathBuf>,
    /// File that audit events are appended to, one line of JSON each; - for stdout
    #[arg(long, value_name = "FILE", env = "SKIFF_AUDIT_LOG_PATH", requires = "audit_policy_file")]
    pub audit_log_path: Option<PathBuf>,
    /// The store's flags.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// Where the cluster's state is kept.
#[derive(Debug, Clone, Default, Args)]
pub struct StoreArgs {
    /// An etcd cluster, as etcd://HOST:PORT[,HOST:PORT…] [default: the data directory]
    #[arg(long, value_name = "URL", env = "SKIFF_STORE")]
    pub store: Option<EtcdUrl>,
    /// Authority of etcd's certificate; with it, etcd is spoken to over TLS
    #[arg(long, value_name = "FILE", env = "SKIFF_ETCD_CAFILE", requires = "store")]
    pub etcd_cafile: Option<PathBuf>,
    /// Certificate to show to etcd
    #[arg(long, value_name = "FILE", env = "SKIFF_ETCD_CERTFILE",
          requires_all = ["etcd_cafile", "etcd_keyfile"])]
    pub etcd_certfile: Option<PathBuf>,
    /// Key of that certificate
    #[arg(long, value_name = "FILE", env = "SKIFF_ETCD_KEYFILE", requires = "etcd_certfile")]
    pub etcd_keyfile: Option<PathBuf>,
}

/// What shapes a node.
#[derive(Debug, Clone, Args)]
pub struct NodeArgs {
    /// Name of the node [default: the host name]
    #[arg(long, value_name = "NAME", env = "SKIFF_NODE_NAME")]
    pub node_name: Option<String>,
    /// Labels of the node, as key=value
    #[arg(long, value_name = "LABELS", env = "SKIFF_NODE_LABELS", value_delimiter = ',', value_parser = key_value)]
    pub node_labels: Vec<(String, String)>,
    /// A folder of pod manifests that this node runs whatever the API says
    #[arg(long, value_name = "DIR", env = "SKIFF_STATIC_PODS")]
    pub static_pods: Option<PathBuf>,
    /// Docker's socket
    #[arg(long, value_name = "PATH", env = "SKIFF_DOCKER_SOCKET", default_value = DOCKER_SOCKET)]
    pub docker_socket: PathBuf,
    /// Port on which the master reaches this node for logs and exec
    #[arg(long, value_name = "PORT", env = "SKIFF_AGENT_PORT", default_value_t = 10250)]
    pub agent_port: u16,
    /// The flags about resources.
    #[command(flatten)]
    pub resources: ResourceArgs,
    /// The flags about shutdowns.
    #[command(flatten)]
    pub shutdown: ShutdownArgs,
}

impl NodeArgs {
    fn check(&self) -> Result<(), String> {
        self.shutdown.periods().map_err(|error| error.to_string())?;
        self.resources.check()
    }
}

/// `skiff up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// Every daemon's flags.
    #[command(flatten)]
    pub common: CommonArgs,
    /// The cluster's flags.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// The node's flags.
    #[command(flatten)]
    pub node: NodeArgs,
}

/// `skiff server`.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// Every daemon's flags.
    #[command(flatten)]
    pub common: CommonArgs,
    /// The cluster's flags.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// A master to join, as https://HOST:PORT; this one becomes its equal
    #[arg(long, value_name = "URL", env = "SKIFF_JOIN")]
    pub join: Option<String>,
    /// Token to join with, from `skiff token create --master`; not needed again later
    #[arg(long, value_name = "TOKEN", env = "SKIFF_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Name of this master [default: the host name]
    #[arg(long, value_name = "NAME", env = "SKIFF_MASTER_NAME")]
    pub master_name: Option<String>,
    /// After the loss of most masters for good: go on alone with what this one
    /// has. The lost ones must never be started again
    #[arg(long)]
    pub force_new_group: bool,
}

/// Which master of this machine a command asks.
#[derive(Debug, Args)]
pub struct MasterArgs {
    /// Data directory of a master that runs
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "SKIFF_DATA_DIR",
        default_value = DATA_DIR
    )]
    pub data_dir: PathBuf,
}

impl MasterArgs {
    /// The administrator's kubeconfig, which that master keeps.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir.join("admin.kubeconfig")
    }
}

/// `skiff member`.
#[derive(Debug, Args)]
pub struct MemberArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: MemberCommand,
    /// The master to ask.
    #[command(flatten)]
    pub master: MasterArgs,
}

/// The commands of `skiff member`.
#[derive(Debug, Subcommand)]
pub enum MemberCommand {
    /// List the masters
    List,
    /// Say how to add a master
    Add,
    /// Remove a master for good, dead or alive
    Remove {
        /// The master's id
        id: u64,
    },
    /// Give a vote to a master that has none
    Promote {
        /// The master's id
        id: u64,
    },
}

/// `skiff status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The master to ask.
    #[command(flatten)]
    pub master: MasterArgs,
    /// Print JSON
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    pub output: Option<String>,
}

/// `skiff agent`.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Every daemon's flags.
    #[command(flatten)]
    pub common: CommonArgs,
    /// The node's flags.
    #[command(flatten)]
    pub node: NodeArgs,
    /// The master to join, as https://HOST:PORT; or several, with commas
    #[arg(long, value_name = "URL", env = "SKIFF_SERVER")]
    pub server: String,
    /// Token to join with, from `skiff token create`; not needed again later
    #[arg(long, value_name = "TOKEN", env = "SKIFF_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

/// `skiff down`.
#[derive(Debug, Args)]
pub struct DownArgs {
    /// Whose things to remove
    #[arg(long, value_name = "DIR", env = "SKIFF_DATA_DIR", default_value = DATA_DIR)]
    pub data_dir: PathBuf,
    /// Docker's socket
    #[arg(long, value_name = "PATH", env = "SKIFF_DOCKER_SOCKET", default_value = DOCKER_SOCKET)]
    pub docker_socket: PathBuf,
    /// Remove the data directory too
    #[arg(long)]
    pub purge: bool,
}

/// `skiff token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: TokenCommand,
    /// The master to ask.
    #[command(flatten)]
    pub master: MasterArgs,
}

/// The commands of `skiff token`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it
    Create {
        /// How long it may be used, such as 30m, 24h, 7d
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
        ttl: std::time::Duration,
        /// Let the bearer become a master, which gets the cluster's keys
        #[arg(long)]
        master: bool,
    },
    /// List the tokens, without their secrets
    List,
    /// Delete a token
    Delete {
        /// The token's id, the part before its secret
        id: String,
    },
}

/// `skiff backup`.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The file to write; one that is there gives way to a whole one only
    pub file: PathBuf,
    /// The master to ask.
    #[command(flatten)]
    pub master: MasterArgs,
}

/// `skiff restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The file that `skiff backup` wrote
    pub file: PathBuf,
    /// Data directory to make; it may not hold a store
    #[arg(long, value_name = "DIR", env = "SKIFF_DATA_DIR", default_value = DATA_DIR)]
    pub data_dir: PathBuf,
    /// The old master's keys, DIR/pki or a copy [default: those in the data directory]
    #[arg(long, value_name = "DIR")]
    pub pki: Option<PathBuf>,
}

/// `skiff lab`.
#[derive(Debug, Args)]
pub struct LabArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: LabCommand,
    /// The lab's folder
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "SKIFF_LAB_DIR",
        default_value = "/var/lib/skiff-lab"
    )]
    pub dir: PathBuf,
}

/// The commands of `skiff lab`.
#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// Start a cluster of machines, each a network namespace
    Up {
        /// How many masters
        #[arg(long, default_value_t = 1)]
        masters: u32,
        /// How many nodes
        #[arg(long, default_value_t = 3)]
        nodes: u32,
        /// Docker's socket; {node} in it is each node's name [default: the machine's Docker]
        #[arg(long, value_name = "PATH", env = "SKIFF_DOCKER_SOCKET")]
        docker_socket: Option<String>,
    },
    /// Show the machines
    Status {
        /// `json`, or nothing for a table
        #[arg(short, long, value_parser = ["json"])]
        output: Option<String>,
    },
    /// Run a command in a machine's network namespace
    Exec {
        /// The machine
        name: String,
        /// The command and its arguments
        #[arg(required = true, last = true)]
        command: Vec<std::ffi::OsString>,
    },
    /// Kill machines' Skiff processes, as a power cut would
    Kill(Machines),
    /// Stop machines' Skiff processes cleanly
    Stop(Machines),
    /// Start machines' Skiff processes with the data they had
    Start(Machines),
    /// Cut machines off from all others; among themselves they still talk
    Partition(Machines),
    /// Join everything again
    Heal,
    /// Remove the lab and all that it made
    Down,
    /// Lead the lab's loopback port to the masters (started by `up`)
    #[command(hide = true)]
    Front,
}

/// Machines of a lab.
#[derive(Debug, Args)]
pub struct Machines {
    /// The machines
    #[arg(required = true)]
    pub names: Vec<String>,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected key=value")?;
    if key.is_empty() {
        return Err("the key is empty".into());
    }
    Ok((key.into(), value.into()))
}

/// Reads `90s`, `30m`, `24h` or `7d`.
pub(super) fn duration(text: &str) -> Result<std::time::Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 30m, 24h or 7d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).map(std::time::Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations() {
        let cases = [
            ("90s", Some(90)),
            ("30m", Some(1800)),
            ("7d", Some(604_800)),
            ("5", None),
            ("", None),
            ("-1h", None),
        ];
        for (text, expected) in cases {
            assert_eq!(duration(text).ok().map(|duration| duration.as_secs()), expected, "{text}");
        }
    }
}
