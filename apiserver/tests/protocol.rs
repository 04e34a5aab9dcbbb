//! Behaviours that upstream's conformance tests of sig-api-machinery, sig-auth
//! and sig-instrumentation look at, beside the walks over the catalogue.

#![allow(clippy::unwrap_used)]

mod common;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::{configmap, pod, start};
use jiff::Timestamp;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().into_iter().flatten();
    items.map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_list_that_took_too_long_goes_on_in_the_newest_state() {
    let server = start().await;
    for n in 0..5 {
        server.post(MAPS, configmap(&format!("m{n}"))).await.expect(201);
    }
    let first = server.get(&format!("{MAPS}?limit=2")).await.expect(200);
    let token = first["metadata"]["continue"].as_str().unwrap();
    // The same token as it is after the five minutes that a list may take.
    let mut old: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).unwrap()).unwrap();
    old["since"] = json!(Timestamp::now().as_second() - 301);
    let old = URL_SAFE_NO_PAD.encode(old.to_string());
    server.post(MAPS, configmap("m9")).await.expect(201);

    let expired = server.get(&format!("{MAPS}?limit=2&continue={old}")).await.expect(410);
    assert_eq!(expired["reason"], "Expired");
    let fresh = expired["metadata"]["continue"].as_str().unwrap();
    let second = server.get(&format!("{MAPS}?limit=2&continue={fresh}")).await.expect(200);
    assert_eq!(names(&second), ["m2", "m3"]);
    assert_ne!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert_eq!(second["metadata"]["remainingItemCount"], 2);
    // From here on the rest is of one state again.
    let next = second["metadata"]["continue"].as_str().unwrap();
    server.post(MAPS, configmap("m8")).await.expect(201);
    let third = server.get(&format!("{MAPS}?limit=2&continue={next}")).await.expect(200);
    assert_eq!(names(&third), ["m4", "m9"]);
    assert_eq!(third["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
    assert!(third["metadata"].get("continue").is_none());
}

#[tokio::test]
async fn a_state_that_the_store_forgot_is_410_as_well() {
    let server = start().await;
    let made = server.post(MAPS, configmap("a")).await.expect(201);
    let forgotten: u64 = made["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    server.post(MAPS, configmap("b")).await.expect(201);
    server.store.compact(server.store.revision()).unwrap();
    let now = Timestamp::now().as_second();
    let token = json!({"v": "meta.k8s.io/v1", "rv": forgotten, "start": "a", "since": now});
    let token = URL_SAFE_NO_PAD.encode(token.to_string());
    let gone = server.get(&format!("{MAPS}?limit=1&continue={token}")).await.expect(410);
    assert!(gone["metadata"]["continue"].is_string());
    let exact = format!("{MAPS}?resourceVersion={forgotten}&resourceVersionMatch=Exact");
    assert_eq!(server.get(&exact).await.expect(410)["reason"], "Expired");
    let mut watch = server.watch(&format!("{MAPS}?watch=1&resourceVersion={forgotten}")).await;
    assert_eq!(watch.next().await.unwrap()["object"]["code"], 410);
}

#[tokio::test]
async fn one_store_of_events_has_two_views() {
    let server = start().await;
    let (old, new) =
        ("/api/v1/namespaces/default/events", "/apis/events.k8s.io/v1/namespaces/default/events");
    let event = json!({
        "metadata": {"name": "e", "labels": {"testevent": "yes"}},
        "eventTime": "2026-01-01T00:00:00.123456Z",
        "reportingController": "example.com/tests", "reportingInstance": "one",
        "action": "Do", "reason": "Test", "type": "Normal", "note": "from the new view",
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
    });
    server.post(new, event).await.expect(201);
    let seen = server.get(&format!("{old}/e")).await.expect(200);
    assert_eq!(seen["message"], "from the new view");
    assert_eq!(seen["involvedObject"]["name"], "p");
    let selected = format!("{old}?fieldSelector=involvedObject.name%3Dp,reason%3DTest");
    assert_eq!(names(&server.get(&selected).await.expect(200)), ["e"]);
    let other = format!("{new}?fieldSelector=reportingController%3Dexample.com/tests");
    assert_eq!(names(&server.get(&other).await.expect(200)), ["e"]);
    let patch = json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}});
    let patched = server.patch(&format!("{new}/e"), "merge-patch", patch).await.expect(200);
    assert_eq!(patched["series"]["count"], 2);
    server.delete(&format!("{new}?labelSelector=testevent%3Dyes"), Value::Null).await.expect(200);
    server.get(&format!("{old}/e")).await.expect(404);
    let without =
        json!({"metadata": {"name": "bad"}, "reason": "x", "regarding": {"namespace": "default"}});
    server.post(new, without).await.expect(422);
}

#[tokio::test]
async fn certificates_are_asked_for_approved_and_signed_through_three_doors() {
    let server = start().await;
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let request = json!({"metadata": {"generateName": "csr-"}, "spec": {
        "request": base64::engine::general_purpose::STANDARD.encode(pem),
        "signerName": "example.com/tests", "expirationSeconds": 3600,
        "usages": ["digital signature", "key encipherment", "server auth"],
        "username": "somebody else",
    }});
    let made = server.post(requests, request).await.expect(201);
    assert_eq!(
        (&made["spec"]["username"], made["status"].get("conditions")),
        (&json!("admin"), None)
    );
    let one = format!("{requests}/{}", made["metadata"]["name"].as_str().unwrap());

    let patch = json!({
        "metadata": {"annotations": {"patchedapproval": "true"}},
        "status": {"conditions": [{"type": "ApprovalPatch", "status": "True", "reason": "e2e"}]},
    });
    let patched = server.patch(&format!("{one}/approval"), "merge-patch", patch).await.expect(200);
    assert_eq!(patched["metadata"]["annotations"]["patchedapproval"], "true");
    assert!(patched["status"]["conditions"][0]["lastUpdateTime"].is_string());
    let mut approved = patched.clone();
    let condition = json!({"type": "Approved", "status": "True", "reason": "E2E", "message": "m"});
    approved["status"]["conditions"].as_array_mut().unwrap().push(condition);
    let approved = server.put(&format!("{one}/approval"), approved).await.expect(200);
    assert_eq!(approved["status"]["conditions"].as_array().unwrap().len(), 2);

    let issued = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem();
    let certificate = base64::engine::general_purpose::STANDARD.encode(issued);
    let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}}, "status": {"certificate": certificate}});
    let signed = server.patch(&format!("{one}/status"), "merge-patch", patch).await.expect(200);
    assert_eq!(signed["status"]["certificate"], certificate);
    assert_eq!(signed["metadata"]["annotations"]["patchedstatus"], "true");
    assert_eq!(signed["status"]["conditions"].as_array().unwrap().len(), 2);
    // Nobody takes an approval back, and nothing through the main door counts.
    let back = json!({"status": {"conditions": null}});
    let kept = server.patch(&one, "merge-patch", back.clone()).await.expect(200);
    assert_eq!(kept["status"], signed["status"]);
    server.patch(&format!("{one}/approval"), "merge-patch", back).await.expect(422);
}

#[tokio::test]
async fn namespaces_take_notes_and_finalizers_through_their_doors() {
    let server = start().await;
    server.post("/api/v1/namespaces", json!({"metadata": {"name": "ns"}})).await.expect(201);
    let one = "/api/v1/namespaces/ns";
    let condition =
        json!({"type": "StatusPatch", "status": "True", "reason": "E2E", "message": "m"});
    let patch =
        json!({"metadata": {"annotations": {"e2e": "yes"}}, "status": {"conditions": [condition]}});
    let patched = server.patch(&format!("{one}/status"), "merge-patch", patch).await.expect(200);
    assert_eq!(patched["status"]["conditions"][0]["type"], "StatusPatch");
    assert_eq!(patched["metadata"]["annotations"]["e2e"], "yes");
    let mut finalized = patched;
    finalized["spec"]["finalizers"] = json!(["kubernetes", "e2e.example.com/fakeFinalizer"]);
    let finalized = server.put(&format!("{one}/finalize"), finalized).await.expect(200);
    assert_eq!(finalized["spec"]["finalizers"].as_array().unwrap().len(), 2);
    // The main door leaves them alone.
    let none = json!({"spec": {"finalizers": []}});
    let same = server.patch(one, "merge-patch", none).await.expect(200);
    assert_eq!(same["spec"], finalized["spec"]);
}

#[tokio::test]
async fn collections_go_by_label_field_and_policy() {
    let server = start().await;
    let pods = "/api/v1/namespaces/default/pods";
    for name in ["a", "b", "c"] {
        server.post(pods, pod(name)).await.expect(201);
    }
    let named = format!("{pods}?fieldSelector=metadata.name%3Da");
    server.delete(&named, json!({"gracePeriodSeconds": 0})).await.expect(200);
    assert_eq!(names(&server.get(pods).await.expect(200)), ["b", "c"]);
    let phase = format!("{pods}?fieldSelector=status.phase%3DRunning");
    server.delete(&phase, Value::Null).await.expect(200);
    let held = json!({"propagationPolicy": "Foreground"});
    server.delete(&format!("{pods}?labelSelector=app%3Db"), held).await.expect(200);
    let left = server.get(pods).await.expect(200);
    assert_eq!(left["items"][0]["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    server.delete(&format!("{pods}?labelSelector=%3D"), Value::Null).await.expect(400);
    let unknown = json!({"propagationPolicy": "Sideways"});
    let refused = server.delete(&format!("{pods}/c"), unknown).await;
    assert!([400, 422].contains(&refused.code), "{}", refused.body);
    assert_eq!(names(&server.get(pods).await.expect(200)), ["b", "c"]);
}

#[tokio::test]
async fn tokens_of_accounts_can_be_verified_by_others() {
    let server = start().await;
    let account = "/api/v1/namespaces/default/serviceaccounts/default";
    let wish = json!({"spec": {"audiences": ["somebody"], "expirationSeconds": 600}});
    let answer = server.post(&format!("{account}/token"), wish).await.expect(201);
    assert_eq!(answer["kind"], "TokenRequest");
    let token = answer["status"]["token"].as_str().unwrap();
    let parts: Vec<&str> = token.split('.').collect();
    let part = |n: usize| -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[n]).unwrap()).unwrap()
    };
    let (head, claims) = (part(0), part(1));
    assert_eq!(claims["sub"], "system:serviceaccount:default:default");
    assert_eq!(claims["aud"], json!(["somebody"]));
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 600);
    let openid = server.get("/.well-known/openid-configuration").await.expect(200);
    assert_eq!(openid["issuer"], claims["iss"]);
    let uri = openid["jwks_uri"].as_str().unwrap();
    assert!(uri.ends_with("/openid/v1/jwks"), "{uri}");
    let keys = server.get("/openid/v1/jwks").await.expect(200);
    let known = keys["keys"].as_array().unwrap().iter().any(|key| key["kid"] == head["kid"]);
    assert!(known, "{keys}");
    let short = json!({"spec": {"expirationSeconds": 5}});
    server.post(&format!("{account}/token"), short).await.expect(422);
    server
        .post("/api/v1/namespaces/default/serviceaccounts/none/token", json!({}))
        .await
        .expect(404);
}

/// Upstream reads each document into its own types and writes it again; what
/// it leaves out when empty must not be there. The core group is named so.
#[tokio::test]
async fn openapi_of_every_version_has_nothing_empty() {
    let server = start().await;
    let index = server.get("/openapi/v3").await.expect(200);
    for (path, entry) in index["paths"].as_object().unwrap() {
        let uri = entry["serverRelativeURL"].as_str().unwrap();
        let document = server.get(uri).await.expect(200);
        assert!(document["openapi"].as_str().unwrap().starts_with("3.0"), "{path}");
        let mut found = Vec::new();
        empty(&document, path, &mut found);
        assert!(found.is_empty(), "{} of {path}: {:?}", found.len(), &found[..found.len().min(5)]);
    }
}

fn empty(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if !matches!(key.as_str(), "default" | "example" | "enum" | "group") {
                    empty(value, &format!("{at}/{key}"), found);
                }
            }
        }
        Value::Array(list) if list.is_empty() => found.push(format!("{at} is []")),
        Value::Array(list) => list.iter().for_each(|value| empty(value, at, found)),
        Value::String(text) if text.is_empty() => found.push(format!("{at} is an empty text")),
        Value::Bool(false) | Value::Null => found.push(format!("{at} is {value}")),
        _ => {}
    }
}
