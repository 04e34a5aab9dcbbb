//! The lab's front door: a loopback port of the host that leads to a living
//! master, so that one kubeconfig works from the host while masters come and go.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use crate::netns;

/// How long a master may take to accept before the next one is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// How often a silent master is asked whether it lives, and how often in vain
/// before the connection is given up.
const SILENCE: Duration = Duration::from_secs(1);
const SILENCES: u32 = 3;

/// Serves until killed. The port is bound in the host's namespace, then the
/// process moves into the switch's, where the masters are neighbours; a socket
/// stays in the namespace it was made in.
pub fn serve(switch: &str, port: u16, masters: Vec<SocketAddr>) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    listener.set_nonblocking(true)?;
    netns::enter(switch)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let masters: Arc<[SocketAddr]> = masters.into();
        // The master that answered last is asked first.
        let favourite = Arc::new(AtomicUsize::new(0));
        loop {
            let (mut client, _) = match listener.accept().await {
                Ok(accepted) => accepted,
                // Out of descriptors, or a client that left at once.
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let (masters, favourite) = (masters.clone(), favourite.clone());
            tokio::spawn(async move {
                if let Some(mut master) = connect(&masters, &favourite).await {
                    // Either side may break off; there is nobody to tell.
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut master).await;
                }
            });
        }
    })
}

async fn connect(masters: &[SocketAddr], favourite: &AtomicUsize) -> Option<TcpStream> {
    let first = favourite.load(Ordering::Relaxed);
    for step in 0..masters.len() {
        let place = (first + step) % masters.len();
        if let Ok(Ok(stream)) =
            tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(masters[place])).await
        {
            // A master that is cut off says nothing: without these a client
            // would stay with it for ever.
            let keepalive = TcpKeepalive::new()
                .with_time(SILENCE)
                .with_interval(SILENCE)
                .with_retries(SILENCES);
            let socket = SockRef::from(&stream);
            socket.set_tcp_keepalive(&keepalive).ok()?;
            socket.set_tcp_user_timeout(Some(SILENCE * SILENCES)).ok()?;
            favourite.store(place, Ordering::Relaxed);
            return Some(stream);
        }
    }
    None
}
