//! What a pass does with a volume. Pure.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use skiff_api::volume::{BOUND_BY_CONTROLLER, LOCAL_PROVISIONER, PROVISIONED_BY};

use super::{claim_uid, volume_name, volume_phase};
use crate::meta;

/// What becomes of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    /// Free, or kept for a claim that has not come.
    Available,
    /// Bound to a claim that knows it.
    Bound,
    /// Its claim does not know it yet; the claim's pass goes on.
    AskClaim,
    /// Its claim is gone. Then what its policy says.
    Release(Reclaim),
    /// Its claim took another volume: the reference that the controller wrote
    /// is taken back.
    Unbind,
}

/// What is done with a volume whose claim is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reclaim {
    /// It stays for a person to look at.
    Retain,
    /// The folder on its node goes, then the object.
    RemoveFolder,
    /// Somebody else's provisioner does it.
    Others,
    /// Nobody here can do what its policy says.
    Unable(&'static str),
}

/// Decides for `volume`; `claim` is the claim of the name that it refers to.
pub(super) fn plan(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Plan {
    let Some(uid) = claim_uid(volume) else { return Plan::Available };
    // A claim of the same name that came later is another one.
    let Some(claim) = claim.filter(|claim| meta::uid(&claim.metadata) == uid) else {
        return Plan::Release(reclaim(volume));
    };
    match volume_name(claim) {
        None => Plan::AskClaim,
        Some(name) if name == meta::name(&volume.metadata) => Plan::Bound,
        Some(_)
            if meta::annotation(&volume.metadata, PROVISIONED_BY).is_some()
                && reclaim(volume) != Reclaim::Retain =>
        {
            Plan::Release(reclaim(volume))
        }
        Some(_) => Plan::Unbind,
    }
}

/// What the volume's policy asks for, and who can do it.
pub(super) fn reclaim(volume: &PersistentVolume) -> Reclaim {
    let spec = volume.spec.as_ref();
    let policy = spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    let maker = meta::annotation(&volume.metadata, PROVISIONED_BY);
    match (policy.unwrap_or("Retain"), maker) {
        ("Delete", Some(LOCAL_PROVISIONER)) => Reclaim::RemoveFolder,
        ("Delete", Some(_)) => Reclaim::Others,
        ("Delete", None) if spec.is_some_and(|spec| spec.csi.is_some()) => Reclaim::Others,
        ("Delete", None) => Reclaim::Unable(
            "error getting deleter volume plugin for volume: no deletable volume plugin matched",
        ),
        ("Recycle", _) => Reclaim::Unable("No recycler plugin found for the volume!"),
        _ => Reclaim::Retain,
    }
}

/// Whether the controller wrote the volume's reference to its claim.
pub(super) fn controller_bound_it(volume: &PersistentVolume) -> bool {
    meta::annotation(&volume.metadata, BOUND_BY_CONTROLLER).is_some()
}

/// Whether the volume was told already that its claim is gone.
pub(super) fn is_released(volume: &PersistentVolume) -> bool {
    matches!(volume_phase(volume), Some("Released" | "Failed"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn volume(policy: &str, maker: Option<&str>, reference: Value) -> PersistentVolume {
        let annotations = maker.map(|maker| json!({PROVISIONED_BY: maker}));
        serde_json::from_value(json!({
            "metadata": {"name": "v", "annotations": annotations},
            "spec": {"persistentVolumeReclaimPolicy": policy, "claimRef": reference},
        }))
        .unwrap()
    }

    fn claim(uid: &str, volume: &str) -> Option<PersistentVolumeClaim> {
        let claim = json!({"metadata": {"name": "data", "namespace": "a", "uid": uid}, "spec": {"volumeName": volume}});
        serde_json::from_value(claim).unwrap()
    }

    #[test]
    fn a_volume_follows_its_claim() {
        let by_name = || json!({"name": "data", "namespace": "a"});
        let mine = || json!({"name": "data", "namespace": "a", "uid": "u1"});
        let ours = Some(LOCAL_PROVISIONER);
        let cases = [
            ("free", volume("Retain", None, Value::Null), None, Plan::Available),
            (
                "kept for a name",
                volume("Retain", None, by_name()),
                claim("u1", ""),
                Plan::Available,
            ),
            (
                "claim has not heard",
                volume("Retain", None, mine()),
                claim("u1", ""),
                Plan::AskClaim,
            ),
            ("bound", volume("Delete", ours, mine()), claim("u1", "v"), Plan::Bound),
            ("claim chose another", volume("Delete", None, mine()), claim("u1", "w"), Plan::Unbind),
            (
                "made in vain",
                volume("Delete", ours, mine()),
                claim("u1", "w"),
                Plan::Release(Reclaim::RemoveFolder),
            ),
            ("made in vain, kept", volume("Retain", ours, mine()), claim("u1", "w"), Plan::Unbind),
            ("claim is gone", volume("Retain", ours, mine()), None, Plan::Release(Reclaim::Retain)),
            (
                "another claim of that name",
                volume("Delete", ours, mine()),
                claim("u2", "v"),
                Plan::Release(Reclaim::RemoveFolder),
            ),
            (
                "somebody else's",
                volume("Delete", Some("x/y"), mine()),
                None,
                Plan::Release(Reclaim::Others),
            ),
        ];
        for (name, volume, claim, expected) in cases {
            assert_eq!(plan(&volume, claim.as_ref()), expected, "{name}");
        }
        for policy in ["Delete", "Recycle"] {
            assert!(
                matches!(reclaim(&volume(policy, None, mine())), Reclaim::Unable(_)),
                "{policy}"
            );
        }
    }
}
