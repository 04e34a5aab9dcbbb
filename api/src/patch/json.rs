//! JSON patch, RFC 6902, by the `json-patch` crate, within bounds.
//!
//! Operations are applied one by one, because `copy` can double a document
//! each time: ten thousand of them would outgrow any memory.

use json_patch::{Patch, PatchOperation, jsonptr::Pointer};
use serde_json::Value;

use super::PatchError;

/// As many operations as upstream takes.
pub const MAX_OPERATIONS: usize = 10_000;
/// Bytes that all `copy` operations of a patch may add up to.
const MAX_COPIED: usize = 3 << 20;
/// Values that all operations of a patch may look at or push aside: moves have
/// to measure what they move, and a list makes room for what comes in front.
const MAX_TOUCHED: usize = 2_000_000;
/// Levels of nesting that a patch may lead to. Twice what a parsed document
/// has, and far from what recursion over a document can take.
const MAX_DEPTH: usize = 256;

/// Applies a JSON patch. On an error the object is left half patched and must
/// be dropped.
pub fn apply_json(object: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let count = patch.as_array().map_or(0, Vec::len);
    if count > MAX_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {count}"
        )));
    }
    let Patch(operations) = serde::Deserialize::deserialize(patch)
        .map_err(|err| PatchError::Malformed(format!("error decoding JSON patch: {err}")))?;
    let mut spent = Spent::default();
    for operation in operations {
        spent.touched += shifted(object, &operation);
        check(object, &operation, &mut spent)?;
        if spent.touched > MAX_TOUCHED {
            return Err(PatchError::TooLarge(
                "the operations of the JSON patch move too much".to_owned(),
            ));
        }
        if tests_absence(object, &operation) {
            continue;
        }
        json_patch::patch(object, &[operation])
            .map_err(|err| PatchError::Unprocessable(format!("JSON patch: {err}")))?;
    }
    Ok(())
}

/// Whether an operation says that a field is null which is not there. Upstream
/// takes that for true, and clients add their first finalizer so.
fn tests_absence(object: &Value, operation: &PatchOperation) -> bool {
    let PatchOperation::Test(test) = operation else { return false };
    let Some((parent, _)) = test.path.split_back() else { return false };
    test.value.is_null() && test.path.resolve(object).is_err() && parent.resolve(object).is_ok()
}

/// What the operations of a patch have cost so far.
#[derive(Default)]
struct Spent {
    /// Bytes copied.
    copied: usize,
    /// Values looked at or pushed aside.
    touched: usize,
}

/// How many items of a list an operation pushes aside.
fn shifted(object: &Value, operation: &PatchOperation) -> usize {
    let behind = |at: &Pointer| {
        let Some((list, index)) = at.split_back() else { return 0 };
        let Ok(Value::Array(items)) = list.resolve(object) else { return 0 };
        let index = index.decoded().parse().unwrap_or(items.len());
        items.len().saturating_sub(index)
    };
    match operation {
        PatchOperation::Add(add) => behind(&add.path),
        PatchOperation::Remove(remove) => behind(&remove.path),
        PatchOperation::Copy(copy) => behind(&copy.path),
        PatchOperation::Move(r#move) => behind(&r#move.from) + behind(&r#move.path),
        PatchOperation::Replace(_) | PatchOperation::Test(_) => 0,
    }
}

fn check(object: &Value, operation: &PatchOperation, spent: &mut Spent) -> Result<(), PatchError> {
    let deep = |at: &Pointer, value: &Value| at.count() + depth(value) > MAX_DEPTH;
    let too_deep = match operation {
        PatchOperation::Add(add) => deep(&add.path, &add.value),
        PatchOperation::Replace(replace) => deep(&replace.path, &replace.value),
        PatchOperation::Move(r#move) => {
            let Ok(value) = r#move.from.resolve(object) else { return Ok(()) };
            spent.touched += count(value);
            deep(&r#move.path, value)
        }
        PatchOperation::Copy(copy) => {
            let Ok(value) = copy.from.resolve(object) else { return Ok(()) };
            spent.copied += size(value);
            if spent.copied > MAX_COPIED {
                return Err(PatchError::TooLarge(format!(
                    "the copy operations of the JSON patch exceed {MAX_COPIED} bytes"
                )));
            }
            deep(&copy.path, value)
        }
        PatchOperation::Remove(_) | PatchOperation::Test(_) => false,
    };
    if too_deep {
        return Err(PatchError::TooLarge(format!(
            "the JSON patch nests deeper than {MAX_DEPTH} levels"
        )));
    }
    Ok(())
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn count(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(count).sum::<usize>(),
        Value::Object(map) => 1 + map.values().map(count).sum::<usize>(),
        _ => 1,
    }
}

/// About as many bytes as the value has in JSON.
fn size(value: &Value) -> usize {
    match value {
        Value::Array(items) => 2 + items.iter().map(|item| 1 + size(item)).sum::<usize>(),
        Value::Object(map) => {
            2 + map.iter().map(|(key, value)| key.len() + 4 + size(value)).sum::<usize>()
        }
        Value::String(text) => 2 + text.len(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 5,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn operations() {
        let mut object = json!({"a": {"b": [1, 2]}, "gone": true});
        let patch = json!([
            {"op": "test", "path": "/a/b/0", "value": 1},
            {"op": "add", "path": "/a/b/-", "value": 3},
            {"op": "replace", "path": "/a/b/0", "value": 0},
            {"op": "remove", "path": "/gone"},
            {"op": "copy", "from": "/a/b", "path": "/c"},
            {"op": "move", "from": "/a", "path": "/d~1e"},
        ]);
        apply_json(&mut object, &patch).unwrap();
        assert_eq!(object, json!({"c": [0, 2, 3], "d/e": {"b": [0, 2, 3]}}));
        let absent = |path: &str| json!([{"op": "test", "path": path, "value": null}]);
        apply_json(&mut object, &absent("/finalizers")).unwrap();
        apply_json(&mut object, &absent("/no/parent")).unwrap_err();
        apply_json(&mut object, &absent("/c")).unwrap_err();
    }

    #[test]
    fn refusals() {
        let many: Vec<Value> = vec![json!({"op": "remove", "path": "/a"}); MAX_OPERATIONS + 1];
        let doubling: Vec<Value> =
            (0..100).map(|n| json!({"op": "copy", "from": "", "path": format!("/k{n}")})).collect();
        let nesting: Vec<Value> = (0..100)
            .flat_map(|_| {
                [
                    json!({"op": "copy", "from": "/a", "path": "/b"}),
                    json!({"op": "move", "from": "/b", "path": "/a/a"}),
                ]
            })
            .collect();
        let shifting = vec![json!({"op": "add", "path": "/long/0", "value": 1}); 1000];
        let moving: Vec<Value> = (0..1000)
            .map(|turn| match turn % 2 {
                0 => json!({"op": "move", "from": "/long", "path": "/short"}),
                _ => json!({"op": "move", "from": "/short", "path": "/long"}),
            })
            .collect();
        let cases = [
            (json!({}), "Malformed"),
            (json!([{"op": "grow", "path": "/a"}]), "Malformed"),
            (json!([{"op": "remove", "path": "/missing"}]), "Unprocessable"),
            (json!([{"op": "test", "path": "/a", "value": 2}]), "Unprocessable"),
            (json!(many), "TooLarge"),
            (json!(doubling), "TooLarge"),
            (json!(nesting), ""),
            (json!(shifting), "TooLarge"),
            (json!(moving), "TooLarge"),
        ];
        for (patch, variant) in cases {
            let mut object = json!({"a": {"x": 1}, "long": vec![0; 100_000]});
            match apply_json(&mut object, &patch) {
                Err(err) => assert!(format!("{err:?}").starts_with(variant), "{err:?}"),
                Ok(()) => assert_eq!(variant, ""),
            }
            assert!(depth(&object) <= MAX_DEPTH);
        }
    }
}
