//! The part of the Nodes that routing looks at.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Node;
use kube::runtime::watcher::Event;

use super::routes::{Peer, internal_ip};

/// One Node, reduced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    /// Set once it has a podCIDR and an address.
    peer: Option<Peer>,
    address: Option<Ipv4Addr>,
}

/// All Nodes, kept up to date by a watch.
#[derive(Debug, Default)]
pub(super) struct NodeView {
    nodes: BTreeMap<String, Seen>,
    /// Nodes listed so far by a watch that starts over.
    relisted: Option<BTreeMap<String, Seen>>,
}

impl NodeView {
    /// Takes an event in. True when routes may have to change: heartbeats in
    /// a Node's status, the most frequent event by far, are not such a change.
    pub(super) fn observe(&mut self, event: Event<Node>) -> bool {
        let entry = |node: &Node| {
            let name = node.metadata.name.clone().unwrap_or_default();
            (name, Seen { peer: Peer::of(node), address: internal_ip(node) })
        };
        match event {
            Event::Init => {
                self.relisted = Some(BTreeMap::new());
                false
            }
            Event::InitApply(node) => {
                self.relisted.get_or_insert_default().extend([entry(&node)]);
                false
            }
            Event::InitDone => {
                self.nodes = self.relisted.take().unwrap_or_default();
                true
            }
            Event::Apply(node) => {
                let (name, seen) = entry(&node);
                self.nodes.insert(name, seen) != Some(seen)
            }
            Event::Delete(node) => self.nodes.remove(&entry(&node).0).is_some(),
        }
    }

    /// The nodes that can be routed to.
    pub(super) fn peers(&self) -> BTreeSet<Peer> {
        self.nodes.values().filter_map(|seen| seen.peer).collect()
    }

    /// The addresses of all nodes.
    pub(super) fn addresses(&self) -> BTreeSet<Ipv4Addr> {
        self.nodes.values().filter_map(|seen| seen.address).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, pod_cidr: Option<&str>, heartbeat: u32) -> Node {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": name, "resourceVersion": heartbeat.to_string()},
            "spec": {"podCIDR": pod_cidr},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
        }))
        .unwrap()
    }

    #[test]
    fn only_addresses_and_networks_count() {
        let mut view = NodeView::default();
        let cidr = Some("10.244.1.0/24");
        // Event, whether routes may change, peers afterwards.
        let cases = [
            ("starts", Event::Init, false, 0),
            ("lists one", Event::InitApply(node("a", cidr, 1)), false, 0),
            ("ends the list", Event::InitDone, true, 1),
            ("heartbeat", Event::Apply(node("a", cidr, 2)), false, 1),
            ("joins", Event::Apply(node("b", None, 3)), true, 1),
            ("is given its network", Event::Apply(node("b", Some("10.244.2.0/24"), 4)), true, 2),
            ("leaves", Event::Delete(node("a", cidr, 5)), true, 1),
            ("is unknown", Event::Delete(node("c", cidr, 6)), false, 1),
            ("starts over", Event::Init, false, 1),
            ("with nobody left", Event::InitDone, true, 0),
        ];
        for (name, event, changed, peers) in cases {
            assert_eq!((view.observe(event), view.peers().len()), (changed, peers), "{name}");
        }
    }
}
