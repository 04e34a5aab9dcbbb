//! The conditions of the node. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{NodeCondition, NodeStatus};

use super::pressure::Pressures;
use crate::pod::status::seconds;

/// The node's conditions, transition times kept where nothing changed.
pub(super) fn compute(
    pressures: Pressures,
    problems: &[String],
    old: &[NodeCondition],
    now: Timestamp,
) -> Vec<NodeCondition> {
    let pressure = |kind, pressed: bool, yes: (&str, &str), no: (&str, &str)| {
        let (reason, message) = if pressed { yes } else { no };
        condition(kind, pressed, reason, message.to_owned(), old, now)
    };
    vec![
        pressure(
            "MemoryPressure",
            pressures.memory,
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        pressure(
            "DiskPressure",
            pressures.disk,
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        pressure(
            "PIDPressure",
            pressures.pids,
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
        if problems.is_empty() {
            condition(
                "Ready",
                true,
                "KubeletReady",
                "kubelet is posting ready status".into(),
                old,
                now,
            )
        } else {
            condition("Ready", false, "KubeletNotReady", problems.join("; "), old, now)
        },
    ]
}

fn condition(
    kind: &str,
    holds: bool,
    reason: &str,
    message: String,
    old: &[NodeCondition],
    now: Timestamp,
) -> NodeCondition {
    let status = if holds { "True" } else { "False" };
    let known = old.iter().find(|known| known.type_ == kind && known.status == status);
    NodeCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_heartbeat_time: Some(seconds(now)),
        last_transition_time: known
            .and_then(|known| known.last_transition_time.clone())
            .or(Some(seconds(now))),
    }
}

/// Whether two statuses differ in nothing but the time they were made.
pub(super) fn same(known: &NodeStatus, computed: &NodeStatus) -> bool {
    let timeless = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    timeless(known) == timeless(computed)
}

/// Whether `theirs` have every condition of ours with the same status.
pub(super) fn agree(ours: &NodeStatus, theirs: &[NodeCondition]) -> bool {
    ours.conditions.iter().flatten().all(|own| {
        theirs.iter().any(|known| known.type_ == own.type_ && known.status == own.status)
    })
}

/// Whether the conditions say that the node is ready.
pub(super) fn is_ready(conditions: &[NodeCondition]) -> bool {
    holds(conditions, "Ready")
}

fn holds(conditions: &[NodeCondition], kind: &str) -> bool {
    conditions.iter().any(|condition| condition.type_ == kind && condition.status == "True")
}

/// The kubelet's event reasons for conditions that began or ceased to hold.
const REASONS: [(&str, &str, &str); 4] = [
    ("MemoryPressure", "NodeHasInsufficientMemory", "NodeHasSufficientMemory"),
    ("DiskPressure", "NodeHasDiskPressure", "NodeHasNoDiskPressure"),
    ("PIDPressure", "NodeHasInsufficientPID", "NodeHasSufficientPID"),
    ("Ready", "NodeReady", "NodeNotReady"),
];

/// The reasons of the events that tell what changed.
pub(super) fn changes(
    known: &[NodeCondition],
    computed: &[NodeCondition],
) -> impl Iterator<Item = &'static str> {
    REASONS.iter().filter_map(move |(kind, began, ceased)| {
        match (holds(known, kind), holds(computed, kind)) {
            (false, true) => Some(*began),
            (true, false) => Some(*ceased),
            _ => None,
        }
    })
}

/// The reason of the event that tells that the node was cordoned or is no longer;
/// `was` is `None` when nothing was known.
pub(super) fn cordon_change(was: Option<bool>, is: bool) -> Option<&'static str> {
    match (was?, is) {
        (false, true) => Some("NodeNotSchedulable"),
        (true, false) => Some("NodeSchedulable"),
        _ => None,
    }
}

/// Whether the machine was started anew since the API heard of its boot `known`.
pub(super) fn has_rebooted(known: Option<&str>, boot_id: &str) -> bool {
    known.is_some_and(|known| !known.is_empty() && known != boot_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_controllers_write_for_a_silent_node_does_not_agree() {
        let at = Timestamp::from_second(10).unwrap();
        let conditions = compute(Pressures::default(), &[], &[], at);
        let ours = NodeStatus { conditions: Some(conditions.clone()), ..NodeStatus::default() };
        let mut later = conditions.clone();
        later.iter_mut().for_each(|one| one.last_heartbeat_time = None);
        later.push(NodeCondition { type_: "NetworkUnavailable".into(), ..conditions[0].clone() });
        let mut unknown = conditions.clone();
        unknown.iter_mut().for_each(|one| one.status = "Unknown".into());
        let cases = [
            ("the same", conditions, true),
            ("other times and conditions of others", later, true),
            ("unknown", unknown, false),
            ("none", vec![], false),
        ];
        for (name, theirs, expected) in cases {
            assert_eq!(agree(&ours, &theirs), expected, "{name}");
        }
    }

    #[test]
    fn what_began_or_ceased_is_told() {
        let at = Timestamp::from_second(10).unwrap();
        let fine = compute(Pressures::default(), &[], &[], at);
        let full = compute(Pressures { disk: true, ..Pressures::default() }, &[], &[], at);
        let down = compute(Pressures::default(), &["no network".into()], &[], at);
        let cases = [
            (&vec![], &fine, vec!["NodeReady"]),
            (&vec![], &full, vec!["NodeHasDiskPressure", "NodeReady"]),
            (&full, &full, vec![]),
            (&full, &fine, vec!["NodeHasNoDiskPressure"]),
            (&fine, &down, vec!["NodeNotReady"]),
        ];
        for (known, computed, expected) in cases {
            assert_eq!(changes(known, computed).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn a_change_moves_only_its_own_transition_time() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let first = compute(Pressures::default(), &[], &[], at(10));
        let second =
            compute(Pressures::default(), &["container runtime is down: x".into()], &first, at(20));
        let moved: Vec<_> = second
            .iter()
            .map(|condition| {
                (
                    condition.type_.as_str(),
                    condition.status.as_str(),
                    condition.last_transition_time.clone(),
                )
            })
            .collect();
        let time = |second| Some(seconds(at(second)));
        assert_eq!(
            moved,
            [
                ("MemoryPressure", "False", time(10)),
                ("DiskPressure", "False", time(10)),
                ("PIDPressure", "False", time(10)),
                ("Ready", "False", time(20)),
            ]
        );
        let third = compute(
            Pressures::default(),
            &["container runtime is down: x".into()],
            &second,
            at(30),
        );
        let status =
            |conditions| NodeStatus { conditions: Some(conditions), ..NodeStatus::default() };
        assert!(same(&status(second), &status(third)));
    }

    #[test]
    fn a_node_tells_of_cordons_and_boots_that_are_news() {
        let cases = [
            (None, true, None),
            (Some(true), true, None),
            (Some(false), true, Some("NodeNotSchedulable")),
            (Some(true), false, Some("NodeSchedulable")),
        ];
        for (was, is, expected) in cases {
            assert_eq!(cordon_change(was, is), expected, "{was:?} {is}");
        }
        for (known, expected) in
            [(None, false), (Some(""), false), (Some("b"), false), (Some("a"), true)]
        {
            assert_eq!(has_rebooted(known, "b"), expected, "{known:?}");
        }
    }
}
