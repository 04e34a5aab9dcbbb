//! Small sentences over rtnetlink: what this module needs of links, addresses
//! and routes, in the network namespace in which the handle was made.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::thread;

use futures::TryStreamExt;
use ipnet::Ipv4Net;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::{InfoData, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol,
};
use nix::sched::{CloneFlags, setns};
use rtnetlink::{Handle, LinkDelRequest, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};

use super::NetworkError;

/// The mark on every route this module makes (`ip route` shows `proto 115`).
pub(super) const ROUTE_PROTOCOL: RouteProtocol = RouteProtocol::Other(115);

/// What we look at in a network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mac: Vec<u8>,
    pub(super) mtu: u32,
    /// Index of the other end, in the other end's namespace.
    pub(super) peer: Option<u32>,
    /// The address that a VXLAN tunnel sends from.
    pub(super) tunnel_local: Option<Ipv4Addr>,
}

/// An IPv4 address on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InterfaceAddress {
    pub(super) link: u32,
    pub(super) net: Ipv4Net,
}

/// Opens a netlink connection in the calling thread's network namespace. The
/// task that drives it ends when the last handle is dropped.
pub(super) fn connect() -> Result<Handle, NetworkError> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|source| NetworkError::Socket { source })?;
    tokio::spawn(connection);
    Ok(handle)
}

/// Opens a netlink connection in the network namespace of `namespace`.
///
/// A socket belongs for ever to the namespace it was made in, so only the
/// making needs a thread there. That thread is thrown away afterwards: one
/// that went back to a shared pool would carry the pod's namespace with it.
pub(super) async fn connect_in(namespace: File) -> Result<Handle, NetworkError> {
    let runtime = tokio::runtime::Handle::current();
    let (made_tx, made_rx) = tokio::sync::oneshot::channel();
    thread::Builder::new()
        .name("skiff-netns".to_owned())
        .spawn(move || {
            let _entered = runtime.enter();
            let made = setns(&namespace, CloneFlags::CLONE_NEWNET)
                .map_err(io::Error::from)
                .and_then(|()| rtnetlink::new_connection());
            // A receiver that is gone was cancelled; the socket closes here.
            drop(made_tx.send(made));
        })
        .map_err(|source| NetworkError::Socket { source })?;
    let made = made_rx.await.map_err(|_| NetworkError::Socket {
        source: io::Error::other("the thread in the pod's namespace ended early"),
    })?;
    let (connection, handle, _) = made.map_err(|source| NetworkError::Socket { source })?;
    tokio::spawn(connection);
    Ok(handle)
}

/// The interface called `name`, if there is one.
pub(super) async fn link_named(handle: &Handle, name: &str) -> Result<Option<Link>, NetworkError> {
    let mut found = Box::pin(handle.link().get().match_name(name).execute());
    match found.try_next().await {
        Ok(message) => Ok(message.map(describe_link)),
        Err(err) if is_gone(&err) => Ok(None),
        Err(source) => Err(failed(&format!("look for interface {name}"))(source)),
    }
}

/// All interfaces.
pub(super) async fn links(handle: &Handle) -> Result<Vec<Link>, NetworkError> {
    let links = handle.link().get().execute().map_ok(describe_link).try_collect().await;
    links.map_err(failed("list interfaces"))
}

/// Removes an interface; one that is already gone is fine.
pub(super) async fn delete_link(handle: &Handle, link: &Link) -> Result<(), NetworkError> {
    match handle.link().del(link.index).execute().await {
        Err(err) if is_gone(&err) => Ok(()),
        other => other.map_err(failed(&format!("delete interface {}", link.name))),
    }
}

/// Removes all interfaces of a group; a group without any is fine.
pub(super) async fn delete_group(handle: &Handle, group: u32) -> Result<(), NetworkError> {
    let members = LinkMessageBuilder::<LinkUnspec>::new().link_group(group).build();
    match LinkDelRequest::new_with_message(handle.clone(), members).execute().await {
        Err(err) if is_gone(&err) => Ok(()),
        other => other.map_err(failed(&format!("delete the interfaces of group {group}"))),
    }
}

fn describe_link(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: Vec::new(),
        mtu: 1500,
        peer: None,
        tunnel_local: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(mac) => link.mac = mac,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Link(peer) => link.peer = Some(peer),
            LinkAttribute::LinkInfo(infos) => link.tunnel_local = tunnel_local(infos),
            _ => {}
        }
    }
    link
}

fn tunnel_local(infos: Vec<LinkInfo>) -> Option<Ipv4Addr> {
    infos.into_iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(data)) => data.into_iter().find_map(|one| match one {
            InfoVxlan::Local(address) => Some(address),
            _ => None,
        }),
        _ => None,
    })
}

/// All IPv4 addresses of this namespace.
pub(super) async fn addresses(handle: &Handle) -> Result<Vec<InterfaceAddress>, NetworkError> {
    let messages: Vec<_> =
        handle.address().get().execute().try_collect().await.map_err(failed("list addresses"))?;
    Ok(messages
        .iter()
        .filter_map(|message| {
            let local = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(IpAddr::V4(ip)) => Some(*ip),
                _ => None,
            })?;
            let net = Ipv4Net::new(local, message.header.prefix_len).ok()?;
            Some(InterfaceAddress { link: message.header.index, net })
        })
        .collect())
}

/// All IPv4 routes that carry our protocol number.
pub(super) async fn our_routes(handle: &Handle) -> Result<Vec<RouteMessage>, NetworkError> {
    let every = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let routes: Vec<_> =
        handle.route().get(every).execute().try_collect().await.map_err(failed("list routes"))?;
    Ok(routes
        .into_iter()
        .filter(|route| {
            route.header.protocol == ROUTE_PROTOCOL
                && route.header.table == RouteHeader::RT_TABLE_MAIN
                && route.header.address_family == AddressFamily::Inet
        })
        .collect())
}

/// Adds or replaces a route.
pub(super) async fn ensure_route(handle: &Handle, route: RouteMessage) -> Result<(), NetworkError> {
    let what = format!("set the route to {}", describe_destination(&route));
    handle.route().add(route).replace().execute().await.map_err(failed(&what))
}

/// Removes a route; one that is already gone is fine.
pub(super) async fn delete_route(handle: &Handle, route: RouteMessage) -> Result<(), NetworkError> {
    let what = format!("delete the route to {}", describe_destination(&route));
    match handle.route().del(route).execute().await {
        Err(err) if is_errno(&err, nix::libc::ESRCH) => Ok(()),
        other => other.map_err(failed(&what)),
    }
}

/// Where a route leads to.
pub(super) fn destination(route: &RouteMessage) -> Option<Ipv4Net> {
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(*ip),
        _ => None,
    })?;
    Ipv4Net::new(address, route.header.destination_prefix_length).ok()
}

/// The interface a route uses.
pub(super) fn output_interface(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

/// The next hop of a route.
pub(super) fn gateway(route: &RouteMessage) -> Option<Ipv4Addr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(ip)) => Some(*ip),
        _ => None,
    })
}

fn describe_destination(route: &RouteMessage) -> String {
    destination(route).map_or_else(|| "everywhere".to_owned(), |net| net.to_string())
}

/// Turns a netlink error into ours, saying what was being done.
pub(super) fn failed(action: &str) -> impl FnOnce(rtnetlink::Error) -> NetworkError {
    let action = action.to_owned();
    move |source| NetworkError::Netlink { action, source }
}

/// Whether the kernel says that there is no such interface.
pub(super) fn is_gone(err: &rtnetlink::Error) -> bool {
    is_errno(err, nix::libc::ENODEV)
}

fn is_errno(err: &rtnetlink::Error, errno: i32) -> bool {
    matches!(err, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -errno)
}
