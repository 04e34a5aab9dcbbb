//! Node addresses: gives each node its own part of the cluster's pod network.
//!
//! Reads and writes `spec.podCIDR` and `spec.podCIDRs` of Nodes, nothing else.
//!
//! The parts in use are those that Nodes carry; there is no second book that
//! could disagree. One queue key stands for all nodes, so two nodes are never
//! served at once, and a part just given is remembered until the cache shows
//! it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use skiff_client::Api;
use tracing::info;

use crate::context::Context;
use crate::error::{Doing, Error, ignore_not_found};
use crate::events::Severity::Warning;
use crate::meta;
use crate::queue::Queue;
use crate::runner::{Controller, Next};

/// The node address controller.
pub(crate) struct NodeAddresses {
    context: Context,
    cluster: Ipv4Net,
    /// Parts given to nodes whose cached state does not show it yet.
    given: Mutex<BTreeMap<String, Ipv4Net>>,
}

impl NodeAddresses {
    /// The controller and its queue, which knows one key only.
    pub(crate) fn new(context: &Context, cluster: Ipv4Net) -> (Arc<Self>, Queue<()>) {
        let queue = Queue::new();
        let tx = queue.clone();
        context.caches.nodes.subscribe(move |old, new| {
            let wants = new.is_some_and(|node| block_of(node).is_none());
            // A part that became free may be what another node waits for.
            if wants || new.is_none() && old.is_some() {
                tx.add(());
            }
        });
        (Arc::new(Self { context: context.clone(), cluster, given: Mutex::default() }), queue)
    }
}

impl Controller for NodeAddresses {
    type Key = ();
    const NAME: &'static str = "node-addresses";

    async fn pass(&self, (): &()) -> Result<Next, Error> {
        let nodes = self.context.caches.nodes.all();
        let given = {
            let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
            given.retain(|name, _| {
                nodes
                    .iter()
                    .any(|node| meta::name(&node.metadata) == name && block_of(node).is_none())
            });
            given.clone()
        };
        let api: Api<Node> = Api::all(self.context.client.clone());
        for (name, block) in
            plan_blocks(self.cluster, self.context.config.node_cidr_mask, &nodes, &given)
        {
            let Some(block) = block else {
                let message = format!("Node {name} status is now: CIDRNotAvailable");
                if let Some(node) = nodes.iter().find(|node| meta::name(&node.metadata) == name) {
                    let regarding = meta::object_reference(&**node);
                    self.context.events.record(
                        "cidrAllocator",
                        &regarding,
                        Warning,
                        "CIDRNotAvailable",
                        message,
                    );
                }
                continue;
            };
            self.given.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), block);
            let patch = json!({ "spec": { "podCIDR": block.to_string(), "podCIDRs": [block.to_string()] } });
            let patched = api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await;
            ignore_not_found(patched).doing(|| format!("give {block} to node {name}"))?;
            info!(node = name, %block, "pod addresses given");
        }
        Ok(Next::OnChange)
    }
}

fn block_of(node: &Node) -> Option<Ipv4Net> {
    node.spec.as_ref()?.pod_cidr.as_ref()?.parse().ok()
}

/// A part of `cluster` for each node without one, the lowest free first;
/// `None` for nodes for which none is left. Nodes are served in the order they
/// came.
fn plan_blocks(
    cluster: Ipv4Net,
    prefix: u8,
    nodes: &[Arc<Node>],
    given: &BTreeMap<String, Ipv4Net>,
) -> Vec<(String, Option<Ipv4Net>)> {
    let mut used: Vec<Ipv4Net> = nodes.iter().filter_map(|node| block_of(node)).collect();
    used.extend(given.values());
    used.sort();
    let mut wanting: Vec<&Arc<Node>> = nodes
        .iter()
        .filter(|node| block_of(node).is_none() && !meta::is_deleting(&node.metadata))
        .filter(|node| !given.contains_key(meta::name(&node.metadata)))
        .collect();
    wanting.sort_by_key(|node| node.metadata.creation_timestamp.clone());
    // A prefix too short for the cluster's block leaves no part at all.
    let parts = cluster.subnets(prefix).into_iter().flatten();
    let mut free =
        parts.filter(|part| !used.iter().any(|used| used.contains(part) || part.contains(used)));
    wanting.into_iter().map(|node| (meta::name(&node.metadata).to_owned(), free.next())).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::NodeSpec;

    use super::*;
    use crate::testing;

    fn node(name: &str, block: Option<&str>) -> Arc<Node> {
        Arc::new(Node {
            metadata: testing::meta(name),
            spec: Some(NodeSpec { pod_cidr: block.map(str::to_owned), ..NodeSpec::default() }),
            status: None,
        })
    }

    #[test]
    fn every_node_gets_its_own_block() {
        let none = BTreeMap::new();
        let given: BTreeMap<String, Ipv4Net> =
            [("b".to_owned(), "10.244.0.0/24".parse().unwrap())].into();
        let cases = [
            (
                "first",
                "10.244.0.0/16",
                vec![node("a", None)],
                &none,
                vec![("a", Some("10.244.0.0/24"))],
            ),
            (
                "the gap first",
                "10.244.0.0/16",
                vec![
                    node("a", Some("10.244.0.0/24")),
                    node("b", Some("10.244.2.0/24")),
                    node("c", None),
                    node("d", None),
                ],
                &none,
                vec![("c", Some("10.244.1.0/24")), ("d", Some("10.244.3.0/24"))],
            ),
            (
                "a larger block of another time is not cut",
                "10.244.0.0/16",
                vec![node("a", Some("10.244.0.0/23")), node("b", None)],
                &none,
                vec![("b", Some("10.244.2.0/24"))],
            ),
            (
                "given and not seen yet",
                "10.244.0.0/16",
                vec![node("a", None), node("b", None)],
                &given,
                vec![("a", Some("10.244.1.0/24"))],
            ),
            (
                "none left",
                "10.244.0.0/24",
                vec![node("a", Some("10.244.0.0/24")), node("b", None)],
                &none,
                vec![("b", None)],
            ),
        ];
        for (name, cluster, nodes, given, expected) in cases {
            let plan = plan_blocks(cluster.parse().unwrap(), 24, &nodes, given);
            let seen: Vec<(String, Option<String>)> = plan
                .into_iter()
                .map(|(node, block)| (node, block.map(|block| block.to_string())))
                .collect();
            let expected: Vec<(String, Option<String>)> = expected
                .into_iter()
                .map(|(node, block)| (node.to_owned(), block.map(str::to_owned)))
                .collect();
            assert_eq!(seen, expected, "{name}");
        }
    }
}
