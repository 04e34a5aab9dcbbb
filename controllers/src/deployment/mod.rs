//! Deployment controller: rolls pods from one template to the next through
//! ReplicaSets, one per template.
//!
//! Reads Deployments, the ReplicaSets they own and, for `Recreate`, the pods
//! of those. Writes ReplicaSets, the Deployment's `status` and its
//! `deployment.kubernetes.io/revision` annotation, nothing else.
//!
//! One pass takes one step (`rollout`): it makes or resizes sets, and the
//! events of those sets bring the next pass. The status is written by a pass
//! that has no step to take, so it never speaks of a state that is already
//! being left. A pass waits until the cache shows what the pass before wrote:
//! sizes computed from an older picture could add up to more than the surge.

mod revision;
mod rollout;
mod spec;
mod status;

#[cfg(test)]
mod fixtures;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::json;
use skiff_client::Api;

pub(crate) use self::revision::template_hash;
use self::revision::{REVISION, Sets};
use self::rollout::{Resize, Step, plan_cleanup, plan_rollout};
use self::spec::size;
pub(crate) use self::spec::{Rounding, scaled};
use self::status::{Outcome, plan_status};
use crate::claim::{apply_claim, plan_claim};
use crate::context::Context;
use crate::error::{
    Doing, Error, chain, ignore_not_found, is_already_exists, is_namespace_terminating,
};
use crate::events::Severity::{Normal, Warning};
use crate::expectations::Expectations;
use crate::meta::{self, Key};
use crate::pods;
use crate::queue::Queue;
use crate::runner::{Controller, Next};

const COMPONENT: &str = "deployment-controller";

/// The Deployment controller.
pub(crate) struct Deployments {
    context: Context,
    expectations: Expectations<Key>,
    /// What was written to the Deployments themselves.
    own: Expectations<Key>,
}

impl Deployments {
    /// The controller and the queue that the caches feed.
    pub(crate) fn new(context: &Context) -> (Arc<Self>, Queue<Key>) {
        let queue = Queue::new();
        let caches = &context.caches;
        let tx = queue.clone();
        caches.deployments.subscribe(move |old, new| {
            if let Some(deployment) = new.or(old) {
                tx.add(Key::of(&deployment.metadata));
            }
        });
        let (tx, deployments) = (queue.clone(), caches.deployments.clone());
        caches.replica_sets.subscribe(move |old, new| {
            for set in old.into_iter().chain(new) {
                let namespace = meta::namespace(&set.metadata);
                match meta::controller_of(&set.metadata) {
                    Some(owner) if owner.kind == "Deployment" => {
                        tx.add(Key::new(namespace, &owner.name))
                    }
                    Some(_) => {}
                    // Somebody may want to adopt it.
                    None => {
                        let all = deployments.in_namespace(namespace);
                        all.iter()
                            .filter(|owner| selects(owner, set))
                            .for_each(|owner| tx.add(Key::of(&owner.metadata)));
                    }
                }
            }
        });
        // Recreate waits for the end of the last old pod.
        let (tx, caches) = (queue.clone(), caches.clone());
        context.caches.pods.subscribe(move |old, new| {
            let ended = |pod: &Arc<_>| pods::is_terminal(pod);
            let Some(pod) = old else { return };
            if new.is_none_or(|new| ended(new) && !ended(pod))
                && let Some(set) = meta::controller_of(&pod.metadata)
                && let Some(set) =
                    caches.replica_sets.get(&Key::new(meta::namespace(&pod.metadata), &set.name))
                && let Some(owner) = meta::controller_of(&set.metadata)
            {
                let key = Key::new(meta::namespace(&pod.metadata), &owner.name);
                if caches
                    .deployments
                    .get(&key)
                    .is_some_and(|deployment| spec::is_recreate(&deployment))
                {
                    tx.add(key);
                }
            }
        });
        let (expectations, own) = (Expectations::new(), Expectations::new());
        (Arc::new(Self { context: context.clone(), expectations, own }), queue)
    }

    fn sets_api(&self, key: &Key) -> Api<ReplicaSet> {
        Api::namespaced(self.context.client.clone(), &key.namespace)
    }

    fn api(&self, key: &Key) -> Api<Deployment> {
        Api::namespaced(self.context.client.clone(), &key.namespace)
    }

    /// Whether a pod of an old set has not ended yet.
    fn old_pods_running(&self, sets: &Sets) -> bool {
        let pods = &self.context.caches.pods;
        let mut running = sets
            .old
            .iter()
            .flat_map(|set| pods.indexed(&pods::by_controller(meta::uid(&set.metadata))));
        running.any(|pod| !pods::is_terminal(&pod))
    }

    async fn write_status(
        &self,
        key: &Key,
        deployment: &Deployment,
        sets: &Sets,
        outcome: Outcome<'_>,
    ) -> Result<Next, Error> {
        let (desired, next) = plan_status(deployment, sets, outcome, meta::now());
        if deployment.status.as_ref() != Some(&desired) {
            let update = Deployment { status: Some(desired), ..deployment.clone() };
            let updated =
                self.api(key).replace_status(&key.name, &PostParams::default(), &update).await;
            let updated = updated.doing(|| format!("update status of deployment {key}"))?;
            self.own.wrote(key, &updated.metadata);
        }
        Ok(next.into())
    }

    /// Makes the new set. Should its name be taken by another template, the
    /// collision count goes into the next hash.
    async fn create_set(
        &self,
        key: &Key,
        deployment: &Deployment,
        sets: &Sets,
        replicas: i32,
    ) -> Result<Next, Error> {
        let Some(template) = spec::template(deployment) else { return Ok(Next::OnChange) };
        let set = revision::new_set(deployment, template, replicas, revision::next_revision(sets))?;
        let name = meta::name(&set.metadata).to_owned();
        let api = self.sets_api(key);
        match api.create(&PostParams::default(), &set).await {
            Ok(created) => {
                self.expectations.wrote(key, &created.metadata);
                if replicas > 0 {
                    self.record_scaling(deployment, &name, 0, replicas);
                }
                self.write_status(key, deployment, sets, Outcome::Created(&name)).await?;
                Ok(Next::OnChange)
            }
            Err(err) if is_already_exists(&err) => {
                let holder = ignore_not_found(api.get(&name).await)
                    .doing(|| format!("get replica set {name}"))?;
                let ours = holder.is_some_and(|holder| {
                    meta::is_controlled_by(&holder.metadata, meta::uid(&deployment.metadata))
                        && Sets::of(deployment, vec![Arc::new(holder)]).new.is_some()
                });
                if !ours {
                    self.write_status(key, deployment, sets, Outcome::Collided).await?;
                }
                Err(err).doing(|| format!("create replica set {name}"))
            }
            Err(err) if is_namespace_terminating(&err) => Ok(Next::OnChange),
            Err(err) => {
                let message = chain(&err);
                let regarding = meta::object_reference(deployment);
                let text = format!("Failed to create new replica set {name:?}: {message}");
                self.context.events.record(
                    COMPONENT,
                    &regarding,
                    Warning,
                    "ReplicaSetCreateError",
                    text,
                );
                self.write_status(key, deployment, sets, Outcome::CreateFailed(&name, &message))
                    .await?;
                Err(err).doing(|| format!("create replica set {name}"))
            }
        }
    }

    async fn resize_sets(
        &self,
        key: &Key,
        deployment: &Deployment,
        sizes: Vec<Resize>,
    ) -> Result<(), Error> {
        for (set, replicas) in sizes {
            let before = size(&set);
            let mut desired = (*set).clone();
            desired
                .metadata
                .annotations
                .get_or_insert_default()
                .extend(revision::size_annotations(deployment));
            if let Some(spec) = &mut desired.spec {
                spec.replicas = Some(replicas);
            }
            self.write_set(key, &desired).await?;
            if before != replicas {
                self.record_scaling(deployment, meta::name(&set.metadata), before, replicas);
            }
        }
        Ok(())
    }

    /// Writes a set if nobody wrote it since.
    async fn write_set(&self, key: &Key, desired: &ReplicaSet) -> Result<(), Error> {
        let name = meta::name(&desired.metadata);
        let written = self.sets_api(key).replace(name, &PostParams::default(), desired).await;
        let written = written.doing(|| format!("update replica set {}/{name}", key.namespace))?;
        self.expectations.wrote(key, &written.metadata);
        Ok(())
    }

    fn record_scaling(&self, deployment: &Deployment, set: &str, from: i32, to: i32) {
        let direction = if to > from { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {set} from {from} to {to}");
        let regarding = meta::object_reference(deployment);
        self.context.events.record(COMPONENT, &regarding, Normal, "ScalingReplicaSet", message);
    }

    /// Keeps the new set's annotations and readiness rule, and the
    /// Deployment's revision, in step with the template of now. Returns
    /// whether the set was written.
    async fn mark_revision(
        &self,
        key: &Key,
        deployment: &Deployment,
        sets: &Sets,
    ) -> Result<bool, Error> {
        let Some(new) = &sets.new else { return Ok(false) };
        let annotations =
            revision::desired_annotations(deployment, new, revision::next_revision(sets));
        let revision = annotations.get(REVISION).cloned().unwrap_or_default();
        let min_ready = spec::min_ready_seconds(deployment);
        let known_min_ready = new
            .spec
            .as_ref()
            .and_then(|spec| spec.min_ready_seconds)
            .filter(|seconds| *seconds != 0);
        let outdated =
            new.metadata.annotations.as_ref() != Some(&annotations) || known_min_ready != min_ready;
        if outdated {
            let mut desired = (**new).clone();
            desired.metadata.annotations = Some(annotations);
            if let Some(spec) = &mut desired.spec {
                spec.min_ready_seconds = min_ready;
            }
            self.write_set(key, &desired).await?;
        }
        if meta::annotation(&deployment.metadata, REVISION) != Some(revision.as_str()) {
            let patch = json!({ "metadata": { "annotations": { REVISION: revision } } });
            let patched = self
                .api(key)
                .patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch))
                .await;
            let patched = patched.doing(|| format!("set revision of deployment {key}"))?;
            self.own.wrote(key, &patched.metadata);
            // The event of this write brings the next pass with the new
            // revision of the object, which the status must be based on.
            return Ok(true);
        }
        Ok(outdated)
    }

    async fn delete_surplus(
        &self,
        key: &Key,
        deployment: &Deployment,
        sets: &Sets,
    ) -> Result<(), Error> {
        for set in plan_cleanup(deployment, sets) {
            let name = meta::name(&set.metadata);
            // Should anybody have scaled it up meanwhile, the server refuses.
            let preconditions = Preconditions {
                uid: set.metadata.uid.clone(),
                resource_version: set.metadata.resource_version.clone(),
            };
            let params =
                DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            let deleted = self.sets_api(key).delete(name, &params).await;
            ignore_not_found(deleted)
                .doing(|| format!("delete replica set {}/{name}", key.namespace))?;
        }
        Ok(())
    }
}

fn selects(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let Some(spec) = &deployment.spec else { return false };
    meta::selector(&spec.selector).is_ok_and(|selector| meta::selects(&selector, &set.metadata))
}

impl Controller for Deployments {
    type Key = Key;
    const NAME: &'static str = "deployment";

    async fn pass(&self, key: &Key) -> Result<Next, Error> {
        // Revisions are read before objects: those may be newer, never older.
        let caches = &self.context.caches;
        let (own, observed) = (caches.deployments.revision(), caches.replica_sets.revision());
        let Some(deployment) = self.context.caches.deployments.get(key) else {
            self.expectations.forget(key);
            self.own.forget(key);
            return Ok(Next::OnChange);
        };
        let wait = self
            .own
            .wait(key, own, |_| false)
            .or_else(|| self.expectations.wait(key, observed, |_| false));
        if let Some(wait) = wait {
            return Ok(Next::After(wait));
        }
        let selector = match &deployment.spec {
            Some(spec) => meta::selector(&spec.selector)?,
            None => return Ok(Next::OnChange),
        };
        if selector.selects_all() {
            let message =
                "This deployment is selecting all pods. A non-empty selector is required."
                    .to_owned();
            let regarding = meta::object_reference(&*deployment);
            self.context.events.record(COMPONENT, &regarding, Warning, "SelectingAll", message);
            return Ok(Next::OnChange);
        }
        let deleting = meta::is_deleting(&deployment.metadata);
        let candidates = self.context.caches.replica_sets.in_namespace(&key.namespace);
        let claim = plan_claim(meta::uid(&deployment.metadata), deleting, &selector, candidates);
        let owned = apply_claim(&self.context.client, &*deployment, claim).await?;
        let sets = Sets::of(&deployment, owned);
        if deleting {
            return self.write_status(key, &deployment, &sets, Outcome::Looked).await;
        }
        if self.mark_revision(key, &deployment, &sets).await? {
            return Ok(Next::OnChange);
        }
        match plan_rollout(&deployment, &sets, || self.old_pods_running(&sets)) {
            Step::Create(replicas) => self.create_set(key, &deployment, &sets, replicas).await,
            Step::Resize(sizes) => {
                self.resize_sets(key, &deployment, sizes).await?;
                Ok(Next::OnChange)
            }
            Step::Wait => {
                let next = self.write_status(key, &deployment, &sets, Outcome::Looked).await?;
                let complete = deployment
                    .status
                    .as_ref()
                    .is_some_and(|status| status::is_complete(spec::replicas(&deployment), status));
                if complete || spec::is_paused(&deployment) {
                    self.delete_surplus(key, &deployment, &sets).await?;
                }
                Ok(next)
            }
        }
    }
}
