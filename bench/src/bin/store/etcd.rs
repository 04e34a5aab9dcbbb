//! Their side: Debian's etcd, driven over gRPC.
//!
//! A unary gRPC call is one HTTP/2 request whose body is a length and a
//! message, so `hyper` and a few `prost` messages are all it takes; generated
//! clients would need the Protobuf compiler on every machine that builds this.
//! Clients share connections as etcd's own benchmark does: ten to one.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use crate::load::{self, Client, Measured, PREFIX, Row, Watch};

const CLIENTS_PER_CONNECTION: usize = 10;
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// `etcdserverpb.PutRequest`, the fields in use; so are the others.
#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// Linearizable unless it says otherwise.
#[derive(Clone, PartialEq, Message)]
struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct RangeResponse {
    #[prost(int64, tag = "4")]
    count: i64,
}

#[derive(Clone, PartialEq, Message)]
struct WatchRequest {
    #[prost(message, optional, tag = "1")]
    create: Option<WatchCreateRequest>,
}

#[derive(Clone, PartialEq, Message)]
struct WatchCreateRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    range_end: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct WatchResponse {
    #[prost(bool, tag = "3")]
    created: bool,
    #[prost(bool, tag = "4")]
    canceled: bool,
    #[prost(message, repeated, tag = "11")]
    events: Vec<Nothing>,
}

/// A message whose fields are not looked at.
#[derive(Clone, PartialEq, Message)]
struct Nothing {}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

#[derive(Clone, PartialEq, Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

/// One connection; clones share it.
#[derive(Clone)]
struct Caller {
    connection: SendRequest<Full<Bytes>>,
    authority: String,
}

impl Caller {
    async fn connect(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (connection, driver) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(8 << 20)
            .handshake(TokioIo::new(stream))
            .await?;
        // Ends with the connection; errors show in the requests.
        tokio::spawn(driver);
        Ok(Self { connection, authority: address.to_owned() })
    }

    /// Sends one message to `path`.
    async fn send(
        &mut self,
        path: &str,
        message: &impl Message,
    ) -> anyhow::Result<http::Response<Incoming>> {
        // Uncompressed flag, length, message.
        let mut body = BytesMut::with_capacity(5 + message.encoded_len());
        body.put_u8(0);
        body.put_u32(message.encoded_len() as u32);
        message.encode(&mut body)?;
        let request = http::Request::post(format!("http://{}/etcdserverpb.{path}", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(body.freeze()))?;
        self.connection.ready().await?;
        Ok(self.connection.send_request(request).await?)
    }

    /// Sends one message and reads the one that answers it.
    async fn call<A: Message + Default>(
        &mut self,
        path: &str,
        message: &impl Message,
    ) -> anyhow::Result<A> {
        let response = self.send(path, message).await?;
        // Errors without a body carry their status in the headers.
        let early = response.headers().get("grpc-status").cloned();
        let body = response.into_body().collect().await?;
        let late = body.trailers().and_then(|trailers| trailers.get("grpc-status")).cloned();
        match late.or(early) {
            Some(status) if status == "0" => {
                take(&mut BytesMut::from(&*body.to_bytes()))?.context("an answer without a message")
            }
            status => bail!("etcd refused {path}: gRPC status {status:?}"),
        }
    }
}

/// Takes the first message off the received bytes, once it is whole.
fn take<A: Message + Default>(received: &mut BytesMut) -> anyhow::Result<Option<A>> {
    let Some(length) = received.get(1..5) else { return Ok(None) };
    let length = 5 + length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    if received.len() < length {
        return Ok(None);
    }
    let mut message = received.split_to(length);
    message.advance(5);
    Ok(Some(A::decode(message)?))
}

impl Client for Caller {
    type Watch = Following;

    async fn write(&mut self, key: String, value: Vec<u8>) -> anyhow::Result<()> {
        let put = PutRequest { key: key.into_bytes(), value };
        self.call::<Nothing>("KV/Put", &put).await?;
        Ok(())
    }

    async fn read(&mut self, key: String) -> anyhow::Result<()> {
        let range = RangeRequest { key: key.clone().into_bytes() };
        let found: RangeResponse = self.call("KV/Range", &range).await?;
        ensure!(found.count == 1, "{key} is not there");
        Ok(())
    }

    async fn watch(&mut self) -> anyhow::Result<Following> {
        // The first key after the range: its last character raised by one.
        let mut range_end = PREFIX.as_bytes().to_vec();
        *range_end.last_mut().context("an empty prefix")? += 1;
        let create = WatchCreateRequest { key: PREFIX.into(), range_end };
        let response = self.send("Watch/Watch", &WatchRequest { create: Some(create) }).await?;
        let mut watch = Following { body: response.into_body(), received: BytesMut::new() };
        ensure!(watch.response().await?.created, "etcd refused a watch");
        Ok(watch)
    }
}

/// The answers to one watch request.
struct Following {
    body: Incoming,
    received: BytesMut,
}

impl Following {
    async fn response(&mut self) -> anyhow::Result<WatchResponse> {
        loop {
            if let Some(response) = take::<WatchResponse>(&mut self.received)? {
                ensure!(!response.canceled, "etcd ended a watch");
                return Ok(response);
            }
            let frame = self.body.frame().await.context("etcd closed a watch")??;
            self.received.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        }
    }
}

impl Watch for Following {
    async fn next(&mut self) -> anyhow::Result<u64> {
        Ok(self.response().await?.events.len() as u64)
    }
}

/// Starts a group in `dir`, measures, and stops it.
pub(crate) async fn measure(etcd: &Path, dir: &Path, row: Row) -> anyhow::Result<Measured> {
    let mut addresses = Vec::new();
    for _ in 0..row.members {
        addresses.push((free_address().await?, free_address().await?));
    }
    let mut group = Vec::new();
    for number in 0..row.members {
        group.push((start(etcd, dir, &addresses, number)?, addresses[number].0.as_str()));
    }
    let measured = drive(&mut group, row).await;
    for (mut server, _) in group {
        server.kill().await.context("cannot stop etcd")?;
    }
    measured
}

async fn drive(group: &mut [(Child, &str)], row: Row) -> anyhow::Result<Measured> {
    let mut leader = None;
    for (number, (server, address)) in group.iter_mut().enumerate() {
        if ready(server, address).await? {
            leader = Some(number);
        }
    }
    group.swap(0, leader.context("etcd has no leader")?);
    let mut connections = Vec::new();
    for _ in 0..row.clients.max(row.watchers).div_ceil(CLIENTS_PER_CONNECTION) {
        connections.push(Caller::connect(group[0].1).await?);
    }
    let pids = group.iter().map(|(server, _)| server.id().context("etcd has ended"));
    let pids = pids.collect::<anyhow::Result<Vec<_>>>()?;
    let callers = connections.iter().cycle().take(row.clients).cloned().collect();
    load::measure(callers, row, &pids).await
}

/// Starts the member of that number; `addresses` are for clients and for peers.
fn start(
    etcd: &Path,
    dir: &Path,
    addresses: &[(String, String)],
    number: usize,
) -> anyhow::Result<Child> {
    let name = |number: usize| format!("bench-{number}");
    let (client, peer) = &addresses[number];
    let (client, peer) = (format!("http://{client}"), format!("http://{peer}"));
    let group: Vec<String> = (addresses.iter().enumerate())
        .map(|(number, (_, peer))| format!("{}=http://{peer}", name(number)))
        .collect();
    Command::new(etcd)
        .args(["--name", &name(number), "--log-level", "error", "--data-dir"])
        .arg(dir.join(format!("etcd-{number}")))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &group.join(",")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {} (Debian package etcd-server)", etcd.display()))
}

/// Waits until a write succeeds; whether this member leads.
async fn ready(server: &mut Child, address: &str) -> anyhow::Result<bool> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        if let Some(status) = server.try_wait()? {
            bail!("etcd ended at its start: {status}");
        }
        let attempt = async {
            let mut caller = Caller::connect(address).await?;
            caller.write("ready".into(), Vec::new()).await?;
            let status: StatusResponse = caller.call("Maintenance/Status", &Nothing {}).await?;
            let header = status.header.context("a status without a header")?;
            anyhow::Ok(status.leader == header.member_id)
        };
        match attempt.await {
            Ok(leads) => return Ok(leads),
            Err(error) => {
                ensure!(Instant::now() < deadline, "etcd does not become ready: {error:#}")
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A loopback address that nobody listens on.
async fn free_address() -> anyhow::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_when_they_are_whole() {
        let range = RangeResponse { count: 300 }.encode_to_vec();
        let mut wire = BytesMut::new();
        for _ in 0..2 {
            wire.put_u8(0);
            wire.put_u32(range.len() as u32);
            wire.extend_from_slice(&range);
        }
        let mut received = BytesMut::new();
        let mut counts = Vec::new();
        for byte in wire {
            received.put_u8(byte);
            counts.extend(take::<RangeResponse>(&mut received).unwrap().map(|range| range.count));
        }
        assert_eq!((counts, received.len()), (vec![300, 300], 0));
    }
}
