//! Admission webhooks.

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, RuleWithOperations, ValidatingWebhookConfiguration,
    WebhookClientConfig,
};

use super::{fill, fill_nonzero, fill_text};

/// Fills in a ValidatingWebhookConfiguration.
pub fn validating_webhook_configuration(configuration: &mut ValidatingWebhookConfiguration) {
    for webhook in configuration.webhooks.iter_mut().flatten() {
        fill_text(&mut webhook.failure_policy, "Fail");
        fill_text(&mut webhook.match_policy, "Equivalent");
        fill(&mut webhook.namespace_selector, Default::default());
        fill(&mut webhook.object_selector, Default::default());
        fill(&mut webhook.timeout_seconds, 10);
        shared(&mut webhook.client_config, &mut webhook.rules);
    }
}

/// Fills in a MutatingWebhookConfiguration.
pub fn mutating_webhook_configuration(configuration: &mut MutatingWebhookConfiguration) {
    for webhook in configuration.webhooks.iter_mut().flatten() {
        fill_text(&mut webhook.failure_policy, "Fail");
        fill_text(&mut webhook.match_policy, "Equivalent");
        fill(&mut webhook.namespace_selector, Default::default());
        fill(&mut webhook.object_selector, Default::default());
        fill(&mut webhook.timeout_seconds, 10);
        fill_text(&mut webhook.reinvocation_policy, "Never");
        shared(&mut webhook.client_config, &mut webhook.rules);
    }
}

fn shared(client: &mut WebhookClientConfig, rules: &mut Option<Vec<RuleWithOperations>>) {
    if let Some(service) = &mut client.service {
        fill_nonzero(&mut service.port, 443);
    }
    for rule in rules.iter_mut().flatten() {
        fill_text(&mut rule.scope, "*");
    }
}
