//! Pods that come past the scheduler: who is let in, beside whom.

use std::time::Duration;

use serde_json::{Value, json};

use super::{POD, TestNode, hollow, one, ready};
use crate::runtime::memory::Memory;

const OTHER: &str = "/api/v1/namespaces/ns/pods/other";
const NODE: &str = "/api/v1/nodes/n1";

/// Asks for so many of the node's four CPUs; a container of this name.
fn asks(name: &str, cpu: &str) -> Value {
    let mut spec = one();
    spec["containers"][0]["name"] = json!(name);
    spec["containers"][0]["resources"] = json!({"requests": {"cpu": cpu}});
    spec
}

fn failed(pod: &Value) -> bool {
    pod["status"]["phase"] == "Failed"
}

async fn full_node() -> TestNode<Memory> {
    let node = hollow().await;
    node.apply("p", asks("a", "3"));
    node.until("Ready", ready).await;
    node
}

#[tokio::test]
async fn a_pod_without_room_fails_and_says_what_is_short() {
    let mut node = full_node().await;
    node.apply("other", asks("b", "2"));
    let other = node.until_at(OTHER, "refused", failed).await;
    assert_eq!(other["status"]["reason"], "OutOfcpu");
    assert_eq!(
        other["status"]["message"],
        "Pod was rejected: Node didn't have enough resource: cpu, requested: 2000, used: 3000, capacity: 4000"
    );
    assert_eq!(other["status"]["containerStatuses"], Value::Null);
    node.until_event("OutOfcpu").await;
    // The refused one takes no room from the next.
    node.apply("small", asks("c", "1"));
    node.until_at("/api/v1/namespaces/ns/pods/small", "Ready", ready).await;
    node.stop().await;
}

#[tokio::test]
async fn a_critical_pod_takes_the_room_of_another() {
    let mut node = full_node().await;
    // What is in the way ends in its own time, and is taken for gone.
    node.runtime.slow_stops(Duration::from_secs(2));
    let mut critical = asks("b", "2");
    critical["priority"] = json!(2_000_000_000);
    node.apply("other", critical);
    node.until_at(OTHER, "Ready", ready).await;
    let pod = node.until_phase("Failed").await;
    assert_eq!(pod["status"]["reason"], "Preempting");
    assert_eq!(pod["status"]["message"], "Preempted in order to admit critical pod");
    let conditions = pod["status"]["conditions"].as_array().unwrap();
    let target = conditions.iter().find(|one| one["type"] == "DisruptionTarget").unwrap();
    assert_eq!(target["reason"], "TerminationByKubelet");
    assert_eq!(target["message"], "Pod was preempted by Kubelet to accommodate a critical pod.");
    node.until_event("Preempting").await;
    node.until_count(2).await;

    // Not for one that matters less, whose refusal says what is short.
    let late = "/api/v1/namespaces/ns/pods/late";
    let mut spec = asks("c", "3");
    spec["priority"] = json!(1_999_999_999);
    node.apply("late", spec);
    let late = node.until_at(late, "refused", failed).await;
    assert_eq!(late["status"]["reason"], "OutOfcpu");
    node.stop().await;
}

#[tokio::test]
async fn the_room_of_a_pod_that_has_ended_or_gone_is_free_at_once() {
    let mut node = full_node().await;
    // Its containers take their time.
    node.runtime.slow_stops(Duration::from_secs(3600));
    node.api.remove(POD);
    node.apply("other", asks("b", "3"));
    node.until_at(OTHER, "Ready", ready).await;
    assert!(node.app("a").await.is_running());

    let once = "/api/v1/namespaces/ns/pods/once";
    let mut spec = asks("c", "1");
    spec["restartPolicy"] = json!("Never");
    node.apply("once", spec);
    node.until_at(once, "Ready", ready).await;
    node.runtime.exit(&node.app("c").await.id, 0);
    node.until_at(once, "done", |pod| pod["status"]["phase"] == "Succeeded").await;
    node.apply("next", asks("d", "1"));
    node.until_at("/api/v1/namespaces/ns/pods/next", "Ready", ready).await;
    node.stop().await;
}

#[tokio::test]
async fn who_runs_is_never_refused_and_newcomers_come_after() {
    let mut node = full_node().await;
    node.stop().await;
    // Meanwhile another comes, that the list has before it, and the node is no
    // longer what the running one asked for.
    let mut pod = node.api.get(POD).unwrap();
    pod["spec"]["nodeSelector"] = json!({"disk": "ssd"});
    node.api.put(POD, pod);
    node.apply("early", asks("b", "2"));
    node.start();
    let early = "/api/v1/namespaces/ns/pods/early";
    let early = node.until_at(early, "refused", failed).await;
    assert_eq!(early["status"]["reason"], "OutOfcpu");
    assert!(ready(&node.api.get(POD).unwrap()), "{:#}", node.api.get(POD).unwrap());
    node.stop().await;
}

#[tokio::test]
async fn a_label_that_the_watch_has_not_told_of_counts() {
    let mut node = hollow().await;
    let selects = |name: &str, disk: &str| {
        let mut spec = asks(name, "1");
        spec["nodeSelector"] = json!({"disk": disk});
        spec
    };
    node.api.put(
        NODE,
        json!({"kind": "Node", "apiVersion": "v1",
        "metadata": {"name": "n1", "labels": {"disk": "ssd"}}}),
    );
    node.apply("p", selects("a", "ssd"));
    node.until("Ready", ready).await;
    node.apply("other", selects("b", "hdd"));
    let other = node.until_at(OTHER, "refused", failed).await;
    assert_eq!(other["status"]["reason"], "NodeAffinity");
    assert_eq!(
        other["status"]["message"],
        "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
    );
    node.stop().await;
}
