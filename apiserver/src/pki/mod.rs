//! Keys and certificates of the cluster, in `DATA/pki`.
//!
//! | file | what |
//! |---|---|
//! | `ca.crt`, `ca.key` | the authority; made once |
//! | `apiserver.crt`, `.key` | what the API server shows its clients |
//! | `apiserver-agent.crt`, `.key` | what it shows to agents |
//! | `peer.crt`, `.key` | what it shows to other masters' stores |
//! | `admin.crt`, `.key` | group `system:masters`, for `DATA/admin.kubeconfig` |
//! | `sa.key` | signs ServiceAccount tokens |
//! | `sealing.key` | encrypts secrets in the store |
//!
//! Leaves are checked at start and twice a day, and made anew when names
//! changed or a third of their life is left. TLS asks for the certificate at
//! every handshake, so a renewal needs no restart.

pub mod ca;
pub mod files;
pub mod kubeconfig;
pub mod service_account;
pub mod signer;
pub mod tls;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

pub use ca::{CertificateAuthority, Issued, Leaf};
use files::Access;
pub use service_account::ServiceAccountKey;
use tls::CurrentCertificate;

/// The file of the key that encrypts secrets in the store.
const SEALING_KEY: &str = "sealing.key";

/// Twice a day: months before the last third of a leaf's life is over.
const RENEWAL_PERIOD: Duration = Duration::from_secs(12 * 3600);

/// What goes wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file that must not be replaced is not usable.
    #[error(
        "{}: {why}; restore it from a backup, or remove the data directory to start a new cluster",
        path.display()
    )]
    Damaged {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A certificate is not what it should be.
    #[error("certificate: {0}")]
    Certificate(String),
    /// A certificate was asked for that cannot be made.
    #[error("a certificate with {0} is not supported")]
    Unsupported(&'static str),
    /// Making a key or signing failed.
    #[error("cannot make a certificate: {0}")]
    Generate(#[from] rcgen::Error),
    /// TLS refused the key or the certificate.
    #[error("tls: {0}")]
    Tls(#[from] rustls::Error),
    /// The kubeconfig cannot be written as YAML.
    #[error("kubeconfig: {0}")]
    Kubeconfig(#[from] serde_yaml::Error),
}

/// The names under which the API server is reached.
#[derive(Debug, Clone)]
pub struct PkiConfig {
    /// The data directory; files go to `pki` inside it.
    pub data_dir: PathBuf,
    /// The address that nodes and pods use.
    pub advertise: IpAddr,
    /// The address of service default/kubernetes.
    pub service_ip: IpAddr,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// Further names and addresses for the certificate.
    pub names: Vec<String>,
}

/// The keys and certificates of a running API server.
pub struct Pki {
    config: PkiConfig,
    ca: CertificateAuthority,
    service_account: ServiceAccountKey,
    serving: Arc<CurrentCertificate>,
    agent_client: Arc<CurrentCertificate>,
    peer: Arc<CurrentCertificate>,
    verifier: Arc<tls::ClientVerifier>,
}

impl Pki {
    /// Opens the key store and makes what is missing or runs out.
    pub fn open(config: PkiConfig) -> Result<Self, PkiError> {
        let now = Timestamp::now();
        let dir = dir(&config.data_dir);
        files::ensure_dir(&dir)?;
        let ca = CertificateAuthority::open(&dir, now)?;
        let service_account = ServiceAccountKey::open(&dir.join("sa.key"))?;
        let serving = ensure_serving(&ca, &dir, &config, now)?;
        let agent_client = ensure_leaf(&ca, &dir, "apiserver-agent", &agent_client_leaf(), now)?;
        let peer = ensure_leaf(&ca, &dir, "peer", &peer_leaf(), now)?;
        let verifier = tls::ClientVerifier::new(&ca)?;
        Ok(Self {
            config,
            ca,
            service_account,
            serving: Arc::new(CurrentCertificate::new(&serving)?),
            agent_client: Arc::new(CurrentCertificate::new(&agent_client)?),
            peer: Arc::new(CurrentCertificate::new(&peer)?),
            verifier: Arc::new(verifier),
        })
    }

    /// The authority.
    pub fn ca(&self) -> &CertificateAuthority {
        &self.ca
    }

    /// The key of ServiceAccount tokens.
    pub fn service_account(&self) -> &ServiceAccountKey {
        &self.service_account
    }

    /// What an agent needs to trust this cluster: the authority as PEM.
    pub fn ca_pem(&self) -> &str {
        self.ca.certificate_pem()
    }

    /// Checks the certificates that a client showed. See [`tls`].
    pub fn verifier(&self) -> &tls::ClientVerifier {
        &self.verifier
    }

    /// TLS of the API server. Clients may show a certificate; one that cannot
    /// be verified is not refused here but answered with 401, as upstream does.
    pub fn server_config(&self) -> Result<Arc<rustls::ServerConfig>, PkiError> {
        tls::server_config(Arc::clone(&self.serving), Arc::clone(&self.verifier))
    }

    /// TLS towards agents: they must show a certificate of our authority for
    /// their address and get to see ours.
    pub fn agent_client_config(&self) -> Result<Arc<rustls::ClientConfig>, PkiError> {
        tls::client_config(&self.ca, Arc::clone(&self.agent_client), b"http/1.1")
    }

    /// TLS towards other masters' stores, on their API servers' port: the
    /// protocol is chosen in the handshake.
    pub fn peer_client_config(&self) -> Result<Arc<rustls::ClientConfig>, PkiError> {
        tls::client_config(&self.ca, Arc::clone(&self.peer), tls::PEER_PROTOCOL)
    }

    /// Writes `DATA/admin.kubeconfig` for a server that listens at `server`.
    pub fn ensure_admin_kubeconfig(&self, server: SocketAddr) -> Result<PathBuf, PkiError> {
        let leaf = Leaf::client("kubernetes-admin", &["system:masters"]);
        let dir = dir(&self.config.data_dir);
        let admin = ensure_leaf(&self.ca, &dir, "admin", &leaf, Timestamp::now())?;
        let host = match server.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            ip => ip,
        };
        let url = format!("https://{}", SocketAddr::new(host, server.port()));
        let path = self.config.data_dir.join("admin.kubeconfig");
        let text = kubeconfig::render(&url, self.ca_pem(), "kubernetes-admin", &admin)?;
        if files::read(&path)?.as_deref() != Some(text.as_str()) {
            files::write(&path, text.as_bytes(), Access::Private)?;
        }
        Ok(path)
    }

    /// Renews what needs it, now.
    pub fn ensure_leaves(&self, now: Timestamp) -> Result<(), PkiError> {
        let dir = dir(&self.config.data_dir);
        let serving = ensure_serving(&self.ca, &dir, &self.config, now)?;
        self.serving.replace(&serving)?;
        let agent = ensure_leaf(&self.ca, &dir, "apiserver-agent", &agent_client_leaf(), now)?;
        self.agent_client.replace(&agent)?;
        let peer = ensure_leaf(&self.ca, &dir, "peer", &peer_leaf(), now)?;
        self.peer.replace(&peer)
    }

    /// Keeps certificates fresh until cancelled. `server` is where the API
    /// server listens, for the kubeconfig.
    pub async fn keep_fresh(&self, server: SocketAddr, cancel: CancellationToken) {
        let mut timer = tokio::time::interval(RENEWAL_PERIOD);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = timer.tick() => {}
            }
            let renewed = self
                .ensure_leaves(Timestamp::now())
                .and_then(|()| self.ensure_admin_kubeconfig(server).map(|_| ()));
            if let Err(error) = renewed {
                tracing::error!(%error, "cannot renew certificates, will try again");
            }
        }
    }
}

/// The key that encrypts secrets in the store; made at the first call. It
/// stands apart from [`Pki`] because the store opens before the API server.
pub fn sealing_key(data_dir: &Path) -> Result<[u8; 32], PkiError> {
    let dir = dir(data_dir);
    files::ensure_dir(&dir)?;
    if let Some(key) = read_sealing_key(&dir)? {
        return Ok(key);
    }
    let key: [u8; 32] = rand::random();
    let text = format!("{}\n", BASE64.encode(key));
    files::write(&dir.join(SEALING_KEY), text.as_bytes(), Access::Private)?;
    Ok(key)
}

/// The sealing key in a folder of keys, if there is one.
pub fn read_sealing_key(dir: &Path) -> Result<Option<[u8; 32]>, PkiError> {
    let path = dir.join(SEALING_KEY);
    let Some(text) = files::read(&path)? else { return Ok(None) };
    let key = BASE64.decode(text.trim()).ok().and_then(|bytes| bytes.try_into().ok());
    match key {
        Some(key) => Ok(Some(key)),
        None => Err(PkiError::Damaged { path, why: "it is not a 32-byte key".to_owned() }),
    }
}

/// Where the keys of a data directory are.
pub fn dir(data_dir: &Path) -> PathBuf {
    data_dir.join("pki")
}

/// The pin of an authority: SHA-256 over its certificate, in hex. A join token
/// carries it.
pub fn pin(certificate: &[u8]) -> String {
    use std::fmt::Write;
    Sha256::digest(certificate).iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// The server's certificate, followed by the authority's: a machine that joins
/// knows no more than a pin, and finds in the handshake what the pin is of.
fn ensure_serving(
    ca: &CertificateAuthority,
    dir: &Path,
    config: &PkiConfig,
    now: Timestamp,
) -> Result<Issued, PkiError> {
    let mut serving = ensure_leaf(ca, dir, "apiserver", &serving_leaf(config), now)?;
    serving.certificate_pem.push_str(ca.certificate_pem());
    Ok(serving)
}

fn serving_leaf(config: &PkiConfig) -> Leaf {
    let mut dns_names: Vec<String> =
        ["localhost", "kubernetes", "kubernetes.default"].into_iter().map(str::to_owned).collect();
    dns_names.push("kubernetes.default.svc".to_owned());
    dns_names.push(format!("kubernetes.default.svc.{}", config.cluster_domain));
    dns_names.extend(host_name());
    let mut addresses = vec![
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
        config.advertise,
        config.service_ip,
    ];
    for name in &config.names {
        match name.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => dns_names.push(name.clone()),
        }
    }
    Leaf::server("kube-apiserver", dns_names, addresses)
}

fn agent_client_leaf() -> Leaf {
    Leaf::client(AGENT_CLIENT_USER, &["system:masters"])
}

fn peer_leaf() -> Leaf {
    Leaf::client(PEER_USER, &[])
}

/// The user that a master is towards the stores of other masters. Nobody but
/// the masters themselves signs a certificate for it, and it is in no group:
/// the API gives it nothing.
pub const PEER_USER: &str = "system:skiff:peer";

/// The user that the API server is towards agents. They let nobody else in.
pub const AGENT_CLIENT_USER: &str = "kube-apiserver-kubelet-client";

/// The machine's name, if it is one that a certificate can carry.
fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?.trim().to_lowercase();
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    (!name.is_empty() && name.len() <= 253 && name.chars().all(fits)).then_some(name)
}

/// The leaf kept under `name`, or a new one when that does not fit `desired`.
fn ensure_leaf(
    ca: &CertificateAuthority,
    dir: &Path,
    name: &str,
    desired: &Leaf,
    now: Timestamp,
) -> Result<Issued, PkiError> {
    let certificate_path = dir.join(format!("{name}.crt"));
    let key_path = dir.join(format!("{name}.key"));
    if let (Some(certificate_pem), Some(key_pem)) =
        (files::read(&certificate_path)?, files::read(&key_path)?)
    {
        let kept = Issued { certificate_pem, key_pem };
        let misfit = ca
            .misfit(&kept.certificate_pem, desired, now)
            .or_else(|| CurrentCertificate::new(&kept).err().map(|error| error.to_string()));
        match misfit {
            None => return Ok(kept),
            Some(why) => tracing::info!(certificate = name, why, "renewing certificate"),
        }
    }
    let issued = ca.issue(desired, now)?;
    files::write(&key_path, issued.key_pem.as_bytes(), Access::Private)?;
    files::write(&certificate_path, issued.certificate_pem.as_bytes(), Access::Public)?;
    Ok(issued)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn config(dir: &Path) -> PkiConfig {
        PkiConfig {
            data_dir: dir.to_owned(),
            advertise: "192.0.2.10".parse().unwrap(),
            service_ip: "10.96.0.1".parse().unwrap(),
            cluster_domain: "cluster.local".to_owned(),
            names: vec!["203.0.113.1".to_owned(), "api.example".to_owned()],
        }
    }

    #[test]
    fn a_restart_keeps_certificates_and_a_new_address_renews_one() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join("pki").join(name)).unwrap();
        drop(Pki::open(config(dir.path())).unwrap());
        let (serving, agent) = (read("apiserver.crt"), read("apiserver-agent.crt"));
        drop(Pki::open(config(dir.path())).unwrap());
        assert_eq!(read("apiserver.crt"), serving);

        let moved = PkiConfig { advertise: "192.0.2.11".parse().unwrap(), ..config(dir.path()) };
        drop(Pki::open(moved).unwrap());
        assert_ne!(read("apiserver.crt"), serving);
        assert_eq!(read("apiserver-agent.crt"), agent);
    }

    #[test]
    fn a_torn_key_pair_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        drop(Pki::open(config(dir.path())).unwrap());
        let key = dir.path().join("pki/apiserver.key");
        std::fs::copy(dir.path().join("pki/admin.key"), &key).unwrap_or_default();
        std::fs::write(&key, CertificateAuthority::generate(Timestamp::now()).unwrap().key_pem)
            .unwrap();
        Pki::open(config(dir.path())).unwrap();
    }

    #[test]
    fn the_sealing_key_stays() {
        let dir = tempfile::tempdir().unwrap();
        let key = sealing_key(dir.path()).unwrap();
        assert_eq!(sealing_key(dir.path()).unwrap(), key);
        std::fs::write(dir.path().join("pki/sealing.key"), "short").unwrap();
        assert!(matches!(sealing_key(dir.path()), Err(PkiError::Damaged { .. })));
    }
}
