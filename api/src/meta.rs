//! Small helpers over the metadata of objects in JSON.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Map, Value, json};

/// Group, version and kind of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Gvk<'a> {
    /// API group; empty for the core group.
    pub group: &'a str,
    /// Version.
    pub version: &'a str,
    /// Kind.
    pub kind: &'a str,
}

/// What `apiVersion` and `kind` of an object say; `None` if one is missing.
pub fn gvk(object: &Value) -> Option<Gvk<'_>> {
    let (group, version) = split_api_version(object.get("apiVersion")?.as_str()?);
    let kind = object.get("kind")?.as_str()?;
    (!version.is_empty() && !kind.is_empty()).then_some(Gvk { group, version, kind })
}

/// Splits `apps/v1` into group and version; `v1` has the empty group.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// A text field of `metadata`; empty where there is none.
pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object
        .get("metadata")
        .and_then(|metadata| metadata.get(field))
        .and_then(Value::as_str)
        .unwrap_or("")
}

/// `metadata.name`.
pub fn name(object: &Value) -> &str {
    text(object, "name")
}

/// `metadata.namespace`; empty for a cluster-scoped object.
pub fn namespace(object: &Value) -> &str {
    text(object, "namespace")
}

/// `metadata.uid`.
pub fn uid(object: &Value) -> &str {
    text(object, "uid")
}

/// `metadata.resourceVersion`.
pub fn resource_version(object: &Value) -> &str {
    text(object, "resourceVersion")
}

/// A label's value.
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get("metadata")?.get("labels")?.get(key)?.as_str()
}

/// An annotation's value.
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get("metadata")?.get("annotations")?.get(key)?.as_str()
}

/// `metadata` of an object, made if it is not there.
pub fn metadata_mut(object: &mut Map<String, Value>) -> &mut Map<String, Value> {
    let metadata = object.entry("metadata").or_insert_with(|| json!({}));
    if !metadata.is_object() {
        *metadata = json!({});
    }
    match metadata {
        Value::Object(metadata) => metadata,
        _ => unreachable!("made an object above"),
    }
}

/// Whether deletion has begun.
pub fn is_deleting(object: &Value) -> bool {
    object
        .get("metadata")
        .and_then(|metadata| metadata.get("deletionTimestamp"))
        .is_some_and(|t| !t.is_null())
}

/// `metadata.finalizers`.
pub fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    let list = object
        .get("metadata")
        .and_then(|metadata| metadata.get("finalizers"))
        .and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str)
}

/// The owner that manages the object (`controller: true`).
pub fn controller_of(owners: &[OwnerReference]) -> Option<&OwnerReference> {
    owners.iter().find(|owner| owner.controller == Some(true))
}

/// The time now or then as objects write it: RFC 3339, UTC, whole seconds.
pub fn rfc3339(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The time with microseconds, as leases and events write it.
pub fn rfc3339_micro(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// Reads a time of either form; `None` for anything else.
pub fn parse_time(text: &str) -> Option<jiff::Timestamp> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_objects() {
        let cases = [
            (json!({"apiVersion": "v1", "kind": "Pod"}), Some(("", "v1", "Pod"))),
            (
                json!({"apiVersion": "apps/v1", "kind": "Deployment"}),
                Some(("apps", "v1", "Deployment")),
            ),
            (json!({"apiVersion": "apps/v1"}), None),
            (json!({"apiVersion": 1, "kind": "Pod"}), None),
            (json!({"apiVersion": "", "kind": "Pod"}), None),
            (json!([]), None),
        ];
        for (object, expected) in cases {
            assert_eq!(gvk(&object).map(|g| (g.group, g.version, g.kind)), expected, "{object}");
        }
    }

    #[test]
    fn times() {
        let time = parse_time("2026-01-02T03:04:05.123456789Z").unwrap();
        assert_eq!(rfc3339(time), "2026-01-02T03:04:05Z");
        assert_eq!(rfc3339_micro(time), "2026-01-02T03:04:05.123456Z");
        assert_eq!(
            parse_time("2026-01-02T05:04:05+02:00").map(rfc3339).as_deref(),
            Some("2026-01-02T03:04:05Z")
        );
        assert_eq!(parse_time("yesterday"), None);
    }

    #[test]
    fn deletion() {
        assert!(is_deleting(&json!({"metadata": {"deletionTimestamp": "2026-01-02T03:04:05Z"}})));
        assert!(!is_deleting(&json!({"metadata": {"deletionTimestamp": null}})));
        let object = json!({"metadata": {"finalizers": ["a", "b"]}});
        assert_eq!(finalizers(&object).collect::<Vec<_>>(), ["a", "b"]);
    }
}
