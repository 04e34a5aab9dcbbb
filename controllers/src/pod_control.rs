//! Pod control: how the workloads make and delete their pods.
//!
//! Every pod made or deleted is expected back through the cache
//! (`expectations`), told of in an event of the workload, and tied to what the
//! pass saw: a deletion is of this pod and not of another that took its name.

use std::borrow::Borrow;
use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::Resource;
use kube::api::{DeleteParams, PostParams};
use skiff_client::Api;

use crate::context::Context;
use crate::error::{Doing, Error, chain, is_namespace_terminating, is_not_found};
use crate::events::Severity::{self, Normal, Warning};
use crate::expectations::Expectations;
use crate::meta::{self, Key};

/// Makes and deletes the pods of all objects of one workload controller.
pub(crate) struct PodControl {
    context: Context,
    /// The controller's name in events.
    component: &'static str,
    /// What was written to the pods of each object.
    pub(crate) expectations: Expectations<Key>,
}

impl PodControl {
    /// Nothing is expected yet.
    pub(crate) fn new(context: &Context, component: &'static str) -> Self {
        Self { context: context.clone(), component, expectations: Expectations::new() }
    }

    /// For the pods of `owner`, whose key this is.
    pub(crate) fn of<'a, O>(&'a self, key: &'a Key, owner: &O) -> OwnedPods<'a>
    where
        O: Resource<DynamicType = ()>,
    {
        let api = Api::namespaced(self.context.client.clone(), &key.namespace);
        OwnedPods { control: self, key, api, owner: meta::object_reference(owner) }
    }
}

/// Makes and deletes the pods of one object.
pub(crate) struct OwnedPods<'a> {
    control: &'a PodControl,
    key: &'a Key,
    api: Api<Pod>,
    owner: ObjectReference,
}

/// What became of a pod that was to be made.
#[derive(PartialEq)]
enum Made {
    /// It is there.
    Pod,
    /// Its namespace is going and takes nothing new; there is nothing to mend.
    Nothing,
}

impl OwnedPods<'_> {
    /// Makes pods in batches that double, so that a refusal (a quota, a bad
    /// template) costs one request rather than hundreds.
    pub(crate) async fn create<P>(&self, pods: P) -> Result<(), Error>
    where
        P: IntoIterator<Item: Borrow<Pod> + Send, IntoIter: Send>,
    {
        let mut left = pods.into_iter().peekable();
        let mut batch = 1;
        while left.peek().is_some() {
            let made = left.by_ref().take(batch).map(|pod| self.create_one(pod));
            for made in join_all(made).await {
                if made? == Made::Nothing {
                    return Ok(());
                }
            }
            batch *= 2;
        }
        Ok(())
    }

    async fn create_one(&self, pod: impl Borrow<Pod>) -> Result<Made, Error> {
        let pod = pod.borrow();
        match self.api.create(&PostParams::default(), pod).await {
            Ok(created) => {
                self.control.expectations.wrote(self.key, &created.metadata);
                let message = format!("Created pod: {}", meta::name(&created.metadata));
                self.record(Normal, "SuccessfulCreate", message);
                Ok(Made::Pod)
            }
            Err(err) if is_namespace_terminating(&err) => Ok(Made::Nothing),
            Err(err) => {
                self.record(Warning, "FailedCreate", format!("Error creating: {}", chain(&err)));
                let prefix = pod.metadata.generate_name.as_deref().unwrap_or_default();
                Err(err).doing(|| format!("create pod {}/{prefix}", self.key.namespace))
            }
        }
    }

    /// Deletes pods, all at once: those that are gone already are no error.
    pub(crate) async fn delete(&self, pods: &[Arc<Pod>]) -> Result<(), Error> {
        join_all(pods.iter().map(|pod| self.delete_one(pod))).await.into_iter().collect()
    }

    async fn delete_one(&self, pod: &Pod) -> Result<(), Error> {
        let (name, uid) = (meta::name(&pod.metadata), meta::uid(&pod.metadata));
        // Its going may be seen before the answer arrives.
        self.control.expectations.deleting(self.key, uid);
        let params = DeleteParams::default().preconditions(meta::identity(&pod.metadata));
        let Err(err) = self.api.delete(name, &params).await else {
            self.record(Normal, "SuccessfulDelete", format!("Deleted pod: {name}"));
            return Ok(());
        };
        self.control.expectations.kept(self.key, uid);
        if is_not_found(&err) {
            return Ok(());
        }
        self.record(Warning, "FailedDelete", format!("Error deleting: {}", chain(&err)));
        Err(err).doing(|| format!("delete pod {}/{name}", self.key.namespace))
    }

    fn record(&self, severity: Severity, reason: &'static str, message: String) {
        let control = self.control;
        control.context.events.record(control.component, &self.owner, severity, reason, message);
    }
}
