//! Horizontal pod autoscalers, stored as v2 and also shown as v1.

use k8s_openapi::api::autoscaling::{v1, v2};

use super::convert::hpa;
use super::subresources::status;
use super::{Legacy, Resource, Rules, Typed};
use crate::{defaults, table, validation};

/// The shape that is stored.
const V2: Resource = Resource {
    group: "autoscaling",
    version: "v2",
    kind: "HorizontalPodAutoscaler",
    plural: "horizontalpodautoscalers",
    singular: "horizontalpodautoscaler",
    short_names: &["hpa"],
    categories: &["all"],
    subresources: &[status("HorizontalPodAutoscaler", "autoscaling", "v2")],
    behaviour: &Typed::<v2::HorizontalPodAutoscaler> {
        default: Some(defaults::horizontal_pod_autoscaler),
        validate: Some(validation::horizontal_pod_autoscaler_create),
        validate_update: Some(validation::horizontal_pod_autoscaler_update),
        rules: Rules::STATUS,
        printer: &table::HORIZONTAL_POD_AUTOSCALER,
        ..Typed::PLAIN
    },
    ..Resource::BASE
};

const V1_VIEW: Legacy = Legacy {
    current: ("autoscaling", "v2", "horizontalpodautoscalers"),
    own_type: true,
    reshaped: true,
    warning: None,
    to_current: hpa::v1_to_v2,
    from_current: hpa::v2_to_v1,
};

pub(super) const ENTRIES: &[Resource] = &[
    V2,
    Resource {
        version: "v1",
        subresources: &[status("HorizontalPodAutoscaler", "autoscaling", "v1")],
        behaviour: &Typed::<v1::HorizontalPodAutoscaler> { rules: Rules::STATUS, ..Typed::PLAIN },
        legacy: Some(&V1_VIEW),
        ..V2
    },
];
