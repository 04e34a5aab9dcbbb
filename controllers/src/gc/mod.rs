//! Garbage collector: deletes what lost its owners.
//!
//! Reads the metadata of every object of every kind that can be listed and
//! deleted. Deletes objects all of whose owners are gone, removes references
//! to owners that are gone, and serves the finalizers `foregroundDeletion`
//! (an object goes after its dependents) and `orphan` (its dependents stay).
//!
//! Watching everything sounds heavy and is not: kinds that another controller
//! watches come from its cache, of the others only metadata is asked for and
//! only what the graph needs of it is kept, and an idle watch of an idle kind
//! costs some kilobytes and one request in five minutes. Looking kinds up on
//! demand instead would lose the foreground and orphan cases, in which an
//! object's dependents of any kind must be known before it goes.
//!
//! That an owner is absent from the graph proves nothing: its event may be
//! late. So nothing is deleted before the server itself was asked for the
//! owner, by name, and answered with nothing or with another uid.
//!
//! Left out: kinds that appear later (custom resources) are noticed when the
//! controllers start again.

mod graph;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Resource};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::graph::{Action, FOREGROUND, Graph, Kind, ORPHAN, Object, Policy, Uid, Verdict};
use crate::cache::{Cache, Reconnect, Shape};
use crate::context::Context;
use crate::discovery::{self, Served};
use crate::error::{Doing, Error, ignore_not_found};
use crate::events::Severity::Warning;
use crate::meta;
use crate::queue::Queue;
use crate::resource_quota::Gone;
use crate::runner::{self, Controller, Next};

const COMPONENT: &str = "garbage-collector-controller";

/// An object of any kind, seen from outside.
type Metadata = PartialObjectMeta<DynamicObject>;

/// The garbage collector.
pub(crate) struct Collector {
    context: Context,
    graph: Arc<Mutex<Graph>>,
    queue: Queue<Uid>,
    gone: Gone,
    kinds: Mutex<HashMap<Kind, Served>>,
    shared: Vec<Kind>,
}

impl Collector {
    /// The collector, subscribed to the caches that others keep anyway. Seeing
    /// every kind, it tells the quota controller of what is `gone`.
    pub(crate) fn new(context: &Context, gone: Gone) -> Self {
        let mut collector = Self {
            context: context.clone(),
            graph: Arc::default(),
            queue: Queue::new(),
            gone,
            kinds: Mutex::default(),
            shared: Vec::new(),
        };
        let caches = Arc::clone(&context.caches);
        collector.share(&caches.pods);
        collector.share(&caches.replica_sets);
        collector.share(&caches.replication_controllers);
        collector.share(&caches.deployments);
        collector.share(&caches.services);
        collector.share(&caches.slices);
        collector.share(&caches.endpoints);
        collector.share(&caches.namespaces);
        collector.share(&caches.nodes);
        collector.share(&caches.leases);
        collector.share(&caches.daemon_sets);
        collector.share(&caches.controller_revisions);
        collector.share(&caches.jobs);
        collector.share(&caches.disruption_budgets);
        collector.share(&caches.signing_requests);
        collector
    }

    /// Takes a kind from the cache of another controller.
    fn share<K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static>(
        &mut self,
        cache: &Cache<K>,
    ) {
        let kind = Kind { group: K::group(&()).into_owned(), kind: K::kind(&()).into_owned() };
        self.shared.push(kind.clone());
        self.subscribe(kind, cache);
    }

    fn subscribe<K: Resource + Clone + Send + Sync + 'static>(&self, kind: Kind, cache: &Cache<K>) {
        let (graph, queue, kind) = (Arc::clone(&self.graph), self.queue.clone(), Arc::new(kind));
        let gone = Arc::clone(&self.gone);
        cache.subscribe(move |old, new| {
            let mut graph = graph.lock().unwrap_or_else(PoisonError::into_inner);
            let mut look = Vec::new();
            // The same name may come back as another object.
            let replaced = old.filter(|old| new.is_none_or(|new| new.meta().uid != old.meta().uid));
            if let Some(old) = replaced {
                look.extend(graph.remove(meta::uid(old.meta())));
            }
            if let Some(new) = new {
                let uid = Uid::from(meta::uid(new.meta()));
                look.extend(graph.put(uid, Object::of(&kind, new.meta())));
            }
            drop(graph);
            if let Some(replaced) = replaced {
                gone(meta::namespace(replaced.meta()));
            }
            look.into_iter().for_each(|uid| queue.add(uid));
        });
    }

    /// Collects until cancelled. Starts when every kind has been listed once:
    /// before that, an object could seem to have no dependents.
    pub(crate) async fn run(self: Arc<Self>, cancel: CancellationToken) -> anyhow::Result<()> {
        let mut tasks = JoinSet::new();
        let served = tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            served = discovery::patiently(&self.context.client) => served,
        };
        let mut caches = Vec::new();
        for served in served {
            let kind =
                Kind { group: served.resource.group.clone(), kind: served.resource.kind.clone() };
            let own = !self.shared.contains(&kind) && served.watchable && !is_fleeting(&kind);
            if own {
                let cache =
                    Cache::<Metadata>::new(Shape { strip: strip_metadata, ..Shape::default() });
                self.subscribe(kind.clone(), &cache);
                let api = Api::<Metadata>::all_with(self.context.client.clone(), &served.resource);
                let (fed, cancel) = (cache.clone(), cancel.clone());
                tasks.spawn(async move {
                    let events = watcher(api, watcher::Config::default());
                    let events = events.backoff(Reconnect::default()).boxed();
                    fed.feed("metadata", events, cancel).await;
                });
                caches.push(cache);
            }
            self.kinds.lock().unwrap_or_else(PoisonError::into_inner).insert(kind, served);
        }
        for cache in &caches {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = cache.synced() => {}
            }
        }
        debug!(kinds = caches.len(), "garbage collector watches");
        let queue = self.queue.clone();
        runner::run(self, queue, cancel).await
    }

    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn served(&self, group: &str, kind: &str) -> Option<Served> {
        let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        kinds.get(&Kind { group: group.to_owned(), kind: kind.to_owned() }).cloned()
    }

    fn api(&self, object: &Object) -> Result<Api<Metadata>, Error> {
        let served = self.served(&object.kind.group, &object.kind.kind).ok_or_else(|| {
            Error::Unfinished(format!("the server does not serve {}", object.kind.kind))
        })?;
        Ok(self.api_in(&served, &object.namespace))
    }

    fn api_in(&self, served: &Served, namespace: &str) -> Api<Metadata> {
        let client = self.context.client.clone();
        if served.namespaced {
            Api::namespaced_with(client, namespace, &served.resource)
        } else {
            Api::all_with(client, &served.resource)
        }
    }

    /// Finds out about one owner, from the graph if it knows, else from the
    /// server.
    async fn judge(&self, object: &Object, owner: &OwnerReference) -> Result<Verdict, Error> {
        if let Some(verdict) = self.graph().verdict(object, owner) {
            return Ok(verdict);
        }
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let Some(served) = self.served(group, &owner.kind) else {
            return Err(Error::Unfinished(format!(
                "owner {} {} is of an unknown kind",
                owner.kind, owner.name
            )));
        };
        if served.namespaced && object.namespace.is_empty() {
            // Such a reference cannot be resolved, so it must not cost the
            // object its life.
            self.complain(object, owner);
            return Ok(Verdict::Solid);
        }
        let live = self.api_in(&served, &object.namespace).get(&owner.name).await;
        let live =
            ignore_not_found(live).doing(|| format!("get owner {} {}", owner.kind, owner.name))?;
        Ok(match live {
            Some(live) if live.metadata.uid.as_deref() == Some(owner.uid.as_str()) => {
                let waits = meta::is_deleting(&live.metadata)
                    && meta::has_finalizer(&live.metadata, FOREGROUND);
                if waits { Verdict::Awaiting } else { Verdict::Solid }
            }
            _ => {
                let elsewhere =
                    self.graph().get(&owner.uid).is_some_and(|known| !known.namespace.is_empty());
                if elsewhere {
                    self.complain(object, owner);
                }
                Verdict::Gone
            }
        })
    }

    fn complain(&self, object: &Object, owner: &OwnerReference) {
        let regarding = k8s_openapi::api::core::v1::ObjectReference {
            kind: Some(object.kind.kind.clone()),
            namespace: Some(object.namespace.clone()).filter(|namespace| !namespace.is_empty()),
            name: Some(object.name.clone()),
            ..Default::default()
        };
        let message = format!(
            "ownerRef [{}/{}, name: {}, uid: {}] does not exist in namespace {:?}",
            owner.api_version, owner.kind, owner.name, owner.uid, object.namespace
        );
        self.context.events.record(
            COMPONENT,
            &regarding,
            Warning,
            "OwnerRefInvalidNamespace",
            message,
        );
    }

    /// The object as the server has it now, `None` when it is gone or another.
    async fn live(&self, uid: &str, object: &Object) -> Result<Option<ObjectMeta>, Error> {
        let live = ignore_not_found(self.api(object)?.get(&object.name).await);
        let live = live.doing(|| format!("get {} {}", object.kind.kind, object.name))?;
        Ok(live.map(|live| live.metadata).filter(|meta| meta::uid(meta) == uid))
    }

    async fn remove_finalizer(
        &self,
        uid: &str,
        object: &Object,
        finalizer: &str,
    ) -> Result<(), Error> {
        let Some(mut live) = self.live(uid, object).await? else { return Ok(()) };
        let mut finalizers = live.finalizers.take().unwrap_or_default();
        finalizers.retain(|known| known != finalizer);
        self.patch(object, &live, json!({ "finalizers": finalizers })).await
    }

    /// Changes the owner references of an object.
    async fn edit_owners(
        &self,
        uid: &str,
        object: &Object,
        edit: impl FnOnce(&mut Vec<OwnerReference>),
    ) -> Result<(), Error> {
        let Some(mut live) = self.live(uid, object).await? else { return Ok(()) };
        let mut owners = live.owner_references.take().unwrap_or_default();
        let before = owners.clone();
        edit(&mut owners);
        if owners == before {
            return Ok(());
        }
        self.patch(object, &live, json!({ "ownerReferences": owners })).await
    }

    /// Patches metadata of exactly the object that was read.
    async fn patch(
        &self,
        object: &Object,
        live: &ObjectMeta,
        mut change: serde_json::Value,
    ) -> Result<(), Error> {
        change["uid"] = json!(live.uid);
        change["resourceVersion"] = json!(live.resource_version);
        let patch = json!({ "metadata": change });
        let patched = self
            .api(object)?
            .patch(&object.name, &PatchParams::default(), &Patch::Merge(&patch))
            .await;
        ignore_not_found(patched)
            .map(drop)
            .doing(|| format!("patch {} {}", object.kind.kind, object.name))
    }

    async fn delete(&self, uid: &str, object: &Object, policy: Policy) -> Result<(), Error> {
        let Some(live) = self.live(uid, object).await? else { return Ok(()) };
        // Somebody may just have given it another owner.
        if live.owner_references.unwrap_or_default() != object.owners {
            return Err(Error::Unfinished(format!("the owners of {} have changed", object.name)));
        }
        let preconditions =
            Preconditions { uid: Some(uid.to_owned()), resource_version: live.resource_version };
        let params = match policy {
            Policy::Orphan => DeleteParams::orphan(),
            Policy::Foreground => DeleteParams::foreground(),
            Policy::Background => DeleteParams::background(),
        };
        let params = DeleteParams { preconditions: Some(preconditions), ..params };
        let deleted = self.api(object)?.delete(&object.name, &params).await;
        ignore_not_found(deleted)
            .doing(|| format!("delete {} {}", object.kind.kind, object.name))?;
        debug!(kind = object.kind.kind, name = object.name, ?policy, "collected");
        Ok(())
    }

    async fn apply(&self, uid: &str, object: &Object, action: Action) -> Result<(), Error> {
        match action {
            Action::Nothing => Ok(()),
            Action::LookAt(dependents) => {
                dependents.into_iter().for_each(|uid| self.queue.add(uid));
                Ok(())
            }
            Action::Release(dependents) => {
                self.remove_finalizer(uid, object, FOREGROUND).await?;
                dependents.into_iter().for_each(|uid| self.queue.add(uid));
                Ok(())
            }
            Action::Orphan(dependents) => {
                for dependent in dependents {
                    let Some(object) = self.graph().get(&dependent).cloned() else { continue };
                    self.edit_owners(&dependent, &object, |owners| {
                        owners.retain(|owner| owner.uid != uid)
                    })
                    .await?;
                }
                self.remove_finalizer(uid, object, ORPHAN).await
            }
            Action::Disown(useless) => {
                self.edit_owners(uid, object, |owners| {
                    owners.retain(|owner| !useless.contains(&owner.uid))
                })
                .await
            }
            Action::Delete { policy, unblock } => {
                if unblock {
                    let unblock = |owners: &mut Vec<OwnerReference>| {
                        owners
                            .iter_mut()
                            .for_each(|owner| owner.block_owner_deletion = Some(false));
                    };
                    self.edit_owners(uid, object, unblock).await?;
                    if object.owners.iter().any(|owner| owner.block_owner_deletion == Some(true)) {
                        // Deleted when its own change has come back.
                        return Ok(());
                    }
                }
                self.delete(uid, object, policy).await
            }
        }
    }
}

impl Controller for Collector {
    type Key = Uid;
    const NAME: &'static str = "garbage-collector";

    async fn pass(&self, uid: &Uid) -> Result<Next, Error> {
        let Some(object) = self.graph().get(uid).cloned() else { return Ok(Next::OnChange) };
        let mut verdicts = Vec::with_capacity(object.owners.len());
        if !object.deleting {
            for owner in &object.owners {
                verdicts.push(self.judge(&object, owner).await?);
            }
        }
        let action = self.graph().plan(uid, &verdicts);
        self.apply(uid, &object, action).await?;
        Ok(Next::OnChange)
    }
}

/// Kinds that come and go too fast to be worth a place in the graph. Events
/// expire by themselves.
fn is_fleeting(kind: &Kind) -> bool {
    kind.kind == "Event"
}

/// Keeps what `Object::of` reads.
fn strip_metadata(object: &mut Metadata) {
    let meta = &mut object.metadata;
    meta.annotations = None;
    meta.labels = None;
    meta.creation_timestamp = None;
    meta.generate_name = None;
    object.types = None;
}
