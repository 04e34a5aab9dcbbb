//! ReplicaSet, and ReplicationController, which is the same with a plainer
//! selector.

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::{
    PodTemplateSpec, ReplicationController, ReplicationControllerSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::{META, SPEC, replica_status, replica_template, required_selector};
use crate::catalogue::{FieldError, Part};
use crate::validation::meta::{check_create, check_update, selector_is_empty};
use crate::validation::path::{Errors, or_default};

/// Checks a new ReplicaSet.
pub fn replica_set_create(set: &ReplicaSet) -> Vec<FieldError> {
    check_create(&set.metadata, META, |errors| replica_set_spec(errors, &or_default(&set.spec)))
}

/// Checks an update of a ReplicaSet.
pub fn replica_set_update(new: &ReplicaSet, old: &ReplicaSet, part: Part) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        if part == Part::Status {
            let of = or_default(&new.status);
            let parts = [of.fully_labeled_replicas, of.ready_replicas, of.available_replicas];
            set_status(errors, of.replicas, parts);
            return;
        }
        let (new, old) = (or_default(&new.spec), or_default(&old.spec));
        replica_set_spec(errors, &new);
        errors.immutable(&SPEC.child("selector"), &new.selector, &old.selector);
    })
}

fn replica_set_spec(errors: &mut Errors, spec: &ReplicaSetSpec) {
    errors
        .counts(&SPEC, &[("replicas", spec.replicas), ("minReadySeconds", spec.min_ready_seconds)]);
    required_selector(errors, &spec.selector);
    replicated(errors, spec.template.as_ref(), &spec.selector, spec.replicas);
}

/// Checks a new ReplicationController.
pub fn replication_controller_create(controller: &ReplicationController) -> Vec<FieldError> {
    check_create(&controller.metadata, META, |errors| {
        replication_controller_spec(errors, &or_default(&controller.spec))
    })
}

/// Checks an update of a ReplicationController.
pub fn replication_controller_update(
    new: &ReplicationController,
    old: &ReplicationController,
    part: Part,
) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        if part == Part::Status {
            let of = or_default(&new.status);
            let parts = [of.fully_labeled_replicas, of.ready_replicas, of.available_replicas];
            set_status(errors, of.replicas, parts);
        } else {
            replication_controller_spec(errors, &or_default(&new.spec));
        }
    })
}

fn replication_controller_spec(errors: &mut Errors, spec: &ReplicationControllerSpec) {
    errors
        .counts(&SPEC, &[("minReadySeconds", spec.min_ready_seconds), ("replicas", spec.replicas)]);
    let selector = LabelSelector { match_labels: spec.selector.clone(), match_expressions: None };
    if selector_is_empty(&selector) {
        errors.required(&SPEC.child("selector"), "");
    }
    replicated(errors, spec.template.as_ref(), &selector, spec.replicas);
}

/// The template of both, which is optional in their types alone.
fn replicated(
    errors: &mut Errors,
    template: Option<&PodTemplateSpec>,
    selector: &LabelSelector,
    replicas: Option<i32>,
) {
    match template {
        None => errors.required(&SPEC.child("template"), ""),
        Some(template) => replica_template(errors, template, selector, replicas),
    }
}

/// The counts in the status of both.
fn set_status(
    errors: &mut Errors,
    replicas: i32,
    [fully_labeled, ready, available]: [Option<i32>; 3],
) {
    let parts = [
        ("fullyLabeledReplicas", fully_labeled),
        ("readyReplicas", ready),
        ("availableReplicas", available),
    ];
    replica_status(errors, replicas, &parts);
}
