//! The chain over a store in memory: what is added, and what is refused.

use serde_json::json;
use skiff_store::{Draft, Store, Txn, Write};

use super::*;
use crate::keys;

/// A chain over `objects`, given as group, resource and object.
async fn chain(objects: &[(&str, &str, Value)]) -> Chain {
    let store = Store::memory().await.unwrap();
    for (group, resource, object) in objects {
        let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
        let key = keys::object(group, resource, text("namespace"), text("name"));
        let draft = Draft { bytes: object.to_string().into(), revision_at: None, sealed: false };
        let txn = Txn::default().write(Write::Put(key.as_str().into(), draft));
        store.commit(txn).await.unwrap();
    }
    let live = Arc::new(Live::new(store.clone()));
    Chain::new(Objects::new(store), live)
}

fn info(method: http::Method, path: &str, name: &str) -> RequestInfo {
    let mut info = RequestInfo::parse(&method, &path.parse().unwrap());
    name.clone_into(&mut info.name);
    info
}

/// Runs both phases; the object as it would be stored, or the message.
async fn admit(
    chain: &Chain,
    user: &UserInfo,
    info: &RequestInfo,
    old: Option<&Value>,
    object: Value,
) -> Result<Value, String> {
    let operation = match info.verb {
        "create" => Operation::Create,
        "delete" => Operation::Delete,
        _ => Operation::Update,
    };
    let notes = Notes::default();
    let request =
        Attributes { info, kind: "", user, operation, old, dry_run: false, notes: &notes };
    let mut object = object;
    if operation != Operation::Delete {
        chain.mutate(&request, &mut object).await.map_err(|error| error.message)?;
    }
    chain.validate(&request, &object).map_err(|error| error.message)?;
    Ok(object)
}

fn namespace(name: &str, deleted: bool) -> (&'static str, &'static str, Value) {
    let mut object = json!({ "metadata": { "name": name } });
    if deleted {
        object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    ("", "namespaces", object)
}

fn account(name: &str) -> (&'static str, &'static str, Value) {
    ("", "serviceaccounts", json!({ "metadata": { "namespace": "a", "name": name, "uid": "u" } }))
}

fn pod() -> Value {
    json!({ "metadata": { "name": "p", "namespace": "a" }, "spec": { "containers": [{ "name": "c" }] } })
}

fn create_pod(namespace: &str) -> RequestInfo {
    info(http::Method::POST, &format!("/api/v1/namespaces/{namespace}/pods"), "p")
}

#[tokio::test]
async fn a_pod_gets_account_token_priority_and_tolerations() {
    let chain = chain(&[namespace("a", false), account("default")]).await;
    let jane = UserInfo::new("jane", []);
    let pod = admit(&chain, &jane, &create_pod("a"), None, pod()).await.unwrap();
    assert_eq!(pod["spec"]["serviceAccountName"], "default");
    assert_eq!(pod["spec"]["priority"], 0);
    assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 2);
    let volume = &pod["spec"]["volumes"][0];
    assert!(volume["name"].as_str().unwrap().starts_with("kube-api-access-"));
    assert_eq!(volume["projected"]["sources"].as_array().unwrap().len(), 3);
    let mount = &pod["spec"]["containers"][0]["volumeMounts"][0];
    assert_eq!(mount["name"], volume["name"]);
    assert_eq!(mount["mountPath"], "/var/run/secrets/kubernetes.io/serviceaccount");
}

#[tokio::test]
async fn a_pod_keeps_the_default_tolerations() {
    let chain = chain(&[namespace("a", false), account("default")]).await;
    let jane = UserInfo::new("jane", []);
    let put =
        |path: &str| info(http::Method::PUT, &format!("/api/v1/namespaces/a/pods/{path}"), "p");
    let own = json!({ "key": "dedicated", "value": "gpu", "effect": "NoSchedule" });
    let not_ready = json!({ "key": "node.kubernetes.io/not-ready", "effect": "NoExecute" });
    let cases = [
        ("none", create_pod("a"), json!([]), 2),
        ("created with its own", create_pod("a"), json!([own]), 3),
        ("updated with its own", put("p"), json!([own]), 3),
        ("updated without any", put("p"), Value::Null, 2),
        ("updated with one of the two", put("p"), json!([not_ready]), 2),
        ("stands everything", put("p"), json!([{ "operator": "Exists" }]), 1),
        ("its status", put("p/status"), json!([own]), 1),
    ];
    for (name, info, tolerations, expected) in cases {
        let mut pod = pod();
        pod["spec"]["tolerations"] = tolerations;
        let old = (info.verb == "update").then(|| pod.clone());
        let pod = admit(&chain, &jane, &info, old.as_ref(), pod).await.unwrap();
        assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), expected, "{name}");
    }
}

#[tokio::test]
async fn pods_can_do_without_a_token() {
    let mut silent = account("silent");
    silent.2["automountServiceAccountToken"] = json!(false);
    let chain = chain(&[namespace("a", false), account("default"), silent]).await;
    let jane = UserInfo::new("jane", []);
    for (account, automount, volumes) in [
        ("default", Some(false), 0),
        ("silent", None, 0),
        ("silent", Some(true), 1),
        ("default", None, 1),
    ] {
        let mut pod = pod();
        pod["spec"]["serviceAccountName"] = json!(account);
        pod["spec"]["automountServiceAccountToken"] = json!(automount);
        let pod = admit(&chain, &jane, &create_pod("a"), None, pod).await.unwrap();
        let count = pod["spec"]["volumes"].as_array().map_or(0, Vec::len);
        assert_eq!(count, volumes, "{account} {automount:?}");
    }
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let chain = chain(&[namespace("a", false), namespace("dying", true)]).await;
    // Only now: the store answers from a thread that a paused clock outruns.
    tokio::time::pause();
    let jane = UserInfo::new("jane", []);
    let cases = [
        ("missing", "namespaces \"missing\" not found"),
        (
            "dying",
            "pods \"p\" is forbidden: unable to create new content in namespace dying because it is being terminated",
        ),
        (
            "a",
            "pods \"p\" is forbidden: error looking up service account a/default: serviceaccount \"default\" not found",
        ),
    ];
    for (namespace, message) in cases {
        let refused = admit(&chain, &jane, &create_pod(namespace), None, pod()).await;
        assert_eq!(refused.unwrap_err(), message);
    }
    let delete = info(http::Method::DELETE, "/api/v1/namespaces/default", "default");
    let refused = admit(&chain, &jane, &delete, None, json!({})).await;
    assert!(refused.unwrap_err().contains("this namespace may not be deleted"));
}

#[tokio::test]
async fn a_node_writes_only_what_is_its_own() {
    let mut bound = pod();
    bound["spec"]["nodeName"] = json!("n1");
    bound["spec"]["serviceAccountName"] = json!("bot");
    bound["metadata"]["uid"] = json!("pod-uid");
    let chain =
        chain(&[namespace("a", false), account("default"), ("", "pods", bound.clone())]).await;
    let node = |name: &str| UserInfo::new(&format!("system:node:{name}"), ["system:nodes"]);
    let put = |path: &str, name: &str| info(http::Method::PUT, path, name);
    let status = put("/api/v1/namespaces/a/pods/p/status", "p");
    let lease = put("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1", "n1");
    let own_node = put("/api/v1/nodes/n1", "n1");
    let token = info(http::Method::POST, "/api/v1/namespaces/a/serviceaccounts/bot/token", "bot");
    let request = json!({ "spec": { "boundObjectRef": { "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "pod-uid" } } });
    let plain = json!({ "metadata": { "name": "n1" }, "spec": {} });
    let labelled =
        |key: &str| json!({ "metadata": { "name": "n1", "labels": { key: "x" } }, "spec": {} });
    let tainted = json!({ "metadata": { "name": "n1" }, "spec": { "taints": [{ "key": "k", "effect": "NoSchedule" }] } });
    #[rustfmt::skip]
    let cases = [
        ("own pod's status", "n1", &status, Some(&bound), bound.clone(), true),
        ("another's pod's status", "n2", &status, Some(&bound), bound.clone(), false),
        ("own lease", "n1", &lease, None, json!({}), true),
        ("another's lease", "n2", &lease, None, json!({}), false),
        ("own node", "n1", &own_node, Some(&plain), plain.clone(), true),
        ("another node", "n2", &own_node, Some(&plain), plain.clone(), false),
        ("a plain label", "n1", &own_node, Some(&plain), labelled("rack"), true),
        ("a topology label", "n1", &own_node, Some(&plain), labelled("topology.kubernetes.io/zone"), true),
        ("a role", "n1", &own_node, Some(&plain), labelled("node-role.kubernetes.io/control-plane"), false),
        ("a restricted label", "n1", &own_node, Some(&plain), labelled("node-restriction.kubernetes.io/x"), false),
        ("its taints", "n1", &own_node, Some(&plain), tainted, false),
        ("an ordinary pod", "n1", &create_pod("a"), None, pod(), false),
        ("a token for its pod", "n1", &token, None, request.clone(), true),
        ("a token for another's pod", "n2", &token, None, request.clone(), false),
        ("a token for nothing", "n1", &token, None, json!({ "spec": {} }), false),
    ];
    for (name, by, info, old, object, allowed) in cases {
        let answer = admit(&chain, &node(by), info, old, object).await;
        assert_eq!(answer.is_ok(), allowed, "{name}: {answer:?}");
    }
    let someone = UserInfo::new("jane", []);
    assert!(
        admit(&chain, &someone, &own_node, Some(&plain), labelled("node-role.kubernetes.io/x"))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn nobody_grants_what_he_does_not_hold() {
    let group = crate::authz::rbac::GROUP;
    let pods = json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get"] }]);
    let chain = chain(&[
        namespace("a", false),
        (group, "clusterroles", json!({ "metadata": { "name": "reader" }, "rules": pods })),
        (group, "clusterroles", json!({ "metadata": { "name": "all" }, "rules": [{ "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"] }] })),
        (group, "clusterrolebindings", json!({ "metadata": { "name": "b" }, "roleRef": { "kind": "ClusterRole", "name": "reader" }, "subjects": [{ "kind": "User", "name": "jane" }] })),
    ])
    .await;
    let jane = UserInfo::new("jane", []);
    let master = UserInfo::new("root", ["system:masters"]);
    let roles =
        info(http::Method::POST, "/apis/rbac.authorization.k8s.io/v1/namespaces/a/roles", "r");
    let bindings = info(
        http::Method::POST,
        "/apis/rbac.authorization.k8s.io/v1/namespaces/a/rolebindings",
        "r",
    );
    let role = |verb: &str| json!({ "rules": [{ "apiGroups": [""], "resources": ["pods"], "verbs": [verb] }] });
    let bind = |name: &str| json!({ "roleRef": { "kind": "ClusterRole", "name": name } });
    let cases = [
        (&jane, &roles, role("get"), true),
        (&jane, &roles, role("delete"), false),
        (&jane, &bindings, bind("reader"), true),
        (&jane, &bindings, bind("all"), false),
        (&jane, &bindings, bind("not-yet"), false),
        (&master, &roles, role("delete"), true),
        (&master, &bindings, bind("all"), true),
    ];
    for (user, info, object, allowed) in cases {
        let answer = admit(&chain, user, info, None, object.clone()).await;
        assert_eq!(answer.is_ok(), allowed, "{} {object}: {answer:?}", user.name);
    }
}

#[tokio::test]
async fn requesters_are_written_by_us() {
    let chain = chain(&[]).await;
    let jane = UserInfo::new("jane", ["dev"]);
    let create =
        info(http::Method::POST, "/apis/certificates.k8s.io/v1/certificatesigningrequests", "c");
    let forged = json!({ "spec": { "signerName": "example.com/x", "username": "system:node:n1", "groups": ["system:nodes"] } });
    let stored = admit(&chain, &jane, &create, None, forged).await.unwrap();
    assert_eq!(stored["spec"]["username"], "jane");
    assert_eq!(stored["spec"]["groups"], json!(["dev"]));
    let approve = info(
        http::Method::PUT,
        "/apis/certificates.k8s.io/v1/certificatesigningrequests/c/approval",
        "c",
    );
    let refused = admit(&chain, &jane, &approve, Some(&stored), stored.clone()).await;
    assert!(refused.unwrap_err().contains("not permitted to approve"));
}

#[tokio::test]
async fn claims_get_the_default_class_and_protection() {
    let class = |name: &str, default: &str, made: &str| {
        let annotations = json!({ "storageclass.kubernetes.io/is-default-class": default });
        let meta = json!({ "name": name, "annotations": annotations, "creationTimestamp": made });
        ("storage.k8s.io", "storageclasses", json!({ "metadata": meta }))
    };
    let chain = chain(&[
        namespace("a", false),
        class("old", "true", "2026-01-01T00:00:00Z"),
        class("new", "true", "2026-02-01T00:00:00Z"),
        class("newest", "false", "2026-03-01T00:00:00Z"),
    ])
    .await;
    let user = UserInfo::new("u", ["system:authenticated"]);
    let path = "/api/v1/namespaces/a/persistentvolumeclaims";
    let info = info(http::Method::POST, path, "data");
    let cases = [
        (json!({}), json!("new")),
        (json!({ "storageClassName": "" }), json!("")),
        (json!({ "storageClassName": "old" }), json!("old")),
    ];
    for (spec, expected) in cases {
        let claim = json!({ "metadata": { "name": "data" }, "spec": spec });
        let claim = admit(&chain, &user, &info, None, claim).await.unwrap();
        assert_eq!(claim["spec"]["storageClassName"], expected);
        assert_eq!(claim["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    }
}

#[tokio::test]
async fn only_claims_of_a_class_that_says_so_grow() {
    let class = |name: &str, grows: bool| {
        let class = json!({ "metadata": { "name": name }, "allowVolumeExpansion": grows });
        ("storage.k8s.io", "storageclasses", class)
    };
    let chain = chain(&[namespace("a", false), class("yes", true), class("no", false)]).await;
    let user = UserInfo::new("u", ["system:authenticated"]);
    let path = "/api/v1/namespaces/a/persistentvolumeclaims/data";
    let info = info(http::Method::PUT, path, "data");
    let claim = |class: &str, size: &str| {
        json!({ "metadata": { "name": "data" },
                "spec": { "storageClassName": class, "resources": { "requests": { "storage": size } } } })
    };
    for (class, size, allowed) in [("yes", "2Gi", true), ("no", "2Gi", false), ("no", "1Gi", true)]
    {
        let old = claim(class, "1Gi");
        let admitted = admit(&chain, &user, &info, Some(&old), claim(class, size)).await;
        assert_eq!(admitted.is_ok(), allowed, "{class} {size}: {admitted:?}");
    }
}
