//! Services and their endpoints.

use k8s_openapi::api::core::v1::{
    ClientIPConfig, Endpoints, Service, ServiceSpec, SessionAffinityConfig,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{fill, fill_text};

/// How long a client sticks to its pod: three hours.
const AFFINITY_SECONDS: i32 = 10_800;

/// Fills in a Service.
pub fn service(service: &mut Service) {
    let Some(spec) = &mut service.spec else { return };
    fill_text(&mut spec.type_, "ClusterIP");
    session_affinity(spec);
    for port in spec.ports.iter_mut().flatten() {
        fill_text(&mut port.protocol, "TCP");
        match &port.target_port {
            None | Some(IntOrString::Int(0)) => {
                port.target_port = Some(IntOrString::Int(port.port))
            }
            Some(IntOrString::String(name)) if name.is_empty() => {
                port.target_port = Some(IntOrString::Int(port.port));
            }
            Some(_) => {}
        }
    }
    let kind = spec.type_.clone().unwrap_or_default();
    let external_ips = spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") || (kind == "ClusterIP" && external_ips)
    {
        fill_text(&mut spec.external_traffic_policy, "Cluster");
    }
    if kind != "ExternalName" {
        fill(&mut spec.internal_traffic_policy, "Cluster".to_owned());
        addresses(spec);
    }
    if kind == "LoadBalancer" {
        fill(&mut spec.allocate_load_balancer_node_ports, true);
        let status = service.status.iter_mut().filter_map(|status| status.load_balancer.as_mut());
        for ingress in status.flat_map(|balancer| balancer.ingress.iter_mut().flatten()) {
            if ingress.ip.as_ref().is_some_and(|ip| !ip.is_empty()) {
                fill(&mut ingress.ip_mode, "VIP".to_owned());
            }
        }
    }
}

fn session_affinity(spec: &mut ServiceSpec) {
    fill_text(&mut spec.session_affinity, "None");
    match spec.session_affinity.as_deref() {
        Some("None") => spec.session_affinity_config = None,
        Some("ClientIP") => {
            let config =
                spec.session_affinity_config.get_or_insert_with(SessionAffinityConfig::default);
            let client = config.client_ip.get_or_insert_with(ClientIPConfig::default);
            fill(&mut client.timeout_seconds, AFFINITY_SECONDS);
        }
        _ => {}
    }
}

/// Families of addresses, and `clusterIPs` after `clusterIP`. The cluster has
/// one family, IPv4; only a headless service without a selector, whose
/// endpoints somebody else writes, may have both.
fn addresses(spec: &mut ServiceSpec) {
    if let Some(ip) = spec.cluster_ip.as_ref().filter(|ip| !ip.is_empty())
        && spec.cluster_ips.as_ref().is_none_or(Vec::is_empty)
    {
        spec.cluster_ips = Some(vec![ip.clone()]);
    }
    let headless = spec.cluster_ip.as_deref() == Some("None");
    let selects = spec.selector.as_ref().is_some_and(|selector| !selector.is_empty());
    let both = headless && !selects;
    fill_text(&mut spec.ip_family_policy, if both { "RequireDualStack" } else { "SingleStack" });
    if spec.ip_families.as_ref().is_none_or(Vec::is_empty) {
        let ipv6 = spec.cluster_ip.as_ref().is_some_and(|ip| ip.contains(':'));
        let mut families = vec![if ipv6 { "IPv6" } else { "IPv4" }.to_owned()];
        if both && spec.ip_family_policy.as_deref() != Some("SingleStack") {
            families.push("IPv6".to_owned());
        }
        spec.ip_families = Some(families);
    }
}

/// Fills in an Endpoints object.
pub fn endpoints(endpoints: &mut Endpoints) {
    for subset in endpoints.subsets.iter_mut().flatten() {
        for port in subset.ports.iter_mut().flatten() {
            fill_text(&mut port.protocol, "TCP");
        }
    }
}

/// Fills in an EndpointSlice.
pub fn endpoint_slice(slice: &mut EndpointSlice) {
    for port in slice.ports.iter_mut().flatten() {
        fill(&mut port.name, String::new());
        fill_text(&mut port.protocol, "TCP");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn filled(spec: Value) -> Value {
        let object = json!({"metadata": {"name": "web"}, "spec": spec});
        let mut object: Service = serde_json::from_value(object).unwrap();
        service(&mut object);
        serde_json::to_value(object.spec).unwrap()
    }

    #[test]
    fn a_minimal_service_is_completed() {
        let spec = filled(json!({"selector": {"app": "web"}, "ports": [{"port": 80}]}));
        let expected = json!({
            "internalTrafficPolicy": "Cluster",
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
            "selector": {"app": "web"},
            "sessionAffinity": "None",
            "type": "ClusterIP",
        });
        assert_eq!(spec, expected);
    }

    #[test]
    fn each_type_gets_its_fields() {
        let spec =
            filled(json!({"type": "LoadBalancer", "ports": [{"port": 1, "targetPort": "x"}]}));
        assert_eq!(spec["externalTrafficPolicy"], "Cluster");
        assert_eq!(spec["allocateLoadBalancerNodePorts"], true);
        assert_eq!(spec["ports"][0]["targetPort"], "x");

        let spec = filled(json!({"type": "ExternalName", "externalName": "a.b"}));
        assert_eq!(spec["ipFamilies"], json!(null));
        assert_eq!(spec["internalTrafficPolicy"], json!(null));

        let spec = filled(json!({"clusterIP": "None"}));
        assert_eq!(spec["clusterIPs"], json!(["None"]));
        assert_eq!(spec["ipFamilyPolicy"], "RequireDualStack");

        let spec = filled(json!({"sessionAffinity": "ClientIP"}));
        assert_eq!(spec["sessionAffinityConfig"], json!({"clientIP": {"timeoutSeconds": 10800}}));
    }
}
