//! Lists in a strategic merge patch: merged by key or as a set of values, and
//! put in the order that the patch asks for.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::{Fields, clean, clean_item, malformed, merge_map};
use crate::patch::order::{arrange, identity};
use crate::patch::{PatchError, directive};
use crate::shape::{Merge, Shape};

/// Carries out `$setElementOrder/LIST`, together with the patch of that list.
pub(super) fn set_element_orders(
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

pub(super) fn delete_from_list(
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

pub(super) fn merge_list(
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

pub(super) fn item_fields(shape: Shape) -> Fields {
    match shape {
        Shape::List(item) => Fields::of(item.shape()),
        _ => Fields::Unknown,
    }
}
