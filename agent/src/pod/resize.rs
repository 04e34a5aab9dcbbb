//! Resizing a pod in place: other amounts of CPU and memory for containers
//! that go on running. Pure.
//!
//! What a container has been given is in its status (`allocatedResources` for
//! the requests, `resources` for all); what the kernel enforces is what the
//! runtime says. When the spec asks for something else, the node looks whether
//! it has room ([`judge`]). If not, the pod goes on with what it has
//! ([`as_given`]) and its condition `PodResizePending` says why. If it has, the
//! plan changes the limits of the running container, or restarts it where its
//! `resizePolicy` says so.
//!
//! Left out: resizing a pod as a whole (`spec.resources`).

use std::{cmp::Reverse, collections::BTreeMap};

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::model::{Attempt, has_ended, spec};
use super::resources::{self, parse};
use super::status::RESIZE_PENDING;
use crate::runtime::Limits;

/// What can be resized.
const RESOURCES: [&str; 2] = ["cpu", "memory"];

/// A resize that has to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// `Infeasible` or `Deferred`.
    pub reason: &'static str,
    /// Why.
    pub message: String,
}

impl Pending {
    /// Whether it happens when other pods have gone.
    pub fn is_deferred(&self) -> bool {
        self.reason == "Deferred"
    }
}

/// Amounts by resource, in thousandths.
pub type Amounts = BTreeMap<String, i64>;

/// The status of a container, main or init.
fn status_of<'a>(status: &'a PodStatus, name: &str) -> Option<&'a ContainerStatus> {
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    all.into_iter().find(|known| known.name == name)
}

/// Whether the spec asks for other requests than the pod has been given.
pub fn is_asked(pod: &Pod, given: &PodStatus) -> bool {
    let spec = spec(pod);
    let mut all = spec.init_containers.iter().flatten().chain(&spec.containers);
    all.any(|container| {
        let Some(known) = status_of(given, &container.name) else { return false };
        let limits = |resources| resources::limits(spec, resources);
        let other_limits = known.resources.is_some()
            && limits(known.resources.as_ref()) != limits(container.resources.as_ref());
        let requests = container.resources.as_ref().and_then(|own| own.requests.as_ref());
        let other_requests = known.allocated_resources.as_ref().is_some_and(|allocated| {
            RESOURCES.iter().any(|name| {
                let amount = |list: Option<&BTreeMap<String, Quantity>>| {
                    list.and_then(|list| list.get(*name)).and_then(parse)
                };
                amount(Some(allocated)) != amount(requests)
            })
        });
        other_limits || other_requests
    })
}

/// Whether the node has room for what the pod asks for now: `None` if so.
/// `used` is what the other pods have been given.
pub fn judge(
    pod: &Pod,
    allocatable: &BTreeMap<String, Quantity>,
    used: &Amounts,
) -> Option<Pending> {
    let wanted = resources::requests(pod, None);
    let short = |reason, text: &str, beyond: &dyn Fn(&str) -> i64| {
        RESOURCES.iter().find_map(|name| {
            let capacity = allocatable.get(*name).and_then(parse)?.millis();
            let asked = wanted.get(*name).copied().unwrap_or_default();
            let taken = beyond(name);
            if asked == 0 || asked + taken <= capacity {
                return None;
            }
            let unit = if *name == "cpu" { 1 } else { 1000 };
            let (asked, taken, capacity) = (asked / unit, taken / unit, capacity / unit);
            let used =
                if reason == "Deferred" { format!(", used: {taken}") } else { String::new() };
            let message = format!("{text}: {name}, requested: {asked}{used}, capacity: {capacity}");
            Some(Pending { reason, message })
        })
    };
    short("Infeasible", "Node didn't have enough capacity", &|_| 0).or_else(|| {
        let taken = |name: &str| used.get(name).copied().unwrap_or_default();
        short("Deferred", "Node didn't have enough resource", &taken)
    })
}

/// What `others` have been given, with whether their resize was let begin, and
/// what those will be given that come before this pod.
///
/// Of several that want a resize the one of the highest priority comes first,
/// then that of the best quality of service, then the one that has waited
/// longest. Where its room is not enough the next one may use it.
pub fn used_by_others<'a>(
    pod: &'a Pod,
    others: impl IntoIterator<Item = (&'a Pod, bool)>,
    allocatable: &BTreeMap<String, Quantity>,
) -> Amounts {
    let others = others.into_iter().filter(|(other, _)| other.metadata.uid != pod.metadata.uid);
    let mut all: Vec<_> = others.filter(|(other, _)| !has_ended(other)).collect();
    all.sort_by_cached_key(|(other, _)| rank(other));
    let own = all.partition_point(|(other, _)| rank(other) < rank(pod));
    all.insert(own, (pod, false));
    let taken = all.iter().map(|(one, resizes)| {
        let mut taken = resources::requests(one, one.status.as_ref());
        // The status tells later.
        if *resizes {
            resources::raise(&mut taken, resources::requests(one, None));
        }
        taken
    });
    let mut taken: Vec<_> = taken.collect();
    for (index, (first, _)) in all.iter().enumerate().take(own) {
        let asks = first.metadata.deletion_timestamp.is_none()
            && first.status.as_ref().is_some_and(|given| is_asked(first, given));
        if asks && judge(first, allocatable, &sum_but(&taken, index)).is_none() {
            taken[index] = resources::requests(first, None);
        }
    }
    sum_but(&taken, own)
}

/// By this pods that want a resize are ordered.
fn rank(pod: &Pod) -> impl Ord + use<> {
    let quality = match resources::qos_class(spec(pod)) {
        "Guaranteed" => 0,
        "Burstable" => 1,
        _ => 2,
    };
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let since = conditions
        .filter(|condition| condition.type_ == RESIZE_PENDING)
        .find_map(|condition| condition.last_transition_time.as_ref().map(|time| time.0));
    let priority = spec(pod).priority.unwrap_or_default();
    (Reverse(priority), quality, since.is_none(), since, pod.metadata.uid.clone())
}

fn sum_but(amounts: &[Amounts], left_out: usize) -> Amounts {
    let mut sum = Amounts::new();
    let rest = amounts.iter().enumerate().filter(|(index, _)| *index != left_out);
    for (name, amount) in rest.flat_map(|(_, amounts)| amounts) {
        *sum.entry(name.clone()).or_default() += amount;
    }
    sum
}

/// The pod with the resources that it has been given instead of those it asks
/// for.
pub fn as_given(pod: &Pod, given: &PodStatus) -> Pod {
    let mut pod = pod.clone();
    let Some(spec) = &mut pod.spec else { return pod };
    let inits = spec.init_containers.iter_mut().flatten();
    for container in inits.chain(&mut spec.containers) {
        let known = status_of(given, &container.name).and_then(|known| known.resources.clone());
        if known.is_some() {
            container.resources = known;
        }
    }
    pod
}

/// The limits that a running container should have and does not.
pub fn other_limits(spec: &PodSpec, container: &Container, attempt: &Attempt) -> Option<Limits> {
    let wanted = resources::limits(spec, container.resources.as_ref());
    let known = Limits { pids: wanted.pids, ..attempt.container.limits.clone() };
    (known != wanted).then_some(wanted)
}

/// What a change of resources restarts a container for: the amounts whose
/// `resizePolicy` is `RestartContainer`.
pub fn restart_key(container: &Container) -> String {
    let policies = container.resize_policy.iter().flatten();
    let named = policies.filter(|policy| policy.restart_policy == "RestartContainer");
    let own = container.resources.as_ref();
    let lists = own.map(|own| [&own.requests, &own.limits]).into_iter().flatten().flatten();
    let lists: Vec<_> = lists.collect();
    let amounts = named.flat_map(|policy| {
        lists.iter().map(move |list| {
            let amount = list.get(&policy.resource_name).and_then(parse);
            format!("{}={} ", policy.resource_name, amount.map_or(0, |amount| amount.millis()))
        })
    });
    amounts.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{at, container, pod};
    use super::*;
    use crate::runtime::State;

    fn with(resources: Value) -> Pod {
        pod(json!({"containers": [{"name": "a", "resources": resources}]}))
    }

    fn given(resources: Value) -> PodStatus {
        let allocated = resources["requests"].clone();
        serde_json::from_value(json!({"containerStatuses": [{"name": "a", "image": "", "imageID": "",
            "ready": true, "restartCount": 0, "resources": resources, "allocatedResources": allocated}]}))
        .unwrap()
    }

    #[test]
    fn a_resize_is_asked_for_by_other_amounts() {
        let base =
            json!({"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "64Mi"}});
        let cases = [
            ("the same", base.clone(), false),
            (
                "the same in other words",
                json!({"requests": {"cpu": "0.1", "memory": "65536Ki"}, "limits": {"memory": "64Mi"}}),
                false,
            ),
            (
                "more CPU",
                json!({"requests": {"cpu": "200m", "memory": "64Mi"}, "limits": {"memory": "64Mi"}}),
                true,
            ),
            (
                "a request that no limit shows",
                json!({"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}}),
                true,
            ),
            (
                "another limit",
                json!({"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "65Mi"}}),
                true,
            ),
        ];
        for (name, resources, expected) in cases {
            assert_eq!(is_asked(&with(resources), &given(base.clone())), expected, "{name}");
        }
        assert!(!is_asked(&with(base), &PodStatus::default()), "nothing was given yet");
    }

    #[test]
    fn room_decides_whether_it_waits() {
        let allocatable: BTreeMap<String, Quantity> =
            [("cpu", "2"), ("memory", "1Gi")].map(|(k, v)| (k.into(), Quantity(v.into()))).into();
        let used = Amounts::from([("cpu".into(), 1_500), ("memory".into(), 0)]);
        let cases = [
            ("fits", json!({"cpu": "500m", "memory": "1Gi"}), None),
            (
                "never",
                json!({"cpu": "3"}),
                Some((
                    "Infeasible",
                    "Node didn't have enough capacity: cpu, requested: 3000, capacity: 2000",
                )),
            ),
            (
                "not now",
                json!({"cpu": "600m"}),
                Some((
                    "Deferred",
                    "Node didn't have enough resource: cpu, requested: 600, used: 1500, capacity: 2000",
                )),
            ),
            (
                "too much memory",
                json!({"memory": "2Gi"}),
                Some((
                    "Infeasible",
                    "Node didn't have enough capacity: memory, requested: 2147483648, capacity: 1073741824",
                )),
            ),
        ];
        for (name, requests, expected) in cases {
            let found = judge(&with(json!({"requests": requests})), &allocatable, &used);
            let found = found.as_ref().map(|found| (found.reason, found.message.as_str()));
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn others_count_with_what_they_were_given() {
        let mut other = with(json!({"requests": {"cpu": "2"}}));
        other.metadata.uid = Some("other".into());
        other.status = Some(given(json!({"requests": {"cpu": "1"}})));
        let mut done = with(json!({"requests": {"cpu": "8"}}));
        done.metadata.uid = Some("done".into());
        done.status = Some(PodStatus { phase: Some("Failed".into()), ..Default::default() });
        let own = with(json!({"requests": {"cpu": "4"}}));
        let allocatable = BTreeMap::from([("cpu".into(), Quantity("5".into()))]);
        let used =
            used_by_others(&own, [(&other, false), (&done, false), (&own, false)], &allocatable);
        assert_eq!(used.get("cpu"), Some(&1000));
    }

    #[test]
    fn the_room_that_another_comes_first_for_is_not_there() {
        let allocatable = BTreeMap::from([("cpu".into(), Quantity("4".into()))]);
        let wants = |name: &str, cpu: &str, priority: i32, since: i64| {
            let mut pod = with(json!({"requests": {"cpu": cpu}}));
            pod.metadata.uid = Some(name.into());
            pod.spec.as_mut().unwrap().priority = Some(priority);
            let condition = json!([{"type": "PodResizePending", "status": "True",
                "reason": "Deferred", "lastTransitionTime": at(since).to_string()}]);
            let status = given(json!({"requests": {"cpu": "1"}}));
            let conditions = serde_json::from_value(condition).unwrap();
            pod.status = Some(PodStatus { conditions, ..status });
            pod
        };
        let own = wants("own", "2", 0, 100);
        let cases = [
            ("one that waits longer", wants("other", "3", 0, 99), 3000),
            ("one that began later", wants("other", "3", 0, 101), 1000),
            ("one of higher priority", wants("other", "3", 1, 101), 3000),
            ("one that does not fit", wants("other", "3500m", 1, 101), 1000),
            ("one that wants nothing", wants("other", "1", 1, 101), 1000),
        ];
        for (name, other, expected) in cases {
            let used = used_by_others(&own, [(&other, false), (&own, false)], &allocatable);
            assert_eq!(used.get("cpu"), Some(&expected), "{name}");
        }
        let other = wants("other", "3", 0, 101);
        let used = used_by_others(&own, [(&other, true), (&own, false)], &allocatable);
        assert_eq!(used.get("cpu"), Some(&3000), "one that has begun already");
        let guaranteed = |mut pod: Pod| {
            let all = json!({"cpu": "3", "memory": "1Mi"});
            let all = serde_json::from_value(json!({"requests": all, "limits": all})).unwrap();
            pod.spec.as_mut().unwrap().containers[0].resources = Some(all);
            pod
        };
        let other = guaranteed(wants("other", "3", 0, 101));
        let used = used_by_others(&own, [(&other, false), (&own, false)], &allocatable);
        assert_eq!(used.get("cpu"), Some(&3000), "one of better quality");
    }

    #[test]
    fn a_waiting_resize_keeps_what_was_given() {
        let old = json!({"requests": {"cpu": "1"}});
        let kept = as_given(&with(json!({"requests": {"cpu": "9"}})), &given(old.clone()));
        assert_eq!(json!(spec(&kept).containers[0].resources), old);
    }

    #[test]
    fn limits_are_compared_with_the_running_ones() {
        let running = State::Running { pid: 1, started: at(0) };
        let mut found = container("a", 0, running);
        found.limits = Limits { cpu_shares: Some(102), pids: Some(7), ..Limits::default() };
        let attempt = Attempt::new(found);
        let of = |resources| {
            let pod = with(resources);
            other_limits(spec(&pod), &spec(&pod).containers[0], &attempt)
        };
        assert_eq!(of(json!({"requests": {"cpu": "100m"}})), None);
        let changed = of(json!({"requests": {"cpu": "200m"}})).unwrap();
        assert_eq!(changed.cpu_shares, Some(204));
    }

    #[test]
    fn only_some_resources_restart_a_container() {
        let key = |cpu: &str, memory: &str| {
            let spec = json!({"containers": [{"name": "a",
                "resources": {"limits": {"cpu": cpu, "memory": memory}},
                "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"},
                                 {"resourceName": "cpu", "restartPolicy": "NotRequired"}]}]});
            restart_key(&super::spec(&pod(spec)).containers[0])
        };
        assert_eq!(key("1", "1Gi"), key("2", "1024Mi"));
        assert_ne!(key("1", "1Gi"), key("1", "2Gi"));
        assert_eq!(restart_key(&Container::default()), "");
    }
}
