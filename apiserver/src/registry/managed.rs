//! Who manages which fields: what a write does to `metadata.managedFields`.
//!
//! The list is kept apart from the object while a write is under way: it can be
//! as long as the object itself, and no rule reads it. What a write changed is
//! looked at after defaults and before admission, as upstream does, so that
//! nobody comes to own what the server or a plug-in filled in.

use http::header;
use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_api::catalogue::{FieldError, FieldReason, Part};
use skiff_api::managed::{Conflict, Managers, Writer, compare};

use super::{Call, object, patch};
use crate::status::{ApiError, Cause};

const FIELD: &str = "managedFields";

/// The longest name of a manager.
const MAX_NAME: usize = 128;

/// The version in which a Scale's fields are shown.
const SCALE: &str = "autoscaling/v1";

/// Who writes: the owned form of a [`Writer`].
pub(super) struct Hand {
    manager: String,
    subresource: String,
    api_version: String,
    now: String,
}

impl Hand {
    pub(super) fn of(call: &Call) -> Self {
        Self {
            manager: manager(call),
            subresource: call.info.subresource.clone(),
            api_version: call.resource.recorded_version(),
            now: object::timestamp(Timestamp::now()),
        }
    }

    pub(super) fn writer(&self) -> Writer<'_> {
        Writer {
            manager: &self.manager,
            subresource: &self.subresource,
            api_version: &self.api_version,
            now: &self.now,
        }
    }
}

/// The manager that a call names, else the program that makes it.
fn manager(call: &Call) -> String {
    if !call.options.field_manager.is_empty() {
        return call.options.field_manager.clone();
    }
    let agent = call.headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
    let program = agent.unwrap_or_default().split('/').next().unwrap_or_default();
    // Header values are ASCII, so bytes are characters.
    program.chars().take(MAX_NAME).collect()
}

/// Refuses options about managers that make no sense for the call.
pub(super) fn check_options(call: &Call) -> Result<(), ApiError> {
    let kind = match call.info.verb {
        "create" => "CreateOptions",
        "update" => "UpdateOptions",
        "patch" => "PatchOptions",
        _ => return Ok(()),
    };
    let mut errors = Vec::new();
    let mut refuse = |field: &str, reason, value: Value, detail: &str| {
        errors.push(FieldError { field: field.into(), reason, value, detail: detail.into() });
    };
    let name = call.options.field_manager.as_str();
    if name.len() > MAX_NAME {
        refuse("fieldManager", FieldReason::TooLong, Value::Null, "may not be more than 128 bytes");
    }
    if name.chars().any(char::is_control) {
        let detail = "should only contain printable characters";
        refuse("fieldManager", FieldReason::Invalid, json!(name), detail);
    }
    if call.info.verb == "patch" {
        if is_apply(call) {
            if name.is_empty() {
                let detail = "is required for apply patch";
                refuse("fieldManager", FieldReason::Required, Value::Null, detail);
            }
        } else if call.options.force.is_some() {
            let detail = "may not be specified for non-apply patch";
            refuse("force", FieldReason::Forbidden, Value::Null, detail);
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid("meta.k8s.io", kind, "", errors)) }
}

/// Whether a call is a server-side apply.
pub(super) fn is_apply(call: &Call) -> bool {
    call.info.verb == "patch" && super::body::media_type(&call.headers) == patch::APPLY
}

/// Takes the list out of an object. What is no list stays, for the decoder to
/// refuse.
pub(super) fn take(object: &mut Value) -> Option<Value> {
    let metadata = object.get_mut("metadata")?.as_object_mut()?;
    if !metadata.get(FIELD)?.is_array() {
        return None;
    }
    metadata.remove(FIELD)
}

/// Puts the list back.
pub(super) fn put(object: &mut Value, list: Option<Value>) {
    if let Some(list) = list
        && let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
    {
        metadata.insert(FIELD.into(), list);
    }
}

/// The managers of a new object. `given` is the list that came with it.
pub(super) fn of_created(call: &Call, object: &Value, given: Option<&Value>) -> Managers {
    let mut managers = Managers::given_or_live(given, None);
    if let Some(shape) = call.stored.behaviour.shape() {
        let has_status = call.stored.subresource("status").is_some();
        managers.create(object, shape, &Hand::of(call).writer(), |own| {
            // A new object's status is not the client's to write.
            if has_status {
                own.remove_field("status");
            }
        });
    }
    managers
}

/// The list of an object that is being changed.
pub(super) enum Record {
    /// As it was.
    Kept(Option<Value>),
    /// These, instead of what was.
    New { managers: Managers, before: Option<Value> },
}

impl Record {
    /// What an update does to the managers. `before` is the object's list, and
    /// `given` the one that came with the new version.
    pub(super) fn of_update(
        call: &Call,
        part: Part,
        old: &Value,
        new: &Value,
        before: Option<Value>,
        given: Option<Value>,
    ) -> Self {
        let Some(shape) = call.stored.behaviour.shape() else { return Self::Kept(before) };
        if is_apply(call) {
            // Applying has settled it already.
            return match given.as_ref().and_then(Managers::parse) {
                Some(managers) => Self::New { managers, before },
                None => Self::Kept(before),
            };
        }
        let given = match part {
            Part::Main => given,
            // Where a pod runs is decided by the server; nobody owns it.
            Part::Other("binding") => return Self::Kept(before),
            // A subresource is no way to change the list itself.
            _ => None,
        };
        let changes = compare(old, new, shape);
        if changes.is_empty() && (given.is_none() || given == before) {
            return Self::Kept(before);
        }
        let mut managers = Managers::given_or_live(given.as_ref(), before.as_ref());
        managers.update(changes, &Hand::of(call).writer());
        Self::New { managers, before }
    }

    /// Whether the managers are the same, whenever they wrote.
    pub(super) fn is_unchanged(&self) -> bool {
        match self {
            Self::Kept(_) => true,
            Self::New { managers, before } => {
                let before = before.as_ref().and_then(Managers::parse).unwrap_or_default();
                managers.same_but_for_time(&before)
            }
        }
    }

    /// Puts the list into the object that is to be stored.
    pub(super) fn attach(self, object: &mut Value) -> Result<(), ApiError> {
        match self {
            Self::Kept(list) => put(object, list),
            Self::New { managers, .. } => attach(object, &managers)?,
        }
        Ok(())
    }
}

/// Writes managers into an object.
pub(super) fn attach(object: &mut Value, managers: &Managers) -> Result<(), ApiError> {
    if !managers.is_empty() {
        let list = serde_json::to_value(managers)
            .map_err(|_| ApiError::internal("managed fields could not be encoded"))?;
        put(object, Some(list));
    }
    Ok(())
}

/// The longest text about fields in conflict.
const MAX_TEXT: usize = 256 * 1024;

/// 409: others have what would change.
pub(super) fn conflict(conflicts: &[Conflict]) -> ApiError {
    let count: usize = conflicts.iter().map(|conflict| conflict.fields.len()).sum();
    let mut room = MAX_TEXT;
    let told: Vec<(&str, Vec<String>)> = conflicts
        .iter()
        .map(|conflict| {
            let paths = conflict.fields.paths(room);
            room -= paths.iter().map(String::len).sum::<usize>();
            (conflict.manager.as_str(), paths)
        })
        .collect();
    let text = match told.as_slice() {
        [(manager, paths)] if count == 1 => {
            format!("Apply failed with 1 conflict: conflict with {manager}: {}", paths.concat())
        }
        told => {
            let mut lines = Vec::new();
            for (manager, paths) in told {
                lines.push(format!("conflicts with {manager}:"));
                lines.extend(paths.iter().map(|path| format!("- {path}")));
            }
            format!("Apply failed with {count} conflicts: {}", lines.join("\n"))
        }
    };
    let cause = |manager: &str, path: String| Cause {
        reason: "FieldManagerConflict",
        message: format!("conflict with {manager}"),
        field: path,
    };
    let mut error = ApiError::new(http::StatusCode::CONFLICT, "Conflict", text);
    error.causes = told
        .into_iter()
        .flat_map(|(manager, paths)| paths.into_iter().map(move |path| cause(manager, path)))
        .collect();
    error
}

/// The managers of an object's replicas, as its Scale shows them.
pub(super) fn of_scale(object: &Value, replicas: &str) -> Option<Value> {
    let path: String = replicas.split('/').skip(1).map(|field| format!("/f:{field}")).collect();
    let list = object.get("metadata")?.get(FIELD)?.as_array()?;
    let shown: Vec<Value> = list
        .iter()
        .filter(|entry| entry.get("fieldsV1").is_some_and(|f| f.pointer(&path).is_some()))
        .map(|entry| {
            let mut entry = entry.clone();
            entry["apiVersion"] = json!(SCALE);
            entry["fieldsV1"] = json!({"f:spec": {"f:replicas": {}}});
            entry
        })
        .collect();
    (!shown.is_empty()).then_some(Value::Array(shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_show_who_manages_the_replicas() {
        let entry = |manager: &str, fields: Value| {
            json!({"manager": manager, "operation": "Update", "apiVersion": "apps/v1",
                "fieldsType": "FieldsV1", "fieldsV1": fields})
        };
        let object = json!({"metadata": {"managedFields": [
            entry("a", json!({"f:spec": {"f:replicas": {}, "f:paused": {}}})),
            entry("b", json!({"f:spec": {"f:paused": {}}})),
        ]}});
        let shown = of_scale(&object, "/spec/replicas").unwrap();
        let mut expected = entry("a", json!({"f:spec": {"f:replicas": {}}}));
        expected["apiVersion"] = json!("autoscaling/v1");
        assert_eq!(shown, json!([expected]));
        assert_eq!(of_scale(&json!({"metadata": {}}), "/spec/replicas"), None);
    }

    #[test]
    fn what_is_no_list_stays_for_the_decoder() {
        for (list, taken) in [(json!([]), true), (json!(5), false), (json!(null), false)] {
            let mut object = json!({"metadata": {"managedFields": list}});
            assert_eq!(take(&mut object).is_some(), taken, "{list}");
            assert_eq!(object["metadata"].get("managedFields").is_none(), taken);
        }
    }
}
