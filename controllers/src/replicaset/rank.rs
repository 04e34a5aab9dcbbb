//! Which pods go first when there are too many.
//!
//! The order is the one users know: what costs least to lose goes first. A pod
//! without a node before one with; pending before running; not ready before
//! ready; lower `controller.kubernetes.io/pod-deletion-cost` first; from the
//! node with more of its kin first; ready for a shorter time first; more
//! restarts first; younger first. Ages are compared by their order of
//! magnitude, so among pods of about the same age the uid decides and the
//! victims are spread.

use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::meta;
use crate::pods;

/// Annotation by which users rank pods: lower values go first.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Picks `count` of `pods` to delete. `related` are the live pods of all
/// ReplicaSets of the same Deployment; a node with many of them gives first.
pub(crate) fn plan_victims(
    pods: Vec<Arc<Pod>>,
    related: &[Arc<Pod>],
    count: usize,
    now: Timestamp,
) -> Vec<Arc<Pod>> {
    if count >= pods.len() {
        return pods;
    }
    let mut kin: HashMap<&str, usize> = HashMap::new();
    for pod in related.iter().filter(|pod| pods::is_active(pod)) {
        *kin.entry(pods::node_name(pod)).or_default() += 1;
    }
    let mut ranked: Vec<(Rank, Arc<Pod>)> = pods
        .into_iter()
        .map(|pod| (Rank::of(&pod, kin.get(pods::node_name(&pod)).copied().unwrap_or(0), now), pod))
        .collect();
    ranked.sort_by(|(one, _), (two, _)| one.cmp(two));
    ranked.into_iter().take(count).map(|(_, pod)| pod).collect()
}

/// A pod's place in the queue; the smallest goes first.
#[derive(PartialEq, Eq)]
struct Rank {
    assigned: bool,
    phase: u8,
    ready: bool,
    cost: i32,
    kin: Reverse<usize>,
    ready_magnitude: u32,
    restarts: Reverse<i32>,
    age_magnitude: u32,
    uid: String,
}

impl Rank {
    fn of(pod: &Pod, kin: usize, now: Timestamp) -> Self {
        let created = pod.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
        Self {
            assigned: !pods::node_name(pod).is_empty(),
            phase: match pods::phase(pod) {
                "Pending" => 0,
                "Unknown" => 1,
                _ => 2,
            },
            ready: pods::is_ready(pod),
            cost: meta::annotation(&pod.metadata, DELETION_COST)
                .and_then(|cost| cost.parse().ok())
                .unwrap_or(0),
            kin: Reverse(kin),
            ready_magnitude: pods::ready_since(pod).map_or(0, |since| magnitude(since, now)),
            restarts: Reverse(pods::restarts(pod)),
            age_magnitude: magnitude(created, now),
            uid: meta::uid(&pod.metadata).to_owned(),
        }
    }

    fn key(&self) -> impl Ord + '_ {
        let state = (self.assigned, self.phase, self.ready, self.cost, self.kin);
        (state, self.ready_magnitude, self.restarts, self.age_magnitude, &self.uid)
    }
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The order of magnitude of an age: its number of binary digits in seconds.
fn magnitude(since: Timestamp, now: Timestamp) -> u32 {
    u64::BITS - meta::elapsed(since, now).as_secs().leading_zeros()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ContainerStatus, PodSpec};

    use super::*;
    use crate::testing;

    const NOW: i64 = 100_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn ready(name: &str) -> Pod {
        testing::ready_pod(name, at(NOW - 5_000))
    }

    fn on(mut pod: Pod, node: &str) -> Pod {
        pod.spec = Some(PodSpec { node_name: Some(node.into()), ..PodSpec::default() });
        pod
    }

    #[test]
    fn the_cheapest_loss_goes_first() {
        let mut running_unready = ready("b");
        running_unready.status.as_mut().unwrap().conditions = None;
        let mut cheap = ready("b");
        cheap.metadata.annotations = testing::labels(&[(DELETION_COST, "-5")]);
        let mut restarted = ready("b");
        restarted.status.as_mut().unwrap().container_statuses =
            Some(vec![ContainerStatus { restart_count: 3, ..ContainerStatus::default() }]);
        let mut younger = ready("b");
        younger.metadata.creation_timestamp = Some(meta::time(at(NOW - 6_000)));
        let cases = [
            ("unassigned before assigned", ready("a"), testing::pod("b")),
            ("pending before running", ready("a"), on(testing::pod("b"), "node-1")),
            ("unready before ready", ready("a"), running_unready),
            ("lower deletion cost", ready("a"), cheap),
            ("crowded node", on(ready("a"), "node-2"), ready("b")),
            ("shorter ready", ready("a"), testing::ready_pod("b", at(NOW - 10))),
            ("more restarts", ready("a"), restarted),
            ("younger", ready("a"), younger),
        ];
        for (name, survivor, victim) in cases {
            let pods = vec![Arc::new(survivor), Arc::new(victim)];
            let related: Vec<_> = if name == "crowded node" {
                pods.iter().cloned().chain([Arc::new(ready("kin"))]).collect()
            } else {
                pods.clone()
            };
            for pods in [pods.clone(), pods.into_iter().rev().collect()] {
                let victims = plan_victims(pods, &related, 1, at(NOW));
                assert_eq!(meta::name(&victims[0].metadata), "b", "{name}");
            }
        }
    }
}
