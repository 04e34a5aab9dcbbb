//! Claims that only one pod at a time may use (`ReadWriteOncePod`).
//!
//! The scheduler keeps pods apart that name the same one. This is for pods that
//! come past it: the first on the node has the claim until it has ended, and the
//! others wait, as with upstream's kubelet.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::{ContainerStatus, PersistentVolume, Pod};
use skiff_api::volume::claim_name;

use super::model::{has_ended, spec, uid};

/// Who has which claim on this node. Empty after a start of the agent: then those
/// that run have theirs.
#[derive(Debug, Default)]
pub struct ExclusiveClaims {
    /// UIDs of pods, by namespace and name of the claim.
    holders: Mutex<BTreeMap<(String, String), String>>,
}

impl ExclusiveClaims {
    /// Takes the claim for `pod`; why it has to wait if one of `others`, the pods of
    /// this node, has it.
    pub fn take(&self, pod: &Pod, claim: &str, others: &[Arc<Pod>]) -> Result<(), String> {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let key = (namespace, claim.to_owned());
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        let is_here = |one: &str| others.iter().any(|other| uid(other) == one);
        holders.retain(|_, holder| is_here(holder));
        let holder = holders.get(&key).map(String::as_str);
        let has_it = |other: &Pod| {
            uid(other) != uid(pod)
                && !has_ended(other)
                && uses(other, &key)
                && (holder == Some(uid(other)) || (holder.is_none() && runs(other)))
        };
        if others.iter().any(|other| has_it(other)) {
            return Err("volume uses the ReadWriteOncePod access mode and is already in use by \
                        another pod"
                .to_owned());
        }
        holders.insert(key, uid(pod).to_owned());
        Ok(())
    }
}

/// Whether only one pod at a time may use the volume.
pub fn is_exclusive(volume: &PersistentVolume) -> bool {
    let modes = volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref());
    modes.unwrap_or_default().iter().any(|mode| mode == "ReadWriteOncePod")
}

fn uses(pod: &Pod, (namespace, claim): &(String, String)) -> bool {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let mut volumes = spec(pod).volumes.iter().flatten();
    pod.metadata.namespace.as_ref() == Some(namespace)
        && volumes.any(|volume| claim_name(name, volume).as_ref() == Some(claim))
}

/// Whether the API has a container of the pod as running.
fn runs(pod: &Pod) -> bool {
    let is_running =
        |one: &ContainerStatus| one.state.as_ref().is_some_and(|state| state.running.is_some());
    pod.status.as_ref().is_some_and(|status| {
        let all = [&status.init_container_statuses, &status.container_statuses];
        all.into_iter().flatten().flatten().any(is_running)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, status: Value) -> Arc<Pod> {
        let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
        let pod = json!({"metadata": {"name": name, "namespace": "ns", "uid": name},
            "spec": {"containers": [], "volumes": volumes}, "status": status});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn running() -> Value {
        json!({"phase": "Running", "containerStatuses": [{"name": "a", "image": "", "imageID": "",
            "ready": true, "restartCount": 0, "state": {"running": {}}}]})
    }

    #[test]
    fn the_first_has_the_claim_until_it_has_ended() {
        let claims = ExclusiveClaims::default();
        let (a, b) = (pod("a", json!({})), pod("b", json!({})));
        let here = [a.clone(), b.clone()];
        assert_eq!(claims.take(&a, "c", &here), Ok(()));
        assert_eq!(claims.take(&a, "c", &here), Ok(()), "it has it");
        let why = claims.take(&b, "c", &here).unwrap_err();
        assert!(why.contains("already in use by another pod"), "{why}");
        assert_eq!(claims.take(&b, "other", &here), Ok(()));

        let ended = [pod("a", json!({"phase": "Succeeded"})), b.clone()];
        assert_eq!(claims.take(&b, "c", &ended), Ok(()));
        assert!(claims.take(&a, "c", &here).is_err());
        assert_eq!(claims.take(&a, "c", std::slice::from_ref(&a)), Ok(()), "the other has gone");
    }

    #[test]
    fn after_a_start_of_the_agent_who_runs_has_it() {
        let claims = ExclusiveClaims::default();
        let (waits, runs) = (pod("waits", json!({"phase": "Pending"})), pod("runs", running()));
        let here = [waits.clone(), runs.clone()];
        assert!(claims.take(&waits, "c", &here).is_err(), "whoever asks first");
        assert_eq!(claims.take(&runs, "c", &here), Ok(()));
        assert!(claims.take(&waits, "c", &here).is_err());
    }
}
