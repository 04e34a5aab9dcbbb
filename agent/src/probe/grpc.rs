//! gRPC's health service, `grpc.health.v1.Health/Check`, as probes ask it: over
//! plain HTTP/2. The two messages are small enough to be written by hand.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::http::{BODY_BYTES, dial_error};

/// Asks whether `service` serves.
pub(super) async fn health(to: SocketAddr, service: &str, timeout: Duration) -> Result<(), String> {
    let exchange = async {
        let stream = TcpStream::connect(to).await.map_err(|error| {
            let error = dial_error(&to.to_string(), &error);
            format!("error: failed to connect service at \"{to}\": {error}")
        })?;
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
                // The code for a method that the server does not have.
                Some("12") => {
                    Err("error: this server does not implement the grpc health protocol \
                                   (grpc.health.v1.Health)"
                        .to_owned())
                }
                Some(code) if code != "0" => Err(format!(
                    "error: health rpc probe failed: rpc error: code = {}",
                    code_name(code)
                )),
                _ => Err("service unhealthy (responded with \"NOT_SERVING\")".to_owned()),
            }
        };
        tokio::select! {
            answer = answer => answer,
            Err(error) = connection => Err(error.to_string()),
        }
    };
    tokio::time::timeout(timeout, exchange).await.unwrap_or_else(|_| {
        let text = format!("timeout: health rpc did not complete within {timeout:?}");
        Err(text)
    })
}

/// The name of a gRPC status code, for the ones that a health check meets.
fn code_name(code: &str) -> &str {
    match code {
        "2" => "Unknown",
        "4" => "DeadlineExceeded",
        "5" => "NotFound",
        "7" => "PermissionDenied",
        "13" => "Internal",
        "14" => "Unavailable",
        "16" => "Unauthenticated",
        other => other,
    }
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

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use tokio::net::TcpListener;

    use super::*;

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
            (
                "not known",
                None,
                "5",
                Err("error: health rpc probe failed: rpc error: code = NotFound"),
            ),
            (
                "no such method",
                None,
                "12",
                Err(
                    "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)",
                ),
            ),
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
            let found = health(to, "db", Duration::from_secs(5)).await;
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
