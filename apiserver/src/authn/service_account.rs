//! ServiceAccount tokens: a signed statement, checked against what lives now.
//!
//! The signature of a token never changes, so it is checked once and the
//! claims are remembered under the token's digest. Expiry, the account and the
//! pod the token is bound to are looked at every time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Authenticator, objects::Objects};
use crate::user::UserInfo;

/// Distinct tokens remembered; when full all are forgotten and checked again.
const REMEMBERED: usize = 4096;

/// Claims of a ServiceAccount token.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Claims {
    iss: String,
    sub: String,
    aud: Vec<String>,
    exp: i64,
    #[serde(default)]
    nbf: i64,
    #[serde(default)]
    jti: String,
    #[serde(rename = "kubernetes.io")]
    bound: Bound,
}

#[derive(Debug, Clone, Deserialize)]
struct Bound {
    namespace: String,
    serviceaccount: Ref,
    pod: Option<Ref>,
    node: Option<Ref>,
    secret: Option<Ref>,
}

#[derive(Debug, Clone, Deserialize)]
struct Ref {
    name: String,
    uid: String,
}

/// Tokens whose signature held.
#[derive(Default)]
pub(super) struct VerifiedTokens(Mutex<HashMap<[u8; 32], Arc<Claims>>>);

impl Authenticator {
    /// The account behind a token and those of `audiences` it is meant for.
    pub(super) fn service_account(
        &self,
        token: &str,
        audiences: &[&str],
        now: Timestamp,
    ) -> Option<(UserInfo, Vec<String>)> {
        let claims = self.claims(token)?;
        let meant: Vec<String> = claims
            .aud
            .iter()
            .filter(|audience| audiences.contains(&audience.as_str()))
            .cloned()
            .collect();
        let user = check(&claims, &self.issuer, now, &self.objects)?;
        (!meant.is_empty()).then_some((user, meant))
    }

    fn claims(&self, token: &str) -> Option<Arc<Claims>> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let known = |tokens: &VerifiedTokens| {
            tokens.0.lock().unwrap_or_else(PoisonError::into_inner).get(&digest).cloned()
        };
        if let Some(claims) = known(&self.verified) {
            return Some(claims);
        }
        let claims: Value = self.pki.service_account().verify(token)?;
        let claims: Arc<Claims> = Arc::new(serde_json::from_value(claims).ok()?);
        let mut tokens = self.verified.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= REMEMBERED {
            tokens.clear();
        }
        tokens.insert(digest, Arc::clone(&claims));
        Some(claims)
    }
}

/// Whether the claims hold now, and for whom.
fn check(claims: &Claims, issuer: &str, now: Timestamp, objects: &Objects) -> Option<UserInfo> {
    let Bound { namespace, serviceaccount, pod, node, secret } = &claims.bound;
    let seconds = now.as_second();
    let name = format!("system:serviceaccount:{namespace}:{}", serviceaccount.name);
    if claims.iss != issuer || claims.sub != name || claims.exp <= seconds || claims.nbf > seconds {
        return None;
    }
    let lives = |resource: &str, namespace: &str, wanted: &Ref| {
        let object = objects.get("", resource, namespace, &wanted.name)?;
        (object["metadata"]["uid"] == wanted.uid.as_str()).then_some(())
    };
    lives("serviceaccounts", namespace, serviceaccount)?;
    for (resource, bound) in [("pods", pod), ("secrets", secret)] {
        if let Some(bound) = bound {
            lives(resource, namespace, bound)?;
        }
    }
    // A pod's token names its node as well, for information; the pod decides.
    if let (Some(node), None) = (node, pod) {
        lives("nodes", "", node)?;
    }

    let mut user = UserInfo { name, uid: serviceaccount.uid.clone(), ..UserInfo::default() };
    user.groups =
        vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
    let mut attach = |key: &str, value: String| {
        user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
    };
    if !claims.jti.is_empty() {
        attach("credential-id", format!("JTI={}", claims.jti));
    }
    for (kind, bound) in [("pod", pod), ("node", node)] {
        if let Some(bound) = bound {
            attach(&format!("{kind}-name"), bound.name.clone());
            attach(&format!("{kind}-uid"), bound.uid.clone());
        }
    }
    Some(user)
}
