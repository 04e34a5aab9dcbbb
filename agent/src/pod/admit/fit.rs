//! Whether the node is one that a pod may be on, and has room for it. Pure.
//!
//! The scheduler has asked the same of most pods. One that came past it, with a
//! `spec.nodeName` of its own or by a race, is refused with the reasons and in
//! the words of upstream's kubelet, in its order: room, labels, ports, taints.
//!
//! Nothing counts here that the scheduler takes for free: a pod that has ended,
//! was refused or is no longer in the API leaves its room to the next, though its
//! last container may still be on its way out. One that is only asked to end
//! counts for both. While a resize waits, the lesser of what a pod has and what
//! it asks for counts.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use skiff_api::placement::{HostPorts, NodeView, untolerated};
use skiff_api::quantity::Quantity as Amount;

use super::super::model::{has_ended, spec};
use super::super::resources::{parse, requests};
use super::super::static_pods::is_static;
use super::Refusal;

/// What the API says of the node that matters to pods.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeFacts {
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `spec.taints`.
    pub taints: Vec<Taint>,
}

impl From<&Node> for NodeFacts {
    fn from(node: &Node) -> Self {
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone());
        Self {
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: taints.unwrap_or_default(),
        }
    }
}

/// What a pod is to fit in with.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The node's name.
    pub name: &'a str,
    /// The node as the API has it.
    pub node: &'a NodeFacts,
    /// What it gives to pods.
    pub allocatable: &'a BTreeMap<String, Quantity>,
    /// The pods that are there.
    pub others: &'a [Arc<Pod>],
}

/// Why `pod` does not fit there; `None` if it does.
pub fn misfit(pod: &Pod, place: &Place<'_>) -> Option<Refusal> {
    shortage(pod, place).or_else(|| unsuited(pod, place))
}

/// Whether `pod` would fit there if there were more room.
pub(super) fn lacks_only_room(pod: &Pod, place: &Place<'_>) -> bool {
    shortage(pod, place).is_some() && unsuited(pod, place).is_none()
}

fn unsuited(pod: &Pod, place: &Place<'_>) -> Option<Refusal> {
    unselected(pod, place).or_else(|| port_taken(pod, place)).or_else(|| repelled(pod, place))
}

/// Whether the refusal rests on what the API said of the node, which may be news
/// that has not come yet.
pub fn rests_on_node(refusal: &Refusal) -> bool {
    matches!(refusal.reason.as_ref(), NODE_AFFINITY | TAINT_TOLERATION)
}

const NODE_AFFINITY: &str = "NodeAffinity";
const TAINT_TOLERATION: &str = "TaintToleration";

impl<'a> Place<'a> {
    /// The pods that count.
    fn pods(&self) -> impl Iterator<Item = &'a Pod> {
        self.others.iter().map(AsRef::as_ref).filter(|other| !has_ended(other))
    }
}

fn shortage(pod: &Pod, place: &Place<'_>) -> Option<Refusal> {
    let short = |resource: &str, asked: i64, used: i64, capacity: i64| {
        let message = format!(
            "Node didn't have enough resource: {resource}, requested: {asked}, used: {used}, \
             capacity: {capacity}"
        );
        Some(Refusal::new(format!("OutOf{resource}"), message))
    };
    let of_node = |name: &str| place.allocatable.get(name).and_then(parse);
    let count = i64::try_from(place.pods().count()).unwrap_or(i64::MAX);
    if let Some(places) = of_node("pods").map(Amount::units).filter(|places| count >= *places) {
        return short("pods", 1, count, places);
    }
    let wanted = requests(pod, None);
    let first = ["cpu", "memory", "ephemeral-storage"];
    let rest = wanted.keys().map(String::as_str).filter(|name| !first.contains(name));
    for name in first.into_iter().chain(rest) {
        let asked = wanted.get(name).copied().unwrap_or_default();
        // A resource that the node does not know may be the cluster's.
        let Some(capacity) = of_node(name).map(Amount::millis).filter(|_| asked > 0) else {
            continue;
        };
        let used: i64 = place.pods().map(|other| held(other, name)).sum();
        if asked > capacity - used {
            let unit = if name == "cpu" { 1 } else { 1000 };
            return short(name, asked / unit, used / unit, capacity / unit);
        }
    }
    None
}

fn unselected(pod: &Pod, place: &Place<'_>) -> Option<Refusal> {
    let view = NodeView { name: place.name, labels: &place.node.labels };
    let why = "node(s) didn't match Pod's node affinity/selector";
    (!view.suits(spec(pod))).then(|| failed(NODE_AFFINITY, why))
}

fn port_taken(pod: &Pod, place: &Place<'_>) -> Option<Refusal> {
    let ports = HostPorts::of(spec(pod));
    let taken = place.pods().any(|other| ports.clash_with(spec(other)));
    let why = "node(s) didn't have free ports for the requested pod ports";
    taken.then(|| failed("NodePorts", why))
}

/// Taints keep away; only one that also drives out ends what has come.
fn repelled(pod: &Pod, place: &Place<'_>) -> Option<Refusal> {
    let tolerations = spec(pod).tolerations.as_deref().unwrap_or_default();
    let counts = |effect: &str| effect == "NoExecute" && !is_static(pod);
    let why = "node(s) had taints that the pod didn't tolerate";
    untolerated(tolerations, &place.node.taints, counts).map(|_| failed(TAINT_TOLERATION, why))
}

/// How much a pod holds of a resource, in thousandths.
fn held(pod: &Pod, resource: &str) -> i64 {
    let amount = |given| requests(pod, given).get(resource).copied().unwrap_or_default();
    amount(None).min(amount(pod.status.as_ref()))
}

fn failed(predicate: &'static str, why: &str) -> Refusal {
    Refusal::new(predicate, format!("Predicate {predicate} failed: {why}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::super::testing::pod;
    use super::*;

    /// A node with these labels and taints, 2 CPUs, 1 GiB and room for 3 pods.
    fn judge(pod: &Pod, node: Value, others: &[Pod]) -> Option<(String, String)> {
        let node = serde_json::from_value::<Node>(node).unwrap();
        let allocatable = [
            ("cpu", "2"),
            ("ephemeral-storage", "10Gi"),
            ("example.com/lens", "1"),
            ("memory", "1Gi"),
            ("pods", "3"),
        ];
        let allocatable =
            allocatable.map(|(name, amount)| (name.into(), Quantity(amount.into()))).into();
        let others: Vec<_> = others.iter().cloned().map(Arc::new).collect();
        let place = Place {
            name: "n1",
            node: &NodeFacts::from(&node),
            allocatable: &allocatable,
            others: &others,
        };
        misfit(pod, &place).map(|found| (found.reason.into_owned(), found.message))
    }

    fn asks(requests: Value) -> Pod {
        pod(json!({"containers": [{"name": "a", "resources": {"requests": requests}}]}))
    }

    fn with_status(mut pod: Pod, status: Value) -> Pod {
        pod.status = Some(serde_json::from_value(status).unwrap());
        pod
    }

    #[test]
    fn a_pod_needs_room_beside_those_that_stay() {
        let cpu = |amount: &str| asks(json!({"cpu": amount}));
        let short = |resource: &str, asked: i64, used: i64, capacity: i64| {
            let message = format!(
                "Node didn't have enough resource: {resource}, requested: {asked}, used: {used}, \
                 capacity: {capacity}"
            );
            Some((format!("OutOf{resource}"), message))
        };
        let given = json!({"phase": "Running", "containerStatuses": [{"name": "a", "image": "",
            "imageID": "", "ready": true, "restartCount": 0, "allocatedResources": {"cpu": "1"}}]});
        let mut leaves = cpu("2");
        leaves.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                super::super::super::testing::at(0),
            ));
        let cases = [
            ("it fits exactly", cpu("1"), vec![cpu("1")], None),
            ("too little", cpu("1001m"), vec![cpu("1")], short("cpu", 1001, 1000, 2000)),
            ("it asks for nothing", cpu("0"), vec![cpu("9")], None),
            (
                "memory is told in bytes",
                asks(json!({"memory": "2Gi"})),
                vec![],
                short("memory", 2 << 30, 0, 1 << 30),
            ),
            (
                "storage",
                asks(json!({"ephemeral-storage": "11Gi"})),
                vec![],
                short("ephemeral-storage", 11 << 30, 0, 10 << 30),
            ),
            (
                "what the node counts",
                asks(json!({"example.com/lens": "1"})),
                vec![asks(json!({"example.com/lens": "1"}))],
                short("example.com/lens", 1, 1, 1),
            ),
            ("what it does not know", asks(json!({"example.com/rod": "1"})), vec![], None),
            ("no place left", cpu("0"), vec![cpu("0"), cpu("0"), cpu("0")], short("pods", 1, 3, 3)),
            (
                "the other has ended",
                cpu("2"),
                vec![with_status(cpu("2"), json!({"phase": "Failed"}))],
                None,
            ),
            ("the other is about to end", cpu("2"), vec![leaves], short("cpu", 2000, 2000, 2000)),
            (
                "the other wants more later",
                cpu("1"),
                vec![with_status(cpu("2"), given.clone())],
                None,
            ),
            ("the other wants less", cpu("1900m"), vec![with_status(cpu("100m"), given)], None),
        ];
        for (name, pod, others, expected) in cases {
            assert_eq!(judge(&pod, json!({}), &others), expected, "{name}");
        }
    }

    #[test]
    fn labels_ports_and_taints_decide_in_this_order() {
        let affinity = Some((
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        ));
        let ports = Some((
            "NodePorts",
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
        ));
        let taint = Some((
            "TaintToleration",
            "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate",
        ));
        let node = |disk: &str, effect: &str| {
            json!({"metadata": {"labels": {"disk": disk}},
                   "spec": {"taints": [{"key": "own", "effect": effect}]}})
        };
        let spec = |more: Value| {
            let mut spec = json!({"nodeSelector": {"disk": "ssd"}, "containers": [
                {"name": "a", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            pod(spec)
        };
        let plain = || spec(json!({}));
        let mut from_file = plain();
        from_file.metadata.annotations =
            Some([("kubernetes.io/config.source".to_owned(), "file".to_owned())].into());
        let tolerant = spec(json!({"tolerations": [{"key": "own", "operator": "Exists"}]}));
        let named = |value: &str| {
            let term = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [value]}]});
            spec(json!({"affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}}))
        };
        let cases = [
            ("it is welcome", plain(), node("ssd", "NoSchedule"), vec![], None),
            ("not selected", plain(), node("hdd", "NoExecute"), vec![plain()], affinity),
            ("another's affinity", named("n2"), node("ssd", ""), vec![], affinity),
            ("its own affinity", named("n1"), node("ssd", ""), vec![], None),
            ("its port is taken", plain(), node("ssd", "NoExecute"), vec![plain()], ports),
            ("driven out", plain(), node("ssd", "NoExecute"), vec![], taint),
            ("it tolerates that", tolerant, node("ssd", "NoExecute"), vec![], None),
            ("static pods come all the same", from_file, node("ssd", "NoExecute"), vec![], None),
        ];
        for (name, pod, node, others, expected) in cases {
            let found = judge(&pod, node, &others);
            let found = found.as_ref().map(|(reason, message)| (reason.as_str(), message.as_str()));
            assert_eq!(found, expected, "{name}");
        }
    }
}
