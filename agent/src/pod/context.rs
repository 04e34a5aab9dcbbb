//! What all pod workers of a node share.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tokio::sync::{Semaphore, watch};
use tracing::debug;

use super::accounts::ImageAccounts;
use super::admit::fit::{NodeFacts, Place, misfit, rests_on_node};
use super::admit::preempt::victims;
use super::admit::{Host, Refusal, refusal, was_taken, without_devices};
use super::container::Owner;
use super::directory::Directory;
use super::exclusive::ExclusiveClaims;
use super::model::uid;
use super::objects::Objects;
use crate::cgroup::PodCgroups;
use crate::config::Config;
use crate::devices::Devices;
use crate::events::Recorder;
use crate::images::Images;
use crate::metrics::Metrics;
use crate::network::{HostPort, PodNetwork};
use crate::node::Pressures;
use crate::probe::Probes;
use crate::runtime::Runtime;
use skiff_client::{Api, chain};

/// How long the API may take to say what the node is.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Gives pods their addresses.
#[async_trait]
pub trait Network: Send + Sync {
    /// Plugs the pod's sandbox in and leads the node's `ports` there.
    /// Repeating it for the same sandbox changes nothing and gives the same
    /// address.
    async fn attach(
        &self,
        uid: &str,
        sandbox_pid: i32,
        ports: &[HostPort],
    ) -> Result<IpAddr, String>;
    /// Unplugs the pod.
    async fn detach(&self, uid: &str) -> Result<(), String>;
}

#[async_trait]
impl Network for PodNetwork {
    async fn attach(
        &self,
        uid: &str,
        sandbox_pid: i32,
        ports: &[HostPort],
    ) -> Result<IpAddr, String> {
        let pid = u32::try_from(sandbox_pid).map_err(|error| error.to_string())?;
        Self::attach(self, uid, pid, ports).await.map_err(|error| chain(&error))
    }

    async fn detach(&self, uid: &str) -> Result<(), String> {
        Self::detach(self, uid).await.map_err(|error| chain(&error))
    }
}

/// What all pod workers of a node share.
pub struct Context {
    /// The agent's settings.
    pub config: Config,
    /// The API.
    pub client: kube::Client,
    /// Docker.
    pub runtime: Arc<dyn Runtime>,
    /// The pod network.
    pub network: Arc<dyn Network>,
    /// Cgroups of pods that are limited as a whole.
    pub cgroups: Arc<dyn PodCgroups>,
    /// Images and pulls.
    pub images: Images,
    /// The users and groups of images.
    pub accounts: ImageAccounts,
    /// Claims that only one pod at a time may use.
    pub exclusive: ExclusiveClaims,
    /// All pods of this node.
    pub pods: Arc<Directory>,
    /// Config maps, secrets, services.
    pub objects: Objects,
    /// Events.
    pub recorder: Recorder,
    /// Probes.
    pub probes: Probes,
    /// How many containers are started at once: enough to keep Docker busy,
    /// few enough that each gets there.
    pub starts: Semaphore,
    /// The node's addresses.
    pub node_ips: Vec<IpAddr>,
    /// The devices that containers are given.
    pub devices: Arc<Devices>,
    /// What the node gives to pods.
    pub allocatable: BTreeMap<String, Quantity>,
    /// The machine's memory.
    pub memory_bytes: u64,
    /// The name of the sandbox image.
    pub sandbox_image: String,
    /// The network namespace of the node, if Docker's is another.
    pub netns: Option<PathBuf>,
    /// The lowest out-of-memory score that Docker may give a container.
    pub least_oom_score: i64,
    /// Whether the kernel enforces AppArmor profiles.
    pub app_armor: bool,
    /// What the node runs short of.
    pub pressures: watch::Receiver<Pressures>,
    /// Whether the machine shuts down.
    pub shutting_down: watch::Receiver<bool>,
    /// The node's object, as far as pods go by it.
    pub node: watch::Receiver<NodeFacts>,
    /// What is counted.
    pub metrics: Metrics,
}

impl Context {
    /// Whose containers a pod's are.
    pub fn owner<'a>(&'a self, pod: &'a Pod) -> Owner<'a> {
        Owner { instance: &self.config.instance, node: &self.config.node_name, pod }
    }

    /// Why a pod that is new here may not run here; `None` if it may, and is
    /// given its devices.
    pub async fn admit(&self, pod: &Pod) -> Option<Refusal> {
        let host = Host {
            app_armor: self.app_armor,
            pressures: *self.pressures.borrow(),
            shutting_down: *self.shutting_down.borrow(),
        };
        let refused = refusal(pod, &host).or_else(|| without_devices(&self.devices, pod));
        // Whoever an earlier agent has taken has its place.
        if refused.is_some() || was_taken(pod) {
            return refused;
        }
        let known = self.node.borrow().clone();
        let mut refused = self.ensure_room(pod, &known);
        if refused.as_ref().is_some_and(rests_on_node)
            && let Some(node) = self.ask_for_node().await
        {
            refused = self.ensure_room(pod, &node);
        }
        if refused.is_some() {
            self.devices.release(uid(pod));
        }
        refused
    }

    /// Sends others away if a critical pod needs their room. Why there is no place
    /// for the pod all the same.
    fn ensure_room(&self, pod: &Pod, node: &NodeFacts) -> Option<Refusal> {
        let others = self.pods.with_room(uid(pod));
        let (name, allocatable) = (self.config.node_name.as_str(), &self.allocatable);
        let place = Place { name, node, allocatable, others: &others };
        let refused = misfit(pod, &place)?;
        let Some(victims) = victims(pod, &place) else { return Some(refused) };
        for victim in victims {
            self.pods.preempt(uid(&victim));
        }
        None
    }

    /// The node as the API has it at this moment: a pod may come by a label
    /// sooner than the watch tells of that.
    async fn ask_for_node(&self) -> Option<NodeFacts> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let answer = nodes.get(&self.config.node_name);
        match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
            Ok(Ok(node)) => Some(NodeFacts::from(&node)),
            Ok(Err(error)) => {
                debug!(error = chain(&error), "node not asked for, what is known of it decides");
                None
            }
            Err(_) => None,
        }
    }

    /// The services that a pod's containers are told of.
    pub async fn services(&self, pod: &Pod) -> Vec<Arc<Service>> {
        self.objects.services(pod.metadata.namespace.as_deref().unwrap_or_default()).await
    }
}
