//! Making the server known by its pin.
//!
//! The server's chain carries its authority. In the handshake the verifier
//! looks for the certificate that the pin is of, and then verifies as if that
//! authority had been trusted all along: signature, names, dates. A server
//! with another authority fails the handshake before it has seen the secret.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{JoinToken, identity};

const TIMEOUT: Duration = Duration::from_secs(10);

/// The pinned authority of `server`, as PEM.
pub(super) async fn fetch_ca(server: &http::Uri, token: &JoinToken) -> Result<String, String> {
    let host = server.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = server.port_u16().unwrap_or(443);
    let name = ServerName::try_from(host.clone()).map_err(|error| error.to_string())?;
    let verifier = Arc::new(Pinned::new(token.clone()));
    let tls = ClientConfig::builder_with_provider(Arc::clone(&verifier.provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::<Pinned>::clone(&verifier))
        .with_no_client_auth();
    let dial = async {
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        TlsConnector::from(Arc::new(tls)).connect(name, stream).await
    };
    match tokio::time::timeout(TIMEOUT, dial).await {
        Err(_) => Err("no answer in time".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(_)) => {
            let found = verifier.found.lock().unwrap_or_else(PoisonError::into_inner).take();
            found.map(|der| identity::pem(&der)).ok_or_else(|| "it showed no authority".to_owned())
        }
    }
}

/// Trusts the authority with one pin, and remembers it.
#[derive(Debug)]
struct Pinned {
    token: Token,
    provider: Arc<CryptoProvider>,
    found: Mutex<Option<CertificateDer<'static>>>,
}

/// A token that does not show itself in logs.
struct Token(JoinToken);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinToken")
    }
}

impl Pinned {
    fn new(token: JoinToken) -> Self {
        Self {
            token: Token(token),
            provider: Arc::new(ring::default_provider()),
            found: Mutex::new(None),
        }
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = intermediates
            .iter()
            .find(|certificate| self.token.0.pins(certificate))
            .ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?
            .clone()
            .into_owned();
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::clone(&self.provider),
        )
        .build()
        .map_err(|error| Error::General(error.to_string()))?;
        let verified = verifier.verify_server_cert(leaf, &[], name, ocsp, now)?;
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(authority);
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use sha2::{Digest, Sha256};

    use super::*;

    fn authority() -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn verify(
        pinned: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        host: &str,
    ) -> Result<ServerCertVerified, Error> {
        let pin: String = Sha256::digest(pinned).iter().map(|byte| format!("{byte:02x}")).collect();
        let token = format!("skiff1.{pin}.abcdef.0123456789abcdef").parse().unwrap();
        let name = ServerName::try_from(host.to_owned()).unwrap();
        Pinned::new(token).verify_server_cert(&chain[0], &chain[1..], &name, &[], UnixTime::now())
    }

    #[test]
    fn only_the_pinned_authority_vouches_for_a_server() {
        let (ours, foreign) = (authority(), authority());
        let leaf = |ca: &CertifiedIssuer<'_, KeyPair>| {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec!["api.example".to_owned()]).unwrap();
            params.signed_by(&key, ca).unwrap().der().clone()
        };
        let (our_leaf, foreign_leaf) = (leaf(&ours), leaf(&foreign));
        let (ours, foreign) = (ours.der().clone(), foreign.der().clone());
        let chain = [our_leaf.clone(), ours.clone()];
        assert!(verify(&ours, &chain, "api.example").is_ok());
        assert!(verify(&ours, &chain, "other.example").is_err(), "another name");
        assert!(verify(&foreign, &chain, "api.example").is_err(), "wrong pin");
        assert!(verify(&ours, &[our_leaf], "api.example").is_err(), "no authority shown");
        let borrowed = [foreign_leaf.clone(), ours.clone()];
        assert!(verify(&ours, &borrowed, "api.example").is_err(), "our authority shown, not used");
        assert!(verify(&ours, &[foreign_leaf, foreign], "api.example").is_err(), "foreign");
    }
}
