//! The pod network: an address and a cable for every pod, routes between nodes.
//!
//! Owns, in the network namespace the agent runs in: the interfaces
//! `skiff<10 hex>` (one per pod, `veth`) and `skiffvx0`, the routes with
//! protocol 115 (`routes`), the nftables table `skiff-network` and two
//! rules with the comment `skiff` in the host's filter table (`rules`).
//! Reads Nodes. Writes nothing to the API and nothing to disk.
//!
//! Everything is found again by name, so a restarted agent adopts what is
//! there: the interface's name tells the pod, its route tells the address.
//! Several agents on one machine live each in a network namespace of its own,
//! and every word above is per namespace.
//!
//! Reverse path filtering needs no loosening: every packet comes in where its
//! answer goes out, so even a strict filter passes.
//!
//! Left out: IPv6, network policies, and the service range, which belongs to
//! the proxy.

mod address;
mod host_ports;
mod netlink;
mod nodes;
mod notice;
mod routes;
mod rules;
mod sysctl;
#[cfg(test)]
mod tests;
mod unplug;
mod veth;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::TryStreamExt;
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::runtime::watcher;
use nftables::helper::NftablesError;
use rtnetlink::Handle;
use skiff_client::chain;
use skiff_client::{Api, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use address::AddressPool;
use host_ports::{Forward, Forwards, observed_forwards, plan_forwards};
use netlink::{
    Link, addresses, connect, delete_link, delete_route, destination, link_named, links,
    our_routes, output_interface,
};
use nodes::NodeView;
use notice::{FilterNotices, has_legacy_filter};
use routes::{Road, apply_step, ensure_catch_all, ensure_tunnel, plan_roads, plan_routes};
use rules::{
    apply_commands, observe_table, plan_forward_accepts, plan_forward_cleanup, plan_nodes,
    plan_table, saved_settings,
};
use sysctl::Setting;
use unplug::Unplugging;
use veth::{Cable, ensure_cable};

pub use host_ports::HostPort;

/// Forwarding, without which no pod's packet leaves its cable.
const IP_FORWARD: &str = "net.ipv4.ip_forward";

/// How long the host's filter table must be left alone before we look at it.
const FILTER_QUIET: Duration = Duration::from_millis(50);

/// How long after a failed pass over the routes the next one begins.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// What the pod network of one node needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// This node's InternalIP.
    pub node_ip: Ipv4Addr,
    /// This node's slice of the cluster network (`spec.podCIDR` of its Node).
    pub pod_cidr: Ipv4Net,
    /// The network all pods live in.
    pub cluster_cidr: Ipv4Net,
}

/// Why the pod network could not be put in order.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The sandbox is gone; make a new one and attach that.
    #[error("the sandbox's process {pid} has no network namespace any more")]
    Sandbox {
        /// The sandbox's process id, as it was given.
        pid: u32,
        /// What opening its namespace answered.
        source: io::Error,
    },
    /// All addresses of the podCIDR are held; wait for a pod to go.
    #[error("every address of {pod_cidr} is in use")]
    NoAddress {
        /// The node's podCIDR.
        pod_cidr: Ipv4Net,
    },
    /// An interface disappeared while it was being set up.
    #[error("interface {name} vanished while it was being set up")]
    Vanished {
        /// The interface.
        name: String,
    },
    /// The kernel refused a change to interfaces, addresses or routes.
    #[error("cannot {action}")]
    Netlink {
        /// What was being done.
        action: String,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// A netlink socket could not be opened.
    #[error("cannot open a netlink socket")]
    Socket {
        /// The kernel's answer.
        source: io::Error,
    },
    /// nftables refused our rules, or `nft` is not installed.
    #[error("cannot {action}")]
    Firewall {
        /// What was being done, and what `nft` said.
        action: String,
        /// The library's error.
        source: NftablesError,
    },
    /// A kernel switch could not be read or set.
    #[error("cannot read or set {path}")]
    Sysctl {
        /// The switch's file.
        path: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Some of what teardown should remove is still there.
    #[error("the pod network is not entirely removed: {}", failures.join("; "))]
    Teardown {
        /// One line per thing that could not be removed.
        failures: Vec<String>,
    },
}

/// The pod network of this node, open for pods.
#[derive(Debug)]
pub struct PodNetwork {
    config: Config,
    node: Handle,
    /// The MTU of the interface that carries `node_ip`.
    mtu: u32,
    /// Held only to look up or change an entry, never across an await.
    pool: Mutex<AddressPool>,
    /// Held while the rules are changed, so that they follow one another.
    forwards: tokio::sync::Mutex<Forwards>,
    unplugging: Unplugging,
}

impl PodNetwork {
    /// Puts the node's side in order and adopts the pods that are plugged in.
    pub async fn open(config: Config) -> Result<Self, NetworkError> {
        let node = connect()?;
        let mtu = uplink_mtu(&node, config.node_ip).await?;
        let adopted = observe_pods(&node).await?;
        info!(pod_cidr = %config.pod_cidr, adopted = adopted.len(), mtu, "pod network open");
        let forwards = ensure_rules(&config, &adopted).await?;
        ensure_catch_all(&node, config.cluster_cidr).await?;
        let pool = Mutex::new(AddressPool::new(config.pod_cidr, adopted));
        let forwards = tokio::sync::Mutex::new(forwards);
        Ok(Self { config, node, mtu, pool, forwards, unplugging: Unplugging::default() })
    }

    /// Gives the pod an address, plugs its sandbox in and leads the node's
    /// `ports` there. The same pod gets the same address; a new sandbox of it
    /// is plugged in anew.
    pub async fn attach(
        &self,
        pod_uid: &str,
        sandbox_pid: u32,
        ports: &[HostPort],
    ) -> Result<IpAddr, NetworkError> {
        let cable = Cable::of(pod_uid);
        let ip = self
            .pool()
            .assign(&cable.key)
            .ok_or(NetworkError::NoAddress { pod_cidr: self.config.pod_cidr })?;
        // On failure the pod keeps its address: the next try will want one,
        // and `detach` gives it back.
        ensure_cable(&self.node, &cable, pod_uid, sandbox_pid, ip, self.mtu).await?;
        let lead =
            |port: &HostPort| Forward { key: cable.key.clone(), port: port.clone(), pod: ip };
        self.forward(&cable.key, ports.iter().map(lead).collect()).await?;
        Ok(IpAddr::V4(ip))
    }

    /// Makes these the host ports of one pod.
    async fn forward(&self, key: &str, mut wanted: Vec<Forward>) -> Result<(), NetworkError> {
        wanted.sort();
        let mut forwards = self.forwards.lock().await;
        if forwards.get(key).map_or(&[][..], Vec::as_slice) == wanted {
            return Ok(());
        }
        let mut changed = forwards.clone();
        match wanted.is_empty() {
            true => changed.remove(key),
            false => changed.insert(key.to_owned(), wanted),
        };
        apply_commands(plan_forwards(&changed)).await?;
        *forwards = changed;
        Ok(())
    }

    /// Unplugs the pod and gives its address back. Repeating it is fine.
    pub async fn detach(&self, pod_uid: &str) -> Result<(), NetworkError> {
        let cable = Cable::of(pod_uid);
        self.forward(&cable.key, Vec::new()).await?;
        if let Some(link) = link_named(&self.node, &cable.name).await? {
            self.unplugging.delete(&self.node, link).await?;
        }
        // Only now: an address must not be handed out while a cable has it.
        self.pool().release(&cable.key);
        Ok(())
    }

    /// Keeps the routes to other nodes' pods as the Nodes say, and the way
    /// through the host's filter table open, until cancelled.
    pub async fn run_routes(
        &self,
        client: Client,
        cancel: CancellationToken,
    ) -> Result<(), NetworkError> {
        let mut events = watch(Api::<Node>::all(client), watcher::Config::default());
        let mut view = NodeView::default();
        let mut laid = BTreeMap::new();
        let mut notices = FilterNotices::subscribe()?;
        // Changed before we listened.
        ensure_forward_accepts().await?;
        let mut retry_at = None;
        loop {
            // Every arm is cancel-safe. A pass, once begun, finishes.
            let changed = tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                event = events.try_next() => match event {
                    Ok(Some(event)) => view.observe(event),
                    Ok(None) => return Ok(()),
                    // The stream backs off and lists again by itself.
                    Err(err) => {
                        warn!(error = chain(&err), "the watch on nodes broke, will resume");
                        false
                    }
                },
                noticed = notices.changed() => {
                    noticed?;
                    reopen_forward(&mut notices).await;
                    false
                }
                () = sleep_until(retry_at) => true,
            };
            if !changed {
                continue;
            }
            retry_at = match self.sync_nodes(&view, &mut laid).await {
                Ok(()) => None,
                Err(err) => {
                    warn!(error = chain(&err), "routes to other nodes are incomplete, will retry");
                    Some(Instant::now() + RETRY_DELAY)
                }
            };
        }
    }

    /// One pass: routes and the set of node addresses, as the nodes are now.
    async fn sync_nodes(
        &self,
        view: &NodeView,
        laid: &mut BTreeMap<Ipv4Net, Road>,
    ) -> Result<(), NetworkError> {
        let local = addresses(&self.node).await?;
        let desired = plan_roads(&view.peers(), &local);
        let tunnel = match desired.values().any(|road| matches!(road, Road::Tunnel { .. })) {
            true => Some(self.ensure_tunnel().await?),
            false => None,
        };
        let observed = our_routes(&self.node).await?;
        let steps = plan_routes(&desired, &observed, laid, self.config.cluster_cidr);
        let mut first_failure = Ok(());
        for step in steps {
            // One unreachable node must not cost us the others.
            let applied = apply_step(&self.node, step, tunnel.as_ref()).await;
            first_failure = first_failure.and(applied);
        }
        let mut addresses = view.addresses();
        addresses.insert(self.config.node_ip);
        apply_commands(plan_nodes(&addresses)).await?;
        first_failure?;
        *laid = desired;
        Ok(())
    }

    async fn ensure_tunnel(&self) -> Result<Link, NetworkError> {
        ensure_tunnel(&self.node, self.config.node_ip, self.config.pod_cidr, self.mtu).await
    }

    fn pool(&self) -> std::sync::MutexGuard<'_, AddressPool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes every interface, route and rule of the pod network in the current
/// network namespace and puts kernel switches back. Running pods lose their
/// network. Carries on past failures and reports them all.
pub async fn teardown() -> Result<(), NetworkError> {
    let node = connect()?;
    let mut failures = Vec::new();
    let mut note = |result: Result<(), NetworkError>| {
        if let Err(err) = result {
            failures.push(chain(&err));
        }
    };
    match links(&node).await {
        Ok(links) => {
            for link in links.iter().filter(|link| is_ours(&link.name)) {
                note(delete_link(&node, link).await);
            }
        }
        Err(err) => note(Err(err)),
    }
    match our_routes(&node).await {
        Ok(routes) => {
            for route in routes {
                note(delete_route(&node, route).await);
            }
        }
        Err(err) => note(Err(err)),
    }
    note(remove_rules().await);
    if failures.is_empty() { Ok(()) } else { Err(NetworkError::Teardown { failures }) }
}

fn is_ours(name: &str) -> bool {
    name == routes::TUNNEL || Cable::key_in_name(name).is_some()
}

/// Puts our rules in place. What an earlier run led to the pods that are still
/// plugged in is kept, and returned.
async fn ensure_rules(
    config: &Config,
    adopted: &BTreeMap<String, Ipv4Addr>,
) -> Result<Forwards, NetworkError> {
    // What an earlier run noted is older than what the kernel says now.
    let earlier = rules::observe_table(rules::TABLE).await?;
    let saved = match &earlier {
        Some(table) => saved_settings(table),
        None => vec![Setting::observe(IP_FORWARD)?],
    };
    let mut forwards = earlier.as_ref().map(observed_forwards).unwrap_or_default();
    forwards.retain(|key, _| adopted.contains_key(key));
    forwards.values_mut().for_each(|list| list.sort());
    let nodes = BTreeSet::from([config.node_ip]);
    let desired = rules::Desired {
        pod_cidr: config.pod_cidr,
        cluster_cidr: config.cluster_cidr,
        nodes,
        saved,
        forwards,
    };
    apply_commands(plan_table(&desired)).await?;
    Setting { name: IP_FORWARD.to_owned(), value: "1".to_owned() }.apply()?;
    if has_legacy_filter().map_err(|source| NetworkError::Socket { source })? {
        warn!("iptables-legacy has a filter table here; if it drops FORWARD, pods are cut off");
    }
    ensure_forward_accepts().await?;
    Ok(desired.forwards)
}

/// Opens the host's FORWARD chain for pods, if something closed it.
async fn ensure_forward_accepts() -> Result<(), NetworkError> {
    match observe_table("filter").await? {
        Some(filter) => apply_commands(plan_forward_accepts(&filter)).await,
        None => Ok(()),
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Opens the FORWARD chain again after somebody rebuilt the filter table.
async fn reopen_forward(notices: &mut FilterNotices) {
    // A rebuild is a burst of small changes; wait until it is over.
    while tokio::time::timeout(FILTER_QUIET, notices.changed()).await.is_ok() {}
    if let Err(err) = ensure_forward_accepts().await {
        warn!(error = chain(&err), "the host's filter table may drop the pods' packets");
    }
}

async fn remove_rules() -> Result<(), NetworkError> {
    if let Some(filter) = observe_table("filter").await? {
        apply_commands(plan_forward_cleanup(&filter)).await?;
    }
    let Some(table) = observe_table(rules::TABLE).await? else { return Ok(()) };
    for setting in saved_settings(&table) {
        setting.apply()?;
    }
    let table = serde_json::json!({"family": "ip", "name": rules::TABLE});
    apply_commands(vec![serde_json::json!({"delete": {"table": table}})]).await
}

/// The pods that are plugged in, with the addresses their routes tell.
async fn observe_pods(node: &Handle) -> Result<BTreeMap<String, Ipv4Addr>, NetworkError> {
    let names: BTreeMap<u32, String> = links(node)
        .await?
        .into_iter()
        .filter_map(|link| Some((link.index, Cable::key_in_name(&link.name)?.to_owned())))
        .collect();
    Ok(our_routes(node)
        .await?
        .iter()
        .filter_map(|route| {
            let key = names.get(&output_interface(route)?)?;
            Some((key.clone(), destination(route)?.addr()))
        })
        .collect())
}

async fn uplink_mtu(node: &Handle, node_ip: Ipv4Addr) -> Result<u32, NetworkError> {
    let carriers = addresses(node).await?;
    let carrier = carriers.iter().find(|address| address.net.addr() == node_ip);
    let links = links(node).await?;
    Ok(links
        .iter()
        .find(|link| Some(link.index) == carrier.map(|carrier| carrier.link))
        // The loopback's 65536 is no measure for anybody else's path.
        .map_or(1500, |link| link.mtu.min(9000)))
}
