//! How a machine becomes a node, and stays one.
//!
//! The first time it has a join token: the pin in it makes the server known
//! ([`pinned`]), id and secret let it ask for a client certificate
//! ([`request`]), which [`identity`] keeps on disk. Later starts need no token.
//! Certificates are renewed by the node itself long before they end; TLS asks
//! for the current one at every handshake.

mod identity;
mod pinned;
mod request;
mod token;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use kube::Client;
use skiff_client::Credentials;
use tokio_util::sync::CancellationToken;

use identity::CurrentIdentity;
pub(crate) use identity::{Identity, renewal_at};
use request::Purpose;
pub use request::RequestError;
pub(crate) use request::{obtain_client, obtain_serving};
pub use token::{JoinToken, TokenError};

/// Wait between two tries to renew a certificate.
const RENEWAL_RETRY: Duration = Duration::from_secs(600);

/// A machine that is a node.
pub struct Joined {
    /// Acts as the node.
    pub client: Client,
    /// The cluster's authority as PEM.
    pub server_ca_pem: String,
    /// Keeps it one; see [`Renewal::run`].
    pub renewal: Renewal,
}

/// Why a machine did not become a node.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The token is not one.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// There is no identity of an earlier start and no token to get one.
    #[error(
        "{0} holds no identity of this node that is still valid; give a token (skiff token create)"
    )]
    NoToken(PathBuf),
    /// The server's address cannot be read.
    #[error("{0:?} is not an address like https://HOST:6443")]
    Address(String),
    /// The server is not the one that the token is for, or cannot be reached.
    #[error("cannot trust {server}: {why}")]
    Server {
        /// Which one.
        server: String,
        /// Why.
        why: String,
    },
    /// The certificate was not given.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The identity cannot be kept or used.
    #[error("identity in {}: {why}", path.display())]
    Identity {
        /// Where.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The client cannot be built.
    #[error("cannot build a client: {0}")]
    Client(String),
}

/// Becomes node `node_name` of the cluster at `server_url`, or goes on being
/// it with the identity in `data_dir`. `lost_quorum` hears of the own address of
/// each connection whose server says that it has no quorum: behind the URL there
/// may be others, and what failed is tried again.
pub async fn join(
    server_url: &str,
    token: Option<&str>,
    data_dir: &Path,
    node_name: &str,
    lost_quorum: impl Fn(SocketAddr) + Clone + Send + Sync + 'static,
) -> Result<Joined, JoinError> {
    let server: http::Uri =
        server_url.parse().map_err(|_| JoinError::Address(server_url.to_owned()))?;
    if server.scheme_str() != Some("https") || server.host().is_none() {
        return Err(JoinError::Address(server_url.to_owned()));
    }
    let token = token.map(str::parse::<JoinToken>).transpose()?;
    let dir = data_dir.join("agent").join("pki");
    let kept = Identity::load(&dir, node_name)
        .map_err(|why| JoinError::Identity { path: dir.clone(), why })?
        .filter(|identity| identity.is_valid(Timestamp::now()))
        // A token for another cluster means to leave the old one.
        .filter(|identity| token.as_ref().is_none_or(|token| token.is_for(&identity.ca_pem)));
    let identity = match (kept, token) {
        (Some(identity), _) => identity,
        (None, None) => return Err(JoinError::NoToken(dir)),
        (None, Some(token)) => {
            let (client, ca_pem) = pinned_client(&server, &token).await?;
            let client = skiff_client::on_lost_quorum(client, lost_quorum.clone());
            let issued = request::obtain(&client, node_name, Purpose::Client).await?;
            let identity = Identity { ca_pem, ..Identity::from(issued) };
            identity.save(&dir).map_err(|why| JoinError::Identity { path: dir.clone(), why })?;
            identity
        }
    };
    let ca_pem = identity.ca_pem.clone();
    let current = CurrentIdentity::new(identity)
        .map_err(|why| JoinError::Identity { path: dir.clone(), why })?;
    let current = Arc::new(current);
    let client =
        remote(server, &ca_pem, Credentials::Certificate(Arc::<CurrentIdentity>::clone(&current)))?;
    let client = skiff_client::on_lost_quorum(client, lost_quorum);
    let renewal = Renewal { client: client.clone(), current, dir, node_name: node_name.to_owned() };
    Ok(Joined { client, server_ca_pem: ca_pem, renewal })
}

/// What it takes to renew a node's client certificate.
pub struct Renewal {
    client: Client,
    current: Arc<CurrentIdentity>,
    dir: PathBuf,
    node_name: String,
}

impl Renewal {
    /// Renews the node's client certificate in time, until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        loop {
            let due = self.current.renewal_at();
            let wait = Duration::try_from(due.duration_since(Timestamp::now())).unwrap_or_default();
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            if let Err(error) = self.renew().await {
                tracing::warn!(%error, "cannot renew the node's certificate, will try again");
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = tokio::time::sleep(RENEWAL_RETRY) => {}
                }
            }
        }
    }

    async fn renew(&self) -> Result<(), JoinError> {
        let issued = request::obtain(&self.client, &self.node_name, Purpose::Client).await?;
        let identity = Identity { ca_pem: self.current.ca_pem(), ..Identity::from(issued) };
        let at = |why| JoinError::Identity { path: self.dir.clone(), why };
        identity.save(&self.dir).map_err(at)?;
        self.current.replace(identity).map_err(at)
    }
}

/// A client that shows `token` to the server at `server_url`, once that has
/// proved to be of the cluster that the token is for.
pub async fn token_client(server_url: &str, token: &str) -> Result<Client, JoinError> {
    let token: JoinToken = token.parse()?;
    let server: http::Uri =
        server_url.parse().map_err(|_| JoinError::Address(server_url.to_owned()))?;
    if server.scheme_str() != Some("https") || server.host().is_none() {
        return Err(JoinError::Address(server_url.to_owned()));
    }
    Ok(pinned_client(&server, &token).await?.0)
}

async fn pinned_client(
    server: &http::Uri,
    token: &JoinToken,
) -> Result<(Client, String), JoinError> {
    let ca_pem = pinned::fetch_ca(server, token)
        .await
        .map_err(|why| JoinError::Server { server: server.to_string(), why })?;
    let token = Credentials::Token(token.bearer());
    let client = remote(server.clone(), &ca_pem, token)?;
    Ok((client, ca_pem))
}

fn remote(server: http::Uri, ca_pem: &str, credentials: Credentials) -> Result<Client, JoinError> {
    let ca = identity::der(ca_pem).map_err(JoinError::Client)?;
    // Managed fields name who writes by this; tools know the kubelet.
    skiff_client::connect(server, ca.into(), credentials, "kubelet")
        .map_err(|error| JoinError::Client(error.to_string()))
}
