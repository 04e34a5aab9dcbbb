//! Devices and claims to them.

use k8s_openapi::api::resource::v1 as k;

use super::subresources::status;
use super::{Resource, Rules, Typed};
use crate::{defaults, table, validation};

/// What the entries of this file have in common.
const RESOURCE: Resource = Resource {
    group: "resource.k8s.io",
    version: "v1",
    behaviour: &Typed::<k::DeviceClass>::PLAIN,
    ..Resource::BASE
};

pub(super) const ENTRIES: &[Resource] = &[
    Resource {
        kind: "DeviceClass",
        plural: "deviceclasses",
        singular: "deviceclass",
        namespaced: false,
        behaviour: &Typed::<k::DeviceClass> {
            validate: Some(validation::device_class_create),
            validate_update: Some(validation::device_class_update),
            rules: Rules::GENERATION,
            ..Typed::PLAIN
        },
        ..RESOURCE
    },
    Resource {
        kind: "ResourceClaim",
        plural: "resourceclaims",
        singular: "resourceclaim",
        subresources: &[status("ResourceClaim", "resource.k8s.io", "v1")],
        behaviour: &Typed::<k::ResourceClaim> {
            default: Some(defaults::resource_claim),
            validate: Some(validation::resource_claim_create),
            validate_update: Some(validation::resource_claim_update),
            rules: Rules::STATUS,
            printer: &table::RESOURCE_CLAIM,
            ..Typed::PLAIN
        },
        ..RESOURCE
    },
    Resource {
        kind: "ResourceClaimTemplate",
        plural: "resourceclaimtemplates",
        singular: "resourceclaimtemplate",
        behaviour: &Typed::<k::ResourceClaimTemplate> {
            default: Some(defaults::resource_claim_template),
            validate: Some(validation::resource_claim_template_create),
            validate_update: Some(validation::resource_claim_template_update),
            ..Typed::PLAIN
        },
        ..RESOURCE
    },
    Resource {
        kind: "ResourceSlice",
        plural: "resourceslices",
        singular: "resourceslice",
        namespaced: false,
        behaviour: &Typed::<k::ResourceSlice> {
            validate: Some(validation::resource_slice_create),
            validate_update: Some(validation::resource_slice_update),
            rules: Rules::GENERATION,
            printer: &table::RESOURCE_SLICE,
            selectable: &["spec.driver", "spec.nodeName"],
            ..Typed::PLAIN
        },
        ..RESOURCE
    },
];
