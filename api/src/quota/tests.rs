//! What objects count for in quotas, and which quotas are about them.

use serde_json::json;

use super::*;

fn now() -> Timestamp {
    "2026-01-01T00:10:00Z".parse().unwrap()
}

fn amount(text: &str) -> Quantity {
    text.parse().unwrap()
}

fn container(name: &str, requests: Value, limits: Value) -> Value {
    json!({ "name": name, "resources": { "requests": requests, "limits": limits } })
}

fn pod(spec: Value) -> Value {
    json!({ "metadata": { "name": "p" }, "spec": spec })
}

#[test]
fn names_are_about_kinds() {
    let core = |plural: &str| Some((String::new(), plural.to_owned()));
    let cases = [
        ("pods", core("pods")),
        ("cpu", core("pods")),
        ("limits.memory", core("pods")),
        ("requests.nvidia.com/gpu", core("pods")),
        ("hugepages-2Mi", core("pods")),
        ("services.nodeports", core("services")),
        ("requests.storage", core("persistentvolumeclaims")),
        ("gold.storageclass.storage.k8s.io/requests.storage", core("persistentvolumeclaims")),
        ("count/secrets", core("secrets")),
        ("count/deployments.apps", Some(("apps".to_owned(), "deployments".to_owned()))),
        ("deployments", None),
    ];
    for (name, kind) in cases {
        assert_eq!(kind_of(name), kind, "{name}");
    }
}

#[test]
fn pods_ask_for_what_they_may_need_at_once() {
    let cpu = |amount: &str| json!({ "cpu": amount });
    let sidecar = |name: &str, amount: &str| {
        let mut container = container(name, cpu(amount), json!({}));
        container["restartPolicy"] = json!("Always");
        container
    };
    let plain = |amount: &str| container("c", cpu(amount), json!({}));
    let cases = [
        ("containers add up", json!({ "containers": [plain("1"), plain("2")] }), "3"),
        (
            "the largest init container",
            json!({ "containers": [plain("1")], "initContainers": [plain("2"), plain("3")] }),
            "3",
        ),
        (
            "sidecars stay",
            json!({ "containers": [plain("1")], "initContainers": [sidecar("s", "1")] }),
            "2",
        ),
        (
            "init after a sidecar",
            json!({ "containers": [plain("1")], "initContainers": [sidecar("s", "1"), plain("3")] }),
            "4",
        ),
        (
            "init before a sidecar",
            json!({ "containers": [plain("1")], "initContainers": [plain("2"), sidecar("s", "1")] }),
            "2",
        ),
        (
            "the sandbox",
            json!({ "containers": [plain("1")], "overhead": { "cpu": "250m" } }),
            "1250m",
        ),
        (
            "the pod's own word",
            json!({ "containers": [plain("1")], "resources": { "requests": { "cpu": "5" } } }),
            "5",
        ),
    ];
    for (name, spec, expected) in cases {
        let asked = amounts(&pod(spec), "requests", true);
        assert_eq!(asked["cpu"], amount(expected), "{name}");
    }
    let limited = pod(json!({
        "containers": [container("c", json!({}), json!({ "memory": "1Gi" }))],
        "overhead": { "cpu": "1", "memory": "1Gi" },
    }));
    let limits = amounts(&limited, "limits", true);
    assert_eq!(limits["memory"], amount("2Gi"));
    assert!(!limits.contains_key("cpu"), "no limit stays none");
}

#[test]
fn ended_pods_hold_only_their_place() {
    let with = |status: Value, metadata: Value| {
        let usage = usage(
            "",
            "pods",
            &json!({ "metadata": metadata, "status": status, "spec": {} }),
            now(),
        );
        (usage.contains_key("count/pods"), usage.contains_key("pods"))
    };
    let deleted = |at: &str| json!({ "deletionTimestamp": at, "deletionGracePeriodSeconds": 30 });
    assert_eq!(with(json!({ "phase": "Running" }), json!({})), (true, true));
    assert_eq!(with(json!({ "phase": "Succeeded" }), json!({})), (true, false));
    assert_eq!(with(json!({ "phase": "Failed" }), json!({})), (true, false));
    assert_eq!(with(json!({}), deleted("2026-01-01T00:09:45Z")), (true, true));
    assert_eq!(with(json!({}), deleted("2026-01-01T00:09:00Z")), (true, false));
}

#[test]
fn services_and_claims_are_counted_by_type_and_class() {
    let service = |spec: Value| {
        let usage = usage("", "services", &json!({ "spec": spec }), now());
        (
            usage["services.nodeports"].units(),
            usage["services.loadbalancers"].units(),
            usage["services"].units(),
        )
    };
    let ports = json!([{ "port": 1 }, { "port": 2, "nodePort": 30000 }]);
    assert_eq!(service(json!({ "type": "ClusterIP", "ports": ports })), (0, 0, 1));
    assert_eq!(service(json!({ "type": "NodePort", "ports": ports })), (2, 0, 1));
    assert_eq!(service(json!({ "type": "LoadBalancer", "ports": ports })), (2, 1, 1));
    let own =
        json!({ "type": "LoadBalancer", "ports": ports, "allocateLoadBalancerNodePorts": false });
    assert_eq!(service(own), (1, 1, 1));

    let claim = json!({ "spec": { "storageClassName": "gold", "resources": { "requests": { "storage": "1Gi" } } } });
    let usage = usage("", "persistentvolumeclaims", &claim, now());
    assert_eq!(usage["requests.storage"], amount("1Gi"));
    assert_eq!(usage["gold.storageclass.storage.k8s.io/requests.storage"], amount("1Gi"));
    assert_eq!(usage["gold.storageclass.storage.k8s.io/persistentvolumeclaims"].units(), 1);
    assert!(!usage.contains_key("silver.storageclass.storage.k8s.io/requests.storage"));
}

#[test]
fn scopes_select_pods() {
    let plain = pod(json!({ "containers": [container("c", json!({}), json!({}))] }));
    let asking = pod(json!({
        "containers": [container("c", json!({ "cpu": "1" }), json!({}))],
        "activeDeadlineSeconds": 5,
        "priorityClassName": "high",
        "affinity": { "podAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [{ "namespaces": ["x"] }] } },
    }));
    let scopes = |scopes: &[&str]| json!({ "scopes": scopes });
    let class = |operator: &str, values: &[&str]| {
        json!({ "scopeSelector": { "matchExpressions": [
            { "scopeName": "PriorityClass", "operator": operator, "values": values },
        ] } })
    };
    let cases = [
        ("none", json!({}), true, true),
        ("best effort", scopes(&["BestEffort"]), true, false),
        ("not best effort", scopes(&["NotBestEffort"]), false, true),
        ("terminating", scopes(&["Terminating"]), false, true),
        ("not terminating", scopes(&["NotTerminating"]), true, false),
        ("both must hold", scopes(&["NotBestEffort", "NotTerminating"]), false, false),
        ("any class", scopes(&["PriorityClass"]), false, true),
        ("crossing", scopes(&["CrossNamespacePodAffinity"]), false, true),
        ("unknown", scopes(&["Purple"]), false, false),
        ("class in", class("In", &["high"]), false, true),
        ("class in another", class("In", &["low"]), false, false),
        ("class not in", class("NotIn", &["high"]), true, false),
        ("class exists", class("Exists", &[]), false, true),
        ("class does not exist", class("DoesNotExist", &[]), true, false),
        ("odd operator", class("Gt", &["1"]), false, false),
    ];
    for (name, spec, on_plain, on_asking) in cases {
        assert_eq!(matches(&spec, "", "pods", &plain), on_plain, "{name}");
        assert_eq!(matches(&spec, "", "pods", &asking), on_asking, "{name}");
    }
    assert!(matches(&json!({}), "", "services", &json!({})));
    assert!(!matches(&scopes(&["NotTerminating"]), "", "services", &json!({})));
}

#[test]
fn what_cannot_be_counted_is_named() {
    let hard = parse(&json!({ "limits.memory": "1Gi", "cpu": "1", "pods": "1" }));
    let said = |name: &str| container(name, json!({ "cpu": "1" }), json!({ "memory": "1" }));
    let silent = |name: &str| container(name, json!({}), json!({}));
    let all = pod(json!({ "containers": [said("a"), said("b")] }));
    assert_eq!(unspecified(&hard, &all), None);
    let some =
        pod(json!({ "containers": [said("a"), silent("b")], "initContainers": [silent("i")] }));
    assert_eq!(
        unspecified(&hard, &some).unwrap(),
        "must specify cpu for: b,i; limits.memory for: b,i"
    );
    assert_eq!(unspecified(&parse(&json!({ "pods": "1" })), &some), None);
}

#[test]
fn the_message_names_what_is_over() {
    let hard = parse(&json!({ "pods": "2", "requests.cpu": "1" }));
    let one = pod(json!({ "containers": [container("c", json!({ "cpu": "600m" }), json!({}))] }));
    let asked = usage("", "pods", &one, now());
    assert_eq!(exceeded("q", &hard, &Usage::new(), &asked), None);
    let used = total(&hard, &json!({}), ("", "pods"), [&one], now());
    assert_eq!(used, parse(&json!({ "pods": "1", "requests.cpu": "600m" })));
    assert_eq!(
        exceeded("q", &hard, &used, &asked).unwrap(),
        "exceeded quota: q, requested: requests.cpu=600m, used: requests.cpu=600m, limited: requests.cpu=1"
    );
}
