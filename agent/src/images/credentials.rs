//! Who a node says it is to a registry: the secrets of kind `dockerconfigjson`
//! and `dockercfg` that a pod brings.
//!
//! An entry is for a registry, or for a part of it where it names a path. Parts
//! of the host's name may be patterns, as in `*.example.com`; see "Interpretation
//! of config.json" in Kubernetes' page on images.

use std::sync::Arc;

use base64::Engine as _;
use k8s_openapi::api::core::v1::Secret;

use super::access::PullSecret;
use super::name::split_registry;
use crate::runtime::Credentials;

/// The entries of `secrets` that are meant for the image; those for the longest
/// path first.
pub fn pull_secrets(image: &str, secrets: &[Arc<Secret>]) -> Vec<PullSecret> {
    let (registry, path) = split_registry(image);
    let registry = registry.unwrap_or(DOCKER_HUB);
    let mut found = Vec::new();
    for secret in secrets {
        let data = secret.data.as_ref();
        let configs = [(".dockerconfigjson", true), (".dockercfg", false)];
        for (key, wrapped) in configs {
            let Some(bytes) = data.and_then(|data| data.get(key)) else { continue };
            // A secret that is no JSON holds no credentials.
            let Ok(config) = serde_json::from_slice::<serde_json::Value>(&bytes.0) else {
                continue;
            };
            let entries = if wrapped { &config["auths"] } else { &config };
            for (server, entry) in entries.as_object().into_iter().flatten() {
                let (host, part) = meant_by(server);
                if is_host(host, registry)
                    && path.starts_with(part)
                    && let Some(credentials) = entry_credentials(server, entry)
                {
                    let uid = secret.metadata.uid.clone().unwrap_or_default();
                    found.push((part.len(), PullSecret { uid, credentials }));
                }
            }
        }
    }
    found.sort_by_key(|(part, _)| std::cmp::Reverse(*part));
    found.into_iter().map(|(_, secret)| secret).collect()
}

/// Where images are whose name says nothing else.
const DOCKER_HUB: &str = "docker.io";

/// The host and the path that an entry is for. Docker Hub has several
/// spellings, and some clients add the version of the registry's API.
fn meant_by(server: &str) -> (&str, &str) {
    let server = server.trim_start_matches("https://").trim_start_matches("http://");
    let (host, path) = server.split_once('/').unwrap_or((server, ""));
    let path = match path.split_once('/').unwrap_or((path, "")) {
        ("v1" | "v2", rest) => rest,
        _ => path,
    };
    let hub = matches!(host, "index.docker.io" | "registry-1.docker.io" | DOCKER_HUB);
    (if hub { DOCKER_HUB } else { host }, path.trim_matches('/'))
}

/// Whether `host` is the one of `pattern`: part by part, with the same port.
fn is_host(pattern: &str, host: &str) -> bool {
    let (pattern, wanted) = pattern.split_once(':').unwrap_or((pattern, ""));
    let (host, port) = host.split_once(':').unwrap_or((host, ""));
    let (patterns, parts) = (pattern.split('.'), host.split('.'));
    wanted == port
        && patterns.clone().count() == parts.clone().count()
        && patterns.zip(parts).all(|(pattern, part)| fits(pattern, part))
}

/// Whether `text` is what `pattern` says, in which `*` is any text and `?` any
/// character. Goes back to the last `*` alone, so no pattern takes long.
fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut read) = (0, 0);
    // Where to go on when what follows the last `*` does not fit.
    let mut again = None;
    while read < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                at += 1;
                again = Some((at, read + 1));
            }
            Some(one) if *one == b'?' || *one == text[read] => {
                at += 1;
                read += 1;
            }
            _ => match again {
                None => return false,
                Some((after_star, from)) => {
                    (at, read) = (after_star, from);
                    again = Some((after_star, from + 1));
                }
            },
        }
    }
    pattern[at..].iter().all(|one| *one == b'*')
}

fn entry_credentials(server: &str, entry: &serde_json::Value) -> Option<Credentials> {
    let text = |key: &str| entry[key].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let (username, password) = match (text("username"), text("password")) {
        (Some(username), Some(password)) => (username, password),
        _ => {
            let decoded = base64::engine::general_purpose::STANDARD.decode(text("auth")?).ok()?;
            let decoded = String::from_utf8(decoded).ok()?;
            let (username, password) = decoded.split_once(':')?;
            (username.to_owned(), password.to_owned())
        }
    };
    Some(Credentials { username, password, registry: server.to_owned() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn credentials_are_for_the_right_registry() {
        let user = |name: &str| json!({"username": name, "password": "b"});
        let config = json!({"auths": {
            "https://index.docker.io/v1/": {"auth": "dTpw"},
            "reg.example:5000": user("a"),
            "reg.example:5000/team": user("team"),
            "*.pattern.example": user("any"),
            "eu?.pattern.example": user("eu"),
            "https://old.example/v2/": user("old"),
            "broken.example": {"auth": "no base64!"},
        }});
        let secret: Secret = Secret {
            data: Some(
                [(
                    ".dockerconfigjson".to_owned(),
                    k8s_openapi::ByteString(config.to_string().into_bytes()),
                )]
                .into(),
            ),
            ..Secret::default()
        };
        let secrets = [Arc::new(secret)];
        let cases: [(&str, &[&str]); 10] = [
            ("redis", &["u"]),
            ("docker.io/library/redis:7", &["u"]),
            ("reg.example:5000/x:1", &["a"]),
            ("reg.example:5000/team/x:1", &["team", "a"]),
            ("reg.example/x:1", &[]),
            ("eu1.pattern.example/x", &["any", "eu"]),
            ("a.b.pattern.example/x", &[]),
            ("old.example/x", &["old"]),
            ("broken.example/x", &[]),
            ("other.example/x", &[]),
        ];
        for (image, users) in cases {
            let found = pull_secrets(image, &secrets);
            let found: Vec<_> = found.iter().map(|one| one.credentials.username.as_str()).collect();
            assert_eq!(found, users, "{image}");
        }
    }

    #[test]
    fn patterns_are_read_as_in_shells() {
        let many = "*a".repeat(40);
        let cases = [
            ("eu", "eu", true),
            ("eu", "eu1", false),
            ("eu?", "eu", false),
            ("*", "", true),
            ("e*1", "eu-11", true),
            ("e*1*", "eu-1-x", true),
            ("e*2", "eu-1", false),
            (many.as_str(), &"a".repeat(60), true),
            (many.as_str(), &"ab".repeat(60), false),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
    }
}
