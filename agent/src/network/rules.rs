//! Packet rules of the pod network: masquerading, and a way through the
//! host's own FORWARD policy.
//!
//! ```text
//! table ip skiff-network {
//!     set nodes { type ipv4_addr; elements = { 192.168.56.10, … } }
//!     chain postrouting {
//!         type nat hook postrouting priority srcnat; policy accept;
//!         ip saddr 10.244.1.0/24 ip daddr != 10.244.0.0/16 ip daddr != @nodes oifname != "skiff*" masquerade fully-random
//!         oifname "skiffvx0" ip saddr != 10.244.0.0/16 masquerade fully-random
//!     }
//!     chain saved { return comment "net.ipv4.ip_forward=0" }
//!     # and the chains of host ports, see `host_ports`
//! }
//! ```
//!
//! The first rule gives a pod's packet to the outside the node's address, as
//! nobody out there has a route to a pod. Nodes have one. The second keeps the
//! way back through the tunnel: a reply to the node's own address would take
//! the plain road, and the far node could take the request for forged.
//!
//! `saved` is never called. It notes what a kernel switch was before we set
//! it, and lives exactly as long as the setting does: until teardown or reboot.
//!
//! **FORWARD.** Docker sets the policy of `ip filter FORWARD` to drop. In
//! nftables a drop in one table is final whatever other tables accept, so the
//! accept must stand inside that table. Docker keeps a chain there for others
//! to use, `DOCKER-USER`, and leaves its content alone; where there is no
//! Docker but such a policy (ufw), our rules open FORWARD itself:
//!
//! ```text
//! table ip filter {
//!     chain DOCKER-USER {
//!         iifname "skiff*" accept comment "skiff"
//!         oifname "skiff*" accept comment "skiff"
//!     }
//! }
//! ```
//!
//! Left out: Docker on `iptables-legacy`, whose rules nft cannot reach; there
//! `iptables-legacy -P FORWARD ACCEPT` is up to the administrator.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use nftables::helper::{
    DEFAULT_ARGS, DEFAULT_NFT, NftablesError, apply_ruleset_raw_async,
    get_current_ruleset_raw_async,
};
use serde_json::{Value, json};

use super::NetworkError;
use super::host_ports::{self, Forwards};
use super::sysctl::Setting;

/// Our table in the `ip` family.
pub(super) const TABLE: &str = "skiff-network";

/// The mark on rules that stand in somebody else's table.
const COMMENT: &str = "skiff";

/// Everything the table's content depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Desired {
    pub(super) pod_cidr: Ipv4Net,
    pub(super) cluster_cidr: Ipv4Net,
    pub(super) nodes: BTreeSet<Ipv4Addr>,
    pub(super) saved: Vec<Setting>,
    pub(super) forwards: Forwards,
}

/// The commands that put the table as desired, whatever was there before. In
/// one transaction, so no packet meets a half-built table.
pub(super) fn plan_table(desired: &Desired) -> Vec<Value> {
    let table = json!({"family": "ip", "name": TABLE});
    let chain = |name: &str| json!({"family": "ip", "table": TABLE, "name": name});
    let rule = |chain: &str, expr: Value, comment: Option<&str>| {
        let mut rule = json!({"family": "ip", "table": TABLE, "chain": chain, "expr": expr});
        if let Some(comment) = comment {
            rule["comment"] = json!(comment);
        }
        json!({"add": {"rule": rule}})
    };
    let mut postrouting = chain("postrouting");
    postrouting["type"] = json!("nat");
    postrouting["hook"] = json!("postrouting");
    postrouting["prio"] = json!(100);
    postrouting["policy"] = json!("accept");

    let masquerade = json!({"masquerade": {"flags": "fully-random"}});
    let mut commands = vec![
        // The first `add` makes the `delete` valid where there is no table.
        json!({"add": {"table": table}}),
        json!({"delete": {"table": table}}),
        json!({"add": {"table": table}}),
        json!({"add": {"set": {
            "family": "ip", "table": TABLE, "name": "nodes", "type": "ipv4_addr",
        }}}),
        json!({"add": {"chain": postrouting}}),
        // ip saddr POD_CIDR ip daddr != CLUSTER_CIDR ip daddr != @nodes oifname != "skiff*" masquerade
        rule(
            "postrouting",
            json!([
                matches(ip("saddr"), "==", prefix(desired.pod_cidr)),
                matches(ip("daddr"), "!=", prefix(desired.cluster_cidr)),
                matches(ip("daddr"), "!=", json!("@nodes")),
                matches(meta("oifname"), "!=", json!("skiff*")),
                masquerade,
            ]),
            None,
        ),
        // oifname "skiffvx0" ip saddr != CLUSTER_CIDR masquerade
        rule(
            "postrouting",
            json!([
                matches(meta("oifname"), "==", json!(super::routes::TUNNEL)),
                matches(ip("saddr"), "!=", prefix(desired.cluster_cidr)),
                masquerade,
            ]),
            None,
        ),
        json!({"add": {"chain": chain("saved")}}),
    ];
    for setting in &desired.saved {
        commands.push(rule("saved", json!([{"return": null}]), Some(&setting.to_string())));
    }
    commands.extend(plan_node_elements(&desired.nodes));
    commands.extend(host_ports::plan_chains(&desired.forwards));
    commands
}

/// The commands that make `nodes` the content of the set of that name.
pub(super) fn plan_nodes(nodes: &BTreeSet<Ipv4Addr>) -> Vec<Value> {
    let set = json!({"family": "ip", "table": TABLE, "name": "nodes"});
    let mut commands = vec![json!({"flush": {"set": set}})];
    commands.extend(plan_node_elements(nodes));
    commands
}

fn plan_node_elements(nodes: &BTreeSet<Ipv4Addr>) -> Option<Value> {
    let elements: Vec<_> = nodes.iter().map(Ipv4Addr::to_string).collect();
    (!elements.is_empty()).then(|| {
        json!({"add": {"element": {
            "family": "ip", "table": TABLE, "name": "nodes", "elem": elements,
        }}})
    })
}

/// The commands that open the host's FORWARD chain for pods, given the JSON
/// listing of table `ip filter`. Empty when nothing drops or all is in place.
pub(super) fn plan_forward_accepts(filter: &Value) -> Vec<Value> {
    let Some(chain) = forward_entry(filter) else { return Vec::new() };
    if our_rules(filter).iter().filter(|(in_chain, _)| *in_chain == chain).count() >= 2 {
        return Vec::new();
    }
    let accept = |side: &str| {
        // insert rule ip filter DOCKER-USER iifname "skiff*" accept comment "skiff"
        json!({"insert": {"rule": {
            "family": "ip", "table": "filter", "chain": chain, "comment": COMMENT,
            "expr": [matches(meta(side), "==", json!("skiff*")), {"accept": null}],
        }}})
    };
    let mut commands = plan_forward_cleanup(filter);
    commands.extend([accept("iifname"), accept("oifname")]);
    commands
}

/// The commands that take our rules out of table `ip filter` again.
pub(super) fn plan_forward_cleanup(filter: &Value) -> Vec<Value> {
    our_rules(filter)
        .into_iter()
        .map(|(chain, handle)| {
            json!({"delete": {"rule": {
                "family": "ip", "table": "filter", "chain": chain, "handle": handle,
            }}})
        })
        .collect()
}

/// The chain in which an accept of ours is needed and heard.
fn forward_entry(filter: &Value) -> Option<&'static str> {
    let chains = || objects(filter).filter_map(|object| object.get("chain"));
    if chains().any(|chain| chain["name"] == "DOCKER-USER") {
        return Some("DOCKER-USER");
    }
    chains()
        .any(|chain| {
            chain["hook"] == "forward" && chain["name"] == "FORWARD" && chain["policy"] == "drop"
        })
        .then_some("FORWARD")
}

/// Chain and handle of every rule that carries our comment.
fn our_rules(filter: &Value) -> Vec<(&str, u64)> {
    objects(filter)
        .filter_map(|object| object.get("rule"))
        .filter(|rule| rule["comment"] == COMMENT)
        .filter_map(|rule| Some((rule["chain"].as_str()?, rule["handle"].as_u64()?)))
        .collect()
}

/// The settings noted in chain `saved` of our table's listing.
pub(super) fn saved_settings(table: &Value) -> Vec<Setting> {
    objects(table)
        .filter_map(|object| object.get("rule"))
        .filter(|rule| rule["chain"] == "saved")
        .filter_map(|rule| Setting::parse(rule["comment"].as_str()?))
        .collect()
}

pub(super) fn objects(listing: &Value) -> impl Iterator<Item = &Value> {
    listing["nftables"].as_array().into_iter().flatten()
}

pub(super) fn matches(left: Value, op: &str, right: Value) -> Value {
    json!({"match": {"left": left, "op": op, "right": right}})
}

pub(super) fn ip(field: &str) -> Value {
    json!({"payload": {"protocol": "ip", "field": field}})
}

fn meta(key: &str) -> Value {
    json!({"meta": {"key": key}})
}

fn prefix(net: Ipv4Net) -> Value {
    json!({"prefix": {"addr": net.network().to_string(), "len": net.prefix_len()}})
}

/// Runs `commands` as one transaction. Nothing is run for an empty list.
pub(super) async fn apply_commands(commands: Vec<Value>) -> Result<(), NetworkError> {
    if commands.is_empty() {
        return Ok(());
    }
    let payload = json!({"nftables": commands}).to_string();
    match apply_ruleset_raw_async(&payload, DEFAULT_NFT, DEFAULT_ARGS).await {
        Ok(_) => Ok(()),
        Err(source) => Err(firewall_error("apply the pod network's rules", source)),
    }
}

/// The listing of one table of the `ip` family; `None` when it does not exist,
/// as on a machine without `nft`.
pub(super) async fn observe_table(table: &str) -> Result<Option<Value>, NetworkError> {
    let action = "list a table";
    match get_current_ruleset_raw_async(DEFAULT_NFT, &["list", "table", "ip", table]).await {
        Ok(text) => serde_json::from_str(&text)
            .map(Some)
            .map_err(|err| firewall_error(action, NftablesError::NftInvalidJson(err))),
        Err(NftablesError::NftFailed { stderr, .. }) if stderr.contains("No such file") => Ok(None),
        Err(NftablesError::NftExecution { inner, .. })
            if inner.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(source) => Err(firewall_error(action, source)),
    }
}

/// The library's message leaves out what `nft` itself said; keep it.
fn firewall_error(action: &str, source: NftablesError) -> NetworkError {
    let said = match &source {
        NftablesError::NftFailed { stderr, .. } => format!(": {}", stderr.trim()),
        _ => String::new(),
    };
    NetworkError::Firewall { action: format!("{action}{said}"), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(objects: Value) -> Value {
        json!({"nftables": objects})
    }

    #[test]
    fn accepts_go_where_they_are_heard() {
        let forward = |policy: &str| json!({"chain": {"name": "FORWARD", "hook": "forward", "policy": policy}});
        let docker = json!({"chain": {"name": "DOCKER-USER"}});
        let ours = |chain: &str, handle: u64| json!({"rule": {"chain": chain, "handle": handle, "comment": "skiff"}});
        let cases = [
            ("nothing there", json!([]), vec![]),
            ("policy accept", json!([forward("accept")]), vec![]),
            ("policy drop", json!([forward("drop")]), vec!["FORWARD", "FORWARD"]),
            ("docker", json!([forward("drop"), docker]), vec!["DOCKER-USER", "DOCKER-USER"]),
            ("in place", json!([docker, ours("DOCKER-USER", 3), ours("DOCKER-USER", 4)]), vec![]),
        ];
        for (name, objects, chains) in cases {
            let planned = plan_forward_accepts(&listing(objects));
            let planned: Vec<_> =
                planned.iter().map(|command| &command["insert"]["rule"]["chain"]).collect();
            assert_eq!(planned, chains, "{name}");
        }
    }

    #[test]
    fn rules_left_in_another_chain_move() {
        let filter = listing(json!([
            {"chain": {"name": "DOCKER-USER"}},
            {"rule": {"chain": "FORWARD", "handle": 7, "comment": "skiff"}},
            {"rule": {"chain": "FORWARD", "handle": 8, "comment": "skiff"}},
            {"rule": {"chain": "FORWARD", "handle": 9}},
        ]));
        let planned = plan_forward_accepts(&filter);
        assert_eq!(planned[0]["delete"]["rule"]["handle"], 7);
        assert_eq!(planned[1]["delete"]["rule"]["handle"], 8);
        assert_eq!(planned.len(), 4);
        assert_eq!(plan_forward_cleanup(&filter).len(), 2);
    }

    #[test]
    fn saved_settings_are_read_back() {
        let table = listing(json!([
            {"rule": {"chain": "saved", "comment": "net.ipv4.ip_forward=0"}},
            {"rule": {"chain": "saved", "comment": "kernel.panic=1"}},
            {"rule": {"chain": "postrouting", "comment": "net.ipv4.tcp_syncookies=0"}},
        ]));
        let saved: Vec<_> = saved_settings(&table).iter().map(Setting::to_string).collect();
        assert_eq!(saved, ["net.ipv4.ip_forward=0"]);
    }
}
