//! The in-process client: an ordinary `kube::Client` whose requests go
//! straight into the service, without a connection.

use axum::body::Body;
use http::Request;
use tower::{Service as _, ServiceExt as _, service_fn};

use crate::service::ApiService;
use crate::user::UserInfo;

/// A client that acts as `user`.
pub(crate) fn client(service: ApiService, user: UserInfo) -> kube::Client {
    let service = service_fn(move |request: Request<kube::client::Body>| {
        let mut service = service.clone();
        // The frames pass as they are, in both directions.
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(user.clone());
        async move { service.ready().await?.call(request).await }
    });
    kube::Client::new(service, "default")
}
