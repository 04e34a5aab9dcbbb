//! What the table lets strangers, nodes and people do.

use serde_json::json;

use super::policy;
use super::spec::rule;
use crate::authn::{AUTHENTICATED, UNAUTHENTICATED};
use crate::authz::rbac::{Policy, RoleRef, uncovered};
use crate::authz::{Attributes, node};
use crate::request_info::RequestInfo;
use crate::user::UserInfo;

fn loaded() -> Policy {
    let mut loaded = Policy::default();
    let (roles, bindings) = policy();
    for spec in roles {
        loaded.apply("clusterroles", "", &spec.name, Some(&spec.to_value()));
    }
    for spec in bindings {
        loaded.apply("clusterrolebindings", "", &spec.name, Some(&spec.to_value()));
    }
    for (name, rules) in loaded.plan_aggregation() {
        let role = json!({ "rules": rules });
        loaded.apply("clusterroles", "", &name, Some(&role));
    }
    loaded
}

#[test]
fn strangers_see_health_and_version_and_nothing_else() {
    let policy = loaded();
    let anonymous = UserInfo::new("system:anonymous", [UNAUTHENTICATED]);
    let jane = UserInfo::new("jane", [AUTHENTICATED]);
    let cases = [
        ("/healthz", true, true),
        ("/livez", true, true),
        ("/readyz", true, true),
        ("/version", true, true),
        ("/metrics", false, false),
        ("/apis", false, true),
        ("/openapi/v3", false, true),
        ("/api/v1/namespaces", false, false),
        ("/api/v1/namespaces/default/pods", false, false),
        ("/api/v1/namespaces/kube-public/configmaps/cluster-info", false, false),
    ];
    for (uri, for_anonymous, for_jane) in cases {
        let info = RequestInfo::parse(&http::Method::GET, &uri.parse().unwrap());
        let allows = |user| policy.allows(&Attributes::new(user, &info)).is_some();
        assert_eq!(allows(&anonymous), for_anonymous, "anonymous {uri}");
        assert_eq!(allows(&jane), for_jane, "jane {uri}");
    }
}

#[test]
fn nodes_hold_nothing_by_rbac() {
    let policy = loaded();
    let user = UserInfo::new("system:node:n1", [node::GROUP, AUTHENTICATED]);
    let rules = policy.rules_for(&user, "");
    assert!(rules.iter().all(|rule| !rule.resources.iter().any(|one| one == "secrets")));
}

#[test]
fn user_roles_contain_each_other() {
    let policy = loaded();
    let rules = |name: &str| {
        let role = RoleRef::Cluster(name.to_owned());
        policy.role(&role, "").unwrap().to_vec()
    };
    assert_eq!(uncovered(&rules("edit"), &rules("view")), vec![]);
    assert_eq!(uncovered(&rules("admin"), &rules("edit")), vec![]);
    assert_eq!(uncovered(&rules("cluster-admin"), &rules("admin")), vec![]);
    assert!(!uncovered(&rules("view"), &rules("edit")).is_empty());
    let secrets = [rule("get", "core", "secrets")];
    assert!(!uncovered(&rules("view"), &secrets).is_empty(), "view sees no secrets");
}
