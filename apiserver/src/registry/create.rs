//! Create: a new object under a new name.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::StatusCode;
use jiff::Timestamp;
use rand::Rng as _;
use serde_json::Value;
use skiff_api::managed::Managers;
use skiff_store::{Compare, Key, StoreError, Txn, Write};

use super::{Call, Registry, Reply, body, key, managed, object};
use crate::admission::{Attributes, Operation, resource_quota};
use crate::allocate::Allocator;
use crate::status::ApiError;

/// Attempts to find a free generated name, as upstream.
const NAME_ATTEMPTS: usize = 8;

/// Attempts to win allocations that someone else took first.
const ALLOCATION_ATTEMPTS: usize = 16;

/// Length of a generated suffix.
const SUFFIX: usize = 5;

/// Longest base that a suffix is appended to, so that the name stays a label.
const LONGEST_BASE: usize = 63 - SUFFIX;

impl Registry {
    /// POST to a collection.
    pub(super) async fn create(&self, call: &Call, body: Body) -> Result<Reply, ApiError> {
        if !call.info.name.is_empty()
            || (call.resource.namespaced && call.info.namespace.is_empty())
        {
            return Err(ApiError::method_not_allowed());
        }
        let bytes = body::read(body).await?;
        let mut warnings = Vec::new();
        let object = self.decode_body(call, &bytes, &mut warnings)?;
        let bytes = self.create_object(call, object, None).await?;
        Ok(Reply { code: StatusCode::CREATED, bytes, warnings })
    }

    /// Creates an object that is already decoded; also the way of an update
    /// that may create. `applied` are the managers of one that is applied.
    pub(super) async fn create_object(
        &self,
        call: &Call,
        mut object: Value,
        applied: Option<Managers>,
    ) -> Result<Bytes, ApiError> {
        let behaviour = call.stored.behaviour;
        let given = managed::take(&mut object);
        let base = begin(call, &mut object)?;
        behaviour.default(&mut object);
        let managers =
            applied.unwrap_or_else(|| managed::of_created(call, &object, given.as_ref()));

        let info = Self::admission_info(call, object::meta(&object, "name"));
        let attributes = Self::attributes(call, &info, Operation::Create, None);
        self.admission.mutate(&attributes, &mut object).await?;
        // Last, because it reads what admission adds: a pod's QoS class comes
        // from the requests that a LimitRange gave it.
        behaviour.prepare_create(&mut object);
        let mut errors = behaviour.validate_create(&object);
        // A view may ask for more than the kind that it is a view of.
        if errors.is_empty() && call.resource.legacy.is_some_and(|legacy| legacy.own_type) {
            let shown = object::view(call.resource, object.clone());
            errors = call.resource.behaviour.validate_create(&shown);
        }
        if !errors.is_empty() {
            let name = object::meta(&object, "name");
            return Err(ApiError::invalid(call.resource.group, call.resource.kind, name, errors));
        }
        self.admission.validate(&attributes, &object)?;

        let turns = &self.admission.quota_turns;
        let _turn = turns.take(&self.store.snapshot(), &attributes).await;
        managed::attach(&mut object, &managers)?;
        let mut names = 1;
        let mut allocations = 1;
        loop {
            match self.try_create(call, &attributes, &object).await? {
                Created::Done(bytes) => return Ok(bytes),
                Created::NameTaken if base.is_some() && names < NAME_ATTEMPTS => {
                    names += 1;
                    let base = base.as_deref().unwrap_or_default();
                    object::meta_mut(&mut object)?
                        .insert("name".into(), generated_name(base).into());
                }
                Created::NameTaken => {
                    let name = object::meta(&object, "name");
                    return Err(ApiError::already_exists(
                        call.resource.group,
                        call.resource.plural,
                        name,
                    ));
                }
                Created::AllocationTaken if allocations < ALLOCATION_ATTEMPTS => allocations += 1,
                Created::AllocationTaken => {
                    return Err(ApiError::internal(
                        "failed to allocate: too many writes at once, try again",
                    ));
                }
            }
        }
    }

    async fn try_create(
        &self,
        call: &Call,
        attributes: &Attributes<'_>,
        object: &Value,
    ) -> Result<Created, ApiError> {
        let namespace = if call.stored.namespaced { call.info.namespace.as_str() } else { "" };
        let name = object::meta(object, "name");
        let own_key: Key = Arc::from(key::object(call.stored, namespace, name));
        let namespace_key: Option<Key> =
            (!namespace.is_empty()).then(|| Arc::from(key::namespace(namespace)));

        let mut txn = Txn::default();
        if let Some(key) = &namespace_key {
            txn = txn.when(Compare::Present(key.clone()));
        }
        txn = txn.when(Compare::Absent(own_key.clone()));
        let allocated;
        let object = if Allocator::serves(call.stored) {
            let mut service = object.clone();
            let plan = self.allocator.plan_create(&self.store.snapshot(), &mut service)?;
            txn.compares.extend(plan.compares);
            txn.writes.extend(plan.writes);
            allocated = service;
            &allocated
        } else {
            object
        };
        // Last, so that only what everybody else lets through is counted; and
        // refused only by the newest state, for quota may have come free.
        let quota = match resource_quota::plan(&self.store.snapshot(), attributes, object) {
            Ok(plan) => plan,
            Err(_) => resource_quota::plan(&self.latest().await?, attributes, object)?,
        };
        txn.compares.extend(quota.compares);
        txn.writes.extend(quota.writes);

        if call.options.dry_run {
            let snapshot = self.latest().await?;
            if let Some(key) = &namespace_key
                && snapshot.get(key).is_none()
            {
                return Err(ApiError::not_found("", "namespaces", namespace));
            }
            return Ok(match snapshot.get(&own_key) {
                Some(_) => Created::NameTaken,
                None => Created::Done(object::encode(call.stored, object, "")?.0),
            });
        }
        // The object comes first, so that its entry is the first one back.
        txn.writes.insert(0, Write::Put(own_key.clone(), object::draft(call.stored, object)?));
        match self.commit(call, txn).await {
            Ok(committed) => {
                let entry = committed
                    .entries
                    .first()
                    .ok_or_else(|| ApiError::internal("the write left no entry"))?;
                Ok(Created::Done(entry.value.clone()))
            }
            Err(StoreError::Conflict { key, .. }) if key == own_key => Ok(Created::NameTaken),
            Err(StoreError::Conflict { key, .. }) if Some(&key) == namespace_key.as_ref() => {
                Err(ApiError::not_found("", "namespaces", namespace))
            }
            Err(StoreError::Conflict { .. }) => Ok(Created::AllocationTaken),
            Err(other) => Err(other.into()),
        }
    }
}

/// How one attempt to create ended.
enum Created {
    /// The object's stored bytes.
    Done(Bytes),
    /// The name exists.
    NameTaken,
    /// Someone took an address, a port or the last of a quota first.
    AllocationTaken,
}

/// Gives a new object what only the server gives: namespace, name, uid and
/// time. Returns the base of a generated name.
fn begin(call: &Call, object: &mut Value) -> Result<Option<String>, ApiError> {
    if !object::meta(object, "resourceVersion").is_empty() {
        return Err(ApiError::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    set_namespace(call, object)?;
    let generate = object::meta(object, "generateName").to_owned();
    let metadata = object::meta_mut(object)?;
    for field in ["resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"]
    {
        metadata.remove(field);
    }
    metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".into(), object::timestamp(Timestamp::now()).into());
    let unnamed = metadata.get("name").and_then(Value::as_str).is_none_or(str::is_empty);
    if unnamed && !generate.is_empty() {
        metadata.insert("name".into(), generated_name(&generate).into());
        return Ok(Some(generate));
    }
    Ok(None)
}

/// The namespace of the path is the object's; naming another one is an error.
pub(super) fn set_namespace(call: &Call, object: &mut Value) -> Result<(), ApiError> {
    let metadata = object::meta_mut(object)?;
    if !call.resource.namespaced {
        metadata.remove("namespace");
        return Ok(());
    }
    match metadata.get("namespace").and_then(Value::as_str) {
        None | Some("") => {
            metadata.insert("namespace".into(), call.info.namespace.clone().into());
            Ok(())
        }
        Some(namespace) if namespace == call.info.namespace => Ok(()),
        Some(_) => Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        )),
    }
}

/// `base` and five characters that form no words.
fn generated_name(base: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut cut = base.len().min(LONGEST_BASE);
    while !base.is_char_boundary(cut) {
        cut -= 1;
    }
    let mut name = base[..cut].to_owned();
    let mut random = rand::rng();
    name.extend((0..SUFFIX).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())])));
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_stay_labels() {
        assert_eq!(generated_name("web-").len(), 9);
        assert!(generated_name("web-").starts_with("web-"));
        assert_eq!(generated_name(&"x".repeat(80)).len(), 63);
        assert_ne!(generated_name("a"), generated_name("a"));
    }
}
