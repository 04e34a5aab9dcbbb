//! What one Service adds to the ruleset.
//!
//! A Service's port has frontends (cluster IPs, external addresses, a node
//! port), and all of them offer the same list of endpoints. The list is
//! ordered so that every policy's choice is a span of it: endpoints on this
//! node come first, so `Local` is a shorter span of the same list.
//!
//! **Which endpoints.** The ready ones. When none is ready, those that
//! terminate but still serve: better an endpoint on its way out than none.
//! Removing an endpoint from the list leaves its established connections
//! alone; the kernel remembers each connection's translation by itself.
//!
//! **Session affinity** needs a set of clients per endpoint, so such a port
//! gets chains of its own:
//!
//! ```text
//! set clients-HASH-10800-10.244.1.5-8080 { type ipv4_addr; flags timeout; timeout 3h; }
//! chain sticky-HASH {
//!     ip saddr @clients-HASH-10800-10.244.1.5-8080 goto sticky-HASH-10.244.1.5-8080
//!     …
//!     numgen random mod 3 vmap { 0 : goto sticky-HASH-10.244.1.5-8080, … }
//! }
//! chain sticky-HASH-10.244.1.5-8080 {
//!     update @clients-HASH-10800-10.244.1.5-8080 { ip saddr }
//!     meta l4proto { tcp, udp, sctp } dnat to 10.244.1.5:8080
//! }
//! ```

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use ipnet::Ipv4Net;
use serde_json::json;

use super::expr::{dnat, fib, goto, has_ports, ip, mark, matches, prefix, random};
use super::shared::{Span, Target};
use super::{Chain, Element, Fragment, Key, MapName, Rule, SetType, Value};
use crate::view::{Entry, ObjectName, Protocol, Service, ServicePort};

/// What the plan for a Service depends on besides the Service.
#[derive(Debug, Clone)]
pub struct NodeContext {
    /// This node's name.
    pub node_name: String,
    /// The network all pods live in.
    pub cluster_cidr: Ipv4Net,
    /// The DNS address; its port 53 is served by the node itself.
    pub cluster_dns: Ipv4Addr,
}

/// The endpoints of one port, in the order of their numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// All endpoints that some frontend may use.
    pub endpoints: Vec<SocketAddrV4>,
    local: std::ops::Range<usize>,
    all: std::ops::Range<usize>,
}

impl Choice {
    fn span(range: &std::ops::Range<usize>) -> Span {
        let number = |value: usize| u16::try_from(value).unwrap_or(u16::MAX);
        Span { from: number(range.start), count: number(range.len()) }
    }
}

/// How a frontend chooses among the endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    /// A cluster IP.
    Internal,
    /// A cluster IP with `internalTrafficPolicy: Local`.
    InternalLocal,
    /// An address or port that clients outside the cluster use.
    External,
    /// The same with `externalTrafficPolicy: Local`.
    ExternalLocal,
}

/// The Service's part of the ruleset. `is_free` tells whether a frontend is
/// not taken by another Service; a taken one is left out.
pub fn plan_service(
    name: &ObjectName,
    entry: &Entry,
    node: &NodeContext,
    is_free: impl Fn(MapName, Key) -> bool,
) -> Fragment {
    let mut fragment = Fragment::default();
    let Some(service) = entry.service.as_ref().filter(|service| !service.foreign_proxy) else {
        return fragment;
    };
    for port in &service.ports {
        let choice = choose(entry, service, port, &node.node_name);
        let sticky = service.affinity_seconds.map(|seconds| Sticky::new(name, port, seconds));
        let offer = Offer { owner: format!("{name}:{}", port.name), choice, sticky };
        for (key, policy) in frontends(service, port) {
            let reserved = key == Key::Address(node.cluster_dns, port.protocol, 53);
            if !reserved && is_free(MapName::Frontends(key.scope()), key) {
                offer.add_frontend(&mut fragment, key, policy);
            }
        }
        if let Some(sticky) = &offer.sticky {
            sticky.add_chains(&mut fragment, &offer.choice, node.cluster_cidr);
        }
    }
    fragment
}

/// Every way in to this port.
fn frontends(service: &Service, port: &ServicePort) -> Vec<(Key, Policy)> {
    let at = |ip: &Ipv4Addr| Key::Address(*ip, port.protocol, port.port);
    let internal = if service.internal_local { Policy::InternalLocal } else { Policy::Internal };
    let external = if service.external_local { Policy::ExternalLocal } else { Policy::External };
    let cluster_ips = service.cluster_ips.iter().map(|ip| (at(ip), internal));
    let external_ips = service.external_ips.iter().map(|ip| (at(ip), external));
    let node_port = port.node_port.map(|number| (Key::NodePort(port.protocol, number), external));
    cluster_ips.chain(external_ips).chain(node_port).collect()
}

/// Orders the usable endpoints of a port: this node's first.
pub fn choose(entry: &Entry, service: &Service, port: &ServicePort, node_name: &str) -> Choice {
    struct Candidate {
        ready: bool,
        leaving: bool,
        local: bool,
    }
    let mut candidates: BTreeMap<SocketAddrV4, Candidate> = BTreeMap::new();
    for slice in entry.slices.values() {
        let Some(number) = slice.ports.get(&(port.name.clone(), port.protocol)) else { continue };
        for endpoint in &slice.endpoints {
            // The addresses of one endpoint are fungible; the first will do.
            let Some(IpAddr::V4(ip)) = endpoint.addresses.first() else { continue };
            let candidate = candidates
                .entry(SocketAddrV4::new(*ip, *number))
                .or_insert(Candidate { ready: false, leaving: false, local: false });
            // While a pod moves between slices it may stand in two of them.
            candidate.ready |= endpoint.ready;
            candidate.leaving |= endpoint.serving && endpoint.terminating;
            candidate.local |= endpoint.node.as_deref() == Some(node_name);
        }
    }
    let select = |wanted: &dyn Fn(&Candidate) -> bool| -> Vec<SocketAddrV4> {
        candidates.iter().filter(|(_, c)| wanted(c)).map(|(address, _)| *address).collect()
    };
    let mut local = select(&|c| c.local && c.ready);
    let mut remote = select(&|c| !c.local && c.ready);
    if local.is_empty() && remote.is_empty() {
        local = select(&|c| c.local && c.leaving);
        remote = select(&|c| !c.local && c.leaving);
    }
    let wants_local = service.internal_local || service.external_local;
    let last_resort = match wants_local && local.is_empty() {
        true => select(&|c| c.local && c.leaving),
        false => Vec::new(),
    };
    let skip = last_resort.len();
    let local_range = if skip > 0 { 0..skip } else { 0..local.len() };
    let all = skip..skip + local.len() + remote.len();
    let endpoints = last_resort.into_iter().chain(local).chain(remote).collect();
    Choice { endpoints, local: local_range, all }
}

/// What all frontends of a port offer.
struct Offer {
    /// `namespace/name:port`, for the reader of `nft list`.
    owner: String,
    choice: Choice,
    sticky: Option<Sticky>,
}

impl Offer {
    fn add_frontend(&self, fragment: &mut Fragment, key: Key, policy: Policy) {
        let scope = key.scope();
        let frontends = MapName::Frontends(scope);
        let (local, all) = (Choice::span(&self.choice.local), Choice::span(&self.choice.all));
        let usable = match policy {
            Policy::InternalLocal => local.count,
            Policy::Internal | Policy::External | Policy::ExternalLocal => all.count,
        };
        let comment = Some(self.owner.clone());
        if usable == 0 {
            // The service range refuses by itself what is not listed, and an
            // unlisted node port is a closed port. Other addresses must be told.
            let external = matches!(policy, Policy::External | Policy::ExternalLocal);
            if external && matches!(key, Key::Address(..)) {
                let element = Element { value: Value::Member, comment };
                fragment.elements.insert((MapName::Refused, key), element);
            }
            return;
        }
        if let Key::Address(_, Protocol::Udp, _) | Key::NodePort(Protocol::Udp, _) = key {
            fragment.datagrams.extend(self.choice.endpoints.iter().map(|to| (key, *to)));
        }
        if let Some(sticky) = &self.sticky {
            let value = Value::Verdict(Target::Own(sticky.entry(policy)));
            fragment.elements.insert((frontends, key), Element { value, comment });
            return;
        }
        let target = match policy {
            Policy::Internal => Target::Pick(scope, all),
            Policy::InternalLocal => Target::Pick(scope, local),
            Policy::External => Target::External(scope, all),
            Policy::ExternalLocal => Target::Local { scope, local, all },
        };
        let element = Element { value: Value::Verdict(target), comment };
        fragment.elements.insert((frontends, key), element);
        for (index, endpoint) in (0..u16::MAX).zip(&self.choice.endpoints) {
            let plain = |value| Element { value, comment: None };
            let address = (MapName::EndpointAddress(scope, index), key);
            fragment.elements.insert(address, plain(Value::Address(*endpoint.ip())));
            let port = (MapName::EndpointPort(scope, index), key);
            fragment.elements.insert(port, plain(Value::Port(endpoint.port())));
        }
    }
}

/// The chains and sets of a port whose clients stay with their endpoint.
struct Sticky {
    id: String,
    seconds: u32,
}

impl Sticky {
    fn new(name: &ObjectName, port: &ServicePort, seconds: u32) -> Self {
        // Only has to differ from other ports within one table's life.
        let mut hasher = DefaultHasher::new();
        (name, &port.name, port.protocol, port.port).hash(&mut hasher);
        Self { id: format!("{:012x}", hasher.finish() & 0xffff_ffff_ffff), seconds }
    }

    /// The chain in which a frontend of this policy begins.
    fn entry(&self, policy: Policy) -> String {
        let suffix = match policy {
            Policy::Internal => "",
            Policy::InternalLocal => "-local",
            Policy::External => "-external",
            Policy::ExternalLocal => "-external-local",
        };
        format!("sticky-{}{suffix}", self.id)
    }

    fn endpoint_chain(&self, endpoint: &SocketAddrV4) -> String {
        format!("sticky-{}-{}-{}", self.id, endpoint.ip(), endpoint.port())
    }

    /// The timeout is part of the name: a set's cannot be changed.
    fn clients(&self, endpoint: &SocketAddrV4) -> String {
        format!("clients-{}-{}-{}-{}", self.id, self.seconds, endpoint.ip(), endpoint.port())
    }

    fn add_chains(&self, fragment: &mut Fragment, choice: &Choice, cluster_cidr: Ipv4Net) {
        let mut add = |name: String, rules| fragment.chains.insert(name, Chain::regular(rules));
        for endpoint in &choice.endpoints {
            let client = json!({"set": {
                "op": "update", "elem": ip("saddr"), "set": format!("@{}", self.clients(endpoint)),
            }});
            let rules = vec![vec![client, has_ports(), dnat(*endpoint)].into()];
            add(self.endpoint_chain(endpoint), rules);
        }
        let all = &choice.endpoints[choice.all.clone()];
        let local = &choice.endpoints[choice.local.clone()];
        let pick_all = self.entry(Policy::Internal);
        let pick_local = self.entry(Policy::InternalLocal);
        add(pick_all.clone(), self.pick_rules(all));
        add(pick_local.clone(), self.pick_rules(local));
        // meta mark set meta mark | 0x4000 goto sticky-HASH
        let external = vec![vec![mark(), goto(&pick_all)].into()];
        add(self.entry(Policy::External), external);
        let external_local = vec![
            vec![matches(ip("saddr"), "==", prefix(cluster_cidr)), mark(), goto(&pick_all)].into(),
            vec![matches(fib(&["saddr"], "type"), "==", "local"), goto(&pick_all)].into(),
            vec![goto(&pick_local)].into(),
        ];
        add(self.entry(Policy::ExternalLocal), external_local);
        let sets = choice.endpoints.iter().map(|endpoint| self.clients(endpoint));
        fragment.sets.extend(sets.map(|name| (name, SetType::Clients(self.seconds))));
    }

    /// A client that is known goes to its endpoint, another one to any.
    fn pick_rules(&self, endpoints: &[SocketAddrV4]) -> Vec<Rule> {
        let known = |endpoint| {
            let clients = format!("@{}", self.clients(endpoint));
            let to = goto(&self.endpoint_chain(endpoint));
            Rule::from(vec![matches(ip("saddr"), "==", clients), to])
        };
        let mut rules: Vec<Rule> = endpoints.iter().map(known).collect();
        let chains: Vec<_> = endpoints.iter().map(|e| self.endpoint_chain(e)).collect();
        rules.push(match chains.is_empty() {
            true => vec![json!({"drop": null})].into(),
            false => vec![random(&chains)].into(),
        });
        rules
    }
}

#[cfg(test)]
mod tests;
