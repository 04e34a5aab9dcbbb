//! What a pod asks for, as quotas and LimitRanges count it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{Usage, parse};
use crate::quantity::Quantity;

/// Names under quota that every container has to say something about.
const REQUIRED: [&str; 6] =
    ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// Requests or limits (`side`) of a whole pod.
///
/// Containers run side by side, so theirs add up. Init containers run one
/// after the other, so the largest counts; those that go on running (sidecars)
/// are there for everything that comes after them. What the pod says as a
/// whole overrides that. `overhead` adds what its sandbox costs.
pub fn amounts(pod: &Value, side: &str, overhead: bool) -> Usage {
    let spec = &pod["spec"];
    let mut sum = Usage::new();
    for container in items(&spec["containers"]) {
        add(&mut sum, &parse(&container["resources"][side]));
    }
    let (mut sidecars, mut peak) = (Usage::new(), Usage::new());
    for container in items(&spec["initContainers"]) {
        let mut own = parse(&container["resources"][side]);
        if container["restartPolicy"] == "Always" {
            add(&mut sum, &own);
            add(&mut sidecars, &own);
            own.clone_from(&sidecars);
        } else {
            add(&mut own, &sidecars);
        }
        raise(&mut peak, own);
    }
    raise(&mut sum, peak);
    sum.extend(parse(&spec["resources"][side]));
    if overhead {
        let overhead = parse(&spec["overhead"]);
        match side {
            // A pod without a limit has none with its sandbox either.
            "limits" => {
                for (name, sum) in sum.iter_mut().filter(|(_, sum)| !sum.is_zero()) {
                    *sum += overhead.get(name).copied().unwrap_or_default();
                }
            }
            _ => add(&mut sum, &overhead),
        }
    }
    sum
}

fn add(sum: &mut Usage, more: &Usage) {
    for (name, amount) in more {
        *sum.entry(name.clone()).or_default() += *amount;
    }
}

fn raise(peak: &mut Usage, other: Usage) {
    for (name, amount) in other {
        let peak = peak.entry(name).or_default();
        *peak = (*peak).max(amount);
    }
}

/// Whether a pod still takes anything of its node, or may.
pub(super) fn counts(pod: &Value, now: Timestamp) -> bool {
    if matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return false;
    }
    let deleted = pod["metadata"]["deletionTimestamp"].as_str();
    let deleted = deleted.and_then(|at| at.parse::<Timestamp>().ok());
    let grace = pod["metadata"]["deletionGracePeriodSeconds"].as_i64();
    // Its node may be gone; after its grace period it is not waited for.
    match (deleted, grace) {
        (Some(at), Some(grace)) => {
            now <= at.saturating_add(SignedDuration::from_secs(grace)).unwrap_or(at)
        }
        _ => true,
    }
}

/// What a pod that counts uses.
pub(super) fn usage(pod: &Value) -> Usage {
    let mut usage = Usage::new();
    for (name, amount) in amounts(pod, "requests", true) {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || is_huge_page(&name) {
            usage.insert(name.clone(), amount);
        }
        usage.insert(format!("requests.{name}"), amount);
    }
    for (name, amount) in amounts(pod, "limits", true) {
        usage.insert(format!("limits.{name}"), amount);
    }
    usage
}

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Which of the names under quota some containers say nothing about: what
/// cannot be counted is refused. Upstream's words, empty if all is said.
pub fn unspecified(hard: &Usage, pod: &Value) -> Option<String> {
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let whole = &pod["spec"]["resources"];
    for name in REQUIRED.into_iter().filter(|name| hard.contains_key(*name)) {
        let (side, resource) = name.split_once('.').unwrap_or(("requests", name));
        if !whole[side][resource].is_null() {
            continue;
        }
        let lists = [&pod["spec"]["containers"], &pod["spec"]["initContainers"]];
        for container in lists.into_iter().flat_map(items) {
            if container["resources"][side][resource].is_null() {
                missing
                    .entry(name)
                    .or_default()
                    .insert(container["name"].as_str().unwrap_or_default());
            }
        }
    }
    if missing.is_empty() {
        return None;
    }
    let texts: Vec<String> = missing
        .into_iter()
        .map(|(name, containers)| {
            format!("{name} for: {}", containers.into_iter().collect::<Vec<_>>().join(","))
        })
        .collect();
    Some(format!("must specify {}", texts.join("; ")))
}

/// Whether no container of the pod asks for CPU or memory, nor the pod itself.
pub(super) fn is_best_effort(pod: &Value) -> bool {
    let spec = &pod["spec"];
    let says = |resources: &Value| {
        ["requests", "limits"].iter().any(|side| {
            let amounts = parse(&resources[*side]);
            ["cpu", "memory"]
                .iter()
                .any(|name| amounts.get(*name).is_some_and(|amount| *amount > Quantity::ZERO))
        })
    };
    let lists = [&spec["containers"], &spec["initContainers"]];
    !says(&spec["resources"])
        && !lists.into_iter().flat_map(items).any(|container| says(&container["resources"]))
}
