//! Webhooks and policies of admission. Stored; calling them comes later.

use k8s_openapi::api::admissionregistration::v1 as k;

use super::subresources::status;
use super::{Resource, Rules, Typed};
use crate::{defaults, table, validation};

/// What the entries of this file have in common.
const ADMISSION: Resource = Resource {
    group: "admissionregistration.k8s.io",
    version: "v1",
    behaviour: &Typed::<k::MutatingWebhookConfiguration>::PLAIN,
    ..Resource::BASE
};

pub(super) const ENTRIES: &[Resource] = &[
    Resource {
        kind: "MutatingWebhookConfiguration",
        plural: "mutatingwebhookconfigurations",
        singular: "mutatingwebhookconfiguration",
        categories: &["api-extensions"],
        namespaced: false,
        behaviour: &Typed::<k::MutatingWebhookConfiguration> {
            validate: Some(validation::mutating_webhook_configuration_create),
            validate_update: Some(validation::mutating_webhook_configuration_update),
            default: Some(defaults::mutating_webhook_configuration),
            rules: Rules::GENERATION,
            printer: &table::WEBHOOKS,
            ..Typed::PLAIN
        },
        ..ADMISSION
    },
    Resource {
        kind: "ValidatingAdmissionPolicy",
        plural: "validatingadmissionpolicies",
        singular: "validatingadmissionpolicy",
        categories: &["api-extensions"],
        namespaced: false,
        subresources: &[status("ValidatingAdmissionPolicy", "admissionregistration.k8s.io", "v1")],
        behaviour: &Typed::<k::ValidatingAdmissionPolicy> {
            default: Some(defaults::validating_admission_policy),
            validate: Some(validation::validating_admission_policy_create),
            validate_update: Some(validation::validating_admission_policy_update),
            rules: Rules::FULL,
            printer: &table::VALIDATING_ADMISSION_POLICY,
            ..Typed::PLAIN
        },
        ..ADMISSION
    },
    Resource {
        kind: "ValidatingAdmissionPolicyBinding",
        plural: "validatingadmissionpolicybindings",
        singular: "validatingadmissionpolicybinding",
        categories: &["api-extensions"],
        namespaced: false,
        behaviour: &Typed::<k::ValidatingAdmissionPolicyBinding> {
            default: Some(defaults::validating_admission_policy_binding),
            validate: Some(validation::validating_admission_policy_binding_create),
            validate_update: Some(validation::validating_admission_policy_binding_update),
            rules: Rules::GENERATION,
            printer: &table::VALIDATING_ADMISSION_POLICY_BINDING,
            ..Typed::PLAIN
        },
        ..ADMISSION
    },
    Resource {
        kind: "ValidatingWebhookConfiguration",
        plural: "validatingwebhookconfigurations",
        singular: "validatingwebhookconfiguration",
        categories: &["api-extensions"],
        namespaced: false,
        behaviour: &Typed::<k::ValidatingWebhookConfiguration> {
            validate: Some(validation::validating_webhook_configuration_create),
            validate_update: Some(validation::validating_webhook_configuration_update),
            default: Some(defaults::validating_webhook_configuration),
            rules: Rules::GENERATION,
            printer: &table::WEBHOOKS,
            ..Typed::PLAIN
        },
        ..ADMISSION
    },
];
