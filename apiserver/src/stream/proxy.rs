//! `…/proxy`: plain HTTP requests passed through to a pod, a service's endpoint
//! or an agent.
//!
//! Left out: upgrades through the proxy, and rewriting links in HTML.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use axum::body::Body;
use http::{HeaderName, Request, Response, Uri, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::{authn::objects::Objects, request_info::RequestInfo, status::ApiError};

const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Headers that concern one connection, and the client's credentials for us.
const DROPPED: [HeaderName; 9] = [
    header::AUTHORIZATION,
    header::COOKIE,
    header::CONNECTION,
    header::HOST,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The path behind `proxy`, with the query.
pub(super) fn path(info: &RequestInfo, uri: &Uri) -> String {
    match uri.query() {
        Some(query) => format!("/{}?{query}", info.rest),
        None => format!("/{}", info.rest),
    }
}

/// Passes a request to a pod or to one endpoint of a service.
pub(super) async fn forward(
    objects: &Objects,
    info: &RequestInfo,
    object: &Value,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let port = named_port(&info.name);
    let address = match info.resource.as_str() {
        "pods" => pod_address(object, port),
        _ => service_address(objects, info, object, port),
    };
    let address = address.ok_or_else(|| {
        ApiError::unavailable(format!("no endpoints available for {:?}", info.name))
    })?;
    if !is_proxyable(address.ip()) {
        // Addresses come from status that nodes write; they must not lead to
        // what listens on the master for the master alone.
        return Err(ApiError::bad_request("address not allowed"));
    }
    let onward = onward(request, &path(info, &Uri::default()))?;
    let failed = |error: &dyn std::fmt::Display| {
        ApiError::unavailable(format!("error trying to reach {address}: {error}"))
    };
    let stream = tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(address))
        .await
        .map_err(|_| failed(&"timed out"))?
        .map_err(|error| failed(&error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(&error))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "proxied connection ended");
        }
    });
    let mut onward = onward;
    if let Ok(host) = header::HeaderValue::from_str(&address.to_string()) {
        onward.headers_mut().insert(header::HOST, host);
    }
    Ok(back(sender.send_request(onward).await.map_err(|error| failed(&error))?))
}

/// Whether an address can be another machine's or a pod's.
fn is_proxyable(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(link_local || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast())
}

/// A request without what concerns only the connection it came on.
pub(super) fn onward(request: Request<Body>, path: &str) -> Result<Request<Body>, ApiError> {
    let (mut parts, body) = request.into_parts();
    let query = parts.uri.query().filter(|_| !path.contains('?'));
    let target = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    parts.uri =
        target.parse().map_err(|_| ApiError::bad_request("the path cannot be forwarded"))?;
    parts.version = http::Version::HTTP_11;
    parts.extensions = http::Extensions::new();
    for name in &DROPPED {
        parts.headers.remove(name);
    }
    let impersonation: Vec<HeaderName> = parts
        .headers
        .keys()
        .filter(|name| name.as_str().starts_with("impersonate-"))
        .cloned()
        .collect();
    for name in impersonation {
        parts.headers.remove(name);
    }
    Ok(Request::from_parts(parts, body))
}

/// An answer without what concerns only the connection it came on.
pub(super) fn back(response: Response<Incoming>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
        parts.headers.remove(name);
    }
    parts.extensions = http::Extensions::new();
    Response::from_parts(parts, Body::new(body))
}

/// The port in `NAME:PORT` or `SCHEME:NAME:PORT`.
fn named_port(name: &str) -> Option<&str> {
    let mut parts = name.split(':').rev();
    let last = parts.next()?;
    parts.next().is_some().then_some(last).filter(|port| !port.is_empty())
}

fn pod_address(pod: &Value, port: Option<&str>) -> Option<SocketAddr> {
    let ip = pod["status"]["podIP"].as_str()?.parse().ok()?;
    let mut ports = pod["spec"]["containers"]
        .as_array()?
        .iter()
        .flat_map(|container| container["ports"].as_array().into_iter().flatten());
    let port = match port {
        Some(port) => match port.parse() {
            Ok(number) => number,
            Err(_) => read_port(&ports.find(|one| one["name"] == port)?["containerPort"])?,
        },
        None => ports.next().and_then(|one| read_port(&one["containerPort"])).unwrap_or(80),
    };
    Some(SocketAddr::new(ip, port))
}

fn service_address(
    objects: &Objects,
    info: &RequestInfo,
    service: &Value,
    port: Option<&str>,
) -> Option<SocketAddr> {
    let name = service["metadata"]["name"].as_str()?;
    let ports = service["spec"]["ports"].as_array()?;
    let wanted = match port {
        Some(port) => ports.iter().find(|one| {
            one["name"] == port || port.parse::<u64>().is_ok_and(|number| one["port"] == number)
        })?,
        None => ports.first()?,
    };
    objects
        .list("discovery.k8s.io", "endpointslices", &info.namespace)
        .iter()
        .filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == name)
        .find_map(|slice| {
            let same = |one: &&Value| {
                one["name"].as_str().unwrap_or_default()
                    == wanted["name"].as_str().unwrap_or_default()
            };
            let port = slice["ports"].as_array()?.iter().find(same)?;
            let ready = |one: &&Value| one["conditions"]["ready"] != false;
            let endpoint = slice["endpoints"].as_array()?.iter().find(ready)?;
            let ip = endpoint["addresses"][0].as_str()?.parse().ok()?;
            Some(SocketAddr::new(ip, read_port(&port["port"])?))
        })
}

fn read_port(port: &Value) -> Option<u16> {
    u16::try_from(port.as_u64()?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ports_are_numbers_names_or_the_first() {
        let pod = json!({
            "status": { "podIP": "10.244.0.2" },
            "spec": { "containers": [{ "ports": [{ "name": "web", "containerPort": 8080 }] }] },
        });
        let at = |text: &str| Some(text.parse().unwrap());
        assert_eq!(pod_address(&pod, named_port("p")), at("10.244.0.2:8080"));
        assert_eq!(pod_address(&pod, named_port("p:web")), at("10.244.0.2:8080"));
        assert_eq!(pod_address(&pod, named_port("http:p:99")), at("10.244.0.2:99"));
        assert_eq!(pod_address(&pod, named_port("p:none")), None);
        assert_eq!(pod_address(&json!({ "status": {} }), None), None);
    }

    #[test]
    fn the_masters_own_addresses_are_no_targets() {
        let cases = [
            ("10.244.0.2", true),
            ("fd00::2", true),
            ("127.0.0.1", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
            ("0.0.0.0", false),
            ("169.254.169.254", false),
            ("fe80::1", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
        ];
        for (ip, expected) in cases {
            assert_eq!(is_proxyable(ip.parse().unwrap()), expected, "{ip}");
        }
    }

    #[test]
    fn credentials_stay_here() {
        let request = Request::builder()
            .uri("/api/v1/namespaces/a/pods/p/proxy/x?y=1")
            .header("authorization", "Bearer x")
            .header("impersonate-user", "x")
            .header("accept", "text/plain")
            .body(Body::empty())
            .unwrap();
        let onward = onward(request, "/x").unwrap();
        assert_eq!(onward.uri(), "/x?y=1");
        assert_eq!(onward.headers().len(), 1);
    }
}
