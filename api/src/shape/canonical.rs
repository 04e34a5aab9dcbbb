//! The canonical form of an object: what upstream's round trip through its own
//! types does to the text of values.
//!
//! Quantities take their shortest spelling (`1000m` becomes `1`), and optional
//! lists and maps that are empty are left out, as Go's `omitempty` does. Empty
//! objects stay: `emptyDir: {}` and `podSelector: {}` mean something.

use serde_json::Value;

use super::{Shape, Struct};
use crate::quantity::Quantity;

/// Puts an object of the given type into canonical form. Text that is not a
/// quantity where one should be is refused with its path.
pub fn canonicalize(object: &mut Value, shape: &'static Struct) -> Result<(), String> {
    walk_struct(object, shape).map_err(|(path, message)| format!("{path}: {message}"))
}

/// Puts the zero value in place of each `null` among a list's items and a map's
/// values, which is how upstream reads them: `labels: {a: null}` is an empty
/// label. Returns whether there was any.
pub fn fill_nulls(object: &mut Value, shape: &'static Struct) -> bool {
    fill(object, Shape::Struct(shape))
}

fn fill(value: &mut Value, shape: Shape) -> bool {
    let mut found = false;
    let mut inner = |value: &mut Value, shape: Shape| {
        if value.is_null() {
            *value = zero(shape);
            found |= !value.is_null();
        } else {
            found |= fill(value, shape);
        }
    };
    match (shape, value) {
        (Shape::Struct(shape), Value::Object(map)) => {
            for (name, value) in map.iter_mut() {
                // A field that is null is a field that is left out.
                if let Some(field) = shape.field(name).filter(|_| !value.is_null()) {
                    inner(value, field.shape());
                }
            }
        }
        (Shape::List(item), Value::Array(items)) => {
            items.iter_mut().for_each(|value| inner(value, item.shape()))
        }
        (Shape::Map(item), Value::Object(map)) => {
            map.values_mut().for_each(|value| inner(value, item.shape()))
        }
        _ => {}
    }
    found
}

fn zero(shape: Shape) -> Value {
    match shape {
        Shape::String | Shape::Bytes => "".into(),
        Shape::Quantity => "0".into(),
        Shape::Bool => false.into(),
        Shape::Int32 | Shape::Int64 | Shape::IntOrString => 0.into(),
        Shape::Struct(_) | Shape::Map(_) => Value::Object(serde_json::Map::new()),
        Shape::List(_) => Value::Array(Vec::new()),
        Shape::Time | Shape::MicroTime | Shape::Any => Value::Null,
    }
}

type Refusal = (String, String);

fn walk_struct(value: &mut Value, shape: &'static Struct) -> Result<(), Refusal> {
    let Value::Object(map) = value else { return Ok(()) };
    let mut failed = None;
    map.retain(|name, value| {
        let Some(field) = shape.field(name) else { return true };
        let shape = field.shape();
        if let Err((path, message)) = walk(value, shape) {
            let dot = if path.is_empty() || path.starts_with('[') { "" } else { "." };
            failed.get_or_insert((format!("{name}{dot}{path}"), message));
        }
        field.required || !is_empty(value, shape)
    });
    failed.map_or(Ok(()), Err)
}

fn walk(value: &mut Value, shape: Shape) -> Result<(), Refusal> {
    match (shape, value) {
        (Shape::Struct(shape), value) => walk_struct(value, shape),
        (Shape::List(item), Value::Array(items)) => {
            let shape = item.shape();
            if is_plain(shape) {
                return Ok(());
            }
            for (index, item) in items.iter_mut().enumerate() {
                walk(item, shape).map_err(|(path, message)| {
                    let dot = if path.is_empty() || path.starts_with('[') { "" } else { "." };
                    (format!("[{index}]{dot}{path}"), message)
                })?;
            }
            Ok(())
        }
        (Shape::Map(value), Value::Object(map)) => {
            let shape = value.shape();
            if is_plain(shape) {
                return Ok(());
            }
            for (key, value) in map {
                walk(value, shape).map_err(|(path, message)| (format!("{key}{path}"), message))?;
            }
            Ok(())
        }
        (Shape::Quantity, Value::String(text)) => {
            let quantity: Quantity =
                text.parse().map_err(|err| (String::new(), format!("{err}")))?;
            let canonical = quantity.to_string();
            if *text != canonical {
                *text = canonical;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Shapes whose values have one spelling only.
fn is_plain(shape: Shape) -> bool {
    !matches!(shape, Shape::Struct(_) | Shape::List(_) | Shape::Map(_) | Shape::Quantity)
}

fn is_empty(value: &Value, shape: Shape) -> bool {
    match (shape, value) {
        (Shape::List(_), Value::Array(items)) => items.is_empty(),
        (Shape::Map(_), Value::Object(map)) => map.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn spells_quantities_and_drops_empty_lists() {
        let mut pod = json!({
            "metadata": {"labels": {}, "name": "p"},
            "spec": {
                "containers": [{"name": "c", "args": [], "resources": {"limits": {"cpu": "1000m", "memory": "1024Mi"}}}],
                "volumes": [{"name": "v", "emptyDir": {}}, {"name": "m", "emptyDir": {"sizeLimit": "1.5Gi"}}],
                "tolerations": [],
            },
        });
        canonicalize(&mut pod, Struct::named("core.v1.Pod").unwrap()).unwrap();
        let expected = json!({
            "metadata": {"name": "p"},
            "spec": {
                "containers": [{"name": "c", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}],
                "volumes": [{"name": "v", "emptyDir": {}}, {"name": "m", "emptyDir": {"sizeLimit": "1536Mi"}}],
            },
        });
        assert_eq!(pod, expected);
    }

    #[test]
    fn names_the_path_of_a_bad_quantity() {
        let mut pod = json!({"spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1x"}}}]}});
        let err = canonicalize(&mut pod, Struct::named("core.v1.Pod").unwrap()).unwrap_err();
        assert!(
            err.starts_with("spec.containers[0].resources.limits.cpu: quantities must match"),
            "{err}"
        );
    }
}
