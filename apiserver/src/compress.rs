//! Compression of large answers, as they are sent.

use std::io::Write as _;

use axum::body::Body;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures::StreamExt as _;
use http::{HeaderValue, Response, header};
use http_body::Body as _;

/// Answers below this size are not worth the work, as upstream.
const THRESHOLD: u64 = 128 * 1024;

/// Compresses an answer whose size is known and large. Watches and streams
/// have no known size and pass as they are.
pub(crate) fn maybe(response: Response<Body>) -> Response<Body> {
    let length = response.headers().get(header::CONTENT_LENGTH);
    let stated = length.and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    let size = stated.or_else(|| response.body().size_hint().exact()).unwrap_or(0);
    if size < THRESHOLD || response.headers().contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    let encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let chunks =
        futures::stream::unfold(Some((encoder, body.into_data_stream())), |state| async move {
            let (mut encoder, mut body) = state?;
            loop {
                match body.next().await {
                    None => {
                        let last = encoder.finish().map(Bytes::from).map_err(axum::Error::new);
                        return Some((last, None));
                    }
                    Some(Err(error)) => return Some((Err(error), None)),
                    Some(Ok(chunk)) => {
                        if let Err(error) = encoder.write_all(&chunk) {
                            return Some((Err(axum::Error::new(error)), None));
                        }
                        let ready = std::mem::take(encoder.get_mut());
                        if !ready.is_empty() {
                            return Some((Ok(Bytes::from(ready)), Some((encoder, body))));
                        }
                    }
                }
            }
        });
    Response::from_parts(parts, Body::from_stream(chunks))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;
    use std::io::Read as _;

    #[tokio::test]
    async fn large_answers_are_compressed_and_small_ones_are_not() {
        let small = maybe(Response::new(Body::from("x".repeat(1000))));
        assert!(small.headers().get(header::CONTENT_ENCODING).is_none());
        let text = "abcdefgh".repeat(40_000);
        let large = maybe(Response::new(Body::from(text.clone())));
        assert_eq!(large.headers()[header::CONTENT_ENCODING], "gzip");
        let bytes = large.into_body().collect().await.unwrap().to_bytes();
        assert!(bytes.len() < text.len() / 10);
        let mut back = String::new();
        flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut back).unwrap();
        assert_eq!(back, text);
    }
}
