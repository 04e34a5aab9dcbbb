//! Which of the machine's addresses is the node's.
//!
//! It is the one that routes to the API server, because that is the network
//! the nodes share. The first address of the machine is the classic mistake:
//! in a Vagrant VM it is 10.0.2.15 on every node.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::Context;

use crate::config::Config;

/// Never reached; asks the kernel for the default route's address.
const ANYWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);

/// The node's address.
pub(super) fn node_ip(config: &Config) -> anyhow::Result<IpAddr> {
    if let Some(ip) = config.node_ip {
        return Ok(ip);
    }
    if let Some(server) = config.server {
        let ip = source_towards(server)
            .with_context(|| format!("no route to the server at {server}"))?;
        if !ip.is_loopback() {
            return Ok(ip);
        }
    }
    match source_towards(ANYWHERE) {
        Ok(ip) if !ip.is_loopback() => Ok(ip),
        _ => first_global(),
    }
}

/// The address that the kernel would send from. Connecting a UDP socket sends
/// nothing.
fn source_towards(to: SocketAddr) -> std::io::Result<IpAddr> {
    let any: SocketAddr =
        if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    Ok(socket.local_addr()?.ip())
}

/// A machine without a default route: any address that is not loopback, or
/// loopback if there is nothing else.
fn first_global() -> anyhow::Result<IpAddr> {
    let interfaces = nix::ifaddrs::getifaddrs().context("cannot list the machine's addresses")?;
    let found = interfaces
        .filter(|interface| {
            !interface.interface_name.starts_with("skiff")
                && !interface.interface_name.starts_with("docker")
        })
        .filter_map(|interface| Some(IpAddr::V4(interface.address?.as_sockaddr_in()?.ip())))
        .find(|ip| !ip.is_loopback() && !matches!(ip, IpAddr::V4(ip) if ip.is_link_local()));
    Ok(found.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_towards_loopback_is_loopback() {
        assert_eq!(
            source_towards(([127, 0, 0, 1], 1).into()).unwrap(),
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        );
    }

    #[test]
    fn a_given_address_wins() {
        let mut config = Config::new("n", "/tmp/x");
        config.node_ip = Some(IpAddr::from([192, 0, 2, 9]));
        assert_eq!(node_ip(&config).unwrap(), IpAddr::from([192, 0, 2, 9]));
    }
}
