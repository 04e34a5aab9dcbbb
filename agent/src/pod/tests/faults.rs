//! What others do to a pod's status, its volumes and its worker.

use super::*;

#[tokio::test]
async fn a_status_that_others_overrule_is_written_again() {
    let mut node = hollow().await;
    node.apply("p", one());
    let mut pod = node.until("Ready", ready).await;
    // As the controllers do when a node was silent.
    for condition in pod["status"]["conditions"].as_array_mut().unwrap() {
        if condition["type"] == "Ready" {
            condition["status"] = json!("False");
        }
    }
    let writes = node.api.status_writes();
    node.api.put(POD, pod);
    node.until("Ready again", ready).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(node.api.status_writes(), writes + 1, "once is enough");
    node.stop().await;
}

#[tokio::test]
async fn while_the_runtime_is_away_nothing_is_done_on_what_was_known_of_it() {
    let mut node = hollow().await;
    let host = "127.0.0.77";
    let served = std::net::TcpListener::bind((host, 0)).unwrap();
    let port = served.local_addr().unwrap().port();
    let probe = json!({"tcpSocket": {"host": host, "port": port},
        "periodSeconds": 1, "failureThreshold": 1});
    node.apply(
        "p",
        json!({"containers": [{"name": "a", "image": "img:1", "livenessProbe": probe}]}),
    );
    node.until("Ready", ready).await;
    let (app, sandbox) = (node.app("a").await, node.app(labels::SANDBOX).await);
    // Its probe condemns a container that is not there any more, nor is the
    // sandbox that the next one would join.
    node.runtime.set_down(true);
    drop(served);
    node.runtime.exit(&app.id, 137);
    node.runtime.exit(&sandbox.id, 137);
    node.until_event("Unhealthy").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let _served = std::net::TcpListener::bind((host, port)).unwrap();
    node.runtime.set_down(false);
    node.until("a restart", |pod| {
        ready(pod) && pod["status"]["containerStatuses"][0]["restartCount"] == 1
    })
    .await;
    assert!(!node.events().iter().any(|event| event == "Killing"), "{:?}", node.events());
    let calls = node.runtime.calls();
    let made = calls.iter().filter(|call| call.starts_with("create ") && call.contains("_a_p_"));
    assert_eq!(made.count(), 2, "{calls:?}");
    node.stop().await;
}

#[tokio::test]
async fn a_runtime_that_cannot_be_asked_condemns_nobody() {
    let mut node = probed().await;
    let before = node.app("a").await;
    node.runtime.set_down(true);
    node.until_event("Unhealthy").await;
    node.runtime.set_down(false);
    // What it did not answer counts for nothing, what it answers does.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(node.app("a").await.id, before.id);
    assert!(node.containers().await.iter().all(crate::runtime::Container::is_running));
    node.runtime.set_exec_code("check", 1);
    node.until("a restart", |pod| pod["status"]["containerStatuses"][0]["restartCount"] == 1).await;
    node.stop().await;
}

#[tokio::test]
async fn volumes_follow_labels() {
    let mut node = hollow().await;
    let mut spec = one();
    spec["volumes"] = json!([{"name": "v", "downwardAPI": {"items": [
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]);
    node.apply("p", spec);
    let mut pod = node.until("Ready", ready).await;
    pod["metadata"]["labels"] = json!({"tier": "web"});
    node.api.put(POD, pod);
    let file = node.config().pod_dir("uid-p").join("volumes/v/labels");
    for _ in 0..400 {
        if std::fs::read_to_string(&file).is_ok_and(|text| text.contains("tier=\"web\"")) {
            return node.stop().await;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("still {:?}", std::fs::read_to_string(&file));
}

#[tokio::test]
async fn a_panic_ends_the_agent_and_the_next_one_goes_on() {
    let mut node = hollow().await;
    node.cables.panics.store(1, Ordering::Relaxed);
    node.apply("p", one());
    let (_cancel, mut tasks) = node.agent.take().unwrap();
    let panicked = async {
        while let Some(ended) = tasks.join_next().await {
            if ended.is_err_and(|error| error.is_panic()) {
                return;
            }
        }
        panic!("all parts ended without a word");
    };
    tokio::time::timeout(Duration::from_secs(10), panicked).await.unwrap();
    drop(tasks);
    node.start();
    node.until("Ready", ready).await;
    let found = node.containers().await;
    assert_eq!(found.len(), 2, "what the first agent made is used: {found:?}");
    node.stop().await;
}

#[tokio::test]
async fn a_ready_pod_that_is_deleted_serves_a_moment_longer() {
    let mut node = hollow().await;
    let service = json!({"kind": "Service", "apiVersion": "v1",
        "metadata": {"name": "s", "namespace": "ns"}, "spec": {"selector": {"app": "x"}}});
    node.api.put("/api/v1/namespaces/ns/services/s", service);
    node.apply("p", one());
    let mut pod = node.until("Ready", ready).await;
    pod["metadata"]["labels"] = json!({"app": "x"});
    node.api.put(POD, pod);
    let asked = tokio::time::Instant::now();
    let pods: kube::Api<k8s_openapi::api::core::v1::Pod> =
        kube::Api::namespaced(node.api.client(), "ns");
    pods.delete("p", &Default::default()).await.unwrap();
    node.until("deletion", Value::is_null).await;
    let settle = Duration::try_from(crate::pod::plan::SETTLE).unwrap();
    assert!(asked.elapsed() >= settle, "{:?}", asked.elapsed());
    node.stop().await;
}

#[tokio::test]
async fn what_ran_once_runs_once_although_somebody_tidies_up() {
    let mut node = hollow().await;
    let spec = json!({"restartPolicy": "Never", "containers": [
        {"name": "a", "image": "img:1"}, {"name": "b", "image": "img:1"}]});
    node.apply("p", spec);
    node.until("Ready", ready).await;
    let ended = |index: usize| {
        move |pod: &Value| {
            pod["status"]["containerStatuses"][index]["state"]["terminated"].is_object()
        }
    };
    let first = node.app("a").await;
    node.runtime.exit(&first.id, 3);
    node.until("a has ended", ended(0)).await;
    node.runtime.remove(&first.id).await.unwrap();
    // An agent that starts knows of it by the API only.
    node.stop().await;
    node.start();
    node.runtime.exit(&node.app("b").await.id, 0);
    let pod = node.until_phase("Failed").await;
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 3);
    assert_eq!(pod["status"]["containerStatuses"][1]["state"]["terminated"]["exitCode"], 0);
    let created = node.runtime.calls().into_iter().filter(|call| call.starts_with("create "));
    assert_eq!(created.filter(|call| call.contains("_a_p_")).count(), 1);
    node.stop().await;
}

#[tokio::test]
async fn the_last_status_of_a_deleted_pod_is_told_before_anything_of_it_goes() {
    let mut node = hollow().await;
    node.apply("p", one());
    let mut pod = node.until("Ready", ready).await;
    // Somebody waits for how it ended, as a Job does.
    pod["metadata"]["finalizers"] = json!(["batch.kubernetes.io/job-tracking"]);
    node.api.put(POD, pod);
    let pods: kube::Api<k8s_openapi::api::core::v1::Pod> =
        kube::Api::namespaced(node.api.client(), "ns");
    pods.delete("p", &Default::default()).await.unwrap();
    node.until_empty().await;
    let told = node.api.get(POD).unwrap();
    let state = &told["status"]["containerStatuses"][0]["state"];
    assert_eq!(told["status"]["phase"], "Failed", "{told:#}");
    assert!(state["terminated"].is_object(), "{state}");
    assert!(!ready(&told), "{told:#}");
    node.stop().await;
}
