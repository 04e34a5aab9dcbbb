//! Tables for rules, bindings and coverage.

use serde_json::json;

use super::*;

fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Rule {
    let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    Rule {
        api_groups: own(groups),
        resources: own(resources),
        verbs: own(verbs),
        ..Rule::default()
    }
}

fn asked<'a>(
    user: &'a UserInfo,
    verb: &'a str,
    resource: &'a str,
    namespace: &'a str,
) -> Attributes<'a> {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    Attributes {
        user,
        verb,
        group: "",
        version: "v1",
        resource,
        subresource,
        namespace,
        name: "x",
        path: "",
        resource_request: true,
    }
}

fn policy() -> Policy {
    let mut policy = Policy::default();
    let reader = json!({ "rules": [{ "apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get"] }] });
    policy.apply("clusterroles", "", "reader", Some(&reader));
    policy.apply("roles", "a", "writer", Some(&json!({ "rules": [{ "apiGroups": [""], "resources": ["pods"], "verbs": ["create"], "resourceNames": null }] })));
    policy.apply(
        "clusterrolebindings",
        "",
        "all-read",
        Some(&json!({
            "roleRef": { "kind": "ClusterRole", "name": "reader" },
            "subjects": [{ "kind": "Group", "name": "dev" }],
        })),
    );
    policy.apply(
        "rolebindings",
        "a",
        "write",
        Some(&json!({
            "roleRef": { "kind": "Role", "name": "writer" },
            "subjects": [{ "kind": "ServiceAccount", "name": "bot", "namespace": "ci" }],
        })),
    );
    policy.apply(
        "rolebindings",
        "b",
        "read",
        Some(&json!({
            "roleRef": { "kind": "ClusterRole", "name": "reader" },
            "subjects": [{ "kind": "User", "name": "joe" }],
        })),
    );
    policy
}

#[test]
fn bindings_grant_where_they_stand_and_nowhere_else() {
    let policy = policy();
    let dev = UserInfo::new("jane", ["dev"]);
    let bot = UserInfo::new("system:serviceaccount:ci:bot", []);
    let joe = UserInfo::new("joe", []);
    let cases = [
        (&dev, "get", "pods", "a", true),
        (&dev, "get", "pods", "", true),
        (&dev, "get", "pods/log", "b", true),
        (&dev, "get", "pods/exec", "b", false),
        (&dev, "list", "pods", "a", false),
        (&dev, "get", "secrets", "a", false),
        (&bot, "create", "pods", "a", true),
        (&bot, "create", "pods", "b", false),
        (&bot, "create", "pods", "", false),
        (&joe, "get", "pods", "b", true),
        (&joe, "get", "pods", "a", false),
        (&joe, "get", "pods", "", false),
    ];
    for (user, verb, resource, namespace, allowed) in cases {
        let answer = policy.allows(&asked(user, verb, resource, namespace));
        assert_eq!(answer.is_some(), allowed, "{} {verb} {resource} in {namespace:?}", user.name);
    }
}

#[test]
fn removing_a_binding_or_a_role_takes_effect() {
    let dev = UserInfo::new("jane", ["dev"]);
    let question = asked(&dev, "get", "pods", "a");
    for (resource, name) in [("clusterrolebindings", "all-read"), ("clusterroles", "reader")] {
        let mut policy = policy();
        assert!(policy.allows(&question).is_some());
        policy.apply(resource, "", name, None);
        assert_eq!(policy.allows(&question), None, "{resource}");
    }
}

#[test]
fn paths_match_by_prefix_only_with_a_star() {
    let user = UserInfo::new("u", []);
    let at = |path: &'static str| Attributes {
        resource_request: false,
        path,
        ..asked(&user, "get", "", "")
    };
    let health = Rule {
        non_resource_urls: vec!["/healthz".into(), "/readyz/*".into()],
        verbs: vec!["get".into()],
        ..Rule::default()
    };
    for (path, allowed) in
        [("/healthz", true), ("/healthz/x", false), ("/readyz/x", true), ("/metrics", false)]
    {
        assert_eq!(health.allows(&at(path)), allowed, "{path}");
    }
    assert!(!rule(&["*"], &["*"], &["*"]).allows(&at("/healthz")), "resources are not paths");
}

#[test]
fn coverage_says_what_is_missing() {
    let named = |name: &str| Rule {
        resource_names: vec![name.to_owned()],
        ..rule(&[""], &["pods"], &["get"])
    };
    let pods = rule(&[""], &["pods"], &["get", "list"]);
    #[rustfmt::skip]
    let cases = [
        ("same", vec![pods.clone()], vec![pods.clone()], 0),
        ("one verb more", vec![pods.clone()], vec![rule(&[""], &["pods"], &["get", "create"])], 1),
        ("all verbs", vec![pods.clone()], vec![rule(&[""], &["pods"], &["*"])], 1),
        ("by the star", vec![rule(&["*"], &["*"], &["*"])], vec![pods.clone(), named("x")], 0),
        ("split over rules", vec![rule(&[""], &["pods"], &["get"]), rule(&[""], &["pods"], &["list"])], vec![pods.clone()], 0),
        ("a name of all", vec![pods.clone()], vec![named("x")], 0),
        ("all of a name", vec![named("x")], vec![rule(&[""], &["pods"], &["get"])], 1),
        ("another name", vec![named("x")], vec![named("y")], 1),
        ("subresource", vec![pods.clone()], vec![rule(&[""], &["pods/exec"], &["get"])], 1),
        ("any scale", vec![rule(&[""], &["*/scale"], &["get"])], vec![rule(&[""], &["pods/scale"], &["get"])], 0),
        ("nothing owned", vec![], vec![pods.clone()], 2),
    ];
    for (name, owned, wanted, missing) in cases {
        assert_eq!(uncovered(&owned, &wanted).len(), missing, "{name}");
    }
}

#[test]
fn aggregation_collects_labelled_roles_once() {
    let mut policy = Policy::default();
    let part = |verb: &str| {
        json!({
            "metadata": { "labels": { "to-view": "true" } },
            "rules": [{ "apiGroups": [""], "resources": ["pods"], "verbs": [verb] }],
        })
    };
    policy.apply("clusterroles", "", "p1", Some(&part("get")));
    policy.apply("clusterroles", "", "p2", Some(&part("get")));
    policy.apply("clusterroles", "", "p3", Some(&part("list")));
    let view = json!({ "aggregationRule": { "clusterRoleSelectors": [{ "matchLabels": { "to-view": "true" } }] } });
    policy.apply("clusterroles", "", "view", Some(&view));
    let plan = policy.plan_aggregation();
    let rules = vec![rule(&[""], &["pods"], &["get"]), rule(&[""], &["pods"], &["list"])];
    assert_eq!(plan, vec![("view".to_owned(), rules.clone())]);
    let mut written = view;
    written["rules"] = json!(rules);
    policy.apply("clusterroles", "", "view", Some(&written));
    assert_eq!(policy.plan_aggregation(), vec![]);
}
