//! The servers under load, each in a process of its own.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use skiff_apiserver::{Config, pki};
use skiff_bench::process;
use skiff_store::{Store, StoreConfig};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio_rustls::TlsAcceptor;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What every answer of `hello` says: about as long as a small ConfigMap.
const HELLO: &[u8] = &[b'h'; 400];

/// Runs the API server until standard input ends.
pub(crate) async fn api(dir: &Path) -> anyhow::Result<()> {
    let sealing_key = pki::sealing_key(dir)?;
    let store = Store::open(StoreConfig::new(dir.join("store"), sealing_key)).await?;
    let config = Config::new(dir, SocketAddr::new(LOOPBACK, 0), LOOPBACK);
    let server = skiff_apiserver::start(config, store.clone()).await?;
    println!("{}", server.local_addr());
    told_to_stop().await?;
    server.shutdown().await;
    store.close().await?;
    Ok(())
}

/// Runs a server that reads every request, answers the same to each, and to
/// `/bytes/N` with N bytes, until standard input ends.
pub(crate) async fn hello(dir: &Path) -> anyhow::Result<()> {
    let read = |name: &str| std::fs::read(dir.join("pki").join(name));
    let chain = CertificateDer::pem_slice_iter(&read("apiserver.crt")?)
        .collect::<Result<Vec<_>, _>>()
        .context("the API server's certificate")?;
    let key = PrivateKeyDer::from_pem_slice(&read("apiserver.key")?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let tls = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind((LOOPBACK, 0)).await?;
    println!("{}", listener.local_addr()?);
    let stop = told_to_stop();
    tokio::pin!(stop);
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            ended = &mut stop => return ended,
            accepted = listener.accept() => {
                let socket = accepted?.0;
                connections.spawn(answer(tls.clone(), socket));
            }
        }
    }
}

async fn answer(tls: TlsAcceptor, socket: TcpStream) -> anyhow::Result<()> {
    socket.set_nodelay(true)?;
    let stream = tls.accept(socket).await?;
    let service = hyper::service::service_fn(|request: http::Request<Incoming>| async move {
        let length = request.uri().path().strip_prefix("/bytes/").and_then(|n| n.parse().ok());
        // A body cut short ends the connection soon enough.
        drop(request.into_body().collect().await);
        let body = length.map_or(Bytes::from_static(HELLO), |n| Bytes::from(vec![b'h'; n]));
        Ok::<_, Infallible>(http::Response::new(Full::new(body)))
    });
    let http = hyper::server::conn::http1::Builder::new();
    http.serve_connection(TokioIo::new(stream), service).await?;
    Ok(())
}

async fn told_to_stop() -> anyhow::Result<()> {
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    Ok(())
}

/// This program again, as a server.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
    pid: u32,
}

impl Process {
    pub(crate) async fn start(side: &str, dir: &Path) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(side)
            .arg("--dir")
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().context("the server has ended")?;
        let said = child.stdout.take().context("no output")?;
        let mut line = String::new();
        let mut said = BufReader::new(said);
        let first = said.read_line(&mut line);
        tokio::time::timeout(Duration::from_secs(60), first).await.context("no word of it")??;
        let address = line.trim().parse().with_context(|| format!("{side} said {line:?}"))?;
        Ok(Self { child, address, pid })
    }

    /// CPU time used so far.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        process::cpu(self.pid)
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(&self) -> anyhow::Result<u64> {
        process::resident(self.pid)
    }

    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        drop(self.child.stdin.take());
        let ended = tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await;
        ensure!(ended.context("the server does not stop")??.success(), "the server failed");
        Ok(())
    }
}
