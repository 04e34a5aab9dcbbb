//! The picture of the cluster that decisions are made from.
//!
//! Kept up to date one object at a time, so an event costs what changed. A pod
//! counts against its node from the moment the scheduler decided, before the
//! binding is written; otherwise two pods decided in a row would both take the
//! last free core.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, PodSpec, Taint};
use skiff_api::placement::NodeView;
use skiff_api::quantity::Quantity;

use crate::resources::Resources;
use crate::volumes::Volumes;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// What the scheduler needs to know of one pod.
#[derive(Debug, Clone, PartialEq)]
pub struct PodInfo {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// The uid of the controlling owner; siblings are spread.
    pub owner: Option<String>,
    /// `spec.priority`; higher goes first.
    pub priority: i32,
    /// What it asks for.
    pub requests: Resources,
    /// The node it is bound to, or was decided for.
    pub node: Option<String>,
    /// It has a deletion timestamp: it still takes room, but is leaving.
    pub terminating: bool,
    /// Its spec, for the rules that read it.
    pub spec: Arc<PodSpec>,
}

impl PodInfo {
    /// Reads a pod from the API; `None` when it lacks a uid or a spec.
    pub fn of(pod: &Pod) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        let meta = &pod.metadata;
        Some(Self {
            uid: meta.uid.clone()?,
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            generation: meta.generation,
            labels: meta.labels.clone().unwrap_or_default(),
            owner: (meta.owner_references.iter().flatten())
                .find(|owner| owner.controller == Some(true))
                .map(|owner| owner.uid.clone()),
            priority: spec.priority.unwrap_or(0),
            requests: Resources::requested_by(spec, pod.status.as_ref()),
            node: spec.node_name.clone().filter(|name| !name.is_empty()),
            terminating: meta.deletion_timestamp.is_some(),
            spec: Arc::new(spec.clone()),
        })
    }

    /// Whether others must ask this pod before they come near it.
    fn has_required_anti_affinity(&self) -> bool {
        (self.spec.affinity.as_ref())
            .and_then(|affinity| affinity.pod_anti_affinity.as_ref())
            .and_then(|anti| anti.required_during_scheduling_ignored_during_execution.as_ref())
            .is_some_and(|terms| !terms.is_empty())
    }
}

/// What the scheduler needs to know of one node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeInfo {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `spec.taints`.
    pub taints: Vec<Taint>,
    /// `spec.unschedulable`, set by `kubectl cordon`.
    pub unschedulable: bool,
    /// `status.allocatable`.
    pub allocatable: Resources,
    /// How many pods it may hold.
    pub max_pods: usize,
    /// What its pods ask for, summed.
    pub requested: Resources,
    /// Its pods by uid.
    pub pods: HashMap<String, Arc<PodInfo>>,
    /// Names of images that are there, with their sizes in bytes.
    pub images: HashMap<String, i64>,
}

impl NodeInfo {
    /// What selectors see of the node.
    pub fn view(&self) -> NodeView<'_> {
        NodeView { name: &self.name, labels: &self.labels }
    }
}

/// Nodes, the pods that are on them, and the labels of namespaces.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    nodes: BTreeMap<String, NodeInfo>,
    pods: HashMap<String, Arc<PodInfo>>,
    namespaces: BTreeMap<String, Labels>,
    /// Pods with required anti-affinity: usually few, asked for every placement.
    guarded: HashSet<String>,
    volumes: Volumes,
}

impl Cluster {
    /// All nodes in the order of their names.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &NodeInfo> {
        self.nodes.values()
    }

    /// One node.
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.get(name)
    }

    /// All pods that have a node.
    pub fn pods(&self) -> impl Iterator<Item = &Arc<PodInfo>> {
        self.pods.values()
    }

    /// The pod with this uid, if it has a node.
    pub fn pods_by_uid(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        self.pods.get(uid)
    }

    /// Pods whose required anti-affinity others must respect.
    pub fn guarded_pods(&self) -> impl Iterator<Item = &Arc<PodInfo>> {
        self.guarded.iter().filter_map(|uid| self.pods.get(uid))
    }

    /// Claims, volumes and classes.
    pub fn volumes(&self) -> &Volumes {
        &self.volumes
    }

    /// The same, to be brought up to date.
    pub fn volumes_mut(&mut self) -> &mut Volumes {
        &mut self.volumes
    }

    /// The labels of a namespace, if it is known.
    pub fn namespace_labels(&self, name: &str) -> Option<&Labels> {
        self.namespaces.get(name)
    }

    /// Adds or replaces a node. True when something a placement depends on
    /// changed (a heartbeat in its status does not count).
    pub fn upsert_node(&mut self, node: &Node) -> bool {
        let mut info = node_info(node);
        match self.nodes.remove(&info.name) {
            Some(old) => {
                let pods = old.pods.clone();
                info.requested = old.requested.clone();
                info.pods = pods;
                let changed = info != old;
                self.nodes.insert(info.name.clone(), info);
                changed
            }
            None => {
                for pod in self.pods.values().filter(|pod| pod.node.as_deref() == Some(&info.name))
                {
                    info.requested.add(&pod.requests);
                    info.pods.insert(pod.uid.clone(), pod.clone());
                }
                self.nodes.insert(info.name.clone(), info);
                true
            }
        }
    }

    /// Forgets a node; its pods stay known until they are deleted.
    pub fn remove_node(&mut self, name: &str) {
        self.nodes.remove(name);
    }

    /// Adds or replaces a pod that has a node.
    pub fn upsert_pod(&mut self, pod: Arc<PodInfo>) {
        self.remove_pod(&pod.uid);
        if pod.has_required_anti_affinity() {
            self.guarded.insert(pod.uid.clone());
        }
        if let Some(node) = pod.node.as_ref().and_then(|name| self.nodes.get_mut(name)) {
            node.requested.add(&pod.requests);
            node.pods.insert(pod.uid.clone(), pod.clone());
        }
        self.pods.insert(pod.uid.clone(), pod);
    }

    /// Forgets a pod and frees what it asked for. True when it was there.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        self.guarded.remove(uid);
        let Some(pod) = self.pods.remove(uid) else { return false };
        if let Some(node) = pod.node.as_ref().and_then(|name| self.nodes.get_mut(name))
            && node.pods.remove(uid).is_some()
        {
            node.requested.subtract(&pod.requests);
        }
        true
    }

    /// Adds or replaces a namespace.
    pub fn upsert_namespace(&mut self, namespace: &Namespace) {
        if let Some(name) = &namespace.metadata.name {
            self.namespaces
                .insert(name.clone(), namespace.metadata.labels.clone().unwrap_or_default());
        }
    }

    /// Forgets a namespace.
    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }
}

fn node_info(node: &Node) -> NodeInfo {
    let spec = node.spec.clone().unwrap_or_default();
    let status = node.status.as_ref();
    let allocatable =
        status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
    let mut images = HashMap::new();
    for image in status.and_then(|status| status.images.as_ref()).into_iter().flatten() {
        for name in image.names.iter().flatten() {
            images.insert(name.clone(), image.size_bytes.unwrap_or(0));
        }
    }
    NodeInfo {
        name: node.metadata.name.clone().unwrap_or_default(),
        labels: node.metadata.labels.clone().unwrap_or_default(),
        taints: spec.taints.unwrap_or_default(),
        unschedulable: spec.unschedulable.unwrap_or(false),
        max_pods: (allocatable.and_then(|list| list.get("pods")))
            .and_then(|amount| amount.0.parse::<Quantity>().ok())
            .map_or(0, |amount| usize::try_from(amount.units()).unwrap_or(0)),
        allocatable: allocatable.map(Resources::from_list).unwrap_or_default(),
        requested: Resources::default(),
        pods: HashMap::new(),
        images,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::place::tests::{node, pod};

    #[test]
    fn a_pod_counts_whichever_of_pod_and_node_comes_first() {
        let bound = |name: &str| {
            let mut info = pod(
                name,
                json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}),
            );
            info.node = Some("n".into());
            Arc::new(info)
        };
        let mut cluster = Cluster::default();
        cluster.upsert_pod(bound("early"));
        cluster.upsert_node(&node("n", json!({})));
        cluster.upsert_pod(bound("late"));
        cluster.upsert_pod(bound("late"));
        assert_eq!(cluster.node("n").unwrap().requested.cpu_milli, 2000);
        assert!(cluster.remove_pod("early"));
        assert!(!cluster.remove_pod("early"));
        assert_eq!(cluster.node("n").unwrap().requested.cpu_milli, 1000);
    }

    #[test]
    fn a_heartbeat_is_not_a_change() {
        let mut cluster = Cluster::default();
        assert!(cluster.upsert_node(&node("n", json!({}))));
        let mut beat = node("n", json!({}));
        beat.metadata.resource_version = Some("2".into());
        assert!(!cluster.upsert_node(&beat));
        assert!(cluster.upsert_node(&node("n", json!({"metadata": {"labels": {"disk": "ssd"}}}))));
    }
}
