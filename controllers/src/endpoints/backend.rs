//! Backends: the pods behind a service as both endpoint kinds see them.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ContainerPort, Node, ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::meta;
use crate::pods;

/// Label of a node: its failure zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// An address family in the spelling of EndpointSlices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Family {
    /// `IPv4`
    V4,
    /// `IPv6`
    V6,
}

impl Family {
    /// `IPv4` or `IPv6`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn of(address: &str) -> Option<Self> {
        match address.parse() {
            Ok(IpAddr::V4(_)) => Some(Self::V4),
            Ok(IpAddr::V6(_)) => Some(Self::V6),
            Err(_) => None,
        }
    }
}

/// A port of a backend, by the name of the service's port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Port {
    /// Name of the service's port; empty for an only port without name.
    pub(crate) name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub(crate) protocol: String,
    /// Port number on the pod.
    pub(crate) number: i32,
    /// Application protocol, as the service says.
    pub(crate) app_protocol: Option<String>,
}

/// A pod behind a service.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Backend {
    /// Its addresses.
    pub(crate) addresses: Vec<(Family, String)>,
    /// Its ports, sorted.
    pub(crate) ports: Vec<Port>,
    /// Whether its probes pass.
    pub(crate) serving: bool,
    /// Whether it is on its way out.
    pub(crate) terminating: bool,
    /// Its name under the service's name in DNS.
    pub(crate) hostname: Option<String>,
    /// Where it runs.
    pub(crate) node: Option<String>,
    /// The zone of its node.
    pub(crate) zone: Option<String>,
    /// The pod.
    pub(crate) target: ObjectReference,
}

impl Backend {
    /// Whether new connections may go there.
    pub(crate) fn is_ready(&self, service: &Service) -> bool {
        publishes_not_ready(service) || (self.serving && !self.terminating)
    }

    /// Its address of one family.
    pub(crate) fn address(&self, family: Family) -> Option<&str> {
        self.addresses
            .iter()
            .find(|(known, _)| *known == family)
            .map(|(_, address)| address.as_str())
    }
}

/// The backends of `service` among the `pods` of its namespace that it
/// selects, in the order of their names.
pub(crate) fn plan_backends(
    service: &Service,
    pods: &[Arc<Pod>],
    node: impl Fn(&str) -> Option<Arc<Node>>,
) -> Vec<Backend> {
    pods.iter().filter_map(|pod| backend(service, pod, &node)).collect()
}

fn backend(
    service: &Service,
    pod: &Pod,
    node: impl Fn(&str) -> Option<Arc<Node>>,
) -> Option<Backend> {
    if pods::is_terminal(pod) {
        return None;
    }
    let addresses = addresses(pod);
    if addresses.is_empty() {
        return None;
    }
    let spec = pod.spec.as_ref()?;
    let in_subdomain = spec.subdomain.is_some() && spec.subdomain == service.metadata.name;
    let node_name = spec.node_name.clone();
    let zone = node_name
        .as_deref()
        .and_then(node)
        .and_then(|node| meta::labels(&node.metadata).get(ZONE).cloned());
    Some(Backend {
        addresses,
        ports: ports(service, pod),
        serving: pods::is_ready(pod),
        terminating: meta::is_deleting(&pod.metadata),
        hostname: spec.hostname.clone().filter(|hostname| in_subdomain && !hostname.is_empty()),
        node: node_name,
        zone,
        target: ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        },
    })
}

fn addresses(pod: &Pod) -> Vec<(Family, String)> {
    let Some(status) = &pod.status else { return Vec::new() };
    let all: Vec<&str> = match &status.pod_ips {
        Some(ips) if !ips.is_empty() => ips.iter().map(|ip| ip.ip.as_str()).collect(),
        _ => status.pod_ip.iter().map(String::as_str).collect(),
    };
    all.into_iter().filter_map(|ip| Family::of(ip).map(|family| (family, ip.to_owned()))).collect()
}

/// The service's ports on this pod. A named target port may be another number
/// on each pod; a pod that does not have it lacks that port.
fn ports(service: &Service, pod: &Pod) -> Vec<Port> {
    let wanted = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let mut ports: Vec<Port> = wanted
        .filter_map(|port| {
            Some(Port {
                name: port.name.clone().unwrap_or_default(),
                protocol: protocol(port.protocol.as_deref()).to_owned(),
                number: target_port(port, pod)?,
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    ports.sort();
    ports
}

fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars = spec.init_containers.iter().flatten();
            let sidecars =
                sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
            let mut ports = spec
                .containers
                .iter()
                .chain(sidecars)
                .flat_map(|container| container.ports.iter().flatten());
            let matches = |known: &&ContainerPort| {
                known.name.as_ref() == Some(name)
                    && protocol(known.protocol.as_deref()) == protocol(port.protocol.as_deref())
            };
            ports.find(matches).map(|known| known.container_port)
        }
    }
}

fn protocol(protocol: Option<&str>) -> &str {
    protocol.filter(|protocol| !protocol.is_empty()).unwrap_or("TCP")
}

/// The families the service wants endpoints in.
pub(crate) fn families(service: &Service) -> Vec<Family> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let named: Vec<Family> = spec
        .ip_families
        .iter()
        .flatten()
        .map(|family| if family == "IPv6" { Family::V6 } else { Family::V4 })
        .collect();
    if !named.is_empty() {
        return named;
    }
    vec![spec.cluster_ip.as_deref().and_then(Family::of).unwrap_or(Family::V4)]
}

/// Whether the service has no virtual address.
pub(crate) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

/// Whether pods count from the moment they have an address.
pub(crate) fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Container, PodSpec};

    use super::*;
    use crate::endpoints::fixtures::{self, service};

    fn with_named_port(number: i32) -> Pod {
        let mut pod = fixtures::pod("a", "10.0.0.1");
        pod.spec = Some(PodSpec {
            containers: vec![Container {
                ports: Some(vec![ContainerPort {
                    name: Some("http".into()),
                    container_port: number,
                    ..ContainerPort::default()
                }]),
                ..Container::default()
            }],
            ..PodSpec::default()
        });
        pod
    }

    #[test]
    fn target_ports_are_resolved_per_pod() {
        let named = |name: &str| service(80, Some(IntOrString::String(name.into())));
        let cases = [
            ("left out", service(80, None), with_named_port(8080), vec![80]),
            (
                "a number",
                service(80, Some(IntOrString::Int(9090))),
                with_named_port(8080),
                vec![9090],
            ),
            ("a name", named("http"), with_named_port(8080), vec![8080]),
            ("a name on another pod", named("http"), with_named_port(8081), vec![8081]),
            ("a missing name", named("grpc"), with_named_port(8080), vec![]),
        ];
        for (name, service, pod, expected) in cases {
            let numbers: Vec<i32> = ports(&service, &pod).iter().map(|port| port.number).collect();
            assert_eq!(numbers, expected, "{name}");
        }
    }

    #[test]
    fn pods_count_while_they_have_an_address_and_run() {
        let service = service(80, None);
        let mut ended = fixtures::pod("ended", "10.0.0.2");
        ended.status.as_mut().unwrap().phase = Some("Succeeded".into());
        let mut going = fixtures::pod("going", "10.0.0.3");
        going.metadata.deletion_timestamp = Some(meta::time(meta::now()));
        let pods =
            [fixtures::pod("plain", "10.0.0.1"), ended, going, crate::testing::pod("no-address")];
        let pods: Vec<Arc<Pod>> = pods.into_iter().map(Arc::new).collect();
        let backends = plan_backends(&service, &pods, |_| None);
        let seen: Vec<_> = backends
            .iter()
            .map(|backend| {
                (
                    backend.target.name.as_deref().unwrap(),
                    backend.is_ready(&service),
                    backend.serving,
                )
            })
            .collect();
        assert_eq!(seen, [("plain", true, true), ("going", false, true)]);
    }
}
