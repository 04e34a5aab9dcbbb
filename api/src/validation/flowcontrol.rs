//! Fairness between clients: flow schemas and priority levels.

use k8s_openapi::api::flowcontrol::v1::{
    FlowSchema, LimitedPriorityLevelConfiguration, PolicyRulesWithSubjects,
    PriorityLevelConfiguration, QueuingConfiguration, ResourcePolicyRule, Subject,
};

use super::meta::{MetaRules, check_create, check_update};
use super::names;
use super::path::{Errors, Path, list, or_default};
use crate::catalogue::{FieldError, Part};

const META: MetaRules = MetaRules::cluster(names::subdomain_name);
const SPEC: Path<'static> = Path::root("spec");

/// The one priority level, and flow schema, without limits.
const EXEMPT: &str = "exempt";

/// Checks a new FlowSchema.
pub fn flow_schema_create(schema: &FlowSchema) -> Vec<FieldError> {
    check_create(&schema.metadata, META, |errors| flow_schema(errors, schema))
}

/// Checks an update of a FlowSchema.
pub fn flow_schema_update(new: &FlowSchema, old: &FlowSchema, part: Part) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        if part == Part::Main {
            flow_schema(errors, new);
        }
    })
}

fn flow_schema(errors: &mut Errors, schema: &FlowSchema) {
    let spec = or_default(&schema.spec);
    let path = SPEC.child("matchingPrecedence");
    let precedence = spec.matching_precedence.unwrap_or_default();
    if !(1..=10_000).contains(&precedence) {
        errors.invalid(&path, precedence, "must be a value between 1 and 10000");
    }
    if precedence == 1 && schema.metadata.name.as_deref() != Some(EXEMPT) {
        let detail = "only the schema named 'exempt' may have matchingPrecedence 1";
        errors.invalid(&path, precedence, detail);
    }
    let path = SPEC.child("priorityLevelConfiguration.name");
    let level = spec.priority_level_configuration.name.as_str();
    if level.is_empty() {
        errors.required(&path, "must reference a priority level");
    } else {
        errors.invalid_each(&path, level, names::dns1123_subdomain(level));
    }
    if let Some(method) = &spec.distinguisher_method {
        let path = SPEC.child("distinguisherMethod.type");
        errors.one_of(&path, Some(&method.type_), &["ByNamespace", "ByUser"]);
    }
    let path = SPEC.child("rules");
    for (index, rule) in list(&spec.rules).iter().enumerate() {
        policy_rules(errors, rule, &path.index(index));
    }
}

fn policy_rules(errors: &mut Errors, rule: &PolicyRulesWithSubjects, path: &Path<'_>) {
    if rule.subjects.is_empty() {
        errors.required(&path.child("subjects"), "subjects must contain at least one value");
    }
    let subjects = path.child("subjects");
    for (index, one) in rule.subjects.iter().enumerate() {
        subject(errors, one, &subjects.index(index));
    }
    let (resources, others) = (list(&rule.resource_rules), list(&rule.non_resource_rules));
    if resources.is_empty() && others.is_empty() {
        let detail = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.required(path, detail);
    }
    let rules = path.child("resourceRules");
    for (index, rule) in resources.iter().enumerate() {
        resource_rule(errors, rule, &rules.index(index));
    }
    let rules = path.child("nonResourceRules");
    for (index, rule) in others.iter().enumerate() {
        let path = rules.index(index);
        if rule.verbs.is_empty() {
            errors.required(&path.child("verbs"), "verbs must contain at least one value");
        }
        if rule.non_resource_urls.is_empty() {
            let detail = "nonResourceURLs must contain at least one value";
            errors.required(&path.child("nonResourceURLs"), detail);
        }
        let path = path.child("nonResourceURLs");
        for (index, url) in rule.non_resource_urls.iter().enumerate() {
            if url != "*" && !url.starts_with('/') {
                errors.invalid(&path.index(index), url.as_str(), "must start with a '/'");
            }
        }
    }
}

fn subject(errors: &mut Errors, subject: &Subject, path: &Path<'_>) {
    let given = [
        ("Group", "group", subject.group.is_some()),
        ("ServiceAccount", "serviceAccount", subject.service_account.is_some()),
        ("User", "user", subject.user.is_some()),
    ];
    let kinds = given.map(|(kind, ..)| kind);
    let kind = subject.kind.as_str();
    if !kinds.contains(&kind) {
        return errors.not_supported(&path.child("kind"), kind, &kinds);
    }
    for (of, field, is_given) in given {
        if kind == of && !is_given {
            let detail = format!("{field} is required when subject kind is '{kind}'");
            errors.required(&path.child(field), detail);
        } else if kind != of && is_given {
            let detail = format!("{field} is forbidden when subject kind is not '{of}'");
            errors.forbidden(&path.child(field), detail);
        }
    }
}

fn resource_rule(errors: &mut Errors, rule: &ResourcePolicyRule, path: &Path<'_>) {
    for (field, values, detail) in [
        ("verbs", &rule.verbs, "verbs must contain at least one value"),
        ("apiGroups", &rule.api_groups, "resource rules must supply at least one api group"),
        ("resources", &rule.resources, "resource rules must supply at least one resource"),
    ] {
        if values.is_empty() {
            errors.required(&path.child(field), detail);
        }
    }
    if list(&rule.namespaces).is_empty() && rule.cluster_scope != Some(true) {
        let detail =
            "resource rules that are not cluster scoped must supply at least one namespace";
        errors.required(&path.child("namespaces"), detail);
    }
}

/// Checks a new PriorityLevelConfiguration.
pub fn priority_level_configuration_create(level: &PriorityLevelConfiguration) -> Vec<FieldError> {
    check_create(&level.metadata, META, |errors| priority_level(errors, level))
}

/// Checks an update of a PriorityLevelConfiguration.
pub fn priority_level_configuration_update(
    new: &PriorityLevelConfiguration,
    old: &PriorityLevelConfiguration,
    part: Part,
) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        if part == Part::Main {
            priority_level(errors, new);
        }
    })
}

fn priority_level(errors: &mut Errors, level: &PriorityLevelConfiguration) {
    let spec = or_default(&level.spec);
    let kind = spec.type_.as_str();
    if (level.metadata.name.as_deref() == Some(EXEMPT)) != (kind == "Exempt") {
        let detail = "type must be 'Exempt' if and only if `name` is 'exempt'";
        errors.invalid(&SPEC.child("type"), kind, detail);
    }
    match (kind, &spec.limited) {
        ("Exempt", Some(_)) => {
            let detail = "must be nil if the type is not Limited";
            errors.forbidden(&SPEC.child("limited"), detail);
        }
        ("Exempt", None) => {}
        ("Limited", limited) => {
            if spec.exempt.is_some() {
                let detail = "must be nil if the type is Limited";
                errors.forbidden(&SPEC.child("exempt"), detail);
            }
            match limited {
                None => {
                    let detail = "must not be empty when type is Limited";
                    errors.required(&SPEC.child("limited"), detail);
                }
                Some(limited) => limits(errors, limited, &SPEC.child("limited")),
            }
        }
        _ => errors.not_supported(&SPEC.child("type"), kind, &["Exempt", "Limited"]),
    }
}

fn limits(errors: &mut Errors, limited: &LimitedPriorityLevelConfiguration, path: &Path<'_>) {
    let shares = limited.nominal_concurrency_shares.unwrap_or_default();
    if shares < 0 {
        let path = path.child("nominalConcurrencyShares");
        errors.invalid(&path, shares, "must be a non-negative integer");
    }
    let lendable = limited.lendable_percent.unwrap_or_default();
    errors.in_range(&path.child("lendablePercent"), lendable, 0, 100);
    if let Some(percent) = limited.borrowing_limit_percent.filter(|percent| *percent < 0) {
        let detail = "if specified, must be a non-negative integer";
        errors.invalid(&path.child("borrowingLimitPercent"), percent, detail);
    }
    let response = or_default(&limited.limit_response);
    let path = path.child("limitResponse");
    match (response.type_.as_str(), &response.queuing) {
        ("Reject", None) => {}
        ("Reject", Some(_)) => {
            let detail = "must be nil if limited.limitResponse.type is not Limited";
            errors.forbidden(&path.child("queuing"), detail);
        }
        ("Queue", None) => {
            let detail = "must not be empty if limited.limitResponse.type is Limited";
            errors.required(&path.child("queuing"), detail);
        }
        ("Queue", Some(queuing)) => queues(errors, queuing, &path.child("queuing")),
        (other, _) => errors.not_supported(&path.child("type"), other, &["Queue", "Reject"]),
    }
}

fn queues(errors: &mut Errors, queuing: &QueuingConfiguration, path: &Path<'_>) {
    let fields = [
        ("queueLengthLimit", queuing.queue_length_limit),
        ("queues", queuing.queues),
        ("handSize", queuing.hand_size),
    ];
    for (field, value) in fields {
        let value = value.unwrap_or_default();
        if value <= 0 {
            errors.invalid(&path.child(field), value, "must be positive");
        }
    }
    let (hand, queues) =
        (queuing.hand_size.unwrap_or_default(), queuing.queues.unwrap_or_default());
    if hand > queues {
        let detail = format!("should not be greater than queues ({queues})");
        errors.invalid(&path.child("handSize"), hand, detail);
    }
}
