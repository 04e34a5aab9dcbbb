//! Scopes: which pods a quota is about.

use serde_json::Value;

use super::pod;

/// Whether a quota with this spec is about the object. Scopes select pods; an
/// object of another kind is in no scope, and in every quota without.
pub fn matches(spec: &Value, group: &str, resource: &str, object: &Value) -> bool {
    let is_pod = group.is_empty() && resource == "pods";
    let plain = items(&spec["scopes"]);
    let selected = items(&spec["scopeSelector"]["matchExpressions"]);
    plain.iter().all(|scope| is_pod && in_scope(scope, &Value::Null, object))
        && selected
            .iter()
            .all(|expression| is_pod && in_scope(&expression["scopeName"], expression, object))
}

fn items(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}

fn in_scope(scope: &Value, expression: &Value, pod: &Value) -> bool {
    let terminating =
        || pod["spec"]["activeDeadlineSeconds"].as_i64().is_some_and(|left| left >= 0);
    match scope.as_str() {
        Some("Terminating") => terminating(),
        Some("NotTerminating") => !terminating(),
        Some("BestEffort") => pod::is_best_effort(pod),
        Some("NotBestEffort") => !pod::is_best_effort(pod),
        Some("CrossNamespacePodAffinity") => crosses_namespaces(&pod["spec"]["affinity"]),
        Some("PriorityClass") => selects_class(expression, pod),
        _ => false,
    }
}

fn selects_class(expression: &Value, pod: &Value) -> bool {
    let class = pod["spec"]["priorityClassName"].as_str().filter(|class| !class.is_empty());
    let listed = || {
        let mut values = expression["values"].as_array().into_iter().flatten();
        class.is_some_and(|class| values.any(|value| value == class))
    };
    match expression["operator"].as_str() {
        Some("In") => listed(),
        Some("NotIn") => !listed(),
        Some("DoesNotExist") => class.is_none(),
        // A plain scope has no operator and asks for just this.
        None | Some("Exists") => class.is_some(),
        Some(_) => false,
    }
}

/// Whether a pod wants to be near to, or far from, pods of other namespaces.
fn crosses_namespaces(affinity: &Value) -> bool {
    let crosses = |term: &Value| {
        !term["namespaceSelector"].is_null()
            || term["namespaces"].as_array().is_some_and(|names| !names.is_empty())
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|side| {
        let list = |key: &str| affinity[*side][key].as_array().into_iter().flatten();
        list("requiredDuringSchedulingIgnoredDuringExecution").any(crosses)
            || list("preferredDuringSchedulingIgnoredDuringExecution")
                .any(|weighted| crosses(&weighted["podAffinityTerm"]))
    })
}
