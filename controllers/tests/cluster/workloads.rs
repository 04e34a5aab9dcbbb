//! Deployments, ReplicaSets and the endpoints behind services.

use std::sync::atomic::Ordering;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Event, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::{Cluster, eventually, hollow};

pub(crate) fn deployment(name: &str, replicas: i32, image: &str) -> Deployment {
    serde_json::from_value(json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": name } },
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": { "containers": [{ "name": "main", "image": image, "ports": [{ "name": "http", "containerPort": 8080 }] }] },
            },
        },
    }))
    .unwrap()
}

async fn rolled_out(client: &Client, name: &str) -> Deployment {
    let api: Api<Deployment> = Api::namespaced(client.clone(), "default");
    eventually(&format!("rollout of {name}"), || async {
        let deployment = api.get(name).await.unwrap();
        let desired = deployment.spec.as_ref().unwrap().replicas.unwrap();
        let status = deployment.status.clone().unwrap_or_default();
        let counts = [
            status.replicas,
            status.updated_replicas,
            status.available_replicas,
            status.ready_replicas,
        ];
        let settled = counts.iter().all(|count| count.unwrap_or(0) == desired)
            && status.observed_generation == deployment.metadata.generation
            && status.terminating_replicas.unwrap_or(0) == 0;
        settled.then_some(deployment)
    })
    .await
}

async fn patch(client: &Client, name: &str, patch: Value) {
    let api: Api<Deployment> = Api::namespaced(client.clone(), "default");
    api.patch(name, &PatchParams::default(), &Patch::Strategic(&patch)).await.unwrap();
}

fn image(image: &str) -> Value {
    json!({ "spec": { "template": { "spec": { "containers": [{ "name": "main", "image": image }] } } } })
}

fn progressing(deployment: &Deployment) -> String {
    let conditions = deployment.status.as_ref().unwrap().conditions.as_ref().unwrap();
    conditions
        .iter()
        .find(|condition| condition.type_ == "Progressing")
        .unwrap()
        .reason
        .clone()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_from_first_pod_to_rollback() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let (sight, nodes) = hollow::start(client).await;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
    let sets: Api<ReplicaSet> = Api::namespaced(client.clone(), "default");

    deployments.create(&PostParams::default(), &deployment("web", 4, "web:1")).await.unwrap();
    let first = rolled_out(client, "web").await;
    assert_eq!(first.annotations()["deployment.kubernetes.io/revision"], "1");
    assert_eq!(progressing(&first), "NewReplicaSetAvailable");
    assert_eq!(sight.created.load(Ordering::Relaxed), 4, "no pod was made twice");

    // A new image: one pod more at the most, none less at the least.
    sight.watch();
    patch(client, "web", image("web:2")).await;
    let second = rolled_out(client, "web").await;
    assert_eq!(second.annotations()["deployment.kubernetes.io/revision"], "2");
    assert_eq!(*sight.fewest.lock().unwrap(), Some(4));
    assert_eq!(*sight.most.lock().unwrap(), 5);
    assert_eq!(sight.created.load(Ordering::Relaxed), 8, "each pod was replaced once");

    // The template of before, as `kubectl rollout undo` sends it.
    patch(client, "web", image("web:1")).await;
    let third = rolled_out(client, "web").await;
    assert_eq!(third.annotations()["deployment.kubernetes.io/revision"], "3");
    let history: Vec<(String, i32)> = sets
        .list(&ListParams::default())
        .await
        .unwrap()
        .into_iter()
        .map(|set| {
            (
                set.annotations()["deployment.kubernetes.io/revision"].clone(),
                set.spec.unwrap().replicas.unwrap(),
            )
        })
        .collect();
    assert_eq!(history.len(), 2, "the old set came back: {history:?}");
    assert!(
        history.contains(&("3".into(), 4)) && history.contains(&("2".into(), 0)),
        "{history:?}"
    );

    patch(client, "web", json!({ "spec": { "replicas": 7 } })).await;
    rolled_out(client, "web").await;
    patch(client, "web", json!({ "spec": { "replicas": 2 } })).await;
    rolled_out(client, "web").await;

    let events: Api<Event> = Api::namespaced(client.clone(), "default");
    eventually("scaling events", || async {
        let messages: Vec<String> = events
            .list(&ListParams::default())
            .await
            .unwrap()
            .into_iter()
            .filter_map(|event| event.message)
            .collect();
        let has = |end: &str| {
            messages.iter().any(|message| message.starts_with("Scaled ") && message.ends_with(end))
        };
        (has("from 0 to 4") && has("from 4 to 7") && has("from 7 to 2")).then_some(())
    })
    .await;
    nodes.abort();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_that_cannot_succeed_leaves_the_old_pods_serving() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let (sight, nodes) = hollow::start(client).await;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
    let mut web = deployment("web", 3, "web:1");
    web.spec.as_mut().unwrap().progress_deadline_seconds = Some(2);
    deployments.create(&PostParams::default(), &web).await.unwrap();
    rolled_out(client, "web").await;

    sight.stalled.store(true, Ordering::Relaxed);
    sight.watch();
    patch(client, "web", image("web:broken")).await;
    let stalled = eventually("the deadline", || async {
        let web = deployments.get("web").await.unwrap();
        (progressing(&web) == "ProgressDeadlineExceeded").then_some(web)
    })
    .await;
    assert_eq!(stalled.status.unwrap().available_replicas, Some(3));
    assert_eq!(*sight.most.lock().unwrap(), 4);

    sight.stalled.store(false, Ordering::Relaxed);
    patch(client, "web", image("web:1")).await;
    let back = rolled_out(client, "web").await;
    assert_eq!(progressing(&back), "NewReplicaSetAvailable");
    nodes.abort();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_follow_the_pods() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let (_, nodes) = hollow::start(client).await;
    let service: Service = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web", "labels": { "team": "shop" } },
        "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": "http" }] },
    }))
    .unwrap();
    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    services.create(&PostParams::default(), &service).await.unwrap();
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
    deployments.create(&PostParams::default(), &deployment("web", 3, "web:1")).await.unwrap();
    rolled_out(client, "web").await;

    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "default");
    let of_web = ListParams::default().labels("kubernetes.io/service-name=web");
    let ready = |count: usize| {
        let (slices, of_web) = (slices.clone(), of_web.clone());
        async move {
            let slices = slices.list(&of_web).await.unwrap().items;
            let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
            let ready = endpoints
                .filter(|endpoint| endpoint.conditions.as_ref().unwrap().ready == Some(true))
                .count();
            let ported = slices
                .iter()
                .any(|slice| slice.ports.iter().flatten().any(|port| port.port == Some(8080)));
            (ready == count && (ported || count == 0)).then_some(slices.len())
        }
    };
    assert_eq!(eventually("three endpoints", || ready(3)).await, 1);
    let endpoints: Api<Endpoints> = Api::namespaced(client.clone(), "default");
    eventually("the same in Endpoints", || async {
        let endpoints = endpoints.get_opt("web").await.unwrap()?;
        let subsets = endpoints.subsets.unwrap_or_default();
        (subsets.first()?.addresses.as_ref()?.len() == 3).then_some(())
    })
    .await;

    // A pod that is going is out at once, before it has ended.
    nodes.abort();
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let victim = pods.list(&ListParams::default()).await.unwrap().items[0].name_any();
    pods.delete(&victim, &DeleteParams::default()).await.unwrap();
    eventually("two endpoints", || ready(2)).await;
    assert!(pods.get_opt(&victim).await.unwrap().is_some(), "it still runs");

    // The slices go with their service.
    services.delete("web", &DeleteParams::default()).await.unwrap();
    eventually("no slices", || async {
        slices.list(&of_web).await.unwrap().items.is_empty().then_some(())
    })
    .await;
    eventually("no Endpoints", || async {
        endpoints.get_opt("web").await.unwrap().is_none().then_some(())
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_settled_cluster_writes_nothing() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let (sight, nodes) = hollow::start(client).await;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
    deployments.create(&PostParams::default(), &deployment("web", 60, "web:1")).await.unwrap();
    rolled_out(client, "web").await;
    assert_eq!(sight.created.load(Ordering::Relaxed), 60, "no pod was made twice");
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "kube-public");
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-public");
    eventually("what every namespace has", || async {
        let found = (
            accounts.get_opt("default").await.unwrap(),
            maps.get_opt("kube-root-ca.crt").await.unwrap(),
        );
        matches!(found, (Some(_), Some(_))).then_some(())
    })
    .await;
    // Events are still being sent.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = cluster.store.revision();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(cluster.store.revision(), before);
    nodes.abort();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_runs_on_every_node_and_is_updated() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let (sight, nodes) = hollow::start(client).await;
    let set: DaemonSet = serde_json::from_value(json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": { "name": "log" },
        "spec": {
            "selector": { "matchLabels": { "app": "log" } },
            "template": {
                "metadata": { "labels": { "app": "log" } },
                "spec": { "containers": [{ "name": "main", "image": "log:1" }] },
            },
        },
    }))
    .unwrap();
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), "default");
    sets.create(&PostParams::default(), &set).await.unwrap();
    let settled = |updated: i64| {
        let sets = sets.clone();
        async move {
            let set = sets.get("log").await.unwrap();
            let status = set.status?;
            let counts = [status.updated_number_scheduled, status.number_available];
            let done = counts == [Some(2); 2] && status.observed_generation == Some(updated);
            done.then_some(())
        }
    };
    eventually("a pod on each node", || settled(1)).await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let mut on: Vec<String> = pods
        .list(&ListParams::default())
        .await
        .unwrap()
        .into_iter()
        .filter_map(|pod| pod.spec?.node_name)
        .collect();
    on.sort();
    assert_eq!(on, ["node-1", "node-2"]);

    sight.watch();
    let update = image("log:2");
    sets.patch("log", &PatchParams::default(), &Patch::Strategic(&update)).await.unwrap();
    eventually("the update", || settled(2)).await;
    assert_eq!(*sight.fewest.lock().unwrap(), Some(1), "one at a time");
    assert_eq!(sight.created.load(Ordering::Relaxed), 4, "each pod was replaced once");
    let revisions: Api<ControllerRevision> = Api::namespaced(client.clone(), "default");
    assert_eq!(revisions.list(&ListParams::default()).await.unwrap().items.len(), 2);
    nodes.abort();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_counts_each_pod_once() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let (sight, nodes) = hollow::start(client).await;
    sight.ending.store(true, Ordering::Relaxed);
    let job: Job = serde_json::from_value(json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "sum" },
        "spec": {
            "completions": 5, "parallelism": 2, "ttlSecondsAfterFinished": 3,
            "template": { "spec": { "restartPolicy": "Never", "containers": [{ "name": "main", "image": "sum:1" }] } },
        },
    }))
    .unwrap();
    let jobs: Api<Job> = Api::namespaced(client.clone(), "default");
    jobs.create(&PostParams::default(), &job).await.unwrap();
    let status = eventually("the job's end", || async {
        let status = jobs.get("sum").await.unwrap().status?;
        status.completion_time.is_some().then_some(status)
    })
    .await;
    assert_eq!((status.succeeded, status.failed, status.active), (Some(5), None, None));
    assert_eq!(sight.created.load(Ordering::Relaxed), 5);
    eventually("the finished job to go", || async {
        jobs.get_opt("sum").await.unwrap().is_none().then_some(())
    })
    .await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    eventually("its pods to go", || async {
        pods.list(&ListParams::default()).await.unwrap().items.is_empty().then_some(())
    })
    .await;
    nodes.abort();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_pods_do_not_outstay_their_job() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let (_, nodes) = hollow::start(client).await;
    let jobs: Api<Job> = Api::namespaced(client.clone(), "default");
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let running = async |name: &str| {
        let job: Job = serde_json::from_value(json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name },
            "spec": { "completions": 2, "parallelism": 2, "template": {
                "spec": { "restartPolicy": "Never", "containers": [{ "name": "main", "image": "sum:1" }] },
            }},
        }))
        .unwrap();
        jobs.create(&PostParams::default(), &job).await.unwrap();
        eventually("two running pods", || async {
            let status = jobs.get(name).await.unwrap().status?;
            (status.ready == Some(2)).then_some(())
        })
        .await;
    };
    let gone = async |name: &str| {
        eventually("the job to go", || async {
            jobs.get_opt(name).await.unwrap().is_none().then_some(())
        })
        .await;
    };

    running("cut-short").await;
    jobs.delete("cut-short", &DeleteParams::background()).await.unwrap();
    gone("cut-short").await;
    eventually("its pods to go", || async {
        pods.list(&ListParams::default()).await.unwrap().items.is_empty().then_some(())
    })
    .await;

    // Pods that stay must not stay for ever.
    running("let-go").await;
    jobs.delete("let-go", &DeleteParams::orphan()).await.unwrap();
    gone("let-go").await;
    let free = eventually("its pods to be free", || async {
        let left = pods.list(&ListParams::default()).await.unwrap().items;
        left.iter()
            .all(|pod| pod.finalizers().is_empty() && pod.owner_references().is_empty())
            .then_some(left)
    })
    .await;
    assert_eq!(free.len(), 2);
    nodes.abort();
    cluster.stop().await;
}
