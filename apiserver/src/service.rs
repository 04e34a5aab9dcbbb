//! The one service: every request, from whichever transport, goes through
//! here.
//!
//! In order: what is it about, who asks, may they, is there room; then the
//! registry, discovery or a health page answers. Every refusal becomes a
//! `Status` here, and every request is counted here.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::Body;
use http::{Method, Request, Response, StatusCode, header};
use tokio::sync::Semaphore;
use tracing::Instrument as _;

use crate::admission::Notes;
use crate::audit::{Audit, Trail};
use crate::authn::{self, Authenticator, Peer};
use crate::authz::{self, Attributes, Authorizer};
use crate::backup;
use crate::compress;
use crate::config::Config;
use crate::discovery::Discovery;
use crate::health::Health;
use crate::members;
use crate::metrics::Metrics;
use crate::negotiate::Output;
use crate::openapi::Documents;
use crate::registry::{self, Call, Options, Registry};
use crate::request_info::RequestInfo;
use crate::status::ApiError;
use crate::stream::usage;
use crate::user::UserInfo;

/// Everything a request may need.
pub(crate) struct State {
    pub(crate) config: Config,
    pub(crate) registry: Arc<Registry>,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) authorizer: Arc<Authorizer>,
    pub(crate) discovery: Discovery,
    pub(crate) documents: Documents,
    pub(crate) health: Health,
    pub(crate) metrics: Metrics,
    /// Room for requests that read and end by themselves.
    pub(crate) reading: Semaphore,
    /// Room for requests that write.
    pub(crate) writing: Semaphore,
    /// Who did what, if somebody wants to know.
    pub(crate) audit: Option<Arc<Audit>>,
}

/// The tower service. Cheap to clone.
#[derive(Clone)]
pub struct ApiService(pub(crate) Arc<State>);

impl ApiService {
    /// A client that acts as `user` without a connection.
    pub fn client(&self, user: UserInfo) -> kube::Client {
        crate::client::client(self.clone(), user)
    }
}

impl tower::Service<Request<Body>> for ApiService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Too many requests are answered, not queued.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let state = Arc::clone(&self.0);
        Box::pin(async move { Ok(state.handle(request).await) })
    }
}

impl State {
    async fn handle(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
        let begun = Instant::now();
        let info = RequestInfo::parse(request.method(), request.uri());
        let span = tracing::debug_span!("request", verb = info.verb, path = info.path);
        let running = self.metrics.begin(&info);
        let head = *request.method() == Method::HEAD;
        let gzip = crate::negotiate::accepts_gzip(request.headers());
        let upgrades = crate::stream::is_upgrade(request.headers());

        let notes = Arc::new(Notes::default());
        let mut trail = self.audit.as_ref().map(|audit| Trail::begin(audit, &info, &request));
        let answered = self.answer(info, request, &notes, trail.as_mut()).instrument(span).await;
        let mut response = answered.unwrap_or_else(ApiError::into_response);
        if let Some(trail) = trail {
            response = trail.answered(response, &notes).await;
        }
        if upgrades && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            // What the client sent in advance was meant for the tunnel.
            let close = header::HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response
            .headers_mut()
            .entry(header::CACHE_CONTROL)
            .or_insert(header::HeaderValue::from_static("no-cache, private"));
        if gzip {
            response = compress::maybe(response);
        }
        if head {
            // The headers stay, the length included.
            response = response.map(|_| Body::empty());
        }
        self.metrics.end(running, response.status(), begun.elapsed());
        response
    }

    async fn answer(
        self: &Arc<Self>,
        info: RequestInfo,
        request: Request<Body>,
        notes: &Arc<Notes>,
        mut trail: Option<&mut Trail>,
    ) -> Result<Response<Body>, ApiError> {
        let (mut parts, body) = request.into_parts();
        let asking = self.authenticate(&mut parts)?;
        let known = trail.as_ref().map(|_| asking.clone());
        let user =
            authn::impersonation::impersonate(&self.authorizer, asking, &parts.headers).await;
        if let (Some(trail), Some(asking)) = (&mut trail, known) {
            let acting = user.as_ref().unwrap_or(&asking).clone();
            trail.received(asking, &acting, is_long_running(&info));
        }
        let user = user?;
        let allowed = self.authorize(&user, &info).await;
        if let Some(trail) = &mut trail {
            trail.decided(allowed.is_ok());
        }
        allowed?;

        if is_long_running(&info) {
            return self.dispatch(info, user, parts, body, notes).await;
        }
        // As upstream, a crowd cannot lock the administrators out.
        let _permit = if user.in_group(authz::MASTERS) {
            None
        } else {
            let reads = matches!(info.verb, "get" | "list" | "head");
            let room = if reads { &self.reading } else { &self.writing };
            let permit = room.try_acquire().map_err(|_| {
                self.metrics.rejected.inc();
                ApiError::too_many("Too many requests, please try again later.", 1)
            })?;
            Some(permit)
        };
        let served = async {
            let body = match trail {
                Some(trail) => trail.requested(&parts.headers, body).await?,
                None => body,
            };
            self.dispatch(info, user, parts, body, notes).await
        };
        tokio::time::timeout(self.config.request_timeout, served).await.unwrap_or_else(|_| {
            Err(ApiError::timeout(
                "request did not complete within requested timeout - context deadline exceeded",
            ))
        })
    }

    async fn authorize(&self, user: &UserInfo, info: &RequestInfo) -> Result<(), ApiError> {
        self.authorizer.require(&Attributes::new(user, info)).await?;
        if opens_a_shell(info) {
            // A WebSocket can only begin with GET, and reading a pod must not
            // be enough to act in it.
            let create = Attributes { verb: "create", ..Attributes::new(user, info) };
            self.authorizer.require(&create).await?;
        }
        Ok(())
    }

    /// Who asks. The in-process client says so in the extensions, which no
    /// connection can set.
    fn authenticate(&self, parts: &mut http::request::Parts) -> Result<UserInfo, ApiError> {
        if let Some(user) = parts.extensions.remove::<UserInfo>() {
            return Ok(user);
        }
        let unknown = Peer::Unknown;
        let peer = parts.extensions.get::<Arc<Peer>>().map_or(&unknown, |peer| &**peer);
        self.authenticator.authenticate(&parts.headers, peer)
    }

    async fn dispatch(
        self: &Arc<Self>,
        info: RequestInfo,
        user: UserInfo,
        mut parts: http::request::Parts,
        body: Body,
        notes: &Arc<Notes>,
    ) -> Result<Response<Body>, ApiError> {
        if !info.is_resource_request {
            return self.page(&info, &parts, body).await;
        }
        if info.api_group == usage::GROUP {
            let query = parts.uri.query().unwrap_or_default();
            return self.registry.streams.usage(&info, query).await;
        }
        let resource = registry::resolve(&info)?;
        let output = Output::negotiate(&parts.headers);
        // Streams negotiate for themselves.
        let output = match output {
            Err(_) if is_stream(&info) => Output::JSON,
            output => output?,
        };
        let options = Options::parse(parts.uri.query().unwrap_or_default())?;
        // Streams hand their headers on; nobody else looks at them again.
        let headers = if is_stream(&info) {
            parts.headers.clone()
        } else {
            std::mem::take(&mut parts.headers)
        };
        let stored = resource.stored();
        if let Some(warning) = resource.legacy.and_then(|legacy| legacy.warning) {
            notes.warn(warning);
        }
        let notes_of_call = Arc::clone(notes);
        let call =
            Call { info, user, resource, stored, options, output, headers, notes: notes_of_call };
        let served = self.registry.serve(call, parts, body).await;
        // Who is refused hears the warnings too.
        let mut response = served.unwrap_or_else(ApiError::into_response);
        registry::warn(response.headers_mut(), &notes.warnings());
        Ok(response)
    }

    /// Paths that name no resource.
    async fn page(
        &self,
        info: &RequestInfo,
        parts: &http::request::Parts,
        body: Body,
    ) -> Result<Response<Body>, ApiError> {
        let path = info.path.trim_end_matches('/');
        let store = &self.registry.store;
        if let Some(answer) = members::answer(&parts.method, path, body, store, &self.config).await
        {
            return answer;
        }
        if !matches!(parts.method, Method::GET | Method::HEAD) {
            return Err(ApiError::method_not_allowed());
        }
        let query = parts.uri.query().unwrap_or_default();
        match path {
            "/metrics" => return Ok(self.metrics.page(&self.registry.store.stats())),
            backup::PATH => return backup::answer(&self.registry.store).await,
            "/.well-known/openid-configuration" => {
                return Ok(json(&self.authenticator.openid_configuration()));
            }
            "/openid/v1/jwks" => return Ok(json(&self.authenticator.jwks())),
            _ => {}
        }
        if let Some(answer) = self.health.page(path, query, &self.registry) {
            return Ok(answer);
        }
        if let Some(answer) = self.documents.page(path, query, &parts.headers).await? {
            return Ok(answer);
        }
        self.discovery.page(path, &parts.headers)
    }
}

fn json(value: &serde_json::Value) -> Response<Body> {
    registry::json_response(http::StatusCode::OK, Body::from(value.to_string()))
}

fn is_stream(info: &RequestInfo) -> bool {
    matches!(info.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy")
}

/// Whether a request that looks like a read acts in a pod.
fn opens_a_shell(info: &RequestInfo) -> bool {
    info.verb == "get"
        && info.resource == "pods"
        && matches!(info.subresource.as_str(), "exec" | "attach" | "portforward")
}

/// Watches and streams last as long as the client likes.
fn is_long_running(info: &RequestInfo) -> bool {
    info.verb == "watch" || is_stream(info)
}
