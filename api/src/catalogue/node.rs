//! Runtime classes.

use k8s_openapi::api::node::v1 as k;

use super::{Resource, Typed};
use crate::{table, validation};

/// What the entries of this file have in common.
const NODE: Resource = Resource {
    group: "node.k8s.io",
    version: "v1",
    behaviour: &Typed::<k::RuntimeClass>::PLAIN,
    ..Resource::BASE
};

pub(super) const ENTRIES: &[Resource] = &[Resource {
    kind: "RuntimeClass",
    plural: "runtimeclasses",
    singular: "runtimeclass",
    namespaced: false,
    behaviour: &Typed::<k::RuntimeClass> {
        validate: Some(validation::runtime_class_create),
        validate_update: Some(validation::runtime_class_update),
        printer: &table::RUNTIME_CLASS,
        ..Typed::PLAIN
    },
    ..NODE
}];
