//! What a pass does with a claim. Pure; the cases, their order and their words
//! are upstream's (`pkg/controller/volume/persistentvolume`).

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use skiff_api::volume::{
    BIND_COMPLETED, Place, SELECTED_NODE, WAIT_FOR_CONSUMER, best_match, class_of_claim,
    is_bound_to, mismatch,
};

use super::{claim_uid, volume_name};
use crate::events::Severity;
use crate::meta;

/// What becomes of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    /// It gets the volume of this name.
    Bind(String),
    /// It names no class, and gets this one: there was no default when it came.
    TakeClass(String),
    /// Its class's provisioner makes a volume.
    Provision,
    /// It waits, and its events say for what.
    Wait(Note),
    /// It waits for its volume to be made; nothing is worth saying.
    WaitQuietly,
    /// It lost its volume for good.
    Lost(Note),
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) severity: Severity,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

fn note(severity: Severity, reason: &'static str, message: impl Into<String>) -> Note {
    Note { severity, reason, message: message.into() }
}

/// Decides for `claim`, given all volumes, its class if there is one, and the
/// name of the default class.
pub(super) fn plan(
    claim: &PersistentVolumeClaim,
    volumes: &[&PersistentVolume],
    class: Option<&StorageClass>,
    default: Option<&str>,
) -> Plan {
    let named = volume_name(claim)
        .map(|name| (name, volumes.iter().find(|v| meta::name(&v.metadata) == name).copied()));
    if meta::annotation(&claim.metadata, BIND_COMPLETED).is_some() {
        return plan_bound(claim, named);
    }
    match named {
        None => plan_unbound(claim, volumes, class, default),
        // It may still come.
        Some((_, None)) => Plan::WaitQuietly,
        Some((name, Some(volume))) => plan_named(claim, name, volume),
    }
}

/// The binding was complete once; it can only hold or be lost.
fn plan_bound(
    claim: &PersistentVolumeClaim,
    named: Option<(&str, Option<&PersistentVolume>)>,
) -> Plan {
    let lost = |reason, message| Plan::Lost(note(Severity::Warning, reason, message));
    match named {
        None => lost(
            "ClaimLost",
            "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
        ),
        Some((_, None)) => lost(
            "ClaimLost",
            "Bound claim has lost its PersistentVolume. Data on the volume is lost!",
        ),
        Some((name, Some(volume))) => match claim_uid(volume) {
            Some(uid) if uid != meta::uid(&claim.metadata) => lost(
                "ClaimMisbound",
                "Two claims are bound to the same volume, this one is bound incorrectly",
            ),
            _ => Plan::Bind(name.to_owned()),
        },
    }
}

/// The user asked for one volume by name.
fn plan_named(claim: &PersistentVolumeClaim, name: &str, volume: &PersistentVolume) -> Plan {
    let wait = |reason, message| Plan::Wait(note(Severity::Warning, reason, message));
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    if reference.is_none() {
        return match mismatch(volume, claim) {
            Ok(()) => Plan::Bind(name.to_owned()),
            Err(why) => {
                wait("VolumeMismatch", format!("Cannot bind to requested volume \"{name}\": {why}"))
            }
        };
    }
    if is_bound_to(volume, claim) {
        return Plan::Bind(name.to_owned());
    }
    wait("FailedBinding", format!("volume \"{name}\" already bound to a different claim."))
}

fn plan_unbound(
    claim: &PersistentVolumeClaim,
    volumes: &[&PersistentVolume],
    class: Option<&StorageClass>,
    default: Option<&str>,
) -> Plan {
    let waits =
        class.is_some_and(|class| class.volume_binding_mode.as_deref() == Some(WAIT_FOR_CONSUMER));
    let delayed = waits && meta::annotation(&claim.metadata, SELECTED_NODE).is_none();
    let place = if delayed { Place::Undecided } else { Place::Anywhere };
    if let Some(volume) = best_match(claim, volumes.iter().copied(), place) {
        return Plan::Bind(meta::name(&volume.metadata).to_owned());
    }
    if class_of_claim(claim).is_none()
        && let Some(default) = default
    {
        return Plan::TakeClass(default.to_owned());
    }
    if delayed {
        return Plan::Wait(note(
            Severity::Normal,
            "WaitForFirstConsumer",
            "waiting for first consumer to be created before binding",
        ));
    }
    let name = class_of_claim(claim).unwrap_or_default();
    match class {
        _ if name.is_empty() => Plan::Wait(note(
            Severity::Normal,
            "FailedBinding",
            "no persistent volumes available for this claim and no storage class is set",
        )),
        None => Plan::Wait(note(
            Severity::Warning,
            "ProvisioningFailed",
            format!("storageclass.storage.k8s.io \"{name}\" not found"),
        )),
        // A class for volumes that people make.
        Some(class) if class.provisioner == "kubernetes.io/no-provisioner" => Plan::WaitQuietly,
        Some(_) => Plan::Provision,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(spec: Value, annotations: Value) -> PersistentVolumeClaim {
        let mut object = json!({
            "metadata": {"name": "data", "namespace": "a", "uid": "u1", "annotations": annotations},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "fast",
                     "resources": {"requests": {"storage": "1Gi"}}},
        });
        for (key, value) in spec.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        serde_json::from_value(object).unwrap()
    }

    fn volume(name: &str, class: &str, reference: Value) -> PersistentVolume {
        serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class, "claimRef": reference,
                     "capacity": {"storage": "1Gi"}, "local": {"path": "/x"}},
            "status": {"phase": "Available"},
        }))
        .unwrap()
    }

    fn class(provisioner: &str, mode: &str) -> StorageClass {
        serde_json::from_value(json!({
            "metadata": {"name": "fast"}, "provisioner": provisioner, "volumeBindingMode": mode,
        }))
        .unwrap()
    }

    #[test]
    fn every_claim_finds_its_way() {
        let none = Value::Null;
        let plain = || claim(json!({}), json!({}));
        let silent = || claim(json!({"storageClassName": null}), json!({}));
        let named = |name: &str| claim(json!({"volumeName": name}), json!({}));
        let bound = |name: &str| claim(json!({"volumeName": name}), json!({BIND_COMPLETED: "yes"}));
        let chosen = || claim(json!({}), json!({SELECTED_NODE: "n1"}));
        let mine = json!({"name": "data", "namespace": "a", "uid": "u1"});
        let other = json!({"name": "other", "namespace": "a", "uid": "u2"});
        let now = || Some(class("x/y", "Immediate"));
        let later = || Some(class("x/y", WAIT_FOR_CONSUMER));
        let free = || vec![volume("v", "fast", none.clone())];
        let with = |reference: &Value| vec![volume("v", "fast", reference.clone())];
        let cases = [
            ("free volume", plain(), free(), now(), "Bind v"),
            ("free volume, class is gone", plain(), free(), None, "Bind v"),
            ("none, make one", plain(), vec![], now(), "Provision"),
            (
                "none of its class",
                plain(),
                vec![volume("v", "slow", none.clone())],
                now(),
                "Provision",
            ),
            (
                "nobody makes them",
                plain(),
                vec![],
                Some(class("kubernetes.io/no-provisioner", "Immediate")),
                "WaitQuietly",
            ),
            ("no such class", plain(), vec![], None, "Wait ProvisioningFailed"),
            (
                "no class",
                claim(json!({"storageClassName": ""}), json!({})),
                vec![],
                None,
                "Wait FailedBinding",
            ),
            ("says nothing", silent(), free(), None, "TakeClass usual"),
            (
                "says nothing, volume of no class",
                silent(),
                vec![volume("v", "", none.clone())],
                None,
                "Bind v",
            ),
            ("waits for a pod", plain(), free(), later(), "Wait WaitForFirstConsumer"),
            ("kept for it while it waits", plain(), with(&mine), later(), "Bind v"),
            ("pod has come", chosen(), vec![], later(), "Provision"),
            ("named and free", named("v"), free(), now(), "Bind v"),
            ("named, not there", named("v"), vec![], now(), "WaitQuietly"),
            ("named, of another", named("v"), with(&other), now(), "Wait FailedBinding"),
            (
                "named, does not fit",
                named("v"),
                vec![volume("v", "slow", none.clone())],
                now(),
                "Wait VolumeMismatch",
            ),
            ("bound", bound("v"), with(&mine), now(), "Bind v"),
            ("bound, volume is gone", bound("v"), vec![], now(), "Lost ClaimLost"),
            ("bound, name is gone", bound(""), vec![], now(), "Lost ClaimLost"),
            (
                "bound to the volume of another",
                bound("v"),
                with(&other),
                now(),
                "Lost ClaimMisbound",
            ),
        ];
        for (name, claim, volumes, class, expected) in cases {
            let volumes: Vec<_> = volumes.iter().collect();
            let found = match plan(&claim, &volumes, class.as_ref(), Some("usual")) {
                Plan::Bind(volume) => format!("Bind {volume}"),
                Plan::TakeClass(class) => format!("TakeClass {class}"),
                Plan::Provision => "Provision".into(),
                Plan::Wait(note) => format!("Wait {}", note.reason),
                Plan::WaitQuietly => "WaitQuietly".into(),
                Plan::Lost(note) => format!("Lost {}", note.reason),
            };
            assert_eq!(found, expected, "{name}");
        }
    }
}
