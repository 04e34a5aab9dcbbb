//! Tables over nodes and pods.

use k8s_openapi::api::apps::v1::{DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::*;
use crate::testing;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn set(max_unavailable: i32) -> DaemonSet {
    DaemonSet {
        metadata: testing::meta("log"),
        spec: Some(DaemonSetSpec {
            template: testing::template("log:2"),
            update_strategy: Some(DaemonSetUpdateStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateDaemonSet {
                    max_unavailable: Some(IntOrString::Int(max_unavailable)),
                    max_surge: None,
                }),
            }),
            ..DaemonSetSpec::default()
        }),
        status: None,
    }
}

fn nodes(count: usize) -> Vec<Arc<Node>> {
    (1..=count)
        .map(|n| {
            Arc::new(Node { metadata: testing::meta(&format!("node-{n}")), ..Node::default() })
        })
        .collect()
}

fn pod(node: usize, hash: &str, ready: bool) -> Pod {
    let name = format!("log-{node}");
    let mut pod = if ready { testing::ready_pod(&name, at(0)) } else { testing::pod(&name) };
    pod.spec.as_mut().unwrap().node_name = Some(format!("node-{node}"));
    pod.metadata.labels.as_mut().unwrap().insert(HASH_LABEL.into(), hash.into());
    pod
}

#[test]
fn every_node_has_one_pod() {
    let mut going = pod(1, "new", true);
    going.metadata.deletion_timestamp = Some(meta::time(at(1)));
    let mut failed = pod(1, "new", false);
    failed.status.as_mut().unwrap().phase = Some("Failed".into());
    type Case = (&'static str, Vec<Pod>, Vec<&'static str>, Vec<&'static str>);
    let cases: [Case; 6] = [
        ("none yet", vec![], vec!["node-1", "node-2"], vec![]),
        ("one missing", vec![pod(1, "new", true)], vec!["node-2"], vec![]),
        ("waits for the old one to end", vec![going, pod(2, "new", true)], vec![], vec![]),
        ("a failed one is cleared first", vec![failed, pod(2, "new", true)], vec![], vec!["log-1"]),
        (
            "old pods go one by one",
            vec![pod(1, "old", true), pod(2, "old", true)],
            vec![],
            vec!["log-1"],
        ),
        (
            "idle old pods need no permission",
            vec![pod(1, "old", true), pod(2, "old", false)],
            vec![],
            vec!["log-2"],
        ),
    ];
    for (name, observed, create, delete) in cases {
        let observed: Vec<Arc<Pod>> = observed.into_iter().map(Arc::new).collect();
        let (plan, _, _) = plan(&set(1), &nodes(2), &observed, "new", at(100));
        let deleted: Vec<&str> = plan.delete.iter().map(|pod| meta::name(&pod.metadata)).collect();
        assert_eq!(
            (plan.create, deleted),
            (create.into_iter().map(str::to_owned).collect(), delete),
            "{name}"
        );
    }
}

#[test]
fn status_counts_nodes() {
    let observed: Vec<Arc<Pod>> =
        [pod(1, "new", true), pod(2, "old", true)].into_iter().map(Arc::new).collect();
    let (_, status, _) = plan(&set(1), &nodes(3), &observed, "new", at(100));
    assert_eq!(status.desired_number_scheduled, 3);
    assert_eq!(status.current_number_scheduled, 2);
    assert_eq!(status.updated_number_scheduled, Some(1));
    assert_eq!(status.number_available, Some(2));
    assert_eq!(status.number_unavailable, Some(1));
}
