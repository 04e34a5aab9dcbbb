//! Port-forward: connections into a pod's own network.
//!
//! Over SPDY there are as many as the client likes, on one connection, which
//! itself may run inside a WebSocket: for each the client opens two streams
//! with the same request id, `error`, on which we say what went wrong, and
//! `data`. Over numbered channels of a WebSocket there is one connection for
//! each port that the request names; see [`channels`].

use std::{collections::HashMap, sync::Arc};

use axum::{
    extract::{Path, RawQuery, Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    task::JoinSet,
};

use super::{
    Node,
    backend::Backend,
    spdy::connection::{self, Stream},
    upgrade,
    websocket::{ByteStream, Framing},
};
use crate::runtime::labels;

/// SPDY inside a WebSocket.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// The subprotocols of a WebSocket, best first; a client that names none
/// means numbered channels.
const WEBSOCKET: [&str; 4] = [TUNNEL, "v4.channel.k8s.io", "v4.base64.channel.k8s.io", ""];
const SPDY: [&str; 1] = ["portforward.k8s.io"];
/// Halves of a pair whose other half has not come; more end the connection.
const MAX_WAITING: usize = 64;
const READ_SIZE: usize = 32 << 10;

mod channels;

/// Which pod.
struct Target {
    namespace: String,
    pod: String,
}

/// One forwarded connection, both streams there.
struct Pair {
    port: u16,
    data: Stream,
    error: Stream,
}

pub(super) async fn serve(
    State(node): State<Node>,
    Path((namespace, pod)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Response {
    // Better to say now that there is no such pod than on every connection.
    if let Err(error) = node.container(&namespace, &pod, labels::SANDBOX, false).await {
        return error.into_response();
    }
    let asked = match upgrade::asked(request, &WEBSOCKET, &SPDY).await {
        Ok(asked) => asked,
        Err(refusal) => return *refusal,
    };
    let target = Arc::new(Target { namespace, pod });
    let (web_node, web_target) = (Arc::clone(&node), Arc::clone(&target));
    // Only numbered channels need to know the ports beforehand.
    let ports = match &asked {
        upgrade::Asked::WebSocket(_, protocol) if *protocol != TUNNEL => {
            match channels::ports(&query.unwrap_or_default()) {
                Ok(ports) => ports,
                Err(why) => return (StatusCode::BAD_REQUEST, why).into_response(),
            }
        }
        _ => Vec::new(),
    };
    asked.answer(
        async move |socket, protocol| match protocol {
            TUNNEL => forward(ByteStream::new(socket), web_node, web_target).await,
            named => {
                channels::serve(socket, Framing::of(named), ports, web_node, web_target).await;
            }
        },
        async move |transport| forward(transport, node, target).await,
    )
}

impl Target {
    /// What a client is told of a connection that failed.
    fn failure(&self, port: u16, why: &dyn std::fmt::Display) -> String {
        format!("error forwarding port {port} to pod {}, uid : {why}", self.pod)
    }
}

/// Forwards until the client leaves.
async fn forward<T>(transport: T, node: Arc<dyn Backend>, target: Arc<Target>)
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (accepted_tx, accepted_rx) = mpsc::channel(8);
    let (served, ()) =
        tokio::join!(connection::serve(transport, accepted_tx), pairs(accepted_rx, node, target));
    if let Err(error) = served {
        tracing::debug!(%error, "port-forward connection ended");
    }
}

async fn pairs(mut accepted: mpsc::Receiver<Stream>, node: Arc<dyn Backend>, target: Arc<Target>) {
    let mut waiting = HashMap::new();
    let mut connections = JoinSet::new();
    while let Some(stream) = accepted.recv().await {
        match join(&mut waiting, stream) {
            Ok(Some(pair)) => {
                connections.spawn(connect(pair, Arc::clone(&node), Arc::clone(&target)));
            }
            Ok(None) => {}
            Err(why) => {
                tracing::debug!(why, "port-forward client broke the protocol");
                break;
            }
        }
        // Forget those that are over.
        while connections.try_join_next().is_some() {}
    }
    // Without the client the open ones have nobody to talk to.
    connections.shutdown().await;
}

/// Puts a stream to its other half, if that is there.
fn join(
    waiting: &mut HashMap<String, Stream>,
    stream: Stream,
) -> Result<Option<Pair>, &'static str> {
    let port = match stream.header("port").parse() {
        Ok(0) | Err(_) => return Err("a stream without a port"),
        Ok(port) => port,
    };
    let kind = stream.header("streamtype").to_owned();
    if kind != "data" && kind != "error" {
        return Err("a stream of unknown type");
    }
    // The oldest clients forward one connection at a time and send no id.
    let id = format!("{}/{port}", stream.header("requestid"));
    let Some(other) = waiting.remove(&id) else {
        if waiting.len() >= MAX_WAITING {
            return Err("too many streams without their other half");
        }
        waiting.insert(id, stream);
        return Ok(None);
    };
    if other.header("streamtype") == kind {
        return Err("two streams of one type");
    }
    let (data, error) = if kind == "data" { (stream, other) } else { (other, stream) };
    Ok(Some(Pair { port, data, error }))
}

async fn connect(pair: Pair, node: Arc<dyn Backend>, target: Arc<Target>) {
    let Pair { port, data, error } = pair;
    let failed = match node.dial(&target.namespace, &target.pod, port).await {
        Ok(socket) => copy(socket, data).await.err().map(|error| error.to_string()),
        Err(failed) => {
            // The client must not wait for bytes that never come.
            let _ = data.outgoing.reset().await;
            Some(failed.to_string())
        }
    };
    let told = async {
        if let Some(failed) = failed {
            error.outgoing.send(target.failure(port, &failed).into()).await?;
        }
        error.outgoing.finish().await
    };
    if told.await.is_err() {
        tracing::debug!(port, "the client left before the connection ended");
    }
}

/// Moves bytes both ways; each direction ends on its own.
async fn copy(socket: tokio::net::TcpStream, stream: Stream) -> std::io::Result<()> {
    let (mut from_pod, mut to_pod) = socket.into_split();
    let Stream { mut incoming, outgoing, .. } = stream;
    let inward = async {
        while let Some(bytes) = incoming.recv().await {
            to_pod.write_all(&bytes).await?;
        }
        to_pod.shutdown().await
    };
    let outward = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(READ_SIZE);
            if from_pod.read_buf(&mut buffer).await? == 0 {
                break;
            }
            outgoing.send(buffer.split().freeze()).await.map_err(std::io::Error::other)?;
        }
        outgoing.finish().await.map_err(std::io::Error::other)
    };
    // Once the pod has closed, what the client still sends has no receiver.
    tokio::pin!(inward);
    tokio::select! {
        result = outward => result,
        result = async {
            (&mut inward).await?;
            std::future::pending().await
        } => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::spdy::{
        frame::{self, Frame},
        headers::Encoder,
    };

    /// Streams with these headers, as a client would open them.
    async fn streams(all: &[&[(&str, &str)]]) -> Vec<Stream> {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let (accepted_tx, mut accepted) = mpsc::channel(8);
        tokio::spawn(connection::serve(server, accepted_tx));
        let mut encoder = Encoder::new().unwrap();
        let mut opened = Vec::new();
        for (index, headers) in all.iter().enumerate() {
            let headers = headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let block = encoder.encode(&headers).unwrap();
            let mut out = BytesMut::new();
            let id = u32::try_from(index * 2 + 1).unwrap();
            frame::encode(&Frame::SynStream { id, fin: false, block }, &mut out);
            client.write_all(&out).await.unwrap();
            opened.push(accepted.recv().await.unwrap());
        }
        opened
    }

    #[tokio::test]
    async fn two_halves_make_a_connection() {
        let all = streams(&[
            &[("streamtype", "error"), ("port", "80"), ("requestid", "0")],
            &[("streamtype", "error"), ("port", "80"), ("requestid", "1")],
            &[("streamtype", "data"), ("port", "80"), ("requestid", "1")],
            &[("streamtype", "data"), ("port", "80"), ("requestid", "0")],
        ])
        .await;
        let mut waiting = HashMap::new();
        let joined: Vec<bool> =
            all.into_iter().map(|stream| join(&mut waiting, stream).unwrap().is_some()).collect();
        assert_eq!(joined, [false, false, true, true]);
        assert!(waiting.is_empty());
    }

    #[tokio::test]
    async fn what_makes_no_sense_is_refused() {
        let all = streams(&[
            &[("streamtype", "data"), ("port", "0")],
            &[("streamtype", "data")],
            &[("streamtype", "data"), ("port", "70000")],
            &[("streamtype", "other"), ("port", "80")],
        ])
        .await;
        for stream in all {
            assert!(join(&mut HashMap::new(), stream).is_err());
        }
        let mut twice = streams(&[
            &[("streamtype", "data"), ("port", "80")],
            &[("streamtype", "data"), ("port", "80")],
        ])
        .await;
        let mut waiting = HashMap::new();
        assert!(join(&mut waiting, twice.remove(0)).unwrap().is_none());
        assert!(join(&mut waiting, twice.remove(0)).is_err());
    }
}
