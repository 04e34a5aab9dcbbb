//! Columns and rows of `kubectl get`, after upstream's printers.
//!
//! One [`Printer`] per kind. Cells are read from the stored JSON directly: a
//! list of ten thousand pods is printed without building ten thousand pods.

mod access;
mod admission;
mod cluster;
mod network;
mod pod;
mod registration;
mod storage;
mod time;
mod workload;

use serde_json::Value;

use crate::catalogue::Column;

pub(crate) use access::*;
pub(crate) use admission::*;
pub(crate) use cluster::*;
pub(crate) use network::*;
pub(crate) use pod::*;
pub(crate) use registration::*;
pub(crate) use storage::*;
pub use time::human_duration;
use time::{age, since};
pub use workload::SCALE;
pub(crate) use workload::*;

/// How a kind is printed.
pub struct Printer {
    /// The columns, narrow and wide.
    pub columns: &'static [Column],
    /// One row under those columns. The timestamp serves the ages.
    pub row: fn(&Value, jiff::Timestamp) -> Vec<Value>,
}

/// Name and age, for kinds without columns of their own.
pub static NAME_AND_AGE: Printer =
    Printer { columns: &[NAME, AGE], row: |object, now| vec![name(object), age(object, now)] };

/// Name and time of creation.
pub(crate) static NAME_AND_CREATION: Printer = Printer {
    columns: &[NAME, column("Created At", "date", 0, "When the object was created.")],
    row: |object, _| vec![name(object), object["metadata"]["creationTimestamp"].clone()],
};

const NAME: Column = Column {
    name: "Name",
    r#type: "string",
    format: "name",
    priority: 0,
    description: "Name of the object, unique among its kind in a namespace.",
};
const AGE: Column = text("Age", "Time since the object was created.");

const fn column(
    name: &'static str,
    r#type: &'static str,
    priority: i32,
    description: &'static str,
) -> Column {
    Column { name, r#type, format: "", priority, description }
}

const fn text(name: &'static str, description: &'static str) -> Column {
    column(name, "string", 0, description)
}

const fn integer(name: &'static str, description: &'static str) -> Column {
    column(name, "integer", 0, description)
}

/// A text column that only `-o wide` shows.
const fn wide(name: &'static str, description: &'static str) -> Column {
    column(name, "string", 1, description)
}

const NONE: &str = "<none>";
const UNSET: &str = "<unset>";

fn name(object: &Value) -> Value {
    object["metadata"]["name"].clone()
}

/// A text field, or `otherwise` where it is missing or empty.
fn text_or<'a>(value: &'a Value, otherwise: &'a str) -> &'a str {
    value.as_str().filter(|text| !text.is_empty()).unwrap_or(otherwise)
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// The items of a list; none if it is not there.
fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// `a=b,c=d` of a map of labels.
fn labels(map: &Value) -> String {
    let pairs = map.as_object().into_iter().flatten();
    let mut pairs: Vec<String> =
        pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    pairs.sort_unstable();
    if pairs.is_empty() { NONE.to_owned() } else { pairs.join(",") }
}

/// The text form of a label selector object.
fn selector(object: &Value) -> String {
    if object.is_null() {
        return NONE.to_owned();
    }
    match crate::selector::LabelSelector::from_value(object) {
        Ok(selector) if selector.is_empty() => NONE.to_owned(),
        Ok(selector) => selector.to_string(),
        Err(_) => "<error>".to_owned(),
    }
}

/// At most `max` of the parts, then how many more there are.
fn some_of(parts: &[String], max: usize, empty: &str) -> String {
    let shown = parts[..parts.len().min(max)].join(",");
    match parts.len() {
        0 => empty.to_owned(),
        count if count > max => format!("{shown} + {} more...", count - max),
        _ => shown,
    }
}

/// A condition of an object by type.
fn condition<'a>(object: &'a Value, r#type: &str) -> Option<&'a Value> {
    items(&object["status"]["conditions"]).iter().find(|condition| condition["type"] == r#type)
}

/// Whether a condition is `True`.
fn holds(object: &Value, r#type: &str) -> bool {
    condition(object, r#type).is_some_and(|condition| condition["status"] == "True")
}

#[cfg(test)]
mod tests;
