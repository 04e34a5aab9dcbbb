//! The node's way to whichever master lives.
//!
//! The node's parts speak to a port of the loopback, as if it were a master
//! (every master's certificate is good for 127.0.0.1); behind it each connection
//! goes to the first master that accepts it, the one that answered last before
//! the others. When a master dies its connections break and the next ones go
//! elsewhere; so no part of the node knows how many masters there are.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

/// How long a master may take to accept before the next one is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a silent master is asked whether it lives, and how often in vain
/// before the connection is given up: well within a node's lease.
const SILENCE: Duration = Duration::from_secs(2);
const SILENCES: u32 = 3;

/// The masters that a node knows of. Clones are the same list.
#[derive(Clone, Default)]
pub(super) struct Masters(Arc<Mutex<Vec<SocketAddr>>>);

impl Masters {
    /// These ones.
    pub(super) fn new(masters: Vec<SocketAddr>) -> Self {
        Self(Arc::new(Mutex::new(masters)))
    }

    fn list(&self) -> MutexGuard<'_, Vec<SocketAddr>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds those that are not known yet, behind the known ones. Who has left
    /// the cluster stays: nobody accepts there, or a newcomer does.
    pub(super) fn learn(&self, masters: &[SocketAddr]) {
        let mut list = self.list();
        for master in masters {
            if !list.contains(master) {
                list.push(*master);
            }
        }
    }

    /// Opens the port that leads to them, once it is served.
    pub(super) async fn open(&self) -> anyhow::Result<Way> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("cannot open a port on the loopback")?;
        Ok(Way { address: listener.local_addr()?, listener, masters: self.clone() })
    }

    async fn carry(self, mut client: TcpStream) {
        // Without a master the connection is closed, and the caller tries again.
        if let Some(mut master) = self.connect().await {
            let _ = client.set_nodelay(true);
            // Either side may break off; there is nobody to tell.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut master).await;
        }
    }

    async fn connect(&self) -> Option<TcpStream> {
        let masters = self.list().clone();
        for (place, master) in masters.into_iter().enumerate() {
            match timeout(CONNECT_TIMEOUT, TcpStream::connect(master)).await {
                Ok(Ok(stream)) => {
                    if place > 0 {
                        info!(%master, "speaking to another master");
                        self.prefer(master);
                    }
                    let keepalive = TcpKeepalive::new()
                        .with_time(SILENCE)
                        .with_interval(SILENCE)
                        .with_retries(SILENCES);
                    let socket = SockRef::from(&stream);
                    socket.set_tcp_keepalive(&keepalive).ok()?;
                    socket.set_tcp_user_timeout(Some(SILENCE * SILENCES)).ok()?;
                    stream.set_nodelay(true).ok()?;
                    return Some(stream);
                }
                Ok(Err(error)) => debug!(%master, %error, "this master does not answer"),
                Err(_) => debug!(%master, "this master does not answer in time"),
            }
        }
        None
    }

    fn prefer(&self, master: SocketAddr) {
        let mut list = self.list();
        if let Some(place) = list.iter().position(|other| *other == master) {
            list[..=place].rotate_right(1);
        }
    }
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
                    Ok((client, _)) => {
                        connections.spawn(self.masters.clone().carry(client));
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

    #[tokio::test]
    async fn connections_go_to_a_master_that_lives() {
        let ((one, first), (two, second)) = (master(1).await, master(2).await);
        let masters = Masters::new(vec![one]);
        masters.learn(&[one, two]);
        let cancel = CancellationToken::new();
        let way = masters.open().await.unwrap();
        let port = way.address;
        let serving = tokio::spawn(way.serve(cancel.clone()));
        let ask = async || {
            let mut stream = TcpStream::connect(port).await.unwrap();
            stream.read_u8().await
        };
        assert_eq!(ask().await.unwrap(), 1);
        first.abort();
        let _ = first.await;
        assert_eq!(ask().await.unwrap(), 2);
        assert_eq!(*masters.list(), [two, one], "asked first from now on");
        second.abort();
        let _ = second.await;
        assert!(ask().await.is_err(), "nobody lives");
        cancel.cancel();
        serving.await.unwrap().unwrap();
    }
}
