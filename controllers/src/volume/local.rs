//! Volumes that are folders on nodes: made for claims, removed after them.
//!
//! The object names the folder and the node; the node's agent makes the folder
//! when a pod first mounts it. To remove it the agent is asked through the API
//! server, `DELETE /api/v1/nodes/NODE/proxy/localVolumes/NAME`; until it has
//! done so, a finalizer keeps the object. A node that has left the cluster took
//! the folder with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{Method, Request};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};
use skiff_api::volume::{LOCAL_PROVISIONER, LOCAL_VOLUMES_DIR, PROVISIONED_BY, SELECTED_NODE};
use skiff_client::Api;
use tracing::info;

use super::write;
use crate::context::Context;
use crate::error::{Doing, Error, ignore_not_found, is_already_exists};
use crate::events::Severity;
use crate::meta;

/// In whose name events are recorded.
const COMPONENT: &str = LOCAL_PROVISIONER;
/// Keeps the object until its folder is gone; the name is upstream's.
const FINALIZER: &str = "kubernetes.io/pv-controller";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// Makes and removes local volumes.
pub(super) struct Local {
    context: Context,
}

/// Why a claim cannot be served.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Refusal {
    /// It asks for what a folder cannot be; only another claim helps.
    Unsuited(&'static str),
    /// The scheduler's choice does not hold any more; it has to choose again.
    NodeGone(String),
    /// No node can take it now.
    NoNode,
}

impl Local {
    pub(super) fn new(context: &Context) -> Self {
        Self { context: context.clone() }
    }

    /// Makes the claim's volume, on the node that the scheduler selected.
    pub(super) async fn provision(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
    ) -> Result<(), Error> {
        let tell = |severity, reason, message: String| {
            let regarding = meta::object_reference(claim);
            self.context.events.record(COMPONENT, &regarding, severity, reason, message);
        };
        let failed = |message: String| {
            let message = format!(
                "failed to provision volume with StorageClass \"{}\": {message}",
                meta::name(&class.metadata)
            );
            tell(Severity::Warning, "ProvisioningFailed", message);
        };
        let caches = &self.context.caches;
        let volume = match plan(claim, class, &caches.nodes.all(), &caches.volumes.all()) {
            Ok(volume) => volume,
            Err(Refusal::Unsuited(why)) => {
                failed(why.to_owned());
                return Ok(());
            }
            Err(Refusal::NodeGone(node)) => {
                failed(format!("node \"{node}\" cannot take it"));
                let forget = json!({"metadata": {"annotations": {SELECTED_NODE: null}}});
                write::patch(&self.context.client, claim, forget, false).await?;
                return Ok(());
            }
            Err(Refusal::NoNode) => {
                failed("no node can take it".to_owned());
                return Err(Error::Unfinished("no node for a local volume".into()));
            }
        };
        let name = meta::name(&volume.metadata).to_owned();
        let api: Api<PersistentVolume> = Api::all(self.context.client.clone());
        match api.create(&PostParams::default(), &volume).await {
            // An earlier pass was faster than the cache.
            Err(error) if is_already_exists(&error) => return Ok(()),
            created => created.doing(|| format!("create volume {name}"))?,
        };
        info!(volume = name, "made");
        let message = format!("Successfully provisioned volume {name}");
        tell(Severity::Normal, "ProvisioningSucceeded", message);
        Ok(())
    }

    /// Has the volume's folder removed, then removes the volume.
    pub(super) async fn remove(&self, volume: &PersistentVolume) -> Result<(), Error> {
        let name = meta::name(&volume.metadata);
        if let Some(node) = node_of(volume, &self.context.caches.nodes.all()) {
            let node = meta::name(&node.metadata);
            let request = Request::builder()
                .method(Method::DELETE)
                .uri(format!("/api/v1/nodes/{node}/proxy/localVolumes/{name}"))
                .body(Vec::new())
                .map_err(|error| Error::Invalid(error.to_string()))?;
            let removed = self.context.client.request_text(request).await;
            removed.doing(|| format!("remove the folder of volume {name} on node {node}"))?;
        }
        self.let_go(volume).await?;
        let api: Api<PersistentVolume> = Api::all(self.context.client.clone());
        let params = DeleteParams {
            preconditions: Some(kube::api::Preconditions {
                uid: volume.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        ignore_not_found(api.delete(name, &params).await)
            .doing(|| format!("delete volume {name}"))?;
        info!(volume = name, "removed");
        Ok(())
    }

    /// Stops keeping the object for the sake of its folder.
    pub(super) async fn let_go(&self, volume: &PersistentVolume) -> Result<(), Error> {
        if !meta::has_finalizer(&volume.metadata, FINALIZER) {
            return Ok(());
        }
        let rest: Vec<&String> =
            volume.metadata.finalizers.iter().flatten().filter(|one| *one != FINALIZER).collect();
        let patch = json!({"metadata": {"finalizers": rest}});
        write::patch(&self.context.client, volume, patch, false).await.map(drop)
    }
}

/// The volume for a claim, or why there can be none.
fn plan(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    nodes: &[Arc<Node>],
    volumes: &[Arc<PersistentVolume>],
) -> Result<PersistentVolume, Refusal> {
    let spec = claim.spec.clone().unwrap_or_default();
    let modes = spec.access_modes.unwrap_or_default();
    if modes.iter().any(|mode| mode.ends_with("Many")) {
        return Err(Refusal::Unsuited(
            "a folder on one node cannot be ReadWriteMany or ReadOnlyMany",
        ));
    }
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err(Refusal::Unsuited("a folder is no block device"));
    }
    if spec.selector.is_some() {
        return Err(Refusal::Unsuited("claim.spec.selector is not supported"));
    }
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return Err(Refusal::Unsuited("claim.spec.dataSource is not supported"));
    }
    let selected = meta::annotation(&claim.metadata, SELECTED_NODE);
    let node = match selected {
        Some(name) => nodes
            .iter()
            .find(|node| meta::name(&node.metadata) == name)
            .filter(|node| allows(class, node))
            .ok_or_else(|| Refusal::NodeGone(name.to_owned()))?,
        None => roomiest(class, nodes, volumes).ok_or(Refusal::NoNode)?,
    };
    let Some(dir) = meta::annotation(&node.metadata, LOCAL_VOLUMES_DIR) else {
        return Err(Refusal::NodeGone(meta::name(&node.metadata).to_owned()));
    };
    let name = format!("pvc-{}", meta::uid(&claim.metadata));
    let capacity = spec.resources.and_then(|resources| resources.requests);
    let object = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": name,
            "annotations": {PROVISIONED_BY: LOCAL_PROVISIONER},
            "finalizers": [FINALIZER],
        },
        "spec": {
            "capacity": capacity,
            "accessModes": modes,
            "volumeMode": "Filesystem",
            "persistentVolumeReclaimPolicy": class.reclaim_policy.as_deref().unwrap_or("Delete"),
            "storageClassName": class.metadata.name,
            "claimRef": meta::object_reference(claim),
            "local": {"path": format!("{dir}/{name}")},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": HOSTNAME, "operator": "In", "values": [hostname(node)]},
            ]}]}},
        },
    });
    Ok(typed(object))
}

/// What `plan` writes down is a volume; anything else is a bug of ours.
#[expect(clippy::expect_used, reason = "the object is made of literals and typed parts")]
fn typed(object: Value) -> PersistentVolume {
    serde_json::from_value(object).expect("a persistent volume")
}

fn hostname(node: &Node) -> &str {
    let label = meta::labels(&node.metadata).get(HOSTNAME);
    label.map_or_else(|| meta::name(&node.metadata), String::as_str)
}

/// The node that a local volume is on, if it is in the cluster.
fn node_of<'a>(volume: &PersistentVolume, nodes: &'a [Arc<Node>]) -> Option<&'a Arc<Node>> {
    let wanted = volume_hostname(volume)?;
    nodes.iter().find(|node| hostname(node) == wanted)
}

fn volume_hostname(volume: &PersistentVolume) -> Option<&str> {
    let required = volume.spec.as_ref()?.node_affinity.as_ref()?.required.as_ref()?;
    let mut expressions = required
        .node_selector_terms
        .iter()
        .flat_map(|term| term.match_expressions.iter().flatten());
    let hostname = expressions.find(|one| one.key == HOSTNAME)?;
    hostname.values.as_ref()?.first().map(String::as_str)
}

/// The ready node that keeps the fewest local volumes, the first by name among
/// equals.
fn roomiest<'a>(
    class: &StorageClass,
    nodes: &'a [Arc<Node>],
    volumes: &[Arc<PersistentVolume>],
) -> Option<&'a Arc<Node>> {
    let mut kept: BTreeMap<&str, usize> = BTreeMap::new();
    for host in volumes.iter().filter_map(|volume| volume_hostname(volume)) {
        *kept.entry(host).or_default() += 1;
    }
    let able = nodes.iter().filter(|node| {
        let spec = node.spec.as_ref();
        is_ready(node)
            && spec.is_none_or(|spec| spec.unschedulable != Some(true))
            && meta::annotation(&node.metadata, LOCAL_VOLUMES_DIR).is_some()
            && allows(class, node)
    });
    able.min_by_key(|node| {
        (kept.get(hostname(node)).copied().unwrap_or(0), meta::name(&node.metadata))
    })
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|one| one.type_ == "Ready" && one.status == "True")
}

/// Whether the class's `allowedTopologies` have the node. Terms are
/// alternatives, the labels of one term must all match.
fn allows(class: &StorageClass, node: &Node) -> bool {
    let terms = class.allowed_topologies.as_deref().unwrap_or_default();
    let labels = meta::labels(&node.metadata);
    terms.is_empty()
        || terms.iter().any(|term| {
            term.match_label_expressions
                .iter()
                .flatten()
                .all(|one| labels.get(&one.key).is_some_and(|value| one.values.contains(value)))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, zone: &str, ready: &str) -> Arc<Node> {
        let node = json!({
            "metadata": {"name": name, "labels": {HOSTNAME: format!("host-{name}"), "zone": zone},
                         "annotations": {LOCAL_VOLUMES_DIR: "/data/volumes"}},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        });
        Arc::new(serde_json::from_value(node).unwrap())
    }

    fn claim(spec: Value, selected: Option<&str>) -> PersistentVolumeClaim {
        let mut object = json!({
            "metadata": {"name": "data", "namespace": "a", "uid": "u1", "annotations": selected.map(|node| json!({SELECTED_NODE: node}))},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        });
        for (key, value) in spec.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        serde_json::from_value(object).unwrap()
    }

    fn class(topologies: Value) -> StorageClass {
        let class = json!({"metadata": {"name": "local"}, "provisioner": LOCAL_PROVISIONER,
                           "reclaimPolicy": "Delete", "allowedTopologies": topologies});
        serde_json::from_value(class).unwrap()
    }

    #[test]
    fn a_claim_gets_a_folder_on_a_node_or_hears_why_not() {
        let nodes =
            [node("a", "east", "True"), node("b", "west", "True"), node("c", "west", "False")];
        let west = json!([{"matchLabelExpressions": [{"key": "zone", "values": ["west"]}]}]);
        let plain = |selected| claim(json!({}), selected);
        let unsuited = |spec: Value| claim(spec, None);
        let cases = [
            ("anywhere", plain(None), Value::Null, Ok("host-a")),
            ("where the class allows it", plain(None), west.clone(), Ok("host-b")),
            ("where the scheduler says", plain(Some("c")), Value::Null, Ok("host-c")),
            ("scheduler against class", plain(Some("a")), west, Err("NodeGone")),
            ("node is gone", plain(Some("d")), Value::Null, Err("NodeGone")),
            (
                "shared",
                unsuited(json!({"accessModes": ["ReadWriteMany"]})),
                Value::Null,
                Err("Unsuited"),
            ),
            ("block", unsuited(json!({"volumeMode": "Block"})), Value::Null, Err("Unsuited")),
            ("selector", unsuited(json!({"selector": {}})), Value::Null, Err("Unsuited")),
        ];
        for (name, claim, topologies, expected) in cases {
            let planned = plan(&claim, &class(topologies), &nodes, &[]);
            let found = planned.as_ref().map(|volume| volume_hostname(volume).unwrap());
            let found = found.map_err(|refusal| match refusal {
                Refusal::Unsuited(_) => "Unsuited",
                Refusal::NodeGone(_) => "NodeGone",
                Refusal::NoNode => "NoNode",
            });
            assert_eq!(found, expected, "{name}");
        }
        assert_eq!(plan(&plain(None), &class(Value::Null), &[], &[]), Err(Refusal::NoNode));
        let made = plan(&plain(None), &class(Value::Null), &nodes, &[]).unwrap();
        let spec = made.spec.as_ref().unwrap();
        assert_eq!(spec.local.as_ref().unwrap().path, "/data/volumes/pvc-u1");
        assert_eq!(meta::name(&node_of(&made, &nodes).unwrap().metadata), "a");
        let second = plan(&plain(None), &class(Value::Null), &nodes, &[Arc::new(made)]).unwrap();
        assert_eq!(volume_hostname(&second), Some("host-b"), "fewest volumes first");
    }
}
