//! Peers over TLS: one outgoing stream per member, one incoming from each.
//!
//! A stream begins with a greeting that says who speaks to whom, and where the
//! speaker is found; then come messages, each behind its length. It is opened
//! when there is something to say and stays open. What cannot be sent is lost,
//! and Raft is told: a message that waited out an outage would only be old.
//!
//! Who may be a peer is decided by certificates before a stream gets here. A
//! member that speaks for itself is believed where it is found: so an address
//! may change while nobody leads, and a new member can answer before it has
//! learned who the others are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::Transport;
use crate::driver::Request;
use crate::members::{Contact, Members};
use crate::wire::peer::PeerMessage;
use crate::wire::{self, Kind, WireError, put_u64};

/// Messages that wait for a stream. More are lost.
const QUEUE: usize = 1024;

/// Longest message: a full batch, or a chunk with one large record.
const MAX_MESSAGE: u32 = 64 << 20;

/// How long a peer may take to accept a stream, and to greet.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// How long sent bytes may stay unacknowledged. Without it TCP would hold a
/// stream through a partition, and go on only long after its end.
const UNACKNOWLEDGED: Duration = Duration::from_secs(2);

/// How long no stream is tried to a peer that did not accept one.
const PAUSE: Duration = Duration::from_millis(200);

/// How a member finds its peers and is found by them.
#[derive(Clone)]
pub struct PeerConfig {
    /// Where this member is found. Peers must be able to verify its
    /// certificate for the host in it.
    pub contact: Contact,
    /// Shows this member's certificate and trusts the group's authority. Its
    /// ALPN names the protocol.
    pub tls: Arc<rustls::ClientConfig>,
}

impl std::fmt::Debug for PeerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerConfig").field("contact", &self.contact).finish_non_exhaustive()
    }
}

/// Why a stream from a peer ended.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The connection broke.
    #[error("the stream broke: {0}")]
    Io(#[from] std::io::Error),
    /// The other side does not speak our protocol.
    #[error("the peer sent something else: {0}")]
    Message(String),
    /// It means another member, or another group.
    #[error("{0}")]
    Greeting(String),
    /// A newer stream of the same peer has taken its place, or the store ends.
    #[error("the stream is not needed any more")]
    Replaced,
}

/// The first thing on a stream.
#[derive(Debug, PartialEq)]
struct Greeting {
    group: u64,
    from: u64,
    to: u64,
    contact: Contact,
}

impl Greeting {
    fn encode(&self) -> Vec<u8> {
        wire::frame(Kind::Greeting, |out| {
            [self.group, self.from, self.to].into_iter().for_each(|number| put_u64(out, number));
            self.contact.encode(out);
        })
    }

    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = wire::open_frame(Kind::Greeting, bytes)?;
        let (group, from, to) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let contact = Contact::decode(&mut reader)?;
        reader.end()?;
        Ok(Self { group, from, to, contact })
    }
}

/// The streams of one member.
pub(crate) struct Streams {
    config: PeerConfig,
    runtime: Handle,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    member: u64,
    group: u64,
    requests: Option<mpsc::WeakSender<Request>>,
    /// Addresses by the group's knowledge, and by the members' own word.
    known: HashMap<u64, String>,
    told: HashMap<u64, String>,
    links: HashMap<u64, Link>,
    /// Ends the incoming stream of a member when a newer one comes.
    incoming: HashMap<u64, oneshot::Sender<()>>,
}

/// An outgoing stream's queue. Its task ends with it.
struct Link {
    address: String,
    messages_tx: mpsc::Sender<PeerMessage>,
}

impl Streams {
    pub(crate) fn new(config: PeerConfig) -> Self {
        Self { config, runtime: Handle::current(), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves a stream that an authenticated peer has opened.
    pub(crate) async fn accept(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
    ) -> Result<(), PeerError> {
        let first = timeout(GREETING_TIMEOUT, read_frame(&mut stream));
        let first =
            first.await.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
        let greeting = Greeting::decode(&first).map_err(|e| PeerError::Message(e.to_string()))?;
        let from = greeting.from;
        let (requests, replaced) = self.greeted(greeting)?;
        let serve = async {
            loop {
                let frame = read_frame(&mut stream).await?;
                let message = PeerMessage::decode(&frame)
                    .map_err(|error| PeerError::Message(error.to_string()))?;
                // A full queue makes the peer wait.
                let Some(requests) = requests.upgrade() else { return Err(PeerError::Replaced) };
                if requests.send(Request::Step { from, message }).await.is_err() {
                    return Err(PeerError::Replaced);
                }
            }
        };
        tokio::select! {
            ended = serve => ended,
            _ = replaced => Err(PeerError::Replaced),
        }
    }

    /// Checks a greeting and takes the stream in place of an older one.
    fn greeted(
        &self,
        greeting: Greeting,
    ) -> Result<(mpsc::WeakSender<Request>, oneshot::Receiver<()>), PeerError> {
        let mut state = self.state();
        let Greeting { group, from, to, contact } = greeting;
        if to != state.member || from == to {
            return Err(PeerError::Greeting(format!(
                "member {from} looks for member {to}, this is member {}",
                state.member
            )));
        }
        // A new member does not know its group yet, and takes the first one that
        // knows it.
        if state.known.is_empty() && state.group == 0 {
            state.group = group;
        }
        if group != state.group {
            return Err(PeerError::Greeting(format!("member {from} belongs to another group")));
        }
        let Some(requests) = state.requests.clone() else { return Err(PeerError::Replaced) };
        if !contact.address.is_empty() {
            state.told.insert(from, contact.address);
        }
        let (replace, replaced) = oneshot::channel();
        state.incoming.insert(from, replace);
        Ok((requests, replaced))
    }
}

impl Transport for Streams {
    fn begin(&self, member: u64, requests: mpsc::WeakSender<Request>) {
        let mut state = self.state();
        state.member = member;
        state.requests = Some(requests);
    }

    fn send(&self, to: u64, message: PeerMessage) {
        let mut state = self.state();
        let Some(address) = state.told.get(&to).or_else(|| state.known.get(&to)).cloned() else {
            tracing::debug!(to, "nobody knows where this member is");
            return;
        };
        if state.links.get(&to).is_none_or(|link| link.address != address) {
            let (messages_tx, messages_rx) = mpsc::channel(QUEUE);
            let Some(requests) = state.requests.clone() else { return };
            let outgoing = Outgoing {
                greeting: Greeting {
                    group: state.group,
                    from: state.member,
                    to,
                    contact: self.config.contact.clone(),
                }
                .encode(),
                to,
                address: address.clone(),
                tls: TlsConnector::from(self.config.tls.clone()),
                requests,
            };
            self.runtime.spawn(outgoing.run(messages_rx));
            state.links.insert(to, Link { address, messages_tx });
        }
        if let Some(link) = state.links.get(&to) {
            // Full: lost, as on any network.
            let _ = link.messages_tx.try_send(message);
        }
    }

    fn follow(&self, members: &Members) {
        let mut state = self.state();
        if members.ids().is_empty() {
            // Not a member yet: whoever has greeted is all there is.
            return;
        }
        state.group = members.group;
        state.known =
            members.contacts.iter().map(|(id, contact)| (*id, contact.address.clone())).collect();
        let belongs = |id: &u64| members.contains(*id);
        state.told.retain(|id, _| belongs(id));
        state.links.retain(|id, _| belongs(id));
        state.incoming.retain(|id, _| belongs(id));
    }
}

/// The task of one outgoing stream.
struct Outgoing {
    greeting: Vec<u8>,
    to: u64,
    address: String,
    tls: TlsConnector,
    requests: mpsc::WeakSender<Request>,
}

impl Outgoing {
    /// Ends when the queue's other side is gone.
    async fn run(self, mut messages_rx: mpsc::Receiver<PeerMessage>) {
        let mut reachable = true;
        while let Some(first) = messages_rx.recv().await {
            let error = match self.connect().await {
                Ok(stream) => {
                    if !std::mem::replace(&mut reachable, true) {
                        tracing::info!(member = self.to, address = self.address, "reached again");
                    }
                    match self.talk(stream, first, &mut messages_rx).await {
                        Ok(()) => return,
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            if std::mem::replace(&mut reachable, false) {
                tracing::info!(member = self.to, address = self.address, %error, "not reached");
            }
            if let Some(requests) = self.requests.upgrade() {
                // The queue may be full; the next loss is told then.
                let _ = requests.try_send(Request::Unreachable { id: self.to });
            }
            tokio::time::sleep(PAUSE).await;
            while messages_rx.try_recv().is_ok() {}
        }
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>, PeerError> {
        let connect = async {
            let tcp = TcpStream::connect(&self.address).await?;
            tcp.set_nodelay(true)?;
            socket2::SockRef::from(&tcp).set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
            let host = self.address.rsplit_once(':').map_or(&*self.address, |(host, _)| host);
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let name = ServerName::try_from(host).map_err(std::io::Error::other)?;
            let mut stream = self.tls.connect(name, tcp).await?;
            write_frame(&mut stream, &self.greeting).await?;
            Ok(stream)
        };
        timeout(CONNECT_TIMEOUT, connect)
            .await
            .unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
    }

    /// Sends until the stream breaks, or the queue ends (`Ok`).
    async fn talk(
        &self,
        stream: TlsStream<TcpStream>,
        first: PeerMessage,
        messages_rx: &mut mpsc::Receiver<PeerMessage>,
    ) -> Result<(), PeerError> {
        let (mut from_peer, mut to_peer) = tokio::io::split(stream);
        let write = async {
            let mut next = Some(first);
            while let Some(message) = next {
                write_frame(&mut to_peer, &message.encode()).await?;
                next = match messages_rx.try_recv() {
                    Ok(message) => Some(message),
                    Err(_) => {
                        to_peer.flush().await?;
                        messages_rx.recv().await
                    }
                };
            }
            to_peer.shutdown().await?;
            Ok(())
        };
        // The peer says nothing on this stream: whatever is read is its end.
        let closed = async {
            let read = from_peer.read_u8().await;
            read.map(|_| PeerError::Message("an answer that nobody asked for".into()))
        };
        tokio::select! {
            written = write => written,
            ended = closed => Err(ended.unwrap_or_else(PeerError::Io)),
        }
    }
}

async fn write_frame(stream: &mut (impl AsyncWrite + Unpin), frame: &[u8]) -> std::io::Result<()> {
    // One write: the length must not become a TLS record of its own.
    let mut bytes = Vec::with_capacity(4 + frame.len());
    bytes.extend_from_slice(&(frame.len() as u32).to_le_bytes());
    bytes.extend_from_slice(frame);
    stream.write_all(&bytes).await
}

async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, PeerError> {
    let len = stream.read_u32_le().await?;
    if len > MAX_MESSAGE {
        return Err(PeerError::Message(format!("a message of {len} bytes")));
    }
    // Read through `take`, so that a wrong length costs no memory up front.
    let mut frame = Vec::new();
    stream.take(u64::from(len)).read_to_end(&mut frame).await?;
    if frame.len() < len as usize {
        return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
    }
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greetings_come_back_as_they_went() {
        let contact = Contact { address: "a:1".into(), name: "n".into(), promote: false };
        let greeting = Greeting { group: 1, from: 2, to: 3, contact };
        assert_eq!(Greeting::decode(&greeting.encode()), Ok(greeting));
        assert!(Greeting::decode(b"GET / HTTP/1.1").is_err());
    }
}
