//! Clients that hold on to a connection and give nothing for it.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{DEADLINE, Server, start_with};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client::TlsStream};

const SHORT: Duration = Duration::from_millis(300);

async fn impatient() -> Server {
    start_with(|mut config| {
        (config.header_timeout, config.write_timeout) = (SHORT, SHORT);
        config
    })
    .await
}

/// A connection of somebody unknown.
async fn connect(server: &Server) -> TlsStream<TcpStream> {
    try_connect(server).await.unwrap()
}

async fn try_connect(server: &Server) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    let ca = server.server.pki().ca_pem();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = TcpStream::connect(server.server.local_addr()).await?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, socket).await
}

/// Whether the server is there for others. On a busy machine one of them may
/// itself be too slow for this server.
async fn serves(server: &Server) -> bool {
    let answered = async { while !asks(server).await.unwrap_or(false) {} };
    timeout(DEADLINE, answered).await.is_ok()
}

async fn asks(server: &Server) -> std::io::Result<bool> {
    let mut stream = try_connect(server).await?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    // A peer that closes at once may leave out TLS's own goodbye.
    let _ = stream.read_to_string(&mut answer).await;
    Ok(answer.starts_with("HTTP/1.1 200"))
}

#[tokio::test]
async fn headers_that_never_end_are_not_waited_for() {
    let server = impatient().await;
    for beginning in ["", "G", "PRI * HT", "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: "] {
        let (mut reader, mut writer) = tokio::io::split(connect(&server).await);
        writer.write_all(beginning.as_bytes()).await.unwrap();
        // A byte now and then must not buy time.
        let drip = tokio::spawn(async move {
            while !beginning.is_empty() && writer.write_all(b"x").await.is_ok() {
                tokio::time::sleep(SHORT / 4).await;
            }
        });
        let mut answer = Vec::new();
        timeout(DEADLINE, reader.read_to_end(&mut answer)).await.expect("a closed connection").ok();
        assert!(serves(&server).await, "{beginning:?}");
        drip.abort();
    }
}

#[tokio::test]
async fn answers_that_nobody_reads_are_given_up() {
    let server = impatient().await;
    let mut stream = connect(&server).await;
    let request = "GET /version HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100);
    // Once its answers are not taken the server reads no further requests, so
    // without a limit this would wait for ever.
    let asking = async { while stream.write_all(request.as_bytes()).await.is_ok() {} };
    timeout(DEADLINE, asking).await.expect("a closed connection");
    assert!(serves(&server).await);
}
