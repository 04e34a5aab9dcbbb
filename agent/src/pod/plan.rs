//! Decides what to do next for one pod. Pure.
//!
//! A pass looks at the pod and at its containers as they are, and names the
//! steps that can be taken now. Steps under way are in `observed.busy` and are
//! not planned twice; when one ends the worker plans again. What only time
//! brings (a back-off, a deadline) is returned as the next time to look.

mod end;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};

pub use end::{SETTLE, spec_grace};
use end::{plan_end, plan_finished, stop_all};

use super::model::{
    Attempt, DEADLINE_EXCEEDED, Disruption, EVICTED, Failure, Observed, PREEMPTED,
    PULL_ERROR_SHOWN, TERMINATED, as_container, is_sidecar, known_end, spec, waits_until,
};
use super::resize::other_limits;
use super::restart::{ended_for_good, is_once, prepares_again, restarts};
use crate::runtime::{Limits, State, labels};

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
    /// Change the limits of a running container.
    Resize {
        /// Its name.
        container: String,
        /// The runtime's id.
        id: String,
        /// What it may use from now on.
        limits: Limits,
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
    /// This node did not take it.
    Refused,
    /// This node could not keep it.
    Evicted,
    /// Its machine shut down.
    Terminated,
}

/// What to do for `pod`. `gone` says that its object is no longer in the API.
pub fn plan_pod(pod: &Pod, gone: bool, observed: &Observed, now: Timestamp) -> Plan {
    if gone || pod.metadata.deletion_timestamp.is_some() {
        return plan_end(pod, gone, observed, now);
    }
    if let Some(outcome) = outcome(pod, observed, now) {
        return plan_finished(pod, outcome, observed, now);
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
            return Some(match status.and_then(|status| status.reason.as_deref()) {
                Some(DEADLINE_EXCEEDED) => Outcome::DeadlineExceeded,
                Some(EVICTED | PREEMPTED) => Outcome::Evicted,
                Some(TERMINATED) => Outcome::Terminated,
                _ => Outcome::Failed,
            });
        }
        _ => {}
    }
    match &observed.disruption {
        Some(Disruption::Evicted { .. } | Disruption::Preempted) => {
            return Some(Outcome::Evicted);
        }
        Some(Disruption::Shutdown { .. }) => return Some(Outcome::Terminated),
        None => {}
    }
    if observed.refused.is_some() {
        return Some(Outcome::Refused);
    }
    if deadline_of(pod).is_some_and(|due| due <= now) {
        return Some(Outcome::DeadlineExceeded);
    }
    let spec = spec(pod);
    // An init container that failed for good fails the pod.
    for init in spec.init_containers.iter().flatten().filter(|container| !is_sidecar(container)) {
        let code = observed.latest(&init.name).and_then(Attempt::exit_code);
        if code.is_some_and(|code| code != 0 && !restarts(pod, init, code)) {
            return Some(Outcome::Failed);
        }
    }
    let lost_sandbox = observed.sandbox.as_ref().is_some_and(|sandbox| !sandbox.is_running());
    let mut failed = false;
    for container in &spec.containers {
        match observed.latest(&container.name) {
            Some(attempt) => match attempt.exit_code() {
                Some(code) if !wants_restart(pod, container, attempt, code) => failed |= code != 0,
                _ => return None,
            },
            // Somebody removed it afterwards; once is once all the same.
            None if ended_for_good(pod, container) => {
                failed |= known_end(pod, &container.name).is_some_and(|(_, code)| code != 0);
            }
            // With its sandbox gone and no restart allowed it never will run.
            None if lost_sandbox && is_once(pod) && !observed.containers.is_empty() => {
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
fn wants_restart(pod: &Pod, container: &Container, attempt: &Attempt, exit_code: i32) -> bool {
    restarts(pod, container, exit_code) || !attempt.is_made_from(container)
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
    // Somebody wants to look into the pod: whatever state it is in.
    for own in spec(pod).ephemeral_containers.iter().flatten() {
        plan.container(pod, &as_container(own), observed, now);
    }
    if plan_init(pod, observed, now, &mut plan) {
        for container in &spec(pod).containers {
            plan.container(pod, container, observed, now);
        }
    }
    plan.remove_old(observed);
    plan
}

/// Plans the init containers. True when the others may start.
fn plan_init(pod: &Pod, observed: &Observed, now: Timestamp, plan: &mut Plan) -> bool {
    let spec = spec(pod);
    // Once a main container ran in this sandbox, initialization is over; only
    // sidecars are still looked after.
    let initialized =
        spec.containers.iter().any(|container| observed.current(&container.name).is_some());
    for container in spec.init_containers.iter().flatten() {
        if is_sidecar(container) {
            plan.container(pod, container, observed, now);
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
        let latest = observed.latest(&container.name);
        let moved = latest.is_some() && observed.current(&container.name).is_none();
        if moved {
            // What it prepared went with the sandbox.
            if prepares_again(pod, container) && !observed.busy.contains_key(&container.name) {
                plan.start(container, latest, observed, now);
            }
            return false;
        }
        if latest.is_none() && !observed.busy.contains_key(&container.name) {
            // Also one that ran and was removed: what it prepared may have gone
            // with it.
            plan.start(container, None, observed, now);
            return false;
        }
        if latest.and_then(Attempt::exit_code) != Some(0) {
            plan.container(pod, container, observed, now);
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
            Some(failure) if failure.waits_until(now).is_some() => self.wait_after(failure, now),
            _ => self.actions.push(Action::SetUp { attempt }),
        }
    }

    /// Waits for the next try, or for the moment at which the status changes
    /// from "failed" to "waiting" in between.
    fn wait_after(&mut self, failure: &Failure, now: Timestamp) {
        let shown_until = waits_until(failure.at, PULL_ERROR_SHOWN, now);
        let shown_until = shown_until.filter(|_| is_pull(failure));
        if let Some(next) = shown_until.or(failure.waits_until(now)) {
            self.look_at(next);
        }
    }

    /// Plans one container whose turn it is.
    fn container(&mut self, pod: &Pod, container: &Container, observed: &Observed, now: Timestamp) {
        let name = &container.name;
        if observed.busy.contains_key(name) {
            return;
        }
        let Some(latest) = observed.latest(name) else {
            if !ended_for_good(pod, container) {
                self.start(container, None, observed, now);
            }
            return;
        };
        match &latest.container.state {
            State::Running { .. } => self.check(pod, container, latest, observed, now),
            // Left behind by a start that was interrupted.
            State::Created => {
                self.actions.push(Action::Remove { ids: vec![latest.id().to_owned()] });
            }
            State::Exited { exit_code, .. } => {
                if wants_restart(pod, container, latest, *exit_code) {
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
            && failure.waits_until(now).is_some()
        {
            return self.wait_after(failure, now);
        }
        // A container of a lost sandbox did not crash by itself.
        let crashed = last.filter(|_| observed.current(&container.name).is_some());
        if let Some(due) = crashed.and_then(|crashed| crashed.successor_waits_until(container, now))
        {
            self.look_at(due);
            return;
        }
        self.actions.push(Action::Start {
            container: container.name.clone(),
            attempt: last.map_or(0, |last| last.number + 1),
            crashes: crashed.map_or(0, |crashed| crashed.crashes_of_next(container)),
        });
    }

    /// A running container is stopped when a probe condemned it or when its
    /// spec has changed, and gets other limits when it is only those.
    fn check(
        &mut self,
        pod: &Pod,
        container: &Container,
        attempt: &Attempt,
        observed: &Observed,
        now: Timestamp,
    ) {
        let grace = spec_grace(pod);
        let condemned =
            observed.health.get(attempt.id()).and_then(|health| health.condemned.as_ref());
        let (message, grace) = if let Some(condemned) = condemned {
            let own = condemned.grace_seconds.and_then(|seconds| u64::try_from(seconds).ok());
            (condemned.message.clone(), own.map_or(grace, Duration::from_secs))
        } else if !attempt.is_made_from(container) {
            (format!("Container {} definition changed, will be restarted", container.name), grace)
        } else {
            return self.resize(pod, container, attempt, observed, now);
        };
        let (container, id) = (container.name.clone(), attempt.id().to_owned());
        self.actions.push(Action::Stop { container, id, grace, message });
    }

    fn resize(
        &mut self,
        pod: &Pod,
        container: &Container,
        attempt: &Attempt,
        observed: &Observed,
        now: Timestamp,
    ) {
        let Some(limits) = other_limits(spec(pod), container, attempt) else { return };
        let failure = observed.resize_failures.get(&container.name);
        match failure.and_then(|failure| failure.waits_until(now)) {
            Some(due) => self.look_at(due),
            None => {
                let (container, id) = (container.name.clone(), attempt.id().to_owned());
                self.actions.push(Action::Resize { container, id, limits });
            }
        }
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
mod tests;
