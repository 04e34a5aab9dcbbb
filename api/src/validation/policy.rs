//! What bounds others: PodDisruptionBudget, ResourceQuota, LimitRange,
//! PriorityClass and RuntimeClass.

use std::cmp::Ordering;

use k8s_openapi::api::core::v1::{
    LimitRange, LimitRangeItem, ResourceQuota, ScopedResourceSelectorRequirement,
};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::count::count_or_percent;
use super::meta::{MetaRules, check_create, check_update, label_selector, labels};
use super::path::{Errors, IMMUTABLE, Path, json, list, or_default};
use super::resources::{self, ResourceList};
use super::{names, scheduling};
use crate::catalogue::{FieldError, Part};

const META: MetaRules = MetaRules::namespaced(names::subdomain_name);
const CLUSTER_META: MetaRules = MetaRules::cluster(names::subdomain_name);
const SPEC: Path<'static> = Path::root("spec");

/// Priorities above this are for the system's own classes.
const HIGHEST_USER_PRIORITY: i32 = 1_000_000_000;

/// Checks a new PodDisruptionBudget.
pub fn pod_disruption_budget_create(budget: &PodDisruptionBudget) -> Vec<FieldError> {
    check_create(&budget.metadata, META, |errors| {
        disruption_budget(errors, &or_default(&budget.spec))
    })
}

/// Checks an update of a PodDisruptionBudget.
pub fn pod_disruption_budget_update(
    new: &PodDisruptionBudget,
    old: &PodDisruptionBudget,
    part: Part,
) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        if part == Part::Status {
            let status = or_default(&new.status);
            errors.counts(
                &Path::root("status"),
                &[
                    ("disruptionsAllowed", Some(status.disruptions_allowed)),
                    ("currentHealthy", Some(status.current_healthy)),
                    ("desiredHealthy", Some(status.desired_healthy)),
                    ("expectedPods", Some(status.expected_pods)),
                ],
            );
        } else {
            disruption_budget(errors, &or_default(&new.spec));
        }
    })
}

fn disruption_budget(errors: &mut Errors, spec: &PodDisruptionBudgetSpec) {
    if spec.min_available.is_some() && spec.max_unavailable.is_some() {
        let detail = "minAvailable and maxUnavailable cannot be both set";
        errors.invalid(&SPEC, json(spec), detail);
    }
    for (field, bound) in
        [("minAvailable", &spec.min_available), ("maxUnavailable", &spec.max_unavailable)]
    {
        if let Some(bound) = bound {
            count_or_percent(errors, bound, &SPEC.child(field));
        }
    }
    label_selector(errors, spec.selector.as_ref(), &SPEC.child("selector"));
    errors.one_of(
        &SPEC.child("unhealthyPodEvictionPolicy"),
        spec.unhealthy_pod_eviction_policy.as_deref(),
        &["AlwaysAllow", "IfHealthyBudget"],
    );
}

/// Checks a new ResourceQuota.
pub fn resource_quota_create(quota: &ResourceQuota) -> Vec<FieldError> {
    check_create(&quota.metadata, META, |errors| quota_spec(errors, quota))
}

/// Checks an update of a ResourceQuota: its scopes stay.
pub fn resource_quota_update(
    new: &ResourceQuota,
    old: &ResourceQuota,
    part: Part,
) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        if part == Part::Status {
            let status = or_default(&new.status);
            for (field, amounts) in [("status.hard", &status.hard), ("status.used", &status.used)] {
                quota_amounts(errors, amounts.as_ref(), &Path::root(field));
            }
            return;
        }
        quota_spec(errors, new);
        let (new, old) = (or_default(&new.spec), or_default(&old.spec));
        let sorted = |scopes: &Option<Vec<String>>| {
            let mut scopes = list(scopes).to_vec();
            scopes.sort();
            scopes
        };
        if sorted(&new.scopes) != sorted(&old.scopes) {
            errors.invalid(&SPEC.child("scopes"), json(&new.scopes), IMMUTABLE);
        }
    })
}

fn quota_spec(errors: &mut Errors, quota: &ResourceQuota) {
    const SCOPES: [&str; 7] = [
        "BestEffort",
        "CrossNamespacePodAffinity",
        "NotBestEffort",
        "NotTerminating",
        "PriorityClass",
        "Terminating",
        "VolumeAttributesClass",
    ];
    let spec = or_default(&quota.spec);
    quota_amounts(errors, spec.hard.as_ref(), &SPEC.child("hard"));
    let scopes = list(&spec.scopes);
    let path = SPEC.child("scopes");
    let limited = || spec.hard.iter().flatten().map(|(resource, _)| resource.as_str());
    for scope in scopes {
        if !SCOPES.contains(&scope.as_str()) {
            errors.invalid(&path, json(scopes), "unsupported scope");
        }
        for _ in limited().filter(|resource| !suits(scope, resource)) {
            errors.invalid(&path, json(scopes), UNSUITED);
        }
    }
    let has = |scope: &str| scopes.iter().any(|given| given == scope);
    if has("BestEffort") && has("NotBestEffort") || has("Terminating") && has("NotTerminating") {
        errors.invalid(&path, json(scopes), "conflicting scopes");
    }
    let selector = or_default(&spec.scope_selector);
    let path = SPEC.child("scopeSelector.matchExpressions");
    for requirement in list(&selector.match_expressions) {
        scope_requirement(errors, requirement, &SCOPES, &path);
        for _ in limited().filter(|resource| !suits(&requirement.scope_name, resource)) {
            errors.invalid(&path, json(&selector), UNSUITED);
        }
    }
}

/// What a quota limits without naming a group.
const STANDARD: [&str; 19] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "persistentvolumeclaims",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];

const UNSUITED: &str = "unsupported scope applied to resource";

/// Whether a scope selects objects that take a resource. Of resources that are
/// not upstream's own nobody knows.
fn suits(scope: &str, resource: &str) -> bool {
    const COMPUTE: [&str; 6] =
        ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
    const STORAGE: [&str; 2] = ["persistentvolumeclaims", "requests.storage"];
    if !STANDARD.contains(&resource) {
        return true;
    }
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => STORAGE.contains(&resource),
        _ => resource == "pods" || COMPUTE.contains(&resource),
    }
}

fn scope_requirement(
    errors: &mut Errors,
    requirement: &ScopedResourceSelectorRequirement,
    scopes: &[&str],
    path: &Path<'_>,
) {
    let scope = requirement.scope_name.as_str();
    if !scopes.contains(&scope) {
        errors.invalid(&path.child("scopeName"), scope, "unsupported scope");
    }
    let values = list(&requirement.values);
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => {
            let detail = "must be at least one value when `operator` is 'In' or 'NotIn' for scope \
                          selector";
            errors.required(&path.child("values"), detail);
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope \
                          selector";
            errors.invalid(&path.child("values"), json(values), detail);
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
    }
}

fn quota_amounts(errors: &mut Errors, amounts: Option<&ResourceList>, path: &Path<'_>) {
    for (name, quantity) in amounts.into_iter().flatten() {
        let path = path.key(name);
        let messages = names::qualified_name(name);
        let well_formed = messages.is_empty();
        errors.invalid_each(&path, name, messages);
        let known = STANDARD.contains(&name.as_str())
            || ["hugepages-", "requests.hugepages-"].iter().any(|prefix| name.starts_with(prefix));
        if well_formed && !name.contains('/') && !known {
            errors.invalid(&path, name.as_str(), "must be a standard resource for quota");
        }
        resources::amount(errors, name, quantity, &path);
    }
}

/// Checks a new LimitRange.
pub fn limit_range_create(range: &LimitRange) -> Vec<FieldError> {
    check_create(&range.metadata, META, |errors| limits(errors, range))
}

/// Checks an update of a LimitRange.
pub fn limit_range_update(new: &LimitRange, old: &LimitRange, _part: Part) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| limits(errors, new))
}

fn limits(errors: &mut Errors, range: &LimitRange) {
    let spec = or_default(&range.spec);
    let path = SPEC.child("limits");
    for (index, item) in spec.limits.iter().enumerate() {
        let path = path.index(index);
        let kind = item.type_.as_str();
        if spec.limits[..index].iter().any(|earlier| earlier.type_ == kind) {
            errors.duplicate(&path.child("type"), kind);
        }
        limit_item(errors, item, &path);
    }
}

/// For each resource: minimum ≤ default request ≤ default limit ≤ maximum.
fn limit_item(errors: &mut Errors, item: &LimitRangeItem, path: &Path<'_>) {
    let kind = item.type_.as_str();
    errors.invalid_each(&path.child("type"), kind, names::qualified_name(kind));
    let sets = [
        ("min", &item.min),
        ("defaultRequest", &item.default_request),
        ("default", &item.default),
        ("max", &item.max),
    ];
    for (field, amounts) in sets {
        let path = path.child(field);
        if kind == "Pod" && matches!(field, "default" | "defaultRequest") && amounts.is_some() {
            errors.forbidden(&path, "may not be specified when `type` is 'Pod'");
        }
        for (name, quantity) in amounts.iter().flatten() {
            resources::amount(errors, name, quantity, &path.key(name));
        }
    }
    if kind == "PersistentVolumeClaim" {
        let has = |amounts: &Option<ResourceList>| {
            amounts.as_ref().is_some_and(|amounts| amounts.contains_key("storage"))
        };
        if !has(&item.min) && !has(&item.max) {
            let detail = "either minimum or maximum storage value is required, but neither was \
                          provided";
            errors.required(path, detail);
        }
    }
    let names = sets.iter().flat_map(|(_, amounts)| amounts.iter().flatten()).map(|(name, _)| name);
    let names: std::collections::BTreeSet<&String> = names.collect();
    let get = |amounts: &Option<ResourceList>, name: &str| -> Option<Quantity> {
        amounts.as_ref()?.get(name).cloned()
    };
    for name in names {
        // Each pair is named at the field that upstream names.
        for (field, low, low_name, high, high_name) in [
            ("min", &item.min, "min", &item.max, "max"),
            ("defaultRequest", &item.min, "min", &item.default_request, "default request"),
            ("defaultRequest", &item.default_request, "default request", &item.max, "max"),
            (
                "defaultRequest",
                &item.default_request,
                "default request",
                &item.default,
                "default limit",
            ),
            ("default", &item.min, "min", &item.default, "default"),
            ("default", &item.default, "default", &item.max, "max"),
        ] {
            let (Some(low), Some(high)) = (get(low, name), get(high, name)) else { continue };
            if resources::compare(&low, &high) == Some(Ordering::Greater) {
                let detail = format!(
                    "{low_name} value {} is greater than {high_name} value {}",
                    low.0, high.0
                );
                let value =
                    if field == low_name || low_name == "default request" { low.0 } else { high.0 };
                errors.invalid(&path.child(field).key(name), value, detail);
            }
        }
        if let Some(ratio) = get(&item.max_limit_request_ratio, name)
            && resources::compare(&ratio, &Quantity("1".to_owned())) == Some(Ordering::Less)
        {
            let detail = format!("ratio {} is less than 1", ratio.0);
            errors.invalid(&path.child("maxLimitRequestRatio").key(name), ratio.0, detail);
        }
    }
}

/// Checks a new PriorityClass.
pub fn priority_class_create(class: &PriorityClass) -> Vec<FieldError> {
    check_create(&class.metadata, CLUSTER_META, |errors| {
        let name = class.metadata.name.as_deref().unwrap_or_default();
        let system = match name {
            "system-cluster-critical" => Some(2_000_000_000),
            "system-node-critical" => Some(2_000_001_000),
            _ => None,
        };
        if name.starts_with("system-") {
            let expected = system == Some(class.value);
            if !expected {
                let detail = "priority class names with 'system-' prefix are reserved for system use \
                              only. error: the name or value is not one of the known system classes";
                errors.forbidden(&Path::root("metadata.name"), detail);
            }
        } else if class.value > HIGHEST_USER_PRIORITY {
            let detail = format!(
                "maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}"
            );
            errors.forbidden(&Path::root("value"), detail);
        }
        preemption_policy(errors, class);
    })
}

fn preemption_policy(errors: &mut Errors, class: &PriorityClass) {
    let path = Path::root("preemptionPolicy");
    let supported = ["Never", "PreemptLowerPriority"];
    errors.one_of(&path, class.preemption_policy.as_deref(), &supported);
}

/// Checks an update of a PriorityClass: pods carry its value, so it stays.
pub fn priority_class_update(
    new: &PriorityClass,
    old: &PriorityClass,
    _part: Part,
) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        if new.value != old.value {
            errors.forbidden(&Path::root("value"), "may not be changed in an update.");
        }
        let (new, old) = (&new.preemption_policy, &old.preemption_policy);
        errors.immutable(&Path::root("preemptionPolicy"), new, old);
    })
}

/// Checks a new RuntimeClass.
pub fn runtime_class_create(class: &RuntimeClass) -> Vec<FieldError> {
    check_create(&class.metadata, CLUSTER_META, |errors| runtime_class(errors, class))
}

/// Checks an update of a RuntimeClass: its handler stays.
pub fn runtime_class_update(
    new: &RuntimeClass,
    old: &RuntimeClass,
    _part: Part,
) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        runtime_class(errors, new);
        errors.immutable(&Path::root("handler"), &new.handler, &old.handler);
    })
}

fn runtime_class(errors: &mut Errors, class: &RuntimeClass) {
    let messages = names::dns1123_label(&class.handler);
    errors.invalid_each(&Path::root("handler"), &class.handler, messages);
    if let Some(overhead) = class.overhead.as_ref().and_then(|overhead| overhead.pod_fixed.as_ref())
    {
        resources::overhead(errors, overhead, &Path::root("overhead.podFixed"));
    }
    if let Some(rules) = &class.scheduling {
        let path = Path::root("scheduling");
        labels(errors, rules.node_selector.as_ref(), &path.child("nodeSelector"));
        scheduling::tolerations(errors, list(&rules.tolerations), &path.child("tolerations"));
    }
}
