//! The files of config map, secret, downward API and projected volumes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, Volume, VolumeProjection,
};

use super::Lookup;
use crate::pod::env::{Sources, field_value, resource_value};
use crate::pod::model::spec;

/// Files by their path in the volume.
pub type Files = BTreeMap<String, FileContent>;

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileContent {
    /// What is in it.
    pub content: Vec<u8>,
    /// Its mode bits.
    pub mode: u32,
    /// Whose it is, if not root's.
    pub user: Option<u32>,
}

impl FileContent {
    fn new(content: Vec<u8>, mode: u32) -> Self {
        Self { content, mode, user: None }
    }
}

/// What a volume shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Payload {
    /// Its files.
    pub files: Files,
    /// Whether they must not touch the disk.
    pub secret: bool,
    /// When they have to be gathered again.
    pub renew_at: Option<Timestamp>,
}

const DEFAULT_MODE: i32 = 0o644;

/// Gathers the files of `volume`; `None` if it is of another kind.
pub(super) async fn gather(
    pod: &Pod,
    volume: &Volume,
    sources: &Sources,
    lookup: &dyn Lookup,
) -> Result<Option<Payload>, String> {
    let mut payload = Payload::default();
    if let Some(source) = &volume.config_map {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let map = lookup.config_map(&source.name).await?;
        let data = map.as_deref().map(config_map_data);
        let what = Named { kind: "configmap", namespace: pod, name: &source.name };
        pick(data, source.items.as_deref(), mode, source.optional, &what, &mut payload.files)?;
    } else if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let secret = lookup.secret(name).await?;
        let data = secret.as_deref().map(secret_data);
        let what = Named { kind: "secret", namespace: pod, name };
        pick(data, source.items.as_deref(), mode, source.optional, &what, &mut payload.files)?;
        payload.secret = true;
    } else if let Some(source) = &volume.downward_api {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        downward(pod, source.items.as_deref(), mode, sources, &mut payload.files)?;
    } else if let Some(source) = &volume.projected {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        for projection in source.sources.iter().flatten() {
            project(pod, projection, mode, sources, lookup, &mut payload).await?;
        }
    } else {
        return Ok(None);
    }
    Ok(Some(payload))
}

async fn project(
    pod: &Pod,
    projection: &VolumeProjection,
    mode: i32,
    sources: &Sources,
    lookup: &dyn Lookup,
    payload: &mut Payload,
) -> Result<(), String> {
    if let Some(source) = &projection.config_map {
        let map = lookup.config_map(&source.name).await?;
        let what = Named { kind: "configmap", namespace: pod, name: &source.name };
        let data = map.as_deref().map(config_map_data);
        pick(data, source.items.as_deref(), mode, source.optional, &what, &mut payload.files)?;
    }
    if let Some(source) = &projection.secret {
        let secret = lookup.secret(&source.name).await?;
        let what = Named { kind: "secret", namespace: pod, name: &source.name };
        let data = secret.as_deref().map(secret_data);
        pick(data, source.items.as_deref(), mode, source.optional, &what, &mut payload.files)?;
        payload.secret = true;
    }
    if let Some(source) = &projection.downward_api {
        downward(pod, source.items.as_deref(), mode, sources, &mut payload.files)?;
    }
    if let Some(source) = &projection.service_account_token {
        let token = lookup.token(source).await?;
        payload.files.insert(source.path.clone(), token_file(pod, token.token, mode));
        payload.secret = true;
        payload.renew_at =
            Some(payload.renew_at.map_or(token.renew_at, |known| known.min(token.renew_at)));
    }
    Ok(())
}

struct Named<'a> {
    kind: &'a str,
    namespace: &'a Pod,
    name: &'a str,
}

type Data = BTreeMap<String, Vec<u8>>;

fn config_map_data(map: &ConfigMap) -> Data {
    let text =
        map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let binary =
        map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
    text.chain(binary).collect()
}

fn secret_data(secret: &Secret) -> Data {
    secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect()
}

/// Takes the keys that `items` names, or all of them.
fn pick(
    data: Option<Data>,
    items: Option<&[KeyToPath]>,
    default_mode: i32,
    optional: Option<bool>,
    what: &Named<'_>,
    files: &mut Files,
) -> Result<(), String> {
    let Some(data) = data else {
        return if optional == Some(true) {
            Ok(())
        } else {
            Err(format!("{} \"{}\" not found", what.kind, what.name))
        };
    };
    match items.filter(|items| !items.is_empty()) {
        None => {
            let mode = mode_of(None, default_mode);
            files.extend(
                data.into_iter().map(|(key, content)| (key, FileContent::new(content, mode))),
            );
        }
        Some(items) => {
            for item in items {
                match data.get(&item.key) {
                    Some(content) => {
                        let mode = mode_of(item.mode, default_mode);
                        files.insert(item.path.clone(), FileContent::new(content.clone(), mode));
                    }
                    None if optional == Some(true) => {}
                    None => {
                        let namespace =
                            what.namespace.metadata.namespace.as_deref().unwrap_or_default();
                        return Err(format!(
                            "references non-existent {} key: {} in {namespace}/{}",
                            what.kind, item.key, what.name
                        ));
                    }
                }
            }
        }
    }
    Ok(())
}

fn downward(
    pod: &Pod,
    items: Option<&[DownwardAPIVolumeFile]>,
    default_mode: i32,
    sources: &Sources,
    files: &mut Files,
) -> Result<(), String> {
    let nobody = Container::default();
    for item in items.unwrap_or_default() {
        let content = if let Some(field) = &item.field_ref {
            field_value(pod, field, sources).map_err(|error| error.0)?
        } else if let Some(resource) = &item.resource_field_ref {
            // Here the container is always named.
            let first = spec(pod).containers.first().unwrap_or(&nobody);
            resource_value(pod, first, resource, &sources.allocatable).map_err(|error| error.0)?
        } else {
            String::new()
        };
        let mode = mode_of(item.mode, default_mode);
        files.insert(item.path.clone(), FileContent::new(content.into_bytes(), mode));
    }
    Ok(())
}

/// A token is for nobody but the user or the group of the pod, where it has
/// one of its own.
fn token_file(pod: &Pod, token: String, default_mode: i32) -> FileContent {
    let context = spec(pod).security_context.as_ref();
    let group = context.and_then(|context| context.fs_group);
    let user = only_user(pod);
    let owned = user.is_some() || group.is_some();
    let mode = if owned { 0o600 } else { mode_of(None, default_mode) };
    FileContent { content: token.into_bytes(), mode, user }
}

/// The user that all containers of the pod run as, if that is said.
fn only_user(pod: &Pod) -> Option<u32> {
    let spec = spec(pod);
    let common = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    let usual = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let usual = usual.map(|container| container.security_context.as_ref());
    let later = spec.ephemeral_containers.iter().flatten();
    let later = later.map(|container| container.security_context.as_ref());
    let mut users = usual.chain(later).map(|own| own.and_then(|own| own.run_as_user).or(common));
    let first = users.next().flatten()?;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok()).flatten()
}

fn mode_of(own: Option<i32>, default: i32) -> u32 {
    u32::try_from(own.unwrap_or(default)).unwrap_or(0o644) & 0o777
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::{
        ImageVolumeSource, PersistentVolume, ServiceAccountTokenProjection,
    };
    use serde_json::json;

    use super::super::{NoImage, Token};
    use super::*;

    use crate::runtime::Tar;

    struct Api;

    #[async_trait::async_trait]
    impl Lookup for Api {
        async fn config_map(&self, name: &str) -> Result<Option<Arc<ConfigMap>>, String> {
            let map = json!({"data": {"a": "1", "b": "2"}, "binaryData": {"c": "AA=="}});
            Ok((name == "conf").then(|| Arc::new(serde_json::from_value(map).unwrap())))
        }
        async fn secret(&self, name: &str) -> Result<Option<Arc<Secret>>, String> {
            Ok((name == "creds")
                .then(|| Arc::new(serde_json::from_value(json!({"data": {"k": "dg=="}})).unwrap())))
        }
        async fn token(&self, _: &ServiceAccountTokenProjection) -> Result<Token, String> {
            Ok(Token { token: "tok".into(), renew_at: Timestamp::UNIX_EPOCH })
        }
        async fn claimed_volume(&self, claim: &str, _: bool) -> Result<PersistentVolume, String> {
            Err(format!("persistentvolumeclaim \"{claim}\" not found"))
        }
        async fn image(&self, _: &ImageVolumeSource) -> Result<Tar, NoImage> {
            Err(NoImage { reason: "ErrImagePull", message: "no registry".into() })
        }
    }

    #[tokio::test]
    async fn volumes_show_their_files() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "labels": {"app": "web"}}, "spec": {"containers": []}
        }))
        .unwrap();
        let cases = [
            (
                json!({"configMap": {"name": "conf"}}),
                Ok(vec![("a", "1", 0o644), ("b", "2", 0o644), ("c", "\0", 0o644)]),
            ),
            (
                json!({"configMap": {"name": "conf", "defaultMode": 0o400, "items": [{"key": "a", "path": "x/y"}, {"key": "b", "path": "z", "mode": 0o600}]}}),
                Ok(vec![("x/y", "1", 0o400), ("z", "2", 0o600)]),
            ),
            (json!({"configMap": {"name": "none"}}), Err("configmap \"none\" not found")),
            (json!({"configMap": {"name": "none", "optional": true}}), Ok(vec![])),
            (
                json!({"secret": {"secretName": "creds", "items": [{"key": "no", "path": "x"}]}}),
                Err("references non-existent secret key: no in ns/creds"),
            ),
            (
                json!({"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}),
                Ok(vec![("labels", "app=\"web\"", 0o644)]),
            ),
            (
                json!({"projected": {"sources": [{"serviceAccountToken": {"path": "token"}}, {"secret": {"name": "creds"}}]}}),
                Ok(vec![("k", "v", 0o644), ("token", "tok", 0o644)]),
            ),
        ];
        for (mut volume, expected) in cases {
            volume["name"] = json!("v");
            let volume: Volume = serde_json::from_value(volume).unwrap();
            let found = gather(&pod, &volume, &Sources::default(), &Api).await;
            let found = found.map(|payload| {
                let files = payload.unwrap().files.into_iter();
                files
                    .map(|(path, file)| (path, String::from_utf8(file.content).unwrap(), file.mode))
                    .collect::<Vec<_>>()
            });
            let expected = expected.map(|files| {
                files
                    .into_iter()
                    .map(|(path, text, mode)| (path.to_owned(), text.to_owned(), mode))
                    .collect::<Vec<_>>()
            });
            assert_eq!(found, expected.map_err(str::to_owned), "{volume:?}");
        }
    }

    #[test]
    fn a_token_is_for_the_user_or_the_group_of_its_pod() {
        let cases = [
            (json!({}), json!({}), (0o644, None)),
            (json!({"runAsUser": 7}), json!({}), (0o600, Some(7))),
            (json!({}), json!({"runAsUser": 8}), (0o600, Some(8))),
            (json!({"fsGroup": 9}), json!({}), (0o600, None)),
            (json!({"fsGroup": 9, "runAsUser": 7}), json!({}), (0o600, Some(7))),
        ];
        for (common, own, expected) in cases {
            let pod: Pod = serde_json::from_value(json!({"spec": {
                "securityContext": common, "containers": [{"name": "c", "securityContext": own}]
            }}))
            .unwrap();
            let file = token_file(&pod, "t".into(), 0o644);
            assert_eq!((file.mode, file.user), expected, "{common}, {own}");
        }
        let two: Pod = serde_json::from_value(json!({"spec": {"containers": [
            {"name": "a", "securityContext": {"runAsUser": 7}}, {"name": "b"}
        ]}}))
        .unwrap();
        assert_eq!(only_user(&two), None, "another container runs as somebody else");
    }
}
