//! The decision: one pod, one picture of the cluster, one answer.

use std::collections::BTreeMap;

use crate::affinity::Affinity;
use crate::cluster::{Cluster, PodInfo};
use crate::filter::{Refusal, filter};
use crate::score::score;
use crate::spread::Spread;

/// No node fits; says for each why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unschedulable {
    /// Refusals by node.
    pub refusals: BTreeMap<String, Vec<Refusal>>,
    /// What keeps the pod from every node; then there are no refusals, but so
    /// many nodes.
    pub problem: Option<(String, usize)>,
}

impl std::fmt::Display for Unschedulable {
    /// Upstream's sentence: `0/3 nodes are available: 1 Insufficient cpu, 2 ….`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some((problem, nodes)) = &self.problem {
            return write!(f, "0/{nodes} nodes are available: {problem}.");
        }
        if self.refusals.is_empty() {
            return f.write_str("no nodes available to schedule pods");
        }
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for refusal in self.refusals.values().flatten() {
            *counts.entry(refusal.to_string()).or_default() += 1;
        }
        let mut reasons: Vec<String> =
            counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        reasons.sort();
        write!(f, "0/{} nodes are available: {}.", self.refusals.len(), reasons.join(", "))
    }
}

/// Picks a node for `pod`, or says for each node why it was refused.
pub fn place(pod: &PodInfo, cluster: &Cluster) -> Result<String, Unschedulable> {
    let affinity = Affinity::of(pod, cluster);
    let spread = Spread::of(pod, cluster);
    let volumes = cluster.volumes();
    let wants = volumes.wants(pod, cluster).map_err(|problem| Unschedulable {
        refusals: BTreeMap::new(),
        problem: Some((problem, cluster.nodes().len())),
    })?;
    let mut fits = Vec::new();
    let mut refusals = BTreeMap::new();
    for node in cluster.nodes() {
        let refused = filter(pod, node, &affinity, &spread)
            .and_then(|()| volumes.filter(&wants, node).map_err(|refusal| vec![refusal]));
        match refused {
            Ok(()) => fits.push(node),
            Err(refused) => {
                refusals.insert(node.name.clone(), refused);
            }
        }
    }
    let scores = score(pod, &fits, &affinity, &spread);
    // Ties go to the first name, so replaying a decision repeats it.
    let best = fits.iter().zip(scores).rev().max_by_key(|(_, score)| *score);
    best.map(|(node, _)| node.name.clone()).ok_or(Unschedulable { refusals, problem: None })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::{Node, Pod};
    use serde_json::{Value, json};

    use super::*;

    /// A pod named `name` in namespace `default` with this spec.
    pub(crate) fn pod(name: &str, spec: Value) -> PodInfo {
        labelled(name, json!({"app": "web"}), spec)
    }

    fn labelled(name: &str, labels: Value, mut spec: Value) -> PodInfo {
        if spec.get("containers").is_none() {
            spec["containers"] = json!([{"name": "c"}]);
        }
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "default", "uid": name, "labels": labels}, "spec": spec
        }))
        .unwrap();
        PodInfo::of(&pod).unwrap()
    }

    /// A node with 4 cores, 8 GiB and room for 110 pods, changed by `patch`.
    pub(crate) fn node(name: &str, patch: Value) -> Node {
        let mut node = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}}
        });
        json_merge(&mut node, &patch);
        serde_json::from_value(node).unwrap()
    }

    fn json_merge(target: &mut Value, patch: &Value) {
        match (target, patch) {
            (Value::Object(target), Value::Object(patch)) => {
                for (key, value) in patch {
                    json_merge(target.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
            (target, patch) => *target = patch.clone(),
        }
    }

    fn cluster(nodes: &[(&str, Value)], bound: Vec<(PodInfo, &str)>) -> Cluster {
        let mut cluster = Cluster::default();
        for (name, patch) in nodes {
            cluster.upsert_node(&node(name, patch.clone()));
        }
        for (mut pod, node) in bound {
            pod.node = Some(node.into());
            cluster.upsert_pod(Arc::new(pod));
        }
        cluster
    }

    fn cpu(amount: &str) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": amount}}}]})
    }

    fn zone(name: &str) -> Value {
        json!({"metadata": {"labels": {"topology.kubernetes.io/zone": name}}})
    }

    #[test]
    fn filters_name_their_reason() {
        let near = |topology: &str, kind: &str| {
            json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"labelSelector": {"matchLabels": {"app": "db"}}, "topologyKey": topology}]}}})
        };
        let db = || labelled("db", json!({"app": "db"}), json!({}));
        let guard = || {
            labelled(
                "guard",
                json!({"app": "guard"}),
                json!({"affinity": {"podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"}]}}}),
            )
        };
        let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "rack",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]});
        type Case =
            (&'static str, Value, Value, Vec<(PodInfo, &'static str)>, Result<(), &'static str>);
        let cases: Vec<Case> = vec![
            ("exact fit", cpu("4"), json!({}), vec![], Ok(())),
            ("one milli short", cpu("4001m"), json!({}), vec![], Err("Insufficient cpu")),
            (
                "taken by another",
                cpu("2"),
                json!({}),
                vec![(pod("o", cpu("2001m")), "n")],
                Err("Insufficient cpu"),
            ),
            (
                "no room for pods",
                json!({}),
                json!({"status": {"allocatable": {"pods": "0"}}}),
                vec![],
                Err("Too many pods"),
            ),
            (
                "device missing",
                json!({"containers": [{"name": "c", "resources": {"requests": {"example.com/gpu": "1"}}}]}),
                json!({}),
                vec![],
                Err("Insufficient example.com/gpu"),
            ),
            (
                "cordoned",
                json!({}),
                json!({"spec": {"unschedulable": true}}),
                vec![],
                Err("node(s) were unschedulable"),
            ),
            (
                "cordon tolerated",
                json!({"tolerations": [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]}),
                json!({"spec": {"unschedulable": true}}),
                vec![],
                Ok(()),
            ),
            (
                "tainted",
                json!({}),
                json!({"spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}}),
                vec![],
                Err("node(s) had untolerated taint {gpu: yes}"),
            ),
            (
                "taint tolerated by value",
                json!({"tolerations": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}),
                json!({"spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}}),
                vec![],
                Ok(()),
            ),
            (
                "selector",
                json!({"nodeSelector": {"disk": "ssd"}}),
                json!({}),
                vec![],
                Err("node(s) didn't match Pod's node affinity/selector"),
            ),
            (
                "selector met",
                json!({"nodeSelector": {"disk": "ssd"}}),
                json!({"metadata": {"labels": {"disk": "ssd"}}}),
                vec![],
                Ok(()),
            ),
            (
                "affinity Gt",
                json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["8"]}]}]}}}}),
                json!({"metadata": {"labels": {"cores": "8"}}}),
                vec![],
                Err("node(s) didn't match Pod's node affinity/selector"),
            ),
            (
                "host port taken",
                json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]}),
                json!({}),
                vec![(
                    pod(
                        "o",
                        json!({"containers": [{"name": "c", "ports": [{"containerPort": 8, "hostPort": 80, "hostIP": "127.0.0.1"}]}]}),
                    ),
                    "n",
                )],
                Err("node(s) didn't have free ports for the requested pod ports"),
            ),
            (
                "no companion",
                near("kubernetes.io/hostname", "podAffinity"),
                json!({}),
                vec![],
                Err("node(s) didn't match pod affinity rules"),
            ),
            (
                "companion",
                near("kubernetes.io/hostname", "podAffinity"),
                json!({}),
                vec![(db(), "n")],
                Ok(()),
            ),
            (
                "adversary",
                near("kubernetes.io/hostname", "podAntiAffinity"),
                json!({}),
                vec![(db(), "n")],
                Err("node(s) didn't match pod anti-affinity rules"),
            ),
            (
                "unwelcome",
                json!({}),
                json!({}),
                vec![(guard(), "n")],
                Err("node(s) didn't satisfy existing pods anti-affinity rules"),
            ),
            (
                "spread without the label",
                spread,
                json!({}),
                vec![],
                Err(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                ),
            ),
        ];
        for (name, spec, patch, bound, expected) in cases {
            let got = place(&pod("p", spec), &cluster(&[("n", patch)], bound));
            let expected = match expected {
                Ok(()) => Ok("n".to_owned()),
                Err(reason) => Err(format!("0/1 nodes are available: 1 {reason}.")),
            };
            assert_eq!(got.map_err(|refused| refused.to_string()), expected, "{name}");
        }
    }

    #[test]
    fn the_message_counts_reasons() {
        let full = json!({"status": {"allocatable": {"cpu": "1", "memory": "1Mi"}}});
        let mut wants = cpu("2");
        wants["containers"][0]["resources"]["requests"]["memory"] = json!("1Gi");
        let cluster = cluster(
            &[("a", full.clone()), ("b", full), ("c", json!({"spec": {"unschedulable": true}}))],
            vec![],
        );
        assert_eq!(
            place(&pod("p", wants), &cluster).unwrap_err().to_string(),
            "0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu, 2 Insufficient memory."
        );
        assert_eq!(
            place(&pod("p", json!({})), &Cluster::default()).unwrap_err().to_string(),
            "no nodes available to schedule pods"
        );
    }

    #[test]
    fn the_first_of_a_group_may_go_anywhere() {
        let own = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"}]}}});
        assert_eq!(
            place(&pod("p", own.clone()), &cluster(&[("a", json!({}))], vec![])),
            Ok("a".into())
        );
        let second =
            cluster(&[("a", json!({})), ("b", json!({}))], vec![(pod("first", own.clone()), "b")]);
        assert_eq!(place(&pod("p", own), &second), Ok("b".into()));
    }

    #[test]
    fn hard_spreading_keeps_the_skew() {
        let spec = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]});
        let nodes = [("a", zone("east")), ("b", zone("west"))];
        let one = cluster(&nodes, vec![(pod("x", json!({})), "a")]);
        assert_eq!(place(&pod("p", spec.clone()), &one), Ok("b".into()));
        // West is full, so east is the only place left, and the skew forbids it.
        let nodes = [
            ("a", zone("east")),
            (
                "b",
                json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "west"}}, "spec": {"unschedulable": true}}),
            ),
        ];
        let full = cluster(&nodes, vec![(pod("x", json!({})), "a")]);
        assert!(place(&pod("p", spec), &full).is_err());
    }

    #[test]
    fn scores_prefer() {
        let siblings = |name: &str| PodInfo { owner: Some("rs".into()), ..pod(name, json!({})) };
        let ssd = json!({"metadata": {"labels": {"disk": "ssd"}}});
        let likes_ssd = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}}]}}});
        let likes_db = json!({"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 10, "podAffinityTerm": {"labelSelector": {"matchLabels": {"app": "db"}}, "topologyKey": "kubernetes.io/hostname"}}]}}});
        let soft_taint =
            json!({"spec": {"taints": [{"key": "old", "effect": "PreferNoSchedule"}]}});
        let two = || vec![("a", json!({})), ("b", json!({}))];
        let cases = vec![
            ("first name on a tie", pod("p", json!({})), two(), vec![], "a"),
            ("emptier node", pod("p", json!({})), two(), vec![(pod("x", cpu("2")), "a")], "b"),
            ("away from siblings", siblings("p"), two(), vec![(siblings("x"), "a")], "b"),
            (
                "preferred label",
                pod("p", likes_ssd),
                vec![("a", json!({})), ("b", ssd)],
                vec![],
                "b",
            ),
            (
                "no soft taint",
                pod("p", json!({})),
                vec![("a", soft_taint), ("b", json!({}))],
                vec![],
                "b",
            ),
            (
                "near a friend",
                pod("p", likes_db),
                two(),
                vec![(labelled("db", json!({"app": "db"}), json!({})), "b")],
                "b",
            ),
            (
                "where the image is",
                pod("p", json!({"containers": [{"name": "c", "image": "big:1"}]})),
                vec![
                    ("a", json!({})),
                    (
                        "b",
                        json!({"status": {"images": [{"names": ["big:1"], "sizeBytes": 900_000_000}]}}),
                    ),
                ],
                vec![],
                "b",
            ),
        ];
        for (name, pod, nodes, bound, expected) in cases {
            assert_eq!(place(&pod, &cluster(&nodes, bound)), Ok(expected.into()), "{name}");
        }
    }
}
