//! Amounts of resources, and what a pod asks for.
//!
//! A pod asks for the larger of: the sum of its containers, and the peak of
//! its init containers, where a restartable init container (a sidecar) goes on
//! running beside everything that starts after it. Overhead comes on top.
//! (Kubernetes documentation, "Sidecar containers", section on resource sharing.)
//!
//! While a container is resized it takes the larger of what it has and what it
//! asks for; a resize that its node can never carry out takes nothing
//! ("Resize CPU and Memory Resources assigned to Containers", on scheduling).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use skiff_api::quantity;

/// What a container that asks for nothing is scored as, so that a hundred such
/// pods do not look free: 100 milli-CPU (upstream's `DefaultMilliCPURequest`).
pub const UNREQUESTED_CPU_MILLI: i64 = 100;
/// The same for memory: 200 MB (upstream's `DefaultMemoryRequest`).
pub const UNREQUESTED_MEMORY_BYTES: i64 = 200 * 1024 * 1024;

/// Amounts by resource. CPU is kept in thousandths, the rest in whole units.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpu_milli: i64,
    /// Bytes of memory.
    pub memory_bytes: i64,
    /// Bytes of local storage.
    pub storage_bytes: i64,
    /// Everything else by name: huge pages and extended resources.
    pub extended: BTreeMap<String, i64>,
}

impl Resources {
    /// Reads a Kubernetes resource list. An amount that cannot be read counts
    /// as zero: the API server has refused it at the edge.
    pub fn from_list(list: &BTreeMap<String, Quantity>) -> Self {
        let mut resources = Self::default();
        for (name, amount) in list {
            match name.as_str() {
                "cpu" => resources.cpu_milli = milli(amount),
                "memory" => resources.memory_bytes = whole(amount),
                "ephemeral-storage" => resources.storage_bytes = whole(amount),
                "pods" => {}
                _ => {
                    resources.extended.insert(name.clone(), whole(amount));
                }
            }
        }
        resources
    }

    /// What a pod of this `spec` and `status` asks of a node.
    pub fn requested_by(spec: &PodSpec, status: Option<&PodStatus>) -> Self {
        let given = Given::by(status);
        let mut running = Self::default();
        for container in &spec.containers {
            running.add(&given.requests(container));
        }
        // Sidecars accumulate in order: each later init container runs beside them.
        let mut sidecars = Self::default();
        let mut peak = Self::default();
        for init in spec.init_containers.iter().flatten() {
            let mut wants = given.requests(init);
            if init.restart_policy.as_deref() == Some("Always") {
                sidecars.add(&wants);
                peak.raise_to(&sidecars);
            } else {
                wants.add(&sidecars);
                peak.raise_to(&wants);
            }
        }
        running.add(&sidecars);
        running.raise_to(&peak);
        running.replace(spec.resources.as_ref().and_then(|whole| whole.requests.as_ref()));
        if let Some(overhead) = &spec.overhead {
            running.add(&Self::from_list(overhead));
        }
        running
    }

    /// Takes what is asked for a pod as a whole for what its containers ask.
    fn replace(&mut self, whole: Option<&BTreeMap<String, Quantity>>) {
        for (name, amount) in whole.into_iter().flatten() {
            match name.as_str() {
                "cpu" => self.cpu_milli = milli(amount),
                "memory" => self.memory_bytes = self::whole(amount),
                _ => {
                    self.extended.insert(name.clone(), self::whole(amount));
                }
            }
        }
    }

    /// Adds `other` to the amounts.
    pub fn add(&mut self, other: &Self) {
        self.cpu_milli = self.cpu_milli.saturating_add(other.cpu_milli);
        self.memory_bytes = self.memory_bytes.saturating_add(other.memory_bytes);
        self.storage_bytes = self.storage_bytes.saturating_add(other.storage_bytes);
        for (name, amount) in &other.extended {
            let mine = self.extended.entry(name.clone()).or_default();
            *mine = mine.saturating_add(*amount);
        }
    }

    /// Takes `other` off the amounts.
    pub fn subtract(&mut self, other: &Self) {
        self.cpu_milli -= other.cpu_milli;
        self.memory_bytes -= other.memory_bytes;
        self.storage_bytes -= other.storage_bytes;
        for (name, amount) in &other.extended {
            *self.extended.entry(name.clone()).or_default() -= amount;
        }
    }

    /// Raises each amount to at least that of `other`.
    fn raise_to(&mut self, other: &Self) {
        self.cpu_milli = self.cpu_milli.max(other.cpu_milli);
        self.memory_bytes = self.memory_bytes.max(other.memory_bytes);
        self.storage_bytes = self.storage_bytes.max(other.storage_bytes);
        for (name, amount) in &other.extended {
            let mine = self.extended.entry(name.clone()).or_default();
            *mine = (*mine).max(*amount);
        }
    }
}

/// What a pod's node has given to its containers.
struct Given<'a> {
    status: Option<&'a PodStatus>,
    /// The node can never give what the spec asks for.
    is_infeasible: bool,
}

impl<'a> Given<'a> {
    fn by(status: Option<&'a PodStatus>) -> Self {
        let mut conditions =
            status.into_iter().flat_map(|status| status.conditions.iter().flatten());
        let is_infeasible = conditions.any(|one| {
            one.type_ == "PodResizePending" && one.reason.as_deref() == Some("Infeasible")
        });
        Self { status, is_infeasible }
    }

    fn container(&self, name: &str) -> Option<&'a ContainerStatus> {
        let status = self.status?;
        let all = [&status.container_statuses, &status.init_container_statuses];
        all.into_iter().flatten().flatten().find(|one| one.name == name)
    }

    fn requests(&self, container: &Container) -> Resources {
        let list = |list: Option<&BTreeMap<_, _>>| list.map(Resources::from_list);
        let asked = container.resources.as_ref().and_then(|asked| asked.requests.as_ref());
        let asked = list(asked).unwrap_or_default();
        let Some(status) = self.container(&container.name) else { return asked };
        let has = status.resources.as_ref().and_then(|has| has.requests.as_ref());
        let Some(mut taken) = list(has) else { return asked };
        if let Some(allocated) = list(status.allocated_resources.as_ref()) {
            taken.raise_to(&allocated);
        }
        if self.is_infeasible {
            // Only these two can be resized.
            let Resources { cpu_milli, memory_bytes, .. } = taken;
            return Resources { cpu_milli, memory_bytes, ..asked };
        }
        taken.raise_to(&asked);
        taken
    }
}

fn milli(amount: &Quantity) -> i64 {
    amount.0.parse::<quantity::Quantity>().map_or(0, quantity::Quantity::millis)
}

fn whole(amount: &Quantity) -> i64 {
    amount.0.parse::<quantity::Quantity>().map_or(0, quantity::Quantity::units)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_asks_for_the_larger_of_start_and_run() {
        let cpu =
            |name: &str, cpu: &str| json!({"name": name, "resources": {"requests": {"cpu": cpu}}});
        let sidecar = |name: &str, amount: &str| {
            let mut container = cpu(name, amount);
            container["restartPolicy"] = json!("Always");
            container
        };
        let cases = [
            ("sum of containers", json!([]), json!([cpu("a", "1"), cpu("b", "500m")]), 1500),
            ("a large init container", json!([cpu("i", "3")]), json!([cpu("a", "1")]), 3000),
            ("a sidecar adds to the run", json!([sidecar("s", "1")]), json!([cpu("a", "1")]), 2000),
            (
                "an init beside an earlier sidecar",
                json!([sidecar("s", "1"), cpu("i", "2")]),
                json!([cpu("a", "1")]),
                3000,
            ),
            (
                "an init before a sidecar",
                json!([cpu("i", "2"), sidecar("s", "1")]),
                json!([cpu("a", "500m")]),
                2000,
            ),
        ];
        for (name, inits, containers, expected) in cases {
            let spec: PodSpec =
                serde_json::from_value(json!({"initContainers": inits, "containers": containers}))
                    .unwrap();
            assert_eq!(Resources::requested_by(&spec, None).cpu_milli, expected, "{name}");
        }
    }

    #[test]
    fn a_resize_takes_room_until_it_is_done_or_if_it_can_be() {
        let cases = [
            ("nothing is known", "1", json!({}), 1000),
            (
                "nothing is given yet",
                "1",
                json!({"containerStatuses": [status(json!(null), "1")]}),
                1000,
            ),
            ("it is to grow", "3", json!({"containerStatuses": [status(json!("1"), "1")]}), 3000),
            ("it is to shrink", "1", json!({"containerStatuses": [status(json!("3"), "1")]}), 3000),
            (
                "more was allocated",
                "1",
                json!({"containerStatuses": [status(json!("1"), "2")]}),
                2000,
            ),
            (
                "it can never grow",
                "3",
                json!({"containerStatuses": [status(json!("1"), "1")], "conditions": [
                    {"type": "PodResizePending", "status": "True", "reason": "Infeasible"}]}),
                1000,
            ),
            (
                "it waits for room",
                "3",
                json!({"containerStatuses": [status(json!("1"), "1")], "conditions": [
                    {"type": "PodResizePending", "status": "True", "reason": "Deferred"}]}),
                3000,
            ),
        ];
        for (name, asked, status, expected) in cases {
            let spec =
                json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": asked}}}]});
            let spec: PodSpec = serde_json::from_value(spec).unwrap();
            let status: PodStatus = serde_json::from_value(status).unwrap();
            let wants = Resources::requested_by(&spec, Some(&status));
            assert_eq!(wants.cpu_milli, expected, "{name}");
        }
    }

    /// The status of container `a` with so many CPUs.
    fn status(has: serde_json::Value, allocated: &str) -> serde_json::Value {
        let mut status = json!({"name": "a", "image": "", "imageID": "", "ready": true,
            "restartCount": 0, "allocatedResources": {"cpu": allocated}});
        if !has.is_null() {
            status["resources"] = json!({"requests": {"cpu": has}});
        }
        status
    }

    #[test]
    fn what_is_asked_for_the_whole_pod_counts() {
        let spec: PodSpec = serde_json::from_value(json!({
            "overhead": {"cpu": "10m"},
            "resources": {"requests": {"cpu": "2", "hugepages-2Mi": "4Mi"}},
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "1", "memory": "1Mi"}}}]
        }))
        .unwrap();
        let wants = Resources::requested_by(&spec, None);
        let amounts = (wants.cpu_milli, wants.memory_bytes, wants.extended["hugepages-2Mi"]);
        assert_eq!(amounts, (2010, 1 << 20, 4 << 20));
    }

    #[test]
    fn overhead_and_extended_resources_count() {
        let spec: PodSpec = serde_json::from_value(json!({
            "overhead": {"memory": "1Mi"},
            "containers": [{"name": "a", "resources": {"requests": {"memory": "1Mi", "example.com/gpu": "2"}}}]
        }))
        .unwrap();
        let wants = Resources::requested_by(&spec, None);
        assert_eq!((wants.memory_bytes, wants.extended["example.com/gpu"]), (2 << 20, 2));
    }
}
