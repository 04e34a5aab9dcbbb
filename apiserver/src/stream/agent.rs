//! The way to an agent: its address from the Node, a TLS connection on which
//! both sides prove who they are, one request, and the tunnel after an upgrade.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::body::Body;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, Uri, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{authn::objects::Objects, status::ApiError};

/// Dialing and the handshake together.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an agent may think before it answers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes held in each direction of a tunnel.
const BUFFER: usize = 32 << 10;
const DEFAULT_PORT: u16 = 10250;

/// Headers that an upgrade needs. Nothing else of a client's request goes on,
/// its credentials least of all.
const UPGRADE_HEADERS: [HeaderName; 7] = [
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_ACCEPT,
    HeaderName::from_static("x-stream-protocol-version"),
];
const ACCEPTED_VERSIONS: HeaderName =
    HeaderName::from_static("x-accepted-stream-protocol-versions");

/// One agent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Agent {
    node: String,
    address: SocketAddr,
}

impl Agent {
    /// The agent of a node.
    pub(super) fn of(objects: &Objects, node: &str) -> Result<Self, ApiError> {
        let object = objects
            .get("", "nodes", "", node)
            .ok_or_else(|| ApiError::not_found("", "nodes", node))?;
        let address = address(&object).ok_or_else(|| {
            ApiError::unavailable(format!("node {node} has not reported an address yet"))
        })?;
        Ok(Self { node: node.to_owned(), address })
    }

    /// Sends one request on a connection of its own. Redirects are answers
    /// like any other and never followed.
    pub(super) async fn send(
        &self,
        tls: &Arc<rustls::ClientConfig>,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, ApiError> {
        let unreachable = |what: &str, error: &dyn std::fmt::Display| {
            tracing::info!(node = self.node, address = %self.address, %error, "cannot reach an agent");
            ApiError::internal(format!(
                "cannot reach the agent of node {}: {what}: {error}",
                self.node
            ))
        };
        // The agent's certificate names its node, so an address that another
        // machine has taken over is found out.
        let name = ServerName::try_from(self.node.clone())
            .map_err(|error| unreachable("its name is no host name", &error))?;
        let dial = async {
            let stream = TcpStream::connect(self.address).await?;
            stream.set_nodelay(true)?;
            TlsConnector::from(Arc::clone(tls)).connect(name, stream).await
        };
        let stream = tokio::time::timeout(DIAL_TIMEOUT, dial)
            .await
            .map_err(|_| unreachable("dial", &"timed out"))?
            .map_err(|error| unreachable("dial", &error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable("handshake", &error))?;
        // Ends with the response's body or the tunnel, whichever it becomes.
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to an agent ended");
            }
        });
        let mut request = request;
        if let Ok(host) = header::HeaderValue::from_str(&self.node) {
            request.headers_mut().insert(header::HOST, host);
        }
        tokio::time::timeout(ANSWER_TIMEOUT, sender.send_request(request))
            .await
            .map_err(|_| unreachable("request", &"no answer in time"))?
            .map_err(|error| unreachable("request", &error))
    }

    /// The port that it listens on.
    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Connects to a port of a pod that runs there.
    pub(super) async fn dial_pod(
        &self,
        tls: &Arc<rustls::ClientConfig>,
        namespace: &str,
        pod: &str,
        port: u16,
    ) -> Result<TokioIo<hyper::upgrade::Upgraded>, ApiError> {
        let request = Request::builder()
            .uri(format!("/podConnections/{namespace}/{pod}/{port}"))
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "tcp")
            .body(Body::empty())
            .map_err(|error| ApiError::internal(error.to_string()))?;
        let mut response = self.send(tls, request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(super::refusal(response).await);
        }
        let upgraded = hyper::upgrade::on(&mut response).await;
        upgraded.map(TokioIo::new).map_err(|error| ApiError::internal(error.to_string()))
    }

    /// Forwards a whole request to `path` and its answer back.
    pub(super) async fn forward(
        &self,
        tls: &Arc<rustls::ClientConfig>,
        request: Request<Body>,
        path: &str,
    ) -> Result<Response<Body>, ApiError> {
        let response = self.send(tls, super::proxy::onward(request, path)?).await?;
        Ok(super::proxy::back(response))
    }
}

/// The address that an agent listens on, as its Node says.
fn address(node: &Value) -> Option<SocketAddr> {
    let addresses = node["status"]["addresses"].as_array()?;
    let find = |kind: &str| {
        let mut found = addresses.iter().filter(|address| address["type"] == kind);
        found.find_map(|address| address["address"].as_str()?.parse().ok())
    };
    let ip = find("InternalIP").or_else(|| find("ExternalIP"))?;
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    Some(SocketAddr::new(ip, port.unwrap_or(DEFAULT_PORT)))
}

/// Whether a client asks to leave HTTP.
pub(crate) fn is_upgrade(headers: &HeaderMap) -> bool {
    let connection = headers.get_all(header::CONNECTION).iter();
    let asks = connection
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade")));
    asks && headers.contains_key(header::UPGRADE)
}

/// The client's upgrade request as the agent gets it.
pub(super) fn upgrade_request(
    request: &Request<Body>,
    path: &str,
) -> Result<Request<Body>, ApiError> {
    let uri: Uri =
        path.parse().map_err(|_| ApiError::bad_request("the request has no valid query"))?;
    let mut onward = Request::new(Body::empty());
    *onward.method_mut() = request.method().clone();
    *onward.uri_mut() = uri;
    *onward.headers_mut() = upgrade_headers(request.headers());
    Ok(onward)
}

/// The headers that belong to an upgrade.
pub(super) fn upgrade_headers(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for name in UPGRADE_HEADERS.iter().chain([&ACCEPTED_VERSIONS]) {
        for value in headers.get_all(name) {
            kept.append(name.clone(), value.clone());
        }
    }
    kept
}

/// Moves bytes between client and agent until one of them closes.
pub(super) async fn tunnel(client: hyper::upgrade::OnUpgrade, agent: hyper::upgrade::OnUpgrade) {
    let (client, agent) = match tokio::try_join!(client, agent) {
        Ok(both) => both,
        Err(error) => return tracing::debug!(%error, "upgrade failed"),
    };
    skiff_client::tunnel(TokioIo::new(client), TokioIo::new(agent), BUFFER).await;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_come_from_the_node() {
        let node = |kind: &str, port: Value| {
            json!({ "status": {
                "addresses": [{ "type": "Hostname", "address": "n" }, { "type": kind, "address": "192.0.2.1" }],
                "daemonEndpoints": { "kubeletEndpoint": { "Port": port } },
            } })
        };
        let at = |text: &str| Some(text.parse().unwrap());
        assert_eq!(address(&node("InternalIP", json!(1234))), at("192.0.2.1:1234"));
        assert_eq!(address(&node("InternalIP", Value::Null)), at("192.0.2.1:10250"));
        assert_eq!(address(&node("ExternalIP", json!(0))), at("192.0.2.1:10250"));
        assert_eq!(address(&node("Hostname", json!(1))), None);
        assert_eq!(address(&json!({})), None);
    }

    #[test]
    fn credentials_stay_here() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer x"),
            ("cookie", "x"),
            ("impersonate-user", "x"),
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        assert!(is_upgrade(&headers));
        let kept = upgrade_headers(&headers);
        assert_eq!(kept.len(), 3);
        assert!(!kept.contains_key("authorization"));
        headers.remove("upgrade");
        assert!(!is_upgrade(&headers));
    }
}
