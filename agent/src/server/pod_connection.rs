//! A connection to a pod's port, as bytes: how the API server's proxy reaches
//! pods from a machine that has no way into the pod network.
//!
//! Unlike a port-forward it comes to the pod's address, from outside, and only
//! to pods of this node.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::{
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::Node;

const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes held in each direction of a connection.
const BUFFER: usize = 32 << 10;

/// What the connection becomes.
const PROTOCOL: HeaderValue = HeaderValue::from_static("tcp");

pub(super) async fn serve(
    State(node): State<Node>,
    Path((namespace, pod, port)): Path<(String, String, u16)>,
    mut request: Request,
) -> Response {
    if request.headers().get(header::UPGRADE) != Some(&PROTOCOL) {
        return (StatusCode::BAD_REQUEST, "Upgrade request required").into_response();
    }
    let Some(ip) = address(&node.pods(), &namespace, &pod) else {
        let text = format!("pod {namespace}/{pod} has no address on this node");
        return (StatusCode::NOT_FOUND, text).into_response();
    };
    let dial = TcpStream::connect(SocketAddr::new(ip, port));
    let stream = match tokio::time::timeout(DIAL_TIMEOUT, dial).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
        Err(_) => return (StatusCode::BAD_GATEWAY, "timed out").into_response(),
    };
    let client = hyper::upgrade::on(&mut request);
    // Lives as long as the connection, which ends with the server.
    tokio::spawn(async move {
        let moved = async {
            stream.set_nodelay(true)?;
            let client = client.await.map_err(std::io::Error::other)?;
            skiff_client::tunnel(TokioIo::new(client), stream, BUFFER).await;
            Ok::<(), std::io::Error>(())
        };
        if let Err(error) = moved.await {
            tracing::debug!(%error, "no connection to a pod");
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(header::UPGRADE, PROTOCOL);
    response
}

/// The address of a pod in a PodList, unless it is the machine's alone.
fn address(pods: &Value, namespace: &str, name: &str) -> Option<IpAddr> {
    let mut pods = pods["items"].as_array()?.iter();
    let pod = pods
        .find(|pod| pod["metadata"]["namespace"] == namespace && pod["metadata"]["name"] == name)?;
    let ip: IpAddr = pod["status"]["podIP"].as_str()?.parse().ok()?;
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_reached_at_its_own_address() {
        let pod = |name: &str, ip: &str| json!({"metadata": {"namespace": "a", "name": name}, "status": {"podIP": ip}});
        let pods = json!({"items": [pod("p", "10.244.1.2"), pod("l", "127.0.0.1"), pod("w", "")]});
        let cases = [
            ("a", "p", Some("10.244.1.2")),
            ("b", "p", None),
            ("a", "other", None),
            ("a", "l", None),
            ("a", "w", None),
        ];
        for (namespace, name, expected) in cases {
            let found = address(&pods, namespace, name).map(|ip| ip.to_string());
            assert_eq!(found.as_deref(), expected, "{namespace}/{name}");
        }
    }
}
