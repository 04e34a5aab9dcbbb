//! What Kubernetes fills in when a field is left out: one function per kind,
//! over its typed object, with one file per group of kinds.
//!
//! Every function is idempotent: it only fills fields that are missing (or
//! hold the empty value that Kubernetes reads as missing), so it runs on
//! creates and on updates alike. What depends on other objects or on the
//! cluster, such as a service's address, is not a default and not here.

mod admission;
mod apps;
mod autoscaling;
mod batch;
mod core;
mod devices;
mod flowcontrol;
mod image;
mod networking;
mod pod;
mod rbac;
mod registration;
mod service;
mod storage;
mod volume;

pub use self::admission::{
    mutating_webhook_configuration, validating_admission_policy,
    validating_admission_policy_binding, validating_webhook_configuration,
};
pub use self::apps::{daemon_set, deployment, replica_set, replication_controller, stateful_set};
pub use self::autoscaling::{horizontal_pod_autoscaler, horizontal_pod_autoscaler_v1};
pub use self::batch::{cron_job, job, job_selector};
pub use self::core::{limit_range, namespace, node, secret};
pub use self::devices::{resource_claim, resource_claim_template};
pub use self::flowcontrol::{flow_schema, priority_level_configuration};
pub use self::networking::{ingress_class, network_policy};
pub use self::pod::{pod, pod_spec, pod_template, pod_template_object};
pub use self::rbac::{cluster_role_binding, role_binding};
pub use self::registration::api_service;
pub use self::service::{endpoint_slice, endpoints, service};
pub use self::storage::{
    csi_driver, persistent_volume, persistent_volume_claim, priority_class, storage_class,
    volume_attachment,
};

/// Fills a missing value.
fn fill<T>(field: &mut Option<T>, value: T) {
    field.get_or_insert(value);
}

/// Fills a missing or empty text.
fn fill_text(field: &mut Option<String>, value: &str) {
    if field.as_deref().is_none_or(str::is_empty) {
        *field = Some(value.to_owned());
    }
}

/// Fills a missing number, or a zero where zero means missing.
fn fill_nonzero(field: &mut Option<i32>, value: i32) {
    if field.is_none_or(|number| number == 0) {
        *field = Some(value);
    }
}
