//! What a node's silence and conditions mean. Pure.
//!
//! A silent node's conditions become `Unknown`: nobody knows. The conditions in
//! turn become taints, which keep new pods away (`NoSchedule`) and send pods
//! away that do not tolerate it (`NoExecute`). Taints that others put there are
//! left alone.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};

use crate::meta;

/// Key of the taint of a node that says it is not ready.
pub(crate) const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Key of the taint of a node that says nothing.
pub(crate) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Key of the taint of a cordoned node.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// The conditions that a silent node can no longer vouch for.
const OWN_CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// Conditions that keep new pods away while they hold.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// What `Ready` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// The node takes pods.
    Ready,
    /// The node says it does not.
    NotReady,
    /// The node says nothing.
    Unknown,
}

/// The readiness that the node's conditions show.
pub(crate) fn readiness(node: &Node) -> Readiness {
    match condition(node, "Ready").map(|ready| ready.status.as_str()) {
        Some("True") => Readiness::Ready,
        Some("Unknown") => Readiness::Unknown,
        // A node that has not said anything yet is on its way up.
        Some(_) | None => Readiness::NotReady,
    }
}

fn condition<'a>(node: &'a Node, type_: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == type_)
}

/// The conditions to write for a silent node; empty when they say so already.
pub(crate) fn plan_silence(node: &Node, now: Timestamp) -> Vec<NodeCondition> {
    let unknown = |type_: &&str| {
        let known = condition(node, type_);
        if known.is_some_and(|known| known.status == "Unknown") {
            return None;
        }
        let (reason, message) = match known {
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        Some(NodeCondition {
            type_: (*type_).to_owned(),
            status: "Unknown".into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: known
                .and_then(|known| known.last_heartbeat_time.clone())
                .or_else(|| node.metadata.creation_timestamp.clone()),
            last_transition_time: Some(meta::time(now)),
        })
    };
    OWN_CONDITIONS.iter().filter_map(unknown).collect()
}

/// The node's taints as its conditions want them; `None` when they are.
pub(crate) fn plan_taints(node: &Node, now: Timestamp) -> Option<Vec<Taint>> {
    let observed = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let mut desired: Vec<(&str, &str)> = Vec::new();
    match readiness(node) {
        Readiness::Ready => {}
        Readiness::NotReady => {
            desired.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")])
        }
        Readiness::Unknown => {
            desired.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")])
        }
    }
    for (type_, key) in PRESSURES {
        if condition(node, type_).is_some_and(|condition| condition.status == "True") {
            desired.push((key, "NoSchedule"));
        }
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false) {
        desired.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let mut taints = observed.clone();
    taints.retain(|taint| {
        !is_ours(taint) || desired.contains(&(taint.key.as_str(), taint.effect.as_str()))
    });
    for (key, effect) in desired {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            taints.push(Taint {
                key: key.into(),
                effect: effect.into(),
                value: None,
                // From here the tolerationSeconds of pods count.
                time_added: (effect == "NoExecute").then(|| meta::time(now)),
            });
        }
    }
    (taints != observed).then_some(taints)
}

fn is_ours(taint: &Taint) -> bool {
    match taint.key.as_str() {
        NOT_READY | UNREACHABLE => matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"),
        key => {
            taint.effect == "NoSchedule"
                && (key == UNSCHEDULABLE || PRESSURES.iter().any(|(_, known)| *known == key))
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{NodeSpec, NodeStatus};

    use super::*;
    use crate::testing;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn node(conditions: &[(&str, &str)], taints: &[(&str, &str)]) -> Node {
        let conditions = conditions.iter().map(|(type_, status)| NodeCondition {
            type_: (*type_).into(),
            status: (*status).into(),
            ..NodeCondition::default()
        });
        let taints = taints.iter().map(|(key, effect)| Taint {
            key: (*key).into(),
            effect: (*effect).into(),
            ..Taint::default()
        });
        Node {
            metadata: testing::meta("node-1"),
            spec: Some(NodeSpec { taints: Some(taints.collect()), ..NodeSpec::default() }),
            status: Some(NodeStatus {
                conditions: Some(conditions.collect()),
                ..NodeStatus::default()
            }),
        }
    }

    #[test]
    fn taints_follow_conditions() {
        let custom = ("example.com/gpu", "NoSchedule");
        let sick = [custom, (UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")];
        let cases = [
            ("healthy", node(&[("Ready", "True")], &[custom]), None),
            ("silent", node(&[("Ready", "Unknown")], &[custom]), Some(sick.to_vec())),
            ("silent still", node(&[("Ready", "Unknown")], &sick), None),
            ("back", node(&[("Ready", "True")], &sick), Some(vec![custom])),
            (
                "back and not ready",
                node(&[("Ready", "False")], &sick),
                Some(vec![custom, (NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
            ),
            (
                "new",
                node(&[], &[]),
                Some(vec![(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
            ),
            (
                "short of memory",
                node(&[("Ready", "True"), ("MemoryPressure", "True")], &[]),
                Some(vec![("node.kubernetes.io/memory-pressure", "NoSchedule")]),
            ),
        ];
        for (name, node, expected) in cases {
            let taints = plan_taints(&node, at(7));
            let seen: Option<Vec<(&str, &str)>> = taints.as_ref().map(|taints| {
                taints.iter().map(|taint| (taint.key.as_str(), taint.effect.as_str())).collect()
            });
            assert_eq!(seen, expected, "{name}");
        }
    }

    #[test]
    fn silence_is_noted_once() {
        let node = node(&[("Ready", "True"), ("MemoryPressure", "Unknown")], &[]);
        let conditions = plan_silence(&node, at(7));
        let seen: Vec<(&str, &str)> = conditions
            .iter()
            .map(|condition| (condition.type_.as_str(), condition.reason.as_deref().unwrap()))
            .collect();
        let expected = [
            ("Ready", "NodeStatusUnknown"),
            ("DiskPressure", "NodeStatusNeverUpdated"),
            ("PIDPressure", "NodeStatusNeverUpdated"),
        ];
        assert_eq!(seen, expected);
    }
}
