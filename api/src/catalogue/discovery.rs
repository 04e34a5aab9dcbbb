//! Endpoint slices: which pods stand behind a service.

use k8s_openapi::api::discovery::v1 as k;

use super::{Resource, Rules, Typed};
use crate::{defaults, table, validation};

/// What the entries of this file have in common.
const DISCOVERY: Resource = Resource {
    group: "discovery.k8s.io",
    version: "v1",
    behaviour: &Typed::<k::EndpointSlice>::PLAIN,
    ..Resource::BASE
};

pub(super) const ENTRIES: &[Resource] = &[Resource {
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    behaviour: &Typed::<k::EndpointSlice> {
        default: Some(defaults::endpoint_slice),
        validate: Some(validation::endpoint_slice_create),
        validate_update: Some(validation::endpoint_slice_update),
        rules: Rules::GENERATION,
        printer: &table::ENDPOINT_SLICE,
        ..Typed::PLAIN
    },
    ..DISCOVERY
}];
