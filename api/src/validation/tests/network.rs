//! Ingresses, their classes and NetworkPolicies.

use k8s_openapi::api::networking::v1::{Ingress, IngressClass, NetworkPolicy};
use serde_json::json;

use super::Kind;
use crate::catalogue::Part;
use crate::{defaults, validation};

#[test]
fn ingresses() {
    let kind = Kind::<Ingress> {
        minimal: json!({
            "metadata": {"name": "web", "namespace": "dev"},
            "spec": {"rules": [{"host": "a.example.com", "http": {"paths": [
                {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}},
            ]}}]},
        }),
        default: |_| {},
        create: validation::ingress_create,
        update: Some(validation::ingress_update),
    };
    let paths = "/spec/rules/0/http/paths/0";
    kind.creates(&[
        ("/spec", json!({}), &["spec: Invalid: either `defaultBackend` or `rules` must be specified"]),
        ("/spec/rules/0/host", json!("1.2.3.4"), &["spec.rules[0].host: Invalid: must be a DNS name, not an IP address"]),
        ("/spec/rules/0/host", json!("*.example.com"), &[]),
        ("/spec/rules/0/host", json!("a.*.com"), &["spec.rules[0].host: Invalid: a wildcard DNS-1123 subdomain must"]),
        ("/spec/rules/0/http/paths", json!([]), &["spec.rules[0].http.paths: Required"]),
        (&format!("{paths}/pathType"), json!(null), &["spec.rules[0].http.paths[0].pathType: Required: pathType must be specified"]),
        (&format!("{paths}/path"), json!("a"), &["spec.rules[0].http.paths[0].path: Invalid: must be an absolute path"]),
        (&format!("{paths}/path"), json!("/a//b"), &["spec.rules[0].http.paths[0].path: Invalid: must not contain '//'"]),
        (&format!("{paths}/backend"), json!({}), &["spec.rules[0].http.paths[0].backend: Required: resource or service backend is required"]),
        (&format!("{paths}/backend/service/port"), json!({}), &["spec.rules[0].http.paths[0].backend.service.port: Required: port name or number is required"]),
        (&format!("{paths}/backend/service/name"), json!("1"), &["spec.rules[0].http.paths[0].backend.service.name: Invalid: a DNS-1035 label"]),
        ("/spec/ingressClassName", json!("A"), &["spec.ingressClassName: Invalid"]),
        ("/spec/tls", json!([{"hosts": ["A"], "secretName": "B"}]), &["spec.tls[0].hosts[0]: Invalid", "spec.tls[0].secretName: Invalid"]),
    ]);
    kind.updates(Part::Main, &[("/spec", json!({}), &["spec: Invalid"])]);
}

#[test]
fn ingress_classes() {
    let kind = Kind::<IngressClass> {
        minimal: json!({"metadata": {"name": "nginx"}, "spec": {"controller": "k8s.io/nginx"}}),
        default: defaults::ingress_class,
        create: validation::ingress_class_create,
        update: Some(validation::ingress_class_update),
    };
    kind.creates(&[
        (
            "/spec/controller",
            json!("x"),
            &["spec.controller: Invalid: must be a domain-prefixed path (such as \"acme.io/foo\")"],
        ),
        (
            "/spec/parameters",
            json!({"kind": "K", "name": "n", "scope": "Namespace"}),
            &["spec.parameters.namespace: Required: `parameters.scope` is set to 'Namespace'"],
        ),
    ]);
    kind.updates(
        Part::Main,
        &[("/spec/controller", json!("a.b/c"), &["spec.controller: Invalid: field is immutable"])],
    );
}

#[test]
fn network_policies() {
    let kind = Kind::<NetworkPolicy> {
        minimal: json!({
            "metadata": {"name": "p", "namespace": "dev"},
            "spec": {"podSelector": {}, "ingress": [{
                "from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}],
                "ports": [{"port": 80}],
            }]},
        }),
        default: defaults::network_policy,
        create: validation::network_policy_create,
        update: Some(validation::network_policy_update),
    };
    kind.creates(&[
        ("/spec/ingress/0/from", json!([{}]), &["spec.ingress[0].from[0]: Required: must specify a peer"]),
        (
            "/spec/ingress/0/from",
            json!([{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16", "10.0.0.0/8"]}}]),
            &[
                "spec.ingress[0].from[0]: Forbidden: may not be specified when both ipBlock",
                "spec.ingress[0].from[0].ipBlock.except[0]: Invalid: must be a strict subset of `cidr` 10.0.0.0/8",
                "spec.ingress[0].from[0].ipBlock.except[1]: Invalid: must be a strict subset",
            ],
        ),
        (
            "/spec/egress",
            json!([{"ports": [{"port": 80, "endPort": 70}, {"endPort": 1}, {"port": "x", "endPort": 1}]}]),
            &[
                "spec.egress[0].ports[0].endPort: Invalid: must be greater than or equal to `port`",
                "spec.egress[0].ports[1].port: Required: must be specified when `endPort` is set",
                "spec.egress[0].ports[2].endPort: Invalid: may not be specified when `port` is non-numeric",
            ],
        ),
        ("/spec/policyTypes", json!(["x"]), &["spec.policyTypes[0]: NotSupported"]),
    ]);
}
