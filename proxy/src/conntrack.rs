//! Forgetting UDP flows whose endpoint is gone.
//!
//! The kernel remembers where it translated a flow to. For TCP that is what
//! lets established connections outlive a change of rules. A UDP client that
//! goes on sending from one port has no connection that could break: its
//! packets would follow the memory to an endpoint that is gone, for ever. So
//! when a UDP endpoint leaves, its flows are deleted, and the client's next
//! packet is translated afresh.
//!
//! Two kinds of messages of ctnetlink are all that is needed, so they are
//! written here: dump all IPv4 flows, delete one.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use nix::libc;
use rtnetlink::packet_core::NlasIterator;
use rtnetlink::sys::{Socket, SocketAddr};

use crate::rules::Key;

const GET_FLOW: u16 = (libc::NFNL_SUBSYS_CTNETLINK as u16) << 8 | 1;
const DELETE_FLOW: u16 = (libc::NFNL_SUBSYS_CTNETLINK as u16) << 8 | 2;

// Attributes of a flow, of a tuple, of its addresses and of its ports.
const FLOW_ORIGINAL: u16 = 1;
const FLOW_REPLY: u16 = 2;
const TUPLE_ADDRESSES: u16 = 1;
const TUPLE_PORTS: u16 = 2;
const ADDRESS_SOURCE: u16 = 1;
const ADDRESS_DESTINATION: u16 = 2;
const PORT_PROTOCOL: u16 = 1;
const PORT_SOURCE: u16 = 2;
const PORT_DESTINATION: u16 = 3;

/// One direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tuple {
    protocol: u8,
    source: SocketAddrV4,
    destination: SocketAddrV4,
}

/// Deletes the flows that went from these frontends to these endpoints.
/// Returns how many there were. Blocks for as long as the kernel dumps.
pub fn forget_flows(gone: &BTreeSet<(Key, SocketAddrV4)>) -> io::Result<usize> {
    let mut socket = Socket::new(libc::NETLINK_NETFILTER as isize)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_DUMP;
    socket.send(&message(GET_FLOW, flags as u16, &[]), 0)?;
    let mut stale = Vec::new();
    'dump: loop {
        let (datagram, _) = socket.recv_from_full()?;
        for (kind, payload) in messages(&datagram) {
            match i32::from(kind) {
                libc::NLMSG_DONE => break 'dump,
                libc::NLMSG_ERROR => return Err(error_of(payload)),
                _ => stale.extend(stale_flow(payload, gone)),
            }
        }
    }
    for original in &stale {
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK;
        socket.send(&message(DELETE_FLOW, flags as u16, original), 0)?;
        let (datagram, _) = socket.recv_from_full()?;
        for (_, payload) in messages(&datagram) {
            let err = error_of(payload);
            // A flow that ended by itself is as gone as one we deleted.
            if !matches!(err.raw_os_error(), Some(0 | libc::ENOENT)) {
                return Err(err);
            }
        }
    }
    Ok(stale.len())
}

/// The original tuple's attribute, if the flow in `payload` is to be deleted.
fn stale_flow(payload: &[u8], gone: &BTreeSet<(Key, SocketAddrV4)>) -> Option<Vec<u8>> {
    // The attributes follow a four-byte header of all netfilter messages.
    let attributes = payload.get(4..)?;
    let original = attribute(attributes, FLOW_ORIGINAL)?;
    let (asked, answered) = (tuple(&original)?, tuple(&attribute(attributes, FLOW_REPLY)?)?);
    if i32::from(asked.protocol) != libc::IPPROTO_UDP {
        return None;
    }
    let is_stale = gone.iter().any(|(frontend, endpoint)| {
        let was_asked = match frontend {
            Key::Address(ip, _, port) => asked.destination == SocketAddrV4::new(*ip, *port),
            Key::NodePort(_, port) => asked.destination.port() == *port,
        };
        was_asked && answered.source == *endpoint
    });
    is_stale.then(|| nested(FLOW_ORIGINAL, &original))
}

fn tuple(bytes: &[u8]) -> Option<Tuple> {
    let addresses = attribute(bytes, TUPLE_ADDRESSES)?;
    let ports = attribute(bytes, TUPLE_PORTS)?;
    let ip = |kind| {
        let octets: [u8; 4] = attribute(&addresses, kind)?.try_into().ok()?;
        Some(Ipv4Addr::from(octets))
    };
    let port = |kind| {
        let number: [u8; 2] = attribute(&ports, kind)?.try_into().ok()?;
        Some(u16::from_be_bytes(number))
    };
    Some(Tuple {
        protocol: *attribute(&ports, PORT_PROTOCOL)?.first()?,
        source: SocketAddrV4::new(ip(ADDRESS_SOURCE)?, port(PORT_SOURCE)?),
        destination: SocketAddrV4::new(ip(ADDRESS_DESTINATION)?, port(PORT_DESTINATION)?),
    })
}

fn attribute(bytes: &[u8], kind: u16) -> Option<Vec<u8>> {
    NlasIterator::new(bytes)
        .filter_map(Result::ok)
        .find(|attribute| attribute.kind() == kind)
        .map(|attribute| attribute.value().to_vec())
}

/// An attribute that holds attributes.
fn nested(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    let kind = kind | libc::NLA_F_NESTED as u16;
    [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
}

/// A netlink message with a netfilter header for IPv4.
fn message(kind: u16, flags: u16, attributes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + 4 + attributes.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(20 + attributes.len());
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // Sequence number and sender: one request at a time needs neither.
    bytes.extend([0; 8]);
    bytes.extend([libc::AF_INET as u8, 0, 0, 0]);
    bytes.extend(attributes);
    bytes
}

/// Type and payload of each message in a datagram.
fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header: [u8; 6] = datagram.get(..6)?.try_into().ok()?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let payload = datagram.get(16..length)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    })
}

/// The error in an acknowledgement; code 0 is success.
fn error_of(payload: &[u8]) -> io::Error {
    let code =
        payload.get(..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
    io::Error::from_raw_os_error(code.saturating_neg())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Protocol;

    fn plain(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = nested(kind, value);
        bytes[2..4].copy_from_slice(&kind.to_ne_bytes());
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn tuple_bytes(from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Vec<u8> {
        let addresses = [plain(ADDRESS_SOURCE, &from.0), plain(ADDRESS_DESTINATION, &to.0)];
        let ports = [
            plain(PORT_PROTOCOL, &[libc::IPPROTO_UDP as u8]),
            plain(PORT_SOURCE, &from.1.to_be_bytes()),
            plain(PORT_DESTINATION, &to.1.to_be_bytes()),
        ];
        [plain(TUPLE_ADDRESSES, &addresses.concat()), plain(TUPLE_PORTS, &ports.concat())].concat()
    }

    #[test]
    fn a_flow_is_stale_when_both_its_ends_match() {
        let client = ([10, 244, 1, 2], 4000);
        let (vip, pod) = (([10, 96, 0, 9], 53), ([10, 244, 1, 9], 5353));
        let flow = [
            vec![0; 4],
            plain(FLOW_ORIGINAL, &tuple_bytes(client, vip)),
            plain(FLOW_REPLY, &tuple_bytes(pod, client)),
        ]
        .concat();
        let at = |(ip, port): ([u8; 4], u16)| SocketAddrV4::new(ip.into(), port);
        let frontend = Key::Address(vip.0.into(), Protocol::Udp, vip.1);
        let node_port = Key::NodePort(Protocol::Udp, 53);
        let cases = [
            ("its frontend and endpoint", frontend, at(pod), true),
            ("another endpoint", frontend, at(([10, 244, 1, 8], 5353)), false),
            ("a node port of that number", node_port, at(pod), true),
            ("another port", Key::NodePort(Protocol::Udp, 54), at(pod), false),
        ];
        for (name, key, endpoint, stale) in cases {
            let gone = BTreeSet::from([(key, endpoint)]);
            assert_eq!(stale_flow(&flow, &gone).is_some(), stale, "{name}");
        }
    }

    #[test]
    fn a_datagram_is_cut_into_its_messages() {
        let datagram = [message(7, 0, &[1, 2, 3, 4]), message(8, 0, &[])].concat();
        let cut: Vec<_> = messages(&datagram).map(|(kind, body)| (kind, body.len())).collect();
        assert_eq!(cut, [(7, 8), (8, 4)]);
        assert_eq!(messages(&datagram[..10]).count(), 0, "cut short");
    }
}
