//! The spaces that allocations come from: picks are random, so that two
//! writers seldom want the same, and leave the low end to those who ask for a
//! number by name.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use rand::Rng as _;

use crate::config::nth_address;

/// Random tries before the space is walked from end to end.
const TRIES: usize = 32;

/// The addresses of a network, without its own and the broadcast address.
#[derive(Debug, Clone)]
pub(super) struct Addresses {
    network: IpNet,
}

impl Addresses {
    pub(super) fn new(network: IpNet) -> Self {
        Self { network }
    }

    /// `IPv4` or `IPv6`.
    pub(super) fn family(&self) -> &'static str {
        if self.network.addr().is_ipv4() { "IPv4" } else { "IPv6" }
    }

    /// How many addresses can be given out.
    fn size(&self) -> u32 {
        let bits = self.network.max_prefix_len() - self.network.prefix_len();
        // A larger IPv6 network is used up to here; nobody has more Services.
        let all = if bits >= 20 { 1 << 20 } else { 1u32 << bits };
        all.saturating_sub(2)
    }

    /// A free address.
    pub(super) fn pick(&self, free: impl Fn(&IpAddr) -> bool) -> Option<IpAddr> {
        let size = self.size();
        // As upstream: between 16 and 256 low addresses stay for explicit use.
        let reserved = (size / 16).clamp(16, 256).min(size);
        pick(reserved, size, |n| free(&nth_address(&self.network, n + 1)))
            .map(|n| nth_address(&self.network, n + 1))
    }

    /// Whether an address that was asked for can be given.
    pub(super) fn check(&self, asked: &str, free: impl Fn(&IpAddr) -> bool) -> Result<(), String> {
        let Ok(address) = asked.parse::<IpAddr>() else {
            return Err("it is not an IP address".to_owned());
        };
        let usable = self.network.contains(&address)
            && address != self.network.network()
            && (address.is_ipv6() || address != self.network.broadcast());
        if !usable {
            let network = self.network;
            return Err(format!(
                "the provided IP is not in the valid range. The range of valid IPs is {network}"
            ));
        }
        if free(&address) { Ok(()) } else { Err("provided IP is already allocated".to_owned()) }
    }
}

/// A range of ports.
#[derive(Debug, Clone)]
pub(super) struct Ports {
    range: RangeInclusive<u16>,
}

impl Ports {
    pub(super) fn new(range: RangeInclusive<u16>) -> Self {
        Self { range }
    }

    /// A free port.
    pub(super) fn pick(&self, free: impl Fn(u16) -> bool) -> Option<u16> {
        let (first, last) = (u32::from(*self.range.start()), u32::from(*self.range.end()));
        let size = last - first + 1;
        // As upstream: between 16 and 128 low ports stay for explicit use.
        let reserved = if size < 32 { 0 } else { (size / 32).clamp(16, 128) };
        let port = |n: u32| u16::try_from(first + n).unwrap_or(*self.range.end());
        pick(reserved, size, |n| free(port(n))).map(port)
    }

    /// Whether a port that was asked for can be given.
    pub(super) fn check(&self, asked: i64, free: impl Fn(u16) -> bool) -> Result<(), String> {
        match u16::try_from(asked).ok().filter(|port| self.range.contains(port)) {
            None => Err(format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                self.range.start(),
                self.range.end()
            )),
            Some(port) if free(port) => Ok(()),
            Some(_) => Err("provided port is already allocated".to_owned()),
        }
    }
}

/// A free number below `size`: a random one from `reserved` on, else any from
/// there, else one of the reserved.
fn pick(reserved: u32, size: u32, free: impl Fn(u32) -> bool) -> Option<u32> {
    if reserved < size {
        let mut random = rand::rng();
        for _ in 0..TRIES {
            let n = random.random_range(reserved..size);
            if free(n) {
                return Some(n);
            }
        }
    }
    (reserved..size).chain(0..reserved).find(|n| free(*n))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_address_is_found_and_no_other() {
        let addresses = Addresses::new("10.0.0.0/27".parse().unwrap());
        let mut taken = HashSet::new();
        while let Some(address) = addresses.pick(|address| !taken.contains(address)) {
            taken.insert(address);
        }
        assert_eq!(taken.len(), 30);
        assert!(!taken.contains(&"10.0.0.0".parse().unwrap()));
        assert!(!taken.contains(&"10.0.0.31".parse().unwrap()));
    }

    #[test]
    fn low_addresses_are_given_last() {
        let addresses = Addresses::new("10.0.0.0/24".parse().unwrap());
        let lowest: IpAddr = "10.0.0.17".parse().unwrap();
        for _ in 0..200 {
            assert!(addresses.pick(|_| true).unwrap() >= lowest);
        }
    }

    #[test]
    fn asked_numbers_are_checked() {
        let addresses = Addresses::new("10.0.0.0/24".parse().unwrap());
        assert_eq!(addresses.check("10.0.0.9", |_| true), Ok(()));
        for (asked, free) in [
            ("10.0.0.9", false),
            ("10.0.1.9", true),
            ("10.0.0.0", true),
            ("10.0.0.255", true),
            ("x", true),
        ] {
            assert!(addresses.check(asked, |_| free).is_err(), "{asked}");
        }
        let ports = Ports::new(30000..=30010);
        assert_eq!(ports.check(30010, |_| true), Ok(()));
        for (asked, free) in [(30010, false), (29999, true), (30011, true), (-1, true)] {
            assert!(ports.check(asked, |_| free).is_err(), "{asked}");
        }
    }
}
