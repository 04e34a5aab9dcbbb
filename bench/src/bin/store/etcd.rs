//! Their side: Debian's etcd, driven over gRPC.
//!
//! A unary gRPC call is one HTTP/2 request whose body is a length and a
//! message, so `hyper` and two `prost` messages are all it takes; generated
//! clients would need the Protobuf compiler on every machine that builds this.
//! Clients share connections as etcd's own benchmark does: ten to one.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use crate::load::{self, Client, Measured};
use crate::process;

const CLIENTS_PER_CONNECTION: usize = 10;
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// `etcdserverpb.PutRequest`, the fields in use.
#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone)]
struct Writer {
    connection: SendRequest<Full<Bytes>>,
    authority: String,
}

impl Client for Writer {
    async fn write(&mut self, key: String, value: Vec<u8>) -> anyhow::Result<()> {
        let message = PutRequest { key: key.into_bytes(), value };
        // Uncompressed flag, length, message.
        let mut body = BytesMut::with_capacity(5 + message.encoded_len());
        body.put_u8(0);
        body.put_u32(message.encoded_len() as u32);
        message.encode(&mut body)?;
        let request = http::Request::post(format!("http://{}/etcdserverpb.KV/Put", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(body.freeze()))?;
        self.connection.ready().await?;
        let response = self.connection.send_request(request).await?;
        // Errors without a body carry their status in the headers.
        let early = response.headers().get("grpc-status").cloned();
        let body = response.into_body().collect().await?;
        let status =
            body.trailers().and_then(|trailers| trailers.get("grpc-status")).cloned().or(early);
        match status {
            Some(status) if status == "0" => Ok(()),
            status => bail!("etcd refused a write: gRPC status {status:?}"),
        }
    }
}

/// Starts an etcd in `dir`, measures, and stops it.
pub(crate) async fn measure(
    etcd: &Path,
    dir: &Path,
    clients: usize,
    span: Duration,
) -> anyhow::Result<Measured> {
    let (client, peer) = (free_address().await?, free_address().await?);
    let mut server = start(etcd, dir, &client, &peer)?;
    let measured = drive(&mut server, &client, clients, span).await;
    server.kill().await.context("cannot stop etcd")?;
    measured
}

async fn drive(
    server: &mut Child,
    address: &str,
    clients: usize,
    span: Duration,
) -> anyhow::Result<Measured> {
    let pid = server.id().context("etcd has ended")?;
    let first = ready(server, address).await?;
    let mut writers = vec![first];
    while writers.len() * CLIENTS_PER_CONNECTION < clients {
        writers.push(connect(address).await?);
    }
    let before = process::disk_bytes(pid)?;
    let count = writers.len();
    let mut measured =
        load::run((0..clients).map(|n| writers[n % count].clone()).collect(), span).await?;
    measured.rss_mib = process::rss_mib(pid)?;
    // The warm-up wrote about a tenth more than was counted.
    measured.disk_bytes_per_write =
        (process::disk_bytes(pid)? - before) / (measured.writes as f64 * 1.1);
    Ok(measured)
}

fn start(etcd: &Path, dir: &Path, client: &str, peer: &str) -> anyhow::Result<Child> {
    let (client, peer) = (format!("http://{client}"), format!("http://{peer}"));
    Command::new(etcd)
        .args(["--name", "bench", "--log-level", "error", "--data-dir"])
        .arg(dir.join("etcd"))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("bench={peer}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {} (Debian package etcd-server)", etcd.display()))
}

/// Waits until a write succeeds.
async fn ready(server: &mut Child, address: &str) -> anyhow::Result<Writer> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        if let Some(status) = server.try_wait()? {
            bail!("etcd ended at its start: {status}");
        }
        let attempt = async {
            let mut writer = connect(address).await?;
            writer.write("ready".into(), Vec::new()).await?;
            anyhow::Ok(writer)
        };
        match attempt.await {
            Ok(writer) => return Ok(writer),
            Err(error) => {
                ensure!(Instant::now() < deadline, "etcd does not become ready: {error:#}")
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn connect(address: &str) -> anyhow::Result<Writer> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (connection, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    // Ends with the connection; errors show in the requests.
    tokio::spawn(driver);
    Ok(Writer { connection, authority: address.to_owned() })
}

/// A loopback address that nobody listens on.
async fn free_address() -> anyhow::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?.to_string())
}
