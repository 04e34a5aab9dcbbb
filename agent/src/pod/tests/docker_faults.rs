//! A Docker that hangs or fails: behind a socket of ours that passes nothing on,
//! or answers instead.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::*;
use crate::runtime::docker::Docker;

const DOCKER: &str = "/var/run/docker.sock";

/// What Docker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    /// Its work.
    Well,
    /// Nothing.
    Hanging,
    /// It breaks what it has begun, and answers 500 to what is new.
    Failing,
}

/// Passes bytes on while Docker is well.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut mood: watch::Receiver<Mood>,
) {
    let mut piece = [0; 8192];
    while let Ok(read) = from.read(&mut piece).await {
        // A switch that is gone lets nothing pass any more.
        let mood = mood.wait_for(|mood| *mood != Mood::Hanging).await.map(|mood| *mood);
        let passes = matches!(mood, Ok(Mood::Well));
        if read == 0 || !passes || to.write_all(&piece[..read]).await.is_err() {
            break;
        }
    }
    // The other side may be gone already.
    let _ = to.shutdown().await;
}

/// Answers one request with a failure.
async fn refuse(mut client: UnixStream) {
    let body = r#"{"message":"the disk is on fire"}"#;
    let answer = format!(
        "HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    // A client that has gone needs no answer.
    let _ = client.read(&mut [0; 8192]).await;
    let _ = client.write_all(answer.as_bytes()).await;
}

/// A socket in front of Docker's, and the switch in it.
fn switched(socket: &std::path::Path) -> (JoinSet<()>, watch::Sender<Mood>) {
    let (switch, mood) = watch::channel(Mood::Well);
    let listener = UnixListener::bind(socket).unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut pairs = JoinSet::new();
        while let Ok((client, _)) = listener.accept().await {
            if *mood.borrow() == Mood::Failing {
                pairs.spawn(refuse(client));
                continue;
            }
            let docker = UnixStream::connect(DOCKER).await.unwrap();
            let (client_rx, client_tx) = client.into_split();
            let (docker_rx, docker_tx) = docker.into_split();
            pairs.spawn(pass(client_rx, docker_tx, mood.clone()));
            pairs.spawn(pass(docker_rx, client_tx, mood.clone()));
        }
    });
    (tasks, switch)
}

/// A node on such a Docker with one pod that runs; `None` where there is no
/// Docker.
async fn node_on(
    dir: &tempfile::TempDir,
) -> Option<(TestNode<Docker>, JoinSet<()>, watch::Sender<Mood>)> {
    if let Err(error) = Docker::new(DOCKER).version().await {
        eprintln!("skipped: no Docker answers at {DOCKER}: {error}");
        return None;
    }
    let socket = dir.path().join("docker.sock");
    let (proxy, switch) = switched(&socket);
    let node = TestNode::new(Arc::new(Docker::new(&socket))).await;
    node.apply("p", spec());
    node.until("Ready", ready).await;
    Some((node, proxy, switch))
}

fn spec() -> Value {
    let container =
        json!({"name": "a", "image": sandbox_image::name(), "imagePullPolicy": "Never"});
    json!({"containers": [container], "terminationGracePeriodSeconds": 1})
}

const OTHER: &str = "/api/v1/namespaces/ns/pods/other";

/// Both pods run, once, and go.
async fn all_is_well_again(mut node: TestNode<Docker>) {
    node.until_at(OTHER, "the other is Ready", ready).await;
    let found = node.containers().await;
    assert_eq!(found.len(), 4, "nothing was made twice: {found:?}");
    assert!(found.iter().all(crate::runtime::Container::is_running));
    let pods: kube::Api<k8s_openapi::api::core::v1::Pod> =
        kube::Api::namespaced(node.api.client(), "ns");
    for name in ["p", "other"] {
        pods.delete(name, &Default::default()).await.unwrap();
    }
    node.until_empty().await;
    node.stop().await;
}

#[tokio::test]
async fn a_docker_that_hangs_holds_up_only_what_needs_it() {
    let dir = tempfile::tempdir().unwrap();
    let Some((node, _proxy, switch)) = node_on(&dir).await else { return };
    switch.send_replace(Mood::Hanging);
    node.apply("other", spec());
    node.until_at(OTHER, "a status of the other", |pod| {
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ContainerCreating"
    })
    .await;
    assert!(ready(&node.api.get(POD).unwrap()), "the pod that runs does not notice");
    switch.send_replace(Mood::Well);
    all_is_well_again(node).await;
}

#[tokio::test]
async fn a_docker_that_fails_is_told_of_and_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let Some((node, _proxy, switch)) = node_on(&dir).await else { return };
    switch.send_replace(Mood::Failing);
    node.apply("other", spec());
    node.until_event("FailedCreatePodSandBox").await;
    assert!(ready(&node.api.get(POD).unwrap()), "the pod that runs does not notice");
    let other = node.api.get(OTHER).unwrap();
    assert_ne!(other["status"]["phase"], "Failed", "it may still come: {other:#}");
    switch.send_replace(Mood::Well);
    all_is_well_again(node).await;
}
