//! Selectors, numbers and continue tokens of somebody's making.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::common::{configmap, deployment, pod, start};
use crate::{JSON, MAPS, PODS, get, refused, send, serves};

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
    let mut replicas = deployment("r");
    replicas["spec"]["replicas"] = json!(-1);
    let mut float = deployment("f");
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
