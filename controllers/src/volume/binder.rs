//! Carries the plans out: the four steps of a binding, phases, and what
//! happens to a volume whose claim is gone.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Resource;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skiff_api::volume::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, LOCAL_PROVISIONER, PROVISIONER, class_of_claim,
    default_class,
};
use skiff_client::Api;
use tracing::info;

use super::bound::{self, Reclaim};
use super::claim::{self, Note};
use super::local::Local;
use super::write;
use super::{claim_key, claim_phase, claim_uid, volume_name, volume_phase};
use crate::context::Context;
use crate::error::{Doing, Error};
use crate::events::Severity;
use crate::meta::{self, Key};
use crate::queue::Queue;
use crate::runner::{Controller, Next};

/// In whose name events are recorded.
const COMPONENT: &str = "persistentvolume-controller";
/// The same annotation as [`PROVISIONER`], which older provisioners look for.
const BETA_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";

/// What a pass is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Task {
    /// A claim.
    Claim(Key),
    /// A volume.
    Volume(Key),
}

/// Index term of the volumes that refer to a claim.
pub(crate) fn by_claim(claim: &Key) -> String {
    claim.to_string()
}

/// The index terms of a volume.
pub(crate) fn index_volume(volume: &PersistentVolume) -> Vec<String> {
    claim_key(volume).map(|key| by_claim(&key)).into_iter().collect()
}

/// The binder.
pub(crate) struct VolumeBinder {
    context: Context,
    local: Local,
}

impl VolumeBinder {
    /// The controller and the queue that the caches feed.
    pub(crate) fn new(context: &Context) -> (Arc<Self>, Queue<Task>) {
        let queue = Queue::new();
        let caches = &context.caches;
        let (tx, volumes) = (queue.clone(), caches.volumes.clone());
        caches.claims.subscribe(move |old, new| {
            let Some(claim) = new.or(old) else { return };
            let key = Key::of(&claim.metadata);
            for volume in volumes.indexed(&by_claim(&key)) {
                tx.add(Task::Volume(Key::of(&volume.metadata)));
            }
            tx.add(Task::Claim(key));
        });
        let (tx, claims) = (queue.clone(), caches.claims.clone());
        caches.volumes.subscribe(move |old, new| {
            for volume in old.into_iter().chain(new) {
                tx.add(Task::Volume(Key::of(&volume.metadata)));
                claim_key(volume).into_iter().for_each(|key| tx.add(Task::Claim(key)));
            }
            // A volume that is free may be what somebody waits for; one that is
            // gone may be somebody's loss.
            let free = new.is_none_or(|volume| claim_uid(volume).is_none());
            for claim in claims.all().into_iter().filter(|_| free) {
                let lost =
                    old.is_some_and(|old| volume_name(&claim) == old.metadata.name.as_deref());
                if lost || claim_phase(&claim) != Some("Bound") {
                    tx.add(Task::Claim(Key::of(&claim.metadata)));
                }
            }
        });
        let (tx, claims) = (queue.clone(), caches.claims.clone());
        caches.storage_classes.subscribe(move |old, new| {
            let name = new.or(old).map(|class| meta::name(&class.metadata));
            for claim in claims.all() {
                // Those that say nothing may get it.
                let concerned = class_of_claim(&claim).is_none_or(|own| Some(own) == name);
                if concerned && claim_phase(&claim) != Some("Bound") {
                    tx.add(Task::Claim(Key::of(&claim.metadata)));
                }
            }
        });
        (Arc::new(Self { context: context.clone(), local: Local::new(context) }), queue)
    }

    fn tell<K: Resource<DynamicType = ()>>(&self, object: &K, note: Note) {
        let regarding = meta::object_reference(object);
        let Note { severity, reason, message } = note;
        self.context.events.record(COMPONENT, &regarding, severity, reason, message);
    }

    async fn claim(&self, claim: &PersistentVolumeClaim) -> Result<Next, Error> {
        let caches = &self.context.caches;
        let class = class_of_claim(claim).filter(|name| !name.is_empty());
        let class = class.and_then(|name| caches.storage_classes.get(&Key::new("", name)));
        let volumes = caches.volumes.all();
        let volumes: Vec<&PersistentVolume> = volumes.iter().map(AsRef::as_ref).collect();
        let classes = caches.storage_classes.all();
        let default = default_class(classes.iter().map(|class| &class.metadata));
        match claim::plan(claim, &volumes, class.as_deref(), default) {
            claim::Plan::Bind(name) => {
                if let Some(volume) = caches.volumes.get(&Key::new("", &name)) {
                    self.bind(claim, &volume).await?;
                }
            }
            claim::Plan::TakeClass(name) => {
                // The watch brings the claim back with it.
                self.patch(claim, json!({"spec": {"storageClassName": name}}), false).await?;
            }
            claim::Plan::Provision => {
                self.pending(claim).await?;
                if let Some(class) = class {
                    self.provision(claim, &class).await?;
                }
            }
            claim::Plan::Wait(note) => {
                self.tell(claim, note);
                self.pending(claim).await?;
            }
            claim::Plan::WaitQuietly => self.pending(claim).await?,
            claim::Plan::Lost(note) => {
                if claim_phase(claim) != Some("Lost") {
                    self.claim_status(claim, json!({"phase": "Lost"})).await?;
                    self.tell(claim, note);
                }
            }
        }
        Ok(Next::OnChange)
    }

    async fn provision(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
    ) -> Result<(), Error> {
        let maker = class.provisioner.as_str();
        if meta::annotation(&claim.metadata, PROVISIONER) != Some(maker) {
            let annotations = json!({PROVISIONER: maker, BETA_PROVISIONER: maker});
            self.patch(claim, json!({"metadata": {"annotations": annotations}}), false).await?;
            // The watch brings the claim back with it.
            return Ok(());
        }
        if maker == LOCAL_PROVISIONER {
            return self.local.provision(claim, class).await;
        }
        let message = format!(
            "Waiting for a volume to be created either by the external provisioner '{maker}' or \
             manually by the system administrator. If volume creation is delayed, please verify \
             that the provisioner is running and correctly registered."
        );
        let note = Note { severity: Severity::Normal, reason: "ExternalProvisioning", message };
        self.tell(claim, note);
        Ok(())
    }

    /// The four steps; each is skipped when it is done already.
    async fn bind(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> Result<(), Error> {
        let mut volume = volume.clone();
        if claim_uid(&volume) != claim.metadata.uid.as_deref() {
            let mut patch = json!({"spec": {"claimRef": meta::object_reference(claim)}});
            if volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_none()) {
                patch["metadata"]["annotations"] = json!({BOUND_BY_CONTROLLER: "yes"});
            }
            volume = self.patch(&volume, patch, false).await?;
        }
        if volume_phase(&volume) != Some("Bound") {
            volume = self.volume_phase(&volume, "Bound", "").await?;
        }
        let name = meta::name(&volume.metadata);
        let mut claim = claim.clone();
        let completed = meta::annotation(&claim.metadata, BIND_COMPLETED).is_some();
        if volume_name(&claim) != Some(name) || !completed {
            let mut annotations = json!({BIND_COMPLETED: "yes"});
            if volume_name(&claim) != Some(name) {
                annotations[BOUND_BY_CONTROLLER] = json!("yes");
            }
            let patch =
                json!({"metadata": {"annotations": annotations}, "spec": {"volumeName": name}});
            claim = self.patch(&claim, patch, false).await?;
        }
        if claim_phase(&claim) != Some("Bound") {
            let spec = volume.spec.as_ref();
            let status = json!({
                "phase": "Bound",
                "accessModes": spec.and_then(|spec| spec.access_modes.clone()),
                "capacity": spec.and_then(|spec| spec.capacity.clone()),
            });
            self.claim_status(&claim, status).await?;
            info!(claim = %Key::of(&claim.metadata), volume = name, "bound");
        }
        Ok(())
    }

    async fn volume(&self, volume: &PersistentVolume) -> Result<Next, Error> {
        let claim = claim_key(volume).and_then(|key| self.context.caches.claims.get(&key));
        match bound::plan(volume, claim.as_deref()) {
            bound::Plan::Available => {
                if volume_phase(volume) != Some("Available") {
                    self.volume_phase(volume, "Available", "").await?;
                }
            }
            bound::Plan::Bound => {
                if volume_phase(volume) != Some("Bound") {
                    self.volume_phase(volume, "Bound", "").await?;
                }
            }
            // Its pass was queued together with this one.
            bound::Plan::AskClaim => {}
            bound::Plan::Unbind => {
                let mut patch = json!({"spec": {"claimRef": null}});
                if bound::controller_bound_it(volume) {
                    patch["metadata"]["annotations"] = json!({BOUND_BY_CONTROLLER: null});
                } else {
                    patch["spec"]["claimRef"] = json!({"uid": null, "resourceVersion": null});
                }
                let volume = self.patch(volume, patch, false).await?;
                self.volume_phase(&volume, "Available", "").await?;
            }
            bound::Plan::Release(reclaim) => return self.release(volume, reclaim).await,
        }
        Ok(Next::OnChange)
    }

    async fn release(&self, volume: &PersistentVolume, reclaim: Reclaim) -> Result<Next, Error> {
        // The cache of claims may lag behind a binding that was just made.
        if let Some(key) = claim_key(volume)
            && self.claim_lives(&key, claim_uid(volume)).await?
        {
            return Err(Error::Unfinished(format!("claim {key} is not in the cache yet")));
        }
        let mut volume = volume.clone();
        if !bound::is_released(&volume) {
            volume = self.volume_phase(&volume, "Released", "").await?;
        }
        match reclaim {
            Reclaim::Others => {}
            Reclaim::Retain => self.local.let_go(&volume).await?,
            Reclaim::RemoveFolder => {
                if let Err(error) = self.local.remove(&volume).await {
                    let message = crate::error::chain(&error);
                    self.fail(&volume, "VolumeFailedDelete", &message).await?;
                    return Err(error);
                }
            }
            Reclaim::Unable(why) => {
                let policy = volume.spec.as_ref();
                let policy =
                    policy.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
                let reason = match policy {
                    Some("Recycle") => "VolumeFailedRecycle",
                    _ => "VolumeFailedDelete",
                };
                self.fail(&volume, reason, why).await?;
            }
        }
        Ok(Next::OnChange)
    }

    async fn claim_lives(&self, key: &Key, uid: Option<&str>) -> Result<bool, Error> {
        let api: Api<PersistentVolumeClaim> =
            Api::namespaced(self.context.client.clone(), &key.namespace);
        let live = api.into_untyped().get_metadata_opt(&key.name).await;
        let live = live.doing(|| format!("get claim {key}"))?;
        Ok(live.is_some_and(|live| live.metadata.uid.as_deref() == uid))
    }

    async fn fail(
        &self,
        volume: &PersistentVolume,
        reason: &'static str,
        message: &str,
    ) -> Result<(), Error> {
        if volume_phase(volume) != Some("Failed") {
            self.volume_phase(volume, "Failed", message).await?;
        }
        let note = Note { severity: Severity::Warning, reason, message: message.to_owned() };
        self.tell(volume, note);
        Ok(())
    }

    async fn pending(&self, claim: &PersistentVolumeClaim) -> Result<(), Error> {
        if claim_phase(claim) != Some("Pending") {
            self.claim_status(claim, json!({"phase": "Pending"})).await?;
        }
        Ok(())
    }

    async fn claim_status(
        &self,
        claim: &PersistentVolumeClaim,
        status: Value,
    ) -> Result<PersistentVolumeClaim, Error> {
        self.patch(claim, json!({"status": status}), true).await
    }

    async fn volume_phase(
        &self,
        volume: &PersistentVolume,
        phase: &str,
        message: &str,
    ) -> Result<PersistentVolume, Error> {
        let message = (!message.is_empty()).then_some(message);
        let patch = json!({"status": {
            "phase": phase,
            "message": message,
            "lastPhaseTransitionTime": meta::time(meta::now()),
        }});
        self.patch(volume, patch, true).await
    }

    async fn patch<K: Resource<DynamicType = ()> + DeserializeOwned>(
        &self,
        object: &K,
        patch: Value,
        status: bool,
    ) -> Result<K, Error> {
        write::patch(&self.context.client, object, patch, status).await
    }
}

impl Controller for VolumeBinder {
    type Key = Task;
    const NAME: &'static str = "volume-binder";

    async fn pass(&self, task: &Task) -> Result<Next, Error> {
        let caches = &self.context.caches;
        match task {
            // A claim or volume that is going takes no new partner; what it
            // holds is settled when it is gone, or by the other's pass.
            Task::Claim(key) => match caches.claims.get(key) {
                Some(claim) if !meta::is_deleting(&claim.metadata) => self.claim(&claim).await,
                _ => Ok(Next::OnChange),
            },
            Task::Volume(key) => match caches.volumes.get(key) {
                Some(volume) => self.volume(&volume).await,
                None => Ok(Next::OnChange),
            },
        }
    }
}
