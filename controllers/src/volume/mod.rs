//! Persistent volumes: claims find their volumes, volumes are made for claims,
//! and neither goes while it is in use.
//!
//! - `claim` and `bound` decide: what a pass does with a claim, and with a
//!   volume. Pure.
//! - `binder` carries that out. Writes both objects and their status.
//! - `local` makes volumes of classes whose provisioner is
//!   `skiff.dev/local`: a folder on the node that the claim's first pod goes
//!   to. The object is made here, the folder by the node's agent when a pod
//!   first mounts it; it is also the agent who removes it.
//! - `ephemeral` makes the claims of pods that bring a template for one.
//! - `protection` takes the finalizers off that admission put on.
//!
//! A binding is written in four steps: the volume's `claimRef`, its phase, the
//! claim's `volumeName`, its phase. Whatever step was last, the next pass goes
//! on from there.
//!
//! Left out: attaching and CSI, growing a volume, the policy `Recycle`.

mod binder;
mod bound;
mod claim;
mod ephemeral;
mod local;
mod protection;
mod write;

pub(crate) use binder::{VolumeBinder, index_volume};
pub(crate) use ephemeral::EphemeralVolumes;
pub(crate) use protection::{ClaimProtection, VolumeProtection};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use crate::meta::Key;

/// The name of the claim's volume, if it has or names one.
fn volume_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref().filter(|name| !name.is_empty())
}

fn claim_phase(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.status.as_ref()?.phase.as_deref()
}

fn volume_phase(volume: &PersistentVolume) -> Option<&str> {
    volume.status.as_ref()?.phase.as_deref()
}

/// The claim that the volume refers to.
fn claim_key(volume: &PersistentVolume) -> Option<Key> {
    let reference = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some(Key::new(reference.namespace.as_deref()?, reference.name.as_deref()?))
}

/// The uid of the claim that the volume is bound to; `None` when it is free or
/// only kept for a claim of some name.
fn claim_uid(volume: &PersistentVolume) -> Option<&str> {
    let reference = volume.spec.as_ref()?.claim_ref.as_ref()?;
    reference.uid.as_deref().filter(|uid| !uid.is_empty())
}
