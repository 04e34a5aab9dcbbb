//! The node's pool of pod addresses.
//!
//! Pure bookkeeping over one podCIDR: which key (a hash of a pod's UID) holds
//! which address, and in which order free addresses are handed out. An address
//! that was given back goes to the end of the queue, so it rests as long as
//! possible: clients that still know the old pod get no answer instead of an
//! answer from a stranger.
//!
//! Nothing here is written to disk. After a restart the pool is filled from
//! the interfaces and routes that exist (`adopt`).

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Addresses of one podCIDR: held ones by key, free ones in the order of reuse.
#[derive(Debug)]
pub(super) struct AddressPool {
    cidr: Ipv4Net,
    held: BTreeMap<String, Ipv4Addr>,
    free: VecDeque<Ipv4Addr>,
}

impl AddressPool {
    /// A pool over the host addresses of `cidr`, with `adopted` already held.
    ///
    /// The network's own address stays out: it is the node's end of the VXLAN
    /// tunnel. Hand-out starts behind the highest adopted address, since the
    /// addresses before it are likelier to have been in use lately.
    pub(super) fn new(cidr: Ipv4Net, adopted: BTreeMap<String, Ipv4Addr>) -> Self {
        let mut free: VecDeque<_> =
            cidr.hosts().filter(|ip| !adopted.values().any(|held| held == ip)).collect();
        if let Some(highest) = adopted.values().max() {
            let before = free.iter().filter(|ip| *ip < highest).count();
            free.rotate_left(before);
        }
        Self { cidr, held: adopted, free }
    }

    /// The address `key` holds, or the one that has been free for longest.
    /// `None` when every address is held.
    pub(super) fn assign(&mut self, key: &str) -> Option<Ipv4Addr> {
        if let Some(ip) = self.held.get(key) {
            return Some(*ip);
        }
        let ip = self.free.pop_front()?;
        self.held.insert(key.to_owned(), ip);
        Some(ip)
    }

    /// Gives back what `key` holds. Does nothing when it holds nothing.
    pub(super) fn release(&mut self, key: &str) {
        let Some(ip) = self.held.remove(key) else { return };
        // An adopted address of an earlier podCIDR must not be handed out.
        if self.cidr.hosts().any(|host| host == ip) {
            self.free.push_back(ip);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, 1, last)
    }

    fn pool(prefix: &str, adopted: &[(&str, u8)]) -> AddressPool {
        let adopted = adopted.iter().map(|(key, last)| ((*key).to_owned(), ip(*last))).collect();
        AddressPool::new(prefix.parse().unwrap(), adopted)
    }

    #[test]
    fn a_key_keeps_its_address_and_freed_ones_rest_longest() {
        let mut pool = pool("10.244.1.0/29", &[]);
        assert_eq!(pool.assign("a"), Some(ip(1)));
        assert_eq!(pool.assign("b"), Some(ip(2)));
        assert_eq!(pool.assign("a"), Some(ip(1)), "same key, same address");
        pool.release("a");
        pool.release("a");
        for (key, last) in [("c", 3), ("d", 4), ("e", 5), ("f", 6), ("g", 1)] {
            assert_eq!(pool.assign(key), Some(ip(last)), "{key}");
        }
        assert_eq!(pool.assign("h"), None, "all six are held");
    }

    #[test]
    fn adopted_addresses_are_never_handed_out() {
        let mut pool = pool("10.244.1.0/29", &[("x", 3), ("y", 2)]);
        let order: Vec<_> = ["a", "b", "c", "d"].iter().map(|key| pool.assign(key)).collect();
        assert_eq!(order, [4, 5, 6, 1].map(|last| Some(ip(last))));
        assert_eq!(pool.assign("z"), None);
        assert_eq!(pool.assign("x"), Some(ip(3)));
    }

    #[test]
    fn a_foreign_address_is_not_pooled_when_released() {
        let mut pool = pool("10.244.1.8/30", &[("old", 200)]);
        pool.release("old");
        assert_eq!(pool.assign("a"), Some(ip(9)));
        assert_eq!(pool.assign("b"), Some(ip(10)));
        assert_eq!(pool.assign("c"), None);
    }
}
