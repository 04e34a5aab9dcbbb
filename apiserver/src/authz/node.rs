//! The Node authorizer: a node sees what its own pods refer to.
//!
//! [`NodeGraph`] is the way from a node over its pods to secrets, config maps,
//! claims and accounts; [`decide`] answers a node's questions. Which of its own
//! objects a node may write, and what may stand in them, is for the admission
//! step NodeRestriction.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::{Attributes, Decision};
use crate::user::UserInfo;

/// Group of all nodes.
pub const GROUP: &str = "system:nodes";
const PREFIX: &str = "system:node:";

/// The node that a user is; both name and group must say so.
pub fn node_name(user: &UserInfo) -> Option<&str> {
    let name = user.name.strip_prefix(PREFIX)?;
    (!name.is_empty() && user.in_group(GROUP)).then_some(name)
}

/// One object by resource, namespace and name.
type Object = (&'static str, String, String);

#[derive(Debug, Default)]
struct PodRefs {
    node: String,
    objects: HashSet<Object>,
}

/// What the pods of each node refer to.
#[derive(Debug, Default)]
pub struct NodeGraph {
    pods: HashMap<(String, String), PodRefs>,
    /// How many pods of a node refer to an object.
    counts: HashMap<(String, Object), usize>,
    /// The volume that a claim is bound to.
    volume_of_claim: HashMap<(String, String), String>,
    /// The secrets of a volume's driver: namespace and name.
    secrets_of_volume: HashMap<String, Vec<(String, String)>>,
}

impl NodeGraph {
    /// Takes in a pod, claim or volume, or with `None` its deletion.
    pub fn apply(&mut self, resource: &str, namespace: &str, name: &str, object: Option<&Value>) {
        let key = (namespace.to_owned(), name.to_owned());
        match resource {
            "pods" => self.apply_pod(key, object),
            "persistentvolumeclaims" => {
                let volume = object.and_then(|claim| claim["spec"]["volumeName"].as_str());
                match volume {
                    Some(volume) => drop(self.volume_of_claim.insert(key, volume.to_owned())),
                    None => drop(self.volume_of_claim.remove(&key)),
                }
            }
            "persistentvolumes" => match object {
                Some(volume) => drop(self.secrets_of_volume.insert(key.1, volume_secrets(volume))),
                None => drop(self.secrets_of_volume.remove(name)),
            },
            _ => {}
        }
    }

    fn apply_pod(&mut self, key: (String, String), pod: Option<&Value>) {
        if let Some(old) = self.pods.remove(&key) {
            for object in old.objects {
                let slot = (old.node.clone(), object);
                if let Some(count) = self.counts.get_mut(&slot) {
                    *count -= 1;
                    if *count == 0 {
                        self.counts.remove(&slot);
                    }
                }
            }
        }
        let Some(pod) = pod else { return };
        let Some(node) = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) else {
            return;
        };
        // A mirror pod is written by its node; what it names proves nothing.
        if pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string() {
            return;
        }
        let refs = PodRefs { node: node.to_owned(), objects: pod_refs(pod, &key.0) };
        for object in &refs.objects {
            *self.counts.entry((refs.node.clone(), object.clone())).or_default() += 1;
        }
        self.pods.insert(key, refs);
    }

    fn refers(&self, node: &str, resource: &'static str, namespace: &str, name: &str) -> bool {
        let slot = (node.to_owned(), (resource, namespace.to_owned(), name.to_owned()));
        self.counts.contains_key(&slot)
    }

    fn refers_to_volume(&self, node: &str, volume: &str) -> bool {
        self.volume_of_claim.iter().any(|((namespace, claim), bound)| {
            bound == volume && self.refers(node, "persistentvolumeclaims", namespace, claim)
        })
    }

    fn refers_to_secret(&self, node: &str, namespace: &str, name: &str) -> bool {
        self.refers(node, "secrets", namespace, name)
            || self.secrets_of_volume.iter().any(|(volume, secrets)| {
                secrets.iter().any(|secret| secret.0 == namespace && secret.1 == name)
                    && self.refers_to_volume(node, volume)
            })
    }
}

/// Answers a question of `node`.
pub fn decide(graph: &NodeGraph, node: &str, asked: &Attributes<'_>) -> Decision {
    if !asked.resource_request {
        return Decision::Deny(String::new());
    }
    let allow = |yes: bool, why: &str| {
        if yes { Decision::Allow(String::new()) } else { Decision::Deny(why.to_owned()) }
    };
    let &Attributes { verb, namespace, name, subresource, .. } = asked;
    let reads = matches!(verb, "get" | "list" | "watch");
    let no_path = "no relationship found between node and this object";
    match (asked.group, asked.resource, subresource) {
        ("", "secrets", "") => allow(
            reads && !name.is_empty() && graph.refers_to_secret(node, namespace, name),
            no_path,
        ),
        ("", "configmaps", "") => {
            let known = graph.refers(node, "configmaps", namespace, name);
            allow(reads && !name.is_empty() && known, no_path)
        }
        ("", "persistentvolumeclaims", "") => {
            let known = graph.refers(node, "persistentvolumeclaims", namespace, name);
            allow(verb == "get" && known, no_path)
        }
        ("", "persistentvolumes", "") => {
            allow(verb == "get" && graph.refers_to_volume(node, name), no_path)
        }
        ("", "serviceaccounts", "token") => {
            let known = graph.refers(node, "serviceaccounts", namespace, name);
            allow(verb == "create" && known, no_path)
        }
        ("coordination.k8s.io", "leases", "") => {
            let own = namespace == "kube-node-lease" && name == node;
            // The name of a create stands in the body; admission looks at it.
            let create = verb == "create" && namespace == "kube-node-lease";
            let verbs = matches!(verb, "get" | "update" | "patch" | "delete");
            allow(
                create || own && verbs,
                "can only access node lease with the same name as the requesting node",
            )
        }
        ("storage.k8s.io", "csinodes", "") => {
            let verbs = matches!(verb, "get" | "create" | "update" | "patch" | "delete");
            allow(
                verbs && (name == node || verb == "create" && name.is_empty()),
                "can only access CSINode with the same name as the requesting node",
            )
        }
        _ => allow(standing(asked), ""),
    }
}

/// What every node may do, whatever its pods are.
fn standing(asked: &Attributes<'_>) -> bool {
    let verbs: &[&str] = match (asked.group, asked.resource, asked.subresource) {
        ("", "services" | "namespaces", "") => &["get", "list", "watch"],
        ("discovery.k8s.io", "endpointslices", "") => &["get", "list", "watch"],
        ("networking.k8s.io", "networkpolicies", "") => &["get", "list", "watch"],
        ("", "nodes", "") => &["create", "get", "list", "watch", "update", "patch"],
        ("", "nodes", "status") => &["update", "patch"],
        ("", "pods", "") => &["get", "list", "watch", "create", "delete"],
        ("", "pods", "status") => &["update", "patch"],
        ("", "pods", "eviction") => &["create"],
        ("" | "events.k8s.io", "events", "") => &["create", "update", "patch"],
        ("certificates.k8s.io", "certificatesigningrequests", "") => {
            &["create", "get", "list", "watch"]
        }
        ("authentication.k8s.io", "tokenreviews", "") => &["create"],
        ("authorization.k8s.io", "subjectaccessreviews" | "localsubjectaccessreviews", "") => {
            &["create"]
        }
        ("node.k8s.io", "runtimeclasses", "") => &["get", "list", "watch"],
        ("storage.k8s.io", "csidrivers", "") => &["get", "list", "watch"],
        ("storage.k8s.io", "volumeattachments", "") => &["get"],
        _ => return false,
    };
    verbs.contains(&asked.verb)
}

/// Whether a pod refers to any object that its node could read because of it.
pub(crate) fn refers_to_objects(pod: &Value) -> bool {
    !pod_refs(pod, "").is_empty()
}

/// Everything in its own namespace that a pod refers to.
fn pod_refs(pod: &Value, namespace: &str) -> HashSet<Object> {
    let mut refs = HashSet::new();
    let mut refer = |resource: &'static str, name: &Value| {
        if let Some(name) = name.as_str().filter(|name| !name.is_empty()) {
            refs.insert((resource, namespace.to_owned(), name.to_owned()));
        }
    };
    let spec = &pod["spec"];
    refer("serviceaccounts", &spec["serviceAccountName"]);
    for secret in items(&spec["imagePullSecrets"]) {
        refer("secrets", &secret["name"]);
    }
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for container in items(&spec[list]) {
            for variable in items(&container["env"]) {
                refer("secrets", &variable["valueFrom"]["secretKeyRef"]["name"]);
                refer("configmaps", &variable["valueFrom"]["configMapKeyRef"]["name"]);
            }
            for source in items(&container["envFrom"]) {
                refer("secrets", &source["secretRef"]["name"]);
                refer("configmaps", &source["configMapRef"]["name"]);
            }
        }
    }
    for volume in items(&spec["volumes"]) {
        refer("secrets", &volume["secret"]["secretName"]);
        refer("configmaps", &volume["configMap"]["name"]);
        refer("persistentvolumeclaims", &volume["persistentVolumeClaim"]["claimName"]);
        if volume["ephemeral"].is_object() {
            let pod = pod["metadata"]["name"].as_str().unwrap_or_default();
            let claim = format!("{pod}-{}", volume["name"].as_str().unwrap_or_default());
            refer("persistentvolumeclaims", &Value::String(claim));
        }
        for driver in ["csi", "flexVolume", "cephfs", "rbd", "iscsi", "scaleIO", "storageos"] {
            for key in ["nodePublishSecretRef", "secretRef"] {
                refer("secrets", &volume[driver][key]["name"]);
            }
        }
        refer("secrets", &volume["azureFile"]["secretName"]);
        for source in items(&volume["projected"]["sources"]) {
            refer("secrets", &source["secret"]["name"]);
            refer("configmaps", &source["configMap"]["name"]);
        }
    }
    refs
}

/// The secrets that a volume's driver needs on the node.
fn volume_secrets(volume: &Value) -> Vec<(String, String)> {
    let csi = &volume["spec"]["csi"];
    ["nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"]
        .iter()
        .filter_map(|key| {
            let reference = &csi[*key];
            Some((
                reference["namespace"].as_str()?.to_owned(),
                reference["name"].as_str()?.to_owned(),
            ))
        })
        .collect()
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(node: &str) -> Value {
        json!({ "metadata": { "name": "p" }, "spec": {
            "nodeName": node,
            "serviceAccountName": "bot",
            "imagePullSecrets": [{ "name": "pull" }],
            "containers": [{
                "env": [{ "valueFrom": { "secretKeyRef": { "name": "env-secret" } } }],
                "envFrom": [{ "configMapRef": { "name": "env-map" } }],
            }],
            "volumes": [
                { "secret": { "secretName": "vol-secret" } },
                { "projected": { "sources": [{ "configMap": { "name": "kube-root-ca.crt" } }] } },
                { "persistentVolumeClaim": { "claimName": "data" } },
            ],
        } })
    }

    fn graph() -> NodeGraph {
        let mut graph = NodeGraph::default();
        graph.apply("pods", "a", "p", Some(&pod("n1")));
        let claim = json!({ "spec": { "volumeName": "pv1" } });
        graph.apply("persistentvolumeclaims", "a", "data", Some(&claim));
        let volume = json!({ "spec": { "csi": { "nodeStageSecretRef": { "namespace": "csi", "name": "stage" } } } });
        graph.apply("persistentvolumes", "", "pv1", Some(&volume));
        graph
    }

    fn ask(
        graph: &NodeGraph,
        node: &str,
        verb: &str,
        group: &str,
        resource: &str,
        at: (&str, &str),
    ) -> bool {
        let user = UserInfo::new(&format!("{PREFIX}{node}"), [GROUP]);
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let asked = Attributes {
            user: &user,
            verb,
            group,
            version: "v1",
            resource,
            subresource,
            namespace: at.0,
            name: at.1,
            path: "",
            resource_request: true,
        };
        matches!(decide(graph, node_name(&user).unwrap(), &asked), Decision::Allow(_))
    }

    #[test]
    fn a_node_sees_what_its_pods_refer_to() {
        let graph = graph();
        #[rustfmt::skip]
        let cases = [
            ("n1", "get", "secrets", ("a", "pull"), true),
            ("n1", "get", "secrets", ("a", "env-secret"), true),
            ("n1", "watch", "secrets", ("a", "vol-secret"), true),
            ("n1", "get", "secrets", ("csi", "stage"), true),
            ("n1", "get", "secrets", ("b", "pull"), false),
            ("n1", "get", "secrets", ("a", "other"), false),
            ("n1", "list", "secrets", ("a", ""), false),
            ("n1", "list", "secrets", ("", ""), false),
            ("n1", "update", "secrets", ("a", "pull"), false),
            ("n2", "get", "secrets", ("a", "pull"), false),
            ("n1", "get", "configmaps", ("a", "env-map"), true),
            ("n1", "get", "configmaps", ("a", "kube-root-ca.crt"), true),
            ("n2", "get", "configmaps", ("a", "env-map"), false),
            ("n1", "get", "persistentvolumeclaims", ("a", "data"), true),
            ("n1", "get", "persistentvolumes", ("", "pv1"), true),
            ("n2", "get", "persistentvolumes", ("", "pv1"), false),
            ("n1", "create", "serviceaccounts/token", ("a", "bot"), true),
            ("n1", "create", "serviceaccounts/token", ("a", "admin"), false),
            ("n2", "create", "serviceaccounts/token", ("a", "bot"), false),
            ("n1", "list", "pods", ("", ""), true),
            ("n1", "update", "pods", ("a", "p"), false),
            ("n1", "patch", "pods/status", ("a", "p"), true),
            ("n1", "create", "pods/exec", ("a", "p"), false),
            ("n1", "delete", "nodes", ("", "n1"), false),
        ];
        for (node, verb, resource, at, allowed) in cases {
            let answer = ask(&graph, node, verb, "", resource, at);
            assert_eq!(answer, allowed, "{node} {verb} {resource} {at:?}");
        }
        let lease = ("coordination.k8s.io", "leases");
        assert!(ask(&graph, "n1", "update", lease.0, lease.1, ("kube-node-lease", "n1")));
        assert!(!ask(&graph, "n1", "update", lease.0, lease.1, ("kube-node-lease", "n2")));
        assert!(!ask(&graph, "n1", "update", lease.0, lease.1, ("kube-system", "n1")));
    }

    #[test]
    fn references_end_with_the_pod() {
        let mut graph = graph();
        graph.apply("pods", "a", "q", Some(&pod("n1")));
        graph.apply("pods", "a", "p", None);
        assert!(
            ask(&graph, "n1", "get", "", "secrets", ("a", "pull")),
            "the other pod still refers"
        );
        graph.apply("pods", "a", "q", Some(&pod("n2")));
        assert!(!ask(&graph, "n1", "get", "", "secrets", ("a", "pull")));
        assert!(ask(&graph, "n2", "get", "", "secrets", ("a", "pull")));
        graph.apply("pods", "a", "q", None);
        assert!(graph.counts.is_empty() && graph.pods.is_empty(), "nothing is kept");
    }

    #[test]
    fn a_node_has_name_and_group() {
        assert_eq!(node_name(&UserInfo::new("system:node:n1", [GROUP])), Some("n1"));
        assert_eq!(node_name(&UserInfo::new("system:node:n1", [])), None);
        assert_eq!(node_name(&UserInfo::new("system:node:", [GROUP])), None);
        assert_eq!(node_name(&UserInfo::new("n1", [GROUP])), None);
    }

    #[test]
    fn a_mirror_pod_proves_nothing() {
        let mut mirror = pod("n1");
        mirror["metadata"]["annotations"] = json!({ "kubernetes.io/config.mirror": "x" });
        let mut graph = NodeGraph::default();
        graph.apply("pods", "a", "m", Some(&mirror));
        assert!(!ask(&graph, "n1", "get", "", "secrets", ("a", "pull")));
    }
}
