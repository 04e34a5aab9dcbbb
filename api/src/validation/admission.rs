//! Webhooks and policies of admission.
//!
//! Left out: compiling CEL expressions, which needs the types they are about.

use std::collections::HashSet;

use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MatchResources, MutatingWebhookConfiguration, ParamRef,
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration,
    WebhookClientConfig,
};

use super::meta::{MetaRules, check_create, check_update, label_selector};
use super::names;
use super::path::{Errors, Path, json, list, or_default, text};
use crate::catalogue::{FieldError, Part};

const META: MetaRules = MetaRules::cluster(names::subdomain_name);
const WEBHOOKS: Path<'static> = Path::root("webhooks");
const SPEC: Path<'static> = Path::root("spec");

const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// Checks a new ValidatingWebhookConfiguration.
pub fn validating_webhook_configuration_create(
    configuration: &ValidatingWebhookConfiguration,
) -> Vec<FieldError> {
    check_create(&configuration.metadata, META, |errors| validating_webhooks(errors, configuration))
}

/// Checks an update of a ValidatingWebhookConfiguration.
pub fn validating_webhook_configuration_update(
    new: &ValidatingWebhookConfiguration,
    old: &ValidatingWebhookConfiguration,
    _part: Part,
) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| validating_webhooks(errors, new))
}

/// Checks a new MutatingWebhookConfiguration.
pub fn mutating_webhook_configuration_create(
    configuration: &MutatingWebhookConfiguration,
) -> Vec<FieldError> {
    check_create(&configuration.metadata, META, |errors| mutating_webhooks(errors, configuration))
}

/// Checks an update of a MutatingWebhookConfiguration.
pub fn mutating_webhook_configuration_update(
    new: &MutatingWebhookConfiguration,
    old: &MutatingWebhookConfiguration,
    _part: Part,
) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| mutating_webhooks(errors, new))
}

/// What both types of webhooks have.
struct Webhook<'a> {
    name: &'a str,
    client: &'a WebhookClientConfig,
    side_effects: &'a str,
    review_versions: &'a [String],
    failure_policy: Option<&'a str>,
    match_policy: Option<&'a str>,
    timeout: Option<i32>,
    conditions: &'a [MatchCondition],
    rules: serde_json::Value,
}

/// The [`Webhook`] in either type: their fields have the same names, which no
/// trait of theirs joins.
macro_rules! shared {
    ($hook:expr) => {
        Webhook {
            name: &$hook.name,
            client: &$hook.client_config,
            side_effects: &$hook.side_effects,
            review_versions: &$hook.admission_review_versions,
            failure_policy: $hook.failure_policy.as_deref(),
            match_policy: $hook.match_policy.as_deref(),
            timeout: $hook.timeout_seconds,
            conditions: list(&$hook.match_conditions),
            rules: json(list(&$hook.rules)),
        }
    };
}

fn validating_webhooks(errors: &mut Errors, configuration: &ValidatingWebhookConfiguration) {
    let mut seen = HashSet::new();
    for (index, hook) in list(&configuration.webhooks).iter().enumerate() {
        webhook(errors, &shared!(hook), &mut seen, &WEBHOOKS.index(index));
    }
}

fn mutating_webhooks(errors: &mut Errors, configuration: &MutatingWebhookConfiguration) {
    let mut seen = HashSet::new();
    for (index, hook) in list(&configuration.webhooks).iter().enumerate() {
        let path = WEBHOOKS.index(index);
        let policy = hook.reinvocation_policy.as_deref();
        errors.one_of(&path.child("reinvocationPolicy"), policy, &["IfNeeded", "Never"]);
        webhook(errors, &shared!(hook), &mut seen, &path);
    }
}

fn webhook<'a>(
    errors: &mut Errors,
    hook: &Webhook<'a>,
    seen: &mut HashSet<&'a str>,
    path: &Path<'_>,
) {
    let name = path.child("name");
    if hook.name.is_empty() {
        errors.required(&name, "");
    } else {
        errors.invalid_each(&name, hook.name, names::dns1123_subdomain(hook.name));
        if hook.name.split('.').count() < 3 {
            let detail = "should be a domain with at least three segments separated by dots";
            errors.invalid(&name, hook.name, detail);
        }
        if !seen.insert(hook.name) {
            errors.duplicate(&name, hook.name);
        }
    }
    let versions = path.child("admissionReviewVersions");
    if hook.review_versions.is_empty() {
        errors.required(&versions, "must specify one of v1, v1beta1");
    } else if !hook.review_versions.iter().any(|v| REVIEW_VERSIONS.contains(&v.as_str())) {
        let detail = "must include at least one of v1, v1beta1";
        errors.invalid(&versions, json(hook.review_versions), detail);
    }
    let effects = path.child("sideEffects");
    errors.required_one_of(&effects, Some(hook.side_effects), &["None", "NoneOnDryRun"]);
    errors.one_of(&path.child("failurePolicy"), hook.failure_policy, &["Fail", "Ignore"]);
    errors.one_of(&path.child("matchPolicy"), hook.match_policy, &["Equivalent", "Exact"]);
    if let Some(seconds) = hook.timeout
        && !(1..=30).contains(&seconds)
    {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.invalid(&path.child("timeoutSeconds"), seconds, detail);
    }
    client_config(errors, hook.client, &path.child("clientConfig"));
    rules(errors, &hook.rules, &path.child("rules"));
    match_conditions(errors, hook.conditions, &path.child("matchConditions"));
}

fn client_config(errors: &mut Errors, client: &WebhookClientConfig, path: &Path<'_>) {
    match (&client.url, &client.service) {
        (Some(url), None) => webhook_url(errors, url, &path.child("url")),
        (None, Some(service)) => {
            let path = path.child("service");
            if service.name.is_empty() {
                errors.required(&path.child("name"), "service name is required");
            }
            if service.namespace.is_empty() {
                errors.required(&path.child("namespace"), "service namespace is required");
            }
            let port = i64::from(service.port.unwrap_or(443));
            for message in names::port_number(port) {
                errors.invalid(&path.child("port"), port, format!("port is not valid: {message}"));
            }
            if service.path.as_deref().is_some_and(|path| !path.starts_with('/')) {
                let value = text(&service.path);
                errors.invalid(&path.child("path"), value, "must start with a '/'");
            }
        }
        _ => errors.required(path, "exactly one of url or service is required"),
    }
}

fn webhook_url(errors: &mut Errors, url: &str, path: &Path<'_>) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    if scheme != "https" {
        errors.invalid(path, scheme, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.is_empty() {
        errors.invalid(path, host, format!("host must be specified{FORM}"));
    }
    if let Some((user, _)) = host.rsplit_once('@') {
        errors.invalid(path, user, "user information is not permitted in the URL");
    }
    if let Some((_, fragment)) = rest.split_once('#') {
        errors.invalid(path, fragment, "fragments are not permitted in the URL");
    }
    if let Some((_, query)) = rest.split('#').next().and_then(|rest| rest.split_once('?')) {
        errors.invalid(path, query, "query parameters are not permitted in the URL");
    }
}

/// Rules as JSON: those of webhooks and of policies differ in type alone.
fn rules(errors: &mut Errors, rules: &serde_json::Value, path: &Path<'_>) {
    for (index, rule) in rules.as_array().into_iter().flatten().enumerate() {
        let path = path.index(index);
        let texts = |field: &str| -> Vec<&str> {
            let values = rule.get(field).and_then(serde_json::Value::as_array);
            values.into_iter().flatten().filter_map(serde_json::Value::as_str).collect()
        };
        for field in ["operations", "apiGroups", "apiVersions", "resources"] {
            let values = texts(field);
            let path = path.child(field);
            if values.is_empty() {
                errors.required(&path, "");
            }
            // For resources, `*` leaves room for subresources.
            if field != "resources" && values.len() > 1 && values.contains(&"*") {
                let detail = format!("if '*' is present, must not specify other {field}");
                errors.invalid(&path, json(&values), detail);
            }
        }
        for (at, operation) in texts("operations").into_iter().enumerate() {
            let path = path.child("operations");
            errors.one_of(&path.index(at), Some(operation), &OPERATIONS);
        }
        let scope = rule.get("scope").and_then(serde_json::Value::as_str);
        errors.one_of(&path.child("scope"), scope, &["*", "Cluster", "Namespaced"]);
    }
}

fn match_conditions(errors: &mut Errors, conditions: &[MatchCondition], path: &Path<'_>) {
    let mut seen = HashSet::new();
    if conditions.len() > 64 {
        errors.too_many(path, conditions.len(), 64);
    }
    for (index, condition) in conditions.iter().enumerate() {
        let path = path.index(index);
        if condition.expression.trim().is_empty() {
            errors.required(&path.child("expression"), "");
        }
        if condition.name.is_empty() {
            errors.required(&path.child("name"), "");
        } else {
            let messages = names::qualified_name(&condition.name);
            errors.invalid_each(&path.child("name"), &condition.name, messages);
            if !seen.insert(&condition.name) {
                errors.duplicate(&path.child("name"), condition.name.as_str());
            }
        }
    }
}

/// Checks a new ValidatingAdmissionPolicy.
pub fn validating_admission_policy_create(policy: &ValidatingAdmissionPolicy) -> Vec<FieldError> {
    check_create(&policy.metadata, META, |errors| policy_rules(errors, policy))
}

/// Checks an update of a ValidatingAdmissionPolicy.
pub fn validating_admission_policy_update(
    new: &ValidatingAdmissionPolicy,
    old: &ValidatingAdmissionPolicy,
    part: Part,
) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        if part == Part::Main {
            policy_rules(errors, new);
        }
    })
}

fn policy_rules(errors: &mut Errors, policy: &ValidatingAdmissionPolicy) {
    let spec = or_default(&policy.spec);
    let failure = spec.failure_policy.as_deref();
    errors.required_one_of(&SPEC.child("failurePolicy"), failure, &["Fail", "Ignore"]);
    if let Some(kind) = &spec.param_kind {
        let path = SPEC.child("paramKind");
        for (field, value) in [("apiVersion", &kind.api_version), ("kind", &kind.kind)] {
            if text(value).is_empty() {
                errors.required(&path.child(field), "");
            }
        }
    }
    match &spec.match_constraints {
        None => errors.required(&SPEC.child("matchConstraints"), ""),
        Some(constraints) => {
            let path = SPEC.child("matchConstraints");
            match_resources(errors, constraints, &path);
            if list(&constraints.resource_rules).is_empty() {
                errors.required(&path.child("resourceRules"), "");
            }
        }
    }
    match_conditions(errors, list(&spec.match_conditions), &SPEC.child("matchConditions"));
    let (validations, annotations) = (list(&spec.validations), list(&spec.audit_annotations));
    if validations.is_empty() && annotations.is_empty() {
        let detail = "validations or auditAnnotations must contain at least one item";
        errors.required(&SPEC.child("validations"), detail);
        errors.required(&SPEC.child("auditAnnotations"), detail);
    }
    let path = SPEC.child("validations");
    for (index, validation) in validations.iter().enumerate() {
        let path = path.index(index);
        if validation.expression.trim().is_empty() {
            errors.required(&path.child("expression"), "expression is not specified");
        }
        if text(&validation.message).contains('\n') {
            let value = text(&validation.message);
            errors.invalid(&path.child("message"), value, "message must not contain line breaks");
        }
        errors.one_of(
            &path.child("reason"),
            validation.reason.as_deref(),
            &["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"],
        );
    }
    let path = SPEC.child("auditAnnotations");
    for (index, annotation) in annotations.iter().enumerate() {
        let path = path.index(index);
        if annotation.key.is_empty() {
            errors.required(&path.child("key"), "");
        }
        if annotation.value_expression.trim().is_empty() {
            errors.required(&path.child("valueExpression"), "valueExpression is not specified");
        }
    }
    let path = SPEC.child("variables");
    let mut seen = HashSet::new();
    for (index, variable) in list(&spec.variables).iter().enumerate() {
        let path = path.index(index);
        if variable.name.is_empty() {
            errors.required(&path.child("name"), "name is not specified");
        } else if !seen.insert(&variable.name) {
            errors.duplicate(&path.child("name"), variable.name.as_str());
        }
        if variable.expression.trim().is_empty() {
            errors.required(&path.child("expression"), "expression is not specified");
        }
    }
}

fn match_resources(errors: &mut Errors, resources: &MatchResources, path: &Path<'_>) {
    label_selector(errors, resources.object_selector.as_ref(), &path.child("objectSelector"));
    let namespaces = resources.namespace_selector.as_ref();
    label_selector(errors, namespaces, &path.child("namespaceSelector"));
    let policy = resources.match_policy.as_deref();
    errors.one_of(&path.child("matchPolicy"), policy, &["Equivalent", "Exact"]);
    rules(errors, &json(list(&resources.resource_rules)), &path.child("resourceRules"));
    let excluded = json(list(&resources.exclude_resource_rules));
    rules(errors, &excluded, &path.child("excludeResourceRules"));
}

/// Checks a new ValidatingAdmissionPolicyBinding.
pub fn validating_admission_policy_binding_create(
    binding: &ValidatingAdmissionPolicyBinding,
) -> Vec<FieldError> {
    check_create(&binding.metadata, META, |errors| binding_rules(errors, binding))
}

/// Checks an update of a ValidatingAdmissionPolicyBinding.
pub fn validating_admission_policy_binding_update(
    new: &ValidatingAdmissionPolicyBinding,
    old: &ValidatingAdmissionPolicyBinding,
    _part: Part,
) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| binding_rules(errors, new))
}

fn binding_rules(errors: &mut Errors, binding: &ValidatingAdmissionPolicyBinding) {
    let spec = or_default(&binding.spec);
    let (name, path) = (text(&spec.policy_name), SPEC.child("policyName"));
    if name.is_empty() {
        errors.required(&path, "");
    } else {
        errors.invalid_each(&path, name, names::dns1123_subdomain(name));
    }
    if let Some(parameters) = &spec.param_ref {
        param_ref(errors, parameters, &SPEC.child("paramRef"));
    }
    if let Some(resources) = &spec.match_resources {
        match_resources(errors, resources, &SPEC.child("matchResources"));
    }
    let (actions, path) = (list(&spec.validation_actions), SPEC.child("validationActions"));
    if actions.is_empty() {
        errors.required(&path, "");
    }
    for (index, action) in actions.iter().enumerate() {
        errors.one_of(&path.index(index), Some(action), &["Audit", "Deny", "Warn"]);
        if actions[..index].contains(action) {
            errors.duplicate(&path.index(index), action.as_str());
        }
    }
    let has = |name: &str| actions.iter().any(|action| action == name);
    if has("Deny") && has("Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure \
                      information in the API response and headers serves no purpose)";
        errors.invalid(&path, json(actions), detail);
    }
}

fn param_ref(errors: &mut Errors, parameters: &ParamRef, path: &Path<'_>) {
    match (text(&parameters.name), &parameters.selector) {
        ("", None) => {
            errors.required(path, "one of name or selector must be specified");
        }
        ("", Some(selector)) => label_selector(errors, Some(selector), &path.child("selector")),
        (_, Some(_)) => {
            let detail = "name and selector are mutually exclusive";
            errors.forbidden(&path.child("name"), detail);
        }
        (_, None) => {}
    }
    let action = parameters.parameter_not_found_action.as_deref();
    let path = path.child("parameterNotFoundAction");
    errors.required_one_of(&path, action, &["Allow", "Deny"]);
}
