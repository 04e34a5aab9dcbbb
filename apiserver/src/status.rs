//! Every refusal, in one place: `ApiError` is what handlers return, and the
//! only thing that becomes a Kubernetes `Status` with an HTTP code.
//!
//! Message texts are upstream's, letter by letter, because clients and scripts
//! match on them. What a client must not see (paths, store internals) is
//! logged by whoever makes an `internal` error and never enters the message.

use std::borrow::Cow;

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value, json};
use skiff_api::catalogue::{FieldError, FieldReason};
use skiff_store::StoreError;

/// A request that was refused or failed.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    /// HTTP code.
    pub code: StatusCode,
    /// Machine-readable reason, such as `NotFound`.
    pub reason: &'static str,
    /// What the client reads.
    pub message: String,
    /// `details.name`
    pub name: String,
    /// `details.group`
    pub group: String,
    /// `details.kind`: the resource, for `Invalid` the kind.
    pub kind: String,
    /// `details.causes`
    pub causes: Vec<Cause>,
    /// `details.retryAfterSeconds` and the `Retry-After` header.
    pub retry_after_seconds: Option<u32>,
    /// `metadata.continue`: how a list may go on that can no longer go on
    /// consistently.
    pub continue_token: String,
}

/// One entry of `details.causes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Such as `FieldValueRequired`.
    pub reason: &'static str,
    /// What is wrong.
    pub message: String,
    /// Where; may be empty.
    pub field: String,
}

/// A field selector's text for `resource.group`, as messages spell it.
fn qualified(resource: &str, group: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

impl ApiError {
    /// An error with a code, a reason and a message.
    pub fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            causes: Vec::new(),
            retry_after_seconds: None,
            continue_token: String::new(),
        }
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        self.group = group.to_owned();
        self.kind = kind.to_owned();
        self.name = name.to_owned();
        self
    }

    /// 404: `pods "x" not found`.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {name:?} not found", qualified(resource, group));
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(group, resource, name)
    }

    /// 404 for a path that names no resource the server has.
    pub fn no_such_resource() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "NotFound",
            "the server could not find the requested resource",
        )
    }

    /// 409: the name is taken.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", qualified(resource, group));
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(group, resource, name)
    }

    /// 409: the object is not as the request expected it.
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: {why}",
            qualified(resource, group)
        );
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(group, resource, name)
    }

    /// 409 for a stale `resourceVersion`.
    pub fn modified(group: &str, resource: &str, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version \
                   and try again";
        Self::conflict(group, resource, name, why)
    }

    /// 422 with every broken rule.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: Vec<FieldError>) -> Self {
        let causes: Vec<Cause> = errors
            .iter()
            .map(|error| Cause {
                reason: cause_reason(error.reason),
                message: error_body(error),
                field: error.field.clone(),
            })
            .collect();
        // Upstream's aggregate drops repeats.
        let mut texts: Vec<String> = Vec::new();
        for cause in &causes {
            let text = format!("{}: {}", cause.field, cause.message);
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        let text = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{} {name:?} is invalid: {text}", qualified(kind, group));
        let mut error = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
            .about(group, kind, name);
        error.causes = causes;
        error
    }

    /// 400 with a free text.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// 403: `pods "x" is forbidden: WHY`.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let subject = qualified(resource, group);
        let message = match (subject.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (false, true) => format!("{subject} is forbidden: {why}"),
            (false, false) => format!("{subject} {name:?} is forbidden: {why}"),
        };
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).about(group, resource, name)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    /// 410: the revision asked for is no longer kept.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// 410 for a watch or list that starts before the history window.
    pub fn too_old(wanted: u64, oldest: u64) -> Self {
        Self::expired(format!("too old resource version: {wanted} ({oldest})"))
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    /// 415; `accepted` lists the media types that would do.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
    }

    /// 406; `accepted` lists the media types that would do.
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message =
            format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    /// 413 for a body above `limit` bytes.
    pub fn too_large(limit: usize) -> Self {
        let message = format!("Request entity too large: limit is {limit}");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    }

    /// 429: try again in `seconds`.
    pub fn too_many(message: impl Into<String>, seconds: u32) -> Self {
        let mut error = Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message);
        error.retry_after_seconds = Some(seconds);
        error
    }

    /// 500. `cause` is shown to the client: pass nothing that it must not see.
    pub fn internal(cause: impl Into<String>) -> Self {
        let cause = cause.into();
        let message = format!("Internal error occurred: {cause}");
        let mut error = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message);
        error.causes = vec![Cause { reason: "", message: cause, field: String::new() }];
        error
    }

    /// 504.
    pub fn timeout(message: impl AsRef<str>) -> Self {
        let message = format!("Timeout: {}", message.as_ref());
        Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message)
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Self {
        let mut error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message);
        error.retry_after_seconds = Some(1);
        error
    }

    /// 502 or 503 from something behind the server, such as an agent.
    pub fn bad_gateway(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "InternalError", message)
    }

    /// The `Status` object.
    pub fn to_value(&self) -> Value {
        let mut details = Map::new();
        let mut put = |key: &str, value: Value| {
            details.insert(key.to_owned(), value);
        };
        for (key, text) in [("name", &self.name), ("group", &self.group), ("kind", &self.kind)] {
            if !text.is_empty() {
                put(key, json!(text));
            }
        }
        if !self.causes.is_empty() {
            let causes = self.causes.iter().map(Cause::to_value).collect();
            put("causes", Value::Array(causes));
        }
        if let Some(seconds) = self.retry_after_seconds {
            put("retryAfterSeconds", json!(seconds));
        }
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code.as_u16(),
        });
        if !self.continue_token.is_empty() {
            status["metadata"]["continue"] = json!(self.continue_token);
        }
        if !details.is_empty() {
            status["details"] = Value::Object(details);
        }
        status
    }

    /// The response a client gets.
    pub fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.to_value().to_string()));
        *response.status_mut() = self.code;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

impl Cause {
    fn to_value(&self) -> Value {
        let mut cause = Map::new();
        for (key, text) in
            [("reason", self.reason), ("message", self.message.as_str()), ("field", &self.field)]
        {
            if !text.is_empty() {
                cause.insert(key.to_owned(), json!(text));
            }
        }
        Value::Object(cause)
    }
}

impl From<StoreError> for ApiError {
    /// For store errors that no handler has a better word for. Conflicts are
    /// turned into `AlreadyExists` or `Conflict` by the registry, which knows
    /// the object.
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Compacted { wanted, oldest } => Self::too_old(wanted.0, oldest.0),
            StoreError::Future { wanted, newest } => {
                let mut error = Self::timeout(format!(
                    "Too large resource version: {wanted}, current: {newest}"
                ));
                error.retry_after_seconds = Some(1);
                error.causes = vec![Cause {
                    reason: "ResourceVersionTooLarge",
                    message: "Too large resource version".to_owned(),
                    field: String::new(),
                }];
                error
            }
            StoreError::Unavailable(why) => {
                tracing::warn!(why, "store unavailable");
                let mut error = Self::timeout("the store has no quorum, try again");
                // Nodes that read this move to another master.
                error.causes = vec![Cause {
                    reason: "NoQuorum",
                    message: "another master may have one".to_owned(),
                    field: String::new(),
                }];
                error
            }
            StoreError::Closed | StoreError::Removed => {
                Self::unavailable("apiserver is shutting down")
            }
            StoreError::Deposed { term } => {
                tracing::warn!(term, "refused a write of a leader that leads no more");
                Self::unavailable("this master leads no more")
            }
            StoreError::Membership(why) => Self::bad_request(why),
            StoreError::MembershipBusy(why) => Self::unavailable(format!("{why}; try again")),
            StoreError::Invalid(why) => {
                tracing::error!(why, "the store refused a transaction");
                Self::internal("the write was refused by the store")
            }
            StoreError::Disk(why) | StoreError::Damaged(why) | StoreError::Locked(why) => {
                tracing::error!(why, "the store's disk failed");
                Self::internal("the store failed")
            }
            StoreError::Conflict { key, .. } => {
                tracing::warn!(%key, "conflict that no handler expected");
                Self::new(
                    StatusCode::CONFLICT,
                    "Conflict",
                    "the object has been modified; please apply your changes to the latest \
                     version and try again",
                )
            }
        }
    }
}

fn cause_reason(reason: FieldReason) -> &'static str {
    match reason {
        FieldReason::Required => "FieldValueRequired",
        FieldReason::Invalid => "FieldValueInvalid",
        FieldReason::NotFound => "FieldValueNotFound",
        FieldReason::Duplicate => "FieldValueDuplicate",
        FieldReason::NotSupported => "FieldValueNotSupported",
        FieldReason::Forbidden => "FieldValueForbidden",
        FieldReason::TooLong => "FieldValueTooLong",
        FieldReason::TooMany => "FieldValueTooMany",
        FieldReason::TypeInvalid => "FieldValueTypeInvalid",
    }
}

/// The text after the field path, as upstream's `ErrorBody`.
fn error_body(error: &FieldError) -> String {
    let title = match error.reason {
        FieldReason::Required => "Required value",
        FieldReason::Invalid | FieldReason::TypeInvalid => "Invalid value",
        FieldReason::NotFound => "Not found",
        FieldReason::Duplicate => "Duplicate value",
        FieldReason::NotSupported => "Unsupported value",
        FieldReason::Forbidden => "Forbidden",
        FieldReason::TooLong => "Too long",
        FieldReason::TooMany => "Too many",
    };
    let shows_value = !matches!(
        error.reason,
        FieldReason::Required | FieldReason::Forbidden | FieldReason::TooLong
    );
    let value: Cow<'_, str> = match &error.value {
        _ if !shows_value => Cow::Borrowed(""),
        other => Cow::Owned(format!(": {other}")),
    };
    let detail: Cow<'_, str> =
        if error.detail.is_empty() { "".into() } else { format!(": {}", error.detail).into() };
    format!("{title}{value}{detail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(field: &str, reason: FieldReason, value: Value, detail: &str) -> FieldError {
        FieldError { field: field.to_owned(), reason, value, detail: detail.to_owned() }
    }

    #[test]
    fn messages_are_upstreams() {
        let required = field("spec.selector", FieldReason::Required, Value::Null, "");
        let invalid = field("spec.replicas", FieldReason::Invalid, json!(-1), "must be positive");
        let forbidden = field("spec", FieldReason::Forbidden, json!("x"), "may not change");
        #[rustfmt::skip]
        let cases = [
            (ApiError::not_found("", "pods", "a"), 404, "NotFound", "pods \"a\" not found"),
            (ApiError::not_found("apps", "deployments", "a"), 404, "NotFound", "deployments.apps \"a\" not found"),
            (ApiError::already_exists("", "pods", "a"), 409, "AlreadyExists", "pods \"a\" already exists"),
            (ApiError::modified("", "pods", "a"), 409, "Conflict", "Operation cannot be fulfilled on pods \"a\": the object has been modified; please apply your changes to the latest version and try again"),
            (ApiError::invalid("apps", "Deployment", "a", vec![required.clone()]), 422, "Invalid", "Deployment.apps \"a\" is invalid: spec.selector: Required value"),
            (ApiError::invalid("", "Pod", "a", vec![required, invalid, forbidden]), 422, "Invalid", "Pod \"a\" is invalid: [spec.selector: Required value, spec.replicas: Invalid value: -1: must be positive, spec: Forbidden: may not change]"),
            (ApiError::invalid("", "Pod", "a", vec![field("spec.x", FieldReason::Invalid, Value::Null, "why")]), 422, "Invalid", "Pod \"a\" is invalid: spec.x: Invalid value: null: why"),
            (ApiError::forbidden("", "pods", "", "no"), 403, "Forbidden", "pods is forbidden: no"),
            (ApiError::forbidden("", "", "", "User \"u\" cannot get path \"/x\""), 403, "Forbidden", "forbidden: User \"u\" cannot get path \"/x\""),
            (ApiError::too_old(3, 9), 410, "Expired", "too old resource version: 3 (9)"),
            (ApiError::internal("x"), 500, "InternalError", "Internal error occurred: x"),
            (ApiError::timeout("x"), 504, "Timeout", "Timeout: x"),
        ];
        for (error, code, reason, message) in cases {
            let status = error.to_value();
            assert_eq!(status["code"], code);
            assert_eq!(status["reason"], reason);
            assert_eq!(status["message"], message);
            assert_eq!(status["status"], "Failure");
        }
    }

    #[test]
    fn details_carry_every_cause_and_the_delay() {
        let error =
            field("spec.a", FieldReason::NotSupported, json!("x"), "supported values: \"y\"");
        let status = ApiError::invalid("", "Pod", "p", vec![error]).to_value();
        let cause = &status["details"]["causes"][0];
        assert_eq!(cause["reason"], "FieldValueNotSupported");
        assert_eq!(cause["field"], "spec.a");
        assert_eq!(cause["message"], "Unsupported value: \"x\": supported values: \"y\"");
        let response = ApiError::too_many("slow down", 2).into_response();
        assert_eq!(response.headers()["retry-after"], "2");
    }
}
