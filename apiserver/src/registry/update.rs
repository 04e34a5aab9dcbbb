//! Update: PUT, and the one path that every change of an object takes.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Map, Value};
use skiff_api::catalogue::{Part, Resource};
use skiff_store::{Compare, Entry, Key, Snapshot, StoreError, Txn, Write};

use super::create::set_namespace;
use super::managed::{self, Record};
use super::{Call, Registry, Reply, body, object};
use crate::admission::{Operation, resource_quota};
use crate::allocate::{Allocator, carry_over};
use crate::status::ApiError;

/// Attempts to apply a change that names no resourceVersion before the client
/// is told of the conflict.
const ATTEMPTS: usize = 30;

/// Kinds that a PUT to a free name creates, as upstream.
const CREATED_BY_UPDATE: &[(&str, &str)] = &[
    ("", "endpoints"),
    ("", "events"),
    ("", "limitranges"),
    ("", "services"),
    ("coordination.k8s.io", "leases"),
    ("events.k8s.io", "events"),
    ("node.k8s.io", "runtimeclasses"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
    ("rbac.authorization.k8s.io", "roles"),
];

/// Kinds whose updates must name the resourceVersion they are based on.
const CONDITIONAL: &[(&str, &str)] =
    &[("coordination.k8s.io", "leases"), ("apiextensions.k8s.io", "customresourcedefinitions")];

impl Registry {
    /// PUT of an object, or of a subresource that has the object's own shape.
    pub(super) async fn update(&self, call: &Call, body: Body) -> Result<Reply, ApiError> {
        let name = call.info.name.as_str();
        let bytes = body::read(body).await?;
        let mut warnings = Vec::new();
        let mut new = self.decode_body(call, &bytes, &mut warnings)?;
        match object::meta(&new, "name") {
            "" => {
                object::meta_mut(&mut new)?.insert("name".into(), name.into());
            }
            same if same == name => {}
            other => {
                return Err(ApiError::bad_request(format!(
                    "the name of the object ({other}) does not match the name on the URL ({name})"
                )));
            }
        }
        set_namespace(call, &mut new)?;
        let part = part_of(call);
        if part == Part::Main
            && CREATED_BY_UPDATE.contains(&(call.stored.group, call.stored.plural))
            && self.latest().await?.get(&call.key(name)).is_none()
        {
            // A uid or resourceVersion says that the object was seen before.
            if !object::meta(&new, "resourceVersion").is_empty()
                || !object::meta(&new, "uid").is_empty()
            {
                return Err(call.not_found(name));
            }
            let bytes = self.create_object(call, new, None).await?;
            return Ok(Reply { code: StatusCode::CREATED, bytes, warnings });
        }
        if object::meta(&new, "resourceVersion").is_empty()
            && CONDITIONAL.contains(&(call.stored.group, call.stored.plural))
        {
            return Err(must_be_specified(call, name));
        }
        let bytes = self.replace(call, name, part, |_, _| Ok(new.clone())).await?;
        Ok(Reply { code: StatusCode::OK, bytes, warnings })
    }

    /// Changes one object: `make` turns the stored object into the new one, and
    /// is asked again when someone else wrote in between, unless the new
    /// object names the resourceVersion it is based on. Returns the stored
    /// bytes.
    pub(super) async fn replace<F>(
        &self,
        call: &Call,
        name: &str,
        part: Part,
        mut make: F,
    ) -> Result<Bytes, ApiError>
    where
        F: FnMut(&Value, &Entry) -> Result<Value, ApiError> + Send,
    {
        let key: Key = Arc::from(call.key(name));
        for attempt in 0..ATTEMPTS {
            // The first look is at this member's own state: the compare refuses
            // a write that is based on an old one. Any other answer has to come
            // from the newest.
            let newest = attempt > 0;
            let snapshot = if newest { self.latest().await? } else { self.store.snapshot() };
            match self.try_replace(call, &key, part, &snapshot, &mut make).await {
                Ok(Replaced::Written(bytes)) => return Ok(bytes),
                Ok(Replaced::Unchanged(bytes)) if newest => return Ok(bytes),
                Err(refused) if newest => return Err(refused),
                Ok(Replaced::Failed(error)) => return Err(error),
                Ok(Replaced::Unchanged(_) | Replaced::Lost) | Err(_) => {}
            }
        }
        Err(call.modified(name))
    }

    async fn try_replace<F>(
        &self,
        call: &Call,
        key: &Key,
        part: Part,
        snapshot: &Snapshot,
        make: &mut F,
    ) -> Result<Replaced, ApiError>
    where
        F: FnMut(&Value, &Entry) -> Result<Value, ApiError> + Send,
    {
        let name = call.info.name.as_str();
        let entry = snapshot.get(key).ok_or_else(|| call.not_found(name))?;
        let mut old = object::decode_entry(&entry)?;
        let mut new = make(&old, &entry)?;
        let lists = (managed::take(&mut old), managed::take(&mut new));
        let expected = object::meta(&new, "resourceVersion");
        if !expected.is_empty() && expected.parse() != Ok(entry.modified.0) {
            return Err(call.modified(name));
        }
        check_uid(call, name, object::meta(&new, "uid"), object::meta(&old, "uid"))?;
        let record = self.prepare(call, part, &mut new, &old, lists).await?;
        if same_desire(&new, &old) && record.is_unchanged() {
            return Ok(Replaced::Unchanged(entry.value.clone()));
        }

        let mut txn = Txn::default().when(Compare::Unchanged(key.clone(), entry.modified));
        let gone = is_finished(call.stored, &new);
        if Allocator::serves(call.stored) {
            let plan = if gone {
                Allocator::plan_delete(&old)
            } else {
                self.allocator.plan_update(snapshot, &mut new, &old)?
            };
            txn.compares.extend(plan.compares);
            txn.writes.extend(plan.writes);
        }
        let info = Self::admission_info(call, name);
        let attributes = Self::attributes(call, &info, Operation::Update, Some(&old));
        let quota = resource_quota::plan(snapshot, &attributes, &new)?;
        txn.compares.extend(quota.compares);
        txn.writes.extend(quota.writes);
        record.attach(&mut new)?;
        if call.options.dry_run {
            let revision = object::meta(&old, "resourceVersion");
            return Ok(Replaced::Unchanged(object::encode(call.stored, &new, revision)?.0));
        }
        let write = if gone {
            Write::Delete(key.clone())
        } else {
            Write::Put(key.clone(), object::draft(call.stored, &new)?)
        };
        // The object comes first, so that its entry is the first one back.
        txn.writes.insert(0, write);
        match self.commit(call, txn).await {
            Ok(committed) if gone => {
                let revision = committed.revision.to_string();
                Ok(Replaced::Written(object::encode(call.stored, &new, &revision)?.0))
            }
            Ok(committed) => {
                let entry = committed.entries.first();
                let entry = entry.ok_or_else(|| ApiError::internal("the write left no entry"))?;
                Ok(Replaced::Written(entry.value.clone()))
            }
            // Someone wrote first, or took an address first. If the client
            // named the version it knew, the next look refuses it.
            Err(StoreError::Conflict { .. }) => Ok(Replaced::Lost),
            Err(other) => Ok(Replaced::Failed(other.into())),
        }
    }

    /// Defaults, admission and validation of a change. `lists` are the managed
    /// fields of the object and those given with the change.
    async fn prepare(
        &self,
        call: &Call,
        part: Part,
        new: &mut Value,
        old: &Value,
        (before, given): (Option<Value>, Option<Value>),
    ) -> Result<Record, ApiError> {
        let behaviour = call.stored.behaviour;
        let metadata = object::meta_mut(new)?;
        metadata.remove("selfLink");
        // What identifies an object is never a client's to change.
        for field in ["uid", "generateName"] {
            match old.get("metadata").and_then(|m| m.get(field)) {
                Some(value) => metadata.insert(field.into(), value.clone()),
                None => metadata.remove(field),
            };
        }
        if part == Part::Main && Allocator::serves(call.stored) {
            carry_over(new, old);
        }
        behaviour.default(new);
        behaviour.prepare_update(new, old, part);
        let record = Record::of_update(call, part, old, new, before, given);
        let info = Self::admission_info(call, &call.info.name);
        let attributes = Self::attributes(call, &info, Operation::Update, Some(old));
        self.admission.mutate(&attributes, new).await?;
        let errors = behaviour.validate_update(new, old, part);
        if !errors.is_empty() {
            let name = object::meta(new, "name");
            return Err(ApiError::invalid(call.resource.group, call.resource.kind, name, errors));
        }
        self.admission.validate(&attributes, new)?;
        Ok(record)
    }
}

/// How one attempt to change an object ended.
enum Replaced {
    /// It is written: its bytes.
    Written(Bytes),
    /// Nothing had to be written, or nothing may be: the bytes to show.
    Unchanged(Bytes),
    /// Someone was faster.
    Lost,
    /// The store failed.
    Failed(ApiError),
}

/// Which part of the object a call writes.
pub(super) fn part_of(call: &Call) -> Part {
    match call.info.subresource.as_str() {
        "" => Part::Main,
        "status" => Part::Status,
        other => {
            Part::Other(call.resource.subresource(other).map_or("", |subresource| subresource.name))
        }
    }
}

/// A uid in the new object must be the stored one's.
pub(super) fn check_uid(
    call: &Call,
    name: &str,
    wanted: &str,
    stored: &str,
) -> Result<(), ApiError> {
    if wanted.is_empty() || wanted == stored {
        return Ok(());
    }
    let why =
        format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {stored}");
    Err(call.conflict(name, &why))
}

fn must_be_specified(call: &Call, name: &str) -> ApiError {
    use skiff_api::catalogue::{FieldError, FieldReason};
    let error = FieldError {
        field: "metadata.resourceVersion".to_owned(),
        reason: FieldReason::Invalid,
        value: 0.into(),
        detail: "must be specified for an update".to_owned(),
    };
    ApiError::invalid(call.resource.group, call.resource.kind, name, vec![error])
}

/// Whether nothing is left that keeps an object which is to be deleted.
pub(super) fn is_finished(resource: &Resource, object: &Value) -> bool {
    if !object::is_deleting(object) || !object::finalizers(object).is_empty() {
        return false;
    }
    if is_namespace(resource) {
        let finalizers =
            object.get("spec").and_then(|s| s.get("finalizers")).and_then(Value::as_array);
        return finalizers.is_none_or(Vec::is_empty);
    }
    let grace = object.get("metadata").and_then(|m| m.get("deletionGracePeriodSeconds"));
    grace.and_then(Value::as_i64).unwrap_or(0) == 0
}

pub(super) fn is_namespace(resource: &Resource) -> bool {
    resource.group.is_empty() && resource.plural == "namespaces"
}

/// Whether two versions of an object differ in nothing that is written: such
/// an update takes no revision.
fn same_desire(new: &Value, old: &Value) -> bool {
    let (Value::Object(new), Value::Object(old)) = (new, old) else { return new == old };
    let empty = Value::Object(Map::new());
    let metadata = |object: &Map<String, Value>| object.get("metadata").unwrap_or(&empty).clone();
    let rest_same = new.len() == old.len()
        && new.iter().all(|(key, value)| {
            key == "metadata" || key == "kind" || key == "apiVersion" || old.get(key) == Some(value)
        });
    if !rest_same {
        return false;
    }
    let (mut new, mut old) = (metadata(new), metadata(old));
    for metadata in [&mut new, &mut old] {
        if let Value::Object(map) = metadata {
            map.remove("resourceVersion");
        }
    }
    new == old
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_finish_when_nothing_holds_them() {
        let pods = skiff_api::catalogue::find("", "v1", "pods").unwrap();
        let namespaces = skiff_api::catalogue::find("", "v1", "namespaces").unwrap();
        let at = "2026-01-01T00:00:00Z";
        let cases = [
            ("live", pods, json!({"metadata": {}}), false),
            (
                "held",
                pods,
                json!({"metadata": {"deletionTimestamp": at, "finalizers": ["a/b"]}}),
                false,
            ),
            (
                "graceful",
                pods,
                json!({"metadata": {"deletionTimestamp": at, "deletionGracePeriodSeconds": 30}}),
                false,
            ),
            (
                "free",
                pods,
                json!({"metadata": {"deletionTimestamp": at, "deletionGracePeriodSeconds": 0}}),
                true,
            ),
            (
                "namespace with content",
                namespaces,
                json!({"metadata": {"deletionTimestamp": at}, "spec": {"finalizers": ["kubernetes"]}}),
                false,
            ),
            (
                "empty namespace",
                namespaces,
                json!({"metadata": {"deletionTimestamp": at}, "spec": {}}),
                true,
            ),
        ];
        for (name, resource, object, expected) in cases {
            assert_eq!(is_finished(resource, &object), expected, "{name}");
        }
    }

    #[test]
    fn the_revision_alone_is_no_change() {
        let old = json!({"kind": "A", "metadata": {"name": "x", "resourceVersion": "3"}, "spec": {"a": 1}});
        let mut new = old.clone();
        new["metadata"]["resourceVersion"] = json!("");
        assert!(same_desire(&new, &old));
        new["metadata"]["labels"] = json!({"a": "b"});
        assert!(!same_desire(&new, &old));
        let gone = json!({"kind": "A", "metadata": {"name": "x"}});
        assert!(!same_desire(&gone, &old));
    }
}
