//! What the proxy knows of the cluster: Services, and the EndpointSlices that
//! belong to them, each reduced to the fields that rules or DNS answers use.
//!
//! One view feeds both halves of the crate, so a name and its packets change
//! together. Taking an object in says which services it touched; a change
//! that neither half could see (a label, a status) touches none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;

/// Namespace and name of an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl ObjectName {
    /// A name from its two halves.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A transport protocol that Services know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP, the default.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    fn parse(text: Option<&str>) -> Option<Self> {
        match text.unwrap_or("TCP") {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }

    /// The name in rules and in DNS.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty where a single port needs none.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port on the Service's addresses.
    pub port: u16,
    /// The port on every node, if there is one.
    pub node_port: Option<u16>,
}

/// A Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    /// `clusterIPs`; empty for headless and ExternalName.
    pub cluster_ips: Vec<Ipv4Addr>,
    /// `clusterIP: None`.
    pub headless: bool,
    /// The CNAME's target of an ExternalName service.
    pub external_name: Option<String>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// `externalIPs` and the load balancer's ingress addresses.
    pub external_ips: BTreeSet<Ipv4Addr>,
    /// Seconds for which a client stays with its endpoint.
    pub affinity_seconds: Option<u32>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// `publishNotReadyAddresses`, which counts for DNS.
    pub publish_not_ready: bool,
    /// Somebody else's proxy serves it; ours answers its names only.
    pub foreign_proxy: bool,
}

/// One address behind a Service, with the state that decides its use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its addresses; all lead to the same pod.
    pub addresses: Vec<IpAddr>,
    /// Fit for new connections. A terminating pod never is.
    pub ready: bool,
    /// Answers, whether or not it terminates.
    pub serving: bool,
    /// On its way out.
    pub terminating: bool,
    /// The node it runs on.
    pub node: Option<String>,
    /// Its own name within a headless service.
    pub hostname: Option<String>,
}

/// An EndpointSlice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slice {
    /// Port number on the endpoints, by port name and protocol.
    pub ports: BTreeMap<(String, Protocol), u16>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// A Service with its slices. Either half may come first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// The Service, once seen.
    pub service: Option<Service>,
    /// Its slices by name.
    pub slices: BTreeMap<String, Slice>,
}

/// All Services and their endpoints.
#[derive(Debug, Default)]
pub struct View {
    entries: BTreeMap<ObjectName, Entry>,
    /// The service each slice belongs to; its label may change.
    owners: BTreeMap<ObjectName, ObjectName>,
    /// The services at each cluster IP, for reverse lookups.
    by_cluster_ip: BTreeMap<Ipv4Addr, ObjectName>,
    /// The headless services with an endpoint at each address.
    by_endpoint_ip: BTreeMap<IpAddr, BTreeMap<ObjectName, u32>>,
    /// How many services each namespace has.
    namespaces: BTreeMap<String, u32>,
}

impl View {
    /// The entry of one service.
    pub fn entry(&self, name: &ObjectName) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// All entries in the order of their names.
    pub fn entries(&self) -> impl Iterator<Item = (&ObjectName, &Entry)> {
        self.entries.iter()
    }

    /// The service that has this cluster IP.
    pub fn at_cluster_ip(&self, ip: Ipv4Addr) -> Option<&ObjectName> {
        self.by_cluster_ip.get(&ip)
    }

    /// The services that have an endpoint at this address.
    pub fn at_endpoint_ip(&self, ip: IpAddr) -> impl Iterator<Item = &ObjectName> {
        self.by_endpoint_ip.get(&ip).into_iter().flat_map(BTreeMap::keys)
    }

    /// True when some service lives in this namespace.
    pub fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces.contains_key(namespace)
    }

    /// Takes a Service in. True when that changed anything.
    pub fn put_service(&mut self, name: &ObjectName, service: Service) -> bool {
        let entry = self.entries.entry(name.clone()).or_default();
        if entry.service.as_ref() == Some(&service) {
            return false;
        }
        let cluster_ips = service.cluster_ips.clone();
        match entry.service.replace(service) {
            None => *self.namespaces.entry(name.namespace.clone()).or_default() += 1,
            Some(earlier) => self.forget_cluster_ips(name, &earlier),
        }
        self.by_cluster_ip.extend(cluster_ips.into_iter().map(|ip| (ip, name.clone())));
        true
    }

    /// Drops a Service. True when it was known.
    pub fn remove_service(&mut self, name: &ObjectName) -> bool {
        let Some(entry) = self.entries.get_mut(name) else { return false };
        let Some(service) = entry.service.take() else { return false };
        if entry.slices.is_empty() {
            self.entries.remove(name);
        }
        self.forget_cluster_ips(name, &service);
        if let Some(count) = self.namespaces.get_mut(&name.namespace) {
            *count -= 1;
            if *count == 0 {
                self.namespaces.remove(&name.namespace);
            }
        }
        true
    }

    fn forget_cluster_ips(&mut self, name: &ObjectName, service: &Service) {
        for ip in &service.cluster_ips {
            if self.by_cluster_ip.get(ip) == Some(name) {
                self.by_cluster_ip.remove(ip);
            }
        }
    }

    /// Takes a slice of `service` in; returns the services it touched.
    pub fn put_slice(
        &mut self,
        name: &ObjectName,
        service: &ObjectName,
        slice: Slice,
    ) -> Vec<ObjectName> {
        let mut touched = Vec::new();
        if self.owners.get(name).is_some_and(|owner| owner != service) {
            touched.extend(self.remove_slice(name));
        }
        self.owners.insert(name.clone(), service.clone());
        let entry = self.entries.entry(service.clone()).or_default();
        let earlier = entry.slices.insert(name.name.clone(), slice.clone());
        if earlier.as_ref() == Some(&slice) {
            return touched;
        }
        if let Some(earlier) = earlier {
            self.forget_endpoint_ips(service, &earlier);
        }
        for ip in slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses) {
            let services = self.by_endpoint_ip.entry(*ip).or_default();
            *services.entry(service.clone()).or_default() += 1;
        }
        touched.push(service.clone());
        touched
    }

    /// Drops a slice; returns the service it belonged to.
    pub fn remove_slice(&mut self, name: &ObjectName) -> Option<ObjectName> {
        let owner = self.owners.remove(name)?;
        let entry = self.entries.get_mut(&owner)?;
        let slice = entry.slices.remove(&name.name)?;
        if entry.slices.is_empty() && entry.service.is_none() {
            self.entries.remove(&owner);
        }
        self.forget_endpoint_ips(&owner, &slice);
        Some(owner)
    }

    fn forget_endpoint_ips(&mut self, service: &ObjectName, slice: &Slice) {
        for ip in slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses) {
            let Some(services) = self.by_endpoint_ip.get_mut(ip) else { continue };
            if let Some(count) = services.get_mut(service) {
                *count -= 1;
                if *count == 0 {
                    services.remove(service);
                }
            }
            if services.is_empty() {
                self.by_endpoint_ip.remove(ip);
            }
        }
    }

    /// Drops what a fresh list no longer contains; returns what that touched.
    pub fn retain_services(&mut self, listed: &BTreeSet<ObjectName>) -> Vec<ObjectName> {
        let gone = |(name, entry): (&ObjectName, &Entry)| {
            (entry.service.is_some() && !listed.contains(name)).then(|| name.clone())
        };
        let gone: Vec<_> = self.entries.iter().filter_map(gone).collect();
        gone.into_iter().filter(|name| self.remove_service(name)).collect()
    }

    /// The same for slices.
    pub fn retain_slices(&mut self, listed: &BTreeSet<ObjectName>) -> Vec<ObjectName> {
        let gone: Vec<_> =
            self.owners.keys().filter(|name| !listed.contains(name)).cloned().collect();
        gone.into_iter().filter_map(|name| self.remove_slice(&name)).collect()
    }
}

/// Reduces a Service. Addresses of another family than IPv4 are left out.
pub fn read_service(service: &core::Service) -> Service {
    let Some(spec) = &service.spec else { return Service::default() };
    let type_ = spec.type_.as_deref().unwrap_or("ClusterIP");
    if type_ == "ExternalName" {
        return Service { external_name: spec.external_name.clone(), ..Service::default() };
    }
    let cluster_ip = spec.cluster_ip.iter();
    let cluster_ips: BTreeSet<Ipv4Addr> = spec
        .cluster_ips
        .iter()
        .flatten()
        .chain(cluster_ip)
        .filter_map(|ip| ip.parse().ok())
        .collect();
    let ingress = service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref())
        .and_then(|balancer| balancer.ingress.as_ref())
        .into_iter()
        .flatten()
        // `Proxy` asks that packets go through the balancer itself.
        .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|ingress| ingress.ip.as_ref());
    let timeout = spec
        .session_affinity_config
        .as_ref()
        .and_then(|config| config.client_ip.as_ref())
        .and_then(|client_ip| client_ip.timeout_seconds);
    let sticky = spec.session_affinity.as_deref() == Some("ClientIP");
    let labels = service.metadata.labels.as_ref();
    Service {
        headless: spec.cluster_ip.as_deref() == Some("None"),
        cluster_ips: cluster_ips.into_iter().collect(),
        external_name: None,
        ports: spec.ports.iter().flatten().filter_map(read_service_port).collect(),
        external_ips: spec
            .external_ips
            .iter()
            .flatten()
            .chain(ingress)
            .filter_map(|ip| ip.parse().ok())
            .collect(),
        affinity_seconds: sticky
            .then(|| timeout.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(10_800)),
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
        foreign_proxy: labels
            .is_some_and(|labels| labels.contains_key("service.kubernetes.io/service-proxy-name")),
    }
}

fn read_service_port(port: &core::ServicePort) -> Option<ServicePort> {
    Some(ServicePort {
        name: port.name.clone().unwrap_or_default(),
        protocol: Protocol::parse(port.protocol.as_deref())?,
        port: u16::try_from(port.port).ok()?,
        node_port: port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|p| *p != 0),
    })
}

/// Reduces an EndpointSlice; also the service it says it belongs to.
pub fn read_slice(slice: &discovery::EndpointSlice) -> Option<(ObjectName, Slice)> {
    let namespace = slice.metadata.namespace.as_deref()?;
    let labels = slice.metadata.labels.as_ref()?;
    let service = ObjectName::new(namespace, labels.get("kubernetes.io/service-name")?);
    let ports = slice.ports.iter().flatten().filter_map(|port| {
        let protocol = Protocol::parse(port.protocol.as_deref())?;
        let number = u16::try_from(port.port?).ok()?;
        Some(((port.name.clone().unwrap_or_default(), protocol), number))
    });
    let endpoints = slice.endpoints.iter().map(read_endpoint);
    Some((service, Slice { ports: ports.collect(), endpoints: endpoints.collect() }))
}

fn read_endpoint(endpoint: &discovery::Endpoint) -> Endpoint {
    let conditions = endpoint.conditions.as_ref();
    // Unset means ready: the API says so for writers that know no conditions.
    let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    Endpoint {
        addresses: endpoint.addresses.iter().filter_map(|ip| ip.parse().ok()).collect(),
        ready,
        serving: conditions.and_then(|conditions| conditions.serving).unwrap_or(ready),
        terminating: conditions.and_then(|conditions| conditions.terminating).unwrap_or(false),
        node: endpoint.node_name.clone(),
        hostname: endpoint.hostname.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(ip: [u8; 4]) -> Slice {
        let endpoint = Endpoint {
            addresses: vec![IpAddr::from(ip)],
            ready: true,
            serving: true,
            terminating: false,
            node: None,
            hostname: None,
        };
        Slice { ports: BTreeMap::new(), endpoints: vec![endpoint] }
    }

    #[test]
    fn only_visible_changes_touch_a_service() {
        let mut view = View::default();
        let (web, web_1) = (ObjectName::new("a", "web"), ObjectName::new("a", "web-1"));
        let service = Service { cluster_ips: vec![[10, 96, 0, 5].into()], ..Service::default() };
        assert!(view.put_service(&web, service.clone()));
        assert!(!view.put_service(&web, service.clone()));
        let first = view.put_slice(&web_1, &web, slice([10, 0, 0, 1]));
        assert_eq!(first.iter().collect::<Vec<_>>(), [&web]);
        assert!(view.put_slice(&web_1, &web, slice([10, 0, 0, 1])).is_empty());
        assert_eq!(view.at_cluster_ip([10, 96, 0, 5].into()), Some(&web));

        let db = ObjectName::new("a", "db");
        let moved = view.put_slice(&web_1, &db, slice([10, 0, 0, 2]));
        assert_eq!(moved, [web.clone(), db.clone()], "the label changed");
        assert!(view.at_endpoint_ip([10, 0, 0, 1].into()).next().is_none());
        assert_eq!(view.at_endpoint_ip([10, 0, 0, 2].into()).collect::<Vec<_>>(), [&db]);

        assert_eq!(view.retain_services(&BTreeSet::new()), [web]);
        assert_eq!(view.retain_slices(&BTreeSet::new()), [db]);
        assert!(!view.has_namespace("a"));
        assert_eq!(view.entries().count(), 0);
    }

    #[test]
    fn a_service_is_reduced_to_what_counts() {
        let service: core::Service = serde_json::from_value(serde_json::json!({
            "spec": {
                "type": "LoadBalancer", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"],
                "ports": [
                    {"port": 80, "nodePort": 30080},
                    {"name": "dns", "port": 53, "protocol": "UDP"},
                    {"name": "odd", "port": 1, "protocol": "DCCP"},
                ],
                "externalIPs": ["192.0.2.7"], "sessionAffinity": "ClientIP",
                "externalTrafficPolicy": "Local",
            },
            "status": {"loadBalancer": {"ingress": [
                {"ip": "192.0.2.8"}, {"ip": "192.0.2.9", "ipMode": "Proxy"},
            ]}},
        }))
        .unwrap();
        let read = read_service(&service);
        assert_eq!(read.cluster_ips, [Ipv4Addr::new(10, 96, 0, 7)]);
        assert_eq!(
            read.external_ips,
            BTreeSet::from([[192, 0, 2, 7], [192, 0, 2, 8]].map(Into::into))
        );
        assert_eq!(read.affinity_seconds, Some(10_800));
        assert!(read.external_local && !read.internal_local);
        let ports: Vec<_> = read.ports.iter().map(|p| (p.protocol, p.port, p.node_port)).collect();
        assert_eq!(ports, [(Protocol::Tcp, 80, Some(30080)), (Protocol::Udp, 53, None)]);
    }
}
