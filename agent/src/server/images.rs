//! The images of this machine: listed, loaded and removed for the API server
//! (`skiffctl image`), given to other nodes.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::{Query, State},
    http::{HeaderMap, HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use serde::Deserialize;
use serde_json::json;

use super::backend::{Backend, BackendError};
use crate::images::access::Access;
use crate::images::normalized;
use crate::images::peers::ACCESS_HEADER;
use crate::runtime::RuntimeError;

type Node = Arc<dyn Backend>;

/// Which image.
#[derive(Debug, Deserialize)]
pub(super) struct Named {
    name: String,
}

impl Named {
    /// The name with its tag; what is no name is refused before Docker sees it.
    fn normalized(&self) -> Result<String, BackendError> {
        normalized(&self.name).ok_or_else(|| {
            BackendError::BadState(format!("{:?} is not the name of an image", self.name))
        })
    }
}

/// `GET /images`.
pub(super) async fn list(State(node): State<Node>) -> Result<Response, BackendError> {
    let images = node.images().all().await?;
    let items: Vec<_> = images
        .iter()
        .map(|image| json!({"id": image.id, "names": image.tags, "size": image.size}))
        .collect();
    Ok(Json(json!({ "images": items })).into_response())
}

/// `GET /images/tar?name=…`, as `docker save` writes it, for those who bring the
/// secrets of [`ACCESS_HEADER`]; without it, of none.
pub(super) async fn tar(
    State(node): State<Node>,
    Query(named): Query<Named>,
    headers: HeaderMap,
) -> Result<Response, BackendError> {
    let name = named.normalized()?;
    let images = node.images();
    let Some(image) = images.now(&name).await? else {
        return Err(BackendError::NotFound(format!("no image {name:?} on this node")));
    };
    let access = images.access(&image);
    let pod = headers.get(ACCESS_HEADER).and_then(|value| value.to_str().ok());
    let Ok(pod) = pod.unwrap_or_default().parse::<Access>();
    if !access.permits(&pod) {
        let message = "it came with an image pull secret that this pod does not bring";
        return Err(BackendError::Forbidden(message.into()));
    }
    let tar = images.save(&name).await?;
    let said = [
        (header::CONTENT_TYPE, "application/x-tar".to_owned()),
        (HeaderName::from_static(ACCESS_HEADER), access.to_string()),
    ];
    Ok((said, Body::from_stream(tar)).into_response())
}

/// `POST /images` with the body of `docker save`. The answer begins at once,
/// for an image may take longer than callers wait for one; how it went is said
/// in its only line.
pub(super) async fn load(State(node): State<Node>, body: Body) -> Response {
    let loading = async move {
        let pieces = body.into_data_stream().map(|piece| {
            piece.map_err(|error| RuntimeError::Refused(format!("the image broke off: {error}")))
        });
        let outcome = match node.images().load(Box::pin(pieces)).await {
            Ok(loaded) => json!({ "loaded": loaded }),
            Err(error) => json!({ "error": error.to_string() }),
        };
        Ok::<_, Infallible>(format!("{outcome}\n"))
    };
    let answer = Body::from_stream(futures::stream::once(loading));
    ([(header::CONTENT_TYPE, "application/json")], answer).into_response()
}

/// `DELETE /images?name=…`.
pub(super) async fn remove(
    State(node): State<Node>,
    Query(named): Query<Named>,
) -> Result<Response, BackendError> {
    let name = named.normalized()?;
    if node.images().now(&name).await?.is_none() {
        return Err(BackendError::NotFound(format!("no image {name:?} on this node")));
    }
    node.images().remove(&name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
