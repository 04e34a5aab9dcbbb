//! ReplicaSet controller: keeps live pods equal in number to `spec.replicas`.
//! The same code serves ReplicationControllers; see `kind`.
//!
//! Reads the sets and the pods they own. Writes pods and the sets' `status`,
//! nothing else.
//!
//! Each pass compares two lists, so a lost event costs time, never
//! correctness. A pod with a deletion timestamp no longer counts as live;
//! otherwise its replacement would wait for its grace period. A pass waits
//! until the cache shows what the pass before it wrote (`expectations`), or it
//! would make the same pods twice.

mod kind;
mod rank;

use std::iter;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use skiff_client::Api;

pub(crate) use self::kind::Replicated;
use self::kind::{Counts, Failure};
use self::rank::plan_victims;
use crate::cache::Cache;
use crate::claim::{apply_claim, plan_claim};
use crate::context::Context;
use crate::error::{Doing, Error, chain};
use crate::expectations::Expectations;
use crate::meta::{self, Key};
use crate::pod_control::PodControl;
use crate::pods::{self, Availability};
use crate::queue::Queue;
use crate::runner::{Controller, Next};

/// Pods made or deleted by one pass at most; the next pass goes on.
const BURST: usize = 500;

/// The controller of one replicated kind.
pub(crate) struct ReplicaSets<O> {
    context: Context,
    sets: Cache<O>,
    pods: PodControl,
    /// What was written to the sets themselves.
    own: Expectations<Key>,
}

impl<O: Replicated> ReplicaSets<O> {
    /// The controller and the queue that the caches feed.
    pub(crate) fn new(context: &Context, sets: &Cache<O>) -> (Arc<Self>, Queue<Key>) {
        let queue = Queue::new();
        let tx = queue.clone();
        sets.subscribe(move |old, new| {
            if let Some(set) = new.or(old) {
                tx.add(Key::of(set.meta()));
            }
        });
        let (tx, owners) = (queue.clone(), sets.clone());
        context.caches.pods.subscribe(move |old, new| {
            for pod in old.into_iter().chain(new) {
                match meta::controller_of(&pod.metadata) {
                    Some(owner) if owner.kind == O::kind(&()) => {
                        tx.add(Key::new(meta::namespace(&pod.metadata), &owner.name));
                    }
                    Some(_) => {}
                    // Somebody may want to adopt it.
                    None => adopters(&owners, pod).for_each(|key| tx.add(key)),
                }
            }
        });
        let pods = PodControl::new(context, O::COMPONENT);
        let (sets, own) = (sets.clone(), Expectations::new());
        (Arc::new(Self { context: context.clone(), sets, pods, own }), queue)
    }

    async fn apply(&self, key: &Key, set: &O, plan: PodPlan) -> Result<(), Failed> {
        let pods = self.pods.of(key, set);
        match plan {
            PodPlan::Settled => Ok(()),
            PodPlan::Create(count) => {
                let Some(template) = set.template() else { return Ok(()) };
                let owner = meta::controller_reference(set);
                let pod = pods::from_template(template, &key.namespace, &key.name, owner);
                pods.create(iter::repeat_n(&pod, count.min(BURST)))
                    .await
                    .map_err(|error| Failed { reason: "FailedCreate", error })
            }
            PodPlan::Delete(victims) => pods
                .delete(&victims)
                .await
                .map_err(|error| Failed { reason: "FailedDelete", error }),
        }
    }

    /// The pods of all sets under the same Deployment as this one.
    fn related(&self, set: &O, own: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        let Some(parent) = meta::controller_of(set.meta()) else { return own.to_vec() };
        let siblings = self.sets.in_namespace(meta::namespace(set.meta()));
        let siblings =
            siblings.iter().filter(|sibling| meta::is_controlled_by(sibling.meta(), &parent.uid));
        siblings
            .flat_map(|sibling| {
                self.context.caches.pods.indexed(&pods::by_controller(meta::uid(sibling.meta())))
            })
            .collect()
    }
}

impl<O: Replicated> Controller for ReplicaSets<O> {
    type Key = Key;
    const NAME: &'static str = O::CONTROLLER;

    async fn pass(&self, key: &Key) -> Result<Next, Error> {
        // Revisions are read before objects: those may be newer, never older.
        let (own, observed) = (self.sets.revision(), self.context.caches.pods.revision());
        let Some(set) = self.sets.get(key) else {
            self.pods.expectations.forget(key);
            self.own.forget(key);
            return Ok(Next::OnChange);
        };
        if let Some(wait) = self.own.wait(key, own, |_| false) {
            return Ok(Next::After(wait));
        }
        let uid = meta::uid(set.meta());
        let mut candidates = pods::candidates(&self.context.caches.pods, &key.namespace, uid);
        if let Some(wait) =
            self.pods.expectations.wait(key, observed, |uid| pods::is_staying(&candidates, uid))
        {
            return Ok(Next::After(wait));
        }
        // Pods that ended count for nothing and are kept for their logs.
        candidates.retain(|pod| !pods::is_terminal(pod));
        let deleting = meta::is_deleting(set.meta());
        let claim = plan_claim(uid, deleting, &set.selector()?, candidates);
        let owned = apply_claim(&self.context.client, &*set, claim).await?;
        let now = meta::now();
        let applied = if deleting {
            Ok(())
        } else {
            let plan = plan_pods(set.replicas(), &owned, |active| self.related(&set, active), now);
            self.apply(key, &set, plan).await
        };
        let failure = applied.as_ref().err().map(|failed| Failure {
            reason: failed.reason.to_owned(),
            message: chain(&failed.error),
            since: now,
        });
        let (desired, next) = plan_status(&*set, &owned, failure, now);
        if desired != set.status() {
            let api: Api<O> = Api::namespaced(self.context.client.clone(), &key.namespace);
            let update = set.with_status(&desired);
            let updated = api.replace_status(&key.name, &PostParams::default(), &update).await;
            let updated = updated.doing(|| format!("update status of {} {key}", O::kind(&())))?;
            // Pods change faster than this write comes back; looking again
            // before that would only meet a conflict.
            self.own.wrote(key, updated.meta());
        }
        applied.map_err(|failed| failed.error)?;
        Ok(next.into())
    }
}

/// The sets of the pod's namespace that select it.
fn adopters<'a, O: Replicated>(
    sets: &Cache<O>,
    pod: &'a Pod,
) -> impl Iterator<Item = Key> + use<'a, O> {
    sets.in_namespace(meta::namespace(&pod.metadata)).into_iter().filter_map(|set| {
        let selector = set.selector().ok()?;
        meta::selects(&selector, &pod.metadata).then(|| Key::of(set.meta()))
    })
}

struct Failed {
    reason: &'static str,
    error: Error,
}

/// What to do about the number of pods.
#[derive(Debug, PartialEq)]
enum PodPlan {
    /// It is right.
    Settled,
    /// So many are missing.
    Create(usize),
    /// These are too many.
    Delete(Vec<Arc<Pod>>),
}

/// Compares `desired` replicas with the `observed` pods of the set.
fn plan_pods(
    desired: i32,
    observed: &[Arc<Pod>],
    related: impl FnOnce(&[Arc<Pod>]) -> Vec<Arc<Pod>>,
    now: Timestamp,
) -> PodPlan {
    let active: Vec<Arc<Pod>> =
        observed.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
    let desired = usize::try_from(desired).unwrap_or(0);
    match desired.checked_sub(active.len()) {
        Some(0) => PodPlan::Settled,
        Some(missing) => PodPlan::Create(missing),
        None => {
            let related = related(&active);
            let excess = (active.len() - desired).min(BURST);
            PodPlan::Delete(plan_victims(active, &related, excess, now))
        }
    }
}

/// The status these pods amount to, and when time alone will change it.
fn plan_status<O: Replicated>(
    set: &O,
    observed: &[Arc<Pod>],
    failure: Option<Failure>,
    now: Timestamp,
) -> (Counts, Option<Duration>) {
    let template_labels =
        set.template().and_then(|template| template.metadata.as_ref()).map(meta::labels);
    let mut counts =
        Counts { observed_generation: set.meta().generation.unwrap_or(0), ..Counts::default() };
    let mut next: Option<Duration> = None;
    for pod in observed {
        if !pods::is_active(pod) {
            counts.terminating +=
                i32::from(meta::is_deleting(&pod.metadata) && !pods::is_terminal(pod));
            continue;
        }
        counts.replicas += 1;
        let labels = meta::labels(&pod.metadata);
        let carries_all = template_labels.is_none_or(|wanted| {
            wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
        });
        counts.fully_labeled += i32::from(carries_all);
        match pods::availability(pod, set.min_ready(), now) {
            Availability::Available => {
                counts.ready += 1;
                counts.available += 1;
            }
            Availability::In(wait) => {
                counts.ready += 1;
                next = Some(next.map_or(wait, |known| known.min(wait)));
            }
            Availability::Unready => {}
        }
    }
    let known = set.status();
    if !O::REPORTS_TERMINATING {
        counts.terminating = 0;
    }
    // A failure that goes on keeps its beginning and its first words: each
    // refusal names another pod, and a status that changes with every try would
    // be written with every try.
    counts.failure = failure.map(|failure| match known.failure {
        Some(old) if old.reason == failure.reason => old,
        _ => failure,
    });
    (counts, next)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec};

    use super::*;
    use crate::testing;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn going(mut pod: Pod) -> Arc<Pod> {
        pod.metadata.deletion_timestamp = Some(meta::time(at(1)));
        Arc::new(pod)
    }

    fn failed(mut pod: Pod) -> Arc<Pod> {
        pod.status.as_mut().unwrap().phase = Some("Failed".into());
        Arc::new(pod)
    }

    #[test]
    fn live_pods_are_counted() {
        let live = |name| Arc::new(testing::ready_pod(name, at(0)));
        let cases = [
            ("none yet", 3, vec![], PodPlan::Create(3)),
            ("enough", 2, vec![live("a"), live("b")], PodPlan::Settled),
            (
                "a going pod is replaced at once",
                2,
                vec![live("a"), going(testing::pod("b"))],
                PodPlan::Create(1),
            ),
            ("a failed pod is replaced", 1, vec![failed(testing::pod("a"))], PodPlan::Create(1)),
            (
                "the pending one goes first",
                1,
                vec![live("a"), Arc::new(testing::pod("b"))],
                PodPlan::Delete(vec![Arc::new(testing::pod("b"))]),
            ),
            ("to zero", 0, vec![live("a")], PodPlan::Delete(vec![live("a")])),
        ];
        for (name, desired, observed, expected) in cases {
            assert_eq!(plan_pods(desired, &observed, <[_]>::to_vec, at(100)), expected, "{name}");
        }
    }

    #[test]
    fn status_counts_what_is_there() {
        let set = ReplicaSet {
            metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                generation: Some(4),
                ..testing::meta("web")
            },
            spec: Some(ReplicaSetSpec {
                min_ready_seconds: Some(10),
                template: Some(testing::template("web:1")),
                ..ReplicaSetSpec::default()
            }),
            status: None,
        };
        let mut unlabelled = testing::pod("c");
        unlabelled.metadata.labels = None;
        let observed = vec![
            Arc::new(testing::ready_pod("a", at(80))),
            Arc::new(testing::ready_pod("b", at(97))),
            Arc::new(unlabelled),
            going(testing::pod("d")),
        ];
        let (counts, next) = plan_status(&set, &observed, None, at(100));
        let expected = Counts {
            replicas: 3,
            fully_labeled: 2,
            ready: 2,
            available: 1,
            terminating: 1,
            observed_generation: 4,
            failure: None,
        };
        assert_eq!(counts, expected);
        assert_eq!(next, Some(Duration::from_secs(7)));
        let reported = set.with_status(&counts);
        assert_eq!(reported.status(), counts, "what is written reads back");
        assert_eq!(
            plan_status(&reported, &observed, None, at(100)).0,
            reported.status(),
            "nothing is written twice"
        );
    }

    #[test]
    fn a_lasting_failure_keeps_its_beginning() {
        let failure = |second| Failure {
            reason: "FailedCreate".into(),
            message: format!("pods \"web-{second}\" is forbidden: exceeded quota"),
            since: at(second),
        };
        let set = ReplicaSet { metadata: testing::meta("web"), ..ReplicaSet::default() };
        let (counts, _) = plan_status(&set, &[], Some(failure(5)), at(5));
        let reported = set.with_status(&counts);
        let (again, _) = plan_status(&reported, &[], Some(failure(9)), at(9));
        assert_eq!(again, reported.status());
        let (recovered, _) = plan_status(&reported, &[], None, at(10));
        assert_eq!(recovered.failure, None);
    }
}
