//! Requests and limits as the kernel takes them: weights, quotas, QoS. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use skiff_api::quantity::Quantity as Amount;
pub use skiff_api::validation::qos_class;

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
    // What is asked for the pod as a whole stands for what its containers ask.
    for (name, amount) in requested(spec.resources.as_ref()).into_iter().flatten() {
        most.insert(name.clone(), parse(amount).map_or(0, Amount::millis));
    }
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
    if let Some(whole) = memory_bytes(limited(spec.resources.as_ref())) {
        return Some(whole);
    }
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
pub fn raise(most: &mut BTreeMap<String, i64>, other: BTreeMap<String, i64>) {
    for (name, amount) in other {
        let known = most.entry(name).or_default();
        *known = amount.max(*known);
    }
}

/// The limits that the runtime enforces for a container with these resources.
///
/// Where a container has no limit of its own the pod's counts, and of the CPU
/// that the pod asks for each gets an equal part of what the others have not
/// asked for. What holds for all of them together is in [`pod_limits`].
pub fn limits(spec: &PodSpec, own: Option<&ResourceRequirements>) -> Limits {
    let whole = spec.resources.as_ref();
    let cpu_limit = cpu_milli(limited(own)).or_else(|| cpu_milli(limited(whole)));
    let memory_limit = memory_limit_of(spec, own);
    // A container without a request but with a limit asks for its limit.
    let weight_milli = cpu_milli(requested(own))
        .or_else(|| cpu_milli(limited(own)))
        .or_else(|| unasked_cpu(spec))
        .unwrap_or_default();
    limits_of(weight_milli, cpu_limit, memory_limit)
}

/// The memory that a container with these resources may use by the spec, if
/// that is limited.
pub fn memory_limit_of(spec: &PodSpec, own: Option<&ResourceRequirements>) -> Option<i64> {
    let whole = spec.resources.as_ref();
    memory_bytes(limited(own)).or_else(|| memory_bytes(limited(whole))).filter(|bytes| *bytes > 0)
}

/// The limits that hold for all containers of a pod together; `None` for a pod
/// that has none of these. `pids` is how many processes the node gives to one
/// pod, `node` what it has: where there are huge pages a pod may take those that
/// it asks for, and no others.
///
/// The weight goes with them: what the pod's containers weigh among each other
/// they no longer weigh among all.
pub fn pod_limits(
    pod: &Pod,
    pids: Option<i64>,
    node: &BTreeMap<String, Quantity>,
) -> Option<Limits> {
    let whole = limited(super::model::spec(pod).resources.as_ref());
    let Limits { cpu_quota_us, memory_bytes, .. } =
        limits_of(0, cpu_milli(whole), memory_bytes(whole));
    let asked = requests(pod, None);
    let asked = |name: &str| asked.get(name).copied().unwrap_or_default();
    let there = node.iter().filter(|(_, amount)| parse(amount).is_some_and(|one| one.bytes() > 0));
    let huge_pages: BTreeMap<_, _> = there
        .filter_map(|(name, _)| {
            let page = parse(&Quantity(name.strip_prefix("hugepages-")?.to_owned()))?.bytes();
            Some((page, asked(name) / 1000))
        })
        .collect();
    if (cpu_quota_us, memory_bytes, pids) == (None, None, None) && huge_pages.is_empty() {
        return None;
    }
    let weight = limits_of(asked("cpu"), None, None);
    Some(Limits { cpu_quota_us, memory_bytes, pids, huge_pages, ..weight })
}

fn limits_of(weight_milli: i64, cpu_milli: Option<i64>, memory_bytes: Option<i64>) -> Limits {
    Limits {
        cpu_shares: Some((weight_milli * 1024 / 1000).clamp(MIN_CPU_SHARES, MAX_CPU_SHARES)),
        // 100 ms of period: a thousandth of a CPU is 100 µs of it.
        cpu_quota_us: cpu_milli
            .filter(|milli| *milli > 0)
            .map(|milli| (milli * 100).max(MIN_CPU_QUOTA_US)),
        memory_bytes: memory_bytes
            .filter(|bytes| *bytes > 0)
            .map(|bytes| bytes.max(MIN_MEMORY_BYTES)),
        ..Limits::default()
    }
}

/// The part of the pod's CPU, in thousandths, of a container that asks for none.
fn unasked_cpu(spec: &PodSpec) -> Option<i64> {
    let whole = cpu_milli(requested(spec.resources.as_ref()))?;
    let asked: Vec<_> =
        spec.containers.iter().map(|one| cpu_milli(requested(one.resources.as_ref()))).collect();
    let silent = i64::try_from(asked.iter().filter(|asked| asked.is_none()).count()).ok()?;
    let left = whole - asked.iter().flatten().sum::<i64>();
    Some(left.max(0) / silent.max(1))
}

fn limited(resources: Option<&ResourceRequirements>) -> Option<&BTreeMap<String, Quantity>> {
    resources?.limits.as_ref()
}

fn requested(resources: Option<&ResourceRequirements>) -> Option<&BTreeMap<String, Quantity>> {
    resources?.requests.as_ref()
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
        let of = |value| limits(&PodSpec::default(), Some(&serde_json::from_value(value).unwrap()));
        let cases = [
            (json!({}), Limits { cpu_shares: Some(2), ..Limits::default() }),
            (
                json!({"requests": {"cpu": "250m"}, "limits": {"cpu": "500m", "memory": "64Mi"}}),
                Limits {
                    cpu_shares: Some(256),
                    cpu_quota_us: Some(50_000),
                    memory_bytes: Some(64 << 20),
                    ..Limits::default()
                },
            ),
            (
                json!({"limits": {"cpu": "1m", "memory": "1Mi"}}),
                Limits {
                    cpu_shares: Some(2),
                    cpu_quota_us: Some(1_000),
                    memory_bytes: Some(6 << 20),
                    ..Limits::default()
                },
            ),
        ];
        for (resources, expected) in cases {
            assert_eq!(of(resources.clone()), expected, "{resources}");
        }
    }

    #[test]
    fn only_what_limits_a_pod_as_a_whole_needs_a_cgroup() {
        let pod = |spec| -> Pod { serde_json::from_value(json!({"spec": spec})).unwrap() };
        let own = json!([{"name": "a", "resources": {"requests": {"cpu": "1"},
            "limits": {"cpu": "1", "memory": "1Gi"}}}]);
        let pod_limits = |pod: &Pod, pids| pod_limits(pod, pids, &BTreeMap::new());
        assert_eq!(pod_limits(&pod(json!({"containers": own})), None), None);
        let asks = json!({"containers": own, "resources": {"requests": {"cpu": "2"}}});
        assert_eq!(pod_limits(&pod(asks), None), None, "a request is no limit");
        let found = pod_limits(&pod(json!({"containers": own})), Some(7));
        let expected = Limits { cpu_shares: Some(1024), pids: Some(7), ..Limits::default() };
        assert_eq!(found, Some(expected), "its weight is that of its containers");
        let found = pod_limits(&pod(json!({"containers": [{"name": "a"}]})), Some(7));
        assert_eq!(found.and_then(|found| found.cpu_shares), Some(2));
    }

    #[test]
    fn huge_pages_are_only_for_those_who_ask() {
        let quantity = |amount: &str| Quantity(amount.into());
        let node = BTreeMap::from([
            ("memory".into(), quantity("1Gi")),
            ("hugepages-2Mi".into(), quantity("64Mi")),
            ("hugepages-1Gi".into(), quantity("0")),
        ]);
        let asks = |amount: &str| json!({"requests": {"hugepages-2Mi": amount}});
        let pod = |spec| -> Pod { serde_json::from_value(json!({"spec": spec})).unwrap() };
        let own = json!([{"name": "a", "resources": asks("4Mi")}, {"name": "b", "resources": asks("2Mi")}]);
        let pages = |spec, node| pod_limits(&pod(spec), None, node).map(|limits| limits.huge_pages);
        let two = |bytes: i64| Some(BTreeMap::from([(2 << 20, bytes)]));
        assert_eq!(pages(json!({"containers": own}), &node), two(6 << 20));
        assert_eq!(pages(json!({"containers": [{"name": "a"}]}), &node), two(0));
        assert_eq!(pages(json!({"containers": [{"name": "a"}]}), &BTreeMap::new()), None);
    }

    #[test]
    fn what_a_pod_asks_for_as_a_whole_goes_before_what_its_containers_ask() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "overhead": {"cpu": "10m"},
            "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "3", "memory": "64Mi"}},
            "containers": [
                {"name": "a", "resources": {"requests": {"cpu": "500m", "memory": "8Mi"},
                                            "limits": {"memory": "16Mi"}}},
                {"name": "b"},
                {"name": "c"},
            ],
        }}))
        .unwrap();
        let asked = BTreeMap::from([("cpu".into(), 2010), ("memory".into(), 1000 * (8 << 20))]);
        assert_eq!(requests(&pod, None), asked);
        assert_eq!(memory_limit(&pod), Some(64 << 20));
        let spec = pod.spec.clone().unwrap();
        let of = |index: usize| limits(&spec, spec.containers[index].resources.as_ref());
        let all = |milli: i64, memory_bytes| Limits {
            cpu_shares: Some(milli * 1024 / 1000),
            cpu_quota_us: Some(300_000),
            memory_bytes: Some(memory_bytes),
            ..Limits::default()
        };
        assert_eq!(of(0), all(500, 16 << 20), "what it has of its own");
        assert_eq!(of(1), all(750, 64 << 20), "half of what is left");
        assert_eq!(of(1), of(2));
        let together = Limits { cpu_shares: Some(2058), ..all(0, 64 << 20) };
        let pod_limits = |pids| pod_limits(&pod, pids, &BTreeMap::new());
        assert_eq!(pod_limits(None), Some(together.clone()));
        assert_eq!(pod_limits(Some(9)), Some(Limits { pids: Some(9), ..together }));
    }
}
