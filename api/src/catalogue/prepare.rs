//! What a create may start from, and what an update must not touch.
//!
//! The API server owns names, uids and timestamps; the rules here are about
//! the split of `spec` and `status` and about `metadata.generation`.

use serde_json::{Map, Value, json};

use super::Part;
use crate::meta::metadata_mut as metadata;

/// How a kind divides its objects between the parts that write them.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// The kind has a `status` subresource: the main part cannot write
    /// `status`, and the status part nothing else.
    pub status: bool,
    /// The `status` that a new object starts with.
    pub initial_status: InitialStatus,
    /// The main part leaves `spec` alone: only the server or a subresource
    /// writes it after the creation.
    pub fixed_spec: bool,
    /// `metadata.generation` counts changes of the desired state.
    pub generation: bool,
    /// The status part leaves labels alone.
    pub status_keeps_labels: bool,
}

/// The `status` that a new object starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitialStatus {
    /// The client's. Nodes register with theirs.
    Given,
    /// None.
    Absent,
    /// A phase and nothing else.
    Phase(&'static str),
}

impl Rules {
    /// No status, no generation.
    pub const PLAIN: Rules = Rules {
        status: false,
        initial_status: InitialStatus::Given,
        fixed_spec: false,
        generation: false,
        status_keeps_labels: false,
    };
    /// A generation and no status.
    pub const GENERATION: Rules = Rules { generation: true, ..Rules::PLAIN };
    /// A status and no generation.
    pub const STATUS: Rules =
        Rules { status: true, initial_status: InitialStatus::Absent, ..Rules::PLAIN };
    /// Both.
    pub const FULL: Rules = Rules { generation: true, ..Rules::STATUS };
}

/// Fields of `metadata` that only the server writes.
const SYSTEM_METADATA: &[&str] = &[
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "selfLink",
];

/// See [`super::Behaviour::prepare_create`].
pub(super) fn create(object: &mut Value, rules: &Rules) {
    let Value::Object(map) = object else { return };
    match rules.initial_status {
        InitialStatus::Given => {}
        InitialStatus::Absent => _ = map.remove("status"),
        InitialStatus::Phase(phase) => _ = map.insert("status".into(), json!({"phase": phase})),
    }
    let metadata = metadata(map);
    metadata.remove("generation");
    if rules.generation {
        metadata.insert("generation".into(), json!(1));
    }
}

/// See [`super::Behaviour::prepare_update`].
pub(super) fn update(object: &mut Value, old: &Value, part: Part, rules: &Rules) {
    let (Value::Object(map), Value::Object(old)) = (object, old) else { return };
    match part {
        Part::Main => {
            if rules.status {
                copy(map, old, "status");
            }
            if rules.fixed_spec {
                copy(map, old, "spec");
            }
        }
        Part::Status => keep_all_but_status(map, old, rules),
        Part::Other(name) => keep_all_but(map, old, name),
    }
    let old_metadata = old.get("metadata").and_then(Value::as_object);
    let fresh = metadata(map);
    for field in SYSTEM_METADATA {
        match old_metadata.and_then(|old| old.get(*field)) {
            Some(value) => fresh.insert((*field).into(), value.clone()),
            None => fresh.remove(*field),
        };
    }
    // A binding says where a pod runs; what it runs stays as it was.
    let counts = !matches!(part, Part::Status | Part::Other("binding"));
    if rules.generation && counts && desired_differs(map, old) {
        let generation = old_metadata.and_then(|old| old.get("generation")).and_then(Value::as_i64);
        metadata(map).insert("generation".into(), json!(generation.unwrap_or(0) + 1));
    }
}

/// See [`super::Behaviour::restrict`].
pub(super) fn restrict(config: &mut Value, part: Part, rules: &Rules) {
    let Value::Object(map) = config else { return };
    let about = |key: &str| matches!(key, "metadata" | "apiVersion" | "kind");
    match part {
        Part::Main => {
            if rules.status {
                map.remove("status");
            }
        }
        Part::Status => {
            map.retain(|key, _| about(key) || key == "status");
            for field in kept_by_status(rules) {
                metadata(map).remove(*field);
            }
        }
        Part::Other(name) => {
            let Some([outer, inner]) = corner(name) else { return };
            map.retain(|key, _| about(key) || key == outer);
            if let Some(Value::Object(outer)) = map.get_mut(outer) {
                outer.retain(|key, _| key == inner);
            }
            metadata(map).retain(|key, _| {
                matches!(key.as_str(), "name" | "namespace" | "uid" | "resourceVersion")
            });
        }
    }
}

/// What of the metadata the status part leaves alone.
fn kept_by_status(rules: &Rules) -> &'static [&'static str] {
    if rules.status_keeps_labels { &["ownerReferences", "labels"] } else { &["ownerReferences"] }
}

fn keep_all_but_status(map: &mut Map<String, Value>, old: &Map<String, Value>, rules: &Rules) {
    map.retain(|key, _| matches!(key.as_str(), "metadata" | "status" | "apiVersion" | "kind"));
    for (key, value) in old {
        if !matches!(key.as_str(), "metadata" | "status") {
            map.insert(key.clone(), value.clone());
        }
    }
    let old_metadata = old.get("metadata").and_then(Value::as_object);
    let fresh = metadata(map);
    for field in kept_by_status(rules) {
        match old_metadata.and_then(|old| old.get(*field)) {
            Some(value) => fresh.insert((*field).into(), value.clone()),
            None => fresh.remove(*field),
        };
    }
}

/// The corner of an object that a subresource writes.
fn corner(part: &str) -> Option<[&'static str; 2]> {
    match part {
        "ephemeralcontainers" => Some(["spec", "ephemeralContainers"]),
        "finalize" => Some(["spec", "finalizers"]),
        "approval" => Some(["status", "conditions"]),
        _ => None,
    }
}

/// Subresources that write one corner of an object. Names without a rule of
/// their own (`scale`, `binding`) write what they were given to write.
fn keep_all_but(map: &mut Map<String, Value>, old: &Map<String, Value>, part: &str) {
    if part == "resize" {
        return resize(map, old);
    }
    let Some(corner) = corner(part) else { return };
    let wanted = map.get(corner[0]).and_then(|outer| outer.get(corner[1])).cloned();
    let given = map.remove("metadata").unwrap_or_default();
    map.clone_from(old);
    if matches!(part, "approval" | "finalize") {
        // As upstream, what people note on the object comes along.
        map.insert("metadata".into(), given);
    } else if let Some(version) = given.get("resourceVersion") {
        metadata(map).insert("resourceVersion".into(), version.clone());
    }
    if let Value::Object(outer) = map.entry(corner[0]).or_insert_with(|| json!({})) {
        match wanted {
            Some(value) => outer.insert(corner[1].into(), value),
            None => outer.remove(corner[1]),
        };
    }
}

/// `resize` writes the resources and resize policies of containers. Other
/// containers than there are it leaves to be refused.
fn resize(map: &mut Map<String, Value>, old: &Map<String, Value>) {
    let mut wanted = std::mem::replace(map, old.clone());
    if let Some(version) = wanted.get("metadata").and_then(|m| m.get("resourceVersion")) {
        metadata(map).insert("resourceVersion".into(), version.clone());
    }
    let Some(Value::Object(spec)) = map.get_mut("spec") else { return };
    for list in ["containers", "initContainers"] {
        let wanted = wanted.get_mut("spec").and_then(|spec| spec.get_mut(list)).map(Value::take);
        let names = |list: Option<&Value>| {
            let containers = list.and_then(Value::as_array).into_iter().flatten();
            containers.map(|one| one.get("name").cloned()).collect::<Vec<_>>()
        };
        if names(wanted.as_ref()) != names(spec.get(list)) {
            spec.insert(list.into(), wanted.unwrap_or_else(|| json!([])));
            continue;
        }
        let (Some(Value::Array(containers)), Some(Value::Array(wanted))) =
            (spec.get_mut(list), wanted)
        else {
            continue;
        };
        for (container, wanted) in containers.iter_mut().zip(&wanted) {
            if let (Value::Object(container), Value::Object(wanted)) = (container, wanted) {
                copy(container, wanted, "resources");
                copy(container, wanted, "resizePolicy");
            }
        }
    }
}

/// Whether anything but `metadata` and `status` changed.
fn desired_differs(new: &Map<String, Value>, old: &Map<String, Value>) -> bool {
    let desired =
        |key: &&String| !matches!(key.as_str(), "metadata" | "status" | "apiVersion" | "kind");
    let keys = new.keys().chain(old.keys()).filter(desired);
    let mut differs = keys.map(|key| new.get(key) != old.get(key));
    // A deletion is a change of what is wanted, too.
    differs.any(|differs| differs)
}

fn copy(to: &mut Map<String, Value>, from: &Map<String, Value>, key: &str) {
    match from.get(key) {
        Some(value) => to.insert(key.into(), value.clone()),
        None => to.remove(key),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn create_starts_clean() {
        let mut object =
            json!({"metadata": {"generation": 7}, "spec": {}, "status": {"replicas": 3}});
        create(&mut object, &Rules::FULL);
        assert_eq!(object, json!({"metadata": {"generation": 1}, "spec": {}}));
    }

    #[test]
    fn a_binding_is_no_new_generation() {
        let old = json!({"metadata": {"generation": 1}, "spec": {}});
        for (part, generation) in
            [(Part::Other("binding"), 1), (Part::Other("scale"), 2), (Part::Main, 2)]
        {
            let mut new = json!({"spec": {"nodeName": "n"}});
            update(&mut new, &old, part, &Rules::FULL);
            assert_eq!(new["metadata"]["generation"], generation, "{part:?}");
        }
    }

    #[test]
    fn a_fixed_spec_is_the_server_s() {
        let rules = Rules { fixed_spec: true, ..Rules::STATUS };
        let mut new = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"finalizers": []}});
        update(&mut new, &json!({"spec": {"finalizers": ["kubernetes"]}}), Part::Main, &rules);
        assert_eq!(new["spec"]["finalizers"], json!(["kubernetes"]));
        assert_eq!(new["metadata"]["labels"]["a"], "b");
    }

    #[test]
    fn updates_keep_what_is_not_theirs() {
        let old = json!({"metadata": {"generation": 2, "uid": "u"}, "spec": {"a": 1}, "status": {"s": 1}});
        let cases = [
            (
                "main changes spec",
                Part::Main,
                json!({"metadata": {"generation": 9}, "spec": {"a": 2}, "status": {"s": 9}}),
                json!({"metadata": {"generation": 3}, "spec": {"a": 2}, "status": {"s": 1}}),
            ),
            (
                "main changes labels",
                Part::Main,
                json!({"metadata": {"labels": {"x": "y"}}, "spec": {"a": 1}}),
                json!({"metadata": {"labels": {"x": "y"}, "generation": 2}, "spec": {"a": 1}, "status": {"s": 1}}),
            ),
            (
                "status changes status",
                Part::Status,
                json!({"metadata": {"annotations": {"x": "y"}}, "spec": {"a": 5}, "status": {"s": 2}}),
                json!({"metadata": {"annotations": {"x": "y"}, "generation": 2}, "spec": {"a": 1}, "status": {"s": 2}}),
            ),
        ];
        for (name, part, mut new, expected) in cases {
            update(&mut new, &old, part, &Rules::FULL);
            assert_eq!(new, expected, "{name}");
        }
    }

    #[test]
    fn a_configuration_says_nothing_of_other_parts() {
        let config = json!({"kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}, "ownerReferences": []},
            "spec": {"finalizers": [], "nodeName": "n"}, "status": {"phase": "x"}});
        let labels = Rules { status_keeps_labels: true, ..Rules::STATUS };
        let cases = [
            (Part::Main, Rules::PLAIN, config.clone()),
            (
                Part::Main,
                Rules::STATUS,
                json!({"kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}, "ownerReferences": []},
                    "spec": {"finalizers": [], "nodeName": "n"}}),
            ),
            (
                Part::Status,
                labels,
                json!({"kind": "Pod", "metadata": {"name": "p"}, "status": {"phase": "x"}}),
            ),
            (
                Part::Other("finalize"),
                Rules::STATUS,
                json!({"kind": "Pod", "metadata": {"name": "p"}, "spec": {"finalizers": []}}),
            ),
        ];
        for (part, rules, expected) in cases {
            let mut restricted = config.clone();
            restrict(&mut restricted, part, &rules);
            assert_eq!(restricted, expected, "{part:?}");
        }
    }

    #[test]
    fn corners_write_only_their_corner() {
        let old = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "i"}]}});
        let mut new = json!({"metadata": {"name": "p"}, "spec": {"containers": [], "ephemeralContainers": [{"name": "d"}]}});
        update(&mut new, &old, Part::Other("ephemeralcontainers"), &Rules::FULL);
        let spec = json!({"containers": [{"name": "a", "image": "i"}], "ephemeralContainers": [{"name": "d"}]});
        assert_eq!(new["spec"], spec);

        let old = json!({"metadata": {"name": "c", "uid": "u"}, "spec": {"request": "r"}, "status": {"certificate": "x"}});
        let mut new = json!({"metadata": {"name": "c", "annotations": {"a": "b"}}, "status": {"conditions": [], "certificate": "y"}});
        update(&mut new, &old, Part::Other("approval"), &Rules::STATUS);
        assert_eq!(new["metadata"]["annotations"]["a"], "b");
        assert_eq!(new["spec"], old["spec"]);
        assert_eq!(new["status"], json!({"conditions": [], "certificate": "x"}));

        let old = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "i"}]}});
        let mut new = json!({"spec": {"containers": [{"name": "a", "image": "x", "resources": {"limits": {"cpu": "1"}}}]}});
        update(&mut new, &old, Part::Other("resize"), &Rules::FULL);
        assert_eq!(new["spec"]["containers"][0]["image"], "i");
        assert_eq!(new["spec"]["containers"][0]["resources"]["limits"]["cpu"], "1");
        let mut new = json!({"spec": {"containers": [{"name": "b", "image": "x"}]}});
        update(&mut new, &old, Part::Other("resize"), &Rules::FULL);
        assert_eq!(new["spec"]["containers"][0]["name"], "b", "it is left to be refused");
    }
}
