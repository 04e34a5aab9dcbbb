//! Hollow nodes: they take the pods, say that they run, and let them go.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::task::JoinHandle;

/// What the hollow nodes saw.
#[derive(Default)]
pub(crate) struct Sight {
    /// Pods ever created.
    pub(crate) created: AtomicUsize,
    /// Ready pods that were not on their way out, at the least, since `watch`.
    pub(crate) fewest: Mutex<Option<usize>>,
    /// Live pods, at the most, since `watch`.
    pub(crate) most: Mutex<usize>,
    /// Whether new pods are left pending.
    pub(crate) stalled: AtomicBool,
    /// Whether pods end as soon as they run.
    pub(crate) ending: AtomicBool,
}

impl Sight {
    /// Begins to count anew.
    pub(crate) fn watch(&self) {
        *self.fewest.lock().unwrap() = None;
        *self.most.lock().unwrap() = 0;
    }
}

/// Starts two nodes. Pods go to the first that is ready.
pub(crate) async fn start(client: &Client) -> (Arc<Sight>, JoinHandle<()>) {
    for name in ["node-1", "node-2"] {
        join(client, name).await;
    }
    let sight = Arc::new(Sight::default());
    let task = tokio::spawn(run(client.clone(), Arc::clone(&sight)));
    (sight, task)
}

/// Registers a node that says it is ready.
pub(crate) async fn join(client: &Client, name: &str) {
    let api: Api<Node> = Api::all(client.clone());
    let node: Node = serde_json::from_value(
        json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name } }),
    )
    .unwrap();
    api.create(&PostParams::default(), &node).await.unwrap();
    beat(client, name).await;
}

/// Reports a node as ready.
pub(crate) async fn beat(client: &Client, name: &str) {
    let api: Api<Node> = Api::all(client.clone());
    let now = jiff::Timestamp::now();
    let ready = json!({ "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "hollow",
        "lastHeartbeatTime": now, "lastTransitionTime": now });
    let patch = json!({ "status": { "conditions": [ready] } });
    api.patch_status(name, &PatchParams::default(), &Patch::Strategic(&patch)).await.unwrap();
}

async fn run(client: Client, sight: Arc<Sight>) {
    let events = watcher(Api::<Pod>::all(client.clone()), watcher::Config::default());
    pin_mut!(events);
    let mut live: HashSet<String> = HashSet::new();
    let mut ready: HashSet<String> = HashSet::new();
    let mut seen: HashSet<String> = HashSet::new();
    let address = AtomicU8::new(1);
    while let Some(event) = events.next().await {
        match event.unwrap() {
            Event::Apply(pod) | Event::InitApply(pod) => {
                let uid = pod.uid().unwrap();
                if seen.insert(uid.clone()) {
                    sight.created.fetch_add(1, Ordering::Relaxed);
                }
                let going = pod.metadata.deletion_timestamp.is_some();
                let is_ready =
                    conditions(&pod).any(|(type_, status)| type_ == "Ready" && status == "True");
                if going {
                    live.remove(&uid)
                } else {
                    live.insert(uid.clone())
                };
                if is_ready && !going {
                    ready.insert(uid)
                } else {
                    ready.remove(&uid)
                };
                count(&sight, live.len(), ready.len());
                act(&client, &sight, &pod, &address).await;
            }
            Event::Delete(pod) => {
                let uid = pod.uid().unwrap();
                live.remove(&uid);
                ready.remove(&uid);
                count(&sight, live.len(), ready.len());
            }
            Event::Init | Event::InitDone => {}
        }
    }
}

fn count(sight: &Sight, live: usize, ready: usize) {
    let mut fewest = sight.fewest.lock().unwrap();
    *fewest = Some(fewest.map_or(ready, |known| known.min(ready)));
    let mut most = sight.most.lock().unwrap();
    *most = live.max(*most);
}

fn conditions(pod: &Pod) -> impl Iterator<Item = (&str, &str)> {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.map(|condition| (condition.type_.as_str(), condition.status.as_str()))
}

async fn act(client: &Client, sight: &Sight, pod: &Pod, address: &AtomicU8) {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap());
    let name = pod.name_any();
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    if pod.metadata.deletion_timestamp.is_some() {
        if !node.is_empty() && is_ready(client, &node).await {
            // Somebody may have been faster.
            let _ = api.delete(&name, &DeleteParams::default().grace_period(0)).await;
        }
        return;
    }
    if sight.stalled.load(Ordering::Relaxed) {
        return;
    }
    if node.is_empty() {
        let pinned = pinned_to(pod);
        let Some(node) = (if pinned.is_some() { pinned } else { first_ready(client).await }) else {
            return;
        };
        let binding = json!({ "apiVersion": "v1", "kind": "Binding", "metadata": { "name": name },
            "target": { "apiVersion": "v1", "kind": "Node", "name": node } });
        let _: Result<serde_json::Value, _> =
            api.create_subresource("binding", &name, &PostParams::default(), &binding).await;
        return;
    }
    if !is_ready(client, &node).await
        || conditions(pod).any(|(type_, status)| type_ == "Ready" && status == "True")
    {
        return;
    }
    let ip = format!("10.244.0.{}", address.fetch_add(1, Ordering::Relaxed));
    let now = jiff::Timestamp::now();
    if sight.ending.load(Ordering::Relaxed) {
        let patch = json!({ "status": { "phase": "Succeeded" } });
        let _ = api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(&patch)).await;
        return;
    }
    let patch = json!({ "status": { "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }], "conditions": [
        { "type": "Ready", "status": "True", "lastTransitionTime": now },
    ]}});
    let _ = api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(&patch)).await;
}

async fn is_ready(client: &Client, node: &str) -> bool {
    let api: Api<Node> = Api::all(client.clone());
    let node = api.get_opt(node).await.unwrap();
    node.is_some_and(|node| {
        let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    })
}

async fn first_ready(client: &Client) -> Option<String> {
    for name in ["node-1", "node-2"] {
        if is_ready(client, name).await {
            return Some(name.to_owned());
        }
    }
    None
}

/// The node that a daemon's pod asks for.
fn pinned_to(pod: &Pod) -> Option<String> {
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    required
        .node_selector_terms
        .first()?
        .match_fields
        .as_ref()?
        .first()?
        .values
        .as_ref()?
        .first()
        .cloned()
}
