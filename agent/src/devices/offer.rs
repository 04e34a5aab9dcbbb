//! Which devices the runtime can hand to a container, and how.
//!
//! A newer engine lists the devices that it knows by the Container Device
//! Interface. Of NVIDIA's own driver no engine tells: it is there when the
//! program `nvidia-container-runtime-hook` was, at the engine's start, in the
//! engine's `PATH`. So the engine is asked by what it is for: on a machine with
//! such GPUs a container of the sandbox image is started with a request for
//! none of them, and the engine either finds the driver or says that it has
//! none.

use std::collections::BTreeMap;

use tracing::{debug, info, warn};

use super::facts::Facts;
use crate::config::Config;
use crate::runtime::{ContainerSpec, DeviceRequest, Runtime, RuntimeError, labels, sandbox_image};

/// The driver of requests that NVIDIA's hook serves.
pub const NVIDIA: &str = "nvidia";
/// The driver of requests for devices by their CDI name.
const CDI: &str = "cdi";
/// The resource that NVIDIA's GPUs are.
const NVIDIA_GPU: &str = "nvidia.com/gpu";
/// The class of the devices that are offered, whoever made them.
pub(super) const GPU_CLASS: &str = "gpu";
/// What Docker says of a driver that it does not have.
const NO_DRIVER: &str = "could not select device driver";

/// What a node offers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offers {
    /// Devices by resource.
    pub pools: BTreeMap<String, Pool>,
    /// Whether there are GPUs of NVIDIA: then a container must say which it
    /// sees, or an engine that always uses NVIDIA's runtime may show it all.
    pub nvidia: bool,
}

/// The devices of one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// The driver of the requests.
    pub driver: &'static str,
    /// The names by which it knows them.
    pub ids: Vec<String>,
}

/// Finds out what the runtime serves. What `config` names as an extended
/// resource is the user's to count, and is not offered.
pub async fn find(facts: &Facts, runtime: &dyn Runtime, config: &Config) -> Offers {
    let known = match runtime.version().await {
        Ok(version) => version.devices,
        Err(error) => {
            debug!(%error, "devices of the runtime not known");
            Vec::new()
        }
    };
    let mut pools = by_name(&known);
    if !facts.nvidia.is_empty() && !pools.contains_key(NVIDIA_GPU) {
        match serves_nvidia(runtime, config).await {
            Ok(true) => {
                pools.insert(NVIDIA_GPU.into(), Pool { driver: NVIDIA, ids: nvidia_ids(facts) });
            }
            Ok(false) => warn!(
                gpus = facts.nvidia.len(),
                "Docker has no driver for the machine's GPUs: install the NVIDIA container toolkit and restart Docker and Skiff"
            ),
            Err(error) => {
                warn!(%error, "the machine's GPUs are not offered: Docker cannot tell whether it serves them")
            }
        }
    }
    pools.retain(|name, _| !config.extended_resources.contains_key(name));
    for (resource, pool) in &pools {
        info!(resource, count = pool.ids.len(), driver = pool.driver, "devices are offered");
    }
    Offers { pools, nvidia: !facts.nvidia.is_empty() }
}

/// GPUs by resource, from names as `nvidia.com/gpu=0`.
///
/// One device can have several names; those by which it is known in any slot
/// are taken if there are such. `all` is no device.
fn by_name(known: &[String]) -> BTreeMap<String, Pool> {
    let mut kinds: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for name in known {
        let Some((kind, device)) = name.split_once('=') else { continue };
        if super::is_gpu(kind) && device != "all" {
            kinds.entry(kind).or_default().push(device);
        }
    }
    let pool = |kind: &str, mut devices: Vec<&str>| {
        let is_lasting = |device: &&str| device.starts_with("GPU-") || device.starts_with("MIG-");
        if devices.iter().any(is_lasting) {
            devices.retain(is_lasting);
        }
        devices.sort_by_key(|device| (device.parse::<u32>().unwrap_or(u32::MAX), *device));
        devices.dedup();
        let ids = devices.into_iter().map(|device| format!("{kind}={device}")).collect();
        Pool { driver: CDI, ids }
    };
    kinds.into_iter().map(|(kind, devices)| (kind.to_owned(), pool(kind, devices))).collect()
}

/// UUIDs, or the driver's numbers while one of them is not known.
fn nvidia_ids(facts: &Facts) -> Vec<String> {
    let uuids: Option<Vec<String>> = facts.nvidia.iter().map(|gpu| gpu.uuid.clone()).collect();
    uuids.unwrap_or_else(|| (0..facts.nvidia.len()).map(|number| number.to_string()).collect())
}

/// Whether the runtime takes a request to NVIDIA's driver.
async fn serves_nvidia(runtime: &dyn Runtime, config: &Config) -> Result<bool, RuntimeError> {
    let mut labels = labels::of_node(&config.instance, &config.node_name);
    // No part of any pod, and nothing to be measured.
    labels.insert(labels::CONTAINER.into(), labels::SANDBOX.into());
    let spec = ContainerSpec {
        name: format!("skiff_{}_devices_{}", config.instance, config.node_name),
        labels,
        image: sandbox_image::name(),
        entrypoint: vec![sandbox_image::PAUSE_PATH.into()],
        network: "none".into(),
        devices: vec![DeviceRequest { driver: NVIDIA.into(), ids: Vec::new() }],
        ..ContainerSpec::default()
    };
    // One that an agent left behind when it was killed.
    runtime.remove(&spec.name).await?;
    let id = runtime.create(&spec).await?;
    let started = runtime.start(&id).await;
    if let Err(error) = runtime.remove(&id).await {
        warn!(%error, id, "container that asked for devices not removed");
    }
    match started {
        Ok(()) => Ok(true),
        Err(RuntimeError::Refused(message)) if message.contains(NO_DRIVER) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::facts::Gpu;
    use super::*;
    use crate::runtime::memory::Memory;

    fn names(all: &[&str]) -> Vec<String> {
        all.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn each_device_counts_once_whatever_names_it_has() {
        let cases = [
            (
                "numbers",
                &["amd.com/gpu=all", "amd.com/gpu=10", "amd.com/gpu=9"][..],
                "amd.com/gpu",
                &["9", "10"][..],
            ),
            (
                "numbers and UUIDs",
                &["nvidia.com/gpu=0", "nvidia.com/gpu=GPU-1", "nvidia.com/gpu=all"],
                "nvidia.com/gpu",
                &["GPU-1"],
            ),
            (
                "parts of a GPU",
                &["nvidia.com/gpu=1:0", "nvidia.com/gpu=MIG-2", "nvidia.com/gpu=GPU-1"],
                "nvidia.com/gpu",
                &["GPU-1", "MIG-2"],
            ),
            (
                "of another class",
                &["vendor.com/nic=0", "gpu", "vendor.com=1"],
                "vendor.com/nic",
                &[],
            ),
        ];
        for (name, known, resource, expected) in cases {
            let expected: Vec<_> =
                expected.iter().map(|device| format!("{resource}={device}")).collect();
            let found = by_name(&names(known));
            let found = found.get(resource).map(|pool| pool.ids.clone()).unwrap_or_default();
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn a_gpu_without_a_uuid_is_known_by_its_number() {
        let gpu = |uuid: Option<&str>| Gpu { uuid: uuid.map(str::to_owned), ..Gpu::default() };
        let facts = |gpus: Vec<Gpu>| Facts { nvidia: gpus, ..Facts::default() };
        assert_eq!(nvidia_ids(&facts(vec![gpu(Some("a")), gpu(Some("b"))])), ["a", "b"]);
        assert_eq!(nvidia_ids(&facts(vec![gpu(Some("a")), gpu(None)])), ["0", "1"]);
    }

    #[tokio::test]
    async fn the_runtime_is_asked_only_where_there_is_something_to_serve() {
        let gpus = Facts {
            nvidia: vec![Gpu { uuid: Some("GPU-1".into()), ..Gpu::default() }],
            ..Facts::default()
        };
        let mut config = Config::new("n", "/tmp/none");
        let memory = Arc::new(Memory::new());
        sandbox_image::ensure(memory.as_ref()).await.unwrap();
        let nothing = find(&Facts::default(), memory.as_ref(), &config).await;
        assert_eq!(nothing, Offers::default());
        assert!(!memory.calls().iter().any(|call| call.starts_with("create")));

        let unserved = find(&gpus, memory.as_ref(), &config).await;
        assert_eq!(unserved, Offers { nvidia: true, ..Offers::default() });

        memory.serve_devices(&[NVIDIA], &[]);
        let served = find(&gpus, memory.as_ref(), &config).await;
        let pool = Pool { driver: NVIDIA, ids: names(&["GPU-1"]) };
        assert_eq!(served.pools, BTreeMap::from([(NVIDIA_GPU.to_owned(), pool)]));
        let left = memory.list(&BTreeMap::new()).await.unwrap();
        assert!(left.is_empty(), "{left:?}");

        memory.serve_devices(&[NVIDIA, CDI], &["nvidia.com/gpu=GPU-1", "amd.com/gpu=0"]);
        let named = find(&gpus, memory.as_ref(), &config).await;
        let drivers: Vec<_> = named.pools.values().map(|pool| pool.driver).collect();
        assert_eq!(drivers, [CDI, CDI]);

        config.extended_resources.insert(NVIDIA_GPU.into(), "8".into());
        let counted = find(&gpus, memory.as_ref(), &config).await;
        assert_eq!(counted.pools.keys().collect::<Vec<_>>(), ["amd.com/gpu"]);
    }
}
