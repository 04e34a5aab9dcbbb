//! Join tokens: what a machine needs to become a node, in one line.
//!
//! ```text
//! skiff1.<SHA-256 of the CA certificate>.<id>.<secret>
//! ```
//!
//! The pin lets the machine recognise the server, id and secret let the server
//! recognise the machine. Id and secret are an upstream bootstrap token, kept
//! as the Secret `kube-system/bootstrap-token-<id>`.

use std::{collections::BTreeMap, fmt, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Client,
    api::{DeleteParams, ListParams, ObjectMeta, PostParams},
};
use rand::Rng;
use skiff_client::Api;

use crate::authn::bootstrap_token::{NAMESPACE, SECRET_TYPE};

/// How long a token lives when nothing else is asked for.
pub const DEFAULT_TTL: Duration = Duration::from_secs(24 * 3600);

const PREFIX: &str = "bootstrap-token-";
const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;

/// A token with its secret, as `skiff token create` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The pin; see [`crate::pki::pin`].
    pub ca_pin: String,
    /// The public half.
    pub id: String,
    /// The secret half.
    pub secret: String,
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "skiff1.{}.{}.{}", self.ca_pin, self.id, self.secret)
    }
}

/// A token without its secret, as lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenInfo {
    /// The public half.
    pub id: String,
    /// When it ends; `None` is never.
    pub expires: Option<Timestamp>,
    /// What it is for.
    pub description: String,
}

/// What a token lets a machine become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A node.
    Node,
    /// A master: it gets the cluster's keys.
    Master,
}

/// Group of those who show a token for masters.
pub const MASTERS_GROUP: &str = "system:bootstrappers:skiff-masters";

/// Makes a token for nodes, of the cluster whose authority has the pin `ca_pin`.
/// A `ttl` of zero is for ever.
pub async fn create_token(
    client: &Client,
    ca_pin: &str,
    ttl: Duration,
) -> Result<JoinToken, kube::Error> {
    create_token_for(client, ca_pin, Purpose::Node, ttl).await
}

/// The same for any purpose.
pub async fn create_token_for(
    client: &Client,
    ca_pin: &str,
    purpose: Purpose,
    ttl: Duration,
) -> Result<JoinToken, kube::Error> {
    let token = JoinToken {
        ca_pin: ca_pin.to_owned(),
        id: random(ID_LENGTH),
        secret: random(SECRET_LENGTH),
    };
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let expires = (!ttl.is_zero()).then(|| Timestamp::now() + ttl);
    secrets.create(&PostParams::default(), &secret(&token, purpose, expires)).await?;
    Ok(token)
}

/// All tokens, expired ones included, by id.
pub async fn list_tokens(client: &Client) -> Result<Vec<TokenInfo>, kube::Error> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let fields = format!("type={SECRET_TYPE}");
    let found = secrets.list(&ListParams::default().fields(&fields)).await?;
    let mut tokens: Vec<TokenInfo> = found.into_iter().filter_map(|secret| info(&secret)).collect();
    tokens.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(tokens)
}

/// Ends a token, named by its id or given whole. Whether it was there.
pub async fn delete_token(client: &Client, token: &str) -> Result<bool, kube::Error> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let name = format!("{PREFIX}{}", id_of(token));
    match secrets.delete(&name, &DeleteParams::default()).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

fn id_of(token: &str) -> &str {
    match token.split('.').collect::<Vec<_>>().as_slice() {
        [_, _, id, _] => id,
        [id, _] => id,
        _ => token,
    }
}

fn secret(token: &JoinToken, purpose: Purpose, expires: Option<Timestamp>) -> Secret {
    let mut data = BTreeMap::new();
    let mut put = |key: &str, value: &str| {
        data.insert(key.to_owned(), ByteString(value.as_bytes().to_vec()));
    };
    put("token-id", &token.id);
    put("token-secret", &token.secret);
    put("usage-bootstrap-authentication", "true");
    put("usage-bootstrap-signing", "false");
    match purpose {
        Purpose::Node => put("description", "lets a machine join as a node"),
        Purpose::Master => {
            put("description", "lets a machine join as a master");
            put("auth-extra-groups", MASTERS_GROUP);
        }
    }
    if let Some(expires) = expires {
        // Whole seconds: other readers of such Secrets expect no more.
        let expires = Timestamp::from_second(expires.as_second()).unwrap_or(expires);
        put("expiration", &expires.to_string());
    }
    Secret {
        metadata: ObjectMeta {
            name: Some(format!("{PREFIX}{}", token.id)),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some(SECRET_TYPE.to_owned()),
        data: Some(data),
        ..Secret::default()
    }
}

fn info(secret: &Secret) -> Option<TokenInfo> {
    let id = secret.metadata.name.as_deref()?.strip_prefix(PREFIX)?.to_owned();
    let field = |key: &str| {
        let bytes = &secret.data.as_ref()?.get(key)?.0;
        String::from_utf8(bytes.clone()).ok()
    };
    Some(TokenInfo {
        id,
        expires: field("expiration").and_then(|text| text.parse().ok()),
        description: field("description").unwrap_or_default(),
    })
}

/// Random lower-case letters and digits.
fn random(length: usize) -> String {
    const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = rand::rng();
    (0..length).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_is_an_upstream_bootstrap_token() {
        let token =
            JoinToken { ca_pin: "ab".into(), id: random(ID_LENGTH), secret: random(SECRET_LENGTH) };
        let expires = "2026-01-01T00:00:00.5Z".parse().unwrap();
        let secret = secret(&token, Purpose::Master, Some(expires));
        assert_eq!(secret.type_.as_deref(), Some(SECRET_TYPE));
        let data = secret.data.as_ref().unwrap();
        assert_eq!(data["expiration"].0, b"2026-01-01T00:00:00Z");
        assert_eq!(data["token-secret"].0, token.secret.as_bytes());
        let info = info(&secret).unwrap();
        assert_eq!(info.id, token.id);
        assert_eq!(info.expires.unwrap().to_string(), "2026-01-01T00:00:00Z");
    }

    #[test]
    fn tokens_are_named_by_id_or_whole() {
        for text in ["abcdef", "abcdef.0123456789abcdef", "skiff1.00.abcdef.0123456789abcdef"] {
            assert_eq!(id_of(text), "abcdef");
        }
    }
}
