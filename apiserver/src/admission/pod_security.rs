//! PodSecurity: a namespace's labels say what its pods may ask of their host.
//!
//! Pods beyond the `enforce` level are refused. Pods, and workloads by their
//! template, beyond the `warn` level earn a warning, and beyond the `audit`
//! level a note in the audit log. What is beyond a level, `skiff_api` knows.

use std::collections::BTreeMap;

use serde_json::Value;
use skiff_api::pod_security::{Level, Policies, Policy, describe, template, violations};

use super::{Attributes, Context, Operation, Plugin, items};
use crate::status::ApiError;

/// Pods of a namespace that a stricter level is tried on, as upstream.
const MOST_PODS: usize = 3000;

const ENFORCED: &str = "pod-security.kubernetes.io/enforce-policy";
const AUDITED: &str = "pod-security.kubernetes.io/audit-violations";

pub(super) struct PodSecurity;

impl Plugin for PodSecurity {
    fn validate(
        &self,
        context: &Context,
        request: &Attributes<'_>,
        object: &Value,
    ) -> Result<(), ApiError> {
        if !matches!(request.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        let info = request.info;
        if request.is("", "namespaces") {
            return check_namespace(context, request, object);
        }
        let is_pod = request.is("", "pods") || request.is("", "pods/ephemeralcontainers");
        if !is_pod && !info.subresource.is_empty() {
            return Ok(());
        }
        let Some(pod) = template(&info.api_group, &info.resource, object) else { return Ok(()) };
        if is_pod && request.old.is_some_and(|old| !changes_containers(old, pod)) {
            return Ok(());
        }
        let Some(namespace) = context.objects.get("", "namespaces", "", &info.namespace) else {
            return Ok(());
        };
        let (policies, _) = Policies::of(&namespace);
        if is_pod {
            request.notes.annotate(ENFORCED, policies.enforce.to_string());
        }
        if let Some(why) = beyond(policies.audit, pod) {
            request.notes.annotate(AUDITED, format!("would violate {why}"));
        }
        if let Some(why) = beyond(policies.enforce, pod).filter(|_| is_pod) {
            return Err(request.forbidden(format!("violates {why}")));
        }
        if let Some(why) = beyond(policies.warn, pod) {
            request.notes.warn(format!("would violate {why}"));
        }
        Ok(())
    }
}

fn beyond(policy: Policy, pod: &Value) -> Option<String> {
    let violations = violations(policy, pod);
    (!violations.is_empty())
        .then(|| format!("PodSecurity \"{policy}\": {}", describe(&violations, true)))
}

/// Whether an update of a pod changes what its containers are. All else that
/// checks look at cannot change.
fn changes_containers(old: &Value, new: &Value) -> bool {
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    lists.iter().any(|list| {
        let images = |pod: &Value| -> Vec<(Value, Value)> {
            let containers = items(&pod["spec"][*list]);
            containers.map(|one| (one["name"].clone(), one["image"].clone())).collect()
        };
        images(old) != images(new)
    })
}

/// Refuses labels that say nothing; a namespace that has them may keep them.
/// A stricter level is tried on the pods that are there.
fn check_namespace(
    context: &Context,
    request: &Attributes<'_>,
    namespace: &Value,
) -> Result<(), ApiError> {
    let (new, errors) = Policies::of(namespace);
    let Some((old, old_errors)) = request.old.map(Policies::of) else {
        return refuse(request, errors);
    };
    if old_errors.is_empty() {
        refuse(request, errors)?;
    }
    let (new, old) = (new.enforce, old.enforce);
    let looser = new.version == old.version && new.level < old.level;
    if new == old || looser || new.level == Level::Privileged {
        return Ok(());
    }
    let name = request.info.name.as_str();
    let pods = context.objects.list("", "pods", name);
    if pods.len() > MOST_PODS {
        request.notes.warn(format!(
            "new PodSecurity enforce level only checked against the first {MOST_PODS} of {} \
             existing pods",
            pods.len()
        ));
    }
    // Pods of one workload share their fault and a line.
    let mut faults: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for pod in pods.iter().take(MOST_PODS) {
        let violations = violations(new, pod);
        if !violations.is_empty() {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            faults.entry(describe(&violations, false)).or_default().push(name);
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    request.notes.warn(format!(
        "existing pods in namespace {name:?} violate the new PodSecurity enforce level \"{new}\""
    ));
    let mut lines: Vec<String> = faults
        .into_iter()
        .filter_map(|(fault, pods)| {
            let first = pods.iter().min()?;
            Some(match pods.len() {
                1 => format!("{first}: {fault}"),
                2 => format!("{first} (and 1 other pod): {fault}"),
                many => format!("{first} (and {} other pods): {fault}", many - 1),
            })
        })
        .collect();
    lines.sort();
    lines.into_iter().for_each(|line| request.notes.warn(line));
    Ok(())
}

fn refuse(
    request: &Attributes<'_>,
    errors: Vec<skiff_api::catalogue::FieldError>,
) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid("", "Namespace", &request.info.name, errors))
}
