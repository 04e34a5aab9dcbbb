//! What a namespace allows: quotas, Pod Security levels and runtime classes,
//! as a client meets them.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Server, pod, start};
use http::Method;
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";
const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";
const SERVICES: &str = "/api/v1/namespaces/default/services";

async fn quota(server: &Server, name: &str, spec: Value) {
    let quota = json!({ "metadata": { "name": name }, "spec": spec });
    server.post(QUOTAS, quota).await.expect(201);
}

async fn used(server: &Server, name: &str) -> Value {
    server.get(&format!("{QUOTAS}/{name}")).await.expect(200)["status"]["used"].clone()
}

fn asking(name: &str, cpu: &str) -> Value {
    let mut pod = pod(name);
    pod["spec"]["containers"][0]["resources"] = json!({ "requests": { "cpu": cpu } });
    pod
}

fn service(name: &str, kind: &str) -> Value {
    let ports = json!([{ "name": "a", "port": 1 }, { "name": "b", "port": 2 }]);
    json!({ "metadata": { "name": name }, "spec": { "type": kind, "ports": ports } })
}

#[tokio::test]
async fn pods_created_at_once_share_what_there_is() {
    let server = start().await;
    quota(&server, "q", json!({ "hard": { "pods": "5", "requests.cpu": "10" } })).await;
    let pods: Vec<Value> = (0..40).map(|number| asking(&format!("p{number}"), "1")).collect();
    let answers =
        futures::future::join_all(pods.iter().map(|pod| server.post(PODS, pod.clone()))).await;
    let created = answers.iter().filter(|answer| answer.code == 201).count();
    assert_eq!(created, 5);
    for refused in answers.iter().filter(|answer| answer.code != 201) {
        assert_eq!(refused.code, 403, "{}", refused.body);
        let message = refused.body["message"].as_str().unwrap();
        let end =
            "is forbidden: exceeded quota: q, requested: pods=1, used: pods=5, limited: pods=5";
        assert!(message.ends_with(end), "{message}");
    }
    assert_eq!(used(&server, "q").await, json!({ "pods": "5", "requests.cpu": "5" }));
}

#[tokio::test]
async fn a_dry_run_takes_nothing_and_is_refused_like_the_real_thing() {
    let server = start().await;
    quota(&server, "q", json!({ "hard": { "pods": "1" } })).await;
    let dry = format!("{PODS}?dryRun=All");
    for _ in 0..3 {
        server.post(&dry, pod("p")).await.expect(201);
    }
    assert_eq!(used(&server, "q").await, Value::Null);
    server.post(PODS, pod("p")).await.expect(201);
    server.post(&dry, pod("other")).await.expect(403);
    assert_eq!(used(&server, "q").await, json!({ "pods": "1" }));
}

#[tokio::test]
async fn what_a_refused_or_failed_write_would_take_is_not_taken() {
    let server = start().await;
    quota(&server, "q", json!({ "hard": { "pods": "9", "cpu": "1" } })).await;
    let mute = server.post(PODS, pod("p")).await.expect(403);
    assert_eq!(
        mute["message"],
        "pods \"p\" is forbidden: failed quota: q: must specify cpu for: c"
    );
    server.post(PODS, asking("p", "600m")).await.expect(201);
    server.post(PODS, asking("p", "300m")).await.expect(409);
    let over = server.post(PODS, asking("q", "600m")).await.expect(403);
    assert_eq!(
        over["message"],
        "pods \"q\" is forbidden: exceeded quota: q, requested: cpu=600m, used: cpu=600m, limited: cpu=1"
    );
    assert_eq!(used(&server, "q").await, json!({ "pods": "1", "cpu": "600m" }));
    // What a deletion frees is free at once, whoever counts it later.
    server.delete(&format!("{PODS}/p?gracePeriodSeconds=0"), Value::Null).await.expect(200);
    server.post(PODS, asking("q", "600m")).await.expect(201);
    assert_eq!(used(&server, "q").await, json!({ "pods": "1", "cpu": "600m" }));
}

#[tokio::test]
async fn changes_are_charged_by_what_they_add() {
    let server = start().await;
    quota(&server, "q", json!({ "hard": { "services": "9", "services.nodeports": "3" } })).await;
    server.post(SERVICES, service("a", "NodePort")).await.expect(201);
    server.post(SERVICES, service("b", "ClusterIP")).await.expect(201);
    let one = format!("{SERVICES}/b");
    let grow = json!({ "spec": { "type": "NodePort" } });
    let refused = server.patch(&one, "merge-patch", grow.clone()).await.expect(403);
    assert_eq!(
        refused["message"],
        "services \"b\" is forbidden: exceeded quota: q, requested: services.nodeports=2, used: services.nodeports=2, limited: services.nodeports=3"
    );
    let more = json!({ "spec": { "hard": { "services.nodeports": "4" } } });
    server.patch(&format!("{QUOTAS}/q"), "merge-patch", more).await.expect(200);
    server.patch(&one, "merge-patch", grow).await.expect(200);
    let label = json!({ "metadata": { "labels": { "a": "b" } } });
    server.patch(&one, "merge-patch", label).await.expect(200);
    // The third is the API server's own.
    assert_eq!(used(&server, "q").await, json!({ "services": "3", "services.nodeports": "4" }));
}

#[tokio::test]
async fn scopes_and_counts_of_any_kind() {
    let server = start().await;
    let scoped = json!({ "hard": { "pods": "0" }, "scopes": ["BestEffort"] });
    quota(&server, "best-effort", scoped).await;
    let counts = json!({ "hard": { "count/deployments.apps": "1", "configmaps": "1" } });
    quota(&server, "counts", counts).await;
    server.post(PODS, pod("p")).await.expect(403);
    server.post(PODS, asking("p", "1m")).await.expect(201);
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    server.post(deployments, common::deployment("a")).await.expect(201);
    let refused = server.post(deployments, common::deployment("b")).await.expect(403);
    assert_eq!(
        refused["message"],
        "deployments.apps \"b\" is forbidden: exceeded quota: counts, requested: count/deployments.apps=1, used: count/deployments.apps=1, limited: count/deployments.apps=1"
    );
    let maps = "/api/v1/namespaces/default/configmaps";
    server.post(maps, common::configmap("a")).await.expect(201);
    server.post(maps, common::configmap("b")).await.expect(403);
}

#[tokio::test]
async fn pod_security_refuses_warns_and_says_why() {
    let server = start().await;
    let labels = |labels: Value| json!({ "metadata": { "labels": labels } });
    let namespace = "/api/v1/namespaces/default";
    let put = |change: Value| server.patch(namespace, "merge-patch", change);

    let warned = labels(json!({ "pod-security.kubernetes.io/warn": "restricted" }));
    put(warned).await.expect(200);
    let answer = server.post(PODS, pod("p")).await;
    let [warning] = &answer.warnings()[..] else { panic!("{:?}", answer.warnings()) };
    assert!(
        warning.starts_with("299 - \"would violate PodSecurity \\\"restricted:latest\\\": allowPrivilegeEscalation != false (container \\\"c\\\" must set"),
        "{warning}"
    );
    answer.expect(201);
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let answer = server.post(deployments, common::deployment("d")).await;
    assert!(answer.warnings()[0].contains("would violate PodSecurity"));
    answer.expect(201);

    let enforced = labels(json!({
        "pod-security.kubernetes.io/enforce": "baseline",
        "pod-security.kubernetes.io/enforce-version": "v1.30",
    }));
    let answer = put(enforced).await;
    assert_eq!(answer.warnings(), Vec::<String>::new(), "the pod there is within baseline");
    answer.expect(200);
    let mut bad = pod("bad");
    bad["spec"]["hostNetwork"] = json!(true);
    let refused = server.post(PODS, bad.clone()).await;
    assert_eq!(refused.warnings(), Vec::<String>::new(), "refused is warning enough");
    let body = refused.expect(403);
    assert_eq!(
        body["message"],
        "pods \"bad\" is forbidden: violates PodSecurity \"baseline:v1.30\": host namespaces (hostNetwork=true)"
    );
    let mut workload = common::deployment("e");
    workload["spec"]["template"]["spec"]["hostNetwork"] = json!(true);
    server.post(deployments, workload).await.expect(201);

    let stricter = labels(json!({ "pod-security.kubernetes.io/enforce": "restricted" }));
    let answer = put(stricter).await;
    assert_eq!(
        answer.warnings(),
        [
            "299 - \"existing pods in namespace \\\"default\\\" violate the new PodSecurity enforce level \\\"restricted:v1.30\\\"\"",
            "299 - \"p: allowPrivilegeEscalation != false, unrestricted capabilities, runAsNonRoot != true, seccompProfile\"",
        ]
    );
    answer.expect(200);
    // What is there stays, and may be changed in what is not its security.
    let label = json!({ "metadata": { "labels": { "x": "y" } } });
    server.patch(&format!("{PODS}/p"), "merge-patch", label).await.expect(200);
    let image = json!({ "spec": { "containers": [{ "name": "c", "image": "other" }] } });
    server.patch(&format!("{PODS}/p"), "strategic-merge-patch", image).await.expect(403);

    let nonsense = labels(json!({ "pod-security.kubernetes.io/audit": "sometimes" }));
    let refused = put(nonsense).await.expect(422);
    assert_eq!(
        refused["message"],
        "Namespace \"default\" is invalid: metadata.labels[pod-security.kubernetes.io/audit]: Invalid value: \"sometimes\": must be one of privileged, baseline, restricted"
    );
}

#[tokio::test]
async fn a_runtime_class_brings_its_cost_and_its_nodes() {
    let server = start().await;
    let class = json!({
        "metadata": { "name": "heavy" },
        "handler": "runc",
        "overhead": { "podFixed": { "memory": "64Mi" } },
        "scheduling": {
            "nodeSelector": { "runtime": "heavy" },
            "tolerations": [{ "key": "heavy", "operator": "Exists" }],
        },
    });
    server.post("/apis/node.k8s.io/v1/runtimeclasses", class).await.expect(201);
    let of_class = |name: &str, more: Value| {
        let mut pod = pod(name);
        pod["spec"]["runtimeClassName"] = json!("heavy");
        for (key, value) in more.as_object().unwrap() {
            pod["spec"][key] = value.clone();
        }
        pod
    };
    let made = server.post(PODS, of_class("p", json!({}))).await.expect(201);
    assert_eq!(made["spec"]["overhead"], json!({ "memory": "64Mi" }));
    assert_eq!(made["spec"]["nodeSelector"], json!({ "runtime": "heavy" }));
    let tolerations = made["spec"]["tolerations"].as_array().unwrap();
    assert!(tolerations.iter().any(|toleration| toleration["key"] == "heavy"));

    let cases = [
        (
            of_class("q", json!({ "runtimeClassName": "light" })),
            "pod rejected: RuntimeClass \"light\" not found",
        ),
        (
            of_class("q", json!({ "overhead": { "memory": "1Mi" } })),
            "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
        ),
        (
            of_class("q", json!({ "nodeSelector": { "runtime": "other" } })),
            "conflict: runtimeClass.scheduling.nodeSelector[runtime] = heavy; pod.spec.nodeSelector[runtime] = other",
        ),
        (
            of_class("q", json!({ "runtimeClassName": null, "overhead": { "memory": "1Mi" } })),
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
        ),
    ];
    for (pod, why) in cases {
        let refused = server.post(PODS, pod).await.expect(403);
        assert_eq!(refused["message"], format!("pods \"q\" is forbidden: {why}"));
    }
}

#[tokio::test]
async fn a_limit_range_fills_in_and_bounds() {
    let server = start().await;
    let limit = json!({
        "type": "Container",
        "default": { "cpu": "200m" },
        "defaultRequest": { "cpu": "100m", "memory": "1Mi" },
        "max": { "cpu": "1" },
    });
    let range = json!({ "metadata": { "name": "r" }, "spec": { "limits": [limit] } });
    let ranges = "/api/v1/namespaces/default/limitranges";
    server.send(Method::POST, ranges, &[], range.to_string()).await.expect(201);
    let made = server.post(PODS, pod("p")).await.expect(201);
    assert_eq!(
        made["spec"]["containers"][0]["resources"],
        json!({ "limits": { "cpu": "200m" }, "requests": { "cpu": "100m", "memory": "1Mi" } })
    );
    assert_eq!(
        made["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu, memory request for container c; cpu limit for container c"
    );
    let mut large = pod("q");
    large["spec"]["containers"][0]["resources"] = json!({ "limits": { "cpu": "2" } });
    let refused = server.post(PODS, large).await.expect(403);
    assert_eq!(
        refused["message"],
        "pods \"q\" is forbidden: maximum cpu usage per Container is 1, but limit is 2"
    );
}
