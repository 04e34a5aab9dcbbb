//! What the checks share: reading a pod, and wording what was found.

use serde_json::Value;

use crate::pod_security::{Version, Violation};

pub(super) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Init containers, containers and ephemeral containers.
pub(super) fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    lists.into_iter().flat_map(|key| list(&pod["spec"][key]))
}

/// The names of the containers whose security context is `bad`.
pub(super) fn who<'a>(pod: &'a Value, mut bad: impl FnMut(&'a Value) -> bool) -> Vec<&'a str> {
    containers(pod)
        .filter(|container| bad(&container["securityContext"]))
        .map(|container| text(&container["name"]))
        .collect()
}

pub(super) fn quoted<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    format!("\"{}\"", names.into_iter().collect::<Vec<_>>().join("\", \""))
}

pub(super) fn plural(one: &'static str, many: &'static str, count: usize) -> &'static str {
    if count == 1 { one } else { many }
}

/// `container "a"` or `containers "a", "b"`.
pub(super) fn named(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names.iter().copied()))
}

/// `pod and container "a"`; `None` if nobody did it.
pub(super) fn setters(by_pod: bool, names: &[&str]) -> Option<String> {
    let containers = (!names.is_empty()).then(|| named(names));
    match (by_pod, containers) {
        (true, Some(containers)) => Some(format!("pod and {containers}")),
        (true, None) => Some("pod".to_owned()),
        (false, containers) => containers,
    }
}

pub(super) fn violation(reason: &'static str, detail: String) -> Option<Violation> {
    Some(Violation { reason, detail })
}

pub(super) fn is_windows(version: Version, pod: &Value) -> bool {
    version.since(25) && pod["spec"]["os"]["name"] == "windows"
}

/// Root in a user namespace of its own is nobody outside.
pub(super) fn has_own_users(version: Version, pod: &Value) -> bool {
    version.since(35) && pod["spec"]["hostUsers"] == false
}
