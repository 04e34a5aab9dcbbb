//! The schemas of a document: those that `k8s-openapi` generates, with what
//! upstream's documents say beyond them: which kind a schema is, and how lists
//! and maps merge.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    authentication::v1::TokenRequest, autoscaling::v1::Scale, policy::v1::Eviction,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ListMeta, Patch, Status};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use schemars::SchemaGenerator;
use serde_json::{Map, Value, json};

use super::{Dialect, legacy};
use crate::catalogue::Resource;
use crate::shape::{Field, ListType, Merge, Shape, Struct};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
pub(super) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
pub(super) const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
pub(super) const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";

/// The schemas of these resources, their lists, and all they refer to.
pub(super) fn of<'a>(
    resources: impl Iterator<Item = &'a Resource>,
    dialect: Dialect,
) -> Map<String, Value> {
    let mut schemas = common();
    let mut kinds: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut groups: Vec<(&str, &str)> = Vec::new();
    // What the types of dropped versions are called now.
    let mut current: BTreeMap<String, String> = BTreeMap::new();
    for resource in resources {
        let mut schema = resource.behaviour.schema();
        let name = name_of(resource);
        if let Some(Value::Object(mut definitions)) =
            schema.as_object_mut().and_then(|s| s.remove("$defs"))
        {
            current.extend(legacy::set_apart(resource, &name, &mut schema, &mut definitions));
            schemas.extend(definitions);
        }
        kinds.entry(name.clone()).or_default().push(gvk(
            resource.group,
            resource.version,
            resource.kind,
        ));
        if resource.verbs.contains(&"list") {
            let (list, list_name) = (list_of(resource, &schema, &name), format!("{name}List"));
            let kind = format!("{}List", resource.kind);
            kinds.entry(list_name.clone()).or_default().push(gvk(
                resource.group,
                resource.version,
                &kind,
            ));
            schemas.insert(list_name, list);
        }
        schemas.insert(name, schema);
        groups.push((resource.group, resource.version));
    }
    groups.sort_unstable();
    groups.dedup();
    let everywhere =
        |kind: &str| groups.iter().map(|(group, version)| gvk(group, version, kind)).collect();
    kinds.insert(DELETE_OPTIONS.to_owned(), everywhere("DeleteOptions"));
    kinds.insert(STATUS.to_owned(), vec![gvk("", "v1", "Status")]);
    for (name, group, version) in [
        ("io.k8s.api.autoscaling.v1.Scale", "autoscaling", "v1"),
        ("io.k8s.api.policy.v1.Eviction", "policy", "v1"),
        ("io.k8s.api.authentication.v1.TokenRequest", "authentication.k8s.io", "v1"),
    ] {
        let kind = name.rsplit('.').next().unwrap_or(name);
        kinds.insert(name.to_owned(), vec![gvk(group, version, kind)]);
    }

    for (name, schema) in &mut schemas {
        finish(current.get(name).unwrap_or(name), schema, dialect);
        if let (Some(kinds), Value::Object(schema)) = (kinds.remove(name), schema) {
            schema.insert("x-kubernetes-group-version-kind".into(), Value::Array(kinds));
        }
    }
    schemas
}

/// The name of a resource's schema. A dropped version has the name it had.
pub(super) fn name_of(resource: &Resource) -> String {
    match (resource.behaviour.shape(), resource.legacy) {
        (Some(shape), None) => shape.full_name(),
        (Some(shape), Some(legacy)) if legacy.own_type => shape.full_name(),
        _ => {
            let group = resource.group.split('.').next().unwrap_or_default();
            format!("io.k8s.api.{group}.{}.{}", resource.version, resource.kind)
        }
    }
}

/// The name of the schema of a subresource's kind, if it has one. Options of
/// streams are query parameters.
pub(super) fn name_of_kind(group: &str, version: &str, kind: &str) -> Option<String> {
    if let Some(resource) = crate::catalogue::find_kind(group, version, kind) {
        return Some(name_of(resource));
    }
    let group = if group.is_empty() { "core" } else { group.split('.').next().unwrap_or(group) };
    Struct::named(&format!("{group}.{version}.{kind}")).map(Struct::full_name)
}

/// What every document has: the kinds of subresources, deletions and errors.
fn common() -> Map<String, Value> {
    let mut generator = SchemaGenerator::default();
    generator.subschema_for::<DeleteOptions>();
    generator.subschema_for::<Status>();
    generator.subschema_for::<ListMeta>();
    generator.subschema_for::<Patch>();
    generator.subschema_for::<Scale>();
    generator.subschema_for::<Eviction>();
    generator.subschema_for::<TokenRequest>();
    // The port of an old ingress.
    generator.subschema_for::<IntOrString>();
    generator.take_definitions(true)
}

fn list_of(resource: &Resource, schema: &Value, name: &str) -> Value {
    json!({
        "description": format!("{0}List is a list of {0} objects.", resource.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": schema["properties"]["apiVersion"],
            "kind": schema["properties"]["kind"],
            "metadata": {
                "description": "Standard list metadata.",
                "$ref": format!("#/$defs/{META}ListMeta"),
            },
            "items": {
                "description": "The objects.",
                "type": "array",
                "items": {"$ref": format!("#/$defs/{name}")},
            },
        },
    })
}

fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

/// Turns a generated schema into one of the document. `name` is that of the
/// current type, which knows how lists merge.
fn finish(name: &str, schema: &mut Value, dialect: Dialect) {
    if let Some(special) = special(name, dialect) {
        let description = schema["description"].take();
        *schema = special;
        schema["description"] = description;
        return;
    }
    rewrite_references(schema, dialect);
    let Value::Object(map) = schema else { return };
    map.remove("$schema");
    map.remove("title");
    let is_kind =
        map.get("properties").is_some_and(|properties| properties.get("apiVersion").is_some());
    if is_kind && let Some(Value::Array(required)) = map.get_mut("required") {
        // The types always have metadata; a body need not.
        required.retain(|field| field != "metadata");
        if required.is_empty() {
            map.remove("required");
        }
    }
    let Some(shape) = Struct::named(name) else { return };
    if shape.atomic {
        map.insert("x-kubernetes-map-type".into(), json!("atomic"));
    }
    let Some(Value::Object(properties)) = map.get_mut("properties") else { return };
    for field in &shape.fields {
        if let Some(Value::Object(property)) = properties.get_mut(field.name) {
            property.extend(extensions(field));
            if dialect == Dialect::V3
                && let Some(default) = field.default
            {
                property.insert("default".into(), json!(default));
            }
        }
    }
}

/// Types that are more than one thing in JSON.
fn special(name: &str, dialect: Dialect) -> Option<Value> {
    let v3 = dialect == Dialect::V3;
    Some(match name.strip_prefix("io.k8s.apimachinery.pkg.")? {
        "api.resource.Quantity" if v3 => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        "api.resource.Quantity" => json!({"type": "string"}),
        "util.intstr.IntOrString" if v3 => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        "util.intstr.IntOrString" => json!({"type": "string", "format": "int-or-string"}),
        "apis.meta.v1.Patch" | "apis.meta.v1.FieldsV1" | "runtime.RawExtension" => {
            json!({"type": "object"})
        }
        _ => return None,
    })
}

fn rewrite_references(schema: &mut Value, dialect: Dialect) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(|item| rewrite_references(item, dialect)),
        Value::Object(map) => {
            let name =
                map.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix("#/$defs/"));
            if let Some(reference) = name.map(|name| dialect.refer(name)) {
                map.remove("$ref");
                match (dialect, reference) {
                    // Version 3 allows nothing beside a reference.
                    (Dialect::V3, reference) if !map.is_empty() => {
                        map.insert("allOf".into(), json!([reference]));
                    }
                    (_, Value::Object(reference)) => map.extend(reference),
                    _ => {}
                }
            }
            map.values_mut().for_each(|value| rewrite_references(value, dialect));
        }
        _ => {}
    }
}

/// How a field merges, in upstream's vocabulary.
fn extensions(field: &Field) -> Map<String, Value> {
    let mut all = Map::new();
    let mut put = |name: &str, value: Value| all.insert(format!("x-kubernetes-{name}"), value);
    let mut strategies = Vec::new();
    match field.merge {
        Merge::ByKey(key) => {
            strategies.push("merge");
            put("patch-merge-key", json!(key));
        }
        Merge::Values => strategies.push("merge"),
        Merge::Replace => {}
    }
    if field.retain_keys {
        strategies.push("retainKeys");
    }
    if field.replace {
        strategies.push("replace");
    }
    if !strategies.is_empty() {
        put("patch-strategy", json!(strategies.join(",")));
    }
    match (field.shape(), field.list_type) {
        (Shape::List(_), ListType::Set) => _ = put("list-type", json!("set")),
        (Shape::List(_), ListType::Map(keys)) => {
            put("list-map-keys", keys.split(',').collect());
            put("list-type", json!("map"));
        }
        (Shape::List(_), ListType::Default | ListType::Atomic) => {
            _ = put("list-type", json!("atomic"))
        }
        (Shape::Map(_), ListType::Atomic) => _ = put("map-type", json!("atomic")),
        _ => {}
    }
    all
}
