//! Pods whose job is gone, or that belong to no job any more.
//!
//! Nobody will count such a pod, so its finalizer only keeps it from going
//! away. It comes off, unless a living job is about to adopt the pod.
//!
//! A job missing in the cache may be one that has just come, so the server is
//! asked before the books lose a pod for it.

use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;

use super::plan::TRACKING;
use crate::meta;

/// Whether anybody answers for a tracked pod.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Its job will count it, or will adopt it, or it is not ours at all.
    Kept,
    /// The job of this name is gone, or another one has taken its name.
    JobGone(String),
    /// It has no controller, and no job wants it.
    Unwanted,
}

/// Judges a pod by the jobs of its namespace.
pub(super) fn fate(pod: &Pod, jobs: &[Arc<Job>]) -> Fate {
    if !meta::has_finalizer(&pod.metadata, TRACKING) {
        return Fate::Kept;
    }
    match meta::controller_of(&pod.metadata) {
        Some(owner) if owner.kind != "Job" || !owner.api_version.starts_with("batch/") => {
            Fate::Kept
        }
        Some(owner) if jobs.iter().any(|job| meta::uid(&job.metadata) == owner.uid) => Fate::Kept,
        Some(owner) => Fate::JobGone(owner.name.clone()),
        None if jobs.iter().any(|job| adopts(job, pod)) => Fate::Kept,
        None => Fate::Unwanted,
    }
}

/// Whether a claim by this job would take the pod in.
fn adopts(job: &Job, pod: &Pod) -> bool {
    let selector = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    // A selector that cannot be read selects nothing, in the job's pass too.
    let Some(Ok(selector)) = selector.map(meta::selector) else { return false };
    !meta::is_deleting(&job.metadata)
        && !meta::is_deleting(&pod.metadata)
        && meta::selects(&selector, &pod.metadata)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::batch::v1::JobSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

    use super::*;
    use crate::testing;

    fn job(name: &str, app: &str, deleting: bool) -> Arc<Job> {
        let mut metadata = testing::meta(name);
        metadata.deletion_timestamp = deleting.then(|| meta::time(meta::now()));
        let selector = LabelSelector {
            match_labels: testing::labels(&[("app", app)]),
            ..LabelSelector::default()
        };
        let spec = JobSpec { selector: Some(selector), ..JobSpec::default() };
        Arc::new(Job { metadata, spec: Some(spec), ..Job::default() })
    }

    fn pod(owner: Option<(&str, &str)>) -> Pod {
        let mut pod = testing::pod("sum-1");
        pod.metadata.finalizers = Some(vec![TRACKING.into()]);
        pod.metadata.owner_references = owner.map(|(api_version, uid)| {
            let mut owners = testing::controlled_by("Job", uid);
            owners[0].api_version = api_version.into();
            owners
        });
        pod
    }

    #[test]
    fn a_pod_is_kept_while_a_job_answers_for_it() {
        let untracked = testing::pod("sum-1");
        let mut going = pod(None);
        going.metadata.deletion_timestamp = Some(meta::time(meta::now()));
        let owned = || pod(Some(("batch/v1", "uid-sum")));
        let gone = || Fate::JobGone("sum".into());
        let cases = [
            ("untracked", untracked, vec![], Fate::Kept),
            ("its job lives", owned(), vec![job("sum", "web", false)], Fate::Kept),
            ("its job counts to the end", owned(), vec![job("sum", "web", true)], Fate::Kept),
            ("its job is gone", owned(), vec![job("other", "web", false)], gone()),
            ("somebody else's kind", pod(Some(("x.io/v1", "uid-sum"))), vec![], Fate::Kept),
            ("to be adopted", pod(None), vec![job("sum", "web", false)], Fate::Kept),
            ("the adopter is going", pod(None), vec![job("sum", "web", true)], Fate::Unwanted),
            ("another's labels", pod(None), vec![job("sum", "db", false)], Fate::Unwanted),
            ("going itself", going, vec![job("sum", "web", false)], Fate::Unwanted),
            ("left alone", pod(None), vec![], Fate::Unwanted),
        ];
        for (name, pod, jobs, expected) in cases {
            assert_eq!(fate(&pod, &jobs), expected, "{name}");
        }
    }
}
