//! Endpoints and EndpointSlices: the addresses behind a service.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::meta::{MetaRules, check_create, check_update, label_key};
use super::names;
use super::path::{Errors, Path, json, list, text};
use crate::catalogue::{FieldError, Part};

const META: MetaRules = MetaRules::namespaced(names::subdomain_name);

const MAX_ENDPOINTS: usize = 1000;
const MAX_PORTS: usize = 20_000;
const MAX_ADDRESSES: usize = 100;

/// Checks a new Endpoints object.
pub fn endpoints_create(endpoints: &Endpoints) -> Vec<FieldError> {
    check_create(&endpoints.metadata, META, |errors| subsets(errors, list(&endpoints.subsets)))
}

/// Checks an update of an Endpoints object.
pub fn endpoints_update(new: &Endpoints, old: &Endpoints, _part: Part) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| subsets(errors, list(&new.subsets)))
}

fn subsets(errors: &mut Errors, subsets: &[EndpointSubset]) {
    let path = Path::root("subsets");
    for (index, subset) in subsets.iter().enumerate() {
        let path = path.index(index);
        let (ready, waiting) = (list(&subset.addresses), list(&subset.not_ready_addresses));
        if ready.is_empty() && waiting.is_empty() {
            errors.required(&path, "must specify `addresses` or `notReadyAddresses`");
        }
        for (field, addresses) in [("addresses", ready), ("notReadyAddresses", waiting)] {
            let path = path.child(field);
            for (index, address) in addresses.iter().enumerate() {
                endpoint_address(errors, address, &path.index(index));
            }
        }
        let ports = list(&subset.ports);
        let path = path.child("ports");
        for (index, port) in ports.iter().enumerate() {
            endpoint_port(errors, port, ports.len() > 1, &path.index(index));
        }
    }
}

fn endpoint_address(errors: &mut Errors, address: &EndpointAddress, path: &Path<'_>) {
    reachable_ip(errors, &address.ip, &path.child("ip"));
    let hostname = text(&address.hostname);
    if !hostname.is_empty() {
        errors.invalid_each(&path.child("hostname"), hostname, names::dns1123_label(hostname));
    }
    if let Some(node) = &address.node_name {
        errors.invalid_each(&path.child("nodeName"), node, names::dns1123_subdomain(node));
    }
}

/// An address that can lead to another machine. Others would let the author of
/// an endpoint reach what only the node itself may reach.
fn reachable_ip(errors: &mut Errors, value: &str, path: &Path<'_>) {
    let Ok(address) = value.parse::<IpAddr>() else {
        errors.invalid_each(path, value, names::ip(value));
        return;
    };
    if address.is_unspecified() {
        errors.invalid(path, value, format!("may not be unspecified ({value})"));
    }
    if address.is_loopback() {
        let detail = "may not be in the loopback range (127.0.0.0/8, ::1/128)";
        errors.invalid(path, value, detail);
    }
    let (link_local, local_multicast) = match address {
        IpAddr::V4(address) => (address.is_link_local(), address.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(address) => {
            (address.is_unicast_link_local(), address.segments()[0] & 0xff0f == 0xff02)
        }
    };
    if link_local {
        let detail = "may not be in the link-local range (169.254.0.0/16, fe80::/10)";
        errors.invalid(path, value, detail);
    }
    if local_multicast {
        let detail = "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)";
        errors.invalid(path, value, detail);
    }
}

fn endpoint_port(errors: &mut Errors, port: &EndpointPort, needs_name: bool, path: &Path<'_>) {
    let name = text(&port.name);
    if !name.is_empty() {
        errors.invalid_each(&path.child("name"), name, names::dns1123_label(name));
    } else if needs_name {
        errors.required(&path.child("name"), "");
    }
    errors.in_range(&path.child("port"), port.port, 1, 65535);
    let protocol = port.protocol.as_deref();
    errors.required_one_of(&path.child("protocol"), protocol, &["SCTP", "TCP", "UDP"]);
    if let Some(name) = port.app_protocol.as_deref() {
        errors.invalid_each(&path.child("appProtocol"), name, names::qualified_name(name));
    }
}

/// Checks a new EndpointSlice.
pub fn endpoint_slice_create(slice: &EndpointSlice) -> Vec<FieldError> {
    check_create(&slice.metadata, META, |errors| slice_rules(errors, slice))
}

/// Checks an update of an EndpointSlice: the family of its addresses stays.
pub fn endpoint_slice_update(
    new: &EndpointSlice,
    old: &EndpointSlice,
    _part: Part,
) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        slice_rules(errors, new);
        errors.immutable(&Path::root("addressType"), &new.address_type, &old.address_type);
    })
}

fn slice_rules(errors: &mut Errors, slice: &EndpointSlice) {
    let kind = slice.address_type.as_str();
    errors.required_one_of(&Path::root("addressType"), Some(kind), &["FQDN", "IPv4", "IPv6"]);
    slice_endpoints(errors, slice, kind);
    slice_ports(errors, slice);
}

fn slice_endpoints(errors: &mut Errors, slice: &EndpointSlice, kind: &str) {
    let path = Path::root("endpoints");
    if slice.endpoints.len() > MAX_ENDPOINTS {
        errors.too_many(&path, slice.endpoints.len(), MAX_ENDPOINTS);
        return;
    }
    for (index, endpoint) in slice.endpoints.iter().enumerate() {
        let path = path.index(index);
        let addresses = path.child("addresses");
        match endpoint.addresses.len() {
            0 => errors.required(&addresses, "must contain at least 1 address"),
            count if count > MAX_ADDRESSES => errors.too_many(&addresses, count, MAX_ADDRESSES),
            _ => {}
        }
        for (index, address) in endpoint.addresses.iter().enumerate() {
            slice_address(errors, address, kind, &addresses.index(index));
        }
        if let Some(node) = &endpoint.node_name {
            errors.invalid_each(&path.child("nodeName"), node, names::dns1123_subdomain(node));
        }
        let topology = path.child("deprecatedTopology");
        for (key, value) in endpoint.deprecated_topology.iter().flatten() {
            label_key(errors, key, &topology);
            errors.invalid_each(&topology, value, names::label_value(value));
        }
        if let Some(hostname) = &endpoint.hostname {
            errors.invalid_each(&path.child("hostname"), hostname, names::dns1123_label(hostname));
        }
        for (field, zones) in
            endpoint.hints.iter().map(|hints| ("hints.forZones", &hints.for_zones))
        {
            let path = path.child(field);
            for (index, zone) in list(zones).iter().enumerate() {
                let path = path.index(index);
                label_key(errors, &zone.name, &path.child("name"));
            }
        }
    }
}

fn slice_address(errors: &mut Errors, value: &str, kind: &str, path: &Path<'_>) {
    match (kind, value.parse::<IpAddr>()) {
        ("IPv4", Ok(IpAddr::V4(_))) | ("IPv6", Ok(IpAddr::V6(_))) => {
            reachable_ip(errors, value, path);
        }
        ("IPv4", Ok(_)) => errors.invalid(path, value, "must be an IPv4 address"),
        ("IPv6", Ok(_)) => errors.invalid(path, value, "must be an IPv6 address"),
        ("IPv4" | "IPv6", Err(_)) => errors.invalid_each(path, value, names::ip(value)),
        ("FQDN", _) => {
            let bare = value.strip_suffix('.').unwrap_or(value);
            errors.invalid_each(path, value, names::dns1123_subdomain(bare));
            if !bare.contains('.') {
                errors.invalid(
                    path,
                    value,
                    "should be a domain with at least two segments separated by dots",
                );
            }
        }
        _ => {}
    }
}

fn slice_ports(errors: &mut Errors, slice: &EndpointSlice) {
    let ports = list(&slice.ports);
    let path = Path::root("ports");
    if ports.len() > MAX_PORTS {
        errors.too_many(&path, ports.len(), MAX_PORTS);
        return;
    }
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = text(&port.name);
        if !name.is_empty() {
            errors.invalid_each(&path.child("name"), name, names::dns1123_label(name));
        }
        if ports[..index].iter().any(|earlier| text(&earlier.name) == name) {
            errors.duplicate(&path.child("name"), json(&port.name));
        }
        if let Some(number) = port.port {
            errors.in_range(&path.child("port"), number, 1, 65535);
        }
        let protocol = port.protocol.as_deref();
        errors.required_one_of(&path.child("protocol"), protocol, &["SCTP", "TCP", "UDP"]);
        if let Some(name) = port.app_protocol.as_deref() {
            errors.invalid_each(&path.child("appProtocol"), name, names::qualified_name(name));
        }
    }
}
