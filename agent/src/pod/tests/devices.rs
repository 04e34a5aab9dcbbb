//! Pods that ask for GPUs.

use serde_json::{Value, json};

use super::{POD, TestNode, hollow, one, ready};
use crate::devices::{Offers, Pool, offer};
use crate::runtime::memory::Memory;

const OTHER: &str = "/api/v1/namespaces/ns/pods/other";

/// A node with two GPUs.
async fn with_gpus() -> TestNode<Memory> {
    let mut node = hollow().await;
    node.runtime.serve_devices(&[offer::NVIDIA], &[]);
    let ids = ["GPU-a", "GPU-b"].map(str::to_owned).to_vec();
    let pools = [("nvidia.com/gpu".to_owned(), Pool { driver: offer::NVIDIA, ids })];
    node.offers = Offers { pools: pools.into(), nvidia: true };
    node.stop().await;
    node.start();
    node
}

fn asks(count: u32) -> Value {
    let mut spec = one();
    let count = json!({"nvidia.com/gpu": count.to_string()});
    spec["containers"][0]["resources"] = json!({"limits": count, "requests": count});
    spec
}

fn named(mut spec: Value, name: &str) -> Value {
    spec["containers"][0]["name"] = json!(name);
    spec
}

/// The devices of a container, and what it is told to see.
async fn devices(node: &TestNode<Memory>, container: &str) -> (Vec<String>, String) {
    let spec = node.runtime.spec(&node.app(container).await.id).unwrap();
    let told = spec.env.iter().find_map(|one| one.strip_prefix("NVIDIA_VISIBLE_DEVICES="));
    let ids = spec.devices.iter().flat_map(|request| request.ids.clone()).collect();
    (ids, told.unwrap_or_default().to_owned())
}

#[tokio::test]
async fn each_gpu_is_one_pods_at_a_time() {
    let mut node = with_gpus().await;
    node.apply("p", asks(1));
    node.until("Ready", ready).await;
    assert_eq!(devices(&node, "a").await, (vec!["GPU-a".into()], "GPU-a".into()));
    node.apply("other", named(asks(1), "b"));
    node.until_at(OTHER, "the other is Ready", ready).await;
    assert_eq!(devices(&node, "b").await.0, ["GPU-b"]);

    // One that was bound here past the scheduler; and what asks for none sees none.
    let late = "/api/v1/namespaces/ns/pods/late";
    node.apply("late", asks(1));
    let late = node.until_at(late, "refused", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(late["status"]["reason"], "UnexpectedAdmissionError");
    let said = "Pod was rejected: Allocate failed due to requested number of devices unavailable \
                for nvidia.com/gpu. Requested: 1, Available: 0, which is unexpected";
    assert_eq!(late["status"]["message"], said);
    node.apply("plain", named(one(), "c"));
    node.until_at("/api/v1/namespaces/ns/pods/plain", "Ready", ready).await;
    assert_eq!(devices(&node, "c").await, (vec![], "void".into()));

    // A container that crashes has its own again, also under another agent.
    node.stop().await;
    node.start();
    node.runtime.exit(&node.app("a").await.id, 1);
    node.until("restarted", |pod| {
        pod["status"]["containerStatuses"][0]["restartCount"] == 1 && ready(pod)
    })
    .await;
    assert_eq!(devices(&node, "a").await.0, ["GPU-a"]);
    node.stop().await;
}

#[tokio::test]
async fn a_gpu_is_free_when_its_pod_has_ended_or_gone() {
    let mut node = with_gpus().await;
    let mut once = asks(2);
    once["restartPolicy"] = json!("Never");
    node.apply("p", once);
    node.until("Ready", ready).await;
    node.runtime.exit(&node.app("a").await.id, 0);
    node.until_phase("Succeeded").await;
    node.apply("other", named(asks(2), "b"));
    node.until_at(OTHER, "the other is Ready", ready).await;
    // The other agent does not take the ended pod for one that has GPUs.
    node.stop().await;
    node.start();
    node.api.remove(OTHER);
    node.api.remove(POD);
    node.until_empty().await;
    node.apply("next", named(asks(2), "d"));
    node.until_at("/api/v1/namespaces/ns/pods/next", "Ready", ready).await;
    assert_eq!(devices(&node, "d").await.0, ["GPU-a", "GPU-b"]);
    node.stop().await;
}
