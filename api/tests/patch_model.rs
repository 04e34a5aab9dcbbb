//! Patches against a model that is too simple to be wrong: an object as a
//! plain table of fields.
//!
//! The real thing merges nested objects and keyed lists by the types'
//! directives; the model knows none of that. Where the two agree on random
//! objects, nesting and lists are carried out as what they stand for.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};
use skiff_api::patch::{apply_json, apply_merge, apply_strategic, create_merge, three_way};
use skiff_api::shape::Struct;

/// Fields by their place: `label/a`, `env/c/A`, `port/c/80`.
type Table = BTreeMap<String, String>;

/// A pod with these fields. Containers are there as soon as one of their
/// fields is.
fn pod(table: &Table) -> Value {
    let mut pod = json!({ "metadata": { "labels": {} }, "spec": { "containers": [] } });
    for (place, value) in table {
        let mut parts = place.split('/');
        let (kind, name) = (parts.next().unwrap(), parts.next().unwrap());
        if kind == "label" {
            pod["metadata"]["labels"][name] = json!(value);
            continue;
        }
        let containers = pod["spec"]["containers"].as_array_mut().unwrap();
        let at = containers.iter().position(|container| container["name"] == name);
        let at = at.unwrap_or_else(|| {
            containers.push(json!({ "name": name, "env": [] }));
            containers.len() - 1
        });
        let container = &mut containers[at];
        match kind {
            "env" => {
                let item = json!({ "name": parts.next().unwrap(), "value": value });
                container["env"].as_array_mut().unwrap().push(item);
            }
            _ => container[kind] = json!(value),
        }
    }
    pod
}

/// The fields of a pod.
fn table(pod: &Value) -> Table {
    let mut table = Table::new();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for (name, value) in pod["metadata"]["labels"].as_object().into_iter().flatten() {
        table.insert(format!("label/{name}"), text(value));
    }
    for container in pod["spec"]["containers"].as_array().into_iter().flatten() {
        let name = text(&container["name"]);
        for item in container["env"].as_array().into_iter().flatten() {
            table.insert(format!("env/{name}/{}", text(&item["name"])), text(&item["value"]));
        }
        for kind in ["image", "workingDir"] {
            if container[kind].is_string() {
                table.insert(format!("{kind}/{name}"), text(&container[kind]));
            }
        }
    }
    table
}

/// Some fields of two containers that every pod here has, for a container that
/// one side does not know goes as a whole, which is no matter of fields.
fn fields() -> impl Strategy<Value = Table> {
    let place = prop_oneof!["label/[a-d]", "env/[cd]/[A-D]", "workingDir/[cd]",];
    proptest::collection::btree_map(place, "[xyz]", 0..10).prop_map(|mut table| {
        table.insert("image/c".to_owned(), "i".to_owned());
        table.insert("image/d".to_owned(), "j".to_owned());
        table
    })
}

/// What the manifest says is set, what only the last one said is gone, and all
/// else stays.
fn model(original: &Table, modified: &Table, current: &Table) -> Table {
    let mut result = current.clone();
    result.retain(|place, _| !original.contains_key(place) || modified.contains_key(place));
    result.extend(modified.clone());
    result
}

fn shape() -> &'static Struct {
    Struct::named("core.v1.Pod").unwrap()
}

proptest! {
    #[test]
    fn three_way_does_what_the_model_does(
        original in fields(), modified in fields(), current in fields(),
    ) {
        let patch = three_way(&pod(&original), &pod(&modified), &pod(&current), Some(shape()));
        let mut patched = pod(&current);
        apply_strategic(&mut patched, &patch, shape()).unwrap();
        prop_assert_eq!(table(&patched), model(&original, &modified, &current), "{}", patch);
    }

    #[test]
    fn a_patch_made_of_a_difference_leaves_none(from in fields(), to in fields()) {
        let (from, to) = (pod(&from), pod(&to));
        let mut merged = from.clone();
        apply_merge(&mut merged, &create_merge(&from, &to));
        prop_assert_eq!(&merged, &to);
        prop_assert_eq!(create_merge(&merged, &to), json!({}));

        let mut strategic = from.clone();
        apply_strategic(&mut strategic, &three_way(&from, &to, &from, Some(shape())), shape()).unwrap();
        prop_assert_eq!(table(&strategic), table(&to));
        prop_assert_eq!(three_way(&to, &to, &strategic, Some(shape())), json!({}));
    }

    #[test]
    fn one_operation_for_each_field_leads_there(from in fields(), to in fields()) {
        // Labels alone, where a JSON patch can name each field.
        let labels = |table: &Table| -> Table {
            let labels = table.iter().filter(|(place, _)| place.starts_with("label/"));
            labels.map(|(place, value)| (place.clone(), value.clone())).collect()
        };
        let (from, to) = (labels(&from), labels(&to));
        let path = |place: &str| format!("/metadata/labels/{}", place.trim_start_matches("label/"));
        let gone = from.keys().filter(|place| !to.contains_key(*place));
        let operations: Vec<Value> = gone
            .map(|place| json!({ "op": "remove", "path": path(place) }))
            .chain(to.iter().map(|(place, value)| json!({ "op": "add", "path": path(place), "value": value })))
            .collect();
        let mut patched = pod(&from);
        apply_json(&mut patched, &json!(operations)).unwrap();
        prop_assert_eq!(table(&patched), to);
    }
}
