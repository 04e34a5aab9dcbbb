//! TLS of the agent: who may call, and the certificate it shows, which may be
//! renewed while the server runs.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring,
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The API server's name and group towards agents.
const API_SERVER: (&str, &str) = ("kube-apiserver-kubelet-client", "system:masters");

/// How the names of nodes begin, and their group.
const NODE: (&str, &str) = ("system:node:", "system:nodes");

/// TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM text does not hold what it should.
    #[error("unreadable PEM: {0}")]
    Pem(#[from] rustls_pki_types::pem::Error),
    /// rustls refuses it.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// The authority cannot be used to check clients.
    #[error(transparent)]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// The certificate that the server shows; replaced on renewal.
#[derive(Debug)]
pub struct ServingCertificate(RwLock<Arc<CertifiedKey>>);

impl ServingCertificate {
    /// Starts with a certificate and its key.
    pub fn new(certificate_pem: &str, key_pem: &str) -> Result<Self, TlsError> {
        Ok(Self(RwLock::new(Arc::new(certified(certificate_pem, key_pem)?))))
    }

    /// Later handshakes show this one.
    pub fn replace(&self, certificate_pem: &str, key_pem: &str) -> Result<(), TlsError> {
        let key = Arc::new(certified(certificate_pem, key_pem)?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = key;
        Ok(())
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn certified(certificate_pem: &str, key_pem: &str) -> Result<CertifiedKey, TlsError> {
    let chain = CertificateDer::pem_slice_iter(certificate_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())?;
    let certified = CertifiedKey::new(chain, ring::sign::any_supported_type(&key)?);
    certified.keys_match()?;
    Ok(certified)
}

/// TLS that shows `certificate` and takes clients of the authority `ca_pem`,
/// or clients without a certificate, who get to see `/healthz`.
pub fn server_config(
    ca_pem: &str,
    certificate: Arc<ServingCertificate>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let roots = Arc::new(roots(ca_pem)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .allow_unauthenticated()
        .build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// TLS that shows the node's certificate and takes servers of the authority
/// `ca_pem`: for calls to other agents.
pub fn client_config(
    ca_pem: &str,
    certificate_pem: &str,
    key_pem: &str,
) -> Result<Arc<ClientConfig>, TlsError> {
    let chain = CertificateDer::pem_slice_iter(certificate_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(ca_pem)?)
        .with_client_auth_cert(chain, key)?;
    Ok(Arc::new(config))
}

fn roots(ca_pem: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(authority?)?;
    }
    Ok(roots)
}

/// Who is at the other end. The handshake has checked the certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// The API server.
    ApiServer,
    /// Another node.
    Node,
    /// Somebody else whom the authority vouches for.
    Other,
    /// No certificate.
    Nobody,
}

impl Caller {
    pub(super) fn new(chain: Option<&[CertificateDer<'_>]>) -> Self {
        let Some(leaf) = chain.and_then(|chain| chain.first()) else { return Self::Nobody };
        let Ok((_, certificate)) = X509Certificate::from_der(leaf) else { return Self::Other };
        let subject = certificate.subject();
        let named = |fits: fn(&str) -> bool| {
            subject.iter_common_name().any(|name| name.as_str().is_ok_and(fits))
        };
        let in_group = |group| subject.iter_organization().any(|name| name.as_str() == Ok(group));
        if named(|name| name == API_SERVER.0) && in_group(API_SERVER.1) {
            Self::ApiServer
        } else if named(|name| name.starts_with(NODE.0)) && in_group(NODE.1) {
            Self::Node
        } else {
            Self::Other
        }
    }
}
