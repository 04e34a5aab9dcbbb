//! What a node has to know of its cluster beyond the CA: the address ranges
//! and the DNS. The leader publishes it, nodes fetch it when they start and
//! follow it from then on: masters come and go.
//!
//! It stands in the ConfigMap `kube-public/skiff-cluster`, readable by nodes.
//! A node keeps a copy, so that it starts its pods again after a power cut
//! even when no master answers yet.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use futures::StreamExt;
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Client;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skiff_client::{Api, chain};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Where the ConfigMap is.
const NAMESPACE: &str = "kube-public";
/// Its name, and that of the role and binding that let nodes read it.
const NAME: &str = "skiff-cluster";
/// The node's copy in its data directory.
const COPY: &str = "cluster.json";
/// How long a first fetch is tried at all, and how long between tries.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_millis(200));

/// The settings that all machines of a cluster share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ClusterInfo {
    /// Addresses of pods.
    pub(super) cluster_cidr: Ipv4Net,
    /// Addresses of services.
    pub(super) service_cidr: Ipv4Net,
    /// Address of the cluster DNS.
    pub(super) cluster_dns: IpAddr,
    /// Domain of the cluster DNS.
    pub(super) cluster_domain: String,
    /// Where the masters serve.
    #[serde(default)]
    pub(super) masters: Vec<SocketAddr>,
}

/// Writes the settings into the cluster; nothing is written that is there already.
pub(super) async fn publish(client: &Client, info: &ClusterInfo) -> anyhow::Result<()> {
    let data = json!({"cluster.json": serde_json::to_string(info)?});
    ensure(&Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE), json!({"data": data})).await?;
    let rules = json!([{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [NAME], "verbs": ["get", "list", "watch"]}]);
    ensure(&Api::<Role>::namespaced(client.clone(), NAMESPACE), json!({"rules": rules})).await?;
    let binding = json!({
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": NAME},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:nodes"}]
    });
    ensure(&Api::<RoleBinding>::namespaced(client.clone(), NAMESPACE), binding).await
}

async fn ensure<K>(api: &Api<K>, mut desired: Value) -> anyhow::Result<()>
where
    K: Serialize + serde::de::DeserializeOwned,
{
    // A patch that changes nothing takes no revision, so it needs no look first.
    match api.patch(NAME, &PatchParams::default(), &Patch::Merge(&desired)).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => {}
        patched => return patched.map(drop).context("cannot publish the cluster's settings"),
    }
    desired["metadata"] = json!({"name": NAME});
    let object = K::deserialize(&desired)?;
    api.create(&PostParams::default(), &object)
        .await
        .map(drop)
        .context("cannot publish the cluster's settings")
}

/// The masters that this node knew when it last started.
pub(super) fn remembered_masters(data_dir: &Path) -> Vec<SocketAddr> {
    let copy = std::fs::read(data_dir.join(COPY)).unwrap_or_default();
    // No copy yet, or one of an older version: the flag names a master too.
    serde_json::from_slice::<ClusterInfo>(&copy).map_or_else(|_| Vec::new(), |info| info.masters)
}

/// Reads the settings from the cluster, or from the copy when no master answers.
pub(super) async fn fetch(client: &Client, data_dir: &Path) -> anyhow::Result<ClusterInfo> {
    let copy = data_dir.join(COPY);
    let deadline = tokio::time::Instant::now() + PATIENCE.0;
    loop {
        match read(client).await {
            Ok(info) => {
                save(&info, &copy)?;
                return Ok(info);
            }
            Err(error) => {
                if let Ok(text) = std::fs::read(&copy) {
                    warn!(
                        error = format!("{error:#}"),
                        "no master answers; starting with the settings of last time"
                    );
                    return serde_json::from_slice(&text)
                        .with_context(|| format!("cannot read {}", copy.display()));
                }
                if tokio::time::Instant::now() > deadline {
                    return Err(error.context("cannot read the cluster's settings from the master"));
                }
                info!(error = format!("{error:#}"), "waiting for the cluster's settings");
            }
        }
        tokio::time::sleep(PATIENCE.1).await;
    }
}

/// Tells of every change of the settings, and keeps the copy up to date, until
/// cancelled.
pub(super) async fn follow(
    client: Client,
    data_dir: &Path,
    mut learnt: impl FnMut(&ClusterInfo),
    cancel: CancellationToken,
) {
    let api: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
    let only = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
    let mut events = skiff_client::watch(api, only);
    let mut known = None;
    loop {
        let event = tokio::select! {
            () = cancel.cancelled() => return,
            event = events.next() => event,
        };
        let info = match event {
            Some(Ok(watcher::Event::Apply(map) | watcher::Event::InitApply(map))) => parse(&map),
            // Gone: the leader will write it again.
            Some(Ok(_)) => continue,
            // The watch waits and begins again by itself.
            Some(Err(error)) => {
                debug!(error = chain(&error), "watching the cluster's settings");
                continue;
            }
            None => return,
        };
        match info {
            Ok(info) if known.as_ref() != Some(&info) => {
                learnt(&info);
                if let Err(error) = save(&info, &data_dir.join(COPY)) {
                    warn!(error = format!("{error:#}"), "the next start will not know this");
                }
                known = Some(info);
            }
            Ok(_) => {}
            Err(error) => warn!(error = format!("{error:#}"), "the cluster's settings"),
        }
    }
}

fn save(info: &ClusterInfo, copy: &Path) -> anyhow::Result<()> {
    let text = serde_json::to_vec(info)?;
    std::fs::write(copy, text).with_context(|| format!("cannot write {}", copy.display()))
}

async fn read(client: &Client) -> anyhow::Result<ClusterInfo> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    parse(&api.get(NAME).await?)
}

fn parse(map: &ConfigMap) -> anyhow::Result<ClusterInfo> {
    let text = map.data.as_ref().and_then(|data| data.get("cluster.json"));
    let text =
        text.with_context(|| format!("the ConfigMap {NAMESPACE}/{NAME} has no cluster.json"))?;
    Ok(serde_json::from_str(text)?)
}

#[cfg(test)]
mod tests {
    use skiff_apiserver::user::UserInfo;
    use skiff_store::Store;
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_node_hears_of_every_change() {
        let dir = tempfile::tempdir().unwrap();
        let config = skiff_apiserver::Config::new(
            dir.path(),
            ([127, 0, 0, 1], 0).into(),
            [127, 0, 0, 1].into(),
        );
        let server = skiff_apiserver::start(config, Store::memory().await.unwrap()).await.unwrap();
        let (admin, node) = (
            server.client(UserInfo::loopback()),
            server
                .client(UserInfo::new("system:node:n1", ["system:nodes", "system:authenticated"])),
        );
        let masters = |ports: &[u16]| -> Vec<SocketAddr> {
            ports.iter().map(|port| ([10, 0, 0, 1], *port).into()).collect()
        };
        let info = |ports: &[u16]| ClusterInfo {
            cluster_cidr: "10.244.0.0/16".parse().unwrap(),
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            cluster_dns: [10, 96, 0, 10].into(),
            cluster_domain: "cluster.local".to_owned(),
            masters: masters(ports),
        };
        publish(&admin, &info(&[1])).await.unwrap();

        let (learnt_tx, mut learnt_rx) = mpsc::unbounded_channel();
        let learnt = move |info: &ClusterInfo| learnt_tx.send(info.masters.clone()).unwrap();
        let (cancel, copy) = (CancellationToken::new(), dir.path().to_owned());
        let (following, stop) = (node.clone(), cancel.clone());
        let follower = tokio::spawn(async move { follow(following, &copy, learnt, stop).await });
        assert_eq!(learnt_rx.recv().await, Some(masters(&[1])));
        publish(&admin, &info(&[1, 2, 3])).await.unwrap();
        assert_eq!(learnt_rx.recv().await, Some(masters(&[1, 2, 3])));
        publish(&admin, &info(&[2, 3])).await.unwrap();
        assert_eq!(learnt_rx.recv().await, Some(masters(&[2, 3])));
        cancel.cancel();
        follower.await.unwrap();
        assert_eq!(remembered_masters(dir.path()), masters(&[2, 3]), "for the next start");

        let others: Api<ConfigMap> = Api::namespaced(node, NAMESPACE);
        let refused = others.list(&Default::default()).await.unwrap_err();
        assert!(matches!(refused, kube::Error::Api(status) if status.is_forbidden()));
        server.shutdown().await;
    }
}
