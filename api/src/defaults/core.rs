//! Small kinds of the core group. A ConfigMap has nothing to fill in: an empty
//! `data` stays out, as it does on upstream's wire.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{LimitRange, LimitRangeItem, Namespace, Node, Secret};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{fill, fill_text};

/// Label by which selectors find a namespace by its name.
const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Fills in a Namespace. One that is being deleted does not get back the
/// finalizer whose removal ends it.
pub fn namespace(namespace: &mut Namespace) {
    if let Some(name) = namespace.metadata.name.as_ref().filter(|name| !name.is_empty()) {
        let labels = namespace.metadata.labels.get_or_insert_default();
        labels.insert(NAMESPACE_NAME_LABEL.to_owned(), name.clone());
    }
    if namespace.metadata.deletion_timestamp.is_none() {
        let spec = namespace.spec.get_or_insert_default();
        fill(&mut spec.finalizers, vec!["kubernetes".to_owned()]);
        fill_text(&mut namespace.status.get_or_insert_default().phase, "Active");
    }
}

/// Fills in a Secret and moves `stringData`, which is written only, to `data`.
pub fn secret(secret: &mut Secret) {
    fill_text(&mut secret.type_, "Opaque");
    if let Some(texts) = secret.string_data.take() {
        let data = secret.data.get_or_insert_default();
        data.extend(texts.into_iter().map(|(key, text)| (key, ByteString(text.into_bytes()))));
    }
}

/// Fills in a Node: what it can hold is what it has, unless it says less.
pub fn node(node: &mut Node) {
    if let Some(status) = &mut node.status
        && status.allocatable.is_none()
    {
        status.allocatable.clone_from(&status.capacity);
    }
}

/// Fills in a LimitRange.
pub fn limit_range(range: &mut LimitRange) {
    range.spec.iter_mut().flat_map(|spec| &mut spec.limits).for_each(limit_range_item);
}

/// A container's default limit is the maximum, its default request the default
/// limit or else the minimum.
fn limit_range_item(item: &mut LimitRangeItem) {
    if item.type_ != "Container" {
        return;
    }
    let add = |to: &mut Option<BTreeMap<String, Quantity>>,
               from: Option<BTreeMap<String, Quantity>>| {
        for (name, quantity) in from.into_iter().flatten() {
            to.get_or_insert_default().entry(name).or_insert(quantity);
        }
    };
    add(&mut item.default, item.max.clone());
    add(&mut item.default_request, item.default.clone());
    add(&mut item.default_request, item.min.clone());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn namespaces_get_their_label_and_finalizer_until_deleted() {
        let object = json!({"metadata": {"name": "dev"}});
        let mut fresh: Namespace = serde_json::from_value(object).unwrap();
        namespace(&mut fresh);
        assert_eq!(fresh.metadata.labels.unwrap()[NAMESPACE_NAME_LABEL], "dev");
        assert_eq!(fresh.spec.unwrap().finalizers.unwrap(), ["kubernetes"]);
        assert_eq!(fresh.status.unwrap().phase.unwrap(), "Active");

        let object = json!({
            "metadata": {"name": "dev", "deletionTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {},
        });
        let mut ending: Namespace = serde_json::from_value(object).unwrap();
        namespace(&mut ending);
        assert_eq!(ending.spec.unwrap().finalizers, None);
    }

    #[test]
    fn string_data_overrides_data() {
        let object = json!({"data": {"a": "eA=="}, "stringData": {"a": "y", "b": "z"}});
        let mut object: Secret = serde_json::from_value(object).unwrap();
        secret(&mut object);
        let object = serde_json::to_value(object).unwrap();
        assert_eq!(object["type"], "Opaque");
        assert_eq!(object["data"], json!({"a": "eQ==", "b": "eg=="}));
        assert_eq!(object["stringData"], json!(null));
    }

    #[test]
    fn container_limits_cascade() {
        let object = json!({"spec": {"limits": [
            {"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1", "memory": "1Mi"}},
            {"type": "Pod", "max": {"cpu": "2"}},
        ]}});
        let mut object: LimitRange = serde_json::from_value(object).unwrap();
        limit_range(&mut object);
        let limits = serde_json::to_value(object.spec.unwrap().limits).unwrap();
        assert_eq!(limits[0]["default"], json!({"cpu": "2"}));
        assert_eq!(limits[0]["defaultRequest"], json!({"cpu": "2", "memory": "1Mi"}));
        assert_eq!(limits[1]["default"], json!(null));
    }
}
