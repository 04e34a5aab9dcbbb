//! What a container is to be made of.

use std::collections::BTreeMap;

use super::labels;

/// What to create.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ContainerSpec {
    /// Its name, unique on the machine.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Image name or id, which must be present.
    pub image: String,
    /// Replaces the image's entrypoint when not empty.
    pub entrypoint: Vec<String>,
    /// Replaces the image's command when not empty.
    pub args: Vec<String>,
    /// Environment as `NAME=value`.
    pub env: Vec<String>,
    /// Working directory; the image's when `None`.
    pub working_dir: Option<String>,
    /// `uid`, `uid:gid` or a name; the image's when `None`.
    pub user: Option<String>,
    /// Further group ids.
    pub groups: Vec<i64>,
    /// Host name; only for a container with a network of its own.
    pub hostname: Option<String>,
    /// Domain name that goes with it.
    pub domainname: Option<String>,
    /// `none`, `host` or `container:ID`.
    pub network: String,
    /// Empty, `host`, `shareable` or `container:ID`.
    pub ipc: String,
    /// Empty, `host` or `container:ID`.
    pub pid: String,
    /// What it sees of the host's files.
    pub mounts: Vec<Mount>,
    /// The devices that it gets from the runtime's drivers.
    pub devices: Vec<DeviceRequest>,
    /// Limits on what it uses.
    pub limits: Limits,
    /// The cgroup that it is made in; the runtime's choice when `None`.
    pub cgroup_parent: Option<String>,
    /// How readily the kernel kills it when memory is short, -1000 to 1000.
    pub oom_score_adj: i64,
    /// All capabilities, all devices, no confinement.
    pub privileged: bool,
    /// Capabilities added, without `CAP_`.
    pub cap_add: Vec<String>,
    /// Capabilities dropped.
    pub cap_drop: Vec<String>,
    /// Docker's security options, such as `no-new-privileges:true`.
    pub security_opt: Vec<String>,
    /// Kernel settings of its namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Whether its root file system is read-only.
    pub read_only_rootfs: bool,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether its standard input stays open.
    pub stdin: bool,
    /// Whether that closes after the first client left.
    pub stdin_once: bool,
    /// The signal `stop` sends first; the image's when `None`.
    pub stop_signal: Option<String>,
    /// Whether `/proc` is fully visible and writable.
    pub unmasked_proc: bool,
    /// Size of `/dev/shm`; the runtime's default when `None`.
    pub shm_size: Option<i64>,
    /// Which of the runtime's own runtimes runs it, such as `runsc`; the
    /// default one when `None`.
    pub handler: Option<String>,
}

impl ContainerSpec {
    /// This container run by `handler`, and labelled with it; an empty one is
    /// the runtime's default.
    pub fn with_handler(mut self, handler: &str) -> Self {
        if !handler.is_empty() {
            self.labels.insert(labels::HANDLER.into(), handler.into());
            self.handler = Some(handler.into());
        }
        self
    }
}

/// Devices that a driver of the runtime puts into a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRequest {
    /// The driver, `nvidia` or `cdi`.
    pub driver: String,
    /// The names by which it knows them; empty for none, which only asks
    /// whether the driver is there.
    pub ids: Vec<String>,
}

/// One bind mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Path on the host.
    pub source: String,
    /// Path in the container.
    pub target: String,
    /// Whether writes are refused.
    pub read_only: bool,
    /// How mounts spread.
    pub propagation: Propagation,
}

/// How mounts made on one side of a bind mount appear on the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Propagation {
    /// They do not.
    #[default]
    Private,
    /// The host's appear in the container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// Limits of one container. `None` is unlimited.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    /// Relative weight, 1024 for one CPU.
    pub cpu_shares: Option<i64>,
    /// Microseconds of CPU per 100 ms.
    pub cpu_quota_us: Option<i64>,
    /// Bytes of memory.
    pub memory_bytes: Option<i64>,
    /// Number of processes.
    pub pids: Option<i64>,
    /// Bytes of huge pages, by the bytes of one page. Of a pod as a whole: Docker
    /// has no such limit for a container.
    pub huge_pages: BTreeMap<i64, i64>,
}
