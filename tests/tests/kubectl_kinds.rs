//! Every verb of `kubectl` that goes for any object, on one object of every
//! kind that is stored, with the machine's client and with the oldest.
//!
//! A verb gets all objects in one file: one process does for all kinds, and
//! says one line of each. The objects are the samples of the API server's own
//! tests.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize as _;
use serde_json::{Value, json};
use skiff_tests::{Kubectl, Master, eventually, repository, run, step};

const LIMIT: Duration = Duration::from_secs(30);

/// A sample: an object and a patch that it allows.
struct Sample {
    object: Value,
    change: Value,
}

fn samples() -> Vec<Sample> {
    let path = repository().join("apiserver/tests/catalogue/samples.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let reader = serde_yaml::Deserializer::from_str(&text);
    let mut text = serde_yaml::Value::deserialize(reader).unwrap();
    text.apply_merge().unwrap();
    let list: Vec<Value> = serde_yaml::from_value(text).unwrap();
    list.into_iter()
        .map(|mut sample| Sample {
            object: sample["object"].take(),
            change: sample["change"].take(),
        })
        .collect()
}

fn list(objects: &[Value]) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string()
}

/// `kind.group/name`, as kubectl names an object of a versioned file.
fn title(object: &Value) -> String {
    let kind = object["kind"].as_str().unwrap().to_lowercase();
    let name = object["metadata"]["name"].as_str().unwrap();
    match object["apiVersion"].as_str().unwrap().split_once('/') {
        Some((group, _)) => format!("{kind}.{group}/{name}"),
        None => format!("{kind}/{name}"),
    }
}

#[test]
fn every_kind_goes_through_every_verb() {
    let samples = samples();
    for client in Kubectl::all() {
        step(&format!("kubectl 1.{}", client.minor()));
        verbs(&Master::up_for(client), &samples);
    }
}

fn verbs(master: &Master, samples: &[Sample]) {
    let objects: Vec<Value> = samples.iter().map(|sample| sample.object.clone()).collect();
    let file = list(&objects);
    let titles: BTreeSet<String> = objects.iter().map(title).collect();
    assert_eq!(titles.len(), objects.len());
    // What was said of each object, after its name.
    let all = |line: &str, file: &str, expected: &str| {
        step(line);
        let said = master.kubectl_with(line, file).ok();
        let told: BTreeSet<String> = (said.lines())
            .map(|said| match said.strip_suffix(expected) {
                Some(title) => title.trim_end().to_owned(),
                None => panic!("{line}: {said}, not {expected:?}"),
            })
            .collect();
        assert_eq!(told, titles, "{line}");
    };

    all("create --dry-run=server -f -", &file, "created (server dry run)");
    all("create -f -", &file, "created");
    let refused = master.kubectl_with("create -f -", &file).refused();
    assert_eq!(refused.matches("already exists").count(), objects.len(), "{refused}");

    step("get, in every format");
    for format in ["", " -o wide", " -o name", " -o custom-columns=N:.metadata.name"] {
        let said = master.kubectl_with(&format!("get -f -{format}"), &file).ok();
        assert!(said.lines().count() >= objects.len(), "{format}: {said}");
    }
    let names = |objects: &[Value]| objects.iter().map(title).collect::<Vec<_>>();
    assert_eq!(names(&fresh(master, &file)), names(&objects));
    let yaml = master.kubectl_with("get -f - -o yaml", &file).ok();
    let yaml: Value = serde_yaml::from_str(&yaml).unwrap();
    assert_eq!(names(yaml["items"].as_array().unwrap()), names(&objects));

    step("describe");
    let described = master.kubectl_with("describe -f -", &file).ok();
    assert_eq!(described.lines().filter(|line| line.starts_with("Name:")).count(), objects.len());

    all("label -f - tested=yes", &file, "labeled");
    all("annotate -f - tested=yes", &file, "annotated");
    eventually("replace", LIMIT, || {
        // Controllers write meanwhile, which is a conflict.
        let said = master.kubectl_with("replace -f -", &list(&wanted(master, &file))).result()?;
        assert_eq!(said.matches(" replaced").count(), objects.len(), "{said}");
        Ok(())
    });
    step("labels go");
    let said = master.kubectl_with("label -f - tested-", &file).ok();
    assert_eq!(said.lines().count(), objects.len(), "{said}");
    let left = fresh(master, &file);
    assert!(left.iter().all(|object| object["metadata"]["labels"].get("tested").is_none()));
    assert!(left.iter().all(|object| object["metadata"]["annotations"]["tested"] == "yes"));

    step("patch, in three ways");
    for sample in samples {
        let object = sample.object.to_string();
        let merge = sample.change.to_string();
        let label = json!({"metadata": {"labels": {"by": "strategic"}}}).to_string();
        // Some labels and annotations are a controller's to keep.
        let add = [json!({"op": "add", "path": "/metadata/annotations", "value": {"by": "json"}})];
        let add = json!(add).to_string();
        for (kind, patch) in [("merge", merge), ("strategic", label), ("json", add)] {
            let words = ["patch", "-f", "-", "--type", kind, "-p", &patch];
            let said = run(master.kubectl_command(&words), Some(&object)).ok();
            assert!(said.starts_with(&title(&sample.object)), "{kind}: {said}");
            assert!(said.ends_with("patched"), "{kind}: {said}");
        }
    }

    step("apply in the client and on the server, and what differs then");
    let wanted = list(&wanted(master, &file));
    all("apply -f -", &wanted, "configured");
    // A budget's selector is replaced as a whole: old clients always send it.
    let again = master.kubectl_with("apply -f -", &wanted).ok();
    let changed: Vec<&str> = again.lines().filter(|said| !said.ends_with(" unchanged")).collect();
    let budget = ["poddisruptionbudget.policy/sample configured"];
    assert!(changed.is_empty() || changed == budget, "{changed:?}");
    assert_eq!(again.lines().count(), objects.len());
    let diff = master.kubectl_with("diff -f -", &wanted);
    assert_eq!((diff.code, diff.stdout.as_str()), (0, ""), "nothing differs");
    all("apply --server-side --force-conflicts -f -", &wanted, "serverside-applied");

    step("delete");
    let said = master.kubectl_with("delete -f - --timeout=30s", &file).ok();
    assert_eq!(said.matches(" deleted").count(), objects.len(), "{said}");
    let gone = master.kubectl_with("get -f - --ignore-not-found -o name", &file).ok();
    assert_eq!(gone, "");
}

/// The objects as they are now.
fn fresh(master: &Master, file: &str) -> Vec<Value> {
    let live = master.kubectl_with("get -f - -o json", file).ok();
    let mut live: Value = serde_json::from_str(&live).unwrap();
    serde_json::from_value(live["items"].take()).unwrap()
}

/// The objects as they are now, as somebody would write them.
fn wanted(master: &Master, file: &str) -> Vec<Value> {
    let mut objects = fresh(master, file);
    for object in &mut objects {
        object.as_object_mut().unwrap().remove("status");
        let metadata = object["metadata"].as_object_mut().unwrap();
        for field in ["resourceVersion", "managedFields", "uid", "creationTimestamp", "generation"]
        {
            metadata.remove(field);
        }
    }
    objects
}
