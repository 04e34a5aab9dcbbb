//! Devices, classes of them and claims to them.
//!
//! Left out: compiling CEL selectors.

use std::collections::HashSet;

use k8s_openapi::api::resource::v1::{
    DeviceClaim, DeviceClass, DeviceRequest, DeviceSelector, ResourceClaim, ResourceClaimTemplate,
    ResourceSlice,
};

use super::meta::{MetaRules, check_create, check_update};
use super::path::{Errors, Path, json, list, or_default, text};
use super::{names, scheduling};
use crate::catalogue::{FieldError, Part};

const CLUSTER_META: MetaRules = MetaRules::cluster(names::subdomain_name);
const META: MetaRules = MetaRules::namespaced(names::subdomain_name);
const SPEC: Path<'static> = Path::root("spec");

/// Devices that one slice may list.
const MAX_DEVICES: usize = 128;
/// Requests that one claim may make.
const MAX_REQUESTS: usize = 32;
/// Consumers that may share one claim.
const MAX_CONSUMERS: usize = 256;

/// Checks a new DeviceClass.
pub fn device_class_create(class: &DeviceClass) -> Vec<FieldError> {
    check_create(&class.metadata, CLUSTER_META, |errors| {
        selectors(errors, list(&class.spec.selectors), &SPEC)
    })
}

/// Checks an update of a DeviceClass.
pub fn device_class_update(new: &DeviceClass, old: &DeviceClass, _part: Part) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        selectors(errors, list(&new.spec.selectors), &SPEC)
    })
}

/// Checks a new ResourceClaim.
pub fn resource_claim_create(claim: &ResourceClaim) -> Vec<FieldError> {
    check_create(&claim.metadata, META, |errors| {
        device_claim(errors, &or_default(&claim.spec.devices), &SPEC.child("devices"))
    })
}

/// Checks an update of a ResourceClaim: what is asked for stays.
pub fn resource_claim_update(
    new: &ResourceClaim,
    old: &ResourceClaim,
    part: Part,
) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        if part == Part::Main {
            errors.immutable(&SPEC, &new.spec, &old.spec);
            return;
        }
        let status = or_default(&new.status);
        let (consumers, path) = (list(&status.reserved_for), Path::root("status.reservedFor"));
        if consumers.len() > MAX_CONSUMERS {
            errors.too_many(&path, consumers.len(), MAX_CONSUMERS);
        }
        for (index, consumer) in consumers.iter().enumerate() {
            if consumers[..index].iter().any(|earlier| earlier.uid == consumer.uid) {
                errors.duplicate(&path.index(index), json(consumer));
            }
        }
        if !consumers.is_empty() && status.allocation.is_none() {
            errors.forbidden(&path, "may not be specified when `allocated` is not set");
        }
        let before = or_default(&old.status);
        if let (Some(_), Some(_)) = (&before.allocation, &status.allocation) {
            let path = Path::root("status.allocation");
            errors.immutable(&path, &status.allocation, &before.allocation);
        }
    })
}

/// Checks a new ResourceClaimTemplate.
pub fn resource_claim_template_create(template: &ResourceClaimTemplate) -> Vec<FieldError> {
    check_create(&template.metadata, META, |errors| {
        let path = SPEC.child("spec.devices");
        device_claim(errors, &or_default(&template.spec.spec.devices), &path);
    })
}

/// Checks an update of a ResourceClaimTemplate: it stays as it is.
pub fn resource_claim_template_update(
    new: &ResourceClaimTemplate,
    old: &ResourceClaimTemplate,
    _part: Part,
) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        errors.immutable(&SPEC, &new.spec, &old.spec)
    })
}

fn device_claim(errors: &mut Errors, claim: &DeviceClaim, path: &Path<'_>) {
    let (requests, path) = (list(&claim.requests), path.child("requests"));
    if requests.len() > MAX_REQUESTS {
        errors.too_many(&path, requests.len(), MAX_REQUESTS);
    }
    let mut seen = HashSet::new();
    for (index, one) in requests.iter().enumerate() {
        let path = path.index(index);
        device_name(errors, &one.name, &mut seen, &path.child("name"));
        request(errors, one, &path);
    }
}

fn request(errors: &mut Errors, request: &DeviceRequest, path: &Path<'_>) {
    match (&request.exactly, list(&request.first_available)) {
        (Some(exactly), []) => {
            let path = path.child("exactly");
            class(errors, &exactly.device_class_name, &path);
            count(errors, exactly.allocation_mode.as_deref(), exactly.count, &path);
            selectors(errors, list(&exactly.selectors), &path);
        }
        (None, [_, ..]) => {
            let path = path.child("firstAvailable");
            let mut seen = HashSet::new();
            for (index, one) in list(&request.first_available).iter().enumerate() {
                let path = path.index(index);
                device_name(errors, &one.name, &mut seen, &path.child("name"));
                class(errors, &one.device_class_name, &path);
                count(errors, one.allocation_mode.as_deref(), one.count, &path);
                selectors(errors, list(&one.selectors), &path);
            }
        }
        (Some(_), _) => {
            let detail = "exactly one of `exactly` or `firstAvailable` is required, but multiple \
                          fields are set";
            errors.invalid(path, json(request), detail);
        }
        (None, []) => {
            errors.required(path, "exactly one of `exactly` or `firstAvailable` is required");
        }
    }
}

fn class(errors: &mut Errors, name: &str, path: &Path<'_>) {
    let path = path.child("deviceClassName");
    if name.is_empty() {
        errors.required(&path, "");
    } else {
        errors.invalid_each(&path, name, names::dns1123_subdomain(name));
    }
}

fn count(errors: &mut Errors, mode: Option<&str>, count: Option<i64>, path: &Path<'_>) {
    let given = count.unwrap_or_default();
    match mode {
        Some("ExactCount") if given <= 0 => {
            errors.invalid(&path.child("count"), given, "must be greater than zero");
        }
        Some("All") if given != 0 => {
            let detail = "must not be specified when allocationMode is 'All'";
            errors.invalid(&path.child("count"), given, detail);
        }
        mode => errors.one_of(&path.child("allocationMode"), mode, &["All", "ExactCount"]),
    }
}

fn selectors(errors: &mut Errors, selectors: &[DeviceSelector], path: &Path<'_>) {
    let path = path.child("selectors");
    if selectors.len() > 32 {
        errors.too_many(&path, selectors.len(), 32);
    }
    for (index, selector) in selectors.iter().enumerate() {
        let path = path.index(index);
        match &selector.cel {
            None => errors.required(&path.child("cel"), ""),
            Some(cel) if cel.expression.trim().is_empty() => {
                errors.required(&path.child("cel.expression"), "");
            }
            Some(_) => {}
        }
    }
}

fn device_name<'a>(
    errors: &mut Errors,
    name: &'a str,
    seen: &mut HashSet<&'a str>,
    path: &Path<'_>,
) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    errors.invalid_each(path, name, names::dns1123_label(name));
    if !seen.insert(name) {
        errors.duplicate(path, name);
    }
}

/// Checks a new ResourceSlice.
pub fn resource_slice_create(slice: &ResourceSlice) -> Vec<FieldError> {
    check_create(&slice.metadata, CLUSTER_META, |errors| slice_rules(errors, slice))
}

/// Checks an update of a ResourceSlice: whose it is stays.
pub fn resource_slice_update(
    new: &ResourceSlice,
    old: &ResourceSlice,
    _part: Part,
) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        slice_rules(errors, new);
        let (new, old) = (&new.spec, &old.spec);
        errors.immutable(&SPEC.child("driver"), &new.driver, &old.driver);
        errors.immutable(&SPEC.child("nodeName"), &new.node_name, &old.node_name);
        errors.immutable(&SPEC.child("pool.name"), &new.pool.name, &old.pool.name);
    })
}

fn slice_rules(errors: &mut Errors, slice: &ResourceSlice) {
    let spec = &slice.spec;
    let path = SPEC.child("driver");
    if spec.driver.is_empty() {
        errors.required(&path, "");
    } else {
        let messages = names::dns1123_subdomain(&spec.driver.to_lowercase());
        errors.invalid_each(&path, &spec.driver, messages);
    }
    let pool = SPEC.child("pool");
    if spec.pool.name.is_empty() {
        errors.required(&pool.child("name"), "");
    }
    if spec.pool.resource_slice_count <= 0 {
        let (path, given) = (pool.child("resourceSliceCount"), spec.pool.resource_slice_count);
        errors.invalid(&path, given, "must be greater than zero");
    }
    errors.non_negative(&pool.child("generation"), spec.pool.generation);
    let placed = [
        !text(&spec.node_name).is_empty(),
        spec.node_selector.is_some(),
        spec.all_nodes == Some(true),
        spec.per_device_node_selection == Some(true),
    ];
    if placed.into_iter().filter(|set| *set).count() != 1 {
        let detail = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, \
                      `perDeviceNodeSelection` is required";
        errors.required(&SPEC, detail);
    }
    if let Some(selector) = &spec.node_selector {
        scheduling::node_selector(errors, selector, &SPEC.child("nodeSelector"));
    }
    let (devices, path) = (list(&spec.devices), SPEC.child("devices"));
    if devices.len() > MAX_DEVICES {
        errors.too_many(&path, devices.len(), MAX_DEVICES);
    }
    let mut seen = HashSet::new();
    for (index, device) in devices.iter().enumerate() {
        device_name(errors, &device.name, &mut seen, &path.index(index).child("name"));
    }
}
