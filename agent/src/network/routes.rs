//! Routes from this node to the other nodes' pods.
//!
//! A node on the same layer 2 as we is reached directly, its InternalIP being
//! the next hop. A node behind a router cannot be a next hop; pods there are
//! reached through a VXLAN tunnel of ours:
//!
//! ```text
//! 10.244.2.0/24 via 192.168.56.12 dev eth1 proto 115            # same layer 2
//! 10.244.3.0/24 via 10.244.3.0 dev skiffvx0 onlink proto 115    # elsewhere
//! unreachable 10.244.0.0/16 proto 115
//! ```
//!
//! The tunnel needs no learning and no messages between nodes: the far end's
//! address is its podCIDR's first address, its MAC is computed from that, and
//! its place is its InternalIP. The unreachable route catches what belongs to
//! no known node; otherwise the default route would carry a packet for a pod
//! that is gone out of the building.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags};
use netlink_packet_route::route::{RouteMessage, RouteScope, RouteType};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVxlan, RouteMessageBuilder};

use super::NetworkError;
use super::netlink::{
    InterfaceAddress, Link, ROUTE_PROTOCOL, delete_link, delete_route, destination, ensure_route,
    failed, gateway, link_named, output_interface,
};

/// The tunnel's interface.
pub(super) const TUNNEL: &str = "skiffvx0";

/// The UDP port that Linux has always used for VXLAN.
const TUNNEL_PORT: u16 = 8472;

/// The tunnel's network identifier; any number that all nodes share.
const TUNNEL_ID: u32 = 115;

/// What an IP, a UDP, a VXLAN and an inner Ethernet header take from the MTU.
const TUNNEL_OVERHEAD: u32 = 50;

/// Another node, as far as routing is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Peer {
    pub(super) pod_cidr: Ipv4Net,
    pub(super) address: Ipv4Addr,
}

impl Peer {
    /// Reads a Node. `None` while it lacks a podCIDR or an InternalIP.
    pub(super) fn of(node: &Node) -> Option<Self> {
        let pod_cidr = node.spec.as_ref()?.pod_cidr.as_ref()?.parse().ok()?;
        Some(Self { pod_cidr, address: internal_ip(node)? })
    }
}

/// The node's first IPv4 InternalIP.
pub(super) fn internal_ip(node: &Node) -> Option<Ipv4Addr> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    addresses
        .iter()
        .filter(|address| address.type_ == "InternalIP")
        .find_map(|address| address.address.parse().ok())
}

/// How a peer's pods are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Road {
    /// Over the interface with this index, the peer being the next hop.
    Direct { link: u32, next_hop: Ipv4Addr },
    /// Through the tunnel to this node.
    Tunnel { node: Ipv4Addr },
}

/// The road to every peer's pods. `local` are this node's addresses.
pub(super) fn plan_roads(
    peers: &BTreeSet<Peer>,
    local: &[InterfaceAddress],
) -> BTreeMap<Ipv4Net, Road> {
    let is_local = |ip| local.iter().any(|address| address.net.addr() == ip);
    peers
        .iter()
        .filter(|peer| !is_local(peer.address))
        .map(|peer| {
            let nearest = local
                .iter()
                .filter(|address| address.net.contains(&peer.address))
                .max_by_key(|address| address.net.prefix_len());
            let road = match nearest {
                Some(at) => Road::Direct { link: at.link, next_hop: peer.address },
                None => Road::Tunnel { node: peer.address },
            };
            (peer.pod_cidr, road)
        })
        .collect()
}

/// A change to the routing table.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Ensure(Ipv4Net, Road),
    Delete(RouteMessage),
}

/// What turns the observed routes (all of them ours) into the desired roads.
/// Routes to single pods and the catch-all for `cluster_cidr` stay. `laid` are
/// the roads this process has laid before: a route does not show to which
/// node the tunnel forwards.
pub(super) fn plan_routes(
    desired: &BTreeMap<Ipv4Net, Road>,
    observed: &[RouteMessage],
    laid: &BTreeMap<Ipv4Net, Road>,
    cluster_cidr: Ipv4Net,
) -> Vec<Step> {
    let is_as_desired = |net: &Ipv4Net, road: &Road| {
        observed.iter().filter(|route| destination(route) == Some(*net)).any(|route| match road {
            Road::Direct { link, next_hop } => {
                output_interface(route) == Some(*link) && gateway(route) == Some(*next_hop)
            }
            Road::Tunnel { .. } => {
                gateway(route) == Some(net.network()) && laid.get(net) == Some(road)
            }
        })
    };
    let stale = observed.iter().filter(|route| {
        destination(route).is_some_and(|net| {
            net.prefix_len() < 32 && net != cluster_cidr.trunc() && !desired.contains_key(&net)
        })
    });
    let mut steps: Vec<_> = stale.map(|route| Step::Delete(route.clone())).collect();
    // A road that changes is replaced in place, without a moment of none.
    steps.extend(
        desired
            .iter()
            .filter(|(net, road)| !is_as_desired(net, road))
            .map(|(net, road)| Step::Ensure(*net, *road)),
    );
    steps
}

/// Carries out one step. `tunnel` must be up if a road leads through it.
pub(super) async fn apply_step(
    handle: &Handle,
    step: Step,
    tunnel: Option<&Link>,
) -> Result<(), NetworkError> {
    let route = RouteMessageBuilder::<Ipv4Addr>::new().protocol(ROUTE_PROTOCOL);
    match step {
        Step::Delete(route) => delete_route(handle, route).await,
        Step::Ensure(net, Road::Direct { link, next_hop }) => {
            let route = route
                .destination_prefix(net.network(), net.prefix_len())
                .gateway(next_hop)
                .output_interface(link);
            ensure_route(handle, route.build()).await
        }
        Step::Ensure(net, Road::Tunnel { node }) => {
            let Some(tunnel) = tunnel else {
                return Err(NetworkError::Vanished { name: TUNNEL.to_owned() });
            };
            ensure_tunnel_end(handle, tunnel, net.network(), node).await?;
            let route = route
                .destination_prefix(net.network(), net.prefix_len())
                .gateway(net.network())
                .output_interface(tunnel.index)
                .onlink();
            ensure_route(handle, route.build()).await
        }
    }
}

/// `unreachable CLUSTER_CIDR`
pub(super) async fn ensure_catch_all(
    handle: &Handle,
    cluster_cidr: Ipv4Net,
) -> Result<(), NetworkError> {
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(cluster_cidr.network(), cluster_cidr.prefix_len())
        .kind(RouteType::Unreachable)
        .scope(RouteScope::Universe)
        .protocol(ROUTE_PROTOCOL)
        .build();
    ensure_route(handle, route).await
}

/// Makes this node's end of the tunnel:
/// `ip link add skiffvx0 type vxlan id 115 local NODE_IP dstport 8472 nolearning`.
/// An end with another MAC belongs to an earlier podCIDR, one with another
/// local address to a machine that has moved; either is made anew.
pub(super) async fn ensure_tunnel(
    handle: &Handle,
    node_ip: Ipv4Addr,
    pod_cidr: Ipv4Net,
    uplink_mtu: u32,
) -> Result<Link, NetworkError> {
    let address = pod_cidr.network();
    let mac = tunnel_mac(address);
    if let Some(link) = link_named(handle, TUNNEL).await? {
        if link.mac == mac && link.tunnel_local == Some(node_ip) {
            return Ok(link);
        }
        delete_link(handle, &link).await?;
    }
    let message = LinkMessageBuilder::<LinkVxlan>::new(TUNNEL)
        .id(TUNNEL_ID)
        .local(node_ip)
        .port(TUNNEL_PORT)
        .learning(false)
        .address(mac.to_vec())
        .mtu(uplink_mtu.saturating_sub(TUNNEL_OVERHEAD))
        .up()
        .build();
    handle.link().add(message).execute().await.map_err(failed("create the tunnel skiffvx0"))?;
    let Some(link) = link_named(handle, TUNNEL).await? else {
        return Err(NetworkError::Vanished { name: TUNNEL.to_owned() });
    };
    // The kernel brings no new VXLAN device up by flag alone.
    let up = LinkMessageBuilder::<LinkUnspec>::new().index(link.index).up().build();
    handle.link().set(up).execute().await.map_err(failed("bring skiffvx0 up"))?;
    handle
        .address()
        .add(link.index, IpAddr::V4(address), 32)
        .replace()
        .execute()
        .await
        .map_err(failed("give skiffvx0 its address"))?;
    Ok(link)
}

/// Tells the tunnel where `end` (the first address of a podCIDR) lives:
/// `ip neighbour replace END lladdr MAC dev skiffvx0 nud permanent` and
/// `bridge fdb replace MAC dev skiffvx0 dst NODE self permanent`.
async fn ensure_tunnel_end(
    handle: &Handle,
    tunnel: &Link,
    end: Ipv4Addr,
    node: Ipv4Addr,
) -> Result<(), NetworkError> {
    let mac = tunnel_mac(end);
    handle
        .neighbours()
        .add(tunnel.index, IpAddr::V4(end))
        .link_layer_address(&mac)
        .replace()
        .execute()
        .await
        .map_err(failed(&format!("set the tunnel's neighbour {end}")))?;
    let mut forward =
        handle.neighbours().add_bridge(tunnel.index, &mac).flags(NeighbourFlags::Own).replace();
    let message = forward.message_mut();
    message.header.family = AddressFamily::Bridge;
    message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(node)));
    forward.execute().await.map_err(failed(&format!("set the tunnel's forwarding to {node}")))
}

/// The MAC address of the tunnel's end at the podCIDR that begins with `end`.
fn tunnel_mac(end: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = end.octets();
    [0x0e, 0x58, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn peers(list: &[(&str, [u8; 4])]) -> BTreeSet<Peer> {
        list.iter()
            .map(|(cidr, ip)| Peer { pod_cidr: net(cidr), address: Ipv4Addr::from(*ip) })
            .collect()
    }

    fn route(cidr: &str, next_hop: [u8; 4], link: u32) -> RouteMessage {
        let net = net(cidr);
        RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(net.network(), net.prefix_len())
            .gateway(next_hop.into())
            .output_interface(link)
            .protocol(ROUTE_PROTOCOL)
            .build()
    }

    #[test]
    fn the_road_depends_on_what_is_on_link() {
        let local = [
            InterfaceAddress { link: 2, net: net("192.168.56.10/24") },
            InterfaceAddress { link: 3, net: net("192.168.0.1/16") },
        ];
        let roads = plan_roads(
            &peers(&[
                ("10.244.0.0/24", [192, 168, 56, 10]),
                ("10.244.1.0/24", [192, 168, 56, 11]),
                ("10.244.2.0/24", [192, 168, 7, 7]),
                ("10.244.3.0/24", [172, 16, 0, 9]),
            ]),
            &local,
        );
        let direct = |link, ip: [u8; 4]| Road::Direct { link, next_hop: ip.into() };
        assert_eq!(
            roads,
            BTreeMap::from([
                (net("10.244.1.0/24"), direct(2, [192, 168, 56, 11])),
                (net("10.244.2.0/24"), direct(3, [192, 168, 7, 7])),
                (net("10.244.3.0/24"), Road::Tunnel { node: [172, 16, 0, 9].into() }),
            ]),
            "our own pods need no road"
        );
    }

    #[test]
    fn only_differences_are_planned() {
        let cluster = net("10.244.0.0/16");
        let direct = |ip: [u8; 4]| Road::Direct { link: 2, next_hop: ip.into() };
        let desired = BTreeMap::from([
            (net("10.244.1.0/24"), direct([192, 168, 56, 11])),
            (net("10.244.2.0/24"), direct([192, 168, 56, 12])),
        ]);
        let pod = route("10.244.0.7/32", [0, 0, 0, 0], 9);
        let catch_all = route("10.244.0.0/16", [0, 0, 0, 0], 0);
        let first = route("10.244.1.0/24", [192, 168, 56, 11], 2);
        let gone = route("10.244.9.0/24", [192, 168, 56, 19], 2);
        let observed = [pod, catch_all, first.clone(), gone.clone()];
        let second = Step::Ensure(net("10.244.2.0/24"), direct([192, 168, 56, 12]));
        let nothing = BTreeMap::new();
        let planned = plan_routes(&desired, &observed, &nothing, cluster);
        assert_eq!(planned, [Step::Delete(gone), second]);

        let moved = BTreeMap::from([(net("10.244.1.0/24"), direct([192, 168, 56, 77]))]);
        let planned = plan_routes(&moved, &[first], &nothing, cluster);
        assert_eq!(planned, [Step::Ensure(net("10.244.1.0/24"), direct([192, 168, 56, 77]))]);

        let far =
            BTreeMap::from([(net("10.244.3.0/24"), Road::Tunnel { node: [9, 9, 9, 9].into() })]);
        let laid = [route("10.244.3.0/24", [10, 244, 3, 0], 5)];
        assert_eq!(plan_routes(&far, &laid, &far, cluster), [], "laid by us and still there");
        assert_eq!(plan_routes(&far, &laid, &nothing, cluster).len(), 1, "after a restart");
    }
}
