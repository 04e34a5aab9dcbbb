//! Roles of nodes and of what runs on them. Nodes themselves are served by the
//! Node authorizer; `system:node` is there to be read and bound by hand.

use super::spec::{RoleSpec, events, role, rule};

pub(super) fn roles() -> Vec<RoleSpec> {
    let read = "get list watch";
    vec![
        role(
            "system:node",
            vec![
                rule("create get list watch", "core", "nodes"),
                rule("patch update", "core", "nodes nodes/status"),
                rule(read, "core", "services"),
                rule("create delete get list watch", "core", "pods"),
                rule("patch update", "core", "pods/status"),
                rule("create", "core", "pods/eviction serviceaccounts/token"),
                rule(read, "core", "configmaps secrets"),
                rule("get", "core", "persistentvolumeclaims persistentvolumes"),
                rule("create get list watch", "certificates.k8s.io", "certificatesigningrequests"),
                rule("create delete get patch update", "coordination.k8s.io", "leases"),
                rule("create", "authentication.k8s.io", "tokenreviews"),
                rule(
                    "create",
                    "authorization.k8s.io",
                    "localsubjectaccessreviews subjectaccessreviews",
                ),
                rule(read, "node.k8s.io", "runtimeclasses"),
                rule(read, "discovery.k8s.io", "endpointslices"),
                events(),
            ],
        ),
        role(
            "system:node-bootstrapper",
            vec![rule(
                "create get list watch",
                "certificates.k8s.io",
                "certificatesigningrequests",
            )],
        ),
        role(
            "system:node-proxier",
            vec![
                rule("list watch", "core", "endpoints services"),
                rule(read, "core", "nodes"),
                rule("list watch", "discovery.k8s.io", "endpointslices"),
                events(),
            ],
        ),
        role(
            "system:kube-dns",
            vec![
                rule("list watch", "core", "endpoints services"),
                rule("list watch", "discovery.k8s.io", "endpointslices"),
            ],
        ),
    ]
}
