//! Job and CronJob.

use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::{fill, fill_text, pod};

/// Fills in a Job.
pub fn job(job: &mut Job) {
    let Some(spec) = &mut job.spec else { return };
    // A job without both runs one pod; one with a parallelism only is a work
    // queue, which ends when any pod succeeds.
    if spec.completions.is_none() && spec.parallelism.is_none() {
        spec.completions = Some(1);
    }
    fill(&mut spec.parallelism, 1);
    let retries = if spec.backoff_limit_per_index.is_some() { i32::MAX } else { 6 };
    fill(&mut spec.backoff_limit, retries);
    fill_text(&mut spec.completion_mode, "NonIndexed");
    fill(&mut spec.suspend, false);
    fill(&mut spec.manual_selector, false);
    let replace = if spec.pod_failure_policy.is_some() { "Failed" } else { "TerminatingOrFailed" };
    fill_text(&mut spec.pod_replacement_policy, replace);
    for rule in spec.pod_failure_policy.iter_mut().flat_map(|policy| &mut policy.rules) {
        for pattern in rule.on_pod_conditions.iter_mut().flatten() {
            fill_text(&mut pattern.status, "True");
        }
    }
    pod::pod_template(&mut spec.template);
    let labels = spec.template.metadata.as_ref().and_then(|meta| meta.labels.clone());
    if job.metadata.labels.as_ref().is_none_or(|labels| labels.is_empty()) && labels.is_some() {
        job.metadata.labels = labels;
    }
}

/// Gives a new Job, whose uid is known, the selector and template labels that
/// tell its pods from those of any other; unless its author chose a selector.
pub fn job_selector(job: &mut Job) {
    let (Some(name), Some(uid)) = (job.metadata.name.clone(), job.metadata.uid.clone()) else {
        return;
    };
    let Some(spec) = job.spec.as_mut().filter(|spec| spec.manual_selector != Some(true)) else {
        return;
    };
    let labels = spec.template.metadata.get_or_insert_default().labels.get_or_insert_default();
    for (key, value) in [
        ("controller-uid", &uid),
        ("batch.kubernetes.io/controller-uid", &uid),
        ("job-name", &name),
        ("batch.kubernetes.io/job-name", &name),
    ] {
        labels.entry(key.to_owned()).or_insert_with(|| value.clone());
    }
    let selector = spec.selector.get_or_insert_with(LabelSelector::default);
    let wanted = selector.match_labels.get_or_insert_default();
    let labels = labels.clone();
    // The spelling of old still serves, as in jobs restored from a backup.
    if !wanted.contains_key("controller-uid") {
        wanted.entry("batch.kubernetes.io/controller-uid".to_owned()).or_insert(uid);
    }
    // As [`job`] does, which ran before these labels were there.
    if job.metadata.labels.as_ref().is_none_or(|labels| labels.is_empty()) {
        job.metadata.labels = Some(labels);
    }
}

/// Fills in a CronJob. Of its job template only the pods are completed: the
/// jobs made from it get their own defaults.
pub fn cron_job(job: &mut CronJob) {
    let Some(spec) = &mut job.spec else { return };
    fill_text(&mut spec.concurrency_policy, "Allow");
    fill(&mut spec.suspend, false);
    fill(&mut spec.successful_jobs_history_limit, 3);
    fill(&mut spec.failed_jobs_history_limit, 1);
    if let Some(job) = &mut spec.job_template.spec {
        pod::pod_template(&mut job.template);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn filled(spec: serde_json::Value) -> Job {
        let object = json!({"metadata": {"name": "j", "uid": "u"}, "spec": spec});
        let mut object: Job = serde_json::from_value(object).unwrap();
        job(&mut object);
        object
    }

    #[test]
    fn completions_follow_parallelism() {
        let template = json!({"spec": {"containers": []}});
        let cases = [
            (json!({"template": template}), (Some(1), Some(1))),
            (json!({"template": template, "parallelism": 3}), (None, Some(3))),
            (json!({"template": template, "completions": 3}), (Some(3), Some(1))),
        ];
        for (spec, expected) in cases {
            let spec = filled(spec).spec.unwrap();
            assert_eq!((spec.completions, spec.parallelism), expected);
            assert_eq!(spec.backoff_limit, Some(6));
        }
    }

    #[test]
    fn a_job_selects_its_own_pods() {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}});
        let mut job = filled(json!({"template": template}));
        job_selector(&mut job);
        assert_eq!(job.metadata.labels.unwrap()["a"], "b");
        let spec = serde_json::to_value(job.spec).unwrap();
        assert_eq!(
            spec["selector"],
            json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}})
        );
        assert_eq!(spec["template"]["metadata"]["labels"]["job-name"], "j");
    }
}
