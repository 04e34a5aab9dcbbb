//! Exec and attach over SPDY: one stream each for error, stdin, stdout, stderr
//! and resize, opened by the client in any order.

use std::{collections::HashMap, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};

use super::{
    remote::{Incoming, Outgoing, Wanted, read_size},
    spdy::connection::{self, Gone, Stream, StreamWriter},
};

/// In this time a client has opened all its streams, or never will.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest message on the resize stream.
const MAX_RESIZE: usize = 4096;

/// Runs the transport until both sides are done.
pub(super) async fn channels<T>(
    transport: T,
    wanted: &Wanted,
    incoming: mpsc::Sender<Incoming>,
    outgoing: mpsc::Receiver<Outgoing>,
) where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (accepted_tx, accepted_rx) = mpsc::channel(8);
    let (served, ()) = tokio::join!(
        connection::serve(transport, accepted_tx),
        exchange(accepted_rx, wanted, incoming, outgoing),
    );
    if let Err(error) = served {
        tracing::debug!(%error, "SPDY connection ended");
    }
}

/// Waits for the client's streams and moves bytes. Dropping `accepted` at the
/// end closes the connection.
async fn exchange(
    mut accepted: mpsc::Receiver<Stream>,
    wanted: &Wanted,
    incoming: mpsc::Sender<Incoming>,
    mut outgoing: mpsc::Receiver<Outgoing>,
) {
    let opened = tokio::time::timeout(OPEN_TIMEOUT, open(&mut accepted, wanted)).await;
    let Ok(Some(mut streams)) = opened else {
        return tracing::debug!("the client did not open the streams that it asked for");
    };
    let stdin = streams.remove("stdin");
    let resize = streams.remove("resize");
    let writers: HashMap<&str, StreamWriter> =
        streams.iter().map(|(kind, stream)| (kind.as_str(), stream.outgoing.clone())).collect();

    let read_stdin = async {
        if let Some(mut stream) = stdin {
            while let Some(bytes) = stream.incoming.recv().await {
                if incoming.send(Incoming::Stdin(bytes)).await.is_err() {
                    return;
                }
            }
            // The process side may have ended first.
            let _ = incoming.send(Incoming::StdinClosed).await;
        }
        std::future::pending::<()>().await;
    };
    let read_resize = async {
        if let Some(mut stream) = resize {
            let mut buffer = BytesMut::new();
            while let Some(bytes) = stream.incoming.recv().await {
                buffer.extend_from_slice(&bytes);
                for size in sizes(&mut buffer) {
                    if incoming.send(size).await.is_err() {
                        return;
                    }
                }
            }
        }
        std::future::pending::<()>().await;
    };
    let write = async {
        while let Some(piece) = outgoing.recv().await {
            if write(&writers, piece).await.is_err() {
                return;
            }
        }
        for writer in writers.values() {
            if writer.finish().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = write => {}
        () = read_stdin => {}
        () = read_resize => {}
        // No more streams are welcome; the channel only tells the client's end.
        () = async { while accepted.recv().await.is_some() {} } => {}
    }
}

/// The streams by type, once all that the query announced are there. `None`
/// when the client opens another or leaves.
async fn open(
    accepted: &mut mpsc::Receiver<Stream>,
    wanted: &Wanted,
) -> Option<HashMap<String, Stream>> {
    let expected: Vec<&str> = [
        ("error", true),
        ("stdin", wanted.stdin),
        ("stdout", wanted.stdout),
        ("stderr", wanted.stderr),
        ("resize", wanted.tty),
    ]
    .into_iter()
    .filter_map(|(kind, wanted)| wanted.then_some(kind))
    .collect();
    let mut streams = HashMap::new();
    while streams.len() < expected.len() {
        let stream = accepted.recv().await?;
        let kind = stream.header("streamtype").to_ascii_lowercase();
        if !expected.contains(&kind.as_str()) || streams.contains_key(&kind) {
            return None;
        }
        streams.insert(kind, stream);
    }
    Some(streams)
}

async fn write(writers: &HashMap<&str, StreamWriter>, piece: Outgoing) -> Result<(), Gone> {
    let (kind, bytes) = match piece {
        Outgoing::Stdout(bytes) => ("stdout", bytes),
        Outgoing::Stderr(bytes) => ("stderr", bytes),
        Outgoing::Status(status) => ("error", Bytes::from(status.to_string())),
    };
    match writers.get(kind) {
        Some(writer) => writer.send(bytes).await,
        None => Ok(()),
    }
}

/// The whole messages at the start of `buffer`: JSON objects one after the
/// other. What cannot be read is dropped.
fn sizes(buffer: &mut BytesMut) -> Vec<Incoming> {
    let mut found = Vec::new();
    while let Some(end) = buffer.iter().position(|byte| *byte == b'}') {
        let message = buffer.split_to(end + 1);
        let text = message.trim_ascii();
        found.extend(read_size(text).map(Incoming::Resize));
    }
    if buffer.len() > MAX_RESIZE {
        buffer.clear();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::TerminalSize;

    #[test]
    fn sizes_come_in_any_cut() {
        let size = |width, height| Incoming::Resize(TerminalSize { width, height });
        let mut buffer = BytesMut::from(&b"{\"Width\":1,\"Height\":2}\n{\"Width\":3,"[..]);
        assert_eq!(sizes(&mut buffer), [size(1, 2)]);
        buffer.extend_from_slice(b"\"Height\":4}\n{}{\"Width\":5,\"Height\":6}");
        assert_eq!(sizes(&mut buffer), [size(3, 4), size(5, 6)]);
    }
}
