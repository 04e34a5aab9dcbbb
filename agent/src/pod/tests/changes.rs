//! Changes of a pod that runs: containers added to look into it, and other
//! amounts of CPU and memory.

use std::time::Duration;

use serde_json::{Value, json};

use super::{POD, TestNode, hollow, one, ready};
use crate::runtime::memory::Memory;

/// Changes the pod's object as a user would.
fn edit(node: &TestNode<Memory>, change: impl FnOnce(&mut Value)) {
    let mut pod = node.api.get(POD).unwrap();
    change(&mut pod);
    pod["metadata"]["generation"] = json!(pod["metadata"]["generation"].as_i64().unwrap() + 1);
    node.api.put(POD, pod);
}

fn condition<'a>(pod: &'a Value, kind: &str) -> &'a Value {
    let mut all = pod["status"]["conditions"].as_array().into_iter().flatten();
    all.find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}

#[tokio::test]
async fn an_ephemeral_container_joins_and_runs_once() {
    let mut node = hollow().await;
    node.apply("p", one());
    node.until("Ready", ready).await;
    let target = node.app("a").await.id;
    let debug = |name: &str, target: &str| json!({"name": name, "image": "img:1", "targetContainerName": target});
    edit(&node, |pod| pod["spec"]["ephemeralContainers"] = json!([debug("d", "a")]));
    let state = |pod: &Value, index: usize| {
        pod["status"]["ephemeralContainerStatuses"][index]["state"].clone()
    };
    node.until("running", |pod| state(pod, 0)["running"].is_object()).await;
    let found = node.app("d").await;
    assert_eq!(node.runtime.spec(&found.id).unwrap().pid, format!("container:{target}"));
    // A target that is not there is said, and asked for again.
    edit(&node, |pod| {
        pod["spec"]["ephemeralContainers"] = json!([debug("d", "a"), debug("e", "none")]);
    });
    let pod = node.until("refused", |pod| state(pod, 1)["waiting"]["message"].is_string()).await;
    assert_eq!(
        state(&pod, 1)["waiting"],
        json!({"reason": "CreateContainerConfigError", "message": "unable to find target container none"})
    );
    node.runtime.exit(&found.id, 1);
    let pod = node.until("ended", |pod| state(pod, 0)["terminated"].is_object()).await;
    assert_eq!(state(&pod, 0)["terminated"]["exitCode"], 1);
    assert_eq!(pod["status"]["phase"], "Running");
    assert!(ready(&pod), "who looks into a pod has no say in its readiness");
    assert_eq!(node.app("d").await.id, found.id, "never started again");
    node.stop().await;
}

#[tokio::test]
async fn a_refused_pod_fails_and_starts_nothing() {
    let mut node = hollow().await;
    let mut spec = one();
    spec["securityContext"] = json!({"sysctls": [{"name": "kernel.msgmax", "value": "1"}]});
    node.apply("p", spec);
    let pod = node.until_phase("Failed").await;
    assert_eq!(pod["status"]["reason"], "SysctlForbidden");
    assert_eq!(
        pod["status"]["message"],
        "Pod was rejected: forbidden sysctl: \"kernel.msgmax\" not allowlisted"
    );
    node.until_event("SysctlForbidden").await;
    assert!(node.containers().await.is_empty());
    // Reports that follow have nothing to add, this agent's and the next one's.
    for generation in [2, 3] {
        edit(&node, |pod| pod["metadata"]["generation"] = json!(generation - 1));
        let pod = node
            .until("a later report", |pod| pod["status"]["observedGeneration"] == generation)
            .await;
        assert_eq!(pod["status"]["containerStatuses"], Value::Null);
        node.stop().await;
        node.start();
    }
    node.stop().await;
}

#[tokio::test]
async fn a_resize_changes_the_running_container() {
    let mut node = hollow().await;
    let with = |cpu: &str| json!({"requests": {"cpu": cpu}, "limits": {"cpu": cpu}});
    let mut spec = one();
    spec["containers"][0]["resources"] = with("1");
    node.apply("p", spec);
    node.until("Ready", ready).await;
    let before = node.app("a").await;
    assert_eq!(before.limits.cpu_quota_us, Some(100_000));

    let resize = |cpu: &str| {
        edit(&node, |pod| pod["spec"]["containers"][0]["resources"] = with(cpu));
    };
    let has = |pod: &Value, cpu: &str| {
        let status = &pod["status"]["containerStatuses"][0];
        status["resources"] == with(cpu) && status["allocatedResources"]["cpu"] == cpu
    };
    resize("2");
    let pod = node.until("resized", |pod| has(pod, "2")).await;
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    assert_eq!(condition(&pod, "PodResizeInProgress"), &Value::Null);
    let after = node.app("a").await;
    assert_eq!((after.id, after.limits.cpu_quota_us), (before.id.clone(), Some(200_000)));
    node.until_event("ResizeCompleted").await;

    // More than the node has: it waits, and goes on with what it has.
    resize("9");
    let pod =
        node.until("refused", |pod| condition(pod, "PodResizePending")["status"] == "True").await;
    assert_eq!(condition(&pod, "PodResizePending")["reason"], "Infeasible");
    assert!(has(&pod, "2"), "{pod:#}");
    assert_eq!(node.app("a").await.limits.cpu_quota_us, Some(200_000));

    // Back to what fits, on a runtime that refuses at first.
    node.runtime.fail_updates(Some("device or resource busy"));
    resize("3");
    let pod = node
        .until("failed", |pod| condition(pod, "PodResizeInProgress")["reason"] == "Error")
        .await;
    assert_eq!(condition(&pod, "PodResizePending"), &Value::Null);
    assert_eq!(condition(&pod, "PodResizeInProgress")["message"], "device or resource busy");
    assert_eq!(pod["status"]["containerStatuses"][0]["resources"], with("2"));
    node.runtime.fail_updates(None);
    resize("4");
    node.until("resized", |pod| has(pod, "4")).await;
    node.stop().await;
}

#[tokio::test]
async fn memory_in_use_is_not_taken_away() {
    let mut node = hollow().await;
    let with = |memory: &str| json!({"requests": {"memory": "1Ki"}, "limits": {"memory": memory}});
    let mut spec = one();
    spec["containers"][0]["resources"] = with("40Mi");
    node.apply("p", spec);
    node.until("Ready", ready).await;
    let id = node.app("a").await.id;
    node.runtime.set_memory_use(&id, 1 << 20);
    let resize = |memory: &str| {
        edit(&node, |pod| pod["spec"]["containers"][0]["resources"] = with(memory));
    };
    // Less than the runtime can enforce, but that is not asked yet.
    resize("10Ki");
    let pod = node
        .until("failed", |pod| condition(pod, "PodResizeInProgress")["reason"] == "Error")
        .await;
    assert_eq!(
        condition(&pod, "PodResizeInProgress")["message"],
        "attempting to set container \"a\" memory limit (10240) below current usage (1048576)"
    );
    assert_eq!(pod["status"]["containerStatuses"][0]["resources"]["limits"]["memory"], "40Mi");
    assert_eq!(node.app("a").await.limits.memory_bytes, Some(40 << 20));
    resize("20Mi");
    let done = |pod: &Value| condition(pod, "PodResizeInProgress").is_null();
    node.until("resized", done).await;
    assert_eq!(node.app("a").await.limits.memory_bytes, Some(20 << 20));
    node.stop().await;
}

#[tokio::test]
async fn a_resize_waits_for_room_and_takes_it() {
    let mut node = hollow().await;
    let asks = |cpu: &str| {
        let mut spec = one();
        spec["containers"][0]["resources"] = json!({"requests": {"cpu": cpu}});
        spec
    };
    node.apply("other", asks("3"));
    node.apply("p", asks("1"));
    node.until("Ready", ready).await;
    edit(&node, |pod| pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("2"));
    let reason = |pod: &Value| condition(pod, "PodResizePending")["reason"].clone();
    node.until("deferred", |pod| reason(pod) == "Deferred").await;
    node.api.remove("/api/v1/namespaces/ns/pods/other");
    let given =
        |pod: &Value| pod["status"]["containerStatuses"][0]["allocatedResources"]["cpu"] == "2";
    node.until("resized", |pod| reason(pod).is_null() && given(pod)).await;
    assert_eq!(node.app("a").await.limits.cpu_shares, Some(2048));
    node.stop().await;
}

#[tokio::test]
async fn a_resize_restarts_where_the_policy_says_so() {
    let mut node = hollow().await;
    let mut spec = one();
    spec["containers"][0]["resources"] = json!({"limits": {"memory": "64Mi"}});
    spec["containers"][0]["resizePolicy"] =
        json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    node.apply("p", spec);
    node.until("Ready", ready).await;
    edit(&node, |pod| {
        pod["spec"]["containers"][0]["resources"] = json!({"limits": {"memory": "128Mi"}});
    });
    let restarts = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].clone();
    node.until("restarted", |pod| restarts(pod) == 1 && ready(pod)).await;
    assert_eq!(node.app("a").await.limits.memory_bytes, Some(128 << 20));

    // A request changes no limit, and it is not done before the restart either.
    node.runtime.slow_stops(Duration::from_millis(300));
    edit(&node, |pod| {
        pod["spec"]["containers"][0]["resources"]["requests"] = json!({"memory": "32Mi"});
    });
    let in_progress = |pod: &Value| condition(pod, "PodResizeInProgress")["status"] == "True";
    let pod = node.until("restarting", in_progress).await;
    assert_eq!(restarts(&pod), 1);
    let done = |pod: &Value| restarts(pod) == 2 && ready(pod) && !in_progress(pod);
    node.until("restarted again", done).await;
    node.stop().await;
}

#[tokio::test]
async fn a_volume_shows_what_is_in_an_image() {
    let mut node = hollow().await;
    let mut spec = one();
    spec["volumes"] = json!([{"name": "v", "image": {"reference": "tool:1"}}]);
    spec["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/tool"}]);
    node.apply("p", spec);
    let waiting =
        |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
    node.until("the image is nowhere", |pod| waiting(pod) == "ErrImagePull").await;
    node.until_event("Failed").await;
    assert!(!node.events().contains(&"ErrImagePull".to_owned()), "said once, in the usual words");
    let mut later = node.api.get(POD).unwrap();
    node.runtime.add_image("tool:1");
    // As somebody would who corrects the name: another pod.
    later["metadata"] = json!({"name": "q", "namespace": "ns", "uid": "uid-q", "generation": 1});
    later["status"] = Value::Null;
    let path = "/api/v1/namespaces/ns/pods/q";
    node.api.put(path, later);
    node.until_at(path, "Ready", ready).await;
    let found = node.containers().await.into_iter().find(|one| {
        one.label(crate::runtime::labels::POD_NAME) == "q"
            && one.label(crate::runtime::labels::CONTAINER) == "a"
    });
    let mounts = node.runtime.spec(&found.unwrap().id).unwrap().mounts;
    let tool = mounts.iter().find(|mount| mount.target == "/tool").unwrap();
    assert!(tool.read_only);
    // The twin's images hold one file with their name in it.
    let file = std::path::Path::new(&tool.source).join("pause");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "sha256:tool:1");
    node.stop().await;
}

#[tokio::test]
async fn an_image_that_nobody_mounts_is_not_pulled() {
    let mut node = hollow().await;
    let mut spec = one();
    spec["volumes"] = json!([{"name": "v", "image": {"reference": "tool:1"}}]);
    node.apply("p", spec);
    node.until("Ready", ready).await;
    // Somebody who looks into the pod wants it.
    node.runtime.add_image("tool:1");
    edit(&node, |pod| {
        pod["spec"]["ephemeralContainers"] = json!([{
            "name": "d", "image": "img:1", "volumeMounts": [{"name": "v", "mountPath": "/tool"}],
        }]);
    });
    node.until("it is there", |pod| {
        pod["status"]["ephemeralContainerStatuses"][0]["state"]["running"].is_object()
    })
    .await;
    let mounts = node.runtime.spec(&node.app("d").await.id).unwrap().mounts;
    assert!(mounts.iter().any(|mount| mount.target == "/tool"));
    node.stop().await;
}

#[tokio::test]
async fn last_words_without_end_are_cut_as_they_are_read() {
    let mut node = hollow().await;
    let mut spec = one();
    spec["restartPolicy"] = json!("Never");
    node.apply("p", spec);
    node.until("Ready", ready).await;
    let dir = node.config().pod_dir("uid-p");
    std::fs::write(dir.join("containers/a/0.message"), vec![b'x'; 1 << 20]).unwrap();
    node.runtime.exit(&node.app("a").await.id, 1);
    let pod = node.until_phase("Failed").await;
    let said = &pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"];
    assert_eq!(said.as_str().map(str::len), Some(4096));
    node.stop().await;
}
