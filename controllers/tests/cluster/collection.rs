//! What goes with what: owners, dependents, namespaces.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::workloads::deployment;
use crate::{Cluster, eventually, hollow};

async fn settled(client: &Client, namespace: &str, pods: usize) {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    eventually("pods", || async {
        (api.list(&ListParams::default()).await.unwrap().items.len() == pods).then_some(())
    })
    .await;
}

async fn sets(client: &Client) -> Vec<ReplicaSet> {
    let api: Api<ReplicaSet> = Api::namespaced(client.clone(), "default");
    api.list(&ListParams::default()).await.unwrap().items
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dependents_go_with_their_owner() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let (_, nodes) = hollow::start(client).await;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
    for (name, params) in
        [("back", DeleteParams::background()), ("fore", DeleteParams::foreground())]
    {
        deployments.create(&PostParams::default(), &deployment(name, 2, "web:1")).await.unwrap();
        settled(client, "default", 2).await;
        deployments.delete(name, &params).await.unwrap();
        eventually(name, || async {
            let gone =
                deployments.get_opt(name).await.unwrap().is_none() && sets(client).await.is_empty();
            gone.then_some(())
        })
        .await;
        settled(client, "default", 0).await;
    }
    nodes.abort();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_stay_and_are_adopted() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let (_, nodes) = hollow::start(client).await;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
    deployments.create(&PostParams::default(), &deployment("web", 2, "web:1")).await.unwrap();
    settled(client, "default", 2).await;
    deployments.delete("web", &DeleteParams::orphan()).await.unwrap();
    eventually("the orphaned set", || async {
        let gone = deployments.get_opt("web").await.unwrap().is_none();
        let sets = sets(client).await;
        (gone && sets.len() == 1 && sets[0].owner_references().is_empty()).then_some(())
    })
    .await;
    settled(client, "default", 2).await;

    let adopter =
        deployments.create(&PostParams::default(), &deployment("web", 2, "web:1")).await.unwrap();
    eventually("adoption", || async {
        let sets = sets(client).await;
        let adopted = sets.len() == 1
            && sets[0]
                .owner_references()
                .iter()
                .any(|owner| Some(&owner.uid) == adopter.metadata.uid.as_ref());
        adopted.then_some(())
    })
    .await;
    settled(client, "default", 2).await;
    nodes.abort();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reference_to_a_lost_owner_is_removed_or_ends_the_object() {
    let cluster = Cluster::start().await;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "default");
    let create = |name: &'static str, owners: serde_json::Value| {
        let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "ownerReferences": owners } });
        let (maps, map) = (maps.clone(), serde_json::from_value::<ConfigMap>(map).unwrap());
        async move { maps.create(&PostParams::default(), &map).await.unwrap() }
    };
    let owner = create("owner", json!([])).await;
    let real = json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.metadata.uid });
    let lost = json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": "00000000-0000-0000-0000-000000000000" });
    create("both", json!([real, lost])).await;
    create("only-lost", json!([lost])).await;
    eventually("the object without an owner to go", || async {
        maps.get_opt("only-lost").await.unwrap().is_none().then_some(())
    })
    .await;
    eventually("the useless reference to go", || async {
        (maps.get("both").await.unwrap().owner_references().len() == 1).then_some(())
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_goes_when_it_is_empty() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let (_, nodes) = hollow::start(client).await;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let shop: Namespace = serde_json::from_value(
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" } }),
    )
    .unwrap();
    namespaces.create(&PostParams::default(), &shop).await.unwrap();
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "shop");
    deployments.create(&PostParams::default(), &deployment("web", 3, "web:1")).await.unwrap();
    settled(client, "shop", 3).await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "shop");
    let held: ConfigMap = serde_json::from_value(json!({ "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "held", "finalizers": ["example.com/hold"] } }))
    .unwrap();
    maps.create(&PostParams::default(), &held).await.unwrap();

    namespaces.delete("shop", &DeleteParams::default()).await.unwrap();
    eventually("the condition that names the finalizer", || async {
        let shop = namespaces.get("shop").await.unwrap();
        let conditions = shop.status.and_then(|status| status.conditions).unwrap_or_default();
        let remaining = conditions
            .iter()
            .find(|condition| condition.type_ == "NamespaceFinalizersRemaining")?;
        remaining
            .message
            .as_ref()?
            .contains("example.com/hold in 1 resource instances")
            .then_some(())
    })
    .await;
    assert!(deployments.list(&ListParams::default()).await.unwrap().items.is_empty());
    let patch = json!({ "metadata": { "finalizers": null } });
    maps.patch("held", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    eventually("the namespace to go", || async {
        namespaces.get_opt("shop").await.unwrap().is_none().then_some(())
    })
    .await;
    nodes.abort();
    cluster.stop().await;
}
