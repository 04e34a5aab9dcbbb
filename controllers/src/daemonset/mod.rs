//! DaemonSet controller: one pod on every node that suits.
//!
//! Reads DaemonSets, Nodes, pods and ControllerRevisions. Writes pods,
//! ControllerRevisions and the sets' `status`, nothing else. The scheduler
//! binds the pods; each is tied to its node by node affinity (`placement`).
//!
//! A rolling update deletes old pods and lets the next pass make new ones,
//! old pods that do not serve first, and never more than `maxUnavailable` at a
//! time.
//!
//! Left out: `maxSurge`. A set that allows a surge and no pod unavailable is
//! updated one pod at a time.

mod history;
mod placement;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use skiff_client::Api;

use self::history::{HASH_LABEL, History, hash_of, plan_cleanup, plan_history};
use self::placement::{Wanted, pin, target, wanted};
use crate::claim::{apply_claim, plan_claim};
use crate::context::Context;
use crate::deployment::{Rounding, scaled};
use crate::error::{Doing, Error, ignore_not_found};
use crate::expectations::Expectations;
use crate::meta::{self, Key};
use crate::pod_control::PodControl;
use crate::pods::{self, Availability};
use crate::queue::Queue;
use crate::runner::{Controller, Next};

const COMPONENT: &str = "daemonset-controller";

/// The DaemonSet controller.
pub(crate) struct DaemonSets {
    context: Context,
    pods: PodControl,
    /// What was written to the sets themselves and to their history.
    own: Expectations<Key>,
    revisions: Expectations<Key>,
}

impl DaemonSets {
    /// The controller and the queue that the caches feed.
    pub(crate) fn new(context: &Context) -> (Arc<Self>, Queue<Key>) {
        let queue = Queue::new();
        let caches = &context.caches;
        let tx = queue.clone();
        caches.daemon_sets.subscribe(move |old, new| {
            if let Some(set) = new.or(old) {
                tx.add(Key::of(&set.metadata));
            }
        });
        let tx = queue.clone();
        caches.pods.subscribe(move |old, new| {
            for pod in old.into_iter().chain(new) {
                if let Some(owner) =
                    meta::controller_of(&pod.metadata).filter(|owner| owner.kind == "DaemonSet")
                {
                    tx.add(Key::new(meta::namespace(&pod.metadata), &owner.name));
                }
            }
        });
        let tx = queue.clone();
        caches.controller_revisions.subscribe(move |old, new| {
            for revision in old.into_iter().chain(new) {
                let owner = meta::controller_of(&revision.metadata)
                    .filter(|owner| owner.kind == "DaemonSet");
                if let Some(owner) = owner {
                    tx.add(Key::new(meta::namespace(&revision.metadata), &owner.name));
                }
            }
        });
        let (tx, sets) = (queue.clone(), caches.daemon_sets.clone());
        caches.nodes.subscribe(move |old, new| {
            fn view(node: &Arc<Node>) -> impl PartialEq {
                let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref());
                (meta::labels(&node.metadata), taints)
            }
            // Heartbeats are no concern of ours.
            if old.map(view) != new.map(view) {
                sets.all().iter().for_each(|set| tx.add(Key::of(&set.metadata)));
            }
        });
        let pods = PodControl::new(context, COMPONENT);
        let (own, revisions) = (Expectations::new(), Expectations::new());
        (Arc::new(Self { context: context.clone(), pods, own, revisions }), queue)
    }

    /// Makes the history show the template of now; `None` when it was written.
    async fn ensure_history(
        &self,
        key: &Key,
        set: &DaemonSet,
        observed: &[Arc<ControllerRevision>],
    ) -> Result<Option<String>, Error> {
        let api: Api<ControllerRevision> =
            Api::namespaced(self.context.client.clone(), &key.namespace);
        let written = match plan_history(set, observed)? {
            History::Current(current) => return Ok(Some(hash_of(&current.metadata).to_owned())),
            History::Renumber(known, revision) => {
                let name = meta::name(&known.metadata);
                let patch = json!({ "revision": revision });
                let patched = api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await;
                patched.doing(|| format!("renumber revision {name}"))?
            }
            History::Create(revision) => {
                let created = api.create(&PostParams::default(), &revision).await;
                created.doing(|| format!("create revision {}", meta::name(&revision.metadata)))?
            }
        };
        self.revisions.wrote(key, &written.metadata);
        Ok(None)
    }

    async fn apply(&self, key: &Key, set: &DaemonSet, hash: &str, plan: Plan) -> Result<(), Error> {
        let pods = self.pods.of(key, set);
        let deleted = pods.delete(&plan.delete).await;
        let new: Vec<Pod> =
            plan.create.iter().filter_map(|node| new_pod(key, set, hash, node)).collect();
        // What could not be deleted is no reason to leave nodes without.
        let created = pods.create(new).await;
        deleted.and(created)
    }

    async fn write_status(
        &self,
        key: &Key,
        set: &DaemonSet,
        desired: DaemonSetStatus,
    ) -> Result<(), Error> {
        if set.status.as_ref() == Some(&desired) {
            return Ok(());
        }
        let update = DaemonSet { status: Some(desired), ..set.clone() };
        let api: Api<DaemonSet> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let updated = api.replace_status(&key.name, &PostParams::default(), &update).await;
        let updated = updated.doing(|| format!("update status of daemon set {key}"))?;
        self.own.wrote(key, &updated.metadata);
        Ok(())
    }
}

impl Controller for DaemonSets {
    type Key = Key;
    const NAME: &'static str = "daemonset";

    async fn pass(&self, key: &Key) -> Result<Next, Error> {
        let caches = &self.context.caches;
        let (own, observed) = (caches.daemon_sets.revision(), caches.pods.revision());
        let recorded = caches.controller_revisions.revision();
        let Some(set) = caches.daemon_sets.get(key) else {
            [&self.pods.expectations, &self.own, &self.revisions]
                .into_iter()
                .for_each(|known| known.forget(key));
            return Ok(Next::OnChange);
        };
        let uid = meta::uid(&set.metadata);
        let candidates = pods::candidates(&caches.pods, &key.namespace, uid);
        let wait = self.own.wait(key, own, |_| false);
        let wait = wait.or_else(|| self.revisions.wait(key, recorded, |_| false));
        let wait = wait.or_else(|| {
            self.pods.expectations.wait(key, observed, |uid| pods::is_staying(&candidates, uid))
        });
        if let Some(wait) = wait {
            return Ok(Next::After(wait));
        }
        let Some(spec) = &set.spec else { return Ok(Next::OnChange) };
        let selector = meta::selector(&spec.selector)?;
        let deleting = meta::is_deleting(&set.metadata);
        let claim = plan_claim(uid, deleting, &selector, candidates);
        let owned = apply_claim(&self.context.client, &*set, claim).await?;
        if deleting {
            return Ok(Next::OnChange);
        }
        let history = caches.controller_revisions.indexed(&pods::by_controller(uid));
        let Some(hash) = self.ensure_history(key, &set, &history).await? else {
            return Ok(Next::OnChange);
        };
        let nodes = caches.nodes.all();
        let (plan, status, next) = plan(&set, &nodes, &owned, &hash, meta::now());
        let settled = plan == Plan::default();
        let applied = self.apply(key, &set, &hash, plan).await;
        self.write_status(key, &set, status).await?;
        applied?;
        if settled {
            let in_use = |hash: &str| owned.iter().any(|pod| hash_of(&pod.metadata) == hash);
            let api: Api<ControllerRevision> =
                Api::namespaced(self.context.client.clone(), &key.namespace);
            for surplus in plan_cleanup(&set, &history, &hash, in_use) {
                let name = meta::name(&surplus.metadata);
                let deleted = api.delete(name, &DeleteParams::default()).await;
                ignore_not_found(deleted).doing(|| format!("delete revision {name}"))?;
            }
        }
        Ok(next.into())
    }
}

/// The set's pod for one node.
fn new_pod(key: &Key, set: &DaemonSet, hash: &str, node: &str) -> Option<Pod> {
    let template = &set.spec.as_ref()?.template;
    let owner = meta::controller_reference(set);
    let mut pod = pods::from_template(template, &key.namespace, &key.name, owner);
    pod.metadata.labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.to_owned());
    pin(pod.spec.get_or_insert_default(), node);
    Some(pod)
}

/// What to do about the pods.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    /// Nodes that need a pod.
    create: Vec<String>,
    /// Pods that have to go.
    delete: Vec<Arc<Pod>>,
}

/// Compares the nodes that want a pod with the pods there are.
fn plan(
    set: &DaemonSet,
    nodes: &[Arc<Node>],
    observed: &[Arc<Pod>],
    hash: &str,
    now: Timestamp,
) -> (Plan, DaemonSetStatus, Option<Duration>) {
    let mut by_node: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in observed {
        if let Some(node) = target(pod) {
            by_node.entry(node).or_default().push(pod);
        }
    }
    let seconds = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let min_ready = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let mut plan = Plan::default();
    let mut next: Option<Duration> = None;
    let mut status = DaemonSetStatus {
        observed_generation: set.metadata.generation,
        collision_count: set.status.as_ref().and_then(|status| status.collision_count),
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
        ..DaemonSetStatus::default()
    };
    let (mut ready, mut available, mut updated) = (0, 0, 0);
    let mut outdated: Vec<(bool, Arc<Pod>)> = Vec::new();
    for node in nodes {
        let name = meta::name(&node.metadata);
        let there = by_node.remove(name).unwrap_or_default();
        let (mut active, ended): (Vec<_>, Vec<_>) = there
            .into_iter()
            .filter(|pod| !meta::is_deleting(&pod.metadata))
            .partition(|pod| !pods::is_terminal(pod));
        active.sort_by_key(|pod| {
            (pods::node_name(pod).is_empty(), pod.metadata.creation_timestamp.clone())
        });
        match wanted(set, node) {
            Wanted::Never => {
                status.number_misscheduled += i32::from(!active.is_empty());
                plan.delete.extend(active.into_iter().chain(ended).cloned());
                continue;
            }
            Wanted::Stay => {
                status.number_misscheduled += i32::from(!active.is_empty());
                continue;
            }
            Wanted::Run => status.desired_number_scheduled += 1,
        }
        // A daemon that ended is made anew, and the first of several stays.
        plan.delete.extend(ended.iter().map(|pod| Arc::clone(pod)));
        plan.delete.extend(active.iter().skip(1).map(|pod| Arc::clone(pod)));
        let going = observed.iter().any(|pod| {
            meta::is_deleting(&pod.metadata) && target(pod) == Some(name) && !pods::is_terminal(pod)
        });
        let Some(pod) = active.first() else {
            // Two daemons on one node would fight over ports and files.
            if ended.is_empty() && !going {
                plan.create.push(name.to_owned());
            }
            continue;
        };
        status.current_number_scheduled += 1;
        ready += i32::from(pods::is_ready(pod));
        let availability = pods::availability(pod, min_ready, now);
        if let Availability::In(wait) = availability {
            next = Some(next.map_or(wait, |known| known.min(wait)));
        }
        let is_available = availability == Availability::Available;
        available += i32::from(is_available);
        if hash_of(&pod.metadata) == hash {
            updated += 1;
        } else {
            outdated.push((is_available, Arc::clone(pod)));
        }
    }
    status.number_ready = ready;
    status.number_available = (available != 0).then_some(available);
    status.updated_number_scheduled = (updated != 0).then_some(updated);
    let unavailable = status.desired_number_scheduled - available;
    status.number_unavailable = (unavailable > 0).then_some(unavailable);
    plan.delete.extend(plan_update(set, status.desired_number_scheduled, unavailable, outdated));
    (plan, status, next)
}

/// The outdated pods to delete now: those that do not serve, and of the others
/// as many as may be missing.
fn plan_update(
    set: &DaemonSet,
    desired: i32,
    unavailable: i32,
    outdated: Vec<(bool, Arc<Pod>)>,
) -> Vec<Arc<Pod>> {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
        return Vec::new();
    }
    let bound = strategy
        .and_then(|strategy| strategy.rolling_update.as_ref())
        .and_then(|rolling| rolling.max_unavailable.as_ref());
    let bound = bound.map_or(1, |bound| scaled(bound, desired, Rounding::Up)).max(1);
    let (serving, idle): (Vec<_>, Vec<_>) =
        outdated.into_iter().partition(|(available, _)| *available);
    let spare = usize::try_from(bound - unavailable).unwrap_or(0);
    idle.into_iter().chain(serving.into_iter().take(spare)).map(|(_, pod)| pod).collect()
}

#[cfg(test)]
mod tests;
