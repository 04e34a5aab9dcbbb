//! The hand-over between client-side and server-side apply.
//!
//! kubectl's client-side apply keeps what it applied in an annotation. Where
//! the object still has what stands there, kubectl's server-side apply takes
//! the fields over without a conflict; and as long as the annotation is there
//! it is kept in step, so that one can go back.

use serde_json::{Map, Value, json};

use super::{Conflict, compare, fields};
use crate::shape::Struct;

/// The manager for which this is done, and no other.
pub const KUBECTL: &str = "kubectl";

/// Where client-side apply keeps what it applied.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// All annotations of an object together may not be larger.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// What the annotation of an object says was applied.
fn last_applied(live: &Value) -> Option<&str> {
    live.get("metadata")?.get("annotations")?.get(LAST_APPLIED)?.as_str()
}

/// The conflicts that stay: those about fields that were not applied by the
/// client, or that someone has changed since. `read` turns what the annotation
/// says into the stored shape, or refuses it.
pub fn allowed_conflicts(
    conflicts: Vec<Conflict>,
    live: &Value,
    shape: &'static Struct,
    read: impl FnOnce(Value) -> Option<Value>,
) -> Vec<Conflict> {
    let applied =
        last_applied(live).and_then(|text| serde_json::from_str(text).ok()).and_then(read);
    let Some(applied) = applied else { return conflicts };
    let mut own = fields(&applied, shape);
    let changed = compare(&applied, live, shape);
    own.subtract(&changed.written);
    own.subtract(&changed.removed);
    let stays = |mut conflict: Conflict| {
        conflict.fields.subtract(&own);
        (!conflict.fields.is_empty()).then_some(conflict)
    };
    conflicts.into_iter().filter_map(stays).collect()
}

/// Writes a configuration that was just applied into the annotation, if the
/// object has one.
pub fn sync_last_applied(object: &mut Value, config: &Value) {
    if last_applied(object).is_none() {
        return;
    }
    let mut config = config.clone();
    if let Some(Value::Object(annotations)) = config.pointer_mut("/metadata/annotations") {
        annotations.remove(LAST_APPLIED);
    }
    if let Some(metadata) = config.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.entry("annotations").or_insert_with(|| Value::Object(Map::new()));
    }
    let text = format!("{config}\n");
    let Some(Value::Object(annotations)) = object.pointer_mut("/metadata/annotations") else {
        return;
    };
    let length = |value: &Value| value.as_str().map_or(0, str::len);
    let others: usize = annotations
        .iter()
        .filter(|(key, _)| *key != LAST_APPLIED)
        .map(|(key, value)| key.len() + length(value))
        .sum();
    // One that does not fit is worse than none.
    if others + LAST_APPLIED.len() + text.len() > MAX_ANNOTATIONS {
        annotations.remove(LAST_APPLIED);
    } else {
        annotations.insert(LAST_APPLIED.into(), json!(text));
    }
}
