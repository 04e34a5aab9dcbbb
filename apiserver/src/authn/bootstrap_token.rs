//! Bootstrap tokens: the Secrets `bootstrap-token-ID` in kube-system with
//! which a machine asks to become a node.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use serde_json::Value;

use super::objects::Objects;
use crate::user::UserInfo;

/// Type of the Secret.
pub const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
/// Namespace of the Secret.
pub const NAMESPACE: &str = "kube-system";
/// Group of all who show a bootstrap token.
pub const GROUP: &str = "system:bootstrappers";

/// The user behind a bootstrap token.
pub(super) fn authenticate(objects: &Objects, token: &str, now: Timestamp) -> Option<UserInfo> {
    let (id, secret) = split(token)?;
    let object = objects.get("", "secrets", NAMESPACE, &format!("bootstrap-token-{id}"))?;
    check(&object, id, secret, now)
}

/// Splits `abcdef.0123456789abcdef`.
fn split(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    (id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret)).then_some((id, secret))
}

fn check(object: &Value, id: &str, secret: &str, now: Timestamp) -> Option<UserInfo> {
    let field = |key: &str| {
        let text = object["data"][key].as_str()?;
        String::from_utf8(BASE64.decode(text).ok()?).ok()
    };
    if object["type"] != SECRET_TYPE || !object["metadata"]["deletionTimestamp"].is_null() {
        return None;
    }
    // Comparing digests tells by its time nothing about the secret.
    let known = field("token-secret")?;
    let same =
        digest(&SHA256, known.as_bytes()).as_ref() == digest(&SHA256, secret.as_bytes()).as_ref();
    if field("token-id")? != id || !same {
        return None;
    }
    if let Some(expiration) = field("expiration") {
        // A time that nobody can read must not mean "for ever".
        let expires: Timestamp = expiration.parse().ok()?;
        if expires <= now {
            return None;
        }
    }
    if field("usage-bootstrap-authentication")? != "true" {
        return None;
    }
    let mut user = UserInfo::new(&format!("system:bootstrap:{id}"), [GROUP]);
    if let Some(groups) = field("auth-extra-groups") {
        for group in groups.split(',').map(str::trim).filter(|group| !group.is_empty()) {
            // Anything else could make a stranger a master.
            let suffix = group.strip_prefix("system:bootstrappers:")?;
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ":-".contains(c);
            if suffix.is_empty()
                || suffix.len() > 256
                || !suffix.chars().all(fits)
                || suffix.ends_with([':', '-'])
            {
                return None;
            }
            user.groups.push(group.to_owned());
        }
    }
    Some(user)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secret(changes: &[(&str, Option<&str>)]) -> Value {
        let mut data = serde_json::Map::new();
        let mut put = |key: &str, value: Option<&str>| match value {
            Some(value) => drop(data.insert(key.to_owned(), json!(BASE64.encode(value)))),
            None => drop(data.remove(key)),
        };
        put("token-id", Some("abcdef"));
        put("token-secret", Some("0123456789abcdef"));
        put("expiration", Some("2026-01-02T00:00:00Z"));
        put("usage-bootstrap-authentication", Some("true"));
        for (key, value) in changes {
            put(key, *value);
        }
        json!({ "type": SECRET_TYPE, "metadata": {}, "data": data })
    }

    #[test]
    fn only_a_living_token_with_the_right_secret_counts() {
        let right = "0123456789abcdef";
        let cases = [
            ("good", secret(&[]), right, true),
            ("never expires", secret(&[("expiration", None)]), right, true),
            (
                "extra group",
                secret(&[("auth-extra-groups", Some("system:bootstrappers:skiff"))]),
                right,
                true,
            ),
            ("wrong secret", secret(&[]), "0123456789abcdee", false),
            ("expired", secret(&[("expiration", Some("2025-12-31T23:59:59Z"))]), right, false),
            ("unreadable expiry", secret(&[("expiration", Some("soon"))]), right, false),
            ("other usage", secret(&[("usage-bootstrap-authentication", None)]), right, false),
            ("another id", secret(&[("token-id", Some("fedcba"))]), right, false),
            ("masters", secret(&[("auth-extra-groups", Some("system:masters"))]), right, false),
        ];
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        for (name, object, shown, good) in cases {
            let user = check(&object, "abcdef", shown, now);
            assert_eq!(user.is_some(), good, "{name}");
        }
        let opaque = json!({ "type": "Opaque", "metadata": {}, "data": secret(&[])["data"] });
        assert_eq!(check(&opaque, "abcdef", right, now), None);
    }

    #[test]
    fn tokens_have_one_shape() {
        assert!(split("abcdef.0123456789abcdef").is_some());
        for bad in
            ["", "abcdef", "abcdef.0123", "ABCDEF.0123456789abcdef", "abcde/.0123456789abcdef"]
        {
            assert_eq!(split(bad), None, "{bad}");
        }
    }
}
