//! A server over a store in memory, and requests to it as they stand on the
//! wire.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::body::Body;
use futures::StreamExt as _;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use skiff_apiserver::user::UserInfo;
use skiff_apiserver::{ApiServer, Config};
use skiff_store::Store;

#[path = "../../../store/tests/common/mod.rs"]
mod etcd;

use etcd::EtcdServer;
use tower::ServiceExt as _;

/// How long a test waits for anything.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Where the server says it is; an address for documentation, so nowhere.
pub const ADVERTISED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);

/// A running server with its directory and store.
pub struct Server {
    pub server: ApiServer,
    pub store: Store,
    _dir: tempfile::TempDir,
    _etcd: Option<EtcdServer>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

pub async fn start() -> Server {
    start_with(|config| config).await
}

pub async fn start_with(change: impl FnOnce(Config) -> Config) -> Server {
    // The whole suite runs on etcd as well: SKIFF_TEST_STORE=etcd.
    if std::env::var_os("SKIFF_TEST_STORE").is_none_or(|store| store != "etcd") {
        return start_on(Store::memory().await.unwrap(), change).await;
    }
    let etcd = EtcdServer::start();
    let server = start_on(etcd.store().await, change).await;
    Server { _etcd: Some(etcd), ..server }
}

pub async fn start_on(store: Store, change: impl FnOnce(Config) -> Config) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let config = change(Config::new(dir.path(), bind, IpAddr::V4(ADVERTISED)));
    let server = skiff_apiserver::start(config, store.clone()).await.unwrap();
    // Pods need the account that a controller makes; there is none here.
    let server = Server { server, store, _dir: dir, _etcd: None };
    let account = json!({"metadata": {"name": "default"}});
    server.post("/api/v1/namespaces/default/serviceaccounts", account).await.expect(201);
    server
}

impl Server {
    pub fn admin(&self) -> kube::Client {
        self.server.client(UserInfo::new("admin", ["system:masters"]))
    }

    pub async fn raw(&self, request: Request<Body>) -> Response<Body> {
        let mut request = request;
        if request.extensions().get::<UserInfo>().is_none() {
            request.extensions_mut().insert(UserInfo::new("admin", ["system:masters"]));
        }
        let answer = self.server.service().oneshot(request);
        tokio::time::timeout(DEADLINE, answer).await.expect("an answer in time").unwrap()
    }

    pub async fn send(
        &self,
        method: Method,
        uri: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let admin = UserInfo::new("admin", ["system:masters"]);
        self.send_as(admin, method, uri, headers, body).await
    }

    pub async fn send_as(
        &self,
        user: UserInfo,
        method: Method,
        uri: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(uri).extension(user);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.raw(request.body(body.into()).unwrap()).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::String(text));
        Answer { code: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub async fn get(&self, uri: &str) -> Answer {
        self.send(Method::GET, uri, &[], Body::empty()).await
    }

    pub async fn get_as(&self, uri: &str, accept: &str) -> Answer {
        self.send(Method::GET, uri, &[("accept", accept)], Body::empty()).await
    }

    pub async fn post(&self, uri: &str, body: Value) -> Answer {
        self.send(Method::POST, uri, &[("content-type", "application/json")], body.to_string())
            .await
    }

    pub async fn put(&self, uri: &str, body: Value) -> Answer {
        self.send(Method::PUT, uri, &[("content-type", "application/json")], body.to_string()).await
    }

    pub async fn patch(&self, uri: &str, kind: &str, body: Value) -> Answer {
        let media = format!("application/{kind}+json");
        self.send(Method::PATCH, uri, &[("content-type", &media)], body.to_string()).await
    }

    pub async fn delete(&self, uri: &str, body: Value) -> Answer {
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        self.send(Method::DELETE, uri, &[("content-type", "application/json")], body).await
    }

    /// Opens a watch.
    pub async fn watch(&self, uri: &str) -> Events {
        self.watch_as(uri, "application/json").await
    }

    pub async fn watch_as(&self, uri: &str, accept: &str) -> Events {
        let request = Request::get(uri).header("accept", accept).body(Body::empty()).unwrap();
        let response = self.raw(request).await;
        assert_eq!(response.status(), 200, "{uri}");
        Events { body: response.into_body(), read: Vec::new() }
    }
}

impl Answer {
    /// The body, if the code is as expected.
    #[track_caller]
    pub fn expect(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.body);
        self.body
    }

    pub fn warnings(&self) -> Vec<String> {
        self.headers.get_all("warning").iter().map(|v| v.to_str().unwrap().to_owned()).collect()
    }
}

/// The events of one watch.
pub struct Events {
    body: Body,
    read: Vec<u8>,
}

impl Events {
    /// The next event; `None` when the stream has ended.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(DEADLINE, self.body.frame())
                .await
                .expect("an event in time")?;
            self.read.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
    }

    /// The next event as `TYPE name`.
    pub async fn brief(&mut self) -> String {
        let Some(event) = self.next().await else { return "END".to_owned() };
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
        format!("{} {name}", event["type"].as_str().unwrap())
    }
}

pub fn configmap(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})
}

pub fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "busybox"}]},
    })
}

pub fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "busybox"}]},
            },
        },
    })
}

/// Reads what is left of a stream, for tests that want all of it.
pub async fn drain(mut events: Events) -> Vec<Value> {
    let mut all = Vec::new();
    while let Some(event) = events.next().await {
        all.push(event);
    }
    all
}

/// A stream of bodies that never ends.
pub fn endless() -> Body {
    Body::from_stream(
        futures::stream::repeat("x".repeat(65536)).map(Ok::<_, std::convert::Infallible>),
    )
}
