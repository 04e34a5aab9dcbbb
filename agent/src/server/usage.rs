//! `/stats/summary` and `/metrics/resource`.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

use super::backend::{Backend, BackendError};

type Node = Arc<dyn Backend>;

pub(super) async fn summary(State(node): State<Node>) -> Result<Response, BackendError> {
    let dir = node.volumes_dir().parent().unwrap_or(node.volumes_dir());
    Ok(Json(node.meter().summary(dir).await?).into_response())
}

pub(super) async fn resources(State(node): State<Node>) -> Result<Response, BackendError> {
    let text = node.meter().resources().await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}
