//! Deployments, StatefulSets, DaemonSets and ReplicaSets of `extensions/v1beta1`
//! and `apps/v1beta1`.

use serde_json::{Value, json};

/// Writes out what the old versions defaulted: the selector is the template's
/// labels, old ReplicaSets and Deployments kept more history, and StatefulSets
/// and DaemonSets were updated by hand.
pub(in crate::catalogue) fn to_v1(object: &mut Value) {
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    let old_extensions = object["apiVersion"] == "extensions/v1beta1";
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    // A client could ask these versions to roll back by writing a field; the
    // field went with them.
    spec.remove("rollbackTo");
    spec.remove("templateGeneration");
    let labels = spec.get("template").and_then(|t| t.pointer("/metadata/labels")).cloned();
    let empty = |selector: Option<&Value>| match selector {
        Some(Value::Object(selector)) => selector.is_empty(),
        Some(Value::Null) | None => true,
        Some(_) => false,
    };
    if let Some(labels) = labels
        && empty(spec.get("selector"))
    {
        spec.insert("selector".into(), json!({"matchLabels": labels}));
    }
    match kind.as_str() {
        "Deployment" => {
            if old_extensions {
                // Without a limit at all; `apps/v1` calls that the largest one.
                spec.entry("revisionHistoryLimit").or_insert(json!(i32::MAX));
                spec.entry("progressDeadlineSeconds").or_insert(json!(i32::MAX));
                rolling_update(spec, &[("maxSurge", 1), ("maxUnavailable", 1)]);
            } else {
                spec.entry("revisionHistoryLimit").or_insert(json!(2));
            }
        }
        "DaemonSet" | "StatefulSet" => {
            spec.entry("updateStrategy").or_insert(json!({"type": "OnDelete"}));
        }
        _ => {}
    }
}

fn rolling_update(spec: &mut serde_json::Map<String, Value>, defaults: &[(&str, i32)]) {
    let strategy = spec.entry("strategy").or_insert_with(|| json!({}));
    let Some(strategy) = strategy.as_object_mut() else { return };
    if strategy.get("type").and_then(Value::as_str).unwrap_or("RollingUpdate") != "RollingUpdate" {
        return;
    }
    strategy.entry("type").or_insert(json!("RollingUpdate"));
    let rolling = strategy.entry("rollingUpdate").or_insert_with(|| json!({}));
    let Some(rolling) = rolling.as_object_mut() else { return };
    for (field, value) in defaults {
        rolling.entry(*field).or_insert(json!(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_deployment_gets_its_selector() {
        let mut old = json!({
            "apiVersion": "extensions/v1beta1", "kind": "Deployment",
            "spec": {"template": {"metadata": {"labels": {"app": "x"}}}},
        });
        to_v1(&mut old);
        assert_eq!(old["spec"]["selector"], json!({"matchLabels": {"app": "x"}}));
        assert_eq!(
            old["spec"]["strategy"]["rollingUpdate"],
            json!({"maxSurge": 1, "maxUnavailable": 1})
        );
    }

    #[test]
    fn a_selector_of_its_own_stays() {
        let selector = json!({"matchLabels": {"a": "b"}});
        let mut old = json!({
            "apiVersion": "apps/v1beta1", "kind": "StatefulSet",
            "spec": {"selector": selector, "template": {"metadata": {"labels": {"app": "x"}}}},
        });
        to_v1(&mut old);
        assert_eq!(old["spec"]["selector"], selector);
        assert_eq!(old["spec"]["updateStrategy"]["type"], "OnDelete");
    }
}
