//! Schemas of dropped versions, where their shape is not that of the kind that
//! took their place.
//!
//! Old clients check manifests against these schemas before they send them. What
//! `catalogue::convert` accepts must therefore stand here: a workload without
//! a selector, the backend of an ingress in its first form.

use serde_json::{Map, Value, json};

use crate::catalogue::Resource;

/// How the types below a dropped kind differ from the current ones.
struct Difference {
    /// The types that differ and all that refer to them, without their prefix.
    types: &'static [&'static str],
    /// Edits the schema of one of them.
    edit: fn(&str, &mut Value),
}

const INGRESS: Difference = Difference {
    types: &[
        "IngressSpec",
        "IngressRule",
        "HTTPIngressRuleValue",
        "HTTPIngressPath",
        "IngressBackend",
    ],
    edit: ingress,
};

fn difference(resource: &Resource) -> Option<Difference> {
    let workload = |spec| Difference { types: spec, edit: workload };
    match (resource.group, resource.version, resource.kind) {
        (_, "v1beta1", "Ingress") => Some(INGRESS),
        ("apps" | "extensions", "v1beta1", kind) => match kind {
            "DaemonSet" => Some(workload(&["DaemonSetSpec"])),
            "Deployment" => Some(workload(&["DeploymentSpec"])),
            "ReplicaSet" => Some(workload(&["ReplicaSetSpec"])),
            "StatefulSet" => Some(workload(&["StatefulSetSpec"])),
            _ => None,
        },
        _ => None,
    }
}

/// Gives a dropped kind types of its own in place of the current ones, where
/// they differ. `name` is the name of its schema, `definitions` are the types
/// that the schema refers to. Returns the new names with the current ones.
pub(super) fn set_apart(
    resource: &Resource,
    name: &str,
    schema: &mut Value,
    definitions: &mut Map<String, Value>,
) -> Vec<(String, String)> {
    let (Some(difference), Some(shape)) = (difference(resource), resource.behaviour.shape()) else {
        return Vec::new();
    };
    let current = shape.full_name();
    let prefix = |name: &str| name.strip_suffix(resource.kind).unwrap_or(name).to_owned();
    let (old, current) = (prefix(name), prefix(&current));
    let mut names = Vec::new();
    for short in difference.types {
        let pair = (format!("{old}{short}"), format!("{current}{short}"));
        if let Some(mut definition) = definitions.remove(&pair.1) {
            (difference.edit)(short, &mut definition);
            definitions.insert(pair.0.clone(), definition);
            names.push(pair);
        }
    }
    refer(schema, &names);
    definitions.values_mut().for_each(|definition| refer(definition, &names));
    names
}

/// Points references to the current types at the types set apart.
fn refer(schema: &mut Value, names: &[(String, String)]) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(|item| refer(item, names)),
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get_mut("$ref")
                && let Some(target) = reference.strip_prefix("#/$defs/")
                && let Some((old, _)) = names.iter().find(|(_, current)| current == target)
            {
                *reference = format!("#/$defs/{old}");
            }
            map.values_mut().for_each(|value| refer(value, names));
        }
        _ => {}
    }
}

/// The selector follows from the template; two fields are read and dropped.
fn workload(name: &str, schema: &mut Value) {
    optional(schema, "selector");
    let properties = &mut schema["properties"];
    match name {
        "DeploymentSpec" => {
            properties["rollbackTo"] = json!({
                "description": "Ignored. Rolling back is a change of the template.",
                "type": "object",
                "properties": {"revision": {
                    "description": "The revision to roll back to.",
                    "type": "integer",
                    "format": "int64",
                }},
            });
        }
        "DaemonSetSpec" => {
            properties["templateGeneration"] = json!({
                "description": "Ignored. ControllerRevisions count the templates.",
                "type": "integer",
                "format": "int64",
            });
        }
        _ => {}
    }
}

/// A backend is the name and the port of a service; the type of a path may be
/// left out.
fn ingress(name: &str, schema: &mut Value) {
    match name {
        "IngressSpec" => {
            if let Some(properties) = schema["properties"].as_object_mut()
                && let Some(mut backend) = properties.remove("defaultBackend")
            {
                backend["description"] = json!("The backend for requests that match no rule.");
                properties.insert("backend".into(), backend);
            }
        }
        "HTTPIngressPath" => optional(schema, "pathType"),
        "IngressBackend" => {
            if let Some(properties) = schema["properties"].as_object_mut() {
                properties.remove("service");
                if let Some(resource) = properties.get_mut("resource") {
                    resource["description"] =
                        json!("An object of the same namespace, in place of a service.");
                }
                let name = json!({
                    "description": "Name of the service.",
                    "type": "string",
                });
                let port = json!({
                    "description": "Number or name of the port of the service.",
                    "$ref": "#/$defs/io.k8s.apimachinery.pkg.util.intstr.IntOrString",
                });
                properties.insert("serviceName".into(), name);
                properties.insert("servicePort".into(), port);
            }
        }
        _ => {}
    }
}

/// Lets a field be left out.
fn optional(schema: &mut Value, field: &str) {
    let Some(map) = schema.as_object_mut() else { return };
    if let Some(Value::Array(required)) = map.get_mut("required") {
        required.retain(|known| known != field);
        if required.is_empty() {
            map.remove("required");
        }
    }
}
