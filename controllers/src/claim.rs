//! Claim: which objects a controller owns, which it may adopt and which it has
//! to let go.
//!
//! A controller owns what refers to it and matches its selector. It adopts
//! matching objects that nobody controls, and releases its own that stopped
//! matching. Adoption first looks at the owner on the server: a cache could
//! still show an owner that is already being deleted, and what it adopted then
//! would be deleted with it.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Patch, PatchParams};
use kube::core::Selector;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;
use skiff_client::Api;
use tracing::debug;

use crate::error::{Doing, Error, ignore_not_found};
use crate::meta;

/// The sorted candidates.
#[derive(Debug, PartialEq)]
pub(crate) struct Claim<T> {
    /// Owned and matching, whether being deleted or not.
    pub(crate) owned: Vec<Arc<T>>,
    /// Matching and without a controller.
    pub(crate) adopt: Vec<Arc<T>>,
    /// Owned but no longer matching.
    pub(crate) release: Vec<Arc<T>>,
}

/// Sorts `candidates` for the owner of `uid`. An owner that is being deleted
/// adopts nothing.
pub(crate) fn plan_claim<T: Resource>(
    uid: &str,
    owner_deleting: bool,
    selector: &Selector,
    candidates: Vec<Arc<T>>,
) -> Claim<T> {
    let mut claim = Claim { owned: Vec::new(), adopt: Vec::new(), release: Vec::new() };
    for candidate in candidates {
        let object = candidate.meta();
        let matches = meta::selects(selector, object);
        match meta::controller_of(object) {
            Some(owner) if owner.uid != uid => {}
            Some(_) if matches => claim.owned.push(candidate),
            // Let go of a deleted object's traces is the collector's work.
            Some(_) if owner_deleting || meta::is_deleting(object) => {}
            Some(_) => claim.release.push(candidate),
            None if matches && !owner_deleting && !meta::is_deleting(object) => {
                claim.adopt.push(candidate)
            }
            None => {}
        }
    }
    claim
}

/// Carries out the adoptions and releases. Returns what the owner has now:
/// what it owned and what it adopted, as the server answered.
pub(crate) async fn apply_claim<O, T>(
    client: &Client,
    owner: &O,
    claim: Claim<T>,
) -> Result<Vec<Arc<T>>, Error>
where
    O: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned,
    T: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned,
{
    let namespace = meta::namespace(owner.meta());
    let api: Api<T> = Api::namespaced(client.clone(), namespace);
    let mut owned = claim.owned;
    for object in claim.release {
        release(&api, owner.meta().uid.as_deref().unwrap_or_default(), &object).await?;
    }
    if claim.adopt.is_empty() {
        return Ok(owned);
    }
    let owners: Api<O> = Api::namespaced(client.clone(), namespace);
    let owner_name = meta::name(owner.meta());
    let live = ignore_not_found(owners.get(owner_name).await)
        .doing(|| format!("get owner {owner_name}"))?;
    let may_adopt = live
        .is_some_and(|live| live.meta().uid == owner.meta().uid && !meta::is_deleting(live.meta()));
    if may_adopt {
        for object in claim.adopt {
            owned.extend(adopt(&api, meta::controller_reference(owner), &object).await?);
        }
    }
    Ok(owned)
}

/// Makes `owner` the controller of `object`; `None` when the object is gone.
async fn adopt<T>(api: &Api<T>, owner: OwnerReference, object: &T) -> Result<Option<Arc<T>>, Error>
where
    T: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let name = meta::name(object.meta());
    let mut owners = object.meta().owner_references.clone().unwrap_or_default();
    owners.retain(|known| known.uid != owner.uid);
    owners.push(owner);
    patch_owners(api, object, owners).await.map(|adopted| {
        debug!(name, "adopted");
        adopted.map(Arc::new)
    })
}

/// Removes the reference to the owner of `uid` from `object`.
async fn release<T>(api: &Api<T>, uid: &str, object: &T) -> Result<(), Error>
where
    T: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let mut owners = object.meta().owner_references.clone().unwrap_or_default();
    owners.retain(|owner| owner.uid != uid);
    patch_owners(api, object, owners).await?;
    debug!(name = meta::name(object.meta()), "released");
    Ok(())
}

/// Replaces the owners of exactly this object in exactly this state: the
/// revision in the patch makes the server refuse if somebody wrote first.
async fn patch_owners<T>(
    api: &Api<T>,
    object: &T,
    owners: Vec<OwnerReference>,
) -> Result<Option<T>, Error>
where
    T: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let name = meta::name(object.meta());
    let patch = json!({ "metadata": {
        "uid": object.meta().uid,
        "resourceVersion": object.meta().resource_version,
        "ownerReferences": owners,
    }});
    let patched = api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await;
    ignore_not_found(patched).doing(|| format!("set owners of {} {name}", T::kind(&())))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;
    use crate::testing;

    fn pod(name: &str, app: &str, owner: Option<&str>, deleting: bool) -> Arc<Pod> {
        let mut pod = testing::pod(name);
        pod.metadata.labels = testing::labels(&[("app", app)]);
        pod.metadata.owner_references = owner.map(|uid| testing::controlled_by("ReplicaSet", uid));
        pod.metadata.deletion_timestamp = deleting.then(|| meta::time(meta::now()));
        Arc::new(pod)
    }

    #[test]
    fn candidates_are_sorted_by_owner_and_selector() {
        let candidates = vec![
            pod("mine", "web", Some("uid-rs"), false),
            pod("mine-going", "web", Some("uid-rs"), true),
            pod("mine-relabelled", "debug", Some("uid-rs"), false),
            pod("foreign", "web", Some("uid-other"), false),
            pod("orphan", "web", None, false),
            pod("orphan-going", "web", None, true),
            pod("orphan-other", "db", None, false),
        ];
        let selector: Selector = [("app", "web")].into_iter().collect();
        let names = |pods: &[Arc<Pod>]| {
            pods.iter().map(|pod| meta::name(&pod.metadata).to_owned()).collect::<Vec<_>>()
        };
        let cases = [
            (
                "living owner",
                false,
                vec!["mine", "mine-going"],
                vec!["orphan"],
                vec!["mine-relabelled"],
            ),
            ("dying owner", true, vec!["mine", "mine-going"], vec![], vec![]),
        ];
        for (name, deleting, owned, adopt, release) in cases {
            let claim = plan_claim("uid-rs", deleting, &selector, candidates.clone());
            assert_eq!(names(&claim.owned), owned, "{name}");
            assert_eq!(names(&claim.adopt), adopt, "{name}");
            assert_eq!(names(&claim.release), release, "{name}");
        }
        let everything = plan_claim("uid-rs", false, &Selector::default(), candidates);
        assert!(everything.adopt.is_empty(), "an empty selector selects nothing");
    }
}
