//! Writing the table into a cluster, and giving back what somebody took away.

use std::collections::HashMap;

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::Client;
use kube::api::{ListParams, PostParams};
use kube::core::ClusterResourceScope;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skiff_client::Api;

use super::policy;
use super::spec::{AUTOUPDATE, BindingSpec, RoleSpec};
use crate::authz::rbac::{Rule, read_rules, uncovered};

/// Writes under way at once, so that the store syncs them together.
const CONCURRENCY: usize = 64;

/// Writes what is missing of the table. Safe to repeat.
pub async fn ensure(client: &Client) -> Result<(), kube::Error> {
    let (roles, bindings) = policy();
    let roles = roles.iter().map(RoleSpec::to_value).collect();
    let bindings = bindings.iter().map(BindingSpec::to_value).collect();
    ensure_kind::<ClusterRole>(client, roles, plan_role).await?;
    ensure_kind::<ClusterRoleBinding>(client, bindings, plan_binding).await
}

/// Creates and repairs the objects of one cluster-scoped kind.
async fn ensure_kind<K>(
    client: &Client,
    desired: Vec<Value>,
    plan: fn(&Value, &Value) -> Option<Value>,
) -> Result<(), kube::Error>
where
    K: kube::Resource<DynamicType = (), Scope = ClusterResourceScope>
        + DeserializeOwned
        + Serialize,
{
    let api: Api<K> = Api::all(client.clone());
    let mut observed = HashMap::new();
    for object in api.list(&ListParams::default()).await? {
        let value = serde_json::to_value(&object).map_err(kube::Error::SerdeError)?;
        observed.insert(value["metadata"]["name"].as_str().unwrap_or_default().to_owned(), value);
    }
    let api = &api;
    let observed = &observed;
    stream::iter(desired)
        .map(Ok::<_, kube::Error>)
        .try_for_each_concurrent(CONCURRENCY, |desired| async move {
            let name = desired["metadata"]["name"].as_str().unwrap_or_default();
            let read = |value: &Value| K::deserialize(value).map_err(kube::Error::SerdeError);
            let Some(observed) = observed.get(name) else {
                return match api.create(&PostParams::default(), &read(&desired)?).await {
                    // Another master was faster.
                    Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
                    created => created.map(drop),
                };
            };
            let Some(repaired) = plan(&desired, observed) else { return Ok(()) };
            match api.replace(name, &PostParams::default(), &read(&repaired)?).await {
                // Somebody is editing it; the next start looks again.
                Err(kube::Error::Api(status)) if status.is_conflict() => Ok(()),
                replaced => replaced.map(drop),
            }
        })
        .await
}

fn left_alone(observed: &Value) -> bool {
    observed["metadata"]["annotations"][AUTOUPDATE] == "false"
}

/// The observed role with the rules that it lost, or `None`.
fn plan_role(desired: &Value, observed: &Value) -> Option<Value> {
    if left_alone(observed) {
        return None;
    }
    // The rules of an aggregated role are its parts'.
    if desired["aggregationRule"].is_object() {
        let mut repaired = observed.clone();
        repaired["aggregationRule"] = desired["aggregationRule"].clone();
        return (repaired != *observed).then_some(repaired);
    }
    let held = read_rules(observed);
    let lost: Vec<Rule> = read_rules(desired)
        .into_iter()
        .filter(|rule| !uncovered(&held, std::slice::from_ref(rule)).is_empty())
        .collect();
    if lost.is_empty() {
        return None;
    }
    let mut repaired = observed.clone();
    repaired["rules"] = json!([held, lost].concat());
    Some(repaired)
}

/// The observed binding with the subjects that it lost, or `None`.
fn plan_binding(desired: &Value, observed: &Value) -> Option<Value> {
    // A role reference cannot be changed; whoever put another one there made
    // another binding.
    if left_alone(observed) || observed["roleRef"] != desired["roleRef"] {
        return None;
    }
    let empty = Vec::new();
    let held = observed["subjects"].as_array().unwrap_or(&empty);
    let missing: Vec<&Value> =
        desired["subjects"].as_array()?.iter().filter(|subject| !held.contains(subject)).collect();
    if missing.is_empty() {
        return None;
    }
    let mut repaired = observed.clone();
    repaired["subjects"] = json!(held.iter().chain(missing).collect::<Vec<_>>());
    Some(repaired)
}

#[cfg(test)]
mod tests {
    use super::super::spec::{Subject, bind, role, rule};
    use super::*;

    #[test]
    fn only_losses_are_repaired() {
        let desired = role("r", vec![rule("get list", "core", "pods")]).to_value();
        let mut more = desired.clone();
        more["rules"][0]["verbs"] = json!(["get", "list", "watch"]);
        assert_eq!(plan_role(&desired, &more), None);
        let mut less = desired.clone();
        less["rules"][0]["verbs"] = json!(["get"]);
        let repaired = plan_role(&desired, &less).unwrap();
        assert_eq!(repaired["rules"].as_array().unwrap().len(), 2);
        less["metadata"]["annotations"][AUTOUPDATE] = json!("false");
        assert_eq!(plan_role(&desired, &less), None);

        let desired = bind("r", &[Subject::Group("g")]).to_value();
        let mut other = desired.clone();
        other["subjects"] = json!([]);
        assert_eq!(plan_binding(&desired, &other), Some(desired.clone()));
        other["roleRef"]["name"] = json!("else");
        assert_eq!(plan_binding(&desired, &other), None);
    }
}
