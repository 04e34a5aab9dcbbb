//! Volumes of pods.

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, Volume, VolumeProjection};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{fill, fill_text, image, storage};

/// Mode 0644, which the API writes in decimal.
const MODE: i32 = 0o644;

/// Fills in a volume; one without any source is an `emptyDir`.
pub(super) fn volume(volume: &mut Volume) {
    // A volume with nothing but its name equals a default one of that name.
    if *volume == (Volume { name: volume.name.clone(), ..Volume::default() }) {
        volume.empty_dir = Some(Default::default());
    }
    if let Some(source) = &mut volume.config_map {
        fill(&mut source.default_mode, MODE);
    }
    if let Some(source) = &mut volume.secret {
        fill(&mut source.default_mode, MODE);
    }
    if let Some(source) = &mut volume.downward_api {
        fill(&mut source.default_mode, MODE);
        source.items.iter_mut().flatten().for_each(downward_file);
    }
    if let Some(source) = &mut volume.projected {
        fill(&mut source.default_mode, MODE);
        source.sources.iter_mut().flatten().for_each(projection);
    }
    if let Some(source) = &mut volume.host_path {
        fill(&mut source.type_, String::new());
    }
    if let Some(source) = &mut volume.image {
        let policy = image::pull_policy(source.reference.as_deref().unwrap_or_default());
        fill_text(&mut source.pull_policy, policy);
    }
    if let Some(source) = &mut volume.iscsi {
        fill_text(&mut source.iscsi_interface, "default");
    }
    if let Some(source) = &mut volume.rbd {
        fill_text(&mut source.pool, "rbd");
        fill_text(&mut source.user, "admin");
        fill_text(&mut source.keyring, "/etc/ceph/keyring");
    }
    if let Some(template) =
        volume.ephemeral.as_mut().and_then(|source| source.volume_claim_template.as_mut())
    {
        storage::claim_spec(&mut template.spec);
    }
}

fn projection(source: &mut VolumeProjection) {
    if let Some(token) = &mut source.service_account_token {
        fill(&mut token.expiration_seconds, 3600);
    }
    if let Some(downward) = &mut source.downward_api {
        downward.items.iter_mut().flatten().for_each(downward_file);
    }
}

fn downward_file(file: &mut DownwardAPIVolumeFile) {
    if let Some(field) = &mut file.field_ref {
        fill_text(&mut field.api_version, "v1");
    }
    if let Some(resource) = &mut file.resource_field_ref {
        fill(&mut resource.divisor, Quantity("0".to_owned()));
    }
}
