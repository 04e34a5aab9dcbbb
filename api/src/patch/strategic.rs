//! Strategic merge patch: a merge patch that knows the types, so that a list of
//! containers is merged by container name and not replaced.
//!
//! A patch steers with directives:
//!
//! ```yaml
//! spec:
//!   $retainKeys: [type]                 # drop the other keys of this object
//!   $setElementOrder/ports: [{port: 2}, {port: 1}]
//!   $deleteFromPrimitiveList/finalizers: [a]
//!   ports:
//!   - {port: 1, $patch: delete}         # drop the item with this merge key
//!   - {$patch: replace}                 # take this list as it stands
//!   selector: {$patch: replace, a: b}   # take this object as it stands
//! ```

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::order::{arrange, identity};
use super::{PatchError, directive};
use crate::shape::{Element, Field, Merge, Shape, Struct};

/// Applies a strategic merge patch to an object of the given type. On an error
/// the object is left half patched and must be dropped.
pub fn apply_strategic(
    object: &mut Value,
    patch: &Value,
    shape: &'static Struct,
) -> Result<(), PatchError> {
    let (Value::Object(object), Value::Object(patch)) = (object, patch) else {
        return Err(malformed("a strategic merge patch must be an object"));
    };
    merge_map(object, patch.clone(), Fields::Of(shape))
}

/// What is known about the fields of an object.
#[derive(Clone, Copy)]
enum Fields {
    /// They are those of a type.
    Of(&'static Struct),
    /// It is a map with values of one shape.
    Map(Element),
    /// Nothing: lists are replaced.
    Unknown,
}

impl Fields {
    fn field(self, name: &str) -> (Option<&'static Field>, Shape) {
        match self {
            Fields::Of(shape) => {
                let field = shape.field(name);
                (field, field.map_or(Shape::Any, Field::shape))
            }
            Fields::Map(element) => (None, element.shape()),
            Fields::Unknown => (None, Shape::Any),
        }
    }

    fn of(shape: Shape) -> Fields {
        match shape {
            Shape::Struct(shape) => Fields::Of(shape),
            Shape::Map(element) => Fields::Map(element),
            _ => Fields::Unknown,
        }
    }
}

fn merge_map(
    object: &mut Map<String, Value>,
    mut patch: Map<String, Value>,
    fields: Fields,
) -> Result<(), PatchError> {
    if let Some(how) = patch.remove(directive::PATCH) {
        match how.as_str() {
            Some("replace") => *object = without_directives(patch),
            Some("delete") => object.clear(),
            _ => return Err(malformed(format!("unknown patch type found: {how}"))),
        }
        return Ok(());
    }
    retain_keys(object, &mut patch)?;
    set_element_orders(object, &mut patch, fields)?;
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix(directive::DELETE_FROM_LIST) {
            delete_from_list(object, list, &value)?;
            continue;
        }
        if value.is_null() {
            object.remove(&key);
            continue;
        }
        let (field, shape) = fields.field(&key);
        match (object.get_mut(&key), value) {
            (Some(Value::Object(_)), Value::Object(new))
                if field.is_some_and(|field| field.replace) =>
            {
                object.insert(key, Value::Object(without_directives(new)));
            }
            (Some(Value::Object(old)), Value::Object(new)) => {
                merge_map(old, new, Fields::of(shape))?
            }
            (Some(Value::Array(old)), Value::Array(new)) => {
                let merge = field.map_or(Merge::Replace, |field| field.merge);
                merge_list(old, new, merge, item_fields(shape))?;
            }
            // What is to be emptied is not there.
            (None, new) if deletes(&new) => {}
            (_, new) => {
                object.insert(key, clean(new));
            }
        }
    }
    Ok(())
}

/// Drops the keys that the patch does not list in `$retainKeys`.
fn retain_keys(
    object: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
) -> Result<(), PatchError> {
    let Some(keys) = patch.remove(directive::RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keys) = keys else { return Err(malformed("$retainKeys must be a list")) };
    let keys: HashSet<&str> = keys.iter().filter_map(Value::as_str).collect();
    for (key, value) in patch.iter() {
        if !key.starts_with('$') && !value.is_null() && !keys.contains(key.as_str()) {
            return Err(malformed(format!("{key} is patched but not in $retainKeys")));
        }
    }
    object.retain(|key, _| keys.contains(key.as_str()));
    Ok(())
}

/// Carries out `$setElementOrder/LIST`, together with the patch of that list.
fn set_element_orders(
    object: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
    fields: Fields,
) -> Result<(), PatchError> {
    let directives: Vec<String> =
        patch.keys().filter(|key| key.starts_with(directive::SET_ELEMENT_ORDER)).cloned().collect();
    for key in directives {
        let list = &key[directive::SET_ELEMENT_ORDER.len()..];
        let Some(Value::Array(order)) = patch.remove(&key) else {
            return Err(malformed(format!("{key} must be a list")));
        };
        let (field, shape) = fields.field(list);
        let merge = field.map_or(Merge::Replace, |field| field.merge);
        let merge_key = match merge {
            Merge::ByKey(key) => Some(key),
            Merge::Values => None,
            // The order of a list that is replaced is the patch's own.
            Merge::Replace => continue,
        };
        let patched = match patch.remove(list) {
            None => Vec::new(),
            Some(Value::Array(items)) => items,
            Some(other) => {
                // The list is removed or becomes something else: no order.
                patch.insert(list.to_owned(), other);
                continue;
            }
        };
        check_order(&patched, &order, merge_key, &key)?;
        if let Some(gone) = patch.remove(&format!("{}{list}", directive::DELETE_FROM_LIST)) {
            delete_from_list(object, list, &gone)?;
        }
        let old = match object.get_mut(list) {
            Some(Value::Array(items)) => std::mem::take(items),
            _ if patched.is_empty() => continue,
            _ => Vec::new(),
        };
        let old_order: Vec<String> = old.iter().map(|item| identity(item, merge_key)).collect();
        let mut merged = old;
        merge_list(&mut merged, patched, merge, item_fields(shape))?;
        let arranged = arrange(merged, &order, &old_order, merge_key);
        object.insert(list.to_owned(), Value::Array(arranged));
    }
    Ok(())
}

/// Every item that a patch writes must have a place in its order.
fn check_order(
    patched: &[Value],
    order: &[Value],
    key: Option<&str>,
    name: &str,
) -> Result<(), PatchError> {
    let known: HashSet<String> = order.iter().map(|item| identity(item, key)).collect();
    let is_directive = |item: &&Value| item.get(directive::PATCH).is_some();
    match patched
        .iter()
        .filter(|item| !is_directive(item))
        .find(|item| !known.contains(&identity(item, key)))
    {
        Some(item) => Err(malformed(format!("the item {} is not in {name}", identity(item, key)))),
        None => Ok(()),
    }
}

fn delete_from_list(
    object: &mut Map<String, Value>,
    list: &str,
    gone: &Value,
) -> Result<(), PatchError> {
    let Value::Array(gone) = gone else {
        return Err(malformed(format!("{}{list} must be a list", directive::DELETE_FROM_LIST)));
    };
    if let Some(Value::Array(items)) = object.get_mut(list) {
        let gone: HashSet<String> = gone.iter().map(Value::to_string).collect();
        items.retain(|item| !gone.contains(&item.to_string()));
    }
    Ok(())
}

fn merge_list(
    old: &mut Vec<Value>,
    new: Vec<Value>,
    merge: Merge,
    item: Fields,
) -> Result<(), PatchError> {
    match merge {
        Merge::Replace => *old = new.into_iter().filter_map(clean_item).collect(),
        Merge::Values => {
            let old_order: Vec<String> = old.iter().map(Value::to_string).collect();
            let mut seen: HashSet<String> = old_order.iter().cloned().collect();
            let added: Vec<Value> =
                new.iter().filter(|value| seen.insert(value.to_string())).cloned().collect();
            old.extend(added);
            *old = arrange(std::mem::take(old), &new, &old_order, None);
        }
        Merge::ByKey(key) => merge_items(old, new, key, item)?,
    }
    Ok(())
}

/// Merges a list of objects by their merge key.
fn merge_items(
    old: &mut Vec<Value>,
    mut new: Vec<Value>,
    key: &str,
    item: Fields,
) -> Result<(), PatchError> {
    let how = |item: &Value| item.get(directive::PATCH).cloned();
    if new.iter().any(|item| how(item).is_some_and(|how| how == "replace")) {
        new.retain(|item| how(item).is_none());
        *old = new.into_iter().filter_map(clean_item).collect();
        return Ok(());
    }
    let mut gone = HashSet::new();
    for item in &new {
        match how(item) {
            Some(how) if how == "delete" => _ = gone.insert(keyed(item, key)?),
            Some(how) => {
                return Err(malformed(format!("unknown patch type found in a list: {how}")));
            }
            None => {}
        }
    }
    old.retain(|item| !gone.contains(&identity(item, Some(key))));
    new.retain(|item| how(item).is_none());

    let old_order: Vec<String> = old.iter().map(|item| identity(item, Some(key))).collect();
    let mut places = HashMap::new();
    for (place, id) in old_order.iter().enumerate() {
        places.entry(id.clone()).or_insert(place);
    }
    let order: Vec<Value> = new.clone();
    for patch in new {
        let id = keyed(&patch, key)?;
        match (places.get(&id).and_then(|place| old.get_mut(*place)), patch) {
            (Some(Value::Object(have)), Value::Object(patch)) => merge_map(have, patch, item)?,
            (_, patch) => {
                places.insert(id, old.len());
                old.push(clean(patch));
            }
        }
    }
    *old = arrange(std::mem::take(old), &order, &old_order, Some(key));
    Ok(())
}

fn keyed(item: &Value, key: &str) -> Result<String, PatchError> {
    match item.get(key) {
        Some(Value::Null) | None => {
            Err(malformed(format!("map: {item} does not contain declared merge key: {key}")))
        }
        Some(value) => Ok(value.to_string()),
    }
}

fn item_fields(shape: Shape) -> Fields {
    match shape {
        Shape::List(item) => Fields::of(item.shape()),
        _ => Fields::Unknown,
    }
}

/// A value of the patch that nothing in the object answers to: what it removes
/// is not there, so `null` and directives are left out.
fn clean(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(without_directives(map)),
        Value::Array(items) => Value::Array(items.into_iter().filter_map(clean_item).collect()),
        plain => plain,
    }
}

fn clean_item(item: Value) -> Option<Value> {
    match item.get(directive::PATCH).and_then(Value::as_str) {
        Some("delete") => None,
        // A bare `{$patch: replace}` speaks of the list, not of an item.
        Some("replace") if item.as_object().is_some_and(|map| map.len() == 1) => None,
        _ => Some(clean(item)),
    }
}

/// Whether a value says that what it is merged with shall go.
fn deletes(value: &Value) -> bool {
    value.get(directive::PATCH).is_some_and(|how| how == "delete")
}

fn without_directives(map: Map<String, Value>) -> Map<String, Value> {
    let is_directive = |key: &str| {
        key == directive::PATCH
            || key == directive::RETAIN_KEYS
            || key.starts_with(directive::SET_ELEMENT_ORDER)
            || key.starts_with(directive::DELETE_FROM_LIST)
    };
    let kept = map
        .into_iter()
        .filter(|(key, value)| !value.is_null() && !is_directive(key) && !deletes(value));
    kept.map(|(key, value)| (key, clean(value))).collect()
}

fn malformed(message: impl Into<String>) -> PatchError {
    PatchError::Malformed(message.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn pod() -> &'static Struct {
        Struct::named("core.v1.Pod").unwrap()
    }

    #[test]
    fn merges_as_the_types_say() {
        let cases = [
            (
                "containers by name",
                json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b"}]}}),
                json!({"spec": {"containers": [{"name": "a", "image": "2"}, {"name": "c"}]}}),
                json!({"spec": {"containers": [{"name": "a", "image": "2"}, {"name": "c"}, {"name": "b"}]}}),
            ),
            (
                "an item is deleted",
                json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
                json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}),
                json!({"spec": {"containers": [{"name": "b"}]}}),
            ),
            (
                "a list is replaced on demand",
                json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
                json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "c"}]}}),
                json!({"spec": {"containers": [{"name": "c"}]}}),
            ),
            (
                "tolerations are atomic",
                json!({"spec": {"tolerations": [{"key": "a"}, {"key": "b"}]}}),
                json!({"spec": {"tolerations": [{"key": "c"}]}}),
                json!({"spec": {"tolerations": [{"key": "c"}]}}),
            ),
            (
                "finalizers are a set",
                json!({"metadata": {"finalizers": ["a", "b"]}}),
                json!({"metadata": {"finalizers": ["b", "c"]}}),
                json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
            ),
            (
                "values are taken out",
                json!({"metadata": {"finalizers": ["a", "b"]}}),
                json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a", "x"]}}),
                json!({"metadata": {"finalizers": ["b"]}}),
            ),
            (
                "an order is set",
                json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}}),
                json!({"spec": {
                    "$setElementOrder/containers": [{"name": "c"}, {"name": "a"}],
                    "containers": [{"name": "c", "image": "x"}],
                }}),
                json!({"spec": {"containers": [{"name": "b"}, {"name": "c", "image": "x"}, {"name": "a"}]}}),
            ),
            (
                "labels by key",
                json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
                json!({"metadata": {"labels": {"a": null, "c": "3", "d": null}}}),
                json!({"metadata": {"labels": {"b": "2", "c": "3"}}}),
            ),
            (
                "a map is replaced on demand",
                json!({"metadata": {"labels": {"a": "1"}}}),
                json!({"metadata": {"labels": {"$patch": "replace", "c": "3"}}}),
                json!({"metadata": {"labels": {"c": "3"}}}),
            ),
            (
                "a map is emptied",
                json!({"metadata": {"labels": {"a": "1"}}}),
                json!({"metadata": {"labels": {"$patch": "delete"}}}),
                json!({"metadata": {"labels": {}}}),
            ),
            (
                "a volume changes its source",
                json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
                json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "secret"], "secret": {"secretName": "s"}}]}}),
                json!({"spec": {"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}}),
            ),
            (
                "directives do not get into new values",
                json!({"spec": {}}),
                json!({"spec": {"containers": [
                    {"name": "gone", "$patch": "delete"},
                    {"name": "a", "image": null, "$setElementOrder/env": [], "securityContext": {"$retainKeys": []}},
                ]}}),
                json!({"spec": {"containers": [{"name": "a", "securityContext": {}}]}}),
            ),
        ];
        for (name, mut object, patch, expected) in cases {
            apply_strategic(&mut object, &patch, pod())
                .unwrap_or_else(|err| panic!("{name}: {err}"));
            assert_eq!(object, expected, "{name}");
        }
    }

    #[test]
    fn refusals() {
        let cases = [
            (json!([]), "must be an object"),
            (json!({"$patch": "grow"}), "unknown patch type"),
            (
                json!({"spec": {"containers": [{"image": "x"}]}}),
                "does not contain declared merge key: name",
            ),
            (
                json!({"spec": {"containers": [{"$patch": "merge", "name": "a"}]}}),
                "unknown patch type",
            ),
            (json!({"spec": {"$retainKeys": "a"}}), "must be a list"),
            (json!({"spec": {"$retainKeys": ["b"], "a": 1}}), "not in $retainKeys"),
            (
                json!({"spec": {"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a"}]}}),
                "is not in",
            ),
            (json!({"spec": {"$setElementOrder/containers": 1}}), "must be a list"),
            (json!({"metadata": {"$deleteFromPrimitiveList/finalizers": "a"}}), "must be a list"),
        ];
        for (patch, expected) in cases {
            let mut object = json!({"metadata": {}, "spec": {"containers": [{"name": "a"}]}});
            let err = apply_strategic(&mut object, &patch, pod()).unwrap_err().to_string();
            assert!(err.contains(expected), "{patch}: {err}");
        }
    }

    /// Patches and pods made of the words that mean something here.
    fn anything() -> impl Strategy<Value = Value> {
        const KEYS: [&str; 10] = [
            "spec",
            "metadata",
            "containers",
            "finalizers",
            "name",
            "$patch",
            "$retainKeys",
            "$setElementOrder/containers",
            "$setElementOrder/finalizers",
            "$deleteFromPrimitiveList/finalizers",
        ];
        let word = prop::sample::select(vec!["a", "b", "delete", "replace", "merge", "name"]);
        let leaf = prop_oneof![
            Just(Value::Null),
            word.prop_map(Value::from),
            (0..2).prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            let entry = (prop::sample::select(KEYS.to_vec()), inner.clone());
            let map = prop::collection::vec(entry, 0..5);
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(Value::from),
                map.prop_map(|map| map
                    .into_iter()
                    .map(|(key, value)| (key.to_owned(), value))
                    .collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_patch_is_carried_out_or_refused(mut object in anything(), patch in anything()) {
            // A refusal is as good as a result; a panic is neither.
            let _ = apply_strategic(&mut object, &patch, pod());
        }

        #[test]
        fn a_patch_applied_twice_changes_nothing_more(patch in anything()) {
            let mut once = json!({"metadata": {"finalizers": ["a"]}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
            if apply_strategic(&mut once, &patch, pod()).is_ok() {
                let mut twice = once.clone();
                // A wrong directive shows only where there is something to merge.
                if apply_strategic(&mut twice, &patch, pod()).is_ok() {
                    prop_assert_eq!(twice, once);
                }
            }
        }
    }

    #[test]
    fn a_disruption_budget_replaces_its_selector() {
        let budget = Struct::named("policy.v1.PodDisruptionBudget").unwrap();
        let mut object = json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}});
        apply_strategic(
            &mut object,
            &json!({"spec": {"selector": {"matchLabels": {"c": "d"}}}}),
            budget,
        )
        .unwrap();
        assert_eq!(object, json!({"spec": {"selector": {"matchLabels": {"c": "d"}}}}));
    }
}
