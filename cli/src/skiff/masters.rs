//! The way from a port of the loopback to whichever master lives.
//!
//! Callers speak to the port as if it were a master (every master's certificate
//! is good for 127.0.0.1); behind it each connection goes to the first master
//! that accepts it, in the order of the [`Roster`]. When a master dies its
//! connections break and the next ones go elsewhere; when one has lost its
//! quorum, or has left the cluster, they are broken from here. So no caller
//! knows how many masters there are.
//!
//! Two have such a port. A node reads the answers that it gets, so it says
//! itself when one of them means a lost quorum ([`Masters::lost_quorum`]). The
//! front door of a lab carries what it cannot read; it asks a master whether it
//! is ready when a connection begins, and again while its client goes on asking
//! ([`Masters::asking`]). Nobody asks while nothing moves.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::future::BoxFuture;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::io::InspectReader;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::roster::Roster;

/// Bytes held in each direction of a connection. A node has one for each object
/// that it watches.
const BUFFER: usize = 8 << 10;

/// How long a master may take to accept before the next one is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a silent master is asked whether it lives, and how often in vain
/// before the connection is given up: well within a node's lease.
const SILENCE: Duration = Duration::from_secs(2);
const SILENCES: u32 = 3;

/// How long a master is not asked again whether it is ready, however much is
/// carried to it.
const ASK_PAUSE: Duration = Duration::from_secs(1);

/// Asks a master whether it is ready to serve. Answers in bounded time.
type Ready = Arc<dyn Fn(SocketAddr) -> BoxFuture<'static, bool> + Send + Sync>;

/// The masters that are known, and the connections to them. Clones are the
/// same.
#[derive(Clone)]
pub(super) struct Masters {
    state: Arc<Mutex<State>>,
    ready: Option<Ready>,
}

struct State {
    roster: Roster,
    /// Connections, by the address that the node's part has.
    carried: HashMap<SocketAddr, Carried>,
}

/// A connection to a master.
struct Carried {
    master: SocketAddr,
    /// Breaks it.
    cut: CancellationToken,
}

impl State {
    fn cut(&self, which: impl Fn(SocketAddr) -> bool) {
        self.carried.values().filter(|one| which(one.master)).for_each(|one| one.cut.cancel());
    }
}

impl Masters {
    /// Those that the command line names.
    pub(super) fn new(given: Vec<SocketAddr>) -> Self {
        let (roster, carried) = (Roster::new(given), HashMap::new());
        Self { state: Arc::new(Mutex::new(State { roster, carried })), ready: None }
    }

    /// The same, for who cannot read the answers: those that are `ready` are
    /// preferred, and left when they no longer are.
    pub(super) fn asking(
        given: Vec<SocketAddr>,
        ready: impl Fn(SocketAddr) -> BoxFuture<'static, bool> + Send + Sync + 'static,
    ) -> Self {
        Self { ready: Some(Arc::new(ready)), ..Self::new(given) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cluster's masters are these. Connections to others end.
    pub(super) fn follow(&self, published: &[SocketAddr]) {
        let mut state = self.state();
        state.roster.follow(published);
        state.cut(|master| !state.roster.order().contains(&master));
    }

    /// The master behind the connection that a part of the node has at `own`
    /// says that it has no quorum.
    pub(super) fn lost_quorum(&self, own: SocketAddr) {
        let mut state = self.state();
        let Some(master) = state.carried.get(&own).map(|carried| carried.master) else { return };
        if state.roster.lost_quorum(master, Instant::now()) {
            info!(%master, "this master has no quorum, going to another one");
            state.cut(|other| other == master);
        }
    }

    /// Opens the port that leads to them, once it is served.
    pub(super) async fn open(&self) -> anyhow::Result<Way> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("cannot open a port on the loopback")?;
        Ok(self.behind(listener)?)
    }

    /// The way from a port that is open already.
    pub(super) fn behind(&self, listener: TcpListener) -> std::io::Result<Way> {
        Ok(Way { address: listener.local_addr()?, listener, masters: self.clone() })
    }

    async fn carry(self, client: TcpStream, own: SocketAddr) {
        // Without a master the connection is closed, and the caller tries again.
        let Some((master, stream)) = self.connect().await else { return };
        let cut = CancellationToken::new();
        self.state().carried.insert(own, Carried { master, cut: cut.clone() });
        let _ = client.set_nodelay(true);
        let asked = Notify::new();
        let client = InspectReader::new(client, |_: &[u8]| asked.notify_one());
        tokio::select! {
            () = skiff_client::tunnel(client, stream, BUFFER) => {}
            () = self.look_after(master, own, &asked) => {}
            () = cut.cancelled() => {}
        }
        self.state().carried.remove(&own);
    }

    /// Asks whether the master of a connection is still ready, as often as its
    /// client asks for something. Never ends.
    async fn look_after(&self, master: SocketAddr, own: SocketAddr, asked: &Notify) {
        let Some(ready) = &self.ready else { return std::future::pending().await };
        loop {
            tokio::time::sleep(ASK_PAUSE).await;
            asked.notified().await;
            if !ready(master).await && self.another_is_ready(ready, master).await {
                self.lost_quorum(own);
            }
        }
    }

    /// Whether there is a reason to leave: going round among masters of which
    /// none is ready helps nobody.
    async fn another_is_ready(&self, ready: &Ready, than: SocketAddr) -> bool {
        let others = self.state().roster.order().to_vec();
        for other in others.into_iter().filter(|other| *other != than) {
            if ready(other).await {
                return true;
            }
        }
        false
    }

    /// Connects to the first that accepts and is ready, or else to the first
    /// that accepts: it will say itself what it lacks.
    async fn connect(&self) -> Option<(SocketAddr, TcpStream)> {
        let masters = self.state().roster.order().to_vec();
        let mut unready = None;
        for (place, master) in masters.into_iter().enumerate() {
            let stream = match timeout(CONNECT_TIMEOUT, dial(master)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    debug!(%master, %error, "this master does not answer");
                    continue;
                }
                Err(_) => {
                    debug!(%master, "this master does not answer in time");
                    continue;
                }
            };
            if let Some(ready) = &self.ready
                && !ready(master).await
            {
                unready.get_or_insert((master, stream));
                continue;
            }
            if place > 0 {
                info!(%master, "speaking to another master");
                self.state().roster.prefer(master);
            }
            return Some((master, stream));
        }
        unready
    }
}

/// Connects, so that a master that no longer answers is noticed.
async fn dial(master: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(master).await?;
    let keepalive =
        TcpKeepalive::new().with_time(SILENCE).with_interval(SILENCE).with_retries(SILENCES);
    let socket = SockRef::from(&stream);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(SILENCE * SILENCES))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The open port.
pub(super) struct Way {
    /// Where it is.
    pub(super) address: SocketAddr,
    listener: TcpListener,
    masters: Masters,
}

impl Way {
    /// Leads every connection to a master, until cancelled.
    pub(super) async fn serve(self, cancel: CancellationToken) -> anyhow::Result<()> {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((client, own)) => {
                        connections.spawn(self.masters.clone().carry(client, own));
                    }
                    // Out of descriptors, or a client that left at once.
                    Err(error) => {
                        debug!(%error, "cannot accept");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Answers every connection with one byte.
    async fn master(name: u8) -> (SocketAddr, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(&[name]).await.unwrap();
            }
        });
        (address, task)
    }

    /// Opens the way and serves it until the token is cancelled.
    async fn serve(masters: &Masters) -> (SocketAddr, CancellationToken, impl Future) {
        let (way, cancel) = (masters.open().await.unwrap(), CancellationToken::new());
        (way.address, cancel.clone(), tokio::spawn(way.serve(cancel)))
    }

    #[tokio::test]
    async fn connections_go_to_a_master_that_lives() {
        let ((one, first), (two, second)) = (master(1).await, master(2).await);
        let masters = Masters::new(vec![one]);
        masters.follow(&[one, two]);
        let (port, cancel, serving) = serve(&masters).await;
        let ask = async || {
            let mut stream = TcpStream::connect(port).await.unwrap();
            stream.read_u8().await
        };
        assert_eq!(ask().await.unwrap(), 1);
        first.abort();
        let _ = first.await;
        assert_eq!(ask().await.unwrap(), 2);
        assert_eq!(masters.state().roster.order(), [two, one], "asked first from now on");
        second.abort();
        let _ = second.await;
        assert!(ask().await.is_err(), "nobody lives");
        cancel.cancel();
        serving.await;
        assert!(masters.state().carried.is_empty());
    }

    /// A master that holds on to every connection.
    async fn patient_master(name: u8) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut held = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(&[name]).await.unwrap();
                held.push(stream);
            }
        });
        address
    }

    #[tokio::test]
    async fn who_cannot_read_the_answers_asks_the_masters() {
        let (one, two) = (patient_master(1).await, patient_master(2).await);
        let ready = Arc::new(Mutex::new(vec![one, two]));
        let said = Arc::clone(&ready);
        let masters = Masters::asking(vec![one, two], move |master| {
            let is_ready = said.lock().unwrap().contains(&master);
            Box::pin(std::future::ready(is_ready))
        });
        let (port, cancel, serving) = serve(&masters).await;
        let open = async |name: u8| {
            let mut stream = TcpStream::connect(port).await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), name);
            stream
        };
        let (mut asking, mut silent) = (open(1).await, open(1).await);
        let all_asked = async |asking: &mut TcpStream| {
            // The master says nothing more; only an end is to be read.
            let asks = async {
                while asking.write_all(b"?").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            timeout(3 * ASK_PAUSE, asks).await
        };
        // Nobody is ready: each stays where it is, and new ones try the first.
        ready.lock().unwrap().clear();
        all_asked(&mut asking).await.unwrap_err();
        open(1).await;
        // Another one is: who asks moves, and all others with it.
        ready.lock().unwrap().push(two);
        all_asked(&mut asking).await.unwrap();
        silent.read_u8().await.unwrap_err();
        open(2).await;
        assert_eq!(masters.state().roster.order(), [two, one]);
        // One that is ready is looked for at once.
        *ready.lock().unwrap() = vec![one];
        open(1).await;
        cancel.cancel();
        serving.await;
    }

    #[tokio::test]
    async fn masters_without_quorum_and_those_that_left_are_left() {
        let (one, two) = (patient_master(1).await, patient_master(2).await);
        let masters = Masters::new(vec![]);
        masters.follow(&[one, two]);
        let (port, cancel, serving) = serve(&masters).await;
        let open = async |name: u8| {
            let mut stream = TcpStream::connect(port).await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), name);
            stream
        };
        let broken = async |mut stream: TcpStream| stream.read_u8().await.unwrap_err();
        let (asked, watching) = (open(1).await, open(1).await);
        masters.lost_quorum(port);
        masters.lost_quorum(asked.local_addr().unwrap());
        broken(asked).await;
        broken(watching).await;
        let stays = open(2).await;
        // At once again: that is no reason to go round.
        masters.lost_quorum(stays.local_addr().unwrap());
        let stays_too = open(2).await;
        masters.follow(&[one]);
        broken(stays).await;
        broken(stays_too).await;
        open(1).await;
        cancel.cancel();
        serving.await;
    }
}
