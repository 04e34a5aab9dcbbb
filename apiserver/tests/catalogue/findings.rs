//! What a walk over the catalogue found wrong.

use std::fmt::Debug;

use serde_json::Value;

use crate::common::Answer;

/// Complaints about one kind.
#[derive(Default)]
pub(crate) struct Findings {
    about: String,
    complaints: Vec<String>,
}

impl Findings {
    /// From now on, complaints are about this.
    pub(crate) fn about(&mut self, what: impl Into<String>) {
        self.about = what.into();
    }

    pub(crate) fn note(&mut self, complaint: impl AsRef<str>) {
        self.complaints.push(format!("{}: {}", self.about, complaint.as_ref()));
    }

    pub(crate) fn same<T: PartialEq + Debug>(&mut self, step: &str, got: T, expected: T) {
        if got != expected {
            self.note(format!("{step}: {got:?}, expected {expected:?}"));
        }
    }

    /// The body of an answer; another code than the expected one is noted.
    pub(crate) fn code(&mut self, step: &str, answer: Answer, code: u16) -> Value {
        if answer.code != code {
            self.note(format!("{step}: {} instead of {code}: {}", answer.code, answer.body));
        }
        answer.body
    }

    /// Whether `got` holds everything that `wanted` says.
    pub(crate) fn holds(&mut self, step: &str, got: &Value, wanted: &Value) {
        if !contains(got, wanted) {
            self.note(format!("{step}: {wanted} is not in {got}"));
        }
    }

    /// Fails the test if there is anything.
    #[track_caller]
    pub(crate) fn settle(self) {
        let count = self.complaints.len();
        assert!(count == 0, "{count} findings:\n{}", self.complaints.join("\n"));
    }
}

/// Whether every field of `wanted` is in `got`; lists are compared by place,
/// and null or an empty list means absent.
pub(crate) fn contains(got: &Value, wanted: &Value) -> bool {
    match (got, wanted) {
        (Value::Object(got), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| match got.get(key) {
                Some(found) => contains(found, value),
                None => value.is_null() || value == &Value::Array(Vec::new()),
            })
        }
        (Value::Array(got), Value::Array(wanted)) => {
            got.len() == wanted.len() && got.iter().zip(wanted).all(|(g, w)| contains(g, w))
        }
        _ => got == wanted,
    }
}
