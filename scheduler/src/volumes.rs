//! Volume topology: where a pod's claims can be served.
//!
//! A bound claim is served where its volume can be reached. A claim whose
//! class waits for its first pod is served where a free volume is, or where
//! the class's provisioner may make one; the scheduler's choice is written as
//! the volume's `claimRef` or as the claim's annotation of the selected node,
//! and the pod is bound when its claims are. Until what was written has come
//! back, the choice is remembered here as a promise, so that no other claim
//! gets the same volume and no other pod drags the claim to another node.
//!
//! The rules and messages are those of upstream's plug-ins `VolumeBinding` and
//! `VolumeRestrictions`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use skiff_api::volume::{
    BIND_COMPLETED, Place, SELECTED_NODE, WAIT_FOR_CONSUMER, best_match, claim_name, class_of_claim,
};

use crate::cluster::{Cluster, NodeInfo, PodInfo};
use crate::filter::Refusal;

/// A claim's namespace and name.
pub type ClaimKey = (String, String);

/// The claims, volumes and classes of the cluster, and what was promised.
#[derive(Debug, Clone, Default)]
pub struct Volumes {
    claims: HashMap<ClaimKey, Arc<PersistentVolumeClaim>>,
    volumes: BTreeMap<String, Arc<PersistentVolume>>,
    classes: HashMap<String, Arc<StorageClass>>,
    promises: HashMap<ClaimKey, Promise>,
}

/// Where a claim will be served, decided but not yet seen.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Promise {
    node: String,
    volume: Option<String>,
}

/// What has to be written so that a claim is served on the chosen node.
#[derive(Debug, Clone)]
pub enum Choice {
    /// This free volume is kept for the claim.
    Take(Arc<PersistentVolumeClaim>, Arc<PersistentVolume>),
    /// The claim's provisioner is told the node.
    Provision(Arc<PersistentVolumeClaim>, String),
}

impl Choice {
    /// The claim it is for.
    pub fn claim(&self) -> ClaimKey {
        let (Self::Take(claim, _) | Self::Provision(claim, _)) = self;
        key_of(claim)
    }
}

/// What a pod's claims ask of a node.
#[derive(Debug, Default)]
pub struct Wants<'a> {
    bound: Vec<&'a PersistentVolume>,
    delayed: Vec<&'a Arc<PersistentVolumeClaim>>,
    /// A claim that only one pod may use is used by another.
    taken: bool,
}

impl Wants<'_> {
    /// Whether the pod has to wait for a claim once its node is chosen.
    pub fn must_wait(&self) -> bool {
        !self.delayed.is_empty()
    }
}

fn key_of(claim: &PersistentVolumeClaim) -> ClaimKey {
    let meta = &claim.metadata;
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

fn annotation<'a>(claim: &'a PersistentVolumeClaim, key: &str) -> Option<&'a str> {
    claim.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

fn volume_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref().filter(|name| !name.is_empty())
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    volume_name(claim).is_some() && annotation(claim, BIND_COMPLETED).is_some()
}

/// The claims of a pod.
pub fn claims_of(pod: &PodInfo) -> impl Iterator<Item = ClaimKey> {
    let volumes = pod.spec.volumes.iter().flatten();
    let names = volumes.filter_map(|volume| claim_name(&pod.name, volume));
    names.map(|name| (pod.namespace.clone(), name))
}

impl Volumes {
    /// Adds or replaces a claim. A promise ends when it was kept, or when the
    /// provisioner gave the choice of node back.
    pub fn upsert_claim(&mut self, claim: PersistentVolumeClaim) {
        let key = key_of(&claim);
        let selected = |claim: &PersistentVolumeClaim| annotation(claim, SELECTED_NODE).is_some();
        let given_back =
            self.claims.get(&key).is_some_and(|old| selected(old) && !selected(&claim));
        if is_bound(&claim) || given_back {
            self.promises.remove(&key);
        }
        self.claims.insert(key, Arc::new(claim));
    }

    /// Forgets a claim.
    pub fn remove_claim(&mut self, claim: &PersistentVolumeClaim) {
        let key = key_of(claim);
        self.promises.remove(&key);
        self.claims.remove(&key);
    }

    /// Adds or replaces a volume.
    pub fn upsert_volume(&mut self, volume: PersistentVolume) {
        let name = volume.metadata.name.clone().unwrap_or_default();
        self.volumes.insert(name, Arc::new(volume));
    }

    /// Forgets a volume.
    pub fn remove_volume(&mut self, volume: &PersistentVolume) {
        self.volumes.remove(volume.metadata.name.as_deref().unwrap_or_default());
    }

    /// Adds or replaces a class.
    pub fn upsert_class(&mut self, class: StorageClass) {
        let name = class.metadata.name.clone().unwrap_or_default();
        self.classes.insert(name, Arc::new(class));
    }

    /// Forgets a class.
    pub fn remove_class(&mut self, class: &StorageClass) {
        self.classes.remove(class.metadata.name.as_deref().unwrap_or_default());
    }

    /// Forgets all claims; a fresh list follows. Promises stay.
    pub fn clear_claims(&mut self) {
        self.claims.clear();
    }

    /// Forgets all volumes.
    pub fn clear_volumes(&mut self) {
        self.volumes.clear();
    }

    /// Forgets all classes.
    pub fn clear_classes(&mut self) {
        self.classes.clear();
    }

    /// Remembers what was decided.
    pub fn promise(&mut self, node: &str, choices: &[Choice]) {
        for choice in choices {
            let volume = match choice {
                Choice::Take(_, volume) => volume.metadata.name.clone(),
                Choice::Provision(..) => None,
            };
            self.promises.insert(choice.claim(), Promise { node: node.to_owned(), volume });
        }
    }

    /// Takes back what could not be written.
    pub fn break_promises(&mut self, claims: impl IntoIterator<Item = ClaimKey>) {
        for claim in claims {
            self.promises.remove(&claim);
        }
    }

    /// Whether a promise for one of the pod's claims is open.
    pub fn is_promised(&self, pod: &PodInfo) -> bool {
        claims_of(pod).any(|claim| self.promises.contains_key(&claim))
    }

    /// What the pod's claims ask of a node, or why no node will do.
    pub fn wants<'a>(&'a self, pod: &PodInfo, cluster: &Cluster) -> Result<Wants<'a>, String> {
        let mut wants = Wants::default();
        for key in claims_of(pod) {
            let name = &key.1;
            let Some(claim) = self.claims.get(&key) else {
                return Err(format!("persistentvolumeclaim \"{name}\" not found"));
            };
            if claim.metadata.deletion_timestamp.is_some() {
                return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
            }
            if is_bound(claim) {
                let volume = volume_name(claim).unwrap_or_default();
                let Some(found) = self.volumes.get(volume) else {
                    return Err(format!(
                        "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{volume}\""
                    ));
                };
                wants.bound.push(found);
            } else if volume_name(claim).is_none() && self.waits(claim) {
                wants.delayed.push(claim);
            } else {
                return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
            }
            let modes = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref());
            if modes.unwrap_or_default().iter().any(|mode| mode == "ReadWriteOncePod") {
                wants.taken |= cluster
                    .pods()
                    .any(|other| other.uid != pod.uid && claims_of(other).any(|used| used == key));
            }
        }
        Ok(wants)
    }

    fn waits(&self, claim: &PersistentVolumeClaim) -> bool {
        let class = class_of_claim(claim).and_then(|name| self.classes.get(name));
        class.is_some_and(|class| class.volume_binding_mode.as_deref() == Some(WAIT_FOR_CONSUMER))
    }

    /// Whether the claims can be served on the node.
    pub fn filter(&self, wants: &Wants<'_>, node: &NodeInfo) -> Result<(), Refusal> {
        if wants.taken {
            return Err(Refusal::VolumeTaken);
        }
        if !wants.bound.iter().all(|volume| reaches(volume, node)) {
            return Err(Refusal::VolumeElsewhere);
        }
        if wants.delayed.is_empty() { Ok(()) } else { self.choose(wants, node).map(drop) }
    }

    /// How the claims that wait are served on the node. A claim with an open
    /// promise needs no further choice, but keeps to its node.
    pub fn choose(&self, wants: &Wants<'_>, node: &NodeInfo) -> Result<Vec<Choice>, Refusal> {
        let mut choices = Vec::new();
        let mut used: BTreeSet<&str> =
            self.promises.values().filter_map(|promise| promise.volume.as_deref()).collect();
        for claim in &wants.delayed {
            if let Some(promise) = self.promises.get(&key_of(claim)) {
                if promise.node != node.name {
                    return Err(Refusal::NoVolume);
                }
                continue;
            }
            let free = self.volumes.values().map(AsRef::as_ref);
            let free = free.filter(|volume: &&PersistentVolume| {
                !used.contains(volume.metadata.name.as_deref().unwrap_or_default())
            });
            let here = |volume: &PersistentVolume| reaches(volume, node);
            let found = best_match(claim, free, Place::Reached(&here))
                .and_then(|volume| self.volumes.get(volume.metadata.name.as_ref()?));
            if let Some(volume) = found {
                used.insert(volume.metadata.name.as_deref().unwrap_or_default());
                choices.push(Choice::Take(Arc::clone(claim), Arc::clone(volume)));
            } else if self.may_provision(claim, node) {
                choices.push(Choice::Provision(Arc::clone(claim), node.name.clone()));
            } else {
                return Err(Refusal::NoVolume);
            }
        }
        Ok(choices)
    }

    fn may_provision(&self, claim: &PersistentVolumeClaim, node: &NodeInfo) -> bool {
        if annotation(claim, SELECTED_NODE).is_some_and(|selected| selected != node.name) {
            return false;
        }
        let class = class_of_claim(claim).and_then(|name| self.classes.get(name));
        let Some(class) = class else { return false };
        let terms = class.allowed_topologies.as_deref().unwrap_or_default();
        let allowed = terms.is_empty()
            || terms.iter().any(|term| {
                term.match_label_expressions.iter().flatten().all(|one| {
                    node.labels.get(&one.key).is_some_and(|value| one.values.contains(value))
                })
            });
        allowed && class.provisioner != "kubernetes.io/no-provisioner"
    }
}

/// Whether the volume can be used on the node.
fn reaches(volume: &PersistentVolume, node: &NodeInfo) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required.as_ref());
    required.is_none_or(|selector| node.view().matches(selector))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::place::place;
    use crate::place::tests::{node, pod};

    fn cluster(objects: Vec<Value>) -> Cluster {
        let mut cluster = Cluster::default();
        for name in ["a", "b"] {
            cluster.upsert_node(&node(name, json!({})));
        }
        for mut object in objects {
            object["metadata"]["namespace"] = json!("default");
            let volumes = cluster.volumes_mut();
            match object["kind"].as_str() {
                Some("PersistentVolumeClaim") => {
                    volumes.upsert_claim(serde_json::from_value(object).unwrap())
                }
                Some("StorageClass") => {
                    volumes.upsert_class(serde_json::from_value(object).unwrap())
                }
                _ => volumes.upsert_volume(serde_json::from_value(object).unwrap()),
            }
        }
        cluster
    }

    fn claim(name: &str, class: &str, annotations: Value, volume: &str) -> Value {
        json!({"kind": "PersistentVolumeClaim", "metadata": {"name": name, "uid": name, "annotations": annotations},
               "spec": {"storageClassName": class, "volumeName": volume, "accessModes": ["ReadWriteOnce"],
                        "resources": {"requests": {"storage": "1Gi"}}}})
    }

    fn volume(name: &str, host: &str) -> Value {
        json!({"metadata": {"name": name}, "status": {"phase": "Available"},
               "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "later",
                        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                            {"key": "kubernetes.io/hostname", "operator": "In", "values": [host]}]}]}}}})
    }

    fn class(provisioner: &str) -> Value {
        json!({"kind": "StorageClass", "metadata": {"name": "later"}, "provisioner": provisioner, "volumeBindingMode": WAIT_FOR_CONSUMER})
    }

    fn user(name: &str) -> PodInfo {
        pod(
            name,
            json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}),
        )
    }

    #[test]
    fn a_pod_goes_where_its_claims_can_be_served() {
        let bound = || json!({BIND_COMPLETED: "yes"});
        let no = "kubernetes.io/no-provisioner";
        let cases = [
            ("bound", vec![claim("data", "later", bound(), "v"), volume("v", "b")], Ok("b")),
            (
                "volume elsewhere",
                vec![claim("data", "later", bound(), "v"), volume("v", "c")],
                Err(
                    "0/2 nodes are available: 2 node(s) didn't match PersistentVolume's node affinity.",
                ),
            ),
            (
                "no claim",
                vec![],
                Err("0/2 nodes are available: persistentvolumeclaim \"data\" not found."),
            ),
            (
                "volume is gone",
                vec![claim("data", "later", bound(), "v")],
                Err(
                    "0/2 nodes are available: persistentvolumeclaim \"data\" bound to non-existent persistentvolume \"v\".",
                ),
            ),
            (
                "not bound yet",
                vec![claim("data", "now", Value::Null, "")],
                Err("0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims."),
            ),
            (
                "free volume",
                vec![claim("data", "later", Value::Null, ""), class(no), volume("v", "b")],
                Ok("b"),
            ),
            (
                "none free",
                vec![claim("data", "later", Value::Null, ""), class(no)],
                Err(
                    "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind.",
                ),
            ),
            ("made anywhere", vec![claim("data", "later", Value::Null, ""), class("x/y")], Ok("a")),
            (
                "begun elsewhere",
                vec![claim("data", "later", json!({SELECTED_NODE: "b"}), ""), class("x/y")],
                Ok("b"),
            ),
        ];
        for (name, objects, expected) in cases {
            let placed =
                place(&user("p"), &cluster(objects)).map_err(|refused| refused.to_string());
            assert_eq!(placed.as_deref().map_err(String::as_str), expected, "{name}");
        }
    }

    #[test]
    fn a_promised_volume_is_not_given_twice_and_a_claim_stays_where_it_was_promised() {
        let objects = vec![
            claim("data", "later", Value::Null, ""),
            claim("other", "later", Value::Null, ""),
            class("kubernetes.io/no-provisioner"),
            volume("v", "b"),
        ];
        let mut cluster = cluster(objects);
        let first = user("first");
        let wants = cluster.volumes().wants(&first, &cluster).unwrap();
        assert!(wants.must_wait());
        let choices = cluster.volumes().choose(&wants, cluster.node("b").unwrap()).unwrap();
        assert!(matches!(&choices[..], [Choice::Take(..)]));
        cluster.volumes_mut().promise("b", &choices);
        let mut second = user("second");
        assert_eq!(place(&second, &cluster), Ok("b".into()), "shares the claim");
        let spec = json!({"containers": [], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "other"}}]});
        second.spec = Arc::new(serde_json::from_value(spec).unwrap());
        assert!(place(&second, &cluster).is_err(), "the volume is spoken for");
        cluster.volumes_mut().break_promises(choices.iter().map(Choice::claim));
        assert_eq!(place(&second, &cluster), Ok("b".into()));
    }

    #[test]
    fn a_choice_that_the_provisioner_gives_back_is_free_again() {
        let mut cluster =
            cluster(vec![claim("data", "later", json!({SELECTED_NODE: "b"}), ""), class("x/y")]);
        let pod = user("p");
        let wants = cluster.volumes().wants(&pod, &cluster).unwrap();
        let choices = cluster.volumes().choose(&wants, cluster.node("b").unwrap()).unwrap();
        cluster.volumes_mut().promise("b", &choices);
        assert!(cluster.volumes().is_promised(&pod));
        let mut back = claim("data", "later", Value::Null, "");
        back["metadata"]["namespace"] = json!("default");
        cluster.volumes_mut().upsert_claim(serde_json::from_value(back).unwrap());
        assert!(!cluster.volumes().is_promised(&pod));
        assert_eq!(place(&pod, &cluster), Ok("a".into()));
    }

    #[test]
    fn a_claim_for_one_pod_is_for_one_pod() {
        let mut once = claim("data", "later", json!({BIND_COMPLETED: "yes"}), "v");
        once["spec"]["accessModes"] = json!(["ReadWriteOncePod"]);
        let mut cluster = cluster(vec![once, volume("v", "b")]);
        assert_eq!(place(&user("p"), &cluster), Ok("b".into()));
        cluster.upsert_pod(Arc::new(PodInfo { node: Some("b".into()), ..user("q") }));
        assert_eq!(
            place(&user("p"), &cluster).unwrap_err().to_string(),
            "0/2 nodes are available: 2 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode."
        );
    }
}
