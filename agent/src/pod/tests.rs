//! Pods from the API to the runtime and back: the manager and its workers over
//! an API in memory, on the in-memory runtime and on Docker.

mod admission;
mod cgroups;
mod changes;
mod devices;
mod docker_faults;
mod eviction;
mod faults;
mod features;
mod lifecycle;
mod shutdown;
mod static_pods;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::accounts::ImageAccounts;
use super::admit::fit::NodeFacts;
use super::context::{Context, Network};
use super::directory::Directory;
use super::exclusive::ExclusiveClaims;
use super::fake_api::FakeApi;
use super::manager::Manager;
use super::objects::Objects;
use super::static_pods::Folder;
use crate::cgroup;
use crate::config::Config;
use crate::devices::{Devices, Offers};
use crate::events::Recorder;
use crate::eviction::Evictor;
use crate::eviction::thresholds::Thresholds;
use crate::images::Images;
use crate::metrics::Metrics;
use crate::network::HostPort;
use crate::node::Pressures;
use crate::probe::Probes;
use crate::runtime::memory::Memory;
use crate::runtime::{Runtime, labels, sandbox_image};
use crate::shutdown::Shutdown;
use crate::shutdown::fake_logind::FakeLogind;
use crate::shutdown::plan::GracePeriods;

/// Addresses without cables.
#[derive(Default)]
struct Cables {
    attached: AtomicUsize,
    detached: AtomicUsize,
    /// How many of the next attachments panic.
    panics: AtomicUsize,
}

#[async_trait]
impl Network for Cables {
    async fn attach(
        &self,
        _uid: &str,
        _sandbox_pid: i32,
        _ports: &[HostPort],
    ) -> Result<IpAddr, String> {
        let panics = self.panics.load(Ordering::Relaxed);
        if panics > 0 {
            self.panics.store(panics - 1, Ordering::Relaxed);
            panic!("asked to");
        }
        self.attached.fetch_add(1, Ordering::Relaxed);
        Ok(IpAddr::from([10, 244, 0, 9]))
    }

    async fn detach(&self, _uid: &str) -> Result<(), String> {
        self.detached.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// A node whose agent can be stopped and started.
struct TestNode<R> {
    api: FakeApi,
    runtime: Arc<R>,
    cables: Arc<Cables>,
    cgroups: Arc<cgroup::Memory>,
    /// How many processes a pod may have.
    pod_pids: Option<i64>,
    /// What the node runs short of.
    pressures: watch::Sender<Pressures>,
    /// What the node has heard of itself.
    facts: watch::Sender<NodeFacts>,
    /// How long pods have when the machine shuts down.
    grace: GracePeriods,
    /// How long pods have that go for a soft threshold.
    soft_pod_grace: i64,
    /// Where the machine's bus is, without a logind on it.
    bus: Option<String>,
    logind: Option<FakeLogind>,
    /// The devices that it has.
    offers: Offers,
    dir: tempfile::TempDir,
    agent: Option<(CancellationToken, JoinSet<()>)>,
}

const POD: &str = "/api/v1/namespaces/ns/pods/p";

impl<R: Runtime> TestNode<R> {
    async fn new(runtime: Arc<R>) -> Self {
        sandbox_image::ensure(runtime.as_ref()).await.unwrap();
        let (api, cables) = (FakeApi::new(), Arc::default());
        let mut node = Self {
            api,
            runtime,
            cables,
            cgroups: Arc::default(),
            pod_pids: None,
            pressures: watch::Sender::default(),
            facts: watch::Sender::default(),
            grace: GracePeriods::default(),
            soft_pod_grace: 0,
            bus: None,
            logind: None,
            offers: Offers::default(),
            dir: tempfile::tempdir().unwrap(),
            agent: None,
        };
        node.start();
        node
    }

    fn config(&self) -> Config {
        Config {
            pod_pids: self.pod_pids,
            shutdown: self.grace.clone(),
            thresholds: Thresholds { soft_pod_grace: self.soft_pod_grace, ..Thresholds::default() },
            logind_conf_dir: self.dir.path().join("logind.conf.d"),
            ..Config::new("n1", self.dir.path())
        }
    }

    fn static_dir(&self) -> std::path::PathBuf {
        self.dir.path().join("static")
    }

    fn start(&mut self) {
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let client = self.api.client();
        let (recorder, events) = Recorder::new(client.clone(), "n1".into(), cancel.clone());
        tasks.spawn(events);
        let directory = Arc::new(Directory::default());
        let woken = directory.clone();
        let wake = Arc::new(move |uid: &str| woken.objects_changed(uid));
        let (objects, services) = Objects::new(client.clone(), wake, cancel.clone());
        tasks.spawn(services);
        let reported = directory.clone();
        let report = Arc::new(move |uid: &str, id: &str, health| reported.health(uid, id, health));
        let runtime: Arc<dyn Runtime> = self.runtime.clone();
        let (probes, probing) =
            Probes::new(runtime.clone(), recorder.clone(), report, cancel.clone());
        tasks.spawn(probing);
        let images = Images::new(runtime.clone());
        let evictor = Evictor::new(
            self.config(),
            runtime.clone(),
            images.clone(),
            directory.clone(),
            recorder.clone(),
        );
        tasks.spawn(evictor.run(self.pressures.subscribe(), cancel.clone()));
        let (shutdown_tx, shutting_down) = watch::channel(false);
        let shutdown =
            Shutdown::new(&self.config(), directory.clone(), recorder.clone(), shutdown_tx);
        let bus = self.logind.as_ref().map(|logind| &logind.address).or(self.bus.as_ref());
        // Without one the machine's own must not be asked.
        let shutdown = shutdown.on_bus(bus.map_or("unix:path=/nonexistent", String::as_str));
        tasks.spawn(shutdown.run(cancel.clone()));
        let ctx = Arc::new(Context {
            config: self.config(),
            client,
            runtime: runtime.clone(),
            network: self.cables.clone(),
            cgroups: self.cgroups.clone(),
            images,
            accounts: ImageAccounts::default(),
            exclusive: ExclusiveClaims::default(),
            pods: directory.clone(),
            objects,
            recorder,
            probes,
            starts: Semaphore::new(8),
            devices: Arc::new(Devices::new(self.offers.clone())),
            node_ips: vec![IpAddr::from([192, 0, 2, 1])],
            allocatable: [("cpu", "4"), ("pods", "20")]
                .map(|(name, amount)| (name.to_owned(), Quantity(amount.into())))
                .into(),
            memory_bytes: 1 << 30,
            sandbox_image: sandbox_image::name(),
            netns: None,
            least_oom_score: crate::runtime::daemon::least_oom_score(None),
            app_armor: false,
            pressures: self.pressures.subscribe(),
            shutting_down,
            node: self.facts.subscribe(),
            metrics: Metrics::new().unwrap(),
        });
        let (runtime_tx, _) = watch::channel(None);
        // A node has static pods when a test made it a folder for them.
        let folder = Some(self.static_dir()).filter(|dir| dir.exists());
        let folder = folder.map(|dir| Folder::open(&dir, "n1").unwrap());
        let manager = Manager::new(ctx, directory, runtime_tx, Arc::default(), cancel.clone());
        tasks.spawn(manager.with_static_pods(folder).run());
        self.agent = Some((cancel, tasks));
    }

    async fn stop(&mut self) {
        if let Some((cancel, mut tasks)) = self.agent.take() {
            cancel.cancel();
            while tasks.join_next().await.is_some() {}
        }
    }

    fn apply(&self, name: &str, spec: Value) {
        let mut pod = json!({"kind": "Pod", "apiVersion": "v1", "spec": spec,
            "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}"), "generation": 1}});
        pod["spec"]["nodeName"] = json!("n1");
        self.api.put(&format!("/api/v1/namespaces/ns/pods/{name}"), pod);
    }

    /// Waits until the pod's object satisfies `wanted`.
    async fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.until_at(POD, what, wanted).await
    }

    /// The same for the object at a path.
    async fn until_at(&self, path: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let wait = async {
            loop {
                let pod = self.api.get(path).unwrap_or_default();
                if wanted(&pod) {
                    return pod;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match tokio::time::timeout(Duration::from_secs(30), wait).await {
            Ok(pod) => pod,
            Err(_) => panic!("{what} did not happen: {:#}", self.api.get(path).unwrap_or_default()),
        }
    }

    async fn until_phase(&self, phase: &str) -> Value {
        self.until(phase, |pod| pod["status"]["phase"] == phase).await
    }

    async fn containers(&self) -> Vec<crate::runtime::Container> {
        let config = self.config();
        self.runtime.list(&labels::of_node(&config.instance, "n1")).await.unwrap()
    }

    async fn until_empty(&self) {
        self.until_count(0).await;
    }

    /// Waits until there are so many containers, sandboxes counted.
    async fn until_count(&self, count: usize) {
        for _ in 0..2000 {
            if self.containers().await.len() == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not {count} containers: {:?}", self.containers().await);
    }

    async fn app(&self, name: &str) -> crate::runtime::Container {
        let mut found = self.containers().await;
        found.retain(|container| container.label(labels::CONTAINER) == name);
        found.sort_by_key(|container| container.label(labels::ATTEMPT).parse::<u32>().unwrap());
        found.pop().unwrap()
    }

    fn events(&self) -> Vec<String> {
        let events = self.api.all("/events/").into_iter();
        events.map(|event| event["reason"].as_str().unwrap().to_owned()).collect()
    }

    async fn until_event(&self, reason: &str) {
        for _ in 0..2000 {
            if self.events().iter().any(|known| known == reason) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("no event {reason}, only {:?}", self.events());
    }
}

async fn hollow() -> TestNode<Memory> {
    let memory = Arc::new(Memory::new());
    memory.add_image("img:1");
    TestNode::new(memory).await
}

fn one() -> Value {
    json!({"containers": [{"name": "a", "image": "img:1"}]})
}

fn ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// A node with a ready pod whose container is asked by `check` whether it lives.
async fn probed() -> TestNode<Memory> {
    let node = hollow().await;
    let probe = json!({"exec": {"command": ["check"]}, "periodSeconds": 1, "failureThreshold": 1});
    node.apply(
        "p",
        json!({"containers": [{"name": "a", "image": "img:1", "livenessProbe": probe}]}),
    );
    node.until("Ready", ready).await;
    node
}
