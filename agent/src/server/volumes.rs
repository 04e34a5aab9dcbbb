//! Local volumes are removed when the controllers ask for it.

use std::{io, sync::Arc};

use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::backend::Backend;
use crate::volume::persistent;

/// `DELETE /localVolumes/NAME`. Removing what is not there succeeds.
pub(super) async fn remove(
    State(node): State<Arc<dyn Backend>>,
    Path(name): Path<String>,
) -> Response {
    let error = match persistent::remove(&name, node.volumes_dir()).await {
        Ok(()) => return StatusCode::NO_CONTENT.into_response(),
        Err(error) => error,
    };
    let status = match error.kind() {
        io::ErrorKind::InvalidInput => StatusCode::BAD_REQUEST,
        io::ErrorKind::ResourceBusy => StatusCode::CONFLICT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, error.to_string()).into_response()
}
