//! The join token: `skiff1.<pin>.<id>.<secret>`.

use std::str::FromStr;

use super::identity;

/// A token as it was given.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    pin: String,
    id: String,
    secret: String,
}

/// What is wrong with a token. Says nothing of its content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It was made for another version.
    #[error("the token is of a version that this agent does not know")]
    Version,
    /// A part is missing, cut off or too long.
    #[error("the token is incomplete; copy all of what skiff token create printed")]
    Shape,
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let parts: Vec<&str> = text.trim().split('.').collect();
        let [version, pin, id, secret] = parts.as_slice() else { return Err(TokenError::Shape) };
        if *version != "skiff1" {
            return Err(TokenError::Version);
        }
        let hex = pin.len() == 64 && pin.bytes().all(|byte| byte.is_ascii_hexdigit());
        let plain = |text: &str, length| {
            text.len() == length
                && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        if !hex || !plain(id, 6) || !plain(secret, 16) {
            return Err(TokenError::Shape);
        }
        Ok(Self {
            pin: pin.to_ascii_lowercase(),
            id: (*id).to_owned(),
            secret: (*secret).to_owned(),
        })
    }
}

impl JoinToken {
    /// Whether a certificate is the pinned one.
    pub(super) fn pins(&self, certificate: &[u8]) -> bool {
        use sha2::{Digest, Sha256};
        let digest = Sha256::digest(certificate);
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        hex == self.pin
    }

    /// Whether an authority is the pinned one.
    pub(super) fn is_for(&self, ca_pem: &str) -> bool {
        identity::der(ca_pem).is_ok_and(|der| self.pins(&der))
    }

    /// What the server gets to see.
    pub(super) fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_whole_or_refused() {
        let pin = "ab".repeat(32);
        let good = format!("skiff1.{pin}.abcdef.0123456789abcdef");
        let token: JoinToken = format!(" {good}\n").parse().unwrap();
        assert_eq!(token.bearer(), "abcdef.0123456789abcdef");
        let cases = [
            (String::new(), TokenError::Shape),
            ("abcdef.0123456789abcdef".to_owned(), TokenError::Shape),
            (good.replace("skiff1", "skiff2"), TokenError::Version),
            (good[..good.len() - 1].to_owned(), TokenError::Shape),
            (good.replace(&pin, "xyz"), TokenError::Shape),
            (good.replace("abcdef.", "ABCDEF."), TokenError::Shape),
            (format!("{good}.more"), TokenError::Shape),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<JoinToken>().err(), Some(error), "{text}");
        }
    }
}
