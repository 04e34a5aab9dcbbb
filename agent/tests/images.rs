//! An image that only another node has: it comes from there over TLS, nobody but
//! nodes and the API server gets it, and who may use it goes with it. Each node
//! has a runtime of its own, in memory.

#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams, PostParams};
use kube::config::Kubeconfig;
use kube::{Api, Client, Config};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde_json::json;
use skiff_agent::Joined;
use skiff_agent::images::access::{Access, PullSecret};
use skiff_agent::images::ledger::Ledger;
use skiff_agent::images::peers::{ClusterPeers, Peers};
use skiff_agent::images::{ImageError, Images};
use skiff_agent::runtime::memory::Memory;
use skiff_agent::runtime::{Credentials, Runtime};
use skiff_agent::server::{self, Settings, backend};
use skiff_apiserver::{join, pki};
use skiff_store::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Serves `images` as node `name` and says so in its Node.
async fn serve(
    joined: &Joined,
    name: &str,
    dir: &Path,
    images: Images,
    cancel: &CancellationToken,
) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let settings = Settings {
        ca_pem: joined.server_ca_pem.clone(),
        node_name: name.to_owned(),
        data_dir: dir.to_owned(),
    };
    let node = backend::Node::new(Arc::new(Memory::new()), "i", name, || json!({}), String::new)
        .with_images(images);
    let serving =
        server::run(listener, settings, joined.client.clone(), Arc::new(node), cancel.clone());
    tokio::spawn(serving);
    let nodes: Api<Node> = Api::all(joined.client.clone());
    let node = serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let status = json!({ "status": {
        "conditions": [{ "type": "Ready", "status": "True" }],
        "addresses": [{ "type": "InternalIP", "address": "127.0.0.1" }],
        "daemonEndpoints": { "kubeletEndpoint": { "Port": port } },
    } });
    nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
}

/// A Secret of this UID with a password of its own.
fn secret(uid: &str) -> PullSecret {
    let (username, password, registry) = ("u".into(), uid.into(), "docker.io".into());
    PullSecret { uid: uid.into(), credentials: Credentials { username, password, registry } }
}

#[tokio::test]
async fn an_image_comes_from_the_node_that_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let advertise = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
    let config = skiff_apiserver::Config::new(dir.path().join("master"), bind, advertise);
    std::fs::create_dir(dir.path().join("master")).unwrap();
    let server = skiff_apiserver::start(config, Store::memory().await.unwrap()).await.unwrap();
    let file = Kubeconfig::read_from(server.kubeconfig()).unwrap();
    let admin = Config::from_custom_kubeconfig(file, &Default::default()).await.unwrap();
    let admin = Client::try_from(admin).unwrap();
    let ca = CertificateDer::from_pem_slice(server.pki().ca_pem().as_bytes()).unwrap();
    let token = join::create_token(&admin, &pki::pin(&ca), Duration::from_secs(600)).await.unwrap();
    let token = token.to_string();
    let url = format!("https://127.0.0.1:{}", server.local_addr().port());
    let cancel = CancellationToken::new();
    let mut joined = Vec::new();
    for name in ["has", "lacks", "wants"] {
        let data = dir.path().join(name);
        joined.push(skiff_agent::join(&url, Some(&token), &data, name, |_| ()).await.unwrap());
    }
    let [has, lacks] = [Arc::new(Memory::new()), Arc::new(Memory::new())];
    has.add_image("web:1");
    has.add_remote_image("private:1");
    let (has, lacks) = (Images::new(has), Images::new(lacks));
    has.pull("private:1", &[secret("theirs")], &|_| ()).await.unwrap();
    serve(&joined[0], "has", &dir.path().join("has"), has, &cancel).await;
    serve(&joined[1], "lacks", &dir.path().join("lacks"), lacks, &cancel).await;

    let runtime = Arc::new(Memory::new());
    let wants = dir.path().join("wants");
    let peers = ClusterPeers::new(joined[2].client.clone(), "wants", &joined[2].server_ca_pem);
    let images = Images::new(runtime.clone()).with(Arc::new(peers), Ledger::open(&wants));
    let pulled = images.pull("web:1", &[], &|_| ()).await.unwrap();
    assert_eq!(pulled.node.as_deref(), Some("has"));
    assert!(runtime.image("web:1").await.unwrap().is_some());
    assert!(Ledger::open(&wants).all().contains_key("web:1"), "it is ours to remove");

    // What came with a secret goes to those who bring it, and stays theirs.
    for brought in [vec![], vec![secret("mine")]] {
        let withheld = images.pull("private:1", &brought, &|_| ()).await.unwrap_err();
        assert!(withheld.to_string().contains("pull secret"), "{withheld}");
    }
    assert_eq!(runtime.image("private:1").await.unwrap(), None);
    let both = [secret("mine"), secret("theirs")];
    let pulled = images.pull("private:1", &both, &|_| ()).await.unwrap();
    assert_eq!(pulled.node.as_deref(), Some("has"));
    assert_eq!(images.access(&pulled.image), Access::of(&[secret("theirs")]));

    let nowhere = images.pull("none:1", &[], &|_| ()).await.unwrap_err();
    assert!(
        matches!(&nowhere, ImageError::Pull { message } if message.contains("none")),
        "{nowhere}"
    );
    let digest = format!("web@sha256:{}", "a".repeat(64));
    assert!(images.pull(&digest, &[], &|_| ()).await.is_err(), "only a registry knows digests");

    // A node of another cluster shows a certificate that nobody here gave.
    let other = rcgen::generate_simple_self_signed(["wants".to_owned()]).unwrap();
    let foreign = ClusterPeers::new(joined[2].client.clone(), "wants", &other.cert.pem());
    let offered = foreign
        .offers("web:1", &Access::Everybody)
        .await
        .any(|offer| async move { offer.is_ok() })
        .await;
    assert!(!offered, "an agent of another authority is not trusted");

    cancel.cancel();
    server.shutdown().await;
}
