//! Kinds that are only stored: devices, what CSI drivers tell of themselves,
//! service ranges and controller revisions.

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use k8s_openapi::api::storage::v1::{
    CSINode, CSIStorageCapacity, VolumeAttachment, VolumeAttributesClass,
};
use serde_json::json;

use super::Kind;
use crate::catalogue::Part;
use crate::{defaults, validation};

#[test]
fn device_classes() {
    let kind = Kind::<DeviceClass> {
        minimal: json!({"metadata": {"name": "c"}, "spec": {"selectors": [{"cel": {"expression": "true"}}]}}),
        default: |_| {},
        create: validation::device_class_create,
        update: Some(validation::device_class_update),
    };
    kind.creates(&[
        ("/spec/selectors/0", json!({}), &["spec.selectors[0].cel: Required"]),
        (
            "/spec/selectors/0/cel/expression",
            json!(""),
            &["spec.selectors[0].cel.expression: Required"],
        ),
    ]);
}

#[test]
fn resource_claims() {
    let kind = Kind::<ResourceClaim> {
        minimal: json!({"metadata": {"name": "c", "namespace": "n"}, "spec": {"devices": {"requests": [
            {"name": "one", "exactly": {"deviceClassName": "c"}},
        ]}}}),
        default: defaults::resource_claim,
        create: validation::resource_claim_create,
        update: Some(validation::resource_claim_update),
    };
    let request = "spec.devices.requests[0]";
    kind.creates(&[
        ("/spec/devices/requests/0/name", json!("A"), &[&format!("{request}.name: Invalid")]),
        (
            "/spec/devices/requests/0/exactly",
            json!(null),
            &[&format!("{request}: Required: exactly one of `exactly` or `firstAvailable`")],
        ),
        (
            "/spec/devices/requests/0/exactly/deviceClassName",
            json!(""),
            &[&format!("{request}.exactly.deviceClassName: Required")],
        ),
        (
            "/spec/devices/requests/0/exactly/count",
            json!(-1),
            &[&format!("{request}.exactly.count: Invalid: must be greater than zero")],
        ),
        ("/spec/devices/requests", json!([]), &[]),
    ]);
    kind.updates(
        Part::Main,
        &[("/spec/devices/requests", json!([]), &["spec: Invalid: field is immutable"])],
    );
    let reserved = json!([{"resource": "pods", "name": "p", "uid": "u"}]);
    kind.updates(
        Part::Status,
        &[
            (
                "/status",
                json!({"reservedFor": reserved}),
                &["status.reservedFor: Forbidden: may not be specified when `allocated` is not set"],
            ),
            ("/status", json!({"reservedFor": reserved, "allocation": {}}), &[]),
        ],
    );
}

#[test]
fn resource_slices() {
    let kind = Kind::<ResourceSlice> {
        minimal: json!({"metadata": {"name": "s"}, "spec": {
            "driver": "example.com", "nodeName": "n",
            "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "d"}],
        }}),
        default: |_| {},
        create: validation::resource_slice_create,
        update: Some(validation::resource_slice_update),
    };
    kind.creates(&[
        ("/spec/driver", json!(""), &["spec.driver: Required"]),
        ("/spec/allNodes", json!(true), &["spec: Required: exactly one of `nodeName`"]),
        ("/spec/pool/resourceSliceCount", json!(0), &["spec.pool.resourceSliceCount: Invalid"]),
        ("/spec/devices/-", json!({"name": "d"}), &["spec.devices[1].name: Duplicate"]),
    ]);
    kind.updates(
        Part::Main,
        &[
            ("/spec/pool/generation", json!(2), &[]),
            ("/spec/nodeName", json!("m"), &["spec.nodeName: Invalid: field is immutable"]),
        ],
    );
}

#[test]
fn csi_nodes() {
    let kind = Kind::<CSINode> {
        minimal: json!({"metadata": {"name": "n"}, "spec": {"drivers": [{"name": "d", "nodeID": "i"}]}}),
        default: |_| {},
        create: validation::csi_node_create,
        update: Some(validation::csi_node_update),
    };
    kind.creates(&[
        ("/spec/drivers/0/nodeID", json!(""), &["spec.drivers[0].nodeID: Required"]),
        (
            "/spec/drivers/-",
            json!({"name": "d", "nodeID": "j"}),
            &["spec.drivers[1].name: Duplicate"],
        ),
        (
            "/spec/drivers/0/allocatable",
            json!({"count": -1}),
            &["spec.drivers[0].allocatable.count: Invalid"],
        ),
    ]);
    kind.updates(
        Part::Main,
        &[
            ("/spec/drivers", json!([]), &[]),
            ("/spec/drivers/0/allocatable", json!({"count": 3}), &[]),
            (
                "/spec/drivers/0/nodeID",
                json!("j"),
                &["spec.drivers[0].nodeID: Invalid: field is immutable"],
            ),
        ],
    );
}

#[test]
fn csi_capacities() {
    let kind = Kind::<CSIStorageCapacity> {
        minimal: json!({"metadata": {"name": "c", "namespace": "n"}, "storageClassName": "s", "capacity": "1Gi"}),
        default: |_| {},
        create: validation::csi_storage_capacity_create,
        update: Some(validation::csi_storage_capacity_update),
    };
    kind.creates(&[
        ("/storageClassName", json!(""), &["storageClassName: Required"]),
        ("/capacity", json!("-1"), &["capacity: Invalid"]),
    ]);
    kind.updates(
        Part::Main,
        &[
            ("/capacity", json!("2Gi"), &[]),
            ("/storageClassName", json!("t"), &["storageClassName: Invalid: field is immutable"]),
        ],
    );
}

#[test]
fn volume_attachments() {
    let kind = Kind::<VolumeAttachment> {
        minimal: json!({"metadata": {"name": "a"}, "spec": {
            "attacher": "example.com", "nodeName": "n", "source": {"persistentVolumeName": "v"},
        }}),
        default: |_| {},
        create: validation::volume_attachment_create,
        update: Some(validation::volume_attachment_update),
    };
    kind.creates(&[
        ("/spec/attacher", json!(""), &["spec.attacher: Required"]),
        ("/spec/nodeName", json!(""), &["spec.nodeName: Required"]),
        ("/spec/source", json!({}), &["spec.source: Required"]),
    ]);
    kind.updates(
        Part::Main,
        &[("/spec/nodeName", json!("m"), &["spec: Invalid: field is immutable"])],
    );
}

#[test]
fn volume_attributes() {
    let kind = Kind::<VolumeAttributesClass> {
        minimal: json!({"metadata": {"name": "a"}, "driverName": "example.com", "parameters": {"a": "b"}}),
        default: |_| {},
        create: validation::volume_attributes_class_create,
        update: Some(validation::volume_attributes_class_update),
    };
    kind.creates(&[
        ("/driverName", json!(""), &["driverName: Required"]),
        ("/parameters", json!({}), &["parameters: Required"]),
    ]);
    kind.updates(
        Part::Main,
        &[("/parameters/a", json!("c"), &["parameters: Invalid: field is immutable"])],
    );
}

#[test]
fn service_ranges() {
    let kind = Kind::<ServiceCIDR> {
        minimal: json!({"metadata": {"name": "c"}, "spec": {"cidrs": ["10.0.0.0/16"]}}),
        default: |_| {},
        create: validation::service_cidr_create,
        update: Some(validation::service_cidr_update),
    };
    kind.creates(&[
        ("/spec/cidrs", json!([]), &["spec.cidrs: Required: at least one CIDR required"]),
        ("/spec/cidrs/0", json!("x"), &["spec.cidrs[0]: Invalid"]),
        ("/spec/cidrs/-", json!("fd00::/108"), &[]),
        (
            "/spec/cidrs/-",
            json!("10.1.0.0/16"),
            &["spec.cidrs: Invalid: may specify no more than one"],
        ),
    ]);
    kind.updates(
        Part::Main,
        &[
            ("/spec/cidrs/-", json!("fd00::/108"), &[]),
            ("/spec/cidrs/0", json!("10.1.0.0/16"), &["spec.cidrs: Invalid: field is immutable"]),
        ],
    );
}

#[test]
fn controller_revisions() {
    let kind = Kind::<ControllerRevision> {
        minimal: json!({"metadata": {"name": "r", "namespace": "n"}, "data": {"a": 1}, "revision": 1}),
        default: |_| {},
        create: validation::controller_revision_create,
        update: Some(validation::controller_revision_update),
    };
    kind.creates(&[
        ("/data", json!(null), &["data: Required: data is mandatory"]),
        ("/revision", json!(-1), &["revision: Invalid"]),
    ]);
    kind.updates(
        Part::Main,
        &[
            ("/revision", json!(2), &[]),
            ("/data/a", json!(2), &["data: Invalid: field is immutable"]),
        ],
    );
}
