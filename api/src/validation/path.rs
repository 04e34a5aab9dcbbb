//! The two nouns every rule is written with: the [`Path`] of a field and the
//! [`Errors`] found so far.
//!
//! A path is a chain of borrowed steps that is only turned into text when a
//! rule is broken, so checking a valid object allocates nothing for it.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;
use serde_json::Value;

use crate::catalogue::{FieldError, FieldReason};

/// Detail of every error about a field that may not change.
pub const IMMUTABLE: &str = "field is immutable";

/// Where a value sits in its object, such as `spec.containers[0].name`.
#[derive(Clone, Copy)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// The path of a top-level field. Dots reach deeper: `spec.template`.
    pub const fn root(field: &'a str) -> Self {
        Path { parent: None, step: Step::Field(field) }
    }

    /// The path of a field of this one. Dots reach deeper.
    pub const fn child(&'a self, field: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Field(field) }
    }

    /// The path of an element of a list.
    pub const fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), step: Step::Index(index) }
    }

    /// The path of an entry of a map.
    pub const fn key(&'a self, key: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Key(key) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            write!(f, "{parent}")?;
        }
        match self.step {
            Step::Field(field) if self.parent.is_some() => write!(f, ".{field}"),
            Step::Field(field) => f.write_str(field),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// Collects every broken rule of one object.
#[derive(Debug, Default)]
pub struct Errors {
    found: Vec<FieldError>,
}

impl Errors {
    /// No errors yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The errors, in the order they were found.
    pub fn into_vec(self) -> Vec<FieldError> {
        self.found
    }

    /// Whether nothing has been found yet.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// How many errors have been found, to notice later whether more came.
    pub fn len(&self) -> usize {
        self.found.len()
    }

    fn push(&mut self, path: &Path<'_>, reason: FieldReason, value: Value, detail: String) {
        self.found.push(FieldError { field: path.to_string(), reason, value, detail });
    }

    /// The field has to be there.
    pub fn required(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.push(path, FieldReason::Required, Value::Null, detail.into());
    }

    /// The value breaks a rule of its format or range.
    pub fn invalid(&mut self, path: &Path<'_>, value: impl Into<Value>, detail: impl Into<String>) {
        self.push(path, FieldReason::Invalid, value.into(), detail.into());
    }

    /// As [`Errors::invalid`], once for each message.
    pub fn invalid_each(&mut self, path: &Path<'_>, value: &str, messages: Vec<String>) {
        for message in messages {
            self.invalid(path, value, message);
        }
    }

    /// The value names something that is not there.
    pub fn not_found(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.push(path, FieldReason::NotFound, value.into(), String::new());
    }

    /// The value occurs twice where it must be unique.
    pub fn duplicate(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.push(path, FieldReason::Duplicate, value.into(), String::new());
    }

    /// The value is none of the `supported` ones.
    pub fn not_supported(&mut self, path: &Path<'_>, value: impl Into<Value>, supported: &[&str]) {
        let mut names: Vec<String> = supported.iter().map(|name| format!("{name:?}")).collect();
        names.sort();
        let detail = format!("supported values: {}", names.join(", "));
        self.push(path, FieldReason::NotSupported, value.into(), detail);
    }

    /// The field may not be set, or not be changed so.
    pub fn forbidden(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.push(path, FieldReason::Forbidden, Value::Null, detail.into());
    }

    /// The value has more than `max` bytes.
    pub fn too_long(&mut self, path: &Path<'_>, max: usize) {
        let detail = format!("may not be more than {max} bytes");
        self.push(path, FieldReason::TooLong, Value::Null, detail);
    }

    /// The list has `actual` elements, more than `max`.
    pub fn too_many(&mut self, path: &Path<'_>, actual: usize, max: usize) {
        let detail = format!("must have at most {max} items");
        self.push(path, FieldReason::TooMany, actual.into(), detail);
    }

    /// Refuses a `value` that is set but none of `supported`.
    pub fn one_of(&mut self, path: &Path<'_>, value: Option<&str>, supported: &[&str]) {
        if let Some(value) = value
            && !supported.contains(&value)
        {
            self.not_supported(path, value, supported);
        }
    }

    /// Refuses a missing or empty `value`, and one that is none of `supported`.
    pub fn required_one_of(&mut self, path: &Path<'_>, value: Option<&str>, supported: &[&str]) {
        match value {
            None | Some("") => self.required(path, ""),
            set => self.one_of(path, set, supported),
        }
    }

    /// Refuses a number below zero.
    pub fn non_negative(&mut self, path: &Path<'_>, value: impl Into<i64>) {
        let value = value.into();
        if value < 0 {
            self.invalid(path, value, "must be greater than or equal to 0");
        }
    }

    /// Refuses those of the counts in the fields of `path` that are below zero;
    /// a missing one is zero.
    pub fn counts(&mut self, path: &Path<'_>, fields: &[(&str, Option<i32>)]) {
        for (field, count) in fields {
            self.non_negative(&path.child(field), count.unwrap_or_default());
        }
    }

    /// Refuses a number outside `min..=max`.
    pub fn in_range(&mut self, path: &Path<'_>, value: impl Into<i64>, min: i64, max: i64) {
        let value = value.into();
        if !(min..=max).contains(&value) {
            self.invalid(path, value, format!("must be between {min} and {max}, inclusive"));
        }
    }

    /// Refuses a change.
    pub fn immutable<T: Serialize + PartialEq>(&mut self, path: &Path<'_>, new: &T, old: &T) {
        if new != old {
            self.invalid(path, json(new), IMMUTABLE);
        }
    }
}

/// A typed value as the JSON that an error shows. Types of the Kubernetes API
/// always have a JSON form; were one to fail, the error would show `null`.
pub fn json<T: Serialize + ?Sized>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

/// The text of an optional string, empty when there is none: the API makes no
/// difference between the two.
pub fn text(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or_default()
}

/// The elements of an optional list: a missing list is an empty one.
pub fn list<T>(value: &Option<Vec<T>>) -> &[T] {
    value.as_deref().unwrap_or_default()
}

/// A part of an object that may be missing, which says the same as an empty one.
pub fn or_default<T: Default + Clone>(part: &Option<T>) -> Cow<'_, T> {
    match part {
        Some(part) => Cow::Borrowed(part),
        None => Cow::Owned(T::default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_print_like_upstream() {
        let spec = Path::root("spec");
        let containers = spec.child("template.spec.containers");
        let first = containers.index(0);
        assert_eq!(first.child("name").to_string(), "spec.template.spec.containers[0].name");
        assert_eq!(
            Path::root("data").key("a.b").to_string(),
            "data[a.b]",
            "map keys stand in brackets"
        );
    }

    #[test]
    fn supported_values_are_quoted_and_sorted() {
        let mut errors = Errors::new();
        errors.one_of(&Path::root("spec.type"), Some("X"), &["NodePort", "ClusterIP"]);
        let found = errors.into_vec();
        assert_eq!(found[0].detail, r#"supported values: "ClusterIP", "NodePort""#);
        assert_eq!(found[0].value, "X");
    }
}
