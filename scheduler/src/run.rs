//! Feeds the picture of the cluster from watches, places what waits, and hands
//! decisions to [`crate::bind`].
//!
//! One task owns the picture and the queue, so a decision sees a consistent
//! cluster. Bindings are written beside it; one that fails gives its room back
//! and its pod another turn.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::runtime::watcher;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use skiff_client::{Api, chain, watch};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::SCHEDULER_NAME;
use crate::bind::{Binder, is_refused};
use crate::cluster::{Cluster, PodInfo};
use crate::place::place;
use crate::queue::Queue;
use crate::volumes::{Choice, ClaimKey, Volumes};

/// Bindings and refusals being written at once. More wait for their turn; the
/// decisions are already taken then, so nothing is placed twice.
const WRITES_AT_ONCE: usize = 32;
/// Watch events taken in before the next decision. When full the watches wait.
const EVENT_QUEUE: usize = 1024;

/// What the watches and the finished writes tell the owner of the picture.
enum News {
    Pod(Box<watcher::Event<Pod>>),
    Node(Box<watcher::Event<Node>>),
    Namespace(Box<watcher::Event<Namespace>>),
    Claim(Box<watcher::Event<PersistentVolumeClaim>>),
    Volume(Box<watcher::Event<PersistentVolume>>),
    Class(Box<watcher::Event<StorageClass>>),
    /// How a pod's claims are to be served was not written.
    NotChosen(Arc<PodInfo>, Vec<ClaimKey>),
    /// A binding was not written, and may be tried again.
    NotBound(Arc<PodInfo>),
    /// A binding was refused because the pod is gone.
    Gone(Arc<PodInfo>),
}

/// Schedules until cancelled. Fails only when a watch ends for good.
pub async fn run(client: Client, cancel: CancellationToken) -> anyhow::Result<()> {
    let (news_tx, news_rx) = mpsc::channel(EVENT_QUEUE);
    let mut tasks = JoinSet::new();
    // Pods that have finished neither wait nor take room.
    let pods = watcher::Config::default().fields("status.phase!=Succeeded,status.phase!=Failed");
    let all = watcher::Config::default;
    tasks.spawn(forward(client.clone(), pods, News::Pod, news_tx.clone()));
    tasks.spawn(forward(client.clone(), all(), News::Node, news_tx.clone()));
    tasks.spawn(forward(client.clone(), all(), News::Namespace, news_tx.clone()));
    tasks.spawn(forward(client.clone(), all(), News::Claim, news_tx.clone()));
    tasks.spawn(forward(client.clone(), all(), News::Volume, news_tx.clone()));
    tasks.spawn(forward(client.clone(), all(), News::Class, news_tx.clone()));
    let scheduler = Scheduler {
        waiting: HashMap::new(),
        cluster: Cluster::default(),
        queue: Queue::default(),
        synced: Synced::default(),
        binder: Binder::new(client),
        permits: Arc::new(Semaphore::new(WRITES_AT_ONCE)),
        writes: JoinSet::new(),
        news_tx,
    };
    tokio::select! {
        () = cancel.cancelled() => Ok(()),
        () = scheduler.work(news_rx) => Ok(()),
        ended = tasks.join_next() => anyhow::bail!("a watch of the scheduler ended: {ended:?}"),
    }
}

/// Watches one kind for ever, with back-off after errors.
async fn forward<K>(
    client: Client,
    config: watcher::Config,
    wrap: fn(Box<watcher::Event<K>>) -> News,
    news_tx: mpsc::Sender<News>,
) where
    K: Resource<DynamicType = ()> + DeserializeOwned + Send + 'static,
{
    let mut events = watch(Api::all(client), config);
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                if news_tx.send(wrap(Box::new(event))).await.is_err() {
                    return;
                }
            }
            Err(error) => debug!(error = chain(&error), "watch interrupted"),
        }
    }
}

/// Which kinds have been listed once: no decision is taken on half a picture.
#[derive(Default)]
struct Synced {
    pods: bool,
    nodes: bool,
    namespaces: bool,
    claims: bool,
    volumes: bool,
    classes: bool,
}

impl Synced {
    fn all(&self) -> bool {
        let storage = self.claims && self.volumes && self.classes;
        self.pods && self.nodes && self.namespaces && storage
    }
}

/// How events of one kind of storage change the picture.
struct StorageKind<K> {
    synced: fn(&mut Synced) -> &mut bool,
    clear: fn(&mut Volumes),
    upsert: fn(&mut Volumes, K),
    remove: fn(&mut Volumes, &K),
}

const CLAIMS: StorageKind<PersistentVolumeClaim> = StorageKind {
    synced: |synced| &mut synced.claims,
    clear: Volumes::clear_claims,
    upsert: Volumes::upsert_claim,
    remove: Volumes::remove_claim,
};

const VOLUMES: StorageKind<PersistentVolume> = StorageKind {
    synced: |synced| &mut synced.volumes,
    clear: Volumes::clear_volumes,
    upsert: Volumes::upsert_volume,
    remove: Volumes::remove_volume,
};

const CLASSES: StorageKind<StorageClass> = StorageKind {
    synced: |synced| &mut synced.classes,
    clear: Volumes::clear_classes,
    upsert: Volumes::upsert_class,
    remove: Volumes::remove_class,
};

struct Scheduler {
    cluster: Cluster,
    /// Pods that have a node and wait there for their claims, by uid.
    waiting: HashMap<String, (Arc<PodInfo>, String)>,
    queue: Queue,
    synced: Synced,
    binder: Binder,
    permits: Arc<Semaphore>,
    writes: JoinSet<()>,
    news_tx: mpsc::Sender<News>,
}

impl Scheduler {
    async fn work(mut self, mut news_rx: mpsc::Receiver<News>) {
        let mut batch = Vec::new();
        loop {
            let next_due = self.queue.advance(Instant::now());
            self.place_ready();
            let due = async {
                match next_due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                received = news_rx.recv_many(&mut batch, EVENT_QUEUE) => {
                    if received == 0 {
                        return;
                    }
                    for news in batch.drain(..) {
                        self.take_in(news);
                    }
                }
                () = due => {}
                Some(finished) = self.writes.join_next(), if !self.writes.is_empty() => {
                    if let Err(error) = finished {
                        warn!(error = chain(&error), "a write of the scheduler broke off");
                    }
                }
            }
        }
    }

    fn place_ready(&mut self) {
        if !self.synced.all() {
            return;
        }
        while let Some(pod) = self.queue.pop() {
            match place(&pod, &self.cluster) {
                Ok(node) => self.assume_and_bind(pod, node),
                Err(refused) => self.refuse(&pod, refused.to_string()),
            }
        }
    }

    fn assume_and_bind(&mut self, pod: Arc<PodInfo>, node: String) {
        let assumed = Arc::new(PodInfo { node: Some(node.clone()), ..(*pod).clone() });
        let volumes = self.cluster.volumes();
        let wants = volumes.wants(&pod, &self.cluster).unwrap_or_default();
        let must_wait = wants.must_wait();
        let choices = (self.cluster.node(&node))
            .and_then(|node| volumes.choose(&wants, node).ok())
            .unwrap_or_default();
        self.cluster.volumes_mut().promise(&node, &choices);
        self.cluster.upsert_pod(assumed);
        if must_wait {
            self.waiting.insert(pod.uid.clone(), (pod.clone(), node));
            self.choose(pod, choices);
        } else {
            self.bind(pod, node);
        }
    }

    /// Has it written how the pod's claims are to be served.
    fn choose(&mut self, pod: Arc<PodInfo>, choices: Vec<Choice>) {
        if choices.is_empty() {
            return;
        }
        let (binder, permits, news_tx) =
            (self.binder.clone(), self.permits.clone(), self.news_tx.clone());
        self.writes.spawn(async move {
            let Ok(_permit) = permits.acquire_owned().await else { return };
            if let Err(error) = binder.choose(&choices).await {
                debug!(pod = %pod.name, namespace = %pod.namespace, error = chain(&error), "choice of volumes refused");
                let claims = choices.iter().map(Choice::claim).collect();
                // A closed channel means that we are stopping.
                let _ = news_tx.send(News::NotChosen(pod, claims)).await;
            }
        });
    }

    /// Binds the pods whose claims are served now, and takes back the nodes of
    /// those whose claims will not be.
    fn settle_waiting(&mut self) {
        let waiting: Vec<_> = self.waiting.values().cloned().collect();
        for (pod, node) in waiting {
            let volumes = self.cluster.volumes();
            let wants = volumes.wants(&pod, &self.cluster);
            let served = wants.as_ref().is_ok_and(|wants| {
                let here = self.cluster.node(&node);
                !wants.must_wait() && here.is_some_and(|node| volumes.filter(wants, node).is_ok())
            });
            if served {
                self.waiting.remove(&pod.uid);
                self.bind(pod, node);
            } else if !volumes.is_promised(&pod) {
                self.waiting.remove(&pod.uid);
                self.cluster.remove_pod(&pod.uid);
                self.queue.delay(pod, Instant::now());
            }
        }
    }

    fn bind(&mut self, pod: Arc<PodInfo>, node: String) {
        let (binder, permits, news_tx) =
            (self.binder.clone(), self.permits.clone(), self.news_tx.clone());
        self.writes.spawn(async move {
            let Ok(_permit) = permits.acquire_owned().await else { return };
            match binder.bind(&pod, &node).await {
                Ok(()) => info!(pod = %pod.name, namespace = %pod.namespace, %node, "bound"),
                Err(error) => {
                    debug!(pod = %pod.name, namespace = %pod.namespace, %node, error = chain(&error), "binding refused");
                    let news = match &error {
                        kube::Error::Api(status) if status.is_not_found() => News::Gone(pod),
                        // Somebody bound it first: the watch brings where to.
                        kube::Error::Api(status) if status.code == 409 => return,
                        _ => News::NotBound(pod),
                    };
                    // A closed channel means that we are stopping.
                    let _ = news_tx.send(news).await;
                }
            }
        });
    }

    fn refuse(&mut self, pod: &Arc<PodInfo>, message: String) {
        let Some(telling) = self.queue.report(&pod.uid, &message) else { return };
        info!(pod = %pod.name, namespace = %pod.namespace, %message, "no node fits");
        let (binder, permits, pod) = (self.binder.clone(), self.permits.clone(), pod.clone());
        self.writes.spawn(async move {
            let Ok(_permit) = permits.acquire_owned().await else { return };
            binder.refuse(&pod, message, telling).await;
        });
    }

    fn take_in(&mut self, news: News) {
        match news {
            News::Pod(event) => self.take_in_pod(*event),
            News::Node(event) => self.take_in_node(*event),
            News::Namespace(event) => self.take_in_namespace(*event),
            News::Claim(event) => self.take_in_storage(*event, &CLAIMS),
            News::Volume(event) => self.take_in_storage(*event, &VOLUMES),
            News::Class(event) => self.take_in_storage(*event, &CLASSES),
            News::NotChosen(pod, claims) => {
                self.cluster.volumes_mut().break_promises(claims);
                if self.waiting.remove(&pod.uid).is_some() {
                    self.cluster.remove_pod(&pod.uid);
                    self.queue.delay(pod, Instant::now());
                }
            }
            News::Gone(pod) => {
                self.cluster.remove_pod(&pod.uid);
            }
            News::NotBound(pod) => {
                self.cluster.remove_pod(&pod.uid);
                self.queue.delay(pod, Instant::now());
            }
        }
    }

    fn take_in_storage<K>(&mut self, event: watcher::Event<K>, kind: &StorageKind<K>) {
        let volumes = self.cluster.volumes_mut();
        match event {
            watcher::Event::Init => {
                (kind.clear)(volumes);
                *(kind.synced)(&mut self.synced) = false;
            }
            watcher::Event::InitDone => *(kind.synced)(&mut self.synced) = true,
            watcher::Event::Apply(object) | watcher::Event::InitApply(object) => {
                (kind.upsert)(volumes, object);
            }
            watcher::Event::Delete(object) => (kind.remove)(volumes, &object),
        }
        // A claim may be served now that was not before; but while a list is
        // coming in, what is missing may only be late.
        if self.synced.all() {
            self.settle_waiting();
            self.queue.wake_parked();
        }
    }

    fn take_in_pod(&mut self, event: watcher::Event<Pod>) {
        match event {
            watcher::Event::Init => {
                // A fresh list follows; what it does not name is gone.
                self.synced.pods = false;
                let uids: Vec<String> = self.cluster.pods().map(|pod| pod.uid.clone()).collect();
                uids.iter().for_each(|uid| {
                    self.cluster.remove_pod(uid);
                });
                self.queue = Queue::default();
                self.waiting.clear();
            }
            watcher::Event::InitDone => self.synced.pods = true,
            watcher::Event::Apply(pod) | watcher::Event::InitApply(pod) => self.upsert_pod(&pod),
            watcher::Event::Delete(pod) => {
                let uid = pod.metadata.uid.unwrap_or_default();
                self.queue.remove(&uid);
                self.waiting.remove(&uid);
                if self.cluster.remove_pod(&uid) {
                    self.queue.wake_parked();
                }
            }
        }
    }

    fn take_in_node(&mut self, event: watcher::Event<Node>) {
        match event {
            watcher::Event::Init => {
                self.synced.nodes = false;
                let names: Vec<String> =
                    self.cluster.nodes().map(|node| node.name.clone()).collect();
                names.iter().for_each(|name| self.cluster.remove_node(name));
                return;
            }
            watcher::Event::InitDone => self.synced.nodes = true,
            watcher::Event::Apply(node) | watcher::Event::InitApply(node) => {
                if !self.cluster.upsert_node(&node) {
                    return;
                }
            }
            // The message of a parked pod names how many nodes there are.
            watcher::Event::Delete(node) => {
                self.cluster.remove_node(&node.metadata.name.unwrap_or_default())
            }
        }
        self.queue.wake_parked();
    }

    fn take_in_namespace(&mut self, event: watcher::Event<Namespace>) {
        match event {
            watcher::Event::Init => {}
            watcher::Event::InitDone => self.synced.namespaces = true,
            watcher::Event::Apply(namespace) | watcher::Event::InitApply(namespace) => {
                self.cluster.upsert_namespace(&namespace);
            }
            watcher::Event::Delete(namespace) => {
                self.cluster.remove_namespace(&namespace.metadata.name.unwrap_or_default());
            }
        }
    }

    fn upsert_pod(&mut self, pod: &Pod) {
        let Some(info) = PodInfo::of(pod) else { return };
        let gates = pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_ref());
        let gated = gates.is_some_and(|gates| !gates.is_empty());
        let ours = info.spec.scheduler_name.as_deref().unwrap_or(SCHEDULER_NAME) == SCHEDULER_NAME;
        if info.node.is_some() {
            self.queue.remove(&info.uid);
            // Leaving, labelled anew or resized: others may fit or be wanted there now.
            let before = self.cluster.pods_by_uid(&info.uid);
            let news = before.is_none_or(|before| {
                before.labels != info.labels
                    || before.terminating != info.terminating
                    || before.requests != info.requests
            });
            self.cluster.upsert_pod(Arc::new(info));
            if news {
                self.queue.wake_parked();
            }
        } else if !ours || gated || info.terminating {
            self.queue.remove(&info.uid);
        } else if self.cluster.pods_by_uid(&info.uid).is_none() {
            let uid = info.uid.clone();
            self.queue.upsert(Arc::new(info));
            if is_refused(pod) {
                self.queue.told(&uid);
            }
        }
        // Otherwise its binding is on the way and this is older news.
    }
}
