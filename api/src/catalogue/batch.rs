//! Work that ends.

use k8s_openapi::api::batch::v1 as k;

use super::subresources::status;
use super::{Resource, Rules, Typed};
use crate::{defaults, table, validation};

/// What the entries of this file have in common.
const BATCH: Resource = Resource {
    group: "batch",
    version: "v1",
    behaviour: &Typed::<k::CronJob>::PLAIN,
    ..Resource::BASE
};

pub(super) const ENTRIES: &[Resource] = &[
    Resource {
        kind: "CronJob",
        plural: "cronjobs",
        singular: "cronjob",
        short_names: &["cj"],
        categories: &["all"],
        subresources: &[status("CronJob", "batch", "v1")],
        behaviour: &Typed::<k::CronJob> {
            default: Some(defaults::cron_job),
            validate: Some(validation::cron_job_create),
            validate_update: Some(validation::cron_job_update),
            rules: Rules::FULL,
            printer: &table::CRON_JOB,
            ..Typed::PLAIN
        },
        ..BATCH
    },
    Resource {
        kind: "Job",
        plural: "jobs",
        singular: "job",
        categories: &["all"],
        subresources: &[status("Job", "batch", "v1")],
        behaviour: &Typed::<k::Job> {
            default: Some(defaults::job),
            validate: Some(validation::job_create),
            validate_update: Some(validation::job_update),
            prepare: Some(defaults::job_selector),
            rules: Rules::FULL,
            printer: &table::JOB,
            selectable: &["status.successful"],
            ..Typed::PLAIN
        },
        ..BATCH
    },
];
