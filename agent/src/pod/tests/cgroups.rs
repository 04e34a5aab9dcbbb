//! Pods that are limited as a whole.

use super::*;
use crate::cgroup::PodCgroups as _;
use crate::runtime::Limits;

fn limited() -> Value {
    let mut pod = one();
    pod["resources"] = json!({"limits": {"memory": "64Mi"}});
    pod
}

#[tokio::test]
async fn a_pod_with_limits_of_its_own_has_a_cgroup_until_it_has_ended() {
    let mut node = hollow().await;
    node.apply("p", limited());
    node.until("Ready", ready).await;
    for name in [labels::SANDBOX, "a"] {
        let made = node.runtime.spec(&node.app(name).await.id).unwrap();
        assert_eq!(made.cgroup_parent.as_deref(), Some("/pod/uid-p"), "{name}");
    }
    let expected =
        Limits { cpu_shares: Some(2), memory_bytes: Some(64 << 20), ..Limits::default() };
    assert_eq!(node.cgroups.limits("uid-p"), Some(expected));
    // The next agent makes and starts nothing for what runs.
    let before = node.app("a").await.id;
    node.stop().await;
    node.cgroups.fail(Some("nobody asks"));
    node.start();
    node.until("Ready", ready).await;
    assert_eq!(node.app("a").await.id, before);
    node.runtime.exit(&before, 0);
    node.stop().await;
}

#[tokio::test]
async fn a_pod_without_limits_of_its_own_has_no_cgroup() {
    let mut node = hollow().await;
    node.cgroups.fail(Some("nobody asks"));
    node.apply("p", one());
    node.until("Ready", ready).await;
    let made = node.runtime.spec(&node.app("a").await.id).unwrap();
    assert_eq!((made.cgroup_parent, node.cgroups.pods().len()), (None, 0));
    node.stop().await;
}

#[tokio::test]
async fn a_limit_on_processes_is_the_pods() {
    let mut node = hollow().await;
    node.stop().await;
    node.pod_pids = Some(40);
    node.start();
    node.apply("p", one());
    node.until("Ready", ready).await;
    assert_eq!(node.cgroups.limits("uid-p").and_then(|limits| limits.pids), Some(40));
    let pods: kube::Api<k8s_openapi::api::core::v1::Pod> =
        kube::Api::namespaced(node.api.client(), "ns");
    pods.delete("p", &Default::default()).await.unwrap();
    node.until_empty().await;
    node.until_no_cgroup().await;
    node.stop().await;
}

#[tokio::test]
async fn what_is_left_of_a_pod_that_is_gone_is_removed() {
    let mut node = hollow().await;
    node.stop().await;
    node.cgroups.ensure("uid-gone", &Limits::default()).await.unwrap();
    node.start();
    node.until_no_cgroup().await;
    node.stop().await;
}

#[tokio::test]
async fn a_pod_whose_limits_cannot_be_set_does_not_start() {
    let mut node = hollow().await;
    node.cgroups.fail(Some("read-only file system"));
    node.apply("p", limited());
    let said = |event: &Value| {
        event["reason"] == "FailedCreatePodContainer"
            && event["message"].as_str().is_some_and(|text| text.contains("read-only file system"))
    };
    let mut looks = 0;
    while !node.api.all("/events/").iter().any(said) {
        looks += 1;
        assert!(looks < 2000, "nobody said so: {:?}", node.api.all("/events/"));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(node.containers().await.len(), 0);
    node.cgroups.fail(None);
    node.until("Ready", ready).await;
    node.stop().await;
}

impl<R: Runtime> TestNode<R> {
    async fn until_no_cgroup(&self) {
        let mut looks = 0;
        while !self.cgroups.pods().is_empty() {
            looks += 1;
            assert!(looks < 2000, "still there: {:?}", self.cgroups.pods());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
