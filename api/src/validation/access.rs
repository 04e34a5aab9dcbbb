//! Roles and bindings, certificate requests, and leases.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};

use super::meta::{MetaRules, label_selector, object_meta, object_meta_update};
use super::names;
use super::path::{Errors, IMMUTABLE, Path, json, list, or_default, text};
use crate::catalogue::{FieldError, Part};

const ROLE_META: MetaRules = MetaRules::namespaced(names::path_segment_name);
const CLUSTER_ROLE_META: MetaRules = MetaRules::cluster(names::path_segment_name);
const LEASE_META: MetaRules = MetaRules::namespaced(names::subdomain_name);
const REQUEST_META: MetaRules = MetaRules::cluster(names::subdomain_name);

const RBAC: &str = "rbac.authorization.k8s.io";

/// Checks a new Role.
pub fn role_create(role: &Role) -> Vec<FieldError> {
    let mut errors = Errors::new();
    object_meta(&mut errors, &role.metadata, ROLE_META);
    rules(&mut errors, list(&role.rules), true);
    errors.into_vec()
}

/// Checks an update of a Role.
pub fn role_update(new: &Role, old: &Role, _part: Part) -> Vec<FieldError> {
    let mut errors = Errors::new();
    object_meta_update(&mut errors, &new.metadata, &old.metadata);
    rules(&mut errors, list(&new.rules), true);
    errors.into_vec()
}

/// Checks a new ClusterRole.
pub fn cluster_role_create(role: &ClusterRole) -> Vec<FieldError> {
    let mut errors = Errors::new();
    object_meta(&mut errors, &role.metadata, CLUSTER_ROLE_META);
    cluster_role(&mut errors, role);
    errors.into_vec()
}

/// Checks an update of a ClusterRole.
pub fn cluster_role_update(new: &ClusterRole, old: &ClusterRole, _part: Part) -> Vec<FieldError> {
    let mut errors = Errors::new();
    object_meta_update(&mut errors, &new.metadata, &old.metadata);
    cluster_role(&mut errors, new);
    errors.into_vec()
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
    let mut errors = Errors::new();
    object_meta(&mut errors, &binding.metadata, ROLE_META);
    role_ref(&mut errors, &binding.role_ref, &["ClusterRole", "Role"]);
    subjects(&mut errors, list(&binding.subjects), true);
    errors.into_vec()
}

/// Checks an update of a RoleBinding: what it grants stays, to whom may change.
pub fn role_binding_update(new: &RoleBinding, old: &RoleBinding, _part: Part) -> Vec<FieldError> {
    let mut errors = Errors::new();
    object_meta_update(&mut errors, &new.metadata, &old.metadata);
    role_ref(&mut errors, &new.role_ref, &["ClusterRole", "Role"]);
    subjects(&mut errors, list(&new.subjects), true);
    same_role(&mut errors, &new.role_ref, &old.role_ref);
    errors.into_vec()
}

/// Checks a new ClusterRoleBinding.
pub fn cluster_role_binding_create(binding: &ClusterRoleBinding) -> Vec<FieldError> {
    let mut errors = Errors::new();
    object_meta(&mut errors, &binding.metadata, CLUSTER_ROLE_META);
    role_ref(&mut errors, &binding.role_ref, &["ClusterRole"]);
    subjects(&mut errors, list(&binding.subjects), false);
    errors.into_vec()
}

/// Checks an update of a ClusterRoleBinding.
pub fn cluster_role_binding_update(
    new: &ClusterRoleBinding,
    old: &ClusterRoleBinding,
    _part: Part,
) -> Vec<FieldError> {
    let mut errors = Errors::new();
    object_meta_update(&mut errors, &new.metadata, &old.metadata);
    role_ref(&mut errors, &new.role_ref, &["ClusterRole"]);
    subjects(&mut errors, list(&new.subjects), false);
    same_role(&mut errors, &new.role_ref, &old.role_ref);
    errors.into_vec()
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
    let mut errors = Errors::new();
    object_meta(&mut errors, &lease.metadata, LEASE_META);
    lease_spec(&mut errors, lease);
    errors.into_vec()
}

/// Checks an update of a Lease.
pub fn lease_update(new: &Lease, old: &Lease, _part: Part) -> Vec<FieldError> {
    let mut errors = Errors::new();
    object_meta_update(&mut errors, &new.metadata, &old.metadata);
    lease_spec(&mut errors, new);
    errors.into_vec()
}

fn lease_spec(errors: &mut Errors, lease: &Lease) {
    let spec = or_default(&lease.spec);
    let path = Path::root("spec");
    if let Some(seconds) = spec.lease_duration_seconds
        && seconds <= 0
    {
        errors.invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0");
    }
    if let Some(count) = spec.lease_transitions
        && count < 0
    {
        let detail = "must be greater than or equal to 0";
        errors.invalid(&path.child("leaseTransitions"), count, detail);
    }
}

/// Checks a new CertificateSigningRequest.
pub fn certificate_signing_request_create(request: &CertificateSigningRequest) -> Vec<FieldError> {
    const SHORTEST_SECONDS: i32 = 600;
    let mut errors = Errors::new();
    object_meta(&mut errors, &request.metadata, REQUEST_META);
    let path = Path::root("spec");
    let spec = &request.spec;
    // Whether it is a proper request is for the one who signs it to see.
    let pem = std::str::from_utf8(&spec.request.0).unwrap_or_default();
    if !pem.trim_start().starts_with("-----BEGIN CERTIFICATE REQUEST-----") {
        let detail = "PEM block type must be CERTIFICATE REQUEST";
        errors.invalid(&path.child("request"), json(&spec.request), detail);
    }
    usages(&mut errors, list(&spec.usages), &path.child("usages"));
    let signer = spec.signer_name.as_str();
    let signer_path = path.child("signerName");
    if signer.is_empty() {
        errors.required(&signer_path, "");
    } else {
        match signer.split_once('/') {
            None | Some((_, "")) => {
                let detail = "must be a fully qualified domain and path of the form \
                              'example.com/signer-name'";
                errors.invalid(&signer_path, signer, detail);
            }
            Some((domain, _)) => {
                errors.invalid_each(&signer_path, signer, names::dns1123_subdomain(domain));
                if !domain.contains('.') {
                    let detail = "should be a domain with at least two segments separated by dots";
                    errors.invalid(&signer_path, signer, detail);
                }
            }
        }
    }
    if let Some(seconds) = spec.expiration_seconds
        && seconds < SHORTEST_SECONDS
    {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.invalid(&path.child("expirationSeconds"), seconds, detail);
    }
    errors.into_vec()
}

fn usages(errors: &mut Errors, usages: &[String], path: &Path<'_>) {
    const KNOWN: [&str; 23] = [
        "any",
        "cert sign",
        "client auth",
        "code signing",
        "content commitment",
        "crl sign",
        "data encipherment",
        "decipher only",
        "digital signature",
        "email protection",
        "encipher only",
        "ipsec end system",
        "ipsec tunnel",
        "ipsec user",
        "key agreement",
        "key encipherment",
        "microsoft sgc",
        "netscape sgc",
        "ocsp signing",
        "s/mime",
        "server auth",
        "signing",
        "timestamping",
    ];
    if usages.is_empty() {
        errors.required(path, "usages must contain at least one value");
    }
    for (index, usage) in usages.iter().enumerate() {
        let path = path.index(index);
        errors.one_of(&path, Some(usage), &KNOWN);
        if usages[..index].contains(usage) {
            errors.duplicate(&path, usage.as_str());
        }
    }
}

/// Checks an update of a CertificateSigningRequest: what is asked for stays,
/// and a verdict is final.
pub fn certificate_signing_request_update(
    new: &CertificateSigningRequest,
    old: &CertificateSigningRequest,
    part: Part,
) -> Vec<FieldError> {
    let mut errors = Errors::new();
    object_meta_update(&mut errors, &new.metadata, &old.metadata);
    if new.spec != old.spec {
        errors.invalid(&Path::root("spec"), json(&new.spec), IMMUTABLE);
    }
    let (new, old) = (or_default(&new.status), or_default(&old.status));
    let path = Path::root("status.conditions");
    let has = |conditions: &[_], kind: &str| {
        conditions.iter().any(
            |condition: &k8s_openapi::api::certificates::v1::CertificateSigningRequestCondition| {
                condition.type_ == kind
            },
        )
    };
    let (now, before) = (list(&new.conditions), list(&old.conditions));
    for kind in ["Approved", "Denied", "Failed"] {
        if has(before, kind) && !has(now, kind) {
            errors.forbidden(&path, format!("updates may not remove a condition of type {kind:?}"));
        }
        // Approving has a subresource of its own, with a permission of its own.
        if kind != "Failed"
            && part != Part::Other("approval")
            && has(now, kind)
            && !has(before, kind)
        {
            errors.forbidden(&path, format!("updates may not add a condition of type {kind:?}"));
        }
    }
    if has(now, "Approved") && has(now, "Denied") {
        let detail = "Approved and Denied conditions are mutually exclusive";
        errors.invalid(&path, json(now), detail);
    }
    for (index, condition) in now.iter().enumerate() {
        let path = path.index(index);
        if condition.type_.is_empty() {
            errors.required(&path.child("type"), "");
        }
        let status = condition.status.as_str();
        if status.is_empty() {
            errors.required(&path.child("status"), "");
        } else if matches!(condition.type_.as_str(), "Approved" | "Denied" | "Failed") {
            errors.one_of(&path.child("status"), Some(status), &["True"]);
        }
        if now[..index].iter().any(|earlier| earlier.type_ == condition.type_) {
            errors.duplicate(&path.child("type"), condition.type_.as_str());
        }
    }
    let certificate =
        |status: &k8s_openapi::api::certificates::v1::CertificateSigningRequestStatus| {
            status.certificate.as_ref().map(|bytes| bytes.0.clone()).unwrap_or_default()
        };
    if !certificate(&old).is_empty() && certificate(&new) != certificate(&old) {
        let detail = "updates may not modify existing certificate data";
        errors.forbidden(&Path::root("status.certificate"), detail);
    }
    errors.into_vec()
}
