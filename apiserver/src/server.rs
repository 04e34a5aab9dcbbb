//! Listening: connections, TLS, and the end of both.
//!
//! Every connection is a task of its own. The handshake, a request's headers,
//! an answer that nobody takes and a silent HTTP/2 connection have deadlines,
//! so that a client that says or reads nothing holds nothing. At shutdown the listener closes first, watches end,
//! requests under way finish, and whoever has not finished after the grace
//! period is cut off.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

use crate::audit::ClientAddress;
use crate::authn::Peer;
use crate::patience::Patient;
use crate::pki::tls::PEER_PROTOCOL;
use crate::pki::{PEER_USER, Pki};
use crate::service::ApiService;

/// A handshake may take this long.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// An HTTP/2 connection that is silent is asked this often whether it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Requests under way have this long to finish at shutdown.
const GRACE: Duration = Duration::from_secs(5);

/// Connections at once. More wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 8192;

/// Streams at once in one HTTP/2 connection, as upstream.
const MAX_STREAMS: u32 = 250;

/// Bytes of headers in one request.
const MAX_HEADERS: u32 = 64 * 1024;

/// What a configuration says about a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// See [`crate::Config::header_timeout`].
    pub(crate) headers: Duration,
    /// See [`crate::Config::write_timeout`].
    pub(crate) write: Duration,
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Accepts connections until cancelled, then waits for them to drain.
pub(crate) async fn run(
    listener: TcpListener,
    tls: TlsAcceptor,
    service: ApiService,
    pki: Arc<Pki>,
    limits: Limits,
    cancel: CancellationToken,
) {
    let connections = TaskTracker::new();
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => break,
            accepted = async { (Arc::clone(&room).acquire_owned().await, listener.accept().await) } => accepted,
        };
        match accepted {
            (Ok(permit), Ok((socket, client))) => {
                let (tls, service, pki, cancel) =
                    (tls.clone(), service.clone(), Arc::clone(&pki), cancel.clone());
                connections.spawn(async move {
                    if let Err(error) =
                        serve(socket, client, tls, service, &pki, limits, cancel).await
                    {
                        // Clients hang up at any time; that is their right.
                        tracing::debug!(%client, %error, "connection ended");
                    }
                    drop(permit);
                });
            }
            (_, Err(error)) => {
                // Out of file descriptors, mostly: give connections time to end.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            // Nobody closes the semaphore.
            (Err(_), _) => break,
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn serve(
    socket: TcpStream,
    client: SocketAddr,
    tls: TlsAcceptor,
    service: ApiService,
    pki: &Pki,
    limits: Limits,
    cancel: CancellationToken,
) -> Result<(), AnyError> {
    socket.set_nodelay(true)?;
    let stream = tokio::select! {
        () = cancel.cancelled() => return Ok(()),
        accepted = timeout(HANDSHAKE, tls.accept(socket)) => accepted??,
    };
    if stream.get_ref().1.alpn_protocol() == Some(PEER_PROTOCOL) {
        return serve_peer(stream, service, pki, cancel).await;
    }
    let (stream, tunnel) = Patient::new(stream, limits.headers, limits.write);
    let peer =
        Arc::new(Peer::new(pki.verifier(), stream.get_ref().get_ref().1.peer_certificates()));
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Arc::clone(&peer));
        request.extensions_mut().insert(ClientAddress(client.ip().to_canonical()));
        let (answer, tunnel) = (service.clone().call(request), tunnel.clone());
        async move {
            let response = answer.await?;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                tunnel.begin();
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(limits.headers);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADERS);
    let connection = http.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = cancel.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    timeout(GRACE, connection)
        .await
        .unwrap_or_else(|_| Err("still busy at the end of the grace period".into()))
}

/// Hands the stream of another master to the store.
async fn serve_peer(
    stream: TlsStream<TcpStream>,
    service: ApiService,
    pki: &Pki,
    cancel: CancellationToken,
) -> Result<(), AnyError> {
    match Peer::new(pki.verifier(), stream.get_ref().1.peer_certificates()) {
        Peer::Certificate { user, .. } if user.name == PEER_USER => {}
        Peer::Certificate { .. } | Peer::Unknown | Peer::Refused => {
            return Err("only masters may speak to the store".into());
        }
    }
    let store = service.0.registry.store.clone();
    tokio::select! {
        () = cancel.cancelled() => Ok(()),
        ended = store.accept_peer(stream) => Ok(ended?),
    }
}
