//! Docker as the runtime, over its Unix socket.
//!
//! The API version is negotiated at the first call, so engines from 20.10 on
//! are spoken to in their own dialect. A Docker that is down is an
//! [`RuntimeError::Unavailable`]; the next call tries again.
//!
//! A call that waits for a container (`stop`) has a time limit of its own;
//! all others give up after two minutes, because a Docker that hangs must
//! not hang the agent.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use async_trait::async_trait;
use bollard::auth::DockerCredentials;
use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::{ContainerUpdateBody, ExecConfig};
use bollard::query_parameters as query;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, future};
use jiff::Timestamp;
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::debug;

use super::archive::{self, Entry};
use super::docker_convert as convert;
use super::docker_errors::{from_docker, gone_is_fine};
use super::processes;
use super::repeats::Repeats;
use super::terminal_log;
use super::{
    AttachOptions, Container, ContainerSpec, Credentials, DiskUse, Event, ExecOptions, Image,
    Limits, LogOptions, Output, Progress, Result, Runtime, RuntimeError, Session, State, Stats,
    Tar, Terminal, TerminalSize, User, Version,
};

/// How long one call may take, except those that wait for a container.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);

/// How long the transfer of an image may take.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(3600);

/// How long Docker may take to see that a container has ended, before it is asked
/// for the next all the same.
const SEEN: Duration = Duration::from_secs(10);

/// Docker, reached through its socket.
pub struct Docker {
    socket: PathBuf,
    client: OnceCell<bollard::Docker>,
}

impl Docker {
    /// A client for the Docker at `socket`. Connects at the first call.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), client: OnceCell::new() }
    }

    async fn client(&self) -> Result<&bollard::Docker> {
        self.client
            .get_or_try_init(|| async {
                let socket = self.socket.to_string_lossy();
                bollard::Docker::connect_with_unix(
                    &socket,
                    CALL_TIMEOUT.as_secs(),
                    bollard::API_DEFAULT_VERSION,
                )
                .map_err(from_docker)?
                .negotiate_version()
                .await
                .map_err(from_docker)
            })
            .await
    }
}

#[async_trait]
impl Runtime for Docker {
    async fn version(&self) -> Result<Version> {
        let info = self.client().await?.info().await.map_err(from_docker)?;
        Ok(Version {
            cgroup_driver: convert::cgroup_driver(&info),
            name: "docker".into(),
            version: info.server_version.unwrap_or_default(),
            kernel: info.kernel_version.unwrap_or_default(),
            os_image: info.operating_system.unwrap_or_default(),
            root_dir: info.docker_root_dir.unwrap_or_default(),
            devices: convert::device_names(info.discovered_devices),
        })
    }

    async fn ids(&self, labels: &BTreeMap<String, String>) -> Result<Vec<String>> {
        let client = self.client().await?;
        let options = query::ListContainersOptions {
            all: true,
            filters: Some(label_filter(labels)),
            ..query::ListContainersOptionsBuilder::new().build()
        };
        let found = client.list_containers(Some(options)).await.map_err(from_docker)?;
        Ok(found.into_iter().filter_map(|summary| summary.id).collect())
    }

    async fn list(&self, labels: &BTreeMap<String, String>) -> Result<Vec<Container>> {
        // Docker's list leaves out exit codes and times; only inspect has them.
        let inspected = futures::stream::iter(self.ids(labels).await?)
            .map(|id| async move { self.inspect(&id).await })
            .buffer_unordered(8)
            .collect::<Vec<_>>()
            .await;
        // What was removed between the two calls is not there.
        inspected
            .into_iter()
            .filter(|result| !matches!(result, Err(RuntimeError::NotFound(_))))
            .collect()
    }

    async fn inspect(&self, id: &str) -> Result<Container> {
        let found = self
            .client()
            .await?
            .inspect_container(id, None::<query::InspectContainerOptions>)
            .await;
        Ok(convert::container(found.map_err(from_docker)?))
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<String> {
        let options = query::CreateContainerOptionsBuilder::new().name(&spec.name).build();
        let created =
            self.client().await?.create_container(Some(options), convert::create_body(spec)).await;
        Ok(created.map_err(from_docker)?.id)
    }

    async fn start(&self, id: &str) -> Result<()> {
        let started =
            self.client().await?.start_container(id, None::<query::StartContainerOptions>).await;
        started.map_err(from_docker)
    }

    async fn stop(&self, id: &str, grace: Duration) -> Result<()> {
        let client = self.client().await?.clone().with_timeout(grace + CALL_TIMEOUT);
        // Docker counts in seconds, and nobody is killed before their time.
        let seconds = grace.as_secs_f64().ceil().min(f64::from(i32::MAX)) as i32;
        let options = query::StopContainerOptionsBuilder::new().t(seconds).build();
        gone_is_fine(client.stop_container(id, Some(options)).await)
    }

    async fn kill(&self, id: &str, signal: &str) -> Result<()> {
        let options = query::KillContainerOptionsBuilder::new().signal(signal).build();
        let killed = self.client().await?.kill_container(id, Some(options)).await;
        // 409 says that it does not run.
        match gone_is_fine(killed) {
            Err(RuntimeError::Conflict(_)) => Ok(()),
            other => other,
        }
    }

    async fn kill_now(&self, container: &Container) {
        let State::Running { pid, .. } = container.state else { return };
        let id = container.id.clone();
        let killed = spawn_blocking(move || processes::kill_first(pid, &id)).await;
        if let Err(error) = killed.unwrap_or_else(|error| Err(error.into())) {
            debug!(%error, pid, "left to Docker to kill");
            return;
        }
        // Docker kills what it has not seen end yet.
        let Ok(client) = self.client().await else { return };
        let mut ends =
            pin!(client.wait_container(&container.id, None::<query::WaitContainerOptions>));
        if timeout(SEEN, ends.next()).await.is_err() {
            debug!(pid, "Docker is slow to see it end");
        }
    }

    async fn remove(&self, id: &str) -> Result<()> {
        let options = query::RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match gone_is_fine(self.client().await?.remove_container(id, Some(options)).await) {
            // Someone else's removal is under way; the result is the same.
            Err(RuntimeError::Conflict(message)) if message.contains("already in progress") => {
                Ok(())
            }
            other => other,
        }
    }

    async fn update(&self, id: &str, limits: &Limits) -> Result<()> {
        let body = ContainerUpdateBody {
            cpu_shares: limits.cpu_shares,
            cpu_period: limits.cpu_quota_us.map(|_| convert::CPU_PERIOD_US),
            cpu_quota: limits.cpu_quota_us,
            memory: limits.memory_bytes,
            memory_swap: limits.memory_bytes,
            pids_limit: limits.pids,
            ..Default::default()
        };
        self.client().await?.update_container(id, body).await.map_err(from_docker)
    }

    async fn lift_cpu_limit(&self, id: &str) -> Result<()> {
        // Docker takes 0 for "as it is".
        let body = ContainerUpdateBody { cpu_quota: Some(-1), ..Default::default() };
        self.client().await?.update_container(id, body).await.map_err(from_docker)
    }

    async fn image(&self, name: &str) -> Result<Option<Image>> {
        match self.client().await?.inspect_image(name).await {
            Ok(found) => Ok(Some(convert::image(found))),
            Err(error) => match from_docker(error) {
                RuntimeError::NotFound(_) => Ok(None),
                other => Err(other),
            },
        }
    }

    async fn images(&self) -> Result<Vec<Image>> {
        let found = self
            .client()
            .await?
            .list_images(None::<query::ListImagesOptions>)
            .await
            .map_err(from_docker)?;
        Ok(found.into_iter().map(convert::image_summary).collect())
    }

    async fn pull(
        &self,
        name: &str,
        credentials: Option<&Credentials>,
        told: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Image> {
        let client = self.client().await?;
        let options = query::CreateImageOptions {
            from_image: Some(name.to_owned()),
            ..query::CreateImageOptionsBuilder::new().build()
        };
        let credentials = credentials.map(|credentials| DockerCredentials {
            username: Some(credentials.username.clone()),
            password: Some(credentials.password.clone()),
            serveraddress: Some(credentials.registry.clone()),
            ..Default::default()
        });
        let mut progress = Box::pin(client.create_image(Some(options), None, credentials));
        let mut layers = convert::Layers::default();
        while let Some(said) = progress.try_next().await.map_err(from_docker)? {
            if let Some(now) = layers.take(said) {
                told(now);
            }
        }
        self.image(name).await?.ok_or_else(|| {
            RuntimeError::NotFound(format!("{name} was pulled but is not among the images"))
        })
    }

    async fn load_stream(&self, tar: Tar) -> Result<Vec<String>> {
        let client = self.client().await?.clone().with_timeout(TRANSFER_TIMEOUT);
        let options = query::ImportImageOptionsBuilder::new().quiet(true).build();
        let mut progress = Box::pin(client.import_image_stream(options, tar, None));
        let mut names = Vec::new();
        while let Some(said) = progress.try_next().await.map_err(from_docker)? {
            let name = said.stream.as_deref().and_then(convert::loaded_image);
            names.extend(name);
        }
        Ok(names)
    }

    async fn save(&self, name: &str) -> Result<Tar> {
        let client = self.client().await?.clone().with_timeout(TRANSFER_TIMEOUT);
        Ok(Box::pin(client.export_images(&[name]).map_err(from_docker)))
    }

    async fn remove_image(&self, name: &str) -> Result<()> {
        let removed =
            self.client().await?.remove_image(name, None::<query::RemoveImageOptions>, None).await;
        gone_is_fine(removed.map(drop))
    }

    async fn logs(
        &self,
        id: &str,
        options: &LogOptions,
    ) -> Result<BoxStream<'static, Result<Output>>> {
        let client = self.client().await?.clone();
        if has_terminal(&client, id).await? {
            return terminal_log::read(&self.socket, id, options).await;
        }
        let mut repeats = options.follow.then(|| Repeats::new(options.timestamps));
        // Docker filters by whole seconds; the caller sees the lines' times.
        let since = options.since.map_or(0, |at| i32::try_from(at.as_second()).unwrap_or(i32::MAX));
        let tail = options.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
        let options = query::LogsOptionsBuilder::new()
            .follow(options.follow)
            .stdout(options.stdout)
            .stderr(options.stderr)
            .since(since)
            .timestamps(options.timestamps || repeats.is_some())
            .tail(&tail)
            .build();
        let pieces = client.logs(id, Some(options)).filter_map(|piece| async { output(piece) });
        Ok(Box::pin(pieces.filter_map(move |piece| {
            future::ready(match (piece, &mut repeats) {
                (Ok(piece), Some(repeats)) => repeats.pass(piece).map(Ok),
                (piece, _) => Some(piece),
            })
        })))
    }

    async fn exec(&self, id: &str, options: &ExecOptions) -> Result<Session> {
        let client = self.client().await?;
        let config = ExecConfig {
            cmd: Some(options.command.clone()),
            tty: Some(options.tty),
            attach_stdin: Some(options.stdin),
            attach_stdout: Some(options.stdout),
            attach_stderr: Some(options.stderr),
            ..Default::default()
        };
        let created = client.create_exec(id, config).await.map_err(from_docker)?;
        let start = StartExecOptions { detach: false, tty: options.tty, output_capacity: None };
        match client.start_exec(&created.id, Some(start)).await.map_err(from_docker)? {
            StartExecResults::Attached { output: pieces, input } => Ok(Session {
                id: created.id,
                output: Box::pin(pieces.filter_map(|piece| async { output(piece) })),
                input,
            }),
            StartExecResults::Detached => {
                Err(RuntimeError::Refused("the runtime did not attach to the command".into()))
            }
        }
    }

    async fn exec_exit_code(&self, session: &str) -> Result<Option<i64>> {
        let found = self.client().await?.inspect_exec(session).await.map_err(from_docker)?;
        Ok(if found.running.unwrap_or(false) { None } else { found.exit_code })
    }

    async fn end_exec(&self, session: &str) -> Result<()> {
        let found = self.client().await?.inspect_exec(session).await.map_err(from_docker)?;
        let pid = found.pid.and_then(|pid| i32::try_from(pid).ok());
        if let (Some(true), Some(pid), Some(container)) = (found.running, pid, found.container_id) {
            processes::kill(pid, &container).map_err(|error| {
                RuntimeError::Refused(format!("cannot end process {pid} of {container}: {error}"))
            })?;
        }
        Ok(())
    }

    async fn attach(&self, id: &str, options: &AttachOptions) -> Result<Session> {
        let query = query::AttachContainerOptionsBuilder::new()
            .stream(true)
            .stdin(options.stdin)
            .stdout(options.stdout)
            .stderr(options.stderr)
            .build();
        let attached =
            self.client().await?.attach_container(id, Some(query)).await.map_err(from_docker)?;
        Ok(Session {
            id: id.to_owned(),
            output: Box::pin(attached.output.filter_map(|piece| async { output(piece) })),
            input: attached.input,
        })
    }

    async fn resize(&self, terminal: &Terminal, size: TerminalSize) -> Result<()> {
        let client = self.client().await?;
        let (width, height) = (i32::from(size.width), i32::from(size.height));
        match terminal {
            Terminal::Exec(session) => {
                let options = query::ResizeExecOptionsBuilder::new().w(width).h(height).build();
                client.resize_exec(session, options).await.map_err(from_docker)
            }
            Terminal::Container(id) => {
                let options =
                    query::ResizeContainerTTYOptionsBuilder::new().w(width).h(height).build();
                client.resize_container_tty(id, options).await.map_err(from_docker)
            }
        }
    }

    async fn events(
        &self,
        labels: &BTreeMap<String, String>,
    ) -> Result<BoxStream<'static, Result<Event>>> {
        let client = self.client().await?.clone();
        let mut filters = label_filter(labels);
        filters.insert("type".into(), vec!["container".into()]);
        filters.insert("event".into(), vec!["start".into(), "die".into(), "destroy".into()]);
        // The request goes out with the first look at the stream; Docker then
        // hands in what happened since now.
        let now = Timestamp::now();
        let since = format!("{}.{:09}", now.as_second(), now.subsec_nanosecond());
        let options =
            query::EventsOptions { since: Some(since), until: None, filters: Some(filters) };
        Ok(Box::pin(client.events(Some(options)).filter_map(|message| async {
            match message {
                Ok(message) => convert::event(message).map(Ok),
                Err(error) => Some(Err(from_docker(error))),
            }
        })))
    }

    async fn stats(&self, id: &str) -> Result<Stats> {
        let client = self.client().await?;
        let options = query::StatsOptionsBuilder::new().stream(false).one_shot(true).build();
        let read =
            Box::pin(client.stats(id, Some(options))).try_next().await.map_err(from_docker)?;
        let read = read.ok_or_else(|| RuntimeError::NotFound(format!("{id} has no statistics")))?;
        Ok(convert::stats(&read, Timestamp::now()))
    }

    async fn file(&self, id: &str, path: &str) -> Result<Option<Vec<u8>>> {
        let client = self.client().await?;
        let mut path = path.to_owned();
        for _ in 0..LINKS {
            let options = query::DownloadFromContainerOptionsBuilder::new().path(&path).build();
            let mut pieces = Box::pin(client.download_from_container(id, Some(options)));
            let mut tar = Vec::new();
            while let Some(piece) = pieces.next().await {
                match piece.map_err(from_docker) {
                    Ok(piece) => tar.extend_from_slice(&piece),
                    Err(RuntimeError::NotFound(_)) => return Ok(None),
                    Err(error) => return Err(error),
                }
                if tar.len() > FILE_BYTES {
                    return Err(RuntimeError::Refused(format!("{path} in the image is too large")));
                }
            }
            match archive::only_entry(&tar, &path) {
                Entry::File(bytes) => return Ok(Some(bytes)),
                Entry::Link(target) => path = target,
                Entry::Other => return Ok(None),
            }
        }
        Ok(None)
    }

    async fn user(&self, container: &Container) -> Option<User> {
        let State::Running { pid, .. } = container.state else { return container.user.clone() };
        container.user.clone().or_else(|| processes::user(pid, &container.id))
    }

    async fn disk_use(&self, id: &str) -> Result<DiskUse> {
        let options = query::InspectContainerOptionsBuilder::new().size(true).build();
        let found = self.client().await?.inspect_container(id, Some(options)).await;
        let found = found.map_err(from_docker)?;
        let log = found.log_path.unwrap_or_default();
        // No log yet, or none that we may see, counts as an empty one.
        let log_bytes = tokio::task::spawn_blocking(move || log_bytes(Path::new(&log)));
        Ok(DiskUse {
            layer_bytes: found.size_rw.and_then(|bytes| bytes.try_into().ok()).unwrap_or_default(),
            log_bytes: log_bytes.await.ok().and_then(std::io::Result::ok).unwrap_or_default(),
        })
    }
}

/// Whether a container's output is that of a terminal.
async fn has_terminal(client: &bollard::Docker, id: &str) -> Result<bool> {
    let found = client.inspect_container(id, None::<query::InspectContainerOptions>).await;
    Ok(found.map_err(from_docker)?.config.and_then(|config| config.tty).unwrap_or(false))
}

/// The sizes of a log file and of its rotated predecessors, which carry its
/// name with a suffix.
fn log_bytes(log: &Path) -> std::io::Result<u64> {
    let (Some(dir), Some(name)) = (log.parent(), log.file_name()) else { return Ok(0) };
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(name.as_encoded_bytes()) {
            bytes += entry.metadata()?.len();
        }
    }
    Ok(bytes)
}

fn label_filter(labels: &BTreeMap<String, String>) -> HashMap<String, Vec<String>> {
    let wanted = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    HashMap::from([("label".to_owned(), wanted)])
}

/// How much of a file is read: the images that they come from are others' work.
const FILE_BYTES: usize = 1 << 20;
/// How many links lead to a file at most.
const LINKS: usize = 8;

fn output(piece: std::result::Result<LogOutput, Error>) -> Option<Result<Output>> {
    match piece {
        Ok(LogOutput::StdOut { message } | LogOutput::Console { message }) => {
            Some(Ok(Output::Stdout(message)))
        }
        Ok(LogOutput::StdErr { message }) => Some(Ok(Output::Stderr(message))),
        // Docker echoes what it read only in its own log formats.
        Ok(LogOutput::StdIn { .. }) => None,
        Err(error) => Some(Err(from_docker(error))),
    }
}
