//! The container runtime: what the agent asks of Docker, behind one trait.
//!
//! [`Runtime`] knows containers and images; it does not know pods. What makes
//! a container part of a pod are the labels in [`labels`], written by
//! [`crate::pod`] and read back after a restart.
//!
//! Two implementations pass the same tests (`conformance`): [`docker::Docker`]
//! and the in-memory [`memory::Memory`], which also serves as the hollow
//! runtime of scale tests.

mod archive;
pub mod daemon;
pub mod docker;
mod docker_convert;
pub mod labels;
pub mod memory;
mod processes;
mod repeats;
pub mod sandbox_image;

#[cfg(test)]
mod conformance;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;
use tokio::io::AsyncWrite;

/// Result of a call to the runtime.
pub type Result<T> = std::result::Result<T, RuntimeError>;

/// What can go wrong between the agent and its runtime.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RuntimeError {
    /// There is no such container, image or exec session.
    #[error("{0}")]
    NotFound(String),
    /// The name is taken, or the container is in a state that forbids this.
    #[error("{0}")]
    Conflict(String),
    /// The runtime looked at the request and refused it, in its own words.
    #[error("{0}")]
    Refused(String),
    /// The runtime did not answer: it is down, restarting, or hangs.
    #[error("container runtime is down: {0}")]
    Unavailable(String),
}

impl RuntimeError {
    /// What there is to say where it is clear already what kind of error it is.
    pub fn reason(&self) -> &str {
        match self {
            Self::NotFound(text)
            | Self::Conflict(text)
            | Self::Refused(text)
            | Self::Unavailable(text) => text,
        }
    }
}

/// Containers and images of one machine.
///
/// Every call may be repeated; `stop`, `kill` and `remove` of a container that
/// is already in that state succeed. Calls are cancel-safe in that dropping
/// them leaves the container as the runtime got it.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Name and version, such as `docker` and `20.10.24`.
    async fn version(&self) -> Result<Version>;

    /// The ids of all containers, running or not, that carry all of `labels`.
    async fn ids(&self, labels: &BTreeMap<String, String>) -> Result<Vec<String>>;

    /// The same containers with what is known of each.
    async fn list(&self, labels: &BTreeMap<String, String>) -> Result<Vec<Container>>;

    /// One container, by id or name.
    async fn inspect(&self, id: &str) -> Result<Container>;

    /// Creates a container and returns its id. `Conflict` if the name is taken,
    /// `NotFound` if the image is not here.
    async fn create(&self, spec: &ContainerSpec) -> Result<String>;

    /// Starts a created container.
    async fn start(&self, id: &str) -> Result<()>;

    /// Sends the stop signal, waits up to `grace` and kills. Returns when the
    /// container has stopped.
    async fn stop(&self, id: &str, grace: Duration) -> Result<()>;

    /// Sends a signal, such as `SIGTERM`.
    async fn kill(&self, id: &str, signal: &str) -> Result<()>;

    /// Kills and removes a container with its anonymous volumes.
    async fn remove(&self, id: &str) -> Result<()>;

    /// Changes the limits of a running container.
    async fn update(&self, id: &str, limits: &Limits) -> Result<()>;

    /// Lets a running container have all CPU time that others leave.
    async fn lift_cpu_limit(&self, id: &str) -> Result<()>;

    /// A local image by name, digest or id; `None` when it is not here. Never
    /// asks a registry.
    async fn image(&self, name: &str) -> Result<Option<Image>>;

    /// All local images.
    async fn images(&self) -> Result<Vec<Image>>;

    /// Pulls an image from its registry, telling `told` now and again how much
    /// has come.
    async fn pull(
        &self,
        name: &str,
        credentials: Option<&Credentials>,
        told: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Image>;

    /// Loads images from a tar in the format of `docker save`, as it comes.
    /// Returns the names of the images that were in it.
    async fn load_stream(&self, tar: Tar) -> Result<Vec<String>>;

    /// Loads images from a tar in memory.
    async fn load(&self, tar: Bytes) -> Result<()> {
        let whole = futures::stream::iter([Ok(tar)]);
        self.load_stream(Box::pin(whole)).await.map(drop)
    }

    /// An image in the format of `docker save`. `NotFound` may also come as
    /// the stream's first item.
    async fn save(&self, name: &str) -> Result<Tar>;

    /// Removes an image by name or id.
    async fn remove_image(&self, name: &str) -> Result<()>;

    /// The container's output, oldest first.
    async fn logs(
        &self,
        id: &str,
        options: &LogOptions,
    ) -> Result<BoxStream<'static, Result<Output>>>;

    /// Runs a command in a running container.
    async fn exec(&self, id: &str, options: &ExecOptions) -> Result<Session>;

    /// The exit code of an exec session, `None` while it runs.
    async fn exec_exit_code(&self, session: &str) -> Result<Option<i64>>;

    /// Ends what an exec session started and nobody listens to any more.
    async fn end_exec(&self, session: &str) -> Result<()>;

    /// Connects to a running container's first process.
    async fn attach(&self, id: &str, options: &AttachOptions) -> Result<Session>;

    /// Sets the size of a terminal.
    async fn resize(&self, terminal: &Terminal, size: TerminalSize) -> Result<()>;

    /// State changes of containers that carry all of `labels`, from now on.
    /// The stream ends or yields an error when the runtime goes away; list
    /// after opening it and after reopening it, so that nothing is missed.
    async fn events(
        &self,
        labels: &BTreeMap<String, String>,
    ) -> Result<BoxStream<'static, Result<Event>>>;

    /// Resource use of a running container.
    async fn stats(&self, id: &str) -> Result<Stats>;

    /// What a container takes of the disk. Its files are counted for this, so
    /// it is not to be asked often.
    async fn disk_use(&self, id: &str) -> Result<DiskUse>;

    /// What a container has at `path`, started or not; `None` where no file is.
    async fn file(&self, id: &str, path: &str) -> Result<Option<Vec<u8>>>;

    /// Whom a container runs as; `None` when its process has gone.
    async fn user(&self, container: &Container) -> Option<User>;
}

/// How far a pull has come, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// What has come.
    pub came: u64,
    /// What is known so far to come in all.
    pub all: u64,
}

/// A tar of images on its way.
pub type Tar = BoxStream<'static, Result<Bytes>>;

/// The runtime's own name and versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// `docker` or `hollow`.
    pub name: String,
    /// Version of the engine.
    pub version: String,
    /// Kernel, as the engine reports it.
    pub kernel: String,
    /// Operating system image, such as `Debian GNU/Linux 12 (bookworm)`.
    pub os_image: String,
    /// Where the engine keeps images and container layers.
    pub root_dir: String,
    /// The devices that it knows by name, as `vendor.com/class=name`.
    pub devices: Vec<String>,
}

/// A container as the runtime sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The image name it was created from.
    pub image: String,
    /// The id of that image, `sha256:…`.
    pub image_id: String,
    /// When it was created.
    pub created: Timestamp,
    /// What it does now.
    pub state: State,
    /// The limits that are enforced on it.
    pub limits: Limits,
    /// Whom its first process starts as, where its spec says that in numbers.
    pub user: Option<User>,
}

/// Whom a process runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// The user's id.
    pub uid: i64,
    /// The id of its own group.
    pub gid: i64,
    /// All groups that it is in.
    pub groups: Vec<i64>,
}

impl User {
    /// The user of `UID:GID` with further groups; `None` where a number is
    /// missing, since then the image decides.
    pub fn told(user: &str, groups: &[i64]) -> Option<Self> {
        let (uid, gid) = user.split_once(':')?;
        let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
        let mut groups: Vec<i64> = groups.iter().copied().chain([gid]).collect();
        groups.sort_unstable();
        groups.dedup();
        Some(Self { uid, gid, groups })
    }
}

/// The state of a container.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// Created, never started.
    Created,
    /// Running.
    Running {
        /// Process id of its first process, as the machine counts.
        pid: i32,
        /// Since when.
        started: Timestamp,
    },
    /// Ran and ended, or could not be started.
    Exited {
        /// Exit code; 128 + n for signal n.
        exit_code: i32,
        /// Whether the kernel killed it for memory.
        oom_killed: bool,
        /// Why it could not be started, empty if it could.
        error: String,
        /// When it started; `None` if it never did.
        started: Option<Timestamp>,
        /// When it ended.
        finished: Timestamp,
    },
}

impl Container {
    /// Whether its process is there.
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// The value of a label, empty if it is not there.
    pub fn label(&self, key: &str) -> &str {
        self.labels.get(key).map_or("", String::as_str)
    }
}

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
}

/// A local image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Image {
    /// Its id, `sha256:…`.
    pub id: String,
    /// Names with tags.
    pub tags: Vec<String>,
    /// Names with digests.
    pub digests: Vec<String>,
    /// Bytes on disk.
    pub size: i64,
    /// The user it runs as, empty for root.
    pub user: String,
    /// Whether it says what to run.
    pub has_command: bool,
    /// Its entrypoint.
    pub entrypoint: Vec<String>,
    /// Its command.
    pub command: Vec<String>,
}

/// What a registry wants to know.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
    /// The registry's address.
    pub registry: String,
}

/// One piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// From standard output, or from the terminal.
    Stdout(Bytes),
    /// From standard error.
    Stderr(Bytes),
}

/// Which log lines.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LogOptions {
    /// Go on as lines come, until the container ends.
    pub follow: bool,
    /// Only the last so many lines.
    pub tail: Option<i64>,
    /// Only lines after this time.
    pub since: Option<Timestamp>,
    /// Put each line's time (RFC 3339) before it.
    pub timestamps: bool,
    /// Whether to include standard output.
    pub stdout: bool,
    /// Whether to include standard error.
    pub stderr: bool,
}

/// What to run in a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecOptions {
    /// The command and its arguments; no shell is involved.
    pub command: Vec<String>,
    /// Give it a terminal.
    pub tty: bool,
    /// Connect standard input.
    pub stdin: bool,
    /// Connect standard output.
    pub stdout: bool,
    /// Connect standard error; with a terminal it arrives as output.
    pub stderr: bool,
}

/// What to connect of a running container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AttachOptions {
    /// Connect standard input.
    pub stdin: bool,
    /// Connect standard output.
    pub stdout: bool,
    /// Connect standard error.
    pub stderr: bool,
}

/// The streams of an exec or attach.
pub struct Session {
    /// The runtime's id of the exec session; the container's id for an attach.
    pub id: String,
    /// What it writes. Ends when the process does.
    pub output: BoxStream<'static, Result<Output>>,
    /// What it reads. Shutting it down closes the process's standard input.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
}

/// Whose terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Terminal {
    /// Of an exec session, by session id.
    Exec(String),
    /// Of a container's first process, by container id.
    Container(String),
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// A change of a container's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The container's id.
    pub id: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What happened.
    pub kind: EventKind,
}

/// What happened to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// Its process started.
    Started,
    /// Its process ended.
    Died,
    /// It was removed.
    Removed,
}

/// Resource use at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// When it was read.
    pub at: Timestamp,
    /// CPU time since the start, in nanoseconds.
    pub cpu_nanos: u64,
    /// Memory in use without reclaimable cache, in bytes.
    pub memory_bytes: u64,
    /// How many processes and threads there are.
    pub processes: u64,
}

/// What a container takes of the disk beside its image, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskUse {
    /// What it wrote over its image.
    pub layer_bytes: u64,
    /// What is kept of its output.
    pub log_bytes: u64,
}
