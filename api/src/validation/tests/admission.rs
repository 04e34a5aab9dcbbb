//! Webhooks, policies of admission and their bindings, flow schemas.

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use serde_json::json;

use super::Kind;
use crate::catalogue::Part;
use crate::{defaults, validation};

#[test]
fn webhooks() {
    let kind = Kind::<ValidatingWebhookConfiguration> {
        minimal: json!({"metadata": {"name": "w"}, "webhooks": [{
            "name": "a.example.com",
            "clientConfig": {"service": {"namespace": "n", "name": "s"}},
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
        }]}),
        default: defaults::validating_webhook_configuration,
        create: validation::validating_webhook_configuration_create,
        update: Some(validation::validating_webhook_configuration_update),
    };
    let url = |url: &str| json!({"url": url});
    kind.creates(&[
        ("/webhooks/0/name", json!("short"), &["webhooks[0].name: Invalid: should be a domain with at least three segments"]),
        ("/webhooks/0/sideEffects", json!("Some"), &["webhooks[0].sideEffects: NotSupported"]),
        ("/webhooks/0/timeoutSeconds", json!(31), &["webhooks[0].timeoutSeconds: Invalid: the timeout value must be between 1 and 30 seconds"]),
        ("/webhooks/0/admissionReviewVersions", json!(["v9"]), &["webhooks[0].admissionReviewVersions: Invalid: must include at least one of"]),
        ("/webhooks/0/clientConfig", json!({}), &["webhooks[0].clientConfig: Required: exactly one of url or service is required"]),
        ("/webhooks/0/clientConfig", url("https://example.com/hook"), &[]),
        ("/webhooks/0/clientConfig", url("http://example.com"), &["webhooks[0].clientConfig.url: Invalid: 'https' is the only allowed URL scheme"]),
        ("/webhooks/0/clientConfig", url("https://u@example.com/?q#f"), &[
            "webhooks[0].clientConfig.url: Invalid: user information",
            "webhooks[0].clientConfig.url: Invalid: fragments",
            "webhooks[0].clientConfig.url: Invalid: query parameters",
        ]),
        ("/webhooks/0/rules/0/operations", json!(["*", "CREATE"]), &["webhooks[0].rules[0].operations: Invalid: if '*' is present"]),
        ("/webhooks/0/rules/0/operations", json!(["LOOK"]), &["webhooks[0].rules[0].operations[0]: NotSupported"]),
        ("/webhooks/0/rules/0/resources", json!([]), &["webhooks[0].rules[0].resources: Required"]),
        ("/webhooks/0/matchConditions", json!([{"name": "a", "expression": ""}]), &["webhooks[0].matchConditions[0].expression: Required"]),
    ]);
    kind.updates(
        Part::Main,
        &[(
            "/webhooks/0/failurePolicy",
            json!("Maybe"),
            &["webhooks[0].failurePolicy: NotSupported"],
        )],
    );
}

#[test]
fn policies() {
    let kind = Kind::<ValidatingAdmissionPolicy> {
        minimal: json!({"metadata": {"name": "p"}, "spec": {
            "matchConstraints": {"resourceRules": [
                {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]},
            ]},
            "validations": [{"expression": "true"}],
        }}),
        default: defaults::validating_admission_policy,
        create: validation::validating_admission_policy_create,
        update: Some(validation::validating_admission_policy_update),
    };
    let both = "validations or auditAnnotations must contain at least one item";
    kind.creates(&[
        ("/spec/matchConstraints", json!(null), &["spec.matchConstraints: Required"]),
        (
            "/spec/matchConstraints/resourceRules",
            json!([]),
            &["spec.matchConstraints.resourceRules: Required"],
        ),
        (
            "/spec/validations",
            json!([]),
            &[
                &format!("spec.validations: Required: {both}"),
                &format!("spec.auditAnnotations: Required: {both}"),
            ],
        ),
        (
            "/spec/validations/0/expression",
            json!(" "),
            &["spec.validations[0].expression: Required: expression is not specified"],
        ),
        ("/spec/paramKind", json!({"kind": "K"}), &["spec.paramKind.apiVersion: Required"]),
    ]);
    // Whoever writes the status is not asked about the rest.
    kind.updates(Part::Status, &[("/spec/validations", json!([]), &[])]);
}

#[test]
fn policy_bindings() {
    let kind = Kind::<ValidatingAdmissionPolicyBinding> {
        minimal: json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny"]}}),
        default: defaults::validating_admission_policy_binding,
        create: validation::validating_admission_policy_binding_create,
        update: Some(validation::validating_admission_policy_binding_update),
    };
    kind.creates(&[
        ("/spec/policyName", json!(""), &["spec.policyName: Required"]),
        ("/spec/validationActions", json!([]), &["spec.validationActions: Required"]),
        ("/spec/validationActions", json!(["Deny", "Audit"]), &[]),
        (
            "/spec/validationActions",
            json!(["Deny", "Warn"]),
            &["spec.validationActions: Invalid: must not contain both Deny and Warn"],
        ),
        (
            "/spec/validationActions",
            json!(["Audit", "Audit"]),
            &["spec.validationActions[1]: Duplicate"],
        ),
        (
            "/spec/paramRef",
            json!({"name": "x"}),
            &["spec.paramRef.parameterNotFoundAction: Required"],
        ),
    ]);
}

#[test]
fn flow_schemas() {
    let kind = Kind::<FlowSchema> {
        minimal: json!({"metadata": {"name": "f"}, "spec": {
            "priorityLevelConfiguration": {"name": "global-default"},
            "rules": [{
                "subjects": [{"kind": "User", "user": {"name": "u"}}],
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true}],
            }],
        }}),
        default: defaults::flow_schema,
        create: validation::flow_schema_create,
        update: Some(validation::flow_schema_update),
    };
    kind.creates(&[
        (
            "/spec/matchingPrecedence",
            json!(10001),
            &["spec.matchingPrecedence: Invalid: must be a value between 1 and 10000"],
        ),
        (
            "/spec/matchingPrecedence",
            json!(1),
            &["spec.matchingPrecedence: Invalid: only the schema named 'exempt'"],
        ),
        (
            "/spec/priorityLevelConfiguration/name",
            json!(""),
            &["spec.priorityLevelConfiguration.name: Required"],
        ),
        (
            "/spec/rules/0/subjects/0/user",
            json!(null),
            &["spec.rules[0].subjects[0].user: Required: user is required when subject kind is 'User'"],
        ),
        (
            "/spec/rules/0/subjects/0/kind",
            json!("Robot"),
            &["spec.rules[0].subjects[0].kind: NotSupported"],
        ),
        (
            "/spec/rules/0/resourceRules/0/clusterScope",
            json!(null),
            &["spec.rules[0].resourceRules[0].namespaces: Required"],
        ),
        ("/spec/rules/0/resourceRules", json!([]), &["spec.rules[0]: Required: at least one of"]),
    ]);
}

#[test]
fn priority_levels() {
    let kind = Kind::<PriorityLevelConfiguration> {
        minimal: json!({"metadata": {"name": "l"}, "spec": {
            "type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {}}},
        }}),
        default: defaults::priority_level_configuration,
        create: validation::priority_level_configuration_create,
        update: Some(validation::priority_level_configuration_update),
    };
    kind.creates(&[
        ("/spec/limited", json!(null), &["spec.limited: Required: must not be empty when type is Limited"]),
        (
            "/spec/limited/limitResponse/type",
            json!("Reject"),
            &["spec.limited.limitResponse.queuing: Forbidden"],
        ),
        (
            "/spec/limited/limitResponse/queuing/handSize",
            json!(65),
            &["spec.limited.limitResponse.queuing.handSize: Invalid: should not be greater than queues (64)"],
        ),
        ("/spec/limited/lendablePercent", json!(101), &["spec.limited.lendablePercent: Invalid"]),
        (
            "/spec/type",
            json!("Exempt"),
            &[
                "spec.type: Invalid: type must be 'Exempt' if and only if `name` is 'exempt'",
                "spec.limited: Forbidden",
            ],
        ),
    ]);
}
