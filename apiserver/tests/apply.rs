//! Server-side apply and managed fields, as clients see them.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Answer, Server, configmap, deployment, pod, start};
use http::Method;
use serde_json::{Value, json};
use skiff_apiserver::user::UserInfo;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const YAML: &str = "application/apply-patch+yaml";

/// Applies as `manager`; `uri` may have a query of its own.
async fn apply(server: &Server, uri: &str, manager: &str, config: Value) -> Answer {
    let mark = if uri.contains('?') { '&' } else { '?' };
    let uri = format!("{uri}{mark}fieldManager={manager}");
    server.send(Method::PATCH, &uri, &[("content-type", YAML)], config.to_string()).await
}

/// `MANAGER/SUBRESOURCE OPERATION` of every entry, sorted: the list itself goes
/// by time.
fn managers(object: &Value) -> Vec<String> {
    let list = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let entries = list.iter().map(|entry| {
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let subresource = text("subresource");
        let slash = if subresource.is_empty() { "" } else { "/" };
        format!("{}{slash}{subresource} {}", text("manager"), text("operation"))
    });
    let mut entries: Vec<String> = entries.collect();
    entries.sort();
    entries
}

/// What a manager has, as `fieldsV1`.
fn owned(object: &Value, manager: &str) -> Value {
    let list = object["metadata"]["managedFields"].as_array().unwrap();
    list.iter().find(|entry| entry["manager"] == manager).unwrap()["fieldsV1"].clone()
}

#[tokio::test]
async fn every_write_tells_who_made_it() {
    let server = start().await;
    let agent = |name: &'static str| [("content-type", "application/json"), ("user-agent", name)];
    let body = pod("p").to_string();
    let made = server.send(Method::POST, PODS, &agent("maker/v1 (linux)"), body).await.expect(201);
    assert_eq!(managers(&made), ["maker Update"]);
    let entry = &made["metadata"]["managedFields"][0];
    assert_eq!(entry["apiVersion"], "v1");
    assert_eq!(entry["fieldsType"], "FieldsV1");
    assert_eq!(entry["time"], made["metadata"]["creationTimestamp"]);
    // Defaults are the writer's; what admission adds and the status are not.
    let fields = &entry["fieldsV1"];
    assert_eq!(fields["f:metadata"], json!({"f:labels": {".": {}, "f:app": {}}}));
    assert_eq!(fields["f:spec"]["f:restartPolicy"], json!({}));
    assert_eq!(fields["f:spec"].get("f:serviceAccountName"), None);
    assert_eq!(fields.get("f:status"), None);

    let uri = format!("{PODS}/p");
    let merge = "application/merge-patch+json";
    let label = json!({"metadata": {"labels": {"x": "y"}}}).to_string();
    let named = format!("{uri}?fieldManager=labeller");
    let headers = [("content-type", merge), ("user-agent", "curl/8")];
    let patched = server.send(Method::PATCH, &named, &headers, label.clone()).await.expect(200);
    assert_eq!(managers(&patched), ["labeller Update", "maker Update"]);
    assert_eq!(owned(&patched, "labeller"), json!({"f:metadata": {"f:labels": {"f:x": {}}}}));
    let again = server.send(Method::PATCH, &named, &headers, label).await.expect(200);
    assert_eq!(again, patched, "what changes nothing is no write");

    let status = json!({"status": {"phase": "Running"}}).to_string();
    let headers = [("content-type", merge), ("user-agent", "kubelet")];
    let status = server.send(Method::PATCH, &format!("{uri}/status"), &headers, status).await;
    let status = status.expect(200);
    assert_eq!(managers(&status), ["kubelet/status Update", "labeller Update", "maker Update"]);
    assert_eq!(owned(&status, "kubelet"), json!({"f:status": {"f:phase": {}}}));

    // A PUT by somebody who does not know of managed fields keeps them.
    let mut put = status.clone();
    put["metadata"]["labels"]["x"] = json!("z");
    put["metadata"].as_object_mut().unwrap().remove("managedFields");
    let put = server.send(Method::PUT, &uri, &agent("editor"), put.to_string()).await.expect(200);
    assert_eq!(owned(&put, "editor"), json!({"f:metadata": {"f:labels": {"f:x": {}}}}));
    assert!(!managers(&put).contains(&"labeller Update".to_owned()));
    assert_eq!(server.get(&uri).await.expect(200), put);

    // Where a pod runs is nobody's.
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    server.post(&format!("{uri}/binding"), binding).await.expect(201);
    let bound = server.get(&uri).await.expect(200);
    assert_eq!(bound["metadata"]["managedFields"], put["metadata"]["managedFields"]);
}

#[tokio::test]
async fn what_is_missing_is_created() {
    let server = start().await;
    let uri = format!("{DEPLOYMENTS}/web");
    let config = deployment("web");
    let dry = apply(&server, &format!("{uri}?dryRun=All"), "me", config.clone()).await.expect(201);
    assert_eq!(managers(&dry), ["me Apply"]);
    server.get(&uri).await.expect(404);

    let made = apply(&server, &uri, "me", config.clone()).await.expect(201);
    assert_eq!(managers(&made), ["me Apply"]);
    // Defaults are nobody's.
    let expected = json!({"f:spec": {"f:replicas": {}, "f:selector": {}, "f:template": {
        "f:metadata": {"f:labels": {"f:app": {}}},
        "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}}}}}}});
    assert_eq!(owned(&made, "me"), expected);
    assert_eq!(made["spec"]["revisionHistoryLimit"], 10);

    let again = apply(&server, &uri, "me", config.clone()).await.expect(200);
    assert_eq!(again, made, "the same again is no write");
    let shared = apply(&server, &uri, "you", config).await.expect(200);
    assert_eq!(managers(&shared), ["me Apply", "you Apply"]);

    let seen = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "resourceVersion": "1"}});
    apply(&server, &format!("{MAPS}/m"), "me", seen).await.expect(409);
    apply(&server, &format!("{DEPLOYMENTS}/gone/status"), "me", deployment("gone"))
        .await
        .expect(404);
}

#[tokio::test]
async fn creating_needs_the_right_to_create() {
    let server = start().await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let rule = json!({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["patch"]});
    let role = json!({"metadata": {"name": "patcher"}, "rules": [rule]});
    server.post(&format!("{rbac}/roles"), role).await.expect(201);
    let binding = json!({"metadata": {"name": "patcher"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "patcher"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jo"}]});
    server.post(&format!("{rbac}/rolebindings"), binding).await.expect(201);
    let uri = format!("{MAPS}/m?fieldManager=jo");
    let send = async || {
        let jo = UserInfo::new("jo", ["system:authenticated"]);
        let body = configmap("m").to_string();
        server.send_as(jo, Method::PATCH, &uri, &[("content-type", YAML)], body).await
    };
    let refused = send().await.expect(403);
    assert!(refused["message"].as_str().unwrap().contains("cannot create resource"), "{refused}");
    server.post(MAPS, configmap("m")).await.expect(201);
    send().await.expect(200);
}

#[tokio::test]
async fn others_fields_are_a_conflict() {
    let server = start().await;
    let uri = format!("{MAPS}/m");
    let config = |data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": data});
    apply(&server, &uri, "one", config(json!({"a": "1", "b": "1"}))).await.expect(201);
    let edit = json!({"data": {"c": "1"}}).to_string();
    let headers = [("content-type", "application/merge-patch+json"), ("user-agent", "edit/1")];
    server.send(Method::PATCH, &uri, &headers, edit).await.expect(200);

    let status = apply(&server, &uri, "two", config(json!({"a": "2"}))).await.expect(409);
    assert_eq!(status["reason"], "Conflict");
    assert_eq!(status["message"], "Apply failed with 1 conflict: conflict with \"one\": .data.a");
    let cause = json!({"reason": "FieldManagerConflict", "message": "conflict with \"one\"", "field": ".data.a"});
    assert_eq!(status["details"]["causes"], json!([cause]));

    let all = config(json!({"a": "2", "b": "2", "c": "2"}));
    let status = apply(&server, &uri, "two", all.clone()).await.expect(409);
    assert_eq!(
        status["message"],
        "Apply failed with 3 conflicts: conflicts with \"edit\" using v1:\n- .data.c\nconflicts with \"one\":\n- .data.a\n- .data.b"
    );
    let forced = apply(&server, &format!("{uri}?force=true"), "two", all).await.expect(200);
    assert_eq!(forced["data"], json!({"a": "2", "b": "2", "c": "2"}));
    assert_eq!(managers(&forced), ["two Apply"]);
    // What one dropped stays two's; what two drops goes.
    let left = apply(&server, &uri, "two", config(json!({"a": "2"}))).await.expect(200);
    assert_eq!(left["data"], json!({"a": "2"}));
}

#[tokio::test]
async fn what_is_applied_and_dropped_gets_its_default_back() {
    let server = start().await;
    let uri = format!("{DEPLOYMENTS}/web");
    let mut config = deployment("web");
    config["spec"]["strategy"] = json!({"type": "Recreate"});
    config["spec"]["template"]["spec"]["containers"][0]["ports"] =
        json!([{"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}]);
    apply(&server, &uri, "me", config).await.expect(201);
    let mut config = deployment("web");
    config["spec"].as_object_mut().unwrap().remove("replicas");
    config["spec"]["template"]["spec"]["containers"][0]["ports"] =
        json!([{"containerPort": 80, "protocol": "UDP"}]);
    let left = apply(&server, &uri, "me", config).await.expect(200);
    assert_eq!(left["spec"]["replicas"], 1);
    assert_eq!(left["spec"]["strategy"]["type"], "RollingUpdate");
    let ports = &left["spec"]["template"]["spec"]["containers"][0]["ports"];
    assert_eq!(*ports, json!([{"containerPort": 80, "protocol": "UDP"}]));
    assert_eq!(left["metadata"]["generation"], 2);
}

#[tokio::test]
async fn configurations_that_make_no_sense_are_refused() {
    let server = start().await;
    server.post(MAPS, configmap("m")).await.expect(201);
    server.post(DEPLOYMENTS, deployment("d")).await.expect(201);
    let map = format!("{MAPS}/m");
    let web = format!("{DEPLOYMENTS}/d");
    let long = format!("{map}?fieldManager={}", "x".repeat(129));
    let with = |change: fn(&mut Value)| {
        let mut config = configmap("m");
        change(&mut config);
        config
    };
    let mut unknown = deployment("d");
    unknown["spec"]["replicass"] = json!(1);
    let mut twice = deployment("d");
    twice["spec"]["template"]["spec"]["containers"] = json!([{"name": "c"}, {"name": "c"}]);
    let mut wrong = deployment("d");
    wrong["spec"]["replicas"] = json!("1");
    let mut broken = deployment("d");
    broken["spec"]["replicas"] = json!(-1);
    #[rustfmt::skip]
    let cases: Vec<(&str, Value, u16, &str)> = vec![
        (&map, configmap("m"), 422, "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"),
        (&long, configmap("m"), 422, "fieldManager: Too long: may not be more than 128 bytes"),
        ("a%01b", configmap("m"), 422, "fieldManager: Invalid value: \"a\\u0001b\": should only contain printable characters"),
        ("x", with(|c| c["metadata"]["managedFields"] = json!([])), 400, "metadata.managedFields must be nil"),
        ("x", with(|c| c["kind"] = json!("Secret")), 400, "invalid object type: /v1, Kind=Secret"),
        ("x", with(|c| c["apiVersion"] = json!("v2")), 400, "invalid object type: /v2, Kind=ConfigMap"),
        ("x", json!({"data": {}}), 400, "invalid object type: /, Kind="),
        ("x", json!("text"), 400, "error decoding YAML: the configuration is not an object"),
        ("x", with(|c| c["metadata"]["name"] = json!("n")), 400, "the name of the object (n) does not match the name on the URL (m)"),
        ("x", with(|c| c["metadata"]["namespace"] = json!("n")), 400, "the namespace of the provided object does not match the namespace sent on the request"),
        ("x", with(|c| c["metadata"]["resourceVersion"] = json!("1")), 409, "the object has been modified"),
        ("x", with(|c| c["metadata"]["uid"] = json!("1")), 409, "Precondition failed: UID in precondition: 1"),
        ("d", unknown, 500, "failed to create typed patch object (default/d; apps/v1, Kind=Deployment): .spec.replicass: field not declared in schema"),
        ("d", twice, 500, "failed to create typed patch object (default/d; apps/v1, Kind=Deployment): .spec.template.spec.containers: duplicate entries for key [name=\"c\"]"),
        ("d", wrong, 500, ".spec.replicas: expected numeric (int or float), got"),
        ("d", broken, 422, "Deployment.apps \"d\" is invalid: spec.replicas: Invalid value: -1"),
    ];
    let before = (server.get(&map).await.expect(200), server.get(&web).await.expect(200));
    for (manager, config, code, message) in cases {
        let uri = match manager {
            "d" => format!("{web}?fieldManager=x&force=true"),
            uri if uri.starts_with('/') => uri.to_owned(),
            name => format!("{map}?fieldManager={name}&force=true"),
        };
        let answer =
            server.send(Method::PATCH, &uri, &[("content-type", YAML)], config.to_string()).await;
        let status = answer.expect(code);
        let seen = status["message"].as_str().unwrap();
        assert!(seen.contains(message), "{seen}");
    }
    assert_eq!(before, (server.get(&map).await.expect(200), server.get(&web).await.expect(200)));

    let force = server.patch(&format!("{map}?force=true"), "merge-patch", json!({})).await;
    let status = force.expect(422);
    assert_eq!(
        status["message"],
        "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch"
    );
    let status = server.post(&format!("{MAPS}?fieldManager=%01"), configmap("n")).await.expect(422);
    assert!(status["message"].as_str().unwrap().starts_with("CreateOptions.meta.k8s.io \"\""));
    let twice = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m"},"data":{"a":"1","a":"2"}}"#;
    let strict = format!("{map}?fieldManager=x&fieldValidation=Strict");
    let answer = server.send(Method::PATCH, &strict, &[("content-type", YAML)], twice).await;
    let status = answer.expect(400);
    assert_eq!(status["message"], "error strict decoding YAML: duplicate field \"data.a\"");
    let warned = server
        .send(Method::PATCH, &format!("{map}?fieldManager=x"), &[("content-type", YAML)], twice)
        .await;
    assert_eq!(warned.warnings(), [r#"299 - "duplicate field \"data.a\"""#]);
}

#[tokio::test]
async fn conflicts_are_told_in_bounded_space() {
    let server = start().await;
    let uri = "/apis/apps/v1/namespaces/default/controllerrevisions/r";
    // A name as long as a body may be, above very many fields.
    let revision = |value: &str| {
        let fields: serde_json::Map<String, Value> =
            (0..20_000).map(|at| (at.to_string(), json!(value))).collect();
        json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": {"name": "r"},
            "revision": 1, "data": {"x".repeat(200_000): fields}})
    };
    apply(&server, uri, "one", revision("1")).await.expect(201);
    let status = apply(&server, uri, "two", revision("2")).await.expect(409);
    let message = status["message"].as_str().unwrap();
    assert!(
        message.starts_with("Apply failed with 20000 conflicts: conflicts with \"one\":\n- .data.")
    );
    assert!(message.len() < 1_000_000, "{}", message.len());
}

#[tokio::test]
async fn yaml_is_bounded_here_too() {
    let server = start().await;
    let uri = format!("{MAPS}/m?fieldManager=x");
    let send = async |body: String| {
        server.send(Method::PATCH, &uri, &[("content-type", YAML)], body).await
    };
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    assert_eq!(send(deep).await.code, 400);
    assert_eq!(send("a: &a [x]\nb: [*a, *c]".into()).await.code, 400);
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {a: b}\n";
    assert_eq!(send(yaml.into()).await.expect(201)["data"]["a"], "b");
    let flow = "{apiVersion: v1, kind: ConfigMap, metadata: {name: m}, data: {a: c}}";
    assert_eq!(send(flow.into()).await.expect(200)["data"]["a"], "c");
}

#[tokio::test]
async fn subresources_have_managers_of_their_own() {
    let server = start().await;
    let uri = format!("{DEPLOYMENTS}/web");
    apply(&server, &uri, "me", deployment("web")).await.expect(201);
    // The status part leaves everything else alone, and the main part the status.
    let mut config = deployment("web");
    config["spec"]["replicas"] = json!(9);
    config["status"] = json!({"replicas": 3, "conditions": [{"type": "Ready", "status": "True"}]});
    let status = apply(&server, &format!("{uri}/status"), "me", config.clone()).await.expect(200);
    assert_eq!(
        (&status["spec"]["replicas"], &status["status"]["replicas"]),
        (&json!(2), &json!(3))
    );
    assert_eq!(managers(&status), ["me Apply", "me/status Apply"]);
    let more = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "status": {"conditions": [{"type": "Other", "status": "True"}]}});
    let more = apply(&server, &format!("{uri}/status"), "you", more).await.expect(200);
    let types: Vec<_> =
        more["status"]["conditions"].as_array().unwrap().iter().map(|c| &c["type"]).collect();
    assert_eq!(types, ["Ready", "Other"]);
    config["spec"]["replicas"] = json!(2);
    config["status"] = json!({"replicas": 7});
    let main = apply(&server, &uri, "me", config).await.expect(200);
    assert_eq!(main, more);

    // A Scale has one field, and it is the Deployment's.
    let scale = format!("{uri}/scale");
    let put = json!({"metadata": {"name": "web"}, "spec": {"replicas": 5}});
    let headers = [("content-type", "application/json"), ("user-agent", "scaler")];
    let shown = server.send(Method::PUT, &scale, &headers, put.to_string()).await.expect(200);
    assert_eq!(managers(&shown), ["scaler/scale Update"]);
    assert_eq!(owned(&shown, "scaler"), json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(shown["metadata"]["managedFields"][0]["apiVersion"], "autoscaling/v1");
    let object = server.get(&uri).await.expect(200);
    assert_eq!(owned(&object, "scaler"), json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(owned(&object, "me")["f:spec"].get("f:replicas"), None);

    let config = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"}, "spec": {"replicas": 6}});
    let refused = apply(&server, &scale, "hpa", config.clone()).await.expect(409);
    assert_eq!(
        refused["message"],
        "Apply failed with 1 conflict: conflict with \"scaler\" with subresource \"scale\" using apps/v1: .spec.replicas"
    );
    let forced = apply(&server, &format!("{scale}?force=true"), "hpa", config).await.expect(200);
    assert_eq!(forced["spec"]["replicas"], 6);
    assert_eq!(managers(&forced), ["hpa/scale Apply"]);
    let refused = apply(&server, &uri, "me", deployment("web")).await.expect(409);
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .contains("\"hpa\" with subresource \"scale\": .spec.replicas")
    );
}

#[tokio::test]
async fn the_list_can_be_written_and_cleared() {
    let server = start().await;
    let uri = format!("{MAPS}/m");
    let made = server.post(MAPS, configmap("m")).await.expect(201);
    // As kubectl does when it goes over from client-side to server-side apply.
    let mut list = made["metadata"]["managedFields"].clone();
    list[0]["operation"] = json!("Apply");
    list[0]["manager"] = json!("kubectl");
    let rv = &made["metadata"]["resourceVersion"];
    let operations = json!([
        {"op": "replace", "path": "/metadata/managedFields", "value": list},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": rv},
    ]);
    let moved = server.patch(&uri, "json-patch", operations).await.expect(200);
    assert_eq!(managers(&moved), ["kubectl Apply"]);
    assert_eq!(moved["metadata"]["managedFields"], list);

    // What cannot be read changes nothing.
    let garbled = json!({"metadata": {"managedFields": [{"manager": "x", "operation": "Guess"}]}});
    assert_eq!(server.patch(&uri, "merge-patch", garbled).await.expect(200), moved);
    let number = json!({"metadata": {"managedFields": 5}});
    assert!((400..500).contains(&server.patch(&uri, "merge-patch", number).await.code));

    let cleared = json!({"metadata": {"managedFields": [{}]}});
    let cleared = server.patch(&uri, "merge-patch", cleared).await.expect(200);
    assert_eq!(cleared["metadata"].get("managedFields"), None);
    // From then on nobody tracks, until somebody applies.
    let data = json!({"data": {"k": "w"}});
    let quiet = server.patch(&uri, "merge-patch", data).await.expect(200);
    assert_eq!(quiet["metadata"].get("managedFields"), None);
    let refused = apply(&server, &uri, "me", configmap("m")).await.expect(409);
    assert_eq!(
        refused["message"],
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.k"
    );
}

#[tokio::test]
async fn kubectl_goes_over_from_its_own_apply() {
    let server = start().await;
    let uri = format!("{MAPS}/m");
    let mut object = configmap("m");
    let applied = object.to_string();
    object["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": applied});
    let csa = format!("{MAPS}?fieldManager=kubectl-client-side-apply");
    server.post(&csa, object).await.expect(201);
    let mut config = configmap("m");
    config["data"]["k"] = json!("new");
    apply(&server, &uri, "other", config.clone()).await.expect(409);
    let taken = apply(&server, &uri, "kubectl", config.clone()).await.expect(200);
    assert_eq!(taken["data"]["k"], "new");
    let note =
        &taken["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    let note: Value = serde_json::from_str(note.as_str().unwrap()).unwrap();
    assert_eq!(note["data"], config["data"]);
    assert_eq!(managers(&taken), ["kubectl Apply", "kubectl-client-side-apply Update"]);
}

#[tokio::test]
async fn views_of_a_kind_share_its_managers() {
    let server = start().await;
    let beta = "/apis/networking.k8s.io/v1beta1/namespaces/default/ingresses/i";
    let v1 = "/apis/networking.k8s.io/v1/namespaces/default/ingresses/i";
    let config = json!({"apiVersion": "networking.k8s.io/v1beta1", "kind": "Ingress", "metadata": {"name": "i"},
        "spec": {"backend": {"serviceName": "s", "servicePort": 80}}});
    let made = apply(&server, beta, "me", config.clone()).await.expect(201);
    assert_eq!(made["spec"]["backend"], json!({"serviceName": "s", "servicePort": 80}));
    let stored = server.get(v1).await.expect(200);
    assert_eq!(stored["metadata"]["managedFields"][0]["apiVersion"], "networking.k8s.io/v1");
    assert!(owned(&stored, "me")["f:spec"].get("f:defaultBackend").is_some());
    let other = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "i"},
        "spec": {"defaultBackend": {"service": {"name": "t"}}}});
    let refused = apply(&server, v1, "you", other).await.expect(409);
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .contains("conflict with \"me\": .spec.defaultBackend.service.name"),
        "{refused}"
    );
    let elsewhere = apply(&server, v1, "me", config).await.expect(400);
    assert_eq!(
        elsewhere["message"],
        "invalid object type: networking.k8s.io/v1beta1, Kind=Ingress"
    );
}

#[tokio::test]
async fn fields_are_recorded_in_the_version_that_was_written() {
    let server = start().await;
    let old = DEPLOYMENTS.replace("apps/v1", "extensions/v1beta1") + "/d";
    let new = format!("{DEPLOYMENTS}/d");
    let version = |object: &Value, manager: &str| {
        let list = object["metadata"]["managedFields"].as_array().unwrap().clone();
        let own: Vec<Value> =
            list.into_iter().filter(|entry| entry["manager"] == manager).collect();
        assert_eq!(own.len(), 1, "{own:?}");
        own[0]["apiVersion"].as_str().unwrap().to_owned()
    };
    let config = |version: &str, replicas: u32| {
        let mut config = deployment("d");
        config["apiVersion"] = json!(version);
        config["spec"]["replicas"] = json!(replicas);
        config
    };
    let made = apply(&server, &old, "me", config("extensions/v1beta1", 1)).await.expect(201);
    assert_eq!(version(&made, "me"), "extensions/v1beta1");
    let again = apply(&server, &old, "me", config("extensions/v1beta1", 1)).await.expect(200);
    assert_eq!(again, made, "the same again is no write");

    let scaled = server.patch(&new, "merge-patch", json!({"spec": {"paused": true}})).await;
    scaled.expect(200);
    let old_patch = json!({"spec": {"minReadySeconds": 3}});
    let uri = format!("{old}?fieldManager=patcher");
    let patched = server.patch(&uri, "merge-patch", old_patch).await.expect(200);
    assert_eq!(version(&patched, "patcher"), "extensions/v1beta1");
    let mut wanted = config("apps/v1", 1);
    wanted["spec"]["minReadySeconds"] = json!(4);
    let refused = apply(&server, &new, "you", wanted).await.expect(409);
    let message = refused["message"].as_str().unwrap();
    let conflict = "conflict with \"patcher\" using extensions/v1beta1: .spec.minReadySeconds";
    assert!(message.contains(conflict), "{message}");

    // The applier is one and the same, whichever version it applies through.
    let moved = apply(&server, &new, "me", config("apps/v1", 2)).await.expect(200);
    assert_eq!(version(&moved, "me"), "apps/v1");
    assert_eq!(moved["spec"]["replicas"], 2);
    let back = apply(&server, &old, "me", config("extensions/v1beta1", 3)).await.expect(200);
    assert_eq!(version(&back, "me"), "extensions/v1beta1");
    assert_eq!(back["spec"]["replicas"], 3);
}

#[tokio::test]
async fn lists_watches_and_partial_objects_carry_the_list() {
    let server = start().await;
    let mut events = server.watch(&format!("{MAPS}?watch=true&resourceVersion=0")).await;
    let made = apply(&server, &format!("{MAPS}/m"), "me", configmap("m")).await.expect(201);
    loop {
        let event = events.next().await.unwrap();
        if event["object"]["metadata"]["name"] == "m" {
            assert_eq!(event["object"], made);
            break;
        }
    }
    let list = server.get(MAPS).await.expect(200);
    assert!(list["items"].as_array().unwrap().contains(&made));
    let accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let partial = server.get_as(&format!("{MAPS}/m"), accept).await.expect(200);
    assert_eq!(managers(&partial), ["me Apply"]);
    let accept = "application/json;as=Table;g=meta.k8s.io;v=v1";
    let table = server.get_as(MAPS, accept).await.expect(200);
    let rows = table["rows"].as_array().unwrap();
    assert!(rows.iter().any(|row| managers(&row["object"]) == ["me Apply"]));
}
