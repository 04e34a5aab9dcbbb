//! StatefulSet: pods with names of their own, and the claims that go with them.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetUpdateStrategy};
use k8s_openapi::api::core::v1::{PersistentVolumeClaimVolumeSource, Volume};

use super::{SPEC, replica_status, replica_template, required_selector};
use crate::catalogue::{FieldError, Part};
use crate::validation::count::{at_most_all, count_or_percent, is_zero};
use crate::validation::meta::{MetaRules, check_create, check_update};
use crate::validation::path::{Errors, Path, json, list, or_default, text};
use crate::validation::{names, storage};

/// The name of a set becomes part of its pods' host names.
const META: MetaRules = MetaRules::namespaced(names::label_name);

/// Checks a new StatefulSet.
pub fn stateful_set_create(set: &StatefulSet) -> Vec<FieldError> {
    check_create(&set.metadata, META, |errors| {
        let spec = or_default(&set.spec);
        spec_rules(errors, &spec);
        let path = SPEC.child("volumeClaimTemplates");
        for (index, claim) in list(&spec.volume_claim_templates).iter().enumerate() {
            let path = path.index(index);
            storage::claim_spec(errors, &or_default(&claim.spec), &path.child("spec"));
        }
    })
}

/// Checks an update of a StatefulSet.
pub fn stateful_set_update(new: &StatefulSet, old: &StatefulSet, part: Part) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        if part == Part::Status {
            let status = or_default(&new.status);
            replica_status(
                errors,
                status.replicas,
                &[
                    ("readyReplicas", status.ready_replicas),
                    ("currentReplicas", status.current_replicas),
                    ("updatedReplicas", status.updated_replicas),
                    ("availableReplicas", status.available_replicas),
                ],
            );
            return;
        }
        let (new, old) = (or_default(&new.spec), or_default(&old.spec));
        spec_rules(errors, &new);
        only_mutable_fields(errors, &new, &old);
    })
}

fn only_mutable_fields(errors: &mut Errors, new: &StatefulSetSpec, old: &StatefulSetSpec) {
    let allowed = StatefulSetSpec {
        replicas: new.replicas,
        template: new.template.clone(),
        update_strategy: new.update_strategy.clone(),
        min_ready_seconds: new.min_ready_seconds,
        ordinals: new.ordinals.clone(),
        revision_history_limit: new.revision_history_limit,
        persistent_volume_claim_retention_policy: new
            .persistent_volume_claim_retention_policy
            .clone(),
        ..old.clone()
    };
    if *new != allowed {
        errors.forbidden(
            &SPEC,
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', \
             'template', 'updateStrategy', 'revisionHistoryLimit', \
             'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        );
    }
}

fn spec_rules(errors: &mut Errors, spec: &StatefulSetSpec) {
    let policy_path = SPEC.child("podManagementPolicy");
    match spec.pod_management_policy.as_deref() {
        None | Some("") => errors.required(&policy_path, ""),
        Some("OrderedReady" | "Parallel") => {}
        Some(other) => {
            let detail = "must be 'OrderedReady' or 'Parallel'";
            errors.invalid(&policy_path, other, detail);
        }
    }
    update_strategy(errors, &or_default(&spec.update_strategy), &SPEC.child("updateStrategy"));
    if let Some(retention) = &spec.persistent_volume_claim_retention_policy {
        let path = SPEC.child("persistentVolumeClaimRetentionPolicy");
        for (field, action) in
            [("whenDeleted", &retention.when_deleted), ("whenScaled", &retention.when_scaled)]
        {
            let supported = ["Delete", "Retain"];
            errors.required_one_of(&path.child(field), action.as_deref(), &supported);
        }
    }
    let first = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start);
    errors.counts(
        &SPEC,
        &[
            ("replicas", spec.replicas),
            ("minReadySeconds", spec.min_ready_seconds),
            ("ordinals.start", first),
        ],
    );
    let service = text(&spec.service_name);
    if !service.is_empty() {
        let messages = names::dns1123_subdomain(service);
        errors.invalid_each(&SPEC.child("serviceName"), service, messages);
    }
    required_selector(errors, &spec.selector);
    template(errors, spec);
}

fn update_strategy(errors: &mut Errors, strategy: &StatefulSetUpdateStrategy, path: &Path<'_>) {
    match strategy.type_.as_deref() {
        None | Some("") => errors.required(path, ""),
        Some("OnDelete") => {
            if let Some(rolling) = &strategy.rolling_update {
                let detail = "only allowed for updateStrategy 'RollingUpdate'";
                errors.invalid(&path.child("rollingUpdate"), json(rolling), detail);
            }
        }
        Some("RollingUpdate") => {
            let path = path.child("rollingUpdate");
            let rolling = or_default(&strategy.rolling_update);
            errors.counts(&path, &[("partition", rolling.partition)]);
            if let Some(unavailable) = &rolling.max_unavailable {
                let path = path.child("maxUnavailable");
                count_or_percent(errors, unavailable, &path);
                if is_zero(unavailable) {
                    errors.invalid(&path, json(unavailable), "cannot be 0");
                }
                at_most_all(errors, unavailable, &path);
            }
        }
        Some(other) => errors.invalid(path, other, "must be 'RollingUpdate' or 'OnDelete'"),
    }
}

/// Claims made from templates are volumes of the pods; a mount may name them
/// although the template's volumes do not.
fn template(errors: &mut Errors, spec: &StatefulSetSpec) {
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
    replica_template(errors, &template, &spec.selector, None);
}

fn claim_volume(name: &str) -> Volume {
    let claim = PersistentVolumeClaimVolumeSource { claim_name: name.to_owned(), read_only: None };
    Volume { name: name.to_owned(), persistent_volume_claim: Some(claim), ..Default::default() }
}
