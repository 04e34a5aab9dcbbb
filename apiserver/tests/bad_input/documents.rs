//! Documents and patches: ones that grow, nest, are too large, or are no text.

use serde_json::{Value, json};

use crate::common::{configmap, pod, start};
use crate::{JSON, MAPS, PODS, YAML, exchange, get, parse, refused, send, serves};

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
