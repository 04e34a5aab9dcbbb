//! What a pod's worker reports: its status when it changed, and the events
//! that come with a change.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};

use super::model::{DEADLINE_EXCEEDED, Work, spec};
use super::worker::{Done, Worker};
use super::{api, resize, status};
use crate::events::Severity;
use crate::revision::{Revision, revision_of};
use crate::runtime::labels;

/// How long after a deletion the API may wait to be told that the node has heard
/// of it. What comes of it is mostly there sooner, and tells that too.
const HEARD: SignedDuration = SignedDuration::from_secs(5);

/// A status that the API took from us.
pub(super) struct Reported {
    pub(super) status: PodStatus,
    /// The pod's revision with it, where the API told.
    pub(super) revision: Option<Revision>,
}

impl Reported {
    /// Whether somebody wrote something else after us, as the controllers do
    /// for the pods of a node that was silent.
    fn is_overruled_by(&self, pod: &Pod) -> bool {
        let newer = match (revision_of(&pod.metadata), self.revision) {
            (Some(theirs), Some(ours)) => theirs > ours,
            _ => false,
        };
        newer && said(&self.status) != pod.status.as_ref().map(said).unwrap_or_default()
    }
}

/// What others could say differently: the phase and our conditions.
fn said(status: &PodStatus) -> BTreeSet<(&str, &str)> {
    let conditions = status.conditions.iter().flatten().filter(|condition| is_ours(condition));
    conditions
        .map(|condition| (condition.type_.as_str(), condition.status.as_str()))
        .chain(status.phase.as_deref().map(|phase| ("phase", phase)))
        .collect()
}

impl Worker {
    /// Writes the status if it changed.
    pub(super) fn report(&mut self, now: Timestamp) {
        self.report_held = None;
        if self.gone || self.reporting || self.deleted || self.report_retry.waits(now) {
            return;
        }
        // What is left while everything is removed tells nothing any more.
        if self.observed.cleaned || self.observed.busy.get(labels::SANDBOX) == Some(&Work::Clearing)
        {
            return;
        }
        let Some(shown) = self.shown() else { return };
        let base = self.base(&shown);
        // After a restart the address is known only once the sandbox has been
        // looked at; until then what the API has is not worse.
        let unknown = self.observed.live_sandbox().is_some() && self.observed.ips.is_empty();
        let told = base.status.as_ref().is_some_and(|status| status.pod_ip.is_some());
        if unknown && told && self.reported.is_none() && spec(&self.pod).host_network != Some(true)
        {
            return;
        }
        let given = self.observed.resize_pending.as_ref().and(base.status.as_ref());
        let base = match given {
            Some(given) => resize::as_given(&base, given),
            None => base,
        };
        let computed = status::compute(&base, &self.observed, &self.ctx.node_ips, now);
        if base.status.as_ref().is_some_and(|known| same(known, &computed)) {
            return;
        }
        let ending_since = self.observed.ending_since;
        self.report_held = held_until(base.status.as_ref(), &computed, ending_since, now);
        if self.report_held.is_some() {
            return;
        }
        if let Some((severity, reason, message)) = resize_event(base.status.as_ref(), &computed) {
            self.ctx.recorder.pod(&self.pod, None, severity, reason, message);
        }
        if let Some(message) = deadline_event(base.status.as_ref(), &computed) {
            self.ctx.recorder.pod(&self.pod, None, Severity::Normal, DEADLINE_EXCEEDED, message);
        }
        for (container, severity, message) in new_back_offs(base.status.as_ref(), &computed) {
            self.ctx.recorder.pod(&self.pod, Some(&container), severity, "BackOff", message);
        }
        self.reporting = true;
        let (ctx, pod) = (self.ctx.clone(), base);
        self.jobs.spawn(async move {
            let result = api::write_status(&ctx, &pod, &computed).await;
            Done::Reported(Box::new(computed), result)
        });
    }

    /// The pod with the newest status that we know: our own part as last
    /// written, the part of others as the API has it. The watch may be behind.
    fn base(&self, shown: &Pod) -> Pod {
        let mut base = shown.clone();
        let reported = self.reported.as_ref().filter(|own| !own.is_overruled_by(shown));
        let Some(Reported { status: reported, .. }) = reported else { return base };
        let theirs = base.status.take().unwrap_or_default();
        let mut conditions = reported.conditions.clone().unwrap_or_default();
        let others = theirs.conditions.iter().flatten().filter(|condition| !is_ours(condition));
        conditions.extend(others.cloned());
        base.status = Some(PodStatus {
            conditions: Some(conditions),
            nominated_node_name: theirs.nominated_node_name,
            // An eviction's verdict comes through the API.
            phase: if matches!(theirs.phase.as_deref(), Some("Succeeded" | "Failed")) {
                theirs.phase
            } else {
                reported.phase.clone()
            },
            reason: theirs.reason.or_else(|| reported.reason.clone()),
            message: theirs.message.or_else(|| reported.message.clone()),
            ..reported.clone()
        });
        base
    }
}

/// The conditions that the agent writes.
pub(super) fn is_ours(condition: &PodCondition) -> bool {
    matches!(
        condition.type_.as_str(),
        "PodReadyToStartContainers"
            | "Initialized"
            | "Ready"
            | "ContainersReady"
            | "PodScheduled"
            | status::RESIZE_PENDING
            | status::RESIZE_IN_PROGRESS
    )
}

/// What changed about a resize, for an event.
fn resize_event(
    known: Option<&PodStatus>,
    computed: &PodStatus,
) -> Option<(Severity, &'static str, String)> {
    let find = |status: Option<&PodStatus>, kind: &str| {
        let all = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
        all.into_iter().find(|condition| condition.type_ == kind).cloned()
    };
    let said = |kind: &str| {
        let (old, new) = (find(known, kind), find(Some(computed), kind));
        let words = |found: &Option<PodCondition>| {
            found.as_ref().map(|found| (found.reason.clone(), found.message.clone()))
        };
        (words(&old), words(&new))
    };
    if let (old, Some(new)) = said(status::RESIZE_PENDING)
        && old.as_ref() != Some(&new)
    {
        let (reason, message) = (new.0.unwrap_or_default(), new.1.unwrap_or_default());
        let event = if reason == "Deferred" { "ResizeDeferred" } else { "ResizeInfeasible" };
        return Some((Severity::Warning, event, format!("Pod resize {reason}: {message}")));
    }
    match said(status::RESIZE_IN_PROGRESS) {
        (old, Some((Some(_), message))) if old != Some((Some("Error".into()), message.clone())) => {
            Some((Severity::Warning, "ResizeError", message.unwrap_or_default()))
        }
        (None, Some((None, _))) => {
            Some((Severity::Normal, "ResizeStarted", "Pod resize started".into()))
        }
        (Some(_), None) if find(Some(computed), status::RESIZE_PENDING).is_none() => {
            Some((Severity::Normal, "ResizeCompleted", "Pod resize completed".into()))
        }
        _ => None,
    }
}

/// What to say of a pod that has just been found to be too old.
fn deadline_event<'a>(known: Option<&PodStatus>, computed: &'a PodStatus) -> Option<&'a str> {
    let is_over = |status: &PodStatus| status.reason.as_deref() == Some(DEADLINE_EXCEEDED);
    let news = is_over(computed) && !known.is_some_and(is_over);
    news.then(|| computed.message.as_deref().unwrap_or_default())
}

/// Whether two statuses say the same in the parts that are ours.
fn same(known: &PodStatus, computed: &PodStatus) -> bool {
    let ours = |status: &PodStatus| {
        let conditions = status.conditions.iter().flatten().filter(|condition| is_ours(condition));
        let mut conditions: Vec<_> = conditions.cloned().collect();
        conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        PodStatus { conditions: Some(conditions), ..status.clone() }
    };
    ours(known) == ours(computed)
}

/// Until when a status is kept back, if it says no more than that the deletion
/// has been heard of.
fn held_until(
    known: Option<&PodStatus>,
    computed: &PodStatus,
    ending_since: Option<Timestamp>,
    now: Timestamp,
) -> Option<Timestamp> {
    let until = ending_since? + HEARD;
    (now < until && is_only_heard(known?, computed)).then_some(until)
}

/// Whether there is no more news than that the pod's spec has been read.
fn is_only_heard(known: &PodStatus, computed: &PodStatus) -> bool {
    let mut heard = computed.clone();
    heard.observed_generation = known.observed_generation;
    let before = |kind: &str| {
        let all = known.conditions.as_ref().into_iter().flatten();
        all.into_iter().find(|condition| condition.type_ == kind)
    };
    for condition in heard.conditions.iter_mut().flatten() {
        let before = before(&condition.type_);
        condition.observed_generation = before.and_then(|before| before.observed_generation);
    }
    same(known, &heard)
}

/// The containers that begin to wait for a restart, which is a warning, or for a
/// pull, whose failure has been told as one.
fn new_back_offs(
    known: Option<&PodStatus>,
    computed: &PodStatus,
) -> Vec<(String, Severity, String)> {
    let waiting = |status: &PodStatus| -> BTreeMap<String, (String, String)> {
        let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
        all.filter_map(|container| {
            let waiting = container.state.as_ref()?.waiting.as_ref()?;
            let reason = waiting.reason.clone()?;
            let key = format!("{reason}/{}", container.restart_count);
            let message = waiting.message.clone().unwrap_or_default();
            matches!(reason.as_str(), "CrashLoopBackOff" | "ImagePullBackOff")
                .then(|| (container.name.clone(), (key, message)))
        })
        .collect()
    };
    let before = known.map(waiting).unwrap_or_default();
    let now = waiting(computed);
    let fresh = now
        .into_iter()
        .filter(|(name, (key, _))| before.get(name).is_none_or(|(known, _)| known != key));
    fresh
        .map(|(name, (key, message))| {
            if key.starts_with("CrashLoopBackOff") {
                // The wait grows; without it the events count up as one.
                let rest =
                    message.split_once(" restarting ").map_or(message.as_str(), |(_, rest)| rest);
                (name, Severity::Warning, format!("Back-off restarting {rest}"))
            } else {
                let message = message.split(": ").next().unwrap_or_default();
                (name, Severity::Normal, message.to_owned())
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::pod;
    use super::*;

    #[test]
    fn that_a_deletion_was_heard_of_is_told_with_what_comes_of_it_or_soon() {
        let status = |generation: i64, ready: &str| -> PodStatus {
            serde_json::from_value(json!({"phase": "Running", "observedGeneration": generation,
                "conditions": [{"type": "Ready", "status": ready, "observedGeneration": generation},
                    {"type": "example.com/gate", "status": "True"}]}))
            .unwrap()
        };
        let (since, known) = (Timestamp::UNIX_EPOCH, status(1, "True"));
        let held = |new: &PodStatus, since, now| held_until(Some(&known), new, since, now);
        let heard = status(2, "True");
        assert_eq!(held(&heard, Some(since), since), Some(since + HEARD));
        assert_eq!(held(&heard, Some(since), since + HEARD), None, "it has waited long enough");
        assert_eq!(held(&heard, None, since), None, "the pod is not deleted");
        assert_eq!(held(&status(2, "False"), Some(since), since), None, "there is more to tell");
        assert_eq!(held_until(None, &heard, Some(since), since), None, "nothing was told before");
    }

    #[test]
    fn only_a_later_contradiction_overrules() {
        let status = |phase: &str, ready: &str| -> PodStatus {
            serde_json::from_value(json!({"phase": phase, "conditions": [
                {"type": "Ready", "status": ready}, {"type": "example.com/gate", "status": ready}]}))
            .unwrap()
        };
        let ours = Reported { status: status("Running", "True"), revision: Some(Revision(7)) };
        let cases = [
            ("our own write", "7", status("Running", "True"), false),
            ("a watch that is behind", "6", status("Pending", "False"), false),
            ("a later write of something else", "9", status("Running", "True"), false),
            ("the node was silent", "9", status("Running", "False"), true),
            ("failed by a controller", "9", status("Failed", "True"), true),
            ("no revision to go by", "", status("Running", "False"), false),
        ];
        for (name, revision, theirs, expected) in cases {
            let mut pod = pod(json!({"containers": []}));
            pod.metadata.resource_version = Some(revision.into());
            pod.status = Some(theirs);
            assert_eq!(ours.is_overruled_by(&pod), expected, "{name}");
        }
    }
}
