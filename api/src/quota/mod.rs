//! What objects use of a ResourceQuota.
//!
//! A quota's `spec.hard` names what it bounds: `pods`, `requests.cpu`,
//! `count/deployments.apps` and so on. Each name is about one kind. [`usage`]
//! says what one object uses, [`matches()`] whether a quota's scopes select it,
//! [`relevant`] which names of a quota are about a kind, and [`exceeded`] what
//! is wrong if more is asked for than is left. Admission adds single objects
//! to a quota's status by these rules and the quota controller counts all of
//! them again by the same.
//!
//! Rules: `pkg/quota/v1/evaluator/core` of Kubernetes v1.35.
//!
//! Left out: the `VolumeAttributesClass` scope, which selects nothing.

mod pod;
mod scope;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::Value;

use crate::quantity::Quantity;

pub use pod::{amounts, unspecified};
pub use scope::matches;

/// Amounts by the names that quotas use.
pub type Usage = BTreeMap<String, Quantity>;

/// A kind that quotas count: group and plural name.
pub type Kind = (String, String);

/// Suffix of the names that bound the claims of one storage class.
const STORAGE_CLASS: &str = ".storageclass.storage.k8s.io/";

/// Core kinds that have a name of their own beside `count/…`.
const OLD_NAMES: [&str; 7] = [
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
];

/// Reads a map of quantities; what is no quantity, validation has refused.
pub fn parse(amounts: &Value) -> Usage {
    amounts
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| {
            let amount = match value {
                Value::String(text) => text.parse().ok()?,
                Value::Number(number) => number.to_string().parse().ok()?,
                _ => return None,
            };
            Some((key.clone(), amount))
        })
        .collect()
}

/// Writes a map of quantities.
pub fn render(usage: &Usage) -> Value {
    usage.iter().map(|(key, amount)| (key.clone(), Value::from(amount.to_string()))).collect()
}

/// The kind that a name of `spec.hard` is about; `None` for names that nothing
/// counts.
pub fn kind_of(name: &str) -> Option<Kind> {
    let core = |plural: &str| Some((String::new(), plural.to_owned()));
    if let Some(counted) = name.strip_prefix("count/") {
        let (plural, group) = counted.split_once('.').unwrap_or((counted, ""));
        return Some((group.to_owned(), plural.to_owned()));
    }
    if OLD_NAMES.contains(&name) {
        return core(name);
    }
    match name {
        "services.loadbalancers" | "services.nodeports" => core("services"),
        "requests.storage" => core("persistentvolumeclaims"),
        _ if name.contains(STORAGE_CLASS) => core("persistentvolumeclaims"),
        "cpu" | "memory" | "ephemeral-storage" => core("pods"),
        _ if name.starts_with("requests.")
            || name.starts_with("limits.")
            || name.starts_with("hugepages-") =>
        {
            core("pods")
        }
        _ => None,
    }
}

/// The kinds that a quota with these names counts.
pub fn kinds(hard: &Usage) -> BTreeSet<Kind> {
    hard.keys().filter_map(|name| kind_of(name)).collect()
}

/// The part of `hard` that is about one kind.
pub fn relevant(hard: &Usage, group: &str, resource: &str) -> Usage {
    let about =
        |name: &str| kind_of(name).is_some_and(|kind| kind.0 == group && kind.1 == resource);
    hard.iter().filter(|(name, _)| about(name)).map(|(name, hard)| (name.clone(), *hard)).collect()
}

/// What one object uses, under every name that it counts for. A pod that has
/// ended, or should have by `now`, uses nothing but its place in the store.
pub fn usage(group: &str, resource: &str, object: &Value, now: Timestamp) -> Usage {
    let one = Quantity::from_units(1);
    let dot = if group.is_empty() { "" } else { "." };
    let mut usage = Usage::from([(format!("count/{resource}{dot}{group}"), one)]);
    if !group.is_empty() {
        return usage;
    }
    match resource {
        "pods" if !pod::counts(object, now) => return usage,
        "pods" => usage.extend(pod::usage(object)),
        "services" => usage.extend(service(object)),
        "persistentvolumeclaims" => usage.extend(claim(object)),
        _ => {}
    }
    if OLD_NAMES.contains(&resource) {
        usage.insert(resource.to_owned(), one);
    }
    usage
}

fn service(service: &Value) -> Usage {
    let spec = &service["spec"];
    let ports = || spec["ports"].as_array().into_iter().flatten();
    let kind = spec["type"].as_str().unwrap_or_default();
    let node_ports = match kind {
        "NodePort" => ports().count(),
        "LoadBalancer" if spec["allocateLoadBalancerNodePorts"] == false => {
            ports().filter(|port| port["nodePort"].as_i64().is_some_and(|port| port != 0)).count()
        }
        "LoadBalancer" => ports().count(),
        _ => 0,
    };
    let count = |number: usize| Quantity::from_units(i64::try_from(number).unwrap_or(i64::MAX));
    Usage::from([
        ("services.nodeports".to_owned(), count(node_ports)),
        ("services.loadbalancers".to_owned(), count(usize::from(kind == "LoadBalancer"))),
    ])
}

fn claim(claim: &Value) -> Usage {
    let requested = parse(&claim["spec"]["resources"]["requests"]).remove("storage");
    // A growing claim already holds what it grows to.
    let allocated = parse(&claim["status"]["allocatedResources"]).remove("storage");
    let storage = requested.max(allocated);
    let mut usage = Usage::new();
    if let Some(storage) = storage {
        usage.insert("requests.storage".to_owned(), storage);
    }
    let class = claim["spec"]["storageClassName"].as_str().unwrap_or_default();
    if !class.is_empty() {
        let one = Quantity::from_units(1);
        usage.insert(format!("{class}{STORAGE_CLASS}persistentvolumeclaims"), one);
        if let Some(storage) = storage {
            usage.insert(format!("{class}{STORAGE_CLASS}requests.storage"), storage);
        }
    }
    usage
}

/// What all `objects` of one kind use of the names in `hard`, which must be
/// [`relevant`] for it. Every name is in the result.
pub fn total<'a>(
    hard: &Usage,
    spec: &Value,
    (group, resource): (&str, &str),
    objects: impl IntoIterator<Item = &'a Value>,
    now: Timestamp,
) -> Usage {
    let mut sum: Usage = hard.keys().map(|name| (name.clone(), Quantity::ZERO)).collect();
    for object in objects {
        if !matches(spec, group, resource, object) {
            continue;
        }
        for (name, amount) in usage(group, resource, object, now) {
            if let Some(sum) = sum.get_mut(&name) {
                *sum += amount;
            }
        }
    }
    sum
}

/// What is wrong if `asked` comes on top of `used`, in upstream's words.
pub fn exceeded(quota: &str, hard: &Usage, used: &Usage, asked: &Usage) -> Option<String> {
    let over: Vec<(&String, Quantity, Quantity, Quantity)> = asked
        .iter()
        .filter_map(|(name, asked)| {
            let hard = *hard.get(name)?;
            let used = used.get(name).copied().unwrap_or_default();
            (used + *asked > hard).then_some((name, *asked, used, hard))
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

#[cfg(test)]
mod tests;
