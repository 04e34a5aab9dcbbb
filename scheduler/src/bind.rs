//! Writes decisions to the API: bindings, refusals, events.

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use serde_json::json;
use skiff_api::volume::{BOUND_BY_CONTROLLER, SELECTED_NODE};
use skiff_client::{Api, chain};
use tracing::{debug, warn};

use crate::SCHEDULER_NAME;
use crate::cluster::PodInfo;
use crate::queue::Telling;
use crate::volumes::Choice;

/// The condition that tells whether a pod has a node.
const POD_SCHEDULED: &str = "PodScheduled";

/// The scheduler's hand: cheap to clone, one call per decision.
#[derive(Clone)]
pub(crate) struct Binder {
    client: Client,
    recorder: Recorder,
}

impl Binder {
    pub(crate) fn new(client: Client) -> Self {
        let reporter = Reporter { controller: SCHEDULER_NAME.into(), instance: None };
        Self { recorder: Recorder::new(client.clone(), reporter), client }
    }

    /// Binds `pod` to `node`. The API server refuses a pod that is bound or
    /// gone, so a decision made on old news does no harm.
    pub(crate) async fn bind(&self, pod: &PodInfo, node: &str) -> Result<(), kube::Error> {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node}
        });
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        let _: serde_json::Value =
            api.create_subresource("binding", &pod.name, &PostParams::default(), &binding).await?;
        let note = format!("Successfully assigned {}/{} to {node}", pod.namespace, pod.name);
        self.event(pod, EventType::Normal, "Scheduled", "Binding", note).await;
        Ok(())
    }

    /// Writes how the pod's claims are to be served. A claim or volume that
    /// somebody else wrote to meanwhile refuses; then all is decided anew.
    pub(crate) async fn choose(&self, choices: &[Choice]) -> Result<(), kube::Error> {
        for choice in choices {
            match choice {
                Choice::Take(claim, volume) => {
                    let patch = json!({
                        "metadata": {
                            "resourceVersion": volume.metadata.resource_version,
                            "annotations": {BOUND_BY_CONTROLLER: "yes"},
                        },
                        "spec": {"claimRef": claim.object_ref(&())},
                    });
                    let name = volume.metadata.name.as_deref().unwrap_or_default();
                    let api: Api<PersistentVolume> = Api::all(self.client.clone());
                    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
                }
                Choice::Provision(claim, node) => {
                    let patch = json!({"metadata": {
                        "resourceVersion": claim.metadata.resource_version,
                        "annotations": {SELECTED_NODE: node},
                    }});
                    let (namespace, name) = choice.claim();
                    let api: Api<PersistentVolumeClaim> =
                        Api::namespaced(self.client.clone(), &namespace);
                    api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await?;
                }
            }
        }
        Ok(())
    }

    /// Says on the pod and in an event why it has no node.
    pub(crate) async fn refuse(&self, pod: &PodInfo, message: String, telling: Telling) {
        let status = refusal(pod, &message, telling, jiff::Timestamp::now());
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        match api.patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(status)).await
        {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_not_found() => return,
            Err(error) => {
                warn!(pod = %pod.name, namespace = %pod.namespace, error = chain(&error), "cannot say why a pod has no node")
            }
        }
        self.event(pod, EventType::Warning, "FailedScheduling", "Scheduling", message).await;
    }

    async fn event(
        &self,
        pod: &PodInfo,
        type_: EventType,
        reason: &str,
        action: &str,
        note: String,
    ) {
        let reference = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(pod.name.clone()),
            namespace: Some(pod.namespace.clone()),
            uid: Some(pod.uid.clone()),
            ..ObjectReference::default()
        };
        let event = Event {
            type_,
            reason: reason.into(),
            note: Some(note),
            action: action.into(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &reference).await {
            debug!(pod = %pod.name, namespace = %pod.namespace, error = chain(&error), "event not recorded");
        }
    }
}

/// Whether the pod's status says that it has no node.
pub(crate) fn is_refused(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|one| one.type_ == POD_SCHEDULED && one.status == "False")
}

/// The patch of a pod's status that says why it has no node. The time is that of
/// the first refusal, which another message leaves as it is.
fn refusal(
    pod: &PodInfo,
    message: &str,
    telling: Telling,
    now: jiff::Timestamp,
) -> serde_json::Value {
    let mut condition = json!({
        "type": POD_SCHEDULED, "status": "False", "reason": "Unschedulable", "message": message,
        "observedGeneration": pod.generation, "lastProbeTime": null,
    });
    if telling == Telling::First {
        condition["lastTransitionTime"] = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
    }
    json!({"status": {"conditions": [condition]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_spec_that_it_is_about() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"uid": "u", "namespace": "n", "name": "p", "generation": 3},
            "spec": {"containers": []},
        }))
        .unwrap();
        let patch = |telling| {
            let pod = PodInfo::of(&pod).unwrap();
            refusal(&pod, "no room", telling, jiff::Timestamp::UNIX_EPOCH)
        };
        let first = &patch(Telling::First)["status"]["conditions"][0];
        assert_eq!(first["observedGeneration"], 3);
        assert_eq!(first["lastTransitionTime"], "1970-01-01T00:00:00Z");
        let again = &patch(Telling::Again)["status"]["conditions"][0];
        assert_eq!(again.get("lastTransitionTime"), None, "the time of the first one stands");
        assert!(!is_refused(&pod));
        let mut refused = pod.clone();
        refused.status =
            Some(serde_json::from_value(json!({"conditions": [first.clone()]})).unwrap());
        assert!(is_refused(&refused));
    }
}
