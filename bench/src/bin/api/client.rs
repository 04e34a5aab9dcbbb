//! One keep-alive connection over TLS, with as little of its own as can be:
//! what the client burns, the server on the same machine does not get.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A server, and who we are to it.
#[derive(Clone)]
pub(crate) struct Target {
    address: SocketAddr,
    config: Arc<ClientConfig>,
}

impl Target {
    /// The administrator of `kubeconfig`, on connections to `address`.
    pub(crate) fn from_kubeconfig(path: &Path, address: SocketAddr) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).context("cannot read the kubeconfig")?;
        let file: serde_json::Value = serde_yaml::from_str(&text)?;
        let pem = |pointer: &str| -> anyhow::Result<Vec<u8>> {
            let text = file.pointer(pointer).and_then(serde_json::Value::as_str);
            Ok(STANDARD.decode(text.with_context(|| format!("no {pointer}"))?)?)
        };
        let mut roots = RootCertStore::empty();
        let authority = pem("/clusters/0/cluster/certificate-authority-data")?;
        roots.add(CertificateDer::from_pem_slice(&authority)?)?;
        let chain = CertificateDer::pem_slice_iter(&pem("/users/0/user/client-certificate-data")?)
            .collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&pem("/users/0/user/client-key-data")?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        Ok(Self { address, config: Arc::new(config) })
    }

    /// The same client of another server that has the same certificate.
    pub(crate) fn at(&self, address: SocketAddr) -> Self {
        Self { address, config: Arc::clone(&self.config) }
    }

    pub(crate) async fn connect(&self) -> anyhow::Result<TlsStream<TcpStream>> {
        let socket = TcpStream::connect(self.address).await?;
        socket.set_nodelay(true)?;
        let name = ServerName::from(self.address.ip());
        Ok(TlsConnector::from(Arc::clone(&self.config)).connect(name, socket).await?)
    }
}

/// A connection that asks and waits.
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    read: BytesMut,
}

impl Connection {
    pub(crate) async fn open(target: &Target) -> anyhow::Result<Self> {
        Ok(Self { stream: target.connect().await?, read: BytesMut::with_capacity(64 << 10) })
    }

    /// Sends a request as it stands on the wire; returns code and body.
    pub(crate) async fn send(&mut self, request: &[u8]) -> anyhow::Result<(u16, Bytes)> {
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        let (code, length, head) = loop {
            if let Some(end) = memchr::memmem::find(&self.read, b"\r\n\r\n") {
                let head = self.read.get(..end).unwrap_or_default();
                break (code(head)?, content_length(head)?, end + 4);
            }
            self.fill().await?;
        };
        while self.read.len() < head + length {
            self.fill().await?;
        }
        let body = self.read.split_to(head + length).freeze().slice(head..);
        Ok((code, body))
    }

    async fn fill(&mut self) -> anyhow::Result<()> {
        self.read.reserve(64 << 10);
        ensure!(self.stream.read_buf(&mut self.read).await? > 0, "the server hung up");
        Ok(())
    }
}

/// `HTTP/1.1 200 OK`
fn code(head: &[u8]) -> anyhow::Result<u16> {
    let text = head.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok());
    Ok(text.context("not an HTTP response")?.parse()?)
}

fn content_length(head: &[u8]) -> anyhow::Result<usize> {
    for line in head.split(|byte| *byte == b'\n') {
        let Some(at) = memchr::memchr(b':', line) else { continue };
        if line[..at].eq_ignore_ascii_case(b"content-length") {
            return Ok(std::str::from_utf8(&line[at + 1..])?.trim().parse()?);
        }
    }
    bail!("a response without a length: {}", String::from_utf8_lossy(head))
}

/// A request with a body.
pub(crate) fn write(method: &str, path: &str, body: &str) -> Vec<u8> {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A request without one.
pub(crate) fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read() {
        let head = b"HTTP/1.1 201 Created\r\nContent-Type: x\r\ncontent-LENGTH: 42\r";
        assert_eq!(code(head).ok(), Some(201));
        assert_eq!(content_length(head).ok(), Some(42));
        assert!(content_length(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked").is_err());
        assert!(code(b"HTTP").is_err());
    }
}
