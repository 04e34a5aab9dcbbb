//! Pods that their node cannot keep.

use super::*;
use crate::eviction::thresholds::Signal;
use crate::node::Shortage;

const OTHER: &str = "/api/v1/namespaces/ns/pods/other";

/// Tells the node's parts that memory is short, or that it no longer is.
fn set_short(node: &TestNode<Memory>, short: bool) {
    let shortage =
        Shortage { signal: Signal::Memory, least: 2 << 20, left: 1 << 20, is_hard: true };
    let urgent = short.then_some(shortage);
    node.pressures.send_replace(Pressures { memory: short, urgent, ..Pressures::default() });
}

fn condition<'a>(pod: &'a Value, kind: &str) -> &'a Value {
    let all = pod["status"]["conditions"].as_array().unwrap();
    all.iter().find(|one| one["type"] == kind).unwrap_or(&Value::Null)
}

#[tokio::test]
async fn the_pod_that_uses_most_beyond_its_request_goes_and_leaves_nothing() {
    let mut node = hollow().await;
    node.apply("p", one());
    node.until("Ready", ready).await;
    node.runtime.set_memory_use(&node.app("a").await.id, 20 << 20);
    let mut spec = one();
    spec["containers"][0]["name"] = json!("b");
    spec["containers"][0]["resources"] = json!({"requests": {"memory": "1Gi"}});
    node.apply("other", spec);
    node.until_at(OTHER, "the other is Ready", ready).await;
    node.runtime.set_memory_use(&node.app("b").await.id, 500 << 20);

    set_short(&node, true);
    let pod = node.until_phase("Failed").await;
    let said = "The node was low on resource: memory. Threshold quantity: 2Mi, available: 1Mi. \
                Container a was using 20Mi, request is 0, has larger consumption of memory. ";
    assert_eq!(
        (&pod["status"]["reason"], &pod["status"]["message"]),
        (&json!("Evicted"), &json!(said))
    );
    let target = condition(&pod, "DisruptionTarget");
    assert_eq!(
        (&target["status"], &target["reason"]),
        (&json!("True"), &json!("TerminationByKubelet"))
    );
    assert!(pod["status"]["containerStatuses"][0]["state"]["terminated"].is_object(), "{pod:#}");
    node.until_event("Evicted").await;
    let dir = node.config().pod_dir("uid-p");
    node.until_count(2).await;
    while dir.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let other = node.api.get(OTHER).unwrap();
    assert_eq!(other["status"]["phase"], "Running", "{other:#}");

    // What comes meanwhile and has asked for nothing is not taken.
    node.apply("late", one());
    let late = "/api/v1/namespaces/ns/pods/late";
    let late = node.until_at(late, "refused", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(late["status"]["reason"], "Evicted");
    assert_eq!(
        late["status"]["message"],
        "Pod was rejected: The node had condition: [MemoryPressure]. "
    );

    // Another agent keeps to it, and the object can be deleted.
    set_short(&node, false);
    node.stop().await;
    node.start();
    let pods: kube::Api<k8s_openapi::api::core::v1::Pod> =
        kube::Api::namespaced(node.api.client(), "ns");
    pods.delete("p", &Default::default()).await.unwrap();
    node.until("deletion", Value::is_null).await;
    node.stop().await;
}

#[tokio::test]
async fn a_pod_with_time_to_end_has_none_left_when_it_becomes_urgent() {
    let mut node = hollow().await;
    node.soft_pod_grace = -1;
    node.stop().await;
    node.start();
    node.apply("p", one());
    node.until("Ready", ready).await;
    let id = node.app("a").await.id;
    node.runtime.set_memory_use(&id, 20 << 20);
    node.runtime.slow_stops(Duration::from_secs(3600));
    let stops = async |count: usize| {
        let wanted = format!("stop {id}");
        while node.runtime.calls().iter().filter(|call| **call == wanted).count() < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let short = |is_hard| {
        let urgent = Shortage { signal: Signal::Memory, least: 2 << 20, left: 1 << 20, is_hard };
        let urgent = Some(urgent);
        node.pressures.send_replace(Pressures { memory: true, urgent, ..Pressures::default() });
    };
    short(false);
    stops(1).await;
    node.runtime.slow_stops(Duration::ZERO);
    short(true);
    stops(2).await;
    let pod = node.until_phase("Failed").await;
    assert_eq!(pod["status"]["reason"], "Evicted");
    let message = pod["status"]["message"].as_str().unwrap();
    assert!(message.contains("Container a was using 20Mi"), "{message}");
    node.stop().await;
}

#[tokio::test]
async fn a_full_disk_is_relieved_while_the_api_is_silent() {
    let mut node = hollow().await;
    let mut spec = one();
    spec["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
    node.apply("p", spec);
    node.until("Ready", ready).await;
    let file = node.config().pod_dir("uid-p").join("volumes/v/file");
    std::fs::write(&file, vec![1; 2 << 20]).unwrap();
    node.api.set_down(true);
    let short = Shortage { signal: Signal::Nodefs, least: 2 << 20, left: 1 << 20, is_hard: true };
    // As with each heartbeat while something is short.
    while file.exists() {
        node.pressures.send_replace(Pressures {
            disk: true,
            urgent: Some(short),
            ..Pressures::default()
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!node.app("a").await.is_running());
    node.pressures.send_replace(Pressures::default());
    node.api.set_down(false);
    let pod = node.until_phase("Failed").await;
    assert_eq!(pod["status"]["reason"], "Evicted");
    assert!(pod["status"]["containerStatuses"][0]["state"]["terminated"].is_object(), "{pod:#}");
    node.until_empty().await;
    node.stop().await;
}

#[tokio::test]
async fn what_nobody_uses_goes_before_a_pod_does() {
    let mut node = hollow().await;
    let mut once = one();
    once["restartPolicy"] = json!("Never");
    node.apply("p", once);
    node.until("Ready", ready).await;
    let ended = node.app("a").await.id;
    node.runtime.exit(&ended, 0);
    node.until_phase("Succeeded").await;
    let mut spec = one();
    spec["containers"][0]["name"] = json!("b");
    node.apply("other", spec);
    node.until_at(OTHER, "the other is Ready", ready).await;
    let short = Shortage { signal: Signal::Imagefs, least: 2, left: 1, is_hard: true };
    let tell = || {
        let urgent = Some(short);
        node.pressures.send_replace(Pressures { disk: true, urgent, ..Pressures::default() });
    };
    tell();
    while node.runtime.spec(&ended).is_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let phase = |path: &str| node.api.get(path).unwrap()["status"]["phase"].clone();
    assert_eq!((phase(POD), phase(OTHER)), (json!("Succeeded"), json!("Running")));
    tell();
    node.until_at(OTHER, "the other goes", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(phase(POD), "Succeeded");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_leaves_too_much_on_the_disk_goes() {
    let mut node = hollow().await;
    let mut spec = one();
    spec["containers"][0]["resources"] = json!({"limits": {"ephemeral-storage": "1Mi"}});
    spec["volumes"] = json!([{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}]);
    node.apply("p", spec.clone());
    node.apply("other", spec);
    node.until("Ready", ready).await;
    node.until_at(OTHER, "the other is Ready", ready).await;
    let file = node.config().pod_dir("uid-p").join("volumes/v/file");
    std::fs::write(&file, vec![1; 2 << 20]).unwrap();
    let pod = node.until_phase("Failed").await;
    assert_eq!(pod["status"]["reason"], "Evicted");
    let said = "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ";
    assert_eq!(pod["status"]["message"], said);

    let other = node.app("a").await;
    let used = crate::runtime::DiskUse { layer_bytes: 1 << 20, log_bytes: 1 };
    node.runtime.set_disk_use(&other.id, used);
    let other =
        node.until_at(OTHER, "the other goes", |pod| pod["status"]["phase"] == "Failed").await;
    let said = "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. ";
    assert_eq!(other["status"]["message"], said);
    node.stop().await;
}
