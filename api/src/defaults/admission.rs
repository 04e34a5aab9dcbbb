//! Webhooks and policies of admission.

use k8s_openapi::api::admissionregistration::v1::{
    MatchResources, MutatingWebhookConfiguration, RuleWithOperations, ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration, WebhookClientConfig,
};

use super::{fill, fill_nonzero, fill_text};

/// Fills in what webhooks of both types have: their fields have the same names,
/// which no trait of theirs joins.
macro_rules! shared {
    ($webhook:expr) => {
        fill_text(&mut $webhook.failure_policy, "Fail");
        fill_text(&mut $webhook.match_policy, "Equivalent");
        fill(&mut $webhook.namespace_selector, Default::default());
        fill(&mut $webhook.object_selector, Default::default());
        fill(&mut $webhook.timeout_seconds, 10);
        client_and_rules(&mut $webhook.client_config, &mut $webhook.rules);
    };
}

/// Fills in a ValidatingWebhookConfiguration.
pub fn validating_webhook_configuration(configuration: &mut ValidatingWebhookConfiguration) {
    for webhook in configuration.webhooks.iter_mut().flatten() {
        shared!(webhook);
    }
}

/// Fills in a MutatingWebhookConfiguration.
pub fn mutating_webhook_configuration(configuration: &mut MutatingWebhookConfiguration) {
    for webhook in configuration.webhooks.iter_mut().flatten() {
        shared!(webhook);
        fill_text(&mut webhook.reinvocation_policy, "Never");
    }
}

/// Fills in a ValidatingAdmissionPolicy.
pub fn validating_admission_policy(policy: &mut ValidatingAdmissionPolicy) {
    if let Some(spec) = &mut policy.spec {
        fill_text(&mut spec.failure_policy, "Fail");
        if let Some(constraints) = &mut spec.match_constraints {
            match_resources(constraints);
        }
    }
}

/// Fills in a ValidatingAdmissionPolicyBinding.
pub fn validating_admission_policy_binding(binding: &mut ValidatingAdmissionPolicyBinding) {
    if let Some(resources) = binding.spec.as_mut().and_then(|spec| spec.match_resources.as_mut()) {
        match_resources(resources);
    }
}

fn match_resources(resources: &mut MatchResources) {
    fill_text(&mut resources.match_policy, "Equivalent");
    fill(&mut resources.namespace_selector, Default::default());
    fill(&mut resources.object_selector, Default::default());
    let rules = resources.resource_rules.iter_mut().flatten();
    for rule in rules.chain(resources.exclude_resource_rules.iter_mut().flatten()) {
        fill_text(&mut rule.scope, "*");
    }
}

fn client_and_rules(client: &mut WebhookClientConfig, rules: &mut Option<Vec<RuleWithOperations>>) {
    if let Some(service) = &mut client.service {
        fill_nonzero(&mut service.port, 443);
    }
    for rule in rules.iter_mut().flatten() {
        fill_text(&mut rule.scope, "*");
    }
}
