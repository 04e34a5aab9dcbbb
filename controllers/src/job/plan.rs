//! What a Job does next. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;

use crate::meta;
use crate::pods;

/// Finalizer that keeps an ended pod until it has been counted.
pub(crate) const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// Annotation and label of a pod: which part of an indexed job it does.
pub(crate) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Delay before a failed pod is made anew, doubled for each further failure.
const RETRY_START: Duration = Duration::from_secs(10);
/// The longest such delay.
const RETRY_LIMIT: Duration = Duration::from_secs(600);

/// What to do next.
#[derive(Debug, PartialEq)]
pub(crate) struct Plan {
    /// The status to write before anything else.
    pub(crate) status: JobStatus,
    /// Pods to let go: they are in the status.
    pub(crate) untrack: Vec<Arc<Pod>>,
    /// Pods that have to go.
    pub(crate) delete: Vec<Arc<Pod>>,
    /// Pods to make, with their index if the job has indexes.
    pub(crate) create: Vec<Option<i32>>,
    /// When to look again if nothing changes.
    pub(crate) next: Option<Duration>,
}

/// Compares the job with the pods it owns.
pub(crate) fn plan(job: &Job, observed: &[Arc<Pod>], now: Timestamp) -> Plan {
    let spec = job.spec.clone().unwrap_or_default();
    let mut status = job.status.clone().unwrap_or_default();
    let finished = is_finished(&status);
    let untrack = count_ended(&spec, &mut status, observed);
    let active: Vec<Arc<Pod>> =
        observed.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
    let mut plan = Plan { status, untrack, delete: Vec::new(), create: Vec::new(), next: None };
    if finished {
        // Pods that outlived the end of the job.
        plan.delete = active;
        if all_counted(&plan.status)
            && let Some(ttl) = spec.ttl_seconds_after_finished
        {
            plan.next = plan
                .status
                .conditions
                .iter()
                .flatten()
                .filter(|condition| ends(condition))
                .find_map(|end| {
                    let at = end.last_transition_time.as_ref()?.0;
                    Some(meta::elapsed(now, meta::later(at, seconds(ttl.into()))))
                });
        }
        return plan;
    }
    let suspended = spec.suspend == Some(true);
    plan_suspension(&mut plan.status, suspended, now);
    let succeeded = plan.status.succeeded.unwrap_or(0) + uncounted(&plan.status).0;
    let failed = plan.status.failed.unwrap_or(0) + uncounted(&plan.status).1;
    let verdict = verdict(&spec, &plan.status, succeeded, failed, active.is_empty(), now);
    match verdict {
        Some((type_, reason, message)) => {
            plan.delete = active;
            // The end is told only when every pod is in the counts.
            if all_counted(&plan.status) {
                finish(&mut plan.status, type_, reason, &message, now);
            }
        }
        None if suspended => plan.delete = active,
        None => plan_pods(&spec, succeeded, failed, observed, active, now, &mut plan),
    }
    let going: BTreeSet<&str> = plan.delete.iter().map(|pod| meta::uid(&pod.metadata)).collect();
    let staying = observed
        .iter()
        .filter(|pod| pods::is_active(pod) && !going.contains(meta::uid(&pod.metadata)));
    let (mut active, mut ready) = (0, 0);
    for pod in staying {
        active += 1;
        ready += i32::from(pods::is_ready(pod));
    }
    let terminating =
        observed.iter().filter(|pod| meta::is_deleting(&pod.metadata) && !pods::is_terminal(pod));
    plan.status.terminating = Some(i32::try_from(terminating.count()).unwrap_or(i32::MAX));
    plan.status.active = (active != 0).then_some(active);
    plan.status.ready = Some(ready);
    if let (Some(limit), Some(start)) = (spec.active_deadline_seconds, &plan.status.start_time) {
        let rest = meta::elapsed(now, meta::later(start.0, seconds(limit)));
        plan.next =
            Some(plan.next.map_or(rest, |known| known.min(rest)).max(Duration::from_secs(1)));
    }
    plan
}

/// Moves ended pods through the books: first into the list of the uncounted,
/// and once that has been written and the pod let go, into the counts. A crash
/// between any two steps neither loses a pod nor counts it twice. Returns the
/// pods to let go.
fn count_ended(spec: &JobSpec, status: &mut JobStatus, observed: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
    let mut books = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let held = |uid: &String| {
        observed.iter().any(|pod| meta::uid(&pod.metadata) == uid && is_tracked(pod))
    };
    let settle = |list: &mut Option<Vec<String>>, count: &mut Option<i32>| {
        let before = list.as_ref().map_or(0, Vec::len);
        list.iter_mut().for_each(|uids| uids.retain(held));
        let counted = before - list.as_ref().map_or(0, Vec::len);
        if counted > 0 {
            *count = Some(count.unwrap_or(0) + i32::try_from(counted).unwrap_or(0));
        }
    };
    settle(&mut books.succeeded, &mut status.succeeded);
    settle(&mut books.failed, &mut status.failed);
    let mut indexes = parse_indexes(status.completed_indexes.as_deref().unwrap_or_default());
    let mut untrack = Vec::new();
    for pod in observed.iter().filter(|pod| is_tracked(pod) && has_ended(pod)) {
        let uid = meta::uid(&pod.metadata).to_owned();
        let succeeded = pods::phase(pod) == "Succeeded";
        let list = if succeeded { &mut books.succeeded } else { &mut books.failed };
        if list.iter().flatten().any(|known| *known == uid) {
            untrack.push(Arc::clone(pod));
            continue;
        }
        match (is_indexed(spec), index_of(pod)) {
            // A second success of the same index counts for nothing.
            (true, Some(index)) if succeeded && !indexes.insert(index) => {
                untrack.push(Arc::clone(pod))
            }
            _ => list.get_or_insert_default().push(uid),
        }
    }
    if is_indexed(spec) {
        status.completed_indexes = Some(format_indexes(&indexes)).filter(|text| !text.is_empty());
    }
    let filled = |list: Option<Vec<String>>| list.filter(|uids| !uids.is_empty());
    status.uncounted_terminated_pods = Some(UncountedTerminatedPods {
        succeeded: filled(books.succeeded),
        failed: filled(books.failed),
    });
    untrack
}

fn is_tracked(pod: &Pod) -> bool {
    meta::has_finalizer(&pod.metadata, TRACKING)
}

/// Whether the pod is done for, be it that nobody ever started it.
fn has_ended(pod: &Pod) -> bool {
    pods::is_terminal(pod) || (meta::is_deleting(&pod.metadata) && pods::node_name(pod).is_empty())
}

fn uncounted(status: &JobStatus) -> (i32, i32) {
    let books = status.uncounted_terminated_pods.as_ref();
    let length =
        |list: Option<&Vec<String>>| list.map_or(0, |uids| i32::try_from(uids.len()).unwrap_or(0));
    (
        length(books.and_then(|books| books.succeeded.as_ref())),
        length(books.and_then(|books| books.failed.as_ref())),
    )
}

fn all_counted(status: &JobStatus) -> bool {
    uncounted(status) == (0, 0)
}

type Verdict = (&'static str, &'static str, String);

/// Whether the job is over, and how.
fn verdict(
    spec: &JobSpec,
    status: &JobStatus,
    succeeded: i32,
    failed: i32,
    idle: bool,
    now: Timestamp,
) -> Option<Verdict> {
    if failed > spec.backoff_limit.unwrap_or(6) {
        let message = "Job has reached the specified backoff limit".to_owned();
        return Some(("Failed", "BackoffLimitExceeded", message));
    }
    let started = status.start_time.as_ref().map(|time| time.0);
    if let (Some(limit), Some(start)) = (spec.active_deadline_seconds, started)
        && meta::elapsed(start, now) >= seconds(limit)
    {
        let message = "Job was active longer than specified deadline".to_owned();
        return Some(("Failed", "DeadlineExceeded", message));
    }
    let complete = match spec.completions {
        Some(completions) => succeeded >= completions,
        // A work queue: done when one pod says so and the others have ended.
        None => succeeded > 0 && idle,
    };
    complete.then(|| {
        ("Complete", "CompletionsReached", "Reached expected number of succeeded pods".to_owned())
    })
}

fn plan_pods(
    spec: &JobSpec,
    succeeded: i32,
    failed: i32,
    observed: &[Arc<Pod>],
    mut active: Vec<Arc<Pod>>,
    now: Timestamp,
    plan: &mut Plan,
) {
    let parallelism = spec.parallelism.unwrap_or(1);
    let wanted = match spec.completions {
        Some(completions) => parallelism.min(completions - succeeded),
        None if succeeded > 0 => i32::try_from(active.len()).unwrap_or(0).min(parallelism),
        None => parallelism,
    };
    let wanted = usize::try_from(wanted).unwrap_or(0);
    // Those that serve least go first.
    active.sort_by_key(|pod| (pods::is_ready(pod), pods::phase(pod) == "Running"));
    plan.delete = active[..active.len().saturating_sub(wanted)].to_vec();
    let missing = wanted.saturating_sub(active.len());
    if missing == 0 {
        return;
    }
    if let Some(wait) = retry_delay(failed, observed, now) {
        plan.next = Some(wait);
        return;
    }
    plan.create = match spec.completions.filter(|_| is_indexed(spec)) {
        None => vec![None; missing],
        Some(completions) => {
            let done = parse_indexes(plan.status.completed_indexes.as_deref().unwrap_or_default());
            let taken: BTreeSet<i32> = active.iter().filter_map(|pod| index_of(pod)).collect();
            let free =
                (0..completions).filter(|index| !done.contains(index) && !taken.contains(index));
            free.take(missing).map(Some).collect()
        }
    };
}

/// How long to wait after the newest failure; `None` when it is over.
fn retry_delay(failed: i32, observed: &[Arc<Pod>], now: Timestamp) -> Option<Duration> {
    let failures = observed.iter().filter(|pod| has_ended(pod) && pods::phase(pod) != "Succeeded");
    let newest = failures.filter_map(|pod| ended_at(pod)).max()?;
    let doublings = u32::try_from(failed - 1).unwrap_or(0).min(16);
    let delay = RETRY_START.saturating_mul(1 << doublings).min(RETRY_LIMIT);
    let rest = meta::elapsed(now, meta::later(newest, delay));
    (!rest.is_zero()).then_some(rest)
}

/// When the last container of the pod ended, or else when it was asked to go.
fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let ends = statuses.filter_map(|container| {
        container.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()
    });
    let deleted = pod.metadata.deletion_timestamp.as_ref();
    ends.max().or(deleted).or(pod.metadata.creation_timestamp.as_ref()).map(|time| time.0)
}

fn plan_suspension(status: &mut JobStatus, suspended: bool, now: Timestamp) {
    if suspended {
        status.start_time = None;
        set_condition(status, "Suspended", "True", "JobSuspended", "Job suspended", now);
    } else {
        if status
            .conditions
            .iter()
            .flatten()
            .any(|known| known.type_ == "Suspended" && known.status == "True")
        {
            set_condition(status, "Suspended", "False", "JobResumed", "Job resumed", now);
        }
        status.start_time.get_or_insert_with(|| meta::time(now));
    }
}

fn finish(status: &mut JobStatus, type_: &str, reason: &str, message: &str, now: Timestamp) {
    if type_ == "Complete" {
        status.completion_time = Some(meta::time(now));
        set_condition(status, "SuccessCriteriaMet", "True", reason, message, now);
    } else {
        set_condition(status, "FailureTarget", "True", reason, message, now);
    }
    set_condition(status, type_, "True", reason, message, now);
}

fn set_condition(
    status: &mut JobStatus,
    type_: &str,
    value: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let conditions = status.conditions.get_or_insert_default();
    if conditions.iter().any(|known| known.type_ == type_ && known.status == value) {
        return;
    }
    conditions.retain(|known| known.type_ != type_);
    conditions.push(JobCondition {
        type_: type_.into(),
        status: value.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(meta::time(now)),
        last_transition_time: Some(meta::time(now)),
    });
}

fn ends(condition: &JobCondition) -> bool {
    matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True"
}

/// Whether the job has come to its end.
pub(crate) fn is_finished(status: &JobStatus) -> bool {
    status.conditions.iter().flatten().any(ends)
}

/// Whether each pod of the job does a part with a number.
pub(crate) fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

fn index_of(pod: &Pod) -> Option<i32> {
    meta::annotation(&pod.metadata, INDEX)?.parse().ok()
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// Reads `0,2-4` as the set of 0, 2, 3 and 4.
fn parse_indexes(text: &str) -> BTreeSet<i32> {
    let ranges = text.split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse::<i32>().ok()?)
    });
    ranges.flatten().collect()
}

fn format_indexes(indexes: &BTreeSet<i32>) -> String {
    let mut ranges: Vec<(i32, i32)> = Vec::new();
    for &index in indexes {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == index => *last = index,
            _ => ranges.push((index, index)),
        }
    }
    let range = |(first, last): &(i32, i32)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    };
    ranges.iter().map(range).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests;
