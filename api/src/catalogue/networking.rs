//! Ingress, network policy and the addresses of services.

use k8s_openapi::api::networking::v1 as k;

use super::subresources::status;
use super::{Resource, Rules, Typed};
use crate::{defaults, table, validation};

/// What the entries of this file have in common.
const NETWORKING: Resource = Resource {
    group: "networking.k8s.io",
    version: "v1",
    behaviour: &Typed::<k::IngressClass>::PLAIN,
    ..Resource::BASE
};

pub(super) const ENTRIES: &[Resource] = &[
    Resource {
        kind: "IngressClass",
        plural: "ingressclasses",
        singular: "ingressclass",
        namespaced: false,
        behaviour: &Typed::<k::IngressClass> {
            default: Some(defaults::ingress_class),
            validate: Some(validation::ingress_class_create),
            validate_update: Some(validation::ingress_class_update),
            rules: Rules::GENERATION,
            printer: &table::INGRESS_CLASS,
            ..Typed::PLAIN
        },
        ..NETWORKING
    },
    Resource {
        kind: "Ingress",
        plural: "ingresses",
        singular: "ingress",
        short_names: &["ing"],
        subresources: &[status("Ingress", "networking.k8s.io", "v1")],
        behaviour: &Typed::<k::Ingress> {
            validate: Some(validation::ingress_create),
            validate_update: Some(validation::ingress_update),
            rules: Rules::FULL,
            printer: &table::INGRESS,
            ..Typed::PLAIN
        },
        ..NETWORKING
    },
    Resource {
        kind: "IPAddress",
        plural: "ipaddresses",
        singular: "ipaddress",
        short_names: &["ip"],
        namespaced: false,
        behaviour: &Typed::<k::IPAddress> {
            validate: Some(validation::ip_address_create),
            validate_update: Some(validation::ip_address_update),
            rules: Rules::GENERATION,
            printer: &table::IP_ADDRESS,
            selectable: &["spec.parentRef.group", "spec.parentRef.resource"],
            ..Typed::PLAIN
        },
        ..NETWORKING
    },
    Resource {
        kind: "NetworkPolicy",
        plural: "networkpolicies",
        singular: "networkpolicy",
        short_names: &["netpol"],
        behaviour: &Typed::<k::NetworkPolicy> {
            default: Some(defaults::network_policy),
            validate: Some(validation::network_policy_create),
            validate_update: Some(validation::network_policy_update),
            rules: Rules::GENERATION,
            printer: &table::NETWORK_POLICY,
            ..Typed::PLAIN
        },
        ..NETWORKING
    },
    Resource {
        kind: "ServiceCIDR",
        plural: "servicecidrs",
        singular: "servicecidr",
        namespaced: false,
        subresources: &[status("ServiceCIDR", "networking.k8s.io", "v1")],
        behaviour: &Typed::<k::ServiceCIDR> {
            validate: Some(validation::service_cidr_create),
            validate_update: Some(validation::service_cidr_update),
            rules: Rules::FULL,
            printer: &table::SERVICE_CIDR,
            ..Typed::PLAIN
        },
        ..NETWORKING
    },
];
