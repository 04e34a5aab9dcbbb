//! Choosing a transport: WebSocket or SPDY, and which version of the
//! subprotocol.

use axum::{
    body::Body,
    extract::{FromRequestParts, Request, WebSocketUpgrade, ws::WebSocket},
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use hyper_util::rt::TokioIo;

const STREAM_VERSION: &str = "x-stream-protocol-version";

/// A client that asks for streams.
pub(super) enum Asked {
    /// By WebSocket, with this subprotocol.
    WebSocket(Box<WebSocketUpgrade>, &'static str),
    /// By SPDY; the connection itself, once the answer is out.
    Spdy(hyper::upgrade::OnUpgrade, &'static str),
}

/// The answer to a client whose request cannot be upgraded.
pub(super) type Refusal = Box<Response>;

/// Whether a request wants to become a WebSocket.
pub(super) fn wants_websocket(headers: &HeaderMap) -> bool {
    wants(headers, "websocket")
}

fn wants(headers: &HeaderMap, transport: &str) -> bool {
    let named = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok());
    named.is_some_and(|value| value.eq_ignore_ascii_case(transport))
}

/// Reads what the client asks for. `web` and `spdy` are the subprotocols that
/// will do, best first; an empty name among them is a client that names none.
pub(super) async fn asked(
    request: Request,
    web: &[&'static str],
    spdy: &[&'static str],
) -> Result<Asked, Refusal> {
    let (mut parts, _) = request.into_parts();
    if wants(&parts.headers, "SPDY/3.1") {
        let Some(protocol) = choose(&parts.headers, STREAM_VERSION, spdy) else {
            return Err(unacceptable(spdy));
        };
        return match parts.extensions.remove::<hyper::upgrade::OnUpgrade>() {
            Some(upgrade) => Ok(Asked::Spdy(upgrade, protocol)),
            None => Err(refuse("the connection cannot be upgraded")),
        };
    }
    if wants_websocket(&parts.headers) {
        return websocket(&mut parts, web).await;
    }
    Err(refuse("Upgrade request required"))
}

async fn websocket(parts: &mut Parts, web: &[&'static str]) -> Result<Asked, Refusal> {
    let Some(protocol) = choose(&parts.headers, header::SEC_WEBSOCKET_PROTOCOL.as_str(), web)
    else {
        return Err(refuse(&format!("unable to upgrade: one of {} is required", named(web))));
    };
    let upgrade = WebSocketUpgrade::from_request_parts(parts, &())
        .await
        .map_err(|error| Box::new(error.into_response()))?;
    Ok(Asked::WebSocket(Box::new(upgrade.protocols([protocol])), protocol))
}

impl Asked {
    /// Answers 101 and runs one of the two on the connection.
    pub(super) fn answer<W, S, WF, SF>(self, web: W, spdy: S) -> Response
    where
        W: FnOnce(WebSocket, &'static str) -> WF + Send + 'static,
        S: FnOnce(TokioIo<hyper::upgrade::Upgraded>) -> SF + Send + 'static,
        WF: Future<Output = ()> + Send + 'static,
        SF: Future<Output = ()> + Send + 'static,
    {
        match self {
            Self::WebSocket(upgrade, protocol) => {
                upgrade.on_upgrade(move |socket| web(socket, protocol))
            }
            Self::Spdy(upgrade, protocol) => {
                // Lives as long as the connection, which ends with the server.
                tokio::spawn(async move {
                    match upgrade.await {
                        Ok(upgraded) => spdy(TokioIo::new(upgraded)).await,
                        Err(error) => tracing::debug!(%error, "upgrade failed"),
                    }
                });
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                let headers = response.headers_mut();
                for (name, value) in [
                    (header::CONNECTION, "Upgrade"),
                    (header::UPGRADE, "SPDY/3.1"),
                    (header::HeaderName::from_static(STREAM_VERSION), protocol),
                ] {
                    headers.insert(name, header::HeaderValue::from_static(value));
                }
                response
            }
        }
    }
}

/// The first of `ours` that the client offers.
fn choose(headers: &HeaderMap, name: &str, ours: &[&'static str]) -> Option<&'static str> {
    let offered: Vec<&str> = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    let has_none = offered.iter().all(|name| name.is_empty());
    ours.iter().copied().find(|protocol| match *protocol {
        "" => has_none,
        named => offered.contains(&named),
    })
}

/// The subprotocols that have a name, for a message.
fn named(ours: &[&str]) -> String {
    let named: Vec<&str> = ours.iter().copied().filter(|name| !name.is_empty()).collect();
    named.join(", ")
}

fn refuse(why: &str) -> Refusal {
    Box::new((StatusCode::BAD_REQUEST, why.to_owned()).into_response())
}

/// 403 with what would do, from which a client learns to ask for less.
fn unacceptable(ours: &[&'static str]) -> Refusal {
    let mut response =
        (StatusCode::FORBIDDEN, format!("unable to upgrade: one of {} is required", named(ours)))
            .into_response();
    for protocol in ours {
        let value = header::HeaderValue::from_static(protocol);
        response.headers_mut().append("x-accepted-stream-protocol-versions", value);
    }
    Box::new(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_common_protocol_is_chosen() {
        let mut headers = HeaderMap::new();
        headers.append("p", "v4.channel.k8s.io, channel.k8s.io".parse().unwrap());
        headers.append("p", "v5.channel.k8s.io".parse().unwrap());
        let ours = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
        assert_eq!(choose(&headers, "p", &ours), Some("v5.channel.k8s.io"));
        assert_eq!(choose(&headers, "p", &ours[1..]), Some("v4.channel.k8s.io"));
        assert_eq!(choose(&headers, "p", &["other"]), None);
        assert_eq!(choose(&HeaderMap::new(), "p", &ours), None);
        assert_eq!(choose(&HeaderMap::new(), "p", &["v5.channel.k8s.io", ""]), Some(""));
        assert_eq!(choose(&headers, "p", &["other", ""]), None);
    }
}
