//! Chains that many Services share: picking one of n endpoints, and sending a
//! packet to everybody's n-th endpoint.
//!
//! They grow with the largest Service seen, not with the number of Services,
//! and only ever grow; the next full load starts afresh.

use std::collections::BTreeSet;

use ipnet::Ipv4Net;
use serde_json::json;

use super::expr::{dnat_to_maps, fib, goto, has_ports, ip, mark, matches, prefix, random};
use super::{Chain, Fragment, MapName, Rule, Scope, SetType};

/// A run of endpoints in a frontend's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// The first one's number.
    pub from: u16,
    /// How many there are.
    pub count: u16,
}

/// The chain in which a frontend's packets go on. Its name is its content.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Any endpoint of the span.
    Pick(Scope, Span),
    /// The same for packets that must come back this way: masqueraded.
    External(Scope, Span),
    /// `externalTrafficPolicy: Local`: what comes from outside the cluster
    /// keeps its source and goes to the node's own endpoints; pods and the
    /// host itself may use all.
    Local {
        /// By what the frontend is found.
        scope: Scope,
        /// Endpoints on this node.
        local: Span,
        /// Endpoints anywhere.
        all: Span,
    },
    /// The node's DNS server.
    Dns,
    /// A chain that belongs to one Service.
    Own(String),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pick(scope, Span { from, count }) => {
                write!(f, "{}-pick-{from}-{count}", scope.prefix())
            }
            Self::External(scope, Span { from, count }) => {
                write!(f, "{}-external-{from}-{count}", scope.prefix())
            }
            Self::Local { scope, local, all } => write!(
                f,
                "{}-local-{}-{}-{}-{}",
                scope.prefix(),
                local.from,
                local.count,
                all.from,
                all.count
            ),
            Self::Dns => f.write_str("dns"),
            Self::Own(name) => f.write_str(name),
        }
    }
}

/// The chains and maps that `targets` need.
pub fn plan_shared(targets: &BTreeSet<Target>, cluster_cidr: Ipv4Net) -> Fragment {
    let mut fragment = Fragment::default();
    for target in targets {
        match target {
            Target::Pick(scope, span) => add_pick(&mut fragment, *scope, *span),
            Target::External(scope, span) => {
                // meta mark set meta mark | 0x4000 goto service-pick-0-3
                let pick = Target::Pick(*scope, *span).to_string();
                let rules = vec![Rule::from(vec![mark(), goto(&pick)])];
                fragment.chains.insert(target.to_string(), Chain::regular(rules));
                add_pick(&mut fragment, *scope, *span);
            }
            Target::Local { scope, local, all } => {
                let rules = local_rules(*scope, *local, *all, cluster_cidr);
                fragment.chains.insert(target.to_string(), Chain::regular(rules));
                add_pick(&mut fragment, *scope, *local);
                add_pick(&mut fragment, *scope, *all);
            }
            // These are made where they are defined.
            Target::Dns | Target::Own(_) => {}
        }
    }
    fragment
}

/// ```text
/// ip saddr CLUSTER_CIDR meta mark set meta mark | 0x4000 goto service-pick-0-3
/// fib saddr type local goto service-pick-0-3
/// goto service-pick-0-1                     # drop, where there is none
/// ```
fn local_rules(scope: Scope, local: Span, all: Span, cluster_cidr: Ipv4Net) -> Vec<Rule> {
    let pick_all = goto(&Target::Pick(scope, all).to_string());
    let outside = match local.count {
        0 => json!({"drop": null}),
        _ => goto(&Target::Pick(scope, local).to_string()),
    };
    vec![
        vec![matches(ip("saddr"), "==", prefix(cluster_cidr)), mark(), pick_all.clone()].into(),
        vec![matches(fib(&["saddr"], "type"), "==", "local"), pick_all].into(),
        vec![outside].into(),
    ]
}

fn add_pick(fragment: &mut Fragment, scope: Scope, span: Span) {
    if span.count == 0 {
        return;
    }
    let endpoints: Vec<_> = (span.from..span.from.saturating_add(span.count)).collect();
    let names: Vec<_> = endpoints.iter().map(|index| endpoint_chain(scope, *index)).collect();
    // numgen random mod 3 vmap { 0 : goto service-endpoint-0, … }
    let pick = Chain::regular(vec![vec![random(&names)].into()]);
    fragment.chains.insert(Target::Pick(scope, span).to_string(), pick);
    for (index, name) in endpoints.into_iter().zip(names) {
        let address = MapName::EndpointAddress(scope, index);
        let port = MapName::EndpointPort(scope, index);
        // meta l4proto { tcp, udp, sctp } dnat to FRONTEND map @service-address-0 : FRONTEND map @service-port-0
        let rule = vec![has_ports(), dnat_to_maps(scope, address, port)].into();
        fragment.chains.insert(name, Chain::regular(vec![rule]));
        fragment.sets.insert(address.to_string(), SetType::Addresses(scope));
        fragment.sets.insert(port.to_string(), SetType::Ports(scope));
    }
}

fn endpoint_chain(scope: Scope, index: u16) -> String {
    format!("{}-endpoint-{index}", scope.prefix())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_brings_what_it_leads_to() {
        let span = |from, count| Span { from, count };
        let scope = Scope::NodePort;
        let cases = [
            (Target::Dns, vec![]),
            (
                Target::Pick(scope, span(0, 2)),
                vec!["node-port-endpoint-0", "node-port-endpoint-1", "node-port-pick-0-2"],
            ),
            (
                Target::External(scope, span(1, 1)),
                vec!["node-port-endpoint-1", "node-port-external-1-1", "node-port-pick-1-1"],
            ),
            (
                Target::Local { scope, local: span(0, 0), all: span(0, 1) },
                vec!["node-port-endpoint-0", "node-port-local-0-0-0-1", "node-port-pick-0-1"],
            ),
        ];
        for (target, chains) in cases {
            let name = target.to_string();
            let planned = plan_shared(&BTreeSet::from([target]), "10.244.0.0/16".parse().unwrap());
            assert_eq!(planned.chains.keys().collect::<Vec<_>>(), chains, "{name}");
            assert_eq!(
                planned.sets.len(),
                2 * planned.chains.keys().filter(|c| c.contains("endpoint")).count()
            );
        }
    }
}
