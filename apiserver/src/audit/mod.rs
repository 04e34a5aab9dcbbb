//! The audit log: who did what, as far as the policy wants it written down.
//!
//! One line of JSON (`audit.k8s.io/v1` Event) per stage of a request, appended
//! to a file before the client sees the end of the answer: what was answered
//! stands in the log. The file is only ever appended to, so whoever rotates it
//! by copying and truncating loses nothing.
//!
//! Left out: rotation and webhooks; the stage `Panic`, because a panic ends
//! the server. The tunnel of an upgraded request is complete when it begins.

mod event;
pub mod policy;

use std::fs::File;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use jiff::Timestamp;
use serde_json::Value;

use crate::admission::Notes;
use crate::request_info::RequestInfo;
use crate::status::ApiError;
use crate::user::UserInfo;
use event::Event;
use policy::{Level, Policy, Stage};

/// The client's name for a request, or ours.
const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// The largest answer that is looked at for what it says of a failure.
const MAX_STATUS: usize = 64 << 10;

/// The address of a connection's client, in a request's extensions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientAddress(pub(crate) IpAddr);

/// Why there can be no audit log.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The policy cannot be read.
    #[error("cannot read the audit policy {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The policy is none.
    #[error("the audit policy {path} cannot be used: {why}")]
    Policy {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The log cannot be written.
    #[error("cannot open the audit log {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The audit log of a server.
pub(crate) struct Audit {
    policy: Policy,
    log: Mutex<Box<dyn std::io::Write + Send>>,
}

impl Audit {
    /// Reads the policy and opens the log; `-` is the standard output.
    pub(crate) fn open(policy: &Path, log: &Path) -> Result<Self, AuditError> {
        let read = |source| AuditError::Read { path: policy.to_owned(), source };
        let text = std::fs::read_to_string(policy).map_err(read)?;
        let refuse = |why| AuditError::Policy { path: policy.to_owned(), why };
        let parsed = Policy::parse(&text).map_err(refuse)?;
        let sink: Box<dyn std::io::Write + Send> = if log == Path::new("-") {
            Box::new(std::io::stdout())
        } else {
            let open = |source| AuditError::Open { path: log.to_owned(), source };
            Box::new(open_private(log).map_err(open)?)
        };
        Ok(Self { policy: parsed, log: Mutex::new(sink) })
    }

    fn write(&self, event: &Event, stage: Stage) {
        let mut line = event.render(stage, Timestamp::now()).to_string();
        line.push('\n');
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        // The request goes on: a full disk must not stop a cluster.
        if let Err(error) = log.write_all(line.as_bytes()).and_then(|()| log.flush()) {
            tracing::error!(%error, "an audit event is lost");
        }
    }
}

/// Bodies may hold secrets, so the log is its owner's alone.
fn open_private(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    File::options().append(true).create(true).mode(0o600).open(path)
}

/// The record of one request on its way.
pub(crate) struct Trail {
    audit: Arc<Audit>,
    event: Event,
    level: Level,
    omit_stages: Vec<Stage>,
    long_running: bool,
}

impl Trail {
    /// Begins a record, before it is known who asks.
    pub(crate) fn begin(audit: &Arc<Audit>, info: &RequestInfo, request: &Request<Body>) -> Self {
        let given = request.headers().get(&AUDIT_ID).and_then(|id| id.to_str().ok());
        let id = given.filter(|id| !id.is_empty() && id.len() <= 64).map(str::to_owned);
        let text = |name| {
            let value =
                request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let event = Event {
            id: id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
            uri: request.uri().path_and_query().map_or_else(String::new, ToString::to_string),
            info: info.clone(),
            source: request.extensions().get::<ClientAddress>().map(|client| client.0),
            user_agent: text(header::USER_AGENT),
            received: Timestamp::now(),
            ..Event::default()
        };
        let audit = Arc::clone(audit);
        let mut trail =
            Self { audit, event, level: Level::None, omit_stages: Vec::new(), long_running: false };
        // Should authentication fail, this stands.
        trail.decide(&UserInfo::default());
        trail
    }

    fn decide(&mut self, user: &UserInfo) {
        let decision = self.audit.policy.decide(user, &self.event.info);
        self.level = decision.level;
        self.event.level = decision.level.name();
        self.event.omit_managed_fields = decision.omit_managed_fields;
        self.omit_stages = decision.omit_stages;
    }

    /// Notes who asks: whoever proved who they are, and whom they act as.
    pub(crate) fn received(&mut self, asking: UserInfo, user: &UserInfo, long_running: bool) {
        self.decide(user);
        self.event.acting = (asking != *user).then(|| user.clone());
        self.event.user = asking;
        self.long_running = long_running;
        self.write(Stage::RequestReceived);
    }

    /// Notes whether the request was allowed.
    pub(crate) fn decided(&mut self, allowed: bool) {
        let decision = if allowed { "allow" } else { "forbid" };
        self.event.annotations.insert("authorization.k8s.io/decision".to_owned(), decision.into());
    }

    /// Reads the request's object, if the policy wants it, and gives it back.
    pub(crate) async fn requested(
        &mut self,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Body, ApiError> {
        if self.level < Level::Request || self.long_running {
            return Ok(body);
        }
        let bytes = crate::registry::read_body(body).await?;
        self.event.request = crate::registry::peek_body(headers, &bytes);
        Ok(Body::from(bytes))
    }

    /// Notes the answer and writes the record's end.
    pub(crate) async fn answered(
        mut self,
        response: Response<Body>,
        notes: &Notes,
    ) -> Response<Body> {
        self.event.annotations.extend(notes.annotations());
        self.event.code = response.status().as_u16();
        let mut response = response;
        if let Ok(id) = HeaderValue::from_str(&self.event.id) {
            response.headers_mut().insert(AUDIT_ID, id);
        }
        let failed = response.status().is_client_error() || response.status().is_server_error();
        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if self.long_running && !failed && !upgraded {
            self.write(Stage::ResponseStarted);
            // Whoever drops the body has sent it or will not.
            return response.map(|body| {
                let end = End(self);
                Body::new(body.map_frame(move |frame| {
                    // The closure, and with it the record, lives as the body.
                    let _lives = &end;
                    frame
                }))
            });
        }
        if self.level >= Level::RequestResponse && !upgraded {
            response = self.keep(response, usize::MAX).await;
        } else if failed && self.level > Level::None {
            response = self.keep(response, MAX_STATUS).await;
            self.event.response = None;
        }
        self.write(Stage::ResponseComplete);
        response
    }

    /// Looks at the answer's body without taking it away.
    async fn keep(&mut self, response: Response<Body>, limit: usize) -> Response<Body> {
        let (parts, body) = response.into_parts();
        let bytes = match Limited::new(body, limit).collect().await {
            Ok(collected) => collected.to_bytes(),
            Err(error) => {
                // Ours are never too long to be kept, and never fail half-way.
                tracing::warn!(%error, "an answer could not be kept for the audit log");
                return ApiError::internal("the answer could not be read").into_response();
            }
        };
        let value: Option<Value> = serde_json::from_slice(&bytes).ok();
        self.event.status = value.clone().filter(|value| value["kind"] == "Status");
        self.event.response = value;
        Response::from_parts(parts, Body::from(bytes))
    }

    fn write(&self, stage: Stage) {
        if self.level > Level::None && !self.omit_stages.contains(&stage) {
            self.audit.write(&self.event, stage);
        }
    }
}

/// Writes the end of a long answer when its body is dropped.
struct End(Trail);

impl Drop for End {
    fn drop(&mut self) {
        self.0.write(Stage::ResponseComplete);
    }
}
