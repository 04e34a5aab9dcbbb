//! Images from other nodes: what no registry gives, a node that has it does.
//!
//! The agents of a cluster serve their images to each other over HTTPS, each
//! with its node's certificate; Docker is never reached from outside. Nodes
//! whose status names the image are asked first, then the others.
//!
//! A node may so read any image of another node by name. Who runs a pod on a
//! node could start it on the other one as well, but an image that no pod may
//! use has no place on a node of the cluster.

use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::ListParams;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tracing::debug;

use crate::join::{Identity, obtain_client, renewal_at};
use crate::runtime::{Result as Answer, RuntimeError, sandbox_image};
use crate::server::tls;

/// Nodes that are asked for one image.
const ASKED: usize = 32;
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a node may take to begin with an image.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Where agents listen unless their Node says otherwise.
const DEFAULT_PORT: u16 = 10250;

/// An image that another node gives.
pub struct Offer {
    /// The node.
    pub node: String,
    /// The image as `docker save` writes it.
    pub tar: BoxStream<'static, Answer<Bytes>>,
}

/// Other nodes that may have an image.
#[async_trait]
pub trait Peers: Send + Sync {
    /// The image `name` from the first node that has it.
    async fn find(&self, name: &str) -> Option<Offer>;
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
    async fn find(&self, name: &str) -> Option<Offer> {
        let nodes = Api::<Node>::all(self.client.clone()).list(&ListParams::default()).await;
        let nodes = nodes.inspect_err(|error| debug!(%error, "cannot ask for other nodes")).ok()?;
        let candidates = candidates(&nodes.items, &self.node, name, sandbox_image::architecture());
        if candidates.is_empty() {
            return None;
        }
        let connector = self.connector().await;
        let connector = connector
            .inspect_err(|error| {
                debug!(error = format!("{error:#}"), "no certificate to ask others with")
            })
            .ok()?;
        for (node, address) in candidates {
            match ask(&connector, &node, address, name).await {
                Ok(Some(tar)) => return Some(Offer { node, tar }),
                Ok(None) => {}
                Err(error) => {
                    debug!(node, error = format!("{error:#}"), "cannot ask a node for an image")
                }
            }
        }
        None
    }
}

/// Whom to ask: nodes that are ready and of our kind, those first that say that
/// they have the image.
fn candidates(nodes: &[Node], me: &str, image: &str, arch: &str) -> Vec<(String, SocketAddr)> {
    let mut found: Vec<(bool, String, SocketAddr)> = nodes
        .iter()
        .filter_map(|node| {
            let name = node.metadata.name.clone().filter(|name| name != me)?;
            let labels = node.metadata.labels.as_ref();
            let kind = labels.and_then(|labels| labels.get("kubernetes.io/arch"));
            let status = node.status.as_ref()?;
            let ready = status.conditions.iter().flatten();
            let ready = ready.into_iter().any(|one| one.type_ == "Ready" && one.status == "True");
            if !ready || kind.is_some_and(|kind| kind != arch) {
                return None;
            }
            let images = status.images.iter().flatten();
            let names = images.flat_map(|one| one.names.iter().flatten());
            let has = names.into_iter().any(|name| name == image);
            Some((!has, name, address(node)?))
        })
        .collect();
    found.sort();
    found.truncate(ASKED);
    found.into_iter().map(|(_, name, address)| (name, address)).collect()
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
    node: &str,
    address: SocketAddr,
    image: &str,
) -> anyhow::Result<Option<BoxStream<'static, Answer<Bytes>>>> {
    // The certificate names the node, so another machine that has taken over
    // its address is found out.
    let server = ServerName::try_from(node.to_owned())?;
    let dial = async { connector.connect(server, TcpStream::connect(address).await?).await };
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
        .header(http::header::HOST, node)
        .body(Empty::<Bytes>::new())?;
    let response = tokio::time::timeout(ANSWER_TIMEOUT, sender.send_request(request)).await??;
    match response.status() {
        http::StatusCode::OK => {}
        http::StatusCode::NOT_FOUND => return Ok(None),
        other => anyhow::bail!("it answered {other}"),
    }
    // The sender lives as long as the body: without it the connection ends.
    let body = response.into_body().into_data_stream().map(move |piece| {
        let _open = &sender;
        piece.map_err(|error| RuntimeError::Refused(format!("the other node broke off: {error}")))
    });
    Ok(Some(Box::pin(body)))
}

/// No other nodes.
pub struct Alone;

#[async_trait]
impl Peers for Alone {
    async fn find(&self, _: &str) -> Option<Offer> {
        None
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
            node("down", "Unknown", "amd64", json!(["web:1"])),
            node("me", "True", "amd64", json!(["web:1"])),
            node("other", "True", "arm64", json!(["web:1"])),
        ];
        let names: Vec<String> =
            candidates(&nodes, "me", "web:1", "amd64").into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["b", "a"]);
        let at = candidates(&nodes, "me", "web:1", "amd64")[0].1;
        assert_eq!(at, "192.0.2.1:10250".parse().unwrap());
    }
}
