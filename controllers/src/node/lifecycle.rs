//! Node lifecycle: notices nodes that fell silent, and marks them and their
//! pods.
//!
//! Reads Nodes, their leases in `kube-node-lease` and pods. Writes the
//! conditions of silent nodes, the taints that follow from conditions, and
//! `Ready=False` on the pods of nodes that are not ready, so that services
//! stop sending to them.
//!
//! A sign of life is any change of the lease's or the status's heartbeat. What
//! counts is when it was seen here, not what time the node wrote: clocks
//! differ. Per node one timer waits for the end of the grace period; nothing
//! polls.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use skiff_client::Api;
use tokio::time::Instant;

use super::health::{Readiness, plan_silence, plan_taints, readiness};
use crate::context::Context;
use crate::error::{Doing, Error, ignore_not_found};
use crate::events::Severity::{Normal, Warning};
use crate::meta::{self, Key};
use crate::pods;
use crate::queue::Queue;
use crate::runner::{Controller, Next};

const COMPONENT: &str = "node-controller";
/// Where nodes keep their leases.
const LEASES: &str = "kube-node-lease";

/// The node lifecycle controller.
pub(crate) struct NodeLifecycle {
    context: Context,
    signs: Arc<Mutex<HashMap<String, Sign>>>,
}

/// The last sign of life of a node.
#[derive(Debug, Clone, PartialEq)]
struct Sign {
    lease: Option<Timestamp>,
    heartbeat: Option<Timestamp>,
    seen: Instant,
}

impl NodeLifecycle {
    /// The controller and the queue of node names that the caches feed.
    pub(crate) fn new(context: &Context) -> (Arc<Self>, Queue<String>) {
        let queue = Queue::new();
        let signs: Arc<Mutex<HashMap<String, Sign>>> = Arc::default();
        let tx = queue.clone();
        let known = Arc::clone(&signs);
        context.caches.nodes.subscribe(move |old, new| {
            let Some(node) = new.or(old) else { return };
            let name = meta::name(&node.metadata).to_owned();
            match new {
                Some(node) => note_sign(&known, &name, |sign| sign.heartbeat = heartbeat(node)),
                None => drop(lock(&known).remove(&name)),
            }
            tx.add(name);
        });
        let (known, tx) = (Arc::clone(&signs), queue.clone());
        context.caches.leases.subscribe(move |old, new| {
            let Some(lease) = new.filter(|lease| meta::namespace(&lease.metadata) == LEASES) else {
                return;
            };
            let name = meta::name(&lease.metadata);
            note_sign(&known, name, |sign| sign.lease = renewed(lease));
            // The first lease starts the clock; later ones only move it.
            if old.is_none() {
                tx.add(name.to_owned());
            }
        });
        // A pod that becomes ready on a node that is not is a late report.
        let (tx, nodes) = (queue.clone(), context.caches.nodes.clone());
        context.caches.pods.subscribe(move |_, new| {
            if let Some(pod) = new.filter(|pod| pods::is_ready(pod))
                && let Some(node) = nodes.get(&Key::new("", pods::node_name(pod)))
                && readiness(&node) != Readiness::Ready
            {
                tx.add(pods::node_name(pod).to_owned());
            }
        });
        (Arc::new(Self { context: context.clone(), signs }), queue)
    }

    /// How much longer the node may be silent; `None` when it was too long.
    fn patience(&self, name: &str) -> Option<Duration> {
        let grace = self.context.config.node_monitor_grace;
        // A node seen for the first time gets the full grace: this controller
        // may have started just now.
        let seen = lock(&self.signs).get(name).map_or_else(Instant::now, |sign| sign.seen);
        grace.checked_sub(seen.elapsed()).filter(|left| !left.is_zero())
    }

    async fn mark_silent(&self, name: &str, node: &Node) -> Result<(), Error> {
        let conditions = plan_silence(node, meta::now());
        if conditions.is_empty() {
            return Ok(());
        }
        if conditions.iter().any(|condition| condition.type_ == "Ready") {
            let message = format!("Node {name} status is now: NodeNotReady");
            let regarding = meta::object_reference(node);
            self.context.events.record(COMPONENT, &regarding, Normal, "NodeNotReady", message);
        }
        // Conditions merge by type, so others' conditions stay.
        let patch = json!({ "status": { "conditions": conditions } });
        let api: Api<Node> = Api::all(self.context.client.clone());
        let patched =
            api.patch_status(name, &PatchParams::default(), &Patch::Strategic(&patch)).await;
        ignore_not_found(patched).map(drop).doing(|| format!("mark node {name} as silent"))
    }

    async fn write_taints(&self, name: &str, node: &Node) -> Result<(), Error> {
        let Some(taints) = plan_taints(node, meta::now()) else { return Ok(()) };
        // The revision guards taints that others write at the same time.
        let patch = json!({
            "metadata": { "resourceVersion": node.metadata.resource_version },
            "spec": { "taints": taints },
        });
        let api: Api<Node> = Api::all(self.context.client.clone());
        let patched = api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        ignore_not_found(patched).map(drop).doing(|| format!("set taints of node {name}"))
    }

    /// Marks the ready pods of the node as not ready.
    async fn mark_pods(&self, node: &str) -> Result<(), Error> {
        let on_node = self.context.caches.pods.indexed(&pods::on_node(node));
        let ready = on_node.iter().filter(|pod| pods::is_ready(pod));
        let marks = ready.map(|pod| self.mark_pod(pod));
        join_all(marks).await.into_iter().collect()
    }

    async fn mark_pod(&self, pod: &Pod) -> Result<(), Error> {
        let (namespace, name) = (meta::namespace(&pod.metadata), meta::name(&pod.metadata));
        let condition = json!({
            "type": "Ready",
            "status": "False",
            "lastTransitionTime": meta::time(meta::now()),
        });
        let patch = json!({ "metadata": { "uid": pod.metadata.uid }, "status": { "conditions": [condition] } });
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), namespace);
        let patched =
            api.patch_status(name, &PatchParams::default(), &Patch::Strategic(&patch)).await;
        if ignore_not_found(patched)
            .doing(|| format!("mark pod {namespace}/{name} as not ready"))?
            .is_some()
        {
            let regarding = meta::object_reference(pod);
            let message = "Node is not ready".to_owned();
            self.context.events.record(COMPONENT, &regarding, Warning, "NodeNotReady", message);
        }
        Ok(())
    }
}

impl Controller for NodeLifecycle {
    type Key = String;
    const NAME: &'static str = "node-lifecycle";

    async fn pass(&self, name: &String) -> Result<Next, Error> {
        let Some(node) = self.context.caches.nodes.get(&Key::new("", name)) else {
            return Ok(Next::OnChange);
        };
        let patience = self.patience(name);
        if patience.is_none() && readiness(&node) != Readiness::Unknown {
            // Its own event brings the next pass, which sets the taints.
            self.mark_silent(name, &node).await?;
            return Ok(Next::OnChange);
        }
        self.write_taints(name, &node).await?;
        if readiness(&node) != Readiness::Ready {
            self.mark_pods(name).await?;
        }
        Ok(patience.into())
    }
}

/// Updates the node's sign of life; a value that changed was seen now.
fn note_sign(signs: &Mutex<HashMap<String, Sign>>, name: &str, note: impl FnOnce(&mut Sign)) {
    let mut signs = lock(signs);
    let now = Instant::now();
    let sign = signs.entry(name.to_owned()).or_insert_with(|| Sign {
        lease: None,
        heartbeat: None,
        seen: now,
    });
    let before = sign.clone();
    note(sign);
    if *sign != before {
        sign.seen = now;
    }
}

fn lock(signs: &Mutex<HashMap<String, Sign>>) -> MutexGuard<'_, HashMap<String, Sign>> {
    signs.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The newest heartbeat of a node that speaks for itself. `Unknown` is our own
/// word and no sign of life.
fn heartbeat(node: &Node) -> Option<Timestamp> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let own = conditions.iter().filter(|condition| condition.status != "Unknown");
    own.filter_map(|condition| condition.last_heartbeat_time.as_ref()).map(|time| time.0).max()
}

fn renewed(lease: &Lease) -> Option<Timestamp> {
    lease.spec.as_ref()?.renew_time.as_ref().map(|time| time.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_change_is_a_sign_of_life() {
        let signs = Mutex::default();
        let at = |second| Some(Timestamp::from_second(second).unwrap());
        note_sign(&signs, "node-1", |sign| sign.lease = at(1));
        let first = lock(&signs)["node-1"].seen;
        tokio::time::advance(Duration::from_secs(10)).await;
        note_sign(&signs, "node-1", |sign| sign.lease = at(1));
        assert_eq!(lock(&signs)["node-1"].seen, first, "the same lease listed again");
        note_sign(&signs, "node-1", |sign| sign.lease = at(2));
        assert_eq!(lock(&signs)["node-1"].seen, first + Duration::from_secs(10));
    }
}
