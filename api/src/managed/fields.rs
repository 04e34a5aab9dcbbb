//! The fields that a configuration names.

use serde_json::Value;

use super::tree::Tree;
use super::{Element, FieldSet};
use crate::shape::Struct;

/// The fields that an applied configuration names, and so owns.
pub fn fields(config: &Value, shape: &'static Struct) -> FieldSet {
    walk(config, Tree::Struct(shape))
}

fn walk(value: &Value, tree: Tree) -> FieldSet {
    match (tree, value) {
        (Tree::Struct(_) | Tree::Map(_) | Tree::Any, Value::Object(map)) => {
            let children = map.iter().filter_map(|(name, value)| {
                let member = tree.member(name)?;
                let mut child = walk(value, member.tree);
                let is_void =
                    value.is_null() || value.as_object().is_some_and(|map| map.is_empty());
                child.member |= is_void || member.field.is_none();
                Some((member.element(name), child))
            });
            FieldSet::node(false, children)
        }
        (Tree::Keyed(..) | Tree::Set, Value::Array(items)) => {
            let children = items.iter().filter_map(|item| {
                let mut child = walk(item, tree.item());
                child.member = true;
                Some((tree.identify(item).ok()?, child))
            });
            FieldSet::node(false, children)
        }
        (Tree::Leaf | Tree::Any, _) => FieldSet::LEAF,
        // A null where a type, a map or a list belongs names nothing in it.
        _ => FieldSet::default(),
    }
}

/// Fields that are the server's, or say which object it is; nobody owns them.
const NOBODYS: &[&str] = &["apiVersion", "kind", "metadata"];
const NOBODYS_METADATA: &[&str] = &[
    "creationTimestamp",
    "generation",
    "managedFields",
    "name",
    "namespace",
    "resourceVersion",
    "selfLink",
    "uid",
];

impl FieldSet {
    /// Takes out what nobody owns.
    pub(super) fn strip(&mut self) {
        let is_one_of = |element: &Element, names: &[&str]| match element {
            Element::Field(name) => names.contains(&&**name),
            _ => false,
        };
        for (element, child) in &mut self.children {
            if is_one_of(element, NOBODYS) {
                child.member = false;
            }
            if matches!(element, Element::Field(name) if name == "metadata") {
                for (element, child) in &mut child.children {
                    child.member &= !is_one_of(element, NOBODYS_METADATA);
                }
                child.children.retain(|(_, child)| !child.is_empty());
            }
        }
        self.children.retain(|(_, child)| !child.is_empty());
    }
}
