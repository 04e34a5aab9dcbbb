//! Serving of the OpenAPI documents that `skiff_api` makes.
//!
//! A document is made when it is first asked for, one at a time, and then kept
//! compressed: a tenth of its size, and what nearly every client asks for. The
//! work takes megabytes for a moment, which go back to the system afterwards.
//! The paths in the index carry a hash, and what is asked for by its hash may
//! be kept for ever.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::sync::{Arc, PoisonError, RwLock};

use axum::body::Body;
use bytes::{Buf as _, Bytes};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::Value;
use skiff_api::{catalogue, openapi};
use tokio::sync::Mutex;

use crate::negotiate::accepts_gzip;
use crate::registry::json_response;
use crate::request_info::param;
use crate::status::ApiError;

/// A document is decompressed in pieces of this size for a client that wants
/// it plain.
const PIECE: usize = 64 * 1024;

/// The documents there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Document {
    /// Version 2, everything in one, as JSON.
    V2,
    /// The same as protobuf, which kubectl asks for.
    V2Protobuf,
    /// Where the documents of version 3 are.
    Index,
    /// Version 3 of one group and version.
    V3(&'static str, &'static str),
}

/// The documents that were asked for so far. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Documents {
    /// Compressed. There are as many as the catalogue has versions, and no
    /// request can add another.
    kept: Arc<RwLock<HashMap<Document, Bytes>>>,
    /// Held by whoever makes one.
    making: Arc<Mutex<()>>,
}

impl Documents {
    /// Answers `/openapi/…`, `None` for any other path.
    pub(crate) async fn page(
        &self,
        path: &str,
        query: &str,
        headers: &HeaderMap,
    ) -> Result<Option<Response<Body>>, ApiError> {
        let Some(rest) = path.strip_prefix("/openapi/") else { return Ok(None) };
        let document = find(rest, headers).ok_or_else(ApiError::no_such_resource)?;
        let hash = document.hash();
        let tag = format!("\"{hash}\"");
        let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
        let mut response = if known.is_some_and(|known| known.contains(&tag)) {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        } else {
            let compressed = self.compressed(document).await?;
            if accepts_gzip(headers) {
                let mut response = json_response(StatusCode::OK, Body::from(compressed));
                let gzip = HeaderValue::from_static("gzip");
                response.headers_mut().insert(header::CONTENT_ENCODING, gzip);
                response
            } else {
                json_response(StatusCode::OK, plain(compressed))
            }
        };
        let headers = response.headers_mut();
        if document == Document::V2Protobuf {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(openapi::V2_PROTOBUF));
        }
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            headers.insert(header::ETAG, tag);
        }
        headers.insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
        if param(query, "hash").is_some_and(|asked| asked == hash) {
            let forever = HeaderValue::from_static("public, max-age=31536000, immutable");
            headers.insert(header::CACHE_CONTROL, forever);
        }
        Ok(Some(response))
    }

    /// The bytes of a document, made now if nobody asked before.
    async fn compressed(&self, document: Document) -> Result<Bytes, ApiError> {
        let broken = || ApiError::internal("the document could not be made");
        if let Some(bytes) = self.kept(document) {
            return Ok(bytes);
        }
        let making = Arc::clone(&self.making).lock_owned().await;
        if let Some(bytes) = self.kept(document) {
            return Ok(bytes);
        }
        let documents = self.clone();
        // Long enough to be in the way of other requests. The work goes on if
        // this client leaves, so the lock goes with it.
        let made = tokio::task::spawn_blocking(move || {
            let made = document.make();
            skiff_memory::give_back();
            if let Some(bytes) = &made {
                let mut kept = documents.kept.write().unwrap_or_else(PoisonError::into_inner);
                kept.insert(document, bytes.clone());
            }
            drop(making);
            made
        });
        made.await.map_err(|_| broken())?.ok_or_else(broken)
    }

    fn kept(&self, document: Document) -> Option<Bytes> {
        self.kept.read().unwrap_or_else(PoisonError::into_inner).get(&document).cloned()
    }
}

impl Document {
    /// The document, compressed as it is written.
    fn make(self) -> Option<Bytes> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        let json =
            |gzip: &mut GzEncoder<Vec<u8>>, value: &Value| serde_json::to_writer(gzip, value);
        match self {
            Self::V2 => json(&mut gzip, &openapi::v2()).ok()?,
            Self::V2Protobuf => gzip.write_all(&openapi::v2_protobuf()).ok()?,
            Self::Index => json(&mut gzip, &openapi::v3_index()).ok()?,
            Self::V3(group, version) => json(&mut gzip, &openapi::v3(group, version)?).ok()?,
        }
        // What the encoder reserved in excess would be kept as well.
        Some(Bytes::from(gzip.finish().ok()?.into_boxed_slice()))
    }

    /// Changes when the document does.
    fn hash(self) -> String {
        match self {
            Self::V3(group, version) => openapi::v3_hash(group, version),
            Self::V2 | Self::V2Protobuf | Self::Index => openapi::v3_hash("", ""),
        }
    }
}

/// A body that decompresses as the client reads.
fn plain(compressed: Bytes) -> Body {
    let decoder = GzDecoder::new(compressed.reader());
    Body::from_stream(futures::stream::unfold(decoder, |mut decoder| async move {
        let mut piece = Vec::with_capacity(PIECE);
        match decoder.by_ref().take(PIECE as u64).read_to_end(&mut piece) {
            Ok(0) => None,
            Ok(_) => Some((Ok(Bytes::from(piece)), decoder)),
            Err(error) => Some((Err(error), decoder)),
        }
    }))
}

fn find(path: &str, headers: &HeaderMap) -> Option<Document> {
    let accept =
        headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (group, version) = match path.split('/').collect::<Vec<_>>().as_slice() {
        ["v2"] if accept.contains("proto-openapi.spec.v2") => return Some(Document::V2Protobuf),
        ["v2"] => return Some(Document::V2),
        ["v3"] => return Some(Document::Index),
        ["v3", "api", version] => ("", *version),
        ["v3", "apis", group, version] => (*group, *version),
        _ => return None,
    };
    let (group, versions) = catalogue::groups().into_iter().find(|(name, _)| *name == group)?;
    let version = versions.into_iter().find(|name| *name == version)?;
    Some(Document::V3(group, version))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[test]
    fn only_served_versions_have_documents() {
        let mut headers = HeaderMap::new();
        assert_eq!(find("v2", &headers), Some(Document::V2));
        assert_eq!(find("v3", &headers), Some(Document::Index));
        assert_eq!(find("v3/api/v1", &headers), Some(Document::V3("", "v1")));
        assert_eq!(find("v3/apis/apps/v1", &headers), Some(Document::V3("apps", "v1")));
        for path in ["v3/api/v2", "v3/apis/nope/v1", "v3/apis/apps", "v4", ""] {
            assert_eq!(find(path, &headers), None, "{path}");
        }
        headers.insert(header::ACCEPT, HeaderValue::from_static(openapi::V2_PROTOBUF));
        assert_eq!(find("v2", &headers), Some(Document::V2Protobuf));
    }

    #[tokio::test]
    async fn a_client_that_has_it_gets_nothing() {
        let documents = Documents::default();
        let mut headers = HeaderMap::new();
        let first = documents.page("/openapi/v3", "", &headers).await.unwrap().unwrap();
        headers.insert(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone());
        let again = documents.page("/openapi/v3", "", &headers).await.unwrap().unwrap();
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        assert!(documents.page("/apis", "", &headers).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn both_encodings_are_one_document_made_once() {
        let documents = Documents::default();
        let path = "/openapi/v3/apis/policy/v1";
        let read = async |headers: &HeaderMap| {
            let page = documents.page(path, "", headers).await.unwrap().unwrap();
            let encoded = page.headers().contains_key(header::CONTENT_ENCODING);
            (encoded, page.into_body().collect().await.unwrap().to_bytes())
        };
        let (encoded, plain) = read(&HeaderMap::new()).await;
        assert!(!encoded);
        let made: Value = serde_json::from_slice(&plain).unwrap();
        assert_eq!(made, openapi::v3("policy", "v1").unwrap());

        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        let (encoded, compressed) = read(&headers).await;
        assert!(encoded && compressed.len() < plain.len() / 3);
        let mut back = Vec::new();
        GzDecoder::new(&compressed[..]).read_to_end(&mut back).unwrap();
        assert_eq!(back, plain);
        assert_eq!(documents.kept.read().unwrap().len(), 1);
    }
}
