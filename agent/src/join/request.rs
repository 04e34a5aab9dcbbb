//! Certificates by CertificateSigningRequest: make a key, ask, wait by watch.

use std::time::Duration;

use k8s_openapi::{
    ByteString,
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec},
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
    runtime::wait::await_condition,
};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use tokio::time::Instant;

/// The server signs at once unless it will not.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A server that has just started may not know yet what it grants to whom.
const WARM_UP: Duration = Duration::from_secs(10);
/// Wait between two tries meanwhile.
const RETRY: Duration = Duration::from_millis(200);

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To act as the node.
    Client,
    /// To be the agent's server.
    Serving,
}

/// A certificate with its key.
pub(crate) struct Issued {
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: String,
}

/// Why a certificate was not given.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The server refused the request itself.
    #[error("the server refused the request for a certificate: {0}")]
    Refused(#[source] Box<kube::Error>),
    /// The request was denied or cannot be signed.
    #[error("the certificate was not given: {0}")]
    Denied(String),
    /// Nobody has signed it.
    #[error("request {0} was not signed in time; see kubectl get csr")]
    TimedOut(String),
    /// Watching it failed.
    #[error("waiting for the certificate failed: {0}")]
    Wait(String),
    /// Key or request cannot be made.
    #[error("cannot make a key and a request: {0}")]
    Generate(#[from] rcgen::Error),
}

/// A serving certificate for the node's name. The API server dials agents by
/// address but knows them by name, so a new address needs no new certificate.
pub(crate) async fn obtain_serving(client: &Client, node: &str) -> Result<Issued, RequestError> {
    obtain(client, node, Purpose::Serving).await
}

/// A certificate by which the node calls other nodes.
pub(crate) async fn obtain_client(client: &Client, node: &str) -> Result<Issued, RequestError> {
    obtain(client, node, Purpose::Client).await
}

pub(super) async fn obtain(
    client: &Client,
    node: &str,
    purpose: Purpose,
) -> Result<Issued, RequestError> {
    let key = KeyPair::generate()?;
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let refused = |error| RequestError::Refused(Box::new(error));
    let request = request(&key, node, purpose)?;
    let give_up = Instant::now() + WARM_UP;
    let created = loop {
        match api.create(&PostParams::default(), &request).await {
            Err(error) if may_pass(&error) && Instant::now() < give_up => {
                tokio::time::sleep(RETRY).await;
            }
            other => break other.map_err(refused)?,
        }
    };
    let name = created.metadata.name.unwrap_or_default();
    let decided = |request: Option<&CertificateSigningRequest>| {
        request.is_none_or(|request| outcome(request).is_some())
    };
    let decided = tokio::time::timeout(TIMEOUT, await_condition(api, &name, decided))
        .await
        .map_err(|_| RequestError::TimedOut(name))?
        .map_err(|error| RequestError::Wait(error.to_string()))?;
    match decided.as_ref().and_then(outcome) {
        Some(Ok(certificate_pem)) => Ok(Issued { certificate_pem, key_pem: key.serialize_pem() }),
        Some(Err(why)) => Err(RequestError::Denied(why)),
        None => Err(RequestError::Denied("the request was deleted".to_owned())),
    }
}

/// Whether the same request may be welcome a moment later.
fn may_pass(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 403 | 429 | 500..))
}

fn request(
    key: &KeyPair,
    node: &str,
    purpose: Purpose,
) -> Result<CertificateSigningRequest, rcgen::Error> {
    let (signer, usage, names) = match purpose {
        Purpose::Client => {
            ("kubernetes.io/kube-apiserver-client-kubelet", "client auth", Vec::new())
        }
        Purpose::Serving => ("kubernetes.io/kubelet-serving", "server auth", vec![node.to_owned()]),
    };
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
    let pem = params.serialize_request(key)?.pem()?;
    Ok(CertificateSigningRequest {
        metadata: ObjectMeta {
            generate_name: Some("node-csr-".to_owned()),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: signer.to_owned(),
            usages: Some(vec!["digital signature".to_owned(), usage.to_owned()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    })
}

/// The certificate, or why there will be none; `None` while undecided.
fn outcome(request: &CertificateSigningRequest) -> Option<Result<String, String>> {
    let status = request.status.as_ref()?;
    if let Some(certificate) = &status.certificate {
        return Some(String::from_utf8(certificate.0.clone()).map_err(|error| error.to_string()));
    }
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let refused =
        conditions.iter().find(|one| matches!(one.type_.as_str(), "Denied" | "Failed"))?;
    Some(Err(refused.message.clone().unwrap_or_else(|| refused.type_.clone())))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::certificates::v1::CertificateSigningRequestCondition as Condition;

    use super::*;

    #[test]
    fn requests_are_decided_by_status() {
        let key = KeyPair::generate().unwrap();
        let mut request = request(&key, "n1", Purpose::Serving).unwrap();
        assert_eq!(outcome(&request), None);
        let condition = |kind: &str| Condition {
            type_: kind.to_owned(),
            message: Some("why".to_owned()),
            ..Condition::default()
        };
        request.status.get_or_insert_default().conditions = Some(vec![condition("Approved")]);
        assert_eq!(outcome(&request), None);
        request.status.get_or_insert_default().conditions = Some(vec![condition("Denied")]);
        assert_eq!(outcome(&request), Some(Err("why".to_owned())));
        request.status.get_or_insert_default().certificate = Some(ByteString(b"pem".to_vec()));
        assert_eq!(outcome(&request), Some(Ok("pem".to_owned())));
    }
}
