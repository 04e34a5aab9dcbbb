//! The container runtime: what the agent asks of Docker, behind one trait.
//!
//! [`Runtime`] knows containers and images; it does not know pods. What makes
//! a container part of a pod are the labels in [`labels`], written by
//! [`crate::pod`] and read back after a restart.
//!
//! Two implementations pass the same tests (`conformance`): [`docker::Docker`]
//! and the in-memory [`memory::Memory`], on which the tests of the agent run.

mod archive;
pub mod daemon;
pub mod docker;
mod docker_convert;
mod docker_errors;
pub mod labels;
pub mod memory;
mod processes;
mod repeats;
pub mod sandbox_image;
mod spec;
mod streams;
mod terminal_log;

#[cfg(test)]
mod conformance;

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;

pub use spec::{ContainerSpec, DeviceRequest, Limits, Mount, Propagation};
pub use streams::{
    AttachOptions, ExecOptions, LogOptions, Output, Session, Terminal, TerminalSize,
};

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

    /// Kills the first process of a running container that is ours, not of an
    /// image of people's, and waits until it is gone. Its removal is cheaper
    /// afterwards; what cannot be done here is left to that.
    async fn kill_now(&self, container: &Container);

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
    /// Who makes the cgroups of containers; `None` where the engine has none
    /// that others may set.
    pub cgroup_driver: Option<CgroupDriver>,
}

/// Who makes the cgroups of containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupDriver {
    /// The engine itself, as folders.
    Cgroupfs,
    /// systemd, when the engine asks it to.
    Systemd,
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
