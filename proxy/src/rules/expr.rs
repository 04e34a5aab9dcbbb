//! Words of nft's JSON language, so that rules read like rules.

use std::net::SocketAddrV4;

use ipnet::Ipv4Net;
use serde_json::{Value as Json, json};

use super::{MASQUERADE_MARK, MapName, Scope};

/// `LEFT OP RIGHT`
pub(super) fn matches(left: Json, op: &str, right: impl Into<Json>) -> Json {
    json!({"match": {"left": left, "op": op, "right": right.into()}})
}

/// `ip FIELD`
pub(super) fn ip(field: &str) -> Json {
    json!({"payload": {"protocol": "ip", "field": field}})
}

/// `meta KEY`
pub(super) fn meta(key: &str) -> Json {
    json!({"meta": {"key": key}})
}

/// `fib FLAGS RESULT`
pub(super) fn fib(flags: &[&str], result: &str) -> Json {
    json!({"fib": {"flags": flags, "result": result}})
}

/// `ct status dnat`
pub(super) fn translated() -> Json {
    matches(json!({"ct": {"key": "status"}}), "in", "dnat")
}

/// `ct original ip daddr`
pub(super) fn original_daddr() -> Json {
    json!({"ct": {"key": "ip daddr", "dir": "original"}})
}

/// `10.96.0.0/16`
pub(super) fn prefix(net: Ipv4Net) -> Json {
    json!({"prefix": {"addr": net.network().to_string(), "len": net.prefix_len()}})
}

/// `ip daddr . meta l4proto . th dport`, or without the address.
pub(super) fn frontend(scope: Scope) -> Json {
    let dport = json!({"payload": {"protocol": "th", "field": "dport"}});
    match scope {
        Scope::Address => json!({"concat": [ip("daddr"), meta("l4proto"), dport]}),
        Scope::NodePort => json!({"concat": [meta("l4proto"), dport]}),
    }
}

/// `FRONTEND vmap @MAP`
pub(super) fn vmap(scope: Scope, map: MapName) -> Json {
    json!({"vmap": {"key": frontend(scope), "data": format!("@{map}")}})
}

/// `dnat to FRONTEND map @ADDRESSES : FRONTEND map @PORTS`
pub(super) fn dnat_to_maps(scope: Scope, addresses: MapName, ports: MapName) -> Json {
    let map = |map| json!({"map": {"key": frontend(scope), "data": format!("@{map}")}});
    json!({"dnat": {"addr": map(addresses), "port": map(ports)}})
}

/// `numgen random mod COUNT vmap { 0 : goto CHAINS[0], … }`
pub(super) fn random(chains: &[String]) -> Json {
    if let [only] = chains {
        return goto(only);
    }
    let numgen = json!({"numgen": {"mode": "random", "mod": chains.len(), "offset": 0}});
    let verdicts: Vec<_> =
        chains.iter().enumerate().map(|(number, chain)| json!([number, goto(chain)])).collect();
    json!({"vmap": {"key": numgen, "data": {"set": verdicts}}})
}

/// `goto CHAIN`
pub(super) fn goto(chain: &str) -> Json {
    json!({"goto": {"target": chain}})
}

/// `jump CHAIN`
pub(super) fn jump(chain: &str) -> Json {
    json!({"jump": {"target": chain}})
}

/// `meta l4proto { tcp, udp, sctp }`, which `dnat` to a port wants to see.
pub(super) fn has_ports() -> Json {
    matches(meta("l4proto"), "==", json!({"set": ["tcp", "udp", "sctp"]}))
}

/// `dnat to ADDRESS:PORT`
pub(super) fn dnat(to: SocketAddrV4) -> Json {
    json!({"dnat": {"addr": to.ip().to_string(), "port": to.port()}})
}

/// `meta mark set meta mark | 0x4000`
pub(super) fn mark() -> Json {
    json!({"mangle": {"key": meta("mark"), "value": {"|": [meta("mark"), MASQUERADE_MARK]}}})
}

/// `meta mark & 0x4000 == 0x4000`
pub(super) fn marked() -> Json {
    matches(json!({"&": [meta("mark"), MASQUERADE_MARK]}), "==", MASQUERADE_MARK)
}

/// `masquerade fully-random`
pub(super) fn masquerade() -> Json {
    json!({"masquerade": {"flags": "fully-random"}})
}
