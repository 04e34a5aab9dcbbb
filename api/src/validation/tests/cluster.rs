//! Namespaces, nodes, accounts, events, roles, leases and requests for
//! certificates.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Namespace, Node, ServiceAccount};
use k8s_openapi::api::events::v1::Event as EventV1;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use serde_json::json;

use super::Kind;
use crate::catalogue::Part;
use crate::{defaults, validation};

#[test]
fn namespaces() {
    let kind = Kind::<Namespace> {
        minimal: json!({"metadata": {"name": "dev"}}),
        default: defaults::namespace,
        create: validation::namespace_create,
        update: Some(validation::namespace_update),
    };
    kind.creates(&[
        ("/metadata/name", json!("a.b"), &["metadata.name: Invalid: a lowercase RFC 1123 label"]),
        (
            "/metadata/namespace",
            json!("x"),
            &["metadata.namespace: Forbidden: not allowed on this type"],
        ),
        ("/spec", json!({"finalizers": ["mine"]}), &["spec.finalizers: Invalid"]),
    ]);
    kind.updates(
        Part::Status,
        &[(
            "/status",
            json!({"phase": "Terminating"}),
            &["status.phase: Invalid: may only be 'Active' if `deletionTimestamp` is empty"],
        )],
    );
}

#[test]
fn nodes() {
    let kind = Kind::<Node> {
        minimal: json!({"metadata": {"name": "n1"}, "status": {"capacity": {"cpu": "2", "pods": "110"}}}),
        default: defaults::node,
        create: validation::node_create,
        update: Some(validation::node_update),
    };
    kind.creates(&[
        (
            "/spec",
            json!({"taints": [{"key": "a", "effect": "x"}, {"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"}]}),
            &["spec.taints[0].effect: NotSupported", "spec.taints[2]: Duplicate"],
        ),
        ("/spec", json!({"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.1.0.0/24"]}), &["spec.podCIDRs: Invalid: must match `podCIDR`"]),
        ("/spec", json!({"podCIDR": "x", "podCIDRs": ["x"]}), &["spec.podCIDRs[0]: Invalid"]),
        ("/status/capacity/cpu", json!("-1"), &["status.capacity[cpu]: Invalid", "status.allocatable[cpu]: Invalid"]),
    ]);
    kind.updates_from(
        &[("/spec", json!({"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"]}))],
        Part::Main,
        &[(
            "/spec",
            json!({"podCIDR": "10.0.1.0/24", "podCIDRs": ["10.0.1.0/24"]}),
            &["spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"],
        )],
    );
}

#[test]
fn a_node_keeps_a_network_given_by_its_single_field() {
    let update = |new: &str| {
        let node = |cidr: &str| -> Node {
            let node = json!({"metadata": {"name": "n1"}, "spec": {"podCIDR": cidr}});
            serde_json::from_value(node).unwrap()
        };
        validation::node_update(&node(new), &node("10.0.0.0/24"), Part::Main).len()
    };
    assert_eq!(update("10.0.0.0/24"), 0);
    assert_eq!(update("10.0.1.0/24"), 1);
}

#[test]
fn service_accounts_and_events() {
    let account = Kind::<ServiceAccount> {
        minimal: json!({"metadata": {"name": "robot", "namespace": "dev"}}),
        default: |_| {},
        create: validation::service_account_create,
        update: None,
    };
    account.creates(&[("/metadata/name", json!("A"), &["metadata.name: Invalid"])]);

    let event = Kind::<Event> {
        minimal: json!({
            "metadata": {"name": "e", "namespace": "dev"},
            "involvedObject": {"kind": "Pod", "namespace": "dev", "name": "p"},
        }),
        default: |_| {},
        create: validation::event_create,
        update: None,
    };
    event.creates(&[
        (
            "/involvedObject/namespace",
            json!("other"),
            &["involvedObject.namespace: Invalid: does not match event.namespace"],
        ),
        ("/involvedObject/namespace", json!(null), &["involvedObject.namespace: Invalid"]),
    ]);

    let event = Kind::<EventV1> {
        minimal: json!({
            "metadata": {"name": "e", "namespace": "dev"},
            "regarding": {"kind": "Pod", "namespace": "dev", "name": "p"},
            "eventTime": "2026-01-01T00:00:00.000000Z",
            "reportingController": "skiff.dev/agent",
            "reportingInstance": "n1",
            "action": "Started",
            "reason": "Started",
            "type": "Normal",
        }),
        default: |_| {},
        create: validation::event_v1_create,
        update: None,
    };
    event.creates(&[
        ("/eventTime", json!(null), &["eventTime: Required"]),
        ("/type", json!("x"), &["type: NotSupported"]),
        ("/reason", json!("x".repeat(129)), &["reason: Invalid: can have at most 128 characters"]),
    ]);
}

#[test]
fn roles() {
    let role = Kind::<Role> {
        minimal: json!({
            "metadata": {"name": "system:reader", "namespace": "dev"},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}],
        }),
        default: |_| {},
        create: validation::role_create,
        update: Some(validation::role_update),
    };
    role.creates(&[
        ("/metadata/name", json!("a/b"), &["metadata.name: Invalid: may not contain '/'"]),
        (
            "/rules",
            json!([{"verbs": []}]),
            &[
                "rules[0].verbs: Required: verbs must contain at least one value",
                "rules[0].apiGroups: Required: resource rules must supply at least one api group",
                "rules[0].resources: Required: resource rules must supply at least one resource",
            ],
        ),
        ("/rules", json!([{"verbs": ["get"], "nonResourceURLs": ["/x"]}]), &["rules[0].nonResourceURLs: Invalid: namespaced rules cannot apply to non-resource URLs"]),
    ]);
    let cluster = Kind::<ClusterRole> {
        minimal: json!({"metadata": {"name": "admin"}, "rules": [{"verbs": ["get"], "nonResourceURLs": ["/x"]}]}),
        default: |_| {},
        create: validation::cluster_role_create,
        update: None,
    };
    cluster.creates(&[(
        "/aggregationRule",
        json!({}),
        &["aggregationRule.clusterRoleSelectors: Required"],
    )]);
}

#[test]
fn bindings() {
    let binding = Kind::<RoleBinding> {
        minimal: json!({
            "metadata": {"name": "b", "namespace": "dev"},
            "roleRef": {"kind": "Role", "name": "r"},
            "subjects": [{"kind": "User", "name": "u"}],
        }),
        default: defaults::role_binding,
        create: validation::role_binding_create,
        update: Some(validation::role_binding_update),
    };
    binding.creates(&[
        ("/roleRef/name", json!(""), &["roleRef.name: Required"]),
        ("/roleRef/kind", json!("x"), &["roleRef.kind: NotSupported"]),
        ("/roleRef/apiGroup", json!("x"), &["roleRef.apiGroup: NotSupported"]),
        ("/subjects/0", json!({"kind": "x", "name": "a"}), &["subjects[0].kind: NotSupported"]),
        (
            "/subjects/0",
            json!({"kind": "Group", "name": "", "apiGroup": "x"}),
            &["subjects[0].name: Required", "subjects[0].apiGroup: NotSupported"],
        ),
    ]);
    binding.updates(
        Part::Main,
        &[
            ("/subjects", json!([]), &[]),
            ("/roleRef/name", json!("other"), &["roleRef: Invalid: cannot change roleRef"]),
        ],
    );
    let cluster = Kind::<ClusterRoleBinding> {
        minimal: json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "r"}}),
        default: defaults::cluster_role_binding,
        create: validation::cluster_role_binding_create,
        update: None,
    };
    cluster.creates(&[
        ("/roleRef/kind", json!("Role"), &["roleRef.kind: NotSupported"]),
        (
            "/subjects",
            json!([{"kind": "ServiceAccount", "name": "a"}]),
            &["subjects[0].namespace: Required"],
        ),
    ]);
}

#[test]
fn leases() {
    let kind = Kind::<Lease> {
        minimal: json!({"metadata": {"name": "n1", "namespace": "kube-node-lease"}, "spec": {"leaseDurationSeconds": 40}}),
        default: |_| {},
        create: validation::lease_create,
        update: Some(validation::lease_update),
    };
    kind.creates(&[
        (
            "/spec/leaseDurationSeconds",
            json!(0),
            &["spec.leaseDurationSeconds: Invalid: must be greater than 0"],
        ),
        ("/spec/leaseTransitions", json!(-1), &["spec.leaseTransitions: Invalid"]),
    ]);
}

#[test]
fn certificate_requests() {
    // "-----BEGIN CERTIFICATE REQUEST-----"
    let request = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0=";
    let kind = Kind::<CertificateSigningRequest> {
        minimal: json!({
            "metadata": {"name": "r"},
            "spec": {"request": request, "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"]},
        }),
        default: |_| {},
        create: validation::certificate_signing_request_create,
        update: Some(validation::certificate_signing_request_update),
    };
    kind.creates(&[
        (
            "/spec/request",
            json!("eA=="),
            &["spec.request: Invalid: PEM block type must be CERTIFICATE REQUEST"],
        ),
        ("/spec/signerName", json!(""), &["spec.signerName: Required"]),
        ("/spec/signerName", json!("x"), &["spec.signerName: Invalid"]),
        (
            "/spec/usages",
            json!([]),
            &["spec.usages: Required: usages must contain at least one value"],
        ),
        ("/spec/usages", json!(["x"]), &["spec.usages[0]: NotSupported"]),
        (
            "/spec/expirationSeconds",
            json!(5),
            &["spec.expirationSeconds: Invalid: may not specify a duration less than 600 seconds"],
        ),
    ]);
    let approved = json!({"conditions": [{"type": "Approved", "status": "True"}]});
    kind.updates(
        Part::Other("approval"),
        &[
            ("/status", approved.clone(), &[]),
            (
                "/status",
                json!({"conditions": [{"type": "Approved", "status": "False"}]}),
                &["status.conditions[0].status: NotSupported"],
            ),
        ],
    );
    kind.updates(
        Part::Status,
        &[(
            "/status",
            approved.clone(),
            &["status.conditions: Forbidden: updates may not add a condition of type \"Approved\""],
        )],
    );
    kind.updates_from(
        &[("/status", approved)],
        Part::Status,
        &[("/status", json!({}), &["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""])],
    );
    kind.updates(
        Part::Main,
        &[("/spec/usages", json!(["any"]), &["spec: Invalid: field is immutable"])],
    );
}
