//! Priority classes.

use k8s_openapi::api::scheduling::v1 as k;

use super::{Resource, Rules, Typed};
use crate::{defaults, table, validation};

/// What the entries of this file have in common.
const SCHEDULING: Resource = Resource {
    group: "scheduling.k8s.io",
    version: "v1",
    behaviour: &Typed::<k::PriorityClass>::PLAIN,
    ..Resource::BASE
};

pub(super) const ENTRIES: &[Resource] = &[Resource {
    kind: "PriorityClass",
    plural: "priorityclasses",
    singular: "priorityclass",
    short_names: &["pc"],
    namespaced: false,
    behaviour: &Typed::<k::PriorityClass> {
        default: Some(defaults::priority_class),
        validate: Some(validation::priority_class_create),
        validate_update: Some(validation::priority_class_update),
        rules: Rules::GENERATION,
        printer: &table::PRIORITY_CLASS,
        ..Typed::PLAIN
    },
    ..SCHEDULING
}];
