//! A runtime without processes: containers are entries in a map.
//!
//! Tests drive it (`exit`, `fail_start`, `set_down`). It keeps the contract of
//! [`Runtime`]; the tests in `conformance` hold it to what Docker does.

mod knobs;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use tokio::sync::{Notify, broadcast};
use tokio_stream::wrappers::BroadcastStream;

use super::{
    AttachOptions, Container, ContainerSpec, Credentials, DiskUse, Event, EventKind, ExecOptions,
    Image, Limits, LogOptions, Output, Progress, Result, Runtime, RuntimeError, Session, State,
    Stats, Tar, Terminal, TerminalSize, User, Version,
};

/// Events kept for a reader that lags; it then relists.
const EVENT_CAPACITY: usize = 1024;

/// The in-memory runtime.
pub struct Memory {
    inner: Mutex<Inner>,
    /// Another one after each time that the runtime was away.
    events: Mutex<broadcast::Sender<Event>>,
    lifted: Notify,
}

#[derive(Default)]
struct Inner {
    containers: BTreeMap<String, Container>,
    specs: BTreeMap<String, ContainerSpec>,
    logs: BTreeMap<String, Vec<Output>>,
    images: BTreeMap<String, Image>,
    remote: BTreeMap<String, Image>,
    exec_codes: BTreeMap<String, i64>,
    failing_starts: BTreeMap<String, String>,
    failing_updates: Option<String>,
    stop_time: Duration,
    throttled: bool,
    files: BTreeMap<(String, String), Vec<u8>>,
    memory_use: BTreeMap<String, u64>,
    disk_use: BTreeMap<String, DiskUse>,
    drivers: Vec<String>,
    devices: Vec<String>,
    calls: Vec<String>,
    down: bool,
    next: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            events: Mutex::new(broadcast::Sender::new(EVENT_CAPACITY)),
            lifted: Notify::new(),
        }
    }
}

impl Memory {
    /// An empty runtime without images.
    pub fn new() -> Self {
        Self::default()
    }

    fn events(&self) -> MutexGuard<'_, broadcast::Sender<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic in a test's thread leaves plain data behind.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn up(&self, call: &str, subject: &str) -> Result<MutexGuard<'_, Inner>> {
        let mut inner = self.lock();
        inner.calls.push(format!("{call} {subject}"));
        if inner.down { Err(RuntimeError::Unavailable("stopped".into())) } else { Ok(inner) }
    }

    fn send(&self, container: &Container, kind: EventKind) {
        let event = Event { id: container.id.clone(), labels: container.labels.clone(), kind };
        // No receiver is fine: nobody watches.
        drop(self.events().send(event));
    }

    /// Waits while the container is throttled.
    async fn unthrottled(&self, id: &str) {
        loop {
            let lifted = self.lifted.notified();
            let throttled = {
                let inner = self.lock();
                let limited = |known: &Container| known.limits.cpu_quota_us.is_some();
                inner.throttled && inner.find_running(id).is_ok_and(limited)
            };
            if !throttled {
                return;
            }
            lifted.await;
        }
    }

    fn end(&self, id: &str, exit_code: i32, oom_killed: bool) {
        let mut inner = self.lock();
        let Some(container) = inner.containers.get_mut(id) else { return };
        let State::Running { started, .. } = container.state else { return };
        container.state = State::Exited {
            exit_code,
            oom_killed,
            error: String::new(),
            started: Some(started),
            finished: Timestamp::now(),
        };
        let container = container.clone();
        drop(inner);
        self.send(&container, EventKind::Died);
    }
}

impl Inner {
    fn find(&self, id: &str) -> Result<&Container> {
        self.containers
            .get(id)
            .or_else(|| self.containers.values().find(|container| container.name == id))
            .ok_or_else(|| RuntimeError::NotFound(format!("No such container: {id}")))
    }

    /// What Docker says to a container that asks for a driver it does not have.
    fn unserved(&self, id: &str) -> Option<String> {
        let asked = &self.specs.get(id)?.devices;
        let unknown = asked.iter().find(|request| !self.drivers.contains(&request.driver))?;
        let driver = &unknown.driver;
        Some(format!("could not select device driver \"{driver}\" with capabilities: [[gpu]]"))
    }

    fn find_running(&self, id: &str) -> Result<&Container> {
        let container = self.find(id)?;
        if container.is_running() {
            Ok(container)
        } else {
            Err(RuntimeError::Conflict(format!("Container {id} is not running")))
        }
    }
}

#[async_trait]
impl Runtime for Memory {
    async fn version(&self) -> Result<Version> {
        let devices = self.up("version", "")?.devices.clone();
        Ok(Version {
            name: "hollow".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            kernel: "hollow".into(),
            os_image: "hollow".into(),
            root_dir: "/".into(),
            devices,
            cgroup_driver: None,
        })
    }

    async fn ids(&self, labels: &BTreeMap<String, String>) -> Result<Vec<String>> {
        Ok(self.list(labels).await?.into_iter().map(|container| container.id).collect())
    }

    async fn list(&self, labels: &BTreeMap<String, String>) -> Result<Vec<Container>> {
        let inner = self.up("list", "")?;
        Ok(inner
            .containers
            .values()
            .filter(|container| carries(&container.labels, labels))
            .cloned()
            .collect())
    }

    async fn inspect(&self, id: &str) -> Result<Container> {
        self.up("inspect", id)?.find(id).cloned()
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<String> {
        let mut inner = self.up("create", &spec.name)?;
        if inner.containers.values().any(|container| container.name == spec.name) {
            return Err(RuntimeError::Conflict(format!(
                "The container name \"/{}\" is already in use",
                spec.name
            )));
        }
        let image = inner
            .images
            .values()
            .find(|image| image.id == spec.image || image.tags.contains(&spec.image));
        let image_id = match image {
            Some(image) => image.id.clone(),
            None => return Err(RuntimeError::NotFound(format!("No such image: {}", spec.image))),
        };
        inner.next += 1;
        let id = format!("{:064x}", inner.next);
        let container = Container {
            id: id.clone(),
            name: spec.name.clone(),
            labels: spec.labels.clone(),
            image: spec.image.clone(),
            image_id,
            created: Timestamp::now(),
            state: State::Created,
            limits: spec.limits.clone(),
            user: User::told(spec.user.as_deref().unwrap_or_default(), &spec.groups),
        };
        inner.containers.insert(id.clone(), container);
        inner.specs.insert(id.clone(), spec.clone());
        Ok(id)
    }

    async fn start(&self, id: &str) -> Result<()> {
        let mut inner = self.up("start", id)?;
        let id = inner.find(id)?.id.clone();
        inner.next += 1;
        let pid = i32::try_from(inner.next).unwrap_or(i32::MAX);
        let failure = inner
            .containers
            .get(&id)
            .and_then(|found| inner.failing_starts.get(&found.image))
            .cloned()
            .or_else(|| inner.unserved(&id));
        let Some(container) = inner.containers.get_mut(&id) else { return Ok(()) };
        if container.is_running() {
            return Ok(());
        }
        let now = Timestamp::now();
        if let Some(error) = failure {
            let state = State::Exited {
                exit_code: 127,
                oom_killed: false,
                error: error.clone(),
                started: None,
                finished: now,
            };
            container.state = state;
            return Err(RuntimeError::Refused(error));
        }
        container.state = State::Running { pid, started: now };
        let container = container.clone();
        drop(inner);
        self.send(&container, EventKind::Started);
        Ok(())
    }

    async fn stop(&self, id: &str, _grace: Duration) -> Result<()> {
        let found = self.up("stop", id)?.find(id).cloned();
        let takes = self.lock().stop_time;
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        self.unthrottled(id).await;
        if let Ok(container) = found {
            self.end(&container.id, 143, false);
        }
        Ok(())
    }

    async fn kill(&self, id: &str, signal: &str) -> Result<()> {
        let found = self.up("kill", id)?.find(id).cloned();
        if let Ok(container) = found {
            self.end(&container.id, if signal == "SIGKILL" { 137 } else { 143 }, false);
        }
        Ok(())
    }

    async fn kill_now(&self, container: &Container) {
        let found =
            self.up("kill_now", &container.id).is_ok_and(|inner| inner.find(&container.id).is_ok());
        if found && container.is_running() {
            self.end(&container.id, 137, false);
        }
    }

    async fn remove(&self, id: &str) -> Result<()> {
        let found = self.up("remove", id)?.find(id).cloned();
        let Ok(container) = found else { return Ok(()) };
        self.end(&container.id, 137, false);
        let mut inner = self.lock();
        inner.containers.remove(&container.id);
        inner.specs.remove(&container.id);
        inner.logs.remove(&container.id);
        drop(inner);
        self.send(&container, EventKind::Removed);
        Ok(())
    }

    async fn update(&self, id: &str, limits: &Limits) -> Result<()> {
        let mut inner = self.up("update", id)?;
        let id = inner.find(id)?.id.clone();
        if let Some(error) = inner.failing_updates.clone() {
            return Err(RuntimeError::Refused(error));
        }
        if let Some(container) = inner.containers.get_mut(&id) {
            container.limits = limits.clone();
        }
        Ok(())
    }

    async fn lift_cpu_limit(&self, id: &str) -> Result<()> {
        let mut inner = self.up("lift_cpu_limit", id)?;
        let id = inner.find_running(id)?.id.clone();
        if let Some(container) = inner.containers.get_mut(&id) {
            container.limits.cpu_quota_us = None;
        }
        drop(inner);
        self.lifted.notify_waiters();
        Ok(())
    }

    async fn image(&self, name: &str) -> Result<Option<Image>> {
        let inner = self.up("image", name)?;
        let named = |image: &&Image| image.id == name || image.tags.iter().any(|tag| tag == name);
        Ok(inner.images.values().find(named).cloned())
    }

    async fn images(&self) -> Result<Vec<Image>> {
        Ok(self.up("images", "")?.images.values().cloned().collect())
    }

    async fn pull(
        &self,
        name: &str,
        _credentials: Option<&Credentials>,
        told: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Image> {
        let mut inner = self.up("pull", name)?;
        match inner.remote.get(name).cloned() {
            Some(image) => {
                let size = image.size.unsigned_abs();
                told(Progress { came: size, all: size });
                inner.images.insert(name.into(), image.clone());
                Ok(image)
            }
            None => Err(RuntimeError::Refused(format!("manifest for {name} not found"))),
        }
    }

    async fn load_stream(&self, tar: Tar) -> Result<Vec<String>> {
        let tar: Vec<Bytes> = tar.try_collect().await?;
        let tar = tar.concat();
        let mut archive = tar::Archive::new(&tar[..]);
        let names = archive.entries().and_then(|entries| {
            for entry in entries {
                let entry = entry?;
                if entry.path()?.as_os_str() == "manifest.json" {
                    let manifest: serde_json::Value = serde_json::from_reader(entry)?;
                    let tags = manifest[0]["RepoTags"].as_array().cloned().unwrap_or_default();
                    return Ok(tags
                        .iter()
                        .filter_map(|tag| tag.as_str().map(str::to_owned))
                        .collect::<Vec<_>>());
                }
            }
            Err(std::io::Error::other("no images in it"))
        });
        drop(self.up("load", "")?);
        let names = names.map_err(|error| RuntimeError::Refused(error.to_string()))?;
        names.iter().for_each(|name| self.add_image(name));
        Ok(names)
    }

    async fn save(&self, name: &str) -> Result<Tar> {
        drop(self.up("save", name)?);
        if self.image(name).await?.is_none() {
            return Err(RuntimeError::NotFound(format!("No such image: {name}")));
        }
        let tar = super::sandbox_image::image_tar(name, name.as_bytes())
            .map_err(|error| RuntimeError::Refused(error.to_string()))?;
        Ok(Box::pin(futures::stream::iter([Ok(tar)])))
    }

    async fn remove_image(&self, name: &str) -> Result<()> {
        let mut inner = self.up("remove_image", name)?;
        let named = |image: &Image| image.id == name || image.tags.iter().any(|tag| tag == name);
        let used = |image: &Image| inner.containers.values().any(|one| one.image_id == image.id);
        if inner.images.values().any(|image| named(image) && used(image)) {
            return Err(RuntimeError::Conflict(format!(
                "image {name} is being used by a container"
            )));
        }
        inner.images.retain(|_, image| !named(image));
        Ok(())
    }

    async fn logs(
        &self,
        id: &str,
        options: &LogOptions,
    ) -> Result<BoxStream<'static, Result<Output>>> {
        let inner = self.up("logs", id)?;
        let id = inner.find(id)?.id.clone();
        let wanted = |output: &&Output| match output {
            Output::Stdout(_) => options.stdout,
            Output::Stderr(_) => options.stderr,
        };
        let mut lines: Vec<_> =
            inner.logs.get(&id).into_iter().flatten().filter(wanted).cloned().map(Ok).collect();
        if let Some(tail) = options.tail.and_then(|tail| usize::try_from(tail).ok()) {
            lines.drain(..lines.len().saturating_sub(tail));
        }
        Ok(Box::pin(futures::stream::iter(lines)))
    }

    async fn exec(&self, id: &str, options: &ExecOptions) -> Result<Session> {
        let mut inner = self.up("exec", id)?;
        inner.find_running(id)?;
        inner.next += 1;
        let program = options.command.first().cloned().unwrap_or_default();
        let code = inner.exec_codes.get(&program).copied().unwrap_or(0);
        let session = format!("exec-{}", inner.next);
        let output: BoxStream<'static, _> = if program == "sleep" {
            Box::pin(futures::stream::pending())
        } else {
            inner.exec_codes.insert(session.clone(), code);
            Box::pin(futures::stream::empty())
        };
        Ok(Session { id: session, output, input: Box::pin(tokio::io::sink()) })
    }

    async fn exec_exit_code(&self, session: &str) -> Result<Option<i64>> {
        let code = self.up("exec_exit_code", session)?.exec_codes.get(session).copied();
        code.map(Some)
            .ok_or_else(|| RuntimeError::NotFound(format!("No such exec instance: {session}")))
    }

    async fn end_exec(&self, session: &str) -> Result<()> {
        self.up("end_exec", session)?.exec_codes.entry(session.to_owned()).or_insert(137);
        Ok(())
    }

    async fn attach(&self, id: &str, _options: &AttachOptions) -> Result<Session> {
        let id = self.up("attach", id)?.find_running(id)?.id.clone();
        Ok(Session {
            id,
            output: Box::pin(futures::stream::empty()),
            input: Box::pin(tokio::io::sink()),
        })
    }

    async fn resize(&self, terminal: &Terminal, _size: TerminalSize) -> Result<()> {
        match terminal {
            Terminal::Container(id) => self.up("resize", id)?.find_running(id).map(drop),
            Terminal::Exec(session) => self.exec_exit_code(session).await.map(drop),
        }
    }

    async fn events(
        &self,
        labels: &BTreeMap<String, String>,
    ) -> Result<BoxStream<'static, Result<Event>>> {
        drop(self.up("events", "")?);
        let wanted = labels.clone();
        let events = BroadcastStream::new(self.events().subscribe()).filter_map(move |event| {
            let found = match event {
                Ok(event) => carries(&event.labels, &wanted).then_some(Ok(event)),
                Err(lagged) => Some(Err(RuntimeError::Unavailable(lagged.to_string()))),
            };
            async { found }
        });
        Ok(Box::pin(events))
    }

    async fn stats(&self, id: &str) -> Result<Stats> {
        let inner = self.up("stats", id)?;
        let container = inner.find_running(id)?;
        let memory_bytes = inner.memory_use.get(&container.id).copied().unwrap_or(0);
        Ok(Stats { at: Timestamp::now(), cpu_nanos: 0, memory_bytes, processes: 1 })
    }

    async fn file(&self, id: &str, path: &str) -> Result<Option<Vec<u8>>> {
        let inner = self.up("file", id)?;
        let image = inner.find(id)?.image_id.clone();
        let tags = inner.images.values().filter(|known| known.id == image);
        let mut tags = tags.flat_map(|known| known.tags.clone());
        Ok(tags.find_map(|tag| inner.files.get(&(tag, path.to_owned())).cloned()))
    }

    /// Who is not told runs as root.
    async fn user(&self, container: &Container) -> Option<User> {
        let root = || User::told("0:0", &[]).filter(|_| container.is_running());
        container.user.clone().or_else(root)
    }

    async fn disk_use(&self, id: &str) -> Result<DiskUse> {
        let inner = self.up("disk_use", id)?;
        let id = &inner.find(id)?.id;
        Ok(inner.disk_use.get(id).copied().unwrap_or_default())
    }
}

fn carries(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn image_named(name: &str) -> Image {
    Image {
        id: format!("sha256:{name}"),
        tags: vec![name.into()],
        size: 1_000_000,
        has_command: true,
        ..Default::default()
    }
}
