//! An APIService for every group version that this server serves, and none for
//! those that an earlier one served.

use std::collections::HashSet;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::Method;
use kube::Client;
use serde_json::{Value, json};

use super::send;
use crate::discovery;

const COLLECTION: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

/// The mark of objects that are the server's own.
const AUTOMANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

/// Writes under way at once, so that the store syncs them together.
const CONCURRENCY: usize = 64;

/// The highest priorities of a group and of a version; the next of each has
/// less by a step.
const GROUP_PRIORITY: usize = 18_000;
const GROUP_STEP: usize = 100;
const VERSION_PRIORITY: usize = 100;
const VERSION_STEP: usize = 10;

/// One write.
#[derive(Debug, PartialEq)]
enum Step {
    Create(Value),
    Delete(String),
}

/// Writes what is missing and removes what is no longer served.
pub(super) async fn ensure(client: &Client) -> Result<(), kube::Error> {
    let list = send(client, Method::GET, COLLECTION, None).await?;
    let observed = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    stream::iter(plan(&served(), observed))
        .map(Ok)
        .try_for_each_concurrent(CONCURRENCY, |step| async move {
            let done = match &step {
                Step::Create(object) => send(client, Method::POST, COLLECTION, Some(object)).await,
                Step::Delete(name) => {
                    send(client, Method::DELETE, &format!("{COLLECTION}/{name}"), None).await
                }
            };
            match done {
                // Another master was faster.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
                done => done.map(drop),
            }
        })
        .await
}

/// An object for each group version, in the order of preference.
fn served() -> Vec<Value> {
    let groups = std::iter::once("").chain(discovery::group_names()).enumerate();
    groups
        .flat_map(|(nth, group)| {
            let versions = discovery::versions(group).into_iter().enumerate();
            versions.map(move |(mth, version)| {
                json!({
                    "metadata": {
                        "name": format!("{version}.{group}"),
                        "labels": {AUTOMANAGED: "onstart"},
                    },
                    "spec": {
                        "group": group,
                        "version": version,
                        "groupPriorityMinimum": GROUP_PRIORITY - nth * GROUP_STEP,
                        "versionPriority": VERSION_PRIORITY - mth * VERSION_STEP,
                    },
                })
            })
        })
        .collect()
}

/// What there is to do. What somebody registered is theirs.
fn plan(served: &[Value], observed: &[Value]) -> Vec<Step> {
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let names = |objects: &[Value]| objects.iter().map(name).collect::<HashSet<_>>();
    let (wanted, there) = (names(served), names(observed));
    let missing = served.iter().filter(|object| !there.contains(&name(object)));
    let dropped = observed.iter().filter(|object| {
        object["metadata"]["labels"][AUTOMANAGED].is_string() && !wanted.contains(&name(object))
    });
    missing
        .cloned()
        .map(Step::Create)
        .chain(dropped.map(|object| Step::Delete(name(object))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_or_no_longer_served_is_written() {
        let served = served();
        let own =
            |name: &str| json!({"metadata": {"name": name, "labels": {AUTOMANAGED: "onstart"}}});
        let somebodys = json!({"metadata": {"name": "v1.somebody.example"}});
        assert_eq!(plan(&served, &served), []);
        assert_eq!(plan(&served, &[&served[..], &[somebodys]].concat()), []);
        assert_eq!(plan(&served, &served[1..]), [Step::Create(served[0].clone())]);
        let more = [&served[..], &[own("v1alpha1.gone.example")]].concat();
        assert_eq!(plan(&served, &more), [Step::Delete("v1alpha1.gone.example".into())]);
    }

    #[test]
    fn priorities_follow_the_order_of_discovery_and_are_valid() {
        let served = served();
        assert_eq!(served[0]["metadata"]["name"], "v1.");
        let priority = |name: &str| {
            let found = served.iter().find(|object| object["metadata"]["name"] == name);
            let spec = &found.unwrap_or_else(|| panic!("no {name}"))["spec"];
            (spec["groupPriorityMinimum"].as_u64(), spec["versionPriority"].as_u64())
        };
        assert!(priority("v1.apps").0 > priority("v1beta1.extensions").0);
        assert!(priority("v1.apps").1 > priority("v1beta2.apps").1);
        assert!(priority("v1beta1.metrics.k8s.io").0.is_some_and(|least| least > 0));
        let resource = skiff_api::catalogue::find("apiregistration.k8s.io", "v1", "apiservices");
        for object in &served {
            let mut object = object.clone();
            object["metadata"]["uid"] = json!("u");
            object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
            assert_eq!(resource.unwrap().behaviour.validate_create(&object), [], "{object}");
        }
    }
}
