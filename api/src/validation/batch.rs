//! Job and CronJob.

use k8s_openapi::api::batch::v1::{
    CronJob, CronJobSpec, Job, JobSpec, JobTemplateSpec, PodFailurePolicy, PodFailurePolicyRule,
    SuccessPolicy,
};

use super::meta::{
    MetaRules, check_create, check_update, label_selector, selector_is_empty, selector_matches,
    template_meta,
};
use super::path::{Errors, Path, json, list, or_default, text};
use super::{cron, names, pod_spec};
use crate::catalogue::{FieldError, Part};

const META: MetaRules = MetaRules::namespaced(names::subdomain_name);
const SPEC: Path<'static> = Path::root("spec");

/// A job's name gets a suffix of eleven characters.
const CRON_NAME_MAX: usize = 52;
const INDEXED_MAX_PARALLELISM: i32 = 100_000;

/// Checks a new Job.
pub fn job_create(job: &Job) -> Vec<FieldError> {
    check_create(&job.metadata, META, |errors| {
        let spec = or_default(&job.spec);
        job_spec(errors, &spec, &SPEC);
        selector(errors, &spec);
        if spec.completion_mode.as_deref() == Some("Indexed")
            && let Some(completions) = spec.completions
        {
            // The name of a pod's host is the job's with the index.
            let host = format!("{}-{}", text(&job.metadata.name), (completions - 1).max(0));
            let name = Path::root("metadata.name");
            if host.len() > 63 {
                let detail = format!(
                    "will not able to create pod with invalid DNS label (caused by the Job name): {host}"
                );
                errors.invalid(&name, text(&job.metadata.name), detail);
            }
        }
    })
}

/// Checks an update of a Job: what its pods are counted by stays.
pub fn job_update(new: &Job, old: &Job, part: Part) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        if part == Part::Status {
            let status = or_default(&new.status);
            errors.counts(
                &Path::root("status"),
                &[
                    ("active", status.active),
                    ("succeeded", status.succeeded),
                    ("failed", status.failed),
                    ("ready", status.ready),
                ],
            );
            return;
        }
        let was_suspended = old.spec.as_ref().is_some_and(|spec| spec.suspend == Some(true));
        let started = old.status.as_ref().is_some_and(|status| status.start_time.is_some());
        let (new, old) = (or_default(&new.spec), or_default(&old.spec));
        job_spec(errors, &new, &SPEC);
        // An indexed job may grow or shrink, pods and indexes together.
        let elastic = new.completion_mode.as_deref() == Some("Indexed")
            && new.completions.is_some()
            && old.completions.is_some()
            && new.completions == new.parallelism;
        if !elastic {
            errors.immutable(&SPEC.child("completions"), &new.completions, &old.completions);
        }
        errors.immutable(&SPEC.child("selector"), &new.selector, &old.selector);
        if new.template != old.template
            && !(was_suspended && !started && schedules_alike(&new, &old))
        {
            errors.invalid(&SPEC.child("template"), json(&new.template), super::path::IMMUTABLE);
        }
        errors.immutable(&SPEC.child("completionMode"), &new.completion_mode, &old.completion_mode);
        let path = SPEC.child("podFailurePolicy");
        errors.immutable(&path, &new.pod_failure_policy, &old.pod_failure_policy);
        let path = SPEC.child("backoffLimitPerIndex");
        errors.immutable(&path, &new.backoff_limit_per_index, &old.backoff_limit_per_index);
        errors.immutable(&SPEC.child("managedBy"), &new.managed_by, &old.managed_by);
        errors.immutable(&SPEC.child("successPolicy"), &new.success_policy, &old.success_policy);
    })
}

/// Whether two templates differ only in where their pods go: that may still
/// change while a job waits to be started for the first time.
fn schedules_alike(new: &JobSpec, old: &JobSpec) -> bool {
    let mut rest = new.template.clone();
    if let (Some(rest), Some(old)) = (&mut rest.spec, &old.template.spec) {
        rest.node_selector.clone_from(&old.node_selector);
        rest.affinity.clone_from(&old.affinity);
        rest.tolerations.clone_from(&old.tolerations);
        rest.scheduling_gates.clone_from(&old.scheduling_gates);
        for (new, old) in rest.containers.iter_mut().zip(&old.containers) {
            new.resources.clone_from(&old.resources);
        }
    }
    if let (Some(rest), Some(old)) = (&mut rest.metadata, &old.template.metadata) {
        rest.labels.clone_from(&old.labels);
        rest.annotations.clone_from(&old.annotations);
    }
    rest == old.template
}

/// The selector of a job, which is made for it before it is checked.
fn selector(errors: &mut Errors, spec: &JobSpec) {
    let path = SPEC.child("selector");
    let Some(selector) = &spec.selector else {
        errors.required(&path, "");
        return;
    };
    label_selector(errors, Some(selector), &path);
    let labels = spec.template.metadata.as_ref().map(|meta| or_default(&meta.labels));
    let labels = labels.unwrap_or_default();
    if !selector_is_empty(selector) && !selector_matches(selector, &labels) {
        let path = SPEC.child("template.metadata.labels");
        errors.invalid(&path, json(&*labels), "`selector` does not match template `labels`");
    }
}

fn job_spec(errors: &mut Errors, spec: &JobSpec, path: &Path<'_>) {
    numbers(errors, spec, path);
    let mode = spec.completion_mode.as_deref();
    errors.one_of(&path.child("completionMode"), mode, &["Indexed", "NonIndexed"]);
    errors.one_of(
        &path.child("podReplacementPolicy"),
        spec.pod_replacement_policy.as_deref(),
        &["Failed", "TerminatingOrFailed"],
    );
    if mode == Some("Indexed") {
        indexed(errors, spec, path);
    } else if spec.backoff_limit_per_index.is_some() {
        let detail = "requires indexed completion mode";
        let limit = spec.backoff_limit_per_index;
        errors.invalid(&path.child("backoffLimitPerIndex"), json(&limit), detail);
    }
    if spec.max_failed_indexes.is_some() && spec.backoff_limit_per_index.is_none() {
        let detail = "when maxFailedIndexes is specified";
        errors.required(&path.child("backoffLimitPerIndex"), detail);
    }
    if let Some(controller) = &spec.managed_by {
        let path = path.child("managedBy");
        if controller.len() > 63 {
            errors.too_long(&path, 63);
        }
        errors.invalid_each(&path, controller, names::domain_prefixed(controller));
    }
    let template_path = path.child("template");
    pod_spec::template(errors, &spec.template, &template_path);
    let pod = spec.template.spec.as_ref();
    let policy = pod.map(|pod| text(&pod.restart_policy)).unwrap_or_default();
    if !matches!(policy, "OnFailure" | "Never") {
        let path = template_path.child("spec.restartPolicy");
        errors.required(&path, "valid values: \"OnFailure\", \"Never\"");
    }
    if let Some(failures) = &spec.pod_failure_policy {
        if policy != "Never" {
            let path = template_path.child("spec.restartPolicy");
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.invalid(&path, policy, detail);
        }
        failure_policy(errors, spec, failures, &path.child("podFailurePolicy"));
    }
    if let Some(success) = &spec.success_policy {
        let path = path.child("successPolicy");
        if mode != Some("Indexed") {
            errors.invalid(&path, json(success), "requires indexed completion mode");
        } else {
            success_policy(errors, success, &path);
        }
    }
}

fn numbers(errors: &mut Errors, spec: &JobSpec, path: &Path<'_>) {
    errors.counts(
        path,
        &[
            ("parallelism", spec.parallelism),
            ("completions", spec.completions),
            ("backoffLimit", spec.backoff_limit),
            ("backoffLimitPerIndex", spec.backoff_limit_per_index),
            ("maxFailedIndexes", spec.max_failed_indexes),
            ("ttlSecondsAfterFinished", spec.ttl_seconds_after_finished),
        ],
    );
    let seconds = spec.active_deadline_seconds.unwrap_or_default();
    errors.non_negative(&path.child("activeDeadlineSeconds"), seconds);
}

fn indexed(errors: &mut Errors, spec: &JobSpec, path: &Path<'_>) {
    let Some(completions) = spec.completions else {
        let detail = "when completion mode is Indexed";
        errors.required(&path.child("completions"), detail);
        return;
    };
    let max = INDEXED_MAX_PARALLELISM;
    if spec.parallelism.is_some_and(|parallelism| parallelism > max) {
        let detail = format!("must be less than or equal to {max} when completion mode is Indexed");
        errors.invalid(&path.child("parallelism"), json(&spec.parallelism), detail);
    }
    if let Some(failed) = spec.max_failed_indexes
        && failed > completions
    {
        let detail = "must be less than or equal to completions";
        errors.invalid(&path.child("maxFailedIndexes"), failed, detail);
    }
}

fn failure_policy(errors: &mut Errors, spec: &JobSpec, policy: &PodFailurePolicy, path: &Path<'_>) {
    const MAX_RULES: usize = 20;
    let path = path.child("rules");
    if policy.rules.len() > MAX_RULES {
        errors.too_many(&path, policy.rules.len(), MAX_RULES);
    }
    for (index, rule) in policy.rules.iter().enumerate() {
        failure_rule(errors, spec, rule, &path.index(index));
    }
}

fn failure_rule(errors: &mut Errors, spec: &JobSpec, rule: &PodFailurePolicyRule, path: &Path<'_>) {
    let action = rule.action.as_str();
    let mut actions = vec!["Count", "FailJob", "Ignore"];
    if spec.backoff_limit_per_index.is_some() {
        actions.push("FailIndex");
    }
    errors.required_one_of(&path.child("action"), Some(action), &actions);
    let conditions = list(&rule.on_pod_conditions);
    match (&rule.on_exit_codes, conditions.is_empty()) {
        (Some(_), false) => {
            let detail = "specifying both OnExitCodes and OnPodConditions is not supported";
            errors.invalid(path, json(rule), detail);
        }
        (None, true) => {
            let detail = "specifying one of OnExitCodes and OnPodConditions is required";
            errors.invalid(path, json(rule), detail);
        }
        _ => {}
    }
    if let Some(codes) = &rule.on_exit_codes {
        let path = path.child("onExitCodes");
        errors.required_one_of(&path.child("operator"), Some(&codes.operator), &["In", "NotIn"]);
        let values = path.child("values");
        if codes.values.is_empty() {
            errors.invalid(&values, json(&codes.values), "at least one value is required");
        }
        if codes.values.len() > 255 {
            errors.too_many(&values, codes.values.len(), 255);
        }
        for (index, code) in codes.values.iter().enumerate() {
            if codes.operator == "In" && *code == 0 {
                let detail = "must not be 0 for the In operator";
                errors.invalid(&values.index(index), 0, detail);
            }
            if codes.values[..index].contains(code) {
                errors.duplicate(&values.index(index), *code);
            }
        }
        if let Some(name) = codes.container_name.as_deref() {
            let pod = or_default(&spec.template.spec);
            let init = list(&pod.init_containers);
            if !pod.containers.iter().chain(init).any(|container| container.name == name) {
                let detail =
                    "must be one of the container or initContainer names in the pod template";
                errors.invalid(&path.child("containerName"), name, detail);
            }
        }
    }
    let path = path.child("onPodConditions");
    for (index, pattern) in conditions.iter().enumerate() {
        let path = path.index(index);
        let kind = pattern.type_.as_str();
        errors.invalid_each(&path.child("type"), kind, names::qualified_name(kind));
        let status = pattern.status.as_deref();
        errors.required_one_of(&path.child("status"), status, &["False", "True", "Unknown"]);
    }
}

fn success_policy(errors: &mut Errors, policy: &SuccessPolicy, path: &Path<'_>) {
    const MAX_RULES: usize = 20;
    let path = path.child("rules");
    if policy.rules.is_empty() {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        errors.required(&path, detail);
    }
    if policy.rules.len() > MAX_RULES {
        errors.too_many(&path, policy.rules.len(), MAX_RULES);
    }
    for (index, rule) in policy.rules.iter().enumerate() {
        let path = path.index(index);
        if rule.succeeded_count.is_none() && rule.succeeded_indexes.is_none() {
            let detail = "at least one of succeededCount or succeededIndexes must be specified";
            errors.required(&path, detail);
        }
        if let Some(count) = rule.succeeded_count
            && count <= 0
        {
            errors.invalid(&path.child("succeededCount"), count, "must be greater than 0");
        }
    }
}

/// Checks a new CronJob.
pub fn cron_job_create(job: &CronJob) -> Vec<FieldError> {
    check_create(&job.metadata, META, |errors| {
        let name = text(&job.metadata.name);
        if name.len() > CRON_NAME_MAX {
            let detail = format!("must be no more than {CRON_NAME_MAX} characters");
            errors.invalid(&Path::root("metadata.name"), name, detail);
        }
        cron_job_spec(errors, &or_default(&job.spec));
    })
}

/// Checks an update of a CronJob.
pub fn cron_job_update(new: &CronJob, old: &CronJob, part: Part) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        if part != Part::Status {
            cron_job_spec(errors, &or_default(&new.spec));
        }
    })
}

fn cron_job_spec(errors: &mut Errors, spec: &CronJobSpec) {
    let path = SPEC.child("schedule");
    if spec.schedule.is_empty() {
        errors.required(&path, "");
    } else {
        schedule(errors, spec, &path);
    }
    if let Some(zone) = &spec.time_zone {
        time_zone(errors, zone, &SPEC.child("timeZone"));
    }
    if let Some(seconds) = spec.starting_deadline_seconds {
        errors.non_negative(&SPEC.child("startingDeadlineSeconds"), seconds);
    }
    errors.required_one_of(
        &SPEC.child("concurrencyPolicy"),
        spec.concurrency_policy.as_deref(),
        &["Allow", "Forbid", "Replace"],
    );
    errors.counts(
        &SPEC,
        &[
            ("successfulJobsHistoryLimit", spec.successful_jobs_history_limit),
            ("failedJobsHistoryLimit", spec.failed_jobs_history_limit),
        ],
    );
    job_template(errors, &spec.job_template, &SPEC.child("jobTemplate"));
}

fn job_template(errors: &mut Errors, template: &JobTemplateSpec, path: &Path<'_>) {
    template_meta(errors, template.metadata.as_ref(), &path.child("metadata"));
    let path = path.child("spec");
    let spec = or_default(&template.spec);
    if spec.manual_selector == Some(true) {
        errors.not_supported(&path.child("manualSelector"), true, &["nil", "false"]);
    }
    job_spec(errors, &spec, &path);
}

fn schedule(errors: &mut Errors, spec: &CronJobSpec, path: &Path<'_>) {
    let text = spec.schedule.as_str();
    if let Err(error) = cron::Schedule::parse(text) {
        errors.invalid(path, text, error.to_string());
    }
    if text.contains("TZ=") {
        let detail = if spec.time_zone.is_some() {
            "cannot use both timeZone field and TZ or CRON_TZ in schedule"
        } else {
            "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
        };
        errors.invalid(path, text, detail);
    }
}

fn time_zone(errors: &mut Errors, zone: &str, path: &Path<'_>) {
    if zone.is_empty() {
        errors.invalid(path, zone, "timeZone must be nil or non-empty string");
    } else if zone.eq_ignore_ascii_case("local") {
        let detail = "timeZone must be an explicit time zone as defined in \
                      https://www.iana.org/time-zones";
        errors.invalid(path, zone, detail);
    } else if jiff::tz::TimeZone::get(zone).is_err() {
        errors.invalid(path, zone, format!("unknown time zone {zone}"));
    }
}
