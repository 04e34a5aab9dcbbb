//! Knows which pods there are: watches the API and the runtime, and hands what
//! it hears to the pods' workers.
//!
//! A worker exists for every pod that the API has bound to this node and for
//! every pod of which something is left on this node. What the API does not
//! have is removed, but only after the API has answered with a full list: an
//! API that is away or starts up removes nothing.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher;
use skiff_client::Api;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span, warn};

use super::admit::{Refusal, is_new, was_taken};
use super::api;
use super::context::Context;
use super::directory::Directory;
use super::inbox::Inbox;
use super::model::{has_ended, uid};
use super::static_pods::{Folder, mirrored};
use super::worker::Worker;
use crate::eviction::limits;
use crate::runtime::{Container, Event, EventKind, RuntimeError, labels};

/// How long nothing has come or gone before memory is given back.
const SETTLED: Duration = Duration::from_secs(5);

/// How long to wait before asking a runtime again that did not answer.
const RUNTIME_RETRY_MIN: Duration = Duration::from_millis(250);
const RUNTIME_RETRY_MAX: Duration = Duration::from_secs(5);

/// The manager of all pods of this node.
pub struct Manager {
    ctx: Arc<Context>,
    directory: Arc<Directory>,
    /// Whether the runtime answers; the node's condition follows it.
    runtime_tx: watch::Sender<Option<String>>,
    /// Told when the API answers again after a silence. What watches hold may
    /// be dead connections then.
    api_back: Arc<Notify>,
    workers: JoinSet<String>,
    /// What the runtime had at the last list, for pods without a worker.
    containers: BTreeMap<String, Vec<Container>>,
    /// The API has answered with a full list.
    listed: bool,
    /// The UIDs of a list that is coming in.
    listing: BTreeSet<String>,
    /// Pods of that list that have nothing here yet. They are let in when it is
    /// known who else is here.
    newcomers: Vec<Pod>,
    /// The folder of static pods.
    folder: Option<Folder>,
    /// Static pods by UID, each with the mirror that the API has.
    statics: BTreeMap<String, Option<Arc<Pod>>>,
    /// When memory is given back, after containers or pods have come or gone.
    settles_at: Option<Instant>,
    cancel: CancellationToken,
}

impl Manager {
    /// A manager. `runtime_tx` tells why the runtime does not answer.
    pub fn new(
        ctx: Arc<Context>,
        directory: Arc<Directory>,
        runtime_tx: watch::Sender<Option<String>>,
        api_back: Arc<Notify>,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            ctx,
            directory,
            runtime_tx,
            api_back,
            workers: JoinSet::new(),
            containers: BTreeMap::new(),
            listed: false,
            listing: BTreeSet::new(),
            newcomers: Vec::new(),
            folder: None,
            statics: BTreeMap::new(),
            settles_at: None,
            cancel,
        }
    }

    /// The same with the pods of a folder.
    pub fn with_static_pods(self, folder: Option<Folder>) -> Self {
        Self { folder, ..self }
    }

    /// Runs until cancelled. Pods go on running.
    pub async fn run(mut self) {
        let cancel = self.cancel.clone();
        // Adoption: what runs is known before the first pod is looked at.
        let Some(mut runtime_events) = self.connect().await else { return };
        self.ctx.cgroups.find().await;
        let api_back = self.api_back.clone();
        let folder = self.folder.take();
        if let Some(folder) = &folder {
            self.take_static(folder.read()).await;
        }
        let folder_changed = async || match &folder {
            Some(folder) => folder.changed().await,
            None => std::future::pending().await,
        };
        let mut pods = self.watch_pods();
        loop {
            tokio::select! {
                changed = folder_changed() => match (changed, &folder) {
                    (Ok(()), Some(folder)) => self.take_static(folder.read()).await,
                    (Err(error), _) => {
                        warn!(%error, "the folder of static pods is no longer watched");
                        break;
                    }
                    (Ok(()), None) => {}
                },
                () = cancel.cancelled() => break,
                event = pods.next() => match event {
                    Some(Ok(event)) => self.take_pod(event).await,
                    Some(Err(error)) => warn!(%error, "watch on pods broke, will resume"),
                    None => break,
                },
                () = api_back.notified() => pods = self.watch_pods(),
                event = runtime_events.next() => match event {
                    Some(Ok(event)) => self.take_runtime(&event),
                    lost => {
                        let reason = match lost {
                            Some(Err(error)) => error.reason().to_owned(),
                            _ => "the event stream ended".into(),
                        };
                        warn!(reason, "lost the container runtime, reconnecting");
                        self.directory.inboxes().values().for_each(|inbox| inbox.runtime_lost());
                        self.runtime_tx.send_replace(Some(reason));
                        let Some(events) = self.connect().await else { break };
                        runtime_events = events;
                        if self.listed {
                            self.sweep().await;
                        }
                    }
                },
                Some(ended) = self.workers.join_next(), if !self.workers.is_empty() => {
                    self.take_ended(ended);
                }
                () = sleep_until(self.settles_at.unwrap_or_else(Instant::now)), if self.settles_at.is_some() => {
                    self.settles_at = None;
                    skiff_memory::give_back();
                }
            }
        }
        while self.workers.join_next().await.is_some() {}
    }

    fn watch_pods(&self) -> BoxStream<'static, watcher::Result<watcher::Event<Pod>>> {
        let config = watcher::Config::default()
            .any_semantic()
            .fields(&format!("spec.nodeName={}", self.ctx.config.node_name));
        skiff_client::watch(Api::all(self.ctx.client.clone()), config)
    }

    /// Opens the event stream and lists, in this order, so that nothing is
    /// missed in between. `None` when cancelled.
    async fn connect(&mut self) -> Option<BoxStream<'static, Result<Event, RuntimeError>>> {
        let mut wait = RUNTIME_RETRY_MIN;
        loop {
            match self.open().await {
                Ok(events) => {
                    self.runtime_tx.send_replace(None);
                    return Some(events);
                }
                Err(error) => {
                    warn!(%error, "container runtime does not answer, will be asked again");
                    self.runtime_tx.send_replace(Some(error.reason().to_owned()));
                }
            }
            tokio::select! {
                () = self.cancel.cancelled() => return None,
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(RUNTIME_RETRY_MAX);
        }
    }

    async fn open(
        &mut self,
    ) -> Result<BoxStream<'static, Result<Event, RuntimeError>>, RuntimeError> {
        let wanted = labels::of_node(&self.ctx.config.instance, &self.ctx.config.node_name);
        let events = self.ctx.runtime.events(&wanted).await?;
        let found = self.ctx.runtime.list(&wanted).await?;
        let mut sorted: BTreeMap<String, Vec<Container>> = BTreeMap::new();
        for container in found {
            sorted.entry(container.label(labels::POD_UID).to_owned()).or_default().push(container);
        }
        for (uid, containers) in &sorted {
            self.ctx.devices.adopt(uid, containers);
        }
        for (uid, inbox) in self.directory.inboxes().iter() {
            inbox.containers(sorted.get(uid).cloned().unwrap_or_default());
        }
        self.containers = sorted;
        Ok(events)
    }

    async fn take_pod(&mut self, event: watcher::Event<Pod>) {
        match event {
            watcher::Event::Init => {
                self.listing.clear();
                self.newcomers.clear();
                self.statics.values_mut().for_each(|mirror| *mirror = None);
            }
            watcher::Event::InitApply(pod) if mirrored(&pod).is_some() => self.take_mirror(pod),
            watcher::Event::Apply(pod) if mirrored(&pod).is_some() => {
                self.take_mirror(pod);
                self.tell_mirrors();
            }
            watcher::Event::Delete(pod) if mirrored(&pod).is_some() => {
                let mirror = mirrored(&pod).and_then(|uid| self.statics.get_mut(uid));
                if let Some(mirror) = mirror
                    && mirror.as_deref().is_some_and(|known| uid(known) == uid(&pod))
                {
                    *mirror = None;
                    self.tell_mirrors();
                }
            }
            watcher::Event::InitApply(pod) => {
                self.listing.insert(uid(&pod).to_owned());
                if self.is_new(&pod) {
                    self.newcomers.push(pod);
                } else {
                    self.ensure(pod).await;
                }
            }
            watcher::Event::Apply(pod) => {
                self.ensure(pod).await;
                self.directory.room_changed();
            }
            watcher::Event::Delete(pod) => {
                self.ctx.devices.ends(uid(&pod));
                if let Some(inbox) = self.directory.get(uid(&pod)) {
                    inbox.gone();
                }
            }
            watcher::Event::InitDone => {
                let listing = std::mem::take(&mut self.listing);
                for (uid, inbox) in self.directory.inboxes().iter() {
                    if !listing.contains(uid) && !self.statics.contains_key(uid) {
                        inbox.gone();
                    }
                }
                let mut newcomers = std::mem::take(&mut self.newcomers);
                newcomers
                    .sort_by_key(|pod| (!was_taken(pod), pod.metadata.creation_timestamp.clone()));
                for pod in newcomers {
                    self.ensure(pod).await;
                }
                self.listed = true;
                self.tell_mirrors();
                self.sweep().await;
            }
        }
    }

    /// The folder has these pods now: starts the new ones, ends the others.
    async fn take_static(&mut self, pods: BTreeMap<String, Pod>) {
        let gone: Vec<String> =
            self.statics.keys().filter(|uid| !pods.contains_key(*uid)).cloned().collect();
        for uid in gone {
            self.statics.remove(&uid);
            if let Some(inbox) = self.directory.get(&uid) {
                inbox.gone();
            }
        }
        for (uid, pod) in pods {
            if let Entry::Vacant(new) = self.statics.entry(uid) {
                new.insert(None);
                self.ensure(pod).await;
            }
        }
        if self.listed {
            self.tell_mirrors();
        }
    }

    /// Sorts a mirror to its static pod. One without a pod here, or one that
    /// somebody deletes, has to go.
    fn take_mirror(&mut self, pod: Pod) {
        let known = mirrored(&pod).and_then(|uid| self.statics.get_mut(uid));
        match known {
            Some(mirror) if pod.metadata.deletion_timestamp.is_none() => {
                *mirror = Some(Arc::new(pod));
            }
            _ => {
                let ctx = self.ctx.clone();
                self.workers.spawn(async move {
                    if let Err(error) = api::delete_object(&ctx, &pod).await {
                        warn!(error, name = pod.metadata.name, "mirror not deleted");
                    }
                    String::new()
                });
            }
        }
    }

    /// Tells the workers of static pods what the API has of them.
    fn tell_mirrors(&self) {
        for (uid, mirror) in &self.statics {
            if let Some(inbox) = self.directory.get(uid) {
                inbox.mirror(mirror.clone());
            }
        }
    }

    /// Whether the pod has neither a worker nor anything else here.
    fn is_new(&self, pod: &Pod) -> bool {
        let found = self.containers.get(uid(pod)).map(Vec::as_slice).unwrap_or_default();
        self.directory.get(uid(pod)).is_none() && is_new(pod, found)
    }

    /// Hands the pod to its worker, starting one if there is none. A pod that is
    /// new is let in or refused before the next is looked at.
    async fn ensure(&mut self, pod: Pod) {
        let refused = if self.is_new(&pod) { self.ctx.admit(&pod).await } else { None };
        let uid = uid(&pod).to_owned();
        if has_ended(&pod) || pod.metadata.deletion_timestamp.is_some() {
            // The next pod may come before the worker of this one has looked.
            self.ctx.devices.ends(&uid);
        }
        if limits::asks(&pod) {
            self.directory.limited.notify_one();
        }
        let pod = Arc::new(pod);
        match self.directory.get(&uid) {
            Some(inbox) => inbox.pod(pod),
            None => self.spawn(pod, false, refused),
        }
    }

    fn spawn(&mut self, pod: Arc<Pod>, gone: bool, refused: Option<Refusal>) {
        let uid = uid(&pod).to_owned();
        let inbox = Arc::new(Inbox::default());
        if gone || refused.is_some() {
            inbox.leave_room();
        }
        // Who lists pods from now on finds this one.
        inbox.remember(pod.clone());
        self.directory.inboxes().insert(uid.clone(), inbox.clone());
        let found = self.containers.remove(&uid).unwrap_or_default();
        let meta = &pod.metadata;
        let span = info_span!("pod", namespace = meta.namespace, name = meta.name);
        if !found.is_empty() {
            span.in_scope(|| info!(containers = found.len(), gone, "found containers of the pod"));
        }
        let worker = Worker::new(self.ctx.clone(), inbox, pod, gone, found, refused);
        let cancel = self.cancel.clone();
        let work = async move {
            worker.run(cancel).await;
            uid
        };
        self.workers.spawn(work.instrument(span));
    }

    /// A worker is done with its pod. One that panicked takes the agent with
    /// it: a pod nobody looks after would look as if all were well. The next
    /// agent adopts what runs.
    fn take_ended(&mut self, ended: Result<String, JoinError>) {
        match ended {
            Ok(uid) => {
                self.settles_at = Some(Instant::now() + SETTLED);
                self.directory.inboxes().remove(&uid);
                self.containers.remove(&uid);
                self.directory.room_changed();
            }
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(error) => warn!(%error, "a pod's worker was aborted"),
        }
    }

    /// Hands a change of a container to its pod's worker.
    fn take_runtime(&mut self, event: &Event) {
        let Some(pod) = event.labels.get(labels::POD_UID) else { return };
        self.settles_at = Some(Instant::now() + SETTLED);
        if let Some(inbox) = self.directory.get(pod) {
            match event.kind {
                EventKind::Started => inbox.started(&event.id),
                EventKind::Died | EventKind::Removed => inbox.touched(&event.id),
            }
        }
    }

    /// Finds what is left of pods that the API does not have, and has it
    /// removed: containers by their labels, cgroups by their names, files by their
    /// folders.
    async fn sweep(&mut self) {
        let mut left: BTreeMap<String, (String, String)> = BTreeMap::new();
        for (uid, containers) in &self.containers {
            if let Some(first) = containers.first() {
                let names = (
                    first.label(labels::POD_NAMESPACE).to_owned(),
                    first.label(labels::POD_NAME).to_owned(),
                );
                left.insert(uid.clone(), names);
            }
        }
        for uid in self.ctx.cgroups.pods() {
            left.entry(uid).or_default();
        }
        let folders = self.ctx.config.data_dir.join("pods");
        if let Ok(mut entries) = tokio::fs::read_dir(&folders).await {
            while let Ok(Some(entry)) = entries.next_entry().await {
                left.entry(entry.file_name().to_string_lossy().into_owned()).or_default();
            }
        }
        for (uid, (namespace, name)) in left {
            if uid.is_empty() || self.directory.get(&uid).is_some() {
                continue;
            }
            info!(uid, namespace, name, "the API has no such pod, removing what is left of it");
            let mut pod = Pod::default();
            pod.metadata.uid = Some(uid);
            pod.metadata.namespace = Some(namespace);
            pod.metadata.name = Some(name);
            self.spawn(Arc::new(pod), true, None);
        }
    }
}
