//! `/healthz`, `/livez` and `/readyz`: whether to restart this server, and
//! whether to send it requests.
//!
//! A server that has lost its quorum lives: a restart brings no member back, and
//! takes away one that could vote. So only `/readyz` looks at the store. A store
//! that has failed for good ends the process by itself.

use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};

use crate::registry::Registry;

/// What the pages report beyond the store.
#[derive(Debug, Default)]
pub(crate) struct Health {
    bootstrapped: AtomicBool,
}

/// What is looked at.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// The group has a leader.
    led: bool,
    bootstrapped: bool,
    closing: bool,
}

/// One named check with its outcome.
type Check = (&'static str, Result<(), &'static str>);

impl Health {
    /// The objects every cluster starts with are there.
    pub(crate) fn set_bootstrapped(&self) {
        self.bootstrapped.store(true, Ordering::Release);
    }

    /// Answers a health path, `None` for any other.
    pub(crate) fn page(
        &self,
        path: &str,
        query: &str,
        registry: &Registry,
    ) -> Option<Response<Body>> {
        let mut parts = path.trim_start_matches('/').splitn(2, '/');
        let page = parts.next()?;
        let ready = match page {
            "healthz" | "livez" => false,
            "readyz" => true,
            _ => return None,
        };
        let seen = Seen {
            led: registry.store.leadership().borrow().leader.is_some(),
            bootstrapped: self.bootstrapped.load(Ordering::Acquire),
            closing: registry.closing.is_cancelled(),
        };
        let mut checks = checks(ready, seen);
        let mut excluded: Vec<String> = Vec::new();
        let mut verbose = false;
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "exclude" => excluded.push(value.into_owned()),
                "verbose" => verbose = true,
                _ => {}
            }
        }
        checks.retain(|(name, _)| !excluded.iter().any(|excluded| excluded == name));
        match parts.next() {
            None => Some(report(page, &checks, verbose)),
            Some(one) => {
                let check = checks.iter().find(|(name, _)| *name == one)?;
                Some(report(page, std::slice::from_ref(check), false))
            }
        }
    }
}

/// What a page reports: whether the server lives, and if asked, whether it is
/// ready for requests too.
fn checks(ready: bool, seen: Seen) -> Vec<Check> {
    let ping = ("ping", Ok(()));
    if !ready {
        return vec![ping];
    }
    let good = |good: bool, why: &'static str| if good { Ok(()) } else { Err(why) };
    vec![
        ping,
        ("store", good(seen.led, "no leader")),
        ("bootstrap", good(seen.bootstrapped, "not finished")),
        ("shutdown", good(!seen.closing, "process is shutting down")),
    ]
}

fn report(page: &str, checks: &[Check], verbose: bool) -> Response<Body> {
    let failed = checks.iter().any(|(_, outcome)| outcome.is_err());
    let mut text = String::new();
    if verbose || failed {
        for (name, outcome) in checks {
            match outcome {
                Ok(()) => text.push_str(&format!("[+]{name} ok\n")),
                Err(why) => text.push_str(&format!("[-]{name} failed: {why}\n")),
            }
        }
        text.push_str(&format!("{page} check {}\n", if failed { "failed" } else { "passed" }));
    } else {
        text.push_str("ok");
    }
    let mut response = Response::new(Body::from(text));
    if failed {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    #[test]
    fn only_readiness_needs_a_quorum() {
        let good = Seen { led: true, bootstrapped: true, closing: false };
        let cases = [
            ("all is well", good, &[][..]),
            ("no leader", Seen { led: false, ..good }, &["store"]),
            (
                "at the start",
                Seen { led: false, bootstrapped: false, ..good },
                &["store", "bootstrap"],
            ),
            ("at the end", Seen { closing: true, ..good }, &["shutdown"]),
        ];
        for (name, seen, unready) in cases {
            let failed = |ready| -> Vec<_> {
                let failed =
                    checks(ready, seen).into_iter().filter(|(_, outcome)| outcome.is_err());
                failed.map(|(check, _)| check).collect()
            };
            assert_eq!(failed(true), unready, "{name}");
            assert_eq!(failed(false), [""; 0], "{name}: no reason to restart");
        }
    }

    #[tokio::test]
    async fn a_failed_check_fails_the_page_and_says_which() {
        let text = |response: Response<Body>| async {
            let code = response.status().as_u16();
            let bytes = response.into_body().collect().await.unwrap().to_bytes();
            (code, String::from_utf8(bytes.to_vec()).unwrap())
        };
        let good: [Check; 1] = [("ping", Ok(()))];
        assert_eq!(text(report("livez", &good, false)).await, (200, "ok".to_owned()));
        assert_eq!(
            text(report("livez", &good, true)).await,
            (200, "[+]ping ok\nlivez check passed\n".to_owned())
        );
        let bad: [Check; 2] = [("ping", Ok(())), ("store", Err("no leader"))];
        let expected = "[+]ping ok\n[-]store failed: no leader\nreadyz check failed\n";
        assert_eq!(text(report("readyz", &bad, false)).await, (500, expected.to_owned()));
    }
}
