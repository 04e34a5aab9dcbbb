//! Continue tokens: where the next page of a list starts and in which state.
//!
//! A token is opaque to clients and trusted with nothing: it names a key
//! relative to the prefix of the list it is presented to, so a forged one can
//! only skip objects that the client may read anyway.
//!
//! A list stays consistent for [`LIFETIME`]; its tokens say when it began, so
//! that every member gives up at the same time, however much it still knows.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::status::ApiError;

/// A decoded token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContinueToken {
    v: String,
    /// The revision of the first page; -1 goes on in the newest state.
    pub(crate) rv: i64,
    /// The first key of the next page, relative to the list's prefix.
    pub(crate) start: String,
    /// When the list began, in seconds.
    #[serde(default)]
    pub(crate) since: i64,
}

/// So long a list may take, as upstream's storage remembers. Clients count on
/// the end as on the beginning: the conformance test "should continue listing
/// from the last key if the original version has been compacted away" waits
/// for it, twice this long.
const LIFETIME: Duration = Duration::from_secs(300);

const VERSION: &str = "meta.k8s.io/v1";

impl ContinueToken {
    /// The token for a page that starts at `start` (relative to the prefix).
    /// of a list that began at `since`.
    pub(crate) fn at(start: &str, revision: i64, since: i64) -> Self {
        Self { v: VERSION.to_owned(), rv: revision, start: start.to_owned(), since }
    }

    /// Whether the list began too long ago to go on in the same state.
    pub(crate) fn is_stale(&self, now: Timestamp) -> bool {
        now.as_second().saturating_sub(self.since).unsigned_abs() > LIFETIME.as_secs()
    }

    /// The text that clients hand back.
    pub(crate) fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(
            serde_json::json!({"v": self.v, "rv": self.rv, "start": self.start, "since": self.since})
                .to_string(),
        )
    }

    /// Reads what a client handed back.
    pub(crate) fn decode(text: &str) -> Result<Self, ApiError> {
        let refuse = |why: &str| ApiError::bad_request(format!("continue key is not valid: {why}"));
        let json = URL_SAFE_NO_PAD.decode(text).map_err(|err| refuse(&err.to_string()))?;
        let token: Self = serde_json::from_slice(&json).map_err(|err| refuse(&err.to_string()))?;
        if token.v != VERSION {
            return Err(refuse(&format!(
                "server does not recognize this encoded version {:?}",
                token.v
            )));
        }
        if token.rv == 0 || token.rv < -1 {
            return Err(refuse("incorrect encoded start resourceVersion"));
        }
        if token.start.is_empty() || token.start.starts_with('/') || token.start.contains("..") {
            return Err(refuse("encoded start key is empty or leaves the list"));
        }
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back() {
        let token = ContinueToken::at("default/a", 42, 1_000);
        assert_eq!(ContinueToken::decode(&token.encode()).unwrap(), token);
    }

    #[test]
    fn a_list_may_take_five_minutes() {
        let token = ContinueToken::at("default/a", 42, 1_000);
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        for (seconds, stale) in [(1_000, false), (1_300, false), (1_301, true), (600, true)] {
            assert_eq!(token.is_stale(at(seconds)), stale, "{seconds}");
        }
    }

    #[test]
    fn forged_tokens_are_refused() {
        let forge = |json: &str| URL_SAFE_NO_PAD.encode(json);
        let cases = [
            "%%%".to_owned(),
            forge("x"),
            forge(r#"{"v":"v0","rv":1,"start":"a"}"#),
            forge(r#"{"v":"meta.k8s.io/v1","rv":0,"start":"a"}"#),
            forge(r#"{"v":"meta.k8s.io/v1","rv":-7,"start":"a"}"#),
            forge(r#"{"v":"meta.k8s.io/v1","rv":1,"start":""}"#),
            forge(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"/core/secrets/a"}"#),
            forge(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"../x"}"#),
        ];
        for text in cases {
            assert_eq!(ContinueToken::decode(&text).unwrap_err().code.as_u16(), 400, "{text}");
        }
    }
}
