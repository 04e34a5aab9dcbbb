//! Streams to the agents: log, exec, attach, port-forward and proxy; and what
//! the agents measure (`usage`).
//!
//! `target` reads from pod, node and query where a request goes; `agent`
//! dials the agent and forwards. An upgraded connection is a tunnel of bytes:
//! WebSocket and SPDY end in the agent's server and nowhere else. A request
//! that the agent does not upgrade is answered and its connection closed, so
//! that what a client has sent in advance is never read as another request.

mod agent;
mod links;
mod proxy;
mod target;
pub(crate) mod usage;

use std::sync::Arc;

use axum::body::Body;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{authn::objects::Objects, request_info::RequestInfo, status::ApiError};
use agent::Agent;
pub(crate) use agent::is_upgrade;
use target::LogQuery;

/// Largest refusal of an agent that is passed on.
const MAX_REFUSAL: usize = 16 << 10;

/// Connects clients to agents.
pub struct Streams {
    objects: Objects,
    tls: Arc<rustls::ClientConfig>,
    tunnels: TaskTracker,
    closing: CancellationToken,
}

impl Streams {
    /// Dials agents with `tls`; see [`crate::pki::Pki::agent_client_config`].
    /// Tunnels end when `closing` is cancelled.
    pub fn new(
        objects: Objects,
        tls: Arc<rustls::ClientConfig>,
        closing: CancellationToken,
    ) -> Self {
        Self { objects, tls, tunnels: TaskTracker::new(), closing }
    }

    /// Waits until all tunnels have ended, after `closing` was cancelled.
    pub async fn drained(&self) {
        self.tunnels.close();
        self.tunnels.wait().await;
    }

    /// Serves `pods/{log,exec,attach,portforward}` and
    /// `{pods,services,nodes}/proxy`. `object` is the stored pod, service or
    /// node; authorization and existence have been checked. Looking up
    /// further objects (the pod's node, a service's endpoints) is up to here.
    pub async fn connect(
        &self,
        info: &RequestInfo,
        object: &Value,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        match (info.resource.as_str(), info.subresource.as_str()) {
            ("pods", "log") => self.log(info, object, request).await,
            ("pods", "exec" | "attach" | "portforward") => {
                self.upgrade(info, object, request).await
            }
            (_, "proxy") => match proxy::with_slash(info, &request) {
                Some(redirect) => Ok(redirect),
                None => self.proxy(info, object, request).await,
            },
            _ => Err(ApiError::no_such_resource()),
        }
    }

    async fn log(
        &self,
        info: &RequestInfo,
        pod: &Value,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let query = LogQuery::read(request.uri().query().unwrap_or_default(), &info.name)?;
        let container = target::container(pod, query.container.as_deref())?;
        // Nothing has run yet, so there is nothing to show.
        let Some(node) = target::node(pod) else { return Ok(Response::new(Body::empty())) };
        let agent = Agent::of(&self.objects, node)?;
        let path = target::path("containerLogs", info, Some(&container));
        let path = format!("{path}?{}", query.forwarded());
        if agent::is_upgrade(request.headers()) {
            return self.tunnel(&agent, request, &path).await;
        }
        let request = Request::builder()
            .method(Method::GET)
            .uri(path)
            .body(Body::empty())
            .map_err(|error| ApiError::internal(error.to_string()))?;
        let response = agent.send(&self.tls, request).await?;
        match response.status() {
            StatusCode::OK => {
                let (parts, body) = response.into_parts();
                let mut answer = Response::new(Body::new(body));
                if let Some(kind) = parts.headers.get(http::header::CONTENT_TYPE) {
                    answer.headers_mut().insert(http::header::CONTENT_TYPE, kind.clone());
                }
                Ok(answer)
            }
            StatusCode::NOT_FOUND => {
                Err(ApiError::bad_request(target::no_log(pod, &container, query.previous)))
            }
            _ => Err(refusal(response).await),
        }
    }

    async fn proxy(
        &self,
        info: &RequestInfo,
        object: &Value,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        if info.resource == "nodes" {
            let agent = proxy::agent_of(&self.objects, info, object)?;
            let path = proxy::path(info, request.uri());
            return if agent::is_upgrade(request.headers()) {
                self.tunnel(&agent, request, &path).await
            } else {
                agent.forward(&self.tls, request, &path).await
            };
        }
        let client = hyper::upgrade::on(&mut request);
        let uri = request.uri().clone();
        let host = request.headers().get(http::header::HOST).cloned();
        let mut passed = proxy::forward(&self.objects, &self.tls, info, object, request).await?;
        if passed.response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(self.join(client, &mut passed.response));
        }
        Ok(passed.answer(info, &uri, host.as_ref().and_then(|host| host.to_str().ok())))
    }

    async fn upgrade(
        &self,
        info: &RequestInfo,
        pod: &Value,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        if !agent::is_upgrade(request.headers()) {
            return Err(ApiError::bad_request("Upgrade request required"));
        }
        let query = request.uri().query().unwrap_or_default();
        let (path, query) = match info.subresource.as_str() {
            "portforward" => (target::path("portForward", info, None), query.to_owned()),
            command => {
                let (name, rest) = target::split_container(query);
                let container = target::container(pod, name.as_deref())?;
                (target::path(command, info, Some(&container)), rest)
            }
        };
        let node = target::node(pod).ok_or_else(|| {
            ApiError::bad_request(format!("pod {} does not have a host assigned", info.name))
        })?;
        let agent = Agent::of(&self.objects, node)?;
        self.tunnel(&agent, request, &format!("{path}?{query}")).await
    }

    /// Forwards an upgrade to `path` on an agent, and from then on bytes.
    async fn tunnel(
        &self,
        agent: &Agent,
        mut request: Request<Body>,
        path: &str,
    ) -> Result<Response<Body>, ApiError> {
        let onward = agent::upgrade_request(&request, path)?;
        let mut response = agent.send(&self.tls, onward).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let mut refused = refusal(response).await.into_response();
            let close = http::HeaderValue::from_static("close");
            refused.headers_mut().insert(http::header::CONNECTION, close);
            return Ok(refused);
        }
        Ok(self.join(hyper::upgrade::on(&mut request), &mut response))
    }

    /// Moves bytes between a client and whoever has agreed to leave HTTP.
    fn join(
        &self,
        client: hyper::upgrade::OnUpgrade,
        response: &mut Response<hyper::body::Incoming>,
    ) -> Response<Body> {
        let other = hyper::upgrade::on(&mut *response);
        let closing = self.closing.clone();
        self.tunnels.spawn(async move {
            tokio::select! {
                () = closing.cancelled() => {}
                () = agent::tunnel(client, other) => {}
            }
        });
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *answer.headers_mut() = agent::upgrade_headers(response.headers());
        answer
    }
}

/// An agent's refusal as ours. Its text is for the user; its redirects and
/// whatever else it may say are not followed.
async fn refusal(response: Response<hyper::body::Incoming>) -> ApiError {
    let status = response.status();
    let limited = http_body_util::Limited::new(response.into_body(), MAX_REFUSAL);
    let text = match limited.collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        Err(error) => format!("the agent answered {status} and then failed: {error}"),
    };
    match status {
        StatusCode::NOT_FOUND => ApiError::new(StatusCode::NOT_FOUND, "NotFound", text),
        StatusCode::BAD_REQUEST => ApiError::bad_request(text),
        StatusCode::FORBIDDEN => ApiError::new(StatusCode::FORBIDDEN, "Forbidden", text),
        StatusCode::BAD_GATEWAY => ApiError::unavailable(text),
        _ => ApiError::internal(format!("the agent answered {status}: {text}")),
    }
}
