//! A pod's life: how it begins, crashes, is asked by probes, survives the agent
//! and its sandbox, and goes.

use super::*;
use crate::runtime::docker::Docker;

#[tokio::test]
async fn a_pod_runs_and_goes() {
    let mut node = hollow().await;
    node.apply("p", one());
    let pod = node.until("Ready", ready).await;
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(pod["status"]["podIP"], "10.244.0.9");
    assert_eq!(pod["status"]["observedGeneration"], 1);
    for reason in ["Pulled", "Created", "Started"] {
        node.until_event(reason).await;
    }
    let hosts = std::fs::read_to_string(node.config().pod_dir("uid-p").join("etc-hosts")).unwrap();
    assert!(hosts.contains("10.244.0.9\tp"), "{hosts}");

    let pods: kube::Api<k8s_openapi::api::core::v1::Pod> =
        kube::Api::namespaced(node.api.client(), "ns");
    pods.delete("p", &Default::default()).await.unwrap();
    node.until("deletion", Value::is_null).await;
    node.until_empty().await;
    assert!(!node.config().pod_dir("uid-p").exists(), "its files are gone");
    assert_eq!(node.cables.detached.load(Ordering::Relaxed), 1);
    node.stop().await;
}

#[tokio::test]
async fn a_start_takes_no_needless_calls() {
    let mut node = hollow().await;
    node.apply("p", one());
    node.until("Ready", ready).await;
    let calls: Vec<_> = node
        .runtime
        .calls()
        .iter()
        .map(|call| call.split(' ').next().unwrap().to_owned())
        .collect();
    let after_list =
        calls.iter().skip_while(|call| *call != "list").skip(1).cloned().collect::<Vec<_>>();
    let expected = ["create", "start", "inspect", "image", "create", "start", "inspect"];
    let known: Vec<_> = after_list.iter().filter(|call| *call != "inspect").collect();
    let wanted: Vec<_> = expected.iter().filter(|call| **call != "inspect").collect();
    assert_eq!(known, wanted, "{calls:?}");
    assert!(calls.iter().filter(|call| *call == "inspect").count() <= 2, "{calls:?}");
    node.stop().await;
}

#[tokio::test]
async fn crashes_are_counted_and_back_off() {
    let mut node = hollow().await;
    node.apply("p", one());
    node.until("Ready", ready).await;
    node.runtime.exit(&node.app("a").await.id, 3);
    let pod = node
        .until("a restart", |pod| {
            ready(pod) && pod["status"]["containerStatuses"][0]["restartCount"] == 1
        })
        .await;
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 3);
    node.runtime.exit(&node.app("a").await.id, 3);
    let waiting = |pod: &Value| {
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    };
    node.until("back-off", waiting).await;
    node.until_event("BackOff").await;
    node.stop().await;
}

#[tokio::test]
async fn a_restarted_agent_adopts_and_writes_nothing() {
    let mut node = hollow().await;
    node.apply("p", one());
    node.until("Ready", ready).await;
    node.runtime.exit(&node.app("a").await.id, 1);
    node.until("a restart", |pod| {
        ready(pod) && pod["status"]["containerStatuses"][0]["restartCount"] == 1
    })
    .await;
    node.stop().await;
    let (before, writes) = (node.containers().await, node.api.status_writes());
    node.start();
    // The network is looked at again; nothing else changes.
    while node.cables.attached.load(Ordering::Relaxed) < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let ids = |found: &[crate::runtime::Container]| {
        found.iter().map(|found| found.id.clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&before), ids(&node.containers().await));
    assert_eq!(node.api.status_writes(), writes, "{:#}", node.api.get(POD).unwrap());
    // The count goes on where it was.
    node.runtime.exit(&node.app("a").await.id, 1);
    let backing_off = |pod: &Value| {
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    };
    let pod = node.until("back-off", backing_off).await;
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 1);
    node.stop().await;
}

#[tokio::test]
async fn what_the_api_no_longer_has_is_removed_after_a_full_list_only() {
    let mut node = hollow().await;
    node.apply("p", one());
    node.until("Ready", ready).await;
    node.stop().await;
    node.api.set_down(true);
    node.api.remove(POD);
    node.start();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(node.containers().await.len(), 2, "an API that is away removes nothing");
    node.api.set_down(false);
    node.until_empty().await;
    for _ in 0..400 {
        if !node.config().pod_dir("uid-p").exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!node.config().pod_dir("uid-p").exists(), "its files are gone");
    node.stop().await;
}

#[tokio::test]
async fn a_dead_sandbox_is_made_anew() {
    let mut node = hollow().await;
    node.apply("p", one());
    node.until("Ready", ready).await;
    let sandbox = node.app(labels::SANDBOX).await;
    node.runtime.exit(&sandbox.id, 137);
    node.until_event("SandboxChanged").await;
    node.until("a restart", |pod| {
        ready(pod) && pod["status"]["containerStatuses"][0]["restartCount"] == 1
    })
    .await;
    let now = node.app(labels::SANDBOX).await;
    assert_ne!(now.id, sandbox.id);
    assert_eq!(now.label(labels::ATTEMPT), "1");
    assert_eq!(
        node.containers()
            .await
            .iter()
            .filter(|c| c.label(labels::CONTAINER) == labels::SANDBOX)
            .count(),
        1
    );
    node.stop().await;
}

#[tokio::test]
async fn an_image_that_is_nowhere_shows_and_says_why() {
    let mut node = hollow().await;
    node.apply("p", json!({"containers": [{"name": "a", "image": "none:1"}]}));
    let reason =
        |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
    let pod = node.until("ErrImagePull", |pod| reason(pod) == "ErrImagePull").await;
    let message = &pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"];
    assert_eq!(message, "manifest for none:1 not found");
    assert_eq!(pod["status"]["phase"], "Pending");
    node.until("ImagePullBackOff", |pod| reason(pod) == "ImagePullBackOff").await;
    node.until_event("Failed").await;
    node.until_event("BackOff").await;
    node.stop().await;
}

#[tokio::test]
async fn a_missing_config_map_is_waited_for() {
    let mut node = hollow().await;
    let spec = json!({"containers": [{"name": "a", "image": "img:1",
        "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "conf", "key": "x"}}}]}]});
    node.apply("p", spec);
    let state = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"].clone();
    let pod =
        node.until("an error", |pod| state(pod)["reason"] == "CreateContainerConfigError").await;
    assert_eq!(state(&pod)["message"], "configmap \"conf\" not found");
    let map = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "conf", "namespace": "ns"}, "data": {"x": "7"}});
    node.api.put("/api/v1/namespaces/ns/configmaps/conf", map);
    node.until("Ready", ready).await;
    let app = node.app("a").await;
    assert!(node.runtime.spec(&app.id).unwrap().env.contains(&"X=7".to_owned()));
    node.stop().await;
}

#[tokio::test]
async fn jobs_of_pods_end() {
    let mut node = hollow().await;
    let mut spec = one();
    spec["restartPolicy"] = json!("OnFailure");
    node.apply("p", spec);
    node.until("Ready", ready).await;
    node.runtime.exit(&node.app("a").await.id, 0);
    let pod = node.until_phase("Succeeded").await;
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    assert_eq!(pod["status"]["podIP"], "10.244.0.9", "what it had stays readable");
    for _ in 0..200 {
        if node.containers().await.len() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(
        node.containers().await.len(),
        1,
        "the sandbox is gone, the container stays for its log"
    );
    node.stop().await;
}

#[tokio::test]
async fn a_failing_liveness_probe_restarts_its_container() {
    let mut node = probed().await;
    node.runtime.set_exec_code("check", 1);
    node.until_event("Unhealthy").await;
    node.until_event("Killing").await;
    node.until("a restart", |pod| pod["status"]["containerStatuses"][0]["restartCount"] == 1).await;
    node.stop().await;
}

#[tokio::test]
async fn readiness_follows_its_probe() {
    let mut node = hollow().await;
    node.runtime.set_exec_code("check", 1);
    let probe = json!({"exec": {"command": ["check"]}, "periodSeconds": 1});
    node.apply(
        "p",
        json!({"containers": [{"name": "a", "image": "img:1", "readinessProbe": probe}]}),
    );
    node.until_phase("Running").await;
    assert!(!ready(&node.api.get(POD).unwrap()));
    node.runtime.set_exec_code("check", 0);
    node.until("Ready", ready).await;
    node.stop().await;
}

#[tokio::test]
async fn pods_run_on_docker_and_one_that_is_killed_starts_again() {
    const PODS: usize = 10;
    let docker = Arc::new(Docker::new("/var/run/docker.sock"));
    if let Err(error) = docker.version().await {
        eprintln!("skipped: no Docker answers at /var/run/docker.sock: {error}");
        return;
    }
    let mut node = TestNode::new(docker).await;
    // The sandbox's program serves as the application: it waits for SIGTERM.
    let image = sandbox_image::name();
    let began = std::time::Instant::now();
    for index in 0..PODS {
        let container = json!({"name": "a", "image": image, "imagePullPolicy": "Never"});
        node.apply(
            &format!("p{index}"),
            json!({"containers": [container], "terminationGracePeriodSeconds": 5}),
        );
    }
    let all_running = async {
        loop {
            let pods = node.api.all("/pods/");
            if pods.len() == PODS && pods.iter().all(ready) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(60), all_running).await.is_err() {
        panic!("pods do not run: {:#?} {:?}", node.api.all("/pods/p0"), node.api.all("/events/p0"));
    }
    let took = began.elapsed();
    let containers = node.containers().await;
    assert_eq!(containers.len(), 2 * PODS);
    eprintln!("{PODS} pods on Docker in {took:?}");

    // Killed by hand: it starts again and the pod says why.
    let victim = containers.iter().find(|c| c.label(labels::CONTAINER) == "a").unwrap();
    let path = format!("/api/v1/namespaces/ns/pods/{}", victim.label(labels::POD_NAME));
    node.runtime.kill(&victim.id, "SIGKILL").await.unwrap();
    for _ in 0..1000 {
        let pod = node.api.get(&path).unwrap();
        if ready(&pod) && pod["status"]["containerStatuses"][0]["restartCount"] == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let status = node.api.get(&path).unwrap()["status"]["containerStatuses"][0].clone();
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 137, "{status:#}");

    let pods: kube::Api<k8s_openapi::api::core::v1::Pod> =
        kube::Api::namespaced(node.api.client(), "ns");
    for index in 0..PODS {
        pods.delete(&format!("p{index}"), &Default::default()).await.unwrap();
    }
    node.until_empty().await;
    node.stop().await;
}
