//! Pod collector: removes pods that nobody else will.
//!
//! Reads pods and Nodes. Deletes, without grace, pods of nodes that no longer
//! exist, pods on their way out that never got a node, pods on their way out
//! from a node that an administrator declared out of service, and the oldest
//! ended pods beyond a number. Marks the first kind as failed before.
//!
//! A node missing in the cache may be one that has just come, so the server is
//! asked before a pod dies for it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use skiff_client::Api;
use tracing::info;

use crate::context::Context;
use crate::error::{Doing, Error, ignore_not_found};
use crate::meta::{self, Key};
use crate::pods;
use crate::queue::Queue;
use crate::runner::{Controller, Next};

/// Taint by which an administrator says that a node will not come back.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// What a pass is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Task {
    /// One pod.
    Pod(Key),
    /// The number of ended pods.
    Ended,
}

/// The pod collector.
pub(crate) struct PodCollector {
    context: Context,
}

impl PodCollector {
    /// The controller and the queue that the caches feed.
    pub(crate) fn new(context: &Context) -> (Arc<Self>, Queue<Task>) {
        let queue = Queue::new();
        let (tx, caches) = (queue.clone(), Arc::clone(&context.caches));
        context.caches.pods.subscribe(move |old, new| {
            let Some(pod) = new else { return };
            if pods::is_terminal(pod) && old.is_none_or(|old| !pods::is_terminal(old)) {
                tx.add(Task::Ended);
            }
            let node = pods::node_name(pod);
            let lost = if node.is_empty() {
                meta::is_deleting(&pod.metadata)
            } else {
                caches.nodes.get(&Key::new("", node)).is_none_or(|node| is_out_of_service(&node))
            };
            if lost {
                tx.add(Task::Pod(Key::of(&pod.metadata)));
            }
        });
        let (tx, pods) = (queue.clone(), context.caches.pods.clone());
        context.caches.nodes.subscribe(move |old, new| {
            let Some(node) = new.or(old) else { return };
            if new.is_none_or(|node| is_out_of_service(node)) {
                for pod in pods.indexed(&pods::on_node(meta::name(&node.metadata))) {
                    tx.add(Task::Pod(Key::of(&pod.metadata)));
                }
            }
        });
        (Arc::new(Self { context: context.clone() }), queue)
    }

    /// Whether the pod's node does not exist, by the server's word.
    async fn node_is_gone(&self, node: &str) -> Result<bool, Error> {
        if self.context.caches.nodes.get(&Key::new("", node)).is_some() {
            return Ok(false);
        }
        let api: Api<Node> = Api::all(self.context.client.clone());
        let live = api.into_untyped().get_metadata(node).await;
        let live = ignore_not_found(live).doing(|| format!("get node {node}"))?;
        Ok(live.is_none())
    }

    async fn remove(&self, pod: &Pod, why: Why) -> Result<(), Error> {
        let key = Key::of(&pod.metadata);
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
        if why == Why::NodeGone && !pods::is_terminal(pod) {
            let condition = json!({
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "DeletionByPodGC",
                "message": "PodGC: node no longer exists",
                "lastTransitionTime": meta::time(meta::now()),
                "observedGeneration": pod.metadata.generation,
            });
            let patch = json!({
                "metadata": { "uid": pod.metadata.uid },
                "status": { "phase": "Failed", "conditions": [condition] },
            });
            let patched = api
                .patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(&patch))
                .await;
            ignore_not_found(patched).doing(|| format!("mark pod {key} as failed"))?;
        }
        let params = DeleteParams::default().grace_period(0);
        let params = params.preconditions(meta::identity(&pod.metadata));
        ignore_not_found(api.delete(&key.name, &params).await)
            .doing(|| format!("delete pod {key}"))?;
        info!(pod = %key, ?why, "removed");
        Ok(())
    }
}

impl Controller for PodCollector {
    type Key = Task;
    const NAME: &'static str = "pod-collector";

    async fn pass(&self, task: &Task) -> Result<Next, Error> {
        match task {
            Task::Pod(key) => {
                let Some(pod) = self.context.caches.pods.get(key) else {
                    return Ok(Next::OnChange);
                };
                let name = pods::node_name(&pod);
                let gone = !name.is_empty() && self.node_is_gone(name).await?;
                let node = self.context.caches.nodes.get(&Key::new("", name));
                if let Some(why) = plan_removal(&pod, node.as_deref(), gone) {
                    self.remove(&pod, why).await?;
                }
            }
            Task::Ended => {
                let surplus = plan_surplus(
                    self.context.caches.pods.all(),
                    self.context.config.terminated_pods_kept,
                );
                for pod in surplus {
                    self.remove(&pod, Why::TooMany).await?;
                }
            }
        }
        Ok(Next::OnChange)
    }
}

/// Why a pod is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    NodeGone,
    NeverScheduled,
    OutOfService,
    TooMany,
}

fn is_out_of_service(node: &Node) -> bool {
    let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.any(|taint| taint.key == OUT_OF_SERVICE)
}

/// Whether nobody but this collector will remove the pod.
fn plan_removal(pod: &Pod, node: Option<&Node>, node_gone: bool) -> Option<Why> {
    let deleting = meta::is_deleting(&pod.metadata);
    if node_gone {
        return Some(Why::NodeGone);
    }
    if deleting && pods::node_name(pod).is_empty() {
        return Some(Why::NeverScheduled);
    }
    (deleting && node.is_some_and(is_out_of_service)).then_some(Why::OutOfService)
}

/// The oldest ended pods beyond `kept`.
fn plan_surplus(pods: Vec<Arc<Pod>>, kept: usize) -> Vec<Arc<Pod>> {
    let mut ended: Vec<Arc<Pod>> = pods
        .into_iter()
        .filter(|pod| pods::is_terminal(pod) && !meta::is_deleting(&pod.metadata))
        .collect();
    let surplus = ended.len().saturating_sub(kept);
    ended.sort_by_key(|pod| pod.metadata.creation_timestamp.clone());
    ended.truncate(surplus);
    ended
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::api::core::v1::{NodeSpec, Taint};

    use super::*;
    use crate::testing;

    fn going(mut pod: Pod) -> Pod {
        pod.metadata.deletion_timestamp = Some(meta::time(meta::now()));
        pod
    }

    #[test]
    fn only_lost_pods_are_removed() {
        let running = || testing::ready_pod("a", Timestamp::UNIX_EPOCH);
        let healthy = Node { metadata: testing::meta("node-1"), ..Node::default() };
        let taint =
            Taint { key: OUT_OF_SERVICE.into(), effect: "NoExecute".into(), ..Taint::default() };
        let retired = Node {
            spec: Some(NodeSpec { taints: Some(vec![taint]), ..NodeSpec::default() }),
            ..healthy.clone()
        };
        let cases = [
            ("running", running(), Some(&healthy), false, None),
            ("going", going(running()), Some(&healthy), false, None),
            ("node gone", running(), None, true, Some(Why::NodeGone)),
            ("waiting for a node", testing::pod("a"), None, false, None),
            (
                "going without a node",
                going(testing::pod("a")),
                None,
                false,
                Some(Why::NeverScheduled),
            ),
            ("running out of service", running(), Some(&retired), false, None),
            (
                "going out of service",
                going(running()),
                Some(&retired),
                false,
                Some(Why::OutOfService),
            ),
        ];
        for (name, pod, node, gone, expected) in cases {
            assert_eq!(plan_removal(&pod, node, gone), expected, "{name}");
        }
    }

    #[test]
    fn the_oldest_ended_pods_go() {
        let ended = |name: &str, second| {
            let mut pod = testing::pod(name);
            pod.status.as_mut().unwrap().phase = Some("Succeeded".into());
            pod.metadata.creation_timestamp =
                Some(meta::time(Timestamp::from_second(second).unwrap()));
            Arc::new(pod)
        };
        let pods = vec![
            ended("new", 30),
            ended("old", 10),
            Arc::new(testing::pod("live")),
            ended("middle", 20),
        ];
        let surplus = plan_surplus(pods, 1);
        let names: Vec<&str> = surplus.iter().map(|pod| meta::name(&pod.metadata)).collect();
        assert_eq!(names, ["old", "middle"]);
    }
}
