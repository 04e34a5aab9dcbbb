//! What the controllers ask of a pod. Pure, over cached pods.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::cache::{Cache, Shape};
use crate::meta;

/// The shape of cached pods: found by the uid of their controller
/// (`by_controller`), by namespace when they have none (`orphans_in`) and by
/// node (`on_node`); without what only the kubelet reads.
pub(crate) fn shape() -> Shape<Pod> {
    Shape { strip, index }
}

/// Index term of the pods that `uid` controls.
pub(crate) fn by_controller(uid: &str) -> String {
    format!("controller/{uid}")
}

/// Index term of a namespace's pods without a controller.
pub(crate) fn orphans_in(namespace: &str) -> String {
    format!("orphan/{namespace}")
}

/// Index term of the pods bound to `node`; empty for unscheduled pods.
pub(crate) fn on_node(node: &str) -> String {
    format!("node/{node}")
}

fn index(pod: &Pod) -> Vec<String> {
    let owner = match meta::controller_of(&pod.metadata) {
        Some(owner) => by_controller(&owner.uid),
        None => orphans_in(meta::namespace(&pod.metadata)),
    };
    vec![owner, on_node(node_name(pod))]
}

fn strip(pod: &mut Pod) {
    let Some(spec) = &mut pod.spec else { return };
    // Which claims a pod uses is all that matters of its volumes.
    let is_claim =
        |volume: &Volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some();
    spec.volumes = spec
        .volumes
        .take()
        .map(|volumes| volumes.into_iter().filter(is_claim).collect())
        .filter(|volumes: &Vec<Volume>| !volumes.is_empty());
    // The pods of DaemonSets name their node by node affinity.
    if let Some(affinity) = &mut spec.affinity {
        affinity.pod_affinity = None;
        affinity.pod_anti_affinity = None;
    }
    spec.ephemeral_containers = None;
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        container.env = None;
        container.env_from = None;
        container.command = None;
        container.args = None;
        container.volume_mounts = None;
        container.liveness_probe = None;
        container.readiness_probe = None;
        container.startup_probe = None;
        container.security_context = None;
        container.lifecycle = None;
    }
}

/// The live pods that count for or might be adopted by the controller `uid`.
pub(crate) fn candidates(pods: &Cache<Pod>, namespace: &str, uid: &str) -> Vec<Arc<Pod>> {
    let mut found = pods.indexed(&by_controller(uid));
    found.extend(pods.indexed(&orphans_in(namespace)));
    found
}

/// Whether the pod of this uid is among `pods` and not on its way out.
pub(crate) fn is_staying(pods: &[Arc<Pod>], uid: &str) -> bool {
    pods.iter().any(|pod| meta::uid(&pod.metadata) == uid && !meta::is_deleting(&pod.metadata))
}

/// The node the pod is bound to, empty before scheduling.
pub(crate) fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// The pod's phase; `Pending` until the node says otherwise.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// Whether all containers ended for good.
pub(crate) fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether the pod counts towards a replica count: it runs or will run, and
/// nobody asked it to go. A pod that is going is replaced at once rather than
/// after its grace period.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !meta::is_deleting(&pod.metadata)
}

/// A condition of the pod.
pub(crate) fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == type_)
}

/// Whether the pod's readiness probes and gates pass.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Since when the pod is ready.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    condition(pod, "Ready")
        .filter(|ready| ready.status == "True")
        .and_then(|ready| ready.last_transition_time.as_ref())
        .map(|time| time.0)
}

/// Whether a pod may take load, given how long it must have been ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Availability {
    /// It has been ready for long enough.
    Available,
    /// It is ready, and will be available after this long if it stays so.
    In(Duration),
    /// It is not ready.
    Unready,
}

/// The pod's availability at `now`.
pub(crate) fn availability(pod: &Pod, min_ready: Duration, now: Timestamp) -> Availability {
    if !is_ready(pod) {
        return Availability::Unready;
    }
    if min_ready.is_zero() {
        return Availability::Available;
    }
    match ready_since(pod) {
        Some(since) => match min_ready.checked_sub(meta::elapsed(since, now)) {
            Some(rest) if !rest.is_zero() => Availability::In(rest),
            _ => Availability::Available,
        },
        None => Availability::Unready,
    }
}

/// The most restarts of any of the pod's containers.
pub(crate) fn restarts(pod: &Pod) -> i32 {
    let Some(status) = &pod.status else { return 0 };
    let statuses =
        status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    statuses.map(|container| container.restart_count).max().unwrap_or(0)
}

/// A new pod made from `template` and controlled by `owner`. The server
/// completes the name.
pub(crate) fn from_template(
    template: &PodTemplateSpec,
    namespace: &str,
    owner_name: &str,
    owner: OwnerReference,
) -> Pod {
    let made = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{owner_name}-")),
            namespace: Some(namespace.to_owned()),
            labels: made.labels,
            annotations: made.annotations,
            finalizers: made.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn availability_waits_for_min_ready() {
        let now = Timestamp::from_second(1_000).unwrap();
        let ready_at =
            |second| testing::ready_pod("web-1", Timestamp::from_second(second).unwrap());
        let second = Duration::from_secs(1);
        let cases = [
            ("no wait asked", ready_at(1_000), 0, Availability::Available),
            ("just ready", ready_at(1_000), 10, Availability::In(10 * second)),
            ("half way", ready_at(995), 10, Availability::In(5 * second)),
            ("exactly", ready_at(990), 10, Availability::Available),
            ("not ready", testing::pod("web-1"), 0, Availability::Unready),
        ];
        for (name, pod, min_ready, expected) in cases {
            assert_eq!(availability(&pod, min_ready * second, now), expected, "{name}");
        }
    }
}
