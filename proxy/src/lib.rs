//! Service VIPs on nftables and cluster DNS.
//!
//! Reads Services and EndpointSlices, one watch each. Writes nothing to the
//! API. Owns, in the network namespace it runs in: the nftables table
//! `ip skiff-proxy`, the route to the service range (protocol 116), and a DNS
//! server on the loopback behind the cluster's DNS address.
//!
//! In reading order: [`view`] is what the proxy knows; [`rules`] turns it into
//! a ruleset and [`sync`] keeps the kernel at it; [`dns`] answers names from
//! the same view.
//!
//! Left out: IPv6, health check node ports, topology hints, and any question
//! to Docker.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod view;

pub mod rules;

pub mod sync;

pub mod nft;

pub mod host;

pub mod conntrack;

pub mod dns;
mod watch;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};

use anyhow::Context as _;
use ipnet::Ipv4Net;
use kube::Client;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::info;

use dns::DnsServer;
use dns::answer::Zone;
use rules::TABLE;
use rules::base::BaseConfig;
use rules::service::NodeContext;
use sync::Rules;
use view::View;

/// What the proxy of one node needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// This node's name; tells its own endpoints from the others.
    pub node_name: String,
    /// This node's addresses, the InternalIP first.
    pub node_ips: Vec<IpAddr>,
    /// The network all pods live in (default 10.244.0.0/16).
    pub cluster_cidr: Ipv4Net,
    /// The network all cluster IPs come from (default 10.96.0.0/16).
    pub service_cidr: Ipv4Net,
    /// The cluster's DNS address (default 10.96.0.10).
    pub cluster_dns: IpAddr,
    /// The cluster's domain (default `cluster.local`).
    pub cluster_domain: String,
    /// Where the node keeps its files. The proxy keeps none so far.
    pub data_dir: PathBuf,
}

/// Runs the proxy until cancelled. `ready` turns true when the rules and the
/// names of everything that exists are served. On return all of it stays in
/// force: running pods go on without us.
pub async fn run(
    config: Config,
    client: Client,
    ready: tokio::sync::watch::Sender<bool>,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let is_v4 = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    };
    let node_ip = config.node_ips.iter().find_map(is_v4).context("the node has no IPv4 address")?;
    let cluster_dns = is_v4(&config.cluster_dns).context("cluster DNS has no IPv4 address")?;

    let view = Arc::new(RwLock::new(View::default()));
    let zone =
        Zone::new(&config.cluster_domain, cluster_dns, config.cluster_cidr, config.service_cidr);
    let server =
        DnsServer::bind(zone, Arc::clone(&view)).await.context("cannot start the DNS server")?;
    let base = BaseConfig {
        cluster_cidr: config.cluster_cidr,
        service_cidr: config.service_cidr,
        cluster_dns,
        dns_server: server.address(),
        saved: observe_saved().await?,
    };
    let node =
        NodeContext { node_name: config.node_name, cluster_cidr: config.cluster_cidr, cluster_dns };
    let rules = Rules::new(base, node);
    rules.apply_base().await.context("cannot load the proxy's rules")?;
    // Only now: the table just loaded guards what the switch opens.
    host::apply_switch(&format!("{}=1", host::ROUTE_LOCALNET))?;
    host::ensure_service_route(config.service_cidr, node_ip).await?;
    info!(service_cidr = %config.service_cidr, dns = %server.address(), "proxy started");

    // Either half ending by itself ends the other: a node that answers no
    // names, or follows no changes, had better be started again.
    let cancel = cancel.child_token();
    let names = async {
        let ended = server.serve(cancel.clone()).await.context("the DNS server ended");
        cancel.cancel();
        ended
    };
    let packets = async {
        let ended = watch::run(rules, view, client, ready, cancel.clone()).await;
        cancel.cancel();
        ended
    };
    let (names, packets) = tokio::join!(names, packets);
    names.and(packets)
}

/// Kernel switches as an earlier run found them, or else as they are.
async fn observe_saved() -> anyhow::Result<Vec<String>> {
    let Some(rules) = nft::observe_chain(TABLE, "saved").await? else {
        return Ok(vec![host::observe_switch(host::ROUTE_LOCALNET)?]);
    };
    Ok(rules.iter().filter_map(|rule| rule["comment"].as_str().map(str::to_owned)).collect())
}

/// Removes the table and the route and puts the kernel's switches back.
/// Does nothing where there is nothing.
pub async fn teardown() -> anyhow::Result<()> {
    let route = host::remove_service_routes().await.context("the service route stays");
    let rules = remove_rules().await.context("the proxy's rules stay");
    route.and(rules)
}

async fn remove_rules() -> anyhow::Result<()> {
    let Some(saved) = nft::observe_chain(TABLE, "saved").await? else { return Ok(()) };
    // Before the guard in the table goes.
    for setting in saved.iter().filter_map(|rule| rule["comment"].as_str()) {
        host::apply_switch(setting)?;
    }
    let table = json!({"delete": {"table": {"family": "ip", "name": TABLE}}});
    nft::apply_commands(vec![table]).await.map_err(Into::into)
}
