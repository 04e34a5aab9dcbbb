//! Workloads that keep pods running.

use k8s_openapi::api::apps::v1 as k;

use super::subresources::{SCALE, SCALE_PATHS, status};
use super::{Resource, Rules, Typed};
use crate::{defaults, table, validation};

/// What the entries of this file have in common.
const APPS: Resource = Resource {
    group: "apps",
    version: "v1",
    behaviour: &Typed::<k::ControllerRevision>::PLAIN,
    ..Resource::BASE
};

pub(super) const ENTRIES: &[Resource] = &[
    Resource {
        kind: "ControllerRevision",
        plural: "controllerrevisions",
        singular: "controllerrevision",
        behaviour: &Typed::<k::ControllerRevision> {
            validate: Some(validation::controller_revision_create),
            validate_update: Some(validation::controller_revision_update),
            printer: &table::CONTROLLER_REVISION,
            ..Typed::PLAIN
        },
        ..APPS
    },
    Resource {
        kind: "DaemonSet",
        plural: "daemonsets",
        singular: "daemonset",
        short_names: &["ds"],
        categories: &["all"],
        subresources: &[status("DaemonSet", "apps", "v1")],
        behaviour: &Typed::<k::DaemonSet> {
            default: Some(defaults::daemon_set),
            validate: Some(validation::daemon_set_create),
            validate_update: Some(validation::daemon_set_update),
            rules: Rules::FULL,
            printer: &table::DAEMON_SET,
            ..Typed::PLAIN
        },
        ..APPS
    },
    Resource {
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        categories: &["all"],
        subresources: &[SCALE, status("Deployment", "apps", "v1")],
        behaviour: &Typed::<k::Deployment> {
            default: Some(defaults::deployment),
            validate: Some(validation::deployment_create),
            validate_update: Some(validation::deployment_update),
            rules: Rules { status_keeps_labels: true, ..Rules::FULL },
            printer: &table::DEPLOYMENT,
            ..Typed::PLAIN
        },
        scale: Some(&SCALE_PATHS),
        ..APPS
    },
    Resource {
        kind: "ReplicaSet",
        plural: "replicasets",
        singular: "replicaset",
        short_names: &["rs"],
        categories: &["all"],
        subresources: &[SCALE, status("ReplicaSet", "apps", "v1")],
        behaviour: &Typed::<k::ReplicaSet> {
            default: Some(defaults::replica_set),
            validate: Some(validation::replica_set_create),
            validate_update: Some(validation::replica_set_update),
            rules: Rules::FULL,
            printer: &table::REPLICA_SET,
            selectable: &["status.replicas"],
            ..Typed::PLAIN
        },
        scale: Some(&SCALE_PATHS),
        ..APPS
    },
    Resource {
        kind: "StatefulSet",
        plural: "statefulsets",
        singular: "statefulset",
        short_names: &["sts"],
        categories: &["all"],
        subresources: &[SCALE, status("StatefulSet", "apps", "v1")],
        behaviour: &Typed::<k::StatefulSet> {
            default: Some(defaults::stateful_set),
            validate: Some(validation::stateful_set_create),
            validate_update: Some(validation::stateful_set_update),
            rules: Rules::FULL,
            printer: &table::STATEFUL_SET,
            ..Typed::PLAIN
        },
        scale: Some(&SCALE_PATHS),
        ..APPS
    },
];
