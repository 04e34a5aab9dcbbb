//! Protection: a claim stays while a pod uses it, a volume while it is bound.
//!
//! Admission puts the finalizers on. Here they come off, when the object is to
//! be deleted and nobody uses it any more; an object that lacks one gets it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::Resource;
use kube::api::ListParams;
use serde::de::DeserializeOwned;
use serde_json::json;
use skiff_api::volume::{CLAIM_PROTECTION, VOLUME_PROTECTION, claim_name};
use skiff_client::Api;

use super::{volume_phase, write};
use crate::context::Context;
use crate::error::{Doing, Error};
use crate::meta::{self, Key};
use crate::pods;
use crate::queue::Queue;
use crate::runner::{Controller, Next};

/// Protects claims.
pub(crate) struct ClaimProtection {
    context: Context,
}

/// Protects volumes.
pub(crate) struct VolumeProtection {
    context: Context,
}

/// What happens to a finalizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    Keep,
    PutOn,
    TakeOff,
}

fn plan(deleting: bool, protected: bool, used: bool) -> Plan {
    match (deleting, protected) {
        (false, false) => Plan::PutOn,
        (true, true) if !used => Plan::TakeOff,
        _ => Plan::Keep,
    }
}

/// The claims that a pod on a node uses. Before it has a node it uses none: the
/// agent will not start it with a claim that is going.
fn claims_used(pod: &Pod) -> impl Iterator<Item = Key> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let (namespace, name) = (meta::namespace(&pod.metadata), meta::name(&pod.metadata));
    volumes
        .filter(|_| !pods::node_name(pod).is_empty())
        .filter_map(move |volume| Some(Key::new(namespace, &claim_name(name, volume)?)))
}

impl ClaimProtection {
    /// The controller and the queue that the caches feed.
    pub(crate) fn new(context: &Context) -> (Arc<Self>, Queue<Key>) {
        let queue = Queue::new();
        let tx = queue.clone();
        context.caches.claims.subscribe(move |_, new| {
            if let Some(claim) = new
                && plan(
                    meta::is_deleting(&claim.metadata),
                    meta::has_finalizer(&claim.metadata, CLAIM_PROTECTION),
                    false,
                ) != Plan::Keep
            {
                tx.add(Key::of(&claim.metadata));
            }
        });
        let tx = queue.clone();
        context.caches.pods.subscribe(move |old, new| {
            if new.is_none()
                && let Some(pod) = old
            {
                claims_used(pod).for_each(|claim| tx.add(claim));
            }
        });
        (Arc::new(Self { context: context.clone() }), queue)
    }

    /// Whether a pod uses the claim: first by the cache, then by the server,
    /// since a pod may have come a moment ago.
    async fn is_used(&self, claim: &Key) -> Result<bool, Error> {
        let uses = |pod: &Pod| claims_used(pod).any(|used| used == *claim);
        if self.context.caches.pods.in_namespace(&claim.namespace).iter().any(|pod| uses(pod)) {
            return Ok(true);
        }
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &claim.namespace);
        let live = api.list(&ListParams::default()).await;
        let live = live.doing(|| format!("list pods of namespace {}", claim.namespace))?;
        Ok(live.iter().any(uses))
    }
}

impl Controller for ClaimProtection {
    type Key = Key;
    const NAME: &'static str = "claim-protection";

    async fn pass(&self, key: &Key) -> Result<Next, Error> {
        let Some(claim) = self.context.caches.claims.get(key) else { return Ok(Next::OnChange) };
        let claim: &PersistentVolumeClaim = &claim;
        let used = meta::is_deleting(&claim.metadata) && self.is_used(key).await?;
        apply(&self.context, claim, CLAIM_PROTECTION, used).await
    }
}

impl VolumeProtection {
    /// The controller and the queue that the caches feed.
    pub(crate) fn new(context: &Context) -> (Arc<Self>, Queue<Key>) {
        let queue = Queue::new();
        let tx = queue.clone();
        context.caches.volumes.subscribe(move |_, new| {
            if let Some(volume) = new {
                tx.add(Key::of(&volume.metadata));
            }
        });
        (Arc::new(Self { context: context.clone() }), queue)
    }
}

impl Controller for VolumeProtection {
    type Key = Key;
    const NAME: &'static str = "volume-protection";

    async fn pass(&self, key: &Key) -> Result<Next, Error> {
        let Some(volume) = self.context.caches.volumes.get(key) else { return Ok(Next::OnChange) };
        let volume: &PersistentVolume = &volume;
        let used = volume_phase(volume) == Some("Bound");
        apply(&self.context, volume, VOLUME_PROTECTION, used).await
    }
}

async fn apply<K: Resource<DynamicType = ()> + DeserializeOwned>(
    context: &Context,
    object: &K,
    finalizer: &str,
    used: bool,
) -> Result<Next, Error> {
    let meta = object.meta();
    let protected = meta::has_finalizer(meta, finalizer);
    let mut finalizers = meta.finalizers.clone().unwrap_or_default();
    match plan(meta::is_deleting(meta), protected, used) {
        Plan::Keep => return Ok(Next::OnChange),
        Plan::PutOn => finalizers.push(finalizer.to_owned()),
        Plan::TakeOff => finalizers.retain(|one| one != finalizer),
    }
    let patch = json!({"metadata": {"finalizers": finalizers}});
    write::patch(&context.client, object, patch, false).await?;
    Ok(Next::OnChange)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_finalizer_comes_off_when_nobody_uses_what_is_going() {
        let cases = [
            ((false, true, false), Plan::Keep),
            ((false, false, false), Plan::PutOn),
            ((true, true, true), Plan::Keep),
            ((true, true, false), Plan::TakeOff),
            ((true, false, false), Plan::Keep),
        ];
        for ((deleting, protected, used), expected) in cases {
            assert_eq!(plan(deleting, protected, used), expected, "{deleting} {protected} {used}");
        }
    }

    #[test]
    fn a_pod_uses_claims_once_it_has_a_node() {
        let mut pod = testing::pod("web");
        let spec = json!({"containers": [], "volumes": [
            {"name": "a", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "b", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
            {"name": "c", "emptyDir": {}},
        ]});
        pod.spec = Some(serde_json::from_value(spec).unwrap());
        assert_eq!(claims_used(&pod).count(), 0);
        pod.spec.as_mut().unwrap().node_name = Some("n".into());
        let names: Vec<String> = claims_used(&pod).map(|key| key.name).collect();
        assert_eq!(names, ["data", "web-b"]);
    }
}
