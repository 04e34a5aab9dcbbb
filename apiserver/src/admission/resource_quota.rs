//! ResourceQuota: a namespace holds no more than it was given.
//!
//! Not one plug-in among others but a part of the commit: what a write takes
//! is added to `status.used` of its quotas in the transaction that writes the
//! object, on the condition that the quotas are as they were when the sum was
//! checked. So two writes at one moment cannot both take the last place, on
//! whichever master, and a write that fails takes nothing. The quota
//! controller gives back what deletions free.
//!
//! Usage is read from the quota's status. Before anything is refused it is
//! counted again from the objects themselves, so that a controller that lags
//! refuses nobody; the same count stands in for a status that is not there
//! yet.

use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_api::catalogue;
use skiff_api::quota::{self, Usage};
use skiff_store::{Compare, Entry, KeyRange, Snapshot, Write};
use tokio::sync::{Mutex, MutexGuard};

use super::{Attributes, Operation};
use crate::allocate::Plan;
use crate::authn::objects;
use crate::registry::object;
use crate::status::ApiError;

/// How many namespaces can create under quota at once in this process. More
/// only means that two that share a turn wait for each other.
const TURNS: usize = 64;

/// Lets creations under one quota go one after the other: they would otherwise
/// all prepare their write and all but one of them in vain.
pub(crate) struct Turns([Mutex<()>; TURNS]);

impl Default for Turns {
    fn default() -> Self {
        Self([const { Mutex::const_new(()) }; TURNS])
    }
}

impl Turns {
    /// Waits for the turn of this request, if it needs one.
    pub(crate) async fn take(
        &self,
        snapshot: &Snapshot,
        request: &Attributes<'_>,
    ) -> Option<MutexGuard<'_, ()>> {
        let namespace = &request.info.namespace;
        if request.dry_run || !is_charged(request) || entries(snapshot, namespace).is_empty() {
            return None;
        }
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(namespace);
        let turn = usize::try_from(hash % TURNS as u64).unwrap_or_default();
        Some(self.0[turn].lock().await)
    }
}

/// What the write of `new` takes of the quotas of its namespace, or why it may
/// not.
pub(crate) fn plan(
    snapshot: &Snapshot,
    request: &Attributes<'_>,
    new: &Value,
) -> Result<Plan, ApiError> {
    let mut plan = Plan::default();
    if !is_charged(request) {
        return Ok(plan);
    }
    let info = request.info;
    let (group, resource) = (info.api_group.as_str(), info.resource.as_str());
    let now = Timestamp::now();
    for entry in entries(snapshot, &info.namespace) {
        let mut quota = object::decode_entry(&entry)?;
        let name = object::meta(&quota, "name").to_owned();
        let spec = &quota["spec"];
        let hard = quota::relevant(&quota::parse(&spec["hard"]), group, resource);
        if hard.is_empty() || !quota::matches(spec, group, resource, new) {
            continue;
        }
        if resource == "pods"
            && group.is_empty()
            && let Some(why) = quota::unspecified(&hard, new)
        {
            return Err(request.forbidden(format!("failed quota: {name}: {why}")));
        }
        let asked = growth(request, new, &hard, now);
        if asked.is_empty() {
            continue;
        }
        let count = || -> Result<Usage, ApiError> {
            let prefix = objects::key(group, resource, &info.namespace, "");
            let mut others = Vec::new();
            for entry in snapshot.range(&KeyRange::prefix(&prefix)) {
                others.push(object::decode_entry(entry)?);
            }
            Ok(quota::total(&hard, spec, (group, resource), &others, now))
        };
        let noted = quota::parse(&quota["status"]["used"]);
        let mut used = noted.clone();
        if hard.keys().any(|key| !noted.contains_key(key))
            || quota::exceeded(&name, &hard, &noted, &asked).is_some()
        {
            used.extend(count()?);
        }
        if let Some(why) = quota::exceeded(&name, &hard, &used, &asked) {
            return Err(request.forbidden(why));
        }
        for (key, amount) in asked {
            *used.entry(key).or_default() += amount;
        }
        if !quota["status"].is_object() {
            quota["status"] = json!({ "hard": spec["hard"] });
        }
        quota["status"]["used"] = quota::render(&used);
        let kind = catalogue::find("", "v1", "resourcequotas")
            .ok_or_else(|| ApiError::internal("there are no resource quotas"))?;
        plan.compares.push(Compare::Unchanged(entry.key.clone(), entry.modified));
        plan.writes.push(Write::Put(entry.key.clone(), object::draft(kind, &quota)?));
    }
    Ok(plan)
}

/// Whether a request can take anything of a quota: a creation, or a change of
/// what a Service, a claim or a pod's resources amount to.
fn is_charged(request: &Attributes<'_>) -> bool {
    let info = request.info;
    if info.namespace.is_empty() {
        return false;
    }
    match request.operation {
        Operation::Create => info.subresource.is_empty() && info.resource != "namespaces",
        Operation::Update => {
            request.is("", "services")
                || request.is("", "persistentvolumeclaims")
                || request.is("", "pods/resize")
        }
        Operation::Delete | Operation::Connect => false,
    }
}

/// What the object uses beyond what it used before.
fn growth(request: &Attributes<'_>, new: &Value, hard: &Usage, now: Timestamp) -> Usage {
    let usage =
        |object: &Value| quota::usage(&request.info.api_group, &request.info.resource, object, now);
    let before = request.old.map(usage).unwrap_or_default();
    let mut growth = usage(new);
    growth.retain(|key, amount| {
        *amount -= before.get(key).copied().unwrap_or_default();
        hard.contains_key(key) && !amount.is_zero() && !amount.is_negative()
    });
    growth
}

fn entries(snapshot: &Snapshot, namespace: &str) -> Vec<Arc<Entry>> {
    let prefix = objects::key("", "resourcequotas", namespace, "");
    snapshot.range(&KeyRange::prefix(&prefix)).cloned().collect()
}
