//! Delete: at once, after a grace period, or when the last finalizer is gone.
//!
//! `plan_delete` decides from the object and the options alone what becomes of
//! the object; the rest commits that decision.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use skiff_api::catalogue::Resource;
use skiff_store::{Compare, Key, KeyRange, Snapshot, StoreError, Txn, Write};

use super::filter::Filter;
use super::update::{check_uid, is_finished, is_namespace};
use super::view::ListMeta;
use super::{Call, Registry, body, key, object, options, view};
use crate::admission::Operation;
use crate::allocate::Allocator;
use crate::status::ApiError;

/// Deletions of a collection that are under way at once; they share commits.
const AT_ONCE: usize = 64;

/// The finalizers that stand for a propagation policy.
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// What a client may say about a deletion.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct DeleteOptions {
    pub(super) grace_period_seconds: Option<i64>,
    pub(super) policy: Option<Policy>,
    pub(super) uid: Option<String>,
    pub(super) resource_version: Option<String>,
    pub(super) dry_run: bool,
}

/// What becomes of an object's dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    /// They lose their owner.
    Orphan,
    /// They are deleted after it.
    Background,
    /// They are deleted before it.
    Foreground,
}

/// What a deletion does to the stored object.
#[derive(Debug, PartialEq)]
pub(super) enum Plan {
    /// It goes now.
    Remove,
    /// It stays, marked.
    Mark(Value),
    /// It is marked already.
    Pending,
}

impl Registry {
    /// DELETE of one object.
    pub(super) async fn delete(&self, call: &Call, body: Body) -> Result<Response<Body>, ApiError> {
        let options = read_options(call, body).await?;
        self.delete_and_answer(call, &options).await
    }

    pub(super) async fn delete_and_answer(
        &self,
        call: &Call,
        options: &DeleteOptions,
    ) -> Result<Response<Body>, ApiError> {
        let name = call.info.name.as_str();
        let (plan_kept, bytes) = self.delete_object(call, name, options).await?;
        if plan_kept || call.resource.returns_deleted() {
            return view::View::of(call).respond(StatusCode::OK, &bytes);
        }
        let removed = object::decode(&bytes)?;
        let details = json!({
            "name": name,
            "group": call.resource.group,
            "kind": call.resource.plural,
            "uid": object::meta(&removed, "uid"),
        });
        view::value(call, StatusCode::OK, &success(details))
    }

    /// DELETE of everything in a collection that the selectors match.
    pub(super) async fn delete_collection(
        &self,
        call: &Call,
        body: Body,
    ) -> Result<Response<Body>, ApiError> {
        let options = read_options(call, body).await?;
        let filter = Filter::of(call)?;
        let prefix = key::collection(call.stored, &call.info.namespace);
        let snapshot = self.latest().await?;
        let mut names = Vec::new();
        for entry in snapshot.range(&KeyRange::prefix(&prefix)) {
            if filter.matches(entry)? {
                names.push(object::decode_entry(entry)?);
            }
        }
        let results: Vec<Option<Bytes>> = futures::stream::iter(names)
            .map(|found| {
                let (call, options) = (&call, &options);
                async move {
                    // The list may span namespaces.
                    let mut own = call.with_name(object::meta(&found, "name"));
                    object::meta(&found, "namespace").clone_into(&mut own.info.namespace);
                    let name = own.info.name.clone();
                    match self.delete_object(&own, &name, options).await {
                        Ok((_, bytes)) => Ok(Some(bytes)),
                        Err(gone) if gone.code == StatusCode::NOT_FOUND => Ok(None),
                        Err(other) => Err(other),
                    }
                }
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        let items = results.into_iter().flatten().collect();
        let meta = ListMeta { revision: self.store.revision().0, ..ListMeta::default() };
        view::View::of(call).list(items, &meta)
    }

    /// Deletes one object. The flag says whether it stays for now; the bytes
    /// are its last state.
    pub(super) async fn delete_object(
        &self,
        call: &Call,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<(bool, Bytes), ApiError> {
        let key: Key = Arc::from(call.key(name));
        // As with updates, only the first look may be at this member's own
        // state. Each further round, someone else made progress, and the
        // request's deadline bounds the rounds.
        let mut newest = false;
        loop {
            let snapshot = if newest { self.latest().await? } else { self.store.snapshot() };
            match self.try_delete(call, &key, &snapshot, name, options).await {
                Ok(Deleted::Removed(bytes)) => return Ok((false, bytes)),
                Ok(Deleted::Marked(bytes)) => return Ok((true, bytes)),
                Ok(Deleted::Pending(bytes)) if newest => return Ok((true, bytes)),
                Err(refused) if newest => return Err(refused),
                Ok(Deleted::Failed(error)) => return Err(error),
                Ok(Deleted::Pending(_) | Deleted::Lost) | Err(_) => newest = true,
            }
        }
    }

    async fn try_delete(
        &self,
        call: &Call,
        key: &Key,
        snapshot: &Snapshot,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        let entry = snapshot.get(key).ok_or_else(|| call.not_found(name))?;
        let old = object::decode_entry(&entry)?;
        let wanted_uid = options.uid.as_deref().unwrap_or_default();
        check_uid(call, name, wanted_uid, object::meta(&old, "uid"))?;
        if let Some(wanted) = &options.resource_version
            && *wanted != entry.modified.to_string()
        {
            let why = format!(
                "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {}",
                entry.modified
            );
            return Err(call.conflict(name, &why));
        }
        let info = Self::admission_info(call, name);
        let attributes = Self::attributes(call, &info, Operation::Delete, Some(&old));
        self.admission.validate(&attributes, &old)?;

        let dry_run = options.dry_run || call.options.dry_run;
        let mut txn = Txn::default().when(Compare::Unchanged(key.clone(), entry.modified));
        match plan_delete(call.stored, &old, options, Timestamp::now()) {
            Plan::Pending => return Ok(Deleted::Pending(entry.value.clone())),
            Plan::Remove if dry_run => return Ok(Deleted::Removed(entry.value.clone())),
            Plan::Mark(marked) if dry_run => {
                let revision = entry.modified.to_string();
                let bytes = object::encode(call.stored, &marked, &revision)?.0;
                return Ok(Deleted::Marked(bytes));
            }
            Plan::Remove => {
                txn.writes.push(Write::Delete(key.clone()));
                if Allocator::serves(call.stored) {
                    txn.writes.extend(Allocator::plan_delete(&old).writes);
                }
            }
            Plan::Mark(marked) => {
                txn.writes.push(Write::Put(key.clone(), object::draft(call.stored, &marked)?));
            }
        }
        Ok(match self.commit(call, txn).await {
            Ok(committed) => match committed.entries.first() {
                Some(marked) => Deleted::Marked(marked.value.clone()),
                None => Deleted::Removed(object::with_revision(&entry.value, committed.revision.0)),
            },
            Err(StoreError::Conflict { .. }) => Deleted::Lost,
            Err(other) => Deleted::Failed(other.into()),
        })
    }
}

/// How one attempt to delete an object ended.
enum Deleted {
    /// It is gone: its last bytes.
    Removed(Bytes),
    /// It stays for now, marked.
    Marked(Bytes),
    /// It was marked already.
    Pending(Bytes),
    /// Someone was faster.
    Lost,
    /// The store failed.
    Failed(ApiError),
}

/// Reads `DeleteOptions` from body and query; the body wins.
async fn read_options(call: &Call, body: Body) -> Result<DeleteOptions, ApiError> {
    let bytes = body::read(body).await?;
    let query = &call.options;
    let mut options = DeleteOptions {
        grace_period_seconds: query.grace_period_seconds,
        dry_run: query.dry_run,
        ..DeleteOptions::default()
    };
    let (mut policy, mut orphan) = (query.propagation_policy.clone(), query.orphan_dependents);
    if !bytes.is_empty() {
        let value = body::parse(&call.headers, &bytes)?.value;
        read_delete_options(&value, &mut options)?;
        let text = value.get("propagationPolicy").and_then(Value::as_str);
        policy = text.map(str::to_owned).or(policy);
        orphan = value.get("orphanDependents").and_then(Value::as_bool).or(orphan);
    }
    options.policy = match (policy.as_deref(), orphan) {
        (Some(_), Some(_)) => {
            return Err(ApiError::bad_request(
                "orphanDependents and deletionPropagation cannot be both set",
            ));
        }
        (Some("Orphan"), None) | (None, Some(true)) => Some(Policy::Orphan),
        (Some("Background"), None) | (None, Some(false)) => Some(Policy::Background),
        (Some("Foreground"), None) => Some(Policy::Foreground),
        (None | Some(""), None) => None,
        (Some(other), None) => {
            return Err(ApiError::bad_request(format!(
                "propagationPolicy: Unsupported value: {other:?}: supported values: \"Background\", \"Foreground\", \"Orphan\", nil"
            )));
        }
    };
    Ok(options)
}

/// Reads grace period, preconditions and dry run out of `DeleteOptions`.
pub(super) fn read_delete_options(
    value: &Value,
    options: &mut DeleteOptions,
) -> Result<(), ApiError> {
    if let Some(kind) = value.get("kind").and_then(Value::as_str)
        && kind != "DeleteOptions"
    {
        return Err(ApiError::bad_request(format!("expected a DeleteOptions, not a {kind}")));
    }
    if let Some(seconds) = value.get("gracePeriodSeconds").and_then(Value::as_i64) {
        options.grace_period_seconds = Some(seconds);
    }
    let precondition = |field: &str| {
        let text = value.get("preconditions").and_then(|p| p.get(field)).and_then(Value::as_str);
        text.filter(|text| !text.is_empty()).map(str::to_owned)
    };
    options.uid = precondition("uid");
    options.resource_version = precondition("resourceVersion");
    for mode in value.get("dryRun").and_then(Value::as_array).into_iter().flatten() {
        options.dry_run |= options::dry_run(mode.as_str().unwrap_or_default())?;
    }
    Ok(())
}

/// Decides what a deletion does to `object`.
pub(super) fn plan_delete(
    resource: &Resource,
    object: &Value,
    options: &DeleteOptions,
    now: Timestamp,
) -> Plan {
    let mut marked = object.clone();
    let held = set_policy_finalizers(&mut marked, options.policy);
    let deleting = object::is_deleting(object);
    if is_namespace(resource) {
        marked["status"]["phase"] = json!("Terminating");
        if !deleting {
            marked["metadata"]["deletionTimestamp"] = json!(object::timestamp(now));
        }
    } else {
        let grace = grace_seconds(resource, object, options.grace_period_seconds);
        let current = object["metadata"]["deletionGracePeriodSeconds"].as_i64();
        match (deleting, grace) {
            (false, grace) => mark(&mut marked, now, grace),
            // A second deletion can only shorten the first one's grace.
            (true, grace) if current.is_some_and(|current| grace < current) => {
                let begun = begun_at(object).unwrap_or(now);
                mark(&mut marked, begun, grace);
            }
            (true, _) => {}
        }
    }
    if !held && is_finished(resource, &marked) {
        return Plan::Remove;
    }
    if marked == *object { Plan::Pending } else { Plan::Mark(marked) }
}

/// When the deletion of an object was asked for.
fn begun_at(object: &Value) -> Option<Timestamp> {
    let at: Timestamp = object::meta(object, "deletionTimestamp").parse().ok()?;
    let grace = object["metadata"]["deletionGracePeriodSeconds"].as_i64()?;
    at.checked_sub(SignedDuration::from_secs(grace)).ok()
}

fn mark(object: &mut Value, begun: Timestamp, grace: i64) {
    // A grace period beyond the calendar is a mistake we need not honour.
    let at = begun.checked_add(SignedDuration::from_secs(grace)).unwrap_or(begun);
    let metadata = &mut object["metadata"];
    metadata["deletionTimestamp"] = json!(object::timestamp(at));
    metadata["deletionGracePeriodSeconds"] = json!(grace);
    if let Some(generation) = metadata["generation"].as_i64()
        && generation > 0
    {
        metadata["generation"] = json!(generation + 1);
    }
}

/// Only pods go gracefully: those on a node that still run.
fn grace_seconds(resource: &Resource, object: &Value, asked: Option<i64>) -> i64 {
    if !(resource.group.is_empty() && resource.plural == "pods") {
        return 0;
    }
    let spec = &object["spec"];
    let scheduled = spec["nodeName"].as_str().is_some_and(|node| !node.is_empty());
    let finished = matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if !scheduled || finished {
        return 0;
    }
    let seconds = asked.or_else(|| spec["terminationGracePeriodSeconds"].as_i64()).unwrap_or(30);
    // Upstream reads a negative period as the shortest graceful one.
    if seconds < 0 { 1 } else { seconds }
}

/// Writes a policy into the finalizers; without one they stay. Returns whether
/// any finalizer is left.
fn set_policy_finalizers(object: &mut Value, policy: Option<Policy>) -> bool {
    let mut finalizers: Vec<String> =
        object::finalizers(object).into_iter().map(str::to_owned).collect();
    let before = finalizers.clone();
    if let Some(policy) = policy {
        finalizers.retain(|f| f != ORPHAN && f != FOREGROUND);
        match policy {
            Policy::Orphan => finalizers.push(ORPHAN.to_owned()),
            Policy::Foreground => finalizers.push(FOREGROUND.to_owned()),
            Policy::Background => {}
        }
    }
    let held = !finalizers.is_empty();
    if finalizers != before {
        if held {
            object["metadata"]["finalizers"] = json!(finalizers);
        } else if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("finalizers");
        }
    }
    held
}

/// A `Status` that says yes.
pub(super) fn success(details: Value) -> Value {
    let mut status =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    if details.is_object() {
        status["details"] = details;
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(node: &str, phase: &str) -> Value {
        json!({
            "metadata": {"name": "p", "uid": "u"},
            "spec": {"nodeName": node, "terminationGracePeriodSeconds": 20},
            "status": {"phase": phase},
        })
    }

    #[test]
    fn pods_go_gracefully_only_from_a_node() {
        let pods = skiff_api::catalogue::find("", "v1", "pods").unwrap();
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let with =
            |grace| DeleteOptions { grace_period_seconds: grace, ..DeleteOptions::default() };
        let cases = [
            ("unscheduled", pod("", "Pending"), with(None), None),
            ("finished", pod("n", "Succeeded"), with(Some(9)), None),
            ("forced", pod("n", "Running"), with(Some(0)), None),
            ("own period", pod("n", "Running"), with(None), Some((20, "2026-01-01T00:00:20Z"))),
            ("asked period", pod("n", "Running"), with(Some(5)), Some((5, "2026-01-01T00:00:05Z"))),
            (
                "negative period",
                pod("n", "Running"),
                with(Some(-1)),
                Some((1, "2026-01-01T00:00:01Z")),
            ),
        ];
        for (name, pod, options, expected) in cases {
            match (plan_delete(pods, &pod, &options, now), expected) {
                (Plan::Remove, None) => {}
                (Plan::Mark(marked), Some((grace, at))) => {
                    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], grace, "{name}");
                    assert_eq!(marked["metadata"]["deletionTimestamp"], at, "{name}");
                }
                (plan, _) => panic!("{name}: {plan:?}"),
            }
        }
    }

    #[test]
    fn a_second_deletion_only_shortens() {
        let pods = skiff_api::catalogue::find("", "v1", "pods").unwrap();
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let with =
            |grace| DeleteOptions { grace_period_seconds: Some(grace), ..DeleteOptions::default() };
        let Plan::Mark(marked) = plan_delete(pods, &pod("n", "Running"), &with(10), now) else {
            panic!()
        };
        assert_eq!(plan_delete(pods, &marked, &with(30), now), Plan::Pending);
        assert_eq!(plan_delete(pods, &marked, &with(0), now), Plan::Remove);
        let Plan::Mark(shorter) = plan_delete(pods, &marked, &with(3), now) else { panic!() };
        assert_eq!(shorter["metadata"]["deletionTimestamp"], "2026-01-01T00:00:03Z");
    }

    #[test]
    fn policies_become_finalizers() {
        let deployments = skiff_api::catalogue::find("apps", "v1", "deployments").unwrap();
        let now = Timestamp::UNIX_EPOCH;
        let plan = |object: &Value, policy| {
            plan_delete(
                deployments,
                object,
                &DeleteOptions { policy, ..DeleteOptions::default() },
                now,
            )
        };
        let plain = json!({"metadata": {"name": "d", "generation": 4}});
        assert_eq!(plan(&plain, None), Plan::Remove);
        assert_eq!(plan(&plain, Some(Policy::Background)), Plan::Remove);
        for (policy, finalizer) in [(Policy::Orphan, ORPHAN), (Policy::Foreground, FOREGROUND)] {
            let Plan::Mark(marked) = plan(&plain, Some(policy)) else { panic!("{policy:?}") };
            assert_eq!(marked["metadata"]["finalizers"], json!([finalizer]));
            assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
            assert_eq!(marked["metadata"]["generation"], 5);
            // Changing one's mind to background lets it go.
            assert_eq!(plan(&marked, Some(Policy::Background)), Plan::Remove);
        }
        let held = json!({"metadata": {"name": "d", "finalizers": ["a/b"]}});
        assert!(matches!(plan(&held, None), Plan::Mark(_)));
    }
}
