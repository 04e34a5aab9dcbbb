//! Decides what to do next for one pod. Pure.
//!
//! A pass looks at the pod and at its containers as they are, and names the
//! steps that can be taken now. Steps under way are in `observed.busy` and are
//! not planned twice; when one ends the worker plans again. What only time
//! brings (a back-off, a deadline) is returned as the next time to look.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};

use super::model::{
    Attempt, Failure, Observed, PULL_ERROR_SHOWN, RestartPolicy, Work, is_sidecar, spec, spec_hash,
};
use crate::runtime::{State, labels};

/// What to do now, and when to look again without being woken.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// Steps that do not depend on one another.
    pub actions: Vec<Action>,
    /// When something is due.
    pub deadline: Option<Timestamp>,
}

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Prepare the volumes, start a sandbox and give it a network.
    SetUp {
        /// Number of the new sandbox.
        attempt: u32,
    },
    /// Start a container.
    Start {
        /// Its name.
        container: String,
        /// Its number.
        attempt: u32,
        /// Restarts in a row before it.
        crashes: u32,
    },
    /// Stop a container: preStop hook, signal, kill.
    Stop {
        /// Its name.
        container: String,
        /// The runtime's id.
        id: String,
        /// How long it may take.
        grace: Duration,
        /// Why, for the event; empty for none.
        message: String,
    },
    /// Remove containers that nobody needs any more.
    Remove {
        /// The runtime's ids.
        ids: Vec<String>,
    },
    /// Drop what is under way; it is no longer wanted.
    Abandon,
    /// Remove the sandbox and its network, keep dead containers for their logs.
    ReleaseSandbox,
    /// Remove everything of the pod from this node.
    CleanUp,
    /// Delete the pod's object for good.
    DeleteObject,
}

/// How a pod ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All containers ended with success and none is restarted.
    Succeeded,
    /// Some container failed and none is restarted.
    Failed,
    /// It ran longer than it may.
    DeadlineExceeded,
}

/// Grace period of a pod whose object vanished without one.
const GONE_GRACE: Duration = Duration::from_secs(1);
/// Grace period where the spec has none.
const DEFAULT_GRACE_SECONDS: i64 = 30;

/// How long a ready pod goes on serving after its deletion was asked for. Its
/// address has to disappear from every node's Services first: a server that
/// exits at its signal would else refuse connections still sent to it. Long
/// enough for a change to pass through EndpointSlice, watch and ruleset on a
/// busy machine, short beside any grace period.
pub const SETTLE: SignedDuration = SignedDuration::from_millis(500);

/// What to do for `pod`. `gone` says that its object is no longer in the API.
pub fn plan_pod(pod: &Pod, gone: bool, observed: &Observed, now: Timestamp) -> Plan {
    if gone || pod.metadata.deletion_timestamp.is_some() {
        return plan_end(pod, gone, observed, now);
    }
    if outcome(pod, observed, now).is_some() {
        return plan_finished(pod, observed, now);
    }
    let mut plan = plan_run(pod, observed, now);
    if let Some(due) = deadline_of(pod) {
        plan.look_at(due);
    }
    plan
}

/// How the pod ended, `None` while it goes on. Terminal states are final: what
/// the API already says stands.
pub fn outcome(pod: &Pod, observed: &Observed, now: Timestamp) -> Option<Outcome> {
    let status = pod.status.as_ref();
    match status.and_then(|status| status.phase.as_deref()) {
        Some("Succeeded") => return Some(Outcome::Succeeded),
        Some("Failed") => {
            let reason = status.and_then(|status| status.reason.as_deref());
            return Some(if reason == Some("DeadlineExceeded") {
                Outcome::DeadlineExceeded
            } else {
                Outcome::Failed
            });
        }
        _ => {}
    }
    if deadline_of(pod).is_some_and(|due| due <= now) {
        return Some(Outcome::DeadlineExceeded);
    }
    let policy = RestartPolicy::of(pod);
    let spec = spec(pod);
    // An init container that failed for good fails the pod.
    for init in spec.init_containers.iter().flatten().filter(|container| !is_sidecar(container)) {
        let failed =
            observed.latest(&init.name).and_then(Attempt::exit_code).is_some_and(|code| code != 0);
        if failed && policy == RestartPolicy::Never {
            return Some(Outcome::Failed);
        }
    }
    let lost_sandbox = observed.sandbox.as_ref().is_some_and(|sandbox| !sandbox.is_running());
    let mut failed = false;
    for container in &spec.containers {
        match observed.latest(&container.name) {
            Some(attempt) => match attempt.exit_code() {
                Some(code) if !wants_restart(container, attempt, code, policy) => {
                    failed |= code != 0
                }
                _ => return None,
            },
            // With its sandbox gone and no restart allowed it never will run.
            None if lost_sandbox
                && policy == RestartPolicy::Never
                && !observed.containers.is_empty() =>
            {
                failed = true
            }
            None => return None,
        }
    }
    Some(if failed { Outcome::Failed } else { Outcome::Succeeded })
}

/// When the pod has run as long as it may.
pub fn deadline_of(pod: &Pod) -> Option<Timestamp> {
    let seconds = spec(pod).active_deadline_seconds?;
    let start = pod.status.as_ref()?.start_time.as_ref()?.0;
    Some(start + SignedDuration::from_secs(seconds))
}

/// A changed image is started whatever the policy says.
fn wants_restart(
    container: &Container,
    attempt: &Attempt,
    exit_code: i32,
    policy: RestartPolicy,
) -> bool {
    policy.restarts(exit_code) || attempt.container.label(labels::SPEC_HASH) != spec_hash(container)
}

/// The pod has to go: stop, clean up, delete, each when the one before is done.
fn plan_end(pod: &Pod, gone: bool, observed: &Observed, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    if observed.cleaned {
        if !gone {
            plan.actions.push(Action::DeleteObject);
        }
        return plan;
    }
    if observed.busy.values().any(|work| *work == Work::Starting) {
        plan.actions.push(Action::Abandon);
        return plan;
    }
    if let Some(until) = settles_until(pod, gone, observed, now) {
        plan.look_at(until);
        return plan;
    }
    stop_all(pod, end_grace(pod, gone, now), "", observed, now, &mut plan);
    if plan.actions.is_empty() && observed.busy.is_empty() {
        plan.actions.push(Action::CleanUp);
    }
    plan
}

/// The pod ended by itself: stop what still runs beside it, keep what is left
/// for its logs.
fn plan_finished(pod: &Pod, observed: &Observed, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let grace = spec_grace(pod);
    stop_all(pod, grace, "", observed, now, &mut plan);
    if plan.actions.is_empty() && observed.busy.is_empty() && observed.sandbox.is_some() {
        plan.actions.push(Action::ReleaseSandbox);
    }
    plan
}

/// Stops the pod's containers, sidecars after the others and in the reverse of
/// their order, so that the others can use them to the end.
fn stop_all(
    pod: &Pod,
    grace: Duration,
    message: &str,
    observed: &Observed,
    now: Timestamp,
    plan: &mut Plan,
) {
    let sidecars: Vec<_> = spec(pod)
        .init_containers
        .iter()
        .flatten()
        .filter(|container| is_sidecar(container))
        .map(|container| container.name.as_str())
        .collect();
    let stop = |name: &str, attempt: &Attempt| Action::Stop {
        container: name.to_owned(),
        id: attempt.id().to_owned(),
        grace,
        message: message.to_owned(),
    };
    // A stop under way is left alone unless it would take longer than it may
    // now, as when a deletion is made urgent.
    let due = SignedDuration::try_from(grace)
        .ok()
        .and_then(|grace| now.checked_add(grace).ok())
        .unwrap_or(now);
    let open = |name: &str| match observed.busy.get(name) {
        None => true,
        Some(Work::Stopping(until)) => *until > due + SignedDuration::from_secs(1),
        Some(Work::Starting | Work::Clearing) => false,
    };
    let (side, main): (Vec<_>, Vec<_>) =
        observed.running().partition(|(name, _)| sidecars.contains(name));
    if !main.is_empty() {
        plan.actions.extend(
            main.iter().filter(|(name, _)| open(name)).map(|(name, attempt)| stop(name, attempt)),
        );
        return;
    }
    let last =
        sidecars.iter().rev().find_map(|wanted| side.iter().find(|(name, _)| name == wanted));
    if let Some((name, attempt)) = last
        && open(name)
    {
        plan.actions.push(stop(name, attempt));
    }
}

/// Until when a deleted pod is left running because it may still get requests;
/// `None` when it need not or the time is over.
fn settles_until(pod: &Pod, gone: bool, observed: &Observed, now: Timestamp) -> Option<Timestamp> {
    let until = observed.ending_since? + SETTLE;
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let was_ready = conditions
        .is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"));
    let runs = observed.running().next().is_some();
    let urgent = gone || end_grace(pod, gone, now).is_zero();
    (was_ready && runs && !urgent && now < until).then_some(until)
}

/// The time left until the deletion's deadline.
fn end_grace(pod: &Pod, gone: bool, now: Timestamp) -> Duration {
    match (&pod.metadata.deletion_timestamp, pod.metadata.deletion_grace_period_seconds) {
        (_, Some(0)) => Duration::ZERO,
        (Some(at), _) => {
            Duration::try_from(at.0.duration_since(now)).unwrap_or_default().max(GONE_GRACE)
        }
        (None, _) if gone => GONE_GRACE,
        (None, _) => spec_grace(pod),
    }
}

/// The grace period of the pod's spec.
pub fn spec_grace(pod: &Pod) -> Duration {
    let seconds = spec(pod).termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE_SECONDS);
    Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}

fn plan_run(pod: &Pod, observed: &Observed, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    if observed.busy.contains_key(labels::SANDBOX) {
        return plan;
    }
    let network_ready = !observed.ips.is_empty() || spec(pod).host_network == Some(true);
    match &observed.sandbox {
        Some(sandbox) if sandbox.is_running() && network_ready => {}
        Some(sandbox) if sandbox.is_running() => {
            // Its network could not be made, or is not known yet.
            plan.set_up(sandbox.number, observed, now);
            return plan;
        }
        Some(sandbox) => {
            // What still runs in the lost sandbox has no network to come back
            // to; it starts again in the new one.
            let message = "Pod sandbox changed, it will be killed and re-created.";
            stop_all(pod, spec_grace(pod), message, observed, now, &mut plan);
            if plan.actions.is_empty() && observed.busy.is_empty() {
                plan.set_up(sandbox.number + 1, observed, now);
            }
            return plan;
        }
        None => {
            let used =
                observed.containers.values().flatten().map(|attempt| attempt.sandbox + 1).max();
            plan.set_up(used.unwrap_or(0), observed, now);
            return plan;
        }
    }
    if plan_init(pod, observed, now, &mut plan) {
        for container in &spec(pod).containers {
            plan.container(container, RestartPolicy::of(pod), spec_grace(pod), observed, now);
        }
    }
    plan.remove_old(observed);
    plan
}

/// Plans the init containers. True when the others may start.
fn plan_init(pod: &Pod, observed: &Observed, now: Timestamp, plan: &mut Plan) -> bool {
    let spec = spec(pod);
    let policy = RestartPolicy::of(pod);
    // Once a main container ran in this sandbox, initialization is over; only
    // sidecars are still looked after.
    let initialized =
        spec.containers.iter().any(|container| observed.current(&container.name).is_some());
    for container in spec.init_containers.iter().flatten() {
        if is_sidecar(container) {
            plan.container(container, RestartPolicy::Always, spec_grace(pod), observed, now);
            let started = observed
                .current(&container.name)
                .is_some_and(|attempt| observed.is_started(attempt));
            if !started && !initialized {
                return false;
            }
            continue;
        }
        if initialized {
            continue;
        }
        let done = observed.current(&container.name).and_then(Attempt::exit_code) == Some(0);
        if !done {
            // An init container that succeeded is never run again, so its own
            // policy is to restart on failure unless the pod says never.
            let policy =
                if policy == RestartPolicy::Never { policy } else { RestartPolicy::OnFailure };
            plan.container(container, policy, spec_grace(pod), observed, now);
            return false;
        }
    }
    true
}

impl Plan {
    fn look_at(&mut self, at: Timestamp) {
        self.deadline = Some(self.deadline.map_or(at, |known| known.min(at)));
    }

    fn set_up(&mut self, attempt: u32, observed: &Observed, now: Timestamp) {
        match &observed.setup_failure {
            Some(failure) if failure.retry_at() > now => self.look_at(failure.retry_at()),
            _ => self.actions.push(Action::SetUp { attempt }),
        }
    }

    /// Plans one container whose turn it is.
    fn container(
        &mut self,
        container: &Container,
        policy: RestartPolicy,
        grace: Duration,
        observed: &Observed,
        now: Timestamp,
    ) {
        let name = &container.name;
        if observed.busy.contains_key(name) {
            return;
        }
        let Some(latest) = observed.latest(name) else {
            self.start(container, None, observed, now);
            return;
        };
        match &latest.container.state {
            State::Running { .. } => self.check(container, latest, grace, observed),
            // Left behind by a start that was interrupted.
            State::Created => {
                self.actions.push(Action::Remove { ids: vec![latest.id().to_owned()] });
            }
            State::Exited { exit_code, .. } => {
                let moved = observed.current(name).is_none();
                if wants_restart(container, latest, *exit_code, policy)
                    || (moved && policy != RestartPolicy::Never)
                {
                    self.start(container, Some(latest), observed, now);
                }
            }
        }
    }

    fn start(
        &mut self,
        container: &Container,
        last: Option<&Attempt>,
        observed: &Observed,
        now: Timestamp,
    ) {
        if let Some(failure) = observed.failures.get(&container.name)
            && failure.retry_at() > now
        {
            // The status changes from "failed" to "waiting" in between.
            let shown_until = failure.at + PULL_ERROR_SHOWN;
            self.look_at(if is_pull(failure) && shown_until > now {
                shown_until
            } else {
                failure.retry_at()
            });
            return;
        }
        // A container of a lost sandbox did not crash by itself.
        let crashed = last.filter(|_| observed.current(&container.name).is_some());
        if let Some(due) = crashed.and_then(Attempt::restart_at).filter(|due| *due > now) {
            self.look_at(due);
            return;
        }
        self.actions.push(Action::Start {
            container: container.name.clone(),
            attempt: last.map_or(0, |last| last.number + 1),
            crashes: crashed.map_or(0, Attempt::crashes_of_next),
        });
    }

    /// A running container is stopped when a probe condemned it or when its
    /// spec has changed.
    fn check(
        &mut self,
        container: &Container,
        attempt: &Attempt,
        grace: Duration,
        observed: &Observed,
    ) {
        let condemned =
            observed.health.get(attempt.id()).and_then(|health| health.condemned.as_ref());
        let (message, grace) = if let Some(condemned) = condemned {
            let own = condemned.grace_seconds.and_then(|seconds| u64::try_from(seconds).ok());
            (condemned.message.clone(), own.map_or(grace, Duration::from_secs))
        } else if attempt.container.label(labels::SPEC_HASH) != spec_hash(container) {
            (format!("Container {} definition changed, will be restarted", container.name), grace)
        } else {
            return;
        };
        let (container, id) = (container.name.clone(), attempt.id().to_owned());
        self.actions.push(Action::Stop { container, id, grace, message });
    }

    /// The newest container and the one before it are kept, for their logs.
    fn remove_old(&mut self, observed: &Observed) {
        let old = observed
            .containers
            .iter()
            .filter(|(name, _)| !observed.busy.contains_key(*name))
            .flat_map(|(_, attempts)| attempts.iter().rev().skip(2))
            .filter(|attempt| !attempt.is_running())
            .map(|attempt| attempt.id().to_owned());
        let ids: Vec<_> = old.collect();
        if !ids.is_empty() {
            self.actions.push(Action::Remove { ids });
        }
    }
}

/// Whether a pull failed, as opposed to a create or start.
pub fn is_pull(failure: &Failure) -> bool {
    failure.reason == "ErrImagePull"
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
