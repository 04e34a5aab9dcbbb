//! NetworkPolicy and IngressClass. An Ingress has no defaults in its current
//! version: `pathType` must be chosen.

use k8s_openapi::api::networking::v1::{IngressClass, NetworkPolicy};

use super::fill_text;

/// Fills in a NetworkPolicy: it is about ingress always, and about egress when
/// it has rules for it.
pub fn network_policy(policy: &mut NetworkPolicy) {
    let Some(spec) = &mut policy.spec else { return };
    if spec.policy_types.as_ref().is_none_or(Vec::is_empty) {
        let mut types = vec!["Ingress".to_owned()];
        if spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()) {
            types.push("Egress".to_owned());
        }
        spec.policy_types = Some(types);
    }
    let ingress = spec.ingress.iter_mut().flatten().filter_map(|rule| rule.ports.as_mut());
    let egress = spec.egress.iter_mut().flatten().filter_map(|rule| rule.ports.as_mut());
    for port in ingress.chain(egress).flatten() {
        fill_text(&mut port.protocol, "TCP");
    }
}

/// Fills in an IngressClass.
pub fn ingress_class(class: &mut IngressClass) {
    if let Some(parameters) = class.spec.as_mut().and_then(|spec| spec.parameters.as_mut()) {
        fill_text(&mut parameters.scope, "Cluster");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn policy_types_follow_the_rules() {
        let cases = [
            (json!({"podSelector": {}}), json!(["Ingress"])),
            (json!({"podSelector": {}, "egress": [{}]}), json!(["Ingress", "Egress"])),
            (json!({"podSelector": {}, "egress": []}), json!(["Ingress"])),
            (json!({"podSelector": {}, "policyTypes": ["Egress"]}), json!(["Egress"])),
        ];
        for (spec, expected) in cases {
            let mut policy: NetworkPolicy = serde_json::from_value(json!({"spec": spec})).unwrap();
            network_policy(&mut policy);
            let spec = serde_json::to_value(policy.spec).unwrap();
            assert_eq!(spec["policyTypes"], expected, "{spec}");
        }
    }
}
