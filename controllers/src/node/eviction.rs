//! Taint eviction: sends pods away from nodes with a `NoExecute` taint that
//! they do not tolerate, or no longer.
//!
//! Reads Nodes and pods. Deletes pods, after giving them the condition
//! `DisruptionTarget`, nothing else.
//!
//! A toleration with `tolerationSeconds` counts from the taint's `timeAdded`,
//! so a restart of this controller neither shortens nor prolongs anybody's
//! time. People's taints mostly have none: then it counts from the moment at
//! which this controller first saw the pod under such a taint. When the taint
//! goes in time, the next look finds nothing to do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use skiff_api::placement::tolerates;
use skiff_client::Api;

use crate::context::Context;
use crate::error::{Doing, Error, ignore_not_found};
use crate::events::Severity::Normal;
use crate::meta::{self, Key};
use crate::pods;
use crate::queue::Queue;
use crate::runner::{Controller, Next};

const COMPONENT: &str = "taint-eviction-controller";

/// The taint eviction controller.
pub(crate) struct TaintEvictions {
    context: Context,
    /// Since when pods, told apart by UID, have been seen on nodes that send
    /// pods away.
    seen: Mutex<BTreeMap<Key, (Option<String>, Timestamp)>>,
}

impl TaintEvictions {
    /// The controller and the queue of pods that the caches feed.
    pub(crate) fn new(context: &Context) -> (Arc<Self>, Queue<Key>) {
        let queue = Queue::new();
        let (tx, pods) = (queue.clone(), context.caches.pods.clone());
        context.caches.nodes.subscribe(move |old, new| {
            let Some(node) = new else { return };
            // Also when the last of them goes: its time is over then.
            if old.map_or_else(Vec::new, |old| evicting(old)) != evicting(node) {
                for pod in pods.indexed(&pods::on_node(meta::name(&node.metadata))) {
                    tx.add(Key::of(&pod.metadata));
                }
            }
        });
        let (tx, nodes) = (queue.clone(), context.caches.nodes.clone());
        context.caches.pods.subscribe(move |old, new| {
            let Some(pod) = new.or(old) else { return };
            let moved = |old: &Arc<Pod>| {
                pods::node_name(old) != pods::node_name(pod) || tolerations(old) != tolerations(pod)
            };
            if (new.is_none() || old.is_none_or(moved))
                && let Some(node) = nodes.get(&Key::new("", pods::node_name(pod)))
                && !evicting(&node).is_empty()
            {
                tx.add(Key::of(&pod.metadata));
            }
        });
        (Arc::new(Self { context: context.clone(), seen: Mutex::default() }), queue)
    }

    /// Since when this pod has been under a taint: `now` at the first look.
    /// Without a pod or a taint it is forgotten.
    fn seen_since(&self, key: &Key, tainted: Option<&Pod>, now: Timestamp) -> Timestamp {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pod) = tainted else {
            seen.remove(key);
            return now;
        };
        let known = seen.get(key).filter(|(uid, _)| *uid == pod.metadata.uid);
        let since = known.map_or(now, |(_, since)| *since);
        seen.insert(key.clone(), (pod.metadata.uid.clone(), since));
        since
    }

    async fn evict(&self, key: &Key, pod: &Pod) -> Result<(), Error> {
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let condition = json!({
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
            "lastTransitionTime": meta::time(meta::now()),
            "observedGeneration": pod.metadata.generation,
        });
        let patch = json!({ "metadata": { "uid": pod.metadata.uid }, "status": { "conditions": [condition] } });
        let patched =
            api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(&patch)).await;
        if ignore_not_found(patched).doing(|| format!("mark pod {key} for eviction"))?.is_none() {
            return Ok(());
        }
        let regarding = meta::object_reference(pod);
        let message = format!("Marking for deletion Pod {key}");
        self.context.events.record(COMPONENT, &regarding, Normal, "TaintManagerEviction", message);
        let params = DeleteParams::default().preconditions(meta::identity(&pod.metadata));
        ignore_not_found(api.delete(&key.name, &params).await)
            .map(drop)
            .doing(|| format!("evict pod {key}"))
    }
}

impl Controller for TaintEvictions {
    type Key = Key;
    const NAME: &'static str = "taint-eviction";

    async fn pass(&self, key: &Key) -> Result<Next, Error> {
        let now = meta::now();
        let pod = self.context.caches.pods.get(key).filter(|pod| pods::is_active(pod));
        let node = pod
            .as_ref()
            .and_then(|pod| self.context.caches.nodes.get(&Key::new("", pods::node_name(pod))));
        let taints = node.as_deref().map_or_else(Vec::new, evicting);
        let tainted = pod.as_deref().filter(|_| !taints.is_empty());
        let since = self.seen_since(key, tainted, now);
        let Some(pod) = pod else { return Ok(Next::OnChange) };
        match plan_eviction(&taints, tolerations(&pod), since, now) {
            Stay::ForGood => Ok(Next::OnChange),
            Stay::For(rest) => Ok(Next::After(rest)),
            Stay::NoLonger => {
                self.evict(key, &pod).await?;
                Ok(Next::OnChange)
            }
        }
    }
}

/// The node's taints that send pods away.
fn evicting(node: &Node) -> Vec<&Taint> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.filter(|taint| taint.effect == "NoExecute").collect()
}

fn tolerations(pod: &Pod) -> &[Toleration] {
    pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
}

/// How long a pod may stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stay {
    ForGood,
    For(Duration),
    NoLonger,
}

/// How long a pod with these `tolerations` may stay on a node with these
/// taints. The first taint to lose patience decides; for one taint, the
/// toleration that ends first does. A taint that does not tell its age counts
/// from `seen`.
fn plan_eviction(
    taints: &[&Taint],
    tolerations: &[Toleration],
    seen: Timestamp,
    now: Timestamp,
) -> Stay {
    let mut stay = Stay::ForGood;
    for taint in taints {
        let mut matching =
            tolerations.iter().filter(|toleration| tolerates(toleration, taint)).peekable();
        if matching.peek().is_none() {
            return Stay::NoLonger;
        }
        let Some(seconds) = matching.filter_map(|toleration| toleration.toleration_seconds).min()
        else {
            continue;
        };
        let patience = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let since = taint.time_added.as_ref().map_or(seen, |time| time.0);
        match patience.checked_sub(meta::elapsed(since, now)) {
            Some(rest) if !rest.is_zero() => {
                stay = match stay {
                    Stay::For(known) => Stay::For(known.min(rest)),
                    Stay::ForGood | Stay::NoLonger => Stay::For(rest),
                };
            }
            _ => return Stay::NoLonger,
        }
    }
    stay
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::health::{NOT_READY, UNREACHABLE};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn taint(key: &str, added: i64) -> Taint {
        Taint {
            key: key.into(),
            effect: "NoExecute".into(),
            value: None,
            time_added: Some(meta::time(at(added))),
        }
    }

    fn exists(key: &str, seconds: Option<i64>) -> Toleration {
        Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some("NoExecute".into()),
            toleration_seconds: seconds,
            value: None,
        }
    }

    #[test]
    fn patience_is_counted_from_the_taint() {
        let second = Duration::from_secs(1);
        let all = Toleration { operator: Some("Exists".into()), ..Toleration::default() };
        let cases = [
            ("no taint", vec![], vec![], Stay::ForGood),
            (
                "not tolerated",
                vec![taint(UNREACHABLE, 90)],
                vec![exists(NOT_READY, None)],
                Stay::NoLonger,
            ),
            (
                "tolerated for good",
                vec![taint(UNREACHABLE, 90)],
                vec![exists(UNREACHABLE, None)],
                Stay::ForGood,
            ),
            ("everything tolerated", vec![taint("example.com/x", 90)], vec![all], Stay::ForGood),
            (
                "time left",
                vec![taint(UNREACHABLE, 90)],
                vec![exists(UNREACHABLE, Some(30))],
                Stay::For(20 * second),
            ),
            (
                "time over",
                vec![taint(UNREACHABLE, 90)],
                vec![exists(UNREACHABLE, Some(10))],
                Stay::NoLonger,
            ),
            (
                "no time at all",
                vec![taint(UNREACHABLE, 100)],
                vec![exists(UNREACHABLE, Some(0))],
                Stay::NoLonger,
            ),
            (
                "the shortest counts",
                vec![taint(UNREACHABLE, 90), taint(NOT_READY, 95)],
                vec![exists(UNREACHABLE, Some(30)), exists(NOT_READY, Some(10))],
                Stay::For(5 * second),
            ),
        ];
        for (name, taints, tolerations, expected) in cases {
            let taints: Vec<&Taint> = taints.iter().collect();
            assert_eq!(plan_eviction(&taints, &tolerations, at(0), at(100)), expected, "{name}");
        }
    }

    #[test]
    fn a_taint_without_a_time_counts_from_when_it_was_seen() {
        let taint = Taint { time_added: None, ..taint("example.com/x", 0) };
        let tolerations = [exists("example.com/x", Some(5))];
        let stay = |now| plan_eviction(&[&taint], &tolerations, at(100), at(now));
        assert_eq!(stay(100), Stay::For(Duration::from_secs(5)));
        assert_eq!(stay(103), Stay::For(Duration::from_secs(2)));
        assert_eq!(stay(105), Stay::NoLonger);
    }
}
