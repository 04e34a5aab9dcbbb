//! The node's identity on disk: key, certificate and the cluster's authority,
//! in one file, so that they can never be of different times.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    sync::{Arc, PoisonError, RwLock},
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use jiff::Timestamp;
use rustls::{SignatureScheme, client::ResolvesClientCert, crypto::ring, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, X509Certificate};

const FILE: &str = "identity.json";

/// A node's client certificate with its key, and whom it trusts.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Identity {
    /// The cluster's authority.
    pub(crate) ca_pem: String,
    /// The certificate.
    pub(crate) certificate_pem: String,
    /// Its key.
    pub(crate) key_pem: String,
}

impl Identity {
    /// The identity kept in `dir`, if there is one and it is this node's.
    pub(crate) fn load(dir: &Path, node_name: &str) -> Result<Option<Self>, String> {
        let text = match fs::read_to_string(dir.join(FILE)) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let identity: Self = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let der = der(&identity.certificate_pem)?;
        let (_, certificate) =
            X509Certificate::from_der(&der).map_err(|error| error.to_string())?;
        let user = format!("system:node:{node_name}");
        let own = certificate.subject().iter_common_name().any(|name| name.as_str() == Ok(&user));
        Ok(own.then_some(identity))
    }

    /// Replaces what `dir` keeps.
    pub(crate) fn save(&self, dir: &Path) -> Result<(), String> {
        let text = serde_json::to_string(self).map_err(|error| error.to_string())?;
        let write = || {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            let beside = dir.join(format!("{FILE}.new"));
            if let Err(error) = fs::remove_file(&beside)
                && error.kind() != ErrorKind::NotFound
            {
                return Err(error);
            }
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&beside, dir.join(FILE))
        };
        write().map_err(|error: std::io::Error| error.to_string())
    }

    /// Whether the certificate holds at `now`.
    pub(crate) fn is_valid(&self, now: Timestamp) -> bool {
        validity(&self.certificate_pem)
            .is_ok_and(|(not_before, not_after)| not_before <= now && now < not_after)
    }
}

impl From<super::request::Issued> for Identity {
    fn from(issued: super::request::Issued) -> Self {
        Self {
            ca_pem: String::new(),
            certificate_pem: issued.certificate_pem,
            key_pem: issued.key_pem,
        }
    }
}

/// The identity that TLS shows now.
#[derive(Debug)]
pub(super) struct CurrentIdentity(RwLock<State>);

#[derive(Debug)]
struct State {
    ca_pem: String,
    renewal_at: Timestamp,
    key: Arc<CertifiedKey>,
}

impl CurrentIdentity {
    pub(super) fn new(identity: Identity) -> Result<Self, String> {
        Ok(Self(RwLock::new(state(identity)?)))
    }

    pub(super) fn replace(&self, identity: Identity) -> Result<(), String> {
        let state = state(identity)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = state;
        Ok(())
    }

    pub(super) fn ca_pem(&self) -> String {
        self.0.read().unwrap_or_else(PoisonError::into_inner).ca_pem.clone()
    }

    pub(super) fn renewal_at(&self) -> Timestamp {
        self.0.read().unwrap_or_else(PoisonError::into_inner).renewal_at
    }
}

impl ResolvesClientCert for CurrentIdentity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner).key))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn state(identity: Identity) -> Result<State, String> {
    let certificate = CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes())
        .map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())
        .map_err(|error| error.to_string())?;
    let key = ring::sign::any_supported_type(&key).map_err(|error| error.to_string())?;
    let key = CertifiedKey::new(vec![certificate], key);
    key.keys_match().map_err(|error| error.to_string())?;
    Ok(State {
        renewal_at: renewal_at(&identity.certificate_pem)?,
        ca_pem: identity.ca_pem,
        key: Arc::new(key),
    })
}

/// When two thirds of a certificate's life are over.
pub(crate) fn renewal_at(certificate_pem: &str) -> Result<Timestamp, String> {
    let (not_before, not_after) = validity(certificate_pem)?;
    Ok(not_after - not_after.duration_since(not_before) / 3)
}

fn validity(certificate_pem: &str) -> Result<(Timestamp, Timestamp), String> {
    let der = der(certificate_pem)?;
    let (_, certificate) = X509Certificate::from_der(&der).map_err(|error| error.to_string())?;
    let time = |at: x509_parser::time::ASN1Time| {
        Timestamp::from_second(at.timestamp()).map_err(|error| error.to_string())
    };
    let validity = certificate.validity();
    Ok((time(validity.not_before)?, time(validity.not_after)?))
}

/// The first certificate of a PEM text.
pub(super) fn der(pem: &str) -> Result<Vec<u8>, String> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map(|der| der.to_vec())
        .map_err(|error| format!("not a certificate: {error}"))
}

/// A certificate as PEM.
pub(super) fn pem(der: &[u8]) -> String {
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in BASE64.encode(der).as_bytes().chunks(64) {
        pem.extend(line.iter().copied().map(char::from));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    fn identity(name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 1, 31);
        let certificate = params.self_signed(&key).unwrap();
        Identity {
            ca_pem: pem(certificate.der()),
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        }
    }

    #[test]
    fn an_identity_is_kept_privately_and_for_one_node() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("pki");
        assert!(Identity::load(&dir, "n1").unwrap().is_none());
        let kept = identity("system:node:n1");
        kept.save(&dir).unwrap();
        kept.save(&dir).unwrap();
        assert!(Identity::load(&dir, "n1").unwrap() == Some(kept));
        assert!(Identity::load(&dir, "n2").unwrap().is_none(), "another node's");
        let mode = fs::metadata(dir.join(FILE)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        fs::write(dir.join(FILE), "{").unwrap();
        assert!(Identity::load(&dir, "n1").is_err());
    }

    #[test]
    fn renewal_comes_before_the_end() {
        let identity = identity("system:node:n1");
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert_eq!(renewal_at(&identity.certificate_pem).unwrap(), at("2026-01-21T00:00:00Z"));
        for (now, valid) in [
            ("2025-12-31T00:00:00Z", false),
            ("2026-01-30T00:00:00Z", true),
            ("2026-01-31T00:00:00Z", false),
        ] {
            assert_eq!(identity.is_valid(at(now)), valid, "{now}");
        }
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let mut mixed = identity("system:node:n1");
        mixed.key_pem = identity("system:node:n1").key_pem;
        assert!(CurrentIdentity::new(mixed).is_err());
    }
}
