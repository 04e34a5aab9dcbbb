//! Generic ephemeral volumes: a pod that brings a template for a claim gets the
//! claim, named after pod and volume.
//!
//! The pod owns the claim, so that the claim goes with it. A claim of that name
//! that is somebody else's is left alone: the scheduler and the node's agent
//! refuse it for the pod, and here the pod's events say so.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use kube::api::{ObjectMeta, PostParams};
use skiff_api::volume::claim_name;
use skiff_client::Api;

use crate::context::Context;
use crate::error::{Doing, Error, is_already_exists};
use crate::events::Severity;
use crate::meta::{self, Key};
use crate::pods;
use crate::queue::Queue;
use crate::runner::{Controller, Next};

/// In whose name events are recorded.
const COMPONENT: &str = "ephemeral-volume-controller";

/// Makes the claims of pods.
pub(crate) struct EphemeralVolumes {
    context: Context,
}

/// What becomes of one volume of a pod.
#[derive(Debug, Clone, PartialEq)]
enum Plan {
    /// Its claim is there.
    Keep,
    /// It gets this claim.
    Create(Box<PersistentVolumeClaim>),
    /// Somebody else's claim has the name.
    Taken(String),
}

/// Decides for `volume` of `pod`; `known` is the claim that has its name. `None`
/// for a volume of another kind.
fn plan(pod: &Pod, volume: &Volume, known: Option<&PersistentVolumeClaim>) -> Option<Plan> {
    let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
    let name = claim_name(meta::name(&pod.metadata), volume)?;
    if let Some(known) = known {
        let own = meta::is_controlled_by(&known.metadata, meta::uid(&pod.metadata));
        return Some(if own { Plan::Keep } else { Plan::Taken(name) });
    }
    let like = template.metadata.clone().unwrap_or_default();
    let claim = PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: pod.metadata.namespace.clone(),
            labels: like.labels,
            annotations: like.annotations,
            owner_references: Some(vec![meta::controller_reference(pod)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone()),
        status: None,
    };
    Some(Plan::Create(Box::new(claim)))
}

/// The volumes of a pod that still needs them.
fn wanted(pod: &Pod) -> impl Iterator<Item = &Volume> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let over = meta::is_deleting(&pod.metadata) || pods::is_terminal(pod);
    volumes.filter(move |volume| !over && volume.ephemeral.is_some())
}

impl EphemeralVolumes {
    /// The controller and the queue that the caches feed.
    pub(crate) fn new(context: &Context) -> (Arc<Self>, Queue<Key>) {
        let queue = Queue::new();
        let tx = queue.clone();
        context.caches.pods.subscribe(move |_, new| {
            if let Some(pod) = new
                && wanted(pod).next().is_some()
            {
                tx.add(Key::of(&pod.metadata));
            }
        });
        // A claim that went may have stood in a pod's way, or was its own.
        let (tx, pods) = (queue.clone(), context.caches.pods.clone());
        context.caches.claims.subscribe(move |old, new| {
            let (Some(claim), None) = (old, new) else { return };
            let key = Key::of(&claim.metadata);
            for pod in pods.in_namespace(&key.namespace) {
                let name = meta::name(&pod.metadata);
                if wanted(&pod).any(|volume| claim_name(name, volume).as_ref() == Some(&key.name)) {
                    tx.add(Key::of(&pod.metadata));
                }
            }
        });
        (Arc::new(Self { context: context.clone() }), queue)
    }
}

impl Controller for EphemeralVolumes {
    type Key = Key;
    const NAME: &'static str = "ephemeral-volume";

    async fn pass(&self, key: &Key) -> Result<Next, Error> {
        let Some(pod) = self.context.caches.pods.get(key) else { return Ok(Next::OnChange) };
        for volume in wanted(&pod) {
            let name = claim_name(&key.name, volume).unwrap_or_default();
            let known = self.context.caches.claims.get(&Key::new(&key.namespace, &name));
            match plan(&pod, volume, known.as_deref()) {
                Some(Plan::Create(claim)) => {
                    let api: Api<PersistentVolumeClaim> =
                        Api::namespaced(self.context.client.clone(), &key.namespace);
                    match api.create(&PostParams::default(), &claim).await {
                        // The cache is behind; whose it is shows when it is there.
                        Err(error) if is_already_exists(&error) => {
                            let message = format!("claim {name} is not in the cache yet");
                            return Err(Error::Unfinished(message));
                        }
                        made => made.doing(|| format!("create claim {}/{name}", key.namespace))?,
                    };
                }
                Some(Plan::Taken(name)) => {
                    let message = format!(
                        "PVC {}/{name} was not created for pod {key} (pod is not owner)",
                        key.namespace
                    );
                    let regarding = meta::object_reference(&*pod);
                    let events = &self.context.events;
                    events.record(
                        COMPONENT,
                        &regarding,
                        Severity::Warning,
                        "ClaimConflict",
                        message,
                    );
                }
                Some(Plan::Keep) | None => {}
            }
        }
        Ok(Next::OnChange)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing;

    fn pod() -> Pod {
        let mut pod = testing::pod("web");
        let spec = json!({"containers": [], "volumes": [
            {"name": "claimed", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "own", "ephemeral": {"volumeClaimTemplate": {
                "metadata": {"labels": {"tier": "db"}},
                "spec": {"accessModes": ["ReadWriteOnce"]}}}},
        ]});
        pod.spec = Some(serde_json::from_value(spec).unwrap());
        pod
    }

    #[test]
    fn a_pods_own_claim_is_made_once_and_nobody_elses_is_taken() {
        let pod = pod();
        let volumes: Vec<_> =
            pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).collect();
        assert_eq!(plan(&pod, volumes[0], None), None, "another kind of volume");
        let Some(Plan::Create(claim)) = plan(&pod, volumes[1], None) else { panic!("no claim") };
        assert_eq!(claim.metadata.name.as_deref(), Some("web-own"));
        assert_eq!(claim.metadata.labels, testing::labels(&[("tier", "db")]));
        assert_eq!(claim.spec.as_ref().unwrap().access_modes, Some(vec!["ReadWriteOnce".into()]));
        let owner = meta::controller_of(&claim.metadata).unwrap();
        assert_eq!((owner.kind.as_str(), owner.uid.as_str()), ("Pod", meta::uid(&pod.metadata)));
        assert_eq!(plan(&pod, volumes[1], Some(&claim)), Some(Plan::Keep));
        let mut stranger = *claim;
        stranger.metadata.owner_references = None;
        assert_eq!(plan(&pod, volumes[1], Some(&stranger)), Some(Plan::Taken("web-own".into())));
    }

    #[test]
    fn a_pod_that_is_over_gets_no_claim() {
        let mut pod = pod();
        assert_eq!(wanted(&pod).count(), 1);
        pod.status.get_or_insert_default().phase = Some("Failed".into());
        assert_eq!(wanted(&pod).count(), 0);
        pod.status = None;
        pod.metadata.deletion_timestamp = Some(meta::time(meta::now()));
        assert_eq!(wanted(&pod).count(), 0);
    }
}
