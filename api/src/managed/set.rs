//! Sets of paths, as trees.

use std::cmp::Ordering;

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::Element;

/// A set of paths: a tree whose nodes say whether the path that leads to them
/// is in the set. There are no empty nodes, and children are sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// Whether the path to this node is in the set.
    pub(super) member: bool,
    pub(super) children: Vec<(Element, FieldSet)>,
}

impl FieldSet {
    /// The set of the path to the node itself.
    pub(super) const LEAF: FieldSet = FieldSet { member: true, children: Vec::new() };

    /// A node with these children, which may come in any order; empty ones are
    /// left out.
    pub(super) fn node(member: bool, children: impl Iterator<Item = (Element, Self)>) -> Self {
        let mut children: Vec<_> = children.filter(|(_, child)| !child.is_empty()).collect();
        if !children.is_sorted_by(|a, b| a.0 < b.0) {
            children.sort_by(|a, b| a.0.cmp(&b.0));
            children.dedup_by(|later, first| {
                let same = later.0 == first.0;
                if same {
                    first.1.union(std::mem::take(&mut later.1));
                }
                same
            });
        }
        Self { member, children }
    }

    /// Reads `fieldsV1`; `None` if it is not a set of paths.
    pub fn parse(fields: &Value) -> Option<Self> {
        let Value::Object(map) = fields else { return None };
        // An empty object is the path that leads there.
        if map.is_empty() {
            return Some(Self::LEAF);
        }
        Self::parse_node(map)
    }

    fn parse_node(map: &Map<String, Value>) -> Option<Self> {
        let mut member = false;
        let mut children = Vec::with_capacity(map.len());
        for (text, fields) in map {
            if text == "." {
                member = true;
                continue;
            }
            children.push((Element::parse(text)?, Self::parse(fields)?));
        }
        Some(Self::node(member, children.into_iter()))
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    /// What the set has below an element.
    pub fn child(&self, element: &Element) -> Option<&Self> {
        let at = self.children.binary_search_by(|(have, _)| have.cmp(element)).ok()?;
        Some(&self.children[at].1)
    }

    /// Adds everything in `other`.
    pub fn union(&mut self, other: Self) {
        self.member |= other.member;
        if other.children.is_empty() {
            return;
        }
        if self.children.is_empty() {
            self.children = other.children;
            return;
        }
        let mine = std::mem::take(&mut self.children);
        self.children.reserve(mine.len().max(other.children.len()));
        let (mut mine, mut theirs) =
            (mine.into_iter().peekable(), other.children.into_iter().peekable());
        loop {
            let order = match (mine.peek(), theirs.peek()) {
                (Some(mine), Some(theirs)) => mine.0.cmp(&theirs.0),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return,
            };
            let mut next = if order.is_gt() { theirs.next() } else { mine.next() };
            if order.is_eq()
                && let (Some((_, next)), Some((_, theirs))) = (&mut next, theirs.next())
            {
                next.union(theirs);
            }
            self.children.extend(next);
        }
    }

    /// Takes out everything in `other`: these paths, not what lies below them.
    pub fn subtract(&mut self, other: &Self) {
        self.member &= !other.member;
        if other.children.is_empty() {
            return;
        }
        self.children.retain_mut(|(element, child)| {
            if let Some(other) = other.child(element) {
                child.subtract(other);
            }
            !child.is_empty()
        });
    }

    /// What is in both sets.
    pub fn intersection(&self, other: &Self) -> Self {
        let children = self.children.iter().filter_map(|(element, child)| {
            Some((element.clone(), child.intersection(other.child(element)?)))
        });
        Self::node(self.member && other.member, children)
    }

    /// Takes out a field and everything below it.
    pub fn remove_field(&mut self, name: &str) {
        self.children.retain(|(element, _)| !matches!(element, Element::Field(own) if own == name));
    }

    /// How many paths are in the set.
    pub fn len(&self) -> usize {
        let below: usize = self.children.iter().map(|(_, child)| child.len()).sum();
        usize::from(self.member) + below
    }

    /// The paths in the set, in messages' spelling: `.spec.replicas`; as many as
    /// fit into that many bytes. A thousand paths may share a name as long as a
    /// body, so the text can be much longer than what it was made from.
    pub fn paths(&self, bytes: usize) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect(&mut String::new(), bytes, &mut paths);
        paths
    }

    /// Adds paths while they fit. Returns the room left, `None` if there is none.
    fn collect(&self, path: &mut String, room: usize, paths: &mut Vec<String>) -> Option<usize> {
        let mut room = room;
        if self.member {
            room = room.checked_sub(path.len())?;
            paths.push(path.clone());
        }
        for (element, child) in &self.children {
            let length = path.len();
            path.push_str(&element.to_string());
            room = child.collect(path, room, paths)?;
            path.truncate(length);
        }
        Some(room)
    }
}

/// Writes `fieldsV1`. A node that is a leaf is an empty object; one that is in
/// the set and has children says so with a `.`.
impl Serialize for FieldSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let dot = self.member && !self.children.is_empty();
        let mut map = serializer.serialize_map(Some(self.children.len() + usize::from(dot)))?;
        if dot {
            map.serialize_entry(".", &Value::Object(Map::new()))?;
        }
        for (element, child) in &self.children {
            map.serialize_entry(element, child)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const ALL: usize = usize::MAX;

    fn set(fields: Value) -> FieldSet {
        FieldSet::parse(&fields).unwrap()
    }

    #[test]
    fn sets_are_read_and_written() {
        let fields = json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}},
            "f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}}});
        let read = set(fields.clone());
        assert_eq!(serde_json::to_value(&read).unwrap(), fields);
        assert_eq!(
            read.paths(ALL),
            [
                ".metadata.labels",
                ".metadata.labels.a",
                ".spec.ports[port=80,protocol=\"TCP\"]",
                ".spec.ports[port=80,protocol=\"TCP\"].port"
            ]
        );
        // The same keys in another order are the same item.
        let other = json!({"k:{\"b\":1,\"a\":2}": {"f:x": {}}, "k:{\"a\":2,\"b\":1}": {"f:y": {}}});
        assert_eq!(set(other).paths(ALL), ["[a=2,b=1].x", "[a=2,b=1].y"]);
        for fields in [json!([]), json!({"spec": {}}), json!({"f:a": 1}), json!({"f:a": {"x": {}}})]
        {
            assert_eq!(FieldSet::parse(&fields), None, "{fields}");
        }
    }

    #[test]
    fn paths_are_told_while_there_is_room() {
        let long = format!("f:{}", "x".repeat(1000));
        let set = set(json!({long: {"f:a": {}, "f:b": {}, "f:c": {}}}));
        assert_eq!(set.len(), 3);
        assert_eq!(set.paths(2500).len(), 2);
        assert_eq!(set.paths(10).len(), 0);
    }

    #[test]
    fn differences_leave_no_empty_nodes() {
        let mut a = set(json!({"f:a": {"f:b": {}, "f:c": {"f:d": {}}}}));
        a.subtract(&set(json!({"f:a": {"f:c": {"f:d": {}}}})));
        assert_eq!(a, set(json!({"f:a": {"f:b": {}}})));
        // A path is not what lies below it.
        a.subtract(&set(json!({"f:a": {}})));
        assert_eq!(a.paths(ALL), [".a.b"]);
        a.subtract(&set(json!({"f:a": {".": {}, "f:b": {}}})));
        assert!(a.is_empty());
    }

    fn any_set() -> impl Strategy<Value = FieldSet> {
        let leaf = Just(FieldSet::LEAF);
        leaf.prop_recursive(3, 24, 4, |inner| {
            let name = prop::sample::select(vec!["f:a", "f:b", "v:1", "k:{\"n\":1}"]);
            (any::<bool>(), prop::collection::vec((name, inner), 1..4)).prop_map(
                |(member, kids)| {
                    let kids = kids.into_iter().map(|(e, kid)| (Element::parse(e).unwrap(), kid));
                    FieldSet::node(member, kids)
                },
            )
        })
    }

    proptest! {
        #[test]
        fn the_laws_of_sets(a in any_set(), b in any_set()) {
            let mut union = a.clone();
            union.union(b.clone());
            let mut all: Vec<_> = a.paths(ALL).into_iter().chain(b.paths(ALL)).collect();
            all.sort();
            all.dedup();
            let mut paths = union.paths(ALL);
            paths.sort();
            prop_assert_eq!(paths, all);

            let mut only_a = a.clone();
            only_a.subtract(&b);
            let expected: Vec<_> = a.paths(ALL).into_iter().filter(|p| !b.paths(ALL).contains(p)).collect();
            prop_assert_eq!(only_a.paths(ALL), expected);
            only_a.union(a.intersection(&b));
            prop_assert_eq!(&only_a, &a);
            let written = serde_json::to_value(&a).unwrap();
            prop_assert_eq!(FieldSet::parse(&written).unwrap(), a);
        }
    }
}
