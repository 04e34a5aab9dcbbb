//! Input that is meant to hurt, sent over TLS by somebody who is let in. Each
//! is answered with a `Status` in bounded time, and the server serves on.

#![allow(clippy::unwrap_used)]

mod common;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::{DEADLINE, Server, configmap, pod, start, start_with};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use serde_json::{Value, json};
use skiff_apiserver::pki::Leaf;
use skiff_apiserver::user::UserInfo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const JSON: &str = "application/json";
const YAML: &str = "application/yaml";

/// What any one request may take; most take milliseconds.
const BOUNDED: Duration = Duration::from_secs(10);

/// A connection of an administrator.
async fn connect(server: &Server) -> TlsStream<TcpStream> {
    let pki = server.server.pki();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pki.ca_pem().as_bytes()).unwrap()).unwrap();
    let leaf = Leaf::client("admin", &["system:masters"]);
    let issued = pki.ca().issue(&leaf, jiff::Timestamp::now()).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    let socket = TcpStream::connect(server.server.local_addr()).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap()
}

/// Sends bytes as they are and reads until the server closes.
async fn exchange(server: &Server, request: Vec<u8>) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(connect(server).await);
    // The server may answer and close before it has read all of it.
    let sending = tokio::spawn(async move {
        let _ = writer.write_all(&request).await;
        writer
    });
    let mut answer = Vec::new();
    let reading = reader.read_to_end(&mut answer);
    let _ = timeout(DEADLINE, reading).await.expect("an answer in time");
    sending.abort();
    answer
}

/// Code and body of an answer.
fn parse(answer: &[u8]) -> (u16, Value) {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    // A chunked body begins with a length and ends with one.
    let (start, end) = (body.find('{').unwrap_or(0), body.rfind('}').map_or(0, |end| end + 1));
    (code, serde_json::from_str(body.get(start..end).unwrap_or_default()).unwrap_or_default())
}

async fn send(server: &Server, method: &str, uri: &str, media: &str, body: &[u8]) -> (u16, Value) {
    let mut request = format!(
        "{method} {uri} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {media}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    let begun = Instant::now();
    let answer = parse(&exchange(server, request).await);
    assert!(begun.elapsed() < BOUNDED, "{method} {uri}: {:?}", begun.elapsed());
    answer
}

async fn get(server: &Server, uri: &str) -> (u16, Value) {
    send(server, "GET", uri, JSON, b"").await
}

/// That a request is refused with this code, by a `Status` that says why.
#[track_caller]
fn refused(what: &str, (code, body): &(u16, Value), expected: u16) {
    assert_eq!(*code, expected, "{what}: {body}");
    assert_eq!(body["kind"], "Status", "{what}: {body}");
    assert_eq!(body["status"], "Failure", "{what}");
    assert_eq!(body["code"], expected, "{what}");
    assert!(body["message"].as_str().is_some_and(|text| !text.is_empty()), "{what}");
}

async fn serves(server: &Server) {
    assert_eq!(get(server, MAPS).await.0, 200, "the server serves on");
}

#[tokio::test]
async fn documents_that_grow_or_nest_without_end() {
    let server = start().await;
    server.post(MAPS, configmap("there")).await.expect(201);
    let one = format!("{MAPS}/there");
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..12 {
        let refs = vec![format!("*a{}", level - 1); 10].join(",");
        bomb.push_str(&format!("a{level}: &a{level} [{refs}]\n"));
    }
    let wide = format!("a: &a [{}]\nb: [{}]\n", "x,".repeat(250_000), "*a,".repeat(300_000));
    let text = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), "*a,".repeat(300_000));
    let lists = "[".repeat(10_000) + &"]".repeat(10_000);
    let maps = "{\"a\":".repeat(10_000) + "1" + &"}".repeat(10_000);
    let inside = format!(
        "{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"name\":\"x\"}},\"data\":{lists}}}"
    );
    let apply = format!("{one}?fieldManager=x");
    let cases = [
        ("aliases of aliases", "POST", MAPS, YAML, bomb.as_str()),
        ("a wide alias", "POST", MAPS, YAML, &wide),
        ("a long alias", "POST", MAPS, YAML, &text),
        ("an endless alias", "POST", MAPS, YAML, "a: &a [*a]"),
        ("deep JSON lists", "POST", MAPS, JSON, &lists),
        ("deep JSON maps", "POST", MAPS, JSON, &maps),
        ("deep inside", "POST", MAPS, JSON, &inside),
        ("deep YAML lists", "POST", MAPS, YAML, &lists),
        ("deep YAML maps", "PUT", &one, YAML, &maps),
        ("a million open lists", "POST", MAPS, YAML, &"[".repeat(1 << 20)),
        ("very many dashes", "POST", MAPS, YAML, &"- ".repeat(1 << 18)),
        ("very many questions", "POST", MAPS, YAML, &"? ".repeat(1 << 18)),
        ("a deep merge patch", "PATCH", &one, "application/merge-patch+json", &maps),
        ("a deep strategic patch", "PATCH", &one, "application/strategic-merge-patch+json", &maps),
        ("a deep JSON patch", "PATCH", &one, "application/json-patch+json", &lists),
        ("a deep apply", "PATCH", &apply, "application/apply-patch+yaml", &maps),
        ("an apply that grows", "PATCH", &apply, "application/apply-patch+yaml", &bomb),
        ("deep delete options", "DELETE", &one, JSON, &maps),
    ];
    for (what, method, uri, media, body) in cases {
        refused(what, &send(&server, method, uri, media, body.as_bytes()).await, 400);
    }
    serves(&server).await;
}

#[tokio::test]
async fn bodies_over_three_megabytes() {
    let server = start().await;
    server.post(MAPS, configmap("there")).await.expect(201);
    let one = format!("{MAPS}/there");
    let mut large = configmap("large");
    large["data"]["k"] = json!("x".repeat(3 << 20));
    let large = large.to_string();
    let cases = [
        ("POST", MAPS, JSON),
        ("POST", MAPS, YAML),
        ("PUT", &one, JSON),
        ("PATCH", &one, "application/merge-patch+json"),
        ("PATCH", &one, "application/json-patch+json"),
        ("DELETE", &one, JSON),
    ];
    for (method, uri, media) in cases {
        let answer = send(&server, method, uri, media, large.as_bytes()).await;
        refused(&format!("{method} {media}"), &answer, 413);
        assert_eq!(answer.1["reason"], "RequestEntityTooLarge");
    }
    // In pieces, without a length.
    let mut chunked = format!(
        "POST {MAPS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {JSON}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    for piece in large.as_bytes().chunks(50_000) {
        chunked.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        chunked.extend_from_slice(piece);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    refused("chunked", &parse(&exchange(&server, chunked).await), 413);
    serves(&server).await;
}

#[tokio::test]
async fn patches_of_ten_thousand_operations() {
    let server = start().await;
    // Many entries, so that every move of the whole costs something.
    let mut map = configmap("there");
    for number in 0..10_000 {
        map["data"][format!("k{number}")] = json!("v");
    }
    server.post(MAPS, map).await.expect(201);
    let mut listed = pod("listed");
    listed["spec"]["containers"][0]["args"] = vec![json!(""); 100_000].into();
    server.post(PODS, listed).await.expect(201);
    let operations = |count: usize, make: &dyn Fn(usize) -> Value| -> String {
        json!((0..count).map(make).collect::<Vec<_>>()).to_string()
    };
    let media = "application/json-patch+json";
    let (map, listed) = (format!("{MAPS}/there"), format!("{PODS}/listed"));
    let args = "/spec/containers/0/args";
    let test = json!({"op": "test", "path": "/metadata/name", "value": "there"});
    let too_many = operations(10_001, &|_| test.clone());
    refused("one too many", &send(&server, "PATCH", &map, media, too_many.as_bytes()).await, 413);
    let as_many = operations(10_000, &|_| test.clone());
    assert_eq!(send(&server, "PATCH", &map, media, as_many.as_bytes()).await.0, 200);
    let cases = [
        (
            "doubling",
            &map,
            operations(10_000, &|n| json!({"op": "copy", "from": "", "path": format!("/x{n}")})),
        ),
        (
            "copying",
            &map,
            operations(
                10_000,
                &|n| json!({"op": "copy", "from": "/data", "path": format!("/x{n}")}),
            ),
        ),
        (
            "moving all",
            &map,
            operations(10_000, &|n| match n % 2 {
                0 => json!({"op": "move", "from": "/data", "path": "/moved"}),
                _ => json!({"op": "move", "from": "/moved", "path": "/data"}),
            }),
        ),
        (
            "in front",
            &listed,
            operations(
                10_000,
                &|_| json!({"op": "add", "path": format!("{args}/0"), "value": "x"}),
            ),
        ),
        (
            "from the front",
            &listed,
            operations(10_000, &|_| json!({"op": "remove", "path": format!("{args}/0")})),
        ),
    ];
    for (what, uri, patch) in cases {
        refused(what, &send(&server, "PATCH", uri, media, patch.as_bytes()).await, 413);
    }
    // Lists that merge by a key are not searched for each of their items.
    let items: Vec<Value> =
        (0..10_000).map(|n| json!({"name": format!("e{n}"), "value": "x"})).collect();
    let merge = json!({"spec": {"containers": [{"name": "c", "env": items}]}}).to_string();
    let strategic = "application/strategic-merge-patch+json";
    let answer = send(&server, "PATCH", &listed, strategic, merge.as_bytes()).await;
    refused("a pod's environment", &answer, 422);
    serves(&server).await;
}

#[tokio::test]
async fn selectors_made_to_be_slow() {
    let server = start().await;
    for number in 0..200 {
        let mut map = configmap(&format!("m{number}"));
        map["metadata"]["labels"] = json!({"a": "b", "c": "d"});
        server.post(MAPS, map).await.expect(201);
    }
    let list = |separator: &str, item: &dyn Fn(usize) -> String, length: usize| {
        let mut text = String::new();
        for number in 0.. {
            let next = item(number);
            if text.len() + next.len() + separator.len() > length {
                return text;
            }
            if number > 0 {
                text.push_str(separator);
            }
            text.push_str(&next);
        }
        text
    };
    let long = 50_000;
    let fine = [
        format!("labelSelector={}", list(",", &|n| format!("!x{n}"), long)),
        format!("labelSelector={}", list(",", &|n| format!("a!=x{n}"), long)),
        format!("labelSelector=a%20in%20({})", list(",", &|n| format!("x{n}"), long)),
        format!("labelSelector=a%20notin%20({})", list(",", &|n| format!("x{n}"), long)),
        format!("fieldSelector={}", list(",", &|n| format!("metadata.name!=x{n}"), long)),
    ];
    for query in fine {
        let (code, body) = get(&server, &format!("{MAPS}?{query}")).await;
        assert_eq!(code, 200, "{body}");
    }
    let bad = [
        format!("labelSelector={}", "(".repeat(long)),
        format!("labelSelector=a%20in%20{}", "(".repeat(long)),
        format!("labelSelector={}", "%20".repeat(long / 3) + "="),
        format!("labelSelector={}", "!".repeat(long)),
        format!("labelSelector={}=b", "a".repeat(long)),
        format!("labelSelector=a={}", "b".repeat(long)),
        "labelSelector=a%00b".to_owned(),
        "labelSelector=a%20in%20(b".to_owned(),
        "labelSelector=%ff%fe".to_owned(),
        format!("fieldSelector={}", "=".repeat(long)),
        format!("fieldSelector={}=x", "a.".repeat(long / 2)),
        "fieldSelector=metadata.name".to_owned(),
    ];
    for query in bad {
        let brief = query.chars().take(40).collect::<String>();
        refused(&brief, &get(&server, &format!("{MAPS}?{query}")).await, 400);
        refused(&brief, &get(&server, &format!("{MAPS}?watch=1&{query}")).await, 400);
    }
    serves(&server).await;
}

#[tokio::test]
async fn text_that_is_no_text() {
    let server = start().await;
    let body = |media: &'static str, bytes: &'static [u8]| (media, bytes);
    let cases = [
        body(JSON, b"{\"metadata\":{\"name\":\"\xff\xfe\"}}"),
        body(JSON, b"\xff\xfe{\x00}\x00"),
        body(JSON, b"{\"metadata\":{\"name\":\"\\ud800\"}}"),
        body(JSON, b"\x00"),
        body(YAML, b"metadata: {name: \"\xc3\x28\"}"),
        body(YAML, b"\xff\xfe"),
        body("application/vnd.kubernetes.protobuf", b"k8s\x00\xff\xff\xff\xff\xff"),
        body("application/vnd.kubernetes.protobuf", b"k8s\x00"),
    ];
    for (media, bytes) in cases {
        let what = format!("{media} {}", String::from_utf8_lossy(bytes));
        refused(&what, &send(&server, "POST", MAPS, media, bytes).await, 400);
    }
    for (uri, code) in [
        (format!("{MAPS}/%ff%fe"), 404),
        (format!("{MAPS}/a%2f..%2fb"), 400),
        (format!("{MAPS}/%00"), 404),
        ("/api/v1/namespaces/%ff/configmaps/x".to_owned(), 404),
        ("/apis/%ff/v1/things".to_owned(), 404),
    ] {
        refused(&uri, &get(&server, &uri).await, code);
    }
    // What is no HTTP is not answered with more than HTTP's own refusal.
    let raw: [&[u8]; 4] = [
        b"GET /api/v1/\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\xff: y\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy",
    ];
    for request in raw {
        let (code, _) = parse(&exchange(&server, request.to_vec()).await);
        assert_eq!(code, 400, "{}", String::from_utf8_lossy(request));
    }
    serves(&server).await;
}

#[tokio::test]
async fn numbers_below_zero_and_beyond_counting() {
    let server = start().await;
    server.post(MAPS, configmap("there")).await.expect(201);
    server.post(PODS, pod("p")).await.expect(201);
    let huge = "99999999999999999999999";
    for (uri, code) in [
        // Upstream takes a limit below zero for none.
        (format!("{MAPS}?limit=-1"), 200),
        (format!("{MAPS}?limit=-9223372036854775808"), 200),
        (format!("{MAPS}?limit={huge}"), 400),
        (format!("{MAPS}?limit=1e3"), 400),
        (format!("{MAPS}?resourceVersion=-1"), 400),
        (format!("{MAPS}?resourceVersion={huge}"), 400),
        (format!("{MAPS}?resourceVersion=18446744073709551615"), 504),
        (format!("{MAPS}?watch=1&resourceVersion=-5"), 400),
        (format!("{MAPS}?watch=1&timeoutSeconds={huge}"), 400),
        (format!("{PODS}/p/log?tailLines=-1"), 422),
        (format!("{PODS}/p/log?limitBytes=-1"), 422),
        (format!("{PODS}/p/log?sinceSeconds=-1"), 422),
        (format!("{PODS}/p/log?tailLines={huge}"), 400),
    ] {
        let answer = get(&server, &uri).await;
        if code == 200 {
            assert_eq!(answer.0, 200, "{uri}: {}", answer.1);
        } else {
            refused(&uri, &answer, code);
        }
    }
    let mut negative = pod("n");
    negative["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "-1"}});
    let mut deadline = pod("d");
    deadline["spec"]["activeDeadlineSeconds"] = json!(-1);
    let mut replicas = common::deployment("r");
    replicas["spec"]["replicas"] = json!(-1);
    let mut float = common::deployment("f");
    float["spec"]["replicas"] = json!(1e300);
    for (what, uri, object, code) in [
        ("a limit", PODS, negative, 422),
        ("a deadline", PODS, deadline, 422),
        ("replicas", "/apis/apps/v1/namespaces/default/deployments", replicas, 422),
        ("replicas beyond", "/apis/apps/v1/namespaces/default/deployments", float, 400),
    ] {
        let answer = send(&server, "POST", uri, JSON, object.to_string().as_bytes()).await;
        refused(what, &answer, code);
    }
    serves(&server).await;
}

#[tokio::test]
async fn continue_tokens_of_somebodys_making() {
    let server = start().await;
    for name in ["a", "b", "c"] {
        server.post(MAPS, configmap(name)).await.expect(201);
    }
    let (_, page) = get(&server, &format!("{MAPS}?limit=1")).await;
    let real = page["metadata"]["continue"].as_str().unwrap();
    let decoded: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(real).unwrap()).unwrap();
    let with = |key: &str, value: Value| {
        let mut token = decoded.clone();
        token[key] = value;
        URL_SAFE_NO_PAD.encode(token.to_string())
    };
    let deep = URL_SAFE_NO_PAD.encode("[".repeat(30_000));
    let forged = [
        "x".to_owned(),
        "%25%25".to_owned(),
        real[..real.len() - 2].to_owned(),
        URL_SAFE_NO_PAD.encode("{}"),
        URL_SAFE_NO_PAD.encode([0xff, 0xfe]),
        deep,
        with("v", json!("v0")),
        with("rv", json!(0)),
        with("rv", json!(-7)),
        with("rv", json!(i64::MAX)),
        with("rv", json!(1e300)),
        with("rv", json!("1")),
        with("start", json!("")),
        with("start", json!("/core/secrets/kube-system/x")),
        with("start", json!("../../secrets/x")),
        with("start", json!(7)),
    ];
    for token in forged {
        let brief = token.chars().take(60).collect::<String>();
        let answer = get(&server, &format!("{MAPS}?limit=1&continue={token}")).await;
        refused(&brief, &answer, 400);
    }
    // A key outside of the list is no way out of it.
    let out = with("start", json!("\u{10ffff}"));
    let (code, page) = get(&server, &format!("{MAPS}?limit=1&continue={out}")).await;
    assert_eq!((code, page["items"].as_array().map(Vec::len)), (200, Some(0)), "{page}");
    let (code, page) = get(&server, &format!("{MAPS}?limit=1&continue={real}")).await;
    assert_eq!((code, page["items"][0]["metadata"]["name"].as_str()), (200, Some("b")));
}

#[tokio::test]
async fn a_body_that_comes_a_byte_at_a_time() {
    let short = Duration::from_millis(500);
    let server =
        start_with(|config| skiff_apiserver::Config { request_timeout: short, ..config }).await;
    let (mut reader, mut writer) = tokio::io::split(connect(&server).await);
    let head = format!(
        "POST {MAPS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {JSON}\r\nContent-Length: 1000000\r\n\r\n"
    );
    writer.write_all(head.as_bytes()).await.unwrap();
    let drip = tokio::spawn(async move {
        while writer.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let mut answer = Vec::new();
    let _ = timeout(DEADLINE, reader.read_to_end(&mut answer)).await.expect("an end");
    refused("a dripping body", &parse(&answer), 504);
    drip.abort();
    serves(&server).await;
}

#[tokio::test]
async fn a_watch_that_nobody_reads() {
    let short = Duration::from_millis(500);
    let server =
        start_with(|config| skiff_apiserver::Config { write_timeout: short, ..config }).await;
    let mut stream = connect(&server).await;
    let request = format!("GET {MAPS}?watch=1 HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut first = [0; 15];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    // More than the kernel and TLS hold back for a reader; it stays unread.
    let mut map = configmap("loud");
    map["data"]["k"] = json!("x".repeat(900_000));
    server.post(MAPS, map.clone()).await.expect(201);
    for turn in 0..15 {
        map["data"]["turn"] = json!(turn.to_string());
        server.put(&format!("{MAPS}/loud"), map.clone()).await.expect(200);
    }
    tokio::time::sleep(short * 3).await;
    // What was under way is there, and then it ends.
    let mut rest = Vec::new();
    let _ = timeout(DEADLINE, stream.read_to_end(&mut rest)).await.expect("a closed connection");
    assert!(rest.len() < 14_000_000, "the server went on sending: {}", rest.len());
    serves(&server).await;
}

/// An agent that gives every connection the same answer and keeps what it was
/// sent. A node `n1` and a pod on it lead there.
async fn agent(
    server: &Server,
    answer: &'static str,
) -> (Arc<std::sync::Mutex<Vec<u8>>>, SocketAddr) {
    let pki = server.server.pki();
    let leaf = Leaf::server("n1", vec!["n1".to_owned()], Vec::new());
    let issued = pki.ca().issue(&leaf, jiff::Timestamp::now()).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let tls = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (tls, kept) = (tls.clone(), Arc::clone(&kept));
            tokio::spawn(async move {
                let Ok(mut stream) = tls.accept(socket).await else { return };
                let mut buffer = [0; 4096];
                let mut answered = false;
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    kept.lock().unwrap().extend_from_slice(&buffer[..count]);
                    if !answered {
                        answered = true;
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                }
            });
        }
    });
    let node = json!({"metadata": {"name": "n1"}});
    server.post("/api/v1/nodes", node).await.expect(201);
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": address.port()}},
    }});
    server.patch("/api/v1/nodes/n1/status", "merge-patch", status).await.expect(200);
    let mut bound = pod("p");
    bound["spec"]["nodeName"] = json!("n1");
    server.post(PODS, bound).await.expect(201);
    (seen, address)
}

fn upgrade(uri: &str) -> String {
    format!(
        "GET {uri} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"
    )
}

const EXEC: &str = "/api/v1/namespaces/default/pods/p/exec?command=true&stdout=1";

#[tokio::test]
async fn requests_behind_an_upgrade_that_failed() {
    let server = start().await;
    let refusal = "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno";
    let (seen, _) = agent(&server, refusal).await;
    // What is sent in advance would reach the agent under the master's name,
    // were the tunnel opened before the agent has agreed to one.
    let behind = "POST /run/default/p/c?cmd=id HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    let secrets = "GET /api/v1/secrets HTTP/1.1\r\nHost: x\r\n\r\n";
    let answer = exchange(&server, (upgrade(EXEC) + behind + secrets).into_bytes()).await;
    refused("the upgrade", &parse(&answer), 403);
    let answers = String::from_utf8_lossy(&answer);
    assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{answers}");
    let seen = String::from_utf8_lossy(&seen.lock().unwrap()).into_owned();
    assert!(seen.contains("/exec/default/p/c"), "{seen}");
    assert!(!seen.contains("/run/"), "{seen}");
    // A pod that is nowhere, or not there, fails before anybody is asked.
    server.post(PODS, pod("unbound")).await.expect(201);
    for (name, code) in [("unbound", 400), ("missing", 404)] {
        let uri = format!("/api/v1/namespaces/default/pods/{name}/exec?command=true");
        let answer =
            exchange(&server, (upgrade(&uri) + "\r\n" + secrets + "GARBAGE\r\n\r\n").into_bytes())
                .await;
        refused(name, &parse(&answer), code);
        assert_eq!(String::from_utf8_lossy(&answer).matches("HTTP/1.1 ").count(), 1, "{name}");
    }
    serves(&server).await;
}

#[tokio::test]
async fn an_agent_that_answers_an_upgrade_with_a_redirect() {
    let server = start().await;
    let elsewhere = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let target = elsewhere.local_addr().unwrap();
    let redirect: &'static str = Box::leak(
        format!(
            "HTTP/1.1 302 Found\r\nLocation: https://{target}/exec\r\nContent-Length: 0\r\n\r\n"
        )
        .into_boxed_str(),
    );
    agent(&server, redirect).await;
    let answer = exchange(&server, upgrade(EXEC).into_bytes()).await;
    refused("the redirect", &parse(&answer), 500);
    let head = String::from_utf8_lossy(&answer).to_lowercase();
    assert!(!head.contains("\r\nlocation:"), "nobody is sent elsewhere: {head}");
    let nobody = timeout(Duration::from_millis(200), elsewhere.accept()).await;
    assert!(nobody.is_err(), "the redirect was followed");
    serves(&server).await;
}

#[tokio::test]
async fn the_audit_log_says_who_did_what() {
    let dir = tempfile::tempdir().unwrap();
    let (policy, log) = (dir.path().join("policy.yaml"), dir.path().join("audit.log"));
    std::fs::write(
        &policy,
        r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, users: ["system:apiserver"]}
- {level: Metadata, resources: [{resources: [secrets]}]}
- {level: RequestResponse, omitManagedFields: true, resources: [{resources: [configmaps]}]}
- {level: Request, resources: [{resources: [pods]}]}
"#,
    )
    .unwrap();
    let server = start_with(|config| skiff_apiserver::Config {
        audit_policy_file: Some(policy),
        audit_log_path: Some(log.clone()),
        ..config
    })
    .await;
    let body = |object: Value| object.to_string().into_bytes();
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": "hunter2"}});
    send(&server, "POST", "/api/v1/namespaces/default/secrets", JSON, &body(secret)).await;
    send(&server, "POST", MAPS, JSON, &body(configmap("m"))).await;
    send(&server, "POST", PODS, JSON, &body(pod("p"))).await;
    send(&server, "POST", PODS, JSON, &body(pod("p"))).await;
    server.send_as(UserInfo::new("jane", []), http::Method::GET, PODS, &[], "").await.expect(403);
    get(&server, "/version").await;
    get(&server, &format!("{MAPS}?watch=1&timeoutSeconds=1")).await;
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(!text.contains("hunter2"), "secrets stay out as the policy says");
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let brief: Vec<String> = events
        .iter()
        .filter(|event| event["user"]["username"] != "system:apiserver")
        .map(|event| {
            let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
            format!(
                "{} {} {} {} {} {}",
                text(&event["level"]),
                text(&event["stage"]),
                text(&event["user"]["username"]),
                text(&event["verb"]),
                text(&event["objectRef"]["resource"]),
                event["responseStatus"]["code"]
            )
        })
        .collect();
    assert_eq!(
        brief,
        [
            "Metadata ResponseComplete admin create secrets 201",
            "RequestResponse ResponseComplete admin create configmaps 201",
            "Request ResponseComplete admin create pods 201",
            "Request ResponseComplete admin create pods 409",
            "Request ResponseComplete jane list pods 403",
            "RequestResponse ResponseStarted admin watch configmaps 200",
            "RequestResponse ResponseComplete admin watch configmaps 200",
        ]
    );
    let of = |resource: &str| {
        events.iter().find(|event| event["objectRef"]["resource"] == resource).unwrap()
    };
    assert!(of("secrets")["requestObject"].is_null());
    let map = of("configmaps");
    assert_eq!(map["requestObject"]["data"]["k"], "v");
    assert_eq!(map["responseObject"]["metadata"]["name"], "m");
    assert!(map["responseObject"]["metadata"]["managedFields"].is_null());
    assert_eq!(map["sourceIPs"], json!(["127.0.0.1"]));
    assert_eq!(map["annotations"]["authorization.k8s.io/decision"], "allow");
    let pods = of("pods");
    assert!(pods["requestObject"].is_object() && pods["responseObject"].is_null());
    assert_eq!(
        pods["annotations"]["pod-security.kubernetes.io/enforce-policy"],
        "privileged:latest"
    );
    let refused = events.iter().find(|event| event["responseStatus"]["code"] == 409).unwrap();
    assert_eq!(refused["responseStatus"]["reason"], "AlreadyExists");
}
