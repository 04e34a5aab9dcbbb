//! Workloads: Deployment, ReplicaSet, StatefulSet, DaemonSet and
//! ReplicationController.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::ReplicationController;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{fill, fill_text, pod, storage};

/// Fills in a Deployment.
pub fn deployment(deployment: &mut Deployment) {
    let Some(spec) = &mut deployment.spec else { return };
    fill(&mut spec.replicas, 1);
    fill(&mut spec.revision_history_limit, 10);
    fill(&mut spec.progress_deadline_seconds, 600);
    let strategy = spec.strategy.get_or_insert_default();
    fill_text(&mut strategy.type_, "RollingUpdate");
    if strategy.type_.as_deref() == Some("RollingUpdate") {
        let rolling = strategy.rolling_update.get_or_insert_default();
        fill(&mut rolling.max_unavailable, IntOrString::String("25%".to_owned()));
        fill(&mut rolling.max_surge, IntOrString::String("25%".to_owned()));
    }
    pod::pod_template(&mut spec.template);
}

/// Fills in a ReplicaSet.
pub fn replica_set(set: &mut ReplicaSet) {
    let Some(spec) = &mut set.spec else { return };
    fill(&mut spec.replicas, 1);
    if let Some(template) = &mut spec.template {
        pod::pod_template(template);
    }
}

/// Fills in a StatefulSet.
pub fn stateful_set(set: &mut StatefulSet) {
    let Some(spec) = &mut set.spec else { return };
    fill(&mut spec.replicas, 1);
    fill(&mut spec.revision_history_limit, 10);
    fill_text(&mut spec.pod_management_policy, "OrderedReady");
    let strategy = spec.update_strategy.get_or_insert_default();
    fill_text(&mut strategy.type_, "RollingUpdate");
    if strategy.type_.as_deref() == Some("RollingUpdate") {
        fill(&mut strategy.rolling_update.get_or_insert_default().partition, 0);
    }
    let retention = spec.persistent_volume_claim_retention_policy.get_or_insert_default();
    fill_text(&mut retention.when_deleted, "Retain");
    fill_text(&mut retention.when_scaled, "Retain");
    for claim in spec.volume_claim_templates.iter_mut().flatten() {
        storage::persistent_volume_claim(claim);
    }
    pod::pod_template(&mut spec.template);
}

/// Fills in a DaemonSet.
pub fn daemon_set(set: &mut DaemonSet) {
    let Some(spec) = &mut set.spec else { return };
    fill(&mut spec.revision_history_limit, 10);
    let strategy = spec.update_strategy.get_or_insert_default();
    fill_text(&mut strategy.type_, "RollingUpdate");
    if strategy.type_.as_deref() == Some("RollingUpdate") {
        let rolling = strategy.rolling_update.get_or_insert_default();
        fill(&mut rolling.max_unavailable, IntOrString::Int(1));
        fill(&mut rolling.max_surge, IntOrString::Int(0));
    }
    pod::pod_template(&mut spec.template);
}

/// Fills in a ReplicationController, whose selector and labels are those of
/// its template when left out.
pub fn replication_controller(controller: &mut ReplicationController) {
    let Some(spec) = &mut controller.spec else { return };
    fill(&mut spec.replicas, 1);
    let Some(template) = &mut spec.template else { return };
    pod::pod_template(template);
    let labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone());
    if let Some(labels) = labels {
        if spec.selector.as_ref().is_none_or(|selector| selector.is_empty()) {
            spec.selector = Some(labels.clone());
        }
        if controller.metadata.labels.as_ref().is_none_or(|labels| labels.is_empty()) {
            controller.metadata.labels = Some(labels);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_deployment_rolls_by_quarters() {
        let mut object: Deployment = serde_json::from_value(json!({
            "metadata": {"name": "web"},
            "spec": {"selector": {}, "template": {"spec": {"containers": []}}},
        }))
        .unwrap();
        deployment(&mut object);
        let spec = serde_json::to_value(object.spec).unwrap();
        assert_eq!(spec["replicas"], 1);
        assert_eq!(spec["revisionHistoryLimit"], 10);
        assert_eq!(spec["progressDeadlineSeconds"], 600);
        assert_eq!(
            spec["strategy"],
            json!({
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"},
            })
        );
        assert_eq!(spec["template"]["spec"]["restartPolicy"], "Always");
        assert_eq!(spec["template"]["spec"]["enableServiceLinks"], json!(null), "pods only");
    }

    #[test]
    fn what_is_set_stays() {
        let mut object: Deployment = serde_json::from_value(json!({
            "spec": {
                "replicas": 0,
                "strategy": {"type": "Recreate"},
                "selector": {},
                "template": {"spec": {"containers": []}},
            },
        }))
        .unwrap();
        deployment(&mut object);
        let spec = object.spec.unwrap();
        assert_eq!(spec.replicas, Some(0));
        assert_eq!(spec.strategy.unwrap().rolling_update, None);
    }

    #[test]
    fn a_stateful_set_and_its_claims_are_completed() {
        let mut object: StatefulSet = serde_json::from_value(json!({
            "spec": {
                "selector": {},
                "template": {"spec": {"containers": []}},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}],
            },
        }))
        .unwrap();
        stateful_set(&mut object);
        let spec = serde_json::to_value(object.spec).unwrap();
        assert_eq!(
            spec["updateStrategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
        );
        assert_eq!(spec["podManagementPolicy"], "OrderedReady");
        assert_eq!(
            spec["persistentVolumeClaimRetentionPolicy"],
            json!({"whenDeleted": "Retain", "whenScaled": "Retain"})
        );
        assert_eq!(spec["volumeClaimTemplates"][0]["spec"]["volumeMode"], "Filesystem");
        assert_eq!(spec["volumeClaimTemplates"][0]["status"]["phase"], "Pending");
    }

    #[test]
    fn a_replication_controller_selects_its_template() {
        let mut object: ReplicationController = serde_json::from_value(json!({
            "metadata": {"name": "web"},
            "spec": {"template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}},
        }))
        .unwrap();
        replication_controller(&mut object);
        assert_eq!(object.metadata.labels.unwrap()["app"], "web");
        assert_eq!(object.spec.unwrap().selector.unwrap()["app"], "web");
    }
}
