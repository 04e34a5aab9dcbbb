//! The cluster's names, after the Kubernetes DNS specification 1.1.0.
//!
//! ```text
//! web.shop.svc.cluster.local              A    cluster IP, or every ready endpoint
//! _http._tcp.web.shop.svc.cluster.local   SRV  the port, and the name above
//! web-0.web.shop.svc.cluster.local        A    one endpoint of a headless service
//! 10-244-1-5.shop.pod.cluster.local       A    that address
//! 7.0.96.10.in-addr.arpa                  PTR  web.shop.svc.cluster.local
//! dns-version.cluster.local               TXT  1.1.0
//! ```
//!
//! A name that exists without records of the asked type gets an empty answer
//! (`NoData`), one that does not exist NXDOMAIN; resolvers stop searching at
//! the first and go on after the second. Names below the cluster's domain and
//! addresses of the cluster are never asked of anybody else.

use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use ipnet::Ipv4Net;

use crate::view::{Endpoint, Entry, ObjectName, Protocol, Service, View};

/// How long an answer may be kept. Endpoints come and go; VIPs rarely do, but
/// a question costs no more than a packet over the loopback.
const TTL: u32 = 5;

/// How many aliases are followed within the cluster.
const MAX_ALIASES: usize = 8;

/// What we are the authority for.
#[derive(Debug, Clone)]
pub struct Zone {
    /// The cluster's domain, lower case, without a dot at either end.
    domain: String,
    /// The address of cluster DNS.
    pub cluster_dns: Ipv4Addr,
    cluster_cidr: Ipv4Net,
    service_cidr: Ipv4Net,
}

impl Zone {
    /// The zone of a cluster.
    pub fn new(
        domain: &str,
        cluster_dns: Ipv4Addr,
        cluster_cidr: Ipv4Net,
        service_cidr: Ipv4Net,
    ) -> Self {
        let domain = domain.trim_matches('.').to_ascii_lowercase();
        Self { domain, cluster_dns, cluster_cidr, service_cidr }
    }

    /// The SOA record that goes with negative answers.
    pub fn authority(&self) -> Record {
        let name = |labels: &str| self.name(labels);
        let soa = SOA::new(name("ns.dns"), name("hostmaster"), 1, 7200, 1800, 86400, TTL);
        Record::from_rdata(name(""), TTL, RData::SOA(soa))
    }

    /// The name of these labels below the domain. Objects with names that DNS
    /// cannot carry do not get past the API; for one the domain stands in.
    fn name(&self, labels: &str) -> Name {
        let separator = if labels.is_empty() { "" } else { "." };
        let text = format!("{labels}{separator}{}.", self.domain);
        Name::from_ascii(text).unwrap_or_default()
    }

    fn service_name(&self, service: &ObjectName) -> Name {
        self.name(&format!("{}.{}.svc", service.name, service.namespace))
    }
}

/// The answer to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// These records.
    Records {
        /// What was asked for.
        answers: Vec<Record>,
        /// What will be asked for next.
        additionals: Vec<Record>,
    },
    /// The name is an alias for one that is not ours: ask for that.
    Alias {
        /// The aliases so far.
        records: Vec<Record>,
        /// The name they lead to.
        target: Name,
    },
    /// The name exists, but not with this type.
    NoData,
    /// The name does not exist.
    NoName,
    /// Not ours to answer.
    Elsewhere,
}

/// Answers a question from the view.
pub fn answer(name: &Name, kind: RecordType, zone: &Zone, view: &View) -> Answer {
    let text = name.to_ascii().trim_end_matches('.').to_ascii_lowercase();
    if let Some(reversed) = text.strip_suffix(".in-addr.arpa") {
        return answer_reverse(name, reversed, kind, zone, view);
    }
    let labels = match text.strip_suffix(&zone.domain) {
        Some("") => return answer_apex(name, kind, zone),
        Some(below) if below.ends_with('.') => below.trim_end_matches('.'),
        _ => return Answer::Elsewhere,
    };
    let labels: Vec<&str> = labels.split('.').collect();
    match labels.as_slice() {
        ["dns-version"] => one(name, kind, RData::TXT(TXT::new(vec!["1.1.0".to_owned()]))),
        ["ns", "dns"] => one(name, kind, RData::A(A(zone.cluster_dns))),
        ["svc" | "pod" | "dns"] => Answer::NoData,
        [namespace, "svc" | "pod"] if view.has_namespace(namespace) => Answer::NoData,
        [address, _, "pod"] => match parse_dashed(address) {
            Some(IpAddr::V4(ip)) => one(name, kind, RData::A(A(ip))),
            Some(IpAddr::V6(ip)) => one(name, kind, RData::AAAA(AAAA(ip))),
            None => Answer::NoName,
        },
        [below @ .., service, namespace, "svc"] => {
            let service = ObjectName::new(namespace, service);
            answer_service(name, below, &service, kind, zone, view)
        }
        _ => Answer::NoName,
    }
}

fn answer_apex(name: &Name, kind: RecordType, zone: &Zone) -> Answer {
    match kind {
        RecordType::SOA => one(name, kind, zone.authority().data),
        RecordType::NS => one(name, kind, RData::NS(NS(zone.name("ns.dns")))),
        _ => Answer::NoData,
    }
}

fn answer_service(
    name: &Name,
    below: &[&str],
    at: &ObjectName,
    kind: RecordType,
    zone: &Zone,
    view: &View,
) -> Answer {
    let Some(entry) = view.entry(at) else { return Answer::NoName };
    let Some(service) = &entry.service else { return Answer::NoName };
    if let Some(target) = &service.external_name {
        return match below {
            [] => answer_alias(name, target, kind, zone, view),
            _ => Answer::NoName,
        };
    }
    match below {
        [] => addresses_answer(name, kind, service_addresses(entry, service)),
        [port, protocol] if port.starts_with('_') && protocol.starts_with('_') => {
            answer_port(name, (&port[1..], &protocol[1..]), at, (entry, service), kind, zone)
        }
        ["_tcp" | "_udp" | "_sctp"] => Answer::NoData,
        [host] if service.headless => {
            let named =
                ready_endpoints(entry, service).filter(|e| host_of(e).as_deref() == Some(*host));
            let addresses: Vec<_> = named.flat_map(|e| e.addresses.clone()).collect();
            match addresses.is_empty() {
                true => Answer::NoName,
                false => addresses_answer(name, kind, addresses),
            }
        }
        _ => Answer::NoName,
    }
}

/// An ExternalName service: an alias, followed here while it stays in the
/// cluster.
fn answer_alias(name: &Name, target: &str, kind: RecordType, zone: &Zone, view: &View) -> Answer {
    let absolute = |text: &str| Name::from_ascii(format!("{}.", text.trim_end_matches('.')));
    let Ok(mut target) = absolute(target) else { return Answer::NoData };
    let mut records = vec![record(name, RData::CNAME(CNAME(target.clone())))];
    if kind == RecordType::CNAME {
        return Answer::Records { answers: records, additionals: Vec::new() };
    }
    for _ in 0..MAX_ALIASES {
        let text = target.to_ascii().trim_end_matches('.').to_ascii_lowercase();
        let labels = text.strip_suffix(&format!(".{}", zone.domain)).unwrap_or_default();
        let next = match labels.split('.').collect::<Vec<_>>().as_slice() {
            [service, namespace, "svc"] => view
                .entry(&ObjectName::new(namespace, service))
                .and_then(|entry| entry.service.as_ref()?.external_name.clone()),
            _ => None,
        };
        let Some(next) = next else {
            return match answer(&target, kind, zone, view) {
                Answer::Elsewhere => Answer::Alias { records, target },
                Answer::Records { answers, additionals } => {
                    records.extend(answers);
                    Answer::Records { answers: records, additionals }
                }
                // The alias itself exists, whatever it leads to.
                _ => Answer::Records { answers: records, additionals: Vec::new() },
            };
        };
        let Ok(next) = absolute(&next) else { break };
        records.push(record(&target, RData::CNAME(CNAME(next.clone()))));
        target = next;
    }
    // A circle of aliases leads nowhere.
    Answer::NoData
}

/// SRV records for a named port.
fn answer_port(
    name: &Name,
    (port_name, protocol): (&str, &str),
    at: &ObjectName,
    (entry, service): (&Entry, &Service),
    kind: RecordType,
    zone: &Zone,
) -> Answer {
    let is_asked = |name: &str, proto: Protocol| {
        name == port_name && !name.is_empty() && proto.as_str() == protocol
    };
    let mut targets: Vec<(u16, Name, Vec<IpAddr>)> = Vec::new();
    if service.headless {
        for slice in entry.slices.values() {
            let port = slice.ports.iter().find(|((name, proto), _)| is_asked(name, *proto));
            let Some((_, number)) = port else { continue };
            for endpoint in slice.endpoints.iter().filter(|e| is_published(e, service)) {
                let Some(host) = host_of(endpoint) else { continue };
                let target = zone.name(&format!("{host}.{}.{}.svc", at.name, at.namespace));
                targets.push((*number, target, endpoint.addresses.clone()));
            }
        }
    } else {
        let port = service.ports.iter().find(|port| is_asked(&port.name, port.protocol));
        let addresses = service_addresses(entry, service);
        targets.extend(port.map(|port| (port.port, zone.service_name(at), addresses)));
    }
    if targets.is_empty() {
        return Answer::NoName;
    }
    if kind != RecordType::SRV {
        return Answer::NoData;
    }
    let weight = u16::try_from(100 / targets.len()).unwrap_or(0).max(1);
    let mut answers = Vec::new();
    let mut additionals = Vec::new();
    for (port, target, addresses) in targets {
        additionals.extend(addresses.into_iter().map(|ip| record(&target, address_data(ip))));
        answers.push(record(name, RData::SRV(SRV::new(0, weight, port, target))));
    }
    Answer::Records { answers, additionals }
}

/// PTR records: the Service at a cluster IP, or the names of an endpoint.
fn answer_reverse(
    name: &Name,
    reversed: &str,
    kind: RecordType,
    zone: &Zone,
    view: &View,
) -> Answer {
    let octets: Vec<&str> = reversed.split('.').rev().collect();
    let Ok(ip) = octets.join(".").parse::<Ipv4Addr>() else { return Answer::Elsewhere };
    let mut names = Vec::new();
    if let Some(service) = view.at_cluster_ip(ip) {
        names.push(zone.service_name(service));
    }
    for at in view.at_endpoint_ip(IpAddr::V4(ip)) {
        let Some(entry) = view.entry(at) else { continue };
        let Some(service) = entry.service.as_ref().filter(|service| service.headless) else {
            continue;
        };
        let here = |e: &&Endpoint| e.addresses.contains(&IpAddr::V4(ip));
        let hosts = ready_endpoints(entry, service).filter(here).filter_map(host_of);
        let full = |host| zone.name(&format!("{host}.{}.{}.svc", at.name, at.namespace));
        names.extend(hosts.map(full));
    }
    if names.is_empty() {
        let ours = zone.cluster_cidr.contains(&ip) || zone.service_cidr.contains(&ip);
        return if ours { Answer::NoName } else { Answer::Elsewhere };
    }
    if kind != RecordType::PTR {
        return Answer::NoData;
    }
    let answers = names.into_iter().map(|target| record(name, RData::PTR(PTR(target)))).collect();
    Answer::Records { answers, additionals: Vec::new() }
}

/// The addresses behind a Service's own name.
fn service_addresses(entry: &Entry, service: &Service) -> Vec<IpAddr> {
    if !service.headless {
        return service.cluster_ips.iter().copied().map(IpAddr::V4).collect();
    }
    let mut addresses: Vec<_> =
        ready_endpoints(entry, service).flat_map(|e| e.addresses.iter().copied()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn ready_endpoints<'a>(
    entry: &'a Entry,
    service: &'a Service,
) -> impl Iterator<Item = &'a Endpoint> {
    let endpoints = entry.slices.values().flat_map(|slice| &slice.endpoints);
    endpoints.filter(|endpoint| is_published(endpoint, service))
}

fn is_published(endpoint: &Endpoint, service: &Service) -> bool {
    endpoint.ready || service.publish_not_ready
}

/// An endpoint's name within its service: its hostname, or its address with
/// dashes for dots.
fn host_of(endpoint: &Endpoint) -> Option<String> {
    let dashed = |ip: &IpAddr| ip.to_string().replace(['.', ':'], "-");
    endpoint.hostname.clone().or_else(|| endpoint.addresses.first().map(dashed))
}

fn parse_dashed(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse().map(IpAddr::V4);
    v4.or_else(|_| label.replace('-', ":").parse().map(IpAddr::V6)).ok()
}

fn addresses_answer(name: &Name, kind: RecordType, addresses: Vec<IpAddr>) -> Answer {
    let answers: Vec<_> = addresses
        .into_iter()
        .map(address_data)
        .filter(|data| data.record_type() == kind)
        .map(|data| record(name, data))
        .collect();
    match answers.is_empty() {
        true => Answer::NoData,
        false => Answer::Records { answers, additionals: Vec::new() },
    }
}

fn address_data(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    }
}

fn one(name: &Name, kind: RecordType, data: RData) -> Answer {
    match data.record_type() == kind {
        true => Answer::Records { answers: vec![record(name, data)], additionals: Vec::new() },
        false => Answer::NoData,
    }
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

#[cfg(test)]
mod tests;
