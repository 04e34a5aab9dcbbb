//! Workloads that keep pods running, a file for each: they share the template
//! their pods are made from and the selector that finds the pods again.

mod daemon_set;
mod deployment;
mod replica_set;
mod revision;
mod stateful_set;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

pub use self::daemon_set::{daemon_set_create, daemon_set_update};
pub use self::deployment::{deployment_create, deployment_update};
pub use self::replica_set::{
    replica_set_create, replica_set_update, replication_controller_create,
    replication_controller_update,
};
pub use self::revision::{controller_revision_create, controller_revision_update};
pub use self::stateful_set::{stateful_set_create, stateful_set_update};
use super::meta::{MetaRules, label_selector, selector_is_empty, selector_matches};
use super::path::{Errors, Path, json, list, text};
use super::{names, pod_spec};

const META: MetaRules = MetaRules::namespaced(names::subdomain_name);
const SPEC: Path<'static> = Path::root("spec");
const STATUS: Path<'static> = Path::root("status");

/// Checks the selector of a workload, which may not be empty: it would select
/// every pod of the namespace.
fn required_selector(errors: &mut Errors, selector: &LabelSelector) {
    let path = SPEC.child("selector");
    if selector_is_empty(selector) {
        // Upstream tells a missing selector from an empty one; here both
        // arrive as an empty one.
        errors.required(&path, "");
    } else {
        label_selector(errors, Some(selector), &path);
    }
}

/// Checks the template of a workload whose pods run on and on: the selector
/// has to select what the template makes.
fn replica_template(
    errors: &mut Errors,
    template: &PodTemplateSpec,
    selector: &LabelSelector,
    replicas: Option<i32>,
) {
    let path = SPEC.child("template");
    let none = BTreeMap::new();
    let labels = template.metadata.as_ref().and_then(|meta| meta.labels.as_ref()).unwrap_or(&none);
    if !selector_is_empty(selector) && !selector_matches(selector, labels) {
        let detail = "`selector` does not match template `labels`";
        errors.invalid(&path.child("metadata.labels"), json(labels), detail);
    }
    pod_spec::template(errors, template, &path);
    always_restarts(errors, template, &path);
    if replicas.unwrap_or_default() > 1 {
        only_reads_disks(errors, template, &path);
    }
}

/// A write-once disk can be read by many, written by one.
fn only_reads_disks(errors: &mut Errors, template: &PodTemplateSpec, path: &Path<'_>) {
    let volumes = template.spec.as_ref().map(|spec| list(&spec.volumes)).unwrap_or_default();
    let path = path.child("spec.volumes");
    for (index, volume) in volumes.iter().enumerate() {
        if let Some(disk) = &volume.gce_persistent_disk
            && disk.read_only != Some(true)
        {
            let detail = "must be read-only for replicated pods > 1; GCE PD can only be mounted \
                          on multiple machines if it is read-only";
            let path = path.index(index);
            errors.invalid(&path.child("gcePersistentDisk.readOnly"), false, detail);
        }
    }
}

fn always_restarts(errors: &mut Errors, template: &PodTemplateSpec, path: &Path<'_>) {
    let spec = template.spec.as_ref();
    let policy = spec.map(|spec| text(&spec.restart_policy)).unwrap_or_default();
    if policy != "Always" {
        errors.not_supported(&path.child("spec.restartPolicy"), policy, &["Always"]);
    }
    if spec.is_some_and(|spec| spec.active_deadline_seconds.is_some()) {
        let detail = "activeDeadlineSeconds in ReplicaSet is not Supported";
        errors.forbidden(&path.child("spec.activeDeadlineSeconds"), detail);
    }
}

/// Checks counts of pods, each of which is a part of `replicas`.
fn replica_status(errors: &mut Errors, replicas: i32, parts: &[(&str, Option<i32>)]) {
    errors.counts(&STATUS, &[("replicas", Some(replicas))]);
    errors.counts(&STATUS, parts);
    for (field, count) in parts {
        let count = count.unwrap_or_default();
        if count > replicas {
            errors.invalid(&STATUS.child(field), count, "cannot be greater than status.replicas");
        }
    }
}
