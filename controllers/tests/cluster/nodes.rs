//! Nodes that come, fall silent, return and leave.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::workloads::deployment;
use crate::{Cluster, eventually, hollow};

fn ready(node: &Node) -> Option<&str> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|condition| condition.type_ == "Ready")
        .map(|ready| ready.status.as_str())
}

fn taints(node: &Node) -> Vec<String> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.map(|taint| format!("{}:{}", taint.key, taint.effect)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_a_silent_node_are_replaced_elsewhere() {
    let config = skiff_controllers::Config {
        node_monitor_grace: Duration::from_secs(2),
        ..Default::default()
    };
    let cluster = Cluster::start_with(config).await;
    let client = &cluster.client;
    let (_, hollow_nodes) = hollow::start(client).await;
    let nodes: Api<Node> = Api::all(client.clone());
    let blocks = eventually("pod addresses", || async {
        let nodes = nodes.list(&ListParams::default()).await.unwrap().items;
        let blocks: Vec<String> =
            nodes.into_iter().filter_map(|node| node.spec?.pod_cidr).collect();
        (blocks.len() == 2).then_some(blocks)
    })
    .await;
    assert_ne!(blocks[0], blocks[1]);

    let beating = tokio::spawn({
        let client = client.clone();
        async move {
            loop {
                hollow::beat(&client, "node-2").await;
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        }
    });
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
    let mut web = deployment("web", 2, "web:1");
    let spec = web.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
    spec.tolerations = serde_json::from_value(json!([
        { "key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1 },
        { "key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1 },
    ]))
    .unwrap();
    hollow::beat(client, "node-1").await;
    deployments.create(&PostParams::default(), &web).await.unwrap();

    let silent = eventually("the silent node", || async {
        let node = nodes.get("node-1").await.unwrap();
        (ready(&node) == Some("Unknown") && taints(&node).len() == 2).then_some(node)
    })
    .await;
    assert_eq!(
        taints(&silent),
        ["node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"]
    );
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let on = |pods: &[Pod], node: &str, going: bool| {
        let there =
            pods.iter().filter(|pod| pod.spec.as_ref().unwrap().node_name.as_deref() == Some(node));
        there.filter(|pod| pod.metadata.deletion_timestamp.is_some() == going).count()
    };
    eventually("replacements", || async {
        let pods = pods.list(&ListParams::default()).await.unwrap().items;
        (on(&pods, "node-2", false) == 2 && on(&pods, "node-1", true) == 2).then_some(())
    })
    .await;

    // The lost pods stay until somebody says that the node is gone.
    nodes.delete("node-1", &DeleteParams::default()).await.unwrap();
    eventually("the lost pods to go", || async {
        (pods.list(&ListParams::default()).await.unwrap().items.len() == 2).then_some(())
    })
    .await;
    beating.abort();
    hollow_nodes.abort();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_returns_loses_its_taints() {
    let config = skiff_controllers::Config {
        node_monitor_grace: Duration::from_millis(500),
        ..Default::default()
    };
    let cluster = Cluster::start_with(config).await;
    let client = &cluster.client;
    let nodes: Api<Node> = Api::all(client.clone());
    hollow::join(client, "node-1").await;
    eventually("silence", || async {
        (ready(&nodes.get("node-1").await.unwrap()) == Some("Unknown")).then_some(())
    })
    .await;
    eventually("its taints", || async {
        (taints(&nodes.get("node-1").await.unwrap()).len() == 2).then_some(())
    })
    .await;
    hollow::beat(client, "node-1").await;
    let back = eventually("the taints to go", || async {
        let node = nodes.get("node-1").await.unwrap();
        (ready(&node) == Some("True") && taints(&node).is_empty()).then_some(node)
    })
    .await;
    assert_eq!(back.name_any(), "node-1");
    cluster.stop().await;
}
