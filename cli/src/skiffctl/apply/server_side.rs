//! `apply --server-side`: the server merges, and knows who has which field.
//!
//! What client-side apply has written before belongs to another manager, which
//! would keep every field that a file gives up. Its fields are handed over
//! first.

use serde_json::{Value, json};
use skiff_api::patch::apply_merge;

use super::super::args::ApplyArgs;
use super::super::connect::Session;
use super::super::discover::Kind;
use super::super::get::is_not_found;
use super::{ATTEMPTS, CLIENT_SIDE, is_conflict, options};

/// Whom the fields belong to unless told otherwise: the same as with `kubectl`,
/// so that one goes on where the other has stopped.
const MANAGER: &str = "kubectl";

/// Managers whose fields are handed over.
const CLIENT_SIDE_MANAGERS: [&str; 2] = [CLIENT_SIDE, "kubectl-client-side-apply"];

/// Applies `wanted`; the object as it is then.
pub(super) async fn apply(
    session: &Session,
    args: &ApplyArgs,
    kind: &Kind,
    path: &str,
    wanted: &Value,
) -> anyhow::Result<Value> {
    let manager = args.field_manager.as_deref().unwrap_or(MANAGER);
    if args.dry_run != "server" {
        hand_over(session, path, manager).await?;
    }
    let force = if args.force_conflicts { "&force=true" } else { "" };
    let path = format!("{path}{}{force}", options(args, manager));
    let applied = session.patch(&path, "application/apply-patch+yaml", wanted).await;
    applied.map_err(|error| match error.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) if is_apply_conflict(status) => anyhow::anyhow!(
            "{}/{}: {}; leave these fields out, or take them over with --force-conflicts",
            kind.full_singular(),
            wanted["metadata"]["name"].as_str().unwrap_or_default(),
            status.message.replace('\n', " "),
        ),
        _ => error,
    })
}

/// Whether others have what would change, rather than that somebody was faster.
fn is_apply_conflict(status: &kube::core::Status) -> bool {
    let causes = status.details.as_ref().map(|details| details.causes.as_slice());
    causes.unwrap_or_default().iter().any(|cause| cause.reason == "FieldManagerConflict")
}

async fn hand_over(session: &Session, path: &str, manager: &str) -> anyhow::Result<()> {
    for attempt in 1.. {
        let live = match session.get(path).await {
            Err(error) if is_not_found(&error) => return Ok(()),
            live => live?,
        };
        let Some(patch) = handed_over(&live, manager) else { return Ok(()) };
        match session.patch(path, "application/json-patch+json", &patch).await {
            Err(error) if attempt < ATTEMPTS && is_conflict(&error) => {}
            patched => return patched.map(drop),
        }
    }
    Ok(())
}

/// The patch that gives `manager` what client-side apply had; `None` when that
/// had nothing.
fn handed_over(live: &Value, manager: &str) -> Option<Value> {
    let list = live["metadata"]["managedFields"].as_array()?;
    let is_ours = |entry: &Value| {
        entry["operation"] == "Update"
            && entry["subresource"].as_str().is_none_or(str::is_empty)
            && CLIENT_SIDE_MANAGERS.iter().any(|name| entry["manager"] == *name)
    };
    let is_appliers = |entry: &Value| {
        entry["operation"] == "Apply"
            && entry["manager"] == manager
            && entry["subresource"].as_str().is_none_or(str::is_empty)
    };
    let (ours, mut kept): (Vec<Value>, Vec<Value>) = list.iter().cloned().partition(is_ours);
    let newest = ours.last()?.clone();
    let at = kept.iter().position(is_appliers);
    let mut entry = at.map_or(newest, |at| kept.remove(at));
    entry["manager"] = json!(manager);
    entry["operation"] = json!("Apply");
    for other in &ours {
        // Sets of fields are objects all the way down: merged, they are united.
        apply_merge(&mut entry["fieldsV1"], &other["fieldsV1"]);
    }
    kept.push(entry);
    Some(json!([
        {"op": "replace", "path": "/metadata/managedFields", "value": kept},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": live["metadata"]["resourceVersion"]},
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(manager: &str, operation: &str, fields: Value) -> Value {
        json!({"manager": manager, "operation": operation, "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": fields})
    }

    fn after(list: Value) -> Option<Value> {
        let live = json!({"metadata": {"resourceVersion": "7", "managedFields": list}});
        let mut patch = handed_over(&live, "me")?;
        assert_eq!(patch[1]["value"], "7", "only this state is changed");
        Some(patch[0]["value"].take())
    }

    #[test]
    fn what_client_side_apply_had_becomes_the_appliers() {
        let (a, b) = (json!({"f:data": {"f:a": {}}}), json!({"f:data": {"f:b": {}}}));
        let both = json!({"f:data": {"f:a": {}, "f:b": {}}});
        let other = entry("other", "Update", b.clone());
        let client = entry("kubectl-client-side-apply", "Update", a.clone());
        assert_eq!(
            after(json!([client, other])),
            Some(json!([other, entry("me", "Apply", a.clone())]))
        );
        let ours = entry(CLIENT_SIDE, "Update", b.clone());
        assert_eq!(after(json!([client, ours])), Some(json!([entry("me", "Apply", both)])));
        assert_eq!(
            after(json!([entry("me", "Apply", b), client])),
            Some(json!([entry("me", "Apply", json!({"f:data": {"f:a": {}, "f:b": {}}}))]))
        );
        assert_eq!(after(json!([other, entry("me", "Apply", a)])), None);
        assert_eq!(after(json!([])), None);
    }
}
