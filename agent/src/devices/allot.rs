//! Which devices each container of a pod gets. Pure.
//!
//! The pod as a whole gets no more than the scheduler counts for it: what an
//! init container had is used again by those after it, what a sidecar has it
//! keeps.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use serde::{Deserialize, Serialize};

use crate::pod::model::{is_sidecar, spec};
use crate::pod::resources::parse;

/// The devices of a pod: ids by resource, by container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Allotment(BTreeMap<String, BTreeMap<String, Vec<String>>>);

impl Allotment {
    /// Whether nobody gets anything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What one container gets.
    pub fn of(&self, container: &str) -> Option<&BTreeMap<String, Vec<String>>> {
        self.0.get(container)
    }

    /// All devices; one may come twice.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.values().flat_map(BTreeMap::values).flatten().map(String::as_str)
    }
}

/// Too few devices are free.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "Allocate failed due to requested number of devices unavailable for {resource}. Requested: {asked}, Available: {free}, which is unexpected"
)]
pub struct Short {
    /// Of which kind.
    pub resource: String,
    /// How many a container asks for.
    pub asked: usize,
    /// How many there are for it.
    pub free: usize,
}

/// What each container of the pod gets of the devices that are `free`, by
/// resource. A resource that is not among them is no matter of devices.
pub fn allot(pod: &Pod, mut free: BTreeMap<String, Vec<String>>) -> Result<Allotment, Short> {
    let mut allotment = Allotment::default();
    // What ended init containers leave behind.
    let mut left: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let spec = spec(pod);
    let inits = spec.init_containers.iter().flatten().map(|one| (one, !is_sidecar(one)));
    for (container, passes_on) in inits.chain(spec.containers.iter().map(|one| (one, false))) {
        for (resource, asked) in asked(container) {
            let Some(free) = free.get_mut(&resource) else { continue };
            let left = left.entry(resource.clone()).or_default();
            if asked > left.len() + free.len() {
                return Err(Short { resource, asked, free: left.len() + free.len() });
            }
            let mut given: Vec<String> = left.drain(..asked.min(left.len())).collect();
            given.extend(free.drain(..asked - given.len()));
            if passes_on {
                left.splice(0..0, given.iter().cloned());
            }
            allotment.0.entry(container.name.clone()).or_default().insert(resource, given);
        }
    }
    Ok(allotment)
}

/// How many devices a container asks for. Their requests equal their limits.
fn asked(container: &Container) -> impl Iterator<Item = (String, usize)> {
    let limits = container.resources.as_ref().and_then(|own| own.limits.as_ref());
    limits.into_iter().flatten().filter_map(|(name, amount)| {
        let count = usize::try_from(parse(amount)?.units()).ok()?;
        (name.contains('/') && count > 0).then(|| (name.clone(), count))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::pod::testing::pod;

    fn one(name: &str, count: u32) -> Value {
        json!({"name": name, "resources": {"limits": {"amd.com/gpu": count.to_string(), "cpu": "1"}}})
    }

    fn sidecar(name: &str, count: u32) -> Value {
        let mut container = one(name, count);
        container["restartPolicy"] = json!("Always");
        container
    }

    #[test]
    fn containers_that_run_together_share_nothing() {
        let cases = [
            (
                "beside each other",
                json!({"containers": [one("a", 1), one("b", 2)]}),
                Ok(vec![("a", vec!["0"]), ("b", vec!["1", "2"])]),
            ),
            (
                "one after the other",
                json!({"initContainers": [one("i", 3), one("j", 1)], "containers": [one("a", 2), one("b", 1)]}),
                Ok(vec![
                    ("a", vec!["0", "1"]),
                    ("b", vec!["2"]),
                    ("i", vec!["0", "1", "2"]),
                    ("j", vec!["0"]),
                ]),
            ),
            (
                "a sidecar keeps what it has",
                json!({"initContainers": [sidecar("s", 1), one("i", 2)], "containers": [one("a", 2)]}),
                Ok(vec![("a", vec!["1", "2"]), ("i", vec!["1", "2"]), ("s", vec!["0"])]),
            ),
            ("too many", json!({"containers": [one("a", 2), one("b", 2)]}), Err((2, 1))),
            ("none", json!({"containers": [{"name": "a"}]}), Ok(vec![])),
        ];
        for (name, spec, expected) in cases {
            let free = ["0", "1", "2"].map(str::to_owned).to_vec();
            let found = allot(&pod(spec), [("amd.com/gpu".to_owned(), free)].into());
            let found = found.as_ref().map_err(|short| (short.asked, short.free)).map(|found| {
                let ids = |all: &BTreeMap<String, Vec<String>>| all["amd.com/gpu"].clone();
                found.0.iter().map(|(name, all)| (name.as_str(), ids(all))).collect::<Vec<_>>()
            });
            let expected = expected.map(|all| {
                let owned = |ids: Vec<&str>| ids.into_iter().map(str::to_owned).collect();
                all.into_iter().map(|(name, ids)| (name, owned(ids))).collect::<Vec<(_, Vec<_>)>>()
            });
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn resources_without_devices_are_only_counted() {
        let asks = pod(json!({"containers": [one("a", 7)]}));
        assert!(allot(&asks, BTreeMap::new()).unwrap().is_empty());
    }
}
