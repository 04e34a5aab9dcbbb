//! How a store on etcd is opened, and TLS towards it.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::types::StoreError;

/// How a store on etcd is opened.
#[derive(Clone)]
pub struct EtcdConfig {
    /// `HOST:PORT` of members of one etcd cluster, tried in turn.
    pub endpoints: Vec<String>,
    /// Speak TLS. Default: no.
    pub tls: Option<EtcdTls>,
    /// What all keys begin with. Default: `/skiff`.
    pub prefix: String,
    /// Encrypts values marked `sealed`; the same for all masters.
    pub sealing_key: [u8; 32],
    /// How long watches can resume, and history is kept in etcd. Default: five
    /// minutes.
    pub history_window: Duration,
    /// Memory that replaced values may take in the history window. Default:
    /// 64 MiB.
    pub history_bytes: usize,
    /// Largest transaction, keys and values together. Default: 1.5 MB, as etcd
    /// refuses larger ones.
    pub max_txn_bytes: usize,
    /// How long a commit or a most recent read waits. Default: 10 s.
    pub request_timeout: Duration,
}

/// Certificates towards etcd, in PEM.
#[derive(Clone, Default)]
pub struct EtcdTls {
    /// The authority that etcd's certificate must be of.
    pub ca: Vec<u8>,
    /// Our certificate and its key, if etcd asks for one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl EtcdConfig {
    /// The defaults for these endpoints.
    pub fn new(endpoints: Vec<String>, sealing_key: [u8; 32]) -> Self {
        Self {
            endpoints,
            tls: None,
            prefix: "/skiff".into(),
            sealing_key,
            history_window: Duration::from_secs(300),
            history_bytes: 64 << 20,
            max_txn_bytes: 1_500_000,
            request_timeout: Duration::from_secs(10),
        }
    }
}

impl std::fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Keys stay out of logs.
        f.debug_struct("EtcdConfig")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// TLS towards etcd.
pub(super) fn client_config(tls: &EtcdTls) -> Result<Arc<rustls::ClientConfig>, StoreError> {
    let invalid = |what: &str, error: &dyn std::fmt::Display| {
        StoreError::Invalid(format!("{what} for etcd cannot be used: {error}"))
    };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&tls.ca) {
        let added = certificate
            .map_err(|error| invalid("the authority", &error))
            .map(|certificate| roots.add(certificate));
        added?.map_err(|error| invalid("the authority", &error))?;
    }
    if roots.is_empty() {
        return Err(invalid("the authority", &"it holds no certificate"));
    }
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .map_err(|error| invalid("TLS", &error))?
    .with_root_certificates(roots);
    let mut config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_slice_iter(certificate)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| invalid("the certificate", &error))?;
            let key =
                PrivateKeyDer::from_pem_slice(key).map_err(|error| invalid("the key", &error))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| invalid("the certificate", &error))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}
