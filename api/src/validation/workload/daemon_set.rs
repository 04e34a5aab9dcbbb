//! DaemonSet: a pod on every node.

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, RollingUpdateDaemonSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{META, SPEC, STATUS, replica_template, required_selector};
use crate::catalogue::{FieldError, Part};
use crate::validation::count::{at_most_all, count_or_percent, is_zero};
use crate::validation::meta::{check_create, check_update};
use crate::validation::path::{Errors, Path, json, or_default};

/// Checks a new DaemonSet.
pub fn daemon_set_create(set: &DaemonSet) -> Vec<FieldError> {
    check_create(&set.metadata, META, |errors| spec_rules(errors, &or_default(&set.spec)))
}

/// Checks an update of a DaemonSet.
pub fn daemon_set_update(new: &DaemonSet, old: &DaemonSet, part: Part) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        if part == Part::Status {
            let status = or_default(&new.status);
            errors.counts(
                &STATUS,
                &[
                    ("currentNumberScheduled", Some(status.current_number_scheduled)),
                    ("numberMisscheduled", Some(status.number_misscheduled)),
                    ("desiredNumberScheduled", Some(status.desired_number_scheduled)),
                    ("numberReady", Some(status.number_ready)),
                    ("updatedNumberScheduled", status.updated_number_scheduled),
                    ("numberAvailable", status.number_available),
                    ("numberUnavailable", status.number_unavailable),
                ],
            );
            return;
        }
        let (new, old) = (or_default(&new.spec), or_default(&old.spec));
        spec_rules(errors, &new);
        errors.immutable(&SPEC.child("selector"), &new.selector, &old.selector);
    })
}

fn spec_rules(errors: &mut Errors, spec: &DaemonSetSpec) {
    required_selector(errors, &spec.selector);
    replica_template(errors, &spec.template, &spec.selector, None);
    errors.counts(&SPEC, &[("minReadySeconds", spec.min_ready_seconds)]);
    let strategy = or_default(&spec.update_strategy);
    let path = SPEC.child("updateStrategy");
    let kind = strategy.type_.as_deref();
    errors.required_one_of(&path.child("type"), kind, &["OnDelete", "RollingUpdate"]);
    if kind == Some("RollingUpdate") {
        let path = path.child("rollingUpdate");
        match &strategy.rolling_update {
            None => errors.required(&path, ""),
            Some(rolling) => rolling_update(errors, rolling, &path),
        }
    }
    errors.counts(&SPEC, &[("revisionHistoryLimit", spec.revision_history_limit)]);
}

/// On each node either the old pod goes first or the new one comes first.
fn rolling_update(errors: &mut Errors, rolling: &RollingUpdateDaemonSet, path: &Path<'_>) {
    let zero = IntOrString::Int(0);
    let unavailable = rolling.max_unavailable.as_ref().unwrap_or(&zero);
    let surge = rolling.max_surge.as_ref().unwrap_or(&zero);
    let (unavailable_path, surge_path) = (path.child("maxUnavailable"), path.child("maxSurge"));
    for (value, path) in [(unavailable, &unavailable_path), (surge, &surge_path)] {
        count_or_percent(errors, value, path);
        at_most_all(errors, value, path);
    }
    match (is_zero(unavailable), is_zero(surge)) {
        (true, true) => {
            let detail = "cannot be 0 when maxSurge is 0";
            errors.invalid(&unavailable_path, json(unavailable), detail);
        }
        (false, false) => {
            let detail = "may not be set when maxUnavailable is non-zero";
            errors.invalid(&surge_path, json(surge), detail);
        }
        _ => {}
    }
}
