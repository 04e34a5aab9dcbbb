//! What must hold before a pod may go to a node.
//!
//! The rules and their order are upstream's default plug-ins; the messages are
//! upstream's too, since people and scripts search for them
//! (`kubectl describe pod`: `0/3 nodes are available: …`).

use std::fmt;

use k8s_openapi::api::core::v1::Taint;
use skiff_api::placement::{HostPorts, is_tolerated, untolerated};

use crate::affinity::Affinity;
use crate::cluster::{Labels, NodeInfo, PodInfo};
use crate::spread::Spread;

/// The taint that `kubectl cordon` implies.
const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";

/// Why a node was refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// The node is cordoned.
    Cordoned,
    /// The pod names another node.
    NodeName,
    /// A taint that the pod does not tolerate.
    Taint {
        /// The taint's key.
        key: String,
        /// The taint's value.
        value: String,
    },
    /// `nodeSelector` or required node affinity does not match.
    NodeAffinity,
    /// A host port is taken.
    HostPort,
    /// The node holds as many pods as it may.
    TooManyPods,
    /// Too little of one resource is free.
    Insufficient(String),
    /// A spread constraint would be violated.
    Spread,
    /// The node lacks the label that a spread constraint spreads over.
    SpreadLabel,
    /// Required pod affinity finds no companion there.
    PodAffinity,
    /// Required pod anti-affinity finds an adversary there.
    PodAntiAffinity,
    /// A pod that is there does not want this one near.
    ExistingAntiAffinity,
    /// A claim that only one pod may use is used by another.
    VolumeTaken,
    /// A claim's volume cannot be reached from there.
    VolumeElsewhere,
    /// A claim finds no volume there, and none can be made.
    NoVolume,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cordoned => "node(s) were unschedulable",
            Self::NodeName => "node(s) didn't match the requested node name",
            Self::Taint { key, value } => {
                return write!(f, "node(s) had untolerated taint {{{key}: {value}}}");
            }
            Self::NodeAffinity => "node(s) didn't match Pod's node affinity/selector",
            Self::HostPort => "node(s) didn't have free ports for the requested pod ports",
            Self::TooManyPods => "Too many pods",
            Self::Insufficient(resource) => return write!(f, "Insufficient {resource}"),
            Self::Spread => "node(s) didn't match pod topology spread constraints",
            Self::SpreadLabel => {
                "node(s) didn't match pod topology spread constraints (missing required label)"
            }
            Self::PodAffinity => "node(s) didn't match pod affinity rules",
            Self::PodAntiAffinity => "node(s) didn't match pod anti-affinity rules",
            Self::ExistingAntiAffinity => {
                "node(s) didn't satisfy existing pods anti-affinity rules"
            }
            Self::VolumeTaken => {
                "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"
            }
            Self::VolumeElsewhere => "node(s) didn't match PersistentVolume's node affinity",
            Self::NoVolume => "node(s) didn't find available persistent volumes to bind",
        })
    }
}

/// Whether `pod` may go to `node`. `affinity` and `spread` hold what was
/// worked out once for the pod over the whole cluster. Resources give every
/// shortage, the other rules the first reason, as upstream reports them.
pub fn filter(
    pod: &PodInfo,
    node: &NodeInfo,
    affinity: &Affinity,
    spread: &Spread,
) -> Result<(), Vec<Refusal>> {
    let one = |refusal| Err(vec![refusal]);
    let spec = &pod.spec;
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    if node.unschedulable && !is_tolerated(tolerations, &cordon_taint()) {
        return one(Refusal::Cordoned);
    }
    if pod.node.as_ref().is_some_and(|name| *name != node.name) {
        return one(Refusal::NodeName);
    }
    if let Some(taint) =
        untolerated(tolerations, &node.taints, |effect| effect != "PreferNoSchedule")
    {
        return one(Refusal::Taint {
            key: taint.key.clone(),
            value: taint.value.clone().unwrap_or_default(),
        });
    }
    if !node.view().suits(spec) {
        return one(Refusal::NodeAffinity);
    }
    let ports = HostPorts::of(spec);
    if node.pods.values().any(|other| ports.clash_with(&other.spec)) {
        return one(Refusal::HostPort);
    }
    fits(pod, node)?;
    spread.filter(node).map_err(|refusal| vec![refusal])?;
    affinity.filter(node).map_err(|refusal| vec![refusal])
}

/// Whether the node has room. Zero requests fit on an over-full node.
fn fits(pod: &PodInfo, node: &NodeInfo) -> Result<(), Vec<Refusal>> {
    let mut short = Vec::new();
    if node.pods.len() >= node.max_pods {
        short.push(Refusal::TooManyPods);
    }
    let (wants, has, used) = (&pod.requests, &node.allocatable, &node.requested);
    let mut check = |name: &str, wants: i64, has: i64, used: i64| {
        if wants > 0 && wants > has.saturating_sub(used) {
            short.push(Refusal::Insufficient(name.into()));
        }
    };
    check("cpu", wants.cpu_milli, has.cpu_milli, used.cpu_milli);
    check("memory", wants.memory_bytes, has.memory_bytes, used.memory_bytes);
    check("ephemeral-storage", wants.storage_bytes, has.storage_bytes, used.storage_bytes);
    for (name, amount) in &wants.extended {
        let of =
            |list: &std::collections::BTreeMap<String, i64>| list.get(name).copied().unwrap_or(0);
        check(name, *amount, of(&has.extended), of(&used.extended));
    }
    if short.is_empty() { Ok(()) } else { Err(short) }
}

fn cordon_taint() -> Taint {
    Taint { key: UNSCHEDULABLE_TAINT.into(), effect: "NoSchedule".into(), ..Taint::default() }
}

/// Whether `labels` hold `key`, which topologies are named by.
pub(crate) fn topology<'a>(labels: &'a Labels, key: &str) -> Option<&'a str> {
    labels.get(key).map(String::as_str)
}
