//! One pod's cable: a veth pair between the node and the pod's sandbox.
//!
//! ```text
//!  pod                                node
//!  eth0 10.244.1.7/32  ───────────── skiff0a1b2c3d4e   (no address)
//!  default via 169.254.1.1 onlink     10.244.1.7/32 dev skiff0a1b2c3d4e
//!  169.254.1.1 lladdr <node side>     10.244.1.7 lladdr <pod side>
//! ```
//!
//! No bridge: every packet of a pod is routed by the node, so the proxy's
//! rules see all of it. 169.254.1.1 exists nowhere; permanent neighbour
//! entries on both sides answer for it, which saves the first packet an ARP
//! round trip and needs no `proxy_arp`.
//!
//! Names and MAC addresses are derived from the pod's UID, so after a restart
//! what exists tells whose it is, without a file.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth};
use netlink_packet_route::route::RouteScope;
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use sha2::{Digest, Sha256};

use super::NetworkError;
use super::netlink::{
    Link, ROUTE_PROTOCOL, connect_in, delete_link, ensure_route, failed, link_named,
};

/// The pod's next hop for everything.
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The pod side's name, as in every Kubernetes pod.
const POD_INTERFACE: &str = "eth0";

/// What a pod's UID fixes about its cable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cable {
    /// Ten hex digits: the pool's key and the end of the interface's name.
    pub(super) key: String,
    /// The node side's name.
    pub(super) name: String,
    node_mac: [u8; 6],
    pod_mac: [u8; 6],
}

impl Cable {
    /// The cable of the pod with this UID.
    pub(super) fn of(pod_uid: &str) -> Self {
        let digest = Sha256::digest(pod_uid.as_bytes());
        let key: String = digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
        // 0a and 0e: locally administered unicast, one for each side.
        let mac = |first| [first, digest[0], digest[1], digest[2], digest[3], digest[4]];
        Self { name: format!("skiff{key}"), key, node_mac: mac(0x0a), pod_mac: mac(0x0e) }
    }

    /// The key in an interface's name, if the interface is a pod's cable.
    pub(super) fn key_in_name(name: &str) -> Option<&str> {
        let key = name.strip_prefix("skiff")?;
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (key.len() == 10 && key.bytes().all(is_hex)).then_some(key)
    }
}

/// Plugs the cable into the sandbox `sandbox_pid` and gives the pod `ip`.
/// Repeating it changes nothing; a cable into an earlier sandbox is replaced.
pub(super) async fn ensure_cable(
    node: &Handle,
    cable: &Cable,
    pod_uid: &str,
    sandbox_pid: u32,
    ip: Ipv4Addr,
    mtu: u32,
) -> Result<(), NetworkError> {
    let sandbox_gone = |source| NetworkError::Sandbox { pid: sandbox_pid, source };
    let namespace = File::open(format!("/proc/{sandbox_pid}/ns/net")).map_err(sandbox_gone)?;
    let pod = connect_in(namespace.try_clone().map_err(sandbox_gone)?).await?;

    let mut node_end = link_named(node, &cable.name).await?;
    let mut pod_end = link_named(&pod, POD_INTERFACE).await?;
    if !is_plugged(cable, node_end.as_ref(), pod_end.as_ref()) {
        if let Some(stale) = &node_end {
            delete_link(node, stale).await?;
        }
        create_pair(node, cable, &namespace, mtu).await?;
        node_end = link_named(node, &cable.name).await?;
        pod_end = link_named(&pod, POD_INTERFACE).await?;
    }
    let (Some(node_end), Some(pod_end)) = (node_end, pod_end) else {
        return Err(NetworkError::Vanished { name: cable.name.clone() });
    };
    configure_node_end(node, cable, pod_uid, &node_end, ip).await?;
    configure_pod_end(&pod, cable, &pod_end, ip).await
}

/// Both ends exist, and each is the other's peer.
fn is_plugged(cable: &Cable, node_end: Option<&Link>, pod_end: Option<&Link>) -> bool {
    let (Some(node_end), Some(pod_end)) = (node_end, pod_end) else { return false };
    node_end.peer == Some(pod_end.index)
        && pod_end.peer == Some(node_end.index)
        && pod_end.mac == cable.pod_mac
}

/// Creates the pair with its pod side already inside the sandbox:
/// `ip link add NAME type veth peer name eth0 netns FD`.
async fn create_pair(
    node: &Handle,
    cable: &Cable,
    namespace: &File,
    mtu: u32,
) -> Result<(), NetworkError> {
    use std::os::fd::AsRawFd;
    // Not up yet: neither end may be before both exist.
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(POD_INTERFACE)
        .address(cable.pod_mac.to_vec())
        .mtu(mtu)
        .setns_by_fd(namespace.as_raw_fd())
        .build();
    let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(cable.name.as_str())
        .address(cable.node_mac.to_vec())
        .mtu(mtu)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build();
    let what = format!("create the veth pair {}", cable.name);
    node.link().add(pair).execute().await.map_err(failed(&what))
}

async fn configure_node_end(
    node: &Handle,
    cable: &Cable,
    pod_uid: &str,
    end: &Link,
    ip: Ipv4Addr,
) -> Result<(), NetworkError> {
    // Without this the kernel would advertise a link-local address to the pod
    // and answer its multicast. A kernel without IPv6 has no such file.
    let ipv6_switch = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", cable.name);
    match fs::write(&ipv6_switch, "1") {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
            return Err(NetworkError::Sysctl { path: ipv6_switch, source: err });
        }
        _ => {}
    }
    let up = LinkMessageBuilder::<LinkUnspec>::new()
        .index(end.index)
        .alias(format!("skiff pod {pod_uid}"))
        .up()
        .build();
    let what = format!("bring {} up", cable.name);
    node.link().set(up).execute().await.map_err(failed(&what))?;
    ensure_neighbour(node, end.index, ip, &cable.pod_mac).await?;
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(ip, 32)
        .output_interface(end.index)
        .scope(RouteScope::Link)
        .protocol(ROUTE_PROTOCOL)
        .build();
    ensure_route(node, route).await
}

async fn configure_pod_end(
    pod: &Handle,
    cable: &Cable,
    end: &Link,
    ip: Ipv4Addr,
) -> Result<(), NetworkError> {
    // Index 1 is `lo` in every network namespace.
    for index in [1, end.index] {
        let up = LinkMessageBuilder::<LinkUnspec>::new().index(index).up().build();
        pod.link().set(up).execute().await.map_err(failed("bring the pod's interfaces up"))?;
    }
    pod.address()
        .add(end.index, IpAddr::V4(ip), 32)
        .replace()
        .execute()
        .await
        .map_err(failed(&format!("give the pod {ip}")))?;
    ensure_neighbour(pod, end.index, GATEWAY, &cable.node_mac).await?;
    let default = RouteMessageBuilder::<Ipv4Addr>::new()
        .gateway(GATEWAY)
        .output_interface(end.index)
        .onlink()
        .protocol(ROUTE_PROTOCOL)
        .build();
    ensure_route(pod, default).await
}

async fn ensure_neighbour(
    handle: &Handle,
    link: u32,
    ip: Ipv4Addr,
    mac: &[u8],
) -> Result<(), NetworkError> {
    handle
        .neighbours()
        .add(link, IpAddr::V4(ip))
        .link_layer_address(mac)
        .replace()
        .execute()
        .await
        .map_err(failed(&format!("set the neighbour {ip}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_names_its_cable() {
        let cable = Cable::of("0d5a7b2e-27a1-4f0c-b8a5-3c1f8a9f2c11");
        assert_eq!(cable.name.len(), 15, "the kernel's limit");
        assert_eq!(Cable::key_in_name(&cable.name), Some(cable.key.as_str()));
        assert_ne!(cable.node_mac, cable.pod_mac);
        assert_eq!(cable, Cable::of("0d5a7b2e-27a1-4f0c-b8a5-3c1f8a9f2c11"));
        assert_ne!(cable.name, Cable::of("another").name);
    }

    #[test]
    fn only_pod_cables_are_ours() {
        let cases = [
            ("skiff0a1b2c3d4e", Some("0a1b2c3d4e")),
            ("skiffvx0", None),
            ("skiff0a1b2c3d4", None),
            ("skiff0A1B2C3D4E", None),
            ("skifflabswitch0", None),
            ("eth0", None),
        ];
        for (name, key) in cases {
            assert_eq!(Cable::key_in_name(name), key, "{name}");
        }
    }

    #[test]
    fn plugged_means_both_ends_name_each_other() {
        let cable = Cable::of("a");
        let node = Link {
            index: 7,
            name: cable.name.clone(),
            mac: cable.node_mac.to_vec(),
            mtu: 1500,
            peer: Some(2),
            tunnel_local: None,
        };
        let pod = Link {
            index: 2,
            name: "eth0".into(),
            mac: cable.pod_mac.to_vec(),
            mtu: 1500,
            peer: Some(7),
            tunnel_local: None,
        };
        let other = Link { peer: Some(9), ..pod.clone() };
        assert!(is_plugged(&cable, Some(&node), Some(&pod)));
        assert!(!is_plugged(&cable, Some(&node), Some(&other)), "plugged into another sandbox");
        assert!(!is_plugged(&cable, None, Some(&pod)));
        assert!(!is_plugged(&cable, Some(&node), None));
    }
}
