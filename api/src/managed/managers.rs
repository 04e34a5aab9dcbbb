//! `metadata.managedFields`: the managers of an object, and what a write does
//! to them.

use std::fmt;

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::fields::fields;
use super::{Changes, FieldSet, compare, merge};
use crate::shape::{Shape, Struct};

/// As many managers by update as are kept apart; the oldest become one.
const MAX_UPDATERS: usize = 10;
const ANCIENT: &str = "ancient-changes";

/// Who had all fields before anybody applied anything.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// How a manager came by its fields. The order is that of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// By applying a configuration.
    Apply,
    /// By any other write.
    Update,
}

/// Who writes.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// The name of the manager.
    pub manager: &'a str,
    /// The subresource that is written; empty for the object itself.
    pub subresource: &'a str,
    /// The version that the fields are recorded in.
    pub api_version: &'a str,
    /// Now, in RFC 3339.
    pub now: &'a str,
}

/// One manager and its fields.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    manager: String,
    operation: Operation,
    api_version: String,
    time: Option<String>,
    subresource: String,
    fields: FieldSet,
}

/// What an applied configuration would change and another manager has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The manager, as messages name it.
    pub manager: String,
    /// The fields.
    pub fields: FieldSet,
}

/// All managers of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Managers(Vec<Entry>);

impl Managers {
    /// Reads `metadata.managedFields`; `None` if any entry cannot be read.
    pub fn parse(list: &Value) -> Option<Self> {
        list.as_array()?.iter().map(Entry::parse).collect::<Option<Vec<_>>>().map(Self)
    }

    /// The managers that an update starts from. A client that does not know of
    /// managed fields, or garbles them, leaves those of the object; one that
    /// sends a single empty entry clears them.
    pub fn given_or_live(given: Option<&Value>, live: Option<&Value>) -> Self {
        let given = given.filter(|given| live != Some(given));
        match given.and_then(Value::as_array).map(Vec::as_slice) {
            Some([Value::Object(only)]) if only.values().all(Value::is_null) => {
                return Self::default();
            }
            _ => {}
        }
        let given = given.and_then(Self::parse).filter(|given| !given.is_empty());
        given.or_else(|| live.and_then(Self::parse)).unwrap_or_default()
    }

    /// Whether nobody manages anything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether these are the same managers of the same fields, whenever they
    /// wrote them.
    pub fn same_but_for_time(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self
                .0
                .iter()
                .all(|own| other.0.iter().any(|entry| own.is(entry) && own.fields == entry.fields))
    }

    /// A new object that was written, not applied.
    pub fn create(
        &mut self,
        object: &Value,
        shape: &'static Struct,
        writer: &Writer<'_>,
        own: impl FnOnce(&mut FieldSet),
    ) {
        let mut changes = compare(&Value::Object(serde_json::Map::new()), object, shape);
        own(&mut changes.written);
        self.take_over(changes, writer, writer.manager);
    }

    /// Notes what an update changed. What nobody has tracked so far stays
    /// untracked until somebody applies.
    pub fn update(&mut self, changes: Changes, writer: &Writer<'_>) {
        if !self.is_empty() && !changes.is_empty() {
            self.take_over(changes, writer, writer.manager);
        }
    }

    fn take_over(&mut self, changes: Changes, writer: &Writer<'_>, manager: &str) {
        let Changes { mut written, removed } = changes;
        self.release(&written, &removed);
        written.strip();
        if !written.is_empty() {
            let entry = Entry {
                manager: manager.to_owned(),
                operation: Operation::Update,
                api_version: writer.api_version.to_owned(),
                time: Some(writer.now.to_owned()),
                subresource: writer.subresource.to_owned(),
                fields: FieldSet::default(),
            };
            self.grant(entry, written);
        }
        self.finish();
    }

    /// Applies a configuration to an object: what comes of the object, before
    /// defaults. Without `force` nothing is done if others have what would
    /// change.
    pub fn apply(
        &mut self,
        live: &Value,
        config: &Value,
        shape: &'static Struct,
        writer: &Writer<'_>,
        force: bool,
    ) -> Result<Value, Vec<Conflict>> {
        let mut managers = self.clone();
        if managers.is_empty() {
            let all = compare(&Value::Object(serde_json::Map::new()), live, shape);
            let object = Writer { subresource: "", ..*writer };
            managers.take_over(all, &object, BEFORE_FIRST_APPLY);
        }
        let mut entry = Entry {
            manager: writer.manager.to_owned(),
            operation: Operation::Apply,
            api_version: writer.api_version.to_owned(),
            time: None,
            subresource: writer.subresource.to_owned(),
            fields: fields(config, shape),
        };
        let at = managers.0.iter().position(|own| own.is(&entry));
        let last = at.map(|at| managers.0.remove(at));

        let mut object = merge::merge(live.clone(), config, shape);
        if let Some(last) = &last {
            let mut owned = entry.fields.clone();
            for other in &managers.0 {
                owned.union(other.fields.clone());
            }
            let gone = dropped(&last.fields, &owned, Shape::Struct(shape));
            merge::remove(&mut object, &gone, shape);
        }
        let Changes { written, removed } = compare(live, &object, shape);
        if !force {
            let conflicts = managers.conflicts(&written);
            if !conflicts.is_empty() {
                return Err(conflicts);
            }
        }
        managers.release(&written, &removed);
        entry.fields.strip();
        let changed = !written.is_empty() || !removed.is_empty();
        entry.time = match last {
            Some(last) if !changed && last.fields == entry.fields => last.time,
            _ => Some(writer.now.to_owned()),
        };
        managers.0.push(entry);
        managers.finish();
        *self = managers;
        Ok(object)
    }

    fn conflicts(&self, written: &FieldSet) -> Vec<Conflict> {
        let each = self.0.iter().map(|entry| {
            let fields = entry.fields.intersection(written);
            Conflict { manager: entry.to_string(), fields }
        });
        let mut conflicts: Vec<_> = each.filter(|conflict| !conflict.fields.is_empty()).collect();
        conflicts.sort_by(|a, b| a.manager.cmp(&b.manager));
        conflicts
    }

    /// Nobody has these fields any more.
    fn release(&mut self, written: &FieldSet, removed: &FieldSet) {
        for entry in &mut self.0 {
            entry.fields.subtract(written);
            entry.fields.subtract(removed);
        }
    }

    /// Gives a manager fields on top of what it has.
    fn grant(&mut self, mut entry: Entry, fields: FieldSet) {
        match self.0.iter_mut().find(|own| own.is(&entry)) {
            Some(own) => {
                own.time = entry.time;
                own.fields.union(fields);
            }
            None => {
                entry.fields = fields;
                self.0.push(entry);
            }
        }
    }

    /// Drops who has nothing left, keeps the list bounded, and sorts it.
    fn finish(&mut self) {
        self.0.retain(|entry| !entry.fields.is_empty());
        self.cap();
        let order = |entry: &Entry| {
            let Entry { operation, time, manager, api_version, subresource, .. } = entry.clone();
            (operation, time, manager, api_version, subresource)
        };
        self.0.sort_by_cached_key(order);
    }

    /// Merges the oldest updaters of each version until few enough are left.
    fn cap(&mut self) {
        let updaters =
            |all: &[Entry]| all.iter().filter(|entry| entry.operation == Operation::Update).count();
        while updaters(&self.0) > MAX_UPDATERS {
            let mut oldest: Vec<usize> =
                (0..self.0.len()).filter(|at| self.0[*at].operation == Operation::Update).collect();
            oldest.sort_by_key(|at| {
                (&self.0[*at].time, &self.0[*at].manager, &self.0[*at].subresource)
            });
            // The two oldest of one version.
            let pair = oldest.iter().enumerate().find_map(|(nth, first)| {
                let version = &self.0[*first].api_version;
                let second =
                    oldest[nth + 1..].iter().find(|at| self.0[**at].api_version == *version)?;
                Some((*first, *second))
            });
            let Some((first, second)) = pair else { return };
            let older = std::mem::take(&mut self.0[first].fields);
            let newer = &mut self.0[second];
            newer.fields.union(older);
            ANCIENT.clone_into(&mut newer.manager);
            newer.subresource.clear();
            self.0.remove(first);
        }
    }
}

/// What an applier had and nobody has now. A field of a type counts as had by
/// whoever has anything below it.
fn dropped(last: &FieldSet, owned: &FieldSet, shape: Shape) -> FieldSet {
    fn walk(last: &FieldSet, owned: Option<&FieldSet>, tree: super::tree::Tree) -> FieldSet {
        let children = last.children.iter().map(|(element, last)| {
            let owned = owned.and_then(|owned| owned.child(element));
            let is_field = match element {
                super::Element::Field(name) => tree.member(name).is_some_and(|m| m.field.is_some()),
                _ => false,
            };
            let has = |set: &FieldSet| set.member || (is_field && !set.children.is_empty());
            let gone = if has(last) && !owned.is_some_and(has) {
                FieldSet::LEAF
            } else {
                walk(last, owned, tree.below(element))
            };
            (element.clone(), gone)
        });
        FieldSet::node(false, children)
    }
    walk(last, Some(owned), super::tree::Tree::of(shape, crate::shape::ListType::Default))
}

impl Entry {
    fn parse(entry: &Value) -> Option<Self> {
        let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
        if text("fieldsType") != "FieldsV1" || text("apiVersion").is_empty() {
            return None;
        }
        let fields = match entry.get("fieldsV1") {
            // The root is no path: nothing at all is in an empty set.
            None | Some(Value::Null) => FieldSet::default(),
            Some(fields) => FieldSet { member: false, ..FieldSet::parse(fields)? },
        };
        Some(Self {
            manager: text("manager").to_owned(),
            operation: match text("operation") {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return None,
            },
            api_version: text("apiVersion").to_owned(),
            time: Some(text("time")).filter(|time| !time.is_empty()).map(str::to_owned),
            subresource: text("subresource").to_owned(),
            fields,
        })
    }

    /// Whether two entries are of one manager. An applier has one entry, an
    /// updater one for each version.
    fn is(&self, other: &Self) -> bool {
        self.operation == other.operation
            && self.manager == other.manager
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }
}

/// As messages name a manager: `"kubectl-edit" using apps/v1`.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.manager)?;
        if !self.subresource.is_empty() {
            write!(f, " with subresource {:?}", self.subresource)?;
        }
        if self.operation == Operation::Update {
            write!(f, " using {}", self.api_version)?;
        }
        Ok(())
    }
}

impl Serialize for Managers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.0)
    }
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if !self.manager.is_empty() {
            map.serialize_entry("manager", &self.manager)?;
        }
        let operation = match self.operation {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        };
        map.serialize_entry("operation", operation)?;
        map.serialize_entry("apiVersion", &self.api_version)?;
        if let Some(time) = &self.time {
            map.serialize_entry("time", time)?;
        }
        map.serialize_entry("fieldsType", "FieldsV1")?;
        map.serialize_entry("fieldsV1", &self.fields)?;
        if !self.subresource.is_empty() {
            map.serialize_entry("subresource", &self.subresource)?;
        }
        map.end()
    }
}
