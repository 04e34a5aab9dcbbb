//! TLS of the API server, in both directions.
//!
//! The server asks every client for a certificate and takes any: a handshake
//! can only fail without a word, so whether a certificate is good is decided
//! after it and answered with 401. That a client holds the key to what it shows
//! is still checked in the handshake.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme,
    client::{ResolvesClientCert, danger::HandshakeSignatureValid},
    crypto::{CryptoProvider, ring},
    server::{
        ClientHello, ResolvesServerCert, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject};

use super::{CertificateAuthority, Issued, PkiError};

/// A certificate that may be replaced while TLS uses it.
#[derive(Debug)]
pub struct CurrentCertificate(RwLock<Arc<CertifiedKey>>);

impl CurrentCertificate {
    /// Starts with `issued`.
    pub fn new(issued: &Issued) -> Result<Self, PkiError> {
        Ok(Self(RwLock::new(Arc::new(certified(issued)?))))
    }

    /// Later handshakes show `issued`.
    pub fn replace(&self, issued: &Issued) -> Result<(), PkiError> {
        let key = Arc::new(certified(issued)?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = key;
        Ok(())
    }

    fn get(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.get())
    }
}

impl ResolvesClientCert for CurrentCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.get())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Checks client certificates against the authority, after the handshake.
#[derive(Debug)]
pub struct ClientVerifier(Arc<dyn ClientCertVerifier>);

impl ClientVerifier {
    /// Trusts `ca` alone.
    pub fn new(ca: &CertificateAuthority) -> Result<Self, PkiError> {
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca)?), provider())
            .build()
            .map(Self)
            .map_err(|error| PkiError::Certificate(error.to_string()))
    }

    /// Whether the authority vouches for `chain` as a client, at `now`.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        now: jiff::Timestamp,
    ) -> Result<(), PkiError> {
        let (leaf, intermediates) = chain
            .split_first()
            .ok_or_else(|| PkiError::Certificate("none was shown".to_owned()))?;
        let seconds = u64::try_from(now.as_second()).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        self.0.verify_client_cert(leaf, intermediates, now)?;
        Ok(())
    }
}

/// The handshake's side of [`ClientVerifier`].
#[derive(Debug)]
struct AskForCertificate(Arc<ClientVerifier>);

impl ClientCertVerifier for AskForCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.0.supported_verify_schemes()
    }
}

/// See [`super::Pki::server_config`].
pub(super) fn server_config(
    certificate: Arc<CurrentCertificate>,
    verifier: Arc<ClientVerifier>,
) -> Result<Arc<ServerConfig>, PkiError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(AskForCertificate(verifier)))
        .with_cert_resolver(certificate);
    // A peer asks for its protocol alone; browsers and clients never do.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), PEER_PROTOCOL.to_vec()];
    Ok(Arc::new(config))
}

/// The name in the handshake (ALPN, RFC 7301) of what masters' stores speak.
pub(crate) const PEER_PROTOCOL: &[u8] = b"skiff-peer";

/// See [`super::Pki::agent_client_config`] and
/// [`super::Pki::peer_client_config`].
pub(super) fn client_config(
    ca: &CertificateAuthority,
    certificate: Arc<CurrentCertificate>,
    protocol: &[u8],
) -> Result<Arc<ClientConfig>, PkiError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(ca)?)
        .with_client_cert_resolver(certificate);
    // To agents HTTP/1.1: streams are upgrades, which HTTP/2 does not have.
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(Arc::new(config))
}

fn certified(issued: &Issued) -> Result<CertifiedKey, PkiError> {
    let unreadable = |error: rustls_pki_types::pem::Error| PkiError::Certificate(error.to_string());
    let chain = CertificateDer::pem_slice_iter(issued.certificate_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(unreadable)?;
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).map_err(unreadable)?;
    let key = ring::sign::any_supported_type(&key)?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match()?;
    Ok(certified)
}

fn roots(ca: &CertificateAuthority) -> Result<RootCertStore, PkiError> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.certificate().clone())?;
    Ok(roots)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;
    use crate::pki::{Leaf, ca::LEAF_VALIDITY};

    #[test]
    fn clients_are_vouched_for_or_not() {
        let now = Timestamp::now();
        let authority = || {
            let made = CertificateAuthority::generate(now).unwrap();
            CertificateAuthority::from_pem(&made.certificate_pem, &made.key_pem).unwrap()
        };
        let (ours, foreign) = (authority(), authority());
        let client = Leaf::client("jane", &["dev"]);
        let server = Leaf::server("jane", vec!["localhost".into()], vec![]);
        let verifier = ClientVerifier::new(&ours).unwrap();
        let cases = [
            ("ours", &ours, &client, now, true),
            ("foreign authority", &foreign, &client, now, false),
            ("expired", &ours, &client, now + LEAF_VALIDITY + Duration::from_secs(1), false),
            ("a server's certificate", &ours, &server, now, false),
        ];
        for (name, ca, leaf, at, good) in cases {
            let issued = ca.issue(leaf, now).unwrap();
            let der = CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap();
            assert_eq!(verifier.verify(&[der], at).is_ok(), good, "{name}");
        }
        assert!(verifier.verify(&[], now).is_err());
    }
}
