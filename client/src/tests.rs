//! Calls and watches against a server that answers from a script.

use std::sync::{Arc, Mutex};

use futures::StreamExt;
use http::{Method, Response, StatusCode};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::client::Body;
use kube::runtime::watcher::{Config, Event};
use kube::{Client, Error};
use serde_json::{Value, json};

use super::*;

type Log = Arc<Mutex<Vec<(Method, String, Value)>>>;

/// A client of a server that gives these answers in turn, and what it is asked.
/// After the last it answers nothing any more.
fn server(answers: Vec<(StatusCode, Vec<Value>)>) -> (Client, Log) {
    let log = Log::default();
    let answers = Arc::new(Mutex::new(answers.into_iter()));
    let asked = Arc::clone(&log);
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let (answers, asked) = (Arc::clone(&answers), Arc::clone(&asked));
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect_bytes().await.unwrap();
            let body = serde_json::from_slice(&body).unwrap_or_default();
            asked.lock().unwrap().push((head.method, head.uri.to_string(), body));
            let answer = answers.lock().unwrap().next();
            let Some((code, lines)) = answer else { return std::future::pending().await };
            let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
            let body = Body::from(lines.join("\n").into_bytes());
            Ok::<_, Error>(Response::builder().status(code).body(body).unwrap())
        }
    });
    (Client::new(service, "default"), log)
}

fn map(name: &str, color: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "a", "resourceVersion": "7",
            "managedFields": [{"manager": "somebody", "operation": "Update"}]},
        "data": {"color": color},
    })
}

fn color(map: &ConfigMap) -> &str {
    assert_eq!(map.metadata.managed_fields, None, "nobody reads them");
    &map.data.as_ref().unwrap()["color"]
}

#[tokio::test]
async fn calls_carry_typed_objects() {
    let answer = |value: Value| (StatusCode::OK, vec![value]);
    let (client, log) = server(vec![
        answer(map("m", "red")),
        answer(json!({"kind": "ConfigMapList", "items": [map("m", "red"), map("n", "blue")]})),
        answer(map("m", "green")),
        answer(map("m", "grey")),
        answer(json!({"kind": "Status", "status": "Success"})),
    ]);
    let api: Api<ConfigMap> = Api::namespaced(client, "a");
    let mut object = api.get("m").await.unwrap();
    assert_eq!(color(&object), "red");
    let listed = api.list(&ListParams::default().labels("x=y")).await.unwrap();
    assert_eq!(listed.iter().map(color).collect::<Vec<_>>(), ["red", "blue"]);
    object.data.as_mut().unwrap().insert("color".into(), "green".into());
    let written = api.replace("m", &PostParams::default(), &object).await.unwrap();
    assert_eq!(color(&written), "green");
    let patch = Patch::Merge(json!({"data": {"color": "grey"}}));
    let patched = api.patch("m", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(color(&patched), "grey");
    api.delete("m", &DeleteParams::default()).await.unwrap();

    let asked = log.lock().unwrap();
    let lines: Vec<_> = asked.iter().map(|(method, uri, _)| format!("{method} {uri}")).collect();
    let path = "/api/v1/namespaces/a/configmaps";
    assert_eq!(
        lines,
        [
            format!("GET {path}/m"),
            format!("GET {path}?&labelSelector=x%3Dy"),
            format!("PUT {path}/m?"),
            format!("PATCH {path}/m?"),
            format!("DELETE {path}/m?"),
        ]
    );
    assert_eq!(asked[2].2["data"]["color"], "green");
    assert_eq!(asked[3].2, json!({"data": {"color": "grey"}}));
}

#[tokio::test]
async fn refusals_and_strange_answers_are_errors() {
    let refusal = |code: StatusCode, reason: &str| {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no",
            "reason": reason, "code": code.as_u16(),
        });
        (code, vec![status])
    };
    let (client, _) = server(vec![
        refusal(StatusCode::NOT_FOUND, "NotFound"),
        refusal(StatusCode::FORBIDDEN, "Forbidden"),
        refusal(StatusCode::CONFLICT, "AlreadyExists"),
        (StatusCode::OK, vec![json!({"metadata": {"name": 5}})]),
    ]);
    let api: Api<ConfigMap> = Api::namespaced(client, "a");
    assert!(api.get_opt("m").await.unwrap().is_none());
    let refused = api.get_opt("m").await.unwrap_err();
    assert!(matches!(refused, Error::Api(status) if status.code == 403));
    let object = ConfigMap::default();
    let refused = api.create(&PostParams::default(), &object).await.unwrap_err();
    assert!(matches!(refused, Error::Api(status) if status.code == 409));
    assert!(matches!(api.get("m").await.unwrap_err(), Error::SerdeError(_)));
}

#[tokio::test]
async fn a_watch_yields_typed_events_and_leaves_out_what_is_not_of_its_type() {
    let mut broken = map("broken", "red");
    broken["data"] = json!(5);
    let list = json!({
        "kind": "ConfigMapList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"},
        "items": [map("m", "red"), broken],
    });
    let change = |kind: &str, object: Value| json!({"type": kind, "object": object});
    let (client, log) = server(vec![
        (StatusCode::OK, vec![list]),
        (
            StatusCode::OK,
            vec![
                change("MODIFIED", broken),
                change("MODIFIED", map("m", "blue")),
                change("DELETED", map("m", "blue")),
            ],
        ),
    ]);
    let mut events = watch(Api::<ConfigMap>::all(client), Config::default());
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(match events.next().await.unwrap().unwrap() {
            Event::Init => "init".to_owned(),
            Event::InitApply(map) => format!("listed {}", color(&map)),
            Event::InitDone => "done".to_owned(),
            Event::Apply(map) => format!("changed {}", color(&map)),
            Event::Delete(map) => format!("deleted {}", color(&map)),
        });
    }
    assert_eq!(seen, ["init", "listed red", "done", "changed blue", "deleted blue"]);
    assert!(log.lock().unwrap()[0].1.starts_with("/api/v1/configmaps?"));
}
