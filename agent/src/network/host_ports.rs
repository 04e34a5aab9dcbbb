//! Host ports: a port of the node that leads to a pod on it.
//!
//! ```text
//! table ip skiff-network {
//!     chain host-ports {
//!         ip daddr 127.0.0.1 tcp dport 8080 dnat to 10.244.1.7:80 comment "0a1b2c3d4e 127.0.0.1 8080 tcp 10.244.1.7 80"
//!         udp dport 53 dnat to 10.244.1.8:5353 comment "…"
//!     }
//!     chain prerouting { type nat hook prerouting priority dstnat; fib daddr type local jump host-ports }
//!     chain output     { type nat hook output priority dstnat;     fib daddr type local jump host-ports }
//! }
//! ```
//!
//! Only the first packet of a connection passes these chains, and a node has a
//! handful of host ports, so rules in a row will do. A port of one address
//! stands before the same port of all.
//!
//! A rule's comment says everything about it, and is what a restarted agent
//! reads it back from: its ports lead on while it looks for its pods.
//!
//! Replies to a pod that asks itself, and to the node's loopback, need another
//! sender; the proxy's rules see to that for everything that is translated.
//!
//! Left out: IPv6, and forgetting what the kernel remembers of UDP senders
//! that never pause when their pod is replaced.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use k8s_openapi::api::core::v1::{ContainerPort, PodSpec};
use serde_json::{Value, json};

use super::rules::{TABLE, ip, matches, objects};

/// The chain of the translations.
const CHAIN: &str = "host-ports";

/// A port of the node that a pod asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// Which of the node's addresses; `None` for all.
    pub address: Option<Ipv4Addr>,
    /// The node's port.
    pub port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: &'static str,
    /// The pod's port.
    pub pod_port: u16,
}

impl HostPort {
    /// The host ports of a pod's containers, sidecars among them.
    pub fn all_of(spec: &PodSpec) -> Vec<Self> {
        let sidecars = spec.init_containers.iter().flatten();
        let sidecars = sidecars.filter(|init| init.restart_policy.as_deref() == Some("Always"));
        let ports = sidecars.chain(&spec.containers).flat_map(|one| one.ports.iter().flatten());
        ports.filter_map(Self::of).collect()
    }

    /// `None` for a port that only the pod has, or of an address that is not
    /// IPv4.
    fn of(port: &ContainerPort) -> Option<Self> {
        let address = match port.host_ip.as_deref().unwrap_or_default() {
            "" | "0.0.0.0" => None,
            text => Some(text.parse().ok()?),
        };
        Some(Self {
            address,
            port: port.host_port.and_then(|port| u16::try_from(port).ok()).filter(|at| *at > 0)?,
            protocol: protocol(port.protocol.as_deref().unwrap_or("TCP"))?,
            pod_port: u16::try_from(port.container_port).ok()?,
        })
    }
}

fn protocol(name: &str) -> Option<&'static str> {
    ["tcp", "udp", "sctp"].into_iter().find(|known| known.eq_ignore_ascii_case(name))
}

/// A host port and the pod that it leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Forward {
    /// The key of the pod's cable.
    pub(super) key: String,
    pub(super) port: HostPort,
    pub(super) pod: Ipv4Addr,
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HostPort { address, port, protocol, pod_port } = &self.port;
        let address = address.unwrap_or(Ipv4Addr::UNSPECIFIED);
        write!(f, "{} {address} {port} {protocol} {} {pod_port}", self.key, self.pod)
    }
}

impl FromStr for Forward {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let words: Vec<&str> = text.split(' ').collect();
        let [key, address, port, name, pod, pod_port] = words.as_slice() else { return Err(()) };
        let address: Ipv4Addr = address.parse().map_err(drop)?;
        Ok(Self {
            key: (*key).to_owned(),
            port: HostPort {
                address: (!address.is_unspecified()).then_some(address),
                port: port.parse().map_err(drop)?,
                protocol: protocol(name).ok_or(())?,
                pod_port: pod_port.parse().map_err(drop)?,
            },
            pod: pod.parse().map_err(drop)?,
        })
    }
}

/// All host ports of a node's pods, by the keys of their cables.
pub(super) type Forwards = BTreeMap<String, Vec<Forward>>;

/// The forwards in the listing of our table.
pub(super) fn observed_forwards(table: &Value) -> Forwards {
    let mut found = Forwards::new();
    let rules = objects(table).filter_map(|object| object.get("rule"));
    let ours = rules.filter(|rule| rule["chain"] == CHAIN);
    for forward in ours.filter_map(|rule| rule["comment"].as_str()?.parse::<Forward>().ok()) {
        found.entry(forward.key.clone()).or_default().push(forward);
    }
    found
}

/// The commands that add our chains to a table that has none of them.
pub(super) fn plan_chains(forwards: &Forwards) -> Vec<Value> {
    let chain = |name: &str| json!({"family": "ip", "table": TABLE, "name": name});
    let mut commands = vec![json!({"add": {"chain": chain(CHAIN)}})];
    for hook in ["prerouting", "output"] {
        let mut base = chain(hook);
        for (key, value) in [("type", "nat"), ("hook", hook), ("policy", "accept")] {
            base[key] = json!(value);
        }
        base["prio"] = json!(-100);
        commands.push(json!({"add": {"chain": base}}));
        // fib daddr type local jump host-ports
        let local = json!({"fib": {"flags": ["daddr"], "result": "type"}});
        commands.push(json!({"add": {"rule": {
            "family": "ip", "table": TABLE, "chain": hook,
            "expr": [matches(local, "==", json!("local")), {"jump": {"target": CHAIN}}],
        }}}));
    }
    commands.extend(plan_rules(forwards));
    commands
}

/// The commands that make `forwards` the content of the chain.
pub(super) fn plan_forwards(forwards: &Forwards) -> Vec<Value> {
    let chain = json!({"family": "ip", "table": TABLE, "name": CHAIN});
    let mut commands = vec![json!({"flush": {"chain": chain}})];
    commands.extend(plan_rules(forwards));
    commands
}

fn plan_rules(forwards: &Forwards) -> impl Iterator<Item = Value> {
    let mut all: Vec<&Forward> = forwards.values().flatten().collect();
    all.sort_by_key(|forward| (forward.port.address.is_none(), *forward));
    all.into_iter().map(rule)
}

/// `ip daddr ADDRESS tcp dport PORT dnat to POD:PORT comment "…"`
fn rule(forward: &Forward) -> Value {
    let HostPort { address, port, protocol, pod_port } = &forward.port;
    let dport = json!({"payload": {"protocol": protocol, "field": "dport"}});
    let of_address = address.map(|address| matches(ip("daddr"), "==", json!(address.to_string())));
    let mut expr: Vec<Value> = of_address.into_iter().collect();
    expr.push(matches(dport, "==", json!(port)));
    expr.push(json!({"dnat": {"addr": forward.pod.to_string(), "port": pod_port}}));
    json!({"add": {"rule": {
        "family": "ip", "table": TABLE, "chain": CHAIN, "expr": expr,
        "comment": forward.to_string(),
    }}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(address: Option<[u8; 4]>, port: u16) -> Forward {
        let port =
            HostPort { address: address.map(Into::into), port, protocol: "udp", pod_port: 53 };
        Forward { key: "0a1b2c3d4e".into(), port, pod: [10, 244, 1, 7].into() }
    }

    #[test]
    fn ports_come_from_containers_and_sidecars() {
        let spec: PodSpec = serde_json::from_value(json!({
            "initContainers": [
                {"name": "i", "ports": [{"containerPort": 1, "hostPort": 1}]},
                {"name": "s", "restartPolicy": "Always", "ports": [{"containerPort": 2, "hostPort": 20}]},
            ],
            "containers": [{"name": "c", "ports": [
                {"containerPort": 3},
                {"containerPort": 4, "hostPort": 40, "hostIP": "127.0.0.1", "protocol": "UDP"},
                {"containerPort": 5, "hostPort": 50, "hostIP": "0.0.0.0"},
                {"containerPort": 6, "hostPort": 60, "hostIP": "fd00::1"},
            ]}],
        }))
        .unwrap();
        let port = |address: Option<[u8; 4]>, port, protocol, pod_port| HostPort {
            address: address.map(Into::into),
            port,
            protocol,
            pod_port,
        };
        let expected = [
            port(None, 20, "tcp", 2),
            port(Some([127, 0, 0, 1]), 40, "udp", 4),
            port(None, 50, "tcp", 5),
        ];
        assert_eq!(HostPort::all_of(&spec), expected);
    }

    #[test]
    fn a_comment_says_all_of_a_rule() {
        for forward in [forward(None, 53), forward(Some([192, 0, 2, 1]), 65535)] {
            assert_eq!(forward.to_string().parse(), Ok(forward));
        }
        for text in ["", "skiff", "k 0.0.0.0 0 icmp 10.0.0.1 1", "k 0.0.0.0 70000 tcp 10.0.0.1 1"] {
            assert_eq!(text.parse::<Forward>(), Err(()), "{text}");
        }
    }

    #[test]
    fn a_port_of_one_address_stands_first() {
        let forwards = Forwards::from([(
            "0a1b2c3d4e".into(),
            vec![forward(None, 53), forward(Some([192, 0, 2, 1]), 53)],
        )]);
        let planned = plan_forwards(&forwards);
        let rules: Vec<&Value> = planned[1..].iter().map(|one| &one["add"]["rule"]).collect();
        assert_eq!(rules[0]["expr"].as_array().unwrap().len(), 3);
        assert_eq!(rules[1]["expr"].as_array().unwrap().len(), 2);
        let listing: Vec<Value> = rules.iter().map(|rule| json!({"rule": rule})).collect();
        let mut read = observed_forwards(&json!({"nftables": listing}));
        read.values_mut().for_each(|list| list.sort());
        assert_eq!(read, forwards);
    }
}
