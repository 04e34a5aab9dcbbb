//! Container logs: one body, or the messages of a WebSocket.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Path, Query, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{StreamExt, future, stream};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::{
    backend::Backend,
    upgrade,
    websocket::{self, Framing},
};
use crate::runtime::{LogOptions, Output};

/// The subprotocols of logs, best first; a client may also name none.
const WEBSOCKET: [&str; 3] = ["binary.k8s.io", "base64.binary.k8s.io", ""];

/// The query of a log request; the API server has checked it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct LogQuery {
    follow: bool,
    previous: bool,
    timestamps: bool,
    tail_lines: Option<i64>,
    since_seconds: Option<i64>,
    since_time: Option<Timestamp>,
    limit_bytes: Option<u64>,
    stream: Option<String>,
}

impl LogQuery {
    fn options(&self, now: Timestamp) -> LogOptions {
        let since = self
            .since_seconds
            .and_then(|seconds| now.checked_sub(SignedDuration::from_secs(seconds)).ok());
        let stream = self.stream.as_deref().unwrap_or("All");
        LogOptions {
            follow: self.follow,
            tail: self.tail_lines,
            since: since.or(self.since_time),
            timestamps: self.timestamps,
            stdout: stream != "Stderr",
            stderr: stream != "Stdout",
        }
    }
}

pub(super) async fn serve(
    State(node): State<Arc<dyn Backend>>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(query): Query<LogQuery>,
    request: Request,
) -> Response {
    let found = match node.container(&namespace, &pod, &container, query.previous).await {
        Ok(found) => found,
        Err(error) => return error.into_response(),
    };
    let lines = match node.runtime().logs(&found.id, &query.options(Timestamp::now())).await {
        Ok(lines) => lines,
        Err(error) => return super::BackendError::from(error).into_response(),
    };
    let bytes = lines.map(|piece| {
        piece.map(|piece| match piece {
            Output::Stdout(bytes) | Output::Stderr(bytes) => bytes,
        })
    });
    let bytes = match query.limit_bytes {
        Some(limit) => limited(bytes, limit).boxed(),
        None => bytes.boxed(),
    };
    if upgrade::wants_websocket(request.headers()) {
        return match upgrade::asked(request, &WEBSOCKET, &[]).await {
            Ok(asked) => asked.answer(
                |socket, protocol| websocket::send_all(socket, Framing::of(protocol), bytes),
                async |_| (),
            ),
            Err(refusal) => *refusal,
        };
    }
    let body = Body::from_stream(bytes);
    (StatusCode::OK, [(header::CONTENT_TYPE, "text/plain")], body).into_response()
}

/// The first `limit` bytes of a stream.
fn limited<E>(
    bytes: impl stream::Stream<Item = Result<Bytes, E>>,
    limit: u64,
) -> impl stream::Stream<Item = Result<Bytes, E>> {
    bytes.scan(limit, |left, piece| {
        if *left == 0 {
            return future::ready(None);
        }
        future::ready(Some(piece.map(|mut piece| {
            piece.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= piece.len() as u64;
            piece
        })))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_become_options() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let query = |text: &str| {
            let uri = format!("http://x/?{text}").parse().unwrap();
            Query::<LogQuery>::try_from_uri(&uri).map(|query| query.0.options(now))
        };
        let options = query("follow=true&tailLines=3&sinceSeconds=60&timestamps=true").unwrap();
        assert!(options.follow && options.timestamps && options.stdout && options.stderr);
        assert_eq!(options.tail, Some(3));
        assert_eq!(options.since, Some("2026-01-01T00:00:00Z".parse().unwrap()));
        let options = query("sinceTime=2026-01-01T00:00:30Z&stream=Stderr").unwrap();
        assert_eq!(options.since, Some("2026-01-01T00:00:30Z".parse().unwrap()));
        assert!(!options.stdout && options.stderr);
        assert!(query("tailLines=many").is_err());
    }

    #[tokio::test]
    async fn limits_cut_inside_a_piece() {
        let pieces =
            [Ok::<_, ()>(Bytes::from("abc")), Ok(Bytes::from("def")), Ok(Bytes::from("g"))];
        let cut: Vec<_> = limited(stream::iter(pieces), 5).collect().await;
        assert_eq!(cut, [Ok(Bytes::from("abc")), Ok(Bytes::from("de"))]);
    }
}
