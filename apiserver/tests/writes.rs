//! Create, update, patch and delete, as clients see them.

#![allow(clippy::unwrap_used)]

mod common;

use common::{configmap, deployment, pod, start};
use http::Method;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

#[tokio::test]
async fn objects_are_created_with_what_only_the_server_gives() {
    let server = start().await;
    let made = server.post(MAPS, configmap("a")).await.expect(201);
    assert_eq!(made["metadata"]["namespace"], "default");
    for field in ["uid", "creationTimestamp", "resourceVersion"] {
        assert!(made["metadata"][field].as_str().is_some_and(|text| !text.is_empty()), "{field}");
    }
    assert_eq!(server.get(&format!("{MAPS}/a")).await.expect(200), made);
    let again = server.post(MAPS, configmap("a")).await.expect(409);
    assert_eq!(again["reason"], "AlreadyExists");
    assert_eq!(again["message"], "configmaps \"a\" already exists");

    let named = json!({"metadata": {"generateName": "gen-"}});
    let name =
        server.post(MAPS, named).await.expect(201)["metadata"]["name"].as_str().unwrap().to_owned();
    assert!(name.starts_with("gen-") && name.len() == 9, "{name}");
}

#[tokio::test]
async fn creates_that_make_no_sense_are_refused_in_upstreams_words() {
    let server = start().await;
    let elsewhere = json!({"metadata": {"name": "a", "namespace": "other"}});
    let versioned = json!({"metadata": {"name": "a", "resourceVersion": "1"}});
    let mut unknown = deployment("d");
    unknown["spec"]["replcias"] = json!(1);
    let mut typed = deployment("d");
    typed["spec"]["replicas"] = json!("two");
    let mut empty = deployment("d");
    empty["spec"]["selector"] = json!({"matchLabels": {"app": "other"}});
    empty["spec"]["replicas"] = json!(-1);
    let strict = format!("{DEPLOYMENTS}?fieldValidation=Strict");
    #[rustfmt::skip]
    let cases: Vec<(&str, Value, u16, &str)> = vec![
        (MAPS, elsewhere, 400, "the namespace of the provided object does not match the namespace sent on the request"),
        (MAPS, versioned, 400, "resourceVersion should not be set on objects to be created"),
        (MAPS, json!([]), 400, "couldn't get version/kind"),
        (MAPS, json!({"apiVersion": "v2", "metadata": {"name": "a"}}), 400, "the API version in the data (v2) does not match the expected API version (v1)"),
        (MAPS, json!({"kind": "Secret", "metadata": {"name": "a"}}), 400, "Secret in version \"v1\" cannot be handled as a ConfigMap"),
        ("/api/v1/namespaces/nope/configmaps", configmap("a"), 404, "namespaces \"nope\" not found"),
        (&strict, unknown, 400, "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: unknown field \"spec.replcias\""),
        (DEPLOYMENTS, typed, 400, "json: cannot unmarshal string into Go struct field"),
        (DEPLOYMENTS, empty, 422, "Deployment.apps \"d\" is invalid: ["),
        ("/api/v1/configmaps", configmap("a"), 405, "the server does not allow this method on the requested resource"),
        ("/api/v1/namespaces/default/nodes", json!({"metadata": {"name": "n"}}), 404, "the server could not find the requested resource"),
    ];
    for (uri, body, code, message) in cases {
        let status = server.post(uri, body).await.expect(code);
        assert_eq!(status["kind"], "Status");
        let seen = status["message"].as_str().unwrap();
        assert!(seen.contains(message), "{uri}: {seen}");
    }
}

#[tokio::test]
async fn paths_that_name_no_object_are_refused() {
    let server = start().await;
    server.put(MAPS, configmap("a")).await.expect(405);
    server.patch(MAPS, "merge-patch", json!({})).await.expect(405);
    server.post(&format!("{MAPS}/a"), configmap("a")).await.expect(405);
    server.get("/api/v1/namespaces/default/configmaps/a%2Fb").await.expect(400);
    server.get("/api/v1/namespaces/default%2Fx/configmaps").await.expect(400);
    server.get("/api/v1/configmaps/default").await.expect(404);
    server.get(&format!("{MAPS}/a/nope")).await.expect(404);
}

#[tokio::test]
async fn unknown_and_repeated_fields_warn_by_default() {
    let server = start().await;
    let body = r#"{"metadata":{"name":"w"},"dta":{},"data":{"a":"1","a":"2"}}"#;
    let answer =
        server.send(Method::POST, MAPS, &[("content-type", "application/json")], body).await;
    assert_eq!(answer.code, 201);
    assert_eq!(
        answer.warnings(),
        [r#"299 - "unknown field \"dta\"""#, r#"299 - "duplicate field \"data.a\"""#],
        "in the order of the body"
    );
    let strict = format!("{MAPS}?fieldValidation=Strict");
    let answer =
        server.send(Method::POST, &strict, &[("content-type", "application/json")], body).await;
    let message = answer.expect(400)["message"].as_str().unwrap().to_owned();
    assert!(
        message
            .ends_with("strict decoding error: unknown field \"dta\", duplicate field \"data.a\""),
        "{message}"
    );
}

#[tokio::test]
async fn every_way_to_write_tells_of_fields_that_stand_twice() {
    let server = start().await;
    server.post(MAPS, configmap("m")).await.expect(201);
    let one = format!("{MAPS}/m");
    let merge = r#"{"data": {"a": "1", "a": "2"}, "extra": {"b": 1, "b": 2}}"#;
    let json = r#"[{"op": "add", "op": "add", "path": "/data", "value": {}, "odd": 1}]"#;
    let twice = r#"duplicate field "data.a", duplicate field "extra.b", unknown field "extra""#;
    let cases = [
        (
            Method::PUT,
            "application/yaml",
            "data: {a: '1', a: '2'}\nextra: {}\n",
            400,
            r#"key "a" already set in map, unknown field "extra""#,
        ),
        (Method::PATCH, "application/merge-patch+json", merge, 422, twice),
        (Method::PATCH, "application/strategic-merge-patch+json", merge, 422, twice),
        (
            Method::PATCH,
            "application/json-patch+json",
            json,
            422,
            r#"json patch duplicate field "[0].op", json patch unknown field "[0].odd""#,
        ),
        (
            Method::PATCH,
            "application/apply-patch+yaml",
            "apiVersion: v1\nkind: ConfigMap\ndata: {a: '1', a: '2'}\n",
            400,
            r#"error strict decoding YAML: key "a" already set in map"#,
        ),
    ];
    for (method, media, body, code, why) in cases {
        let options = |level: &str| format!("{one}?fieldManager=t&fieldValidation={level}");
        let send = async |level: &str| {
            server.send(method.clone(), &options(level), &[("content-type", media)], body).await
        };
        let refused = send("Strict").await.expect(code);
        let message = refused["message"].as_str().unwrap();
        assert!(message.ends_with(why), "{media}: {message}");
        assert_eq!(server.get(&one).await.expect(200)["data"], configmap("m")["data"], "{media}");
        let dry = format!("{}&dryRun=All&force=true", options("Warn"));
        let dry = if media.contains("apply") { dry } else { dry.replace("&force=true", "") };
        let warned = server.send(method.clone(), &dry, &[("content-type", media)], body).await;
        assert_eq!(warned.code, 200, "{media}: {}", warned.body);
        assert_eq!(warned.warnings().len(), why.matches(", ").count() + 1, "{media}");
        let ignored = dry.replace("=Warn", "=Ignore");
        let ignored = server.send(method, &ignored, &[("content-type", media)], body).await;
        assert_eq!(ignored.warnings(), Vec::<String>::new(), "{media}");
    }
}

#[tokio::test]
async fn bodies_are_bounded_and_of_a_known_kind() {
    let server = start().await;
    let post = async |media: &str, body: axum::body::Body| {
        server.send(Method::POST, MAPS, &[("content-type", media)], body).await
    };
    assert_eq!(post("application/json", common::endless()).await.code, 413);
    assert_eq!(post("text/plain", "x".into()).await.expect(415)["reason"], "UnsupportedMediaType");
    assert_eq!(post("application/json", "{".into()).await.code, 400);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(post("application/json", deep.clone().into()).await.code, 400);
    assert_eq!(post("application/yaml", deep.into()).await.code, 400);
    let yaml =
        post("application/yaml", "metadata: {name: y}\ndata: {a: b}\n".into()).await.expect(201);
    assert_eq!(yaml["data"]["a"], "b");
}

#[tokio::test]
async fn updates_are_checked_against_what_is_stored() {
    let server = start().await;
    let uri = format!("{MAPS}/u");
    let made = server.post(MAPS, configmap("u")).await.expect(201);

    let mut first = made.clone();
    first["data"]["k"] = json!("1");
    let changed = server.put(&uri, first.clone()).await.expect(200);
    assert_ne!(changed["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let stale = server.put(&uri, first).await.expect(409);
    assert_eq!(
        stale["message"],
        "Operation cannot be fulfilled on configmaps \"u\": the object has been modified; please apply your changes \
         to the latest version and try again"
    );

    // Without a resourceVersion the last writer wins; the same again takes no
    // revision.
    let plain = json!({"metadata": {"name": "u"}, "data": {"k": "2"}});
    let written = server.put(&uri, plain.clone()).await.expect(200);
    assert_eq!(server.put(&uri, plain).await.expect(200), written);

    let other_uid = json!({"metadata": {"name": "u", "uid": "x"}});
    assert_eq!(server.put(&uri, other_uid).await.expect(409)["reason"], "Conflict");
    let renamed = json!({"metadata": {"name": "v"}});
    assert_eq!(server.put(&uri, renamed).await.code, 400);
    server.put(&format!("{MAPS}/missing"), configmap("missing")).await.expect(404);
}

#[tokio::test]
async fn every_kind_of_patch_is_applied() {
    let server = start().await;
    let uri = format!("{DEPLOYMENTS}/d");
    server.post(DEPLOYMENTS, deployment("d")).await.expect(201);

    let strategic =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "x"}]}}}});
    let patched = server.patch(&uri, "strategic-merge-patch", strategic).await.expect(200);
    assert_eq!(patched["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 2);
    assert_eq!(patched["metadata"]["generation"], 2);

    let json_patch = json!([{"op": "replace", "path": "/spec/replicas", "value": 5}]);
    assert_eq!(
        server.patch(&uri, "json-patch", json_patch).await.expect(200)["spec"]["replicas"],
        5
    );

    let merge = json!({"metadata": {"labels": {"a": "b"}}});
    let merged = server.patch(&uri, "merge-patch", merge.clone()).await.expect(200);
    assert_eq!(merged["metadata"]["labels"]["a"], "b");
    assert_eq!(merged["metadata"]["generation"], 3);
    assert_eq!(
        server.patch(&uri, "merge-patch", merge).await.expect(200),
        merged,
        "nothing changed"
    );

    let stale = json!({"metadata": {"resourceVersion": "1"}});
    server.patch(&uri, "merge-patch", stale).await.expect(409);
    let refused = json!([{"op": "test", "path": "/spec/replicas", "value": 1}]);
    server.patch(&uri, "json-patch", refused).await.expect(422);
    let typo = json!({"spec": {"replcias": 1}});
    let strict = format!("{uri}?fieldValidation=Strict");
    let message =
        server.patch(&strict, "merge-patch", typo).await.expect(422)["message"].to_string();
    assert!(message.contains("strict decoding error: unknown field"), "{message}");
    server.patch(&uri, "apply-patch", json!({})).await.expect(415);
    server.patch(&uri, "merge-patch", json!({"metadata": {"name": "e"}})).await.expect(400);
}

#[tokio::test]
async fn racing_patches_all_arrive() {
    let server = start().await;
    server.post(MAPS, configmap("race")).await.expect(201);
    let uri = format!("{MAPS}/race");
    let patches = (0..20).map(|n| {
        let data = json!({"data": {format!("k{n}"): "v"}});
        let (server, uri) = (&server, &uri);
        async move { server.patch(uri, "merge-patch", data).await.expect(200) }
    });
    futures::future::join_all(patches).await;
    let stored = server.get(&uri).await.expect(200);
    assert_eq!(stored["data"].as_object().unwrap().len(), 21);
}

#[tokio::test]
async fn deletions_go_now_or_when_nothing_holds_them() {
    let server = start().await;
    server.post(MAPS, configmap("d")).await.expect(201);
    let uri = format!("{MAPS}/d");
    let wrong = json!({"preconditions": {"uid": "x"}});
    server.delete(&uri, wrong).await.expect(409);
    let gone = server.delete(&uri, Value::Null).await.expect(200);
    assert_eq!(
        (&gone["kind"], &gone["status"], &gone["details"]["name"]),
        (&json!("Status"), &json!("Success"), &json!("d"))
    );
    server.delete(&uri, Value::Null).await.expect(404);

    let mut held = configmap("held");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    server.post(MAPS, held).await.expect(201);
    let uri = format!("{MAPS}/held");
    let marked = server.delete(&uri, Value::Null).await.expect(200);
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let released = json!({"metadata": {"finalizers": null}});
    server.patch(&uri, "merge-patch", released).await.expect(200);
    server.get(&uri).await.expect(404);

    server.post(DEPLOYMENTS, deployment("fg")).await.expect(201);
    let foreground = json!({"propagationPolicy": "Foreground"});
    let marked = server.delete(&format!("{DEPLOYMENTS}/fg"), foreground).await.expect(200);
    assert_eq!(marked["metadata"]["finalizers"], json!(["foregroundDeletion"]));
}

#[tokio::test]
async fn a_bound_pod_goes_gracefully() {
    let server = start().await;
    server.post(PODS, pod("p")).await.expect(201);
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "node-1"}});
    server.post(&format!("{PODS}/p/binding"), binding.clone()).await.expect(201);
    let bound = server.get(&format!("{PODS}/p")).await.expect(200);
    assert_eq!(bound["spec"]["nodeName"], "node-1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    assert_eq!(bound["status"]["conditions"][0]["observedGeneration"], 1);
    let twice = server.post(&format!("{PODS}/p/binding"), binding).await.expect(409);
    assert_eq!(
        twice["message"],
        "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"node-1\""
    );

    let marked =
        server.delete(&format!("{PODS}/p?gracePeriodSeconds=7"), Value::Null).await.expect(200);
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 7);
    server.delete(&format!("{PODS}/p"), json!({"gracePeriodSeconds": 0})).await.expect(200);
    server.get(&format!("{PODS}/p")).await.expect(404);
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let server = start().await;
    for name in ["a", "b", "c"] {
        let mut map = configmap(name);
        map["metadata"]["labels"] = json!({"keep": if name == "b" { "yes" } else { "no" }});
        server.post(MAPS, map).await.expect(201);
    }
    let gone =
        server.delete(&format!("{MAPS}?labelSelector=keep%3Dno"), Value::Null).await.expect(200);
    assert_eq!(gone["items"].as_array().unwrap().len(), 2);
    let left = server.get(MAPS).await.expect(200);
    assert_eq!(left["items"][0]["metadata"]["name"], "b");
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_dry_run_writes_nothing() {
    let server = start().await;
    // Every object with its revision. The store's own revision also counts what
    // the server does by itself after its start.
    let maps = async || server.get(MAPS).await.expect(200)["items"].clone();
    let before = maps().await;
    let shown = server.post(&format!("{MAPS}?dryRun=All"), configmap("dry")).await.expect(201);
    assert_eq!(shown["metadata"]["name"], "dry");
    server.get(&format!("{MAPS}/dry")).await.expect(404);
    assert_eq!(maps().await, before);
    server.post(MAPS, configmap("dry")).await.expect(201);
    let after = maps().await;
    assert_ne!(after, before);
    let uri = format!("{MAPS}/dry?dryRun=All");
    let patched = server.patch(&uri, "merge-patch", json!({"data": {"x": "y"}})).await.expect(200);
    assert_eq!(patched["data"]["x"], "y");
    server.delete(&uri, Value::Null).await.expect(200);
    server.post(&format!("{MAPS}?dryRun=All"), configmap("dry")).await.expect(409);
    assert_eq!(maps().await, after);
}

#[tokio::test]
async fn status_and_scale_write_their_part_alone() {
    let server = start().await;
    server.post(DEPLOYMENTS, deployment("s")).await.expect(201);
    let uri = format!("{DEPLOYMENTS}/s");
    let status = json!({"spec": {"replicas": 9}, "status": {"replicas": 2}});
    let written = server.patch(&format!("{uri}/status"), "merge-patch", status).await.expect(200);
    assert_eq!(
        (&written["spec"]["replicas"], &written["status"]["replicas"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(written["metadata"]["generation"], 1);

    let scale = server.get(&format!("{uri}/scale")).await.expect(200);
    assert_eq!(scale["status"], json!({"replicas": 2, "selector": "app=s"}));
    let mut more = scale.clone();
    more["spec"]["replicas"] = json!(4);
    assert_eq!(
        server.put(&format!("{uri}/scale"), more.clone()).await.expect(200)["spec"]["replicas"],
        4
    );
    server.put(&format!("{uri}/scale"), more).await.expect(409);
    let patch = json!({"spec": {"replicas": 0}});
    server.patch(&format!("{uri}/scale"), "merge-patch", patch).await.expect(200);
    let stored = server.get(&uri).await.expect(200);
    assert_eq!(
        (&stored["spec"]["replicas"], &stored["metadata"]["generation"]),
        (&json!(0), &json!(3))
    );
    let negative = json!({"spec": {"replicas": -1}});
    server.patch(&format!("{uri}/scale"), "merge-patch", negative).await.expect(422);
}

#[tokio::test]
async fn namespaces_end_in_two_steps() {
    let server = start().await;
    let made =
        server.post("/api/v1/namespaces", json!({"metadata": {"name": "temp"}})).await.expect(201);
    assert_eq!(made["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(made["status"]["phase"], "Active");
    let uri = "/api/v1/namespaces/temp";
    let marked = server.delete(uri, Value::Null).await.expect(200);
    assert_eq!(marked["status"]["phase"], "Terminating");
    let refused = server.post("/api/v1/namespaces/temp/configmaps", configmap("late")).await;
    assert_eq!(refused.code, 403, "{}", refused.body);
    let mut finalized = marked;
    finalized["spec"]["finalizers"] = json!([]);
    server.put(&format!("{uri}/finalize"), finalized).await.expect(200);
    server.get(uri).await.expect(404);
}

#[tokio::test]
async fn services_get_addresses_that_are_theirs_alone() {
    let server = start().await;
    let uri = "/api/v1/namespaces/default/services";
    let service = |name: &str| json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    let creates = (0..20).map(|n| {
        let server = &server;
        async move { server.post(uri, service(&format!("s{n}"))).await.expect(201) }
    });
    let made = futures::future::join_all(creates).await;
    let addresses: std::collections::HashSet<String> =
        made.iter().map(|s| s["spec"]["clusterIP"].to_string()).collect();
    let ports: std::collections::HashSet<String> =
        made.iter().map(|s| s["spec"]["ports"][0]["nodePort"].to_string()).collect();
    assert_eq!((addresses.len(), ports.len()), (20, 20));

    let mut same = service("same");
    same["spec"]["clusterIP"] = made[0]["spec"]["clusterIP"].clone();
    let message = server.post(uri, same.clone()).await.expect(422)["message"].to_string();
    assert!(message.contains("provided IP is already allocated"), "{message}");
    server.delete(&format!("{uri}/s0"), Value::Null).await.expect(200);
    server.post(uri, same).await.expect(201);

    // An update that leaves them out keeps them.
    let kept = server.put(&format!("{uri}/s1"), service("s1")).await.expect(200);
    assert_eq!(kept["spec"]["clusterIP"], made[1]["spec"]["clusterIP"]);
    assert_eq!(kept["spec"]["ports"][0]["nodePort"], made[1]["spec"]["ports"][0]["nodePort"]);
}

#[tokio::test]
async fn dropped_versions_are_served_by_conversion() {
    let server = start().await;
    let mut old = deployment("old");
    old["apiVersion"] = json!("extensions/v1beta1");
    let uri = "/apis/extensions/v1beta1/namespaces/default/deployments";
    let answer = server.post(uri, old).await;
    assert!(!answer.warnings().is_empty());
    assert_eq!(answer.expect(201)["apiVersion"], "extensions/v1beta1");
    assert_eq!(
        server.get(&format!("{DEPLOYMENTS}/old")).await.expect(200)["apiVersion"],
        "apps/v1"
    );
    let list = server.get(uri).await.expect(200);
    assert_eq!(list["items"][0]["apiVersion"], "extensions/v1beta1");
}

#[tokio::test]
async fn what_a_limit_range_adds_counts_for_the_class() {
    let server = start().await;
    let limits = json!([{"type": "Container", "default": {"cpu": "1", "memory": "64Mi"}}]);
    let range = json!({"metadata": {"name": "l"}, "spec": {"limits": limits}});
    server.post("/api/v1/namespaces/default/limitranges", range).await.expect(201);
    let made = server.post("/api/v1/namespaces/default/pods", pod("p")).await.expect(201);
    assert_eq!(made["status"]["qosClass"], "Guaranteed", "{}", made["spec"]["containers"]);
    assert_eq!(made["status"]["conditions"], Value::Null);
}

#[tokio::test]
async fn a_gated_pod_says_so_from_the_beginning() {
    let server = start().await;
    let mut gated = pod("p");
    gated["spec"]["schedulingGates"] = json!([{"name": "example.com/wait"}]);
    let made = server.post("/api/v1/namespaces/default/pods", gated).await.expect(201);
    let told = &made["status"]["conditions"];
    assert_eq!(told[0]["type"], "PodScheduled", "{told}");
    assert_eq!(told[0]["status"], "False");
    assert_eq!(told[0]["reason"], "SchedulingGated");
    assert_eq!(told[0]["lastTransitionTime"], made["metadata"]["creationTimestamp"]);
}

#[tokio::test]
async fn evictions_ask_the_budget() {
    let server = start().await;
    let pods = "/api/v1/namespaces/default/pods";
    let ready = json!([{"type": "Ready", "status": "True"}]);
    for name in ["a", "b"] {
        let mut one = pod(name);
        one["metadata"]["labels"] = json!({"app": "web"});
        server.post(pods, one).await.expect(201);
        let status = json!({"status": {"phase": "Running", "conditions": ready}});
        server.patch(&format!("{pods}/{name}/status"), "merge-patch", status).await.expect(200);
    }
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}});
    let budget = json!({"metadata": {"name": "web"}, "spec": spec});
    server.post(budgets, budget).await.expect(201);
    let evict = async |name: &str, dry_run: &str| {
        let uri = format!("{pods}/{name}/eviction{dry_run}");
        let eviction =
            json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
        server.post(&uri, eviction).await
    };
    let early = evict("a", "").await;
    assert_eq!(early.headers["retry-after"], "10", "nobody has counted yet");
    early.expect(429);

    let counted = json!({"status": {
        "observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2,
    }});
    server.patch(&format!("{budgets}/web/status"), "merge-patch", counted).await.expect(200);
    evict("a", "?dryRun=All").await.expect(201);
    evict("a", "").await.expect(201);
    let status = server.get(&format!("{budgets}/web")).await.expect(200)["status"].take();
    assert_eq!(status["disruptionsAllowed"], json!(0));
    assert!(status["disruptedPods"]["a"].is_string());
    let refused = evict("b", "").await.expect(429);
    assert_eq!(refused["details"]["causes"][0]["reason"], "DisruptionBudget");
    server.get(&format!("{pods}/b")).await.expect(200);
    server.get(&format!("{pods}/a")).await.expect(404);
}
