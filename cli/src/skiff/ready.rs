//! When a node may be called ready: the API says so, and its DNS answers.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use futures::StreamExt;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::runtime::watcher::{Config, Event};
use skiff_client::{Api, watch};
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// A DNS question that got lost is asked again after this.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// Waits until every one of `names` is a Ready node.
pub(super) async fn nodes(client: Client, names: &[String]) -> anyhow::Result<()> {
    let mut missing: Vec<&String> = names.iter().collect();
    let mut nodes = watch(Api::<Node>::all(client), Config::default());
    while !missing.is_empty() {
        // Errors are the server's first moments; the watcher tries again.
        if let Some(Ok(Event::Apply(node) | Event::InitApply(node))) = nodes.next().await
            && is_ready(&node)
        {
            missing.retain(|name| Some(name.as_str()) != node.metadata.name.as_deref());
        }
    }
    Ok(())
}

/// Whether a node's Ready condition is true.
pub(super) fn is_ready(node: &Node) -> bool {
    (node.status.iter().flat_map(|status| status.conditions.iter().flatten()))
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Waits until the cluster DNS knows the API server's own name.
pub(super) async fn dns(server: IpAddr, domain: &str) -> anyhow::Result<()> {
    let name = Name::from_str(&format!("kubernetes.default.svc.{domain}."))
        .context("the cluster domain is not a name")?;
    let mut question = Message::query();
    question.add_query(Query::query(name, RecordType::A));
    let question = question.to_vec()?;
    loop {
        if let Ok(Ok(true)) = timeout(ASK_AGAIN, ask(server, &question)).await {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn ask(server: IpAddr, question: &[u8]) -> anyhow::Result<bool> {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).await?;
    socket.connect(SocketAddr::new(server, 53)).await?;
    socket.send(question).await?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).await?;
    let answer = Message::from_vec(&answer[..length])?;
    Ok(answer.response_code == ResponseCode::NoError && !answer.answers.is_empty())
}
