//! The objects that pods refer to: config maps, secrets and services, kept
//! current by watches.
//!
//! Each config map or secret that some pod on this node names has a watch of
//! its own, as a node may not read others. It starts with the first pod that
//! asks and ends with the last that goes. A change wakes the pods that use the
//! object.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use skiff_api::selector::LabelSelector;
use skiff_client::Api;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::debug;

/// How long a pod waits for an object that was not asked for before.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// Wakes the worker of the pod with this UID.
pub type Wake = Arc<dyn Fn(&str) + Send + Sync>;

/// All objects that this node's pods use.
pub struct Objects {
    /// Config maps.
    pub config_maps: Watched<ConfigMap>,
    /// Secrets.
    pub secrets: Watched<Secret>,
    services: reflector::Store<Service>,
}

impl Objects {
    /// The objects, and the task that keeps the services current.
    pub fn new(
        client: Client,
        wake: Wake,
        cancel: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (services, writer) = reflector::store();
        let any = watcher::Config::default().any_semantic();
        let stream = skiff_client::watch(Api::<Service>::all(client.clone()), any);
        let task = async move {
            let mut stream = stream.reflect(writer).boxed();
            loop {
                tokio::select! {
                    () = cancel.cancelled() => return,
                    event = stream.next() => match event {
                        Some(Ok(_)) => {}
                        Some(Err(error)) => debug!(%error, "watch on services broke, will resume"),
                        None => return,
                    },
                }
            }
        };
        let config_maps = Watched::new(client.clone(), wake.clone());
        (Self { config_maps, secrets: Watched::new(client, wake), services }, task)
    }

    /// The services that a container of this namespace is told of.
    pub async fn services(&self, namespace: &str) -> Vec<Arc<Service>> {
        // Without an answer the pod starts without them, as upstream's do.
        if tokio::time::timeout(FIRST_ANSWER, self.services.wait_until_ready()).await.is_err() {
            return Vec::new();
        }
        let mut found = self.services.state();
        found.retain(|service| {
            let own = service.metadata.namespace.as_deref();
            own == Some(namespace)
                || (own == Some("default")
                    && service.metadata.name.as_deref() == Some("kubernetes"))
        });
        found.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        found
    }

    /// Whether a Service leads to the pod. Services that are not known yet might.
    pub fn is_served(&self, pod: &Pod) -> bool {
        if self.services.wait_until_ready().now_or_never().is_none() {
            return true;
        }
        let (namespace, labels) = (&pod.metadata.namespace, pod.metadata.labels.as_ref());
        self.services
            .find(|service| service.metadata.namespace == *namespace && selects(service, labels))
            .is_some()
    }

    /// Ends the watches that only this pod used.
    pub fn release(&self, uid: &str) {
        self.config_maps.release(uid);
        self.secrets.release(uid);
    }
}

/// Whether the service's endpoints are found by its selector, and such a pod is
/// among them.
fn selects(service: &Service, labels: Option<&BTreeMap<String, String>>) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| {
        !selector.is_empty() && LabelSelector::from_labels(selector).matches_labels(labels)
    })
}

/// Watched objects of one kind.
pub struct Watched<K> {
    client: Client,
    wake: Wake,
    entries: Mutex<BTreeMap<(String, String), Entry<K>>>,
}

struct Entry<K> {
    /// `None` before the first answer.
    newest_rx: watch::Receiver<Option<Option<Arc<K>>>>,
    users: Arc<Mutex<BTreeSet<String>>>,
    _stop: DropGuard,
}

impl<K> Watched<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    fn new(client: Client, wake: Wake) -> Self {
        Self { client, wake, entries: Mutex::default() }
    }

    /// The object as it is now, `Ok(None)` if there is none. The pod `uid` is
    /// woken when it changes.
    pub async fn get(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<Option<Arc<K>>, String> {
        let mut newest_rx = self.subscribe(namespace, name, uid);
        let answer = tokio::time::timeout(FIRST_ANSWER, newest_rx.wait_for(Option::is_some)).await;
        let kind = K::kind(&()).to_lowercase();
        match answer {
            Ok(Ok(newest)) => Ok(newest.clone().flatten()),
            Ok(Err(_)) | Err(_) => {
                Err(format!("failed to sync {kind} {namespace}/{name}: no answer from the API"))
            }
        }
    }

    fn subscribe(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> watch::Receiver<Option<Option<Arc<K>>>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (namespace.to_owned(), name.to_owned());
        let entry = entries.entry(key).or_insert_with(|| self.open(namespace, name));
        entry.users.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned());
        entry.newest_rx.clone()
    }

    fn open(&self, namespace: &str, name: &str) -> Entry<K> {
        let (newest_tx, newest_rx) = watch::channel(None);
        let users = Arc::<Mutex<BTreeSet<String>>>::default();
        let cancel = CancellationToken::new();
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let (watchers, wake, stop) = (users.clone(), self.wake.clone(), cancel.clone());
        tokio::spawn(async move {
            let follow = follow(api, config, newest_tx, &watchers, &wake);
            tokio::select! { () = stop.cancelled() => {} () = follow => {} }
        });
        Entry { newest_rx, users, _stop: cancel.drop_guard() }
    }

    fn release(&self, uid: &str) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, entry| {
            let mut users = entry.users.lock().unwrap_or_else(PoisonError::into_inner);
            users.remove(uid);
            !users.is_empty()
        });
    }
}

async fn follow<K>(
    api: Api<K>,
    config: watcher::Config,
    newest_tx: watch::Sender<Option<Option<Arc<K>>>>,
    users: &Mutex<BTreeSet<String>>,
    wake: &Wake,
) where
    K: Resource<DynamicType = ()> + DeserializeOwned + Send + 'static,
{
    let mut events = skiff_client::watch(api, config);
    let mut listed = None;
    while let Some(event) = events.next().await {
        let newest = match event {
            Ok(watcher::Event::Init) => {
                listed = None;
                continue;
            }
            Ok(watcher::Event::InitApply(object)) => {
                listed = Some(object);
                continue;
            }
            Ok(watcher::Event::InitDone) => listed.take().map(Arc::new),
            Ok(watcher::Event::Apply(object)) => Some(Arc::new(object)),
            Ok(watcher::Event::Delete(_)) => None,
            Err(error) => {
                debug!(%error, "watch on an object of a pod broke, will resume");
                continue;
            }
        };
        let version = |object: &Option<Arc<K>>| {
            object.as_ref().and_then(|object| object.meta().resource_version.clone())
        };
        let known = newest_tx.borrow().as_ref().map(version);
        if known.as_ref() == Some(&version(&newest)) {
            continue;
        }
        newest_tx.send_replace(Some(newest));
        // The first answer is awaited by whoever asked.
        if known.is_some() {
            let users = users.lock().unwrap_or_else(PoisonError::into_inner).clone();
            users.iter().for_each(|uid| wake(uid));
        }
    }
}
