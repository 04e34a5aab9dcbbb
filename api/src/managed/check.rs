//! Whether a configuration is of its type: the reading that server-side apply
//! insists on, whatever `fieldValidation` says.

use std::collections::BTreeSet;

use serde_json::Value;

use super::tree::Tree;
use crate::shape::{ListType, Shape, Struct};

/// As many problems as are reported; a body can have a million.
const MAX_REPORTED: usize = 100;

/// Checks a configuration: fields that the type does not have, values of
/// another type, list items that nothing tells apart. The error is the text
/// that upstream reports.
pub fn check(config: &Value, shape: &'static Struct) -> Result<(), String> {
    let mut problems = Vec::new();
    value(config, Shape::Struct(shape), ListType::Default, "", &mut problems);
    match problems.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("errors:\n  {}", many.join("\n  "))),
    }
}

fn value(config: &Value, shape: Shape, list: ListType, path: &str, problems: &mut Vec<String>) {
    let mut problem = |text: String| {
        if problems.len() < MAX_REPORTED {
            problems.push(format!("{path}: {text}").trim_start_matches(": ").to_owned());
        }
    };
    match (shape, config) {
        (Shape::Any, _) | (_, Value::Null) => {}
        (Shape::Struct(shape), Value::Object(map)) => {
            for (name, config) in map {
                let path = format!("{path}.{name}");
                match shape.field(name) {
                    Some(field) => value(config, field.shape(), field.list_type, &path, problems),
                    None if problems.len() < MAX_REPORTED => {
                        problems.push(format!("{path}: field not declared in schema"));
                    }
                    None => {}
                }
            }
        }
        (Shape::Map(element), Value::Object(map)) => {
            for (name, config) in map {
                let path = format!("{path}.{name}");
                value(config, element.shape(), ListType::Default, &path, problems);
            }
        }
        (Shape::List(element), Value::Array(items)) => {
            let tree = Tree::of(shape, list);
            let told_apart = matches!(tree, Tree::Keyed(..) | Tree::Set);
            let mut seen = BTreeSet::new();
            for (at, item) in items.iter().enumerate() {
                let place = if told_apart {
                    match tree.identify(item) {
                        Ok(element) => {
                            let shown = element.to_string();
                            if !seen.insert(element) {
                                problems.push(format!("{path}: duplicate entries for key {shown}"));
                            }
                            shown
                        }
                        Err(why) => {
                            problems.push(format!("{path}: element {at}: {why}"));
                            continue;
                        }
                    }
                } else {
                    format!("[{at}]")
                };
                if problems.len() >= MAX_REPORTED {
                    return;
                }
                let path = format!("{path}{place}");
                value(item, element.shape(), ListType::Default, &path, problems);
            }
        }
        (Shape::Struct(_) | Shape::Map(_), other) => {
            problem(format!("expected map, got {}", shown(other)));
        }
        (Shape::List(_), other) => problem(format!("expected list, got {}", shown(other))),
        (Shape::Bool, Value::Bool(_)) => {}
        (Shape::Bool, other) => problem(format!("expected boolean, got {}", shown(other))),
        (Shape::Int32 | Shape::Int64, Value::Number(_)) => {}
        (Shape::Int32 | Shape::Int64, other) => {
            problem(format!("expected numeric (int or float), got {}", shown(other)));
        }
        (Shape::Quantity | Shape::IntOrString, Value::Number(_)) => {}
        (_, Value::String(_)) => {}
        (_, other) => problem(format!("expected string, got {}", shown(other))),
    }
}

/// A value in the words of Go's formatter.
fn shown(value: &Value) -> String {
    format!("&value.valueUnstructured{{Value:{value}}}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_of_the_type_is_told() {
        let deployment = Struct::named("apps.v1.Deployment").unwrap();
        let pod = |spec: Value| json!({"spec": {"template": {"spec": spec}}});
        #[rustfmt::skip]
        let cases = [
            (json!({"spec": {"replicass": 1}}), ".spec.replicass: field not declared in schema"),
            (json!({"spec": {"replicas": "1"}}), ".spec.replicas: expected numeric (int or float), got &value.valueUnstructured{Value:\"1\"}"),
            (json!({"metadata": {"labels": {"a": true}}}), ".metadata.labels.a: expected string, got &value.valueUnstructured{Value:true}"),
            (json!({"spec": []}), ".spec: expected map, got &value.valueUnstructured{Value:[]}"),
            (json!([]), "expected map, got &value.valueUnstructured{Value:[]}"),
            (pod(json!({"containers": {}})), ".spec.template.spec.containers: expected list, got &value.valueUnstructured{Value:{}}"),
            (pod(json!({"hostNetwork": "no"})), ".spec.template.spec.hostNetwork: expected boolean, got &value.valueUnstructured{Value:\"no\"}"),
            (pod(json!({"containers": [{"name": "c", "env": [{"name": "X", "value": 1}]}]})),
                ".spec.template.spec.containers[name=\"c\"].env[name=\"X\"].value: expected string, got &value.valueUnstructured{Value:1}"),
            (pod(json!({"containers": [{"name": "c"}, {"name": "c"}]})), ".spec.template.spec.containers: duplicate entries for key [name=\"c\"]"),
            (pod(json!({"containers": [{"image": "c"}]})), ".spec.template.spec.containers: element 0: associative list with keys has an element that omits all key fields [\"name\"] (and doesn't have default values for any key fields)"),
            (pod(json!({"containers": [null]})), ".spec.template.spec.containers: element 0: associative list with keys may not have a null element"),
            (json!({"metadata": {"finalizers": [{}]}}), ".metadata.finalizers: element 0: associative list without keys has an element that's a map type"),
            (json!({"spec": {"a": 1}, "b": 2}), "errors:\n  .b: field not declared in schema\n  .spec.a: field not declared in schema"),
        ];
        for (config, expected) in cases {
            assert_eq!(check(&config, deployment), Err(expected.to_owned()), "{config}");
        }
        let right = json!({"apiVersion": "apps/v1", "metadata": {"labels": null, "creationTimestamp": null},
            "spec": {"strategy": {"rollingUpdate": {"maxSurge": 1}}, "template": {"spec": {"containers": [
                {"name": "c", "resources": {"limits": {"cpu": 1, "memory": "1Gi"}}, "args": ["a", "a"],
                 "ports": [{"containerPort": 53}, {"containerPort": 53, "protocol": "UDP"}]}]}}}});
        assert_eq!(check(&right, deployment), Ok(()));
    }

    #[test]
    fn a_million_problems_are_not_all_told() {
        let labels: serde_json::Map<String, Value> =
            (0..10_000).map(|at| (at.to_string(), json!(at))).collect();
        let config = json!({"metadata": {"labels": labels}});
        let text = check(&config, Struct::named("core.v1.Pod").unwrap()).unwrap_err();
        assert_eq!(text.lines().count(), MAX_REPORTED + 1);
    }
}
