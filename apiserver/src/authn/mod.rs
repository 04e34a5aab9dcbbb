//! Authentication: who sends this request?
//!
//! In order: the client certificate of the connection, then the bearer token
//! (ServiceAccount, then bootstrap). Whoever shows nothing is
//! `system:anonymous`; whoever shows something that does not hold is answered
//! 401, never let through as anonymous.
//!
//! Reads ServiceAccounts, Pods, Nodes and Secrets from the store at every
//! request: a deleted account is locked out at once. What is remembered between
//! requests is only what cannot change, the signature of a token.

pub mod bootstrap_token;
pub mod impersonation;
pub mod objects;
mod service_account;
pub mod token_request;
pub mod token_review;

use std::sync::Arc;

use http::{HeaderMap, header};
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;

use crate::{
    pki::{Pki, ca, tls::ClientVerifier},
    status::ApiError,
    user::UserInfo,
};
use objects::Objects;
use service_account::VerifiedTokens;

/// Group of everybody who proved who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Group of everybody who did not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// User of everybody who did not.
pub const ANONYMOUS: &str = "system:anonymous";

/// What the connection says about its client. Made once per connection.
#[derive(Debug, Clone, Default)]
pub enum Peer {
    /// No certificate was shown.
    #[default]
    Unknown,
    /// The authority vouches for this user.
    Certificate {
        /// Common name and organizations.
        user: UserInfo,
        /// A connection may outlive its certificate.
        not_after: Timestamp,
    },
    /// A certificate was shown that does not hold.
    Refused,
}

impl Peer {
    /// Reads the certificates of a finished handshake.
    pub fn new(verifier: &ClientVerifier, chain: Option<&[CertificateDer<'_>]>) -> Self {
        let Some(chain) = chain.filter(|chain| !chain.is_empty()) else { return Self::Unknown };
        match Self::read(verifier, chain) {
            Ok(peer) => peer,
            Err(error) => {
                tracing::debug!(%error, "client certificate refused");
                Self::Refused
            }
        }
    }

    fn read(
        verifier: &ClientVerifier,
        chain: &[CertificateDer<'_>],
    ) -> Result<Self, crate::pki::PkiError> {
        verifier.verify(chain, Timestamp::now())?;
        let certificate = ca::parse(&chain[0])?;
        let subject = ca::subject(&certificate)?;
        if subject.common_name.is_empty() {
            return Err(crate::pki::PkiError::Certificate("it names no user".to_owned()));
        }
        let not_after = Timestamp::from_second(certificate.validity().not_after.timestamp())
            .unwrap_or(Timestamp::MIN);
        let user = UserInfo {
            name: subject.common_name,
            groups: subject.organizations,
            ..UserInfo::default()
        };
        Ok(Self::Certificate { user, not_after })
    }
}

/// Finds out who sends a request.
pub struct Authenticator {
    objects: Objects,
    pki: Arc<Pki>,
    issuer: String,
    verified: VerifiedTokens,
}

impl Authenticator {
    /// Checks certificates and tokens against `pki` and live objects.
    pub fn new(objects: Objects, pki: Arc<Pki>, cluster_domain: &str) -> Self {
        let issuer = format!("https://kubernetes.default.svc.{cluster_domain}");
        Self { objects, pki, issuer, verified: VerifiedTokens::default() }
    }

    /// The issuer of ServiceAccount tokens, which is also the audience that
    /// the API server itself answers to.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Who sends a request with these headers over a connection of `peer`.
    /// Impersonation comes after, see [`impersonation`].
    pub fn authenticate(&self, headers: &HeaderMap, peer: &Peer) -> Result<UserInfo, ApiError> {
        self.authenticate_at(headers, peer, Timestamp::now())
    }

    fn authenticate_at(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
        now: Timestamp,
    ) -> Result<UserInfo, ApiError> {
        if let Peer::Certificate { user, not_after } = peer
            && now <= *not_after
        {
            return Ok(authenticated(user.clone()));
        }
        if let Some(token) = bearer(headers)? {
            return self
                .token(token, &[self.issuer.as_str()], now)
                .map(|(user, _)| authenticated(user))
                .ok_or_else(ApiError::unauthorized);
        }
        match peer {
            Peer::Unknown => Ok(UserInfo::new(ANONYMOUS, [UNAUTHENTICATED])),
            Peer::Certificate { .. } | Peer::Refused => Err(ApiError::unauthorized()),
        }
    }

    /// The user behind a token and those of `audiences` that it is meant for.
    fn token(
        &self,
        token: &str,
        audiences: &[&str],
        now: Timestamp,
    ) -> Option<(UserInfo, Vec<String>)> {
        if let Some(found) = self.service_account(token, audiences, now) {
            return Some(found);
        }
        // A bootstrap token knows no audiences; it is meant for this server.
        let user = bootstrap_token::authenticate(&self.objects, token, now)?;
        audiences.contains(&self.issuer.as_str()).then(|| (user, vec![self.issuer.clone()]))
    }

    /// The document at `/.well-known/openid-configuration`.
    pub fn openid_configuration(&self) -> serde_json::Value {
        serde_json::json!({
            "issuer": self.issuer,
            "jwks_uri": format!("{}/openid/v1/jwks", self.issuer),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    /// The document at `/openid/v1/jwks`.
    pub fn jwks(&self) -> serde_json::Value {
        self.pki.service_account().jwks()
    }
}

fn authenticated(mut user: UserInfo) -> UserInfo {
    if !user.in_group(AUTHENTICATED) {
        user.groups.push(AUTHENTICATED.to_owned());
    }
    user
}

/// The bearer token of a request. Another scheme, or none that can be read, is
/// no credential for us, as upstream has it; a bearer token that is not text
/// is a bad one.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let text = value.to_str().map_err(|_| ApiError::unauthorized())?;
    let Some((scheme, token)) = text.trim().split_once(' ') else { return Ok(None) };
    let token = token.trim();
    Ok((scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token))
}

#[cfg(test)]
mod tests;
