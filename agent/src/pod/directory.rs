//! The pods that have a worker, and the way to each: what others know of a pod
//! reaches its worker through here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::Notify;

use super::inbox::Inbox;
use super::model::{Disruption, Health};

/// The inboxes of all workers, by pod UID.
#[derive(Default)]
pub struct Directory {
    inboxes: Mutex<BTreeMap<String, Arc<Inbox>>>,
    /// Told of pods with limits on their use of disk.
    pub(super) limited: Notify,
    /// Held while it is decided whether a resize may begin.
    pub(super) resizing: Mutex<()>,
}

impl Directory {
    /// All of them, for as long as the guard lives.
    pub(super) fn inboxes(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Inbox>>> {
        self.inboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way to one pod.
    pub(super) fn get(&self, uid: &str) -> Option<Arc<Inbox>> {
        self.inboxes().get(uid).cloned()
    }

    /// An object that a pod refers to changed.
    pub fn objects_changed(&self, uid: &str) {
        if let Some(inbox) = self.get(uid) {
            inbox.objects();
        }
    }

    /// A container's probes have a new verdict.
    pub fn health(&self, uid: &str, id: &str, health: Health) {
        if let Some(inbox) = self.get(uid) {
            inbox.health(id, health);
        }
    }

    /// A pod has gone or asks for something else: one that waits for room looks
    /// again.
    pub(super) fn room_changed(&self) {
        for inbox in self.inboxes().values() {
            inbox.room_changed();
        }
    }

    /// The pod has to go from this node.
    pub fn disrupt(&self, uid: &str, why: Disruption) {
        if let Some(inbox) = self.get(uid) {
            inbox.disrupt(why);
        }
    }

    /// The pod has to go for a critical one, which need not count with it.
    pub(super) fn preempt(&self, uid: &str) {
        if let Some(inbox) = self.get(uid) {
            inbox.leave_room();
            inbox.disrupt(Disruption::Preempted);
        }
    }

    /// Waits until nothing runs any more of these pods, and the API knows it as
    /// far as it answers.
    pub async fn all_over(&self, uids: &[&str]) {
        let inboxes = uids.iter().filter_map(|uid| self.get(uid));
        let waits: Vec<_> = inboxes.map(|inbox| inbox.over()).collect();
        for mut over in waits {
            // An error means that its worker is gone, and nothing is left.
            let _ = over.wait_for(|over| *over).await;
        }
    }

    /// Waits until a pod comes or changes whose use of disk is limited.
    pub async fn limited_pod_came(&self) {
        self.limited.notified().await;
    }

    /// The pods that have a worker.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.inboxes().values().filter_map(|inbox| inbox.latest()).collect()
    }

    /// The same, and whether the resize that they ask for was let begin.
    pub(super) fn pods_and_resizes(&self) -> Vec<(Arc<Pod>, bool)> {
        let inboxes = self.inboxes();
        let pods = inboxes.values().filter_map(|inbox| Some((inbox, inbox.latest()?)));
        pods.map(|(inbox, pod)| (pod.clone(), inbox.resizes(&pod))).collect()
    }

    /// The pods that another one has to find room beside.
    pub(super) fn with_room(&self, other_than: &str) -> Vec<Arc<Pod>> {
        let inboxes = self.inboxes();
        let stay = inboxes.iter().filter(|(uid, one)| *uid != other_than && !one.leaves_room());
        stay.filter_map(|(_, inbox)| inbox.latest()).collect()
    }

    /// How many pods there are.
    pub fn len(&self) -> usize {
        self.inboxes().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
