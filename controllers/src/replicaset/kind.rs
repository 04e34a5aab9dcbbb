//! The kinds that keep a number of equal pods, seen alike: ReplicaSet and its
//! ancestor ReplicationController. Adding a kind is adding an implementation.

use std::fmt::Debug;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    PodTemplateSpec, ReplicationController, ReplicationControllerCondition,
    ReplicationControllerStatus,
};
use kube::Resource;
use kube::core::Selector;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::meta;

/// Type of the condition that tells why pods cannot be made or deleted.
const REPLICA_FAILURE: &str = "ReplicaFailure";

/// A kind that keeps a number of equal pods.
pub(crate) trait Replicated:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// The controller's name in logs.
    const CONTROLLER: &'static str;
    /// The controller's name in events.
    const COMPONENT: &'static str;
    /// Whether the kind's status has a field for terminating pods.
    const REPORTS_TERMINATING: bool;

    /// How many pods there should be.
    fn replicas(&self) -> i32;
    /// How long a pod must be ready to be available.
    fn min_ready(&self) -> Duration;
    /// Which pods are meant.
    fn selector(&self) -> Result<Selector, Error>;
    /// What new pods look like.
    fn template(&self) -> Option<&PodTemplateSpec>;
    /// The status last reported.
    fn status(&self) -> Counts;
    /// The object with another status.
    fn with_status(&self, counts: &Counts) -> Self;
}

/// The status of a replicated kind.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Counts {
    /// Live pods.
    pub(crate) replicas: i32,
    /// Live pods that carry all labels of the template.
    pub(crate) fully_labeled: i32,
    /// Ready pods.
    pub(crate) ready: i32,
    /// Pods ready for long enough.
    pub(crate) available: i32,
    /// Pods on their way out that have not ended yet.
    pub(crate) terminating: i32,
    /// The generation these counts are about.
    pub(crate) observed_generation: i64,
    /// Why pods cannot be made or deleted.
    pub(crate) failure: Option<Failure>,
}

/// A failure to make or delete pods.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Failure {
    /// `FailedCreate` or `FailedDelete`.
    pub(crate) reason: String,
    /// The server's words.
    pub(crate) message: String,
    /// When it began.
    pub(crate) since: Timestamp,
}

/// Implements [`Replicated`] for a kind: both have the same fields under types
/// of their own, which no trait of theirs joins.
macro_rules! replicated {
    (
        $kind:ident, $status:ident, $condition:ident,
        controller: $controller:literal,
        component: $component:literal,
        selector: $spec:ident => $selector:expr,
        terminating: [$($terminating:ident)?]
    ) => {
        impl Replicated for $kind {
            const CONTROLLER: &'static str = $controller;
            const COMPONENT: &'static str = $component;
            const REPORTS_TERMINATING: bool = !stringify!($($terminating)?).is_empty();

            fn replicas(&self) -> i32 {
                self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
            }

            fn min_ready(&self) -> Duration {
                let seconds = self.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
                Duration::from_secs(u64::try_from(seconds.unwrap_or(0)).unwrap_or(0))
            }

            fn selector(&self) -> Result<Selector, Error> {
                let Some($spec) = &self.spec else { return Ok(Selector::default()) };
                $selector
            }

            fn template(&self) -> Option<&PodTemplateSpec> {
                self.spec.as_ref()?.template.as_ref()
            }

            fn status(&self) -> Counts {
                let Some(status) = &self.status else { return Counts::default() };
                let mut conditions = status.conditions.iter().flatten();
                let failure = conditions.find(|condition| condition.type_ == REPLICA_FAILURE);
                Counts {
                    replicas: status.replicas,
                    fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
                    ready: status.ready_replicas.unwrap_or(0),
                    available: status.available_replicas.unwrap_or(0),
                    terminating: 0 $(+ status.$terminating.unwrap_or(0))?,
                    observed_generation: status.observed_generation.unwrap_or(0),
                    failure: failure.map(|condition| Failure {
                        reason: condition.reason.clone().unwrap_or_default(),
                        message: condition.message.clone().unwrap_or_default(),
                        since: (condition.last_transition_time.as_ref())
                            .map_or(Timestamp::UNIX_EPOCH, |time| time.0),
                    }),
                }
            }

            fn with_status(&self, counts: &Counts) -> Self {
                let old = self.status.as_ref().and_then(|status| status.conditions.clone());
                let mut conditions = old.unwrap_or_default();
                conditions.retain(|condition| condition.type_ != REPLICA_FAILURE);
                conditions.extend(counts.failure.as_ref().map(|failure| $condition {
                    type_: REPLICA_FAILURE.into(),
                    status: "True".into(),
                    reason: Some(failure.reason.clone()),
                    message: Some(failure.message.clone()),
                    last_transition_time: Some(meta::time(failure.since)),
                }));
                let status = $status {
                    replicas: counts.replicas,
                    fully_labeled_replicas: nonzero(counts.fully_labeled),
                    ready_replicas: nonzero(counts.ready),
                    available_replicas: nonzero(counts.available),
                    $($terminating: nonzero(counts.terminating),)?
                    observed_generation: Some(counts.observed_generation),
                    conditions: (!conditions.is_empty()).then_some(conditions),
                };
                Self { status: Some(status), ..self.clone() }
            }
        }
    };
}

replicated! {
    ReplicaSet, ReplicaSetStatus, ReplicaSetCondition,
    controller: "replicaset",
    component: "replicaset-controller",
    selector: spec => meta::selector(&spec.selector),
    terminating: [terminating_replicas]
}

replicated! {
    ReplicationController, ReplicationControllerStatus, ReplicationControllerCondition,
    controller: "replicationcontroller",
    component: "replication-controller",
    selector: spec => Ok(spec.selector.clone().unwrap_or_default().into_iter().collect()),
    // This kind has no field for it.
    terminating: []
}

/// Zero counts are left out, as upstream leaves them out.
fn nonzero(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}
