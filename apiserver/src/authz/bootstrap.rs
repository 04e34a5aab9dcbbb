//! The roles and bindings that every cluster starts with.
//!
//! [`policy`] is the table: names, rules and holders as upstream has them, so
//! that manifests which refer to them work. [`ensure`] writes what is missing
//! and gives an existing role back the rules, an existing binding the subjects,
//! that somebody took away; additions stay. An object that carries
//! `rbac.authorization.kubernetes.io/autoupdate: "false"` is left alone.

mod controllers;
mod ensure;
mod nodes;
mod spec;
mod user_roles;

#[cfg(test)]
mod tests;

pub use self::ensure::ensure;
pub use self::spec::{BindingSpec, RoleSpec, Subject};

use self::spec::{bind, paths, role, rule};
use super::MASTERS;
use crate::authn::{AUTHENTICATED, UNAUTHENTICATED};

/// The whole table.
pub fn policy() -> (Vec<RoleSpec>, Vec<BindingSpec>) {
    use Subject::{Group, User};
    let health = "/healthz /livez /readyz /version /version/";
    let issuer = "/.well-known/openid-configuration /.well-known/openid-configuration/ \
                  /openid/v1/jwks /openid/v1/jwks/";
    let mut roles = vec![
        role("cluster-admin", vec![rule("*", "*", "*"), paths("*", "*")]),
        role(
            "system:discovery",
            vec![
                paths("get", health),
                paths("get", "/api /api/* /apis /apis/* /openapi /openapi/*"),
            ],
        ),
        role("system:public-info-viewer", vec![paths("get", health)]),
        role("skiff:join-master", vec![paths("post", crate::members::JOIN_PATH)]),
        role(
            "system:monitoring",
            vec![paths(
                "get",
                "/healthz /healthz/* /livez /livez/* /readyz /readyz/* /metrics /metrics/slis",
            )],
        ),
        role(
            "system:basic-user",
            vec![
                rule(
                    "create",
                    "authorization.k8s.io",
                    "selfsubjectaccessreviews selfsubjectrulesreviews",
                ),
                rule("create", "authentication.k8s.io", "selfsubjectreviews"),
            ],
        ),
        role("system:service-account-issuer-discovery", vec![paths("get", issuer)]),
        role(
            "system:auth-delegator",
            vec![
                rule("create", "authentication.k8s.io", "tokenreviews"),
                rule("create", "authorization.k8s.io", "subjectaccessreviews"),
            ],
        ),
        role(
            "system:kubelet-api-admin",
            vec![
                rule("get list watch", "core", "nodes"),
                rule("proxy", "core", "nodes"),
                rule("*", "core", "nodes/log nodes/metrics nodes/proxy nodes/stats"),
            ],
        ),
    ];
    roles.extend(nodes::roles());
    roles.extend(user_roles::roles());
    roles.extend(controllers::roles());

    let mut bindings = vec![
        bind("cluster-admin", &[Group(MASTERS)]),
        bind("system:discovery", &[Group(AUTHENTICATED)]),
        bind("system:basic-user", &[Group(AUTHENTICATED)]),
        bind("system:public-info-viewer", &[Group(AUTHENTICATED), Group(UNAUTHENTICATED)]),
        bind("system:monitoring", &[Group("system:monitoring")]),
        bind("system:service-account-issuer-discovery", &[Group("system:serviceaccounts")]),
        bind("system:node-proxier", &[User("system:kube-proxy")]),
        bind("skiff:join-master", &[Group(crate::join::MASTERS_GROUP)]),
        bind("system:node-bootstrapper", &[Group("system:bootstrappers")]),
        bind("system:kube-scheduler", &[User("system:kube-scheduler")]),
        bind("system:volume-scheduler", &[User("system:kube-scheduler")]),
        bind("system:kube-controller-manager", &[User("system:kube-controller-manager")]),
    ];
    bindings.extend(controllers::bindings());
    (roles, bindings)
}
