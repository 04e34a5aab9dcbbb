//! The rules an object has to keep, in upstream's words.
//!
//! Each kind has a `…_create` function over its typed object, and a
//! `…_update` function over the new and the old one; both return every broken
//! rule, not only the first. Objects have been defaulted before. The functions
//! say only what is their kind's own: [`meta::check_create`] and
//! [`meta::check_update`] add what all objects share. Kinds without rules of
//! their own use [`generic_create`] and [`generic_update`].
//!
//! Rules are written with [`Path`] and [`Errors`]; formats of names with the
//! functions of [`names`]. Rules that need other objects (does the service
//! account exist, is the quota used up) are admission and not here.

pub mod cron;
pub mod meta;
pub mod names;
pub mod path;

mod access;
mod admission;
mod autoscaling;
mod batch;
mod certificates;
mod cluster;
mod config;
mod container;
mod count;
mod csi;
mod devices;
mod endpoints;
mod env;
mod events;
mod flowcontrol;
mod networking;
mod pod;
mod pod_spec;
mod policy;
mod probe;
mod registration;
mod resources;
mod scheduling;
mod security;
mod service;
mod storage;
mod volume;
mod workload;

pub use self::access::{
    cluster_role_binding_create, cluster_role_binding_update, cluster_role_create,
    cluster_role_update, lease_create, lease_update, role_binding_create, role_binding_update,
    role_create, role_update,
};
pub use self::admission::{
    mutating_webhook_configuration_create, mutating_webhook_configuration_update,
    validating_admission_policy_binding_create, validating_admission_policy_binding_update,
    validating_admission_policy_create, validating_admission_policy_update,
    validating_webhook_configuration_create, validating_webhook_configuration_update,
};
pub use self::autoscaling::{
    horizontal_pod_autoscaler_create, horizontal_pod_autoscaler_update,
    horizontal_pod_autoscaler_v1_create, horizontal_pod_autoscaler_v1_update, scale,
};
pub use self::batch::{cron_job_create, cron_job_update, job_create, job_update};
pub use self::certificates::{
    certificate_signing_request_create, certificate_signing_request_update,
};
pub use self::cluster::{
    namespace_create, namespace_update, node_create, node_update, service_account_create,
    service_account_update,
};
pub use self::config::{config_map_create, config_map_update, secret_create, secret_update};
pub use self::csi::{
    csi_driver_update, csi_node_create, csi_node_update, csi_storage_capacity_create,
    csi_storage_capacity_update, volume_attachment_create, volume_attachment_update,
    volume_attributes_class_create, volume_attributes_class_update,
};
pub use self::devices::{
    device_class_create, device_class_update, resource_claim_create,
    resource_claim_template_create, resource_claim_template_update, resource_claim_update,
    resource_slice_create, resource_slice_update,
};
pub use self::endpoints::{
    endpoint_slice_create, endpoint_slice_update, endpoints_create, endpoints_update,
};
pub use self::events::{event_create, event_update, event_v1_create, event_v1_update};
pub use self::flowcontrol::{
    flow_schema_create, flow_schema_update, priority_level_configuration_create,
    priority_level_configuration_update,
};
pub use self::meta::{MetaRules, generic_create, generic_update};
pub use self::networking::{
    ingress_class_create, ingress_class_update, ingress_create, ingress_update, ip_address_create,
    ip_address_update, network_policy_create, network_policy_update, service_cidr_create,
    service_cidr_update,
};
pub use self::path::{Errors, Path};
pub use self::pod::{
    binding_create, pod_create, pod_template_create, pod_template_update, pod_update,
};
pub use self::policy::{
    limit_range_create, limit_range_update, pod_disruption_budget_create,
    pod_disruption_budget_update, priority_class_create, priority_class_update,
    resource_quota_create, resource_quota_update, runtime_class_create, runtime_class_update,
};
pub use self::registration::{api_service_create, api_service_update};
pub use self::resources::{ResourceList, qos_class};
pub use self::service::{service_create, service_update};
pub use self::storage::{
    csi_driver_create, persistent_volume_claim_create, persistent_volume_claim_update,
    persistent_volume_create, persistent_volume_update, storage_class_create, storage_class_update,
};
pub use self::workload::{
    controller_revision_create, controller_revision_update, daemon_set_create, daemon_set_update,
    deployment_create, deployment_update, replica_set_create, replica_set_update,
    replication_controller_create, replication_controller_update, stateful_set_create,
    stateful_set_update,
};

#[cfg(test)]
mod tests;
