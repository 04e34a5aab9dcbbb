//! Objects as bytes and as values.
//!
//! The stored bytes always begin `{"kind":K,"apiVersion":V,"metadata":{"resourceVersion":"N"`.
//! The store writes N when it applies the write, and the same bytes then serve
//! every GET, LIST and WATCH. A deletion's event carries the revision of the
//! deletion, so the number must be found again without parsing: it is the
//! first thing that can vary.

use std::ops::Range;

use bytes::{BufMut as _, Bytes, BytesMut};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use skiff_api::catalogue::Resource;
use skiff_store::{Draft, Entry};

use crate::status::ApiError;

const REVISION_FIELD: &[u8] = b"\"resourceVersion\":\"";

/// Encodes an object once, with a hole where its revision will stand.
pub(crate) fn draft(resource: &Resource, object: &Value) -> Result<Draft, ApiError> {
    let (bytes, hole) = encode(resource, object, "")?;
    Ok(Draft {
        bytes,
        revision_at: Some(hole),
        sealed: resource.group.is_empty() && resource.plural == "secrets",
    })
}

/// Encodes an object in the stored form with a known revision (or none).
pub(crate) fn encode(
    resource: &Resource,
    object: &Value,
    revision: &str,
) -> Result<(Bytes, u32), ApiError> {
    let broken = || ApiError::internal("an object could not be encoded");
    let object = object.as_object().ok_or_else(broken)?;
    let empty = Map::new();
    let metadata = object.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    let mut out = BytesMut::with_capacity(1024).writer();
    let mut write = |text: &[u8]| out.get_mut().extend_from_slice(text);
    write(b"{\"kind\":\"");
    write(resource.kind.as_bytes());
    write(b"\",\"apiVersion\":\"");
    if !resource.group.is_empty() {
        write(resource.group.as_bytes());
        write(b"/");
    }
    write(resource.version.as_bytes());
    write(b"\",\"metadata\":{");
    write(REVISION_FIELD);
    let hole = out.get_ref().len();
    out.get_mut().extend_from_slice(revision.as_bytes());
    out.get_mut().extend_from_slice(b"\"");
    let mut field = |key: &str, value: &Value| {
        out.get_mut().extend_from_slice(b",");
        serde_json::to_writer(&mut out, key)?;
        out.get_mut().extend_from_slice(b":");
        serde_json::to_writer(&mut out, value)
    };
    for (key, value) in metadata {
        if key != "resourceVersion" && key != "selfLink" {
            field(key, value).map_err(|_| broken())?;
        }
    }
    out.get_mut().extend_from_slice(b"}");
    let mut field = |key: &str, value: &Value| {
        out.get_mut().extend_from_slice(b",");
        serde_json::to_writer(&mut out, key)?;
        out.get_mut().extend_from_slice(b":");
        serde_json::to_writer(&mut out, value)
    };
    for (key, value) in object {
        if key != "kind" && key != "apiVersion" && key != "metadata" {
            field(key, value).map_err(|_| broken())?;
        }
    }
    out.get_mut().extend_from_slice(b"}");
    let hole = u32::try_from(hole).map_err(|_| broken())?;
    Ok((out.into_inner().freeze(), hole))
}

/// Where the digits of the revision stand in stored bytes.
fn revision_digits(bytes: &[u8]) -> Option<Range<usize>> {
    // Kind and apiVersion come before it and are short.
    let head = &bytes[..bytes.len().min(512)];
    let start = memchr::memmem::find(head, REVISION_FIELD)? + REVISION_FIELD.len();
    let len = memchr::memchr(b'"', &head[start..])?;
    Some(start..start + len)
}

/// The same object under another revision, for the event of its deletion.
pub(crate) fn with_revision(bytes: &Bytes, revision: u64) -> Bytes {
    let Some(digits) = revision_digits(bytes) else { return bytes.clone() };
    let revision = revision.to_string();
    let mut out = BytesMut::with_capacity(bytes.len() + revision.len());
    out.extend_from_slice(&bytes[..digits.start]);
    out.extend_from_slice(revision.as_bytes());
    out.extend_from_slice(&bytes[digits.end..]);
    out.freeze()
}

/// Reads stored bytes.
pub(crate) fn decode(bytes: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes).map_err(|err| {
        tracing::error!(%err, "a stored object is not JSON");
        ApiError::internal("a stored object is damaged")
    })
}

/// Reads the object of an entry.
pub(crate) fn decode_entry(entry: &Entry) -> Result<Value, ApiError> {
    decode(&entry.value)
}

/// `metadata.FIELD` as text, empty when it is not there.
pub(crate) fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or_default()
}

/// The metadata of an object that is about to change.
pub(crate) fn meta_mut(object: &mut Value) -> Result<&mut Map<String, Value>, ApiError> {
    let broken = || ApiError::bad_request("the object's metadata is not an object");
    let object = object.as_object_mut().ok_or_else(broken)?;
    object.entry("metadata").or_insert_with(|| json!({})).as_object_mut().ok_or_else(broken)
}

/// `metadata.finalizers`.
pub(crate) fn finalizers(object: &Value) -> Vec<&str> {
    let list = object.get("metadata").and_then(|m| m.get("finalizers")).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Whether a deletion has been asked for.
pub(crate) fn is_deleting(object: &Value) -> bool {
    !meta(object, "deletionTimestamp").is_empty()
}

/// A time as Kubernetes writes it, to the second.
pub(crate) fn timestamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The object in the shape of the entry that the request named.
pub(crate) fn view(resource: &'static Resource, mut object: Value) -> Value {
    resource.encode(&mut object);
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_bytes_have_their_revision_first() {
        let pods = skiff_api::catalogue::find("", "v1", "pods").unwrap();
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "resourceVersion": "7", "annotations": {"resourceVersion": "x"}},
            "spec": {"x": "\"resourceVersion\":\""},
        });
        let draft = draft(pods, &object).unwrap();
        assert!(!draft.sealed);
        let hole = draft.revision_at.unwrap() as usize;
        let mut bytes = draft.bytes.to_vec();
        bytes.splice(hole..hole, *b"41");
        let value = decode(&bytes).unwrap();
        assert_eq!(value["metadata"]["resourceVersion"], "41");
        assert_eq!(value["spec"], object["spec"]);
        let deleted = with_revision(&Bytes::from(bytes), 123);
        let value = decode(&deleted).unwrap();
        assert_eq!(value["metadata"]["resourceVersion"], "123");
        assert_eq!(value["metadata"]["annotations"]["resourceVersion"], "x");
    }
}
