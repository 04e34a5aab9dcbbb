//! The Node object: what this machine is, and that it lives.
//!
//! Writes the Node's labels, addresses and status, and its lease. The lease is
//! the heartbeat, renewed every ten seconds; the status is written when it
//! changes, and when the API shows another: the controllers call a node that
//! was silent unknown, and only the node itself can say that it is not.

mod condition;
mod facts;
mod features;
mod lease;
mod machine;
mod pressure;
mod register;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt;
use futures::stream::BoxStream;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
    NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher;
use serde_json::json;
use skiff_client::Api;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::config::Config;
use crate::devices::{self, Devices};
use crate::events::{Recorder, Severity};
use crate::eviction::thresholds::Watch;
use crate::pod::admit::fit::NodeFacts;
use crate::revision::{Revision, revision_of};
use crate::runtime::{Runtime, Version, sandbox_image};
use skiff_client::chain;

use facts::Facts;
pub(crate) use features::label_value;
pub use machine::Machine;
pub(crate) use machine::meminfo;
pub(crate) use pressure::pids;
pub use pressure::{Kind, Pressures, Shortage};
pub(crate) use register::parse_taint;

/// How often the lease is renewed while it lasts, so that one lost renewal or
/// two do not cost the node its pods.
const RENEWALS_PER_LEASE: u32 = 4;
/// How long a node that the API has as ready may take to find its runtime and
/// its pods after a restart of the agent.
const WARM_UP: Duration = Duration::from_secs(8);
/// How long the API may take to answer a heartbeat.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How soon an API that did not answer is asked again.
const SILENCE_RETRY: Duration = Duration::from_secs(1);
/// The version of Kubernetes that the node speaks.
const KUBELET_VERSION: &str = concat!("v1.35.0+skiff.", env!("CARGO_PKG_VERSION"));

/// What keeps the node from being ready, beside the machine's own pressures.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// Why the runtime does not answer.
    pub runtime_rx: Option<watch::Receiver<Option<String>>>,
    /// Why there is no pod network yet.
    pub network_rx: Option<watch::Receiver<Option<String>>>,
    /// Whether the machine shuts down.
    pub shutdown_rx: Option<watch::Receiver<bool>>,
}

/// This node.
pub struct NodeAgent {
    config: Config,
    client: kube::Client,
    runtime: Arc<dyn Runtime>,
    recorder: Recorder,
    machine: Machine,
    /// When something runs short.
    watch: Mutex<Watch>,
    /// What ran short when the node was looked at last.
    pressures_tx: watch::Sender<Pressures>,
    /// What pods go by, as the API has it.
    facts_tx: watch::Sender<NodeFacts>,
    /// The devices that pods can have, once the runtime has told.
    devices: OnceLock<Arc<Devices>>,
    /// The node's addresses, the one that other nodes use first.
    pub ips: Vec<IpAddr>,
}

impl NodeAgent {
    /// Looks at the machine. Nothing is written yet.
    pub fn new(
        config: Config,
        client: kube::Client,
        runtime: Arc<dyn Runtime>,
        recorder: Recorder,
    ) -> anyhow::Result<Self> {
        let ips = vec![config.node_ip];
        let machine = Machine::read().context("cannot read what this machine has")?;
        let pressures_tx = watch::Sender::default();
        let watch = Mutex::new(Watch::new(config.thresholds.clone()));
        Ok(Self {
            config,
            client,
            runtime,
            recorder,
            machine,
            watch,
            pressures_tx,
            facts_tx: watch::Sender::default(),
            devices: OnceLock::new(),
            ips,
        })
    }

    /// Makes devices a part of what the node has. Once only.
    pub fn set_devices(&self, devices: Arc<Devices>) {
        // A second call would be our own mistake; the first stands.
        let _ = self.devices.set(devices);
    }

    /// What the node gives to pods.
    pub fn allocatable(&self) -> BTreeMap<String, Quantity> {
        let Config { reserved, thresholds, .. } = &self.config;
        machine::for_pods(&self.capacity(), reserved, &thresholds.hard)
    }

    /// What the node has.
    fn capacity(&self) -> BTreeMap<String, Quantity> {
        let mut resources =
            self.machine.resources(self.config.max_pods, &self.config.extended_resources);
        resources.extend(self.devices.get().into_iter().flat_map(|devices| devices.capacity()));
        resources
    }

    /// The machine's memory.
    pub fn memory_bytes(&self) -> u64 {
        self.machine.memory_bytes
    }

    /// What runs short: told when that changes and, while something does, every
    /// time that the node is looked at, which is with every heartbeat.
    pub fn pressures(&self) -> watch::Receiver<Pressures> {
        self.pressures_tx.subscribe()
    }

    /// What the API has of the node that pods go by: labels and taints.
    pub fn facts(&self) -> watch::Receiver<NodeFacts> {
        self.facts_tx.subscribe()
    }

    /// Looks at the node. Does not need the API: a pod that has to go goes while
    /// that is silent, too.
    fn look_at_pressures(&self, facts: &Facts) -> Pressures {
        let root = facts.version.as_ref().map(|version| Path::new(&version.root_dir));
        let readings = pressure::read(&self.config.data_dir, root);
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let now = watch.look(&readings, Instant::now());
        drop(watch);
        self.pressures_tx.send_if_modified(|known| {
            let told = *known != now || now.urgent.is_some();
            *known = now;
            told
        });
        now
    }

    /// Keeps lease and status current until cancelled. `registered` is the Node
    /// as the API has it; `api_back` is told when the API answers again after a
    /// silence.
    pub async fn run(
        self: Arc<Self>,
        registered: Node,
        mut health: Health,
        api_back: Arc<Notify>,
        cancel: CancellationToken,
    ) {
        let begun = Instant::now();
        let mut beat_at = begun;
        let mut is_silent = false;
        let mut own = self.watch_self();
        let mut seen = Seen { facts_tx: self.facts_tx.clone(), ..Seen::default() };
        let gpus = gpus_told(&registered);
        self.tell_of_reboot(&registered);
        seen.take(registered);
        let mut written: Option<NodeStatus> = None;
        let mut facts = Facts::default();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep_until(beat_at) => match in_time(self.renew_lease()).await {
                    Ok(()) => {
                        beat_at = Instant::now() + self.config.lease_duration / RENEWALS_PER_LEASE;
                        if std::mem::take(&mut is_silent) {
                            info!("the API answers again");
                            // Others may have written for us meanwhile, and a
                            // watch may be a dead connection.
                            written = None;
                            own = self.watch_self();
                            api_back.notify_one();
                        }
                    }
                    Err(error) => {
                        beat_at = Instant::now() + SILENCE_RETRY;
                        if !std::mem::replace(&mut is_silent, true) {
                            warn!(error, "lease not renewed, will be tried until it is");
                        }
                        self.look_at_pressures(&facts);
                        continue;
                    }
                },
                event = own.next() => match event {
                    Some(Ok(watcher::Event::Apply(node) | watcher::Event::InitApply(node))) => {
                        let was = seen.cordoned;
                        if !seen.take(node) {
                            continue;
                        }
                        if let Some(reason) = condition::cordon_change(was, seen.cordoned == Some(true)) {
                            self.say(reason);
                        }
                        if written.as_ref().is_some_and(|own| !condition::agree(own, &seen.conditions)) {
                            info!("the API has another status of this node, writing ours again");
                            written = None;
                        }
                    }
                    Some(Ok(watcher::Event::Delete(_))) => {
                        // Deleted by hand: a node that lives comes back.
                        let Ok(Some(node)) = self.register(&cancel).await else { continue };
                        seen.take(node);
                        written = None;
                    }
                    Some(Ok(watcher::Event::Init | watcher::Event::InitDone)) => continue,
                    Some(Err(error)) => {
                        debug!(%error, "watch on our node broke, will resume");
                        continue;
                    }
                    None => own = self.watch_self(),
                },
                () = facts.answered() => {}
                () = changed(&mut health.runtime_rx) => facts.outdate(),
                () = changed(&mut health.network_rx) => {}
                () = changed(&mut health.shutdown_rx) => {}
            }
            let problems = health.problems(facts.silence.as_deref());
            if !problems.is_empty()
                && !health.is_shutting_down()
                && begun.elapsed() < WARM_UP
                && condition::is_ready(&seen.conditions)
            {
                // Restarted: what ran goes on running while we find it again.
                continue;
            }
            facts.ask(&self.runtime, !health.is_without_runtime());
            if !facts.has_answered() {
                continue;
            }
            let status = self.status(&facts, &problems, &seen.conditions, &gpus);
            if written.as_ref().is_some_and(|known| condition::same(known, &status)) {
                continue;
            }
            match in_time(self.write_status(&status)).await {
                Ok(node) => {
                    self.tell(&seen.conditions, &status);
                    seen.take(node);
                    written = Some(status);
                }
                Err(error) => {
                    warn!(error, "node status not written, will be tried again");
                    beat_at = beat_at.min(Instant::now() + SILENCE_RETRY);
                }
            }
        }
    }

    /// Tells of a boot since the last agent wrote the Node.
    fn tell_of_reboot(&self, registered: &Node) {
        let known = registered.status.as_ref().and_then(|status| status.node_info.as_ref());
        let (name, boot) = (&self.config.node_name, &self.machine.boot_id);
        if condition::has_rebooted(known.map(|known| known.boot_id.as_str()), boot) {
            let message = format!("Node {name} has been rebooted, boot id: {boot}");
            self.recorder.node(registered, Severity::Warning, "Rebooted", message);
        }
    }

    /// This node's object, and whatever becomes of it.
    fn watch_self(&self) -> BoxStream<'static, watcher::Result<watcher::Event<Node>>> {
        let config = watcher::Config::default()
            .any_semantic()
            .fields(&format!("metadata.name={}", self.config.node_name));
        skiff_client::watch(Api::all(self.client.clone()), config)
    }

    /// Changes of conditions are events, too.
    fn tell(&self, known: &[NodeCondition], status: &NodeStatus) {
        let computed = status.conditions.as_deref().unwrap_or_default();
        condition::changes(known, computed).for_each(|reason| self.say(reason));
    }

    fn say(&self, reason: &str) {
        let mut node = Node::default();
        node.metadata.name = Some(self.config.node_name.clone());
        let message = format!("Node {} status is now: {reason}", self.config.node_name);
        self.recorder.node(&node, Severity::Normal, reason, message);
    }

    /// `gpus` are the resources of that kind that the API had at the start: what
    /// is no longer there has to be said to be none.
    fn status(
        &self,
        facts: &Facts,
        problems: &[String],
        old: &[NodeCondition],
        gpus: &[String],
    ) -> NodeStatus {
        let pressures = self.look_at_pressures(facts);
        let (mut capacity, mut allocatable) = (self.capacity(), self.allocatable());
        for name in gpus.iter().filter(|_| self.devices.get().is_some()) {
            for resources in [&mut capacity, &mut allocatable] {
                resources.entry(name.clone()).or_insert_with(|| Quantity("0".into()));
            }
        }
        let mut addresses: Vec<_> = self
            .ips
            .iter()
            .map(|ip| NodeAddress { type_: "InternalIP".into(), address: ip.to_string() })
            .collect();
        addresses
            .push(NodeAddress { type_: "Hostname".into(), address: self.config.node_name.clone() });
        NodeStatus {
            addresses: Some(addresses),
            capacity: Some(capacity),
            allocatable: Some(allocatable),
            conditions: Some(condition::compute(pressures, problems, old, Timestamp::now())),
            daemon_endpoints: Some(NodeDaemonEndpoints {
                kubelet_endpoint: Some(DaemonEndpoint {
                    port: i32::from(self.config.listen.port()),
                }),
            }),
            features: Some(NodeFeatures { supplemental_groups_policy: Some(true) }),
            runtime_handlers: Some(vec![NodeRuntimeHandler {
                name: Some(String::new()),
                features: Some(NodeRuntimeHandlerFeatures {
                    recursive_read_only_mounts: Some(true),
                    user_namespaces: Some(false),
                }),
            }]),
            images: Some(facts.images.clone()),
            node_info: Some(self.info(facts.version.as_ref())),
            ..NodeStatus::default()
        }
    }

    fn info(&self, version: Option<&Version>) -> NodeSystemInfo {
        let runtime = version.map_or_else(
            || "docker://".into(),
            |found| format!("{}://{}", found.name, found.version),
        );
        NodeSystemInfo {
            architecture: sandbox_image::architecture().into(),
            boot_id: self.machine.boot_id.clone(),
            container_runtime_version: runtime,
            kernel_version: self.machine.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: KUBELET_VERSION.into(),
            machine_id: self.machine.machine_id.clone(),
            operating_system: "linux".into(),
            os_image: version.map(|version| version.os_image.clone()).unwrap_or_default(),
            system_uuid: self.machine.system_uuid.clone(),
            swap: None,
        }
    }

    async fn write_status(&self, status: &NodeStatus) -> kube::Result<Node> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let patch = Patch::Strategic(json!({"status": status}));
        nodes.patch_status(&self.config.node_name, &PatchParams::default(), &patch).await
    }
}

impl Health {
    /// All of it. `silence` is why the runtime did not answer a question; while
    /// it is known to be away that says nothing new.
    fn problems(&self, silence: Option<&str>) -> Vec<String> {
        let known = |receiver: &Option<watch::Receiver<Option<String>>>, what: &str| {
            let reason = receiver.as_ref()?.borrow().clone()?;
            Some(format!("{what}: {reason}"))
        };
        let runtime = known(&self.runtime_rx, "container runtime is down")
            .or_else(|| Some(format!("container runtime is down: {}", silence?)));
        let network = known(&self.network_rx, "pod network is not ready");
        let shutdown = self.is_shutting_down().then(|| "node is shutting down".to_owned());
        runtime.into_iter().chain(network).chain(shutdown).collect()
    }

    fn is_without_runtime(&self) -> bool {
        self.runtime_rx.as_ref().is_some_and(|away| away.borrow().is_some())
    }

    fn is_shutting_down(&self) -> bool {
        self.shutdown_rx.as_ref().is_some_and(|begun| *begun.borrow())
    }
}

/// The node's conditions as the API had them last.
#[derive(Default)]
struct Seen {
    revision: Option<Revision>,
    conditions: Vec<NodeCondition>,
    /// Whether the node takes no pods.
    cordoned: Option<bool>,
    /// Where the rest of the agent learns what pods go by.
    facts_tx: watch::Sender<NodeFacts>,
}

impl Seen {
    /// Takes over what is not older than what is known.
    fn take(&mut self, node: Node) -> bool {
        let revision = revision_of(&node.metadata);
        if revision < self.revision {
            return false;
        }
        self.revision = revision;
        let spec = node.spec.as_ref();
        self.cordoned = Some(spec.and_then(|spec| spec.unschedulable).unwrap_or_default());
        let facts = NodeFacts::from(&node);
        self.facts_tx.send_if_modified(|known| {
            let changed = *known != facts;
            *known = facts;
            changed
        });
        self.conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
        true
    }
}

/// The GPUs that the API has of this node, from an agent before.
fn gpus_told(registered: &Node) -> Vec<String> {
    let offered = registered.status.as_ref().and_then(|status| status.capacity.as_ref());
    let names = offered.into_iter().flatten().map(|(name, _)| name);
    names.filter(|name| devices::is_gpu(name)).cloned().collect()
}

/// What came of a call to the API, which has to answer soon: a call that hangs
/// must not cost the node its lease.
async fn in_time<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(ANSWER_TIMEOUT, call).await {
        Ok(answer) => answer.map_err(|error| chain(&error)),
        Err(_) => Err("the API does not answer".into()),
    }
}

/// Waits for a change; forever once the sender is gone.
async fn changed<T>(receiver: &mut Option<watch::Receiver<T>>) {
    let changed = match receiver {
        Some(receiver) => receiver.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        std::future::pending().await
    }
}
