//! Volumes of the cluster, storage classes, CSI drivers; and priority classes,
//! which are as short.

use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec,
};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::api::storage::v1::{CSIDriver, StorageClass, VolumeAttachment};

use super::{fill, fill_text};

/// Fills in a PersistentVolume.
pub fn persistent_volume(volume: &mut PersistentVolume) {
    fill_text(&mut volume.status.get_or_insert_default().phase, "Pending");
    let Some(spec) = &mut volume.spec else { return };
    fill_text(&mut spec.persistent_volume_reclaim_policy, "Retain");
    fill(&mut spec.volume_mode, "Filesystem".to_owned());
    if let Some(path) = &mut spec.host_path {
        fill(&mut path.type_, String::new());
    }
}

/// Fills in a PersistentVolumeClaim.
pub fn persistent_volume_claim(claim: &mut PersistentVolumeClaim) {
    fill_text(&mut claim.status.get_or_insert_default().phase, "Pending");
    if let Some(spec) = &mut claim.spec {
        claim_spec(spec);
    }
}

/// Fills in what claims and claim templates have in common.
pub(super) fn claim_spec(spec: &mut PersistentVolumeClaimSpec) {
    fill(&mut spec.volume_mode, "Filesystem".to_owned());
}

/// Fills in a StorageClass.
pub fn storage_class(class: &mut StorageClass) {
    fill(&mut class.reclaim_policy, "Delete".to_owned());
    fill(&mut class.volume_binding_mode, "Immediate".to_owned());
}

/// Fills in a CSIDriver.
pub fn csi_driver(driver: &mut CSIDriver) {
    let spec = &mut driver.spec;
    fill(&mut spec.attach_required, true);
    fill(&mut spec.pod_info_on_mount, false);
    fill(&mut spec.storage_capacity, false);
    fill(&mut spec.fs_group_policy, "ReadWriteOnceWithFSType".to_owned());
    fill(&mut spec.requires_republish, false);
    fill(&mut spec.se_linux_mount, false);
    if spec.volume_lifecycle_modes.as_ref().is_none_or(Vec::is_empty) {
        spec.volume_lifecycle_modes = Some(vec!["Persistent".to_owned()]);
    }
}

/// Has a new VolumeAttachment begin detached.
pub fn volume_attachment(attachment: &mut VolumeAttachment) {
    attachment.status.get_or_insert_default();
}

/// Fills in a PriorityClass.
pub fn priority_class(class: &mut PriorityClass) {
    fill(&mut class.preemption_policy, "PreemptLowerPriority".to_owned());
}
