//! Conditional writes to claims and volumes.

use kube::api::{Patch, PatchParams};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skiff_client::Api;

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
    let meta = object.meta();
    patch["metadata"]["uid"] = json!(meta.uid);
    patch["metadata"]["resourceVersion"] = json!(meta.resource_version);
    let api: Api<K> = Api::within(client.clone(), meta::namespace(meta));
    let (name, params, patch) = (meta::name(meta), PatchParams::default(), Patch::Merge(&patch));
    let patched = if status {
        api.patch_status(name, &params, &patch).await
    } else {
        api.patch(name, &params, &patch).await
    };
    patched.doing(|| format!("update {} {}", K::plural(&()), Key::of(meta)))
}
