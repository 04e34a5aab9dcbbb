//! What the proxy needs of the host besides rules: one route, one switch.
//!
//! ```text
//! 10.96.0.0/16 dev lo proto 116 scope link src NODE_IP
//! net.ipv4.conf.all.route_localnet = 1
//! ```
//!
//! **The route.** A local process that connects to a VIP is routed before the
//! output hook translates the address. Without a route of its own the packet
//! needs a default route to get that far, and takes its source address from
//! it, and without a translation it leaves the machine. Over `lo` the packet
//! is always routable, gets the node's address, is routed anew once it is
//! translated, and is refused by the output filter if it is not.
//! (`unreachable` would fail the connect before any hook sees the packet.)
//!
//! **The switch** lets the kernel route 127.0.0.0/8 beyond `lo`; see
//! [`crate::rules::base`] for why, and for the guard that comes with it.

use std::fs;
use std::io;
use std::net::Ipv4Addr;

use futures::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::{Handle, RouteMessageBuilder};

/// The mark on our route.
const ROUTE_PROTOCOL: RouteProtocol = RouteProtocol::Other(116);

/// `lo` has this index in every network namespace.
const LOOPBACK: u32 = 1;

/// The switch, as `sysctl` names it.
pub const ROUTE_LOCALNET: &str = "net.ipv4.conf.all.route_localnet";

/// The host did not take the route or the switch.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A netlink socket could not be opened.
    #[error("cannot open a netlink socket")]
    Socket(#[source] io::Error),
    /// The kernel refused a change to its routes.
    #[error("cannot {action} the route to the service range")]
    Route {
        /// What was being done.
        action: &'static str,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// A switch could not be read or set.
    #[error("cannot read or set {path}")]
    Switch {
        /// Its file.
        path: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

fn connect() -> Result<Handle, HostError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(HostError::Socket)?;
    tokio::spawn(connection);
    Ok(handle)
}

/// Lays the route to the service range.
pub async fn ensure_service_route(
    service_cidr: Ipv4Net,
    node_ip: Ipv4Addr,
) -> Result<(), HostError> {
    let handle = connect()?;
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(service_cidr.network(), service_cidr.prefix_len())
        .output_interface(LOOPBACK)
        .pref_source(node_ip)
        .scope(RouteScope::Link)
        .protocol(ROUTE_PROTOCOL)
        .build();
    let laid = handle.route().add(route).replace().execute().await;
    laid.map_err(|source| HostError::Route { action: "lay", source })
}

/// Removes our routes.
pub async fn remove_service_routes() -> Result<(), HostError> {
    let handle = connect()?;
    let every = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let routes: Vec<RouteMessage> = handle
        .route()
        .get(every)
        .execute()
        .try_collect()
        .await
        .map_err(|source| HostError::Route { action: "look for", source })?;
    let is_ours = |route: &RouteMessage| {
        route.header.protocol == ROUTE_PROTOCOL
            && route.header.address_family == AddressFamily::Inet
    };
    for route in routes.into_iter().filter(is_ours) {
        let removed = handle.route().del(route).execute().await;
        removed.map_err(|source| HostError::Route { action: "remove", source })?;
    }
    Ok(())
}

/// The switch's present setting, written `NAME=VALUE`.
pub fn observe_switch(name: &str) -> Result<String, HostError> {
    let path = switch_path(name);
    match fs::read_to_string(&path) {
        Ok(value) => Ok(format!("{name}={}", value.trim())),
        Err(source) => Err(HostError::Switch { path, source }),
    }
}

/// Applies a setting written `NAME=VALUE`, unless it is in force. Anything but
/// a setting below `net.` is ignored: the text may come back from the kernel's
/// rules, where others can write too.
pub fn apply_switch(setting: &str) -> Result<(), HostError> {
    let Some((name, value)) = setting.split_once('=') else { return Ok(()) };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !name.starts_with("net.") || name.contains("..") || !name.chars().all(plain) {
        return Ok(());
    }
    if observe_switch(name)? == setting {
        return Ok(());
    }
    let path = switch_path(name);
    fs::write(&path, value).map_err(|source| HostError::Switch { path, source })
}

fn switch_path(name: &str) -> String {
    format!("/proc/sys/{}", name.replace('.', "/"))
}
