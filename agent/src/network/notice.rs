//! Notices when somebody changes the host's filter table.
//!
//! Docker, ufw and firewalld rebuild their chains when they restart and take
//! our accept rules with them. The kernel announces every change of nftables
//! on a multicast group; we listen there instead of looking from time to time.

use std::io;

use nix::libc;
use rtnetlink::packet_core::NlasIterator;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, TokioSocket};

use super::NetworkError;

/// The attribute with the table's name in messages on tables, chains and rules.
const TABLE_NAME: u16 = 1;

/// Hears of changes to table `ip filter` in one network namespace.
pub(super) struct FilterNotices {
    socket: TokioSocket,
}

impl FilterNotices {
    /// Listens in the calling thread's network namespace.
    pub(super) fn subscribe() -> Result<Self, NetworkError> {
        let open = || {
            let mut socket = TokioSocket::new(libc::NETLINK_NETFILTER as isize)?;
            socket.socket_mut().bind_auto()?;
            socket.socket_mut().add_membership(libc::NFNLGRP_NFTABLES as u32)?;
            Ok(Self { socket })
        };
        open().map_err(|source| NetworkError::Socket { source })
    }

    /// Waits for the next change. Cancel-safe: a notice is one datagram.
    pub(super) async fn changed(&mut self) -> Result<(), NetworkError> {
        loop {
            match self.socket.recv_from_full().await {
                Ok((datagram, _)) if concerns_filter(&datagram) => return Ok(()),
                Ok(_) => {}
                // Notices were lost, so there may have been one for us.
                Err(err) if err.raw_os_error() == Some(libc::ENOBUFS) => return Ok(()),
                Err(source) => return Err(NetworkError::Socket { source }),
            }
        }
    }
}

/// True when a message in the datagram names table `filter` of family `ip`.
fn concerns_filter(mut datagram: &[u8]) -> bool {
    while let Some(length) = datagram.first_chunk::<4>() {
        let length = u32::from_ne_bytes(*length) as usize;
        // 16 bytes of netlink, 4 of netfilter, then attributes.
        let Some(message) = datagram.get(16..length) else { return false };
        let is_ip = message.first().copied().map(i32::from) == Some(libc::AF_INET);
        let names_filter = |attributes: &[u8]| {
            NlasIterator::new(attributes)
                .filter_map(Result::ok)
                .any(|nla| nla.kind() == TABLE_NAME && nla.value() == b"filter\0")
        };
        if is_ip && message.get(4..).is_some_and(names_filter) {
            return true;
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

impl std::fmt::Debug for FilterNotices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FilterNotices")
    }
}

/// Whether `iptables-legacy` has a filter table here, out of nft's reach.
pub(super) fn has_legacy_filter() -> io::Result<bool> {
    match std::fs::read_to_string("/proc/net/ip_tables_names") {
        Ok(names) => Ok(names.lines().any(|name| name == "filter")),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(err) => Err(err),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(family: i32, table: &[u8]) -> Vec<u8> {
        let attribute = u16::try_from(4 + table.len()).unwrap();
        let mut body = vec![u8::try_from(family).unwrap(), 0, 0, 0];
        body.extend(attribute.to_ne_bytes());
        body.extend(TABLE_NAME.to_ne_bytes());
        body.extend(table);
        let mut bytes = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend([0; 12]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn only_the_ip_filter_table_concerns_us() {
        let ours = message(libc::AF_INET, b"skiff-proxy\0");
        let cases = [
            ("nothing", vec![], false),
            ("our own table", ours.clone(), false),
            ("the filter table", message(libc::AF_INET, b"filter\0"), true),
            ("another family", message(libc::AF_INET6, b"filter\0"), false),
            ("second message", [ours, message(libc::AF_INET, b"filter\0")].concat(), true),
            ("cut short", message(libc::AF_INET, b"filter\0")[..18].to_vec(), false),
        ];
        for (name, datagram, concerns) in cases {
            assert_eq!(concerns_filter(&datagram), concerns, "{name}");
        }
    }
}
