//! As much of the API as pod workers need, in memory, behind a real client:
//! objects by path, lists, watches, merge patches, graceful deletion.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

/// The API; cheap to clone.
#[derive(Clone)]
pub(crate) struct FakeApi {
    inner: Arc<Mutex<Inner>>,
    changes_tx: broadcast::Sender<Change>,
}

#[derive(Default)]
struct Inner {
    revision: u64,
    objects: BTreeMap<String, Value>,
    log: Vec<Change>,
    status_writes: usize,
    down: bool,
}

#[derive(Clone)]
struct Change {
    revision: u64,
    kind: &'static str,
    path: String,
    object: Value,
}

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

impl FakeApi {
    pub(crate) fn new() -> Self {
        Self { inner: Arc::default(), changes_tx: broadcast::Sender::new(1024) }
    }

    pub(crate) fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        kube::Client::new(service, "default")
    }

    /// Creates or replaces an object at its path.
    pub(crate) fn put(&self, path: &str, mut object: Value) {
        let mut inner = self.lock();
        let known = inner.objects.contains_key(path);
        inner.revision += 1;
        object["metadata"]["resourceVersion"] = json!(inner.revision.to_string());
        self.record(&mut inner, if known { "MODIFIED" } else { "ADDED" }, path, object);
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.lock().objects.get(path).cloned()
    }

    /// All objects whose path contains `part`.
    pub(crate) fn all(&self, part: &str) -> Vec<Value> {
        let inner = self.lock();
        inner
            .objects
            .iter()
            .filter(|(path, _)| path.contains(part))
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// Deletes without grace.
    pub(crate) fn remove(&self, path: &str) {
        let mut inner = self.lock();
        inner.revision += 1;
        if let Some(object) = inner.objects.get(path).cloned() {
            self.record(&mut inner, "DELETED", path, object);
        }
    }

    /// How many statuses were written so far.
    pub(crate) fn status_writes(&self) -> usize {
        self.lock().status_writes
    }

    /// Refuses all requests, or takes them again. Watches stay open.
    pub(crate) fn set_down(&self, down: bool) {
        self.lock().down = down;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    fn record(&self, inner: &mut Inner, kind: &'static str, path: &str, object: Value) {
        match kind {
            "DELETED" => inner.objects.remove(path),
            _ => inner.objects.insert(path.to_owned(), object.clone()),
        };
        let change = Change { revision: inner.revision, kind, path: path.to_owned(), object };
        inner.log.push(change.clone());
        drop(self.changes_tx.send(change));
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let query: BTreeMap<String, String> = parts
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.replace("%3D", "=")))
            .collect();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        if self.lock().down {
            return refuse(503, "ServiceUnavailable");
        }
        match parts.method {
            Method::GET if query.contains_key("watch") => self.watch(&path, &query),
            Method::GET if is_collection(&path) => self.list(&path, &query),
            Method::GET => {
                self.get(&path).map_or_else(|| refuse(404, "NotFound"), |object| reply(&object))
            }
            Method::POST => self.create(&path, body),
            Method::PATCH => self.patch(&path, &body),
            Method::DELETE => self.delete(&path, &body),
            _ => refuse(405, "MethodNotAllowed"),
        }
    }

    fn list(&self, path: &str, query: &BTreeMap<String, String>) -> Answer {
        let inner = self.lock();
        let items: Vec<_> = inner
            .objects
            .iter()
            .filter(|(at, object)| belongs(at, path) && selected(object, query))
            .map(|(_, object)| object.clone())
            .collect();
        reply(&json!({"kind": "List", "apiVersion": "v1", "items": items,
                      "metadata": {"resourceVersion": inner.revision.to_string()}}))
    }

    fn watch(&self, path: &str, query: &BTreeMap<String, String>) -> Answer {
        let inner = self.lock();
        let after: u64 =
            query.get("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0);
        let missed: Vec<_> =
            inner.log.iter().filter(|change| change.revision > after).cloned().collect();
        let live = BroadcastStream::new(self.changes_tx.subscribe())
            .filter_map(|change| async { change.ok() });
        drop(inner);
        let (path, query) = (path.to_owned(), query.clone());
        let frames = futures::stream::iter(missed).chain(live).filter_map(move |change| {
            let wanted = belongs(&change.path, &path) && selected(&change.object, &query);
            let line = format!("{}\n", json!({"type": change.kind, "object": change.object}));
            async move { wanted.then(|| Ok(Frame::data(Bytes::from(line)))) }
        });
        Response::new(StreamBody::new(frames).boxed_unsync())
    }

    fn create(&self, path: &str, mut object: Value) -> Answer {
        if path.ends_with("/token") {
            object["status"] = json!({"token": "t", "expirationTimestamp": jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1)});
            return reply(&object);
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let path = format!("{path}/{name}");
        if self.get(&path).is_some() {
            return refuse(409, "AlreadyExists");
        }
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{}", self.lock().revision));
        }
        self.put(&path, object);
        reply(&self.get(&path).unwrap_or_default())
    }

    fn patch(&self, path: &str, patch: &Value) -> Answer {
        let target = path.trim_end_matches("/status");
        let Some(mut object) = self.get(target) else { return refuse(404, "NotFound") };
        if patch["metadata"]["uid"].is_string()
            && patch["metadata"]["uid"] != object["metadata"]["uid"]
        {
            return refuse(409, "Conflict");
        }
        if path.ends_with("/status") {
            self.lock().status_writes += 1;
        }
        merge(&mut object, patch);
        self.put(target, object.clone());
        reply(&object)
    }

    fn delete(&self, path: &str, options: &Value) -> Answer {
        let Some(mut object) = self.get(path) else { return refuse(404, "NotFound") };
        let kept = object["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty());
        if options["gracePeriodSeconds"] == 0 && !kept {
            self.remove(path);
        } else {
            let grace = object["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
            let due = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(grace);
            object["metadata"]["deletionTimestamp"] = json!(due.to_string());
            object["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
            self.put(path, object.clone());
        }
        reply(&object)
    }
}

/// `/api/v1/pods` and `/api/v1/namespaces/ns/pods` are collections.
fn is_collection(path: &str) -> bool {
    let parts = path.trim_matches('/').split('/').count();
    let prefix = if path.starts_with("/apis/") { 3 } else { 2 };
    let rest = parts - prefix;
    rest == 1 || (rest == 3 && path.contains("/namespaces/"))
}

/// Whether the object at `path` is in the collection, which may span all
/// namespaces.
fn belongs(path: &str, collection: &str) -> bool {
    let Some((parent, _)) = path.rsplit_once('/') else { return false };
    let plural = collection.rsplit('/').next().unwrap_or_default();
    parent == collection
        || (!collection.contains("/namespaces/") && parent.ends_with(&format!("/{plural}")))
}

fn selected(object: &Value, query: &BTreeMap<String, String>) -> bool {
    let Some((field, wanted)) = query.get("fieldSelector").and_then(|text| text.split_once('='))
    else {
        return true;
    };
    let pointer = format!("/{}", field.replace('.', "/"));
    object.pointer(&pointer).and_then(Value::as_str) == Some(wanted)
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        // Words of a strategic patch are no elements.
        if let Some(list) = target.as_array_mut() {
            list.retain(|element| element.get("$patch").is_none());
        }
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            if let Some(object) = target.as_object_mut() {
                object.remove(key);
            }
        } else {
            merge(&mut target[key], value);
        }
    }
}

fn reply(object: &Value) -> Answer {
    Response::new(Full::new(Bytes::from(object.to_string())).boxed_unsync())
}

fn refuse(code: u16, reason: &str) -> Answer {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
                        "reason": reason, "message": reason, "metadata": {}});
    let mut answer = reply(&status);
    *answer.status_mut() = http::StatusCode::from_u16(code).unwrap();
    answer
}
