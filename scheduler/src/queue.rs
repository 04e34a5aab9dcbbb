//! Pods that wait for a node.
//!
//! A pod that no node fits is parked until something changes that could help
//! it; nothing is retried by the clock alone. What failed for another reason
//! (the API refused the binding) comes back after a delay that doubles.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cluster::PodInfo;

/// First delay after a failed binding.
const FIRST_DELAY: Duration = Duration::from_millis(200);
/// Longest delay after failed bindings.
const LONGEST_DELAY: Duration = Duration::from_secs(10);

/// Higher priority first, then in order of arrival.
type Order = (Reverse<i32>, u64);

/// The queue. Each pod is in one place: ready, parked, or delayed.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pods: HashMap<String, Waiting>,
    ready: BTreeMap<Order, String>,
    delayed: BTreeSet<(Instant, String)>,
    arrivals: u64,
}

#[derive(Debug)]
struct Waiting {
    pod: Arc<PodInfo>,
    order: Order,
    failures: u32,
    /// The last refusal that was reported, so that it is reported once.
    reported: Option<String>,
    /// Whether its status says already that it has no node.
    told: bool,
    due: Option<Instant>,
}

/// How a refusal is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Telling {
    /// For the first time.
    First,
    /// After another one, so that nothing but its words changes.
    Again,
}

impl Queue {
    /// Adds a pod, or replaces what was known of it and tries it anew if that
    /// changed what it asks for.
    pub(crate) fn upsert(&mut self, pod: Arc<PodInfo>) {
        if let Some(waiting) = self.pods.get_mut(&pod.uid) {
            if waiting.pod == pod {
                return;
            }
            let order = (Reverse(pod.priority), waiting.order.1);
            self.ready.remove(&waiting.order);
            waiting.order = order;
            waiting.pod = pod.clone();
            if waiting.due.is_none() {
                self.ready.insert(order, pod.uid.clone());
            }
            return;
        }
        self.arrivals += 1;
        let order = (Reverse(pod.priority), self.arrivals);
        self.ready.insert(order, pod.uid.clone());
        self.pods.insert(
            pod.uid.clone(),
            Waiting { pod, order, failures: 0, reported: None, told: false, due: None },
        );
    }

    /// The pod's status says that it has no node.
    pub(crate) fn told(&mut self, uid: &str) {
        if let Some(waiting) = self.pods.get_mut(uid) {
            waiting.told = true;
        }
    }

    /// Forgets a pod: it has a node, or is gone.
    pub(crate) fn remove(&mut self, uid: &str) {
        if let Some(waiting) = self.pods.remove(uid) {
            self.ready.remove(&waiting.order);
            if let Some(due) = waiting.due {
                self.delayed.remove(&(due, uid.to_owned()));
            }
        }
    }

    /// The next pod to place; it is parked until something else is said of it.
    pub(crate) fn pop(&mut self) -> Option<Arc<PodInfo>> {
        let (_, uid) = self.ready.pop_first()?;
        self.pods.get(&uid).map(|waiting| waiting.pod.clone())
    }

    /// The cluster changed: every parked pod deserves another look.
    pub(crate) fn wake_parked(&mut self) {
        for (uid, waiting) in &self.pods {
            if waiting.due.is_none() {
                self.ready.insert(waiting.order, uid.clone());
            }
        }
    }

    /// A binding failed: tries again later, each time waiting twice as long.
    pub(crate) fn delay(&mut self, pod: Arc<PodInfo>, now: Instant) {
        let uid = pod.uid.clone();
        self.upsert(pod);
        let Some(waiting) = self.pods.get_mut(&uid) else { return };
        self.ready.remove(&waiting.order);
        if let Some(due) = waiting.due.take() {
            self.delayed.remove(&(due, uid.clone()));
        }
        let delay = FIRST_DELAY.saturating_mul(1 << waiting.failures.min(10)).min(LONGEST_DELAY);
        waiting.failures += 1;
        waiting.due = Some(now + delay);
        self.delayed.insert((now + delay, uid));
    }

    /// Makes ready what is due, and tells when the next one will be.
    pub(crate) fn advance(&mut self, now: Instant) -> Option<Instant> {
        while let Some((due, uid)) = self.delayed.first().cloned() {
            if due > now {
                return Some(due);
            }
            self.delayed.pop_first();
            if let Some(waiting) = self.pods.get_mut(&uid) {
                waiting.due = None;
                self.ready.insert(waiting.order, uid);
            }
        }
        None
    }

    /// Notes that `message` is being reported for the pod; `None` when it was the
    /// last thing reported already.
    pub(crate) fn report(&mut self, uid: &str, message: &str) -> Option<Telling> {
        let waiting = self.pods.get_mut(uid)?;
        if waiting.reported.as_deref() == Some(message) {
            return None;
        }
        waiting.reported = Some(message.to_owned());
        let before = std::mem::replace(&mut waiting.told, true);
        Some(if before { Telling::Again } else { Telling::First })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::place::tests::pod;

    fn waiting(name: &str, priority: i32) -> Arc<PodInfo> {
        Arc::new(PodInfo { priority, ..pod(name, json!({})) })
    }

    fn drain(queue: &mut Queue) -> Vec<String> {
        std::iter::from_fn(|| queue.pop()).map(|pod| pod.name.clone()).collect()
    }

    #[test]
    fn priority_then_arrival() {
        let mut queue = Queue::default();
        for (name, priority) in [("a", 0), ("b", 0), ("urgent", 10)] {
            queue.upsert(waiting(name, priority));
        }
        assert_eq!(drain(&mut queue), ["urgent", "a", "b"]);
        assert_eq!(drain(&mut queue), Vec::<String>::new());
        queue.wake_parked();
        queue.remove("a");
        assert_eq!(drain(&mut queue), ["urgent", "b"]);
    }

    #[test]
    fn an_unchanged_pod_stays_parked() {
        let mut queue = Queue::default();
        queue.upsert(waiting("a", 0));
        drain(&mut queue);
        queue.upsert(waiting("a", 0));
        assert!(queue.pop().is_none());
        queue.upsert(waiting("a", 5));
        assert_eq!(drain(&mut queue), ["a"]);
    }

    #[test]
    fn failures_wait_longer_each_time() {
        let mut queue = Queue::default();
        let start = Instant::now();
        queue.delay(waiting("a", 0), start);
        queue.wake_parked();
        assert!(queue.pop().is_none(), "a delayed pod is not woken by changes");
        assert_eq!(queue.advance(start), Some(start + FIRST_DELAY));
        assert_eq!(queue.advance(start + FIRST_DELAY), None);
        assert_eq!(drain(&mut queue), ["a"]);
        queue.delay(waiting("a", 0), start);
        assert_eq!(queue.advance(start), Some(start + 2 * FIRST_DELAY));
    }

    #[test]
    fn a_refusal_is_reported_once() {
        let mut queue = Queue::default();
        queue.upsert(waiting("a", 0));
        assert_eq!(queue.report("a", "no room"), Some(Telling::First));
        assert_eq!(queue.report("a", "no room"), None);
        assert_eq!(queue.report("a", "no room on 2"), Some(Telling::Again));
        assert_eq!(queue.report("gone", "no room"), None);
        // An earlier scheduler has told it.
        queue.upsert(waiting("b", 0));
        queue.told("b");
        assert_eq!(queue.report("b", "no room"), Some(Telling::Again));
    }
}
