//! Images from other nodes: what no registry gives, a node that has it does.
//!
//! The agents of a cluster serve their images to each other over HTTPS, each
//! with its node's certificate; Docker is never reached from outside. Nodes
//! whose status names the image are asked first, then the others.
//!
//! A node says for which secrets it asks ([`Access`]), and is given what those
//! who bring them may use, and who else may: no pod gets here what its registry
//! would refuse it. It is the node that is believed, not the pod.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use rustls_pki_types::ServerName;
use skiff_client::Api;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tracing::debug;

use super::access::Access;
use crate::join::{Identity, obtain_client, renewal_at};
use crate::runtime::{Result as Answer, RuntimeError, sandbox_image};
use crate::server::tls;

/// Nodes that are asked for one image.
const ASKED: usize = 32;
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a node may take to begin with an image.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How much of a refusal is read.
const SAID_BYTES: usize = 1024;
/// Where agents listen unless their Node says otherwise.
const DEFAULT_PORT: u16 = 10250;

/// The header with marks of secrets: in a request of those that the pod brings,
/// in an answer of those that the image came with.
pub const ACCESS_HEADER: &str = "skiff-image-access";

/// An image that another node gives.
pub struct Offer {
    /// The node.
    pub node: String,
    /// Who may use it.
    pub access: Access,
    /// The image as `docker save` writes it.
    pub tar: BoxStream<'static, Answer<Bytes>>,
}

/// Other nodes that may have an image.
#[async_trait]
pub trait Peers: Send + Sync {
    /// The image `name` from one node after the other, each asked when it is its
    /// turn; an error says which node should have it and cannot be asked, or has
    /// it for others than `pod`.
    async fn offers(&self, name: &str, pod: &Access) -> BoxStream<'_, Result<Offer, String>>;
}

/// The nodes of the cluster.
pub struct ClusterPeers {
    client: kube::Client,
    node: String,
    ca_pem: String,
    /// The certificate with which this node calls others.
    identity: Mutex<Option<Identity>>,
}

impl ClusterPeers {
    /// The other nodes of `node`'s cluster, whose authority is `ca_pem`.
    pub fn new(client: kube::Client, node: &str, ca_pem: &str) -> Self {
        let identity = Mutex::default();
        Self { client, node: node.to_owned(), ca_pem: ca_pem.to_owned(), identity }
    }

    async fn connector(&self) -> anyhow::Result<TlsConnector> {
        let mut identity = self.identity.lock().await;
        let fresh = |identity: &Identity| {
            renewal_at(&identity.certificate_pem).is_ok_and(|at| at > Timestamp::now())
        };
        let current = match identity.take().filter(fresh) {
            Some(current) => current,
            None => obtain_client(&self.client, &self.node).await?.into(),
        };
        let tls = tls::client_config(&self.ca_pem, &current.certificate_pem, &current.key_pem)?;
        *identity = Some(current);
        Ok(TlsConnector::from(tls))
    }
}

#[async_trait]
impl Peers for ClusterPeers {
    async fn offers(&self, name: &str, pod: &Access) -> BoxStream<'_, Result<Offer, String>> {
        let nodes = Api::<Node>::all(self.client.clone()).list(&ListParams::default()).await;
        let nodes = nodes.inspect_err(|error| debug!(%error, "cannot ask for other nodes"));
        let nodes = nodes.unwrap_or_default();
        let candidates = candidates(&nodes, &self.node, name, sandbox_image::architecture());
        let wanted = Arc::new((name.to_owned(), pod.to_string()));
        let asked = futures::stream::iter(candidates).filter_map(move |one| {
            let wanted = wanted.clone();
            async move {
                let offer = async {
                    anyhow::ensure!(one.ready, "it is not ready");
                    let (name, pod) = wanted.as_ref();
                    ask(&self.connector().await?, &one, name, pod).await
                };
                match offer.await {
                    Ok(offer) => offer.map(Ok),
                    Err(error) if error.is::<Withheld>() => {
                        Some(Err(format!("node {} does not give it: {error}", one.node)))
                    }
                    Err(error) if one.has => Some(Err(format!(
                        "node {} has it and cannot be asked: {error:#}",
                        one.node
                    ))),
                    Err(error) => {
                        let error = format!("{error:#}");
                        debug!(one.node, error, "cannot ask a node for an image");
                        None
                    }
                }
            }
        });
        Box::pin(asked)
    }
}

/// A node that may have an image.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    node: String,
    address: SocketAddr,
    /// Whether its status says that it has.
    has: bool,
    /// Whether it can be asked.
    ready: bool,
}

/// Whom to ask: nodes of our kind that are ready or say that they have the
/// image, these first.
fn candidates(nodes: &[Node], me: &str, image: &str, arch: &str) -> Vec<Candidate> {
    let mut found: Vec<Candidate> = nodes
        .iter()
        .filter_map(|node| {
            let name = node.metadata.name.clone().filter(|name| name != me)?;
            let labels = node.metadata.labels.as_ref();
            let kind = labels.and_then(|labels| labels.get("kubernetes.io/arch"));
            let status = node.status.as_ref()?;
            let ready = status.conditions.iter().flatten();
            let ready = ready.into_iter().any(|one| one.type_ == "Ready" && one.status == "True");
            if kind.is_some_and(|kind| kind != arch) {
                return None;
            }
            let images = status.images.iter().flatten();
            let names = images.flat_map(|one| one.names.iter().flatten());
            let has = names.into_iter().any(|name| name == image);
            let candidate = Candidate { node: name, address: address(node)?, has, ready };
            (ready || has).then_some(candidate)
        })
        .collect();
    found.sort_by(|a, b| (!a.has, !a.ready, &a.node).cmp(&(!b.has, !b.ready, &b.node)));
    found.truncate(ASKED);
    found
}

fn address(node: &Node) -> Option<SocketAddr> {
    let status = node.status.as_ref()?;
    let addresses = status.addresses.iter().flatten();
    let ip = addresses.into_iter().find(|one| one.type_ == "InternalIP")?.address.parse().ok()?;
    let endpoint = status.daemon_endpoints.as_ref().and_then(|all| all.kubelet_endpoint.as_ref());
    let port = endpoint.and_then(|endpoint| u16::try_from(endpoint.port).ok());
    Some(SocketAddr::new(ip, port.unwrap_or(DEFAULT_PORT)))
}

/// Asks one node; `None` when it does not have the image.
async fn ask(
    connector: &TlsConnector,
    one: &Candidate,
    image: &str,
    pod: &str,
) -> anyhow::Result<Option<Offer>> {
    // The certificate names the node, so another machine that has taken over
    // its address is found out.
    let server = ServerName::try_from(one.node.clone())?;
    let dial = async { connector.connect(server, TcpStream::connect(one.address).await?).await };
    let stream = tokio::time::timeout(DIAL_TIMEOUT, dial).await??;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            debug!(%error, "connection to another node ended");
        }
    });
    let image: String = form_urlencoded::byte_serialize(image.as_bytes()).collect();
    let request = http::Request::builder()
        .uri(format!("/images/tar?name={image}"))
        .header(http::header::HOST, &one.node)
        .header(ACCESS_HEADER, pod)
        .body(Empty::<Bytes>::new())?;
    let response = tokio::time::timeout(ANSWER_TIMEOUT, sender.send_request(request)).await??;
    match response.status() {
        http::StatusCode::OK => {}
        http::StatusCode::NOT_FOUND => return Ok(None),
        other => {
            let said = Limited::new(response.into_body(), SAID_BYTES).collect().await;
            // Without its words the number has to do.
            let said = said.map(|said| said.to_bytes()).unwrap_or_default();
            let said = String::from_utf8_lossy(&said);
            if other == http::StatusCode::FORBIDDEN {
                return Err(Withheld(said.into_owned()).into());
            }
            anyhow::bail!("it answered {other}: {said}");
        }
    }
    let access = response.headers().get(ACCESS_HEADER).and_then(|value| value.to_str().ok());
    let Ok(access) = access.context("it does not say who may use the image")?.parse();
    // The sender lives as long as the body: without it the connection ends.
    let body = response.into_body().into_data_stream().map(move |piece| {
        let _open = &sender;
        piece.map_err(|error| RuntimeError::Refused(format!("the other node broke off: {error}")))
    });
    Ok(Some(Offer { node: one.node.clone(), access, tar: Box::pin(body) }))
}

/// A node has the image for others, in its words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Withheld(String);

/// No other nodes.
pub struct Alone;

#[async_trait]
impl Peers for Alone {
    async fn offers(&self, _: &str, _: &Access) -> BoxStream<'_, Result<Offer, String>> {
        Box::pin(futures::stream::empty())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(name: &str, ready: &str, arch: &str, images: Value) -> Node {
        let node = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/arch": arch}},
            "status": {
                "conditions": [{"type": "Ready", "status": ready}],
                "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
                "images": [{"names": images}],
            },
        });
        serde_json::from_value(node).unwrap()
    }

    #[test]
    fn who_has_it_is_asked_first_and_who_cannot_help_is_not() {
        let nodes = [
            node("a", "True", "amd64", json!([])),
            node("b", "True", "amd64", json!(["web:1"])),
            node("c", "Unknown", "amd64", json!([])),
            node("down", "Unknown", "amd64", json!(["web:1"])),
            node("me", "True", "amd64", json!(["web:1"])),
            node("other", "True", "arm64", json!(["web:1"])),
        ];
        let at = "192.0.2.1:10250".parse().unwrap();
        let one = |node: &str, has, ready| Candidate { node: node.into(), address: at, has, ready };
        let found = candidates(&nodes, "me", "web:1", "amd64");
        assert_eq!(found, [one("b", true, true), one("down", true, false), one("a", false, true)]);
    }
}
