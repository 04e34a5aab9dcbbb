//! Who is let in over TLS, and how far: the server as strangers, people, pods
//! and would-be nodes meet it.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use axum::body::Body;
use k8s_openapi::api::{
    certificates::v1::CertificateSigningRequest,
    core::v1::{Namespace, Node, Secret},
};
use kube::{
    Api, Client, Config,
    api::{ListParams, PostParams},
    config::Kubeconfig,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde_json::json;
use skiff_apiserver::{join, pki, user::UserInfo};

const HERE: &str = "/api/v1/namespaces/default";

fn as_node(name: &str) -> UserInfo {
    UserInfo::new(&format!("system:node:{name}"), ["system:nodes", "system:authenticated"])
}

/// A client over TLS with a bearer token, or none.
fn over_tls(server: &common::Server, token: Option<&str>) -> Client {
    let url = format!("https://127.0.0.1:{}", server.server.local_addr().port());
    let mut config = Config::new(url.parse().unwrap());
    let ca = CertificateDer::from_pem_slice(server.server.pki().ca_pem().as_bytes()).unwrap();
    config.root_cert = Some(vec![ca.to_vec()]);
    config.auth_info.token = token.map(|token| token.to_owned().into());
    Client::try_from(config).unwrap()
}

fn code<T: std::fmt::Debug>(answer: Result<T, kube::Error>) -> u16 {
    match answer {
        Err(kube::Error::Api(status)) => status.code,
        other => panic!("not refused: {other:?}"),
    }
}

async fn text(client: &Client, path: &str) -> Result<String, kube::Error> {
    client.request_text(http::Request::get(path).body(Vec::new()).unwrap()).await
}

#[tokio::test]
async fn the_admin_kubeconfig_opens_everything() {
    let server = common::start().await;
    let file = Kubeconfig::read_from(server.server.kubeconfig()).unwrap();
    let config = Config::from_custom_kubeconfig(file, &Default::default()).await.unwrap();
    let client = Client::try_from(config).unwrap();
    Api::<Secret>::all(client).list(&ListParams::default()).await.unwrap();
}

#[tokio::test]
async fn strangers_get_health_and_version_and_nothing_else() {
    let server = common::start().await;
    let stranger = over_tls(&server, None);
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        text(&stranger, path).await.unwrap();
    }
    for path in ["/metrics", "/apis", "/openapi/v3", "/api/v1/pods", "/api/v1/namespaces/default"] {
        assert_eq!(code(text(&stranger, path).await), 403, "{path}");
    }
    let bad = over_tls(&server, Some("abcdef.0123456789abcdef"));
    assert_eq!(code(text(&bad, "/version").await), 401, "a bad token is no stranger");
}

#[tokio::test]
async fn a_foreign_certificate_is_401() {
    let server = common::start().await;
    let now = jiff::Timestamp::now();
    let made = pki::CertificateAuthority::generate(now).unwrap();
    let foreign =
        pki::CertificateAuthority::from_pem(&made.certificate_pem, &made.key_pem).unwrap();
    let masters = pki::Leaf::client("kubernetes-admin", &["system:masters"]);
    let identity = foreign.issue(&masters, now).unwrap();
    let url = format!("https://127.0.0.1:{}", server.server.local_addr().port());
    let text_of = pki::kubeconfig::render(&url, server.server.pki().ca_pem(), "x", &identity);
    let file = Kubeconfig::from_yaml(&text_of.unwrap()).unwrap();
    let config = Config::from_custom_kubeconfig(file, &Default::default()).await.unwrap();
    let client = Client::try_from(config).unwrap();
    // A client may also keep a certificate to itself that the server does not
    // list as acceptable; then it is a stranger.
    let refused = code(text(&client, "/api/v1/secrets").await);
    assert!(matches!(refused, 401 | 403), "{refused}");
}

#[tokio::test]
async fn a_bootstrap_token_makes_a_node_and_nothing_more() {
    let server = common::start().await;
    let admin = server.admin();
    let ca = CertificateDer::from_pem_slice(server.server.pki().ca_pem().as_bytes()).unwrap();
    let token = join::create_token(&admin, &pki::pin(&ca), Duration::from_secs(600)).await.unwrap();
    assert_eq!(join::list_tokens(&admin).await.unwrap().len(), 1);
    let joining = over_tls(&server, Some(&format!("{}.{}", token.id, token.secret)));

    assert_eq!(code(Api::<Node>::all(joining.clone()).list(&ListParams::default()).await), 403);
    assert_eq!(code(Api::<Secret>::all(joining.clone()).list(&ListParams::default()).await), 403);
    let requests: Api<CertificateSigningRequest> = Api::all(joining.clone());
    requests.list(&ListParams::default()).await.unwrap();

    assert!(join::delete_token(&admin, &token.to_string()).await.unwrap());
    assert!(!join::delete_token(&admin, &token.id).await.unwrap());
    assert_eq!(code(requests.list(&ListParams::default()).await), 401);
}

#[tokio::test]
async fn a_node_touches_no_other_node() {
    let server = common::start().await;
    let client = |name: &str| {
        server.server.client(UserInfo::new(
            &format!("system:node:{name}"),
            ["system:nodes", "system:authenticated"],
        ))
    };
    let node = |name: &str| -> Node {
        serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap()
    };
    let one: Api<Node> = Api::all(client("n1"));
    let two: Api<Node> = Api::all(client("n2"));
    let made = one.create(&PostParams::default(), &node("n1")).await.unwrap();
    assert_eq!(made.spec.unwrap().taints.unwrap()[0].key, "node.kubernetes.io/not-ready");
    assert_eq!(code(one.create(&PostParams::default(), &node("n2")).await), 403);
    let mut theirs = two.get("n1").await.unwrap();
    theirs.metadata.labels.get_or_insert_default().insert("x".into(), "y".into());
    assert_eq!(code(two.replace("n1", &PostParams::default(), &theirs).await), 403);
    one.replace("n1", &PostParams::default(), &theirs).await.unwrap();
    assert_eq!(code(two.delete("n1", &Default::default()).await), 403);
    let namespaces: Api<Namespace> = Api::all(client("n1"));
    assert_eq!(code(namespaces.delete("default", &Default::default()).await), 403);
}

#[tokio::test]
async fn a_node_reads_what_its_pods_refer_to_and_nothing_else() {
    let server = common::start().await;
    for name in ["mine", "other"] {
        let secret = json!({"metadata": {"name": name}, "stringData": {"k": "v"}});
        server.post(&format!("{HERE}/secrets"), secret).await.expect(201);
    }
    let mut pod = common::pod("p");
    pod["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "mine"}}]);
    server.post(&format!("{HERE}/pods"), pod).await.expect(201);
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    server.post(&format!("{HERE}/pods/p/binding"), binding).await.expect(201);

    let n1 = as_node("n1");
    #[rustfmt::skip]
    let cases = [
        ("GET", "/secrets/mine", 200),
        ("GET", "//secrets//mine/", 200),
        ("HEAD", "/secrets/mine", 200),
        ("GET", "/secrets?fieldSelector=metadata.name%3Dmine", 200),
        ("GET", "/secrets/other", 403),
        ("GET", "/secrets/%6Fther", 403),
        ("HEAD", "/secrets/other", 403),
        ("OPTIONS", "/secrets/mine", 403),
        ("GET", "/secrets", 403),
        ("GET", "/secrets/", 403),
        ("GET", "/%73ecrets", 403),
        ("GET", "/secrets?fieldSelector=metadata.name!%3Dmine", 403),
        ("GET", "/secrets?fieldSelector=&fieldSelector=metadata.name%3Dmine", 403),
        ("GET", "/secrets/mine%2F..%2Fother", 403),
        ("GET", "/secrets/mine/status", 403),
        ("GET", "/secrets/mine/../other", 403),
        ("DELETE", "/secrets?fieldSelector=metadata.name%3Dmine", 403),
        ("DELETE", "/secrets/mine", 403),
        ("GET", "/pods/p/exec?command=id", 403),
    ];
    for (method, path, code) in cases {
        let method: http::Method = method.parse().unwrap();
        let uri = format!("{HERE}{path}");
        let answer = server.send_as(n1.clone(), method.clone(), &uri, &[], Body::empty()).await;
        assert_eq!(answer.code, code, "{method} {path}: {}", answer.body);
    }
    for uri in
        ["/api/v1/secrets", "/api/v1/watch/secrets", "/api/v1/watch/namespaces/default/secrets"]
    {
        let answer = server.send_as(n1.clone(), http::Method::GET, uri, &[], Body::empty()).await;
        assert_eq!(answer.code, 403, "{uri}");
    }
    // What the name in a query allows, a second one must not widen.
    let twice = "fieldSelector=metadata.name%3Dmine&fieldSelector=metadata.name%3Dother";
    let uri = format!("{HERE}/secrets?{twice}");
    let list = server.send_as(n1.clone(), http::Method::GET, &uri, &[], Body::empty()).await;
    assert!(!list.expect(200).to_string().contains("\"other\""));
    let uri = "/api/v1/watch/namespaces/default/secrets/mine\
               ?fieldSelector=metadata.name%3Dother&timeoutSeconds=1";
    let seen = server.send_as(n1, http::Method::GET, uri, &[], Body::empty()).await;
    assert_eq!((seen.code, seen.body), (200, json!("")));
    let uri = format!("{HERE}/secrets/mine");
    let stranger = as_node("n2");
    let answer = server.send_as(stranger, http::Method::GET, &uri, &[], Body::empty()).await;
    answer.expect(403);
}

#[tokio::test]
async fn a_node_acts_for_its_own_pods_alone() {
    let server = common::start().await;
    server.post(&format!("{HERE}/pods"), common::pod("p")).await.expect(201);
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    server.post(&format!("{HERE}/pods/p/binding"), binding).await.expect(201);
    let pod = server.get(&format!("{HERE}/pods/p")).await.expect(200);
    let post = async |node: &str, path: &str, body: serde_json::Value| {
        let (uri, kind) = (format!("{HERE}{path}"), [("content-type", "application/json")]);
        server.send_as(as_node(node), http::Method::POST, &uri, &kind, body.to_string()).await
    };

    // Tokens only for a pod of its own, bound to it.
    let token = |uid: &str| {
        let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": uid});
        json!({"spec": {"audiences": [], "boundObjectRef": bound}})
    };
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let account = "/serviceaccounts/default/token";
    post("n1", account, json!({"spec": {"audiences": []}})).await.expect(403);
    post("n1", account, token("another")).await.expect(403);
    post("n2", account, token(uid)).await.expect(403);
    post("n1", account, token(uid)).await.expect(201);

    // A mirror pod lends a node nothing, now or later.
    let mut mirror = common::pod("m");
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    mirror["spec"]["nodeName"] = json!("n1");
    let mut curious = mirror.clone();
    let from = json!({"secretKeyRef": {"name": "s", "key": "k"}});
    curious["spec"]["containers"][0]["env"] = json!([{"name": "E", "valueFrom": from}]);
    post("n1", "/pods", curious).await.expect(403);
    post("n2", "/pods", mirror.clone()).await.expect(403);
    post("n1", "/pods", mirror).await.expect(201);
    let kind = [("content-type", "application/merge-patch+json")];
    let plain = json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": null}}});
    let uri = format!("{HERE}/pods/m/status");
    let answer =
        server.send_as(as_node("n1"), http::Method::PATCH, &uri, &kind, plain.to_string()).await;
    answer.expect(403);

    let eviction = || json!({"metadata": {"name": "p"}});
    post("n2", "/pods/p/eviction", eviction()).await.expect(403);
    post("n1", "/pods/p/eviction", eviction()).await.expect(201);
}

#[tokio::test]
async fn reading_pods_does_not_open_a_shell() {
    let server = common::start().await;
    server.post(&format!("{HERE}/pods"), common::pod("p")).await.expect(201);
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let rules = json!([{"apiGroups": [""], "resources": ["pods", "pods/exec"], "verbs": ["get"]}]);
    let role = json!({"metadata": {"name": "reader"}, "rules": rules});
    server.post(&format!("{rbac}/roles"), role).await.expect(201);
    let binding = json!({
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}],
    });
    server.post(&format!("{rbac}/rolebindings"), binding).await.expect(201);
    let jane = UserInfo::new("jane", ["system:authenticated"]);
    for (path, code) in [("/pods/p", 200), ("/pods/p/exec?command=id", 403)] {
        let uri = format!("{HERE}{path}");
        let answer =
            server.send_as(jane.clone(), http::Method::GET, &uri, &[], Body::empty()).await;
        assert_eq!(answer.code, code, "{path}: {}", answer.body);
    }
}

/// Nobody becomes somebody without being allowed to, whatever the headers are.
#[tokio::test]
async fn impersonation_takes_a_permission() {
    let server = common::start().await;
    let jane = UserInfo::new("jane", ["system:authenticated"]);
    let masters = ("impersonate-group", "system:masters");
    let cases = [
        (vec![("impersonate-user", "admin"), masters], 403),
        (vec![("impersonate-user", "admin")], 403),
        (vec![("impersonate-user", "system:node:n1"), ("impersonate-group", "system:nodes")], 403),
        (vec![masters], 400),
        (vec![("impersonate-user", ""), masters], 400),
    ];
    for (headers, code) in cases {
        let uri = "/version";
        let answer =
            server.send_as(jane.clone(), http::Method::GET, uri, &headers, Body::empty()).await;
        assert_eq!(answer.code, code, "{headers:?}: {}", answer.body);
    }
    // Who acts as another has the other's rights and not their own.
    let headers = [("impersonate-user", "jane")];
    let as_jane = server.send(http::Method::GET, "/api/v1/secrets", &headers, Body::empty()).await;
    as_jane.expect(403);
}
