//! Storage classes, CSI drivers and attachments.

use k8s_openapi::api::storage::v1 as k;

use super::subresources::status;
use super::{Resource, Rules, Typed};
use crate::{defaults, table, validation};

/// What the entries of this file have in common.
const STORAGE: Resource = Resource {
    group: "storage.k8s.io",
    version: "v1",
    behaviour: &Typed::<k::CSIDriver>::PLAIN,
    ..Resource::BASE
};

pub(super) const ENTRIES: &[Resource] = &[
    Resource {
        kind: "CSIDriver",
        plural: "csidrivers",
        singular: "csidriver",
        namespaced: false,
        behaviour: &Typed::<k::CSIDriver> {
            validate_update: Some(validation::csi_driver_update),
            default: Some(defaults::csi_driver),
            validate: Some(validation::csi_driver_create),
            rules: Rules::GENERATION,
            printer: &table::CSI_DRIVER,
            ..Typed::PLAIN
        },
        ..STORAGE
    },
    Resource {
        kind: "CSINode",
        plural: "csinodes",
        singular: "csinode",
        namespaced: false,
        behaviour: &Typed::<k::CSINode> {
            validate: Some(validation::csi_node_create),
            validate_update: Some(validation::csi_node_update),
            printer: &table::CSI_NODE,
            ..Typed::PLAIN
        },
        ..STORAGE
    },
    Resource {
        kind: "CSIStorageCapacity",
        plural: "csistoragecapacities",
        singular: "csistoragecapacity",
        behaviour: &Typed::<k::CSIStorageCapacity> {
            validate: Some(validation::csi_storage_capacity_create),
            validate_update: Some(validation::csi_storage_capacity_update),
            printer: &table::CSI_STORAGE_CAPACITY,
            ..Typed::PLAIN
        },
        ..STORAGE
    },
    Resource {
        kind: "StorageClass",
        plural: "storageclasses",
        singular: "storageclass",
        short_names: &["sc"],
        namespaced: false,
        behaviour: &Typed::<k::StorageClass> {
            default: Some(defaults::storage_class),
            validate: Some(validation::storage_class_create),
            validate_update: Some(validation::storage_class_update),
            printer: &table::STORAGE_CLASS,
            ..Typed::PLAIN
        },
        ..STORAGE
    },
    Resource {
        kind: "VolumeAttachment",
        plural: "volumeattachments",
        singular: "volumeattachment",
        namespaced: false,
        subresources: &[status("VolumeAttachment", "storage.k8s.io", "v1")],
        behaviour: &Typed::<k::VolumeAttachment> {
            prepare: Some(defaults::volume_attachment),
            validate: Some(validation::volume_attachment_create),
            validate_update: Some(validation::volume_attachment_update),
            rules: Rules::STATUS,
            printer: &table::VOLUME_ATTACHMENT,
            ..Typed::PLAIN
        },
        ..STORAGE
    },
    Resource {
        kind: "VolumeAttributesClass",
        plural: "volumeattributesclasses",
        singular: "volumeattributesclass",
        short_names: &["vac"],
        namespaced: false,
        behaviour: &Typed::<k::VolumeAttributesClass> {
            validate: Some(validation::volume_attributes_class_create),
            validate_update: Some(validation::volume_attributes_class_update),
            printer: &table::VOLUME_ATTRIBUTES_CLASS,
            ..Typed::PLAIN
        },
        ..STORAGE
    },
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::catalogue::find;

    #[test]
    fn an_attachment_begins_detached() {
        let behaviour = find("storage.k8s.io", "v1", "volumeattachments").unwrap().behaviour;
        let mut object = json!({"metadata": {"name": "a"}, "status": {"attached": true}});
        object["spec"] = json!({"attacher": "a.b", "nodeName": "n", "source": {}});
        behaviour.default(&mut object);
        behaviour.prepare_create(&mut object);
        assert_eq!(object["status"], json!({"attached": false}));
    }
}
