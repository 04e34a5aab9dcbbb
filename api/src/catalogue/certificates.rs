//! Certificate signing requests.

use k8s_openapi::api::certificates::v1 as k;

use super::subresources::{STATUS_VERBS, status, sub};
use super::{Resource, Rules, Typed};
use crate::{table, validation};

/// What the entries of this file have in common.
const CERTIFICATES: Resource = Resource {
    group: "certificates.k8s.io",
    version: "v1",
    behaviour: &Typed::<k::CertificateSigningRequest>::PLAIN,
    ..Resource::BASE
};

pub(super) const ENTRIES: &[Resource] = &[Resource {
    kind: "CertificateSigningRequest",
    plural: "certificatesigningrequests",
    singular: "certificatesigningrequest",
    short_names: &["csr"],
    namespaced: false,
    subresources: &[
        sub("approval", "CertificateSigningRequest", "certificates.k8s.io", "v1", STATUS_VERBS),
        status("CertificateSigningRequest", "certificates.k8s.io", "v1"),
    ],
    behaviour: &Typed::<k::CertificateSigningRequest> {
        validate: Some(validation::certificate_signing_request_create),
        validate_update: Some(validation::certificate_signing_request_update),
        rules: Rules { fixed_spec: true, ..Rules::STATUS },
        printer: &table::CERTIFICATE_SIGNING_REQUEST,
        selectable: &["spec.signerName"],
        ..Typed::PLAIN
    },
    ..CERTIFICATES
}];
