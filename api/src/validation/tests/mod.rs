//! Tables over whole objects: a minimal one that is accepted, then one change
//! at a time with the errors it must give. Objects are defaulted first, as
//! they are in the API server.

mod admission;
mod batch;
mod cluster;
mod config;
mod devices;
mod manifests;
mod network;
mod pod;
mod pod_updates;
mod policy;
mod service;
mod storage;
mod workload;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::catalogue::{FieldError, Part};

/// A change: where (a JSON pointer; `-` appends), what (`null` removes), and
/// the errors that follow, each the beginning of `path: Reason: detail`.
type Case<'a> = (&'a str, Value, &'a [&'a str]);

type Update<T> = fn(&T, &T, Part) -> Vec<FieldError>;

/// A kind under test.
struct Kind<T> {
    minimal: Value,
    default: fn(&mut T),
    create: fn(&T) -> Vec<FieldError>,
    update: Option<Update<T>>,
}

impl<T: DeserializeOwned> Kind<T> {
    fn read(&self, changes: &[(&str, Value)]) -> T {
        let mut object = self.minimal.clone();
        for (pointer, value) in changes {
            set(&mut object, pointer, value.clone());
        }
        let mut typed = serde_json::from_value(object).unwrap();
        (self.default)(&mut typed);
        typed
    }

    /// The minimal object passes; with each change it gives just these errors.
    fn creates(&self, cases: &[Case<'_>]) {
        assert_lines("the minimal object", &(self.create)(&self.read(&[])), &[]);
        for (pointer, value, expected) in cases {
            let object = self.read(&[(pointer, value.clone())]);
            assert_lines(&format!("{pointer} = {value}"), &(self.create)(&object), expected);
        }
    }

    /// Several changes at once give all their errors.
    fn creates_with(&self, changes: &[(&str, Value)], expected: &[&str]) {
        let object = self.read(changes);
        assert_lines(&format!("{changes:?}"), &(self.create)(&object), expected);
    }

    /// Each change to the minimal object gives just these errors.
    fn updates(&self, part: Part, cases: &[Case<'_>]) {
        self.updates_from(&[], part, cases);
    }

    /// As [`Kind::updates`], the old object being the minimal one so changed.
    fn updates_from(&self, old: &[(&str, Value)], part: Part, cases: &[Case<'_>]) {
        let update = self.update.unwrap();
        let before = self.read(old);
        for (pointer, value, expected) in cases {
            let mut changes = old.to_vec();
            changes.push((*pointer, value.clone()));
            let errors = update(&self.read(&changes), &before, part);
            assert_lines(&format!("{pointer} = {value}"), &errors, expected);
        }
    }
}

fn set(object: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let key = key.replace("~1", "/");
    match object.pointer_mut(parent).unwrap_or_else(|| panic!("no {parent}")) {
        Value::Array(list) if key == "-" => list.push(value),
        Value::Array(list) => {
            let index: usize = key.parse().unwrap();
            if value.is_null() {
                list.remove(index);
            } else {
                list[index] = value;
            }
        }
        Value::Object(map) if value.is_null() => {
            map.remove(&key);
        }
        Value::Object(map) => {
            map.insert(key, value);
        }
        other => panic!("{parent} is {other}"),
    }
}

fn assert_lines(what: &str, errors: &[FieldError], expected: &[&str]) {
    let mut lines: Vec<String> = errors
        .iter()
        .map(|error| format!("{}: {:?}: {}", error.field, error.reason, error.detail))
        .collect();
    lines.sort();
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    let same = lines.len() == expected.len()
        && lines.iter().zip(&expected).all(|(line, start)| line.starts_with(start));
    assert!(same, "{what}\n got: {lines:#?}\n want: {expected:#?}");
}
