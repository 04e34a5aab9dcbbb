//! Who goes first when a node runs short, and what is said of it. Pure.
//!
//! The order is the kubelet's: who uses more than it asked for, then who is
//! less important, then who uses most beyond what it asked for. Process ids
//! and files cannot be asked for; there only the last two count.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use k8s_openapi::api::core::v1::Pod;
use skiff_api::quantity::Quantity;

use crate::node::{Kind, Shortage};
use crate::pod::model::{all_containers, spec};
use crate::pod::resources::{self, SYSTEM_CRITICAL};
use crate::pod::static_pods::is_static;

/// What one pod uses of something.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodUse {
    /// By container.
    pub containers: BTreeMap<String, u64>,
    /// By volume.
    pub volumes: BTreeMap<String, u64>,
}

impl PodUse {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.containers.values().chain(self.volumes.values()).sum()
    }
}

/// Whether a pod stays whatever the node runs short of: static pods have
/// nobody who would make another, and what the cluster rests on is worth more
/// than the room it takes.
pub fn is_critical(pod: &Pod) -> bool {
    is_static(pod) || spec(pod).priority.is_some_and(|priority| priority >= SYSTEM_CRITICAL)
}

/// Whether a pod can be taken something from: it may be evicted, and neither
/// has it ended nor is it about to.
pub fn is_candidate(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    !is_critical(pod)
        && pod.metadata.deletion_timestamp.is_none()
        && !matches!(phase, Some("Succeeded" | "Failed"))
}

/// The pod that has to go for `kind`, and what it uses. `uses` is by UID; a
/// pod that is not in it uses nothing.
pub fn victim<'a, P: AsRef<Pod>>(
    kind: Kind,
    pods: &'a [P],
    uses: &BTreeMap<String, PodUse>,
) -> Option<&'a Pod> {
    let candidates = pods.iter().map(AsRef::as_ref).filter(|pod| is_candidate(pod));
    candidates.min_by_key(|pod| {
        let meta = &pod.metadata;
        let used = meta.uid.as_ref().and_then(|uid| uses.get(uid)).map_or(0, PodUse::total);
        let used = i64::try_from(used).unwrap_or(i64::MAX);
        let asked = requested(kind, pod);
        let within = asked.is_some_and(|asked| used <= asked);
        let beyond = used - asked.unwrap_or(0);
        // Ties go by name, so that a decision repeated is the same.
        (within, spec(pod).priority.unwrap_or(0), Reverse(beyond), &meta.namespace, &meta.name)
    })
}

/// What the pod asks for; `None` of what nobody can ask for.
fn requested(kind: Kind, pod: &Pod) -> Option<i64> {
    match kind {
        Kind::Memory | Kind::Disk => {
            let all = resources::requests(pod, pod.status.as_ref());
            Some(all.get(kind.resource()).map_or(0, |millis| millis / 1000))
        }
        Kind::Inodes | Kind::Pids => None,
    }
}

/// What the pod's status and its event say, in the kubelet's words.
pub fn message(shortage: &Shortage, pod: &Pod, used: &PodUse) -> String {
    let Shortage { signal, least, left, .. } = *shortage;
    let kind = signal.kind();
    let resource = kind.resource();
    let amount = |amount: u64| match kind {
        Kind::Memory | Kind::Disk => bytes(amount),
        Kind::Inodes | Kind::Pids => amount.to_string(),
    };
    let mut text = format!(
        "The node was low on resource: {resource}. Threshold quantity: {}, available: {}. ",
        amount(least),
        amount(left)
    );
    if requested(kind, pod).is_none() {
        return text;
    }
    for container in all_containers(pod) {
        let asked = container.resources.as_ref().and_then(|own| own.requests.as_ref());
        let asked = asked.and_then(|all| all.get(resource)).and_then(resources::parse);
        let used = used.containers.get(&container.name).copied().unwrap_or(0);
        if i64::try_from(used).unwrap_or(i64::MAX) > asked.map_or(0, Quantity::bytes) {
            let asked = asked.map_or_else(|| "0".to_owned(), |asked| asked.to_string());
            let _ = write!(
                text,
                "Container {} was using {}, request is {asked}, has larger consumption of {resource}. ",
                container.name,
                bytes(used)
            );
        }
    }
    text
}

/// An amount as quantities are written.
pub(super) fn bytes(amount: u64) -> String {
    Quantity::from_bytes(i64::try_from(amount).unwrap_or(i64::MAX)).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::eviction::thresholds::Signal;

    fn pod(name: &str, priority: i32, memory: &str) -> Pod {
        named(
            name,
            json!({"priority": priority, "containers":
            [{"name": "c", "resources": {"requests": {"memory": memory}}}]}),
        )
    }

    fn named(name: &str, spec: Value) -> Pod {
        let meta = json!({"name": name, "namespace": "ns", "uid": name});
        serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap()
    }

    fn uses(all: &[(&str, u64)]) -> BTreeMap<String, PodUse> {
        let one = |used| PodUse { containers: [("c".into(), used)].into(), ..PodUse::default() };
        all.iter().map(|(name, used)| ((*name).to_owned(), one(*used))).collect()
    }

    #[test]
    fn victims_go_in_order() {
        const MI: u64 = 1 << 20;
        let cases = [
            (
                "beyond its request before all others",
                Kind::Memory,
                vec![pod("within", -10, "100Mi"), pod("beyond", 100, "10Mi")],
                uses(&[("within", 90 * MI), ("beyond", 11 * MI)]),
                Some("beyond"),
            ),
            (
                "then the less important",
                Kind::Memory,
                vec![pod("high", 100, "10Mi"), pod("low", 1, "10Mi")],
                uses(&[("high", 900 * MI), ("low", 11 * MI)]),
                Some("low"),
            ),
            (
                "then the one that is furthest beyond",
                Kind::Memory,
                vec![pod("large", 0, "800Mi"), pod("small", 0, "10Mi")],
                uses(&[("large", 850 * MI), ("small", 100 * MI)]),
                Some("small"),
            ),
            (
                "or nearest to its request",
                Kind::Memory,
                vec![pod("far", 0, "800Mi"), pod("near", 0, "100Mi")],
                uses(&[("far", 100 * MI), ("near", 90 * MI)]),
                Some("near"),
            ),
            (
                "who has not been measured uses nothing",
                Kind::Memory,
                vec![pod("unknown", 0, "0"), pod("known", 0, "0")],
                uses(&[("known", 1)]),
                Some("known"),
            ),
            (
                "processes cannot be asked for",
                Kind::Pids,
                vec![pod("many", 0, "0"), pod("few", 0, "0"), pod("high", 5, "0")],
                uses(&[("many", 900), ("few", 2), ("high", 9000)]),
                Some("many"),
            ),
            (
                "critical pods stay",
                Kind::Memory,
                vec![pod("critical", SYSTEM_CRITICAL, "0")],
                uses(&[("critical", MI)]),
                None,
            ),
            ("nobody is there", Kind::Disk, vec![], BTreeMap::new(), None),
        ];
        for (name, kind, pods, uses, expected) in cases {
            let pods: Vec<_> = pods.into_iter().map(std::sync::Arc::new).collect();
            let found = victim(kind, &pods, &uses).and_then(|pod| pod.metadata.name.as_deref());
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn what_has_ended_or_is_static_or_going_is_no_candidate() {
        let plain = || pod("p", 0, "0");
        assert!(is_candidate(&plain()));
        let phase = |phase: &str| {
            let mut pod = plain();
            pod.status.get_or_insert_default().phase = Some(phase.into());
            pod
        };
        assert!(is_candidate(&phase("Running")));
        assert!(!is_candidate(&phase("Failed")) && !is_candidate(&phase("Succeeded")));
        let mut going = plain();
        going.metadata.deletion_timestamp =
            Some(crate::pod::status::seconds(jiff::Timestamp::UNIX_EPOCH));
        assert!(!is_candidate(&going));
        let mut of_file = plain();
        let source = ("kubernetes.io/config.source".to_owned(), "file".to_owned());
        of_file.metadata.annotations = Some([source].into());
        assert!(!is_candidate(&of_file));
    }

    #[test]
    fn the_message_names_who_used_more_than_it_asked_for() {
        let pod = named(
            "p",
            json!({"containers": [
                {"name": "a", "resources": {"requests": {"memory": "1Gi"}}},
                {"name": "b", "resources": {"requests": {"memory": "10Mi"}}},
                {"name": "c"},
            ]}),
        );
        let short = |signal, least, left| Shortage { signal, least, left, is_hard: true };
        let memory = short(Signal::Memory, 100 << 20, 43 << 20);
        let used = [("a".into(), 500 << 20), ("b".into(), 20 << 20), ("c".into(), 4096)];
        let used = PodUse { containers: used.into(), ..PodUse::default() };
        assert_eq!(
            message(&memory, &pod, &used),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 43Mi. \
             Container b was using 20Mi, request is 10Mi, has larger consumption of memory. \
             Container c was using 4Ki, request is 0, has larger consumption of memory. "
        );
        let pids = short(Signal::Pids, 1638, 40);
        assert_eq!(
            message(&pids, &pod, &used),
            "The node was low on resource: pids. Threshold quantity: 1638, available: 40. "
        );
    }
}
