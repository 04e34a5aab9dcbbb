//! Machines that shut down, as far as their logind says so.

use super::*;
use crate::shutdown::fake_logind::FakeLogind;
use crate::shutdown::plan::GracePeriods;

const OTHER: &str = "/api/v1/namespaces/ns/pods/other";
const LATE: &str = "/api/v1/namespaces/ns/pods/late";

/// A node on a machine whose logind lets shutdowns be delayed by `delay`. Pods
/// have two seconds to end in, one of them for critical ones.
async fn node_with_logind(delay: u64) -> TestNode<Memory> {
    let mut node = hollow().await;
    node.stop().await;
    let (dir, conf_dir) = (node.dir.path(), node.config().logind_conf_dir);
    node.logind = Some(FakeLogind::start(dir, &conf_dir, Duration::from_secs(delay)).await);
    node.grace = GracePeriods::new(Duration::from_secs(2), Duration::from_secs(1)).unwrap();
    node.start();
    node
}

/// A pod that takes a moment to end.
fn slow() -> Value {
    let mut spec = one();
    spec["containers"][0]["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 1}}});
    spec
}

fn critical() -> Value {
    json!({"containers": [{"name": "b", "image": "img:1"}], "priority": 2_000_000_000})
}

fn logind(node: &TestNode<Memory>) -> &FakeLogind {
    node.logind.as_ref().unwrap()
}

fn assert_terminated(pod: &Value) {
    let said = "Pod was terminated in response to imminent node shutdown.";
    let status = &pod["status"];
    assert_eq!((&status["phase"], &status["reason"]), (&json!("Failed"), &json!("Terminated")));
    assert_eq!(status["message"], said);
    let all = status["conditions"].as_array().unwrap();
    let target = all.iter().find(|one| one["type"] == "DisruptionTarget").unwrap();
    assert_eq!((&target["status"], &target["message"]), (&json!("True"), &json!(said)));
    assert_eq!(target["reason"], "TerminationByKubelet");
    assert!(status["containerStatuses"][0]["state"]["terminated"].is_object(), "{pod:#}");
}

#[tokio::test]
async fn pods_end_in_order_before_the_machine_goes_on() {
    let mut node = node_with_logind(60).await;
    logind(&node).until_locks(1).await;
    node.stop().await;
    logind(&node).until_locks(0).await;
    node.grace = GracePeriods::new(Duration::from_secs(50), Duration::from_secs(10)).unwrap();
    node.start();
    logind(&node).until_locks(1).await;
    node.apply("p", slow());
    node.apply("other", critical());
    node.until("Ready", ready).await;
    node.until_at(OTHER, "the other is Ready", ready).await;

    logind(&node).prepare_for_shutdown(true).await;
    node.until_event("NodeShutdown").await;
    node.apply("late", one());
    let refused = |pod: &Value| pod["status"]["reason"] == "NodeShutdown";
    let late = node.until_at(LATE, "a pod that comes is refused", refused).await;
    let said = "Pod was rejected: Pod was rejected as the node is shutting down.";
    assert_eq!(
        (&late["status"]["phase"], &late["status"]["message"]),
        (&json!("Failed"), &json!(said))
    );

    logind(&node).until_locks(0).await;
    assert_terminated(&node.api.get(POD).unwrap());
    assert_terminated(&node.api.get(OTHER).unwrap());
    let (plain, critical) = (node.app("a").await.id, node.app("b").await.id);
    let calls = node.runtime.calls();
    let stopped = |id: &str| calls.iter().position(|call| *call == format!("stop {id}")).unwrap();
    assert!(stopped(&plain) < stopped(&critical), "{calls:?}");

    // It did not go off after all.
    logind(&node).prepare_for_shutdown(false).await;
    logind(&node).until_locks(1).await;
    node.apply("again", one());
    node.until_at("/api/v1/namespaces/ns/pods/again", "pods come again", ready).await;

    // Another start, as after a boot, leaves them as they ended.
    node.stop().await;
    logind(&node).until_locks(0).await;
    node.start();
    logind(&node).until_locks(1).await;
    assert_terminated(&node.api.get(POD).unwrap());
    node.stop().await;
}

#[tokio::test]
async fn an_agent_that_starts_while_the_machine_shuts_down_ends_its_pods() {
    let mut node = node_with_logind(60).await;
    node.apply("p", one());
    node.until("Ready", ready).await;
    node.stop().await;
    assert_eq!(node.containers().await.len(), 2, "a plain stop leaves them running");
    logind(&node).prepare_for_shutdown(true).await;
    node.start();
    assert_terminated(&node.until_phase("Failed").await);
    assert_eq!(logind(&node).locks(), 0);
    node.stop().await;
}

#[tokio::test]
async fn logind_is_told_to_wait_as_long_as_pods_may_take_and_no_longer() {
    let mut node = node_with_logind(1).await;
    let conf_dir = node.config().logind_conf_dir;
    logind(&node).until_locks(1).await;
    assert_eq!(logind(&node).delay(), Duration::from_secs(4));
    node.stop().await;
    logind(&node).until_locks(0).await;
    assert!(conf_dir.exists(), "it counts for the shutdown of a machine without an agent, too");
    node.grace = GracePeriods::new(Duration::from_secs(1), Duration::ZERO).unwrap();
    node.start();
    logind(&node).until_locks(1).await;
    assert_eq!(logind(&node).delay(), Duration::from_secs(3));
    node.stop().await;
    logind(&node).until_locks(0).await;
    node.grace = GracePeriods::default();
    node.start();
    node.apply("p", one());
    node.until("Ready", ready).await;
    while conf_dir.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(logind(&node).locks(), 0);
    node.stop().await;
}

#[tokio::test]
async fn a_machine_without_logind_runs_its_pods_all_the_same() {
    let mut node = node_with_logind(60).await;
    node.stop().await;
    // The bus ends with it; its socket stays.
    let address = logind(&node).address.clone();
    node.logind = None;
    assert!(crate::shutdown::logind::Logind::connect(Some(&address)).await.is_err());
    node.bus = Some(address);
    node.start();
    node.apply("p", one());
    node.until("Ready", ready).await;
    node.stop().await;
}
