//! Who goes so that a critical pod has room. Pure.
//!
//! What the cluster rests on comes to its node in any case: static pods, and pods
//! of the priority classes `system-cluster-critical` and `system-node-critical`
//! ("Guaranteed scheduling for critical add-on pods" in Kubernetes' documentation).
//! Some come past the scheduler, so the node itself makes room, at the cost of
//! those that matter least.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::super::model::{has_ended, spec};
use super::super::resources::qos_class;
use super::super::static_pods::is_static;
use super::fit::{Place, lacks_only_room, misfit};
use crate::eviction::rank::is_critical;

/// The pods without which `pod` would fit; `None` if it has to be refused,
/// because it is not critical or its room cannot be had so.
///
/// As few as possible of those with guaranteed resources go, then of those with
/// some; within a class, those of the least priority.
pub fn victims(pod: &Pod, place: &Place<'_>) -> Option<Vec<Arc<Pod>>> {
    if !is_critical(pod) {
        return None;
    }
    let (mut candidates, mut staying): (Vec<_>, Vec<_>) =
        place.others.iter().cloned().partition(|other| !has_ended(other) && yields(other, pod));
    let beside = |others: &[Arc<Pod>]| misfit(pod, &Place { others, ..*place });
    // Only room can be made; a port that is taken stays so.
    if beside(&staying).is_some() || !lacks_only_room(pod, place) {
        return None;
    }
    // From the worthiest on: who need not go, stays.
    candidates.sort_by_key(|other| worth(other));
    let mut victims = Vec::new();
    while let Some(candidate) = candidates.pop() {
        staying.push(candidate);
        if beside(&staying).is_some() {
            victims.extend(staying.pop());
        }
    }
    Some(victims)
}

/// Whether `other` goes for `pod`: what is not critical does, and what is less
/// so, unless nobody but a file says that it should be here.
fn yields(other: &Pod, pod: &Pod) -> bool {
    let priority = |pod: &Pod| spec(pod).priority.unwrap_or_default();
    !is_critical(other) || (!is_static(other) && priority(other) < priority(pod))
}

/// What decides who stays: the class of service, then the priority. Names come
/// last, so that a decision repeated is the same.
fn worth(pod: &Pod) -> (u8, i32, Option<String>, Option<String>) {
    let class = match qos_class(spec(pod)) {
        "Guaranteed" => 2,
        "Burstable" => 1,
        _ => 0,
    };
    let meta = &pod.metadata;
    (class, spec(pod).priority.unwrap_or_default(), meta.namespace.clone(), meta.name.clone())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use serde_json::{Value, json};

    use super::super::super::testing::pod;
    use super::super::fit::NodeFacts;
    use super::*;

    const CRITICAL: i32 = 2_000_000_000;

    /// A pod of this name that asks for so many milli-CPUs; `more` goes into its
    /// spec.
    fn asks(name: &str, cpu: u32, more: Value) -> Pod {
        let cpu = json!({"cpu": format!("{cpu}m")});
        let resources = if cpu["cpu"] == "0m" { json!({}) } else { json!({"requests": cpu}) };
        let mut spec = json!({"containers": [{"name": "a", "resources": resources}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut pod = pod(spec);
        pod.metadata.name = Some(name.to_owned());
        pod
    }

    /// Who comes, who is there, and who goes.
    type Case = (&'static str, Pod, Vec<Pod>, Option<&'static [&'static str]>);

    fn guaranteed(name: &str, cpu: &str) -> Pod {
        let amounts = json!({"cpu": cpu, "memory": "1Mi"});
        let resources = json!({"requests": amounts, "limits": amounts});
        asks(name, 0, json!({"containers": [{"name": "a", "resources": resources}]}))
    }

    #[test]
    fn as_little_as_possible_goes_for_a_critical_pod_and_nothing_for_others() {
        let plain = |name: &str, cpu| asks(name, cpu, json!({}));
        let prior = |name: &str, cpu, priority: i32| asks(name, cpu, json!({"priority": priority}));
        let port = json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "hostPort": 80}],
            "resources": {"requests": {"cpu": "1"}}}]});
        let with_port = |name: &str, priority: i32| {
            let mut more = port.clone();
            more["priority"] = json!(priority);
            asks(name, 0, more)
        };
        let critical = |cpu| prior("critical", cpu, CRITICAL);
        let mut from_file = prior("from-file", 1500, CRITICAL);
        from_file.metadata.annotations =
            Some([("kubernetes.io/config.source".to_owned(), "file".to_owned())].into());
        let mut ended = plain("ended", 2000);
        ended.status = Some(serde_json::from_value(json!({"phase": "Succeeded"})).unwrap());
        let cases: [Case; 12] = [
            ("it is not critical", prior("p", 1000, CRITICAL - 1), vec![plain("a", 2000)], None),
            (
                "one suffices",
                critical(1000),
                vec![plain("a", 1000), plain("b", 1000)],
                Some(&["a"]),
            ),
            (
                "the less important one",
                critical(1000),
                vec![prior("a", 1000, 5), prior("b", 1000, 1)],
                Some(&["b"]),
            ),
            (
                "who was promised less, though it is more important",
                critical(1000),
                vec![guaranteed("a", "1"), prior("b", 1000, 9)],
                Some(&["b"]),
            ),
            (
                "both, where one leaves too little",
                critical(1500),
                vec![guaranteed("a", "1"), plain("b", 1000)],
                Some(&["a", "b"]),
            ),
            (
                "who takes nothing stays",
                critical(2000),
                vec![plain("none", 0), plain("a", 2000)],
                Some(&["a"]),
            ),
            (
                "a less critical one",
                prior("p", 1000, CRITICAL + 1),
                vec![prior("a", 2000, CRITICAL)],
                Some(&["a"]),
            ),
            ("one as critical", critical(1000), vec![prior("a", 2000, CRITICAL)], None),
            ("one from a file", prior("p", 1000, CRITICAL + 1), vec![from_file], None),
            ("more than there is", critical(5000), vec![plain("a", 1000)], None),
            (
                "a port is not room",
                with_port("p", CRITICAL),
                vec![with_port("a", 0), plain("b", 1000)],
                None,
            ),
            (
                "who has ended takes nothing",
                critical(2000),
                vec![ended, plain("a", 1)],
                Some(&["a"]),
            ),
        ];
        let amounts = [("cpu", "2"), ("memory", "1Gi"), ("pods", "9")];
        let allocatable =
            amounts.map(|(name, amount)| (name.into(), Quantity(amount.into()))).into();
        for (name, pod, others, expected) in cases {
            let others: Vec<_> = others.into_iter().map(Arc::new).collect();
            let node = NodeFacts::default();
            let place =
                Place { name: "n1", node: &node, allocatable: &allocatable, others: &others };
            let found = victims(&pod, &place);
            let found: Option<Vec<_>> = found
                .as_ref()
                .map(|all| all.iter().map(|one| one.metadata.name.as_deref().unwrap()).collect());
            assert_eq!(found.as_deref(), expected, "{name}");
        }
    }
}
