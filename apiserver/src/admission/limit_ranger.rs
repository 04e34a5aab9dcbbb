//! LimitRanger: a namespace's LimitRanges fill in and bound what pods and
//! claims ask for.

use serde_json::{Value, json};
use skiff_api::quantity::Quantity;
use skiff_api::quota;

use super::{Attributes, Context, Operation, Plugin, items};
use crate::status::ApiError;

/// Says on a pod what was filled in, as upstream.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

const LISTS: [(&str, &str); 2] =
    [("containers", "container"), ("initContainers", "init container")];

/// Where a container's amounts stand, where a limit's defaults for them, and
/// what the annotation calls them.
const SIDES: [(&str, &str, &str); 2] =
    [("requests", "defaultRequest", "request"), ("limits", "default", "limit")];

pub(super) struct LimitRanger;

impl Plugin for LimitRanger {
    fn mutate(
        &self,
        context: &Context,
        request: &Attributes<'_>,
        pod: &mut Value,
    ) -> Result<(), ApiError> {
        if !request.creates("", "pods") {
            return Ok(());
        }
        let mut set = Vec::new();
        for range in context.objects.list("", "limitranges", &request.info.namespace) {
            for limit in
                items(&range["spec"]["limits"]).filter(|limit| limit["type"] == "Container")
            {
                for (list, what) in LISTS {
                    for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
                        for (side, defaults, word) in SIDES {
                            let filled = fill(container, side, &limit[defaults]);
                            if !filled.is_empty() {
                                let name = container["name"].as_str().unwrap_or_default();
                                let filled = filled.join(", ");
                                set.push(format!("{filled} {word} for {what} {name}"));
                            }
                        }
                    }
                }
            }
        }
        if !set.is_empty() {
            let annotations = &mut pod["metadata"]["annotations"];
            if annotations.is_null() {
                *annotations = json!({});
            }
            annotations[ANNOTATION] = json!(format!("LimitRanger plugin set: {}", set.join("; ")));
        }
        Ok(())
    }

    fn validate(
        &self,
        context: &Context,
        request: &Attributes<'_>,
        object: &Value,
    ) -> Result<(), ApiError> {
        let claim = request.is("", "persistentvolumeclaims")
            && matches!(request.operation, Operation::Create | Operation::Update);
        let resize = request.operation == Operation::Update && request.is("", "pods/resize");
        if !claim && !resize && !request.creates("", "pods") {
            return Ok(());
        }
        let mut broken = Vec::new();
        for range in context.objects.list("", "limitranges", &request.info.namespace) {
            for limit in items(&range["spec"]["limits"]) {
                match (limit["type"].as_str(), claim) {
                    (Some("Container"), false) => {
                        let lists = ["initContainers", "containers"];
                        for container in lists.iter().flat_map(|list| items(&object["spec"][*list]))
                        {
                            broken.extend(violations(limit, &container["resources"]));
                        }
                    }
                    (Some("Pod"), false) => broken.extend(violations(limit, &pod_sum(object))),
                    (Some("PersistentVolumeClaim"), true) => {
                        broken.extend(violations(limit, &object["spec"]["resources"]));
                    }
                    _ => {}
                }
            }
        }
        match broken.as_slice() {
            [] => Ok(()),
            [one] => Err(request.forbidden(one)),
            many => Err(request.forbidden(format!("[{}]", many.join(", ")))),
        }
    }
}

/// Puts defaults in where a container says nothing about a resource; which.
fn fill(container: &mut Value, side: &str, defaults: &Value) -> Vec<String> {
    let Some(defaults) = defaults.as_object().filter(|defaults| !defaults.is_empty()) else {
        return Vec::new();
    };
    if container["resources"].is_null() {
        container["resources"] = json!({});
    }
    if container["resources"][side].is_null() {
        container["resources"][side] = json!({});
    }
    let Some(own) = container["resources"][side].as_object_mut() else { return Vec::new() };
    let mut filled = Vec::new();
    for (resource, value) in defaults {
        if !own.contains_key(resource) {
            own.insert(resource.clone(), value.clone());
            filled.push(resource.clone());
        }
    }
    filled.sort();
    filled
}

/// Requests and limits of a whole pod.
fn pod_sum(pod: &Value) -> Value {
    let side = |side: &str| quota::render(&quota::amounts(pod, side, false));
    json!({ "requests": side("requests"), "limits": side("limits") })
}

fn amounts(resources: &Value) -> impl Iterator<Item = (String, Quantity)> {
    resources
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(resource, value)| Some((resource.clone(), value.as_str()?.parse().ok()?)))
}

fn violations(limit: &Value, resources: &Value) -> Vec<String> {
    let kind = limit["type"].as_str().unwrap_or_default();
    let amount = |side: &str, resource: &str| -> Option<Quantity> {
        resources[side][resource].as_str()?.parse().ok()
    };
    let mut broken = Vec::new();
    for (resource, min) in amounts(&limit["min"]) {
        let (request, cap) = (amount("requests", &resource), amount("limits", &resource));
        let bound = format!("minimum {resource} usage per {kind} is {min}");
        match (request, cap) {
            (None, _) => broken.push(format!("{bound}.  No request is specified")),
            (Some(request), _) if request < min => {
                broken.push(format!("{bound}, but request is {request}"));
            }
            (_, Some(cap)) if cap < min => broken.push(format!("{bound}, but limit is {cap}")),
            _ => {}
        }
    }
    // A claim has no limits; what it requests is what it uses.
    let claim = kind == "PersistentVolumeClaim";
    for (resource, max) in amounts(&limit["max"]) {
        let (request, cap) = (amount("requests", &resource), amount("limits", &resource));
        let bound = format!("maximum {resource} usage per {kind} is {max}");
        match (request, cap) {
            (None, _) if claim => broken.push(format!("{bound}.  No request is specified")),
            (_, None) if !claim => broken.push(format!("{bound}.  No limit is specified")),
            (_, Some(cap)) if !claim && cap > max => {
                broken.push(format!("{bound}, but limit is {cap}"));
            }
            (Some(request), _) if request > max => {
                broken.push(format!("{bound}, but request is {request}"));
            }
            _ => {}
        }
    }
    for (resource, ratio) in amounts(&limit["maxLimitRequestRatio"]) {
        let (request, cap) = (amount("requests", &resource), amount("limits", &resource));
        let real = match (request, cap) {
            (Some(request), Some(cap)) if !request.is_zero() => cap.as_f64() / request.as_f64(),
            _ => {
                broken.push(format!(
                    "{resource} max limit to request ratio per {kind} is {ratio}, but no request \
                     or limit is specified"
                ));
                continue;
            }
        };
        if real > ratio.as_f64() {
            broken.push(format!(
                "{resource} max limit to request ratio per {kind} is {ratio}, but provided ratio \
                 is {real:.6}"
            ));
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_said_in_upstreams_words() {
        let limit = json!({
            "type": "Container",
            "min": { "cpu": "100m" },
            "max": { "memory": "1Gi" },
            "maxLimitRequestRatio": { "cpu": "2" },
        });
        let resources = |cpu: (&str, &str), memory: &str| json!({ "requests": { "cpu": cpu.0 }, "limits": { "cpu": cpu.1, "memory": memory } });
        let cases = [
            (resources(("100m", "200m"), "1Gi"), vec![]),
            (
                resources(("50m", "100m"), "1Gi"),
                vec!["minimum cpu usage per Container is 100m, but request is 50m"],
            ),
            (
                resources(("100m", "100m"), "2Gi"),
                vec!["maximum memory usage per Container is 1Gi, but limit is 2Gi"],
            ),
            (
                resources(("100m", "300m"), "1Gi"),
                vec![
                    "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
                ],
            ),
        ];
        for (resources, expected) in cases {
            assert_eq!(violations(&limit, &resources), expected);
        }
    }

    #[test]
    fn defaults_fill_gaps_only() {
        let mut container = json!({ "resources": { "limits": { "cpu": "2" } } });
        let filled = fill(&mut container, "limits", &json!({ "cpu": "1", "memory": "1Gi" }));
        assert_eq!(filled, ["memory"]);
        assert_eq!(container["resources"]["limits"], json!({ "cpu": "2", "memory": "1Gi" }));
    }

    #[test]
    fn init_containers_run_alone() {
        let with = |cpu: &str| json!({ "resources": { "requests": { "cpu": cpu } } });
        let pod = json!({ "spec": { "containers": [with("100m"), with("200m")], "initContainers": [with("250m")] } });
        assert_eq!(pod_sum(&pod)["requests"]["cpu"], "300m");
    }
}
