//! Job controller: runs pods until enough of them have succeeded.
//!
//! Reads Jobs and the pods they own. Writes pods, the Job's `status`, and
//! deletes finished Jobs whose `ttlSecondsAfterFinished` is over.
//!
//! A pod that ended must be counted exactly once, even if somebody deletes it
//! or this process dies at any moment. So pods carry a finalizer, and their
//! ends go through the books in `status.uncountedTerminatedPods` (`plan`). Pods
//! that no job answers for lose the finalizer (`orphans`).
//!
//! Left out: `podFailurePolicy`, `successPolicy` and `backoffLimitPerIndex`.

mod orphans;
mod plan;

use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::{EnvVar, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use skiff_client::Api;

use self::orphans::{Fate, fate};
use self::plan::{INDEX, Plan, TRACKING, is_finished, is_indexed, plan};
use crate::claim::{apply_claim, plan_claim};
use crate::context::Context;
use crate::error::{Doing, Error, ignore_not_found};
use crate::events::Severity::{Normal, Warning};
use crate::expectations::Expectations;
use crate::meta::{self, Key};
use crate::pod_control::PodControl;
use crate::pods;
use crate::queue::Queue;
use crate::runner::{Controller, Next};

const COMPONENT: &str = "job-controller";

/// What a pass is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Task {
    /// A job with its pods.
    Job(Key),
    /// A pod that might belong to no job.
    Pod(Key),
}

/// The Job controller.
pub(crate) struct Jobs {
    context: Context,
    pods: PodControl,
    /// What was written to the jobs themselves.
    own: Expectations<Key>,
}

impl Jobs {
    /// The controller and the queue that the caches feed.
    pub(crate) fn new(context: &Context) -> (Arc<Self>, Queue<Task>) {
        let queue = Queue::new();
        let (tx, pods) = (queue.clone(), context.caches.pods.clone());
        context.caches.jobs.subscribe(move |old, new| {
            let Some(job) = new.or(old) else { return };
            tx.add(Task::Job(Key::of(&job.metadata)));
            if new.is_none() {
                for pod in pods.indexed(&pods::by_controller(meta::uid(&job.metadata))) {
                    tx.add(Task::Pod(Key::of(&pod.metadata)));
                }
            }
        });
        let tx = queue.clone();
        context.caches.pods.subscribe(move |old, new| {
            for pod in old.into_iter().chain(new) {
                if let Some(owner) =
                    meta::controller_of(&pod.metadata).filter(|owner| owner.kind == "Job")
                {
                    tx.add(Task::Job(Key::new(meta::namespace(&pod.metadata), &owner.name)));
                }
            }
            if let Some(pod) = new.filter(|pod| meta::has_finalizer(&pod.metadata, TRACKING)) {
                tx.add(Task::Pod(Key::of(&pod.metadata)));
            }
        });
        let (pods, own) = (PodControl::new(context, COMPONENT), Expectations::new());
        (Arc::new(Self { context: context.clone(), pods, own }), queue)
    }

    async fn write_status(&self, key: &Key, job: &Job, desired: JobStatus) -> Result<(), Error> {
        let ended = is_finished(&desired);
        let update = Job { status: Some(desired), ..job.clone() };
        let api: Api<Job> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let updated = api.replace_status(&key.name, &PostParams::default(), &update).await;
        let updated = updated.doing(|| format!("update status of job {key}"))?;
        self.own.wrote(key, &updated.metadata);
        if ended && !job.status.as_ref().is_some_and(is_finished) {
            self.record_end(job, &updated);
        }
        Ok(())
    }

    fn record_end(&self, job: &Job, ended: &Job) {
        let regarding = meta::object_reference(job);
        let record = |severity, reason, message| {
            self.context.events.record(COMPONENT, &regarding, severity, reason, message);
        };
        let conditions = ended.status.iter().flat_map(|status| status.conditions.iter().flatten());
        for condition in conditions {
            let message = condition.message.clone().unwrap_or_default();
            match (condition.type_.as_str(), condition.reason.as_deref()) {
                ("Complete", _) => record(Normal, "Completed", "Job completed".to_owned()),
                ("Failed", Some("DeadlineExceeded")) => {
                    record(Warning, "DeadlineExceeded", message);
                }
                ("Failed", _) => record(Warning, "BackoffLimitExceeded", message),
                _ => {}
            }
        }
    }

    /// Takes the finalizer off a pod of the job `key`.
    async fn untrack(&self, key: &Key, pod: &Pod) -> Result<(), Error> {
        if let Some(patched) = self.remove_finalizer(pod).await? {
            self.pods.expectations.wrote(key, &patched.metadata);
        }
        Ok(())
    }

    /// Takes the finalizer off exactly this state of a pod; `None` when the pod
    /// is gone.
    async fn remove_finalizer(&self, pod: &Pod) -> Result<Option<Pod>, Error> {
        let mut finalizers = pod.metadata.finalizers.clone().unwrap_or_default();
        finalizers.retain(|finalizer| finalizer != TRACKING);
        let key = Key::of(&pod.metadata);
        let patch = json!({ "metadata": {
            "uid": pod.metadata.uid,
            "resourceVersion": pod.metadata.resource_version,
            "finalizers": finalizers,
        }});
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let patched = api.patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        ignore_not_found(patched).doing(|| format!("release pod {key}"))
    }

    async fn apply(&self, key: &Key, job: &Job, plan: Plan) -> Result<(), Error> {
        let untracked = join_all(plan.untrack.iter().map(|pod| self.untrack(key, pod))).await;
        let pods = self.pods.of(key, job);
        let deleted = pods.delete(&plan.delete).await;
        let new: Vec<Pod> =
            plan.create.iter().filter_map(|index| new_pod(job, key, *index)).collect();
        let created = pods.create(new).await;
        untracked.into_iter().chain([deleted, created]).collect()
    }

    async fn delete_expired(&self, key: &Key, job: &Job) -> Result<(), Error> {
        let api: Api<Job> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let params = DeleteParams::background().preconditions(meta::identity(&job.metadata));
        ignore_not_found(api.delete(&key.name, &params).await)
            .map(drop)
            .doing(|| format!("delete job {key}"))
    }

    /// Lets a pod go that no job answers for.
    async fn pass_pod(&self, key: &Key) -> Result<Next, Error> {
        let caches = &self.context.caches;
        let Some(pod) = caches.pods.get(key) else { return Ok(Next::OnChange) };
        let kept = match fate(&pod, &caches.jobs.in_namespace(&key.namespace)) {
            Fate::Kept => true,
            Fate::JobGone(job) => self.job_controls(&key.namespace, &job, &pod).await?,
            Fate::Unwanted => false,
        };
        if !kept {
            self.remove_finalizer(&pod).await?;
        }
        Ok(Next::OnChange)
    }

    /// Whether the job of that name controls the pod, by the server's word.
    async fn job_controls(&self, namespace: &str, job: &str, pod: &Pod) -> Result<bool, Error> {
        let api: Api<Job> = Api::namespaced(self.context.client.clone(), namespace);
        let live =
            ignore_not_found(api.get(job).await).doing(|| format!("get job {namespace}/{job}"))?;
        Ok(live.is_some_and(|job| meta::is_controlled_by(&pod.metadata, meta::uid(&job.metadata))))
    }

    async fn pass_job(&self, key: &Key) -> Result<Next, Error> {
        let caches = &self.context.caches;
        let (own, observed) = (caches.jobs.revision(), caches.pods.revision());
        let Some(job) = caches.jobs.get(key) else {
            self.pods.expectations.forget(key);
            self.own.forget(key);
            return Ok(Next::OnChange);
        };
        let uid = meta::uid(&job.metadata);
        let candidates = pods::candidates(&caches.pods, &key.namespace, uid);
        let wait = self.own.wait(key, own, |_| false);
        let wait = wait.or_else(|| {
            self.pods.expectations.wait(key, observed, |uid| pods::is_staying(&candidates, uid))
        });
        if let Some(wait) = wait {
            return Ok(Next::After(wait));
        }
        let Some(spec) = job.spec.as_ref().filter(|spec| is_ours(spec.managed_by.as_deref()))
        else {
            return Ok(Next::OnChange);
        };
        let selector = meta::selector(spec.selector.as_ref().unwrap_or(&LabelSelector::default()))?;
        if meta::is_deleting(&job.metadata) {
            // Its pods go with it and nobody counts them any more.
            let held = candidates.iter().filter(|pod| meta::is_controlled_by(&pod.metadata, uid));
            let held = held.filter(|pod| meta::has_finalizer(&pod.metadata, TRACKING));
            return join_all(held.map(|pod| self.untrack(key, pod)))
                .await
                .into_iter()
                .collect::<Result<(), _>>()
                .map(|()| Next::OnChange);
        }
        let claim = plan_claim(uid, false, &selector, candidates);
        let owned = apply_claim(&self.context.client, &*job, claim).await?;
        let plan = plan(&job, &owned, meta::now());
        if job.status.as_ref() != Some(&plan.status) {
            self.write_status(key, &job, plan.status.clone()).await?;
        }
        let next = plan.next;
        if job.status.as_ref().is_some_and(is_finished) && next.is_some_and(|rest| rest.is_zero()) {
            self.delete_expired(key, &job).await?;
            return Ok(Next::OnChange);
        }
        self.apply(key, &job, plan).await?;
        Ok(next.into())
    }
}

impl Controller for Jobs {
    type Key = Task;
    const NAME: &'static str = "job";

    async fn pass(&self, task: &Task) -> Result<Next, Error> {
        match task {
            Task::Job(key) => self.pass_job(key).await,
            Task::Pod(key) => self.pass_pod(key).await,
        }
    }
}

/// Other controllers may take jobs over by name.
fn is_ours(managed_by: Option<&str>) -> bool {
    matches!(managed_by, None | Some("kubernetes.io/job-controller"))
}

fn new_pod(job: &Job, key: &Key, index: Option<i32>) -> Option<Pod> {
    let spec = job.spec.as_ref()?;
    let template: &PodTemplateSpec = &spec.template;
    let mut pod =
        pods::from_template(template, &key.namespace, &key.name, meta::controller_reference(job));
    pod.metadata.finalizers.get_or_insert_default().push(TRACKING.into());
    let Some(index) = index.filter(|_| is_indexed(spec)) else { return Some(pod) };
    pod.metadata.generate_name = Some(format!("{}-{index}-", key.name));
    pod.metadata.annotations.get_or_insert_default().insert(INDEX.into(), index.to_string());
    pod.metadata.labels.get_or_insert_default().insert(INDEX.into(), index.to_string());
    let pod_spec = pod.spec.get_or_insert_default();
    pod_spec.hostname.get_or_insert_with(|| format!("{}-{index}", key.name));
    let containers =
        pod_spec.containers.iter_mut().chain(pod_spec.init_containers.iter_mut().flatten());
    for container in containers {
        let variables = container.env.get_or_insert_default();
        if variables.iter().all(|known| known.name != "JOB_COMPLETION_INDEX") {
            variables.push(EnvVar {
                name: "JOB_COMPLETION_INDEX".into(),
                value: Some(index.to_string()),
                ..EnvVar::default()
            });
        }
    }
    Some(pod)
}
