//! Puts a configuration into an object, and takes fields out of one.

use std::collections::BTreeMap;

use serde_json::Value;

use super::tree::Tree;
use super::{Element, FieldSet};
use crate::shape::Struct;

/// The object with everything that the configuration names. Nothing is
/// removed. Lists keep the object's order where the configuration says nothing
/// else.
pub(super) fn merge(live: Value, config: &Value, shape: &'static Struct) -> Value {
    walk(live, config, Tree::Struct(shape))
}

fn walk(live: Value, config: &Value, tree: Tree) -> Value {
    match (tree, live, config) {
        (
            Tree::Struct(_) | Tree::Map(_) | Tree::Any,
            Value::Object(mut live),
            Value::Object(new),
        ) => {
            for (name, config) in new {
                let below = tree.member(name).map_or(Tree::Any, |member| member.tree);
                let merged = match live.remove(name) {
                    Some(live) => walk(live, config, below),
                    None => config.clone(),
                };
                live.insert(name.clone(), merged);
            }
            Value::Object(live)
        }
        (Tree::Keyed(..) | Tree::Set, Value::Array(live), Value::Array(new)) => {
            Value::Array(items(live, new, tree))
        }
        // Naming a thing without naming anything in it leaves what is in it.
        (Tree::Struct(_) | Tree::Map(_), Value::Object(live), Value::Null) if !live.is_empty() => {
            Value::Object(live)
        }
        (Tree::Keyed(..) | Tree::Set, Value::Array(live), Value::Null) if !live.is_empty() => {
            Value::Array(live)
        }
        (_, _, config) => config.clone(),
    }
}

/// Merges lists by item. Items of the configuration come in its order; before
/// each one that the object has too stand those that only the object has and
/// that stood before it there.
fn items(live: Vec<Value>, config: &[Value], tree: Tree) -> Vec<Value> {
    let identify = |item: &Value| tree.identify(item).ok();
    let wanted: Vec<Option<Element>> = config.iter().map(identify).collect();
    let order: Vec<Option<Element>> = live.iter().map(identify).collect();
    let has: BTreeMap<&Element, ()> = wanted.iter().flatten().map(|e| (e, ())).collect();
    let mut held: BTreeMap<Element, Value> = BTreeMap::new();
    let mut rest: Vec<Option<Value>> = Vec::with_capacity(live.len());
    for (element, item) in order.iter().zip(live) {
        match element {
            // Of items that cannot be told apart the first one counts.
            Some(element) if has.contains_key(element) => {
                held.entry(element.clone()).or_insert(item);
                rest.push(None);
            }
            _ => rest.push(Some(item)),
        }
    }
    let shared: Vec<&Element> =
        wanted.iter().flatten().filter(|element| held.contains_key(element)).collect();
    let mut shared = shared.into_iter().peekable();
    let mut merged = Vec::with_capacity(rest.len() + config.len());
    let mut at = 0;
    for (element, item) in wanted.iter().zip(config) {
        // Goes over the object's items up to the next one that both have.
        while at < rest.len()
            && (rest[at].is_some() || order[at].as_ref() != shared.peek().copied())
        {
            merged.extend(rest[at].take());
            at += 1;
        }
        let live = element.as_ref().and_then(|element| held.remove(element));
        if element.is_some() && element.as_ref() == shared.peek().copied() {
            if order.get(at) == Some(element) {
                at += 1;
            }
            shared.next();
        }
        merged.push(match live {
            Some(live) => walk(live, item, tree.item()),
            None => item.clone(),
        });
    }
    merged.extend(rest.into_iter().skip(at).flatten());
    merged
}

/// Takes the fields of the set out of the object, each with everything below
/// it.
pub(super) fn remove(object: &mut Value, gone: &FieldSet, shape: &'static Struct) {
    take_out(object, gone, Tree::Struct(shape));
}

fn take_out(value: &mut Value, gone: &FieldSet, tree: Tree) {
    match (tree, value) {
        (Tree::Struct(_) | Tree::Map(_) | Tree::Any, Value::Object(map)) => {
            for (element, gone) in &gone.children {
                let Element::Field(name) = element else { continue };
                if gone.member {
                    map.remove(&**name);
                } else if let Some(value) = map.get_mut(&**name) {
                    take_out(value, gone, tree.below(element));
                }
            }
        }
        (Tree::Keyed(..) | Tree::Set, Value::Array(items)) => items.retain_mut(|item| {
            let Ok(element) = tree.identify(item) else { return true };
            let Some(gone) = gone.child(&element) else { return true };
            if !gone.member {
                take_out(item, gone, tree.item());
            }
            !gone.member
        }),
        _ => {}
    }
}
