//! Fairness between clients.

use k8s_openapi::api::flowcontrol::v1 as k;

use super::subresources::status;
use super::{Resource, Rules, Typed};
use crate::{defaults, table, validation};

/// What the entries of this file have in common.
const FLOWCONTROL: Resource = Resource {
    group: "flowcontrol.apiserver.k8s.io",
    version: "v1",
    behaviour: &Typed::<k::FlowSchema>::PLAIN,
    ..Resource::BASE
};

pub(super) const ENTRIES: &[Resource] = &[
    Resource {
        kind: "FlowSchema",
        plural: "flowschemas",
        singular: "flowschema",
        namespaced: false,
        subresources: &[status("FlowSchema", "flowcontrol.apiserver.k8s.io", "v1")],
        behaviour: &Typed::<k::FlowSchema> {
            default: Some(defaults::flow_schema),
            validate: Some(validation::flow_schema_create),
            validate_update: Some(validation::flow_schema_update),
            rules: Rules::FULL,
            printer: &table::FLOW_SCHEMA,
            ..Typed::PLAIN
        },
        ..FLOWCONTROL
    },
    Resource {
        kind: "PriorityLevelConfiguration",
        plural: "prioritylevelconfigurations",
        singular: "prioritylevelconfiguration",
        namespaced: false,
        subresources: &[status("PriorityLevelConfiguration", "flowcontrol.apiserver.k8s.io", "v1")],
        behaviour: &Typed::<k::PriorityLevelConfiguration> {
            default: Some(defaults::priority_level_configuration),
            validate: Some(validation::priority_level_configuration_create),
            validate_update: Some(validation::priority_level_configuration_update),
            rules: Rules::FULL,
            printer: &table::PRIORITY_LEVEL_CONFIGURATION,
            ..Typed::PLAIN
        },
        ..FLOWCONTROL
    },
];
