//! What CSI drivers tell of themselves, their nodes and their volumes.

use std::collections::HashSet;

use k8s_openapi::api::storage::v1::{
    CSIDriver, CSINode, CSIStorageCapacity, VolumeAttachment, VolumeAttributesClass,
};

use super::meta::{MetaRules, check_create, check_update, label_selector};
use super::path::{Errors, Path, list, text};
use super::{names, resources, volume};
use crate::catalogue::{FieldError, Part};

const CLUSTER_META: MetaRules = MetaRules::cluster(names::subdomain_name);
const META: MetaRules = MetaRules::namespaced(names::subdomain_name);
const SPEC: Path<'static> = Path::root("spec");

/// Bytes of a node's name in its driver's words.
const MAX_NODE_ID: usize = 256;

/// Checks an update of a CSIDriver: what volumes were attached with stays.
pub fn csi_driver_update(new: &CSIDriver, old: &CSIDriver, _part: Part) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        let (new, old) = (&new.spec, &old.spec);
        errors.immutable(&SPEC.child("attachRequired"), &new.attach_required, &old.attach_required);
        let path = SPEC.child("volumeLifecycleModes");
        errors.immutable(&path, &new.volume_lifecycle_modes, &old.volume_lifecycle_modes);
    })
}

/// Checks a new CSINode.
pub fn csi_node_create(node: &CSINode) -> Vec<FieldError> {
    check_create(&node.metadata, CLUSTER_META, |errors| node_drivers(errors, node))
}

/// Checks an update of a CSINode: drivers come and go, one that stays keeps
/// its name for the node and its topology.
pub fn csi_node_update(new: &CSINode, old: &CSINode, _part: Part) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        let path = SPEC.child("drivers");
        for (index, driver) in new.spec.drivers.iter().enumerate() {
            let before = old.spec.drivers.iter().find(|before| before.name == driver.name);
            let path = path.index(index);
            if let Some(before) = before {
                errors.immutable(&path.child("nodeID"), &driver.node_id, &before.node_id);
                let (new, old) = (&driver.topology_keys, &before.topology_keys);
                errors.immutable(&path.child("topologyKeys"), new, old);
            }
        }
        node_drivers(errors, new);
    })
}

fn node_drivers(errors: &mut Errors, node: &CSINode) {
    let path = SPEC.child("drivers");
    let mut seen = HashSet::new();
    for (index, driver) in node.spec.drivers.iter().enumerate() {
        let path = path.index(index);
        volume::csi_driver(errors, &driver.name, &path.child("name"));
        if !seen.insert(&driver.name) {
            errors.duplicate(&path.child("name"), driver.name.as_str());
        }
        let (id, at) = (driver.node_id.as_str(), path.child("nodeID"));
        if id.is_empty() {
            errors.required(&at, "");
        } else if id.len() > MAX_NODE_ID {
            errors.invalid(&at, id, names::too_long(MAX_NODE_ID));
        }
        let count = driver.allocatable.as_ref().and_then(|allocatable| allocatable.count);
        errors.counts(&path, &[("allocatable.count", count)]);
        let keys = path.child("topologyKeys");
        for (index, key) in list(&driver.topology_keys).iter().enumerate() {
            errors.invalid_each(&keys.index(index), key, names::qualified_name(key));
            if list(&driver.topology_keys)[..index].contains(key) {
                errors.duplicate(&keys.index(index), key.as_str());
            }
        }
    }
}

/// Checks a new CSIStorageCapacity.
pub fn csi_storage_capacity_create(capacity: &CSIStorageCapacity) -> Vec<FieldError> {
    check_create(&capacity.metadata, META, |errors| {
        let (class, path) = (capacity.storage_class_name.as_str(), Path::root("storageClassName"));
        if class.is_empty() {
            errors.required(&path, "");
        } else {
            errors.invalid_each(&path, class, names::dns1123_subdomain(class));
        }
        label_selector(errors, capacity.node_topology.as_ref(), &Path::root("nodeTopology"));
        sizes(errors, capacity);
    })
}

/// Checks an update of a CSIStorageCapacity: only the amount changes.
pub fn csi_storage_capacity_update(
    new: &CSIStorageCapacity,
    old: &CSIStorageCapacity,
    _part: Part,
) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        sizes(errors, new);
        errors.immutable(&Path::root("nodeTopology"), &new.node_topology, &old.node_topology);
        let (new, old) = (&new.storage_class_name, &old.storage_class_name);
        errors.immutable(&Path::root("storageClassName"), new, old);
    })
}

fn sizes(errors: &mut Errors, capacity: &CSIStorageCapacity) {
    for (field, size) in
        [("capacity", &capacity.capacity), ("maximumVolumeSize", &capacity.maximum_volume_size)]
    {
        if let Some(size) = size {
            resources::non_negative(errors, size, &Path::root(field));
        }
    }
}

/// Checks a new VolumeAttachment.
pub fn volume_attachment_create(attachment: &VolumeAttachment) -> Vec<FieldError> {
    check_create(&attachment.metadata, CLUSTER_META, |errors| {
        let spec = &attachment.spec;
        volume::csi_driver(errors, &spec.attacher, &SPEC.child("attacher"));
        if spec.node_name.is_empty() {
            errors.required(&SPEC.child("nodeName"), "");
        }
        let path = SPEC.child("source");
        let named = !text(&spec.source.persistent_volume_name).is_empty();
        match (named, spec.source.inline_volume_spec.is_some()) {
            (false, false) => errors.required(
                &path,
                "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
            ),
            (true, true) => errors.forbidden(
                &path,
                "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
            ),
            _ => {}
        }
    })
}

/// Checks an update of a VolumeAttachment: what is attached where stays.
pub fn volume_attachment_update(
    new: &VolumeAttachment,
    old: &VolumeAttachment,
    _part: Part,
) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        errors.immutable(&SPEC, &new.spec, &old.spec)
    })
}

/// Checks a new VolumeAttributesClass.
pub fn volume_attributes_class_create(class: &VolumeAttributesClass) -> Vec<FieldError> {
    check_create(&class.metadata, CLUSTER_META, |errors| {
        let path = Path::root("driverName");
        if class.driver_name.is_empty() {
            errors.required(&path, "");
        } else {
            let messages = names::qualified_name(&class.driver_name.to_lowercase());
            errors.invalid_each(&path, &class.driver_name, messages);
        }
        let path = Path::root("parameters");
        if class.parameters.as_ref().is_none_or(|parameters| parameters.is_empty()) {
            errors.required(&path, "must contain at least one key/value pair");
        }
        if class.parameters.iter().flatten().any(|(key, _)| key.is_empty()) {
            errors.invalid(&path, "", "field can not be empty.");
        }
    })
}

/// Checks an update of a VolumeAttributesClass: it stays as it is.
pub fn volume_attributes_class_update(
    new: &VolumeAttributesClass,
    old: &VolumeAttributesClass,
    _part: Part,
) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        errors.immutable(&Path::root("driverName"), &new.driver_name, &old.driver_name);
        errors.immutable(&Path::root("parameters"), &new.parameters, &old.parameters);
    })
}
