//! Wiring: from a configuration and a store to a server that is ready.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::Chain;
use crate::allocate::Allocator;
use crate::audit::{Audit, AuditError};
use crate::authn::Authenticator;
use crate::authn::objects::Objects;
use crate::authz::live::Live;
use crate::authz::{self, Authorizer, aggregation};
use crate::config::{Config, ConfigError};
use crate::discovery::Discovery;
use crate::health::Health;
use crate::leading::while_leading;
use crate::metrics::Metrics;
use crate::openapi::Documents;
use crate::pki::{Pki, PkiConfig, PkiError, signer};
use crate::registry::Registry;
use crate::registry::selected::Selected;
use crate::server::Limits;
use crate::service::{ApiService, State};
use crate::stream::Streams;
use crate::user::UserInfo;
use crate::{bootstrap, client, server};

/// How long a start waits for the rules of aggregated roles.
const AGGREGATION_PATIENCE: Duration = Duration::from_secs(5);

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot work.
    #[error("the API server's configuration cannot work")]
    Config(#[from] ConfigError),
    /// There can be no audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Certificates or keys cannot be read or made.
    #[error("certificates and keys in {dir} cannot be used")]
    Pki {
        /// The data directory.
        dir: PathBuf,
        /// Why.
        source: PkiError,
    },
    /// The address is taken or not ours.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The objects every cluster starts with could not be written.
    #[error("the cluster's first objects could not be written")]
    Bootstrap(#[source] Box<kube::Error>),
    /// A metric was named twice: our own mistake.
    #[error("metrics cannot be registered")]
    Metrics(#[from] prometheus::Error),
}

/// A running API server.
pub struct ApiServer {
    service: ApiService,
    pki: Arc<Pki>,
    local_addr: SocketAddr,
    /// Where the others find it.
    advertise: SocketAddr,
    kubeconfig: PathBuf,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

/// Opens the keys and certificates of a server, or makes them.
pub fn open_pki(config: &Config) -> Result<Arc<Pki>, StartError> {
    let pki = Pki::open(PkiConfig {
        data_dir: config.data_dir.clone(),
        advertise: config.advertise,
        service_ip: config.api_service_ip(),
        cluster_domain: config.cluster_domain.clone(),
        names: config.names.clone(),
    });
    let keys = |source| StartError::Pki { dir: config.data_dir.clone(), source };
    pki.map(Arc::new).map_err(keys)
}

/// Starts a server over an open store; returns when it serves and the
/// cluster's first objects are there.
pub async fn start(config: Config, store: skiff_store::Store) -> Result<ApiServer, StartError> {
    config.validate()?;
    let pki = open_pki(&config)?;
    let server = serve(config, pki, store).await?;
    match server.bootstrap().await {
        Ok(()) => Ok(server),
        Err(error) => {
            server.shutdown().await;
            Err(StartError::Bootstrap(Box::new(error)))
        }
    }
}

/// Starts a server over an open store; returns when it serves. Its store may
/// need it for that, to hear from its peers; it is ready after
/// [`ApiServer::bootstrap`].
pub async fn serve(
    config: Config,
    pki: Arc<Pki>,
    store: skiff_store::Store,
) -> Result<ApiServer, StartError> {
    config.validate()?;
    let audit = match (&config.audit_policy_file, &config.audit_log_path) {
        (Some(policy), Some(log)) => Some(Arc::new(Audit::open(policy, log)?)),
        _ => None,
    };
    let keys = |source| StartError::Pki { dir: config.data_dir.clone(), source };
    let tls = TlsAcceptor::from(pki.server_config().map_err(keys)?);
    let listen = |source| StartError::Listen { address: config.bind, source };
    let listener = TcpListener::bind(config.bind).await.map_err(listen)?;
    let local_addr = listener.local_addr().map_err(listen)?;
    let kubeconfig = pki.ensure_admin_kubeconfig(local_addr).map_err(keys)?;
    let limits = Limits { headers: config.header_timeout, write: config.write_timeout };
    let advertise = SocketAddr::new(config.advertise, local_addr.port());

    let live = Arc::new(Live::new(store.clone()));
    let authorizer = Arc::new(Authorizer::new(Arc::clone(&live)));
    let objects = Objects::new(store.clone());
    let authenticator =
        Arc::new(Authenticator::new(objects.clone(), Arc::clone(&pki), &config.cluster_domain));
    let cancel = CancellationToken::new();
    let agents = pki.agent_client_config().map_err(keys)?;
    let streams = Streams::new(objects.clone(), agents, cancel.clone());
    let registry = Arc::new(Registry {
        store,
        authenticator: Arc::clone(&authenticator),
        authorizer: Arc::clone(&authorizer),
        admission: Chain::new(objects, Arc::clone(&live)),
        streams,
        allocator: Allocator::new(config.service_cidr, config.node_port_range.clone()),
        selected: Selected::default(),
        closing: cancel.clone(),
    });
    let service = ApiService(Arc::new(State {
        registry,
        authenticator,
        authorizer,
        discovery: Discovery::new(advertise.to_string()),
        documents: Documents::default(),
        health: Health::default(),
        metrics: Metrics::new()?,
        reading: Semaphore::new(config.max_reading),
        writing: Semaphore::new(config.max_writing),
        audit,
        config,
    }));

    let tasks = TaskTracker::new();
    let follow = cancel.clone();
    let followed = Arc::clone(&live);
    tasks.spawn(async move { followed.follow(follow).await });
    let (leadership, leading) = (service.0.registry.store.leadership(), service.clone());
    let client_of = move |term| client::client(leading.clone(), UserInfo::loopback().in_term(term));
    let aggregate = move |client| aggregation::run(Arc::clone(&live), client);
    let signing = Arc::clone(&pki);
    let sign = move |client| signer::sign(Arc::clone(&signing), client);
    let (until, leads) = (cancel.clone(), leadership.clone());
    tasks.spawn(while_leading(client_of.clone(), aggregate, leads, until.clone()));
    tasks.spawn(while_leading(client_of, sign, leadership, until));
    tasks.spawn(server::run(
        listener,
        tls,
        service.clone(),
        Arc::clone(&pki),
        limits,
        cancel.clone(),
    ));
    let (fresh, renewing) = (Arc::clone(&pki), cancel.clone());
    tasks.spawn(async move { fresh.keep_fresh(local_addr, renewing).await });

    Ok(ApiServer { service, pki, local_addr, advertise, kubeconfig, tasks, cancel })
}

impl ApiServer {
    /// Makes what is missing of the objects that every cluster starts with.
    /// While the store has no quorum it waits for one.
    pub async fn bootstrap(&self) -> Result<(), kube::Error> {
        let client = self.client(UserInfo::loopback());
        let mut leadership = self.service.0.registry.store.leadership();
        loop {
            let ensured = async {
                bootstrap::ensure(&client, &self.service.0.config, &self.masters()).await?;
                authz::bootstrap::ensure(&client).await
            };
            match ensured.await {
                Ok(()) => break,
                // No leader, or one that was lost meanwhile.
                Err(kube::Error::Api(status)) if matches!(status.code, 503 | 504) => {
                    tracing::warn!(error = %status, "the store takes no writes yet, waiting");
                    let led = leadership.wait_for(|leadership| leadership.leader.is_some());
                    if led.await.is_err() {
                        return Err(kube::Error::Api(status));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        // Before, the people who have the roles `admin`, `edit` and `view` would
        // be refused.
        aggregation::settled(self.service.0.authorizer.live(), AGGREGATION_PATIENCE).await;
        self.service.0.health.set_bootstrapped();
        Ok(())
    }

    /// Tells pods where the masters are, after one has come or gone.
    pub async fn ensure_masters(&self) -> Result<(), kube::Error> {
        let client = self.client(UserInfo::loopback());
        bootstrap::ensure_masters(&client, &self.service.0.config, &self.masters()).await
    }

    /// Where the masters serve, in one order for all of them; this one for
    /// certain.
    pub fn masters(&self) -> Vec<SocketAddr> {
        let members = self.service.0.registry.store.members();
        let mut masters: Vec<SocketAddr> = (members.iter())
            .filter(|member| member.voter)
            .filter_map(|member| member.contact.address.parse().ok())
            .collect();
        if masters.is_empty() {
            masters.push(self.advertise);
        }
        masters.sort();
        masters.dedup();
        masters
    }

    /// A client that acts as `user` without a connection.
    pub fn client(&self, user: UserInfo) -> kube::Client {
        self.service.client(user)
    }

    /// The service itself, for other transports. Whoever calls it decides who
    /// the user is, by a [`UserInfo`] in the request's extensions.
    pub fn service(&self) -> ApiService {
        self.service.clone()
    }

    /// Where the server listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The admin's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The cluster's keys and certificates.
    pub fn pki(&self) -> &Arc<Pki> {
        &self.pki
    }

    /// Ends watches, lets requests finish, and stops.
    pub async fn shutdown(self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
