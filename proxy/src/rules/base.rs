//! The chains that are there before any Service is.
//!
//! ```text
//! table ip skiff-proxy {
//!     chain prerouting  { type nat hook prerouting priority dstnat;  jump dispatch }
//!     chain output      { type nat hook output priority dstnat;      jump dispatch }
//!     chain dispatch {
//!         ip daddr . meta l4proto . th dport vmap @services
//!         fib daddr type local meta l4proto . th dport vmap @node-ports
//!     }
//!     chain dns {
//!         meta l4proto { tcp, udp, sctp } dnat to 127.0.0.1:10053
//!     }
//!     chain hairpin { type filter hook prerouting priority dstnat + 1;
//!         iifname "skiff*" ct state new ct status dnat fib daddr . iif oif exists meta mark set meta mark | 0x4000
//!     }
//!     chain postrouting { type nat hook postrouting priority srcnat;
//!         ct status dnat meta mark & 0x4000 == 0x4000 masquerade fully-random
//!         ct status dnat ip saddr 127.0.0.0/8 oifname != "lo" masquerade fully-random
//!         ct status dnat ct original ip daddr SERVICE_CIDR ip saddr != CLUSTER_CIDR fib saddr type != local masquerade fully-random
//!     }
//!     chain forward         { type filter hook forward priority filter;  jump refuse }
//!     chain output-filter   { type filter hook output priority filter;
//!         meta l4proto icmp ct original ip daddr 10.96.0.10 drop
//!         jump refuse
//!     }
//!     chain refuse {
//!         ip daddr SERVICE_CIDR goto reject
//!         ip daddr . meta l4proto . th dport @refused goto reject
//!     }
//!     chain reject {
//!         meta l4proto tcp reject with tcp reset
//!         reject with icmp port-unreachable
//!     }
//!     chain loopback-guard { type filter hook prerouting priority raw;
//!         iifname != "lo" ip daddr 127.0.0.0/8 drop
//!     }
//!     chain saved { return comment "net.ipv4.conf.all.route_localnet=0" }
//! }
//! ```
//!
//! **Refusing.** After translation no packet has a destination in the service
//! range any more. One that has belongs to no Service, or to one without
//! endpoints, and is refused at once instead of timing out.
//!
//! **Restarts.** While nothing listens on the DNS server's port the kernel would
//! answer questions with an error, which resolvers take for the last word.
//! Without it they ask again after some seconds, when a restarted agent answers.
//!
//! **Hairpin.** A pod that reaches itself through its own Service would answer
//! itself directly and be confused by the foreign address. The rule asks
//! whether the packet would leave where it came in, and has it masqueraded.
//!
//! **Loopback.** `localhost:NODE_PORT` and the DNS server on 127.0.0.1 need
//! the kernel to route 127.0.0.0/8 beyond `lo` (`route_localnet`). That alone
//! would open the host's loopback services to its pods and neighbours;
//! `loopback-guard` drops every such packet before anything is translated.

use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::Ipv4Net;
use serde_json::json;

use super::expr::{
    dnat, fib, frontend, goto, has_ports, ip, jump, mark, marked, masquerade, matches, meta,
    original_daddr, prefix, translated, vmap,
};
use super::shared::Target;
use super::{Chain, Element, Fragment, Hook, Key, MapName, Rule, Scope, SetType, Value};
use crate::view::Protocol;

/// What the base depends on.
#[derive(Debug, Clone)]
pub struct BaseConfig {
    /// The network all pods live in.
    pub cluster_cidr: Ipv4Net,
    /// The network all cluster IPs come from.
    pub service_cidr: Ipv4Net,
    /// The address pods ask for names.
    pub cluster_dns: Ipv4Addr,
    /// Where this node's DNS server really listens.
    pub dns_server: SocketAddrV4,
    /// Kernel switches as they were before us, `net.…=VALUE`.
    pub saved: Vec<String>,
}

/// The base: everything above, and the way to the DNS server.
pub fn plan_base(config: &BaseConfig) -> Fragment {
    let mut fragment = Fragment::default();
    let hook = |kind, hook, priority| Some(Hook { kind, hook, priority });
    let mut add = |name: &str, hook: Option<Hook>, rules: Vec<Rule>| {
        fragment.chains.insert(name.to_owned(), Chain { hook, rules });
    };
    let loopback = json!({"prefix": {"addr": "127.0.0.0", "len": 8}});
    let service_cidr = || prefix(config.service_cidr);

    add("prerouting", hook("nat", "prerouting", -100), vec![vec![jump("dispatch")].into()]);
    add("output", hook("nat", "output", -100), vec![vec![jump("dispatch")].into()]);
    add("dispatch", None, dispatch_rules());
    add("dns", None, dns_rules(config.dns_server));
    add("hairpin", hook("filter", "prerouting", -99), hairpin_rules());
    add(
        "postrouting",
        hook("nat", "postrouting", 100),
        vec![
            vec![translated(), marked(), masquerade()].into(),
            vec![
                translated(),
                matches(ip("saddr"), "==", loopback.clone()),
                matches(meta("oifname"), "!=", "lo"),
                masquerade(),
            ]
            .into(),
            vec![
                translated(),
                matches(original_daddr(), "==", service_cidr()),
                matches(ip("saddr"), "!=", prefix(config.cluster_cidr)),
                matches(fib(&["saddr"], "type"), "!=", "local"),
                masquerade(),
            ]
            .into(),
        ],
    );
    add("forward", hook("filter", "forward", 0), vec![vec![jump("refuse")].into()]);
    add(
        "output-filter",
        hook("filter", "output", 0),
        vec![
            vec![
                matches(meta("l4proto"), "==", "icmp"),
                matches(original_daddr(), "==", config.cluster_dns.to_string()),
                json!({"drop": null}),
            ]
            .into(),
            vec![jump("refuse")].into(),
        ],
    );
    add(
        "refuse",
        None,
        vec![
            vec![matches(ip("daddr"), "==", service_cidr()), goto("reject")].into(),
            vec![matches(frontend(Scope::Address), "==", "@refused"), goto("reject")].into(),
        ],
    );
    add("reject", None, reject_rules());
    add(
        "loopback-guard",
        hook("filter", "prerouting", -300),
        vec![
            vec![
                matches(meta("iifname"), "!=", "lo"),
                matches(ip("daddr"), "==", loopback),
                json!({"drop": null}),
            ]
            .into(),
        ],
    );
    let note = |setting: &String| Rule {
        statements: vec![json!({"return": null})],
        comment: Some(setting.clone()),
    };
    add("saved", None, config.saved.iter().map(note).collect());

    for scope in [Scope::Address, Scope::NodePort] {
        let name = MapName::Frontends(scope).to_string();
        fragment.sets.insert(name, SetType::Verdicts(scope));
    }
    fragment.sets.insert(MapName::Refused.to_string(), SetType::Frontends);
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        let key = Key::Address(config.cluster_dns, protocol, 53);
        let comment = Some("the node's DNS server".to_owned());
        let element = Element { value: Value::Verdict(Target::Dns), comment };
        fragment.elements.insert((MapName::Frontends(Scope::Address), key), element);
    }
    fragment
}

fn dispatch_rules() -> Vec<Rule> {
    vec![
        vec![vmap(Scope::Address, MapName::Frontends(Scope::Address))].into(),
        vec![
            matches(fib(&["daddr"], "type"), "==", "local"),
            vmap(Scope::NodePort, MapName::Frontends(Scope::NodePort)),
        ]
        .into(),
    ]
}

/// The content of chain `dns`.
pub fn dns_rules(server: SocketAddrV4) -> Vec<Rule> {
    vec![vec![has_ports(), dnat(server)].into()]
}

fn hairpin_rules() -> Vec<Rule> {
    vec![
        vec![
            matches(meta("iifname"), "==", "skiff*"),
            matches(json!({"ct": {"key": "state"}}), "in", "new"),
            translated(),
            matches(fib(&["daddr", "iif"], "oif"), "==", true),
            mark(),
        ]
        .into(),
    ]
}

fn reject_rules() -> Vec<Rule> {
    vec![
        vec![matches(meta("l4proto"), "==", "tcp"), json!({"reject": {"type": "tcp reset"}})]
            .into(),
        vec![json!({"reject": {"type": "icmp", "expr": "port-unreachable"}})].into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_jump_of_the_base_has_its_chain() {
        let base = plan_base(&BaseConfig {
            cluster_cidr: "10.244.0.0/16".parse().unwrap(),
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            cluster_dns: [10, 96, 0, 10].into(),
            dns_server: "127.0.0.1:10053".parse().unwrap(),
            saved: vec!["net.ipv4.conf.all.route_localnet=0".into()],
        });
        let statements = base.chains.values().flat_map(|c| &c.rules).flat_map(|r| &r.statements);
        for statement in statements {
            let target = statement.get("jump").or(statement.get("goto"));
            if let Some(name) = target.and_then(|target| target["target"].as_str()) {
                assert!(base.chains.contains_key(name), "{name}");
            }
        }
        assert_eq!(base.targets().collect::<Vec<_>>(), [&Target::Dns, &Target::Dns]);
    }
}
