//! ResourceQuota: a namespace holds no more than it was given.
//!
//! Usage is counted from the objects that are there now, not from the quota's
//! status, so a controller that lags cannot let anything through. Two creates
//! at the same moment may still pass together; closing that gap takes a
//! compare on the quota in the write's transaction, which is not here yet.
//!
//! Counted are pods (number, requests, limits), and `count/…` of every kind
//! with the old short names. Scopes select pods by `Terminating` and
//! `BestEffort`; other scopes match nothing.

use std::collections::BTreeMap;

use serde_json::Value;
use skiff_api::quantity::Quantity;

use super::{Attributes, Context, Operation, Plugin, items};
use crate::status::ApiError;

type Usage = BTreeMap<String, Quantity>;

pub(super) struct ResourceQuota;

impl Plugin for ResourceQuota {
    fn validate(
        &self,
        context: &Context,
        request: &Attributes<'_>,
        object: &Value,
    ) -> Result<(), ApiError> {
        let info = request.info;
        if request.operation != Operation::Create
            || info.namespace.is_empty()
            || !info.subresource.is_empty()
            || info.resource == "resourcequotas"
        {
            return Ok(());
        }
        for quota in context.objects.list("", "resourcequotas", &info.namespace) {
            let hard = parse(&quota["spec"]["hard"]);
            let asked = usage_of(&info.api_group, &info.resource, object);
            let touched: Vec<&String> =
                hard.keys().filter(|key| asked.contains_key(*key)).collect();
            let scopes = || scopes_of(&quota);
            if info.resource == "pods" && !scopes().iter().all(|scope| in_scope(scope, object)) {
                continue;
            }
            if info.resource == "pods" {
                let missing = unspecified(&hard, object);
                if !missing.is_empty() {
                    let name = quota["metadata"]["name"].as_str().unwrap_or_default();
                    return Err(request.forbidden(format!(
                        "failed quota: {name}: must specify {}",
                        missing.join(",")
                    )));
                }
            }
            if touched.is_empty() {
                continue;
            }
            let mut used = Usage::new();
            for other in context.objects.list(&info.api_group, &info.resource, &info.namespace) {
                let counts = info.resource != "pods"
                    || !is_finished(&other) && scopes().iter().all(|scope| in_scope(scope, &other));
                if counts {
                    for (key, value) in usage_of(&info.api_group, &info.resource, &other) {
                        *used.entry(key).or_default() += value;
                    }
                }
            }
            let name = quota["metadata"]["name"].as_str().unwrap_or_default();
            if let Some(why) = exceeded(name, &hard, &used, &asked) {
                return Err(request.forbidden(why));
            }
        }
        Ok(())
    }
}

/// What is wrong if `asked` comes on top of `used`.
fn exceeded(quota: &str, hard: &Usage, used: &Usage, asked: &Usage) -> Option<String> {
    let zero = Quantity::default();
    let over: Vec<(&String, Quantity, Quantity, Quantity)> = hard
        .iter()
        .filter_map(|(key, hard)| {
            let asked = *asked.get(key)?;
            let used = *used.get(key).unwrap_or(&zero);
            (used + asked > *hard).then_some((key, asked, used, *hard))
        })
        .collect();
    if over.is_empty() {
        return None;
    }
    let list = |pick: fn(&(&String, Quantity, Quantity, Quantity)) -> Quantity| {
        over.iter().map(|row| format!("{}={}", row.0, pick(row))).collect::<Vec<_>>().join(",")
    };
    Some(format!(
        "exceeded quota: {quota}, requested: {}, used: {}, limited: {}",
        list(|row| row.1),
        list(|row| row.2),
        list(|row| row.3)
    ))
}

fn parse(amounts: &Value) -> Usage {
    amounts
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.parse().ok()?)))
        .collect()
}

fn usage_of(group: &str, resource: &str, object: &Value) -> Usage {
    let one = Quantity::from_units(1);
    let qualified =
        if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
    let mut usage = Usage::from([(format!("count/{qualified}"), one)]);
    if group.is_empty() {
        usage.insert(resource.to_owned(), one);
    }
    match (group, resource) {
        ("", "pods") => {
            for side in ["requests", "limits"] {
                for (name, amount) in pod_amounts(object, side) {
                    if side == "requests" && matches!(name.as_str(), "cpu" | "memory") {
                        usage.insert(name.clone(), amount);
                    }
                    usage.insert(format!("{side}.{name}"), amount);
                }
            }
        }
        ("", "persistentvolumeclaims") => {
            if let Some(storage) = parse(&object["spec"]["resources"]["requests"]).get("storage") {
                usage.insert("requests.storage".to_owned(), *storage);
            }
        }
        ("", "services") => {
            let kind = object["spec"]["type"].as_str().unwrap_or_default();
            let ports = i64::try_from(items(&object["spec"]["ports"]).count()).unwrap_or(i64::MAX);
            if kind == "LoadBalancer" {
                usage.insert("services.loadbalancers".to_owned(), one);
            }
            if matches!(kind, "LoadBalancer" | "NodePort") {
                usage.insert("services.nodeports".to_owned(), Quantity::from_units(ports));
            }
        }
        _ => {}
    }
    usage
}

fn pod_amounts(pod: &Value, side: &str) -> Usage {
    let mut sums = Usage::new();
    for container in items(&pod["spec"]["containers"]) {
        for (name, amount) in parse(&container["resources"][side]) {
            *sums.entry(name).or_default() += amount;
        }
    }
    for container in items(&pod["spec"]["initContainers"]) {
        for (name, amount) in parse(&container["resources"][side]) {
            let sum = sums.entry(name).or_default();
            *sum = (*sum).max(amount);
        }
    }
    sums
}

/// Resources under quota that some container of the pod says nothing about:
/// what cannot be counted is refused.
fn unspecified(hard: &Usage, pod: &Value) -> Vec<String> {
    let said = |container: &Value, key: &str| {
        let (side, name) = match key.split_once('.') {
            Some(("requests" | "limits", name)) => {
                (key.split('.').next().unwrap_or_default(), name)
            }
            _ => ("requests", key),
        };
        container["resources"][side][name].is_string()
    };
    hard.keys()
        .filter(|key| {
            matches!(
                key.as_str(),
                "cpu"
                    | "memory"
                    | "requests.cpu"
                    | "requests.memory"
                    | "limits.cpu"
                    | "limits.memory"
            )
        })
        .filter(|key| !items(&pod["spec"]["containers"]).all(|container| said(container, key)))
        .cloned()
        .collect()
}

fn is_finished(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

fn scopes_of(quota: &Value) -> Vec<String> {
    let plain = items(&quota["spec"]["scopes"]).filter_map(Value::as_str);
    let selected =
        items(&quota["spec"]["scopeSelector"]["matchExpressions"]).filter_map(|expression| {
            let exists = expression["operator"] == "Exists";
            // What we cannot judge must not match everything.
            Some(if exists { expression["scopeName"].as_str()? } else { "" })
        });
    plain.chain(selected).map(str::to_owned).collect()
}

fn in_scope(scope: &str, pod: &Value) -> bool {
    let terminating = pod["spec"]["activeDeadlineSeconds"].is_i64();
    let best_effort = || {
        items(&pod["spec"]["containers"]).all(|container| {
            ["requests", "limits"]
                .iter()
                .all(|side| parse(&container["resources"][*side]).is_empty())
        })
    };
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_message_names_what_is_over() {
        let hard = parse(&json!({ "pods": "2", "requests.cpu": "1" }));
        let pod = json!({ "spec": { "containers": [{ "resources": { "requests": { "cpu": "600m" } } }] } });
        let asked = usage_of("", "pods", &pod);
        assert_eq!(exceeded("q", &hard, &Usage::new(), &asked), None);
        let used = usage_of("", "pods", &pod);
        assert_eq!(
            exceeded("q", &hard, &used, &asked).unwrap(),
            "exceeded quota: q, requested: requests.cpu=600m, used: requests.cpu=600m, limited: requests.cpu=1"
        );
    }

    #[test]
    fn what_cannot_be_counted_is_refused() {
        let hard = parse(&json!({ "limits.memory": "1Gi", "pods": "1" }));
        let pod = json!({ "spec": { "containers": [{}] } });
        assert_eq!(unspecified(&hard, &pod), ["limits.memory"]);
    }
}
