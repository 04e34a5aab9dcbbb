//! Input that is meant to hurt, sent over TLS by somebody who is let in. Each
//! is answered with a `Status` in bounded time, and the server serves on. What
//! was sent is in the audit log afterwards.

#![allow(clippy::unwrap_used)]

mod audit;
#[path = "../common/mod.rs"]
mod common;
mod documents;
mod queries;
mod slow_peers;
mod upgrades;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{DEADLINE, Server};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use serde_json::Value;
use skiff_apiserver::pki::Leaf;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client::TlsStream};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const JSON: &str = "application/json";
const YAML: &str = "application/yaml";

/// What any one request may take; most take milliseconds.
const BOUNDED: Duration = Duration::from_secs(10);

/// A connection of an administrator.
async fn connect(server: &Server) -> TlsStream<TcpStream> {
    let pki = server.server.pki();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pki.ca_pem().as_bytes()).unwrap()).unwrap();
    let leaf = Leaf::client("admin", &["system:masters"]);
    let issued = pki.ca().issue(&leaf, jiff::Timestamp::now()).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    let socket = TcpStream::connect(server.server.local_addr()).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap()
}

/// Sends bytes as they are and reads until the server closes.
async fn exchange(server: &Server, request: Vec<u8>) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(connect(server).await);
    // The server may answer and close before it has read all of it.
    let sending = tokio::spawn(async move {
        let _ = writer.write_all(&request).await;
        writer
    });
    let mut answer = Vec::new();
    let reading = reader.read_to_end(&mut answer);
    let _ = timeout(DEADLINE, reading).await.expect("an answer in time");
    sending.abort();
    answer
}

/// Code and body of an answer.
fn parse(answer: &[u8]) -> (u16, Value) {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    // A chunked body begins with a length and ends with one.
    let (start, end) = (body.find('{').unwrap_or(0), body.rfind('}').map_or(0, |end| end + 1));
    (code, serde_json::from_str(body.get(start..end).unwrap_or_default()).unwrap_or_default())
}

async fn send(server: &Server, method: &str, uri: &str, media: &str, body: &[u8]) -> (u16, Value) {
    let mut request = format!(
        "{method} {uri} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {media}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    let begun = Instant::now();
    let answer = parse(&exchange(server, request).await);
    assert!(begun.elapsed() < BOUNDED, "{method} {uri}: {:?}", begun.elapsed());
    answer
}

async fn get(server: &Server, uri: &str) -> (u16, Value) {
    send(server, "GET", uri, JSON, b"").await
}

/// That a request is refused with this code, by a `Status` that says why.
#[track_caller]
fn refused(what: &str, (code, body): &(u16, Value), expected: u16) {
    assert_eq!(*code, expected, "{what}: {body}");
    assert_eq!(body["kind"], "Status", "{what}: {body}");
    assert_eq!(body["status"], "Failure", "{what}");
    assert_eq!(body["code"], expected, "{what}");
    assert!(body["message"].as_str().is_some_and(|text| !text.is_empty()), "{what}");
}

async fn serves(server: &Server) {
    assert_eq!(get(server, MAPS).await.0, 200, "the server serves on");
}
