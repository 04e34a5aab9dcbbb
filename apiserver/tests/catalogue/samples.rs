//! The samples, one per stored kind.

use serde::Deserialize as _;
use serde_json::{Value, json};
use skiff_api::catalogue::{self, Resource};
use skiff_api::patch::apply_merge;

/// What is made, changed and refused of one kind.
pub(crate) struct Sample {
    pub(crate) resource: &'static Resource,
    pub(crate) object: Value,
    pub(crate) change: Value,
    pub(crate) status: Option<Value>,
    pub(crate) refused: Vec<Value>,
    named: Vec<Value>,
}

/// The sample of every stored kind.
pub(crate) fn all() -> Vec<Sample> {
    let mut text = serde_yaml::Value::deserialize(serde_yaml::Deserializer::from_str(
        include_str!("samples.yaml"),
    ))
    .unwrap();
    text.apply_merge().unwrap();
    let list: Vec<Value> = serde_yaml::from_value(text).unwrap();
    list.into_iter().map(Sample::read).collect()
}

impl Sample {
    fn read(mut sample: Value) -> Self {
        let object = sample["object"].take();
        let (version, kind) =
            (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let list = |value: &mut Value| match value.take() {
            Value::Array(list) => list,
            _ => Vec::new(),
        };
        Self {
            resource: catalogue::find_kind(group, version, kind).unwrap(),
            change: sample["change"].take(),
            status: Some(sample["status"].take()).filter(Value::is_object),
            refused: list(&mut sample["refused"]),
            named: list(&mut sample["named"]),
            object,
        }
    }

    /// Where the objects of a kind are.
    pub(crate) fn collection(resource: &Resource) -> String {
        Self::everywhere(resource, "/namespaces/default")
    }

    /// The objects of a kind in all namespaces.
    pub(crate) fn everywhere(resource: &Resource, namespace: &str) -> String {
        let root = if resource.group.is_empty() { "/api" } else { "/apis" };
        let namespace = if resource.namespaced { namespace } else { "" };
        format!("{root}/{}{namespace}/{}", resource.api_version(), resource.plural)
    }

    pub(crate) fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap()
    }

    /// A labelled object under the `n`th further name.
    pub(crate) fn further(&self, n: usize, label: &str) -> Value {
        let mut object = self.object.clone();
        match self.named.get(n) {
            Some(patch @ Value::Object(_)) => apply_merge(&mut object, patch),
            Some(name) => object["metadata"]["name"] = name.clone(),
            None => object["metadata"]["name"] = json!(format!("further-{n}")),
        }
        object["metadata"]["labels"]["part"] = json!(label);
        object
    }
}

/// `apps/v1 Deployment`
pub(crate) fn title(resource: &Resource) -> String {
    format!("{} {}", resource.api_version(), resource.kind)
}

#[test]
fn every_stored_kind_has_a_sample() {
    let samples = all();
    for resource in catalogue::all() {
        let can_be_made = resource.is_stored() && resource.verbs.contains(&"create");
        if resource.legacy.is_some() || !can_be_made {
            continue;
        }
        let count = samples.iter().filter(|sample| std::ptr::eq(sample.resource, resource)).count();
        assert_eq!(count, 1, "{}", title(resource));
    }
}
