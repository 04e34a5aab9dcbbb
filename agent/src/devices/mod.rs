//! Devices: the GPUs that containers are given.
//!
//! [`facts`] reads which GPUs the machine has, [`offer`] finds out which of
//! them the runtime can hand to a container, and how; [`allot`] decides who
//! gets which, and is pure. [`Devices`] keeps the account: what is offered goes
//! into the node's capacity as `nvidia.com/gpu` or `amd.com/gpu`, each pod that
//! asks is allotted whole devices when it is admitted, and its containers get
//! them by device requests.
//!
//! The account is kept nowhere but on the containers. Each carries its pod's
//! allotment as a label, so an agent that was restarted reads it back before it
//! admits anybody.
//!
//! Left out: parts of a GPU, the health of a device, and devices that come
//! while the agent runs.

pub mod allot;
pub mod facts;
pub mod offer;

#[cfg(test)]
mod docker_tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::{Container as Spec, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tokio::sync::Notify;
use tracing::warn;

pub use allot::{Allotment, Short};
pub use offer::{Offers, Pool};

use crate::pod::model::uid;
use crate::runtime::{Container, DeviceRequest, labels};

/// The variable by which the tools of NVIDIA are told which GPUs a container
/// sees.
pub const VISIBLE: &str = "NVIDIA_VISIBLE_DEVICES";
/// Its value for "none, and nothing of the driver either".
const NOTHING: &str = "void";

/// The devices of a node, and who has them.
#[derive(Debug, Default)]
pub struct Devices {
    offers: Offers,
    held: Mutex<BTreeMap<String, Held>>,
    /// Told when devices become free.
    released: Notify,
}

/// What one pod has.
#[derive(Debug, Default)]
struct Held {
    allotment: Allotment,
    /// Whether the pod is on its way out: what it has will soon be free.
    ends: bool,
}

/// Why a pod is not allotted what it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// Others have it, and stay.
    Short(Short),
    /// Pods that end have it still.
    NotYet,
}

/// What one container gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Granted {
    /// What the runtime is asked for.
    pub requests: Vec<DeviceRequest>,
    /// What [`VISIBLE`] has to say; `None` on a node where nobody reads it.
    pub visible: Option<String>,
}

/// Whether a resource is one that is offered here.
pub fn is_gpu(resource: &str) -> bool {
    resource.split_once('/').is_some_and(|(_, class)| class == offer::GPU_CLASS)
}

impl Devices {
    /// The devices of these offers, all free.
    pub fn new(offers: Offers) -> Self {
        Self { offers, ..Self::default() }
    }

    /// How many there are, by resource.
    pub fn capacity(&self) -> BTreeMap<String, Quantity> {
        let count = |pool: &Pool| Quantity(pool.ids.len().to_string());
        self.offers.pools.iter().map(|(name, pool)| (name.clone(), count(pool))).collect()
    }

    /// Takes over what the containers of a pod have, as their labels say. A pod
    /// without a sandbox of which nothing runs has ended, and holds nothing.
    pub fn adopt(&self, uid: &str, containers: &[Container]) {
        let lives = containers
            .iter()
            .any(|one| one.is_running() || one.label(labels::CONTAINER) == labels::SANDBOX);
        let told = containers.iter().map(|one| one.label(labels::DEVICES));
        let Some(told) = told.into_iter().find(|text| !text.is_empty()).filter(|_| lives) else {
            return;
        };
        match serde_json::from_str(told) {
            Ok(allotment) => {
                let found = Held { allotment, ends: false };
                self.held().entry(uid.to_owned()).or_insert(found);
            }
            Err(error) => warn!(uid, told, %error, "cannot read which devices the pod has"),
        }
    }

    /// Sets aside what the pod asks for. What it has already it keeps.
    pub fn allot(&self, pod: &Pod) -> Result<(), Refused> {
        let mut held = self.held();
        if held.contains_key(uid(pod)) {
            return Ok(());
        }
        let free = |taken: BTreeSet<&str>| -> BTreeMap<String, Vec<String>> {
            let free = |pool: &Pool| {
                pool.ids.iter().filter(|id| !taken.contains(id.as_str())).cloned().collect()
            };
            self.offers.pools.iter().map(|(name, pool)| (name.clone(), free(pool))).collect()
        };
        let taken = held.values().flat_map(|held| held.allotment.ids()).collect();
        match allot::allot(pod, free(taken)) {
            Ok(allotment) if allotment.is_empty() => Ok(()),
            Ok(allotment) => {
                held.insert(uid(pod).to_owned(), Held { allotment, ends: false });
                Ok(())
            }
            Err(short) => {
                let stay = held.values().filter(|held| !held.ends);
                let taken = stay.flat_map(|held| held.allotment.ids()).collect();
                let later = allot::allot(pod, free(taken));
                Err(if later.is_ok() { Refused::NotYet } else { Refused::Short(short) })
            }
        }
    }

    /// The pod is on its way out.
    pub fn ends(&self, uid: &str) {
        if let Some(held) = self.held().get_mut(uid) {
            held.ends = true;
        }
    }

    /// The pod has ended: others may have what it had.
    pub fn release(&self, uid: &str) {
        if self.held().remove(uid).is_some() {
            self.released.notify_waiters();
        }
    }

    /// What the pod's containers carry as a label; `None` for a pod without
    /// devices.
    pub fn label(&self, pod: &Pod) -> Option<String> {
        let held = self.held();
        held.get(uid(pod)).and_then(|held| serde_json::to_string(&held.allotment).ok())
    }

    /// What a container of the pod gets. Waits for what pods that end still have.
    pub async fn grant(&self, pod: &Pod, container: &Spec) -> Result<Granted, String> {
        loop {
            let mut released = std::pin::pin!(self.released.notified());
            // From here on nothing that is released is missed.
            released.as_mut().enable();
            match self.allot(pod) {
                Ok(()) => break,
                Err(Refused::Short(short)) => return Err(short.to_string()),
                Err(Refused::NotYet) => released.await,
            }
        }
        let held = self.held();
        let own = held.get(uid(pod)).and_then(|held| held.allotment.of(&container.name));
        let mut granted = Granted {
            requests: Vec::new(),
            visible: self.offers.nvidia.then(|| NOTHING.to_owned()),
        };
        for (resource, ids) in own.into_iter().flatten() {
            let pool = self.offers.pools.get(resource).ok_or_else(|| {
                format!("the container runtime no longer serves devices of {resource}")
            })?;
            if pool.driver == offer::NVIDIA {
                granted.visible = Some(ids.join(","));
            }
            granted.requests.push(DeviceRequest { driver: pool.driver.into(), ids: ids.clone() });
        }
        Ok(granted)
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<String, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use serde_json::{Value, json};

    use super::*;
    use crate::pod::testing::at;
    use crate::runtime::State;

    fn gpus(ids: &[&str]) -> Devices {
        let ids = ids.iter().map(|id| (*id).to_owned()).collect();
        let pools = [("nvidia.com/gpu".to_owned(), Pool { driver: offer::NVIDIA, ids })];
        Devices::new(Offers { pools: pools.into(), nvidia: true })
    }

    fn pod(uid: &str, count: u32) -> Pod {
        let limits = match count {
            0 => json!({}),
            count => json!({"nvidia.com/gpu": count.to_string()}),
        };
        let containers = json!([{"name": "a", "resources": {"limits": limits}}]);
        serde_json::from_value::<Pod>(
            json!({"metadata": {"uid": uid}, "spec": {"containers": containers}}),
        )
        .unwrap()
    }

    fn try_grant(devices: &Devices, pod: &Pod) -> Result<Granted, String> {
        let granted = devices.grant(pod, &pod.spec.as_ref().unwrap().containers[0]);
        granted.now_or_never().expect("it need not wait")
    }

    fn grant(devices: &Devices, pod: &Pod) -> Granted {
        try_grant(devices, pod).unwrap()
    }

    fn container(name: &str, label: &str, running: bool) -> Container {
        let labels: Value = json!({labels::CONTAINER: name, labels::DEVICES: label});
        let state = match running {
            true => State::Running { pid: 1, started: at(0) },
            false => State::Created,
        };
        let mut found = crate::pod::testing::container(name, 0, state);
        found.labels = serde_json::from_value(labels).unwrap();
        found
    }

    #[test]
    fn no_device_is_given_twice_and_what_is_released_is_free() {
        let devices = gpus(&["a", "b", "c"]);
        let (one, two, late) = (pod("1", 1), pod("2", 2), pod("3", 1));
        devices.allot(&one).unwrap();
        devices.allot(&two).unwrap();
        devices.allot(&one).expect("it has what it asks for");
        let short = Short { resource: "nvidia.com/gpu".into(), asked: 1, free: 0 };
        assert_eq!(devices.allot(&late), Err(Refused::Short(short)));
        let request = |ids: &[&str]| DeviceRequest {
            driver: "nvidia".into(),
            ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        };
        assert_eq!(grant(&devices, &one).requests, [request(&["a"])]);
        assert_eq!(grant(&devices, &two).requests, [request(&["b", "c"])]);
        assert_eq!(grant(&devices, &two).visible.as_deref(), Some("b,c"));
        devices.release("1");
        devices.allot(&late).unwrap();
        assert_eq!(grant(&devices, &late).requests, [request(&["a"])]);
    }

    #[tokio::test]
    async fn what_a_pod_that_ends_still_has_is_waited_for() {
        let devices = gpus(&["a", "b"]);
        devices.allot(&pod("1", 2)).unwrap();
        devices.ends("1");
        let (late, large) = (pod("2", 2), pod("3", 3));
        assert_eq!(devices.allot(&late), Err(Refused::NotYet));
        assert!(matches!(devices.allot(&large), Err(Refused::Short(_))), "it never will fit");
        let container = &late.spec.as_ref().unwrap().containers[0];
        let mut waits = std::pin::pin!(devices.grant(&late, container));
        assert!(waits.as_mut().now_or_never().is_none());
        devices.release("1");
        assert_eq!(waits.await.unwrap().requests[0].ids, ["a", "b"]);
    }

    #[test]
    fn who_asks_for_nothing_sees_nothing() {
        let devices = gpus(&["a"]);
        let granted = grant(&devices, &pod("1", 0));
        assert_eq!(granted, Granted { requests: vec![], visible: Some("void".into()) });
        assert_eq!(grant(&Devices::default(), &pod("1", 0)), Granted::default());
        assert_eq!(devices.label(&pod("1", 0)), None);
    }

    #[test]
    fn another_agent_reads_the_account_back_from_the_containers() {
        let devices = gpus(&["a", "b"]);
        devices.allot(&pod("1", 1)).unwrap();
        let label = devices.label(&pod("1", 1)).unwrap();
        let cases = [
            ("running", vec![container("a", &label, true)], true),
            ("only its sandbox is left", vec![container(labels::SANDBOX, &label, false)], true),
            ("ended", vec![container("a", &label, false)], false),
            ("without a label", vec![container("a", "", true)], false),
            ("damaged", vec![container("a", "{", true)], false),
        ];
        for (name, containers, held) in cases {
            let next = gpus(&["a", "b"]);
            next.adopt("1", &containers);
            let expected = if held { "b" } else { "a" };
            next.allot(&pod("2", 1)).unwrap();
            assert_eq!(grant(&next, &pod("2", 1)).requests[0].ids, [expected], "{name}");
        }
    }

    #[test]
    fn what_is_no_longer_served_is_an_error_of_the_container() {
        let devices = gpus(&["a"]);
        devices.allot(&pod("1", 1)).unwrap();
        let label = devices.label(&pod("1", 1)).unwrap();
        let next = Devices::default();
        next.adopt("1", &[container("a", &label, true)]);
        let error = try_grant(&next, &pod("1", 1)).unwrap_err();
        assert!(error.contains("no longer serves"), "{error}");
    }
}
