//! Environments of containers, and what they come from.

use serde_json::json;

use super::*;

fn pod(container: serde_json::Value) -> (Pod, Container) {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [container]},
    }))
    .unwrap();
    let container = spec(&pod).containers[0].clone();
    (pod, container)
}

fn sources() -> Sources {
    let map: ConfigMap =
        serde_json::from_value(json!({"data": {"color": "red", "size": "7"}})).unwrap();
    let secret: Secret = serde_json::from_value(json!({"data": {"token": "aHVzaA=="}})).unwrap();
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": "my-db", "namespace": "ns"},
        "spec": {"clusterIP": "10.96.0.7", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}]},
    }))
    .unwrap();
    Sources {
        config_maps: [("conf".to_owned(), Some(Arc::new(map))), ("none".to_owned(), None)].into(),
        secrets: [("creds".to_owned(), Some(Arc::new(secret)))].into(),
        services: vec![Arc::new(service)],
        pod_ips: vec!["10.244.0.9".into()],
        host_ips: vec!["192.0.2.1".into()],
        files: [
            (("v".to_owned(), "ok.env".to_owned()), Ok("KEY='yes'\n".to_owned())),
            (("v".to_owned(), "bad.env".to_owned()), Ok("KEY".to_owned())),
            (("v".to_owned(), "no.env".to_owned()), Err("gone".to_owned())),
        ]
        .into(),
        allocatable: [("cpu".to_owned(), Quantity("2".into()))].into(),
    }
}

#[test]
fn variables_come_from_everywhere() {
    let file = |path: &str, key: &str, optional: bool| {
        let key = json!({"volumeName": "v", "path": path, "key": key, "optional": optional});
        json!({"name": "A", "valueFrom": {"fileKeyRef": key}})
    };
    let cases = [
        (json!({"name": "A", "value": "1"}), Ok(Some("1"))),
        (file("ok.env", "KEY", false), Ok(Some("yes"))),
        (file("ok.env", "OTHER", true), Ok(None)),
        (
            file("ok.env", "OTHER", false),
            Err("environment variable key \"OTHER\" not found in file"),
        ),
        (file("no.env", "KEY", true), Ok(None)),
        (file("no.env", "KEY", false), Err("couldn't read env file \"no.env\": gone")),
        (
            file("bad.env", "KEY", true),
            Err("couldn't parse env file \"bad.env\": \
                 invalid environment variable format at line 1: it has no '='"),
        ),
        (
            json!({"name": "A", "value": "$(MY_DB_SERVICE_HOST):$(NOPE)$$(X)"}),
            Ok(Some("10.96.0.7:$(NOPE)$(X)")),
        ),
        (
            json!({"name": "A", "valueFrom": {"configMapKeyRef": {"name": "conf", "key": "color"}}}),
            Ok(Some("red")),
        ),
        (
            json!({"name": "A", "valueFrom": {"secretKeyRef": {"name": "creds", "key": "token"}}}),
            Ok(Some("hush")),
        ),
        (
            json!({"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}),
            Ok(Some("10.244.0.9")),
        ),
        (
            json!({"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}}),
            Ok(Some("web")),
        ),
        (
            json!({"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}),
            Ok(Some("2")),
        ),
        (
            json!({"name": "A", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "k"}}}),
            Err("configmap \"none\" not found"),
        ),
        (
            json!({"name": "A", "valueFrom": {"configMapKeyRef": {"name": "conf", "key": "k"}}}),
            Err("couldn't find key k in ConfigMap ns/conf"),
        ),
        (
            json!({"name": "A", "valueFrom": {"secretKeyRef": {"name": "gone", "key": "k", "optional": true}}}),
            Ok(None),
        ),
    ];
    for (variable, expected) in cases {
        let (pod, container) = pod(json!({"name": "c", "env": [variable.clone()]}));
        let found = resolve(&pod, &container, &sources());
        let found =
            found.map(|env| env.into_iter().find(|(name, _)| name == "A").map(|(_, value)| value));
        let expected = expected
            .map(|value| value.map(str::to_owned))
            .map_err(|text| EnvError(text.to_owned()));
        assert_eq!(found, expected, "{variable}");
    }
}

#[test]
fn env_from_comes_before_env_and_services_before_both() {
    let (pod, container) = pod(json!({
        "name": "c",
        "envFrom": [{"prefix": "C_", "configMapRef": {"name": "conf"}}, {"secretRef": {"name": "gone", "optional": true}}],
        "env": [{"name": "C_color", "value": "$(C_color)der"}, {"name": "MY_DB_PORT", "value": "x"}],
    }));
    let env: BTreeMap<_, _> = resolve(&pod, &container, &sources()).unwrap().into_iter().collect();
    assert_eq!(env["C_color"], "redder");
    assert_eq!(env["C_size"], "7");
    assert_eq!(env["MY_DB_PORT"], "x");
    assert_eq!(env["MY_DB_PORT_5432_TCP"], "tcp://10.96.0.7:5432");
    assert_eq!(env["MY_DB_SERVICE_PORT_SQL"], "5432");
}

#[test]
fn expansion_keeps_what_it_does_not_know() {
    let get = |name: &str| (name == "A").then(|| "a".to_owned());
    let cases = [
        ("$(A)", "a"),
        ("$$(A)", "$(A)"),
        ("$(B)", "$(B)"),
        ("$A", "$A"),
        ("x$", "x$"),
        ("$(A", "$(A"),
        ("$$$(A)", "$a"),
    ];
    for (text, expected) in cases {
        assert_eq!(expand(text, get), expected, "{text}");
    }
}
