//! Disruption budgets. `Eviction` is a subresource of pods.

use k8s_openapi::api::policy::v1 as k;

use super::subresources::status;
use super::{Resource, Rules, Typed};
use crate::{table, validation};

/// What the entries of this file have in common.
const POLICY: Resource = Resource {
    group: "policy",
    version: "v1",
    behaviour: &Typed::<k::PodDisruptionBudget>::PLAIN,
    ..Resource::BASE
};

pub(super) const ENTRIES: &[Resource] = &[Resource {
    kind: "PodDisruptionBudget",
    plural: "poddisruptionbudgets",
    singular: "poddisruptionbudget",
    short_names: &["pdb"],
    subresources: &[status("PodDisruptionBudget", "policy", "v1")],
    behaviour: &Typed::<k::PodDisruptionBudget> {
        validate: Some(validation::pod_disruption_budget_create),
        validate_update: Some(validation::pod_disruption_budget_update),
        rules: Rules::FULL,
        printer: &table::POD_DISRUPTION_BUDGET,
        ..Typed::PLAIN
    },
    ..POLICY
}];
