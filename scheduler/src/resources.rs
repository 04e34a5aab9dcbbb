//! Amounts of resources, and what a pod asks for.
//!
//! A pod asks for the larger of: the sum of its containers, and the peak of
//! its init containers, where a restartable init container (a sidecar) goes on
//! running beside everything that starts after it. Overhead comes on top.
//! (Kubernetes documentation, "Sidecar containers", section on resource sharing.)

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec};
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

    /// What `spec` asks of a node.
    pub fn requested_by(spec: &PodSpec) -> Self {
        let mut running = Self::default();
        for container in &spec.containers {
            running.add(&requests(container));
        }
        // Sidecars accumulate in order: each later init container runs beside them.
        let mut sidecars = Self::default();
        let mut peak = Self::default();
        for init in spec.init_containers.iter().flatten() {
            let mut wants = requests(init);
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

fn requests(container: &Container) -> Resources {
    match container.resources.as_ref().and_then(|resources| resources.requests.as_ref()) {
        Some(list) => Resources::from_list(list),
        None => Resources::default(),
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
            assert_eq!(Resources::requested_by(&spec).cpu_milli, expected, "{name}");
        }
    }

    #[test]
    fn what_is_asked_for_the_whole_pod_counts() {
        let spec: PodSpec = serde_json::from_value(json!({
            "overhead": {"cpu": "10m"},
            "resources": {"requests": {"cpu": "2", "hugepages-2Mi": "4Mi"}},
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "1", "memory": "1Mi"}}}]
        }))
        .unwrap();
        let wants = Resources::requested_by(&spec);
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
        let wants = Resources::requested_by(&spec);
        assert_eq!((wants.memory_bytes, wants.extended["example.com/gpu"]), (2 << 20, 2));
    }
}
