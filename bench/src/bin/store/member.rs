//! Members of our group: each a process with a directory, a port on the
//! loopback and a certificate, as masters have them.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::crypto::ring;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use skiff_store::{Change, Contact, PeerConfig, Store, StoreConfig};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const HOST: &str = "127.0.0.1";

/// The authority's certificate, the one that all members show, and its key.
const FILES: [&str; 3] = ["authority.der", "member.der", "member.key"];

/// An authority with one certificate that all members show.
pub(crate) struct Authority {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Authority {
    /// Makes one, for all members that share `dir`.
    pub(crate) fn create(dir: &Path) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key)?;
        let member_key = KeyPair::generate()?;
        let member = CertificateParams::new(vec![HOST.into()])?
            .signed_by(&member_key, &Issuer::new(params, key))?;
        let content =
            [authority.der().as_ref(), member.der().as_ref(), member_key.serialized_der()];
        for (name, bytes) in FILES.into_iter().zip(content) {
            std::fs::write(dir.join(name), bytes)?;
        }
        Self::open(dir)
    }

    /// Reads what another process has made.
    pub(crate) fn open(dir: &Path) -> anyhow::Result<Self> {
        let [authority, member, key] = FILES.map(|name| std::fs::read(dir.join(name)));
        let (chain, key) = (vec![CertificateDer::from(member?)], key?);
        let key = || PrivateKeyDer::try_from(key.clone()).map_err(anyhow::Error::msg);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(authority?))?;
        let (roots, provider) = (Arc::new(roots), Arc::new(ring::default_provider()));
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key()?)?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key()?)?;
        Ok(Self { server: Arc::new(server), client: Arc::new(client) })
    }
}

/// Begins a group of one.
pub(crate) async fn begin(dir: &Path, authority: &Authority) -> anyhow::Result<Store> {
    let listener = TcpListener::bind((HOST, 0)).await?;
    open(&dir.join("store-1"), authority, listener, None).await
}

/// The place that a group keeps for a new member.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(crate) struct Joining {
    id: u64,
    address: String,
}

impl Joining {
    /// Asks the group for it.
    pub(crate) async fn ask(group: &Store) -> anyhow::Result<Self> {
        // Nobody else takes the port before the member does.
        let address = TcpListener::bind((HOST, 0)).await?.local_addr()?.to_string();
        let contact = Contact { address: address.clone(), name: String::new(), promote: true };
        let id = group.change_members(Change::AddLearner { id: 0, contact }).await?;
        Ok(Self { id, address })
    }

    /// Waits until the member has a vote.
    pub(crate) async fn done(&self, group: &Store) -> anyhow::Result<()> {
        let mut changed = group.members_changed();
        loop {
            changed.borrow_and_update();
            if group.members().iter().any(|member| member.id == self.id && member.voter) {
                return Ok(());
            }
            changed.changed().await?;
        }
    }

    /// Is that member, until killed.
    pub(crate) async fn run(&self, dir: &Path, number: usize) -> anyhow::Result<()> {
        let listener = TcpListener::bind(&self.address).await.context("the port was taken")?;
        let authority = Authority::open(dir)?;
        let dir = dir.join(format!("store-{number}"));
        let store = open(&dir, &authority, listener, Some(self.id)).await?;
        Err(store.failed().await.into())
    }
}

async fn open(
    dir: &Path,
    authority: &Authority,
    listener: TcpListener,
    joined_as: Option<u64>,
) -> anyhow::Result<Store> {
    let contact = Contact {
        address: listener.local_addr()?.to_string(),
        name: String::new(),
        promote: false,
    };
    let peers = Some(PeerConfig { contact, tls: authority.client.clone() });
    let store =
        Store::open(StoreConfig { peers, joined_as, ..StoreConfig::new(dir, [1; 32]) }).await?;
    let acceptor = TlsAcceptor::from(authority.server.clone());
    // Ends with the process.
    tokio::spawn({
        let store = store.clone();
        async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, store) = (acceptor.clone(), store.clone());
                tokio::spawn(async move {
                    if tcp.set_nodelay(true).is_ok()
                        && let Ok(stream) = acceptor.accept(tcp).await
                    {
                        // A stream that breaks is opened again by the peer.
                        let _ = store.accept_peer(stream).await;
                    }
                });
            }
        }
    });
    Ok(store)
}
