//! Quotas: what is used stands in their status, and comes free again.

use k8s_openapi::api::core::v1::{ConfigMap, Pod, ResourceQuota};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::{Cluster, eventually};

async fn used(api: &Api<ResourceQuota>, expected: Value) {
    eventually(&format!("usage {expected}"), || async {
        let quota = serde_json::to_value(api.get("q").await.unwrap()).unwrap();
        let told = quota["status"]["hard"] == quota["spec"]["hard"];
        (told && quota["status"]["used"] == expected).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_of_a_quota_follows_what_is_there() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let quotas: Api<ResourceQuota> = Api::namespaced(client.clone(), "default");
    let quota: ResourceQuota = serde_json::from_value(json!({
        "metadata": { "name": "q" },
        "spec": { "hard": { "pods": "3", "requests.cpu": "1", "configmaps": "5", "count/leases.coordination.k8s.io": "1", "count/things.example.com": "1" } },
    }))
    .unwrap();
    quotas.create(&PostParams::default(), &quota).await.unwrap();
    // `kube-root-ca.crt` is there already or comes.
    let usage = |pods: &str, cpu: &str, maps: &str| json!({ "pods": pods, "requests.cpu": cpu, "configmaps": maps, "count/leases.coordination.k8s.io": "0" });
    used(&quotas, usage("0", "0", "1")).await;

    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    for name in ["a", "b"] {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": name },
            "spec": { "containers": [{ "name": "c", "image": "x", "resources": { "requests": { "cpu": "200m" } } }] },
        }))
        .unwrap();
        pods.create(&PostParams::default(), &pod).await.unwrap();
    }
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let map: ConfigMap = serde_json::from_value(json!({ "metadata": { "name": "m" } })).unwrap();
    maps.create(&PostParams::default(), &map).await.unwrap();
    used(&quotas, usage("2", "400m", "2")).await;

    let done = json!({ "status": { "phase": "Succeeded" } });
    pods.patch_status("a", &PatchParams::default(), &Patch::Merge(done)).await.unwrap();
    used(&quotas, usage("1", "200m", "2")).await;
    pods.delete("b", &DeleteParams::default().grace_period(0)).await.unwrap();
    maps.delete("m", &DeleteParams::default()).await.unwrap();
    used(&quotas, usage("0", "0", "1")).await;

    let less = json!({ "spec": { "hard": { "requests.cpu": null, "pods": "1" } } });
    quotas.patch("q", &PatchParams::default(), &Patch::Merge(less)).await.unwrap();
    let left = json!({ "pods": "0", "configmaps": "1", "count/leases.coordination.k8s.io": "0" });
    used(&quotas, left).await;
    cluster.stop().await;
}
