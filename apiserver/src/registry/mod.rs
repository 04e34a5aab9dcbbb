//! The registry: what can be done with the objects of every kind.
//!
//! One machine over the catalogue. A request on a resource becomes a [`Call`];
//! the verb picks the file that serves it. Every write goes through the same
//! steps (decode, default, admit, validate, commit with compares, retry on a
//! lost race), every read answers with the bytes that were stored.

mod apply;
mod body;
mod continue_token;
mod create;
mod delete;
mod eviction;
mod filter;
mod key;
mod managed;
pub(crate) mod object;
mod options;
mod patch;
mod read;
mod review;
pub(crate) mod selected;
mod subresource;
mod update;
mod view;
mod watch;
mod yaml;

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::Value;
use skiff_api::catalogue::{self, FieldValidation, Resource};
use skiff_store::{Snapshot, Store};
use tokio_util::sync::CancellationToken;

use crate::admission::{Attributes, Chain, Notes, Operation};
use crate::allocate::Allocator;
use crate::authn::Authenticator;
use crate::authz::Authorizer;
use crate::negotiate::Output;
use crate::request_info::RequestInfo;
use crate::status::ApiError;
use crate::stream::Streams;
use crate::user::UserInfo;

pub(crate) use body::{peek as peek_body, read as read_body};
pub(crate) use options::Options;
pub(crate) use view::json_response;

/// What `crate::fuzzing` feeds.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing {
    pub(crate) use super::continue_token::ContinueToken;

    /// What a patch makes of a pod.
    pub(crate) fn patch(
        headers: &http::HeaderMap,
        bytes: &[u8],
        target: serde_json::Value,
    ) -> Result<serde_json::Value, crate::status::ApiError> {
        let pods = skiff_api::catalogue::find("", "v1", "pods");
        let shape = pods.and_then(|pods| pods.behaviour.shape());
        super::patch::Patch::parse(headers, bytes)?.apply(target, shape)
    }

    /// The value of a body.
    pub(crate) fn parse(
        headers: &http::HeaderMap,
        bytes: &[u8],
    ) -> Result<serde_json::Value, crate::status::ApiError> {
        let parsed = super::body::parse(headers, bytes)?;
        parsed.source.problems(&[]);
        Ok(parsed.value)
    }
}

/// The machine and what it works with.
pub(crate) struct Registry {
    pub(crate) store: Store,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) authorizer: Arc<Authorizer>,
    pub(crate) admission: Chain,
    pub(crate) streams: Streams,
    pub(crate) allocator: Allocator,
    /// What watches look for in objects.
    pub(crate) selected: selected::Selected,
    /// Ends the watches when the server stops.
    pub(crate) closing: CancellationToken,
}

/// One request on one resource.
pub(crate) struct Call {
    pub(crate) info: RequestInfo,
    pub(crate) user: UserInfo,
    /// The entry that the path names.
    pub(crate) resource: &'static Resource,
    /// The entry under which its objects are stored.
    pub(crate) stored: &'static Resource,
    pub(crate) options: Options,
    pub(crate) output: Output,
    pub(crate) headers: HeaderMap,
    /// What admission has to say to the client and to the audit log.
    pub(crate) notes: Arc<Notes>,
}

/// What a write left behind, before it is put into the client's shape.
pub(crate) struct Reply {
    pub(crate) code: StatusCode,
    /// The object in its stored form.
    pub(crate) bytes: Bytes,
    /// Texts for `Warning` headers.
    pub(crate) warnings: Vec<String>,
}

/// The entry that a path names. 404 when there is none.
pub(crate) fn resolve(info: &RequestInfo) -> Result<&'static Resource, ApiError> {
    let resource = catalogue::find(&info.api_group, &info.api_version, &info.resource)
        .ok_or_else(ApiError::no_such_resource)?;
    // An encoded slash would make a name of one object the key of another.
    if info.name.contains('/') || info.namespace.contains('/') {
        return Err(ApiError::bad_request("a name or namespace in the path may not contain '/'"));
    }
    // Only a proxied path goes on behind its subresource.
    if !info.rest.is_empty() && info.subresource != "proxy" {
        return Err(ApiError::no_such_resource());
    }
    // `namespaces/x` is the one cluster-scoped path that names a namespace.
    let names_namespace = !info.namespace.is_empty() && info.resource != "namespaces";
    if names_namespace && !resource.namespaced {
        return Err(ApiError::no_such_resource());
    }
    if !resource.namespaced || names_namespace || info.name.is_empty() {
        return Ok(resource);
    }
    // A name selected by field is a collection request all the same.
    if matches!(info.verb, "list" | "watch") {
        Ok(resource)
    } else {
        Err(ApiError::no_such_resource())
    }
}

impl Registry {
    /// Commits a write, on the condition under which its author may write.
    pub(super) async fn commit(
        &self,
        call: &Call,
        mut txn: skiff_store::Txn,
    ) -> Result<skiff_store::Committed, skiff_store::StoreError> {
        if let Some(term) = call.user.term() {
            txn = txn.when(skiff_store::Compare::Term(term));
        }
        self.store.commit(txn).await
    }

    /// Serves a request on a resource.
    pub(crate) async fn serve(
        self: &Arc<Self>,
        call: Call,
        parts: http::request::Parts,
        body: Body,
    ) -> Result<Response<Body>, ApiError> {
        if !call.info.subresource.is_empty() {
            return self.serve_subresource(call, parts, body).await;
        }
        let on_one = matches!(call.info.verb, "get" | "update" | "patch" | "delete");
        if !call.resource.verbs.contains(&call.info.verb) || (on_one && call.info.name.is_empty()) {
            return Err(ApiError::method_not_allowed());
        }
        managed::check_options(&call)?;
        if !call.resource.is_stored() {
            return self.review(&call, body).await;
        }
        match call.info.verb {
            "get" => self.get(&call).await,
            "list" => self.list(&call).await,
            "watch" => self.watch(&call).await,
            "create" => {
                let reply = self.create(&call, body).await?;
                view::reply(&call, reply)
            }
            "update" => {
                let reply = self.update(&call, body).await?;
                view::reply(&call, reply)
            }
            "patch" => {
                let reply = self.patch(&call, body).await?;
                view::reply(&call, reply)
            }
            "delete" => self.delete(&call, body).await,
            "deletecollection" => self.delete_collection(&call, body).await,
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    /// The newest state that any member has acknowledged.
    async fn latest(&self) -> Result<Snapshot, ApiError> {
        Ok(self.store.snapshot_latest().await?)
    }

    /// Reads the object in a body: its own type and no other, every field
    /// known unless the client is content with less.
    fn decode_body(
        &self,
        call: &Call,
        bytes: &[u8],
        warnings: &mut Vec<String>,
    ) -> Result<Value, ApiError> {
        let validation = call.options.field_validation.0;
        let body::Parsed { value: mut object, source } = body::parse(&call.headers, bytes)?;
        expect_type(call.resource, &mut object)?;
        let list = managed::take(&mut object);
        let unknown = call
            .resource
            .decode(&mut object)
            .map_err(|why| cannot_be_handled(call.resource, &why))?;
        managed::put(&mut object, list);
        let problems = match validation {
            FieldValidation::Ignore => Vec::new(),
            FieldValidation::Warn | FieldValidation::Strict => source.problems(&unknown),
        };
        body::judge(validation, problems, warnings).map_err(|why| {
            cannot_be_handled(call.resource, &format!("strict decoding error: {why}"))
        })?;
        Ok(object)
    }

    /// The request as admission sees it: about the stored kind and the final
    /// name.
    fn admission_info(call: &Call, name: &str) -> RequestInfo {
        let mut info = call.info.clone();
        call.stored.group.clone_into(&mut info.api_group);
        call.stored.version.clone_into(&mut info.api_version);
        call.stored.plural.clone_into(&mut info.resource);
        name.clone_into(&mut info.name);
        info
    }

    fn attributes<'a>(
        call: &'a Call,
        info: &'a RequestInfo,
        operation: Operation,
        old: Option<&'a Value>,
    ) -> Attributes<'a> {
        Attributes {
            info,
            kind: call.stored.kind,
            user: &call.user,
            operation,
            old,
            dry_run: call.options.dry_run,
            notes: &call.notes,
        }
    }
}

impl Call {
    /// The same call about one object.
    fn with_name(&self, name: &str) -> Self {
        let mut info = self.info.clone();
        name.clone_into(&mut info.name);
        Self {
            info,
            user: self.user.clone(),
            resource: self.resource,
            stored: self.stored,
            options: self.options.clone(),
            output: self.output,
            headers: self.headers.clone(),
            notes: Arc::clone(&self.notes),
        }
    }

    fn key(&self, name: &str) -> String {
        key::object(self.stored, &self.info.namespace, name)
    }

    fn not_found(&self, name: &str) -> ApiError {
        ApiError::not_found(self.resource.group, self.resource.plural, name)
    }

    fn modified(&self, name: &str) -> ApiError {
        ApiError::modified(self.resource.group, self.resource.plural, name)
    }

    fn conflict(&self, name: &str, why: &str) -> ApiError {
        ApiError::conflict(self.resource.group, self.resource.plural, name, why)
    }
}

/// Refuses an object of another type than the path's; fills the type in where
/// the client left it out, as upstream's decoder does.
fn expect_type(resource: &Resource, object: &mut Value) -> Result<(), ApiError> {
    let Some(map) = object.as_object_mut() else {
        return Err(ApiError::bad_request(
            "couldn't get version/kind; json parse error: json: cannot unmarshal into Go value of type struct",
        ));
    };
    let expected = resource.api_version();
    let text = |key: &str| map.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (version, kind) = (text("apiVersion"), text("kind"));
    if !version.is_empty() && version != expected {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({expected})"
        )));
    }
    if !kind.is_empty() && kind != resource.kind {
        return Err(ApiError::bad_request(format!(
            "{kind} in version {:?} cannot be handled as a {}: no kind {kind:?} is registered for this resource",
            resource.version, resource.kind
        )));
    }
    if version.is_empty() {
        map.insert("apiVersion".to_owned(), expected.into());
    }
    if kind.is_empty() {
        map.insert("kind".to_owned(), resource.kind.into());
    }
    Ok(())
}

fn cannot_be_handled(resource: &Resource, why: &str) -> ApiError {
    let (kind, version) = (resource.kind, resource.version);
    ApiError::bad_request(format!(
        "{kind} in version {version:?} cannot be handled as a {kind}: {why}"
    ))
}

/// Adds `Warning: 299` headers.
pub(crate) fn warn(headers: &mut HeaderMap, warnings: &[String]) {
    for warning in warnings.iter().take(100) {
        let escaped = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{escaped}\"")) {
            headers.append(http::header::WARNING, value);
        }
    }
}
