//! What pod workers ask of the API: the final deletion, the status, and what
//! volumes are made from.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, ImageVolumeSource, PersistentVolume, PersistentVolumeClaim, Pod, PodStatus, Secret,
    ServiceAccount, ServiceAccountTokenProjection,
};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{Value, json};

use super::apply::find_image;
use super::context::Context;
use super::exclusive::is_exclusive;
use super::model::{spec, uid};
use super::report::is_ours;
use crate::images::Policy;
use crate::revision::{Revision, revision_of};
use crate::runtime::Tar;
use crate::volume::{Lookup, NoImage, Token, persistent};
use skiff_client::{Api, chain};

/// Tokens handed out to one pod, by audience and path.
pub type Tokens = Arc<Mutex<BTreeMap<String, Token>>>;

/// Lifetime of tokens that do not say.
const TOKEN_SECONDS: i64 = 3600;

/// Deletes the pod's object for good. One that is not there, or is another
/// pod of the same name by now, is deleted.
pub async fn delete_object(ctx: &Context, pod: &Pod) -> Result<(), String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: pod.metadata.uid.clone(),
            resource_version: None,
        }),
        ..DeleteParams::default().grace_period(0)
    };
    match pods(ctx, pod).delete(name, &params).await {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(chain(&error)),
        Ok(()) => Ok(()),
    }
}

/// Creates the mirror of a static pod. `None` when there is one already.
pub(super) async fn create_mirror(ctx: &Context, mirror: &Pod) -> Result<Option<Arc<Pod>>, String> {
    match pods(ctx, mirror).create(&PostParams::default(), mirror).await {
        Ok(made) => Ok(Some(Arc::new(made))),
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(None),
        Err(error) => Err(chain(&error)),
    }
}

fn pods(ctx: &Context, pod: &Pod) -> Api<Pod> {
    Api::namespaced(ctx.client.clone(), pod.metadata.namespace.as_deref().unwrap_or_default())
}

/// Writes the pod's status and gives the pod's revision with it. A pod that is
/// gone has none.
pub(super) async fn write_status(
    ctx: &Context,
    pod: &Pod,
    status: &PodStatus,
) -> Result<Option<Revision>, String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let patch = status_patch(pod, status)?;
    let (params, patch) = (PatchParams::default(), Patch::Strategic(patch));
    match pods(ctx, pod).patch_status_for_metadata(name, &params, &patch).await {
        Err(kube::Error::Api(refused)) if matches!(refused.code, 404 | 409) => Ok(None),
        Err(error) => Err(chain(&error)),
        Ok(written) => Ok(revision_of(&written)),
    }
}

/// The patch that turns the status that the API has into `status`. The UID in
/// it refuses the write to another pod of the same name.
fn status_patch(pod: &Pod, status: &PodStatus) -> Result<Value, String> {
    let mut body = serde_json::to_value(status).map_err(|error| error.to_string())?;
    let old = pod.status.as_ref();
    // What is no longer there has to be named to go away.
    for key in ["reason", "message", "podIP", "podIPs"] {
        if body.get(key).is_none() {
            body[key] = Value::Null;
        }
    }
    // Addresses merge by value; another address takes the place of the old.
    if let Some(Value::Array(ips)) = body.get_mut("podIPs")
        && old.is_some_and(|old| old.pod_ips.is_some() && old.pod_ips != status.pod_ips)
    {
        ips.push(json!({"$patch": "replace"}));
    }
    // So do conditions of ours that no longer hold.
    let is_kept =
        |kind: &str| status.conditions.iter().flatten().any(|condition| condition.type_ == kind);
    let gone = old.and_then(|old| old.conditions.as_ref()).into_iter().flatten();
    let gone = gone.filter(|known| is_ours(known) && !is_kept(&known.type_));
    if let Some(Value::Array(conditions)) = body.get_mut("conditions") {
        for condition in conditions.iter_mut() {
            for key in ["reason", "message"] {
                if condition.get(key).is_none() {
                    condition[key] = Value::Null;
                }
            }
        }
        conditions.extend(gone.map(|known| json!({"type": known.type_, "$patch": "delete"})));
    }
    Ok(json!({"metadata": {"uid": uid(pod)}, "status": body}))
}

/// Reads what volumes are made from, for one pod.
pub(super) struct ApiLookup<'a> {
    pub(super) ctx: &'a Context,
    pub(super) pod: &'a Pod,
    pub(super) tokens: Tokens,
}

impl ApiLookup<'_> {
    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }
}

#[async_trait]
impl Lookup for ApiLookup<'_> {
    async fn config_map(&self, name: &str) -> Result<Option<Arc<ConfigMap>>, String> {
        self.ctx.objects.config_maps.get(self.namespace(), name, uid(self.pod)).await
    }

    async fn secret(&self, name: &str) -> Result<Option<Arc<Secret>>, String> {
        self.ctx.objects.secrets.get(self.namespace(), name, uid(self.pod)).await
    }

    async fn token(&self, projection: &ServiceAccountTokenProjection) -> Result<Token, String> {
        let key =
            format!("{}\0{}", projection.audience.as_deref().unwrap_or_default(), projection.path);
        let now = Timestamp::now();
        let known = self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(token) = known.filter(|token| token.renew_at > now) {
            return Ok(token);
        }
        let account = spec(self.pod).service_account_name.as_deref().unwrap_or("default");
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: projection.audience.clone().into_iter().collect(),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: self.pod.metadata.name.clone(),
                    uid: self.pod.metadata.uid.clone(),
                }),
                expiration_seconds: Some(projection.expiration_seconds.unwrap_or(TOKEN_SECONDS)),
            },
            ..TokenRequest::default()
        };
        let accounts: Api<ServiceAccount> =
            Api::namespaced(self.ctx.client.clone(), self.namespace());
        let answer: TokenRequest = accounts
            .create_subresource("token", account, &PostParams::default(), &request)
            .await
            .map_err(|error| format!("failed to fetch token: {}", chain(&error)))?;
        let status = answer.status.ok_or("failed to fetch token: the answer has none")?;
        // Renewed at four fifths of its life, as upstream does.
        let life = status.expiration_timestamp.0.duration_since(now).as_secs().max(10);
        let token =
            Token { token: status.token, renew_at: now + SignedDuration::from_secs(life * 4 / 5) };
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).insert(key, token.clone());
        Ok(token)
    }

    async fn claimed_volume(&self, claim: &str, owned: bool) -> Result<PersistentVolume, String> {
        let claims: Api<PersistentVolumeClaim> =
            Api::namespaced(self.ctx.client.clone(), self.namespace());
        let found = claims.get_opt(claim).await.map_err(|error| chain(&error))?;
        let found = found.ok_or_else(|| format!("persistentvolumeclaim \"{claim}\" not found"))?;
        if let Some(why) = persistent::refused_claim(&found, self.pod, owned) {
            return Err(why);
        }
        let volume = found.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
        let volume =
            volume.ok_or_else(|| format!("persistentvolumeclaim \"{claim}\" is not bound"))?;
        let volumes: Api<PersistentVolume> = Api::all(self.ctx.client.clone());
        let volume = volumes.get(volume).await.map_err(|error| chain(&error))?;
        if let Some(why) = persistent::refused_volume(&volume, &found) {
            return Err(why);
        }
        if is_exclusive(&volume) {
            self.ctx.exclusive.take(self.pod, claim, &self.ctx.pods.pods())?;
        }
        Ok(volume)
    }

    async fn image(&self, source: &ImageVolumeSource) -> Result<Tar, NoImage> {
        let asked = source.reference.as_deref().unwrap_or_default();
        let policy = Policy::new(source.pull_policy.as_deref(), asked);
        let image = find_image(self.ctx, self.pod, None, asked, policy).await;
        let image =
            image.map_err(|failed| NoImage { reason: failed.reason, message: failed.message })?;
        let saved = self.ctx.runtime.save(&image.id).await;
        saved.map_err(|error| NoImage { reason: "ErrImagePull", message: error.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::pod;
    use super::*;

    #[test]
    fn what_no_longer_holds_is_named_in_the_patch() {
        let status = |value: Value| -> PodStatus { serde_json::from_value(value).unwrap() };
        let mut pod = pod(json!({"containers": []}));
        pod.status = Some(status(json!({
            "reason": "Evicted",
            "podIPs": [{"ip": "10.0.0.1"}],
            "conditions": [
                {"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "m"},
                {"type": "PodResizePending", "status": "True", "reason": "Deferred"},
                {"type": "example.com/theirs", "status": "True"},
            ],
        })));
        let new = status(json!({
            "podIPs": [{"ip": "10.0.0.2"}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }));
        let patch = status_patch(&pod, &new).unwrap();
        assert_eq!(
            patch["status"]["conditions"],
            json!([
                {"type": "Ready", "status": "True", "reason": null, "message": null},
                {"type": "PodResizePending", "$patch": "delete"},
            ])
        );
        assert_eq!(patch["status"]["podIPs"], json!([{"ip": "10.0.0.2"}, {"$patch": "replace"}]));
        assert!(patch["status"].as_object().unwrap()["reason"].is_null());
        assert_eq!(patch["metadata"]["uid"], "u");
    }
}
