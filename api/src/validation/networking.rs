//! Ingress, IngressClass, NetworkPolicy and IPAddress.

use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, IPAddress, IPBlock, Ingress, IngressBackend, IngressClass, IngressSpec,
    NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec, ServiceCIDR,
    ServiceCIDRSpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::meta::{MetaRules, check_create, check_update, label_selector};
use super::names;
use super::path::{Errors, Path, json, list, or_default, text};
use crate::catalogue::{FieldError, Part};

const META: MetaRules = MetaRules::namespaced(names::subdomain_name);
const CLASS_META: MetaRules = MetaRules::cluster(names::subdomain_name);
const SPEC: Path<'static> = Path::root("spec");

/// Checks a new Ingress.
pub fn ingress_create(ingress: &Ingress) -> Vec<FieldError> {
    check_create(&ingress.metadata, META, |errors| {
        let spec = or_default(&ingress.spec);
        ingress_spec(errors, &spec);
        let annotation = "kubernetes.io/ingress.class";
        let annotated =
            ingress.metadata.annotations.as_ref().and_then(|given| given.get(annotation));
        if let (Some(value), Some(_)) = (annotated, &spec.ingress_class_name) {
            let path = Path::root("annotations");
            let detail = "can not be set when the class field is also set";
            errors.invalid(&path.child(annotation), value.as_str(), detail);
        }
    })
}

/// Checks an update of an Ingress.
pub fn ingress_update(new: &Ingress, old: &Ingress, part: Part) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        if part != Part::Status {
            ingress_spec(errors, &or_default(&new.spec));
        }
    })
}

fn ingress_spec(errors: &mut Errors, spec: &IngressSpec) {
    let rules = list(&spec.rules);
    if rules.is_empty() && spec.default_backend.is_none() {
        let detail = "either `defaultBackend` or `rules` must be specified";
        errors.invalid(&SPEC, json(rules), detail);
    }
    if let Some(backend) = &spec.default_backend {
        ingress_backend(errors, backend, &SPEC.child("defaultBackend"));
    }
    let path = SPEC.child("rules");
    for (index, rule) in rules.iter().enumerate() {
        let path = path.index(index);
        let host = text(&rule.host);
        if !host.is_empty() {
            ingress_host(errors, host, &path.child("host"));
        }
        let Some(http) = &rule.http else { continue };
        let path = path.child("http.paths");
        if http.paths.is_empty() {
            errors.required(&path, "");
        }
        for (index, http_path) in http.paths.iter().enumerate() {
            ingress_path(errors, http_path, &path.index(index));
        }
    }
    let path = SPEC.child("tls");
    for (index, tls) in list(&spec.tls).iter().enumerate() {
        let path = path.index(index);
        let hosts = path.child("hosts");
        for (index, host) in list(&tls.hosts).iter().enumerate() {
            let messages = if host.contains('*') {
                names::wildcard_subdomain(host)
            } else {
                names::dns1123_subdomain(host)
            };
            errors.invalid_each(&hosts.index(index), host, messages);
        }
        let secret = text(&tls.secret_name);
        if !secret.is_empty() {
            let messages = names::dns1123_subdomain(secret);
            errors.invalid_each(&path.child("secretName"), secret, messages);
        }
    }
    if let Some(class) = &spec.ingress_class_name {
        let messages = names::dns1123_subdomain(class);
        errors.invalid_each(&SPEC.child("ingressClassName"), class, messages);
    }
}

fn ingress_host(errors: &mut Errors, host: &str, path: &Path<'_>) {
    if host.parse::<std::net::IpAddr>().is_ok() {
        errors.invalid(path, host, "must be a DNS name, not an IP address");
    } else if host.contains('*') {
        errors.invalid_each(path, host, names::wildcard_subdomain(host));
    } else {
        errors.invalid_each(path, host, names::dns1123_subdomain(host));
    }
}

fn ingress_path(errors: &mut Errors, http: &HTTPIngressPath, path: &Path<'_>) {
    let value = text(&http.path);
    let path_path = path.child("path");
    match http.path_type.as_str() {
        "" => errors.required(&path.child("pathType"), "pathType must be specified"),
        "Exact" | "Prefix" => {
            if !value.starts_with('/') {
                errors.invalid(&path_path, value, "must be an absolute path");
            }
            for sequence in ["//", "/./", "/../", "%2f", "%2F"] {
                if value.contains(sequence) {
                    let detail = format!("must not contain '{sequence}'");
                    errors.invalid(&path_path, value, detail);
                }
            }
            for suffix in ["/..", "/."] {
                if value.ends_with(suffix) {
                    errors.invalid(&path_path, value, format!("cannot end with '{suffix}'"));
                }
            }
        }
        "ImplementationSpecific" => {
            if !value.is_empty() && !value.starts_with('/') {
                errors.invalid(&path_path, value, "must be an absolute path");
            }
        }
        other => errors.not_supported(
            &path.child("pathType"),
            other,
            &["Exact", "ImplementationSpecific", "Prefix"],
        ),
    }
    ingress_backend(errors, &http.backend, &path.child("backend"));
}

fn ingress_backend(errors: &mut Errors, backend: &IngressBackend, path: &Path<'_>) {
    match (&backend.resource, &backend.service) {
        (Some(_), Some(_)) => {
            let detail = "cannot set both resource and service backends";
            errors.invalid(path, "", detail);
        }
        (None, None) => errors.required(path, "resource or service backend is required"),
        (Some(resource), None) => {
            let path = path.child("resource");
            for (field, value) in [("kind", &resource.kind), ("name", &resource.name)] {
                if value.is_empty() {
                    errors.required(&path.child(field), "");
                }
            }
        }
        (None, Some(service)) => {
            let path = path.child("service");
            if service.name.is_empty() {
                errors.required(&path.child("name"), "");
            } else {
                let messages = names::dns1035_label(&service.name);
                errors.invalid_each(&path.child("name"), &service.name, messages);
            }
            let port = or_default(&service.port);
            let (name, number) = (text(&port.name), port.number.unwrap_or_default());
            let path = path.child("port");
            if !name.is_empty() && number != 0 {
                errors.invalid(&path, "", "cannot set both port name & port number");
            } else if !name.is_empty() {
                errors.invalid_each(&path.child("name"), name, names::port_name(name));
            } else if number != 0 {
                errors.in_range(&path.child("number"), number, 1, 65535);
            } else {
                errors.required(&path, "port name or number is required");
            }
        }
    }
}

/// Checks a new IngressClass.
pub fn ingress_class_create(class: &IngressClass) -> Vec<FieldError> {
    check_create(&class.metadata, CLASS_META, |errors| ingress_class(errors, class))
}

/// Checks an update of an IngressClass: its controller stays.
pub fn ingress_class_update(
    new: &IngressClass,
    old: &IngressClass,
    _part: Part,
) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        ingress_class(errors, new);
        let (new, old) = (or_default(&new.spec), or_default(&old.spec));
        errors.immutable(&SPEC.child("controller"), &new.controller, &old.controller);
    })
}

fn ingress_class(errors: &mut Errors, class: &IngressClass) {
    let spec = or_default(&class.spec);
    let controller = text(&spec.controller);
    let path = SPEC.child("controller");
    if controller.len() > 250 {
        errors.too_long(&path, 250);
    }
    errors.invalid_each(&path, controller, names::domain_prefixed(controller));
    let Some(parameters) = &spec.parameters else { return };
    let path = SPEC.child("parameters");
    for (field, value) in [("kind", &parameters.kind), ("name", &parameters.name)] {
        if value.is_empty() {
            errors.required(&path.child(field), "");
        }
    }
    let scope = parameters.scope.as_deref();
    errors.required_one_of(&path.child("scope"), scope, &["Cluster", "Namespace"]);
    let namespace = text(&parameters.namespace);
    let path = path.child("namespace");
    match (scope, namespace.is_empty()) {
        (Some("Namespace"), true) => {
            errors.required(&path, "`parameters.scope` is set to 'Namespace'");
        }
        (Some("Cluster"), false) => {
            errors.forbidden(&path, "`parameters.scope` is set to 'Cluster'");
        }
        _ => {}
    }
}

/// Checks a new NetworkPolicy.
pub fn network_policy_create(policy: &NetworkPolicy) -> Vec<FieldError> {
    check_create(&policy.metadata, META, |errors| network_policy(errors, &or_default(&policy.spec)))
}

/// Checks an update of a NetworkPolicy.
pub fn network_policy_update(
    new: &NetworkPolicy,
    old: &NetworkPolicy,
    _part: Part,
) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        network_policy(errors, &or_default(&new.spec))
    })
}

fn network_policy(errors: &mut Errors, spec: &NetworkPolicySpec) {
    label_selector(errors, spec.pod_selector.as_ref(), &SPEC.child("podSelector"));
    let path = SPEC.child("ingress");
    for (index, rule) in list(&spec.ingress).iter().enumerate() {
        let path = path.index(index);
        policy_ports(errors, list(&rule.ports), &path.child("ports"));
        policy_peers(errors, list(&rule.from), &path.child("from"));
    }
    let path = SPEC.child("egress");
    for (index, rule) in list(&spec.egress).iter().enumerate() {
        let path = path.index(index);
        policy_ports(errors, list(&rule.ports), &path.child("ports"));
        policy_peers(errors, list(&rule.to), &path.child("to"));
    }
    let types = list(&spec.policy_types);
    let path = SPEC.child("policyTypes");
    if types.len() > 2 {
        let detail = "may not specify more than two policyTypes";
        errors.invalid(&path, json(types), detail);
    } else {
        for (index, kind) in types.iter().enumerate() {
            errors.one_of(&path.index(index), Some(kind), &["Egress", "Ingress"]);
        }
    }
}

fn policy_ports(errors: &mut Errors, ports: &[NetworkPolicyPort], path: &Path<'_>) {
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let protocol = port.protocol.as_deref();
        errors.one_of(&path.child("protocol"), protocol, &["SCTP", "TCP", "UDP"]);
        let end_path = path.child("endPort");
        match (&port.port, port.end_port) {
            (None, Some(_)) => {
                errors.required(&path.child("port"), "must be specified when `endPort` is set");
            }
            (Some(IntOrString::String(name)), end) => {
                errors.invalid_each(&path.child("port"), name, names::port_name(name));
                if let Some(end) = end {
                    let detail = "may not be specified when `port` is non-numeric";
                    errors.invalid(&end_path, end, detail);
                }
            }
            (Some(IntOrString::Int(start)), end) => {
                errors.in_range(&path.child("port"), *start, 1, 65535);
                if let Some(end) = end {
                    if end < *start {
                        let detail = "must be greater than or equal to `port`";
                        errors.invalid(&end_path, end, detail);
                    }
                    errors.in_range(&end_path, end, 1, 65535);
                }
            }
            (None, None) => {}
        }
    }
}

fn policy_peers(errors: &mut Errors, peers: &[NetworkPolicyPeer], path: &Path<'_>) {
    for (index, peer) in peers.iter().enumerate() {
        let path = path.index(index);
        let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
        label_selector(errors, peer.pod_selector.as_ref(), &path.child("podSelector"));
        label_selector(errors, peer.namespace_selector.as_ref(), &path.child("namespaceSelector"));
        if let Some(block) = &peer.ip_block {
            ip_block(errors, block, &path.child("ipBlock"));
            if selects {
                let detail = "may not be specified when both ipBlock and other selectors are set";
                errors.forbidden(&path, detail);
            }
        } else if !selects {
            errors.required(&path, "must specify a peer");
        }
    }
}

fn ip_block(errors: &mut Errors, block: &IPBlock, path: &Path<'_>) {
    let cidr_path = path.child("cidr");
    if block.cidr.is_empty() {
        errors.required(&cidr_path, "");
        return;
    }
    errors.invalid_each(&cidr_path, &block.cidr, names::cidr(&block.cidr));
    let Some(outer) = names::parse_cidr(&block.cidr) else { return };
    let path = path.child("except");
    for (index, except) in list(&block.except).iter().enumerate() {
        let path = path.index(index);
        errors.invalid_each(&path, except, names::cidr(except));
        let within = names::parse_cidr(except).is_none_or(|inner| {
            inner.1 > outer.1
                && names::parse_cidr(&format!("{}/{}", inner.0, outer.1)) == Some(outer)
        });
        if !within {
            let detail = format!("must be a strict subset of `cidr` {}", block.cidr);
            errors.invalid(&path, except.as_str(), detail);
        }
    }
}

/// Checks a new IPAddress, which is named after the address it stands for.
pub fn ip_address_create(address: &IPAddress) -> Vec<FieldError> {
    check_create(&address.metadata, MetaRules::cluster(|name, _| names::ip(name)), |errors| {
        let path = SPEC.child("parentRef");
        let spec = or_default(&address.spec);
        for (field, value) in
            [("resource", &spec.parent_ref.resource), ("name", &spec.parent_ref.name)]
        {
            if value.is_empty() {
                errors.required(&path.child(field), "");
            }
        }
    })
}

/// Checks an update of an IPAddress: its owner stays.
pub fn ip_address_update(new: &IPAddress, old: &IPAddress, _part: Part) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        let (new, old) = (or_default(&new.spec), or_default(&old.spec));
        errors.immutable(&SPEC.child("parentRef"), &new.parent_ref, &old.parent_ref);
    })
}

/// Checks a new ServiceCIDR: one range of addresses, or one of each family.
pub fn service_cidr_create(cidr: &ServiceCIDR) -> Vec<FieldError> {
    check_create(&cidr.metadata, MetaRules::cluster(names::subdomain_name), |errors| {
        service_ranges(errors, &or_default(&cidr.spec))
    })
}

/// Checks an update of a ServiceCIDR: ranges stay, a second one may be added.
pub fn service_cidr_update(new: &ServiceCIDR, old: &ServiceCIDR, part: Part) -> Vec<FieldError> {
    check_update(&new.metadata, &old.metadata, |errors| {
        if part != Part::Main {
            return;
        }
        let (new, old) = (or_default(&new.spec), or_default(&old.spec));
        service_ranges(errors, &new);
        let grown = list(&old.cidrs).len() == 1 && list(&new.cidrs).starts_with(list(&old.cidrs));
        if !grown {
            errors.immutable(&SPEC.child("cidrs"), &new.cidrs, &old.cidrs);
        }
    })
}

fn service_ranges(errors: &mut Errors, spec: &ServiceCIDRSpec) {
    let (cidrs, path) = (list(&spec.cidrs), SPEC.child("cidrs"));
    if cidrs.is_empty() {
        errors.required(&path, "at least one CIDR required");
    }
    if cidrs.len() > 2 {
        errors.invalid(&path, json(cidrs), "may only hold up to 2 values");
    }
    for (index, cidr) in cidrs.iter().enumerate() {
        errors.invalid_each(&path.index(index), cidr, names::cidr(cidr));
    }
    if let [first, second] = cidrs
        && first.contains(':') == second.contains(':')
    {
        let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and \
                      2001:db8::/64";
        errors.invalid(&path, json(cidrs), detail);
    }
}
