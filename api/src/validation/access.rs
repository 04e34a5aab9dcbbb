//! Roles and bindings, and leases.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};

use super::meta::{MetaRules, check_create, check_update, label_selector};
use super::names;
use super::path::{Errors, Path, json, list, or_default, text};
use crate::catalogue::{FieldError, Part};

const ROLE_META: MetaRules = MetaRules::namespaced(names::path_segment_name);
const CLUSTER_ROLE_META: MetaRules = MetaRules::cluster(names::path_segment_name);
const LEASE_META: MetaRules = MetaRules::namespaced(names::subdomain_name);

const RBAC: &str = "rbac.authorization.k8s.io";

/// Checks a new Role.
pub fn role_create(role: &Role) -> Vec<FieldError> {
    check_create(&role.metadata, ROLE_META, |errors| rules(errors, list(&role.rules), true))
}

/// Checks an update of a Role.
pub fn role_update(new: &Role, old: &Role, _part: Part) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| rules(errors, list(&new.rules), true))
}

/// Checks a new ClusterRole.
pub fn cluster_role_create(role: &ClusterRole) -> Vec<FieldError> {
    check_create(&role.metadata, CLUSTER_ROLE_META, |errors| cluster_role(errors, role))
}

/// Checks an update of a ClusterRole.
pub fn cluster_role_update(new: &ClusterRole, old: &ClusterRole, _part: Part) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| cluster_role(errors, new))
}

fn cluster_role(errors: &mut Errors, role: &ClusterRole) {
    rules(errors, list(&role.rules), false);
    if let Some(aggregation) = &role.aggregation_rule {
        let path = Path::root("aggregationRule.clusterRoleSelectors");
        let selectors = list(&aggregation.cluster_role_selectors);
        if selectors.is_empty() {
            errors.required(
                &path,
                "at least one clusterRoleSelector required if aggregationRule is non-nil",
            );
        }
        for (index, selector) in selectors.iter().enumerate() {
            label_selector(errors, Some(selector), &path.index(index));
        }
    }
}

fn rules(errors: &mut Errors, rules: &[PolicyRule], namespaced: bool) {
    let path = Path::root("rules");
    for (index, rule) in rules.iter().enumerate() {
        let path = path.index(index);
        if rule.verbs.is_empty() {
            errors.required(&path.child("verbs"), "verbs must contain at least one value");
        }
        let urls = list(&rule.non_resource_urls);
        if !urls.is_empty() {
            let path = path.child("nonResourceURLs");
            if namespaced {
                let detail = "namespaced rules cannot apply to non-resource URLs";
                errors.invalid(&path, json(urls), detail);
            }
            if [&rule.api_groups, &rule.resources, &rule.resource_names]
                .iter()
                .any(|field| !list(field).is_empty())
            {
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                errors.invalid(&path, json(urls), detail);
            }
            continue;
        }
        for (field, values, detail) in [
            ("apiGroups", &rule.api_groups, "resource rules must supply at least one api group"),
            ("resources", &rule.resources, "resource rules must supply at least one resource"),
        ] {
            if list(values).is_empty() {
                errors.required(&path.child(field), detail);
            }
        }
    }
}

/// Checks a new RoleBinding.
pub fn role_binding_create(binding: &RoleBinding) -> Vec<FieldError> {
    check_create(&binding.metadata, ROLE_META, |errors| {
        role_ref(errors, &binding.role_ref, &["ClusterRole", "Role"]);
        subjects(errors, list(&binding.subjects), true);
    })
}

/// Checks an update of a RoleBinding: what it grants stays, to whom may change.
pub fn role_binding_update(new: &RoleBinding, old: &RoleBinding, _part: Part) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        role_ref(errors, &new.role_ref, &["ClusterRole", "Role"]);
        subjects(errors, list(&new.subjects), true);
        same_role(errors, &new.role_ref, &old.role_ref);
    })
}

/// Checks a new ClusterRoleBinding.
pub fn cluster_role_binding_create(binding: &ClusterRoleBinding) -> Vec<FieldError> {
    check_create(&binding.metadata, CLUSTER_ROLE_META, |errors| {
        role_ref(errors, &binding.role_ref, &["ClusterRole"]);
        subjects(errors, list(&binding.subjects), false);
    })
}

/// Checks an update of a ClusterRoleBinding.
pub fn cluster_role_binding_update(
    new: &ClusterRoleBinding,
    old: &ClusterRoleBinding,
    _part: Part,
) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        role_ref(errors, &new.role_ref, &["ClusterRole"]);
        subjects(errors, list(&new.subjects), false);
        same_role(errors, &new.role_ref, &old.role_ref);
    })
}

fn role_ref(errors: &mut Errors, role: &RoleRef, kinds: &[&str]) {
    let path = Path::root("roleRef");
    errors.one_of(&path.child("apiGroup"), Some(&role.api_group), &[RBAC]);
    errors.one_of(&path.child("kind"), Some(&role.kind), kinds);
    if role.name.is_empty() {
        errors.required(&path.child("name"), "");
    } else {
        errors.invalid_each(&path.child("name"), &role.name, names::path_segment(&role.name));
    }
}

fn same_role(errors: &mut Errors, new: &RoleRef, old: &RoleRef) {
    if new != old {
        errors.invalid(&Path::root("roleRef"), json(new), "cannot change roleRef");
    }
}

/// Within a namespace a service account's own may be left out: upstream asks
/// for it only where there is none to assume, and so does this.
fn subjects(errors: &mut Errors, subjects: &[Subject], namespaced: bool) {
    let path = Path::root("subjects");
    for (index, subject) in subjects.iter().enumerate() {
        let path = path.index(index);
        if subject.name.is_empty() {
            errors.required(&path.child("name"), "");
        }
        let group = text(&subject.api_group);
        match subject.kind.as_str() {
            "ServiceAccount" => {
                if !subject.name.is_empty() {
                    let messages = names::dns1123_subdomain(&subject.name);
                    errors.invalid_each(&path.child("name"), &subject.name, messages);
                }
                if !group.is_empty() {
                    errors.not_supported(&path.child("apiGroup"), group, &[""]);
                }
                if !namespaced && text(&subject.namespace).is_empty() {
                    errors.required(&path.child("namespace"), "");
                }
            }
            "User" | "Group" => errors.one_of(&path.child("apiGroup"), Some(group), &[RBAC]),
            other => {
                let kinds = ["Group", "ServiceAccount", "User"];
                errors.not_supported(&path.child("kind"), other, &kinds);
            }
        }
    }
}

/// Checks a new Lease.
pub fn lease_create(lease: &Lease) -> Vec<FieldError> {
    check_create(&lease.metadata, LEASE_META, |errors| lease_spec(errors, lease))
}

/// Checks an update of a Lease.
pub fn lease_update(new: &Lease, old: &Lease, _part: Part) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| lease_spec(errors, new))
}

fn lease_spec(errors: &mut Errors, lease: &Lease) {
    let spec = or_default(&lease.spec);
    let path = Path::root("spec");
    if let Some(seconds) = spec.lease_duration_seconds
        && seconds <= 0
    {
        errors.invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0");
    }
    errors
        .non_negative(&path.child("leaseTransitions"), spec.lease_transitions.unwrap_or_default());
}
