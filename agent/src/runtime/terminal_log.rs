//! The log of a container that has a terminal.
//!
//! Docker hands out the bytes as they are, without frames that tell stdout from
//! stderr. The client library, which does not know that, keeps what comes until
//! a line ends, so that a screen without line ends would never be seen and pile
//! up. Hence this one request is made without it.

use std::path::Path;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use http::{Request, StatusCode, header};
use http_body_util::{BodyDataStream, BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::{LogOptions, Output, Result, RuntimeError};

/// How much of an error's text is read.
const MESSAGE_BYTES: usize = 64 << 10;

/// The pieces of the log of container `id`, as Docker at `socket` sends them.
pub(super) async fn read(
    socket: &Path,
    id: &str,
    options: &LogOptions,
) -> Result<BoxStream<'static, Result<Output>>> {
    let connection = UnixStream::connect(socket).await.map_err(down)?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(connection)).await.map_err(down)?;
    // Ends with the answer, or with whoever reads it.
    tokio::spawn(connection);
    let request = Request::get(target(id, options))
        .header(header::HOST, "docker")
        .body(Empty::<Bytes>::new())
        .map_err(|error| RuntimeError::Refused(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(down)?;
    let status = response.status();
    if status.is_success() {
        let pieces = BodyDataStream::new(response.into_body());
        return Ok(pieces.map_ok(Output::Stdout).map_err(down).boxed());
    }
    let body = Limited::new(response.into_body(), MESSAGE_BYTES).collect().await;
    let body = body.map_err(|error| RuntimeError::Unavailable(error.to_string()))?.to_bytes();
    let message = serde_json::from_slice::<serde_json::Value>(&body)
        .ok()
        .and_then(|body| Some(body["message"].as_str()?.to_owned()))
        .unwrap_or_else(|| format!("the log was refused with {status}"));
    Err(match status {
        StatusCode::NOT_FOUND => RuntimeError::NotFound(message),
        StatusCode::CONFLICT => RuntimeError::Conflict(message),
        _ => RuntimeError::Refused(message),
    })
}

fn target(id: &str, options: &LogOptions) -> String {
    let tail = options.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
    let since = options.since.map_or(0, |at| at.as_second());
    let path = format!("/containers/{id}/logs?");
    let query_begins = path.len();
    form_urlencoded::Serializer::for_suffix(path, query_begins)
        .append_pair("stdout", if options.stdout { "1" } else { "0" })
        .append_pair("stderr", if options.stderr { "1" } else { "0" })
        .append_pair("follow", if options.follow { "1" } else { "0" })
        .append_pair("timestamps", if options.timestamps { "1" } else { "0" })
        .append_pair("tail", &tail)
        .append_pair("since", &since.to_string())
        .finish()
}

fn down(error: impl std::error::Error + 'static) -> RuntimeError {
    RuntimeError::Unavailable(skiff_client::chain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_dockers_query() {
        let options = LogOptions {
            follow: true,
            tail: Some(3),
            since: Some("2026-01-01T00:00:30Z".parse().unwrap()),
            timestamps: true,
            stdout: true,
            stderr: false,
        };
        let asked =
            "/containers/c1/logs?stdout=1&stderr=0&follow=1&timestamps=1&tail=3&since=1767225630";
        assert_eq!(target("c1", &options), asked);
        let asked = "/containers/c1/logs?stdout=0&stderr=0&follow=0&timestamps=0&tail=all&since=0";
        assert_eq!(target("c1", &LogOptions::default()), asked);
    }

    #[tokio::test]
    async fn nobody_at_the_socket_is_a_runtime_that_is_down() {
        let found = read(Path::new("/nowhere/docker.sock"), "c1", &LogOptions::default()).await;
        assert!(matches!(found.err(), Some(RuntimeError::Unavailable(_))));
    }
}
