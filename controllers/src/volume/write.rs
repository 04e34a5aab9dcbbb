//! Conditional writes to claims and volumes.

use kube::api::{Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::error::{Doing, Error};
use crate::meta::{self, Key};

/// Changes exactly this object in exactly this state: the server refuses if
/// somebody wrote first, and the next pass looks again.
pub(super) async fn patch<K: Resource<DynamicType = ()> + DeserializeOwned>(
    client: &Client,
    object: &K,
    mut patch: Value,
    status: bool,
) -> Result<K, Error> {
    let (meta, resource) = (object.meta(), ApiResource::erase::<K>(&()));
    patch["metadata"]["uid"] = json!(meta.uid);
    patch["metadata"]["resourceVersion"] = json!(meta.resource_version);
    let api: Api<DynamicObject> = match meta::namespace(meta) {
        "" => Api::all_with(client.clone(), &resource),
        namespace => Api::namespaced_with(client.clone(), namespace, &resource),
    };
    let (name, params, patch) = (meta::name(meta), PatchParams::default(), Patch::Merge(&patch));
    let patched = if status {
        api.patch_status(name, &params, &patch).await
    } else {
        api.patch(name, &params, &patch).await
    };
    let patched = patched.doing(|| format!("update {} {}", resource.plural, Key::of(meta)))?;
    serde_json::to_value(patched)
        .and_then(K::deserialize)
        .map_err(|error| Error::Invalid(format!("{} {name}: {error}", resource.plural)))
}
