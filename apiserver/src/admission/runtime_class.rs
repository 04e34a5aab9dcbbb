//! RuntimeClass: what a pod's runtime costs and where it is to be had.

use serde_json::{Map, Value, json};
use skiff_api::quota::parse;

use super::{Attributes, Context, Plugin, items, list_mut};
use crate::status::ApiError;

pub(super) struct RuntimeClass;

impl Plugin for RuntimeClass {
    fn mutate(
        &self,
        context: &Context,
        request: &Attributes<'_>,
        pod: &mut Value,
    ) -> Result<(), ApiError> {
        if !request.creates("", "pods") {
            return Ok(());
        }
        let Some(class) = class_of(context, request, pod)? else { return Ok(()) };
        let cost = &class["overhead"]["podFixed"];
        if !cost.is_null() {
            if !pod["spec"]["overhead"].is_null() {
                same_overhead(request, cost, pod)?;
            }
            pod["spec"]["overhead"] = cost.clone();
        }
        let rules = &class["scheduling"];
        select_nodes(request, &rules["nodeSelector"], pod)?;
        for toleration in items(&rules["tolerations"]) {
            if let Some(own) = list_mut(&mut pod["spec"], "tolerations")
                && !own.contains(toleration)
            {
                own.push(toleration.clone());
            }
        }
        Ok(())
    }

    fn validate(
        &self,
        context: &Context,
        request: &Attributes<'_>,
        pod: &Value,
    ) -> Result<(), ApiError> {
        if !request.creates("", "pods") {
            return Ok(());
        }
        let class = class_of(context, request, pod)?.unwrap_or_default();
        let cost = &class["overhead"]["podFixed"];
        if !cost.is_null() {
            return same_overhead(request, cost, pod);
        }
        if pod["spec"]["overhead"].as_object().is_some_and(|own| !own.is_empty()) {
            return Err(request.forbidden(
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            ));
        }
        Ok(())
    }
}

fn class_of(
    context: &Context,
    request: &Attributes<'_>,
    pod: &Value,
) -> Result<Option<Value>, ApiError> {
    let Some(name) = pod["spec"]["runtimeClassName"].as_str() else { return Ok(None) };
    let class = context.objects.get("node.k8s.io", "runtimeclasses", "", name);
    let missing = || request.forbidden(format!("pod rejected: RuntimeClass {name:?} not found"));
    class.map(Some).ok_or_else(missing)
}

/// Refuses a pod that puts its overhead otherwise than its class.
fn same_overhead(request: &Attributes<'_>, cost: &Value, pod: &Value) -> Result<(), ApiError> {
    if parse(cost) == parse(&pod["spec"]["overhead"]) {
        return Ok(());
    }
    Err(request
        .forbidden("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"))
}

/// Adds the class's node selector, which the pod's own may not contradict.
fn select_nodes(
    request: &Attributes<'_>,
    selector: &Value,
    pod: &mut Value,
) -> Result<(), ApiError> {
    let Some(selector) = selector.as_object().filter(|selector| !selector.is_empty()) else {
        return Ok(());
    };
    let slot = &mut pod["spec"]["nodeSelector"];
    if slot.is_null() {
        *slot = json!(Map::new());
    }
    let Some(own) = slot.as_object_mut() else { return Ok(()) };
    for (key, value) in selector {
        let given = own.entry(key.clone()).or_insert_with(|| value.clone());
        if given != value {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            return Err(request.forbidden(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; \
                 pod.spec.nodeSelector[{key}] = {}",
                text(value),
                text(given)
            )));
        }
    }
    Ok(())
}
