//! Disruption controller: tells how many pods of a PodDisruptionBudget may be
//! evicted now.
//!
//! Reads PodDisruptionBudgets, pods, and the workloads the pods belong to.
//! Writes the budgets' `status`, nothing else. The eviction subresource of pods
//! takes from `disruptionsAllowed` and notes the pod in `disruptedPods`; here
//! the note is struck out when the pod is going, or after two minutes in which
//! it was not.
//!
//! Left out: percentages over pods of StatefulSets and of custom resources,
//! whose size is not looked up; such pods count as one wanted pod each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::PostParams;
use kube::core::SelectorExt;
use skiff_client::Api;

use crate::context::{Caches, Context};
use crate::deployment::{Rounding, scaled};
use crate::error::{Doing, Error};
use crate::expectations::Expectations;
use crate::meta::{self, Key};
use crate::pods;
use crate::queue::Queue;
use crate::replicaset::Replicated;
use crate::runner::{Controller, Next};

/// How long an evicted pod may take to show that it is going.
const EVICTION_PATIENCE: Duration = Duration::from_secs(120);

/// The disruption controller.
pub(crate) struct Disruptions {
    context: Context,
    /// What was written to the budgets themselves.
    own: Expectations<Key>,
}

impl Disruptions {
    /// The controller and the queue that the caches feed.
    pub(crate) fn new(context: &Context) -> (Arc<Self>, Queue<Key>) {
        let queue = Queue::new();
        let caches = &context.caches;
        let tx = queue.clone();
        caches.disruption_budgets.subscribe(move |old, new| {
            if let Some(budget) = new.or(old) {
                tx.add(Key::of(&budget.metadata));
            }
        });
        let (tx, budgets) = (queue.clone(), caches.disruption_budgets.clone());
        caches.pods.subscribe(move |old, new| {
            let Some(namespace) = new.or(old).map(|pod| meta::namespace(&pod.metadata)) else {
                return;
            };
            for budget in budgets.in_namespace(namespace) {
                if old.into_iter().chain(new).any(|pod| covers(&budget, pod)) {
                    tx.add(Key::of(&budget.metadata));
                }
            }
        });
        // A workload that is scaled changes what a percentage means.
        let (tx, budgets) = (queue.clone(), caches.disruption_budgets.clone());
        caches.deployments.subscribe(move |_, new| {
            let Some(deployment) = new else { return };
            let in_namespace = budgets.in_namespace(meta::namespace(&deployment.metadata));
            in_namespace.iter().for_each(|budget| tx.add(Key::of(&budget.metadata)));
        });
        (Arc::new(Self { context: context.clone(), own: Expectations::new() }), queue)
    }
}

impl Controller for Disruptions {
    type Key = Key;
    const NAME: &'static str = "disruption";

    async fn pass(&self, key: &Key) -> Result<Next, Error> {
        let caches = &self.context.caches;
        let own = caches.disruption_budgets.revision();
        let Some(budget) = caches.disruption_budgets.get(key) else {
            self.own.forget(key);
            return Ok(Next::OnChange);
        };
        if let Some(wait) = self.own.wait(key, own, |_| false) {
            return Ok(Next::After(wait));
        }
        let mut covered = caches.pods.in_namespace(&key.namespace);
        covered.retain(|pod| covers(&budget, pod));
        let wanted = wanted_pods(caches, &covered);
        let (desired, next) = plan_status(&budget, &covered, wanted, meta::now());
        if budget.status.as_ref() != Some(&desired) {
            let update = PodDisruptionBudget { status: Some(desired), ..(*budget).clone() };
            let api: Api<PodDisruptionBudget> =
                Api::namespaced(self.context.client.clone(), &key.namespace);
            let updated = api.replace_status(&key.name, &PostParams::default(), &update).await;
            let updated = updated.doing(|| format!("update status of disruption budget {key}"))?;
            self.own.wrote(key, &updated.metadata);
        }
        Ok(next.into())
    }
}

/// Whether the budget counts the pod. An empty selector is everything here, a
/// missing one nothing.
fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selector = selector.and_then(|selector| meta::selector(selector).ok());
    selector.is_some_and(|selector| selector.matches(meta::labels(&pod.metadata)))
}

/// How many pods the workloads of these pods want in all.
fn wanted_pods(caches: &Caches, pods: &[Arc<Pod>]) -> i32 {
    let mut workloads = BTreeSet::new();
    let mut wanted: i32 = 0;
    for pod in pods {
        let namespace = meta::namespace(&pod.metadata);
        let Some(owner) = meta::controller_of(&pod.metadata) else { continue };
        let key = Key::new(namespace, &owner.name);
        let (uid, size) = match owner.kind.as_str() {
            "ReplicaSet" => match caches.replica_sets.get(&key) {
                Some(set) => {
                    let parent = meta::controller_of(&set.metadata);
                    let parent = parent.and_then(|owner| {
                        caches.deployments.get(&Key::new(namespace, &owner.name))
                    });
                    match parent {
                        Some(parent) => {
                            let size =
                                parent.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
                            (meta::uid(&parent.metadata).to_owned(), size)
                        }
                        None => (owner.uid.clone(), set.replicas()),
                    }
                }
                None => continue,
            },
            "ReplicationController" => match caches.replication_controllers.get(&key) {
                Some(set) => (owner.uid.clone(), set.replicas()),
                None => continue,
            },
            _ => (meta::uid(&pod.metadata).to_owned(), 1),
        };
        if workloads.insert(uid) {
            wanted = wanted.saturating_add(size);
        }
    }
    wanted
}

/// The budget's status, and when time alone will change it.
fn plan_status(
    budget: &PodDisruptionBudget,
    covered: &[Arc<Pod>],
    wanted: i32,
    now: Timestamp,
) -> (PodDisruptionBudgetStatus, Option<Duration>) {
    let known = budget.status.clone().unwrap_or_default();
    let (noted, next) = plan_notes(&known, covered, now);
    let all = i32::try_from(covered.iter().filter(|pod| pods::is_active(pod)).count())
        .unwrap_or(i32::MAX);
    let (expected, desired) = bounds(budget, all, wanted);
    let healthy = covered.iter().filter(|pod| {
        pods::is_ready(pod)
            && pods::is_active(pod)
            && !noted.contains_key(meta::name(&pod.metadata))
    });
    let healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
    let allowed = if expected > 0 { (healthy - desired).max(0) } else { 0 };
    let status = PodDisruptionBudgetStatus {
        conditions: Some(conditions(budget, &known, allowed, now)),
        current_healthy: healthy,
        desired_healthy: desired,
        disrupted_pods: (!noted.is_empty()).then_some(noted),
        disruptions_allowed: allowed,
        expected_pods: expected,
        observed_generation: budget.metadata.generation,
    };
    (status, next)
}

/// How many pods the budget is about, and how many of them must be healthy.
fn bounds(budget: &PodDisruptionBudget, all: i32, wanted: i32) -> (i32, i32) {
    let Some(spec) = &budget.spec else { return (all, all) };
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(bound), _) => (wanted, (wanted - scaled(bound, wanted, Rounding::Up)).max(0)),
        (None, Some(IntOrString::Int(minimum))) => (all, *minimum),
        (None, Some(bound)) => (wanted, scaled(bound, wanted, Rounding::Up)),
        (None, None) => (all, 0),
    }
}

/// The notes of the eviction subresource that still hold.
fn plan_notes(
    known: &PodDisruptionBudgetStatus,
    covered: &[Arc<Pod>],
    now: Timestamp,
) -> (BTreeMap<String, Time>, Option<Duration>) {
    let mut next: Option<Duration> = None;
    let mut noted = BTreeMap::new();
    for (name, at) in known.disrupted_pods.iter().flatten() {
        let pod = covered.iter().find(|pod| meta::name(&pod.metadata) == name);
        let rest = meta::elapsed(now, meta::later(at.0, EVICTION_PATIENCE));
        if pod.is_some_and(|pod| !meta::is_deleting(&pod.metadata)) && !rest.is_zero() {
            noted.insert(name.clone(), at.clone());
            next = Some(next.map_or(rest, |known| known.min(rest)));
        }
    }
    (noted, next)
}

fn conditions(
    budget: &PodDisruptionBudget,
    known: &PodDisruptionBudgetStatus,
    allowed: i32,
    now: Timestamp,
) -> Vec<Condition> {
    const DISRUPTION_ALLOWED: &str = "DisruptionAllowed";
    let (status, reason) =
        if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let mut conditions = known.conditions.clone().unwrap_or_default();
    let old = conditions.iter().find(|condition| condition.type_ == DISRUPTION_ALLOWED);
    let since = old.filter(|old| old.status == status).map(|old| old.last_transition_time.clone());
    conditions.retain(|condition| condition.type_ != DISRUPTION_ALLOWED);
    conditions.push(Condition {
        type_: DISRUPTION_ALLOWED.into(),
        status: status.into(),
        reason: reason.into(),
        message: String::new(),
        observed_generation: budget.metadata.generation,
        last_transition_time: since.unwrap_or_else(|| meta::time(now)),
    });
    conditions
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::policy::v1::PodDisruptionBudgetSpec;

    use super::*;
    use crate::testing;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn budget(minimum: Option<IntOrString>, maximum: Option<IntOrString>) -> PodDisruptionBudget {
        let spec = PodDisruptionBudgetSpec {
            min_available: minimum,
            max_unavailable: maximum,
            ..PodDisruptionBudgetSpec::default()
        };
        PodDisruptionBudget { metadata: testing::meta("web"), spec: Some(spec), status: None }
    }

    #[test]
    fn what_may_go_is_what_is_healthy_beyond_the_bound() {
        let ready = |name: &str| Arc::new(testing::ready_pod(name, at(0)));
        let healthy = vec![ready("a"), ready("b"), ready("c")];
        let one_sick = vec![ready("a"), ready("b"), Arc::new(testing::pod("c"))];
        let (number, percent) = (IntOrString::Int, |text: &str| IntOrString::String(text.into()));
        let cases = [
            ("two of three", budget(Some(number(2)), None), healthy.clone(), 1),
            ("two of three, one sick", budget(Some(number(2)), None), one_sick.clone(), 0),
            ("half of three", budget(Some(percent("50%")), None), healthy.clone(), 1),
            ("one may miss", budget(None, Some(number(1))), healthy.clone(), 1),
            ("one may miss and does", budget(None, Some(number(1))), one_sick, 0),
            ("a third may miss", budget(None, Some(percent("34%"))), healthy, 2),
            ("no pods", budget(Some(number(0)), None), vec![], 0),
        ];
        for (name, mut budget, pods, allowed) in cases {
            let (status, _) = plan_status(&budget, &pods, 3, at(100));
            assert_eq!(status.disruptions_allowed, allowed, "{name}");
            budget.status = Some(status.clone());
            assert_eq!(
                plan_status(&budget, &pods, 3, at(101)).0,
                status,
                "{name}: nothing is written twice"
            );
        }
    }

    #[test]
    fn an_evicted_pod_counts_no_more() {
        let mut budget = budget(Some(IntOrString::Int(1)), None);
        let pods = vec![
            Arc::new(testing::ready_pod("a", at(0))),
            Arc::new(testing::ready_pod("b", at(0))),
        ];
        budget.status = Some(PodDisruptionBudgetStatus {
            disrupted_pods: Some([("a".to_owned(), meta::time(at(100)))].into()),
            ..PodDisruptionBudgetStatus::default()
        });
        let (status, next) = plan_status(&budget, &pods, 2, at(110));
        assert_eq!((status.current_healthy, status.disruptions_allowed), (1, 0));
        assert_eq!(next, Some(Duration::from_secs(110)));
        let (status, _) = plan_status(&budget, &pods, 2, at(300));
        assert_eq!(
            (status.disruptions_allowed, status.disrupted_pods),
            (1, None),
            "it was not evicted after all"
        );
    }
}
