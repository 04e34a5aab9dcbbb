//! Resource amounts: requests and limits of containers and pods, and the names
//! of resources.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::names;
use super::path::{Errors, Path, list};
use crate::quantity::{ParseError, Quantity as Amount};

/// A set of named amounts.
pub type ResourceList = BTreeMap<String, Quantity>;

fn parse(quantity: &Quantity) -> Result<Amount, ParseError> {
    quantity.0.parse()
}

/// Whether a quantity is below zero or no quantity at all.
pub(super) fn is_negative(quantity: &Quantity) -> bool {
    parse(quantity).map_or(true, Amount::is_negative)
}

/// Whether a quantity is above zero.
pub(super) fn is_positive(quantity: &Quantity) -> bool {
    parse(quantity).is_ok_and(|amount| amount > Amount::ZERO)
}

/// The order of two quantities; `None` when one is malformed.
pub(super) fn compare(left: &Quantity, right: &Quantity) -> Option<Ordering> {
    Some(parse(left).ok()?.cmp(&parse(right).ok()?))
}

/// Checks that a quantity is well formed and not negative.
pub(super) fn non_negative(errors: &mut Errors, quantity: &Quantity, path: &Path<'_>) {
    match parse(quantity) {
        Err(error) => errors.invalid(path, quantity.0.as_str(), error.to_string()),
        Ok(amount) if amount.is_negative() => {
            errors.invalid(path, quantity.0.as_str(), "must be greater than or equal to 0");
        }
        Ok(_) => {}
    }
}

/// Checks the amount of one resource: not negative, and whole where the
/// resource comes in pieces.
pub(super) fn amount(errors: &mut Errors, name: &str, quantity: &Quantity, path: &Path<'_>) {
    non_negative(errors, quantity, path);
    let whole = |amount: Amount| Amount::from_units(amount.units()) == amount;
    if comes_in_pieces(name) && parse(quantity).is_ok_and(|amount| !whole(amount)) {
        errors.invalid(path, quantity.0.as_str(), "must be an integer");
    }
}

/// Whether a resource can only be had in whole units: objects counted by a
/// quota, and devices.
fn comes_in_pieces(name: &str) -> bool {
    is_extended(name)
        || matches!(
            name,
            "pods"
                | "services"
                | "replicationcontrollers"
                | "resourcequotas"
                | "secrets"
                | "configmaps"
                | "persistentvolumeclaims"
                | "services.nodeports"
                | "services.loadbalancers"
        )
}

/// Whether a resource is one that a device plugin or an administrator added.
fn is_extended(name: &str) -> bool {
    let Some((domain, _)) = name.split_once('/') else { return false };
    let own = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
    !own && !name.starts_with("requests.")
}

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Checks the name of a resource: qualified, and known when it has no domain.
fn resource_name(errors: &mut Errors, name: &str, known: bool, path: &Path<'_>) {
    let messages = names::qualified_name(name);
    let well_formed = messages.is_empty();
    errors.invalid_each(path, name, messages);
    if well_formed && !name.contains('/') && !known {
        errors.invalid(path, name, "must be a standard resource for containers");
    }
}

fn is_container_resource(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || is_huge_page(name)
}

/// Checks the requests and limits of a container.
pub(super) fn requirements(
    errors: &mut Errors,
    requirements: &ResourceRequirements,
    pod: &PodSpec,
    path: &Path<'_>,
) {
    amounts(errors, requirements, path);
    let claims = path.child("claims");
    for (index, claim) in list(&requirements.claims).iter().enumerate() {
        let path = claims.index(index);
        let path = path.child("name");
        if claim.name.is_empty() {
            errors.required(&path, "");
        } else if !list(&pod.resource_claims).iter().any(|known| known.name == claim.name) {
            errors.not_found(&path, claim.name.as_str());
        }
    }
}

/// Checks the requests and limits of a pod as a whole.
pub(super) fn pod_requirements(
    errors: &mut Errors,
    requirements: &ResourceRequirements,
    path: &Path<'_>,
) {
    for (field, amounts) in [("limits", &requirements.limits), ("requests", &requirements.requests)]
    {
        let field_path = path.child(field);
        for name in amounts.iter().flatten().map(|(name, _)| name.as_str()) {
            if !matches!(name, "cpu" | "memory") && !is_huge_page(name) {
                errors.not_supported(&field_path.key(name), name, &["cpu", "hugepages-", "memory"]);
            }
        }
    }
    if !list(&requirements.claims).is_empty() {
        errors.forbidden(&path.child("claims"), "claims may not be set for Resources at pod-level");
    }
    amounts(errors, requirements, path);
}

fn amounts(errors: &mut Errors, requirements: &ResourceRequirements, path: &Path<'_>) {
    let empty = ResourceList::new();
    let limits = requirements.limits.as_ref().unwrap_or(&empty);
    let requests = requirements.requests.as_ref().unwrap_or(&empty);
    let (limits_path, requests_path) = (path.child("limits"), path.child("requests"));
    for (amounts, path) in [(limits, &limits_path), (requests, &requests_path)] {
        for (name, quantity) in amounts {
            let path = path.key(name);
            resource_name(errors, name, is_container_resource(name), &path);
            amount(errors, name, quantity, &path);
        }
    }
    for (name, request) in requests {
        let overcommits = !is_extended(name) && !is_huge_page(name);
        let Some(limit) = limits.get(name) else {
            if !overcommits {
                let detail = "Limit must be set for non overcommitable resources";
                errors.required(&limits_path, detail);
            }
            continue;
        };
        let order = compare(request, limit);
        if !overcommits && order.is_some_and(Ordering::is_ne) {
            let detail = format!("must be equal to {name} limit of {}", limit.0);
            errors.invalid(&requests_path, request.0.as_str(), detail);
        } else if overcommits && order == Some(Ordering::Greater) {
            let detail = format!("must be less than or equal to {name} limit of {}", limit.0);
            errors.invalid(&requests_path, request.0.as_str(), detail);
        }
    }
    let has =
        |wanted: fn(&str) -> bool| limits.keys().chain(requests.keys()).any(|name| wanted(name));
    if has(is_huge_page) && !has(|name| matches!(name, "cpu" | "memory")) {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
}

/// Checks what a sandbox costs beside its containers.
pub(super) fn overhead(errors: &mut Errors, overhead: &ResourceList, path: &Path<'_>) {
    for (name, quantity) in overhead {
        let path = path.key(name);
        resource_name(errors, name, is_container_resource(name), &path);
        amount(errors, name, quantity, &path);
    }
}

/// The quality of service that a pod's requests and limits buy: `Guaranteed`
/// when every container has limits of CPU and memory that equal its requests,
/// `BestEffort` when none has any, else `Burstable`.
pub fn qos_class(spec: &PodSpec) -> &'static str {
    const COUNTED: [&str; 2] = ["cpu", "memory"];
    let containers = spec.containers.iter().chain(list(&spec.init_containers));
    let sets: Vec<&ResourceRequirements> = match &spec.resources {
        Some(pod) if pod.limits.is_some() || pod.requests.is_some() => vec![pod],
        _ => {
            const NONE: &ResourceRequirements =
                &ResourceRequirements { claims: None, limits: None, requests: None };
            containers.map(|container| container.resources.as_ref().unwrap_or(NONE)).collect()
        }
    };
    let positive = |amounts: &Option<ResourceList>, name: &str| {
        amounts.as_ref().and_then(|amounts| amounts.get(name)).filter(|q| is_positive(q)).cloned()
    };
    let mut any = false;
    let mut all = true;
    for set in sets {
        for name in COUNTED {
            let request = positive(&set.requests, name);
            let limit = positive(&set.limits, name);
            any |= request.is_some() || limit.is_some();
            all &= match (&request, &limit) {
                (Some(request), Some(limit)) => compare(request, limit) == Some(Ordering::Equal),
                (None, Some(_)) => true,
                (_, None) => false,
            };
        }
    }
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
