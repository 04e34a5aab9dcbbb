//! The patch that `apply` sends: from the manifest applied last (`original`),
//! the manifest now (`modified`) and the live object (`current`).
//!
//! What the manifest says and the object does not is set. What the last
//! manifest said and this one no longer does is removed. Everything else in
//! the object belongs to someone else and stays.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

use super::directive;
use super::order::identity;
use crate::shape::{Field, Merge, Shape, Struct};

/// Computes the patch; an empty object when there is nothing to do. With a
/// type it is a strategic merge patch, without one a merge patch.
pub fn three_way(
    original: &Value,
    modified: &Value,
    current: &Value,
    shape: Option<&'static Struct>,
) -> Value {
    let shape = shape.map_or(Shape::Any, Shape::Struct);
    let empty = Map::new();
    let map = |value: &'_ Value| value.as_object().cloned();
    let (original, modified, current) = (map(original), map(modified), map(current));
    let patch = diff_map(
        original.as_ref().unwrap_or(&empty),
        modified.as_ref().unwrap_or(&empty),
        current.as_ref().unwrap_or(&empty),
        shape,
    );
    Value::Object(patch)
}

type Object = Map<String, Value>;

fn diff_map(original: &Object, modified: &Object, current: &Object, shape: Shape) -> Object {
    let mut patch = Object::new();
    for key in original.keys() {
        if !modified.contains_key(key) && current.contains_key(key) {
            patch.insert(key.clone(), Value::Null);
        }
    }
    for (key, wanted) in modified {
        let (field, shape) = child(shape, key);
        diff_field(
            &mut patch,
            key,
            [original.get(key), Some(wanted), current.get(key)],
            field,
            shape,
        );
    }
    patch
}

/// Adds what one field needs to the patch of its object.
fn diff_field(
    patch: &mut Object,
    key: &str,
    [original, modified, current]: [Option<&Value>; 3],
    field: Option<&'static Field>,
    shape: Shape,
) {
    let empty = Object::new();
    match (modified, current) {
        (Some(Value::Null) | None, None) => {}
        (Some(Value::Null) | None, Some(_)) => _ = patch.insert(key.to_owned(), Value::Null),
        (Some(Value::Object(modified)), Some(Value::Object(current)))
            if !field.is_some_and(|field| field.replace) =>
        {
            let original = original.and_then(Value::as_object).unwrap_or(&empty);
            let mut inner = diff_map(original, modified, current, shape);
            if !inner.is_empty() {
                if field.is_some_and(|field| field.retain_keys) {
                    inner.insert(directive::RETAIN_KEYS.to_owned(), keys_of(modified));
                }
                patch.insert(key.to_owned(), Value::Object(inner));
            }
        }
        (Some(Value::Array(modified)), Some(Value::Array(current))) => {
            let original = original.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            match field.map_or(Merge::Replace, |field| field.merge) {
                Merge::Values => diff_values(patch, key, original, modified, current),
                Merge::ByKey(merge_key) => {
                    let list = KeyedList { name: key, merge_key, item: item_of(shape), field };
                    list.diff(patch, original, modified, current);
                }
                Merge::Replace if modified != current => {
                    patch.insert(key.to_owned(), Value::Array(modified.clone()));
                }
                Merge::Replace => {}
            }
        }
        (Some(modified), current) if current != Some(modified) => {
            patch.insert(key.to_owned(), modified.clone());
        }
        (Some(_), _) => {}
    }
}

/// A list of plain values that is merged.
fn diff_values(
    patch: &mut Object,
    key: &str,
    original: &[Value],
    modified: &[Value],
    current: &[Value],
) {
    let added: Vec<&Value> = modified.iter().filter(|value| !current.contains(value)).collect();
    let gone: Vec<&Value> = original
        .iter()
        .filter(|value| !modified.contains(value) && current.contains(value))
        .collect();
    if added.is_empty() && gone.is_empty() {
        return;
    }
    patch.insert(format!("{}{key}", directive::SET_ELEMENT_ORDER), json!(modified));
    if !added.is_empty() {
        patch.insert(key.to_owned(), json!(added));
    }
    if !gone.is_empty() {
        patch.insert(format!("{}{key}", directive::DELETE_FROM_LIST), json!(gone));
    }
}

/// A list of objects that is merged by key.
struct KeyedList<'a> {
    name: &'a str,
    merge_key: &'static str,
    item: Shape,
    field: Option<&'static Field>,
}

impl KeyedList<'_> {
    fn diff(&self, patch: &mut Object, original: &[Value], modified: &[Value], current: &[Value]) {
        let (before, now) = (self.by_key(original), self.by_key(current));
        let wanted = self.by_key(modified);
        if wanted.len() < modified.len() || now.len() < current.len() {
            return self.diff_ambiguous(patch, original, modified, current);
        }
        let mut items = Vec::new();
        for item in modified {
            let id = identity(item, Some(self.merge_key));
            match now.get(&id) {
                Some(current) => {
                    items.extend(self.diff_item(before.get(&id).copied(), item, current))
                }
                None => items.push(item.clone()),
            }
        }
        for item in original {
            let id = identity(item, Some(self.merge_key));
            if !wanted.contains_key(&id) && now.contains_key(&id) {
                items.push(
                    json!({directive::PATCH: "delete", self.merge_key: item[self.merge_key]}),
                );
            }
        }
        let in_current: Vec<String> =
            self.ids(current).into_iter().filter(|id| wanted.contains_key(id)).collect();
        let moved = {
            let now: HashSet<&String> = in_current.iter().collect();
            let in_modified: Vec<String> =
                self.ids(modified).into_iter().filter(|id| now.contains(id)).collect();
            in_modified != in_current
        };
        if items.is_empty() && !moved {
            return;
        }
        let order: Vec<Value> =
            modified.iter().map(|item| json!({self.merge_key: item[self.merge_key]})).collect();
        patch.insert(format!("{}{}", directive::SET_ELEMENT_ORDER, self.name), Value::Array(order));
        if !items.is_empty() {
            patch.insert(self.name.to_owned(), Value::Array(items));
        }
    }

    /// A service may have port 53 twice, for TCP and for UDP, but is merged by
    /// port alone. A patch by key could not tell them apart, so the list is
    /// replaced when anything in it differs.
    fn diff_ambiguous(
        &self,
        patch: &mut Object,
        original: &[Value],
        modified: &[Value],
        current: &[Value],
    ) {
        let same = modified.len() == current.len()
            && modified.iter().enumerate().all(|(index, item)| {
                self.diff_item(original.get(index), item, &current[index]).is_none()
            });
        if !same {
            let mut items = vec![json!({directive::PATCH: "replace"})];
            items.extend(modified.iter().cloned());
            patch.insert(self.name.to_owned(), Value::Array(items));
        }
    }

    /// What one item needs, with its merge key; `None` if nothing.
    fn diff_item(
        &self,
        original: Option<&Value>,
        modified: &Value,
        current: &Value,
    ) -> Option<Value> {
        let (Value::Object(modified), Value::Object(current)) = (modified, current) else {
            return (modified != current).then(|| modified.clone());
        };
        let empty = Object::new();
        let original = original.and_then(Value::as_object).unwrap_or(&empty);
        let mut inner = diff_map(original, modified, current, self.item);
        if inner.is_empty() {
            return None;
        }
        if self.field.is_some_and(|field| field.retain_keys) {
            inner.insert(directive::RETAIN_KEYS.to_owned(), keys_of(modified));
        }
        let key = modified.get(self.merge_key).cloned().unwrap_or(Value::Null);
        inner.insert(self.merge_key.to_owned(), key);
        Some(Value::Object(inner))
    }

    fn by_key<'v>(&self, items: &'v [Value]) -> HashMap<String, &'v Value> {
        items.iter().map(|item| (identity(item, Some(self.merge_key)), item)).collect()
    }

    fn ids(&self, items: &[Value]) -> Vec<String> {
        items.iter().map(|item| identity(item, Some(self.merge_key))).collect()
    }
}

/// The keys that an object keeps: those the manifest gives it a value for.
fn keys_of(map: &Object) -> Value {
    map.iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(key, _)| Value::from(key.as_str()))
        .collect()
}

fn child(shape: Shape, key: &str) -> (Option<&'static Field>, Shape) {
    match shape {
        Shape::Struct(shape) => {
            let field = shape.field(key);
            (field, field.map_or(Shape::Any, Field::shape))
        }
        Shape::Map(element) => (None, element.shape()),
        _ => (None, Shape::Any),
    }
}

fn item_of(shape: Shape) -> Shape {
    match shape {
        Shape::List(item) => item.shape(),
        _ => Shape::Any,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{apply_merge, apply_strategic};
    use super::*;

    fn deployment() -> &'static Struct {
        Struct::named("apps.v1.Deployment").unwrap()
    }

    fn spec(containers: Value) -> Value {
        json!({"spec": {"template": {"spec": {"containers": containers}}}})
    }

    #[test]
    fn patches() {
        let cases = [
            (
                "nothing to do when the server only added defaults",
                spec(json!([{"name": "a", "image": "x"}])),
                spec(json!([{"name": "a", "image": "x"}])),
                spec(json!([{"name": "a", "image": "x", "imagePullPolicy": "Always"}])),
                json!({}),
            ),
            (
                "an image changes",
                spec(json!([{"name": "a", "image": "x"}])),
                spec(json!([{"name": "a", "image": "y"}])),
                spec(json!([{"name": "a", "image": "x"}, {"name": "sidecar"}])),
                json!({"spec": {"template": {"spec": {
                    "$setElementOrder/containers": [{"name": "a"}],
                    "containers": [{"name": "a", "image": "y"}],
                }}}}),
            ),
            (
                "a container goes, an injected one stays",
                spec(json!([{"name": "a"}, {"name": "b"}])),
                spec(json!([{"name": "a"}])),
                spec(json!([{"name": "a"}, {"name": "b"}, {"name": "sidecar"}])),
                json!({"spec": {"template": {"spec": {
                    "$setElementOrder/containers": [{"name": "a"}],
                    "containers": [{"$patch": "delete", "name": "b"}],
                }}}}),
            ),
            (
                "a field is no longer ours",
                json!({"spec": {"replicas": 3}}),
                json!({"spec": {}}),
                json!({"spec": {"replicas": 5}}),
                json!({"spec": {"replicas": null}}),
            ),
            (
                "a strategy keeps only its own keys",
                json!({}),
                json!({"spec": {"strategy": {"type": "Recreate"}}}),
                json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
                json!({"spec": {"strategy": {"type": "Recreate", "$retainKeys": ["type"]}}}),
            ),
            (
                "finalizers come and go",
                json!({"metadata": {"finalizers": ["a", "b"]}}),
                json!({"metadata": {"finalizers": ["b", "c"]}}),
                json!({"metadata": {"finalizers": ["a", "b", "x"]}}),
                json!({"metadata": {
                    "$setElementOrder/finalizers": ["b", "c"],
                    "finalizers": ["c"],
                    "$deleteFromPrimitiveList/finalizers": ["a"],
                }}),
            ),
        ];
        for (name, original, modified, current, expected) in cases {
            assert_eq!(
                three_way(&original, &modified, &current, Some(deployment())),
                expected,
                "{name}"
            );
        }
    }

    #[test]
    fn one_port_for_two_protocols() {
        let service = Struct::named("core.v1.Service").unwrap();
        let ports = |udp: i32| {
            json!({"spec": {"ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": udp},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
            ]}})
        };
        assert_eq!(three_way(&ports(53), &ports(53), &ports(53), Some(service)), json!({}));
        let mut current = ports(53);
        let patch = three_way(&ports(53), &ports(54), &current, Some(service));
        apply_strategic(&mut current, &patch, service).unwrap();
        assert_eq!(current, ports(54));
    }

    /// Manifests over the fields where merging is subtle.
    fn manifest() -> impl Strategy<Value = Value> {
        let env = prop::collection::btree_map("[a-c]", "[x-z]", 0..3).prop_map(|env| {
            env.into_iter()
                .map(|(name, value)| json!({"name": name, "value": value}))
                .collect::<Value>()
        });
        let container = (
            prop::option::of("[x-z]"),
            prop::option::of(env),
            prop::collection::vec("[p-r]", 0..3),
        )
            .prop_map(|(image, env, args)| {
                let mut container = json!({"args": args});
                if let Some(image) = image {
                    container["image"] = json!(image);
                }
                if let Some(env) = env {
                    container["env"] = env;
                }
                container
            });
        let containers = prop::collection::btree_map("[a-d]", container, 0..4)
            .prop_map(|map| {
                map.into_iter()
                    .map(|(name, mut container)| {
                        container["name"] = json!(name);
                        container
                    })
                    .collect::<Vec<_>>()
            })
            .prop_shuffle();
        let labels = prop::collection::btree_map("[a-d]", "[x-z]", 0..4);
        let finalizers = prop::collection::btree_set("[a-d]", 0..4)
            .prop_map(|set| set.into_iter().collect::<Vec<_>>())
            .prop_shuffle();
        (containers, labels, finalizers, prop::option::of(0..3), any::<bool>()).prop_map(
            |(containers, labels, finalizers, replicas, recreate)| {
                let mut object = spec(json!(containers));
                object["metadata"] = json!({"labels": labels, "finalizers": finalizers});
                object["spec"]["strategy"] = if recreate {
                    json!({"type": "Recreate"})
                } else {
                    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}})
                };
                if let Some(replicas) = replicas {
                    object["spec"]["replicas"] = json!(replicas);
                }
                object
            },
        )
    }

    /// Whether `object` has everything that `manifest` says.
    fn contains(object: &Value, manifest: &Value, shape: Shape) -> bool {
        match (object, manifest) {
            (Value::Object(object), Value::Object(manifest)) => {
                manifest.iter().all(|(key, wanted)| {
                    let (field, shape) = child(shape, key);
                    let Some(have) = object.get(key) else { return false };
                    match (field.map(|field| field.merge), have, wanted) {
                        (
                            Some(Merge::ByKey(merge_key)),
                            Value::Array(have),
                            Value::Array(wanted),
                        ) => wanted.iter().all(|item| {
                            let same = have.iter().find(|h| h[merge_key] == item[merge_key]);
                            same.is_some_and(|have| contains(have, item, item_of(shape)))
                        }),
                        (Some(Merge::Values), Value::Array(have), Value::Array(wanted)) => {
                            wanted.iter().all(|w| have.contains(w))
                        }
                        _ => contains(have, wanted, shape),
                    }
                })
            }
            (object, manifest) => object == manifest,
        }
    }

    proptest! {
        #[test]
        fn the_object_becomes_what_the_manifest_says(original in manifest(), modified in manifest(), current in manifest()) {
            let shape = deployment();
            let patch = three_way(&original, &modified, &current, Some(shape));
            let mut patched = current.clone();
            apply_strategic(&mut patched, &patch, shape).unwrap();
            prop_assert!(contains(&patched, &modified, Shape::Struct(shape)), "{} by {} is {}", current, patch, patched);
            // What only the last manifest had is gone.
            for container in original["spec"]["template"]["spec"]["containers"].as_array().unwrap() {
                let named = |object: &Value| object["spec"]["template"]["spec"]["containers"].as_array().unwrap().iter().any(|c| c["name"] == container["name"]);
                prop_assert_eq!(named(&patched), named(&modified));
            }
            // What neither manifest had stays.
            for (label, value) in current["metadata"]["labels"].as_object().unwrap() {
                if original["metadata"]["labels"].get(label).is_none() && modified["metadata"]["labels"].get(label).is_none() {
                    prop_assert_eq!(&patched["metadata"]["labels"][label], value);
                }
            }
            // Applying the same manifest again does nothing.
            prop_assert_eq!(three_way(&modified, &modified, &patched, Some(shape)), json!({}));
        }

        #[test]
        fn a_two_way_patch_leads_there(from in manifest(), to in manifest()) {
            let shape = deployment();
            let patch = three_way(&from, &to, &from, Some(shape));
            let mut patched = from.clone();
            apply_strategic(&mut patched, &patch, shape).unwrap();
            prop_assert!(contains(&patched, &to, Shape::Struct(shape)));
            prop_assert!(contains(&to, &patched, Shape::Struct(shape)), "{} by {} is {}", from, patch, patched);
        }

        #[test]
        fn without_a_type_it_is_a_merge_patch(original in manifest(), modified in manifest(), current in manifest()) {
            let patch = three_way(&original, &modified, &current, None);
            prop_assert!(!patch.to_string().contains('$'));
            let mut patched = current.clone();
            apply_merge(&mut patched, &patch);
            prop_assert!(contains(&patched, &modified, Shape::Any));
        }
    }
}
