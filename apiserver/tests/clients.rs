//! The server as `kube` sees it: in process and over TLS.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{DEADLINE, configmap, start};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Service};
use kube::api::{
    DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use serde_json::json;
use skiff_apiserver::user::UserInfo;

async fn over_tls(server: &common::Server) -> Client {
    let kubeconfig = Kubeconfig::read_from(server.server.kubeconfig()).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

#[tokio::test]
async fn both_transports_are_one_server() {
    let server = start().await;
    for (name, client) in [("direct", server.admin()), ("tls", over_tls(&server).await)] {
        let maps: Api<ConfigMap> = Api::default_namespaced(client);
        let map: ConfigMap = serde_json::from_value(configmap(name)).unwrap();
        let mut events = maps.watch(&WatchParams::default(), "0").await.unwrap().boxed();
        maps.create(&PostParams::default(), &map).await.unwrap();
        let patch = Patch::Merge(json!({"data": {"more": "yes"}}));
        maps.patch(name, &PatchParams::default(), &patch).await.unwrap();
        maps.delete(name, &DeleteParams::default()).await.unwrap();
        let mut seen = Vec::new();
        while seen.len() < 3 {
            let event =
                tokio::time::timeout(DEADLINE, events.try_next()).await.unwrap().unwrap().unwrap();
            let (kind, map) = match event {
                WatchEvent::Added(map) => ("added", map),
                WatchEvent::Modified(map) => ("modified", map),
                WatchEvent::Deleted(map) => ("deleted", map),
                other => panic!("{other:?}"),
            };
            if map.metadata.name.as_deref() == Some(name) {
                seen.push(kind);
            }
        }
        assert_eq!(seen, ["added", "modified", "deleted"], "{name}");
    }
}

#[tokio::test]
async fn every_cluster_starts_with_the_same_objects() {
    let server = start().await;
    let client = server.admin();
    let namespaces =
        Api::<Namespace>::all(client.clone()).list(&ListParams::default()).await.unwrap();
    let names: Vec<_> = namespaces.iter().filter_map(|n| n.metadata.name.as_deref()).collect();
    assert_eq!(names, ["default", "kube-node-lease", "kube-public", "kube-system"]);
    let kubernetes =
        Api::<Service>::namespaced(client.clone(), "default").get("kubernetes").await.unwrap();
    assert_eq!(kubernetes.spec.unwrap().cluster_ip.as_deref(), Some("10.96.0.1"));
    let dns =
        Api::<Service>::namespaced(client.clone(), "kube-system").get("kube-dns").await.unwrap();
    assert_eq!(dns.spec.unwrap().cluster_ip.as_deref(), Some("10.96.0.10"));
    #[allow(deprecated)]
    let endpoints =
        Api::<Endpoints>::namespaced(client, "default").get("kubernetes").await.unwrap();
    let port = endpoints.subsets.unwrap()[0].ports.as_ref().unwrap()[0].port;
    assert_eq!(port, i32::from(server.server.local_addr().port()));
}

#[tokio::test]
async fn strangers_see_health_and_nothing_else() {
    let server = start().await;
    let stranger =
        server.server.client(UserInfo::new("system:anonymous", ["system:unauthenticated"]));
    let refused =
        Api::<ConfigMap>::default_namespaced(stranger.clone()).list(&ListParams::default()).await;
    match refused.unwrap_err() {
        kube::Error::Api(status) => {
            assert_eq!(status.code, 403);
            assert_eq!(
                status.message,
                "configmaps is forbidden: User \"system:anonymous\" cannot list resource \"configmaps\" in API group \
                 \"\" in the namespace \"default\""
            );
        }
        other => panic!("{other}"),
    }
    let healthz = http::Request::get("/healthz").body(Vec::new()).unwrap();
    assert_eq!(stranger.request_text(healthz).await.unwrap(), "ok");
}

#[tokio::test]
async fn a_stop_ends_watches_and_lets_requests_finish() {
    let server = start().await;
    let client = over_tls(&server).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let mut events = maps.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    let common::Server { server, .. } = server;
    let begun = tokio::time::Instant::now();
    tokio::time::timeout(DEADLINE, server.shutdown()).await.expect("a stop in time");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let rest = tokio::time::timeout(DEADLINE, async {
        while let Ok(Some(_)) = events.try_next().await {}
    });
    rest.await.expect("the watch has ended");
}

#[tokio::test]
async fn a_second_start_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = skiff_store::Store::memory().await.unwrap();
    let config = skiff_apiserver::Config::new(
        dir.path(),
        ([127, 0, 0, 1], 0).into(),
        common::ADVERTISED.into(),
    );
    let first = skiff_apiserver::start(config.clone(), store.clone()).await.unwrap();
    let address = first.local_addr();
    first.shutdown().await;
    let revision = store.revision();
    let config = skiff_apiserver::Config { bind: address, ..config };
    let second = skiff_apiserver::start(config, store.clone()).await.unwrap();
    assert_eq!(store.revision(), revision);
    second.shutdown().await;
}
