//! Eviction: a deletion that asks the pod's disruption budget first.
//!
//! The budget's controller counts; the eviction takes one of the disruptions
//! that it allows and notes the pod, in one conditional write, so that two
//! evictions at once never share one. If the deletion fails afterwards, the
//! controller strikes the note out after a while.

use axum::body::Body;
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_api::catalogue::{self, Part};
use skiff_api::selector::LabelSelector;
use skiff_store::KeyRange;

use super::delete::{self, DeleteOptions};
use super::{Call, Registry, body, key, object, view};
use crate::admission::Operation;
use crate::status::{ApiError, Cause};

/// Evictions that a controller has not confirmed yet, at most, as upstream.
const MAX_NOTED: usize = 2000;

/// Attempts to evict a pod that changes meanwhile.
const ATTEMPTS: usize = 8;

const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// Whom an eviction has to ask.
#[derive(Debug, PartialEq)]
enum Permission {
    /// Nobody.
    Free,
    /// Nobody, as long as the pod stays as it is.
    FreeUnlessChanged,
    /// The budget of this name.
    Ask(String),
}

impl Registry {
    /// POST of an Eviction.
    pub(super) async fn evict(&self, call: &Call, body: Body) -> Result<Response<Body>, ApiError> {
        let bytes = body::read(body).await?;
        let eviction = body::parse(&call.headers, &bytes)?.value;
        let name = call.info.name.as_str();
        if !matches!(object::meta(&eviction, "name"), "" | "*")
            && object::meta(&eviction, "name") != name
        {
            return Err(ApiError::bad_request(
                "name in URL does not match name in Eviction object",
            ));
        }
        let mut options =
            DeleteOptions { dry_run: call.options.dry_run, ..DeleteOptions::default() };
        if let Some(given) = eviction.get("deleteOptions") {
            delete::read_delete_options(given, &mut options)?;
        }
        let info = Self::admission_info(call, name);
        let attributes = Self::attributes(call, &info, Operation::Create, None);
        self.admission.validate(&attributes, &eviction)?;

        for _ in 0..ATTEMPTS {
            match self.try_evict(call, &options).await {
                // The pod changed while it was free to go. If the client did
                // not ask for this very version, the next look decides.
                Err(lost) if lost.reason == "Conflict" && options.resource_version.is_none() => {}
                Ok(()) => {
                    return view::value(call, StatusCode::CREATED, &super::subresource::created());
                }
                Err(refused) => return Err(refused),
            }
        }
        Err(call.modified(name))
    }

    async fn try_evict(&self, call: &Call, options: &DeleteOptions) -> Result<(), ApiError> {
        let name = call.info.name.as_str();
        let snapshot = self.latest().await?;
        let entry = snapshot.get(&call.key(name)).ok_or_else(|| call.not_found(name))?;
        let pod = object::decode_entry(&entry)?;
        let kind = catalogue::find("policy", "v1", "poddisruptionbudgets")
            .ok_or_else(ApiError::no_such_resource)?;
        let range = KeyRange::prefix(&key::collection(kind, &call.info.namespace));
        let budgets = snapshot.range(&range).map(|entry| object::decode_entry(entry));
        let budgets = budgets.collect::<Result<Vec<_>, _>>()?;

        let mut options = options.clone();
        match permission(&pod, &budgets)? {
            Permission::Free => {}
            Permission::FreeUnlessChanged => {
                options.resource_version.get_or_insert_with(|| entry.modified.to_string());
            }
            Permission::Ask(budget) => {
                let mut asked = call.with_name(&budget);
                (asked.resource, asked.stored) = (kind, kind);
                asked.info.subresource = "status".to_owned();
                asked.options.dry_run |= options.dry_run;
                // The budget's status is the server's, whoever evicts.
                asked.options.field_manager = "kube-apiserver".to_owned();
                let at = object::timestamp(Timestamp::now());
                let take = |old: &Value, _: &_| take(old, name, &at);
                self.replace(&asked, &budget, Part::Status, take).await?;
            }
        }
        let mut deletion = call.with_name(name);
        deletion.info.subresource.clear();
        self.delete_object(&deletion, name, &options).await.map(drop)
    }
}

/// Decides whom to ask before `pod` goes.
fn permission(pod: &Value, budgets: &[Value]) -> Result<Permission, ApiError> {
    // What serves nobody is missed by nobody.
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") || object::is_deleting(pod) {
        return Ok(Permission::Free);
    }
    if phase == "Pending" {
        return Ok(Permission::FreeUnlessChanged);
    }
    let mut covering = budgets.iter().filter(|budget| covers(budget, pod));
    let Some(budget) = covering.next() else { return Ok(Permission::Free) };
    if covering.next().is_some() {
        return Err(ApiError::internal(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does \
             not support.",
        ));
    }
    let count = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    let (healthy, desired) = (count("currentHealthy"), count("desiredHealthy"));
    let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
    if !is_ready(pod) && (always || healthy >= desired && desired > 0) {
        return Ok(Permission::FreeUnlessChanged);
    }
    Ok(Permission::Ask(object::meta(budget, "name").to_owned()))
}

/// Whether a budget counts a pod: an empty selector all, a missing one none.
fn covers(budget: &Value, pod: &Value) -> bool {
    let selector = &budget["spec"]["selector"];
    !selector.is_null()
        && LabelSelector::from_value(selector).is_ok_and(|selector| selector.matches_object(pod))
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

/// Takes one disruption from a budget and notes the pod, or says why not.
fn take(budget: &Value, pod: &str, at: &str) -> Result<Value, ApiError> {
    let name = object::meta(budget, "name");
    let status = &budget["status"];
    let count = |field: &str| status[field].as_i64().unwrap_or(0);
    let forbidden = |why: &str| ApiError::forbidden("policy", "poddisruptionbudgets", name, why);
    if count("observedGeneration") < budget["metadata"]["generation"].as_i64().unwrap_or(0) {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        return Err(too_many(why, Some(10)));
    }
    let allowed = count("disruptionsAllowed");
    if allowed < 0 {
        return Err(forbidden("pdb disruptions allowed is negative"));
    }
    if status["disruptedPods"].as_object().is_some_and(|noted| noted.len() > MAX_NOTED) {
        return Err(forbidden(
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        ));
    }
    if allowed == 0 {
        let (desired, healthy) = (count("desiredHealthy"), count("currentHealthy"));
        let why = format!(
            "The disruption budget {name} needs {desired} healthy pods and has {healthy} currently"
        );
        return Err(too_many(why, None));
    }
    let mut new = budget.clone();
    new["status"]["disruptionsAllowed"] = json!(allowed - 1);
    new["status"]["disruptedPods"][pod] = json!(at);
    if allowed == 1 {
        for condition in new["status"]["conditions"].as_array_mut().into_iter().flatten() {
            if condition["type"] == "DisruptionAllowed" {
                condition["status"] = json!("False");
                condition["reason"] = json!("InsufficientPods");
                condition["lastTransitionTime"] = json!(at);
            }
        }
    }
    Ok(new)
}

/// The 429 that clients such as `kubectl drain` wait and try again on.
fn too_many(why: String, retry_after_seconds: Option<u32>) -> ApiError {
    let mut error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", REFUSED);
    error.retry_after_seconds = retry_after_seconds;
    error.causes = vec![Cause { reason: "DisruptionBudget", message: why, field: String::new() }];
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(phase: &str, ready: &str) -> Value {
        json!({
            "metadata": {"name": "p", "labels": {"app": "web"}},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
        })
    }

    fn budget(name: &str, app: &str, allowed: i64) -> Value {
        json!({
            "metadata": {"name": name, "generation": 1},
            "spec": {"selector": {"matchLabels": {"app": app}}},
            "status": {
                "observedGeneration": 1, "disruptionsAllowed": allowed,
                "currentHealthy": 2, "desiredHealthy": 3,
            },
        })
    }

    #[test]
    fn only_a_serving_pod_under_a_budget_asks() {
        let web = budget("web", "web", 0);
        let with = |mut budget: Value, at: &str, value: Value| {
            *budget.pointer_mut(at).unwrap() = value;
            budget
        };
        let all = with(web.clone(), "/spec/selector", json!({}));
        let none = with(web.clone(), "/spec/selector", Value::Null);
        let healthy = with(web.clone(), "/status/currentHealthy", json!(3));
        let mut always = web.clone();
        always["spec"]["unhealthyPodEvictionPolicy"] = json!("AlwaysAllow");
        let ask = || Permission::Ask("web".to_owned());
        let running = pod("Running", "True");
        let unready = pod("Running", "False");
        #[rustfmt::skip]
        let cases = [
            ("no budget", &running, vec![], Permission::Free),
            ("another's budget", &running, vec![budget("db", "db", 0)], Permission::Free),
            ("its budget", &running, vec![web.clone(), budget("db", "db", 0)], ask()),
            ("a budget for all", &running, vec![all], ask()),
            ("a budget for none", &running, vec![none], Permission::Free),
            ("finished", &pod("Succeeded", "False"), vec![web.clone()], Permission::Free),
            ("pending", &pod("Pending", "False"), vec![web.clone()], Permission::FreeUnlessChanged),
            ("unready, too few healthy", &unready, vec![web.clone()], ask()),
            ("unready, enough healthy", &unready, vec![healthy], Permission::FreeUnlessChanged),
            ("unready, always allowed", &unready, vec![always], Permission::FreeUnlessChanged),
        ];
        for (name, pod, budgets, expected) in cases {
            assert_eq!(permission(pod, &budgets).unwrap(), expected, "{name}");
        }
        let two = [web, budget("other", "web", 1)];
        assert_eq!(permission(&running, &two).unwrap_err().code.as_u16(), 500);
    }

    #[test]
    fn a_budget_gives_what_it_has() {
        let at = "2026-01-01T00:00:00Z";
        let taken = take(&budget("web", "web", 1), "p", at).unwrap();
        assert_eq!(taken["status"]["disruptionsAllowed"], 0);
        assert_eq!(taken["status"]["disruptedPods"], json!({"p": at}));

        let refused = take(&taken, "q", at).unwrap_err().to_value();
        assert_eq!(
            (refused["code"].clone(), refused["message"].clone()),
            (json!(429), json!(REFUSED))
        );
        let cause = &refused["details"]["causes"][0];
        assert_eq!(cause["reason"], "DisruptionBudget");
        assert_eq!(
            cause["message"],
            "The disruption budget web needs 3 healthy pods and has 2 currently"
        );

        let mut stale = budget("web", "web", 1);
        stale["metadata"]["generation"] = json!(2);
        let refused = take(&stale, "p", at).unwrap_err();
        assert_eq!((refused.code.as_u16(), refused.retry_after_seconds), (429, Some(10)));
        let negative = take(&budget("web", "web", -1), "p", at).unwrap_err();
        assert_eq!(negative.code.as_u16(), 403);
    }
}
