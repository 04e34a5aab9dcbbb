//! A Docker that hangs: behind a socket of ours that stops to pass anything on.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::*;

const DOCKER: &str = "/var/run/docker.sock";

/// Passes bytes on while the gate is open.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut open: watch::Receiver<bool>,
) {
    let mut piece = [0; 8192];
    while let Ok(read) = from.read(&mut piece).await {
        // A gate that is gone lets nothing pass any more.
        let open = open.wait_for(|open| *open).await.is_ok();
        if read == 0 || !open || to.write_all(&piece[..read]).await.is_err() {
            break;
        }
    }
    // The other side may be gone already.
    let _ = to.shutdown().await;
}

/// A socket in front of Docker's, and the gate in it.
fn gated(socket: &std::path::Path) -> (JoinSet<()>, watch::Sender<bool>) {
    let (gate, open) = watch::channel(true);
    let listener = UnixListener::bind(socket).unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut pairs = JoinSet::new();
        while let Ok((client, _)) = listener.accept().await {
            let docker = UnixStream::connect(DOCKER).await.unwrap();
            let (client_rx, client_tx) = client.into_split();
            let (docker_rx, docker_tx) = docker.into_split();
            pairs.spawn(pass(client_rx, docker_tx, open.clone()));
            pairs.spawn(pass(docker_rx, client_tx, open.clone()));
        }
    });
    (tasks, gate)
}

#[tokio::test]
async fn a_docker_that_hangs_holds_up_only_what_needs_it() {
    if let Err(error) = Docker::new(DOCKER).version().await {
        eprintln!("skipped: no Docker answers at {DOCKER}: {error}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("docker.sock");
    let (_proxy, gate) = gated(&socket);
    let mut node = TestNode::new(Arc::new(Docker::new(&socket))).await;
    let container =
        json!({"name": "a", "image": sandbox_image::name(), "imagePullPolicy": "Never"});
    let spec = json!({"containers": [container], "terminationGracePeriodSeconds": 1});
    node.apply("p", spec.clone());
    node.until("Ready", ready).await;

    gate.send_replace(false);
    node.apply("other", spec);
    let other = "/api/v1/namespaces/ns/pods/other";
    node.until_at(other, "a status of the other", |pod| {
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ContainerCreating"
    })
    .await;
    assert!(ready(&node.api.get(POD).unwrap()), "the pod that runs does not notice");

    gate.send_replace(true);
    node.until_at(other, "the other is Ready", ready).await;
    assert_eq!(node.containers().await.len(), 4, "nothing was made twice");
    assert!(node.containers().await.iter().all(crate::runtime::Container::is_running));
    let pods: kube::Api<k8s_openapi::api::core::v1::Pod> =
        kube::Api::namespaced(node.api.client(), "ns");
    for name in ["p", "other"] {
        pods.delete(name, &Default::default()).await.unwrap();
    }
    node.until_empty().await;
    node.stop().await;
}
