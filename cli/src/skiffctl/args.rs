//! The command line of `skiffctl`, in `kubectl`'s words.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Control a Skiff cluster, in the words of kubectl.
#[derive(Debug, Parser)]
#[command(name = "skiffctl", version, disable_help_subcommand = true)]
pub struct Cli {
    /// Flags of every verb.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// The verb.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every verb.
#[derive(Debug, Args)]
pub struct GlobalArgs {
    /// Kubeconfig file [default: $KUBECONFIG, ~/.kube/config, /var/lib/skiff/admin.kubeconfig]
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig to use
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// Namespace to work in
    #[arg(short, long, global = true, value_name = "NAME")]
    pub namespace: Option<String>,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show objects
    Get(GetArgs),
    /// Show objects in detail, with their events
    Describe(DescribeArgs),
    /// Create or update objects from files
    Apply(ApplyArgs),
    /// Delete objects
    Delete(DeleteArgs),
    /// Print a container's output
    Logs(LogsArgs),
    /// Run a command in a container
    Exec(ExecArgs),
    /// Set the number of replicas
    Scale(ScaleArgs),
    /// Change a part of an object
    Set(SetArgs),
    /// Watch and steer rollouts
    Rollout(RolloutArgs),
    /// Make a service for an object's pods
    Expose(ExposeArgs),
    /// Run a pod from an image
    Run(RunArgs),
    /// Load, list and remove images on the nodes
    Image(ImageArgs),
    /// Show the versions of client and server
    Version,
    /// Show the kinds that the server knows
    #[command(name = "api-resources")]
    ApiResources,
}

/// Files that hold objects.
#[derive(Debug, Clone, Args)]
pub struct FileArgs {
    /// File or folder with objects in YAML or JSON, `-` for standard input
    #[arg(short, long = "filename", value_name = "FILE")]
    pub filename: Vec<PathBuf>,
    /// Look into folders within folders too
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

/// `image`.
#[derive(Debug, Args)]
pub struct ImageArgs {
    /// Only on this node; may be given several times [default: all that are ready]
    #[arg(long, global = true, value_name = "NAME")]
    pub node: Vec<String>,
    /// What to do.
    #[command(subcommand)]
    pub action: ImageAction,
}

/// What `image` does.
#[derive(Debug, Subcommand)]
pub enum ImageAction {
    /// Put the images of a tar of `docker save` on the nodes, `-` for standard input
    Load {
        /// The tar
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Show which images are on which nodes
    Ls,
    /// Remove images from the nodes
    Rm {
        /// Their names
        #[arg(required = true, value_name = "IMAGE")]
        names: Vec<String>,
    },
}

/// `get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// TYPE [NAME…], TYPE/NAME…, or TYPE,TYPE
    pub targets: Vec<String>,
    /// Objects named by files.
    #[command(flatten)]
    pub files: FileArgs,
    /// json, yaml, name, wide, jsonpath=…, custom-columns=…
    #[arg(short, long)]
    pub output: Option<String>,
    /// Only objects with these labels
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// Only objects with these fields
    #[arg(long)]
    pub field_selector: Option<String>,
    /// In all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Show changes as they happen
    #[arg(short, long)]
    pub watch: bool,
    /// Show changes only
    #[arg(long)]
    pub watch_only: bool,
    /// No headers
    #[arg(long)]
    pub no_headers: bool,
    /// Show all labels in a last column
    #[arg(long)]
    pub show_labels: bool,
    /// With -o json or yaml: show who manages which field
    #[arg(long)]
    pub show_managed_fields: bool,
    /// Show these labels in columns of their own
    #[arg(short = 'L', long, value_delimiter = ',')]
    pub label_columns: Vec<String>,
    /// Sort by a field, as a JSONPath
    #[arg(long)]
    pub sort_by: Option<String>,
    /// No error when an object does not exist
    #[arg(long)]
    pub ignore_not_found: bool,
}

/// `describe`.
#[derive(Debug, Args)]
pub struct DescribeArgs {
    /// TYPE [NAME…] or TYPE/NAME…
    #[arg(required = true)]
    pub targets: Vec<String>,
    /// Only objects with these labels
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// In all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
}

/// `apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// The objects.
    #[command(flatten)]
    pub files: FileArgs,
    /// Let the server check everything and change nothing (server), or only say what would be sent (client)
    #[arg(long, value_parser = ["none", "client", "server"], default_value = "none")]
    pub dry_run: String,
    /// Let the server merge, which knows who has which field
    #[arg(long)]
    pub server_side: bool,
    /// Take over what others have, instead of being refused
    #[arg(long, requires = "server_side")]
    pub force_conflicts: bool,
    /// Who the fields belong to then
    #[arg(long, value_name = "NAME")]
    pub field_manager: Option<String>,
    /// name, yaml or json
    #[arg(short, long)]
    pub output: Option<String>,
    /// Refuse, warn of, or ignore unknown fields: strict, warn, ignore
    #[arg(long, default_value = "strict", value_parser = ["strict", "warn", "ignore", "true", "false"])]
    pub validate: String,
}

/// `delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// TYPE NAME… or TYPE/NAME…
    pub targets: Vec<String>,
    /// Objects named by files.
    #[command(flatten)]
    pub files: FileArgs,
    /// Only objects with these labels
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// All objects of the type
    #[arg(long)]
    pub all: bool,
    /// In all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Seconds that pods get to end by themselves
    #[arg(long)]
    pub grace_period: Option<i64>,
    /// With --grace-period=0: do not wait for the pods' end at all
    #[arg(long)]
    pub force: bool,
    /// What to do with objects that belong to it
    #[arg(long, value_parser = ["background", "foreground", "orphan"], default_value = "background")]
    pub cascade: String,
    /// Return at once instead of waiting until the objects are gone
    #[arg(long, default_value = "true", action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub wait: bool,
    /// No error when an object does not exist
    #[arg(long)]
    pub ignore_not_found: bool,
}

/// `logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// POD or TYPE/NAME
    pub target: Option<String>,
    /// The container, as a second word
    pub container_word: Option<String>,
    /// The container
    #[arg(short, long)]
    pub container: Option<String>,
    /// All containers of the pod
    #[arg(long)]
    pub all_containers: bool,
    /// Pods with these labels
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// Go on printing
    #[arg(short, long)]
    pub follow: bool,
    /// Of the container's previous life
    #[arg(short, long)]
    pub previous: bool,
    /// With times
    #[arg(long)]
    pub timestamps: bool,
    /// Start each line with the pod and the container
    #[arg(long)]
    pub prefix: bool,
    /// Only the last lines
    #[arg(long)]
    pub tail: Option<i64>,
    /// Only what is newer, such as 5s, 2m, 3h
    #[arg(long)]
    pub since: Option<String>,
    /// Only what is newer than a time (RFC 3339)
    #[arg(long)]
    pub since_time: Option<String>,
    /// At most so many bytes
    #[arg(long)]
    pub limit_bytes: Option<i64>,
}

/// `exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// POD or TYPE/NAME
    pub target: String,
    /// The container
    #[arg(short, long)]
    pub container: Option<String>,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// With a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// The command and its arguments, after `--`
    #[arg(required = true, last = true)]
    pub command: Vec<String>,
}

/// `scale`.
#[derive(Debug, Args)]
pub struct ScaleArgs {
    /// TYPE NAME… or TYPE/NAME…
    #[arg(required = true)]
    pub targets: Vec<String>,
    /// How many
    #[arg(long)]
    pub replicas: i64,
    /// Only if it has so many now
    #[arg(long)]
    pub current_replicas: Option<i64>,
}

/// `set`.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// What to change.
    #[command(subcommand)]
    pub command: SetCommand,
}

/// The parts that `set` changes.
#[derive(Debug, Subcommand)]
pub enum SetCommand {
    /// Set images: TYPE/NAME CONTAINER=IMAGE…
    Image {
        /// The object, then the images; `*` means every container
        #[arg(required = true)]
        words: Vec<String>,
    },
}

/// `rollout`.
#[derive(Debug, Args)]
pub struct RolloutArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: RolloutCommand,
}

/// The verbs of `rollout`.
#[derive(Debug, Subcommand)]
pub enum RolloutCommand {
    /// Wait until a rollout is complete
    Status {
        /// TYPE NAME or TYPE/NAME
        #[arg(required = true)]
        targets: Vec<String>,
        /// Give up after, such as 60s; 0s means never
        #[arg(long, default_value = "0s")]
        timeout: String,
        /// Wait until it is complete
        #[arg(short, long, default_value = "true", action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
        watch: bool,
    },
    /// List revisions
    History {
        /// TYPE NAME or TYPE/NAME
        #[arg(required = true)]
        targets: Vec<String>,
        /// Show this revision's pod template
        #[arg(long)]
        revision: Option<i64>,
    },
    /// Go back to an earlier revision
    Undo {
        /// TYPE NAME or TYPE/NAME
        #[arg(required = true)]
        targets: Vec<String>,
        /// The revision [default: the one before]
        #[arg(long, default_value_t = 0)]
        to_revision: i64,
    },
    /// Replace all pods, keeping the template
    Restart {
        /// TYPE NAME or TYPE/NAME
        #[arg(required = true)]
        targets: Vec<String>,
    },
    /// Hold a rollout
    Pause {
        /// TYPE NAME or TYPE/NAME
        #[arg(required = true)]
        targets: Vec<String>,
    },
    /// Let a held rollout go on
    Resume {
        /// TYPE NAME or TYPE/NAME
        #[arg(required = true)]
        targets: Vec<String>,
    },
}

/// `expose`.
#[derive(Debug, Args)]
pub struct ExposeArgs {
    /// TYPE NAME or TYPE/NAME
    #[arg(required = true)]
    pub targets: Vec<String>,
    /// The service's port [default: the container's]
    #[arg(long)]
    pub port: Option<u16>,
    /// The pods' port, a number or a name [default: the service's]
    #[arg(long)]
    pub target_port: Option<String>,
    /// TCP, UDP or SCTP
    #[arg(long, default_value = "TCP")]
    pub protocol: String,
    /// The service's name [default: the object's]
    #[arg(long)]
    pub name: Option<String>,
    /// ClusterIP, NodePort, LoadBalancer or ExternalName
    #[arg(long = "type")]
    pub service_type: Option<String>,
    /// Labels of the pods [default: the object's selector]
    #[arg(long)]
    pub selector: Option<String>,
    /// A fixed address, or None
    #[arg(long)]
    pub cluster_ip: Option<String>,
}

/// `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The pod's name
    pub name: String,
    /// The image
    #[arg(long)]
    pub image: String,
    /// Variables, as NAME=VALUE
    #[arg(long)]
    pub env: Vec<String>,
    /// A port that the container serves
    #[arg(long)]
    pub port: Option<u16>,
    /// Labels, as key=value,…
    #[arg(short = 'l', long)]
    pub labels: Option<String>,
    /// Always, OnFailure or Never
    #[arg(long, default_value = "Always")]
    pub restart: String,
    /// Always, IfNotPresent or Never
    #[arg(long)]
    pub image_pull_policy: Option<String>,
    /// The words after `--` are the command, not its arguments
    #[arg(long)]
    pub command: bool,
    /// Only show what would be sent
    #[arg(long, value_parser = ["none", "client", "server"], default_value = "none")]
    pub dry_run: String,
    /// name, yaml or json
    #[arg(short, long)]
    pub output: Option<String>,
    /// Arguments of the container, after `--`
    #[arg(last = true)]
    pub words: Vec<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
