//! The in-process client: an ordinary `kube::Client` whose requests go
//! straight into the service, without a connection.

use axum::body::Body;
use http::{HeaderValue, Request, header};
use tower::{Service as _, ServiceExt as _, service_fn};

use crate::service::ApiService;
use crate::user::UserInfo;

/// A client that acts as `user`.
pub(crate) fn client(service: ApiService, user: UserInfo) -> kube::Client {
    let program = program_of(&user);
    let service = service_fn(move |request: Request<kube::client::Body>| {
        let mut service = service.clone();
        // The frames pass as they are, in both directions.
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(user.clone());
        request.headers_mut().entry(header::USER_AGENT).or_insert_with(|| program.clone());
        async move { service.ready().await?.call(request).await }
    });
    kube::Client::new(service, "default")
}

/// The program that writes in the name of this user, as managed fields name it.
/// Tools that tell a controller's fields from a person's go by upstream's names.
fn program_of(user: &UserInfo) -> HeaderValue {
    let name = match user.name.strip_prefix("system:") {
        Some("apiserver") => "kube-apiserver",
        Some(node) if node.starts_with("node:") => "kubelet",
        Some(component) => component,
        None => &user.name,
    };
    HeaderValue::from_str(name).unwrap_or(HeaderValue::from_static("skiff"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_go_by_the_names_that_tools_know() {
        let cases = [
            ("system:apiserver", "kube-apiserver"),
            ("system:kube-controller-manager", "kube-controller-manager"),
            ("system:node:worker-1", "kubelet"),
            ("admin", "admin"),
            ("\u{1}", "skiff"),
        ];
        for (user, program) in cases {
            assert_eq!(program_of(&UserInfo::new(user, [])), program);
        }
    }
}
