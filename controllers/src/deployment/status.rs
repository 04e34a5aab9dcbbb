//! Status: counts and the conditions that `kubectl rollout status` and
//! `kubectl wait` read.
//!
//! `Available` tells whether enough pods serve. `Progressing` tells whether
//! the rollout moves: each sign of progress renews its `lastUpdateTime`, and
//! when that is older than `progressDeadlineSeconds` the rollout has stalled.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};

use super::revision::Sets;
use super::spec::{actual, available, max_unavailable, progress_deadline, replicas, size};
use crate::meta;

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const REPLICA_FAILURE: &str = "ReplicaFailure";

/// What happened in this pass beyond what the sets show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome<'a> {
    /// Nothing special.
    Looked,
    /// The new set was made.
    Created(&'a str),
    /// The new set could not be made, for this reason.
    CreateFailed(&'a str, &'a str),
    /// The new set's name is taken by another template.
    Collided,
}

/// The status the sets amount to, and when time alone will change it.
pub(crate) fn plan_status(
    deployment: &Deployment,
    sets: &Sets,
    outcome: Outcome<'_>,
    now: Timestamp,
) -> (DeploymentStatus, Option<Duration>) {
    let known = deployment.status.clone().unwrap_or_default();
    let mut status = counts(deployment, sets, &known);
    let mut conditions = Conditions { list: known.conditions.clone().unwrap_or_default(), now };
    let desired = replicas(deployment);
    if count(status.available_replicas) >= desired - max_unavailable(deployment) {
        let message = "Deployment has minimum availability.";
        conditions.set(AVAILABLE, "True", "MinimumReplicasAvailable", message);
    } else {
        let message = "Deployment does not have minimum availability.";
        conditions.set(AVAILABLE, "False", "MinimumReplicasUnavailable", message);
    }
    let next = match progress_deadline(deployment) {
        Some(deadline) => {
            plan_progress(deployment, sets, outcome, &status, &mut conditions, deadline)
        }
        None => {
            conditions.remove(PROGRESSING);
            None
        }
    };
    match replica_failure(sets) {
        Some((reason, message)) => conditions.set(REPLICA_FAILURE, "True", reason, message),
        None => conditions.remove(REPLICA_FAILURE),
    }
    if outcome == Outcome::Collided {
        status.collision_count = Some(known.collision_count.unwrap_or(0) + 1);
    }
    status.conditions = Some(conditions.list);
    (status, next)
}

fn counts(deployment: &Deployment, sets: &Sets, known: &DeploymentStatus) -> DeploymentStatus {
    let sum = |of: fn(&ReplicaSet) -> i32| -> i32 { sets.all().map(|set| of(set)).sum() };
    let total = sum(available);
    let terminating =
        sum(|set| set.status.as_ref().and_then(|status| status.terminating_replicas).unwrap_or(0));
    DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: nonzero(sum(actual)),
        updated_replicas: nonzero(sets.new.as_ref().map_or(0, |set| actual(set))),
        ready_replicas: nonzero(sum(|set| {
            set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0)
        })),
        available_replicas: nonzero(total),
        unavailable_replicas: nonzero((sum(size) - total).max(0)),
        terminating_replicas: nonzero(terminating),
        collision_count: known.collision_count,
        conditions: None,
    }
}

fn plan_progress(
    deployment: &Deployment,
    sets: &Sets,
    outcome: Outcome<'_>,
    status: &DeploymentStatus,
    conditions: &mut Conditions,
    deadline: Duration,
) -> Option<Duration> {
    let subject = match &sets.new {
        Some(new) => format!("ReplicaSet {:?}", meta::name(&new.metadata)),
        None => format!("Deployment {:?}", meta::name(&deployment.metadata)),
    };
    match outcome {
        Outcome::Created(name) => {
            let message = format!("Created new replica set {name:?}");
            conditions.set(PROGRESSING, "True", "NewReplicaSetCreated", &message);
            return None;
        }
        Outcome::CreateFailed(name, error) => {
            let message = format!("Failed to create new replica set {name:?}: {error}");
            conditions.set(PROGRESSING, "False", "ReplicaSetCreateError", &message);
            return None;
        }
        Outcome::Looked | Outcome::Collided => {}
    }
    let timed_out = conditions.reason(PROGRESSING) == Some("ProgressDeadlineExceeded");
    let paused = deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false);
    let was_paused = conditions.reason(PROGRESSING) == Some("DeploymentPaused");
    if paused && !was_paused && !timed_out {
        conditions.set(PROGRESSING, "Unknown", "DeploymentPaused", "Deployment is paused");
    } else if !paused && was_paused {
        conditions.set(PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed");
    }
    let known = deployment.status.clone().unwrap_or_default();
    if conditions.get(PROGRESSING).is_none()
        && let Some(new) = &sets.new
    {
        let message = format!("Found new replica set {:?}", meta::name(&new.metadata));
        conditions.set(PROGRESSING, "True", "FoundNewReplicaSet", &message);
    }
    let complete = is_complete(replicas(deployment), status);
    let was_complete = conditions.reason(PROGRESSING) == Some("NewReplicaSetAvailable");
    if was_complete && status.replicas == status.updated_replicas {
        // Finished. Losing a pod later is a matter of availability.
        return None;
    }
    if complete {
        let message = format!("{subject} has successfully progressed.");
        conditions.renew(PROGRESSING, "NewReplicaSetAvailable", &message);
        return None;
    }
    if has_progressed(&known, status) {
        conditions.renew(PROGRESSING, "ReplicaSetUpdated", &format!("{subject} is progressing."));
    }
    if paused {
        return None;
    }
    let since =
        conditions.get(PROGRESSING).and_then(|condition| condition.last_update_time.as_ref())?.0;
    let waited = meta::elapsed(since, conditions.now);
    if conditions.reason(PROGRESSING) == Some("NewReplicaSetAvailable") {
        // The rollout before was complete; this one has not begun to move.
        return None;
    }
    if waited < deadline {
        // A second more, since API times are cut to whole seconds.
        return Some(deadline - waited + Duration::from_secs(1));
    }
    let message = format!("{subject} has timed out progressing.");
    conditions.set(PROGRESSING, "False", "ProgressDeadlineExceeded", &message);
    None
}

/// Whether all pods are of the new template and serve.
pub(crate) fn is_complete(desired: i32, status: &DeploymentStatus) -> bool {
    [status.updated_replicas, status.replicas, status.available_replicas]
        .into_iter()
        .all(|replicas| count(replicas) == desired)
}

/// Whether `new` is nearer to completion than `old` in any count.
fn has_progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let outdated =
        |status: &DeploymentStatus| count(status.replicas) - count(status.updated_replicas);
    count(new.updated_replicas) > count(old.updated_replicas)
        || outdated(new) < outdated(old)
        || count(new.ready_replicas) > count(old.ready_replicas)
        || count(new.available_replicas) > count(old.available_replicas)
}

/// Why pods cannot be made; what the new set says comes first.
fn replica_failure(sets: &Sets) -> Option<(&str, &str)> {
    let failure = sets.new.iter().chain(&sets.old).find_map(|set| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_ == REPLICA_FAILURE)
    })?;
    Some((
        failure.reason.as_deref().unwrap_or_default(),
        failure.message.as_deref().unwrap_or_default(),
    ))
}

struct Conditions {
    list: Vec<DeploymentCondition>,
    now: Timestamp,
}

impl Conditions {
    fn get(&self, type_: &str) -> Option<&DeploymentCondition> {
        self.list.iter().find(|condition| condition.type_ == type_)
    }

    fn reason(&self, type_: &str) -> Option<&str> {
        self.get(type_)?.reason.as_deref()
    }

    fn remove(&mut self, type_: &str) {
        self.list.retain(|condition| condition.type_ != type_);
    }

    /// Sets a condition. Same status and reason: it stays untouched, so that
    /// nothing is written for nothing.
    fn set(&mut self, type_: &str, status: &str, reason: &str, message: &str) {
        let known = self.get(type_);
        if known
            .is_some_and(|known| known.status == status && known.reason.as_deref() == Some(reason))
        {
            return;
        }
        self.put(type_, status, reason, message);
    }

    /// Sets a condition to `True` as a sign of life: its update time is now.
    fn renew(&mut self, type_: &str, reason: &str, message: &str) {
        self.put(type_, "True", reason, message);
    }

    fn put(&mut self, type_: &str, status: &str, reason: &str, message: &str) {
        let now = meta::time(self.now);
        let unchanged_since = self
            .get(type_)
            .filter(|known| known.status == status)
            .and_then(|known| known.last_transition_time.clone());
        self.remove(type_);
        self.list.push(DeploymentCondition {
            type_: type_.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_update_time: Some(now.clone()),
            last_transition_time: Some(unchanged_since.unwrap_or(now)),
        });
    }
}

fn count(replicas: Option<i32>) -> i32 {
    replicas.unwrap_or(0)
}

/// Zero counts are left out, as upstream leaves them out.
fn nonzero(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployment::fixtures::{deployment, set};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn progressing(status: &DeploymentStatus) -> (&str, &str) {
        let conditions = status.conditions.as_ref().unwrap();
        let condition = conditions.iter().find(|condition| condition.type_ == PROGRESSING).unwrap();
        (condition.status.as_str(), condition.reason.as_deref().unwrap())
    }

    #[test]
    fn a_rollout_tells_its_story() {
        let mut deployment = deployment(2, "web:2");
        let steps: [(&str, i64, Vec<_>, (&str, &str)); 7] = [
            ("found", 10, vec![set("web:2", 2, 0)], ("True", "ReplicaSetUpdated")),
            ("nothing new", 100, vec![set("web:2", 2, 0)], ("True", "ReplicaSetUpdated")),
            ("one serves", 200, vec![set("web:2", 2, 1)], ("True", "ReplicaSetUpdated")),
            ("in time still", 799, vec![set("web:2", 2, 1)], ("True", "ReplicaSetUpdated")),
            ("stalled", 800, vec![set("web:2", 2, 1)], ("False", "ProgressDeadlineExceeded")),
            ("done after all", 900, vec![set("web:2", 2, 2)], ("True", "NewReplicaSetAvailable")),
            (
                "a pod lost later",
                9_000,
                vec![set("web:2", 2, 1)],
                ("True", "NewReplicaSetAvailable"),
            ),
        ];
        for (name, second, owned, expected) in steps {
            let sets = Sets::of(&deployment, owned);
            let (status, _) = plan_status(&deployment, &sets, Outcome::Looked, at(second));
            assert_eq!(progressing(&status), expected, "{name}");
            deployment.status = Some(status.clone());
            let (again, _) = plan_status(&deployment, &sets, Outcome::Looked, at(second));
            assert_eq!(again, status, "{name}: nothing is written twice");
        }
    }

    #[test]
    fn the_deadline_is_waited_for() {
        let mut deployment = deployment(2, "web:2");
        let sets = Sets::of(&deployment, vec![set("web:2", 2, 0)]);
        let (status, next) = plan_status(&deployment, &sets, Outcome::Looked, at(0));
        assert_eq!(next, Some(Duration::from_secs(601)));
        deployment.status = Some(status);
        let (_, next) = plan_status(&deployment, &sets, Outcome::Looked, at(500));
        assert_eq!(next, Some(Duration::from_secs(101)));
        deployment.spec.as_mut().unwrap().progress_deadline_seconds = Some(i32::MAX);
        let (status, next) = plan_status(&deployment, &sets, Outcome::Looked, at(500));
        assert_eq!(next, None);
        assert!(status.conditions.unwrap().iter().all(|condition| condition.type_ != PROGRESSING));
    }

    #[test]
    fn counts_cover_all_sets() {
        let deployment = deployment(3, "web:2");
        let sets = Sets::of(&deployment, vec![set("web:1", 2, 2), set("web:2", 2, 1)]);
        let (status, _) = plan_status(&deployment, &sets, Outcome::Looked, at(0));
        assert_eq!(status.replicas, Some(4));
        assert_eq!(status.updated_replicas, Some(2));
        assert_eq!(status.available_replicas, Some(3));
        assert_eq!(status.unavailable_replicas, Some(1));
        let available = &status.conditions.unwrap()[0];
        assert_eq!((available.type_.as_str(), available.status.as_str()), ("Available", "True"));
    }
}
