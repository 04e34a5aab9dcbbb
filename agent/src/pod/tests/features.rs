//! What a pod's spec asks for beyond containers that run.

use super::*;

#[tokio::test]
async fn what_docker_cannot_do_for_a_pod_is_said_instead_of_left_out() {
    let mut node = hollow().await;
    let class = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass",
                       "metadata": {"name": "safe"}, "handler": "runsc"});
    node.api.put("/apis/node.k8s.io/v1/runtimeclasses/safe", class);
    let mut safe = one();
    safe["runtimeClassName"] = json!("safe");
    node.apply("p", safe);
    node.until("Ready", ready).await;
    for name in [labels::SANDBOX, "a"] {
        let made = node.runtime.spec(&node.app(name).await.id).unwrap();
        assert_eq!(made.handler.as_deref(), Some("runsc"), "{name}");
    }
    let mut mapped = one();
    mapped["hostUsers"] = json!(false);
    node.apply("mapped", mapped);
    let mut unknown = one();
    unknown["runtimeClassName"] = json!("gone");
    node.apply("unknown", unknown);
    for words in ["hostUsers: false", "RuntimeClass \"gone\""] {
        let said = |event: &Value| {
            event["reason"] == "FailedCreatePodSandBox"
                && event["message"].as_str().is_some_and(|text| text.contains(words))
        };
        let mut looks = 0;
        while !node.api.all("/events/").iter().any(said) {
            looks += 1;
            assert!(looks < 2000, "nobody said {words}: {:?}", node.api.all("/events/"));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert_eq!(node.containers().await.len(), 2, "only the first runs");
    node.stop().await;
}

#[tokio::test]
async fn a_variable_comes_from_a_file_that_an_init_container_wrote() {
    let mut node = hollow().await;
    let key = json!({"volumeName": "v", "path": "x.env", "key": "K"});
    let spec = json!({
        "volumes": [{"name": "v", "emptyDir": {}}],
        "initContainers": [{"name": "i", "image": "img:1"}],
        "containers": [{"name": "a", "image": "img:1",
                        "env": [{"name": "A", "valueFrom": {"fileKeyRef": key}}]}],
    });
    node.apply("p", spec);
    node.until("the init container", |pod| {
        pod["status"]["initContainerStatuses"][0]["state"]["running"].is_object()
    })
    .await;
    let file = node.config().pod_dir("uid-p").join("volumes/v/x.env");
    std::fs::write(file, "K='from the file'\n").unwrap();
    node.runtime.exit(&node.app("i").await.id, 0);
    node.until("Ready", ready).await;
    let env = node.runtime.spec(&node.app("a").await.id).unwrap().env;
    assert!(env.contains(&"A=from the file".to_owned()), "{env:?}");
    node.stop().await;
}

#[tokio::test]
async fn a_pod_on_the_nodes_network_knows_its_address() {
    let mut node = hollow().await;
    let mut spec = one();
    spec["hostNetwork"] = json!(true);
    spec["containers"][0]["env"] =
        json!([{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]);
    node.apply("p", spec);
    let pod = node.until("Ready", ready).await;
    let env = node.runtime.spec(&node.app("a").await.id).unwrap().env;
    let address = pod["status"]["podIP"].as_str().unwrap();
    assert!(env.contains(&format!("IP={address}")), "{env:?}");
    node.stop().await;
}

#[tokio::test]
async fn a_container_says_whom_it_runs_as() {
    let mut node = hollow().await;
    node.runtime.set_file("img:1", "/etc/passwd", "app:x:1000:1001::/:\n");
    node.runtime.set_file("img:1", "/etc/group", "extra:x:50000:app\n");
    let user = |pod: &Value| pod["status"]["containerStatuses"][0]["user"]["linux"].clone();
    let mut spec = one();
    spec["securityContext"] = json!({"runAsUser": 1000, "supplementalGroupsPolicy": "Strict",
        "supplementalGroups": [60000]});
    node.apply("p", spec.clone());
    let pod = node.until("Ready", ready).await;
    assert_eq!(user(&pod), json!({"uid": 1000, "gid": 1001, "supplementalGroups": [1001, 60000]}));

    spec["securityContext"]["supplementalGroupsPolicy"] = json!("Merge");
    spec["securityContext"]["runAsGroup"] = json!(3000);
    spec["containers"][0]["name"] = json!("b");
    node.apply("other", spec);
    let other = node.until_at("/api/v1/namespaces/ns/pods/other", "Ready", ready).await;
    let merged = json!({"uid": 1000, "gid": 3000, "supplementalGroups": [3000, 50000, 60000]});
    assert_eq!(user(&other), merged);

    // What was told stays, whoever the process has become since.
    let known = json!({"uid": 5, "gid": 5, "supplementalGroups": [5]});
    node.stop().await;
    let mut told = node.api.get(POD).unwrap();
    told["status"]["containerStatuses"][0]["user"]["linux"] = known.clone();
    told["metadata"]["generation"] = json!(2);
    node.api.put(POD, told);
    node.start();
    let again = |pod: &Value| pod["status"]["observedGeneration"] == 2 && ready(pod);
    assert_eq!(user(&node.until("told again", again).await), known);
    node.stop().await;
}

#[tokio::test]
async fn a_pod_that_runs_too_long_is_told_of_once() {
    let mut node = hollow().await;
    let mut spec = one();
    spec["activeDeadlineSeconds"] = json!(1);
    node.apply("p", spec);
    let pod = node.until_phase("Failed").await;
    assert_eq!(pod["status"]["reason"], "DeadlineExceeded");
    node.until_event("DeadlineExceeded").await;
    let events = node.api.all("/events/").into_iter();
    let told: Vec<_> = events.filter(|event| event["reason"] == "DeadlineExceeded").collect();
    assert_eq!((told.len(), &told[0]["count"], &told[0]["type"]), (1, &json!(1), &json!("Normal")));
    assert_eq!(told[0]["message"], pod["status"]["message"]);
    node.stop().await;
}

#[tokio::test]
async fn a_missing_pull_secret_is_told_of() {
    let mut node = hollow().await;
    node.runtime.add_remote_image("private:1");
    let mut spec = one();
    spec["containers"][0]["image"] = json!("private:1");
    spec["imagePullSecrets"] = json!([{"name": "absent"}]);
    node.apply("p", spec);
    node.until("Ready", ready).await;
    node.until_event("FailedToRetrieveImagePullSecret").await;
    node.stop().await;
}

#[tokio::test]
async fn a_sidecar_has_started_before_the_others_begin() {
    let mut node = hollow().await;
    node.runtime.set_exec_code("ask", 1);
    let probe = json!({"exec": {"command": ["ask"]}, "periodSeconds": 1, "failureThreshold": 100});
    let spec = json!({
        "initContainers": [{"name": "s", "image": "img:1", "restartPolicy": "Always",
                            "startupProbe": probe}],
        "containers": [{"name": "a", "image": "img:1"}],
    });
    node.apply("p", spec);
    let asked = || node.runtime.calls().iter().any(|call| call.starts_with("exec "));
    while !asked() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let names = |found: Vec<crate::runtime::Container>| {
        let all = found.iter().map(|found| found.label(labels::CONTAINER).to_owned());
        all.collect::<std::collections::BTreeSet<_>>()
    };
    let before = [labels::SANDBOX, "s"].map(str::to_owned).into();
    assert_eq!(names(node.containers().await), before);
    node.runtime.set_exec_code("ask", 0);
    node.until("Ready", ready).await;
    node.app("a").await;
    node.stop().await;
}
