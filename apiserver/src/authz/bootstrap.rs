//! The roles and bindings that every cluster starts with.
//!
//! [`policy`] is the table: names, rules and holders as upstream has them, so
//! that manifests which refer to them work. [`ensure`] writes what is missing
//! and gives an existing role back the rules, an existing binding the subjects,
//! that somebody took away; additions stay. An object that carries
//! `rbac.authorization.kubernetes.io/autoupdate: "false"` is left alone.

mod controllers;
mod user_roles;

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::rbac::v1 as rbac_v1;
use kube::{
    Client,
    api::{ListParams, PostParams},
};
use serde_json::{Value, json};
use skiff_client::Api;

use super::{
    MASTERS,
    rbac::{Rule, uncovered},
};
use crate::authn::{AUTHENTICATED, UNAUTHENTICATED};

const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
/// Writes under way at once, so that the store syncs them together.
const CONCURRENCY: usize = 64;

/// One ClusterRole or Role of the table.
#[derive(Debug, Clone)]
pub struct RoleSpec {
    /// Empty for a ClusterRole.
    pub namespace: &'static str,
    /// Its name.
    pub name: String,
    /// What it allows.
    pub rules: Vec<Rule>,
    /// Labels, for aggregation.
    pub labels: Vec<&'static str>,
    /// The label by which it collects other roles' rules.
    pub aggregates: Option<&'static str>,
}

/// One ClusterRoleBinding or RoleBinding of the table, named as its role.
#[derive(Debug, Clone)]
pub struct BindingSpec {
    /// Empty for a ClusterRoleBinding.
    pub namespace: &'static str,
    /// Its name.
    pub name: String,
    /// The role's name; of the same kind of scope.
    pub role: String,
    /// Who holds it.
    pub subjects: Vec<Subject>,
}

/// A holder.
#[derive(Debug, Clone)]
pub enum Subject {
    /// A user.
    User(&'static str),
    /// A group.
    Group(&'static str),
    /// A ServiceAccount in kube-system.
    Account(&'static str),
}

/// A rule on resources. Lists are words; `core` is the core group.
fn rule(verbs: &str, groups: &str, resources: &str) -> Rule {
    Rule {
        verbs: words(verbs),
        api_groups: words(groups)
            .into_iter()
            .map(|group| if group == "core" { String::new() } else { group })
            .collect(),
        resources: words(resources),
        ..Rule::default()
    }
}

/// A rule on resources with one name.
fn named(verbs: &str, groups: &str, resources: &str, name: &str) -> Rule {
    Rule { resource_names: vec![name.to_owned()], ..rule(verbs, groups, resources) }
}

/// A rule on paths.
fn paths(verbs: &str, paths: &str) -> Rule {
    Rule { verbs: words(verbs), non_resource_urls: words(paths), ..Rule::default() }
}

/// What every component may write about what it does.
fn events() -> Rule {
    rule("create patch update", "core events.k8s.io", "events")
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn role(name: &str, rules: Vec<Rule>) -> RoleSpec {
    RoleSpec { namespace: "", name: name.to_owned(), rules, labels: Vec::new(), aggregates: None }
}

fn bind(role: &str, subjects: &[Subject]) -> BindingSpec {
    BindingSpec {
        namespace: "",
        name: role.to_owned(),
        role: role.to_owned(),
        subjects: subjects.to_vec(),
    }
}

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
    roles.extend(node_roles());
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

/// Roles of nodes and of what runs on them. Nodes themselves are served by the
/// Node authorizer; `system:node` is there to be read and bound by hand.
fn node_roles() -> Vec<RoleSpec> {
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

impl RoleSpec {
    fn to_value(&self) -> Value {
        let mut metadata = metadata(self.namespace, &self.name);
        for label in &self.labels {
            metadata["labels"][*label] = json!("true");
        }
        let mut value = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": if self.namespace.is_empty() { "ClusterRole" } else { "Role" },
            "metadata": metadata,
            "rules": self.rules,
        });
        if let Some(label) = self.aggregates {
            value["aggregationRule"] =
                json!({ "clusterRoleSelectors": [{ "matchLabels": { label: "true" } }] });
        }
        value
    }
}

impl BindingSpec {
    fn to_value(&self) -> Value {
        let (kind, role_kind) = match self.namespace {
            "" => ("ClusterRoleBinding", "ClusterRole"),
            _ => ("RoleBinding", "Role"),
        };
        let group = "rbac.authorization.k8s.io";
        let subjects: Vec<Value> = self
            .subjects
            .iter()
            .map(|subject| match subject {
                Subject::User(name) => json!({ "kind": "User", "apiGroup": group, "name": name }),
                Subject::Group(name) => json!({ "kind": "Group", "apiGroup": group, "name": name }),
                Subject::Account(name) => {
                    json!({ "kind": "ServiceAccount", "namespace": "kube-system", "name": name })
                }
            })
            .collect();
        json!({
            "apiVersion": format!("{group}/v1"),
            "kind": kind,
            "metadata": metadata(self.namespace, &self.name),
            "roleRef": { "apiGroup": group, "kind": role_kind, "name": self.role },
            "subjects": subjects,
        })
    }
}

fn metadata(namespace: &str, name: &str) -> Value {
    let mut metadata = json!({
        "name": name,
        "labels": { "kubernetes.io/bootstrapping": "rbac-defaults" },
        "annotations": { AUTOUPDATE: "true" },
    });
    if !namespace.is_empty() {
        metadata["namespace"] = json!(namespace);
    }
    metadata
}

/// Writes what is missing of the table. Safe to repeat.
pub async fn ensure(client: &Client) -> Result<(), kube::Error> {
    let (roles, bindings) = policy();
    let split = |values: Vec<Value>| -> (Vec<Value>, Vec<Value>) {
        values.into_iter().partition(|value| value["metadata"]["namespace"].is_null())
    };
    let (cluster_roles, _) = split(roles.iter().map(RoleSpec::to_value).collect());
    let (cluster_bindings, _) = split(bindings.iter().map(BindingSpec::to_value).collect());
    ensure_kind::<rbac_v1::ClusterRole>(client, cluster_roles, plan_role).await?;
    ensure_kind::<rbac_v1::ClusterRoleBinding>(client, cluster_bindings, plan_binding).await
}

/// Creates and repairs the objects of one cluster-scoped kind.
async fn ensure_kind<K>(
    client: &Client,
    desired: Vec<Value>,
    plan: fn(&Value, &Value) -> Option<Value>,
) -> Result<(), kube::Error>
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope>
        + serde::de::DeserializeOwned
        + serde::Serialize,
{
    let api: Api<K> = Api::all(client.clone());
    let mut observed = std::collections::HashMap::new();
    for object in api.list(&ListParams::default()).await? {
        let value = serde_json::to_value(&object).map_err(kube::Error::SerdeError)?;
        observed.insert(value["metadata"]["name"].as_str().unwrap_or_default().to_owned(), value);
    }
    let api = &api;
    let observed = &observed;
    stream::iter(desired)
        .map(Ok::<_, kube::Error>)
        .try_for_each_concurrent(CONCURRENCY, |desired| async move {
            let name = desired["metadata"]["name"].as_str().unwrap_or_default();
            let read = |value: &Value| K::deserialize(value).map_err(kube::Error::SerdeError);
            let Some(observed) = observed.get(name) else {
                return match api.create(&PostParams::default(), &read(&desired)?).await {
                    // Another master was faster.
                    Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
                    created => created.map(drop),
                };
            };
            let Some(repaired) = plan(&desired, observed) else { return Ok(()) };
            match api.replace(name, &PostParams::default(), &read(&repaired)?).await {
                // Somebody is editing it; the next start looks again.
                Err(kube::Error::Api(status)) if status.is_conflict() => Ok(()),
                replaced => replaced.map(drop),
            }
        })
        .await
}

fn left_alone(observed: &Value) -> bool {
    observed["metadata"]["annotations"][AUTOUPDATE] == "false"
}

/// The observed role with the rules that it lost, or `None`.
fn plan_role(desired: &Value, observed: &Value) -> Option<Value> {
    if left_alone(observed) {
        return None;
    }
    let wanted = super::rbac::read_rules(desired);
    let missing = uncovered(&super::rbac::read_rules(observed), &wanted);
    let aggregates = observed["aggregationRule"] == desired["aggregationRule"];
    // The rules of an aggregated role are its parts'.
    if desired["aggregationRule"].is_object() {
        let mut repaired = observed.clone();
        repaired["aggregationRule"] = desired["aggregationRule"].clone();
        return (!aggregates).then_some(repaired);
    }
    if missing.is_empty() {
        return None;
    }
    let mut rules = super::rbac::read_rules(observed);
    rules.extend(wanted.into_iter().filter(|rule| {
        !uncovered(&super::rbac::read_rules(observed), std::slice::from_ref(rule)).is_empty()
    }));
    let mut repaired = observed.clone();
    repaired["rules"] = json!(rules);
    Some(repaired)
}

/// The observed binding with the subjects that it lost, or `None`.
fn plan_binding(desired: &Value, observed: &Value) -> Option<Value> {
    // A role reference cannot be changed; whoever put another one there made
    // another binding.
    if left_alone(observed) || observed["roleRef"] != desired["roleRef"] {
        return None;
    }
    let empty = Vec::new();
    let held = observed["subjects"].as_array().unwrap_or(&empty);
    let missing: Vec<&Value> =
        desired["subjects"].as_array()?.iter().filter(|subject| !held.contains(subject)).collect();
    if missing.is_empty() {
        return None;
    }
    let mut repaired = observed.clone();
    repaired["subjects"] = json!(held.iter().chain(missing).collect::<Vec<_>>());
    Some(repaired)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        authz::{Attributes, node, rbac::Policy},
        request_info::RequestInfo,
        user::UserInfo,
    };

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
            let role = super::super::rbac::RoleRef::Cluster(name.to_owned());
            policy.role(&role, "").unwrap().to_vec()
        };
        assert_eq!(uncovered(&rules("edit"), &rules("view")), vec![]);
        assert_eq!(uncovered(&rules("admin"), &rules("edit")), vec![]);
        assert_eq!(uncovered(&rules("cluster-admin"), &rules("admin")), vec![]);
        assert!(!uncovered(&rules("view"), &rules("edit")).is_empty());
        let secrets = [rule("get", "core", "secrets")];
        assert!(!uncovered(&rules("view"), &secrets).is_empty(), "view sees no secrets");
    }

    #[test]
    fn only_losses_are_repaired() {
        let desired = role("r", vec![rule("get list", "core", "pods")]).to_value();
        let mut more = desired.clone();
        more["rules"][0]["verbs"] = json!(["get", "list", "watch"]);
        assert_eq!(plan_role(&desired, &more), None);
        let mut less = desired.clone();
        less["rules"][0]["verbs"] = json!(["get"]);
        let repaired = plan_role(&desired, &less).unwrap();
        assert_eq!(repaired["rules"].as_array().unwrap().len(), 2);
        less["metadata"]["annotations"][AUTOUPDATE] = json!("false");
        assert_eq!(plan_role(&desired, &less), None);

        let desired = bind("r", &[Subject::Group("g")]).to_value();
        let mut other = desired.clone();
        other["subjects"] = json!([]);
        assert_eq!(plan_binding(&desired, &other), Some(desired.clone()));
        other["roleRef"]["name"] = json!("else");
        assert_eq!(plan_binding(&desired, &other), None);
    }
}
