//! Merge patch, RFC 7386.

use serde_json::{Map, Value};

/// Applies a merge patch: objects are merged, `null` removes, everything else
/// replaces.
pub fn apply_merge(object: &mut Value, patch: &Value) {
    json_patch::merge(object, patch);
}

/// The merge patch that turns `from` into `to`; an empty object when they are
/// equal.
pub fn create_merge(from: &Value, to: &Value) -> Value {
    let (Value::Object(from), Value::Object(to)) = (from, to) else { return to.clone() };
    let mut patch = Map::new();
    for key in from.keys().filter(|key| !to.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, wanted) in to {
        match from.get(key) {
            Some(have) if have == wanted => {}
            Some(have) => _ = patch.insert(key.clone(), create_merge(have, wanted)),
            None => _ = patch.insert(key.clone(), wanted.clone()),
        }
    }
    Value::Object(patch)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_of_the_rfc() {
        let cases = [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ];
        for (mut object, patch, expected) in cases {
            apply_merge(&mut object, &patch);
            assert_eq!(object, expected, "{patch}");
        }
    }

    /// Objects without `null`, which a merge patch cannot express.
    pub(in crate::patch) fn object() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            (0..3).prop_map(Value::from),
            "[a-c]".prop_map(Value::from)
        ];
        let value = leaf.prop_recursive(3, 16, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-c]", inner, 0..3)
                    .prop_map(|map| map.into_iter().collect()),
            ]
        });
        prop::collection::btree_map("[a-d]", value, 0..4).prop_map(|map| map.into_iter().collect())
    }

    proptest! {
        #[test]
        fn what_is_created_leads_there(from in object(), to in object()) {
            let mut patched = from.clone();
            apply_merge(&mut patched, &create_merge(&from, &to));
            prop_assert_eq!(patched, to);
        }
    }
}
