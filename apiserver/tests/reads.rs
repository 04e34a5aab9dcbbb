//! Lists, watches, negotiation and the pages beside the resources.

#![allow(clippy::unwrap_used)]

mod common;

use common::{configmap, deployment, drain, pod, start, start_on, start_with};
use http::Method;
use serde_json::{Value, json};
use skiff_apiserver::user::UserInfo;
use skiff_store::{Store, StoreConfig};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

#[tokio::test]
async fn pages_of_a_list_show_one_state() {
    let server = start().await;
    for n in 0..5 {
        server.post(MAPS, configmap(&format!("m{n}"))).await.expect(201);
    }
    let first = server.get(&format!("{MAPS}?limit=2")).await.expect(200);
    assert_eq!(first["items"].as_array().unwrap().len(), 2);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    let revision = first["metadata"]["resourceVersion"].clone();

    // What happens between the pages is not seen.
    server.delete(&format!("{MAPS}/m4"), Value::Null).await.expect(200);
    server.post(MAPS, configmap("m9")).await.expect(201);
    let mut names = Vec::new();
    let mut token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    loop {
        let page = server.get(&format!("{MAPS}?limit=2&continue={token}")).await.expect(200);
        assert_eq!(page["metadata"]["resourceVersion"], revision);
        names.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()),
        );
        match page["metadata"]["continue"].as_str() {
            Some(next) => next.clone_into(&mut token),
            None => break,
        }
    }
    assert_eq!(names, ["m2", "m3", "m4"]);
    let forged = server.get(&format!("{MAPS}?continue=Zm9yZ2Vk")).await.expect(400);
    assert!(forged["message"].as_str().unwrap().starts_with("continue key is not valid"));
}

#[tokio::test]
async fn lists_are_as_new_as_asked_for() {
    let server = start().await;
    let old = server.post(MAPS, configmap("a")).await.expect(201)["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();
    server.post(MAPS, configmap("b")).await.expect(201);
    let count = |list: Value| list["items"].as_array().unwrap().len();
    let exact = server
        .get(&format!("{MAPS}?resourceVersion={old}&resourceVersionMatch=Exact"))
        .await
        .expect(200);
    assert_eq!(
        (count(exact.clone()), exact["metadata"]["resourceVersion"].clone()),
        (1, json!(old))
    );
    let newer = server
        .get(&format!("{MAPS}?resourceVersion={old}&resourceVersionMatch=NotOlderThan"))
        .await
        .expect(200);
    assert_eq!(count(newer), 2);
    assert_eq!(count(server.get(&format!("{MAPS}?resourceVersion=0")).await.expect(200)), 2);
    let future = server.get(&format!("{MAPS}?resourceVersion=99999999")).await.expect(504);
    assert_eq!(future["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    server.get(&format!("{MAPS}?resourceVersionMatch=Exact")).await.expect(422);
    server.get(&format!("{MAPS}?resourceVersion=x")).await.expect(400);
}

#[tokio::test]
async fn selectors_choose() {
    let server = start().await;
    for name in ["a", "b", "c"] {
        server.post(PODS, pod(name)).await.expect(201);
    }
    let names = async |query: &str| {
        let list = server.get(&format!("{PODS}?{query}")).await.expect(200);
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| i["metadata"]["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names("labelSelector=app%3Da").await, ["a"]);
    assert_eq!(names("labelSelector=app%20in%20(a,c)").await, ["a", "c"]);
    assert_eq!(names("labelSelector=app!%3Da").await, ["b", "c"]);
    assert_eq!(names("fieldSelector=metadata.name%3Db").await, ["b"]);
    assert_eq!(names("fieldSelector=spec.nodeName%3D").await, ["a", "b", "c"]);
    assert_eq!(names("fieldSelector=status.phase%3DRunning").await, [""; 0]);
    server.get(&format!("{PODS}?fieldSelector=spec.nope%3Dx")).await.expect(400);
    server.get(&format!("{PODS}?labelSelector=%3D%3D")).await.expect(400);
}

#[tokio::test]
async fn a_watch_tells_every_change_once_and_in_order() {
    let server = start().await;
    server.post(MAPS, configmap("a")).await.expect(201);
    let list = server.get(MAPS).await.expect(200);
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut events = server.watch(&format!("{MAPS}?watch=1&resourceVersion={revision}")).await;
    server.post(MAPS, configmap("b")).await.expect(201);
    server
        .patch(&format!("{MAPS}/a"), "merge-patch", json!({"data": {"x": "y"}}))
        .await
        .expect(200);
    server.delete(&format!("{MAPS}/b"), Value::Null).await.expect(200);
    assert_eq!(events.brief().await, "ADDED b");
    assert_eq!(events.brief().await, "MODIFIED a");
    let deleted = events.next().await.unwrap();
    assert_eq!(
        (&deleted["type"], &deleted["object"]["data"]["k"]),
        (&json!("DELETED"), &json!("v"))
    );
    // The event of a deletion carries the deletion's revision.
    assert_eq!(
        deleted["object"]["metadata"]["resourceVersion"],
        server.store.revision().to_string()
    );
}

#[tokio::test]
async fn watches_begin_with_what_is_there() {
    let server = start().await;
    for name in ["a", "b"] {
        server.post(MAPS, configmap(name)).await.expect(201);
    }
    for query in ["watch=true", "watch=true&resourceVersion=0"] {
        let mut events = server.watch(&format!("{MAPS}?{query}")).await;
        assert_eq!(events.brief().await, "ADDED a");
        assert_eq!(events.brief().await, "ADDED b");
    }
    let mut old_path = server.watch("/api/v1/watch/namespaces/default/configmaps/b").await;
    assert_eq!(old_path.brief().await, "ADDED b");

    let asked =
        "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut events = server.watch(&format!("{MAPS}?{asked}")).await;
    assert_eq!(events.brief().await, "ADDED a");
    assert_eq!(events.brief().await, "ADDED b");
    let end = events.next().await.unwrap();
    assert_eq!(end["type"], "BOOKMARK");
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    server.get(&format!("{MAPS}?watch=1&sendInitialEvents=true")).await.expect(422);
}

#[tokio::test]
async fn selected_objects_come_and_go() {
    let server = start().await;
    let label = |value: &str| json!({"metadata": {"labels": {"on": value}}});
    server.post(MAPS, configmap("x")).await.expect(201);
    let revision = server.store.revision();
    let mut events = server
        .watch(&format!("{MAPS}?watch=1&labelSelector=on%3Dyes&resourceVersion={revision}"))
        .await;
    let uri = format!("{MAPS}/x");
    for value in ["yes", "no", "maybe", "yes"] {
        server.patch(&uri, "merge-patch", label(value)).await.expect(200);
    }
    server.delete(&uri, Value::Null).await.expect(200);
    for expected in ["ADDED x", "DELETED x", "ADDED x", "DELETED x"] {
        assert_eq!(events.brief().await, expected);
    }
}

#[tokio::test]
async fn watches_end_in_time_and_with_a_bookmark() {
    let server = start().await;
    let revision = server.store.revision();
    let uri = format!(
        "{MAPS}?watch=1&timeoutSeconds=1&allowWatchBookmarks=true&resourceVersion={revision}"
    );
    let events = server.watch(&uri).await;
    // Something that does not concern the watch moves the revision on.
    server.post("/api/v1/namespaces", json!({"metadata": {"name": "n"}})).await.expect(201);
    let all = drain(events).await;
    assert_eq!(all.len(), 1);
    assert_eq!(all[0]["type"], "BOOKMARK");
    assert_eq!(
        all[0]["object"]["metadata"]["resourceVersion"],
        server.store.revision().to_string()
    );
}

#[tokio::test]
async fn watches_from_elsewhere_in_time_fail_in_the_stream() {
    let server = start().await;
    let all = drain(server.watch(&format!("{MAPS}?watch=1&resourceVersion=99999999")).await).await;
    assert_eq!(
        (all.len(), &all[0]["type"], &all[0]["object"]["code"]),
        (1, &json!("ERROR"), &json!(504))
    );
}

#[tokio::test]
async fn a_reader_that_falls_out_of_the_window_is_told_in_the_stream() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = StoreConfig::new(dir.path(), [7; 32]);
    config.history_bytes = 64 << 10;
    let server = start_on(Store::open(config).await.unwrap(), |config| config).await;
    let made = server.post(MAPS, configmap("a")).await.expect(201);
    let from = made["metadata"]["resourceVersion"].as_str().unwrap();
    let mut events = server.watch(&format!("{MAPS}?watch=1&resourceVersion={from}")).await;
    let change = |text: String| json!({"data": {"k": text}});
    let one = format!("{MAPS}/a");
    server.patch(&one, "merge-patch", change("first".into())).await.expect(200);
    assert_eq!(events.brief().await, "MODIFIED a", "the stream runs");

    // Nobody reads while far more than the window holds goes by.
    for n in 0..64 {
        let text = format!("{n}{}", "x".repeat(8 << 10));
        server.patch(&one, "merge-patch", change(text)).await.expect(200);
    }
    let last = drain(events).await.pop().unwrap();
    let status = &last["object"];
    assert_eq!((&last["type"], &status["kind"]), (&json!("ERROR"), &json!("Status")));
    assert_eq!((&status["code"], &status["reason"]), (&json!(410), &json!("Expired")));
}

#[tokio::test]
async fn a_name_bounds_what_a_selector_may_show() {
    let server = start().await;
    for name in ["a", "b"] {
        server.post(MAPS, configmap(name)).await.expect(201);
    }
    // Of a parameter given twice the first counts, for authorization as for
    // the answer.
    let twice = "fieldSelector=metadata.name%3Da&fieldSelector=metadata.name%3Db";
    let list = server.get(&format!("{MAPS}?{twice}")).await.expect(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert_eq!(list["items"][0]["metadata"]["name"], "a");
    let one = "/api/v1/watch/namespaces/default/configmaps/a";
    let other = "fieldSelector=metadata.name%3Db&timeoutSeconds=1";
    assert!(drain(server.watch(&format!("{one}?{other}")).await).await.is_empty());
}

#[tokio::test]
async fn tables_and_bare_metadata_on_request() {
    let server = start().await;
    server.post("/apis/apps/v1/namespaces/default/deployments", deployment("d")).await.expect(201);
    let uri = "/apis/apps/v1/namespaces/default/deployments";
    let table = server.get_as(uri, TABLE).await.expect(200);
    assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    assert_eq!(table["rows"][0]["cells"][0], "d");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let whole = server.get_as(&format!("{uri}?includeObject=Object"), TABLE).await.expect(200);
    assert_eq!(whole["rows"][0]["object"]["kind"], "Deployment");
    let one = server.get_as(&format!("{uri}/d"), TABLE).await.expect(200);
    assert_eq!(one["rows"].as_array().unwrap().len(), 1);

    let partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let list = server.get_as(uri, partial).await.expect(200);
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(list["items"][0].get("spec"), None);

    let mut events = server.watch_as(&format!("{uri}?watch=1"), TABLE).await;
    let added = events.next().await.unwrap();
    assert_eq!(added["object"]["kind"], "Table");
    assert_eq!(added["object"]["columnDefinitions"][0]["name"], "Name");

    assert_eq!(server.get_as(uri, "text/html").await.expect(406)["reason"], "NotAcceptable");
    let yaml = server.get_as(&format!("{uri}/d"), "application/yaml").await;
    assert!(yaml.body.as_str().unwrap().contains("kind: Deployment"));
    let pretty = server
        .send(Method::GET, &format!("{uri}/d?pretty=true"), &[], axum::body::Body::empty())
        .await;
    assert_eq!(pretty.code, 200);
}

#[tokio::test]
async fn large_lists_are_compressed_when_asked() {
    let server = start().await;
    let mut big = configmap("big");
    big["data"]["k"] = json!("x".repeat(200_000));
    server.post(MAPS, big).await.expect(201);
    let gzip = server
        .send(Method::GET, MAPS, &[("accept-encoding", "gzip")], axum::body::Body::empty())
        .await;
    assert_eq!(gzip.headers["content-encoding"], "gzip");
    assert!(server.get(MAPS).await.headers.get("content-encoding").is_none());
}

#[tokio::test]
async fn pages_beside_the_resources() {
    let server = start().await;
    assert_eq!(server.get("/healthz").await.body, "ok");
    assert_eq!(server.get("/livez").await.body, "ok");
    let verbose = server.get("/readyz?verbose").await;
    assert!(verbose.body.as_str().unwrap().contains("[+]bootstrap ok"), "{}", verbose.body);
    assert_eq!(server.get("/version").await.expect(200)["minor"], "35");
    assert!(
        server.get("/metrics").await.body.as_str().unwrap().contains("apiserver_request_total")
    );
    let openapi = server.get("/openapi/v3").await.expect(200);
    assert!(openapi["paths"]["apis/apps/v1"]["serverRelativeURL"].is_string());
    server.get("/openapi/v3/apis/apps/v1").await.expect(200);
    assert!(server.get("/").await.expect(200)["paths"].as_array().unwrap().len() > 20);
    server.get("/nope").await.expect(404);
    let head = server
        .send(Method::HEAD, "/api/v1/namespaces/default", &[], axum::body::Body::empty())
        .await;
    assert_eq!((head.code, head.body), (200, json!("")));
}

#[tokio::test]
async fn a_full_server_says_so_except_to_administrators() {
    let server = start_with(|config| skiff_apiserver::Config { max_writing: 4, ..config }).await;
    let worker = || UserInfo::new("worker", []);
    let binding = json!({
        "metadata": {"name": "worker"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "worker"}],
    });
    server
        .post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
        .await
        .expect(201);
    // Four requests whose bodies never come.
    let never = futures::stream::pending::<Result<axum::body::Bytes, std::convert::Infallible>>;
    let mut held: futures::stream::FuturesUnordered<_> = (0..4)
        .map(|_| {
            server.send_as(
                worker(),
                Method::POST,
                MAPS,
                &[],
                axum::body::Body::from_stream(never()),
            )
        })
        .collect();
    // They take their places first: a read that waits for the store has one too.
    assert!(futures::poll!(futures::StreamExt::next(&mut held)).is_pending());
    let full = async {
        loop {
            let answer = server
                .send_as(worker(), Method::DELETE, MAPS, &[], axum::body::Body::empty())
                .await;
            if answer.code == 429 {
                return answer;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let answer = tokio::select! {
        answer = full => answer,
        _ = futures::StreamExt::next(&mut held) => panic!("a request without a body was answered"),
    };
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(answer.body["reason"], "TooManyRequests");
    assert_eq!(answer.body["details"]["retryAfterSeconds"], 1);
    // There is room for those who only read, and for administrators.
    server.send_as(worker(), Method::GET, MAPS, &[], axum::body::Body::empty()).await.expect(200);
    server.post(MAPS, common::configmap("by-admin")).await.expect(201);
}
