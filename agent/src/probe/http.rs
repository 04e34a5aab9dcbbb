//! HTTP as probes and hooks speak it: one request on a connection of its own,
//! certificates unchecked, redirects followed as long as they stay with the
//! host; one to another host is itself the answer. What goes wrong is said in
//! the words of upstream's client, which people search for.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::pod::hooks::port_number;

/// How much of an answer is read.
pub(super) const BODY_BYTES: usize = 10 * 1024;

/// A request, resolved from a probe's or hook's spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    to: String,
    port: u16,
    tls: bool,
    path: String,
    headers: Vec<(String, String)>,
    purpose: Purpose,
}

/// What a request is sent for; the server sees it in `User-Agent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To see how a container is.
    Probe,
    /// For one of its lifecycle hooks.
    Hook,
}

impl Purpose {
    fn agent(self) -> &'static str {
        match self {
            Self::Probe => "kube-probe/1.35",
            Self::Hook => "kube-lifecycle/1.35",
        }
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its status code.
    pub status: u16,
    /// The beginning of what it says.
    pub body: String,
    /// Where it sends the caller instead.
    location: Option<String>,
}

/// `HOST:PORT`, the host in brackets where it has colons.
pub(super) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// An error of a connection that could not be made.
pub(super) fn dial_error(to: &str, error: &std::io::Error) -> String {
    let text = error.to_string();
    // The library begins with a capital and ends with the number.
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_ascii_lowercase());
    let text: String = first.into_iter().chain(letters).collect();
    format!("dial tcp {to}: connect: {text}")
}

impl Request {
    /// The URL that is asked for.
    fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(), self.path)
    }

    /// Where it goes, `HOST:PORT`.
    pub fn authority(&self) -> String {
        authority(&self.to, self.port)
    }

    /// Where a redirect leads; `None` when that is another host.
    fn redirected(&self, location: &str) -> Option<Self> {
        let target: http::Uri = location.parse().ok()?;
        let mut next = self.clone();
        if let Some(host) = target.host() {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            next.tls = match target.scheme_str() {
                Some("https") => true,
                Some("http") => false,
                _ => self.tls,
            };
            next.port = target.port_u16().unwrap_or(if next.tls { 443 } else { 80 });
            if host != self.to {
                return None;
            }
        }
        let path = target.path_and_query().map_or("/", |path| path.as_str());
        next.path = match path.starts_with('/') {
            true => path.to_owned(),
            // Beside the page that was asked for.
            false => format!("{}/{path}", self.path.rsplit_once('/').map_or("", |(dir, _)| dir)),
        };
        Some(next)
    }

    /// The request that `get` describes, to the pod at `host` unless it names
    /// another.
    pub fn of(
        get: &HTTPGetAction,
        host: Option<IpAddr>,
        container: &Container,
        purpose: Purpose,
    ) -> Result<Self, String> {
        let to = match get.host.as_deref().filter(|host| !host.is_empty()) {
            Some(host) => host.to_owned(),
            None => host.ok_or("the pod has no address")?.to_string(),
        };
        let port = port_number(&get.port, container).ok_or("the container has no such port")?;
        let path = get.path.as_deref().unwrap_or("/");
        let headers = get.http_headers.iter().flatten();
        Ok(Self {
            to,
            port,
            tls: get.scheme.as_deref() == Some("HTTPS"),
            path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
            headers: headers.map(|header| (header.name.clone(), header.value.clone())).collect(),
            purpose,
        })
    }

    /// The same without TLS, and without what TLS kept secret.
    pub fn in_plain(&self) -> Self {
        let mut plain = Self { tls: false, ..self.clone() };
        plain.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("authorization"));
        plain
    }
}

/// How many redirects are followed.
const MAX_REDIRECTS: usize = 10;

/// Sends the request, follows redirects and reads the answer, all within
/// `timeout`.
pub async fn get(request: &Request, timeout: Duration) -> Result<Answer, String> {
    let first = request.url();
    let mut request = request.clone();
    let exchange = async {
        for _ in 0..MAX_REDIRECTS {
            let answer = get_once(&request).await;
            let answer = answer.map_err(|error| format!("Get {:?}: {error}", request.url()))?;
            let next = answer.location.as_deref().and_then(|at| request.redirected(at));
            match next {
                Some(next) if matches!(answer.status, 301 | 302 | 303 | 307 | 308) => {
                    request = next
                }
                _ => return Ok(answer),
            }
        }
        Err(format!("Get {:?}: stopped after {MAX_REDIRECTS} redirects", request.url()))
    };
    match tokio::time::timeout(timeout, exchange).await {
        Ok(answer) => answer,
        Err(_) => Err(format!(
            "Get {first:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

async fn get_once(request: &Request) -> Result<Answer, String> {
    let stream = TcpStream::connect((request.to.as_str(), request.port))
        .await
        .map_err(|error| dial_error(&request.authority(), &error))?;
    if request.tls {
        let name = ServerName::try_from(request.to.clone()).map_err(|error| error.to_string())?;
        let stream = tokio_rustls::TlsConnector::from(skiff_client::any_certificate())
            .connect(name, stream)
            .await
            .map_err(|error| tls_error(&error))?;
        send(request, stream).await
    } else {
        send(request, stream).await
    }
}

/// How an answer in plain HTTP to a request over TLS is told.
const PLAIN_ANSWER: &str = "http: server gave HTTP response to HTTPS client";

/// Whether a request over TLS failed because the server speaks plain HTTP.
pub fn is_plain_answer(error: &str) -> bool {
    error.ends_with(PLAIN_ANSWER)
}

/// What went wrong when TLS was begun.
fn tls_error(error: &std::io::Error) -> String {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    match cause {
        // What came is no TLS at all.
        Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => {
            PLAIN_ANSWER.to_owned()
        }
        _ => error.to_string(),
    }
}

/// What went wrong on a connection; a server that hangs up ends the file.
fn said(error: &hyper::Error) -> String {
    if error.is_incomplete_message() { "EOF".to_owned() } else { error.to_string() }
}

async fn send<S>(request: &Request, stream: S) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let mut builder = http::Request::get(&request.path).header("connection", "close");
    let has =
        |name: &str| request.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
    for (name, value) in [
        ("host", request.authority()),
        ("user-agent", request.purpose.agent().into()),
        ("accept", "*/*".into()),
    ] {
        if !has(name) {
            builder = builder.header(name, value);
        }
    }
    for (name, value) in &request.headers {
        // Said to be empty, these two are left out.
        let unsaid = ["user-agent", "accept"].iter().any(|own| name.eq_ignore_ascii_case(own));
        if !(unsaid && value.is_empty()) {
            builder = builder.header(name, value);
        }
    }
    let body = builder.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let answer = async {
        let answer = sender.send_request(body).await.map_err(|error| said(&error))?;
        let status = answer.status().as_u16();
        let location = answer.headers().get(http::header::LOCATION);
        let location = location.and_then(|at| at.to_str().ok()).map(str::to_owned);
        // Read to the end, so that the server does not see a broken pipe; what
        // is longer is cut off, and tells nothing.
        let body = Limited::new(answer.into_body(), BODY_BYTES).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok(Answer { status, body, location })
    };
    tokio::select! {
        answer = answer => answer,
        Err(error) = connection => Err(said(&error)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_request_carries_its_headers_and_reads_the_status() {
        for (status, expected) in [("200 OK", 200), ("302 Found", 302), ("500 Oops", 500)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let server = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 1024];
                let read = stream.read(&mut request).await.unwrap();
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nhi");
                stream.write_all(answer.as_bytes()).await.unwrap();
                String::from_utf8(request[..read].to_vec()).unwrap()
            });
            let headers = json!([
                {"name": "X-A", "value": "b"}, {"name": "X-B", "value": ""}, {"name": "Accept", "value": ""},
            ]);
            let action = json!({"path": "healthz?x=1", "port": "web", "httpHeaders": headers});
            let container = json!({"name": "c", "ports": [{"name": "web", "containerPort": port}]});
            let action: HTTPGetAction = serde_json::from_value(action).unwrap();
            let container: Container = serde_json::from_value(container).unwrap();
            let host = Some(IpAddr::from([127, 0, 0, 1]));
            let request = Request::of(&action, host, &container, Purpose::Probe).unwrap();
            let answer = get(&request, Duration::from_secs(5)).await.unwrap();
            assert_eq!(answer.status, expected);
            let seen = server.await.unwrap().to_lowercase();
            assert!(
                seen.starts_with("get /healthz?x=1 http/1.1") && seen.contains("x-a: b"),
                "{seen}"
            );
            assert!(seen.contains("x-b:") && !seen.contains("accept"), "{seen}");
        }
    }

    fn request(path: &str, port: u16) -> Request {
        let action = json!({"path": path, "port": port, "host": "127.0.0.1"});
        let action: HTTPGetAction = serde_json::from_value(action).unwrap();
        Request::of(&action, None, &Container::default(), Purpose::Probe).unwrap()
    }

    /// Answers each connection with the next of these, then listens no more.
    async fn serve(answers: Vec<String>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 1024]).await.unwrap();
                let answer = answer.replace("PORT", &port.to_string());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        port
    }

    #[tokio::test]
    async fn redirects_are_followed_on_the_same_host() {
        let to = |location: &str| {
            format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n")
        };
        let plain = |status: &str| format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        let cases = [
            ("to a path", vec![to("/b"), plain("500 Oops")], 500),
            ("to an URL", vec![to("http://127.0.0.1:PORT/b"), plain("200 OK")], 200),
            ("to another host", vec![to("http://other.example/")], 302),
        ];
        for (name, answers, expected) in cases {
            let port = serve(answers).await;
            let answer = get(&request("/a", port), Duration::from_secs(5)).await.unwrap();
            assert_eq!(answer.status, expected, "{name}");
        }
        let elsewhere = "HTTP/1.1 302 Found\r\nlocation: http://other.example/\r\n\
                         content-length: 5\r\n\r\nFound";
        let port = serve(vec![elsewhere.to_owned()]).await;
        let answer = get(&request("/a", port), Duration::from_secs(5)).await.unwrap();
        assert_eq!(answer.body, "Found", "what the warning shows");
        let port = serve(vec![to("/a"); 10]).await;
        let error = get(&request("/a", port), Duration::from_secs(5)).await.unwrap_err();
        assert!(error.ends_with("stopped after 10 redirects"), "{error}");
    }

    #[tokio::test]
    async fn failures_are_said_as_upstream_says_them() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let waits = silent.local_addr().unwrap().port();
        let hangs_up = serve(vec![String::new()]).await;
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let cases = [
            (free, "dial tcp 127.0.0.1:PORT: connect: connection refused"),
            (hangs_up, "EOF"),
            (waits, "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"),
        ];
        for (port, expected) in cases {
            let error = get(&request("/x", port), Duration::from_millis(300)).await.unwrap_err();
            let expected = expected.replace("PORT", &port.to_string());
            assert_eq!(error, format!("Get \"http://127.0.0.1:{port}/x\": {expected}"));
        }
    }
}
