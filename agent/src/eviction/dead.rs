//! Which containers that have ended can go to make room. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::pod::model::uid;
use crate::runtime::{Container, State, labels};

/// The ids of containers that are kept for nothing but their logs: those of
/// pods that the API knows to have ended, and of others all but the newest of
/// each name, by which it is known how often the container ran.
pub(super) fn removable(found: &[Container], pods: &[Arc<Pod>]) -> Vec<String> {
    let phases: BTreeMap<&str, &str> = pods
        .iter()
        .map(|pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            (uid(pod), phase.unwrap_or_default())
        })
        .collect();
    let number = |one: &Container| one.label(labels::ATTEMPT).parse::<u32>().unwrap_or(0);
    let of = |one: &Container| {
        (one.label(labels::POD_UID).to_owned(), one.label(labels::CONTAINER).to_owned())
    };
    let mut newest = BTreeMap::new();
    for one in found {
        let known = newest.entry(of(one)).or_insert(0);
        *known = number(one).max(*known);
    }
    let dead = found.iter().filter(|one| {
        matches!(one.state, State::Exited { .. }) && one.label(labels::CONTAINER) != labels::SANDBOX
    });
    let removable = dead.filter(|one| match phases.get(one.label(labels::POD_UID)) {
        Some(&("Succeeded" | "Failed")) => true,
        Some(_) => newest.get(&of(one)).is_some_and(|newest| number(one) < *newest),
        // What the API does not have, its worker removes.
        None => false,
    });
    removable.map(|one| one.id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::testing::{at, container, pod, sandbox};

    fn ended(name: &str, attempt: u32) -> Container {
        let state = State::Exited {
            exit_code: 1,
            oom_killed: false,
            error: String::new(),
            started: Some(at(1)),
            finished: at(2),
        };
        container(name, attempt, state)
    }

    #[test]
    fn what_tells_how_often_a_container_ran_stays_while_its_pod_does() {
        let running = container("b", 2, State::Running { pid: 1, started: at(3) });
        let found = vec![ended("a", 0), ended("a", 1), ended("b", 1), running, sandbox(0, false)];
        let cases = [
            ("Running", vec!["a-0", "b-1"]),
            ("Pending", vec!["a-0", "b-1"]),
            ("Succeeded", vec!["a-0", "a-1", "b-1"]),
            ("Failed", vec!["a-0", "a-1", "b-1"]),
        ];
        for (phase, expected) in cases {
            let mut pod = pod(serde_json::json!({"containers": []}));
            pod.status.get_or_insert_default().phase = Some(phase.into());
            assert_eq!(removable(&found, &[Arc::new(pod)]), expected, "{phase}");
        }
        assert!(removable(&found, &[]).is_empty(), "of a pod that nobody knows");
    }
}
