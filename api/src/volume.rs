//! Which persistent volume serves which claim.
//!
//! Shared by the controller, which binds, and the scheduler, which chooses a
//! node with the volume in mind. The rules and their order are upstream's
//! `FindMatchingVolume` (k8s.io/component-helpers/storage/volume).

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeSpec,
    Volume,
};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::quantity::Quantity;
use crate::selector::LabelSelector;

/// Finalizer of a claim: goes when no pod uses the claim any more.
pub const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
/// Finalizer of a volume: goes when the volume is bound to no claim.
pub const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";
/// Annotation of a claim whose binding is complete.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// Annotation of a claim or volume whose reference the controller filled in.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// Annotation of a volume: which provisioner made it.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Annotation of a claim: which provisioner is to make its volume.
pub const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// Annotation of a claim: the node that the scheduler chose for its first pod.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Annotation by which claims named their class before they had a field.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
/// Annotation of the class that claims without one get.
pub const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
/// The provisioner of folders on nodes that is part of Skiff.
pub const LOCAL_PROVISIONER: &str = "skiff.dev/local";
/// Annotation of a node: the folder under which it keeps such volumes.
pub const LOCAL_VOLUMES_DIR: &str = "skiff.dev/local-volumes";
/// The binding mode of a class whose volumes wait for a pod.
pub const WAIT_FOR_CONSUMER: &str = "WaitForFirstConsumer";

/// Where a claim's volume has to be.
#[derive(Clone, Copy)]
pub enum Place<'a> {
    /// Anywhere.
    Anywhere,
    /// Not known yet: only a volume that was made for the claim will do.
    Undecided,
    /// Where this says that the volume can be reached.
    Reached(&'a dyn Fn(&PersistentVolume) -> bool),
}

/// The name of the claim's class; `None` when it does not say, `Some("")` when
/// it wants none.
pub fn class_of_claim(claim: &PersistentVolumeClaim) -> Option<&str> {
    let annotations = claim.metadata.annotations.as_ref();
    annotations
        .and_then(|all| all.get(CLASS_ANNOTATION))
        .or_else(|| claim.spec.as_ref()?.storage_class_name.as_ref())
        .map(String::as_str)
}

/// The class that a claim without one gets, of classes with these metadata: of
/// several that are the default the newest, of equally old ones the first by
/// name.
pub fn default_class<'a>(classes: impl IntoIterator<Item = &'a ObjectMeta>) -> Option<&'a str> {
    let is_default = |class: &&ObjectMeta| {
        let annotations = class.annotations.as_ref();
        annotations.and_then(|all| all.get(DEFAULT_CLASS)).is_some_and(|text| text == "true")
    };
    let defaults = classes.into_iter().filter(is_default);
    let first = defaults.min_by_key(|class| {
        (class.creation_timestamp.as_ref().map(|time| Reverse(time.0)), class.name.as_deref())
    });
    first?.name.as_deref()
}

/// The name of the volume's class, empty when it has none.
pub fn class_of_volume(volume: &PersistentVolume) -> &str {
    let annotations = volume.metadata.annotations.as_ref();
    annotations
        .and_then(|all| all.get(CLASS_ANNOTATION))
        .or_else(|| volume.spec.as_ref()?.storage_class_name.as_ref())
        .map_or("", String::as_str)
}

/// The name of the claim behind a volume of the pod `pod`, if it is one. A
/// generic ephemeral volume has a claim named after pod and volume.
pub fn claim_name(pod: &str, volume: &Volume) -> Option<String> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => Some(format!("{pod}-{}", volume.name)),
        (None, None) => None,
    }
}

/// Whether the volume is this claim's, or kept for it by name.
pub fn is_bound_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    reference.is_some_and(|reference| {
        reference.name == claim.metadata.name
            && reference.namespace == claim.metadata.namespace
            && reference
                .uid
                .as_ref()
                .is_none_or(|uid| uid.is_empty() || Some(uid) == claim.metadata.uid.as_ref())
    })
}

/// Why a volume that the claim names cannot serve it, in upstream's words.
pub fn mismatch(
    volume: &PersistentVolume,
    claim: &PersistentVolumeClaim,
) -> Result<(), &'static str> {
    let (offer, ask) = (offer(volume), ask(claim));
    if capacity(offer) < requested(ask) {
        return Err("requested PV is too small");
    }
    if class_of_volume(volume) != class_of_claim(claim).unwrap_or_default() {
        return Err("storageClassName does not match");
    }
    if mode(offer.volume_mode.as_deref()) != mode(ask.volume_mode.as_deref()) {
        return Err("incompatible volumeMode");
    }
    if !access_fits(offer, ask) {
        return Err("incompatible accessMode");
    }
    Ok(())
}

/// The volume for `claim`: one that was made for it, or the smallest free one
/// that is large enough; the first by name among equals.
pub fn best_match<'a>(
    claim: &PersistentVolumeClaim,
    volumes: impl IntoIterator<Item = &'a PersistentVolume>,
    place: Place<'_>,
) -> Option<&'a PersistentVolume> {
    let ask = ask(claim);
    // A selector that cannot be read selects nothing; validation refuses it.
    let selector = match &ask.selector {
        None => None,
        Some(selector) => Some(LabelSelector::from_object(selector).ok()?),
    };
    let mut best: Option<(Quantity, &PersistentVolume)> = None;
    for volume in volumes {
        let offer = offer(volume);
        let size = capacity(offer);
        if volume.metadata.deletion_timestamp.is_some()
            || (offer.claim_ref.is_some() && !is_bound_to(volume, claim))
            || size < requested(ask)
            || mode(offer.volume_mode.as_deref()) != mode(ask.volume_mode.as_deref())
        {
            continue;
        }
        let reached = match place {
            Place::Anywhere | Place::Undecided => true,
            Place::Reached(reaches) => reaches(volume),
        };
        if is_bound_to(volume, claim) {
            return reached.then_some(volume);
        }
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        let labels = volume.metadata.labels.as_ref();
        if matches!(place, Place::Undecided)
            || phase != Some("Available")
            || selector.as_ref().is_some_and(|selector| !selector.matches_labels(labels))
            || class_of_volume(volume) != class_of_claim(claim).unwrap_or_default()
            || !access_fits(offer, ask)
            || !reached
        {
            continue;
        }
        let name = |volume: &PersistentVolume| volume.metadata.name.clone();
        if best.is_none_or(|(least, known)| (size, name(volume)) < (least, name(known))) {
            best = Some((size, volume));
        }
    }
    best.map(|(_, volume)| volume)
}

fn ask(claim: &PersistentVolumeClaim) -> &PersistentVolumeClaimSpec {
    static NOTHING: LazyLock<PersistentVolumeClaimSpec> = LazyLock::new(Default::default);
    claim.spec.as_ref().unwrap_or(&NOTHING)
}

fn offer(volume: &PersistentVolume) -> &PersistentVolumeSpec {
    static NOTHING: LazyLock<PersistentVolumeSpec> = LazyLock::new(Default::default);
    volume.spec.as_ref().unwrap_or(&NOTHING)
}

fn requested(ask: &PersistentVolumeClaimSpec) -> Quantity {
    let requests = ask.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    storage(requests)
}

fn capacity(offer: &PersistentVolumeSpec) -> Quantity {
    storage(offer.capacity.as_ref())
}

fn storage(list: Option<&BTreeMap<String, Amount>>) -> Quantity {
    let amount = list.and_then(|list| list.get("storage"));
    amount.and_then(|amount| amount.0.parse().ok()).unwrap_or_default()
}

fn mode(mode: Option<&str>) -> &str {
    mode.unwrap_or("Filesystem")
}

fn access_fits(offer: &PersistentVolumeSpec, ask: &PersistentVolumeClaimSpec) -> bool {
    let offered = offer.access_modes.as_deref().unwrap_or_default();
    ask.access_modes.iter().flatten().all(|mode| offered.contains(mode))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(spec: Value) -> PersistentVolumeClaim {
        let mut object = json!({
            "metadata": {"name": "data", "namespace": "a", "uid": "u1"},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}},
        });
        crate::patch::apply_merge(&mut object["spec"], &spec);
        serde_json::from_value(object).unwrap()
    }

    fn volume(name: &str, spec: Value) -> PersistentVolume {
        let mut object = json!({
            "metadata": {"name": name, "labels": {"disk": "ssd"}},
            "spec": {"accessModes": ["ReadWriteOnce", "ReadOnlyMany"], "storageClassName": "fast",
                     "capacity": {"storage": "1Gi"}, "local": {"path": "/x"}},
            "status": {"phase": "Available"},
        });
        crate::patch::apply_merge(&mut object["spec"], &spec);
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn of_several_default_classes_the_newest_counts() {
        let class = |name: &str, default: &str, year: u16| -> ObjectMeta {
            let meta = json!({
                "name": name, "annotations": {DEFAULT_CLASS: default},
                "creationTimestamp": format!("{year}-01-01T00:00:00Z"),
            });
            serde_json::from_value(meta).unwrap()
        };
        let cases = [
            (vec![("a", "false", 2024), ("b", "", 2024)], None),
            (vec![("a", "true", 2024), ("b", "true", 2025), ("c", "false", 2026)], Some("b")),
            (vec![("b", "true", 2024), ("a", "true", 2024)], Some("a")),
        ];
        for (classes, expected) in cases {
            let classes: Vec<_> =
                classes.iter().map(|(name, is, year)| class(name, is, *year)).collect();
            assert_eq!(default_class(&classes), expected, "{classes:?}");
        }
    }

    #[test]
    fn a_volume_must_fit_in_every_respect() {
        let mine = json!({"claimRef": {"name": "data", "namespace": "a", "uid": "u1"}});
        let cases = [
            ("equal", json!({}), json!({}), true),
            ("smaller", json!({}), json!({"capacity": {"storage": "1023Mi"}}), false),
            ("another class", json!({}), json!({"storageClassName": "slow"}), false),
            ("no class", json!({"storageClassName": ""}), json!({"storageClassName": null}), true),
            ("mode", json!({"volumeMode": "Block"}), json!({}), false),
            ("access", json!({"accessModes": ["ReadWriteMany"]}), json!({}), false),
            ("selector", json!({"selector": {"matchLabels": {"disk": "ssd"}}}), json!({}), true),
            (
                "not selected",
                json!({"selector": {"matchLabels": {"disk": "hdd"}}}),
                json!({}),
                false,
            ),
            ("taken", json!({}), json!({"claimRef": {"name": "other", "namespace": "a"}}), false),
            (
                "an earlier life's",
                json!({}),
                json!({"claimRef": {"name": "data", "namespace": "a", "uid": "u0"}}),
                false,
            ),
            (
                "kept for it",
                json!({}),
                json!({"claimRef": {"name": "data", "namespace": "a"}}),
                true,
            ),
            ("kept for it, whatever the class", json!({"storageClassName": "slow"}), mine, true),
        ];
        for (name, ask, offer, fits) in cases {
            let volumes = [volume("v", offer)];
            let found = best_match(&claim(ask), &volumes, Place::Anywhere);
            assert_eq!(found.is_some(), fits, "{name}");
        }
        let mut busy = volume("v", json!({}));
        busy.status = None;
        assert!(best_match(&claim(json!({})), [&busy], Place::Anywhere).is_none(), "not ready yet");
    }

    #[test]
    fn the_smallest_that_can_be_reached_is_taken() {
        let size = |name: &str, size: &str| volume(name, json!({"capacity": {"storage": size}}));
        let volumes = [size("big", "9Gi"), size("b", "2Gi"), size("a", "2Gi"), size("tiny", "1Mi")];
        let name = |place| {
            best_match(&claim(json!({})), &volumes, place)
                .and_then(|found| found.metadata.name.clone())
        };
        assert_eq!(name(Place::Anywhere).as_deref(), Some("a"));
        let big = |volume: &PersistentVolume| volume.metadata.name.as_deref() == Some("big");
        assert_eq!(name(Place::Reached(&big)).as_deref(), Some("big"));
        assert_eq!(name(Place::Reached(&|_| false)), None);
        assert_eq!(name(Place::Undecided), None);
    }

    #[test]
    fn a_named_volume_that_does_not_fit_says_why() {
        let cases = [
            (json!({}), Ok(())),
            (json!({"capacity": {"storage": "1"}}), Err("requested PV is too small")),
            (json!({"storageClassName": "x"}), Err("storageClassName does not match")),
            (json!({"volumeMode": "Block"}), Err("incompatible volumeMode")),
            (json!({"accessModes": ["ReadOnlyMany"]}), Err("incompatible accessMode")),
        ];
        for (offer, expected) in cases {
            assert_eq!(
                mismatch(&volume("v", offer.clone()), &claim(json!({}))),
                expected,
                "{offer}"
            );
        }
    }
}
