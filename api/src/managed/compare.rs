//! What a write changed.

use std::sync::LazyLock;

use serde_json::Value;

use super::tree::{Member, Tree, items, members};
use super::{Element, FieldSet};
use crate::shape::Struct;

/// How two versions of an object differ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Fields that are new or have another value.
    pub written: FieldSet,
    /// Fields that are gone.
    pub removed: FieldSet,
}

impl Changes {
    /// Whether the two do not differ in what can be owned.
    pub fn is_empty(&self) -> bool {
        self.written.is_empty() && self.removed.is_empty()
    }

    const WRITTEN: Changes = Changes {
        written: FieldSet::LEAF,
        removed: FieldSet { member: false, children: Vec::new() },
    };
    const REMOVED: Changes = Changes {
        written: FieldSet { member: false, children: Vec::new() },
        removed: FieldSet::LEAF,
    };

    fn leaf(old: Option<&Value>, new: Option<&Value>) -> Self {
        match (old, new) {
            (_, None) if old.is_some() => Self::REMOVED,
            _ if old == new => Self::default(),
            _ => Self::WRITTEN,
        }
    }

    fn of(children: Vec<(Element, Changes)>) -> Self {
        let (mut written, mut removed) = (Vec::new(), Vec::new());
        for (element, child) in children {
            match (child.written.is_empty(), child.removed.is_empty()) {
                (true, true) => {}
                (false, true) => written.push((element, child.written)),
                (true, false) => removed.push((element, child.removed)),
                (false, false) => {
                    written.push((element.clone(), child.written));
                    removed.push((element, child.removed));
                }
            }
        }
        Self {
            written: FieldSet::node(false, written.into_iter()),
            removed: FieldSet::node(false, removed.into_iter()),
        }
    }
}

/// Compares two versions of an object; a new object is compared with `{}`.
pub fn compare(old: &Value, new: &Value, shape: &'static Struct) -> Changes {
    walk(Some(old), Some(new), Tree::Struct(shape))
}

fn walk(old: Option<&Value>, new: Option<&Value>, tree: Tree) -> Changes {
    let (old, new) = (old.filter(|old| !old.is_null()), new.filter(|new| !new.is_null()));
    let children = match tree {
        Tree::Leaf => None,
        Tree::Struct(_) | Tree::Map(_) | Tree::Any => of_members(old, new, tree),
        Tree::Keyed(..) | Tree::Set => of_items(old, new, tree),
    };
    // What is empty on both sides is there or not; it has no parts to own.
    let Some(children) = children else { return Changes::leaf(old, new) };
    let mut changes = Changes::of(children);
    changes.written.member = old.is_none();
    changes.removed.member = new.is_none();
    changes
}

fn of_members(
    old: Option<&Value>,
    new: Option<&Value>,
    tree: Tree,
) -> Option<Vec<(Element, Changes)>> {
    let (before, after) = (members(old), members(new));
    if before.is_none() && after.is_none() {
        return None;
    }
    let is_object = |value: Option<&Value>| value.is_none_or(Value::is_object);
    if !is_object(old) || !is_object(new) {
        return None;
    }
    let mut children = Vec::new();
    let mut visit = |name: &str, before: Option<&Value>, after: Option<&Value>| {
        // What a type does not have was refused or dropped before.
        let Some(member) = tree.member(name) else { return };
        let born = born_with(member);
        let before = before.or(old.and(born));
        let after = after.or(new.and(born));
        let changes = walk(before, after, member.tree);
        if !changes.is_empty() {
            children.push((member.element(name), changes));
        }
    };
    for (name, value) in before.into_iter().flatten() {
        visit(name, Some(value), after.and_then(|map| map.get(name)));
    }
    for (name, value) in after.into_iter().flatten() {
        if before.is_none_or(|map| !map.contains_key(name)) {
            visit(name, None, Some(value));
        }
    }
    Some(children)
}

fn of_items(
    old: Option<&Value>,
    new: Option<&Value>,
    tree: Tree,
) -> Option<Vec<(Element, Changes)>> {
    let (before, after) = (grouped(items(old), tree), grouped(items(new), tree));
    if before.is_empty() && after.is_empty() {
        return None;
    }
    let mut children = Vec::new();
    let (mut before, mut after) = (before.as_slice(), after.as_slice());
    while let Some(element) = first(before, after) {
        let element = element.clone();
        let (lefts, rights) = (take(&mut before, &element), take(&mut after, &element));
        let changes = match (lefts, rights) {
            ([] | [_], [] | [_]) => {
                walk(lefts.first().map(|l| l.1), rights.first().map(|r| r.1), tree.item())
            }
            // Items that cannot be told apart are one value.
            (_, []) => Changes::REMOVED,
            _ if lefts.iter().map(|l| l.1).eq(rights.iter().map(|r| r.1)) => Changes::default(),
            _ => Changes::WRITTEN,
        };
        if !changes.is_empty() {
            children.push((element, changes));
        }
    }
    Some(children)
}

type Identified<'a> = (Element, &'a Value);

/// The items by what tells them apart, in the order of that. Items that nothing
/// tells apart have no owner.
fn grouped(items: &[Value], tree: Tree) -> Vec<Identified<'_>> {
    let mut all: Vec<_> =
        items.iter().filter_map(|item| Some((tree.identify(item).ok()?, item))).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

fn first<'a>(a: &'a [Identified<'_>], b: &'a [Identified<'_>]) -> Option<&'a Element> {
    a.first().map(|(a, _)| a).into_iter().chain(b.first().map(|(b, _)| b)).min()
}

/// Splits off the leading items that are this one.
fn take<'a, 'v>(from: &mut &'a [Identified<'v>], element: &Element) -> &'a [Identified<'v>] {
    let count = from.iter().take_while(|(own, _)| own == element).count();
    let (taken, rest) = from.split_at(count);
    *from = rest;
    taken
}

/// Fields that are there, empty, as soon as the object around them is: in
/// upstream's Go types they are no pointers. Nobody can be said to have made
/// them.
const BORN: &[&str] =
    &["jobTemplate", "metadata", "spec", "status", "strategy", "template", "updateStrategy"];

fn born_with(member: Member) -> Option<&'static Value> {
    static EMPTY: LazyLock<[Value; 2]> =
        LazyLock::new(|| [serde_json::json!({}), serde_json::json!([])]);
    let field = member.field?;
    match member.tree {
        Tree::Struct(_) if field.required || BORN.contains(&field.name) => Some(&EMPTY[0]),
        Tree::Keyed(..) | Tree::Set if field.required => Some(&EMPTY[1]),
        _ => None,
    }
}
