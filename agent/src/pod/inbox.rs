//! What the rest of the agent tells a pod's worker. It holds the newest of
//! everything, so it cannot overflow and the teller never waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{Notify, watch};

use super::model::{Disruption, Health};
use crate::runtime::Container;

/// What the rest of the agent tells a worker.
#[derive(Default)]
pub struct Inbox {
    news: Mutex<News>,
    pub(super) wake: Notify,
    /// The pod's object as it was told last, for those who list pods.
    latest: Mutex<Option<Arc<Pod>>>,
    /// Whether a resize waits until other pods have gone.
    waits_for_room: AtomicBool,
    /// Whether the pod leaves its room to the next.
    leaves_room: AtomicBool,
    /// The generation of the pod whose resize was let begin.
    resizes: AtomicI64,
    /// Whether the pod has ended because its machine shuts down.
    over_tx: watch::Sender<bool>,
}

/// The newest of everything since the worker looked last.
#[derive(Default)]
pub(super) struct News {
    pub(super) pod: Option<Arc<Pod>>,
    pub(super) gone: bool,
    /// Why the node ends the pod.
    pub(super) disruption: Option<Disruption>,
    /// What the API has as the mirror of a static pod.
    pub(super) mirror: Option<Option<Arc<Pod>>>,
    /// All containers of the pod, after a list.
    pub(super) containers: Option<Vec<Container>>,
    /// The runtime has gone since; what it has is not known before the next list.
    pub(super) runtime_lost: bool,
    /// Containers that ended or were removed.
    pub(super) touched: BTreeSet<String>,
    /// Containers that were started.
    pub(super) started: BTreeSet<String>,
    pub(super) health: BTreeMap<String, Health>,
    /// An object that a volume or a variable refers to has changed.
    pub(super) objects: bool,
}

impl Inbox {
    /// The pod's object as it was told last.
    pub(super) fn latest(&self) -> Option<Arc<Pod>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn remember(&self, pod: Arc<Pod>) {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(pod);
    }

    /// The pod's object as the API has it now.
    pub fn pod(&self, pod: Arc<Pod>) {
        self.remember(pod.clone());
        self.tell(|news| news.pod = Some(pod));
    }

    /// The API has no such pod any more.
    pub fn gone(&self) {
        self.leave_room();
        self.tell(|news| news.gone = true);
    }

    /// Pods that come need not count with this one any more.
    pub(super) fn leave_room(&self) {
        self.leaves_room.store(true, Ordering::Relaxed);
    }

    /// Whether they need not.
    pub(super) fn leaves_room(&self) -> bool {
        self.leaves_room.load(Ordering::Relaxed)
    }

    /// The node ends the pod.
    pub(super) fn disrupt(&self, why: Disruption) {
        self.tell(|news| news.disruption = Some(why));
    }

    /// The mirror of a static pod, as the API has it now.
    pub(super) fn mirror(&self, mirror: Option<Arc<Pod>>) {
        self.tell(|news| news.mirror = Some(mirror));
    }

    /// All containers of the pod.
    pub fn containers(&self, found: Vec<Container>) {
        self.tell(|news| {
            news.containers = Some(found);
            news.runtime_lost = false;
            news.touched.clear();
            news.started.clear();
        });
    }

    /// The runtime has gone: its next list tells what became of the containers.
    pub(super) fn runtime_lost(&self) {
        self.tell(|news| news.runtime_lost = true);
    }

    /// A container ended or was removed.
    pub fn touched(&self, id: &str) {
        self.tell(|news| {
            news.touched.insert(id.to_owned());
        });
    }

    /// A container was started.
    pub fn started(&self, id: &str) {
        self.tell(|news| {
            news.started.insert(id.to_owned());
        });
    }

    /// A container's probes have a new verdict.
    pub fn health(&self, id: &str, health: Health) {
        self.tell(|news| {
            news.health.insert(id.to_owned(), health);
        });
    }

    /// An object that the pod refers to changed.
    pub fn objects(&self) {
        self.tell(|news| news.objects = true);
    }

    /// Whether the pod has ended because its machine shuts down.
    pub(super) fn set_over(&self, over: bool) {
        self.over_tx.send_if_modified(|known| std::mem::replace(known, over) != over);
    }

    /// Told when the pod has ended because its machine shuts down.
    pub(super) fn over(&self) -> watch::Receiver<bool> {
        self.over_tx.subscribe()
    }

    /// Whether the pod is to look again when other pods go.
    pub(super) fn wait_for_room(&self, waits: bool) {
        self.waits_for_room.store(waits, Ordering::Relaxed);
    }

    /// The resize that the pod's spec asks for may begin.
    pub(super) fn begin_resize(&self, pod: &Pod) {
        self.resizes.store(pod.metadata.generation.unwrap_or_default(), Ordering::Relaxed);
    }

    /// Whether this resize was let begin.
    pub(super) fn resizes(&self, pod: &Pod) -> bool {
        let generation = pod.metadata.generation.filter(|generation| *generation > 0);
        generation == Some(self.resizes.load(Ordering::Relaxed))
    }

    /// Another pod has gone or takes less.
    pub(super) fn room_changed(&self) {
        if self.waits_for_room.load(Ordering::Relaxed) {
            self.wake.notify_one();
        }
    }

    fn tell(&self, tell: impl FnOnce(&mut News)) {
        tell(&mut self.news.lock().unwrap_or_else(PoisonError::into_inner));
        self.wake.notify_one();
    }

    pub(super) fn take(&self) -> News {
        std::mem::take(&mut self.news.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
