//! Leases: heartbeats and leader election.

use k8s_openapi::api::coordination::v1 as k;

use super::{Resource, Typed};
use crate::{table, validation};

/// What the entries of this file have in common.
const COORDINATION: Resource = Resource {
    group: "coordination.k8s.io",
    version: "v1",
    behaviour: &Typed::<k::Lease>::PLAIN,
    ..Resource::BASE
};

pub(super) const ENTRIES: &[Resource] = &[Resource {
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    behaviour: &Typed::<k::Lease> {
        validate: Some(validation::lease_create),
        validate_update: Some(validation::lease_update),
        printer: &table::LEASE,
        ..Typed::PLAIN
    },
    ..COORDINATION
}];
