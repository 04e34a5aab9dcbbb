//! What an agent has to be told.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use skiff_api::quantity::Quantity;

use crate::eviction::thresholds::Thresholds;
use crate::images::collect::Marks;
use crate::shutdown::drop_in::CONF_DIR;
use crate::shutdown::plan::GracePeriods;

/// Settings of one agent.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the Node object. Default of the CLI: the host name.
    pub node_name: String,
    /// The node's address, by which the others reach it; see
    /// [`crate::address`]. Default: loopback.
    pub node_ip: IpAddr,
    /// Where pods' files are kept, under `pods/UID`.
    pub data_dir: PathBuf,
    /// Tells this installation's containers from those of others on the same
    /// Docker; see [`instance_of`].
    pub instance: String,
    /// Docker's socket. Default: `/var/run/docker.sock`.
    pub docker_socket: PathBuf,
    /// Where logs and exec are served. Default: `0.0.0.0:10250`.
    pub listen: SocketAddr,
    /// Address of the cluster DNS. Default: 10.96.0.10.
    pub cluster_dns: IpAddr,
    /// Default: `cluster.local`.
    pub cluster_domain: String,
    /// The addresses of all pods. Default: 10.244.0.0/16.
    pub cluster_cidr: String,
    /// Further labels of the Node object.
    pub node_labels: BTreeMap<String, String>,
    /// Taints of the Node object when it is created, as `key=value:Effect`.
    pub register_taints: Vec<String>,
    /// A folder of manifests that run here whatever the API says. Default: none.
    pub static_pods: Option<PathBuf>,
    /// Resources beyond those of the machine, by name.
    pub extended_resources: BTreeMap<String, String>,
    /// Where the machine's `proc` and `sys` tell of its hardware. Default: `/`;
    /// tests make up machines of their own.
    pub hardware_root: PathBuf,
    /// The cluster's CA in PEM: who may call the agent's server, and what pods
    /// get as `ca.crt`.
    pub server_ca_pem: String,
    /// How many processes and threads one pod may have; `None` for no limit of
    /// the pod as a whole. Default: none.
    pub pod_pids: Option<i64>,
    /// How many processes and threads one container may have; `None` for no
    /// limit. Default: a quarter of those that the machine can have, so that a
    /// container that forks without end leaves the others room.
    pub container_pids: Option<i64>,
    /// How long pods have to end when the machine shuts down. Default: no time,
    /// and nobody listens for shutdowns.
    pub shutdown: GracePeriods,
    /// Where logind reads settings. Default: `/etc/systemd/logind.conf.d`.
    pub logind_conf_dir: PathBuf,
    /// When the node runs short of memory, room or process ids.
    pub thresholds: Thresholds,
    /// How full unused images may make Docker's disk.
    pub image_marks: Marks,
    /// What of the machine is not for pods, by resource.
    pub reserved: BTreeMap<String, Quantity>,
    /// How many pods the node takes. Default: 110.
    pub max_pods: u32,
    /// How long the node may be silent before it counts as gone; it renews its
    /// lease four times as often. Default: 40 s.
    pub lease_duration: Duration,
}

impl Config {
    /// Settings for a node of this name, all else default.
    pub fn new(node_name: impl Into<String>, data_dir: impl Into<PathBuf>) -> Self {
        let data_dir = data_dir.into();
        Self {
            node_name: node_name.into(),
            node_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            instance: instance_of(&data_dir),
            data_dir,
            docker_socket: PathBuf::from("/var/run/docker.sock"),
            listen: SocketAddr::from(([0, 0, 0, 0], 10250)),
            cluster_dns: IpAddr::from([10, 96, 0, 10]),
            cluster_domain: "cluster.local".into(),
            cluster_cidr: "10.244.0.0/16".into(),
            node_labels: BTreeMap::new(),
            register_taints: Vec::new(),
            static_pods: None,
            extended_resources: BTreeMap::new(),
            hardware_root: PathBuf::from("/"),
            server_ca_pem: String::new(),
            pod_pids: None,
            container_pids: most_pids().map(|most| most / 4),
            shutdown: GracePeriods::default(),
            logind_conf_dir: PathBuf::from(CONF_DIR),
            thresholds: Thresholds::default(),
            image_marks: Marks::default(),
            reserved: BTreeMap::new(),
            max_pods: 110,
            lease_duration: Duration::from_secs(40),
        }
    }

    /// The folder of one pod's files.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.data_dir.join("pods").join(uid)
    }
}

/// The instance of a data directory: the first 8 hex digits of the SHA-256 of
/// its absolute path.
pub fn instance_of(data_dir: &Path) -> String {
    let path = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_path_buf());
    let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
    digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// How many processes and threads the machine can have: as many as it has ids
/// for, or as many as its memory holds.
pub(crate) fn most_pids() -> Option<i64> {
    let files = ["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"];
    let read = |file| std::fs::read_to_string(file).ok()?.trim().parse().ok();
    files.into_iter().filter_map(read).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_differ_by_directory_and_are_stable() {
        assert_eq!(
            instance_of(Path::new("/var/lib/skiff")),
            instance_of(Path::new("/var/lib/skiff"))
        );
        assert_ne!(instance_of(Path::new("/var/lib/skiff")), instance_of(Path::new("/tmp/skiff")));
        assert_eq!(instance_of(Path::new("/a")).len(), 8);
    }
}
