//! Cache: the newest known state of one kind, fed by one watch and shared by
//! all controllers.
//!
//! A subscriber is called with the object before and after each change, in
//! order, after the cache shows the change; it usually queues a key. When the
//! watch has to list again, the subscribers see the difference between the two
//! lists, so they never miss a deletion.
//!
//! `kube`'s `watcher` does the listing, watching and reconnecting. Its shared
//! `reflector` is not used because it tells subscribers neither of deletions
//! nor of the object as it was before, and a ReplicaSet must hear of both: a
//! pod that is gone needs a replacement, and a pod whose owner changed
//! concerns the old owner too.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use futures::StreamExt;
use futures::stream::BoxStream;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use skiff_client::{Api, watch_with};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::error::chain;
use crate::meta::{self, Key};

type Subscriber<K> = Box<dyn Fn(Option<&Arc<K>>, Option<&Arc<K>>) + Send + Sync>;

/// The objects of one kind. Clones share them.
pub(crate) struct Cache<K>(Arc<Inner<K>>);

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Inner<K> {
    state: RwLock<State<K>>,
    subscribers: RwLock<Vec<Subscriber<K>>>,
    shape: Shape<K>,
    synced: watch::Sender<bool>,
}

struct State<K> {
    objects: BTreeMap<Key, Arc<K>>,
    index: HashMap<String, BTreeSet<Key>>,
    revision: u64,
}

/// What a cache keeps of its objects.
pub(crate) struct Shape<K> {
    /// Drops parts of an object that nobody reads, to save memory.
    /// `managedFields` are always dropped.
    pub(crate) strip: fn(&mut K),
    /// Terms under which `indexed` finds the object.
    pub(crate) index: fn(&K) -> Vec<String>,
}

impl<K> Default for Shape<K> {
    fn default() -> Self {
        Self { strip: |_| {}, index: |_| Vec::new() }
    }
}

impl<K: Resource + Clone + Send + Sync + 'static> Cache<K> {
    /// An empty cache. It fills when `run` is polled.
    pub(crate) fn new(shape: Shape<K>) -> Self {
        let state = State { objects: BTreeMap::new(), index: HashMap::new(), revision: 0 };
        Self(Arc::new(Inner {
            state: RwLock::new(state),
            subscribers: RwLock::default(),
            shape,
            synced: watch::Sender::new(false),
        }))
    }

    /// Calls `subscriber` with the old and the new object of every change. It
    /// must not block. Subscribe before `run`, or the first list is missed.
    pub(crate) fn subscribe(
        &self,
        subscriber: impl Fn(Option<&Arc<K>>, Option<&Arc<K>>) + Send + Sync + 'static,
    ) {
        self.0
            .subscribers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Box::new(subscriber));
    }

    /// The object of this key.
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.read().objects.get(key).cloned()
    }

    /// Every object, in the order of their keys.
    pub(crate) fn all(&self) -> Vec<Arc<K>> {
        self.read().objects.values().cloned().collect()
    }

    /// The objects of one namespace.
    pub(crate) fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let state = self.read();
        let start = Key::new(namespace, "");
        let range = state.objects.range(start..).take_while(|(key, _)| key.namespace == namespace);
        range.map(|(_, object)| Arc::clone(object)).collect()
    }

    /// The objects whose shape lists `term`.
    pub(crate) fn indexed(&self, term: &str) -> Vec<Arc<K>> {
        let state = self.read();
        let keys = state.index.get(term).into_iter().flatten();
        keys.filter_map(|key| state.objects.get(key).cloned()).collect()
    }

    /// The newest revision seen. Every change up to it is in the cache.
    pub(crate) fn revision(&self) -> u64 {
        self.read().revision
    }

    /// Waits until the first list is in.
    pub(crate) async fn synced(&self) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.0.synced.subscribe().wait_for(|synced| *synced).await;
    }

    fn read(&self) -> RwLockReadGuard<'_, State<K>> {
        self.0.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<K>> {
        self.0.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self, old: Option<&Arc<K>>, new: Option<&Arc<K>>) {
        for subscriber in self.0.subscribers.read().unwrap_or_else(PoisonError::into_inner).iter() {
            subscriber(old, new);
        }
    }

    /// Takes one changed object in and tells the subscribers.
    pub(crate) fn apply(&self, mut object: K) {
        object.meta_mut().managed_fields = None;
        (self.0.shape.strip)(&mut object);
        let object = Arc::new(object);
        let key = Key::of(object.meta());
        let old = self.write().put(key, Arc::clone(&object), self.0.shape.index);
        self.notify(old.as_ref(), Some(&object));
    }

    /// Drops one deleted object and tells the subscribers.
    pub(crate) fn remove(&self, object: &K) {
        let key = Key::of(object.meta());
        let old = {
            let mut state = self.write();
            state.revision = state.revision.max(meta::revision(object.meta()));
            state.take(&key, self.0.shape.index)
        };
        if let Some(old) = old {
            self.notify(Some(&old), None);
        }
    }

    /// Makes the cache hold exactly `listed` and tells the subscribers what
    /// that changed.
    fn replace(&self, listed: Vec<K>) {
        let mut gone: BTreeMap<Key, Arc<K>> = self.read().objects.clone();
        for object in listed {
            let known = gone.remove(&Key::of(object.meta()));
            let unchanged = known.is_some_and(|known| {
                known.meta().resource_version == object.meta().resource_version
            });
            if !unchanged {
                self.apply(object);
            }
        }
        for object in gone.into_values() {
            self.remove(&object);
        }
    }
}

impl<K: Resource> State<K> {
    fn put(&mut self, key: Key, object: Arc<K>, index: fn(&K) -> Vec<String>) -> Option<Arc<K>> {
        let old = self.take(&key, index);
        for term in index(&object) {
            self.index.entry(term).or_default().insert(key.clone());
        }
        self.revision = self.revision.max(meta::revision(object.meta()));
        self.objects.insert(key, object);
        old
    }

    fn take(&mut self, key: &Key, index: fn(&K) -> Vec<String>) -> Option<Arc<K>> {
        let old = self.objects.remove(key)?;
        for term in index(&old) {
            if let Some(keys) = self.index.get_mut(&term) {
                keys.remove(key);
                if keys.is_empty() {
                    self.index.remove(&term);
                }
            }
        }
        Some(old)
    }
}

impl<K> Cache<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// Feeds the cache with the objects of all namespaces until cancelled.
    pub(crate) async fn run(
        self,
        client: Client,
        config: watcher::Config,
        cancel: CancellationToken,
    ) {
        let events = watch_with(Api::<K>::all(client), config, Reconnect::default());
        self.feed(&K::plural(&()), events, cancel).await;
    }
}

impl<K: Resource + Clone + Send + Sync + 'static> Cache<K> {
    /// Feeds the cache from a watch until cancelled. Lost connections are made
    /// again with back-off; meanwhile the cache keeps what it knows.
    pub(crate) async fn feed(
        self,
        kind: &str,
        mut events: BoxStream<'static, watcher::Result<Event<K>>>,
        cancel: CancellationToken,
    ) {
        let mut listed = Vec::new();
        loop {
            let event = tokio::select! {
                () = cancel.cancelled() => return,
                event = events.next() => event,
            };
            match event {
                Some(Ok(Event::Apply(object))) => self.apply(object),
                Some(Ok(Event::Delete(object))) => self.remove(&object),
                Some(Ok(Event::Init)) => listed.clear(),
                Some(Ok(Event::InitApply(object))) => listed.push(object),
                Some(Ok(Event::InitDone)) => {
                    self.replace(std::mem::take(&mut listed));
                    self.0.synced.send_replace(true);
                    debug!(kind, objects = self.read().objects.len(), "listed");
                }
                Some(Err(err)) => {
                    warn!(kind, error = chain(&err), "watch interrupted, will reconnect")
                }
                None => return,
            }
        }
    }
}

/// Delay between attempts to reconnect: 50 ms doubling to 5 s, since the
/// server is in the same process or one hop away.
#[derive(Default)]
pub(crate) struct Reconnect {
    attempts: u32,
}

impl Iterator for Reconnect {
    type Item = std::time::Duration;

    fn next(&mut self) -> Option<Self::Item> {
        let delay = std::time::Duration::from_millis(50 << self.attempts.min(7));
        self.attempts += 1;
        Some(delay.min(std::time::Duration::from_secs(5)))
    }
}

impl Backoff for Reconnect {
    fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use k8s_openapi::api::core::v1::ConfigMap;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    fn object(namespace: &str, name: &str, version: u64, color: &str) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta {
                namespace: Some(namespace.into()),
                name: Some(name.into()),
                resource_version: Some(version.to_string()),
                labels: Some([("color".to_owned(), color.to_owned())].into()),
                ..Default::default()
            },
            ..Default::default()
        }
    }

    fn cache() -> Cache<ConfigMap> {
        Cache::new(Shape {
            index: |map| meta::labels(&map.metadata).values().cloned().collect(),
            ..Default::default()
        })
    }

    fn names(objects: &[Arc<ConfigMap>]) -> Vec<&str> {
        objects.iter().map(|object| meta::name(&object.metadata)).collect()
    }

    #[test]
    fn index_follows_changes() {
        let cache = cache();
        cache.apply(object("a", "one", 1, "red"));
        cache.apply(object("b", "two", 2, "red"));
        assert_eq!(names(&cache.indexed("red")), ["one", "two"]);
        cache.apply(object("a", "one", 3, "blue"));
        assert_eq!(names(&cache.indexed("red")), ["two"]);
        assert_eq!(names(&cache.indexed("blue")), ["one"]);
        cache.remove(&object("a", "one", 4, "blue"));
        assert!(cache.indexed("blue").is_empty());
        assert_eq!(names(&cache.in_namespace("b")), ["two"]);
        assert_eq!(cache.revision(), 4);
    }

    #[test]
    fn a_second_list_tells_the_difference() {
        let cache = cache();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        cache.subscribe(move |old, new| {
            let name = |object: Option<&Arc<ConfigMap>>| {
                object.map(|object| meta::name(&object.metadata).to_owned())
            };
            log.lock().unwrap().push((name(old), name(new)));
        });
        cache.replace(vec![
            object("a", "kept", 1, "red"),
            object("a", "gone", 2, "red"),
            object("a", "new", 3, "red"),
        ]);
        seen.lock().unwrap().clear();
        cache.replace(vec![
            object("a", "kept", 1, "red"),
            object("a", "new", 5, "red"),
            object("a", "more", 6, "red"),
        ]);
        let expected = [
            (Some("new".to_owned()), Some("new".to_owned())),
            (None, Some("more".to_owned())),
            (Some("gone".to_owned()), None),
        ];
        assert_eq!(*seen.lock().unwrap(), expected);
        assert_eq!(cache.all().len(), 3);
    }
}
