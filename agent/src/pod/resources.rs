//! Requests and limits as the kernel takes them: weights, quotas, QoS. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use skiff_api::quantity::Quantity as Amount;

use crate::runtime::Limits;

/// Docker refuses less memory than this.
const MIN_MEMORY_BYTES: i64 = 6 << 20;
/// The kernel's smallest CPU quota.
const MIN_CPU_QUOTA_US: i64 = 1_000;
/// The smallest CPU weight, for a container that asks for nothing.
const MIN_CPU_SHARES: i64 = 2;
/// The largest, cgroup version 1's limit.
const MAX_CPU_SHARES: i64 = 262_144;

/// From this priority on a pod is what the cluster rests on.
pub const SYSTEM_CRITICAL: i32 = 2_000_000_000;

/// Reads an amount. What the API let through is a quantity; anything else
/// counts as none.
pub fn parse(quantity: &Quantity) -> Option<Amount> {
    quantity.0.parse().ok()
}

/// A container's CPU in thousandths from `limits` or `requests`.
fn cpu_milli(amounts: Option<&BTreeMap<String, Quantity>>) -> Option<i64> {
    amounts?.get("cpu").and_then(parse).map(Amount::millis)
}

fn memory_bytes(amounts: Option<&BTreeMap<String, Quantity>>) -> Option<i64> {
    amounts?.get("memory").and_then(parse).map(Amount::bytes)
}

/// What a pod asks for, in thousandths: its containers and sidecars together,
/// or the init container that needs most beside the sidecars before it. With
/// `given`, what the node has given counts where it says so.
pub fn requests(pod: &Pod, given: Option<&PodStatus>) -> BTreeMap<String, i64> {
    let known = given.into_iter().flat_map(|status| {
        status.container_statuses.iter().chain(&status.init_container_statuses).flatten()
    });
    let known: BTreeMap<&str, _> = known
        .filter_map(|status| Some((status.name.as_str(), status.allocated_resources.as_ref()?)))
        .collect();
    let none = BTreeMap::new();
    let of = |container: &Container| -> BTreeMap<String, i64> {
        let own = container.resources.as_ref().and_then(|own| own.requests.as_ref());
        let list = known.get(container.name.as_str()).copied().or(own).unwrap_or(&none);
        list.iter()
            .filter_map(|(name, amount)| Some((name.clone(), parse(amount)?.millis())))
            .collect()
    };
    let add = |sum: &mut BTreeMap<String, i64>, more: BTreeMap<String, i64>| {
        more.into_iter().for_each(|(name, amount)| *sum.entry(name).or_default() += amount);
    };
    let spec = super::model::spec(pod);
    let (mut sidecars, mut most) = (BTreeMap::new(), BTreeMap::new());
    for init in spec.init_containers.iter().flatten() {
        if super::model::is_sidecar(init) {
            add(&mut sidecars, of(init));
            continue;
        }
        let mut alone = sidecars.clone();
        add(&mut alone, of(init));
        raise(&mut most, alone);
    }
    spec.containers.iter().for_each(|container| add(&mut sidecars, of(container)));
    raise(&mut most, sidecars);
    for (name, amount) in spec.overhead.iter().flatten() {
        let amount = parse(amount).map_or(0, Amount::millis);
        *most.entry(name.clone()).or_default() += amount;
    }
    most
}

/// How much memory the pod's containers may use together, if each of them is
/// limited.
pub fn memory_limit(pod: &Pod) -> Option<i64> {
    let of = |container: &Container| {
        let limits = container.resources.as_ref().and_then(|own| own.limits.as_ref());
        memory_bytes(limits).filter(|bytes| *bytes > 0)
    };
    let spec = super::model::spec(pod);
    let (mut beside, mut most) = (0, 0);
    for init in spec.init_containers.iter().flatten() {
        let own = of(init)?;
        most = most.max(beside + own);
        if super::model::is_sidecar(init) {
            beside += own;
        }
    }
    for container in &spec.containers {
        beside += of(container)?;
    }
    Some(most.max(beside))
}

/// The larger of both, by name.
fn raise(most: &mut BTreeMap<String, i64>, other: BTreeMap<String, i64>) {
    for (name, amount) in other {
        let known = most.entry(name).or_default();
        *known = amount.max(*known);
    }
}

/// The limits that the runtime enforces.
pub fn limits(resources: Option<&ResourceRequirements>) -> Limits {
    let limits = resources.and_then(|resources| resources.limits.as_ref());
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    // A container without a request but with a limit asks for its limit.
    let weight_milli = cpu_milli(requests).or_else(|| cpu_milli(limits)).unwrap_or_default();
    Limits {
        cpu_shares: Some((weight_milli * 1024 / 1000).clamp(MIN_CPU_SHARES, MAX_CPU_SHARES)),
        // 100 ms of period: a thousandth of a CPU is 100 µs of it.
        cpu_quota_us: cpu_milli(limits)
            .filter(|milli| *milli > 0)
            .map(|milli| (milli * 100).max(MIN_CPU_QUOTA_US)),
        memory_bytes: memory_bytes(limits)
            .filter(|bytes| *bytes > 0)
            .map(|bytes| bytes.max(MIN_MEMORY_BYTES)),
        pids: None,
    }
}

/// The pod's quality of service class.
pub fn qos_class(spec: &PodSpec) -> &'static str {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let mut guaranteed = true;
    let mut best_effort = true;
    for container in containers {
        let resources = container.resources.as_ref();
        let limits = resources.and_then(|resources| resources.limits.as_ref());
        let requests = resources.and_then(|resources| resources.requests.as_ref());
        for name in ["cpu", "memory"] {
            let amount = |amounts: Option<&BTreeMap<String, Quantity>>| {
                amounts
                    .and_then(|amounts| amounts.get(name))
                    .and_then(parse)
                    .filter(|amount| !amount.is_zero() && !amount.is_negative())
            };
            let (limit, request) = (amount(limits), amount(requests));
            best_effort &= limit.is_none() && request.is_none();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (best_effort, guaranteed) {
        (true, _) => "BestEffort",
        (_, true) => "Guaranteed",
        _ => "Burstable",
    }
}

/// How readily the kernel kills the container when memory is short: last what
/// got what it asked for, first what asked for nothing.
pub fn oom_score_adj(spec: &PodSpec, container: &Container, node_memory_bytes: u64) -> i64 {
    if spec.priority.is_some_and(|priority| priority >= SYSTEM_CRITICAL) {
        return -997;
    }
    match qos_class(spec) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let requests =
                container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
            let asked = memory_bytes(requests).unwrap_or_default();
            let node = i64::try_from(node_memory_bytes).unwrap_or(i64::MAX).max(1);
            (1000 - (1000i128 * i128::from(asked) / i128::from(node)) as i64).clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn qos_follows_requests_and_limits() {
        let cases = [
            (json!({}), "BestEffort"),
            (json!({"requests": {"cpu": "100m"}}), "Burstable"),
            (
                json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}),
                "Guaranteed",
            ),
            (
                json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}}),
                "Burstable",
            ),
            (json!({"limits": {"memory": "1Gi"}}), "Burstable"),
        ];
        for (resources, expected) in cases {
            let spec: PodSpec = serde_json::from_value(
                json!({"containers": [{"name": "a", "resources": resources.clone()}]}),
            )
            .unwrap();
            assert_eq!(qos_class(&spec), expected, "{resources}");
        }
    }

    #[test]
    fn a_pod_asks_for_its_sum_or_its_largest_init_container() {
        let asks = |cpu: &str| json!({"requests": {"cpu": cpu}});
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "overhead": {"cpu": "10m"},
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": asks("100m")},
                {"name": "i", "resources": asks("500m")},
            ],
            "containers": [{"name": "a", "resources": asks("200m")}, {"name": "b"}],
        }}))
        .unwrap();
        assert_eq!(requests(&pod, None), BTreeMap::from([("cpu".into(), 610)]));
        let given: PodStatus = serde_json::from_value(json!({"containerStatuses": [{"name": "a",
            "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "allocatedResources": {"cpu": "1"}}]}))
        .unwrap();
        assert_eq!(requests(&pod, Some(&given)), BTreeMap::from([("cpu".into(), 1110)]));
    }

    #[test]
    fn limits_become_weights_and_quotas() {
        let of = |value| limits(Some(&serde_json::from_value(value).unwrap()));
        let cases = [
            (json!({}), Limits { cpu_shares: Some(2), ..Limits::default() }),
            (
                json!({"requests": {"cpu": "250m"}, "limits": {"cpu": "500m", "memory": "64Mi"}}),
                Limits {
                    cpu_shares: Some(256),
                    cpu_quota_us: Some(50_000),
                    memory_bytes: Some(64 << 20),
                    pids: None,
                },
            ),
            (
                json!({"limits": {"cpu": "1m", "memory": "1Mi"}}),
                Limits {
                    cpu_shares: Some(2),
                    cpu_quota_us: Some(1_000),
                    memory_bytes: Some(6 << 20),
                    pids: None,
                },
            ),
        ];
        for (resources, expected) in cases {
            assert_eq!(of(resources.clone()), expected, "{resources}");
        }
    }
}
