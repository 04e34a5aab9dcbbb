//! What makes one node better than another.
//!
//! Every rule gives 0 to [`MAX`] points per node; the weights are upstream's
//! defaults. Points are integers, so a replayed decision comes out the same.

use skiff_api::placement::is_tolerated;

use crate::affinity::Affinity;
use crate::cluster::{NodeInfo, PodInfo};
use crate::resources::{UNREQUESTED_CPU_MILLI, UNREQUESTED_MEMORY_BYTES};
use crate::spread::Spread;

/// The most points one rule gives.
pub const MAX: i64 = 100;

const TAINT_WEIGHT: i64 = 3;
const AFFINITY_WEIGHT: i64 = 2;
const SPREAD_WEIGHT: i64 = 2;

/// Images below this size are not worth moving a pod for; above the second one
/// the advantage stops growing (upstream's `minThreshold`, `maxContainerThreshold`).
const IMAGE_BYTES: (i64, i64) = (23 * 1024 * 1024, 1000 * 1024 * 1024);

/// Scores `nodes`, all of which fit, in their order.
pub fn score(pod: &PodInfo, nodes: &[&NodeInfo], affinity: &Affinity, spread: &Spread) -> Vec<i64> {
    let mut totals: Vec<i64> =
        nodes.iter().map(|node| room_and_balance(pod, node) + image_points(pod, node)).collect();
    let mut weigh = |weight: i64, points: Vec<i64>| {
        for (total, points) in totals.iter_mut().zip(points) {
            *total += weight * points;
        }
    };
    let raw =
        |rule: &dyn Fn(&NodeInfo) -> i64| nodes.iter().map(|node| rule(node)).collect::<Vec<_>>();
    weigh(TAINT_WEIGHT, inverted(raw(&|node| soft_taints(pod, node))));
    weigh(AFFINITY_WEIGHT, stretched(raw(&|node| preferred_nodes(pod, node))));
    weigh(AFFINITY_WEIGHT, stretched(raw(&|node| affinity.score(node))));
    weigh(SPREAD_WEIGHT, inverted(raw(&|node| spread.crowding(node))));
    totals
}

/// Free share after the pod, averaged over CPU and memory, plus how evenly the
/// two are used: a node with all its memory and none of its cores taken is
/// wasted.
fn room_and_balance(pod: &PodInfo, node: &NodeInfo) -> i64 {
    // Pods that state no request count with a nominal one.
    let nominal = |amount: i64, stand_in: i64| if amount == 0 { stand_in } else { amount };
    let pods = node.pods.values().map(|pod| &pod.requests).chain([&pod.requests]);
    let (mut cpu, mut memory) = (0, 0);
    for requests in pods {
        cpu += nominal(requests.cpu_milli, UNREQUESTED_CPU_MILLI);
        memory += nominal(requests.memory_bytes, UNREQUESTED_MEMORY_BYTES);
    }
    let free = |capacity: i64, used: i64| {
        if capacity <= 0 || used >= capacity {
            0
        } else {
            i64::try_from(i128::from(capacity - used) * i128::from(MAX) / i128::from(capacity))
                .unwrap_or(0)
        }
    };
    let (cpu, memory) =
        (free(node.allocatable.cpu_milli, cpu), free(node.allocatable.memory_bytes, memory));
    // With two resources the standard deviation is half their distance.
    let balance = MAX - (cpu - memory).abs() / 2;
    (cpu + memory) / 2 + balance
}

fn soft_taints(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let tolerations = pod.spec.tolerations.as_deref().unwrap_or_default();
    let disliked = node
        .taints
        .iter()
        .filter(|taint| taint.effect == "PreferNoSchedule" && !is_tolerated(tolerations, taint));
    i64::try_from(disliked.count()).unwrap_or(i64::MAX)
}

fn preferred_nodes(pod: &PodInfo, node: &NodeInfo) -> i64 {
    (pod.spec.affinity.as_ref())
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_ref())
        .into_iter()
        .flatten()
        .filter(|term| node.view().matches_term(&term.preference))
        .map(|term| i64::from(term.weight))
        .sum()
}

fn image_points(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let containers = &pod.spec.containers;
    let present: i64 = (containers.iter())
        .filter_map(|container| container.image.as_ref())
        .filter_map(|image| {
            node.images.get(image).or_else(|| node.images.get(&format!("{image}:latest")))
        })
        .sum();
    let (least, per_container) = IMAGE_BYTES;
    let most =
        per_container.saturating_mul(i64::try_from(containers.len()).unwrap_or(1)).max(least + 1);
    MAX * (present.clamp(least, most) - least) / (most - least)
}

/// Scales so that the highest becomes [`MAX`] and the lowest zero; all equal
/// gives no node an advantage.
fn stretched(raw: Vec<i64>) -> Vec<i64> {
    let (Some(&low), Some(&high)) = (raw.iter().min(), raw.iter().max()) else { return raw };
    raw.iter()
        .map(|points| if high == low { 0 } else { MAX * (points - low) / (high - low) })
        .collect()
}

/// Scales so that the lowest becomes [`MAX`].
fn inverted(raw: Vec<i64>) -> Vec<i64> {
    stretched(raw.into_iter().map(|points| -points).collect())
}
