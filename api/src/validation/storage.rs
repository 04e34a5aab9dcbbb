//! Volumes of the cluster and the claims on them, storage classes and CSI
//! drivers.

use std::cmp::Ordering;

use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeSpec,
};
use k8s_openapi::api::storage::v1::{CSIDriver, StorageClass};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::meta::{MetaRules, check_create, check_update, label_selector};
use super::path::{Errors, IMMUTABLE, Path, json, list, or_default, text};
use super::{names, resources, scheduling, volume};
use crate::catalogue::{FieldError, Part};

const VOLUME_META: MetaRules = MetaRules::cluster(names::subdomain_name);
const CLAIM_META: MetaRules = MetaRules::namespaced(names::subdomain_name);

const SPEC: Path<'static> = Path::root("spec");

const ACCESS_MODES: [&str; 4] =
    ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];

/// Checks a new PersistentVolumeClaim.
pub fn persistent_volume_claim_create(claim: &PersistentVolumeClaim) -> Vec<FieldError> {
    check_create(&claim.metadata, CLAIM_META, |errors| {
        claim_spec(errors, &or_default(&claim.spec), &SPEC);
    })
}

/// Checks an update of a PersistentVolumeClaim: once bound, it can only grow.
pub fn persistent_volume_claim_update(
    new: &PersistentVolumeClaim,
    old: &PersistentVolumeClaim,
    part: Part,
) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        if part == Part::Main {
            let bound =
                old.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
            let (new, old) = (or_default(&new.spec), or_default(&old.spec));
            claim_spec(errors, &new, &SPEC);
            claim_stays(errors, &new, &old);
            only_grows(errors, &new, &old, bound);
        }
    })
}

fn claim_stays(
    errors: &mut Errors,
    new: &PersistentVolumeClaimSpec,
    old: &PersistentVolumeClaimSpec,
) {
    let mut rest = new.clone();
    // The binder fills in the volume; nobody takes it away again.
    if text(&old.volume_name).is_empty() {
        rest.volume_name.clone_from(&old.volume_name);
    }
    if old.storage_class_name.is_none() {
        rest.storage_class_name = None;
    }
    rest.resources.clone_from(&old.resources);
    rest.volume_attributes_class_name.clone_from(&old.volume_attributes_class_name);
    rest.volume_mode.clone_from(&old.volume_mode);
    if rest != *old {
        let detail = "spec is immutable after creation except resources.requests and \
                      volumeAttributesClassName for bound claims";
        errors.forbidden(&SPEC, detail);
    }
    errors.immutable(&SPEC.child("volumeMode"), &new.volume_mode, &old.volume_mode);
}

fn only_grows(
    errors: &mut Errors,
    new: &PersistentVolumeClaimSpec,
    old: &PersistentVolumeClaimSpec,
    bound: bool,
) {
    fn storage(spec: &PersistentVolumeClaimSpec) -> Option<&Quantity> {
        spec.resources.as_ref()?.requests.as_ref()?.get("storage")
    }
    let (Some(new), Some(old)) = (storage(new), storage(old)) else { return };
    let path = SPEC.child("resources.requests.storage");
    match resources::compare(new, old) {
        Some(Ordering::Less) => {
            errors.forbidden(&path, "field can not be less than status.capacity");
        }
        Some(Ordering::Greater) if !bound => {
            errors.forbidden(&path, "field is immutable until the claim is bound");
        }
        _ => {}
    }
}

/// Checks what a claim or a claim template asks for.
pub(super) fn claim_spec(errors: &mut Errors, spec: &PersistentVolumeClaimSpec, path: &Path<'_>) {
    access_modes(errors, list(&spec.access_modes), path);
    label_selector(errors, spec.selector.as_ref(), &path.child("selector"));
    let requirements = path.child("resources");
    let requests_path = requirements.child("requests");
    let none = resources::ResourceList::new();
    let requests = spec.resources.as_ref().and_then(|set| set.requests.as_ref()).unwrap_or(&none);
    match requests.get("storage") {
        None => errors.required(&requests_path.key("storage"), ""),
        Some(size) if !resources::is_positive(size) => {
            let detail = "must be greater than zero";
            errors.invalid(&requests_path.key("storage"), size.0.as_str(), detail);
        }
        Some(_) => {}
    }
    let limit = spec.resources.as_ref().and_then(|set| set.limits.as_ref()?.get("storage"));
    if let (Some(request), Some(limit)) = (requests.get("storage"), limit)
        && resources::compare(request, limit) == Some(Ordering::Greater)
    {
        let detail = format!("must be less than or equal to storage limit of {}", limit.0);
        errors.invalid(&requests_path, request.0.as_str(), detail);
    }
    class_name(errors, spec.storage_class_name.as_deref(), path);
    errors.one_of(&path.child("volumeMode"), spec.volume_mode.as_deref(), &VOLUME_MODES);
    if let Some(source) = &spec.data_source {
        let path = path.child("dataSource");
        for (field, value) in [("name", &source.name), ("kind", &source.kind)] {
            if value.is_empty() {
                errors.required(&path.child(field), "");
            }
        }
        if text(&source.api_group).is_empty() && source.kind != "PersistentVolumeClaim" {
            let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.invalid(&path, source.kind.as_str(), detail);
        }
    }
}

fn access_modes(errors: &mut Errors, modes: &[String], path: &Path<'_>) {
    let path = path.child("accessModes");
    if modes.is_empty() {
        errors.required(&path, "at least 1 access mode is required");
    }
    for mode in modes {
        errors.one_of(&path, Some(mode), &ACCESS_MODES);
    }
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        let detail = "may not use ReadWriteOncePod with other access modes";
        errors.forbidden(&path, detail);
    }
}

fn class_name(errors: &mut Errors, name: Option<&str>, path: &Path<'_>) {
    if let Some(name) = name.filter(|name| !name.is_empty()) {
        errors.invalid_each(&path.child("storageClassName"), name, names::dns1123_subdomain(name));
    }
}

/// Checks a new PersistentVolume.
pub fn persistent_volume_create(volume: &PersistentVolume) -> Vec<FieldError> {
    check_create(&volume.metadata, VOLUME_META, |errors| {
        volume_spec(errors, &or_default(&volume.spec));
    })
}

/// Checks an update of a PersistentVolume: its source stays.
pub fn persistent_volume_update(
    new: &PersistentVolume,
    old: &PersistentVolume,
    part: Part,
) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        if part != Part::Main {
            return;
        }
        let (new, old) = (or_default(&new.spec), or_default(&old.spec));
        volume_spec(errors, &new);
        if source_of(&new) != source_of(&old) {
            let detail = "spec.persistentvolumesource is immutable after creation";
            errors.forbidden(&SPEC.child("persistentvolumesource"), detail);
        }
        errors.immutable(&SPEC.child("volumeMode"), &new.volume_mode, &old.volume_mode);
        if old.node_affinity.is_some() && new.node_affinity != old.node_affinity {
            errors.invalid(&SPEC.child("nodeAffinity"), json(&new.node_affinity), IMMUTABLE);
        }
    })
}

/// What is left of a volume's specification when all that is not its source is
/// taken out.
fn source_of(spec: &PersistentVolumeSpec) -> PersistentVolumeSpec {
    PersistentVolumeSpec {
        access_modes: None,
        capacity: None,
        claim_ref: None,
        mount_options: None,
        node_affinity: None,
        persistent_volume_reclaim_policy: None,
        storage_class_name: None,
        volume_attributes_class_name: None,
        volume_mode: None,
        ..spec.clone()
    }
}

fn volume_spec(errors: &mut Errors, spec: &PersistentVolumeSpec) {
    access_modes(errors, list(&spec.access_modes), &SPEC);
    let capacity_path = SPEC.child("capacity");
    let none = resources::ResourceList::new();
    let capacity = spec.capacity.as_ref().unwrap_or(&none);
    if capacity.is_empty() {
        errors.required(&capacity_path, "");
    } else if capacity.len() > 1 || !capacity.contains_key("storage") {
        errors.not_supported(&capacity_path, json(capacity), &["storage"]);
    }
    for (name, quantity) in capacity {
        resources::non_negative(errors, quantity, &capacity_path.key(name));
        if !resources::is_positive(quantity) && !resources::is_negative(quantity) {
            let path = capacity_path.key(name);
            errors.invalid(&path, quantity.0.as_str(), "must be greater than zero");
        }
    }
    let policy = spec.persistent_volume_reclaim_policy.as_deref();
    let policy_path = SPEC.child("persistentVolumeReclaimPolicy");
    errors.one_of(&policy_path, policy, &["Delete", "Recycle", "Retain"]);
    class_name(errors, spec.storage_class_name.as_deref(), &SPEC);
    errors.one_of(&SPEC.child("volumeMode"), spec.volume_mode.as_deref(), &VOLUME_MODES);
    volume_sources(errors, spec);
    if let Some(affinity) = &spec.node_affinity {
        let path = SPEC.child("nodeAffinity.required");
        match &affinity.required {
            None => errors.required(&path, "must specify required node constraints"),
            Some(selector) => scheduling::node_selector(errors, selector, &path),
        }
    } else if spec.local.is_some() {
        errors.required(&SPEC.child("nodeAffinity"), "Local volume requires node affinity");
    }
    if policy == Some("Recycle") && spec.host_path.as_ref().is_some_and(|source| source.path == "/")
    {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        errors.forbidden(&policy_path, detail);
    }
}

fn volume_sources(errors: &mut Errors, spec: &PersistentVolumeSpec) {
    // What is neither settings nor empty is a source; its JSON names it.
    let sources = json(&source_of(spec));
    let mut chosen = sources.as_object().into_iter().flat_map(|sources| sources.keys());
    if chosen.next().is_none() {
        errors.required(&SPEC, "must specify a volume type");
    }
    for field in chosen {
        errors.forbidden(&SPEC.child(field), "may not specify more than 1 volume type");
    }
    if let Some(source) = &spec.host_path {
        volume::host_path(errors, source, &SPEC.child("hostPath"));
    }
    if let Some(source) = &spec.nfs {
        volume::nfs(errors, &source.server, &source.path, &SPEC.child("nfs"));
    }
    if let Some(source) = &spec.local
        && source.path.is_empty()
    {
        errors.required(&SPEC.child("local.path"), "");
    }
    if let Some(source) = &spec.csi {
        volume::csi_driver(errors, &source.driver, &SPEC.child("csi.driver"));
        if source.volume_handle.is_empty() {
            errors.required(&SPEC.child("csi.volumeHandle"), "");
        }
    }
}

/// Checks a new StorageClass.
pub fn storage_class_create(class: &StorageClass) -> Vec<FieldError> {
    check_create(&class.metadata, VOLUME_META, |errors| {
        let path = Path::root("provisioner");
        if class.provisioner.is_empty() {
            errors.required(&path, "");
        } else {
            let messages = names::qualified_name(&class.provisioner.to_lowercase());
            errors.invalid_each(&path, &class.provisioner, messages);
        }
        let reclaim = class.reclaim_policy.as_deref();
        errors.one_of(&Path::root("reclaimPolicy"), reclaim, &["Delete", "Retain"]);
        errors.required_one_of(
            &Path::root("volumeBindingMode"),
            class.volume_binding_mode.as_deref(),
            &["Immediate", "WaitForFirstConsumer"],
        );
        let parameters = class.parameters.iter().flatten();
        for (key, _) in parameters {
            if key.is_empty() {
                errors.invalid(&Path::root("parameters"), key.as_str(), "field can not be empty.");
            }
        }
    })
}

/// Checks an update of a StorageClass: what volumes were made with stays.
pub fn storage_class_update(
    new: &StorageClass,
    old: &StorageClass,
    _part: Part,
) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        if new.parameters != old.parameters {
            errors.forbidden(&Path::root("parameters"), "updates to parameters are forbidden.");
        }
        if new.provisioner != old.provisioner {
            errors.forbidden(&Path::root("provisioner"), "updates to provisioner are forbidden.");
        }
        if new.reclaim_policy != old.reclaim_policy {
            errors
                .forbidden(&Path::root("reclaimPolicy"), "updates to reclaimPolicy are forbidden.");
        }
        let (new, old) = (&new.volume_binding_mode, &old.volume_binding_mode);
        errors.immutable(&Path::root("volumeBindingMode"), new, old);
    })
}

/// Checks a new CSIDriver.
pub fn csi_driver_create(driver: &CSIDriver) -> Vec<FieldError> {
    check_create(&driver.metadata, VOLUME_META, |errors| {
        errors.one_of(
            &SPEC.child("fsGroupPolicy"),
            driver.spec.fs_group_policy.as_deref(),
            &["File", "None", "ReadWriteOnceWithFSType"],
        );
        for mode in list(&driver.spec.volume_lifecycle_modes) {
            let path = SPEC.child("volumeLifecycleModes");
            errors.one_of(&path, Some(mode), &["Ephemeral", "Persistent"]);
        }
    })
}
