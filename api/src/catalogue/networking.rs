//! Ingress, network policy and the addresses of services.

use k8s_openapi::api::networking::v1 as k;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

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

/// The range that the server is started with, and hands addresses out of.
const DEFAULT_RANGE: &str = "kubernetes";

/// The default range is in use from the start; of others nobody hands out
/// addresses yet, so nothing is said of them.
fn tell_readiness(range: &mut k::ServiceCIDR) {
    let Some(since) = range.metadata.creation_timestamp.clone() else { return };
    if range.metadata.name.as_deref() == Some(DEFAULT_RANGE) {
        range.status.get_or_insert_default().conditions = Some(vec![Condition {
            type_: "Ready".to_owned(),
            status: "True".to_owned(),
            reason: "InUse".to_owned(),
            message: "Kubernetes Service CIDR is ready".to_owned(),
            last_transition_time: since,
            observed_generation: None,
        }]);
    }
}

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
            prepare: Some(tell_readiness),
            rules: Rules::FULL,
            printer: &table::SERVICE_CIDR,
            ..Typed::PLAIN
        },
        ..NETWORKING
    },
];

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::catalogue::find;

    #[test]
    fn only_the_default_range_is_ready() {
        let behaviour = find("networking.k8s.io", "v1", "servicecidrs").unwrap().behaviour;
        for (name, ready) in [("kubernetes", json!("True")), ("other", Value::Null)] {
            let mut range = json!({
                "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"cidrs": ["10.96.0.0/16"]},
                "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]},
            });
            behaviour.prepare_create(&mut range);
            assert_eq!(range["status"]["conditions"][0]["status"], ready, "{name}");
        }
    }
}
