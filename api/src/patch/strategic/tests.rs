//! Tables of objects and patches, and a property over any of them.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn pod() -> &'static Struct {
    Struct::named("core.v1.Pod").unwrap()
}

#[test]
fn merges_as_the_types_say() {
    let cases = [
        (
            "containers by name",
            json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b"}]}}),
            json!({"spec": {"containers": [{"name": "a", "image": "2"}, {"name": "c"}]}}),
            json!({"spec": {"containers": [{"name": "a", "image": "2"}, {"name": "c"}, {"name": "b"}]}}),
        ),
        (
            "an item is deleted",
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
            json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}),
            json!({"spec": {"containers": [{"name": "b"}]}}),
        ),
        (
            "a list is replaced on demand",
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
            json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "c"}]}}),
            json!({"spec": {"containers": [{"name": "c"}]}}),
        ),
        (
            "tolerations are atomic",
            json!({"spec": {"tolerations": [{"key": "a"}, {"key": "b"}]}}),
            json!({"spec": {"tolerations": [{"key": "c"}]}}),
            json!({"spec": {"tolerations": [{"key": "c"}]}}),
        ),
        (
            "finalizers are a set",
            json!({"metadata": {"finalizers": ["a", "b"]}}),
            json!({"metadata": {"finalizers": ["b", "c"]}}),
            json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
        ),
        (
            "values are taken out",
            json!({"metadata": {"finalizers": ["a", "b"]}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a", "x"]}}),
            json!({"metadata": {"finalizers": ["b"]}}),
        ),
        (
            "an order is set",
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}}),
            json!({"spec": {
                "$setElementOrder/containers": [{"name": "c"}, {"name": "a"}],
                "containers": [{"name": "c", "image": "x"}],
            }}),
            json!({"spec": {"containers": [{"name": "b"}, {"name": "c", "image": "x"}, {"name": "a"}]}}),
        ),
        (
            "labels by key",
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
            json!({"metadata": {"labels": {"a": null, "c": "3", "d": null}}}),
            json!({"metadata": {"labels": {"b": "2", "c": "3"}}}),
        ),
        (
            "a map is replaced on demand",
            json!({"metadata": {"labels": {"a": "1"}}}),
            json!({"metadata": {"labels": {"$patch": "replace", "c": "3"}}}),
            json!({"metadata": {"labels": {"c": "3"}}}),
        ),
        (
            "a map is emptied",
            json!({"metadata": {"labels": {"a": "1"}}}),
            json!({"metadata": {"labels": {"$patch": "delete"}}}),
            json!({"metadata": {"labels": {}}}),
        ),
        (
            "a volume changes its source",
            json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
            json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "secret"], "secret": {"secretName": "s"}}]}}),
            json!({"spec": {"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}}),
        ),
        (
            "directives do not get into new values",
            json!({"spec": {}}),
            json!({"spec": {"containers": [
                {"name": "gone", "$patch": "delete"},
                {"name": "a", "image": null, "$setElementOrder/env": [], "securityContext": {"$retainKeys": []}},
            ]}}),
            json!({"spec": {"containers": [{"name": "a", "securityContext": {}}]}}),
        ),
    ];
    for (name, mut object, patch, expected) in cases {
        apply_strategic(&mut object, &patch, pod()).unwrap_or_else(|err| panic!("{name}: {err}"));
        assert_eq!(object, expected, "{name}");
    }
}

#[test]
fn refusals() {
    let cases = [
        (json!([]), "must be an object"),
        (json!({"$patch": "grow"}), "unknown patch type"),
        (
            json!({"spec": {"containers": [{"image": "x"}]}}),
            "does not contain declared merge key: name",
        ),
        (json!({"spec": {"containers": [{"$patch": "merge", "name": "a"}]}}), "unknown patch type"),
        (json!({"spec": {"$retainKeys": "a"}}), "must be a list"),
        (json!({"spec": {"$retainKeys": ["b"], "a": 1}}), "not in $retainKeys"),
        (
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a"}]}}),
            "is not in",
        ),
        (json!({"spec": {"$setElementOrder/containers": 1}}), "must be a list"),
        (json!({"metadata": {"$deleteFromPrimitiveList/finalizers": "a"}}), "must be a list"),
    ];
    for (patch, expected) in cases {
        let mut object = json!({"metadata": {}, "spec": {"containers": [{"name": "a"}]}});
        let err = apply_strategic(&mut object, &patch, pod()).unwrap_err().to_string();
        assert!(err.contains(expected), "{patch}: {err}");
    }
}

/// Patches and pods made of the words that mean something here.
fn anything() -> impl Strategy<Value = Value> {
    const KEYS: [&str; 10] = [
        "spec",
        "metadata",
        "containers",
        "finalizers",
        "name",
        "$patch",
        "$retainKeys",
        "$setElementOrder/containers",
        "$setElementOrder/finalizers",
        "$deleteFromPrimitiveList/finalizers",
    ];
    let word = prop::sample::select(vec!["a", "b", "delete", "replace", "merge", "name"]);
    let leaf =
        prop_oneof![Just(Value::Null), word.prop_map(Value::from), (0..2).prop_map(Value::from)];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let entry = (prop::sample::select(KEYS.to_vec()), inner.clone());
        let map = prop::collection::vec(entry, 0..5);
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Value::from),
            map.prop_map(|map| map
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect()),
        ]
    })
}

proptest! {
    #[test]
    fn any_patch_is_carried_out_or_refused(mut object in anything(), patch in anything()) {
        // A refusal is as good as a result; a panic is neither.
        let _ = apply_strategic(&mut object, &patch, pod());
    }

    #[test]
    fn a_patch_applied_twice_changes_nothing_more(patch in anything()) {
        let mut once = json!({"metadata": {"finalizers": ["a"]}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        if apply_strategic(&mut once, &patch, pod()).is_ok() {
            let mut twice = once.clone();
            // A wrong directive shows only where there is something to merge.
            if apply_strategic(&mut twice, &patch, pod()).is_ok() {
                prop_assert_eq!(twice, once);
            }
        }
    }
}

#[test]
fn a_disruption_budget_replaces_its_selector() {
    let budget = Struct::named("policy.v1.PodDisruptionBudget").unwrap();
    let mut object = json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}});
    apply_strategic(
        &mut object,
        &json!({"spec": {"selector": {"matchLabels": {"c": "d"}}}}),
        budget,
    )
    .unwrap();
    assert_eq!(object, json!({"spec": {"selector": {"matchLabels": {"c": "d"}}}}));
}
