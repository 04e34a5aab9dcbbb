//! Volumes of a pod: unique names, exactly one source each, and the rules of
//! the sources.

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, Volume, VolumeProjection,
};

use super::env::{self, Shown};
use super::path::{Errors, Path, list, text};
use super::security::{descending_path, no_backsteps};
use super::{names, resources, storage};

/// Checks the volumes of a pod.
pub(super) fn volumes(errors: &mut Errors, volumes: &[Volume], path: &Path<'_>) {
    for (index, volume) in volumes.iter().enumerate() {
        let path = path.index(index);
        let name_path = path.child("name");
        if volume.name.is_empty() {
            errors.required(&name_path, "");
        } else {
            errors.invalid_each(&name_path, &volume.name, names::dns1123_label(&volume.name));
            if volumes[..index].iter().any(|earlier| earlier.name == volume.name) {
                errors.duplicate(&name_path, volume.name.as_str());
            }
        }
        one_source(errors, volume, &path);
        sources(errors, volume, &path);
        remote_sources(errors, volume, &path);
    }
}

fn one_source(errors: &mut Errors, volume: &Volume, path: &Path<'_>) {
    let present = [
        ("emptyDir", volume.empty_dir.is_some()),
        ("hostPath", volume.host_path.is_some()),
        ("gitRepo", volume.git_repo.is_some()),
        ("gcePersistentDisk", volume.gce_persistent_disk.is_some()),
        ("awsElasticBlockStore", volume.aws_elastic_block_store.is_some()),
        ("secret", volume.secret.is_some()),
        ("nfs", volume.nfs.is_some()),
        ("iscsi", volume.iscsi.is_some()),
        ("glusterfs", volume.glusterfs.is_some()),
        ("flocker", volume.flocker.is_some()),
        ("persistentVolumeClaim", volume.persistent_volume_claim.is_some()),
        ("rbd", volume.rbd.is_some()),
        ("cinder", volume.cinder.is_some()),
        ("cephfs", volume.cephfs.is_some()),
        ("quobyte", volume.quobyte.is_some()),
        ("downwardAPI", volume.downward_api.is_some()),
        ("fc", volume.fc.is_some()),
        ("flexVolume", volume.flex_volume.is_some()),
        ("configMap", volume.config_map.is_some()),
        ("azureFile", volume.azure_file.is_some()),
        ("vsphereVolume", volume.vsphere_volume.is_some()),
        ("photonPersistentDisk", volume.photon_persistent_disk.is_some()),
        ("portworxVolume", volume.portworx_volume.is_some()),
        ("azureDisk", volume.azure_disk.is_some()),
        ("storageos", volume.storageos.is_some()),
        ("scaleIO", volume.scale_io.is_some()),
        ("projected", volume.projected.is_some()),
        ("csi", volume.csi.is_some()),
        ("ephemeral", volume.ephemeral.is_some()),
        ("image", volume.image.is_some()),
    ];
    let mut chosen = present.iter().filter(|(_, present)| *present).map(|(field, _)| *field);
    if chosen.next().is_none() {
        errors.required(path, "must specify a volume type");
    }
    for field in chosen {
        errors.forbidden(&path.child(field), "may not specify more than 1 volume type");
    }
}

/// The sources that need nothing but the cluster and the node.
fn sources(errors: &mut Errors, volume: &Volume, path: &Path<'_>) {
    if let Some(limit) = volume.empty_dir.as_ref().and_then(|source| source.size_limit.as_ref())
        && resources::is_negative(limit)
    {
        let detail = "SizeLimit field must be a valid resource quantity";
        errors.forbidden(&path.child("emptyDir.sizeLimit"), detail);
    }
    if let Some(source) = &volume.host_path {
        host_path(errors, source, &path.child("hostPath"));
    }
    if let Some(source) = &volume.secret {
        let path = path.child("secret");
        if text(&source.secret_name).is_empty() {
            errors.required(&path.child("secretName"), "");
        }
        mode(errors, source.default_mode, &path.child("defaultMode"));
        items(errors, list(&source.items), &path.child("items"));
    }
    if let Some(source) = &volume.config_map {
        let path = path.child("configMap");
        required(errors, &source.name, &path.child("name"));
        mode(errors, source.default_mode, &path.child("defaultMode"));
        items(errors, list(&source.items), &path.child("items"));
    }
    if let Some(source) = &volume.downward_api {
        let path = path.child("downwardAPI");
        mode(errors, source.default_mode, &path.child("defaultMode"));
        // Upstream names the source, not the item, in these.
        for file in list(&source.items) {
            downward_file(errors, file, &path);
        }
    }
    if let Some(source) = &volume.projected {
        let path = path.child("projected");
        mode(errors, source.default_mode, &path.child("defaultMode"));
        projections(errors, list(&source.sources), &path);
    }
    if let Some(source) = &volume.persistent_volume_claim {
        let path = path.child("persistentVolumeClaim");
        required(errors, &source.claim_name, &path.child("claimName"));
    }
    if let Some(source) = &volume.ephemeral {
        let path = path.child("ephemeral.volumeClaimTemplate");
        match &source.volume_claim_template {
            None => errors.required(&path, ""),
            Some(template) => storage::claim_spec(errors, &template.spec, &path.child("spec")),
        }
    }
    if let Some(source) = &volume.image {
        let path = path.child("image");
        required(errors, text(&source.reference), &path.child("reference"));
        errors.one_of(
            &path.child("pullPolicy"),
            source.pull_policy.as_deref(),
            &["Always", "IfNotPresent", "Never"],
        );
    }
}

/// The sources that live elsewhere: what each cannot do without.
fn remote_sources(errors: &mut Errors, volume: &Volume, path: &Path<'_>) {
    if let Some(source) = &volume.nfs {
        nfs(errors, &source.server, &source.path, &path.child("nfs"));
    }
    if let Some(source) = &volume.csi {
        csi_driver(errors, &source.driver, &path.child("csi.driver"));
    }
    if let Some(source) = &volume.git_repo {
        required(errors, &source.repository, &path.child("gitRepo.repository"));
        let directory = text(&source.directory);
        descending_path(errors, directory, &path.child("gitRepo.directory"));
    }
    if let Some(source) = &volume.iscsi {
        let path = path.child("iscsi");
        required(errors, &source.target_portal, &path.child("targetPortal"));
        required(errors, &source.iqn, &path.child("iqn"));
        errors.in_range(&path.child("lun"), source.lun, 0, 255);
    }
    for (field, value) in [
        ("gcePersistentDisk.pdName", volume.gce_persistent_disk.as_ref().map(|s| &s.pd_name)),
        (
            "awsElasticBlockStore.volumeID",
            volume.aws_elastic_block_store.as_ref().map(|source| &source.volume_id),
        ),
        ("glusterfs.endpoints", volume.glusterfs.as_ref().map(|source| &source.endpoints)),
        ("glusterfs.path", volume.glusterfs.as_ref().map(|source| &source.path)),
        ("rbd.image", volume.rbd.as_ref().map(|source| &source.image)),
        ("cinder.volumeID", volume.cinder.as_ref().map(|source| &source.volume_id)),
        ("flexVolume.driver", volume.flex_volume.as_ref().map(|source| &source.driver)),
        ("azureFile.secretName", volume.azure_file.as_ref().map(|source| &source.secret_name)),
        ("azureFile.shareName", volume.azure_file.as_ref().map(|source| &source.share_name)),
        ("vsphereVolume.volumePath", volume.vsphere_volume.as_ref().map(|s| &s.volume_path)),
        ("azureDisk.diskName", volume.azure_disk.as_ref().map(|source| &source.disk_name)),
        ("portworxVolume.volumeID", volume.portworx_volume.as_ref().map(|s| &s.volume_id)),
    ] {
        if let Some(value) = value {
            required(errors, value, &path.child(field));
        }
    }
}

fn required(errors: &mut Errors, value: &str, path: &Path<'_>) {
    if value.is_empty() {
        errors.required(path, "");
    }
}

/// Checks a path on the node.
pub(super) fn host_path(errors: &mut Errors, source: &HostPathVolumeSource, path: &Path<'_>) {
    let path_path = path.child("path");
    if source.path.is_empty() {
        errors.required(&path_path, "");
    } else {
        no_backsteps(errors, &source.path, &path_path);
    }
    let kinds = [
        "",
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    errors.one_of(&path.child("type"), source.type_.as_deref(), &kinds);
}

/// Checks an NFS export.
pub(super) fn nfs(errors: &mut Errors, server: &str, export: &str, path: &Path<'_>) {
    required(errors, server, &path.child("server"));
    required(errors, export, &path.child("path"));
    if !export.starts_with('/') {
        errors.invalid(&path.child("path"), export, "must be an absolute path");
    }
}

/// Checks the name of a CSI driver.
pub(super) fn csi_driver(errors: &mut Errors, driver: &str, path: &Path<'_>) {
    if driver.is_empty() {
        errors.required(path, "");
        return;
    }
    if driver.len() > 63 {
        errors.too_long(path, 63);
    }
    errors.invalid_each(path, driver, names::dns1123_subdomain(&driver.to_lowercase()));
}

fn mode(errors: &mut Errors, mode: Option<i32>, path: &Path<'_>) {
    if let Some(mode) = mode
        && !(0..=0o777).contains(&mode)
    {
        let detail = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.invalid(path, mode, detail);
    }
}

fn items(errors: &mut Errors, items: &[KeyToPath], path: &Path<'_>) {
    for (index, item) in items.iter().enumerate() {
        let path = path.index(index);
        required(errors, &item.key, &path.child("key"));
        file_path(errors, &item.path, &path.child("path"));
        mode(errors, item.mode, &path.child("mode"));
    }
}

/// A path within a volume that an update of the volume can swap atomically.
fn file_path(errors: &mut Errors, value: &str, path: &Path<'_>) {
    if value.is_empty() {
        errors.required(path, "");
        return;
    }
    descending_path(errors, value, path);
    if value.starts_with("..") && !value.starts_with("../") && value != ".." {
        errors.invalid(path, value, "must not start with '..'");
    }
}

fn downward_file(errors: &mut Errors, file: &DownwardAPIVolumeFile, path: &Path<'_>) {
    file_path(errors, &file.path, &path.child("path"));
    match (&file.field_ref, &file.resource_field_ref) {
        (Some(field), resource) => {
            env::field_ref(errors, field, Shown::File, &path.child("fieldRef"));
            if resource.is_some() {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.invalid(path, "resource", detail);
            }
        }
        (None, Some(resource)) => {
            let path = path.child("resourceFieldRef");
            env::resource_field_ref(errors, resource, Shown::File, &path);
        }
        (None, None) => {
            errors.required(path, "one of fieldRef and resourceFieldRef is required");
        }
    }
    mode(errors, file.mode, &path.child("mode"));
}

fn projections(errors: &mut Errors, sources: &[VolumeProjection], path: &Path<'_>) {
    let sources_path = path.child("sources");
    let mut paths: Vec<&str> = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        let path = sources_path.index(index);
        let mut count = 0;
        if let Some(secret) = &source.secret {
            count += 1;
            let path = path.child("secret");
            required(errors, &secret.name, &path.child("name"));
            items(errors, list(&secret.items), &path.child("items"));
            paths.extend(list(&secret.items).iter().map(|item| item.path.as_str()));
        }
        if let Some(map) = &source.config_map {
            count += 1;
            let path = path.child("configMap");
            required(errors, &map.name, &path.child("name"));
            items(errors, list(&map.items), &path.child("items"));
            paths.extend(list(&map.items).iter().map(|item| item.path.as_str()));
        }
        if let Some(downward) = &source.downward_api {
            count += 1;
            let path = path.child("downwardAPI");
            for file in list(&downward.items) {
                downward_file(errors, file, &path);
                paths.push(&file.path);
            }
        }
        if let Some(token) = &source.service_account_token {
            count += 1;
            let path = path.child("serviceAccountToken");
            let seconds = token.expiration_seconds.unwrap_or(3600);
            let seconds_path = path.child("expirationSeconds");
            if seconds < 600 {
                let detail = "may not specify a duration less than 10 minutes";
                errors.invalid(&seconds_path, seconds, detail);
            } else if seconds > 1 << 32 {
                let detail = "may not specify a duration larger than 2^32 seconds";
                errors.invalid(&seconds_path, seconds, detail);
            }
            file_path(errors, &token.path, &path.child("path"));
            paths.push(&token.path);
        }
        if let Some(bundle) = &source.cluster_trust_bundle {
            count += 1;
            let path = path.child("clusterTrustBundle");
            let (name, signer) = (bundle.name.is_some(), bundle.signer_name.is_some());
            if name == signer {
                let detail = "either name or signerName must be specified";
                errors.required(&path, detail);
            }
            file_path(errors, &bundle.path, &path.child("path"));
            paths.push(&bundle.path);
        }
        if source.pod_certificate.is_some() {
            count += 1;
        }
        match count {
            0 => errors.required(&path, "must specify a projected volume source"),
            1 => {}
            _ => errors.forbidden(&path, "may not specify more than 1 volume type per source"),
        }
    }
    for (index, value) in paths.iter().enumerate() {
        if !value.is_empty() && paths[..index].contains(value) {
            errors.invalid(path, *value, "conflicting duplicate paths");
        }
    }
}
