//! As much of gRPC as etcd needs: one HTTP/2 connection, calls, and streams of
//! answers.
//!
//! A call is one HTTP/2 request whose body is a length and a message; its
//! outcome stands in the trailers. `hyper` does HTTP/2, so this is all there is
//! to it, and a client library of gRPC would bring a second copy of what is
//! linked already.
//!
//! The endpoints of one etcd cluster are tried in turn: a connection that
//! breaks is replaced by one to the next endpoint at the next call. A request
//! that may have reached a server is never sent twice.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;

/// How often a silent connection is asked for a sign of life, and how long it
/// may take. Without it a watch would wait forever on a server that vanished.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one endpoint may take before the next one is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Length of a message's prefix: a flag for compression, and its length.
const PREFIX: usize = 5;

/// gRPC's code for arguments that no retry makes better.
const INVALID_ARGUMENT: u32 = 3;

/// Why a call has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum CallError {
    /// etcd refused the request as such.
    #[error("etcd refuses: {0}")]
    Refused(String),
    /// etcd cannot, or nobody knows.
    #[error("etcd: {0}")]
    Failed(String),
}

fn failed(error: impl std::fmt::Display) -> CallError {
    CallError::Failed(error.to_string())
}

/// A cluster's endpoints and the connection to one of them.
pub(super) struct Channel {
    endpoints: Vec<String>,
    tls: Option<TlsConnector>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The endpoint of the connection, or of the next one.
    at: usize,
    connection: Option<Connection>,
}

#[derive(Clone)]
struct Connection {
    sender: SendRequest<Outgoing>,
    endpoint: usize,
}

impl Channel {
    /// A channel to `endpoints`, each `HOST:PORT`. Nothing is connected yet.
    pub(super) fn new(endpoints: Vec<String>, tls: Option<Arc<rustls::ClientConfig>>) -> Self {
        Self { endpoints, tls: tls.map(TlsConnector::from), state: Mutex::default() }
    }

    /// One request, one answer.
    pub(super) async fn call<A: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
    ) -> Result<A, CallError> {
        let response = self.send(method, Outgoing::whole(request)).await?;
        let early = response.headers().clone();
        let body = response.into_body().collect().await.map_err(failed)?;
        let outcome = body.trailers().unwrap_or(&early).clone();
        let mut bytes = BytesMut::from(&*body.to_bytes());
        check(&outcome)?;
        let message = take(&mut bytes).ok_or_else(|| failed("an answer without a message"))?;
        A::decode(message).map_err(failed)
    }

    /// One request, answers for as long as both sides like.
    pub(super) async fn stream<A: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
    ) -> Result<Answers<A>, CallError> {
        let response = self.send(method, Outgoing::open(request)).await?;
        // Refused at once, without a body.
        if response.headers().contains_key("grpc-status") {
            check(response.headers())?;
        }
        Ok(Answers { body: response.into_body(), buffer: BytesMut::new(), of: Default::default() })
    }

    async fn send(&self, method: &str, body: Outgoing) -> Result<Response<Incoming>, CallError> {
        let mut connection = self.connection().await?;
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let request =
            Request::post(format!("{scheme}://{}{method}", self.endpoints[connection.endpoint]))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(body)
                .map_err(failed)?;
        let response = connection.sender.send_request(request).await.map_err(failed)?;
        if response.status() != http::StatusCode::OK {
            return Err(failed(format!("HTTP status {}", response.status())));
        }
        Ok(response)
    }

    /// The connection, made if there is none that works.
    async fn connection(&self) -> Result<Connection, CallError> {
        let mut state = self.state.lock().await;
        if let Some(mut connection) = state.connection.take() {
            if connection.sender.ready().await.is_ok() {
                state.connection = Some(connection.clone());
                return Ok(connection);
            }
            state.at = connection.endpoint + 1;
        }
        let mut last = failed("no endpoints");
        for turn in 0..self.endpoints.len() {
            let endpoint = (state.at + turn) % self.endpoints.len();
            match self.connect(&self.endpoints[endpoint]).await {
                Ok(sender) => {
                    let connection = Connection { sender, endpoint };
                    state.connection = Some(connection.clone());
                    return Ok(connection);
                }
                Err(CallError::Failed(error) | CallError::Refused(error)) => {
                    last = failed(format!("{}: {error}", self.endpoints[endpoint]));
                }
            }
        }
        state.at += 1;
        Err(last)
    }

    async fn connect(&self, endpoint: &str) -> Result<SendRequest<Outgoing>, CallError> {
        let connecting = self.connect_patiently(endpoint);
        tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .unwrap_or_else(|_| Err(failed("no connection in time")))
    }

    async fn connect_patiently(&self, endpoint: &str) -> Result<SendRequest<Outgoing>, CallError> {
        let stream = TcpStream::connect(endpoint).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        match &self.tls {
            None => handshake(stream).await,
            Some(tls) => {
                let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
                let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
                    .map_err(failed)?;
                handshake(tls.connect(name, stream).await.map_err(failed)?).await
            }
        }
    }

    /// Leaves the connection, so that the next call makes one to the next
    /// endpoint.
    pub(super) async fn leave(&self) {
        let mut state = self.state.lock().await;
        if let Some(connection) = state.connection.take() {
            state.at = connection.endpoint + 1;
        }
    }
}

async fn handshake(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
) -> Result<SendRequest<Outgoing>, CallError> {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .adaptive_window(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    // Ends with the connection; errors show in the requests.
    tokio::spawn(connection);
    Ok(sender)
}

/// Answers of a stream.
pub(super) struct Answers<A> {
    body: Incoming,
    buffer: BytesMut,
    of: std::marker::PhantomData<A>,
}

impl<A: Message + Default> Answers<A> {
    /// The next answer. An error ends the stream.
    pub(super) async fn next(&mut self) -> Result<A, CallError> {
        loop {
            if let Some(message) = take(&mut self.buffer) {
                return A::decode(message).map_err(failed);
            }
            let frame = match self.body.frame().await {
                Some(frame) => frame.map_err(failed)?,
                None => return Err(failed("the stream has ended")),
            };
            match frame.into_data() {
                Ok(data) => self.buffer.extend_from_slice(&data),
                Err(frame) => {
                    if let Some(trailers) = frame.trailers_ref() {
                        check(trailers)?;
                    }
                }
            }
        }
    }
}

/// Takes one whole message off the front.
fn take(buffer: &mut BytesMut) -> Option<Bytes> {
    let prefix = buffer.get(..PREFIX)?;
    let len = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    if buffer.len() < PREFIX + len {
        return None;
    }
    buffer.advance(PREFIX);
    Some(buffer.split_to(len).freeze())
}

/// What the trailers say.
fn check(trailers: &HeaderMap) -> Result<(), CallError> {
    let text = |name: &str| {
        trailers.get(name).map_or("", |value| value.to_str().unwrap_or_default()).to_owned()
    };
    match text("grpc-status").parse() {
        Ok(0) => Ok(()),
        Ok(INVALID_ARGUMENT) => Err(CallError::Refused(text("grpc-message"))),
        Ok(code) => Err(failed(format!("{} (code {code})", text("grpc-message")))),
        Err(_) => Err(failed("an answer without a status")),
    }
}

/// A request's body: one message, after which the stream ends or stays open.
struct Outgoing {
    message: Option<Bytes>,
    open: bool,
}

impl Outgoing {
    fn whole(message: &impl Message) -> Self {
        let len = message.encoded_len();
        let mut body = BytesMut::with_capacity(PREFIX + len);
        body.put_u8(0);
        body.put_u32(len as u32);
        body.extend_from_slice(&message.encode_to_vec());
        Self { message: Some(body.freeze()), open: false }
    }

    fn open(message: &impl Message) -> Self {
        Self { open: true, ..Self::whole(message) }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.message.take() {
            Some(message) => Poll::Ready(Some(Ok(Frame::data(message)))),
            // Dropping the answer ends it; nothing else ever will.
            None if self.open => Poll::Pending,
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.message.is_none() && !self.open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_off_the_front_when_they_are_whole() {
        let mut buffer = BytesMut::new();
        for byte in [0, 0, 0, 0, 2, 7] {
            assert_eq!(take(&mut buffer), None);
            buffer.put_u8(byte);
        }
        assert_eq!(take(&mut buffer), None);
        buffer.extend_from_slice(&[8, 0, 0, 0, 0, 0, 9]);
        assert_eq!(take(&mut buffer).as_deref(), Some(&[7, 8][..]));
        assert_eq!(take(&mut buffer).as_deref(), Some(&[][..]));
        assert_eq!(take(&mut buffer), None);
    }

    #[test]
    fn trailers_say_how_it_ended() {
        let trailers = |pairs: &[(&'static str, &str)]| -> HeaderMap {
            pairs
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
                .collect()
        };
        assert!(check(&trailers(&[("grpc-status", "0")])).is_ok());
        let refused = check(&trailers(&[("grpc-status", "3"), ("grpc-message", "too large")]));
        assert!(matches!(refused, Err(CallError::Refused(why)) if why == "too large"));
        let failed = check(&trailers(&[("grpc-status", "14"), ("grpc-message", "no leader")]));
        assert!(matches!(failed, Err(CallError::Failed(why)) if why.contains("no leader")));
        assert!(matches!(check(&HeaderMap::new()), Err(CallError::Failed(_))));
    }
}
