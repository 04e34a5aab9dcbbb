//! Compares an object with its shape: fields that the type does not have, and
//! values of the wrong type.
//!
//! The typed reader finds the same, but says neither where a wrong value is nor
//! what it left out. Asking it to would mean compiling every type's reader
//! three times over; walking the shape is a page of code for all types.

use serde_json::Value;

use super::{Element, Shape, Struct};

/// As many unknown fields as are reported; a body can have a million.
const MAX_REPORTED: usize = 100;

/// A value of the wrong type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongType {
    /// Path of the field, such as `spec.containers[0].image`.
    pub path: String,
    /// What is there, in the words of Go's decoder.
    pub got: &'static str,
    /// What should be there, in the words of Go's decoder.
    pub wanted: String,
}

/// The paths of fields that the type does not have, in order, the first
/// hundred of them.
pub fn unknown_fields(object: &Value, shape: &'static Struct) -> Vec<String> {
    let mut visit = Visit { unknown: Vec::new(), wrong: None };
    visit.value(object, Shape::Struct(shape), "");
    visit.unknown
}

/// The first value of the wrong type.
pub fn wrong_type(object: &Value, shape: &'static Struct) -> Option<WrongType> {
    let mut visit = Visit { unknown: Vec::new(), wrong: None };
    visit.value(object, Shape::Struct(shape), "");
    visit.wrong
}

struct Visit {
    unknown: Vec<String>,
    wrong: Option<WrongType>,
}

impl Visit {
    fn value(&mut self, value: &Value, shape: Shape, path: &str) {
        match (shape, value) {
            // A null is a value that is left out; anything goes where anything is known.
            (_, Value::Null) | (Shape::Any, _) => {}
            (Shape::Struct(shape), Value::Object(map)) => {
                for (name, value) in map {
                    match shape.field(name) {
                        Some(field) => self.value(value, field.shape(), &join(path, name)),
                        None if self.unknown.len() < MAX_REPORTED => {
                            self.unknown.push(join(path, name))
                        }
                        None => {}
                    }
                }
            }
            (Shape::List(item), Value::Array(items)) => {
                for (at, value) in items.iter().enumerate() {
                    self.value(value, item.shape(), &format!("{path}[{at}]"));
                }
            }
            (Shape::Map(item), Value::Object(map)) => {
                for (key, value) in map {
                    self.value(value, item.shape(), &join(path, key));
                }
            }
            (shape, value) if fits(shape, value) => {}
            (shape, value) => {
                self.wrong.get_or_insert_with(|| WrongType {
                    path: path.to_owned(),
                    got: go_value(value),
                    wanted: go_type(shape),
                });
            }
        }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Whether a plain value can be of this shape.
fn fits(shape: Shape, value: &Value) -> bool {
    match shape {
        Shape::String | Shape::Bytes | Shape::Time | Shape::MicroTime => value.is_string(),
        Shape::Bool => value.is_boolean(),
        Shape::Int32 => value.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
        Shape::Int64 => value.is_i64(),
        Shape::Quantity => value.is_string() || value.is_number(),
        Shape::IntOrString => value.is_string() || fits(Shape::Int32, value),
        Shape::Any => true,
        Shape::Struct(_) | Shape::List(_) | Shape::Map(_) => false,
    }
}

fn go_value(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn go_type(shape: Shape) -> String {
    let element = |element: Element| go_type(element.shape());
    match shape {
        Shape::String => "string".into(),
        Shape::Bytes => "[]uint8".into(),
        Shape::Bool => "bool".into(),
        Shape::Int32 => "int32".into(),
        Shape::Int64 => "int64".into(),
        Shape::Quantity => "resource.Quantity".into(),
        Shape::Time => "v1.Time".into(),
        Shape::MicroTime => "v1.MicroTime".into(),
        Shape::IntOrString => "intstr.IntOrString".into(),
        Shape::Any => "interface {}".into(),
        // `core.v1.PodSpec` is `v1.PodSpec` in Go.
        Shape::Struct(shape) => {
            shape.name.split_once('.').map_or(shape.name, |(_, name)| name).into()
        }
        Shape::List(item) => format!("[]{}", element(item)),
        Shape::Map(item) => format!("map[string]{}", element(item)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> &'static Struct {
        Struct::named("core.v1.Pod").unwrap()
    }

    #[test]
    fn unknown_fields_are_named_by_path() {
        let object = json!({"kind": "Pod", "spce": {}, "metadata": {"labels": {"any": "key"}}, "spec": {
            "containers": [{"name": "c"}, {"imag": "x", "ports": [{"port": 1}]}], "nodeSelector": {"a": "b"}}});
        assert_eq!(
            unknown_fields(&object, pod()),
            ["spce", "spec.containers[1].imag", "spec.containers[1].ports[0].port"]
        );
    }

    #[test]
    fn wrong_types_are_named_in_gos_words() {
        let cases = [
            (json!({"spec": {"hostNetwork": "yes"}}), "spec.hostNetwork", "string", "bool"),
            (
                json!({"spec": {"containers": [{"image": 1}]}}),
                "spec.containers[0].image",
                "number",
                "string",
            ),
            (json!({"spec": {"containers": {}}}), "spec.containers", "object", "[]v1.Container"),
            (json!({"spec": []}), "spec", "array", "v1.PodSpec"),
            (
                json!({"spec": {"nodeSelector": {"a": true}}}),
                "spec.nodeSelector.a",
                "bool",
                "string",
            ),
            (
                json!({"metadata": {"labels": "x"}}),
                "metadata.labels",
                "string",
                "map[string]string",
            ),
            (json!({"spec": {"priority": 3_000_000_000_i64}}), "spec.priority", "number", "int32"),
            (json!({"spec": {"priority": 1.5}}), "spec.priority", "number", "int32"),
        ];
        for (object, path, got, wanted) in cases {
            let expected = WrongType { path: path.into(), got, wanted: wanted.into() };
            assert_eq!(wrong_type(&object, pod()), Some(expected));
        }
        let right = json!({"spec": {"containers": [{"resources": {"limits": {"cpu": 1}},
            "livenessProbe": {"httpGet": {"port": "web"}}, "image": null}]}});
        assert_eq!(wrong_type(&right, pod()), None);
    }
}
