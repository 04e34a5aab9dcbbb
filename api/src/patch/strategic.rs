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

mod lists;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

use serde_json::{Map, Value};

use self::lists::{delete_from_list, item_fields, merge_list, set_element_orders};
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
