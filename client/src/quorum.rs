//! Notices a server that lives and has lost its quorum.
//!
//! Such a server goes on taking connections and says nothing on the watches
//! that it has: its clients would stay with it for as long as it is cut off.
//! Only its answers tell, so they are read on their way. What then happens to
//! the connection is its owner's business.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper_util::client::legacy::connect::HttpInfo;
use kube::Client;
use kube::client::Body;
use kube::core::Status;

/// What such an answer gives as a cause, beside its code.
const CAUSE: &str = "NoQuorum";

/// The same client, which calls `lost` with the own address of every connection
/// over which the server has answered that it has no quorum. The answer itself
/// goes on to the caller.
pub fn on_lost_quorum(client: Client, lost: impl Fn(SocketAddr) + Send + Sync + 'static) -> Client {
    let lost = Arc::new(lost);
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let (client, lost) = (client.clone(), Arc::clone(&lost));
        async move {
            let answer = client.send(request).await?;
            if answer.status() != http::StatusCode::GATEWAY_TIMEOUT {
                return Ok(answer);
            }
            let own = answer.extensions().get::<HttpInfo>().map(HttpInfo::local_addr);
            let (head, body) = answer.into_parts();
            let body = body.collect_bytes().await?;
            if let Some(own) = own.filter(|_| says_so(&body)) {
                lost(own);
            }
            Ok::<_, kube::Error>(http::Response::from_parts(head, Body::from(body.to_vec())))
        }
    });
    Client::new(service, "default")
}

fn says_so(body: &[u8]) -> bool {
    // Others time out as well: a list that waits for a revision, for one.
    let causes = serde_json::from_slice::<Status>(body).ok().and_then(|status| status.details);
    causes.is_some_and(|details| details.causes.iter().any(|cause| cause.reason == CAUSE))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn client_of(code: u16, body: &'static str) -> (Client, mpsc::Receiver<SocketAddr>) {
        let service = tower::service_fn(move |_: http::Request<Body>| async move {
            let mut answer = http::Response::new(Body::from(body.as_bytes().to_vec()));
            *answer.status_mut() = http::StatusCode::from_u16(code).unwrap();
            Ok::<_, kube::Error>(answer)
        });
        let (lost_tx, lost_rx) = mpsc::channel();
        let client = Client::new(service, "default");
        (on_lost_quorum(client, move |own| lost_tx.send(own).unwrap()), lost_rx)
    }

    #[test]
    fn other_answers_are_not_mistaken() {
        let cases = [
            (r#"{"details":{"causes":[{"reason":"NoQuorum","message":"m"}]}}"#, true),
            (r#"{"details":{"causes":[{"reason":"ResourceVersionTooLarge"}]}}"#, false),
            (r#"{"reason":"NoQuorum"}"#, false),
            ("NoQuorum", false),
            ("", false),
        ];
        for (body, expected) in cases {
            assert_eq!(says_so(body.as_bytes()), expected, "{body}");
        }
    }

    #[tokio::test]
    async fn the_caller_hears_the_answer_too() {
        let body = r#"{"status":"Failure","code":504,"reason":"Timeout","message":"no quorum",
            "details":{"causes":[{"reason":"NoQuorum","message":"m"}]}}"#;
        let (client, lost) = client_of(504, body);
        let request = || http::Request::get("/").body(Vec::new()).unwrap();
        let error = client.request_text(request()).await.unwrap_err();
        assert!(matches!(error, kube::Error::Api(status) if status.message == "no quorum"));
        // Not over a connection, so there is none to name.
        assert!(lost.try_recv().is_err());
        let (client, _) = client_of(200, "ok");
        assert_eq!(client.request_text(request()).await.unwrap(), "ok");
    }
}
