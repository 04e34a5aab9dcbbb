//! The cluster's certificate authority: makes itself once, then signs leaves.
//!
//! Keys are ECDSA P-256. The authority lives for ten years and is never
//! replaced behind anyone's back: joined nodes and kubeconfigs pin it, so a
//! damaged or missing half of the pair is an error, not a reason for a new one.
//!
//! Left out: intermediates and revocation lists. Leaves are short-lived, and a
//! node or a person is shut out by authorization.

use std::{net::IpAddr, path::Path, time::Duration};

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{
    PkiError,
    files::{self, Access},
};

const DAY: Duration = Duration::from_secs(24 * 3600);
const CA_VALIDITY: Duration = Duration::from_secs(3650 * 24 * 3600);
/// Clocks of a lab differ by some minutes; a leaf must be valid on all of them.
const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// Validity of the certificates that the server keeps renewing for itself.
pub const LEAF_VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);

/// What a certificate may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// To be a TLS server.
    Server,
    /// To be a TLS client.
    Client,
}

/// The certificate that somebody should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Common name: the user, for a client.
    pub common_name: String,
    /// Organizations: the groups, for a client.
    pub organizations: Vec<String>,
    /// DNS names of a server, sorted.
    pub dns_names: Vec<String>,
    /// Addresses of a server, sorted.
    pub addresses: Vec<IpAddr>,
    /// Server or client.
    pub usage: Usage,
    /// How long it lives.
    pub validity: Duration,
}

impl Leaf {
    /// A client certificate that lives for [`LEAF_VALIDITY`].
    pub fn client(user: &str, groups: &[&str]) -> Self {
        Self {
            common_name: user.to_owned(),
            organizations: groups.iter().map(|group| (*group).to_owned()).collect(),
            dns_names: Vec::new(),
            addresses: Vec::new(),
            usage: Usage::Client,
            validity: LEAF_VALIDITY,
        }
    }

    /// A server certificate that lives for [`LEAF_VALIDITY`].
    pub fn server(name: &str, mut dns_names: Vec<String>, mut addresses: Vec<IpAddr>) -> Self {
        dns_names.sort();
        dns_names.dedup();
        addresses.sort();
        addresses.dedup();
        Self { dns_names, addresses, usage: Usage::Server, ..Self::client(name, &[]) }
    }
}

/// A certificate with its key, both PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate_pem: String,
    /// Its PKCS #8 key.
    pub key_pem: String,
}

/// The authority.
pub struct CertificateAuthority {
    certificate_pem: String,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl CertificateAuthority {
    /// Opens the authority in `dir`, or makes it when there is none.
    pub fn open(dir: &Path, now: Timestamp) -> Result<Self, PkiError> {
        let certificate_path = dir.join("ca.crt");
        let key_path = dir.join("ca.key");
        match (files::read(&certificate_path)?, files::read(&key_path)?) {
            (Some(certificate), Some(key)) => Self::from_pem(&certificate, &key)
                .map_err(|why| PkiError::Damaged { path: certificate_path, why: why.to_string() }),
            // The certificate is written last: without it nobody has seen the
            // key, so a key alone is the rest of a start that was cut short.
            (None, _) => {
                let made = Self::generate(now)?;
                files::write(&key_path, made.key_pem.as_bytes(), Access::Private)?;
                files::write(&certificate_path, made.certificate_pem.as_bytes(), Access::Public)?;
                Self::from_pem(&made.certificate_pem, &made.key_pem)
            }
            (Some(_), None) => {
                Err(PkiError::Damaged { path: key_path, why: "the file is missing".to_owned() })
            }
        }
    }

    /// Reads an authority from its two PEM texts and checks that they match.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(key_pem)?;
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|error| PkiError::Certificate(error.to_string()))?;
        let parsed = parse(&certificate)?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(PkiError::Certificate("the key does not belong to it".to_owned()));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self { certificate_pem: certificate_pem.to_owned(), certificate, issuer })
    }

    /// Makes the two PEM texts of a new authority.
    pub fn generate(now: Timestamp) -> Result<Issued, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("skiff-ca@{}", now.as_second()));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
        ];
        // A day of slack: the first node's clock may lag the master's.
        params.not_before = std::time::SystemTime::from(now - DAY).into();
        params.not_after = std::time::SystemTime::from(now + CA_VALIDITY).into();
        params.serial_number = Some(serial());
        let certificate = params.self_signed(&key)?;
        Ok(Issued { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// The authority's certificate as PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The authority's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Makes a key and a certificate over it.
    pub fn issue(&self, leaf: &Leaf, now: Timestamp) -> Result<Issued, PkiError> {
        let key = KeyPair::generate()?;
        let certificate = params(leaf, now)?.signed_by(&key, &self.issuer)?;
        Ok(Issued { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// Signs somebody else's public key. Of the request only the key is used;
    /// everything the certificate says comes from `leaf`.
    pub fn sign(
        &self,
        request: rcgen::CertificateSigningRequestParams,
        leaf: &Leaf,
        now: Timestamp,
    ) -> Result<String, PkiError> {
        let request = rcgen::CertificateSigningRequestParams {
            params: params(leaf, now)?,
            public_key: request.public_key,
        };
        Ok(request.signed_by(&self.issuer)?.pem())
    }

    /// Why `certificate_pem` does not do for `desired`, or `None` if it does:
    /// it must be ours, say the same, and have a third of its life left.
    pub fn misfit(&self, certificate_pem: &str, desired: &Leaf, now: Timestamp) -> Option<String> {
        let observed = match self.inspect(certificate_pem) {
            Ok(observed) => observed,
            Err(why) => return Some(why.to_string()),
        };
        let leaf = Leaf { validity: desired.validity, ..observed.leaf };
        if leaf != *desired {
            return Some("names differ".to_owned());
        }
        let lifetime = observed.not_after.duration_since(observed.not_before);
        let left = observed.not_after.duration_since(now);
        (left < lifetime / 3).then(|| "less than a third of its validity is left".to_owned())
    }

    fn inspect(&self, certificate_pem: &str) -> Result<Observed, PkiError> {
        let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|error| PkiError::Certificate(error.to_string()))?;
        let certificate = parse(&der)?;
        certificate
            .verify_signature(Some(parse(&self.certificate)?.public_key()))
            .map_err(|_| PkiError::Certificate("another authority signed it".to_owned()))?;
        observe(&certificate)
    }
}

/// What a certificate says.
struct Observed {
    leaf: Leaf,
    not_before: Timestamp,
    not_after: Timestamp,
}

fn observe(certificate: &X509Certificate<'_>) -> Result<Observed, PkiError> {
    let subject = subject(certificate)?;
    let unreadable =
        |error: x509_parser::error::X509Error| PkiError::Certificate(error.to_string());
    let mut dns_names = Vec::new();
    let mut addresses = Vec::new();
    if let Some(names) = certificate.subject_alternative_name().map_err(unreadable)? {
        for name in &names.value.general_names {
            match name {
                GeneralName::DNSName(name) => dns_names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => addresses.extend(address(bytes)),
                _ => {}
            }
        }
    }
    dns_names.sort();
    addresses.sort();
    let server = certificate
        .extended_key_usage()
        .map_err(unreadable)?
        .is_some_and(|usage| usage.value.server_auth);
    let time = |at: x509_parser::time::ASN1Time| {
        Timestamp::from_second(at.timestamp())
            .map_err(|error| PkiError::Certificate(error.to_string()))
    };
    Ok(Observed {
        leaf: Leaf {
            common_name: subject.common_name,
            organizations: subject.organizations,
            dns_names,
            addresses,
            usage: if server { Usage::Server } else { Usage::Client },
            validity: Duration::ZERO,
        },
        not_before: time(certificate.validity().not_before)?,
        not_after: time(certificate.validity().not_after)?,
    })
}

/// The parts of a subject that Kubernetes reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The user.
    pub common_name: String,
    /// The groups.
    pub organizations: Vec<String>,
}

/// Reads a certificate's subject.
pub fn subject(certificate: &X509Certificate<'_>) -> Result<Subject, PkiError> {
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        attribute
            .as_str()
            .map(str::to_owned)
            .map_err(|_| PkiError::Certificate("its subject is not text".to_owned()))
    };
    let subject = certificate.subject();
    Ok(Subject {
        common_name: subject.iter_common_name().next().map(text).transpose()?.unwrap_or_default(),
        organizations: subject.iter_organization().map(text).collect::<Result<_, _>>()?,
    })
}

/// Reads a certificate.
pub fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, PkiError> {
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|error| PkiError::Certificate(error.to_string()))?;
    if rest.is_empty() {
        Ok(certificate)
    } else {
        Err(PkiError::Certificate("something follows it".to_owned()))
    }
}

fn params(leaf: &Leaf, now: Timestamp) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // rcgen keeps one value for each type of attribute. Signing for one of two
    // groups would quietly make another certificate than the one asked for.
    match leaf.organizations.as_slice() {
        [] => {}
        [one] => params.distinguished_name.push(DnType::OrganizationName, one.as_str()),
        _ => return Err(PkiError::Unsupported("more than one organization")),
    }
    params.distinguished_name.push(DnType::CommonName, leaf.common_name.as_str());
    for name in &leaf.dns_names {
        params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
    }
    params.subject_alt_names.extend(leaf.addresses.iter().copied().map(SanType::IpAddress));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![match leaf.usage {
        Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
        Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    params.use_authority_key_identifier_extension = true;
    params.not_before = std::time::SystemTime::from(now - BACKDATE).into();
    params.not_after = std::time::SystemTime::from(now + leaf.validity).into();
    params.serial_number = Some(serial());
    Ok(params)
}

/// 127 random bits: unique without a counter to keep.
fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] &= 0x7f;
    SerialNumber::from_slice(&bytes)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn authority() -> CertificateAuthority {
        let made = CertificateAuthority::generate(now()).unwrap();
        CertificateAuthority::from_pem(&made.certificate_pem, &made.key_pem).unwrap()
    }

    fn server() -> Leaf {
        Leaf::server(
            "kube-apiserver",
            vec!["localhost".into(), "a.example".into()],
            vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
        )
    }

    #[test]
    fn a_leaf_is_kept_until_it_misfits() {
        let ca = authority();
        let issued = ca.issue(&server(), now()).unwrap();
        let moved = Leaf { addresses: vec!["10.0.0.9".parse().unwrap()], ..server() };
        let old = now() + LEAF_VALIDITY / 2;
        let late = now() + LEAF_VALIDITY / 4 * 3;
        let cases = [
            ("fresh", &ca, server(), now(), true),
            ("half of its life", &ca, server(), old, true),
            ("last third", &ca, server(), late, false),
            ("expired", &ca, server(), now() + LEAF_VALIDITY * 2, false),
            ("address changed", &ca, moved, now(), false),
            ("other usage", &ca, Leaf { usage: Usage::Client, ..server() }, now(), false),
            ("another authority", &authority(), server(), now(), false),
        ];
        for (name, ca, desired, now, fits) in cases {
            let misfit = ca.misfit(&issued.certificate_pem, &desired, now);
            assert_eq!(misfit.is_none(), fits, "{name}: {misfit:?}");
        }
    }

    #[test]
    fn the_subject_is_user_and_group() {
        let ca = authority();
        let issued = ca.issue(&Leaf::client("jane", &["dev"]), now()).unwrap();
        let der = CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap();
        let subject = subject(&parse(&der).unwrap()).unwrap();
        assert_eq!(subject.common_name, "jane");
        assert_eq!(subject.organizations, ["dev"]);
        assert!(ca.issue(&Leaf::client("jane", &["dev", "ops"]), now()).is_err());
    }

    #[test]
    fn the_authority_is_made_once_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let first = CertificateAuthority::open(dir.path(), now()).unwrap();
        let again = CertificateAuthority::open(dir.path(), now()).unwrap();
        assert_eq!(first.certificate_pem(), again.certificate_pem());

        let other = CertificateAuthority::generate(now()).unwrap();
        std::fs::write(dir.path().join("ca.key"), other.key_pem).unwrap();
        assert!(CertificateAuthority::open(dir.path(), now()).is_err(), "a foreign key");
        std::fs::remove_file(dir.path().join("ca.key")).unwrap();
        assert!(CertificateAuthority::open(dir.path(), now()).is_err(), "no key");
    }
}
