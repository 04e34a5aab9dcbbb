//! Events about pods and the node, as `kubectl describe` shows them.
//!
//! A repeated event is counted in the object that is already there, so a crash
//! loop is one event with a growing count. Events are news, not state: when
//! the API is away or the queue is full they are dropped, and the log has them.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use skiff_client::Api;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

/// Events waiting to be written. More than this in one burst are dropped.
const QUEUE: usize = 1024;
/// How long a repeated event counts up the one before it.
const SERIES: Duration = Duration::from_secs(600);
/// Different events, and different objects, remembered for counting. What is
/// forgotten is counted anew.
const REMEMBERED: usize = 4096;
/// Events about one object in a burst, and the time after which it may have
/// one more.
const BURST: u32 = 25;
const REFILL: Duration = Duration::from_secs(300);

/// Whether an event is good news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Nothing to worry about.
    Normal,
    /// Someone may have to act.
    Warning,
}

/// Takes events in; cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    queue_tx: mpsc::Sender<News>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct News {
    about: About,
    warning: bool,
    reason: String,
    message: String,
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct About {
    kind: String,
    namespace: String,
    name: String,
    /// The object's UID.
    pub uid: String,
    field_path: Option<String>,
}

impl About {
    /// A pod, or one of its containers.
    pub fn pod(pod: &Pod, container: Option<&str>) -> Self {
        let field_path = container.map(|name| {
            let spec = pod.spec.as_ref();
            let inits = spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
            let added = spec.iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten());
            let list = if inits.into_iter().any(|init| init.name == name) {
                "initContainers"
            } else if added.into_iter().any(|one| one.name == name) {
                "ephemeralContainers"
            } else {
                "containers"
            };
            format!("spec.{list}{{{name}}}")
        });
        Self {
            kind: "Pod".into(),
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            field_path,
        }
    }
}

impl Recorder {
    /// A recorder and the task that writes what it takes in, under the name of
    /// this node.
    pub fn new(
        client: kube::Client,
        node: String,
        cancel: CancellationToken,
    ) -> (Self, impl Future<Output = ()>) {
        let (queue_tx, queue_rx) = mpsc::channel(QUEUE);
        let writer = Writer {
            client,
            node,
            known: HashMap::new(),
            budgets: HashMap::new(),
            hasher: RandomState::new(),
        };
        (Self { queue_tx }, writer.run(queue_rx, cancel))
    }

    /// A recorder whose events go nowhere but to the log; for tests.
    pub fn silent() -> Self {
        Self { queue_tx: mpsc::channel(1).0 }
    }

    /// Something happened to a pod, or to one of its containers.
    pub fn pod(
        &self,
        pod: &Pod,
        container: Option<&str>,
        severity: Severity,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.about(About::pod(pod, container), severity, reason, message);
    }

    /// Something happened to the node.
    pub fn node(&self, node: &Node, severity: Severity, reason: &str, message: impl Into<String>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        // Node events carry the name as UID, as kubectl looks them up by it.
        let about = About { kind: "Node".into(), uid: name.clone(), name, ..About::default() };
        self.about(about, severity, reason, message);
    }

    /// Something happened to what is named.
    pub fn about(
        &self,
        about: About,
        severity: Severity,
        reason: &str,
        message: impl Into<String>,
    ) {
        let message = message.into();
        info!(kind = %about.kind, namespace = %about.namespace, name = %about.name, reason, message, "event");
        let warning = severity == Severity::Warning;
        let news = News { about, warning, reason: reason.to_owned(), message };
        if self.queue_tx.try_send(news).is_err() {
            debug!(reason, "event queue is full or closed, event dropped");
        }
    }
}

struct Writer {
    client: kube::Client,
    node: String,
    /// By the hash of the news: the words themselves would be most of what the
    /// agent remembers.
    known: HashMap<u64, Known>,
    /// By the hash of the object.
    budgets: HashMap<u64, Budget>,
    hasher: RandomState,
}

struct Known {
    name: String,
    count: i32,
    last: Instant,
}

struct Budget {
    tokens: u32,
    last: Instant,
}

impl Writer {
    async fn run(mut self, mut queue_rx: mpsc::Receiver<News>, cancel: CancellationToken) {
        loop {
            let news = tokio::select! {
                () = cancel.cancelled() => return,
                news = queue_rx.recv() => news,
            };
            let Some(news) = news else { return };
            if !self.may_write(&news.about) {
                continue;
            }
            let reason = news.reason.clone();
            tokio::select! {
                () = cancel.cancelled() => return,
                written = self.write(news) => if let Err(error) = written {
                    debug!(reason, %error, "event not written");
                },
            }
        }
    }

    /// A token bucket for each object, so that one does not drown the others.
    fn may_write(&mut self, about: &About) -> bool {
        let now = Instant::now();
        forget(&mut self.budgets, |budget| now.duration_since(budget.last) < REFILL);
        let object = self.hasher.hash_one((&about.kind, &about.uid));
        let budget = self.budgets.entry(object).or_insert(Budget { tokens: BURST, last: now });
        let refills = now.duration_since(budget.last).as_secs() / REFILL.as_secs();
        if refills > 0 {
            budget.tokens =
                budget.tokens.saturating_add(u32::try_from(refills).unwrap_or(BURST)).min(BURST);
            budget.last = now;
        }
        let allowed = budget.tokens > 0;
        budget.tokens = budget.tokens.saturating_sub(1);
        allowed
    }

    async fn write(&mut self, news: News) -> kube::Result<()> {
        let namespace =
            if news.about.namespace.is_empty() { "default" } else { &news.about.namespace };
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let now = Time(Timestamp::now());
        forget(&mut self.known, |known| known.last.elapsed() < SERIES);
        let series = self.hasher.hash_one(&news);
        if let Some(known) = self.known.get_mut(&series)
            && known.last.elapsed() < SERIES
        {
            known.count += 1;
            known.last = Instant::now();
            let patch = json!({"count": known.count, "lastTimestamp": now});
            match api.patch(&known.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                // Events expire; then this one is written anew.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => return other.map(drop),
            }
        }
        let about = &news.about;
        let name = format!("{}.{:x}", about.name, Timestamp::now().as_nanosecond());
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some(about.kind.clone()),
                namespace: Some(about.namespace.clone()).filter(|namespace| !namespace.is_empty()),
                name: Some(about.name.clone()),
                uid: Some(about.uid.clone()),
                field_path: about.field_path.clone(),
                ..ObjectReference::default()
            },
            reason: Some(news.reason.clone()),
            message: Some(news.message.clone()),
            type_: Some(if news.warning { "Warning" } else { "Normal" }.into()),
            count: Some(1),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            source: Some(EventSource {
                component: Some("kubelet".into()),
                host: Some(self.node.clone()),
            }),
            reporting_component: Some("kubelet".into()),
            reporting_instance: Some(self.node.clone()),
            ..Event::default()
        };
        api.create(&PostParams::default(), &event).await?;
        self.known.insert(series, Known { name, count: 1, last: Instant::now() });
        Ok(())
    }
}

/// Makes room for one more: what is of no use any more goes, or else everything.
fn forget<V>(remembered: &mut HashMap<u64, V>, is_of_use: impl Fn(&V) -> bool) {
    if remembered.len() >= REMEMBERED {
        remembered.retain(|_, one| is_of_use(one));
    }
    if remembered.len() >= REMEMBERED {
        remembered.clear();
    }
}
