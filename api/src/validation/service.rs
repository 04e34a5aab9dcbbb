//! Services.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::meta::{MetaRules, check_create, check_update, labels};
use super::names;
use super::path::{Errors, Path, json, list, or_default, text};
use crate::catalogue::{FieldError, Part};

const META: MetaRules = MetaRules::namespaced(names::service_name);
const SPEC: Path<'static> = Path::root("spec");
const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
/// The longest a client may stick to its pod: a day.
const AFFINITY_MAX_SECONDS: i32 = 86_400;

/// Checks a new Service.
pub fn service_create(service: &Service) -> Vec<FieldError> {
    check_create(&service.metadata, META, |errors| spec(errors, &or_default(&service.spec)))
}

/// Checks an update of a Service: its address stays unless it becomes or was
/// an `ExternalName`, which has none.
pub fn service_update(new: &Service, old: &Service, part: Part) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        if part == Part::Status {
            status(errors, new);
            return;
        }
        let (new, old) = (or_default(&new.spec), or_default(&old.spec));
        let (had, has) = (has_address(&old), has_address(&new));
        if had && has {
            let (new_ip, old_ip) = (text(&new.cluster_ip), text(&old.cluster_ip));
            if !old_ip.is_empty() && new_ip != old_ip {
                // Upstream reports the list first, then the field that mirrors it.
                let path = SPEC.child("clusterIPs");
                errors.invalid(&path.index(0), json(list(&new.cluster_ips)), IMMUTABLE_IP);
                errors.invalid(&SPEC.child("clusterIP"), new_ip, IMMUTABLE_IP);
            }
            let (new_family, old_family) =
                (list(&new.ip_families).first(), list(&old.ip_families).first());
            if !old_ip.is_empty() && old_family.is_some() && new_family != old_family {
                let path = SPEC.child("ipFamilies");
                let detail = "may not change once set";
                errors.invalid(&path.index(0), json(list(&new.ip_families)), detail);
            }
        }
        if text(&old.type_) == "LoadBalancer" && text(&new.type_) == "LoadBalancer" {
            let (new, old) = (&new.load_balancer_class, &old.load_balancer_class);
            if new != old {
                let detail = "may not change once set";
                errors.invalid(&SPEC.child("loadBalancerClass"), text(new), detail);
            }
        }
        spec(errors, &new);
    })
}

const IMMUTABLE_IP: &str = "may not change once set";

fn has_address(spec: &ServiceSpec) -> bool {
    matches!(text(&spec.type_), "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn is_headless(spec: &ServiceSpec) -> bool {
    has_address(spec) && text(&spec.cluster_ip) == "None"
}

fn spec(errors: &mut Errors, spec: &ServiceSpec) {
    errors.required_one_of(&SPEC.child("type"), spec.type_.as_deref(), &TYPES);
    type_rules(errors, spec);
    ports(errors, spec);
    labels(errors, spec.selector.as_ref(), &SPEC.child("selector"));
    session_affinity(errors, spec);
    cluster_ips(errors, spec);
    external_ips(errors, list(&spec.external_ips));
    traffic_policies(errors, spec);
    load_balancer(errors, spec);
    errors.one_of(
        &SPEC.child("trafficDistribution"),
        spec.traffic_distribution.as_deref(),
        &["PreferClose", "PreferSameNode", "PreferSameZone"],
    );
}

fn type_rules(errors: &mut Errors, spec: &ServiceSpec) {
    let ip = text(&spec.cluster_ip);
    match text(&spec.type_) {
        "LoadBalancer" | "NodePort" if ip == "None" => {
            let detail = format!("may not be set to 'None' for {} services", text(&spec.type_));
            errors.invalid(&SPEC.child("clusterIPs").index(0), "None", detail);
        }
        "ExternalName" => {
            if !ip.is_empty() {
                let detail = "may not be set for ExternalName services";
                errors.forbidden(&SPEC.child("clusterIPs"), detail);
            }
            let name = text(&spec.external_name);
            let path = SPEC.child("externalName");
            // The dot of an absolute name is fine.
            let bare = name.strip_suffix('.').unwrap_or(name);
            if bare.is_empty() {
                errors.required(&path, "");
            } else {
                errors.invalid_each(&path, name, names::dns1123_subdomain(bare));
            }
        }
        _ => {}
    }
}

fn ports(errors: &mut Errors, spec: &ServiceSpec) {
    let ports = list(&spec.ports);
    let path = SPEC.child("ports");
    if ports.is_empty() && !is_headless(spec) && text(&spec.type_) != "ExternalName" {
        errors.required(&path, "");
    }
    let mut port_names = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let item = path.index(index);
        one_port(errors, port, ports.len() > 1, &mut port_names, spec, &item);
        let earlier = &ports[..index];
        let same = |other: &ServicePort| {
            text(&other.protocol) == text(&port.protocol) && other.port == port.port
        };
        if earlier.iter().any(same) {
            let value = serde_json::json!({"port": port.port, "protocol": text(&port.protocol)});
            errors.duplicate(&item, value);
        }
        let node_port = port.node_port.unwrap_or_default();
        let same_node_port = |other: &ServicePort| {
            node_port != 0
                && other.node_port == port.node_port
                && text(&other.protocol) == text(&port.protocol)
        };
        if earlier.iter().any(same_node_port) {
            errors.duplicate(&item.child("nodePort"), node_port);
        }
    }
}

fn one_port<'a>(
    errors: &mut Errors,
    port: &'a ServicePort,
    needs_name: bool,
    port_names: &mut BTreeSet<&'a str>,
    spec: &ServiceSpec,
    path: &Path<'_>,
) {
    let name = text(&port.name);
    let name_path = path.child("name");
    if name.is_empty() {
        if needs_name {
            errors.required(&name_path, "");
        }
    } else {
        errors.invalid_each(&name_path, name, names::dns1123_label(name));
        if !port_names.insert(name) {
            errors.duplicate(&name_path, name);
        }
    }
    errors.in_range(&path.child("port"), port.port, 1, 65535);
    let protocol = port.protocol.as_deref();
    errors.required_one_of(&path.child("protocol"), protocol, &["SCTP", "TCP", "UDP"]);
    let target_path = path.child("targetPort");
    match &port.target_port {
        Some(IntOrString::Int(number)) => errors.in_range(&target_path, *number, 1, 65535),
        Some(IntOrString::String(name)) => {
            errors.invalid_each(&target_path, name, names::port_name(name));
        }
        None => {}
    }
    if let Some(name) = port.app_protocol.as_deref() {
        errors.invalid_each(&path.child("appProtocol"), name, names::qualified_name(name));
    }
    let node_port = port.node_port.unwrap_or_default();
    if node_port != 0 {
        let path = path.child("nodePort");
        if !matches!(text(&spec.type_), "NodePort" | "LoadBalancer") {
            errors.forbidden(&path, "may not be used when `type` is 'ClusterIP'");
        }
        errors.in_range(&path, node_port, 1, 65535);
    }
}

fn session_affinity(errors: &mut Errors, spec: &ServiceSpec) {
    let affinity = spec.session_affinity.as_deref();
    errors.required_one_of(&SPEC.child("sessionAffinity"), affinity, &["ClientIP", "None"]);
    let path = SPEC.child("sessionAffinityConfig");
    if affinity == Some("None") && spec.session_affinity_config.is_some() {
        let detail = "must not be set when session affinity is None";
        errors.forbidden(&path, detail);
    }
    if affinity != Some("ClientIP") {
        return;
    }
    let client = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let path = path.child("clientIP.timeoutSeconds");
    match client.and_then(|client| client.timeout_seconds) {
        None => {
            let detail = "when session affinity type is ClientIP";
            errors.required(&SPEC.child("sessionAffinityConfig"), detail);
        }
        Some(seconds) if !(1..=AFFINITY_MAX_SECONDS).contains(&seconds) => {
            let detail = format!("must be greater than 0 and less than {AFFINITY_MAX_SECONDS}");
            errors.invalid(&path, seconds, detail);
        }
        Some(_) => {}
    }
}

fn cluster_ips(errors: &mut Errors, spec: &ServiceSpec) {
    let ips = list(&spec.cluster_ips);
    let path = SPEC.child("clusterIPs");
    let first = text(&spec.cluster_ip);
    if first.is_empty() {
        if !ips.is_empty() {
            errors.required(&SPEC.child("clusterIP"), "");
        }
    } else if ips.first().is_some_and(|ip| ip != first) {
        let detail = "first value must match `clusterIP`";
        errors.invalid(&path, json(ips), detail);
    }
    if spec.type_.as_deref() == Some("ExternalName") {
        return;
    }
    let headless = ips.iter().any(|ip| ip == "None");
    if headless && ips.len() > 1 {
        errors.invalid(&path.index(0), json(ips), "'None' must be the first and only value");
    }
    if ips.len() > 2 {
        errors.invalid(&path, json(ips), "may only hold up to 2 values");
    }
    for (index, ip) in ips.iter().enumerate() {
        if ip != "None" {
            errors.invalid_each(&path.index(index), ip, names::ip(ip));
        }
    }
    let families = list(&spec.ip_families);
    let families_path = SPEC.child("ipFamilies");
    for (index, family) in families.iter().enumerate() {
        let path = families_path.index(index);
        errors.one_of(&path, Some(family), &["IPv4", "IPv6"]);
        if families[..index].contains(family) {
            errors.duplicate(&path, family.as_str());
        }
    }
    errors.one_of(
        &SPEC.child("ipFamilyPolicy"),
        spec.ip_family_policy.as_deref(),
        &["PreferDualStack", "RequireDualStack", "SingleStack"],
    );
}

fn external_ips(errors: &mut Errors, ips: &[String]) {
    let path = SPEC.child("externalIPs");
    for (index, ip) in ips.iter().enumerate() {
        let path = path.index(index);
        let Ok(address) = ip.parse::<std::net::IpAddr>() else {
            errors.invalid_each(&path, ip, names::ip(ip));
            continue;
        };
        let reserved = match address {
            address if address.is_unspecified() => "may not be unspecified (0.0.0.0 or ::)",
            address if address.is_loopback() => {
                "may not be in the loopback range (127.0.0.0/8, ::1/128)"
            }
            std::net::IpAddr::V4(address) if address.is_link_local() => {
                "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
            }
            address if address.is_multicast() => {
                "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
            }
            _ => continue,
        };
        errors.invalid(&path, ip.as_str(), reserved);
    }
}

fn traffic_policies(errors: &mut Errors, spec: &ServiceSpec) {
    let external = text(&spec.external_traffic_policy);
    let path = SPEC.child("externalTrafficPolicy");
    let reachable = matches!(text(&spec.type_), "NodePort" | "LoadBalancer")
        || (text(&spec.type_) == "ClusterIP" && !list(&spec.external_ips).is_empty());
    if reachable {
        errors.required_one_of(&path, Some(external), &["Cluster", "Local"]);
    } else if !external.is_empty() {
        let detail = "may only be set for externally-accessible services";
        errors.invalid(&path, external, detail);
    }
    if has_address(spec) {
        errors.required_one_of(
            &SPEC.child("internalTrafficPolicy"),
            spec.internal_traffic_policy.as_deref(),
            &["Cluster", "Local"],
        );
    }
    let health = spec.health_check_node_port.unwrap_or_default();
    if health != 0 {
        let path = SPEC.child("healthCheckNodePort");
        if text(&spec.type_) == "LoadBalancer" && external == "Local" {
            errors.in_range(&path, health, 1, 65535);
        } else {
            let detail = "may only be set when `type` is 'LoadBalancer' and \
                          `externalTrafficPolicy` is 'Local'";
            errors.invalid(&path, health, detail);
        }
    }
}

fn load_balancer(errors: &mut Errors, spec: &ServiceSpec) {
    let is = text(&spec.type_) == "LoadBalancer";
    let ranges = list(&spec.load_balancer_source_ranges);
    let path = SPEC.child("loadBalancerSourceRanges");
    if !is && !ranges.is_empty() {
        errors.forbidden(&path, "may only be used when `type` is 'LoadBalancer'");
    }
    for (index, range) in ranges.iter().enumerate() {
        errors.invalid_each(&path.index(index), range, names::cidr(range.trim()));
    }
    if !is && spec.allocate_load_balancer_node_ports.is_some() {
        let path = SPEC.child("allocateLoadBalancerNodePorts");
        errors.forbidden(&path, "may only be used when `type` is 'LoadBalancer'");
    }
    if let Some(class) = &spec.load_balancer_class {
        let path = SPEC.child("loadBalancerClass");
        if !is {
            errors.forbidden(&path, "may only be used when `type` is 'LoadBalancer'");
        }
        errors.invalid_each(&path, class, names::qualified_name(class));
    }
}

fn status(errors: &mut Errors, service: &Service) {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let path = Path::root("status.loadBalancer.ingress");
    let kind = service.spec.as_ref().map(|spec| text(&spec.type_)).unwrap_or_default();
    let ingresses = balancer.map(|balancer| list(&balancer.ingress)).unwrap_or_default();
    if kind != "LoadBalancer" && !ingresses.is_empty() {
        errors.forbidden(&path, "may only be used when `spec.type` is \"LoadBalancer\"");
        return;
    }
    for (index, ingress) in ingresses.iter().enumerate() {
        let path = path.index(index);
        let ip = text(&ingress.ip);
        if !ip.is_empty() {
            errors.invalid_each(&path.child("ip"), ip, names::ip(ip));
        }
        let name = text(&ingress.hostname);
        if !name.is_empty() {
            errors.invalid_each(&path.child("hostname"), name, names::dns1123_subdomain(name));
        }
    }
}
