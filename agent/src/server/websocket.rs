//! WebSocket transports: numbered channels for exec and attach, and a plain
//! byte stream that carries a tunnelled protocol.
//!
//! ```text
//! client → server   0 stdin    4 resize   255 close of a channel (v5)
//! server → client   1 stdout   2 stderr   3 error: how it ended
//! ```
//!
//! Subprotocols differ in how a frame is written and in what the last message
//! on the error channel is. Kubernetes' `remotecommand` constants list them.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use base64::{Engine, prelude::BASE64_STANDARD};
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

/// How a channel's number and its bytes stand in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// A binary message: the number as a byte, the bytes.
    Binary,
    /// A text message, for browsers of old: the number as a digit, the bytes
    /// in base64.
    Base64,
}

impl Framing {
    /// The framing that a subprotocol's name tells.
    pub(super) fn of(protocol: &str) -> Self {
        if protocol.contains("base64.") { Self::Base64 } else { Self::Binary }
    }

    /// The message that carries `payload` on `channel`.
    pub(super) fn message(self, channel: u8, payload: &[u8]) -> Message {
        match self {
            Self::Binary => {
                let mut frame = BytesMut::with_capacity(1 + payload.len());
                frame.extend_from_slice(&[channel]);
                frame.extend_from_slice(payload);
                Message::Binary(frame.freeze())
            }
            Self::Base64 => {
                let mut frame = String::from(char::from(b'0'.wrapping_add(channel)));
                BASE64_STANDARD.encode_string(payload, &mut frame);
                Message::Text(frame.into())
            }
        }
    }

    /// The channel and the bytes of a message; `None` where it carries
    /// neither. An empty message opens the channels, as old clients do.
    pub(super) fn read(self, message: Message) -> Result<Option<(u8, Bytes)>, &'static str> {
        let bytes: Bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) => return Ok(None),
        };
        let Some(&first) = bytes.first() else { return Ok(None) };
        let payload = bytes.slice(1..);
        match self {
            Self::Binary => Ok(Some((first, payload))),
            Self::Base64 => match BASE64_STANDARD.decode(payload) {
                Ok(payload) => Ok(Some((first.wrapping_sub(b'0'), payload.into()))),
                Err(_) => Err("a message is not base64"),
            },
        }
    }
}

/// A version of the channels for exec and attach.
#[derive(Debug, Clone, Copy)]
pub(super) struct Channels {
    framing: Framing,
    /// A client can close its side of a channel.
    can_close: bool,
    /// The error channel tells how it ended as a `Status`. The oldest
    /// versions say nothing of success, and of a failure only its message.
    tells_status: bool,
}

impl Channels {
    /// Their names, best first. The last one is a client that names none.
    pub(super) const NAMES: [&str; 6] = [
        "v5.channel.k8s.io",
        "v4.channel.k8s.io",
        "v4.base64.channel.k8s.io",
        "channel.k8s.io",
        "base64.channel.k8s.io",
        "",
    ];

    /// The version with one of [`Channels::NAMES`].
    pub(super) fn of(name: &str) -> Self {
        Self {
            framing: Framing::of(name),
            can_close: name.starts_with("v5."),
            tells_status: name.starts_with('v'),
        }
    }

    fn meaning(self, message: Message) -> Meaning {
        let (channel, payload) = match self.framing.read(message) {
            Ok(Some(read)) => read,
            Ok(None) => return Meaning::Ignore,
            Err(why) => return Meaning::Broken(why),
        };
        match channel {
            STDIN => Meaning::Pass(Incoming::Stdin(payload)),
            RESIZE => read_size(&payload)
                .map_or(Meaning::Broken("a terminal size cannot be read"), |size| {
                    Meaning::Pass(Incoming::Resize(size))
                }),
            CLOSE if self.can_close => match payload[..] {
                [STDIN] => Meaning::Pass(Incoming::StdinClosed),
                [STDOUT | STDERR | ERROR | RESIZE] => Meaning::Ignore,
                _ => Meaning::Broken("the close signal names no channel"),
            },
            _ => Meaning::Broken("a client may write to stdin and resize only"),
        }
    }

    /// The message that tells a client of `piece`, if this version has one.
    fn message(self, piece: Outgoing) -> Option<Message> {
        let (channel, payload) = match piece {
            Outgoing::Stdout(bytes) => (STDOUT, bytes),
            Outgoing::Stderr(bytes) => (STDERR, bytes),
            Outgoing::Status(status) if self.tells_status => (ERROR, status.to_string().into()),
            Outgoing::Status(status) if status["status"] == "Success" => return None,
            Outgoing::Status(status) => {
                let why = status["message"].as_str().unwrap_or_default();
                (ERROR, Bytes::copy_from_slice(why.as_bytes()))
            }
        };
        Some(self.framing.message(channel, &payload))
    }

    /// Runs the channels until the process has ended or the client left.
    pub(super) async fn run(
        self,
        socket: WebSocket,
        incoming: mpsc::Sender<Incoming>,
        mut outgoing: mpsc::Receiver<Outgoing>,
    ) {
        let (mut sink, mut stream) = socket.split();
        let read = async {
            while let Some(Ok(message)) = stream.next().await {
                match self.meaning(message) {
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
                if let Some(message) = self.message(piece) {
                    sink.send(message).await?;
                }
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
        close(sink, stream, broken).await;
    }
}

/// What a client's message means.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Pass(Incoming),
    Ignore,
    Broken(&'static str),
}

/// How long a client has to say goodbye in its turn.
const FAREWELL: Duration = Duration::from_secs(5);

/// Says goodbye, or how the client has broken the protocol, and hears what the
/// client says until it says so, too (RFC 6455, section 7.1.1). A connection that
/// is closed with something unread loses what is still on its way.
pub(super) async fn close(
    mut sink: impl Sink<Message> + Unpin,
    mut stream: impl Stream<Item = Result<Message, axum::Error>> + Unpin,
    broken: Option<&'static str>,
) {
    let close = match broken {
        Some(why) => CloseFrame { code: close_code::PROTOCOL, reason: why.into() },
        None => CloseFrame { code: close_code::NORMAL, reason: "".into() },
    };
    // Courtesy: the client may have left first.
    let _ = sink.send(Message::Close(Some(close))).await;
    let _ = sink.close().await;
    let heard = async { while let Some(Ok(_)) = stream.next().await {} };
    // One that says nothing is left.
    let _ = tokio::time::timeout(FAREWELL, heard).await;
}

/// Sends a stream of bytes to a client that only listens, as logs are read by
/// WebSocket: whole messages, without channels.
pub(super) async fn send_all<E: std::fmt::Display>(
    socket: WebSocket,
    framing: Framing,
    pieces: impl Stream<Item = Result<Bytes, E>>,
) {
    let (mut sink, mut stream) = socket.split();
    let write = async {
        let mut pieces = std::pin::pin!(pieces);
        while let Some(piece) = pieces.next().await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => return tracing::debug!(%error, "a stream ended early"),
            };
            let message = match framing {
                Framing::Binary => Message::Binary(piece),
                Framing::Base64 => Message::Text(BASE64_STANDARD.encode(piece).into()),
            };
            if let Err(error) = sink.send(message).await {
                return tracing::debug!(%error, "WebSocket client has gone");
            }
        }
    };
    // What such a client says is of no interest, only whether it is there.
    let gone = async { while let Some(Ok(_)) = stream.next().await {} };
    tokio::select! {
        () = write => {}
        () = gone => {}
    }
    close(sink, stream, None).await;
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
    use serde_json::Value;

    use super::*;
    use crate::runtime::TerminalSize;

    const V5: &str = "v5.channel.k8s.io";
    const V4: &str = "v4.channel.k8s.io";
    const V1: &str = "channel.k8s.io";

    #[test]
    fn messages_mean_one_thing_or_break_the_connection() {
        let binary = |bytes: &'static [u8]| Message::Binary(Bytes::from_static(bytes));
        let stdin = |text: &'static str| Meaning::Pass(Incoming::Stdin(text.into()));
        let size = TerminalSize { width: 2, height: 3 };
        let cases = [
            ("stdin", binary(b"\0hi"), V5, stdin("hi")),
            ("empty stdin", binary(b"\0"), V5, stdin("")),
            ("nothing", binary(b""), V5, Meaning::Ignore),
            (
                "resize",
                binary(b"\x04{\"Width\":2,\"Height\":3}"),
                V5,
                Meaning::Pass(Incoming::Resize(size)),
            ),
            ("close of stdin", binary(b"\xff\0"), V5, Meaning::Pass(Incoming::StdinClosed)),
            ("stdin of old", binary(b"\0hi"), V1, stdin("hi")),
            ("in base64", Message::text("0aGk="), "v4.base64.channel.k8s.io", stdin("hi")),
            ("in base64, of old", Message::text("0"), "base64.channel.k8s.io", stdin("")),
        ];
        for (name, message, protocol, expected) in cases {
            assert_eq!(Channels::of(protocol).meaning(message), expected, "{name}");
        }
        let broken = [
            ("bad size", binary(b"\x04{}"), V5),
            ("stdout from a client", binary(b"\x01x"), V5),
            ("error from a client", binary(b"\x03x"), V5),
            ("unknown channel", binary(b"\x09x"), V5),
            ("close of nothing", binary(b"\xff"), V5),
            ("close of an unknown channel", binary(b"\xff\x09"), V5),
            ("close in v4", binary(b"\xff\0"), V4),
            ("close of old", binary(b"\xff\0"), V1),
            ("not base64", Message::text("0!"), "base64.channel.k8s.io"),
        ];
        for (name, message, protocol) in broken {
            let found = Channels::of(protocol).meaning(message);
            assert!(matches!(found, Meaning::Broken(_)), "{name}: {found:?}");
        }
    }

    #[test]
    fn output_is_numbered() {
        let binary = |bytes: &'static str| Some(Message::Binary(bytes.into()));
        let told = |protocol, piece| Channels::of(protocol).message(piece);
        assert_eq!(told(V5, Outgoing::Stdout("a".into())), binary("\x01a"));
        assert_eq!(told(V4, Outgoing::Stderr("b".into())), binary("\x02b"));
        assert_eq!(told("", Outgoing::Stdout("a".into())), binary("\x01a"));
        let in_base64 = told("base64.channel.k8s.io", Outgoing::Stdout("hi".into()));
        assert_eq!(in_base64, Some(Message::text("1aGk=")));
    }

    #[test]
    fn the_end_is_a_status_or_for_old_clients_only_what_went_wrong() {
        let success = serde_json::json!({"status": "Success"});
        let failure = serde_json::json!({"status": "Failure", "message": "no"});
        let told = |protocol, end: &Value| {
            let message = Channels::of(protocol).message(Outgoing::Status(end.clone()));
            message.map(|message| message.into_data())
        };
        for protocol in [V5, V4] {
            assert_eq!(told(protocol, &success), Some("\x03{\"status\":\"Success\"}".into()));
        }
        for protocol in [V1, ""] {
            assert_eq!(told(protocol, &success), None);
            assert_eq!(told(protocol, &failure), Some("\x03no".into()));
        }
    }
}
