//! The machine's address on the network that the nodes share: which it is, and
//! when it becomes another.
//!
//! It is the one that routes to a master, or, where there is none to ask for,
//! that of the default route. The first address of the machine is the classic
//! mistake: in a Vagrant VM it is 10.0.2.15 on every node.
//!
//! Left out: what follows from a new address. Too much was told the old one,
//! so the daemon starts again, as after any other restart.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::Context;
use futures::StreamExt;
use rtnetlink::{MulticastGroup, new_multicast_connection};

/// Of the documentation range (RFC 5737): asks the kernel for the default
/// route, and nothing is sent to it.
const ELSEWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);

/// Interfaces that containers, pods and bridges bring, by the beginnings of
/// their names.
const NOT_OURS: [&str; 5] = ["skiff", "docker", "veth", "br-", "lo"];

/// How long addresses and routes may take to settle after one of them has
/// changed: a lease of DHCP is taken back, given and routed in several steps.
const SETTLE: Duration = Duration::from_secs(2);

/// The address of ours that routes to `peer`.
pub fn towards(peer: SocketAddr) -> anyhow::Result<IpAddr> {
    let any = match peer {
        SocketAddr::V4(_) => "0.0.0.0:0",
        SocketAddr::V6(_) => "[::]:0",
    };
    // Connecting a UDP socket sends nothing; it asks the routing table.
    let socket = UdpSocket::bind(any)?;
    socket.connect(peer).with_context(|| {
        format!("there is no route to {peer}; give this machine's address with --node-ip")
    })?;
    Ok(socket.local_addr()?.ip())
}

/// The address of this machine when there is no peer to ask for: that of the
/// default route, or the first one that is not loopback, or loopback on a
/// machine without a network.
pub fn own() -> anyhow::Result<IpAddr> {
    if let Ok(address) = towards(ELSEWHERE) {
        return Ok(address);
    }
    let addresses = nix::ifaddrs::getifaddrs().context("cannot list the machine's addresses")?;
    let first = addresses
        .filter(|one| !NOT_OURS.iter().any(|prefix| one.interface_name.starts_with(prefix)))
        .find_map(|one| Some(IpAddr::V4(one.address?.as_sockaddr_in()?.ip())));
    Ok(first.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)))
}

/// Waits until the machine no longer has `current`, and `pick` finds another
/// in its place. A machine that has lost its network keeps waiting for one.
pub async fn moved(
    current: IpAddr,
    pick: impl Fn() -> anyhow::Result<IpAddr>,
) -> anyhow::Result<IpAddr> {
    let groups = [MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv4Route];
    let (connection, _handle, mut notices) =
        new_multicast_connection(&groups).context("cannot listen for changes of addresses")?;
    let listening = tokio::spawn(connection);
    let moved = async {
        loop {
            if !has(current)?
                && let Ok(address) = pick()
                && !address.is_loopback()
            {
                return Ok(address);
            }
            notices.next().await.context("the kernel no longer tells of addresses")?;
            tokio::time::sleep(SETTLE).await;
            // All that came meanwhile is answered by one look.
            while notices.try_recv().is_ok() {}
        }
    };
    let result = moved.await;
    listening.abort();
    result
}

fn has(address: IpAddr) -> anyhow::Result<bool> {
    let ours = nix::ifaddrs::getifaddrs().context("cannot list the machine's addresses")?;
    let mut ours = ours.filter_map(|one| one.address);
    Ok(ours.any(|one| match address {
        IpAddr::V4(ip) => one.as_sockaddr_in().is_some_and(|one| one.ip() == ip),
        IpAddr::V6(ip) => one.as_sockaddr_in6().is_some_and(|one| one.ip() == ip),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_towards_loopback_is_loopback() {
        let address = towards(([127, 0, 0, 1], 1).into()).unwrap();
        assert_eq!(address, IpAddr::V4(Ipv4Addr::LOCALHOST));
    }

    #[test]
    fn the_machine_has_its_own_addresses_only() {
        assert!(has(IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap());
        assert!(has(own().unwrap()).unwrap());
        assert!(!has(ELSEWHERE.ip()).unwrap());
    }

    #[tokio::test]
    async fn an_address_that_was_lost_is_replaced_by_one_that_is_there() {
        let lost = ELSEWHERE.ip();
        let found = IpAddr::from([192, 0, 2, 7]);
        assert_eq!(moved(lost, || Ok(found)).await.unwrap(), found);
    }
}
