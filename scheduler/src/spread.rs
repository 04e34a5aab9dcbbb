//! Spreading pods over topology domains
//! (Kubernetes documentation, "Pod Topology Spread Constraints").
//!
//! Constraints that must hold refuse nodes; those that should hold give
//! points. A pod that states none is spread softly over nodes and zones, away
//! from its siblings of the same owner.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::TopologySpreadConstraint;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use skiff_api::placement::untolerated;
use skiff_api::selector::LabelSelector;

use crate::cluster::{Cluster, Labels, NodeInfo, PodInfo};
use crate::filter::{Refusal, topology};

/// Label that names a node's host; soft default spreading uses it.
const HOSTNAME: &str = "kubernetes.io/hostname";
/// Label that names a node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// What a pod's constraints say about domains.
#[derive(Debug, Default)]
pub struct Spread {
    hard: Vec<Counted>,
    soft: Vec<Counted>,
}

/// One constraint with the matching pods counted by domain.
#[derive(Debug)]
struct Counted {
    key: String,
    max_skew: i64,
    /// The pod itself counts once it is placed, if the selector selects it.
    own: i64,
    /// The fewest pods in any domain that is eligible.
    least: i64,
    counts: HashMap<String, i64>,
}

impl Spread {
    /// Works out the constraints of `pod`.
    pub fn of(pod: &PodInfo, cluster: &Cluster) -> Self {
        let mut result = Self::default();
        let constraints = pod.spec.topology_spread_constraints.as_deref().unwrap_or_default();
        for constraint in constraints {
            let counted = count(pod, cluster, constraint);
            match constraint.when_unsatisfiable.as_str() {
                "DoNotSchedule" => result.hard.push(counted),
                _ => result.soft.push(counted),
            }
        }
        if constraints.is_empty() && pod.owner.is_some() {
            result.soft = [HOSTNAME, ZONE].map(|key| count_siblings(pod, cluster, key)).into();
        }
        result
    }

    /// Whether the pod on `node` would keep every constraint that must hold.
    pub fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        for constraint in &self.hard {
            let value = topology(&node.labels, &constraint.key).ok_or(Refusal::SpreadLabel)?;
            let count = constraint.counts.get(value).copied().unwrap_or(0);
            if count + constraint.own - constraint.least > constraint.max_skew {
                return Err(Refusal::Spread);
            }
        }
        Ok(())
    }

    /// How crowded the node's domains are; less is better.
    pub fn crowding(&self, node: &NodeInfo) -> i64 {
        (self.soft.iter())
            .filter_map(|constraint| {
                constraint.counts.get(topology(&node.labels, &constraint.key)?)
            })
            .sum()
    }
}

fn count(pod: &PodInfo, cluster: &Cluster, constraint: &TopologySpreadConstraint) -> Counted {
    let selector = effective_selector(pod, constraint);
    let selects = |labels: &Labels| {
        selector.as_ref().is_some_and(|selector| selector.matches_labels(Some(labels)))
    };
    let mut counts: HashMap<String, i64> = HashMap::new();
    for node in cluster.nodes().filter(|node| eligible(pod, node, constraint)) {
        let Some(value) = topology(&node.labels, &constraint.topology_key) else { continue };
        let here = (node.pods.values())
            .filter(|other| {
                !other.terminating && other.namespace == pod.namespace && selects(&other.labels)
            })
            .count();
        *counts.entry(value.to_owned()).or_default() += i64::try_from(here).unwrap_or(i64::MAX);
    }
    // Fewer domains than asked for: the missing ones count as empty.
    let domains = i64::try_from(counts.len()).unwrap_or(i64::MAX);
    let least = match constraint.min_domains {
        Some(wanted) if domains < i64::from(wanted) => 0,
        _ => counts.values().copied().min().unwrap_or(0),
    };
    Counted {
        key: constraint.topology_key.clone(),
        max_skew: i64::from(constraint.max_skew),
        own: i64::from(selects(&pod.labels)),
        least,
        counts,
    }
}

fn count_siblings(pod: &PodInfo, cluster: &Cluster, key: &str) -> Counted {
    let mut counts: HashMap<String, i64> = HashMap::new();
    for other in cluster.pods() {
        let sibling =
            other.owner == pod.owner && other.namespace == pod.namespace && !other.terminating;
        let node = other.node.as_deref().filter(|_| sibling).and_then(|name| cluster.node(name));
        if let Some(value) = node.and_then(|node| topology(&node.labels, key)) {
            *counts.entry(value.to_owned()).or_default() += 1;
        }
    }
    Counted { key: key.into(), max_skew: i64::MAX, own: 1, least: 0, counts }
}

/// The constraint's selector, narrowed to the pod's own values of
/// `matchLabelKeys`. No selector selects nothing.
fn effective_selector(
    pod: &PodInfo,
    constraint: &TopologySpreadConstraint,
) -> Option<LabelSelector> {
    let mut selector = constraint.label_selector.clone()?;
    let labels = selector.match_labels.get_or_insert_default();
    for key in constraint.match_label_keys.iter().flatten() {
        if let Some(value) = pod.labels.get(key) {
            labels.insert(key.clone(), value.clone());
        }
    }
    compile(Some(&selector))
}

/// A selector ready to be asked; `None`, which selects nothing, when there is
/// none or when it is not valid (the API server refuses those).
pub(crate) fn compile(selector: Option<&meta::LabelSelector>) -> Option<LabelSelector> {
    LabelSelector::from_object(selector?).ok()
}

/// Whether the node's domain takes part, by the two inclusion policies.
fn eligible(pod: &PodInfo, node: &NodeInfo, constraint: &TopologySpreadConstraint) -> bool {
    let affinity = constraint.node_affinity_policy.as_deref() == Some("Ignore")
        || node.view().suits(&pod.spec);
    let taints = constraint.node_taints_policy.as_deref() != Some("Honor") || {
        let tolerations = pod.spec.tolerations.as_deref().unwrap_or_default();
        untolerated(tolerations, &node.taints, |effect| effect != "PreferNoSchedule").is_none()
    };
    affinity && taints
}
