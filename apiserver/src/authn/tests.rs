//! Tokens against live objects, and certificates against the clock.

use std::time::Duration;

use serde_json::{Value, json};
use skiff_store::{Draft, Store, Txn, Write};

use super::*;
use crate::{keys, pki::PkiConfig};

struct Fixture {
    authenticator: Authenticator,
    store: Store,
    _dir: tempfile::TempDir,
}

impl Fixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(PkiConfig {
            data_dir: dir.path().to_owned(),
            advertise: "192.0.2.10".parse().unwrap(),
            service_ip: "10.96.0.1".parse().unwrap(),
            cluster_domain: "cluster.local".to_owned(),
            names: Vec::new(),
        })
        .unwrap();
        let store = Store::memory().await.unwrap();
        let objects = Objects::new(store.clone());
        let authenticator = Authenticator::new(objects, Arc::new(pki), "cluster.local");
        let fixture = Self { authenticator, store, _dir: dir };
        fixture.put("serviceaccounts", "bot", "sa-1", json!({})).await;
        fixture.put("pods", "p", "pod-1", json!({ "serviceAccountName": "bot" })).await;
        fixture
    }

    async fn put(&self, resource: &str, name: &str, uid: &str, spec: Value) {
        let object =
            json!({ "metadata": { "namespace": "a", "name": name, "uid": uid }, "spec": spec });
        let draft = Draft { bytes: object.to_string().into(), revision_at: None, sealed: false };
        let key = keys::object("", resource, "a", name);
        let txn = Txn::default().write(Write::Put(key.as_str().into(), draft));
        self.store.commit(txn).await.unwrap();
    }

    async fn remove(&self, resource: &str, name: &str) {
        let key = keys::object("", resource, "a", name);
        let txn = Txn::default().write(Write::Delete(key.as_str().into()));
        self.store.commit(txn).await.unwrap();
    }

    fn token(&self, spec: Value) -> Result<String, ApiError> {
        let answer = self.authenticator.request_token("a", "bot", json!({ "spec": spec }))?;
        Ok(answer["status"]["token"].as_str().unwrap().to_owned())
    }

    fn ask(&self, token: &str, now: Timestamp) -> Result<UserInfo, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        self.authenticator.authenticate_at(&headers, &Peer::Unknown, now)
    }
}

fn bound(name: &str, uid: &str) -> Value {
    json!({ "boundObjectRef": { "apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid } })
}

#[tokio::test]
async fn a_token_lives_as_long_as_its_account_pod_and_time() {
    let fixture = Fixture::new().await;
    let now = Timestamp::now();
    let plain = fixture.token(json!({})).unwrap();
    let of_pod = fixture.token(bound("p", "pod-1")).unwrap();
    let elsewhere = fixture.token(json!({ "audiences": ["vault"] })).unwrap();

    let user = fixture.ask(&of_pod, now).unwrap();
    assert_eq!(user.name, "system:serviceaccount:a:bot");
    assert_eq!(user.uid, "sa-1");
    let groups = ["system:serviceaccounts", "system:serviceaccounts:a", AUTHENTICATED];
    assert_eq!(user.groups, groups);
    assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["p"]);

    let refused = |token: &str, now| fixture.ask(token, now).is_err_and(|error| error.code == 401);
    assert!(refused(&plain, now + Duration::from_secs(3601)), "expired");
    assert!(refused(&plain, now - Duration::from_secs(60)), "not yet");
    assert!(refused(&elsewhere, now), "for somebody else");
    assert!(refused("garbage", now));
    assert!(refused(&format!("{plain}x"), now), "touched");

    fixture.put("pods", "p", "pod-2", json!({ "serviceAccountName": "bot" })).await;
    assert!(refused(&of_pod, now), "another pod of the same name");
    assert!(fixture.ask(&plain, now).is_ok());
    fixture.remove("serviceaccounts", "bot").await;
    assert!(refused(&plain, now), "the account is gone");
    fixture.put("serviceaccounts", "bot", "sa-2", json!({})).await;
    assert!(refused(&plain, now), "another account of the same name");
}

#[tokio::test]
async fn tokens_are_asked_for_within_bounds() {
    let fixture = Fixture::new().await;
    fixture.put("pods", "other", "pod-9", json!({ "serviceAccountName": "default" })).await;
    let cases = [
        ("short", json!({ "expirationSeconds": 599 }), 422),
        ("long", json!({ "expirationSeconds": (1_i64 << 32) + 1 }), 422),
        ("no such pod", bound("none", "x"), 404),
        ("stale uid", bound("p", "pod-0"), 409),
        ("another account's pod", bound("other", "pod-9"), 400),
    ];
    for (name, spec, code) in cases {
        assert_eq!(fixture.token(spec).unwrap_err().code, code, "{name}");
    }
    let missing = fixture.authenticator.request_token("a", "none", json!({ "spec": {} }));
    assert_eq!(missing.unwrap_err().code, 404);
}

#[tokio::test]
async fn reviews_answer_for_the_audiences_asked() {
    let fixture = Fixture::new().await;
    let token = fixture.token(json!({ "audiences": ["vault"] })).unwrap();
    let review = |audiences: Value| {
        let review = json!({ "spec": { "token": token, "audiences": audiences } });
        fixture.authenticator.review_token(review)["status"].clone()
    };
    let good = review(json!(["vault", "x"]));
    assert_eq!(good["authenticated"], true);
    assert_eq!(good["audiences"], json!(["vault"]));
    assert!(review(json!(null))["authenticated"].is_null(), "not meant for the API server");
}

#[tokio::test]
async fn certificates_are_judged_and_never_ignored() {
    let fixture = Fixture::new().await;
    let now = Timestamp::now();
    let nothing = HeaderMap::new();
    let ask = |peer: Peer, now| fixture.authenticator.authenticate_at(&nothing, &peer, now);
    let user = UserInfo::new("jane", ["dev"]);
    let peer = Peer::Certificate { user, not_after: now + Duration::from_secs(10) };
    assert_eq!(ask(peer.clone(), now).unwrap().groups, ["dev", AUTHENTICATED]);
    assert_eq!(ask(peer, now + Duration::from_secs(11)).unwrap_err().code, 401, "ran out");
    assert_eq!(ask(Peer::Refused, now).unwrap_err().code, 401);
    assert_eq!(ask(Peer::Unknown, now).unwrap().groups, [UNAUTHENTICATED]);
}
