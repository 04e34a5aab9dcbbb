//! LimitRanger: a namespace's LimitRanges fill in and bound what pods and
//! claims ask for.

use serde_json::{Map, Value, json};
use skiff_api::quantity::Quantity;

use super::{Attributes, Context, Operation, Plugin, items};
use crate::status::ApiError;

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
        for range in context.objects.list("", "limitranges", &request.info.namespace) {
            for limit in
                items(&range["spec"]["limits"]).filter(|limit| limit["type"] == "Container")
            {
                for list in ["initContainers", "containers"] {
                    for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
                        fill(container, "limits", &limit["default"]);
                        fill(container, "requests", &limit["defaultRequest"]);
                    }
                }
            }
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
        if !claim && !request.creates("", "pods") {
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

/// Puts defaults in where a container says nothing about a resource.
fn fill(container: &mut Value, side: &str, defaults: &Value) {
    let Some(defaults) = defaults.as_object().filter(|defaults| !defaults.is_empty()) else {
        return;
    };
    if container["resources"].is_null() {
        container["resources"] = json!({});
    }
    if container["resources"][side].is_null() {
        container["resources"][side] = json!({});
    }
    let Some(own) = container["resources"][side].as_object_mut() else { return };
    for (resource, value) in defaults {
        own.entry(resource.clone()).or_insert_with(|| value.clone());
    }
}

/// Requests and limits of a whole pod: the sum of its containers, or the
/// largest init container, which runs alone.
fn pod_sum(pod: &Value) -> Value {
    let mut total = json!({});
    for side in ["requests", "limits"] {
        let mut sums: std::collections::BTreeMap<String, Quantity> = Default::default();
        for container in items(&pod["spec"]["containers"]) {
            for (resource, value) in amounts(&container["resources"][side]) {
                *sums.entry(resource).or_default() += value;
            }
        }
        for container in items(&pod["spec"]["initContainers"]) {
            for (resource, value) in amounts(&container["resources"][side]) {
                let sum = sums.entry(resource).or_default();
                *sum = (*sum).max(value);
            }
        }
        let sums: Map<String, Value> =
            sums.into_iter().map(|(resource, sum)| (resource, json!(sum.to_string()))).collect();
        total[side] = Value::Object(sums);
    }
    total
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
        match request {
            None => broken.push(format!(
                "minimum {resource} usage per {kind} is {min}. No request is specified"
            )),
            Some(request) if request < min => broken.push(format!(
                "minimum {resource} usage per {kind} is {min}, but request is {request}"
            )),
            Some(_) => {}
        }
        if let Some(cap) = cap.filter(|cap| *cap < min) {
            broken
                .push(format!("minimum {resource} usage per {kind} is {min}, but limit is {cap}"));
        }
    }
    for (resource, max) in amounts(&limit["max"]) {
        let (request, cap) = (amount("requests", &resource), amount("limits", &resource));
        // A claim has no limits; what it requests is what it uses.
        let used = if kind == "PersistentVolumeClaim" { request } else { cap };
        let word = if kind == "PersistentVolumeClaim" { "request" } else { "limit" };
        match used {
            None => broken.push(format!(
                "maximum {resource} usage per {kind} is {max}. No {word} is specified"
            )),
            Some(used) if used > max => broken.push(format!(
                "maximum {resource} usage per {kind} is {max}, but {word} is {used}"
            )),
            Some(_) => {}
        }
        if let Some(request) = request.filter(|request| *request > max && word == "limit") {
            broken.push(format!(
                "maximum {resource} usage per {kind} is {max}, but request is {request}"
            ));
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
        fill(&mut container, "limits", &json!({ "cpu": "1", "memory": "1Gi" }));
        assert_eq!(container["resources"]["limits"], json!({ "cpu": "2", "memory": "1Gi" }));
    }

    #[test]
    fn init_containers_run_alone() {
        let with = |cpu: &str| json!({ "resources": { "requests": { "cpu": cpu } } });
        let pod = json!({ "spec": { "containers": [with("100m"), with("200m")], "initContainers": [with("250m")] } });
        assert_eq!(pod_sum(&pod)["requests"]["cpu"], "300m");
    }
}
