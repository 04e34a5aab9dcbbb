//! Whether a pod and a node suit each other by name, labels and taints, and
//! whether two pods can share a node's ports.
//!
//! The scheduler asks it of every node, nodes of the pods that come, DaemonSets
//! of the nodes they are to run on, taint eviction of pods that are there
//! already, volumes of the nodes they can be reached from.
//!
//! Rules: Kubernetes documentation, "Assigning Pods to Nodes" and "Taints and
//! Tolerations".

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};

use crate::validation::path::text;

/// The one field of a node that a selector may name.
pub const NODE_NAME_FIELD: &str = "metadata.name";

/// What selectors see of a node.
#[derive(Clone, Copy)]
pub struct NodeView<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
}

impl NodeView<'_> {
    /// Whether `nodeSelector` and required node affinity both accept the node.
    pub fn suits(self, pod: &PodSpec) -> bool {
        let selected = (pod.node_selector.iter().flatten())
            .all(|(key, value)| self.labels.get(key) == Some(value));
        selected && required_affinity(pod).is_none_or(|required| self.matches(required))
    }

    /// Whether any term of the selector matches: they are alternatives.
    pub fn matches(self, selector: &NodeSelector) -> bool {
        selector.node_selector_terms.iter().any(|term| self.matches_term(term))
    }

    /// Whether all requirements of the term hold; an empty term matches nothing.
    pub fn matches_term(self, term: &NodeSelectorTerm) -> bool {
        let expressions = term.match_expressions.as_deref().unwrap_or_default();
        let fields = term.match_fields.as_deref().unwrap_or_default();
        if expressions.is_empty() && fields.is_empty() {
            return false;
        }
        let label = |key: &str| self.labels.get(key).map(String::as_str);
        let field = |key: &str| (key == NODE_NAME_FIELD).then_some(self.name);
        expressions.iter().all(|wanted| meets(wanted, label(&wanted.key)))
            && fields.iter().all(|wanted| meets(wanted, field(&wanted.key)))
    }
}

fn required_affinity(pod: &PodSpec) -> Option<&NodeSelector> {
    let affinity = pod.affinity.as_ref()?.node_affinity.as_ref()?;
    affinity.required_during_scheduling_ignored_during_execution.as_ref()
}

fn meets(wanted: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = wanted.values.as_deref().unwrap_or_default();
    let listed = |value: &str| values.iter().any(|known| known == value);
    let numbers = || {
        let number = value?.parse::<i64>().ok()?;
        Some((number, values.first()?.parse::<i64>().ok()?))
    };
    match wanted.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(number, bound)| number > bound),
        "Lt" => numbers().is_some_and(|(number, bound)| number < bound),
        // Validation knows no other operator; an unknown one matches nothing.
        _ => false,
    }
}

/// The first taint whose effect `counts` and that no toleration covers.
pub fn untolerated<'a>(
    tolerations: &[Toleration],
    taints: &'a [Taint],
    counts: impl Fn(&str) -> bool,
) -> Option<&'a Taint> {
    taints.iter().find(|taint| counts(&taint.effect) && !is_tolerated(tolerations, taint))
}

/// Whether any of the tolerations accepts the taint.
pub fn is_tolerated(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| tolerates(toleration, taint))
}

/// Whether a pod with this toleration accepts the taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let (key, effect) = (text(&toleration.key), text(&toleration.effect));
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => {
            !key.is_empty() && text(&toleration.value) == text(&taint.value)
        }
        // Validation knows no other operator; an unknown one tolerates nothing.
        Some(_) => false,
    }
}

/// The ports of its node that a pod wants.
pub struct HostPorts<'a>(Vec<(i32, &'a str, &'a str)>);

impl<'a> HostPorts<'a> {
    /// Those of this pod.
    pub fn of(spec: &'a PodSpec) -> Self {
        Self(host_ports(spec))
    }

    /// Whether the other pod wants one of them too: the same number and protocol
    /// on the same address, or on all addresses for either.
    pub fn clash_with(&self, other: &PodSpec) -> bool {
        let everywhere = |ip: &str| matches!(ip, "" | "0.0.0.0" | "::");
        let clash = |taken: &(i32, &str, &str)| {
            self.0.iter().any(|port| {
                (port.0, port.1) == (taken.0, taken.1)
                    && (port.2 == taken.2 || everywhere(port.2) || everywhere(taken.2))
            })
        };
        !self.0.is_empty() && host_ports(other).iter().any(clash)
    }
}

/// Host ports as (port, protocol, address), of all containers that last.
fn host_ports(spec: &PodSpec) -> Vec<(i32, &str, &str)> {
    let sidecars = (spec.init_containers.iter().flatten())
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    (spec.containers.iter().chain(sidecars))
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number > 0)?;
            Some((number, port.protocol.as_deref().unwrap_or("TCP"), text(&port.host_ip)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn nodes_are_selected_by_labels_and_name() {
        let labels: BTreeMap<String, String> = read(json!({"disk": "ssd", "cores": "8"}));
        let node = NodeView { name: "n1", labels: &labels };
        let required = |terms: Value| {
            json!({"containers": [], "affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms},
            }}})
        };
        let label = |key, operator, values: Value| json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]);
        let field = |key, operator, value| json!([{"matchFields": [{"key": key, "operator": operator, "values": [value]}]}]);
        let cases = [
            ("anything", json!({"containers": []}), true),
            ("a label", json!({"containers": [], "nodeSelector": {"disk": "ssd"}}), true),
            ("another value", json!({"containers": [], "nodeSelector": {"disk": "hdd"}}), false),
            ("no label", json!({"containers": [], "nodeSelector": {"gpu": "yes"}}), false),
            ("in", required(label("disk", "In", json!(["hdd", "ssd"]))), true),
            ("not in", required(label("disk", "NotIn", json!(["hdd"]))), true),
            ("not in, absent", required(label("gpu", "NotIn", json!(["yes"]))), true),
            ("not in, but is", required(label("disk", "NotIn", json!(["ssd"]))), false),
            ("exists", required(label("disk", "Exists", json!([]))), true),
            ("does not exist", required(label("disk", "DoesNotExist", json!([]))), false),
            ("more than", required(label("cores", "Gt", json!(["4"]))), true),
            ("not more than", required(label("cores", "Gt", json!(["8"]))), false),
            ("less than", required(label("cores", "Lt", json!(["9"]))), true),
            ("no number", required(label("disk", "Lt", json!(["9"]))), false),
            ("an unknown operator", required(label("disk", "Like", json!(["ssd"]))), false),
            ("its name", required(field("metadata.name", "In", "n1")), true),
            ("another name", required(field("metadata.name", "In", "n2")), false),
            ("an unknown field", required(field("metadata.uid", "In", "n1")), false),
            ("no term", required(json!([])), false),
            ("an empty term", required(json!([{}])), false),
            (
                "one term of two",
                required(json!([
                    {"matchExpressions": [{"key": "gpu", "operator": "Exists"}]},
                    {"matchExpressions": [{"key": "disk", "operator": "Exists"}]},
                ])),
                true,
            ),
            (
                "one requirement of two",
                required(json!([{"matchExpressions": [
                    {"key": "gpu", "operator": "Exists"},
                    {"key": "disk", "operator": "Exists"},
                ]}])),
                false,
            ),
        ];
        for (name, spec, expected) in cases {
            assert_eq!(node.suits(&read(spec)), expected, "{name}");
        }
    }

    #[test]
    fn tolerations_cover_taints() {
        let taint: Taint = read(json!({"key": "gpu", "value": "yes", "effect": "NoSchedule"}));
        let cases = [
            ("all of it", json!({"key": "gpu", "value": "yes", "effect": "NoSchedule"}), true),
            ("every effect", json!({"key": "gpu", "operator": "Equal", "value": "yes"}), true),
            ("another effect", json!({"key": "gpu", "value": "yes", "effect": "NoExecute"}), false),
            ("another value", json!({"key": "gpu", "value": "no"}), false),
            ("any value", json!({"key": "gpu", "operator": "Exists"}), true),
            ("another key", json!({"key": "disk", "operator": "Exists"}), false),
            ("everything", json!({"operator": "Exists"}), true),
            ("no key", json!({"value": "yes"}), false),
            ("an unknown operator", json!({"key": "gpu", "operator": "Gt", "value": "yes"}), false),
        ];
        for (name, toleration, expected) in cases {
            assert_eq!(tolerates(&read(toleration), &taint), expected, "{name}");
        }
        let every = |_: &str| true;
        let taints = [taint];
        assert_eq!(untolerated(&[], &taints, every), Some(&taints[0]));
        assert_eq!(untolerated(&[], &taints, |effect| effect != "NoSchedule"), None);
        let gpu = [read(json!({"key": "disk"})), read(json!({"key": "gpu", "operator": "Exists"}))];
        assert_eq!(untolerated(&gpu, &taints, every), None);
    }

    #[test]
    fn a_port_of_the_node_is_one_pods() {
        let wants = |port: i32, protocol: &str, ip: &str| -> PodSpec {
            let port =
                json!({"containerPort": 1, "hostPort": port, "protocol": protocol, "hostIP": ip});
            read(json!({"containers": [{"name": "a", "ports": [port]}]}))
        };
        let sidecar: PodSpec = read(json!({"containers": [], "initContainers": [
            {"name": "s", "restartPolicy": "Always", "ports": [{"containerPort": 1, "hostPort": 80}]},
            {"name": "i", "ports": [{"containerPort": 1, "hostPort": 443}]},
        ]}));
        let own = wants(80, "TCP", "127.0.0.1");
        let cases = [
            ("the same", wants(80, "TCP", "127.0.0.1"), true),
            ("another port", wants(81, "TCP", "127.0.0.1"), false),
            ("another protocol", wants(80, "UDP", "127.0.0.1"), false),
            ("another address", wants(80, "TCP", "10.0.0.1"), false),
            ("all addresses", wants(80, "TCP", "0.0.0.0"), true),
            ("no port of the node", wants(0, "TCP", ""), false),
            ("a sidecar's", sidecar.clone(), true),
        ];
        for (name, other, expected) in cases {
            assert_eq!(HostPorts::of(&own).clash_with(&other), expected, "{name}");
            let back = HostPorts::of(&other).clash_with(&own);
            assert_eq!(back, expected, "{name}, the other way round");
        }
        let own = wants(443, "TCP", "");
        assert!(!HostPorts::of(&own).clash_with(&sidecar), "an init container has ended");
    }
}
