//! Port-forward over numbered channels of a WebSocket, as the Python client
//! speaks it.
//!
//! ```text
//! channel 2i      data of port i, both ways
//! channel 2i + 1  what went wrong with port i, to the client
//! ```
//!
//! The first message on each channel is the port, two bytes, little-endian.
//! The pod's side of each port is dialled at once and once only; the WebSocket
//! ends when all connections have ended, or when the client leaves.

use std::sync::Arc;

use axum::extract::ws::{Message, WebSocket};
use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
};

use super::{READ_SIZE, Target};
use crate::server::{backend::Backend, remote::QUEUE, websocket};
use websocket::Framing;

/// Two channels each have to fit into a byte's positive half.
const MAX_PORTS: usize = 64;

/// Reads the ports of a query. The API calls them `ports`, kubelets `port`;
/// either may be repeated or hold several between commas.
pub(super) fn ports(query: &str) -> Result<Vec<u16>, String> {
    let mut ports = Vec::new();
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        if key != "ports" && key != "port" {
            continue;
        }
        for port in value.split(',') {
            match port.parse() {
                Ok(0) | Err(_) => return Err(format!("{port:?} is not a port")),
                Ok(port) => ports.push(port),
            }
        }
    }
    match ports.len() {
        0 => Err("query parameter \"ports\" is required".into()),
        1..=MAX_PORTS => Ok(ports),
        _ => Err(format!("at most {MAX_PORTS} ports can be forwarded at once")),
    }
}

/// Forwards `ports` until all connections have ended or the client leaves.
pub(super) async fn serve(
    socket: WebSocket,
    framing: Framing,
    ports: Vec<u16>,
    node: Arc<dyn Backend>,
    target: Arc<Target>,
) {
    let (mut sink, mut stream) = socket.split();
    let (frames_tx, mut frames_rx) = mpsc::channel(QUEUE);
    let mut connections = JoinSet::new();
    let mut inward = Vec::new();
    for (data, port) in (0..).step_by(2).zip(ports) {
        let (bytes_tx, bytes_rx) = mpsc::channel(QUEUE);
        inward.push(bytes_tx);
        let outward = Outward { framing, data, frames: frames_tx.clone() };
        connections.spawn(connect(port, outward, bytes_rx, Arc::clone(&node), Arc::clone(&target)));
    }
    drop(frames_tx);
    let read = async {
        while let Some(Ok(message)) = stream.next().await {
            match framing.read(message) {
                Ok(Some((channel, bytes))) if channel % 2 == 0 => {
                    let Some(port) = inward.get(usize::from(channel / 2)) else {
                        return Some("a message on a channel without a port");
                    };
                    // That connection has ended; the others go on.
                    let _ = port.send(bytes).await;
                }
                // A client has nothing to say on the channels for errors.
                Ok(_) => {}
                Err(why) => return Some(why),
            }
        }
        None
    };
    let write = async {
        while let Some(message) = frames_rx.recv().await {
            if let Err(error) = sink.send(message).await {
                return tracing::debug!(%error, "WebSocket client has gone");
            }
        }
    };
    let broken = tokio::select! {
        broken = read => broken,
        () = write => None,
    };
    // Without the client the open ones have nobody to talk to.
    connections.shutdown().await;
    websocket::close(sink, stream, broken).await;
}

/// One port's way to the client.
struct Outward {
    framing: Framing,
    data: u8,
    frames: mpsc::Sender<Message>,
}

impl Outward {
    /// Whether the client is still there.
    async fn send(&self, channel: u8, bytes: &[u8]) -> bool {
        self.frames.send(self.framing.message(channel, bytes)).await.is_ok()
    }
}

async fn connect(
    port: u16,
    outward: Outward,
    inward: mpsc::Receiver<Bytes>,
    node: Arc<dyn Backend>,
    target: Arc<Target>,
) {
    let (data, error) = (outward.data, outward.data + 1);
    let number = port.to_le_bytes();
    if !(outward.send(data, &number).await && outward.send(error, &number).await) {
        return;
    }
    let failed = match node.dial(&target.namespace, &target.pod, port).await {
        Ok(socket) => copy(socket, &outward, inward).await.err().map(|error| error.to_string()),
        Err(failed) => Some(failed.to_string()),
    };
    if let Some(failed) = failed {
        outward.send(error, target.failure(port, &failed).as_bytes()).await;
    }
}

/// Moves bytes both ways until the pod closes.
async fn copy(
    socket: TcpStream,
    outward: &Outward,
    mut inward: mpsc::Receiver<Bytes>,
) -> std::io::Result<()> {
    let (mut from_pod, mut to_pod) = socket.into_split();
    let write = async {
        while let Some(bytes) = inward.recv().await {
            to_pod.write_all(&bytes).await?;
        }
        std::future::pending().await
    };
    let read = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(READ_SIZE);
            if from_pod.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            if !outward.send(outward.data, &buffer.split()).await {
                return Ok(());
            }
        }
    };
    tokio::select! {
        result = read => result,
        result = write => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_stand_alone_or_between_commas() {
        assert_eq!(ports("ports=80&ports=81"), Ok(vec![80, 81]));
        assert_eq!(ports("port=80%2C81&other=1"), Ok(vec![80, 81]));
        let many = (1..=65).map(|port| format!("ports={port}&")).collect::<String>();
        for bad in ["", "ports=", "ports=0", "ports=70000", "ports=http", "ports=80,", &many] {
            assert!(ports(bad).is_err(), "{bad}");
        }
    }
}
