//! Eviction: what a node that runs short of something takes from its pods, and
//! what becomes of a pod that leaves more on the disk than it may.
//!
//! [`thresholds`] decides when something runs short, [`rank`] who goes first and
//! [`limits`] who is beyond a limit; all are pure. The [`Evictor`] measures and
//! tells the pod's worker, whose plan ends the pod. Whether something runs short
//! is not looked at here: the node is, with every heartbeat and for its
//! conditions, and this acts on what was seen. One pod goes at a time, and the
//! next is chosen when the node has been looked at again.
//!
//! Before a pod goes for want of room on the runtime's disk, containers go that
//! have ended and are kept for their logs, and images that Skiff brought and
//! nobody uses. Limits are measured rarely, by a timer that stands still while
//! no pod has any.

mod dead;
pub mod limits;
mod measure;
pub mod rank;
pub mod thresholds;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::Config;
use crate::events::{Recorder, Severity};
use crate::images::Images;
use crate::node::{Kind, Pressures, Shortage};
use crate::pod::directory::Directory;
use crate::pod::model::{Disruption, EVICTION_GRACE, uid};
use crate::pod::plan::spec_grace;
use crate::runtime::{Container, Result, Runtime, labels};
use crate::usage::Meter;
use crate::volume;
use measure::Place;
use thresholds::Signal;

/// The least time between two looks at what limited pods left on the disk.
const PERIOD: Duration = Duration::from_secs(15);
/// How many times as long as a look took the next one has to wait, so that
/// folders of a million files do not keep the disk busy.
const REST: u32 = 20;
/// How long a pod that was told to go may take beyond its grace period until
/// another one is chosen; upstream's own figure.
const PATIENCE: Duration = Duration::from_secs(30);

/// Evicts pods of one node.
pub struct Evictor {
    config: Config,
    runtime: Arc<dyn Runtime>,
    meter: Meter,
    images: Images,
    directory: Arc<Directory>,
    recorder: Recorder,
    /// The pod that was told to go last.
    going: Option<Going>,
}

/// A pod that was told to go.
struct Going {
    uid: String,
    /// So long the node waits for it.
    patience: Instant,
    /// How long it has to end.
    grace: Duration,
}

impl Evictor {
    /// An evictor of the pods in `directory`.
    pub fn new(
        config: Config,
        runtime: Arc<dyn Runtime>,
        images: Images,
        directory: Arc<Directory>,
        recorder: Recorder,
    ) -> Self {
        let meter = Meter::new(runtime.clone(), &config.instance, &config.node_name);
        Self { config, runtime, meter, images, directory, recorder, going: None }
    }

    /// Works until cancelled. `pressures` is told of every look at the node
    /// while something runs short.
    pub async fn run(
        mut self,
        mut pressures: watch::Receiver<Pressures>,
        cancel: CancellationToken,
    ) {
        let mut due: Option<Instant> = None;
        loop {
            let measure = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                Ok(()) = pressures.changed() => {
                    let short = pressures.borrow_and_update().urgent;
                    if let Some(short) = short && let Err(error) = self.relieve(&short).await {
                        warn!(%error, "cannot tell which pod has to go");
                    }
                }
                () = self.directory.limited_pod_came() => {
                    due.get_or_insert(Instant::now() + PERIOD);
                }
                () = measure => {
                    let begun = Instant::now();
                    let again = self.check_limits().await.unwrap_or_else(|error| {
                        warn!(%error, "limits on the use of disk are not looked after");
                        true
                    });
                    let wait = PERIOD.max(begun.elapsed() * REST);
                    due = again.then(|| Instant::now() + wait);
                }
            }
        }
    }

    /// Takes from what nobody uses, or from the pod whose turn it is.
    async fn relieve(&mut self, short: &Shortage) -> Result<()> {
        let kind = short.signal.kind();
        let is_disk = matches!(kind, Kind::Disk | Kind::Inodes);
        if is_disk && self.empty_the_one_that_went().await? {
            return Ok(());
        }
        if self.is_one_going() {
            self.hurry(short);
            return Ok(());
        }
        let place = if is_disk { self.place(short.signal).await? } else { Place::default() };
        if place.containers && self.tidy().await? > 0 {
            // Whether that was enough shows when the node is looked at again.
            return Ok(());
        }
        let mut node = Node::default();
        node.metadata.name = Some(self.config.node_name.clone());
        let message = format!("Attempting to reclaim {}", kind.resource());
        self.recorder.node(&node, Severity::Warning, "EvictionThresholdMet", message);
        let pods = self.directory.pods();
        let uses = if is_disk {
            measure::disk(self.runtime.as_ref(), &self.config, &pods, kind, place).await?
        } else {
            measure::running(&self.meter, kind).await?
        };
        if let Some(pod) = rank::victim(kind, &pods, &uses) {
            let used = uses.get(uid(pod)).cloned().unwrap_or_default();
            let grace = self.config.thresholds.pod_grace(short.is_hard, spec_grace(pod));
            self.evict(pod, rank::message(short, pod, &used), grace);
        }
        Ok(())
    }

    /// What lies on the disk that a signal is about: volumes are on the agent's,
    /// layers and logs of containers on the runtime's, and both may be one.
    async fn place(&self, signal: Signal) -> Result<Place> {
        let root = self.runtime.version().await?.root_dir;
        let device = |path: &Path| std::fs::metadata(path).map(|found| found.dev()).ok();
        let is_one = device(Path::new(&root)) == device(&self.config.data_dir);
        let of_runtime = matches!(signal, Signal::Imagefs | Signal::ImagefsInodes);
        Ok(Place { volumes: is_one || !of_runtime, containers: is_one || of_runtime })
    }

    /// Removes containers that are kept only for their logs and images that
    /// Skiff brought, as far as nobody uses them; how many of both.
    async fn tidy(&self) -> Result<usize> {
        let wanted = labels::of_node(&self.config.instance, &self.config.node_name);
        let found = self.runtime.list(&wanted).await?;
        let dead = dead::removable(&found, &self.directory.pods());
        for id in &dead {
            self.runtime.remove(id).await?;
        }
        if !dead.is_empty() {
            info!(count = dead.len(), "removed ended containers to make room");
        }
        Ok(dead.len() + self.images.remove_unused(Timestamp::now()).await?)
    }

    /// Removes the files of the pod that went last, as soon as nothing of it runs.
    /// Its worker waits with that until the API knows its end; but a full disk
    /// cannot wait for an API that is silent. Whether there was something.
    async fn empty_the_one_that_went(&self) -> Result<bool> {
        let Some(Going { uid, .. }) = &self.going else { return Ok(false) };
        let dir = self.config.pod_dir(uid);
        if !dir.exists() {
            return Ok(false);
        }
        let mut wanted = labels::of_node(&self.config.instance, &self.config.node_name);
        wanted.insert(labels::POD_UID.into(), uid.clone());
        let found = self.runtime.list(&wanted).await?;
        let is_sandbox = |one: &Container| one.label(labels::CONTAINER) == labels::SANDBOX;
        if found.iter().any(|one| one.is_running() && !is_sandbox(one)) {
            return Ok(false);
        }
        match volume::remove(&dir).await {
            Ok(()) => Ok(true),
            Err(error) => {
                warn!(%error, dir = %dir.display(), "files of an evicted pod not removed");
                Ok(false)
            }
        }
    }

    /// Whether the last one is still on its way.
    fn is_one_going(&self) -> bool {
        let Some(going) = &self.going else { return false };
        let is_it = |pod: &Arc<Pod>| uid(pod) == going.uid && rank::is_candidate(pod);
        Instant::now() < going.patience && self.directory.pods().iter().any(is_it)
    }

    /// A pod that was given time for a soft threshold has none left when a hard one
    /// is crossed.
    fn hurry(&mut self, short: &Shortage) {
        let Some(going) = &mut self.going else { return };
        let grace = self.config.thresholds.pod_grace(short.is_hard, going.grace);
        if grace < going.grace {
            going.grace = grace;
            going.patience = Instant::now() + PATIENCE + grace;
            // Its own message stands.
            let message = String::new();
            self.directory.disrupt(&going.uid, Disruption::Evicted { message, grace });
        }
    }

    /// Evicts the pods that are beyond a limit. Whether some pod has limits.
    async fn check_limits(&mut self) -> Result<bool> {
        let mut pods = self.directory.pods();
        pods.retain(|pod| limits::asks(pod));
        if pods.is_empty() {
            return Ok(false);
        }
        let uses =
            measure::disk(self.runtime.as_ref(), &self.config, &pods, Kind::Disk, Place::ALL)
                .await?;
        for pod in &pods {
            if let Some(message) = uses.get(uid(pod)).and_then(|used| limits::exceeded(pod, used)) {
                self.evict(pod, message, EVICTION_GRACE);
            }
        }
        Ok(true)
    }

    fn evict(&mut self, pod: &Pod, message: String, grace: Duration) {
        let patience = Instant::now() + PATIENCE + grace;
        self.going = Some(Going { uid: uid(pod).to_owned(), patience, grace });
        self.directory.disrupt(uid(pod), Disruption::Evicted { message, grace });
    }
}
