//! Jobs and CronJobs.

use k8s_openapi::api::batch::v1::{CronJob, Job};
use serde_json::json;

use super::Kind;
use crate::catalogue::Part;
use crate::{defaults, validation};

fn job() -> Kind<Job> {
    Kind {
        minimal: json!({
            "metadata": {"name": "pi", "namespace": "dev", "uid": "u"},
            "spec": {"template": {"spec": {
                "restartPolicy": "Never",
                "containers": [{"name": "c", "image": "perl"}],
            }}},
        }),
        default: |job| {
            defaults::job(job);
            defaults::job_selector(job);
        },
        create: validation::job_create,
        update: Some(validation::job_update),
    }
}

#[test]
fn jobs() {
    job().creates(&[
        ("/spec/parallelism", json!(-1), &["spec.parallelism: Invalid: must be greater than or equal to 0"]),
        ("/spec/template/spec/restartPolicy", json!("Always"), &["spec.template.spec.restartPolicy: Required: valid values: \"OnFailure\", \"Never\""]),
        ("/spec/completionMode", json!("x"), &["spec.completionMode: NotSupported"]),
        ("/spec/backoffLimitPerIndex", json!(1), &["spec.backoffLimitPerIndex: Invalid: requires indexed completion mode"]),
        ("/spec/manualSelector", json!(true), &["spec.selector: Required"]),
        ("/spec/podFailurePolicy", json!({"rules": [{"action": "x"}]}), &["spec.podFailurePolicy.rules[0].action: NotSupported", "spec.podFailurePolicy.rules[0]: Invalid: specifying one of OnExitCodes"]),
        (
            "/spec/podFailurePolicy",
            json!({"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [0, 1, 1], "containerName": "x"}}]}),
            &[
                "spec.podFailurePolicy.rules[0].onExitCodes.values[0]: Invalid: must not be 0 for the In operator",
                "spec.podFailurePolicy.rules[0].onExitCodes.values[2]: Duplicate",
                "spec.podFailurePolicy.rules[0].onExitCodes.containerName: Invalid",
            ],
        ),
    ]);
    job().creates_with(
        &[("/spec/completionMode", json!("Indexed")), ("/spec/parallelism", json!(2))],
        &["spec.completions: Required: when completion mode is Indexed"],
    );
    job().updates_from(
        &[("/spec/completions", json!(1))],
        Part::Main,
        &[
            ("/spec/parallelism", json!(0), &[]),
            ("/spec/suspend", json!(true), &[]),
            ("/spec/completions", json!(5), &["spec.completions: Invalid: field is immutable"]),
            (
                "/spec/template/spec/containers/0/image",
                json!("x"),
                &["spec.template: Invalid: field is immutable"],
            ),
        ],
    );
    job().updates_from(
        &[("/spec/suspend", json!(true))],
        Part::Main,
        &[("/spec/template/spec/nodeSelector", json!({"disk": "ssd"}), &[])],
    );
}

#[test]
fn cron_jobs() {
    let kind = Kind::<CronJob> {
        minimal: json!({
            "metadata": {"name": "pi", "namespace": "dev"},
            "spec": {
                "schedule": "*/5 * * * *",
                "jobTemplate": {"spec": {"template": {"spec": {
                    "restartPolicy": "OnFailure",
                    "containers": [{"name": "c", "image": "perl"}],
                }}}},
            },
        }),
        default: defaults::cron_job,
        create: validation::cron_job_create,
        update: Some(validation::cron_job_update),
    };
    kind.creates(&[
        ("/metadata/name", json!("x".repeat(53)), &["metadata.name: Invalid: must be no more than 52 characters"]),
        ("/spec/schedule", json!(""), &["spec.schedule: Required"]),
        ("/spec/schedule", json!("@daily"), &[]),
        ("/spec/schedule", json!("* * *"), &["spec.schedule: Invalid: expected exactly 5 fields, found 3: [* * *]"]),
        ("/spec/schedule", json!("TZ=UTC 0 0 * * *"), &["spec.schedule: Invalid: cannot use TZ or CRON_TZ in schedule"]),
        ("/spec/timeZone", json!("Local"), &["spec.timeZone: Invalid: timeZone must be an explicit time zone"]),
        ("/spec/timeZone", json!("No/Where"), &["spec.timeZone: Invalid: unknown time zone No/Where"]),
        ("/spec/concurrencyPolicy", json!("x"), &["spec.concurrencyPolicy: NotSupported"]),
        ("/spec/startingDeadlineSeconds", json!(-1), &["spec.startingDeadlineSeconds: Invalid"]),
        (
            "/spec/jobTemplate/spec/template/spec/containers",
            json!([]),
            &["spec.jobTemplate.spec.template.spec.containers: Required"],
        ),
        (
            "/spec/jobTemplate/spec/template/spec/restartPolicy",
            json!(null),
            &["spec.jobTemplate.spec.template.spec.restartPolicy: Required: valid values: \"OnFailure\", \"Never\""],
        ),
    ]);
    kind.updates(
        Part::Main,
        &[
            ("/spec/suspend", json!(true), &[]),
            ("/spec/schedule", json!("x"), &["spec.schedule: Invalid"]),
        ],
    );
}
