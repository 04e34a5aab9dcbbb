//! A machine joins a real API server over TLS, serves logs and exec for it,
//! and is refused wherever it should be.

#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, Secret, ServiceAccount};
use kube::api::{AttachParams, ListParams, LogParams, Patch, PatchParams, PostParams};
use kube::config::Kubeconfig;
use kube::{Api, Client, Config};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skiff_agent::JoinError;
use skiff_agent::runtime::memory::Memory;
use skiff_agent::runtime::{ContainerSpec, Output, Runtime, labels};
use skiff_agent::server::{self, Settings, backend};
use skiff_apiserver::{ApiServer, join, pki};
use skiff_store::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

struct Cluster {
    server: ApiServer,
    admin: Client,
    url: String,
    dir: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let advertise = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
        let config = skiff_apiserver::Config::new(dir.path().join("master"), bind, advertise);
        std::fs::create_dir(dir.path().join("master")).unwrap();
        let server = skiff_apiserver::start(config, Store::memory().await.unwrap()).await.unwrap();
        let file = Kubeconfig::read_from(server.kubeconfig()).unwrap();
        let config = Config::from_custom_kubeconfig(file, &Default::default()).await.unwrap();
        let admin = Client::try_from(config).unwrap();
        let url = format!("https://127.0.0.1:{}", server.local_addr().port());
        Self { server, admin, url, dir }
    }

    async fn token(&self) -> String {
        use rustls_pki_types::{CertificateDer, pem::PemObject};
        let ca = CertificateDer::from_pem_slice(self.server.pki().ca_pem().as_bytes()).unwrap();
        let pin = pki::pin(&ca);
        join::create_token(&self.admin, &pin, Duration::from_secs(600)).await.unwrap().to_string()
    }
}

fn read<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

#[tokio::test]
async fn a_machine_joins_once_and_stays_a_node() {
    let cluster = Cluster::start().await;
    let token = cluster.token().await;
    let data = cluster.dir.path().join("n1");
    let joined = skiff_agent::join(&cluster.url, Some(&token), &data, "n1", |_| ()).await.unwrap();
    let nodes: Api<Node> = Api::all(joined.client.clone());
    let node = read(json!({ "metadata": { "name": "n1" } }));
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let secrets: Api<Secret> = Api::all(joined.client.clone());
    assert!(secrets.list(&ListParams::default()).await.is_err(), "secrets of others");

    // The token has done its work.
    join::delete_token(&cluster.admin, &token).await.unwrap();
    let again = skiff_agent::join(&cluster.url, None, &data, "n1", |_| ()).await.unwrap();
    Api::<Node>::all(again.client).get("n1").await.unwrap();
    let other = skiff_agent::join(&cluster.url, None, &data, "n2", |_| ()).await;
    assert!(matches!(other, Err(JoinError::NoToken(_))), "another node's identity");

    let fresh = cluster.dir.path().join("n3");
    let late = skiff_agent::join(&cluster.url, Some(&token), &fresh, "n3", |_| ()).await;
    assert!(matches!(late, Err(JoinError::Request(_))), "a token that has ended");
    let pin = token.split('.').nth(1).unwrap();
    let wrong = token.replace(pin, &"0".repeat(64));
    let wrong = skiff_agent::join(&cluster.url, Some(&wrong), &fresh, "n3", |_| ()).await;
    assert!(matches!(wrong, Err(JoinError::Server { .. })), "a server with another authority");
    assert!(!fresh.exists(), "nothing is kept of a join that failed");
    cluster.server.shutdown().await;
}

#[tokio::test]
async fn logs_and_exec_reach_the_node() {
    let cluster = Cluster::start().await;
    let data = cluster.dir.path().join("n1");
    let token = cluster.token().await;
    let joined = skiff_agent::join(&cluster.url, Some(&token), &data, "n1", |_| ()).await.unwrap();

    let runtime = Arc::new(Memory::new());
    runtime.add_image("busybox");
    let spec = ContainerSpec {
        name: "c".into(),
        image: "busybox".into(),
        labels: labels::of_container("i", "n1", "default", "p", "c"),
        ..ContainerSpec::default()
    };
    let id = runtime.create(&spec).await.unwrap();
    runtime.start(&id).await.unwrap();
    runtime.write_log(&id, Output::Stdout("hello\n".into()));
    runtime.set_exec_code("false", 3);

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let settings =
        Settings { ca_pem: joined.server_ca_pem.clone(), node_name: "n1".into(), data_dir: data };
    let node = backend::Node::new(runtime, "i", "n1", || json!({}), || "up 1\n".to_owned());
    let cancel = CancellationToken::new();
    let serving =
        server::run(listener, settings, joined.client.clone(), Arc::new(node), cancel.clone());
    let serving = tokio::spawn(serving);

    let nodes: Api<Node> = Api::all(joined.client.clone());
    let node = read(json!({ "metadata": { "name": "n1" } }));
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let status = json!({ "status": {
        "addresses": [{ "type": "InternalIP", "address": "127.0.0.1" }],
        "daemonEndpoints": { "kubeletEndpoint": { "Port": port } },
    } });
    nodes.patch_status("n1", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.admin.clone(), "default");
    let account = read(json!({ "metadata": { "name": "default" } }));
    accounts.create(&PostParams::default(), &account).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(cluster.admin.clone(), "default");
    let pod = read(json!({
        "metadata": { "name": "p" },
        "spec": { "nodeName": "n1", "containers": [{ "name": "c", "image": "busybox" }] },
    }));
    pods.create(&PostParams::default(), &pod).await.unwrap();

    // The agent asks for its certificate before it accepts.
    assert_eq!(pods.logs("p", &LogParams::default()).await.unwrap(), "hello\n");
    let params = AttachParams::default().stdin(false);
    let mut process = pods.exec("p", ["false"], &params).await.unwrap();
    let status = process.take_status().unwrap().await.unwrap();
    assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"));
    assert_eq!(status.details.unwrap().causes.unwrap()[0].message.as_deref(), Some("3"));
    let unknown = AttachParams::default().stdin(false).container("none");
    assert!(pods.exec("p", ["true"], &unknown).await.is_err());

    cancel.cancel();
    serving.await.unwrap().unwrap();
    cluster.server.shutdown().await;
}
