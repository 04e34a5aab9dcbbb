//! `GET /skiff/v1/backup`: who may have it, and that it is what it says.

#![allow(clippy::unwrap_used)]

mod common;

use axum::body::Body;
use common::configmap;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use serde_json::json;
use skiff_apiserver::backup::PATH;
use skiff_apiserver::user::UserInfo;

#[tokio::test]
async fn the_administrator_gets_all_of_it_and_nobody_else_any() {
    let server = common::start().await;
    for n in 0..200 {
        let uri = "/api/v1/namespaces/default/configmaps";
        server.post(uri, configmap(&format!("map-{n}"))).await.expect(201);
    }
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"word": "TOP-SECRET"}});
    server.post("/api/v1/namespaces/default/secrets", secret).await.expect(201);

    let response = server.raw(Request::get(PATH).body(Body::empty()).unwrap()).await;
    assert_eq!(response.status(), 200);
    let file = response.into_body().collect().await.unwrap().to_bytes();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("backup");
    std::fs::write(&path, &file).unwrap();
    let contents = skiff_store::inspect(&path).unwrap();
    assert_eq!(contents.revision, server.store.revision());
    assert_eq!(contents.keys, server.store.snapshot().len() as u64);
    let holds = |text: &str| memchr::memmem::find(&file, text.as_bytes()).is_some();
    // In Base64, as Secrets hold their data.
    assert!(holds("map-199") && !holds("VE9QLVNFQ1JFVA"), "secrets stay sealed");

    let node = UserInfo::new("system:node:a", ["system:nodes", "system:authenticated"]);
    for user in [node, UserInfo::new("jane", ["system:authenticated"])] {
        let answer = server.send_as(user, Method::GET, PATH, &[], Body::empty()).await;
        assert_eq!(answer.code, 403, "{answer:?}");
    }
    server.post(PATH, json!({})).await.expect(405);
}
