//! HTTP as probes and hooks speak it: one request on a connection of its own,
//! certificates unchecked, redirects not followed but taken as success.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::pod::hooks::port_number;

/// How much of an answer is read.
const BODY_BYTES: usize = 10 * 1024;

/// A request, resolved from a probe's or hook's spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    to: String,
    port: u16,
    tls: bool,
    path: String,
    headers: Vec<(String, String)>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its status code.
    pub status: u16,
}

impl Request {
    /// The request that `get` describes, to the pod at `host` unless it names
    /// another.
    pub fn of(
        get: &HTTPGetAction,
        host: Option<IpAddr>,
        container: &Container,
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
        })
    }
}

/// Sends the request and reads the answer.
pub async fn get(request: &Request, timeout: Duration) -> Result<Answer, String> {
    let exchange = async {
        let stream = TcpStream::connect((request.to.as_str(), request.port))
            .await
            .map_err(|error| format!("dial tcp {}:{}: {error}", request.to, request.port))?;
        if request.tls {
            let name =
                ServerName::try_from(request.to.clone()).map_err(|error| error.to_string())?;
            let stream = tokio_rustls::TlsConnector::from(UNCHECKED.clone())
                .connect(name, stream)
                .await
                .map_err(|error| error.to_string())?;
            send(request, stream).await
        } else {
            send(request, stream).await
        }
    };
    match tokio::time::timeout(timeout, exchange).await {
        Ok(answer) => answer,
        Err(_) => Err(format!(
            "Get \"{}://{}:{}{}\": no answer within {timeout:?}",
            if request.tls { "https" } else { "http" },
            request.to,
            request.port,
            request.path
        )),
    }
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
        ("host", format!("{}:{}", request.to, request.port)),
        ("user-agent", "kube-probe/1.35".into()),
        ("accept", "*/*".into()),
    ] {
        if !has(name) {
            builder = builder.header(name, value);
        }
    }
    for (name, value) in &request.headers {
        builder = builder.header(name, value);
    }
    let body = builder.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let answer = async {
        let answer = sender.send_request(body).await.map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        // Read and thrown away, so that the server does not see a broken pipe;
        // what is longer is cut off.
        drop(Limited::new(answer.into_body(), BODY_BYTES).collect().await);
        Ok(Answer { status })
    };
    tokio::select! {
        answer = answer => answer,
        Err(error) = connection => Err(error.to_string()),
    }
}

/// Asks gRPC's health service, `grpc.health.v1.Health/Check`, over plain
/// HTTP/2. The two messages are small enough to be written by hand.
pub(super) async fn grpc_health(
    to: SocketAddr,
    service: &str,
    timeout: Duration,
) -> Result<(), String> {
    let exchange = async {
        let stream =
            TcpStream::connect(to).await.map_err(|error| format!("dial tcp {to}: {error}"))?;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(|error| error.to_string())?;
        let request = http::Request::post(format!("http://{to}/grpc.health.v1.Health/Check"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(health_request(service)))
            .map_err(|error| error.to_string())?;
        let answer = async {
            let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let body = Limited::new(answer.into_body(), BODY_BYTES)
                .collect()
                .await
                .map_err(|error| error.to_string())?;
            let code = body.trailers().and_then(|trailers| trailers.get("grpc-status")).cloned();
            let serving = is_serving(&body.to_bytes());
            match code.as_ref().and_then(|code| code.to_str().ok()) {
                Some("0") | None if serving => Ok(()),
                Some(code) if code != "0" => Err(format!("service unhealthy (grpc-status {code})")),
                _ => Err("service unhealthy (responded with \"NOT_SERVING\")".to_owned()),
            }
        };
        tokio::select! {
            answer = answer => answer,
            Err(error) = connection => Err(error.to_string()),
        }
    };
    tokio::time::timeout(timeout, exchange)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {timeout:?}")))
}

/// `HealthCheckRequest { service }` in a gRPC frame: a byte for "not
/// compressed", four for the length, then field 1 as a string.
fn health_request(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
            length >>= 7;
        }
        message.push(u8::try_from(length).unwrap_or_default());
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or_default();
    let mut frame = vec![0];
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend(message);
    Bytes::from(frame)
}

/// Whether `HealthCheckResponse { status }` says `SERVING` (1).
fn is_serving(frame: &[u8]) -> bool {
    frame.get(5..) == Some(&[0x08, 0x01])
}

/// TLS that takes any certificate: a probe asks whether the server lives, not
/// who it is.
static UNCHECKED: LazyLock<Arc<rustls::ClientConfig>> = LazyLock::new(|| {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(AnyCertificate(provider.clone()));
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap_or_else(|error| {
            unreachable!("ring speaks every version that rustls does: {error}")
        });
    Arc::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
});

#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;
    use hyper::body::Frame;
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
            let action = json!({"path": "healthz?x=1", "port": "web", "httpHeaders": [{"name": "X-A", "value": "b"}]});
            let container = json!({"name": "c", "ports": [{"name": "web", "containerPort": port}]});
            let action: HTTPGetAction = serde_json::from_value(action).unwrap();
            let container: Container = serde_json::from_value(container).unwrap();
            let request =
                Request::of(&action, Some(IpAddr::from([127, 0, 0, 1])), &container).unwrap();
            let answer = get(&request, Duration::from_secs(5)).await.unwrap();
            assert_eq!(answer.status, expected);
            let seen = server.await.unwrap().to_lowercase();
            assert!(
                seen.starts_with("get /healthz?x=1 http/1.1") && seen.contains("x-a: b"),
                "{seen}"
            );
        }
    }

    #[tokio::test]
    async fn a_grpc_server_is_asked_for_its_health() {
        // The answer's message, its status trailer, and what comes of it.
        let cases = [
            ("serving", Some([0, 0, 0, 0, 2, 8, 1]), "0", Ok(())),
            (
                "not serving",
                Some([0, 0, 0, 0, 2, 8, 2]),
                "0",
                Err("service unhealthy (responded with \"NOT_SERVING\")"),
            ),
            ("not known", None, "5", Err("service unhealthy (grpc-status 5)")),
        ];
        for (name, message, status, expected) in cases {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let to = listener.local_addr().unwrap();
            let server = tokio::spawn(async move {
                let (stream, _) = listener.accept().await.unwrap();
                let answer =
                    hyper::service::service_fn(move |asked: http::Request<_>| async move {
                        assert_eq!(asked.uri().path(), "/grpc.health.v1.Health/Check");
                        assert_eq!(asked.headers()["content-type"], "application/grpc");
                        let asked: hyper::body::Incoming = asked.into_body();
                        let asked = asked.collect().await.unwrap().to_bytes();
                        assert_eq!(asked, health_request("db"));
                        let trailers = http::HeaderMap::from_iter([(
                            http::HeaderName::from_static("grpc-status"),
                            http::HeaderValue::from_static(status),
                        )]);
                        let message =
                            message.map(|bytes| Frame::data(Bytes::copy_from_slice(&bytes)));
                        let frames = message.into_iter().chain([Frame::trailers(trailers)]);
                        let frames = frames.map(Ok::<_, std::convert::Infallible>);
                        Ok::<_, hyper::Error>(http::Response::new(StreamBody::new(
                            futures::stream::iter(frames),
                        )))
                    });
                let executor = TokioExecutor::new();
                let http = hyper::server::conn::http2::Builder::new(executor);
                // The client hangs up when it has its answer.
                drop(http.serve_connection(TokioIo::new(stream), answer).await);
            });
            let found = grpc_health(to, "db", Duration::from_secs(5)).await;
            assert_eq!(found, expected.map_err(str::to_owned), "{name}");
            server.await.unwrap();
        }
    }

    #[test]
    fn grpc_messages_are_framed() {
        assert_eq!(&health_request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&health_request("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert!(is_serving(&[0, 0, 0, 0, 2, 0x08, 0x01]));
        assert!(!is_serving(&[0, 0, 0, 0, 2, 0x08, 0x02]));
        assert!(!is_serving(&[0, 0, 0, 0, 0]));
    }
}
