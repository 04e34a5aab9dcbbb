//! Services, Endpoints and EndpointSlices.

use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

use super::Kind;
use crate::catalogue::Part;
use crate::{defaults, validation};

fn service() -> Kind<Service> {
    Kind {
        minimal: json!({
            "metadata": {"name": "web", "namespace": "dev"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
        }),
        default: defaults::service,
        create: validation::service_create,
        update: Some(validation::service_update),
    }
}

#[test]
fn services() {
    service().creates(&[
        ("/metadata/name", json!("1web"), &["metadata.name: Invalid: a DNS-1035 label must consist of"]),
        ("/spec/type", json!("x"), &["spec.type: NotSupported: supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\""]),
        ("/spec/type", json!("NodePort"), &[]),
        ("/spec/type", json!("LoadBalancer"), &[]),
        ("/spec/type", json!("ExternalName"), &["spec.externalName: Required"]),
        ("/spec/ports", json!([]), &["spec.ports: Required"]),
        (
            "/spec/ports",
            json!([{"port": 80}, {"port": 80}]),
            &["spec.ports[0].name: Required", "spec.ports[1].name: Required", "spec.ports[1]: Duplicate"],
        ),
        (
            "/spec/ports",
            json!([{"port": 80, "name": "a"}, {"port": 80, "name": "a", "protocol": "UDP"}]),
            &["spec.ports[1].name: Duplicate"],
        ),
        (
            "/spec/ports",
            json!([{"port": 0, "targetPort": 70000, "nodePort": 30000, "protocol": "x"}]),
            &[
                "spec.ports[0].port: Invalid: must be between 1 and 65535, inclusive",
                "spec.ports[0].targetPort: Invalid",
                "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
                "spec.ports[0].protocol: NotSupported",
            ],
        ),
        ("/spec/ports/0/targetPort", json!("no_name"), &["spec.ports[0].targetPort: Invalid"]),
        ("/spec/sessionAffinity", json!("x"), &["spec.sessionAffinity: NotSupported"]),
        ("/spec/clusterIP", json!("x"), &["spec.clusterIPs[0]: Invalid: must be a valid IP address"]),
        ("/spec/clusterIPs", json!(["10.0.0.1"]), &["spec.clusterIP: Required"]),
        ("/spec/externalIPs", json!(["127.0.0.1", "x"]), &["spec.externalIPs[0]: Invalid: may not be in the loopback range", "spec.externalIPs[1]: Invalid"]),
        ("/spec/loadBalancerSourceRanges", json!(["x"]), &["spec.loadBalancerSourceRanges: Forbidden", "spec.loadBalancerSourceRanges[0]: Invalid"]),
        ("/spec/externalTrafficPolicy", json!("Local"), &["spec.externalTrafficPolicy: Invalid: may only be set for externally-accessible services"]),
        ("/spec/selector", json!({"a": "b c"}), &["spec.selector: Invalid"]),
    ]);
    service().creates_with(
        &[
            ("/spec/sessionAffinity", json!("ClientIP")),
            ("/spec/sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 90000}})),
        ],
        &["spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid: must be greater than 0 and less than 86400"],
    );
    service().creates_with(&[("/spec/clusterIP", json!("None")), ("/spec/ports", json!([]))], &[]);
    service().creates_with(
        &[("/spec/clusterIP", json!("None")), ("/spec/type", json!("NodePort"))],
        &["spec.clusterIPs[0]: Invalid: may not be set to 'None' for NodePort services"],
    );
    service().creates_with(
        &[("/spec/type", json!("ExternalName")), ("/spec/externalName", json!("example.com."))],
        &[],
    );
}

#[test]
fn the_address_of_a_service_stays() {
    let old = [("/spec/clusterIP", json!("10.96.0.7")), ("/spec/clusterIPs", json!(["10.96.0.7"]))];
    service().updates_from(
        &old,
        Part::Main,
        &[
            ("/spec/ports", json!([{"port": 81}]), &[]),
            (
                "/spec/clusterIP",
                json!("10.96.0.8"),
                &[
                    "spec.clusterIP: Invalid: may not change once set",
                    "spec.clusterIPs: Invalid: first value must match `clusterIP`",
                    "spec.clusterIPs[0]: Invalid: may not change once set",
                ],
            ),
        ],
    );
    service().updates(
        Part::Status,
        &[(
            "/status",
            json!({"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}),
            &["status.loadBalancer.ingress: Forbidden: may only be used when `spec.type`"],
        )],
    );
}

#[test]
fn endpoints() {
    let kind = Kind::<Endpoints> {
        minimal: json!({
            "metadata": {"name": "web", "namespace": "dev"},
            "subsets": [{"addresses": [{"ip": "10.244.0.5"}], "ports": [{"port": 80}]}],
        }),
        default: defaults::endpoints,
        create: validation::endpoints_create,
        update: Some(validation::endpoints_update),
    };
    kind.creates(&[
        ("/subsets/0/addresses", json!([]), &["subsets[0]: Required: must specify `addresses` or `notReadyAddresses`"]),
        (
            "/subsets/0/addresses",
            json!([{"ip": "127.0.0.1"}, {"ip": "169.254.1.1"}, {"ip": "x"}, {"ip": "0.0.0.0"}]),
            &[
                "subsets[0].addresses[0].ip: Invalid: may not be in the loopback range (127.0.0.0/8, ::1/128)",
                "subsets[0].addresses[1].ip: Invalid: may not be in the link-local range",
                "subsets[0].addresses[2].ip: Invalid: must be a valid IP address",
                "subsets[0].addresses[3].ip: Invalid: may not be unspecified",
            ],
        ),
        ("/subsets/0/ports", json!([{"port": 1}, {"port": 0, "name": "a"}]), &["subsets[0].ports[0].name: Required", "subsets[0].ports[1].port: Invalid"]),
    ]);
    kind.updates(Part::Main, &[("/subsets", json!([]), &[])]);
}

#[test]
fn endpoint_slices() {
    let kind = Kind::<EndpointSlice> {
        minimal: json!({
            "metadata": {"name": "web-1", "namespace": "dev"},
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.244.0.5"]}],
            "ports": [{"port": 80}],
        }),
        default: defaults::endpoint_slice,
        create: validation::endpoint_slice_create,
        update: Some(validation::endpoint_slice_update),
    };
    kind.creates(&[
        ("/addressType", json!(null), &["addressType: Required"]),
        (
            "/addressType",
            json!("IPv6"),
            &["endpoints[0].addresses[0]: Invalid: must be an IPv6 address"],
        ),
        (
            "/endpoints/0/addresses",
            json!([]),
            &["endpoints[0].addresses: Required: must contain at least 1 address"],
        ),
        ("/endpoints/0/hostname", json!("A"), &["endpoints[0].hostname: Invalid"]),
        ("/ports", json!([{"port": 1}, {"port": 2}]), &["ports[1].name: Duplicate"]),
        ("/ports/0/protocol", json!("x"), &["ports[0].protocol: NotSupported"]),
    ]);
    kind.updates(
        Part::Main,
        &[("/addressType", json!("FQDN"), &["addressType: Invalid: field is immutable"])],
    );
}
