//! Limits on what a pod leaves on the node's disk: `sizeLimit` of an emptyDir
//! and limits of `ephemeral-storage`. Pure.
//!
//! Neither is enforced as it is written to; a pod that is found beyond one is
//! evicted. A volume in memory is no disk, and its size is the kernel's matter.

use k8s_openapi::api::core::v1::{Container, Pod, Volume};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::rank::{PodUse, is_candidate};
use crate::pod::model::{is_sidecar, spec};
use crate::pod::resources::parse;

const STORAGE: &str = "ephemeral-storage";

/// Whether a volume is a folder on the node's disk that goes with the pod.
pub fn is_on_disk(volume: &Volume) -> bool {
    volume.empty_dir.as_ref().is_some_and(|empty| empty.medium.as_deref() != Some("Memory"))
}

/// Whether the pod has limits that somebody has to look after.
pub fn asks(pod: &Pod) -> bool {
    is_candidate(pod)
        && (sized(pod).next().is_some() || containers(pod).any(|one| limit_of(one).is_some()))
}

/// Which limit the pod is beyond, in the kubelet's words; `None` if none.
pub fn exceeded(pod: &Pod, used: &PodUse) -> Option<String> {
    for (volume, limit) in sized(pod) {
        if beyond(used.volumes.get(&volume.name).copied(), limit) {
            let name = &volume.name;
            return Some(format!(
                "Usage of EmptyDir volume {name:?} exceeds the limit {:?}. ",
                limit.0
            ));
        }
    }
    if let Some(limit) = pod_limit(pod)
        && used.total() > limit
    {
        let limit = super::rank::bytes(limit);
        return Some(format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "
        ));
    }
    containers(pod).find_map(|container| {
        let limit = limit_of(container)?;
        let used = used.containers.get(&container.name).copied();
        beyond(used, limit).then(|| {
            let name = &container.name;
            format!("Container {name} exceeded its local ephemeral storage limit {:?}. ", limit.0)
        })
    })
}

fn beyond(used: Option<u64>, limit: &Quantity) -> bool {
    used.is_some_and(|used| amount(limit).is_some_and(|limit| used > limit))
}

/// A limit in bytes; `None` for one that limits nothing.
fn amount(limit: &Quantity) -> Option<u64> {
    parse(limit).and_then(|limit| u64::try_from(limit.bytes()).ok()).filter(|bytes| *bytes > 0)
}

/// Volumes on the disk that have a limit.
fn sized(pod: &Pod) -> impl Iterator<Item = (&Volume, &Quantity)> {
    let volumes = spec(pod).volumes.iter().flatten().filter(|volume| is_on_disk(volume));
    volumes.filter_map(|volume| {
        let limit = volume.empty_dir.as_ref()?.size_limit.as_ref()?;
        amount(limit).map(|_| (volume, limit))
    })
}

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    spec(pod).init_containers.iter().flatten().chain(&spec(pod).containers)
}

fn limit_of(container: &Container) -> Option<&Quantity> {
    let limits = container.resources.as_ref()?.limits.as_ref()?;
    limits.get(STORAGE).filter(|limit| amount(limit).is_some())
}

/// What the pod may use in all: the limits of the containers that run beside
/// one another, or that of an init container. As upstream has it, containers
/// without a limit add nothing to the sum, yet what they use counts.
fn pod_limit(pod: &Pod) -> Option<u64> {
    let prepares = |one: &Container| {
        let inits = spec(pod).init_containers.iter().flatten();
        inits.into_iter().any(|init| init.name == one.name && !is_sidecar(init))
    };
    let limit = |one: &Container| limit_of(one).and_then(amount);
    let sum: u64 = containers(pod).filter(|one| !prepares(one)).filter_map(limit).sum();
    let largest = containers(pod).filter(|one| prepares(one)).filter_map(limit).max();
    Some(sum.max(largest.unwrap_or(0))).filter(|limit| *limit > 0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::pod::testing::pod;

    fn used(containers: &[(&str, u64)], volumes: &[(&str, u64)]) -> PodUse {
        let map = |all: &[(&str, u64)]| {
            all.iter().map(|(name, bytes)| ((*name).to_owned(), *bytes << 20)).collect()
        };
        PodUse { containers: map(containers), volumes: map(volumes) }
    }

    fn limited(name: &str, limit: &str) -> Value {
        json!({"name": name, "resources": {"limits": {"ephemeral-storage": limit}}})
    }

    #[test]
    fn pods_beyond_their_limits_are_told_which() {
        let scratch = |medium: &str| json!([{"name": "scratch", "emptyDir": {"medium": medium, "sizeLimit": "10Mi"}}]);
        let volume = || json!({"containers": [{"name": "a"}], "volumes": scratch("")});
        let two = || json!({"containers": [limited("a", "10Mi"), limited("b", "20Mi")]});
        let some = || json!({"containers": [limited("a", "10Mi"), {"name": "b"}]});
        let free = || json!({"containers": [{"name": "a"}]});
        let memory = || json!({"containers": [{"name": "a"}], "volumes": scratch("Memory")});
        let cases = [
            ("a volume within", volume(), used(&[], &[("scratch", 10)]), None),
            (
                "a volume beyond",
                volume(),
                used(&[], &[("scratch", 11)]),
                Some("Usage of EmptyDir volume \"scratch\" exceeds the limit \"10Mi\". "),
            ),
            ("a volume in memory", memory(), used(&[], &[("scratch", 11)]), None),
            ("all within", two(), used(&[("a", 9), ("b", 9)], &[("v", 9)]), None),
            (
                "a container beyond",
                two(),
                used(&[("a", 11)], &[]),
                Some("Container a exceeded its local ephemeral storage limit \"10Mi\". "),
            ),
            (
                "together with volumes beyond",
                two(),
                used(&[("a", 9), ("b", 9)], &[("v", 13)]),
                Some(
                    "Pod ephemeral local storage usage exceeds the total limit of containers 30Mi. ",
                ),
            ),
            (
                "beside one without a limit",
                some(),
                used(&[("a", 5), ("b", 9)], &[]),
                Some(
                    "Pod ephemeral local storage usage exceeds the total limit of containers 10Mi. ",
                ),
            ),
            ("none at all", free(), used(&[("a", 900)], &[]), None),
            ("not measured", two(), PodUse::default(), None),
        ];
        for (name, spec, used, expected) in cases {
            let pod = pod(spec);
            assert_eq!(exceeded(&pod, &used).as_deref(), expected, "{name}");
        }
        let asked = [(volume(), true), (two(), true), (some(), true), (free(), false)];
        for (spec, expected) in asked.into_iter().chain([(memory(), false)]) {
            assert_eq!(asks(&pod(spec.clone())), expected, "{spec}");
        }
    }
}
