//! On which nodes a DaemonSet's pods belong. Pure.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod,
    PodSpec, Toleration,
};
use skiff_api::placement::{NODE_NAME_FIELD, NodeView, untolerated};

use crate::meta;
use crate::pods;

/// What a DaemonSet wants of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A pod shall run there.
    Run,
    /// None shall be made, but one that is there may stay.
    Stay,
    /// None may be there.
    Never,
}

/// Whether the set's pods belong on the node.
pub(crate) fn wanted(set: &DaemonSet, node: &Node) -> Wanted {
    let none = PodSpec::default();
    let spec = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()).unwrap_or(&none);
    let (name, labels) = (meta::name(&node.metadata), meta::labels(&node.metadata));
    let named_other = spec.node_name.as_deref().is_some_and(|wanted| wanted != name);
    if named_other || !(NodeView { name, labels }).suits(spec) {
        return Wanted::Never;
    }
    let tolerations = tolerations(spec);
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let repelled = |effect: &str| untolerated(&tolerations, taints, |of| of == effect).is_some();
    if repelled("NoExecute") {
        Wanted::Never
    } else if repelled("NoSchedule") {
        Wanted::Stay
    } else {
        Wanted::Run
    }
}

/// The template's tolerations and those every daemon has: it stays on a sick
/// node, which may need it most, and runs on a cordoned one.
fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let daemon = [
        ("node.kubernetes.io/not-ready", "NoExecute"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
        ("node.kubernetes.io/disk-pressure", "NoSchedule"),
        ("node.kubernetes.io/memory-pressure", "NoSchedule"),
        ("node.kubernetes.io/pid-pressure", "NoSchedule"),
        ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ];
    let host = [("node.kubernetes.io/network-unavailable", "NoSchedule")];
    let host = host.into_iter().filter(|_| spec.host_network == Some(true));
    let mut tolerations = spec.tolerations.clone().unwrap_or_default();
    for (key, effect) in daemon.into_iter().chain(host) {
        let toleration = Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            ..Toleration::default()
        };
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    tolerations
}

/// Ties a pod to one node: the scheduler binds it there and nowhere else. What
/// else its affinity required of nodes was checked when the node was chosen.
pub(crate) fn pin(spec: &mut PodSpec, node: &str) {
    spec.tolerations = Some(tolerations(spec));
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let nodes: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    nodes.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_expressions: None,
            match_fields: Some(vec![NodeSelectorRequirement {
                key: NODE_NAME_FIELD.into(),
                operator: "In".into(),
                values: Some(vec![node.to_owned()]),
            }]),
        }],
    });
}

/// The node a daemon pod is on or meant for.
pub(crate) fn target(pod: &Pod) -> Option<&str> {
    let bound = pods::node_name(pod);
    if !bound.is_empty() {
        return Some(bound);
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms =
        &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let fields = terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let mut names = fields
        .filter(|field| field.key == NODE_NAME_FIELD)
        .flat_map(|field| field.values.iter().flatten());
    names.next().map(String::as_str)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::DaemonSetSpec;
    use k8s_openapi::api::core::v1::{NodeSpec, Taint};

    use super::*;
    use crate::testing;

    fn node(labels: &[(&str, &str)], taints: &[(&str, &str)]) -> Node {
        let taints = taints.iter().map(|(key, effect)| Taint {
            key: (*key).into(),
            effect: (*effect).into(),
            ..Taint::default()
        });
        let mut node = Node {
            metadata: testing::meta("node-1"),
            spec: Some(NodeSpec { taints: Some(taints.collect()), ..NodeSpec::default() }),
            status: None,
        };
        node.metadata.labels = testing::labels(labels);
        node
    }

    #[test]
    fn daemons_run_where_they_may() {
        let mut set = DaemonSet {
            metadata: testing::meta("log"),
            spec: Some(DaemonSetSpec {
                template: testing::template("log:1"),
                ..DaemonSetSpec::default()
            }),
            status: None,
        };
        let spec = set.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
        spec.node_selector = testing::labels(&[("disk", "ssd")]);
        let ssd = [("disk", "ssd")];
        let cases = [
            ("selected", node(&ssd, &[]), Wanted::Run),
            ("not selected", node(&[], &[]), Wanted::Never),
            (
                "cordoned",
                node(&ssd, &[("node.kubernetes.io/unschedulable", "NoSchedule")]),
                Wanted::Run,
            ),
            ("silent", node(&ssd, &[("node.kubernetes.io/unreachable", "NoExecute")]), Wanted::Run),
            ("reserved", node(&ssd, &[("team", "NoSchedule")]), Wanted::Stay),
            ("cleared", node(&ssd, &[("team", "NoExecute")]), Wanted::Never),
        ];
        for (name, node, expected) in cases {
            assert_eq!(wanted(&set, &node), expected, "{name}");
        }
    }

    #[test]
    fn a_pinned_pod_tells_its_node() {
        let mut pod = testing::pod("log-1");
        assert_eq!(target(&pod), None);
        pin(pod.spec.as_mut().unwrap(), "node-7");
        assert_eq!(target(&pod), Some("node-7"));
    }
}
