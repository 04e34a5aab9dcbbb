//! The ruleset: which packets go where, as data.
//!
//! One table, `ip skiff-proxy`. A packet for a Service costs the same with ten
//! services or ten thousand, and a change to a Service touches that Service's
//! elements and nothing else. In `nft` words, for a Service with three
//! endpoints:
//!
//! ```text
//! table ip skiff-proxy {
//!     map services {                       # frontends: who is asked
//!         type ipv4_addr . inet_proto . inet_service : verdict
//!         elements = { 10.96.0.7 . tcp . 80 : goto service-pick-0-3 }
//!     }
//!     map service-address-0 {              # the first endpoint of everybody
//!         type ipv4_addr . inet_proto . inet_service : ipv4_addr
//!         elements = { 10.96.0.7 . tcp . 80 : 10.244.1.5 }
//!     }
//!     map service-port-0 { … : 8080 }      # …, -1, -2 likewise
//!
//!     chain service-pick-0-3 {             # shared by all with three endpoints
//!         numgen random mod 3 vmap { 0 : goto service-endpoint-0, … }
//!     }
//!     chain service-endpoint-0 {           # shared by all with an endpoint
//!         meta l4proto { tcp, udp, sctp } dnat to
//!             ip daddr . meta l4proto . th dport map @service-address-0 :
//!             ip daddr . meta l4proto . th dport map @service-port-0
//!     }
//! }
//! ```
//!
//! Why not a chain per Service: `nft` reads the names of all chains and sets
//! before each change. Ten thousand chains made one change cost 50 ms and the
//! first load 9 s; with elements only, 2 ms and 0.3 s.
//!
//! [`base`] holds the chains that are always there, [`shared`] those above
//! that grow with the largest Service, [`service`] what one Service adds.
//! Everything here is pure; [`crate::nft`] carries it out.

pub mod base;
mod expr;
pub mod service;
pub mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use serde_json::{Value as Json, json};

use crate::view::Protocol;

/// Our table in the `ip` family.
pub const TABLE: &str = "skiff-proxy";

/// The packet mark (one bit of it) that asks for masquerading. It is the bit
/// that Kubernetes has always used for this.
pub const MASQUERADE_MARK: u32 = 0x4000;

/// By what a frontend is found: an address of its own, or a port of every
/// node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Cluster IP, external IP or load balancer address.
    Address,
    /// Node port.
    NodePort,
}

impl Scope {
    fn prefix(self) -> &'static str {
        match self {
            Self::Address => "service",
            Self::NodePort => "node-port",
        }
    }
}

/// The maps and sets that have elements of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MapName {
    /// Frontends and where they go on.
    Frontends(Scope),
    /// The address of everybody's n-th endpoint.
    EndpointAddress(Scope, u16),
    /// The port of everybody's n-th endpoint.
    EndpointPort(Scope, u16),
    /// Frontends outside the service range that have no endpoint.
    Refused,
}

impl std::fmt::Display for MapName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Frontends(Scope::Address) => f.write_str("services"),
            Self::Frontends(Scope::NodePort) => f.write_str("node-ports"),
            Self::EndpointAddress(scope, index) => write!(f, "{}-address-{index}", scope.prefix()),
            Self::EndpointPort(scope, index) => write!(f, "{}-port-{index}", scope.prefix()),
            Self::Refused => f.write_str("refused"),
        }
    }
}

/// What elements are found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// `ip daddr . meta l4proto . th dport`
    Address(Ipv4Addr, Protocol, u16),
    /// `meta l4proto . th dport`
    NodePort(Protocol, u16),
}

impl Key {
    /// The scope in which such a key is looked up.
    pub fn scope(&self) -> Scope {
        match self {
            Self::Address(..) => Scope::Address,
            Self::NodePort(..) => Scope::NodePort,
        }
    }

    fn to_json(self) -> Json {
        match self {
            Self::Address(ip, protocol, port) => {
                json!({"concat": [ip.to_string(), protocol.as_str(), port]})
            }
            Self::NodePort(protocol, port) => json!({"concat": [protocol.as_str(), port]}),
        }
    }
}

/// What an element says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `goto CHAIN`
    Verdict(shared::Target),
    /// An endpoint's address.
    Address(Ipv4Addr),
    /// An endpoint's port.
    Port(u16),
    /// Being there is all it says.
    Member,
}

/// An element with the comment that makes `nft list` readable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// What it says.
    pub value: Value,
    /// Whose it is.
    pub comment: Option<String>,
}

/// The declaration of a set or map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetType {
    /// Frontends of this scope to verdicts.
    Verdicts(Scope),
    /// Frontends of this scope to addresses.
    Addresses(Scope),
    /// Frontends of this scope to ports.
    Ports(Scope),
    /// Frontends by address.
    Frontends,
    /// Client addresses, each forgotten this many seconds after its last
    /// connection.
    Clients(u32),
}

impl SetType {
    fn to_json(self, name: &str) -> Json {
        let key = |scope| match scope {
            Scope::Address => json!(["ipv4_addr", "inet_proto", "inet_service"]),
            Scope::NodePort => json!(["inet_proto", "inet_service"]),
        };
        let map = |scope, data| {
            let key = key(scope);
            json!({"map": {"family": "ip", "table": TABLE, "name": name, "type": key, "map": data}})
        };
        match self {
            Self::Verdicts(scope) => map(scope, "verdict"),
            Self::Addresses(scope) => map(scope, "ipv4_addr"),
            Self::Ports(scope) => map(scope, "inet_service"),
            Self::Frontends => json!({"set": {
                "family": "ip", "table": TABLE, "name": name, "type": key(Scope::Address),
            }}),
            Self::Clients(seconds) => json!({"set": {
                "family": "ip", "table": TABLE, "name": name, "type": "ipv4_addr",
                "flags": ["timeout"], "timeout": seconds,
            }}),
        }
    }
}

/// Where a base chain is hooked in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// `filter` or `nat`.
    pub kind: &'static str,
    /// `prerouting`, `output`, …
    pub hook: &'static str,
    /// Its place among others at the hook.
    pub priority: i32,
}

/// A rule: statements in nft's JSON, and a comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The statements.
    pub statements: Vec<Json>,
    /// Shown by `nft list`.
    pub comment: Option<String>,
}

impl From<Vec<Json>> for Rule {
    fn from(statements: Vec<Json>) -> Self {
        Self { statements, comment: None }
    }
}

/// A chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// Set for base chains.
    pub hook: Option<Hook>,
    /// Its rules in order.
    pub rules: Vec<Rule>,
}

impl Chain {
    /// A chain that others go to.
    pub fn regular(rules: Vec<Rule>) -> Self {
        Self { hook: None, rules }
    }
}

/// A part of the ruleset, or all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fragment {
    /// Sets and maps by name.
    pub sets: BTreeMap<String, SetType>,
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
    /// Elements by map and key.
    pub elements: BTreeMap<(MapName, Key), Element>,
    /// Which UDP frontends lead to which endpoints. No rule by itself: when a
    /// pair goes away, flows the kernel remembers have to be forgotten.
    pub datagrams: BTreeSet<(Key, SocketAddrV4)>,
}

impl Fragment {
    /// Adds all of `other`.
    pub fn merge(&mut self, other: Fragment) {
        self.sets.extend(other.sets);
        self.chains.extend(other.chains);
        self.elements.extend(other.elements);
        self.datagrams.extend(other.datagrams);
    }

    /// The shared chains that this part's elements lead to.
    pub fn targets(&self) -> impl Iterator<Item = &shared::Target> {
        self.elements.values().filter_map(|element| match &element.value {
            Value::Verdict(target) => Some(target),
            _ => None,
        })
    }
}

/// The commands that put our table in place of any earlier one.
pub fn plan_replacement(desired: &Fragment) -> Vec<Json> {
    let table = json!({"table": {"family": "ip", "name": TABLE}});
    let mut commands = vec![
        // The first `add` makes the `delete` valid where there is no table.
        json!({"add": table}),
        json!({"delete": table}),
        json!({"add": table}),
    ];
    commands.extend(plan_changes(&Fragment::default(), desired));
    commands
}

/// The commands that turn `observed` into `desired`, in an order in which each
/// finds what it refers to. Nothing for what is the same in both.
pub fn plan_changes(observed: &Fragment, desired: &Fragment) -> Vec<Json> {
    let mut commands = Vec::new();
    let table = |name: &str| json!({"family": "ip", "table": TABLE, "name": name});

    for (name, set) in &desired.sets {
        if !observed.sets.contains_key(name) {
            commands.push(json!({"add": set.to_json(name)}));
        }
    }
    for (name, chain) in &desired.chains {
        if !observed.chains.contains_key(name) {
            commands.push(json!({"add": {"chain": chain_json(name, chain)}}));
        }
    }
    let changed = |name: &String, chain: &Chain| observed.chains.get(name) != Some(chain);
    for (name, chain) in desired.chains.iter().filter(|(name, chain)| changed(name, chain)) {
        if observed.chains.contains_key(name) {
            commands.push(json!({"flush": {"chain": table(name)}}));
        }
        commands.extend(chain.rules.iter().map(|rule| rule_json(name, rule)));
    }

    let gone = observed.elements.iter().filter(|(at, element)| {
        desired.elements.get(at).is_none_or(|desired| desired.value != element.value)
    });
    commands.extend(element_commands("delete", gone, |(_, key), _| key.to_json()));
    let new = desired.elements.iter().filter(|(at, element)| {
        observed.elements.get(at).is_none_or(|observed| observed.value != element.value)
    });
    commands.extend(element_commands("add", new, |(_, key), element| element_json(key, element)));

    // Emptied first, since they may refer to each other.
    let unused: Vec<_> =
        observed.chains.keys().filter(|name| !desired.chains.contains_key(*name)).collect();
    commands.extend(unused.iter().map(|name| json!({"flush": {"chain": table(name)}})));
    commands.extend(unused.iter().map(|name| json!({"delete": {"chain": table(name)}})));
    let unused = observed.sets.keys().filter(|name| !desired.sets.contains_key(*name));
    commands.extend(unused.map(|name| json!({"delete": {"set": table(name)}})));
    commands
}

/// One command per map for all its elements.
fn element_commands<'a>(
    verb: &'static str,
    elements: impl Iterator<Item = (&'a (MapName, Key), &'a Element)>,
    to_json: impl Fn(&(MapName, Key), &Element) -> Json,
) -> Vec<Json> {
    let mut by_map: BTreeMap<MapName, Vec<Json>> = BTreeMap::new();
    for (at, element) in elements {
        by_map.entry(at.0).or_default().push(to_json(at, element));
    }
    let command = |(map, elements): (MapName, Vec<Json>)| {
        json!({verb: {"element": {
            "family": "ip", "table": TABLE, "name": map.to_string(), "elem": elements,
        }}})
    };
    by_map.into_iter().map(command).collect()
}

fn element_json(key: &Key, element: &Element) -> Json {
    let key = match &element.comment {
        Some(comment) => json!({"elem": {"val": key.to_json(), "comment": comment}}),
        None => key.to_json(),
    };
    match &element.value {
        Value::Verdict(target) => json!([key, {"goto": {"target": target.to_string()}}]),
        Value::Address(ip) => json!([key, ip.to_string()]),
        Value::Port(port) => json!([key, port]),
        Value::Member => key,
    }
}

fn chain_json(name: &str, chain: &Chain) -> Json {
    let mut object = json!({"family": "ip", "table": TABLE, "name": name});
    if let Some(Hook { kind, hook, priority }) = chain.hook {
        object["type"] = json!(kind);
        object["hook"] = json!(hook);
        object["prio"] = json!(priority);
        object["policy"] = json!("accept");
    }
    object
}

fn rule_json(chain: &str, rule: &Rule) -> Json {
    let mut object =
        json!({"family": "ip", "table": TABLE, "chain": chain, "expr": rule.statements});
    if let Some(comment) = &rule.comment {
        object["comment"] = json!(comment);
    }
    json!({"add": {"rule": object}})
}

#[cfg(test)]
mod tests {
    use super::shared::Target;
    use super::*;

    fn at(last: u8) -> (MapName, Key) {
        let key = Key::Address(Ipv4Addr::new(10, 96, 0, last), Protocol::Tcp, 80);
        (MapName::Frontends(Scope::Address), key)
    }

    fn element(target: &str) -> Element {
        Element { value: Value::Verdict(Target::Own(target.into())), comment: None }
    }

    fn verbs(commands: &[Json]) -> Vec<String> {
        commands
            .iter()
            .map(|command| {
                let (verb, object) = command.as_object().unwrap().iter().next().unwrap();
                let (kind, body) = object.as_object().unwrap().iter().next().unwrap();
                let name = body.get("name").or(body.get("chain")).unwrap().as_str().unwrap();
                format!("{verb} {kind} {name}")
            })
            .collect()
    }

    #[test]
    fn equal_fragments_need_no_command() {
        let fragment =
            Fragment { elements: BTreeMap::from([(at(1), element("a"))]), ..Fragment::default() };
        assert_eq!(plan_changes(&fragment, &fragment), Vec::<Json>::new());
    }

    #[test]
    fn commands_come_in_an_order_that_holds() {
        let rule = |target: &str| Rule::from(vec![json!({"goto": {"target": target}})]);
        let observed = Fragment {
            sets: BTreeMap::from([("old-set".into(), SetType::Clients(9))]),
            chains: BTreeMap::from([
                ("kept".into(), Chain::regular(vec![rule("old")])),
                ("old".into(), Chain::default()),
            ]),
            elements: BTreeMap::from([(at(1), element("old")), (at(2), element("kept"))]),
            ..Fragment::default()
        };
        let desired = Fragment {
            sets: BTreeMap::from([("new-set".into(), SetType::Clients(9))]),
            chains: BTreeMap::from([
                ("kept".into(), Chain::regular(vec![rule("new")])),
                ("new".into(), Chain::default()),
            ]),
            elements: BTreeMap::from([(at(1), element("new")), (at(2), element("kept"))]),
            ..Fragment::default()
        };
        assert_eq!(
            verbs(&plan_changes(&observed, &desired)),
            [
                "add set new-set",
                "add chain new",
                "flush chain kept",
                "add rule kept",
                "delete element services",
                "add element services",
                "flush chain old",
                "delete chain old",
                "delete set old-set",
            ]
        );
    }

    #[test]
    fn elements_of_one_map_share_a_command() {
        let desired = Fragment {
            elements: BTreeMap::from([(at(1), element("a")), (at(2), element("b"))]),
            ..Fragment::default()
        };
        let commands = plan_changes(&Fragment::default(), &desired);
        assert_eq!(commands.len(), 1);
        assert_eq!(commands[0]["add"]["element"]["elem"].as_array().unwrap().len(), 2);
    }
}
