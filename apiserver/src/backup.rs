//! `GET /skiff/v1/backup`: the whole store as one file.
//!
//! A path of ours beside Kubernetes' own, for who may `get` it as a
//! non-resource URL: of the roles every cluster starts with, `cluster-admin`
//! alone. The body is made while it is sent, from one revision; it holds up no
//! write, and a client that reads slowly costs nothing but its connection.
//!
//! Secrets are sealed in it as they are on the disk. The rest is in the clear.

use axum::body::Body;
use http::{HeaderValue, Response, header};
use skiff_store::Store;

use crate::status::ApiError;

/// The path. Stable: `skiff backup` of other versions asks for it.
pub const PATH: &str = "/skiff/v1/backup";

/// Begins a backup that holds everything acknowledged so far.
pub(crate) async fn answer(store: &Store) -> Result<Response<Body>, ApiError> {
    let backup = store.backup().await?;
    let mut response = Response::new(Body::from_stream(futures::stream::iter(backup)));
    let kind = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}
