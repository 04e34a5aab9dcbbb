//! ServiceAccount: every pod acts as an account and finds its token, the
//! cluster's CA and its namespace under the well-known path.

use rand::Rng;
use serde_json::{Value, json};

use super::{Attributes, Context, Plugin, items, list_mut};
use crate::status::ApiError;

/// Where containers find the account.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const MIRROR: &str = "kubernetes.io/config.mirror";
/// One hour and some seconds: longer than any default, so that one can tell
/// these tokens from others, as upstream does.
const TOKEN_SECONDS: u32 = 3607;

pub(super) struct ServiceAccount;

/// The account that a pod names, or the one it gets.
pub(super) fn name(pod: &Value) -> &str {
    pod["spec"]["serviceAccountName"].as_str().filter(|name| !name.is_empty()).unwrap_or("default")
}

impl Plugin for ServiceAccount {
    fn mutate(
        &self,
        context: &Context,
        request: &Attributes<'_>,
        pod: &mut Value,
    ) -> Result<(), ApiError> {
        if !request.creates("", "pods") {
            return Ok(());
        }
        if pod["metadata"]["annotations"][MIRROR].is_string() {
            return check_mirror(pod).map_err(|why| request.forbidden(why));
        }
        let name = name(pod).to_owned();
        let namespace = &request.info.namespace;
        let account =
            context.objects.get("", "serviceaccounts", namespace, &name).ok_or_else(|| {
                request.forbidden(format!(
                    "error looking up service account {namespace}/{name}: serviceaccount {name:?} \
                     not found"
                ))
            })?;
        pod["spec"]["serviceAccountName"] = json!(name);
        pod["spec"]["serviceAccount"] = json!(name);
        if automount(pod, &account) {
            mount(pod);
        }
        if items(&pod["spec"]["imagePullSecrets"]).next().is_none()
            && items(&account["imagePullSecrets"]).next().is_some()
        {
            pod["spec"]["imagePullSecrets"] = account["imagePullSecrets"].clone();
        }
        Ok(())
    }
}

/// A mirror pod is written by a node; it must not lend the node an account or
/// what others keep secret.
fn check_mirror(pod: &Value) -> Result<(), &'static str> {
    if pod["spec"]["serviceAccountName"].as_str().is_some_and(|name| !name.is_empty()) {
        return Err("a mirror pod may not reference service accounts");
    }
    let secret = |volume: &Value| {
        volume["secret"].is_object()
            || items(&volume["projected"]["sources"])
                .any(|source| source["serviceAccountToken"].is_object())
    };
    if items(&pod["spec"]["volumes"]).any(secret) {
        return Err("a mirror pod may not reference secrets or service account tokens");
    }
    Ok(())
}

fn automount(pod: &Value, account: &Value) -> bool {
    pod["spec"]["automountServiceAccountToken"]
        .as_bool()
        .or_else(|| account["automountServiceAccountToken"].as_bool())
        .unwrap_or(true)
}

/// Adds the volume and mounts it wherever nothing else is mounted there.
fn mount(pod: &mut Value) {
    let name = format!("kube-api-access-{}", suffix());
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            if items(&container["volumeMounts"]).any(|mount| mount["mountPath"] == MOUNT_PATH) {
                continue;
            }
            if let Some(mounts) = list_mut(container, "volumeMounts") {
                mounts.push(json!({ "name": name, "readOnly": true, "mountPath": MOUNT_PATH }));
                mounted = true;
            }
        }
    }
    if !mounted {
        return;
    }
    if let Some(volumes) = list_mut(&mut pod["spec"], "volumes") {
        volumes.push(json!({
            "name": name,
            "projected": {
                "defaultMode": 0o644,
                "sources": [
                    { "serviceAccountToken": {
                        "expirationSeconds": TOKEN_SECONDS,
                        "path": "token",
                    } },
                    { "configMap": {
                        "name": "kube-root-ca.crt",
                        "items": [{ "key": "ca.crt", "path": "ca.crt" }],
                    } },
                    { "downwardAPI": { "items": [{
                        "path": "namespace",
                        "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" },
                    }] } },
                ],
            },
        }));
    }
}

/// Five letters and digits that spell nothing.
fn suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut random = rand::rng();
    (0..5).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())])).collect()
}
