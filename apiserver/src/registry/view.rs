//! Answers in the shape that the client asked for.
//!
//! The common case touches nothing: the stored bytes are the answer. Only
//! another view of the kind, a Table, bare metadata, YAML or `pretty` make the
//! server look inside.

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use http::{HeaderValue, Response, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use skiff_api::catalogue::{Column, Resource};
use skiff_api::table::SCALE;

use super::options::IncludeObject;
use super::{Call, Reply, object, warn};
use crate::negotiate::{Encoding, Form};
use crate::status::ApiError;

/// How the objects of one request are shown.
#[derive(Clone, Copy)]
pub(crate) struct View {
    pub(crate) resource: &'static Resource,
    pub(crate) stored: &'static Resource,
    pub(crate) form: Form,
    pub(crate) encoding: Encoding,
    pub(crate) include_object: IncludeObject,
    pub(crate) pretty: bool,
}

/// What a list says about itself.
#[derive(Debug, Default)]
pub(crate) struct ListMeta {
    pub(crate) revision: u64,
    pub(crate) continue_token: String,
    pub(crate) remaining: Option<usize>,
}

impl ListMeta {
    fn to_value(&self) -> Value {
        let mut meta = json!({"resourceVersion": self.revision.to_string()});
        if !self.continue_token.is_empty() {
            meta["continue"] = json!(self.continue_token);
        }
        if let Some(remaining) = self.remaining {
            meta["remainingItemCount"] = json!(remaining);
        }
        meta
    }
}

impl View {
    /// The view that a call asks for.
    pub(crate) fn of(call: &Call) -> Self {
        Self {
            resource: call.resource,
            stored: call.stored,
            form: call.output.form,
            encoding: call.output.encoding,
            include_object: call.options.include_object,
            pretty: call.options.pretty,
        }
    }

    /// Whether the stored bytes can be sent as they are.
    pub(crate) fn is_stored_form(&self) -> bool {
        self.resource.legacy.is_none() && self.form == Form::Object
    }

    fn needs_no_encoding(&self) -> bool {
        self.is_stored_form() && self.encoding == Encoding::Json && !self.pretty
    }

    /// One object in this view, as JSON bytes.
    pub(crate) fn object(&self, bytes: &Bytes) -> Result<Bytes, ApiError> {
        if self.is_stored_form() {
            return Ok(bytes.clone());
        }
        let value = self.object_value(object::decode(bytes)?, true);
        Ok(Bytes::from(value.to_string()))
    }

    /// One object in this view, as a value. `headed` puts the columns into a
    /// Table.
    pub(crate) fn object_value(&self, stored: Value, headed: bool) -> Value {
        match self.form {
            Form::Object | Form::Discovery(_) => object::view(self.resource, stored),
            Form::Partial(version) => partial(&stored, version),
            Form::Table(version) => {
                let revision = object::meta(&stored, "resourceVersion").to_owned();
                let rows = vec![self.row(stored, version)];
                self.table(version, json!({"resourceVersion": revision}), rows, headed)
            }
        }
    }

    fn row(&self, stored: Value, version: &str) -> Value {
        let cells = self.stored.behaviour.row(&stored, Timestamp::now());
        match self.include_object {
            IncludeObject::None => json!({"cells": cells, "object": null}),
            IncludeObject::Metadata => json!({"cells": cells, "object": partial(&stored, version)}),
            IncludeObject::Object => {
                json!({"cells": cells, "object": object::view(self.resource, stored)})
            }
        }
    }

    /// A Table around rows.
    pub(crate) fn table(
        &self,
        version: &str,
        metadata: Value,
        rows: Vec<Value>,
        headed: bool,
    ) -> Value {
        let columns = if headed { self.stored.behaviour.columns() } else { Vec::new() };
        table(&columns, version, metadata, rows)
    }

    /// A list of stored objects as a response.
    pub(crate) fn list(
        &self,
        items: Vec<Bytes>,
        meta: &ListMeta,
    ) -> Result<Response<Body>, ApiError> {
        if self.needs_no_encoding() {
            return Ok(concatenate(self.resource, items, meta));
        }
        let mut values = Vec::with_capacity(items.len());
        for bytes in &items {
            values.push(object::decode(bytes)?);
        }
        let metadata = meta.to_value();
        let value = match self.form {
            Form::Table(version) => {
                let rows = values.into_iter().map(|value| self.row(value, version)).collect();
                self.table(version, metadata, rows, true)
            }
            Form::Partial(version) => json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": metadata,
                "items": values.iter().map(|value| partial(value, version)).collect::<Vec<_>>(),
            }),
            Form::Object | Form::Discovery(_) => json!({
                "kind": format!("{}List", self.resource.kind),
                "apiVersion": self.resource.api_version(),
                "metadata": metadata,
                "items": values.into_iter().map(|value| object::view(self.resource, value)).collect::<Vec<_>>(),
            }),
        };
        render(StatusCode::OK, &value, self.encoding, self.pretty)
    }

    /// One stored object as a response.
    pub(crate) fn respond(
        &self,
        code: StatusCode,
        bytes: &Bytes,
    ) -> Result<Response<Body>, ApiError> {
        if self.needs_no_encoding() {
            return Ok(json_response(code, Body::from(bytes.clone())));
        }
        let value = self.object_value(object::decode(bytes)?, true);
        render(code, &value, self.encoding, self.pretty)
    }
}

/// A Table.
fn table(columns: &[Column], version: &str, metadata: Value, rows: Vec<Value>) -> Value {
    let columns: Vec<Value> = columns
        .iter()
        .map(|column| {
            json!({
                "name": column.name,
                "type": column.r#type,
                "format": column.format,
                "description": column.description,
                "priority": column.priority,
            })
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": metadata,
        "columnDefinitions": columns,
        "rows": rows,
    })
}

/// A Scale as a response.
pub(crate) fn scale(call: &Call, scale: Value) -> Result<Response<Body>, ApiError> {
    let shown = match call.output.form {
        Form::Object | Form::Discovery(_) => scale,
        Form::Partial(version) => partial(&scale, version),
        Form::Table(version) => {
            let cells = (SCALE.row)(&scale, Timestamp::now());
            let metadata = json!({"resourceVersion": object::meta(&scale, "resourceVersion")});
            let object = match call.options.include_object {
                IncludeObject::None => Value::Null,
                IncludeObject::Metadata => partial(&scale, version),
                IncludeObject::Object => scale,
            };
            let row = json!({"cells": cells, "object": object});
            table(SCALE.columns, version, metadata, vec![row])
        }
    };
    value(call, StatusCode::OK, &shown)
}

/// The answer to a write.
pub(crate) fn reply(call: &Call, reply: Reply) -> Result<Response<Body>, ApiError> {
    let mut response = View::of(call).respond(reply.code, &reply.bytes)?;
    warn(response.headers_mut(), &reply.warnings);
    Ok(response)
}

/// Any value as a response.
pub(crate) fn value(
    call: &Call,
    code: StatusCode,
    value: &Value,
) -> Result<Response<Body>, ApiError> {
    render(code, value, call.output.encoding, call.options.pretty)
}

/// `PartialObjectMetadata` of an object.
fn partial(stored: &Value, version: &str) -> Value {
    let metadata = stored.get("metadata").cloned().unwrap_or_else(|| Value::Object(Map::new()));
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": metadata,
    })
}

/// Encodes a value.
pub(crate) fn render(
    code: StatusCode,
    value: &Value,
    encoding: Encoding,
    pretty: bool,
) -> Result<Response<Body>, ApiError> {
    let failed = |_| ApiError::internal("the answer could not be encoded");
    match encoding {
        Encoding::Json if pretty => {
            let mut text =
                serde_json::to_string_pretty(value).map_err(|_| ApiError::internal("encoding"))?;
            text.push('\n');
            Ok(json_response(code, Body::from(text)))
        }
        Encoding::Json => Ok(json_response(code, Body::from(value.to_string()))),
        Encoding::Yaml => {
            let text = serde_yaml::to_string(value).map_err(failed)?;
            let mut response = json_response(code, Body::from(text));
            let media = HeaderValue::from_static("application/yaml");
            response.headers_mut().insert(header::CONTENT_TYPE, media);
            Ok(response)
        }
    }
}

pub(crate) fn json_response(code: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    let media = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, media);
    response
}

/// Chunks of a list's body are gathered to about this size.
const CHUNK: usize = 64 * 1024;

/// A list whose items are stored bytes: written out in chunks, so that a long
/// list never stands in memory twice.
fn concatenate(resource: &Resource, items: Vec<Bytes>, meta: &ListMeta) -> Response<Body> {
    let head = format!(
        r#"{{"kind":"{}List","apiVersion":"{}","metadata":{},"items":["#,
        resource.kind,
        resource.api_version(),
        meta.to_value(),
    );
    let total = head.len()
        + items.iter().map(|b| b.len() + 1).sum::<usize>()
        + if items.is_empty() { 2 } else { 1 };
    if total <= CHUNK {
        let mut out = BytesMut::with_capacity(total);
        out.extend_from_slice(head.as_bytes());
        append(&mut out, &items, true);
        out.extend_from_slice(b"]}");
        return json_response(StatusCode::OK, Body::from(out.freeze()));
    }
    let count = items.len();
    let mut head = Some(head);
    let mut next = 0;
    let chunks = futures::stream::iter(std::iter::from_fn(move || {
        if next > count {
            return None;
        }
        let mut out = BytesMut::with_capacity(CHUNK + CHUNK / 4);
        let first = head.is_some();
        if let Some(head) = head.take() {
            out.extend_from_slice(head.as_bytes());
        }
        let start = next;
        let mut size = 0;
        while next < count && (size < CHUNK || next == start) {
            size += items[next].len();
            next += 1;
        }
        append(&mut out, &items[start..next], first);
        if next == count {
            out.extend_from_slice(b"]}");
            next += 1;
        }
        Some(out.freeze())
    }));
    let body = Body::from_stream(chunks.map(Ok::<_, std::convert::Infallible>));
    let mut response = json_response(StatusCode::OK, body);
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(total));
    response
}

fn append(out: &mut BytesMut, items: &[Bytes], first: bool) {
    for (at, item) in items.iter().enumerate() {
        if at > 0 || !first {
            out.extend_from_slice(b",");
        }
        out.extend_from_slice(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    #[tokio::test]
    async fn lists_of_any_length_are_whole() {
        let pods = skiff_api::catalogue::find("", "v1", "pods").unwrap();
        let item = Bytes::from(format!(r#"{{"a":"{}"}}"#, "x".repeat(1000)));
        for count in [0, 1, 2, 60, 65, 66, 500] {
            let meta = ListMeta { revision: 9, continue_token: "t".into(), remaining: Some(3) };
            let response = concatenate(pods, vec![item.clone(); count], &meta);
            let length = response
                .headers()
                .get(header::CONTENT_LENGTH)
                .map(|v| v.to_str().unwrap().to_owned());
            let body = response.into_body().collect().await.unwrap().to_bytes();
            if let Some(length) = length {
                assert_eq!(length, body.len().to_string(), "{count}");
            }
            let list: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(list["items"].as_array().unwrap().len(), count);
            assert_eq!(list["metadata"]["remainingItemCount"], 3);
            assert_eq!(list["kind"], "PodList");
        }
    }
}
