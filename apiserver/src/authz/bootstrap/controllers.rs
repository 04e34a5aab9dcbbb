//! Roles of the control plane: the scheduler, the controllers as one user, and
//! the per-controller roles that other software binds by name.
//!
//! Upstream's controllers each act as a ServiceAccount of their own; ours share
//! `system:kube-controller-manager`, whose role is therefore the sum.

use super::spec::{BindingSpec, RoleSpec, Subject, bind, events, named, role, rule};
use crate::authz::rbac::Rule;

const READ: &str = "get list watch";

pub(super) fn roles() -> Vec<RoleSpec> {
    let mut roles = vec![
        role("system:kube-scheduler", scheduler()),
        role(
            "system:volume-scheduler",
            vec![
                rule("get list patch update watch", "core", "persistentvolumes"),
                rule("get list patch update watch", "core", "persistentvolumeclaims"),
                rule(READ, "storage.k8s.io", "storageclasses"),
            ],
        ),
        role("system:kube-controller-manager", controller_manager()),
        role(
            "system:persistent-volume-provisioner",
            vec![
                rule("create delete get list watch", "core", "persistentvolumes"),
                rule("get list update watch", "core", "persistentvolumeclaims"),
                rule(READ, "storage.k8s.io", "storageclasses"),
                rule("create list patch update watch", "core", "events"),
            ],
        ),
    ];
    roles.extend(certificate_roles());
    roles.extend(table().into_iter().map(|(name, rules)| role(&prefixed(name), rules)));
    roles
}

pub(super) fn bindings() -> Vec<BindingSpec> {
    table().into_iter().map(|(name, _)| bind(&prefixed(name), &[Subject::Account(name)])).collect()
}

fn prefixed(name: &str) -> String {
    format!("system:controller:{name}")
}

fn scheduler() -> Vec<Rule> {
    vec![
        events(),
        rule("create get list update watch", "coordination.k8s.io", "leases"),
        rule(READ, "core", "namespaces nodes replicationcontrollers services"),
        rule("delete get list watch", "core", "pods"),
        rule("create", "core", "bindings pods/binding"),
        rule("patch update", "core", "pods/status"),
        rule(READ, "apps", "replicasets statefulsets"),
        rule(READ, "policy", "poddisruptionbudgets"),
        rule(READ, "scheduling.k8s.io", "priorityclasses"),
        rule(READ, "core", "persistentvolumeclaims persistentvolumes"),
        rule(
            READ,
            "storage.k8s.io",
            "csidrivers csinodes csistoragecapacities storageclasses volumeattachments",
        ),
        rule(READ, "resource.k8s.io", "deviceclasses resourceclaims resourceslices"),
        rule("create", "authentication.k8s.io", "tokenreviews"),
        rule("create", "authorization.k8s.io", "subjectaccessreviews"),
    ]
}

fn controller_manager() -> Vec<Rule> {
    vec![
        events(),
        // Garbage collection and the end of a namespace reach every kind.
        rule("delete deletecollection get list patch update watch", "*", "*"),
        rule(
            "create",
            "core",
            "configmaps endpoints limitranges namespaces nodes persistentvolumeclaims \
             persistentvolumes pods secrets serviceaccounts services",
        ),
        rule("create", "core", "pods/eviction serviceaccounts/token"),
        rule("create", "apps", "controllerrevisions replicasets"),
        rule("create", "batch", "jobs"),
        rule("create", "discovery.k8s.io", "endpointslices"),
        rule("create", "coordination.k8s.io", "leases"),
        rule("create", "networking.k8s.io", "ipaddresses servicecidrs"),
        rule("create", "resource.k8s.io", "resourceclaims"),
        rule("approve sign", "certificates.k8s.io", "signers"),
        rule("create", "authentication.k8s.io", "tokenreviews"),
        rule("create", "authorization.k8s.io", "subjectaccessreviews"),
    ]
}

/// Who may ask for, approve and sign which certificates.
fn certificate_roles() -> Vec<RoleSpec> {
    let group = "certificates.k8s.io";
    let mut roles: Vec<RoleSpec> = ["nodeclient", "selfnodeclient", "selfnodeserver"]
        .iter()
        .map(|kind| {
            let name = format!("system:certificates.k8s.io:certificatesigningrequests:{kind}");
            let resource = format!("certificatesigningrequests/{kind}");
            role(&name, vec![rule("create", group, &resource)])
        })
        .collect();
    for (short, signer) in [
        ("kube-apiserver-client", "kubernetes.io/kube-apiserver-client"),
        ("kube-apiserver-client-kubelet", "kubernetes.io/kube-apiserver-client-kubelet"),
        ("kubelet-serving", "kubernetes.io/kubelet-serving"),
        ("legacy-unknown", "kubernetes.io/legacy-unknown"),
    ] {
        let name = format!("system:certificates.k8s.io:{short}-approver");
        roles.push(role(&name, vec![named("approve", group, "signers", signer)]));
    }
    roles
}

/// Controllers by the name of their ServiceAccount in kube-system.
fn table() -> Vec<(&'static str, Vec<Rule>)> {
    let pods = || rule("create delete list patch watch", "core", "pods");
    #[rustfmt::skip]
    let table = vec![
        ("attachdetach-controller", vec![
            rule("list watch", "core", "persistentvolumeclaims persistentvolumes pods"),
            rule(READ, "core", "nodes"),
            rule("patch update", "core", "nodes/status"),
            rule("create delete get list patch watch", "storage.k8s.io", "volumeattachments"),
            events(),
        ]),
        ("clusterrole-aggregation-controller", vec![
            rule("escalate get list patch update watch", "rbac.authorization.k8s.io", "clusterroles"),
        ]),
        ("cronjob-controller", vec![
            rule("get list update watch", "batch", "cronjobs"),
            rule("create delete get list patch update watch", "batch", "jobs"),
            rule("update", "batch", "cronjobs/finalizers cronjobs/status"),
            rule("delete list", "core", "pods"),
            events(),
        ]),
        ("daemon-set-controller", vec![
            rule(READ, "apps", "daemonsets"),
            rule("update", "apps", "daemonsets/finalizers daemonsets/status"),
            rule("list watch", "core", "nodes"),
            pods(),
            rule("create", "core", "pods/binding"),
            rule("create delete get list patch update watch", "apps", "controllerrevisions"),
            events(),
        ]),
        ("deployment-controller", vec![
            rule("get list update watch", "apps", "deployments"),
            rule("update", "apps", "deployments/finalizers deployments/status"),
            rule("create delete get list patch update watch", "apps", "replicasets"),
            rule("get list update watch", "core", "pods"),
            events(),
        ]),
        ("disruption-controller", vec![
            rule(READ, "apps", "deployments replicasets statefulsets"),
            rule(READ, "policy", "poddisruptionbudgets"),
            rule("update", "policy", "poddisruptionbudgets/status"),
            rule("get list watch", "core", "pods replicationcontrollers"),
            rule("patch update", "core", "pods/status"),
            rule("get", "*", "*/scale"),
            events(),
        ]),
        ("endpoint-controller", vec![
            rule(READ, "core", "pods services"),
            rule("create delete get list update", "core", "endpoints"),
            events(),
        ]),
        ("endpointslice-controller", vec![
            rule(READ, "core", "nodes pods services"),
            rule("create delete get list update", "discovery.k8s.io", "endpointslices"),
            events(),
        ]),
        ("generic-garbage-collector", vec![
            rule("delete get list patch update watch", "*", "*"),
            events(),
        ]),
        ("horizontal-pod-autoscaler", vec![
            rule(READ, "autoscaling", "horizontalpodautoscalers"),
            rule("update", "autoscaling", "horizontalpodautoscalers/status"),
            rule("get update", "*", "*/scale"),
            rule("list", "core", "pods"),
            rule("list", "metrics.k8s.io", "pods"),
            events(),
        ]),
        ("job-controller", vec![
            rule("get list patch update watch", "batch", "jobs"),
            rule("update", "batch", "jobs/finalizers jobs/status"),
            pods(),
            events(),
        ]),
        ("namespace-controller", vec![
            rule("delete get list watch", "core", "namespaces"),
            rule("update", "core", "namespaces/finalize namespaces/status"),
            rule("delete deletecollection get list", "*", "*"),
        ]),
        ("node-controller", vec![
            rule("delete get list patch update", "core", "nodes"),
            rule("patch update", "core", "nodes/status pods/status"),
            rule("delete get list", "core", "pods"),
            events(),
        ]),
        ("persistent-volume-binder", vec![
            rule("create delete get list update watch", "core", "persistentvolumes"),
            rule("get list update watch", "core", "persistentvolumeclaims"),
            rule("update", "core", "persistentvolumeclaims/status persistentvolumes/status"),
            rule(READ, "storage.k8s.io", "storageclasses"),
            events(),
        ]),
        ("pod-garbage-collector", vec![
            rule("delete list watch", "core", "pods"),
            rule("get list", "core", "nodes"),
            rule("patch", "core", "pods/status"),
        ]),
        ("pv-protection-controller", vec![rule("get list update watch", "core", "persistentvolumes"), events()]),
        ("pvc-protection-controller", vec![
            rule("get list update watch", "core", "persistentvolumeclaims"),
            rule(READ, "core", "pods"),
            events(),
        ]),
        ("replicaset-controller", vec![
            rule("get list update watch", "apps", "replicasets"),
            rule("update", "apps", "replicasets/finalizers replicasets/status"),
            pods(),
            events(),
        ]),
        ("replication-controller", vec![
            rule("get list update watch", "core", "replicationcontrollers"),
            rule("update", "core", "replicationcontrollers/finalizers replicationcontrollers/status"),
            pods(),
            events(),
        ]),
        ("resourcequota-controller", vec![
            rule("list watch", "*", "*"),
            rule("update", "core", "resourcequotas/status"),
            events(),
        ]),
        ("root-ca-cert-publisher", vec![rule("create update", "core", "configmaps"), events()]),
        ("service-account-controller", vec![rule("create", "core", "serviceaccounts"), events()]),
        ("statefulset-controller", vec![
            rule("list watch", "core", "pods"),
            rule(READ, "apps", "statefulsets"),
            rule("update", "apps", "statefulsets/finalizers statefulsets/status"),
            rule("create delete get patch update", "core", "pods"),
            rule("create delete get list patch update watch", "apps", "controllerrevisions"),
            rule("create get", "core", "persistentvolumeclaims"),
            events(),
        ]),
        ("ttl-after-finished-controller", vec![rule("delete get list watch", "batch", "jobs"), events()]),
        ("ttl-controller", vec![rule("list patch update watch", "core", "nodes"), events()]),
    ];
    table
}
