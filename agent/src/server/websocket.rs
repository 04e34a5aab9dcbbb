//! WebSocket transports: numbered channels for exec and attach, and a plain
//! byte stream that carries a tunnelled protocol.
//!
//! ```text
//! client → server   0 stdin    4 resize   255 close of a channel (v5)
//! server → client   1 stdout   2 stderr   3 error: the final Status
//! ```

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use bytes::{Bytes, BytesMut};
use futures::{Sink, SinkExt, Stream, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
};

use super::remote::{Incoming, Outgoing, read_size};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// What a client's message means.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Pass(Incoming),
    Ignore,
    Broken(&'static str),
}

/// Runs the numbered channels until the process has ended or the client left.
/// `can_close` is the close signal of v5.
pub(super) async fn channels(
    socket: WebSocket,
    can_close: bool,
    incoming: mpsc::Sender<Incoming>,
    mut outgoing: mpsc::Receiver<Outgoing>,
) {
    let (mut sink, mut stream) = socket.split();
    let read = async {
        while let Some(Ok(message)) = stream.next().await {
            match meaning(message, can_close) {
                Meaning::Pass(piece) => {
                    // The process has ended; its output is still being sent.
                    if incoming.send(piece).await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
                Meaning::Ignore => {}
                Meaning::Broken(why) => return Some(why),
            }
        }
        None
    };
    let write = async {
        while let Some(piece) = outgoing.recv().await {
            sink.send(Message::Binary(frame(piece))).await?;
        }
        Ok::<(), axum::Error>(())
    };
    let broken = tokio::select! {
        broken = read => broken,
        written = write => {
            if let Err(error) = written {
                tracing::debug!(%error, "WebSocket client has gone");
            }
            None
        }
    };
    let close = match broken {
        Some(why) => CloseFrame { code: close_code::PROTOCOL, reason: why.into() },
        None => CloseFrame { code: close_code::NORMAL, reason: "".into() },
    };
    // Courtesy: the client may have left first.
    let _ = sink.send(Message::Close(Some(close))).await;
    let _ = sink.close().await;
}

fn meaning(message: Message, can_close: bool) -> Meaning {
    let bytes: Bytes = match message {
        Message::Binary(bytes) => bytes,
        Message::Text(text) => text.into(),
        Message::Ping(_) | Message::Pong(_) | Message::Close(_) => return Meaning::Ignore,
    };
    // An empty message opens the channels, as old clients do.
    let Some((&channel, payload)) = bytes.split_first() else { return Meaning::Ignore };
    match channel {
        STDIN => Meaning::Pass(Incoming::Stdin(bytes.slice(1..))),
        RESIZE => read_size(payload)
            .map_or(Meaning::Broken("a terminal size cannot be read"), |size| {
                Meaning::Pass(Incoming::Resize(size))
            }),
        CLOSE if can_close => match payload {
            [STDIN] => Meaning::Pass(Incoming::StdinClosed),
            [STDOUT | STDERR | ERROR | RESIZE] => Meaning::Ignore,
            _ => Meaning::Broken("the close signal names no channel"),
        },
        _ => Meaning::Broken("a client may write to stdin and resize only"),
    }
}

fn frame(piece: Outgoing) -> Bytes {
    let (channel, payload) = match piece {
        Outgoing::Stdout(bytes) => (STDOUT, bytes),
        Outgoing::Stderr(bytes) => (STDERR, bytes),
        Outgoing::Status(status) => (ERROR, Bytes::from(status.to_string())),
    };
    let mut frame = BytesMut::with_capacity(1 + payload.len());
    frame.extend_from_slice(&[channel]);
    frame.extend_from_slice(&payload);
    frame.freeze()
}

/// A WebSocket as a byte stream: binary messages, their borders forgotten.
pub(super) struct ByteStream {
    socket: WebSocket,
    unread: Bytes,
}

impl ByteStream {
    pub(super) fn new(socket: WebSocket) -> Self {
        Self { socket, unread: Bytes::new() }
    }
}

impl AsyncRead for ByteStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(context)) {
                Some(Ok(Message::Binary(bytes))) => self.unread = bytes,
                Some(Ok(Message::Text(_))) => {
                    return Poll::Ready(Err(io::Error::other("text in a binary tunnel")));
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
        let count = self.unread.len().min(buffer.remaining());
        let piece = self.unread.split_to(count);
        buffer.put_slice(&piece);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ByteStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(context)).map_err(io::Error::other)?;
        let message = Message::Binary(Bytes::copy_from_slice(bytes));
        Pin::new(&mut self.socket).start_send(message).map_err(io::Error::other)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context).map_err(io::Error::other)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(context).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::TerminalSize;

    #[test]
    fn messages_mean_one_thing_or_break_the_connection() {
        let binary = |bytes: &'static [u8]| Message::Binary(Bytes::from_static(bytes));
        let stdin = |text: &'static str| Meaning::Pass(Incoming::Stdin(text.into()));
        let size = TerminalSize { width: 2, height: 3 };
        let cases = [
            ("stdin", binary(b"\0hi"), true, stdin("hi")),
            ("empty stdin", binary(b"\0"), true, stdin("")),
            ("nothing", binary(b""), true, Meaning::Ignore),
            (
                "resize",
                binary(b"\x04{\"Width\":2,\"Height\":3}"),
                true,
                Meaning::Pass(Incoming::Resize(size)),
            ),
            ("close of stdin", binary(b"\xff\0"), true, Meaning::Pass(Incoming::StdinClosed)),
        ];
        for (name, message, can_close, expected) in cases {
            assert_eq!(meaning(message, can_close), expected, "{name}");
        }
        let broken = [
            ("bad size", binary(b"\x04{}"), true),
            ("stdout from a client", binary(b"\x01x"), true),
            ("error from a client", binary(b"\x03x"), true),
            ("unknown channel", binary(b"\x09x"), true),
            ("close of nothing", binary(b"\xff"), true),
            ("close of an unknown channel", binary(b"\xff\x09"), true),
            ("close in v4", binary(b"\xff\0"), false),
        ];
        for (name, message, can_close) in broken {
            let found = meaning(message, can_close);
            assert!(matches!(found, Meaning::Broken(_)), "{name}: {found:?}");
        }
    }

    #[test]
    fn output_is_numbered() {
        assert_eq!(frame(Outgoing::Stdout("a".into())), "\x01a");
        assert_eq!(frame(Outgoing::Stderr("b".into())), "\x02b");
        assert_eq!(frame(Outgoing::Status(serde_json::json!({}))), "\x03{}");
    }
}
