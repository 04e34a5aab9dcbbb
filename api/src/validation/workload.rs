//! Workloads that keep pods running: Deployment, ReplicaSet, StatefulSet,
//! DaemonSet and ReplicationController.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{
    ControllerRevision, DaemonSet, DaemonSetSpec, Deployment, DeploymentSpec, ReplicaSet,
    ReplicaSetSpec, RollingUpdateDaemonSet, RollingUpdateDeployment, StatefulSet, StatefulSetSpec,
};
use k8s_openapi::api::core::v1::{
    PodTemplateSpec, ReplicationController, ReplicationControllerSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::meta::{
    MetaRules, label_selector, object_meta, object_meta_update, selector_is_empty, selector_matches,
};
use super::path::{Errors, IMMUTABLE, Path, json, list, or_default, text};
use super::{names, pod_spec, storage};
use crate::catalogue::{FieldError, Part};

const META: MetaRules = MetaRules::namespaced(names::subdomain_name);
/// The name of a set of pods becomes part of their host names.
const STATEFUL_META: MetaRules = MetaRules::namespaced(names::label_name);

const SPEC: Path<'static> = Path::root("spec");

/// Checks a new Deployment.
pub fn deployment_create(deployment: &Deployment) -> Vec<FieldError> {
    let mut errors = Errors::new();
    object_meta(&mut errors, &deployment.metadata, META);
    deployment_spec(&mut errors, &or_default(&deployment.spec));
    errors.into_vec()
}

/// Checks an update of a Deployment.
pub fn deployment_update(new: &Deployment, old: &Deployment, part: Part) -> Vec<FieldError> {
    let mut errors = Errors::new();
    object_meta_update(&mut errors, &new.metadata, &old.metadata);
    if part == Part::Status {
        let status = or_default(&new.status);
        counts(
            &mut errors,
            &[
                ("replicas", status.replicas),
                ("updatedReplicas", status.updated_replicas),
                ("readyReplicas", status.ready_replicas),
                ("availableReplicas", status.available_replicas),
                ("unavailableReplicas", status.unavailable_replicas),
                ("terminatingReplicas", status.terminating_replicas),
            ],
        );
        return errors.into_vec();
    }
    let (new, old) = (or_default(&new.spec), or_default(&old.spec));
    deployment_spec(&mut errors, &new);
    errors.immutable(&SPEC.child("selector"), &new.selector, &old.selector);
    errors.into_vec()
}

fn deployment_spec(errors: &mut Errors, spec: &DeploymentSpec) {
    errors.non_negative(&SPEC.child("replicas"), spec.replicas.unwrap_or_default());
    required_selector(errors, &spec.selector, &SPEC.child("selector"));
    replica_template(errors, &spec.template, Some(&spec.selector), spec.replicas);
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
            rolling_deployment(errors, rolling, &path.child("rollingUpdate"));
        }
        _ => {}
    }
    let ready = spec.min_ready_seconds.unwrap_or_default();
    errors.non_negative(&SPEC.child("minReadySeconds"), ready);
    let limit = spec.revision_history_limit.unwrap_or_default();
    errors.non_negative(&SPEC.child("revisionHistoryLimit"), limit);
    if let Some(deadline) = spec.progress_deadline_seconds {
        let path = SPEC.child("progressDeadlineSeconds");
        errors.non_negative(&path, deadline);
        if deadline <= ready {
            errors.invalid(&path, deadline, "must be greater than minReadySeconds");
        }
    }
}

fn rolling_deployment(errors: &mut Errors, rolling: &RollingUpdateDeployment, path: &Path<'_>) {
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

/// Checks a number of pods, or a share of them.
pub(super) fn count_or_percent(errors: &mut Errors, value: &IntOrString, path: &Path<'_>) {
    match value {
        IntOrString::Int(count) => errors.non_negative(path, *count),
        IntOrString::String(share) => errors.invalid_each(path, share, names::percent(share)),
    }
}

/// The number in `25%`.
fn percent_of(value: &IntOrString) -> Option<i64> {
    match value {
        IntOrString::Int(_) => None,
        IntOrString::String(share) => share.strip_suffix('%')?.parse().ok(),
    }
}

fn is_zero(value: &IntOrString) -> bool {
    *value == IntOrString::Int(0) || percent_of(value) == Some(0)
}

fn at_most_all(errors: &mut Errors, value: &IntOrString, path: &Path<'_>) {
    if percent_of(value).is_some_and(|percent| percent > 100) {
        errors.invalid(path, json(value), "must not be greater than 100%");
    }
}

fn required_selector(errors: &mut Errors, selector: &LabelSelector, path: &Path<'_>) {
    if selector_is_empty(selector) {
        // Upstream tells a missing selector from an empty one; here both
        // arrive as an empty one.
        errors.required(path, "");
    } else {
        label_selector(errors, Some(selector), path);
    }
}

/// Checks the template of a workload whose pods run on and on: the selector
/// has to select what the template makes.
fn replica_template(
    errors: &mut Errors,
    template: &PodTemplateSpec,
    selector: Option<&LabelSelector>,
    replicas: Option<i32>,
) {
    let path = SPEC.child("template");
    let none = BTreeMap::new();
    let labels = template.metadata.as_ref().and_then(|meta| meta.labels.as_ref()).unwrap_or(&none);
    if let Some(selector) = selector.filter(|selector| !selector_is_empty(selector))
        && !selector_matches(selector, labels)
    {
        let detail = "`selector` does not match template `labels`";
        errors.invalid(&path.child("metadata.labels"), json(labels), detail);
    }
    pod_spec::template(errors, template, &path);
    always_restarts(errors, template, &path);
    let spec = template.spec.as_ref();
    // A write-once disk can be read by many, written by one.
    if replicas.unwrap_or_default() > 1 {
        let volumes = spec.map(|spec| list(&spec.volumes)).unwrap_or_default();
        let volumes_path = path.child("spec.volumes");
        for (index, volume) in volumes.iter().enumerate() {
            if let Some(disk) = &volume.gce_persistent_disk
                && disk.read_only != Some(true)
            {
                let detail = "must be read-only for replicated pods > 1; GCE PD can only be \
                              mounted on multiple machines if it is read-only";
                let path = volumes_path.index(index);
                errors.invalid(&path.child("gcePersistentDisk.readOnly"), false, detail);
            }
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

fn counts(errors: &mut Errors, fields: &[(&str, Option<i32>)]) {
    let status = Path::root("status");
    for (field, count) in fields {
        errors.non_negative(&status.child(field), count.unwrap_or_default());
    }
}

/// Checks a new ReplicaSet.
pub fn replica_set_create(set: &ReplicaSet) -> Vec<FieldError> {
    let mut errors = Errors::new();
    object_meta(&mut errors, &set.metadata, META);
    replica_set_spec(&mut errors, &or_default(&set.spec));
    errors.into_vec()
}

/// Checks an update of a ReplicaSet.
pub fn replica_set_update(new: &ReplicaSet, old: &ReplicaSet, part: Part) -> Vec<FieldError> {
    let mut errors = Errors::new();
    object_meta_update(&mut errors, &new.metadata, &old.metadata);
    if part == Part::Status {
        let status = or_default(&new.status);
        replica_status(
            &mut errors,
            status.replicas,
            &[
                ("fullyLabeledReplicas", status.fully_labeled_replicas),
                ("readyReplicas", status.ready_replicas),
                ("availableReplicas", status.available_replicas),
            ],
        );
        return errors.into_vec();
    }
    let (new, old) = (or_default(&new.spec), or_default(&old.spec));
    replica_set_spec(&mut errors, &new);
    errors.immutable(&SPEC.child("selector"), &new.selector, &old.selector);
    errors.into_vec()
}

fn replica_set_spec(errors: &mut Errors, spec: &ReplicaSetSpec) {
    errors.non_negative(&SPEC.child("replicas"), spec.replicas.unwrap_or_default());
    errors.non_negative(&SPEC.child("minReadySeconds"), spec.min_ready_seconds.unwrap_or_default());
    required_selector(errors, &spec.selector, &SPEC.child("selector"));
    match &spec.template {
        None => errors.required(&SPEC.child("template"), ""),
        Some(template) => {
            replica_template(errors, template, Some(&spec.selector), spec.replicas);
        }
    }
}

/// Checks counts of pods, each of which is a part of `replicas`.
fn replica_status(errors: &mut Errors, replicas: i32, parts: &[(&str, Option<i32>)]) {
    counts(errors, &[("replicas", Some(replicas))]);
    counts(errors, parts);
    for (field, count) in parts {
        let count = count.unwrap_or_default();
        if count > replicas {
            let path = Path::root("status");
            errors.invalid(&path.child(field), count, "cannot be greater than status.replicas");
        }
    }
}

/// Checks a new StatefulSet.
pub fn stateful_set_create(set: &StatefulSet) -> Vec<FieldError> {
    let mut errors = Errors::new();
    object_meta(&mut errors, &set.metadata, STATEFUL_META);
    let spec = or_default(&set.spec);
    stateful_set_spec(&mut errors, &spec);
    let path = SPEC.child("volumeClaimTemplates");
    for (index, claim) in list(&spec.volume_claim_templates).iter().enumerate() {
        let none = Default::default();
        let spec = claim.spec.as_ref().unwrap_or(&none);
        storage::claim_spec(&mut errors, spec, &path.index(index).child("spec"));
    }
    errors.into_vec()
}

/// Checks an update of a StatefulSet.
pub fn stateful_set_update(new: &StatefulSet, old: &StatefulSet, part: Part) -> Vec<FieldError> {
    let mut errors = Errors::new();
    object_meta_update(&mut errors, &new.metadata, &old.metadata);
    if part == Part::Status {
        let status = or_default(&new.status);
        replica_status(
            &mut errors,
            status.replicas,
            &[
                ("readyReplicas", status.ready_replicas),
                ("currentReplicas", status.current_replicas),
                ("updatedReplicas", status.updated_replicas),
                ("availableReplicas", status.available_replicas),
            ],
        );
        return errors.into_vec();
    }
    let (new, old) = (or_default(&new.spec), or_default(&old.spec));
    stateful_set_spec(&mut errors, &new);
    let mut rest = StatefulSetSpec::clone(&new);
    rest.replicas = old.replicas;
    rest.template.clone_from(&old.template);
    rest.update_strategy.clone_from(&old.update_strategy);
    rest.min_ready_seconds = old.min_ready_seconds;
    rest.ordinals.clone_from(&old.ordinals);
    rest.revision_history_limit = old.revision_history_limit;
    rest.persistent_volume_claim_retention_policy
        .clone_from(&old.persistent_volume_claim_retention_policy);
    if rest != *old {
        errors.forbidden(
            &SPEC,
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', \
             'template', 'updateStrategy', 'revisionHistoryLimit', \
             'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        );
    }
    errors.into_vec()
}

fn stateful_set_spec(errors: &mut Errors, spec: &StatefulSetSpec) {
    let policy = spec.pod_management_policy.as_deref();
    let policy_path = SPEC.child("podManagementPolicy");
    match policy {
        None | Some("") => errors.required(&policy_path, ""),
        Some("OrderedReady" | "Parallel") => {}
        Some(other) => {
            let detail = "must be 'OrderedReady' or 'Parallel'";
            errors.invalid(&policy_path, other, detail);
        }
    }
    let strategy = or_default(&spec.update_strategy);
    let path = SPEC.child("updateStrategy");
    match strategy.type_.as_deref() {
        None | Some("") => errors.required(&path, ""),
        Some("OnDelete") => {
            if strategy.rolling_update.is_some() {
                let detail = "only allowed for updateStrategy 'RollingUpdate'";
                errors.invalid(
                    &path.child("rollingUpdate"),
                    json(&strategy.rolling_update),
                    detail,
                );
            }
        }
        Some("RollingUpdate") => {
            let path = path.child("rollingUpdate");
            let rolling = or_default(&strategy.rolling_update);
            errors.non_negative(&path.child("partition"), rolling.partition.unwrap_or_default());
            if let Some(unavailable) = &rolling.max_unavailable {
                let path = path.child("maxUnavailable");
                count_or_percent(errors, unavailable, &path);
                if is_zero(unavailable) {
                    errors.invalid(&path, json(unavailable), "cannot be 0");
                }
                at_most_all(errors, unavailable, &path);
            }
        }
        Some(other) => errors.invalid(&path, other, "must be 'RollingUpdate' or 'OnDelete'"),
    }
    if let Some(retention) = &spec.persistent_volume_claim_retention_policy {
        let path = SPEC.child("persistentVolumeClaimRetentionPolicy");
        for (field, action) in
            [("whenDeleted", &retention.when_deleted), ("whenScaled", &retention.when_scaled)]
        {
            let supported = ["Delete", "Retain"];
            errors.required_one_of(&path.child(field), action.as_deref(), &supported);
        }
    }
    errors.non_negative(&SPEC.child("replicas"), spec.replicas.unwrap_or_default());
    errors.non_negative(&SPEC.child("minReadySeconds"), spec.min_ready_seconds.unwrap_or_default());
    if let Some(start) = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start) {
        errors.non_negative(&SPEC.child("ordinals.start"), start);
    }
    let service = text(&spec.service_name);
    if !service.is_empty() {
        let messages = names::dns1123_subdomain(service);
        errors.invalid_each(&SPEC.child("serviceName"), service, messages);
    }
    required_selector(errors, &spec.selector, &SPEC.child("selector"));
    stateful_template(errors, spec);
}

/// Claims made from templates are volumes of the pods; a mount may name them
/// although the template's volumes do not.
fn stateful_template(errors: &mut Errors, spec: &StatefulSetSpec) {
    let mut template = spec.template.clone();
    if let Some(pod) = &mut template.spec {
        let claims = list(&spec.volume_claim_templates);
        let volumes = pod.volumes.get_or_insert_default();
        for claim in claims {
            let name = text(&claim.metadata.name);
            if !name.is_empty() && !volumes.iter().any(|volume| volume.name == name) {
                volumes.push(claim_volume(name));
            }
        }
    }
    replica_template(errors, &template, Some(&spec.selector), None);
}

fn claim_volume(name: &str) -> k8s_openapi::api::core::v1::Volume {
    k8s_openapi::api::core::v1::Volume {
        name: name.to_owned(),
        persistent_volume_claim: Some(
            k8s_openapi::api::core::v1::PersistentVolumeClaimVolumeSource {
                claim_name: name.to_owned(),
                read_only: None,
            },
        ),
        ..Default::default()
    }
}

/// Checks a new DaemonSet.
pub fn daemon_set_create(set: &DaemonSet) -> Vec<FieldError> {
    let mut errors = Errors::new();
    object_meta(&mut errors, &set.metadata, META);
    daemon_set_spec(&mut errors, &or_default(&set.spec));
    errors.into_vec()
}

/// Checks an update of a DaemonSet.
pub fn daemon_set_update(new: &DaemonSet, old: &DaemonSet, part: Part) -> Vec<FieldError> {
    let mut errors = Errors::new();
    object_meta_update(&mut errors, &new.metadata, &old.metadata);
    if part == Part::Status {
        let status = or_default(&new.status);
        counts(
            &mut errors,
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
        return errors.into_vec();
    }
    let (new, old) = (or_default(&new.spec), or_default(&old.spec));
    daemon_set_spec(&mut errors, &new);
    errors.immutable(&SPEC.child("selector"), &new.selector, &old.selector);
    errors.into_vec()
}

fn daemon_set_spec(errors: &mut Errors, spec: &DaemonSetSpec) {
    required_selector(errors, &spec.selector, &SPEC.child("selector"));
    replica_template(errors, &spec.template, Some(&spec.selector), None);
    errors.non_negative(&SPEC.child("minReadySeconds"), spec.min_ready_seconds.unwrap_or_default());
    let strategy = or_default(&spec.update_strategy);
    let path = SPEC.child("updateStrategy");
    let kind = strategy.type_.as_deref();
    errors.required_one_of(&path.child("type"), kind, &["OnDelete", "RollingUpdate"]);
    if kind == Some("RollingUpdate") {
        let path = path.child("rollingUpdate");
        match &strategy.rolling_update {
            None => errors.required(&path, ""),
            Some(rolling) => rolling_daemon_set(errors, rolling, &path),
        }
    }
    let limit = spec.revision_history_limit.unwrap_or_default();
    errors.non_negative(&SPEC.child("revisionHistoryLimit"), limit);
}

/// On each node either the old pod goes first or the new one comes first.
fn rolling_daemon_set(errors: &mut Errors, rolling: &RollingUpdateDaemonSet, path: &Path<'_>) {
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

/// Checks a new ReplicationController.
pub fn replication_controller_create(controller: &ReplicationController) -> Vec<FieldError> {
    let mut errors = Errors::new();
    object_meta(&mut errors, &controller.metadata, META);
    replication_controller_spec(&mut errors, &or_default(&controller.spec));
    errors.into_vec()
}

/// Checks an update of a ReplicationController.
pub fn replication_controller_update(
    new: &ReplicationController,
    old: &ReplicationController,
    part: Part,
) -> Vec<FieldError> {
    let mut errors = Errors::new();
    object_meta_update(&mut errors, &new.metadata, &old.metadata);
    if part == Part::Status {
        let status = or_default(&new.status);
        replica_status(
            &mut errors,
            status.replicas,
            &[
                ("fullyLabeledReplicas", status.fully_labeled_replicas),
                ("readyReplicas", status.ready_replicas),
                ("availableReplicas", status.available_replicas),
            ],
        );
    } else {
        replication_controller_spec(&mut errors, &or_default(&new.spec));
    }
    errors.into_vec()
}

fn replication_controller_spec(errors: &mut Errors, spec: &ReplicationControllerSpec) {
    errors.non_negative(&SPEC.child("minReadySeconds"), spec.min_ready_seconds.unwrap_or_default());
    errors.non_negative(&SPEC.child("replicas"), spec.replicas.unwrap_or_default());
    let selector = LabelSelector { match_labels: spec.selector.clone(), match_expressions: None };
    if selector_is_empty(&selector) {
        errors.required(&SPEC.child("selector"), "");
    }
    match &spec.template {
        None => errors.required(&SPEC.child("template"), ""),
        Some(template) => replica_template(errors, template, Some(&selector), spec.replicas),
    }
}

/// Checks a new ControllerRevision.
pub fn controller_revision_create(revision: &ControllerRevision) -> Vec<FieldError> {
    let mut errors = Errors::new();
    object_meta(&mut errors, &revision.metadata, META);
    if revision.data.is_none() {
        errors.required(&Path::root("data"), "data is mandatory");
    }
    errors.non_negative(&Path::root("revision"), revision.revision);
    errors.into_vec()
}

/// Checks an update of a ControllerRevision: what it remembers stays.
pub fn controller_revision_update(
    new: &ControllerRevision,
    old: &ControllerRevision,
    _part: Part,
) -> Vec<FieldError> {
    let mut errors = Errors::new();
    object_meta_update(&mut errors, &new.metadata, &old.metadata);
    if new.data != old.data {
        let data = new.data.as_ref().map(json).unwrap_or_default();
        errors.invalid(&Path::root("data"), data, IMMUTABLE);
    }
    errors.non_negative(&Path::root("revision"), new.revision);
    errors.into_vec()
}
