//! `…/proxy`: HTTP requests passed through to a pod, a service's endpoint or an
//! agent, with TLS where the name begins with `https:`, and tunnels where both
//! sides leave HTTP. Pages lead back to here (`links`).
//!
//! A pod's certificate is not checked: nobody says what should be in it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::body::Body;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rand::seq::IndexedRandom as _;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{agent, links};
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

/// Where the server behind it was asked, and what it said.
pub(super) struct Passed {
    pub(super) response: Response<Incoming>,
    address: SocketAddr,
}

/// A path as it came, cut behind `proxy`: what leads here, and what the server
/// behind is asked for. Its slashes and escapes are the server's own business.
fn split<'a>(info: &RequestInfo, path: &'a str) -> (&'a str, &'a str) {
    // api, v1, the kind, its name, proxy; in a namespace two more.
    let mut left = if info.namespace.is_empty() { 5 } else { 7 };
    let mut inside = false;
    for (at, byte) in path.bytes().enumerate() {
        match byte {
            b'/' if inside && left == 0 => return path.split_at(at),
            b'/' => inside = false,
            _ if !inside => {
                inside = true;
                left -= 1;
            }
            _ => {}
        }
    }
    (path, "")
}

/// The path behind `proxy`, with the query.
pub(super) fn path(info: &RequestInfo, uri: &Uri) -> String {
    let (_, rest) = split(info, uri.path());
    let rest = if rest.is_empty() { "/" } else { rest };
    match uri.query() {
        Some(query) => format!("{rest}?{query}"),
        None => rest.to_owned(),
    }
}

/// Sends a client that left out the slash after `proxy` there, so that links of
/// the page find their way.
pub(super) fn with_slash(info: &RequestInfo, request: &Request<Body>) -> Option<Response<Body>> {
    let uri = request.uri();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if !reads || !split(info, uri.path()).1.is_empty() || agent::is_upgrade(request.headers()) {
        return None;
    }
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let to = HeaderValue::from_str(&format!("{}/{query}", uri.path())).ok()?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(header::LOCATION, to);
    Some(response)
}

/// What a request is passed to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    address: SocketAddr,
    /// The pod behind the address and its node, if one is known.
    pod: Option<(String, String)>,
}

/// Passes a request to a pod or to one endpoint of a service. Pods are reached
/// through the agents of their nodes, for a master may be a machine that has no
/// way into the pod network.
pub(super) async fn forward(
    objects: &Objects,
    agents: &Arc<rustls::ClientConfig>,
    info: &RequestInfo,
    object: &Value,
    request: Request<Body>,
) -> Result<Passed, ApiError> {
    let asked = Asked::read(&info.name).ok_or_else(|| {
        let (kind, name) = (info.resource.trim_end_matches('s'), &info.name);
        ApiError::bad_request(format!("invalid {kind} request {name:?}"))
    })?;
    let target = match info.resource.as_str() {
        "pods" => pod_target(object, asked.port),
        _ => {
            let slices = objects.list("discovery.k8s.io", "endpointslices", &info.namespace);
            let targets = service_targets(&slices, object, asked.port);
            // Any of them, so that none gets all requests.
            targets.choose(&mut rand::rng()).cloned()
        }
    };
    let Target { address, pod } = target.ok_or_else(|| {
        let (kind, name) = (info.resource.trim_end_matches('s'), &info.name);
        ApiError::unavailable(format!("no endpoints available for {kind} {name:?}"))
    })?;
    if !is_proxyable(address.ip()) {
        // Addresses come from status that nodes write; they must not lead to
        // what listens on the master for the master alone.
        return Err(ApiError::bad_request("address not allowed"));
    }
    let upgrade = agent::is_upgrade(request.headers());
    let upgrade = upgrade.then(|| request.headers().get(header::UPGRADE).cloned()).flatten();
    let uri = HeaderValue::from_str(request.uri().path()).ok();
    let target = path(info, request.uri());
    let mut onward = onward(request, &target)?;
    let headers = onward.headers_mut();
    if let Ok(host) = HeaderValue::from_str(&address.to_string()) {
        headers.insert(header::HOST, host);
    }
    if let Some(uri) = uri {
        headers.insert("x-forwarded-uri", uri);
    }
    if let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, upgrade);
    }
    let failed = |error: &dyn std::fmt::Display| {
        ApiError::unavailable(format!("error trying to reach {address}: {error}"))
    };
    let dial = async {
        let stream: Box<dyn Stream> = match &pod {
            Some((node, pod)) => {
                let agent =
                    agent::Agent::of(objects, node).map_err(|error| failed(&error.message))?;
                let dialled = agent.dial_pod(agents, &info.namespace, pod, address.port()).await;
                Box::new(dialled.map_err(|error| failed(&error.message))?)
            }
            None => Box::new(TcpStream::connect(address).await.map_err(|error| failed(&error))?),
        };
        if !asked.tls {
            return Ok(stream);
        }
        let name = ServerName::IpAddress(address.ip().into());
        let connected =
            TlsConnector::from(skiff_client::any_certificate()).connect(name, stream).await;
        connected.map(|stream| Box::new(stream) as Box<dyn Stream>).map_err(|error| failed(&error))
    };
    let stream =
        tokio::time::timeout(DIAL_TIMEOUT, dial).await.map_err(|_| failed(&"timed out"))??;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(&error))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "proxied connection ended");
        }
    });
    let response = sender.send_request(onward).await.map_err(|error| failed(&error))?;
    Ok(Passed { response, address })
}

impl Passed {
    /// The answer for the client, its links leading through the proxy.
    pub(super) fn answer(
        self,
        info: &RequestInfo,
        client: &Uri,
        host: Option<&str>,
    ) -> Response<Body> {
        let prefix = split(info, client.path()).0;
        let address = self.address.to_string();
        let mut response = back(self.response);
        let hosts: Vec<&str> = [Some(address.as_str()), host].into_iter().flatten().collect();
        links::fit_headers(response.headers_mut(), prefix, &hosts);
        if links::is_page(response.headers()) {
            let prefix = prefix.to_owned();
            return response.map(|body| links::rewritten(body, prefix));
        }
        response
    }
}

/// A connection, plain or not.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

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

/// The agent that a request for a node leads to, which has one port.
pub(super) fn agent_of(
    objects: &Objects,
    info: &RequestInfo,
    node: &Value,
) -> Result<agent::Agent, ApiError> {
    let agent = agent::Agent::of(objects, node["metadata"]["name"].as_str().unwrap_or_default())?;
    match Asked::read(&info.name) {
        None => Err(ApiError::bad_request(format!("invalid node request {:?}", info.name))),
        Some(Asked { port: Some(port), .. }) if port != agent.port().to_string() => {
            Err(ApiError::bad_request("address not allowed"))
        }
        Some(_) => Ok(agent),
    }
}

/// What `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asked<'a> {
    tls: bool,
    port: Option<&'a str>,
}

impl<'a> Asked<'a> {
    /// `None` for another scheme.
    fn read(name: &'a str) -> Option<Self> {
        let (scheme, port) = match *name.split(':').collect::<Vec<_>>() {
            [_] => ("", ""),
            [_, port] => ("", port),
            [scheme, _, port] => (scheme, port),
            _ => return None,
        };
        let tls = match scheme {
            "" | "http" => false,
            "https" => true,
            _ => return None,
        };
        Some(Self { tls, port: Some(port).filter(|port| !port.is_empty()) })
    }
}

fn pod_target(pod: &Value, port: Option<&str>) -> Option<Target> {
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
    let named = |value: &Value| value.as_str().map(str::to_owned);
    let pod = named(&pod["spec"]["nodeName"]).zip(named(&pod["metadata"]["name"]));
    Some(Target { address: SocketAddr::new(ip, port), pod })
}

/// Where the ready endpoints of a service are. `slices` are the EndpointSlices of
/// its namespace.
fn service_targets(slices: &[Value], service: &Value, port: Option<&str>) -> Vec<Target> {
    let ports = service["spec"]["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut ports = ports.iter();
    let named = |port: &Value| port["name"].as_str().unwrap_or_default().to_owned();
    let wanted = ports.find(|one| match port {
        Some(port) => {
            one["name"] == port || port.parse::<u64>().is_ok_and(|number| one["port"] == number)
        }
        // One of several has to be named.
        None => named(one).is_empty(),
    });
    let Some(wanted) = wanted.map(named) else { return Vec::new() };
    let is_of_service = |slice: &&Value| {
        slice["metadata"]["labels"]["kubernetes.io/service-name"] == service["metadata"]["name"]
    };
    let targets = slices.iter().filter(is_of_service).filter_map(|slice| {
        let port = slice["ports"].as_array()?.iter().find(|one| named(one) == wanted)?;
        let port = read_port(&port["port"])?;
        let ready = slice["endpoints"].as_array()?.iter();
        let ready = ready.filter(|endpoint| endpoint["conditions"]["ready"] != false);
        Some(ready.filter_map(move |endpoint| {
            let ip = endpoint["addresses"][0].as_str()?.parse().ok()?;
            // A pod of this namespace, whatever the slice may say.
            let pod = Some(&endpoint["targetRef"]).filter(|target| target["kind"] == "Pod");
            let named = |value: &Value| value.as_str().map(str::to_owned);
            let pod = named(&endpoint["nodeName"]).zip(pod.and_then(|pod| named(&pod["name"])));
            Some(Target { address: SocketAddr::new(ip, port), pod })
        }))
    });
    targets.flatten().collect()
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
            "metadata": { "name": "p" },
            "status": { "podIP": "10.244.0.2" },
            "spec": { "nodeName": "n", "containers": [{ "ports": [{ "name": "web", "containerPort": 8080 }] }] },
        });
        let cases = [
            ("p", Some((false, "10.244.0.2:8080"))),
            ("p:web", Some((false, "10.244.0.2:8080"))),
            ("http:p:99", Some((false, "10.244.0.2:99"))),
            ("https:p:99", Some((true, "10.244.0.2:99"))),
            ("https:p:", Some((true, "10.244.0.2:8080"))),
            ("p:none", None),
            ("ftp:p:99", None),
            ("http:p:99:1", None),
        ];
        for (name, expected) in cases {
            let found = Asked::read(name).and_then(|asked| {
                Some((asked.tls, pod_target(&pod, asked.port)?.address.to_string()))
            });
            assert_eq!(found, expected.map(|(tls, at)| (tls, at.to_owned())), "{name}");
        }
        assert_eq!(pod_target(&json!({ "status": {} }), None), None);
        let found = pod_target(&pod, None).and_then(|target| target.pod);
        assert_eq!(found, Some(("n".to_owned(), "p".to_owned())));
    }

    #[test]
    fn a_service_leads_to_all_its_ready_endpoints() {
        let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [
            {"port": 80, "targetPort": 8080}, {"name": "admin", "port": 81, "targetPort": 8081}]}});
        let slice = |service: &str, port: Value, endpoints: Value| {
            let labels = json!({"kubernetes.io/service-name": service});
            json!({"metadata": {"labels": labels}, "ports": port, "endpoints": endpoints})
        };
        let at = |ip: &str, ready: bool| {
            json!({"addresses": [ip], "conditions": {"ready": ready}, "nodeName": "n",
                   "targetRef": {"kind": "Pod", "name": ip}})
        };
        let web = json!([{"name": "", "port": 8080}, {"name": "admin", "port": 8081}]);
        let slices = [
            slice("other", web.clone(), json!([at("10.0.0.9", true)])),
            slice("s", json!([{"name": "else", "port": 1}]), json!([at("10.0.0.8", true)])),
            slice("s", web.clone(), json!([at("10.0.0.1", false), at("10.0.0.2", true)])),
            slice("s", web, json!([at("10.0.0.3", true), at("no address", true)])),
        ];
        let cases: [(Option<&str>, &[&str]); 5] = [
            (None, &["10.0.0.2:8080", "10.0.0.3:8080"]),
            (Some("80"), &["10.0.0.2:8080", "10.0.0.3:8080"]),
            (Some("81"), &["10.0.0.2:8081", "10.0.0.3:8081"]),
            (Some("admin"), &["10.0.0.2:8081", "10.0.0.3:8081"]),
            (Some("82"), &[]),
        ];
        for (port, expected) in cases {
            let found = service_targets(&slices, &service, port);
            let found: Vec<_> = found.iter().map(|one| one.address.to_string()).collect();
            assert_eq!(found, expected, "{port:?}");
        }
        let pod = service_targets(&slices, &service, None).remove(0).pod;
        assert_eq!(pod, Some(("n".to_owned(), "10.0.0.2".to_owned())));
    }

    #[test]
    fn what_follows_is_passed_on_as_it_came() {
        let cases = [
            ("/api/v1/namespaces/a/pods/p/proxy", "", "/"),
            ("/api/v1/namespaces/a/pods/p/proxy?x=1", "", "/?x=1"),
            ("/api/v1/namespaces/a/pods/p/proxy/", "/", "/"),
            (
                "/api/v1/namespaces/a/services/s:80/proxy/x%2Fy//z/?q=a%26b",
                "/x%2Fy//z/",
                "/x%2Fy//z/?q=a%26b",
            ),
            ("//api/v1//namespaces/a/pods/p/proxy/../x", "/../x", "/../x"),
            ("/api/v1/nodes/n/proxy/logs/", "/logs/", "/logs/"),
            ("/api/v1/nodes/n/proxy", "", "/"),
        ];
        for (uri, rest, passed) in cases {
            let uri: Uri = uri.parse().unwrap();
            let info = RequestInfo::parse(&Method::GET, &uri);
            assert_eq!((split(&info, uri.path()).1, path(&info, &uri).as_str()), (rest, passed));
        }
    }

    #[test]
    fn readers_are_sent_to_the_slash() {
        let to = |method: &str, uri: &str| {
            let request = Request::builder().method(method).uri(uri).body(Body::empty()).unwrap();
            let info = RequestInfo::parse(request.method(), request.uri());
            let response = with_slash(&info, &request)?;
            assert_eq!(response.status(), StatusCode::MOVED_PERMANENTLY);
            Some(response.headers()[header::LOCATION].to_str().unwrap().to_owned())
        };
        let proxy = "/api/v1/namespaces/a/pods/p/proxy";
        assert_eq!(to("GET", &format!("{proxy}?x=1")), Some(format!("{proxy}/?x=1")));
        assert_eq!(to("HEAD", proxy), Some(format!("{proxy}/")));
        assert_eq!(to("POST", proxy), None);
        assert_eq!(to("GET", &format!("{proxy}/")), None);
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
