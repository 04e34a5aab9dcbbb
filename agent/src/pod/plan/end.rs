//! How a pod ends: what is stopped, in which order and in what time, and what
//! is removed. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::super::model::{Attempt, Disruption, EVICTION_GRACE, Observed, Work, is_sidecar, spec};
use super::{Action, Outcome, Plan};

/// Grace period of a pod whose object vanished without one.
const GONE_GRACE: Duration = Duration::from_secs(1);
/// Grace period where the spec has none.
const DEFAULT_GRACE_SECONDS: i64 = 30;

/// How long a ready pod that Services lead to goes on serving after its deletion
/// was asked for. Its address has to disappear from every node's rules first: a
/// server that exits at its signal would else refuse connections still sent to
/// it. Long enough for a change to pass through EndpointSlice, watch and ruleset on a
/// busy machine, short beside any grace period.
pub const SETTLE: SignedDuration = SignedDuration::from_millis(500);

/// The pod has to go: stop, clean up, delete, each when the one before is done.
pub(super) fn plan_end(pod: &Pod, gone: bool, observed: &Observed, now: Timestamp) -> Plan {
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
    let grace = end_grace(pod, gone, observed, now);
    let grace = shutdown_grace(observed, now).map_or(grace, |left| left.min(grace));
    stop_all(pod, grace, "", observed, now, &mut plan);
    if plan.actions.is_empty() && observed.busy.is_empty() {
        plan.actions.push(Action::CleanUp);
    }
    plan
}

/// The pod has ended but its object stays: stop what still runs, keep what is
/// left for its logs. An evicted pod keeps nothing, for its place is wanted;
/// but its last status has to be with the API before that goes.
pub(super) fn plan_finished(
    pod: &Pod,
    outcome: Outcome,
    observed: &Observed,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    let evicted = outcome == Outcome::Evicted;
    let disrupted = evicted || outcome == Outcome::Terminated;
    if disrupted && observed.busy.values().any(|work| *work == Work::Starting) {
        plan.actions.push(Action::Abandon);
        return plan;
    }
    let limit = match &observed.disruption {
        Some(Disruption::Evicted { grace, .. }) => Some(*grace),
        // It has the time that it asks for, as upstream's.
        Some(Disruption::Preempted) => None,
        _ if evicted => Some(EVICTION_GRACE),
        _ => shutdown_grace(observed, now),
    };
    let grace = limit.map_or(spec_grace(pod), |limit| limit.min(spec_grace(pod)));
    stop_all(pod, grace, "", observed, now, &mut plan);
    if !plan.actions.is_empty() || !observed.busy.is_empty() || observed.cleaned {
        return plan;
    }
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if evicted && phase == Some("Failed") {
        plan.actions.push(Action::CleanUp);
    } else if observed.sandbox.is_some() {
        plan.actions.push(Action::ReleaseSandbox);
    }
    plan
}

/// Stops the pod's containers, sidecars after the others and in the reverse of
/// their order, so that the others can use them to the end.
pub(super) fn stop_all(
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
        Some(Work::Starting | Work::Resizing | Work::Clearing) => false,
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
    let urgent = gone || end_grace(pod, gone, observed, now).is_zero();
    (was_ready && runs && observed.served && !urgent && now < until).then_some(until)
}

/// What is left of the time that the deletion gives. It runs from when it was
/// seen here: the deadline in the object is by the API server's clock, and a node
/// whose own is an hour ahead would give its pods no time at all.
fn end_grace(pod: &Pod, gone: bool, observed: &Observed, now: Timestamp) -> Duration {
    let grace = match pod.metadata.deletion_grace_period_seconds {
        Some(0) => return Duration::ZERO,
        Some(seconds) => Duration::from_secs(u64::try_from(seconds).unwrap_or_default()),
        None if gone => return GONE_GRACE,
        None => return spec_grace(pod),
    };
    let since = observed.ending_since.map(|since| now.duration_since(since));
    let gone_by = since.and_then(|since| Duration::try_from(since).ok()).unwrap_or_default();
    grace.saturating_sub(gone_by).max(GONE_GRACE)
}

/// What is left of the pod's turn while the machine shuts down; `None` while it
/// does not.
fn shutdown_grace(observed: &Observed, now: Timestamp) -> Option<Duration> {
    let Some(Disruption::Shutdown { until: Some(until) }) = observed.disruption else {
        return None;
    };
    Some(Duration::try_from(until.duration_since(now)).unwrap_or_default().max(GONE_GRACE))
}

/// The grace period of the pod's spec.
pub fn spec_grace(pod: &Pod) -> Duration {
    let seconds = spec(pod).termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE_SECONDS);
    Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}
