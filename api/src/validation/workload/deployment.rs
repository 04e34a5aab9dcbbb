//! Deployment: replicas, and how a new template takes the place of the old one.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, RollingUpdateDeployment};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{META, SPEC, STATUS, replica_template, required_selector};
use crate::catalogue::{FieldError, Part};
use crate::validation::count::{at_most_all, count_or_percent, is_zero};
use crate::validation::meta::{check_create, check_update};
use crate::validation::path::{Errors, Path, json, or_default};

/// Checks a new Deployment.
pub fn deployment_create(deployment: &Deployment) -> Vec<FieldError> {
    check_create(&deployment.metadata, META, |errors| {
        spec_rules(errors, &or_default(&deployment.spec))
    })
}

/// Checks an update of a Deployment.
pub fn deployment_update(new: &Deployment, old: &Deployment, part: Part) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        if part == Part::Status {
            let status = or_default(&new.status);
            errors.counts(
                &STATUS,
                &[
                    ("replicas", status.replicas),
                    ("updatedReplicas", status.updated_replicas),
                    ("readyReplicas", status.ready_replicas),
                    ("availableReplicas", status.available_replicas),
                    ("unavailableReplicas", status.unavailable_replicas),
                    ("terminatingReplicas", status.terminating_replicas),
                ],
            );
            return;
        }
        let (new, old) = (or_default(&new.spec), or_default(&old.spec));
        spec_rules(errors, &new);
        errors.immutable(&SPEC.child("selector"), &new.selector, &old.selector);
    })
}

fn spec_rules(errors: &mut Errors, spec: &DeploymentSpec) {
    errors.counts(&SPEC, &[("replicas", spec.replicas)]);
    required_selector(errors, &spec.selector);
    replica_template(errors, &spec.template, &spec.selector, spec.replicas);
    let strategy = or_default(&spec.strategy);
    let path = SPEC.child("strategy");
    let kind = strategy.type_.as_deref();
    errors.required_one_of(&path.child("type"), kind, &["Recreate", "RollingUpdate"]);
    match (kind, &strategy.rolling_update) {
        (Some("Recreate"), Some(_)) => {
            let detail = "may not be specified when strategy `type` is 'Recreate'";
            errors.forbidden(&path.child("rollingUpdate"), detail);
        }
        (Some("RollingUpdate"), None) => {
            let detail = "this should be defaulted and never be nil";
            errors.required(&path.child("rollingUpdate"), detail);
        }
        (Some("RollingUpdate"), Some(rolling)) => {
            rolling_update(errors, rolling, &path.child("rollingUpdate"));
        }
        _ => {}
    }
    errors.counts(
        &SPEC,
        &[
            ("minReadySeconds", spec.min_ready_seconds),
            ("revisionHistoryLimit", spec.revision_history_limit),
        ],
    );
    if let Some(deadline) = spec.progress_deadline_seconds {
        let path = SPEC.child("progressDeadlineSeconds");
        errors.non_negative(&path, deadline);
        if deadline <= spec.min_ready_seconds.unwrap_or_default() {
            errors.invalid(&path, deadline, "must be greater than minReadySeconds");
        }
    }
}

fn rolling_update(errors: &mut Errors, rolling: &RollingUpdateDeployment, path: &Path<'_>) {
    let zero = IntOrString::Int(0);
    let unavailable = rolling.max_unavailable.as_ref().unwrap_or(&zero);
    let surge = rolling.max_surge.as_ref().unwrap_or(&zero);
    let unavailable_path = path.child("maxUnavailable");
    count_or_percent(errors, unavailable, &unavailable_path);
    count_or_percent(errors, surge, &path.child("maxSurge"));
    if is_zero(unavailable) && is_zero(surge) {
        errors.invalid(&unavailable_path, json(unavailable), "may not be 0 when `maxSurge` is 0");
    }
    at_most_all(errors, unavailable, &unavailable_path);
}
