//! Volumes, claims and storage classes.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::json;

use super::Kind;
use crate::catalogue::Part;
use crate::{defaults, validation};

#[test]
fn claims() {
    let kind = Kind::<PersistentVolumeClaim> {
        minimal: json!({
            "metadata": {"name": "data", "namespace": "dev"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }),
        default: defaults::persistent_volume_claim,
        create: validation::persistent_volume_claim_create,
        update: Some(validation::persistent_volume_claim_update),
    };
    kind.creates(&[
        ("/spec/accessModes", json!(["x"]), &["spec.accessModes: NotSupported"]),
        (
            "/spec/accessModes",
            json!(["ReadWriteOncePod", "ReadWriteOnce"]),
            &["spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes"],
        ),
        ("/spec/resources", json!({}), &["spec.resources.requests[storage]: Required"]),
        (
            "/spec/resources/requests/storage",
            json!("0"),
            &["spec.resources.requests[storage]: Invalid: must be greater than zero"],
        ),
        ("/spec/volumeMode", json!("x"), &["spec.volumeMode: NotSupported"]),
        ("/spec/storageClassName", json!("A"), &["spec.storageClassName: Invalid"]),
    ]);
    let bound = [("/status", json!({"phase": "Bound"}))];
    kind.updates_from(
        &bound,
        Part::Main,
        &[
            ("/spec/volumeName", json!("pv1"), &[]),
            ("/spec/resources/requests/storage", json!("2Gi"), &[]),
            ("/spec/resources/requests/storage", json!("1Mi"), &["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"]),
            ("/spec/accessModes", json!(["ReadWriteMany"]), &["spec: Forbidden: spec is immutable after creation except resources.requests"]),
        ],
    );
}

#[test]
fn volumes() {
    let kind = Kind::<PersistentVolume> {
        minimal: json!({
            "metadata": {"name": "pv1"},
            "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/data"}},
        }),
        default: defaults::persistent_volume,
        create: validation::persistent_volume_create,
        update: Some(validation::persistent_volume_update),
    };
    kind.creates(&[
        ("/spec/accessModes", json!([]), &["spec.accessModes: Required"]),
        ("/spec/capacity", json!({}), &["spec.capacity: Required"]),
        ("/spec/capacity", json!({"cpu": "1"}), &["spec.capacity: NotSupported"]),
        ("/spec/hostPath", json!(null), &["spec: Required: must specify a volume type"]),
        (
            "/spec/nfs",
            json!({"server": "s", "path": "/x"}),
            &["spec.nfs: Forbidden: may not specify more than 1 volume type"],
        ),
        (
            "/spec/persistentVolumeReclaimPolicy",
            json!("x"),
            &["spec.persistentVolumeReclaimPolicy: NotSupported"],
        ),
    ]);
    kind.creates_with(
        &[("/spec/hostPath", json!(null)), ("/spec/local", json!({"path": ""}))],
        &[
            "spec.local.path: Required",
            "spec.nodeAffinity: Required: Local volume requires node affinity",
        ],
    );
    kind.updates(
        Part::Main,
        &[
            ("/spec/persistentVolumeReclaimPolicy", json!("Delete"), &[]),
            ("/spec/hostPath/path", json!("/other"), &["spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation"]),
        ],
    );
}

#[test]
fn storage_classes() {
    let kind = Kind::<StorageClass> {
        minimal: json!({"metadata": {"name": "fast"}, "provisioner": "skiff.dev/local"}),
        default: defaults::storage_class,
        create: validation::storage_class_create,
        update: Some(validation::storage_class_update),
    };
    kind.creates(&[
        ("/provisioner", json!(""), &["provisioner: Required"]),
        ("/reclaimPolicy", json!("Recycle"), &["reclaimPolicy: NotSupported"]),
        ("/volumeBindingMode", json!("x"), &["volumeBindingMode: NotSupported"]),
    ]);
    kind.updates(
        Part::Main,
        &[
            ("/allowVolumeExpansion", json!(true), &[]),
            (
                "/provisioner",
                json!("other"),
                &["provisioner: Forbidden: updates to provisioner are forbidden."],
            ),
        ],
    );
}
