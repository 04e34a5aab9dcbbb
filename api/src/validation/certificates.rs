//! CertificateSigningRequest: what is asked for, and the verdict on it.

use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
    CertificateSigningRequestStatus,
};

use super::meta::{MetaRules, check_create, check_update};
use super::names;
use super::path::{Errors, IMMUTABLE, Path, json, list, or_default};
use crate::catalogue::{FieldError, Part};

const META: MetaRules = MetaRules::cluster(names::subdomain_name);
const SPEC: Path<'static> = Path::root("spec");

/// The shortest life, in seconds, that a certificate may be asked to have.
const SHORTEST_SECONDS: i32 = 600;

/// Checks a new CertificateSigningRequest.
pub fn certificate_signing_request_create(request: &CertificateSigningRequest) -> Vec<FieldError> {
    check_create(&request.metadata, META, |errors| asked_for(errors, &request.spec))
}

/// Checks an update of a CertificateSigningRequest: what is asked for stays,
/// and a verdict is final.
pub fn certificate_signing_request_update(
    new: &CertificateSigningRequest,
    old: &CertificateSigningRequest,
    part: Part,
) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        if new.spec != old.spec {
            errors.invalid(&SPEC, json(&new.spec), IMMUTABLE);
        }
        let (new, old) = (or_default(&new.status), or_default(&old.status));
        let (now, before) = (list(&new.conditions), list(&old.conditions));
        verdict_stays(errors, now, before, part);
        conditions(errors, now);
        if certificate(&old).is_some() && certificate(&new) != certificate(&old) {
            let detail = "updates may not modify existing certificate data";
            errors.forbidden(&Path::root("status.certificate"), detail);
        }
    })
}

fn asked_for(errors: &mut Errors, spec: &CertificateSigningRequestSpec) {
    // Whether it is a proper request is for the one who signs it to see.
    let pem = std::str::from_utf8(&spec.request.0).unwrap_or_default();
    if !pem.trim_start().starts_with("-----BEGIN CERTIFICATE REQUEST-----") {
        let detail = "PEM block type must be CERTIFICATE REQUEST";
        errors.invalid(&SPEC.child("request"), json(&spec.request), detail);
    }
    usages(errors, list(&spec.usages), &SPEC.child("usages"));
    signer_name(errors, &spec.signer_name, &SPEC.child("signerName"));
    if let Some(seconds) = spec.expiration_seconds
        && seconds < SHORTEST_SECONDS
    {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.invalid(&SPEC.child("expirationSeconds"), seconds, detail);
    }
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

fn signer_name(errors: &mut Errors, signer: &str, path: &Path<'_>) {
    if signer.is_empty() {
        return errors.required(path, "");
    }
    match signer.split_once('/') {
        None | Some((_, "")) => {
            let detail = "must be a fully qualified domain and path of the form \
                          'example.com/signer-name'";
            errors.invalid(path, signer, detail);
        }
        Some((domain, _)) => {
            errors.invalid_each(path, signer, names::dns1123_subdomain(domain));
            if !domain.contains('.') {
                let detail = "should be a domain with at least two segments separated by dots";
                errors.invalid(path, signer, detail);
            }
        }
    }
}

/// A verdict is not taken back. It is given through `approval`, a subresource
/// of its own with a permission of its own; only a failure is told otherwise.
fn verdict_stays(
    errors: &mut Errors,
    now: &[CertificateSigningRequestCondition],
    before: &[CertificateSigningRequestCondition],
    part: Part,
) {
    let path = Path::root("status.conditions");
    for kind in ["Approved", "Denied", "Failed"] {
        match (has(before, kind), has(now, kind)) {
            (true, false) => {
                let detail = format!("updates may not remove a condition of type {kind:?}");
                errors.forbidden(&path, detail);
            }
            (false, true) if kind != "Failed" && part != Part::Other("approval") => {
                let detail = format!("updates may not add a condition of type {kind:?}");
                errors.forbidden(&path, detail);
            }
            _ => {}
        }
    }
}

fn conditions(errors: &mut Errors, conditions: &[CertificateSigningRequestCondition]) {
    let path = Path::root("status.conditions");
    if has(conditions, "Approved") && has(conditions, "Denied") {
        let detail = "Approved and Denied conditions are mutually exclusive";
        errors.invalid(&path, json(conditions), detail);
    }
    for (index, condition) in conditions.iter().enumerate() {
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
        if has(&conditions[..index], &condition.type_) {
            errors.duplicate(&path.child("type"), condition.type_.as_str());
        }
    }
}

fn has(conditions: &[CertificateSigningRequestCondition], kind: &str) -> bool {
    conditions.iter().any(|condition| condition.type_ == kind)
}

/// The certificate that was issued; an empty one is none.
fn certificate(status: &CertificateSigningRequestStatus) -> Option<&[u8]> {
    status.certificate.as_ref().map(|bytes| bytes.0.as_slice()).filter(|bytes| !bytes.is_empty())
}
