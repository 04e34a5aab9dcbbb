//! The agent's HTTPS server: logs, exec, attach and port-forward for the API
//! server, health for everybody.
//!
//! Every other path takes the API server's own client certificate; people and
//! programs come through the API server, which has authorized them. Only images
//! are given to other nodes as well, under their own certificates.
//!
//! [`backend`] is what the server needs from the node. `remote` runs a
//! command over any transport; `websocket` and [`spdy`] are the transports.

pub mod backend;
pub mod configz;
mod images;
mod logs;
mod pod_connection;
mod port_forward;
mod remote;
pub mod spdy;
mod spdy_remote;
mod system_logs;
pub mod tls;
mod upgrade;
mod usage;
mod volumes;
mod websocket;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use backend::{Backend, BackendError};
use jiff::Timestamp;
use tls::{Caller, ServingCertificate};

use crate::join::{Identity, obtain_serving, renewal_at};

/// A client that does not finish its handshake in this time is let go.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long open streams may go on after the agent was told to stop.
const GRACE: Duration = Duration::from_secs(1);

/// Wait between two tries to get a certificate.
const RETRY: Duration = Duration::from_secs(2);
/// The same once there is one that still holds for months.
const RENEWAL_RETRY: Duration = Duration::from_secs(600);

type Node = Arc<dyn Backend>;

/// What the server has to be told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The cluster's authority, as PEM: who may call.
    pub ca_pem: String,
    /// Whose certificate it shows.
    pub node_name: String,
    /// Where that certificate is kept.
    pub data_dir: PathBuf,
}

/// Gets a serving certificate, serves on `listener` until cancelled, and renews the
/// certificate in time. `client` acts as the node.
pub async fn run(
    listener: TcpListener,
    settings: Settings,
    client: kube::Client,
    backend: Arc<dyn Backend>,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let Some(identity) = first_certificate(&settings, &client, &cancel).await? else {
        return Ok(());
    };
    let certificate =
        Arc::new(ServingCertificate::new(&identity.certificate_pem, &identity.key_pem)?);
    let tls = tls::server_config(&settings.ca_pem, Arc::clone(&certificate))?;
    tokio::join!(
        serve(listener, tls, backend, cancel.clone()),
        keep_fresh(&settings, &client, &certificate, identity, &cancel),
    );
    Ok(())
}

/// The certificate of an earlier start, or a new one as soon as the server
/// gives it; `None` when cancelled before.
async fn first_certificate(
    settings: &Settings,
    client: &kube::Client,
    cancel: &CancellationToken,
) -> anyhow::Result<Option<Identity>> {
    let dir = serving_dir(settings);
    let kept = Identity::load(&dir, &settings.node_name)
        .map_err(anyhow::Error::msg)
        .with_context(|| format!("serving certificate in {}", dir.display()))?;
    let now = Timestamp::now();
    // Of another cluster, or of an earlier life of this one: of no use.
    let kept = kept.filter(|kept| kept.ca_pem == settings.ca_pem && kept.is_valid(now));
    if kept.is_some() {
        return Ok(kept);
    }
    loop {
        match renew(settings, client).await {
            Ok(identity) => return Ok(Some(identity)),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "no serving certificate yet")
            }
        }
        tokio::select! {
            () = cancel.cancelled() => return Ok(None),
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

async fn keep_fresh(
    settings: &Settings,
    client: &kube::Client,
    certificate: &ServingCertificate,
    mut identity: Identity,
    cancel: &CancellationToken,
) {
    loop {
        // What was just used can be read; if not, now is the time for another.
        let due = renewal_at(&identity.certificate_pem).unwrap_or(Timestamp::MIN);
        let wait = Duration::try_from(due.duration_since(Timestamp::now())).unwrap_or_default();
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        let renewed = renew(settings, client).await.and_then(|identity| {
            certificate.replace(&identity.certificate_pem, &identity.key_pem)?;
            Ok(identity)
        });
        match renewed {
            Ok(new) => identity = new,
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "cannot renew the serving certificate"
                );
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = tokio::time::sleep(RENEWAL_RETRY) => {}
                }
            }
        }
    }
}

async fn renew(settings: &Settings, client: &kube::Client) -> anyhow::Result<Identity> {
    let issued = obtain_serving(client, &settings.node_name).await?;
    let identity = Identity { ca_pem: settings.ca_pem.clone(), ..Identity::from(issued) };
    identity.save(&serving_dir(settings)).map_err(anyhow::Error::msg)?;
    Ok(identity)
}

fn serving_dir(settings: &Settings) -> PathBuf {
    settings.data_dir.join("agent").join("serving")
}

/// Serves on `listener` until cancelled.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    backend: Arc<dyn Backend>,
    cancel: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(tls);
    let router = router(backend);
    let connections = TaskTracker::new();
    loop {
        let stream = tokio::select! {
            () = cancel.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: others must close first.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let (acceptor, router, cancel) = (acceptor.clone(), router.clone(), cancel.clone());
        connections.spawn(async move {
            tokio::select! {
                () = async { cancel.cancelled().await; tokio::time::sleep(GRACE).await } => {}
                () = connection(stream, acceptor, router) => {}
            }
        });
    }
    connections.close();
    connections.wait().await;
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, router: Router) {
    // Frames of a terminal are small and must not wait for each other.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "the client left at once");
        return;
    }
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await;
    let stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => return tracing::debug!("TLS handshake took too long"),
    };
    let caller = Caller::new(stream.get_ref().1.peer_certificates());
    let service = TowerToHyperService::new(router.layer(Extension(caller)));
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "connection ended");
    }
}

fn router(backend: Node) -> Router {
    // WebSocket clients GET, SPDY clients POST.
    let guarded = Router::new()
        .route("/containerLogs/{namespace}/{pod}/{container}", get(logs::serve))
        .route("/exec/{namespace}/{pod}/{container}", get(remote::exec).post(remote::exec))
        .route("/attach/{namespace}/{pod}/{container}", get(remote::attach).post(remote::attach))
        .route("/portForward/{namespace}/{pod}", get(port_forward::serve).post(port_forward::serve))
        .route("/podConnections/{namespace}/{pod}/{port}", get(pod_connection::serve))
        .route("/pods", get(async |State(node): State<Node>| Json(node.pods())))
        .route("/runningpods/", get(running_pods))
        .route("/metrics", get(async |State(node): State<Node>| node.metrics()))
        .route("/metrics/resource", get(usage::resources))
        .route("/stats/summary", get(usage::summary))
        .route("/configz", get(configz::serve))
        .route("/logs/", get(system_logs::list))
        .route("/logs/{*path}", get(system_logs::serve))
        .route("/images", get(images::list).post(images::load).delete(images::remove))
        .route("/localVolumes/{name}", delete(volumes::remove))
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn(only_the_api_server));
    let shared =
        Router::new().route("/images/tar", get(images::tar)).layer(middleware::from_fn(nodes_too));
    guarded.merge(shared).route("/healthz", get(async || "ok")).with_state(backend)
}

async fn running_pods(State(node): State<Node>) -> Result<Json<Value>, BackendError> {
    node.running_pods().await.map(Json)
}

async fn only_the_api_server(
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Response {
    match caller {
        Caller::ApiServer => next.run(request).await,
        Caller::Node | Caller::Other => (StatusCode::FORBIDDEN, "Forbidden").into_response(),
        Caller::Nobody => (StatusCode::UNAUTHORIZED, "Unauthorized").into_response(),
    }
}

async fn nodes_too(Extension(caller): Extension<Caller>, request: Request, next: Next) -> Response {
    match caller {
        Caller::Node => next.run(request).await,
        other => only_the_api_server(Extension(other), request, next).await,
    }
}

impl IntoResponse for BackendError {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::NotFound(_) | Self::Runtime(crate::runtime::RuntimeError::NotFound(_)) => {
                StatusCode::NOT_FOUND
            }
            Self::BadState(_) => StatusCode::BAD_REQUEST,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::Runtime(crate::runtime::RuntimeError::Conflict(_)) => StatusCode::CONFLICT,
            Self::Runtime(_) | Self::Network(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, self.to_string()).into_response()
    }
}

#[cfg(test)]
mod tests;
