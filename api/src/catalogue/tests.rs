//! Tests over the whole table.

use std::collections::HashSet;

use serde_json::json;

use super::*;

#[test]
fn names_are_unique() {
    let mut seen = HashSet::new();
    for r in all() {
        assert!(
            seen.insert((r.group, r.version, r.plural)),
            "{}/{} {}",
            r.group,
            r.version,
            r.plural
        );
        assert!(!r.kind.is_empty() && !r.plural.is_empty() && !r.verbs.is_empty(), "{}", r.kind);
        assert!(r.verbs.is_sorted(), "{} verbs", r.plural);
    }
}

#[test]
fn views_point_to_entries() {
    for r in all() {
        let Some(legacy) = r.legacy else { continue };
        let (group, version, plural) = legacy.current;
        assert!(
            find(group, version, plural).is_some_and(|stored| stored.legacy.is_none()),
            "{}",
            r.api_version()
        );
        assert_eq!(r.stored().namespaced, r.namespaced, "{}", r.plural);
        // A dropped version must not show objects twice in `get all`.
        assert!(legacy.warning.is_none() || r.categories.is_empty(), "{}", r.plural);
    }
}

#[test]
fn current_groups_come_first() {
    let groups: Vec<_> = groups().into_iter().map(|(group, _)| group).collect();
    let at = |group| groups.iter().position(|g| *g == group);
    assert_eq!(at(""), Some(0));
    assert!(at("apps") < at("extensions"));
    assert!(at("networking.k8s.io") < at("extensions"));
    assert_eq!(super::groups()[1], ("apps", vec!["v1", "v1beta2", "v1beta1"]));
    assert_eq!(
        super::groups().iter().find(|(g, _)| *g == "autoscaling").unwrap().1,
        vec!["v2", "v1"]
    );
}

#[test]
fn entries_carry_the_names_of_their_types() {
    for r in all() {
        // A view has the type of what it shows; what nobody can write has none.
        if r.legacy.is_some_and(|legacy| !legacy.own_type) || !r.verbs.contains(&"create") {
            continue;
        }
        let mut object =
            json!({"apiVersion": r.api_version(), "kind": r.kind, "metadata": {"name": "x"}});
        assert_eq!(
            r.behaviour.normalize(&mut object),
            Ok(Vec::new()),
            "{} {}",
            r.api_version(),
            r.kind
        );
        assert_eq!(object["kind"], r.kind);
        assert_eq!(object["metadata"]["name"], "x");
    }
}

#[test]
fn empty_and_meaningful_survives() {
    let cases = [
        (
            "",
            "v1",
            "pods",
            "/spec/volumes/0/emptyDir",
            json!({"spec": {"containers": [], "volumes": [{"name": "v", "emptyDir": {}}]}}),
        ),
        (
            "networking.k8s.io",
            "v1",
            "networkpolicies",
            "/spec/podSelector",
            json!({"spec": {"podSelector": {}}}),
        ),
        (
            "networking.k8s.io",
            "v1",
            "networkpolicies",
            "/spec/ingress/0",
            json!({"spec": {"podSelector": {}, "ingress": [{}]}}),
        ),
        (
            "networking.k8s.io",
            "v1",
            "networkpolicies",
            "/spec/ingress/0/from/0/namespaceSelector",
            json!({"spec": {"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {}}]}]}}),
        ),
        (
            "policy",
            "v1",
            "poddisruptionbudgets",
            "/spec/selector",
            json!({"spec": {"selector": {}}}),
        ),
        ("", "v1", "secrets", "/data/empty", json!({"data": {"empty": ""}})),
        ("", "v1", "configmaps", "/data/empty", json!({"data": {"empty": ""}})),
        (
            "apps",
            "v1",
            "deployments",
            "/spec/replicas",
            json!({"spec": {"replicas": 0, "selector": {}, "template": {}}}),
        ),
        (
            "",
            "v1",
            "pods",
            "/spec/securityContext",
            json!({"spec": {"containers": [], "securityContext": {}}}),
        ),
        (
            "",
            "v1",
            "pods",
            "/spec/containers/0/stdin",
            json!({"spec": {"containers": [{"name": "c", "stdin": false}]}}),
        ),
    ];
    for (group, version, plural, pointer, object) in cases {
        let resource = find(group, version, plural).unwrap();
        let mut normal = object.clone();
        assert_eq!(resource.behaviour.normalize(&mut normal), Ok(vec![]), "{plural}");
        assert_eq!(normal.pointer(pointer), object.pointer(pointer), "{plural} {pointer}");
    }
}

#[test]
fn unknown_fields_are_named_and_dropped() {
    let deployments = find("apps", "v1", "deployments").unwrap();
    let mut object = json!({"spec": {
        "replcias": 1,
        "selector": {},
        "template": {"spec": {"containers": [{"name": "a", "imag": "x"}], "volumes": [{"name": "v", "emptyDir": {"x": 1}}]}},
    }, "foo": {"bar": 1}});
    let mut unknown = deployments.behaviour.normalize(&mut object).unwrap();
    unknown.sort();
    let expected = [
        "foo",
        "spec.replcias",
        "spec.template.spec.containers[0].imag",
        "spec.template.spec.volumes[0].emptyDir.x",
    ];
    assert_eq!(unknown, expected);
    assert!(object.get("foo").is_none());
}

#[test]
fn wrong_types_are_worded_as_upstream_does() {
    let deployments = find("apps", "v1", "deployments").unwrap();
    let cases = [
        (
            json!({"spec": {"replicas": "three"}}),
            "json: cannot unmarshal string into Go struct field Deployment.spec.replicas of type int32",
        ),
        (
            json!({"spec": {"template": {"spec": {"containers": [{"image": 1}]}}}}),
            "json: cannot unmarshal number into Go struct field Deployment.spec.template.spec.containers[0].image of type string",
        ),
        (
            json!({"spec": {"template": {"spec": {"hostNetwork": "yes"}}}}),
            "json: cannot unmarshal string into Go struct field Deployment.spec.template.spec.hostNetwork of type bool",
        ),
    ];
    for (mut object, expected) in cases {
        assert_eq!(deployments.behaviour.normalize(&mut object), Err(expected.to_owned()));
    }
}

#[test]
fn dropped_versions_are_decoded_into_current_kinds() {
    let old = find("extensions", "v1beta1", "deployments").unwrap();
    let mut object = json!({"apiVersion": "extensions/v1beta1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"bogus": 1, "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": []}}}});
    assert_eq!(old.decode(&mut object), Ok(vec!["spec.bogus".to_owned()]));
    assert_eq!(object["apiVersion"], "apps/v1");
    assert_eq!(object["spec"]["selector"]["matchLabels"]["app"], "x");
    old.encode(&mut object);
    assert_eq!(object["apiVersion"], "extensions/v1beta1");
}

#[test]
fn fields_can_be_selected_by() {
    let pods = find("", "v1", "pods").unwrap();
    let pod = json!({"spec": {"nodeName": "n"}});
    assert_eq!(pods.behaviour.selectable(&pod, "spec.nodeName").as_deref(), Some("n"));
    assert_eq!(pods.behaviour.selectable(&pod, "status.phase").as_deref(), Some(""));
    assert_eq!(pods.behaviour.selectable(&pod, "spec.bogus"), None);
}

#[test]
fn an_event_is_from_who_tells_it_by_either_name() {
    let events = find("", "v1", "events").unwrap();
    let cases = [
        (json!({"source": {"component": "kubelet"}, "reportingComponent": "other"}), "kubelet"),
        (json!({"source": {"component": ""}, "reportingComponent": "scheduler"}), "scheduler"),
        (json!({"source": {}, "reportingComponent": "scheduler"}), "scheduler"),
        (json!({}), ""),
    ];
    for (event, expected) in cases {
        let found = events.behaviour.selectable(&event, "source");
        assert_eq!(found.as_deref(), Some(expected), "{event}");
    }
}

#[test]
fn null_is_nothing_wherever_it_stands() {
    let pods = find("", "v1", "pods").unwrap();
    let mut pod = json!({
        "metadata": {"name": "p", "creationTimestamp": null, "labels": {"a": null, "b": "c"}, "annotations": null},
        "spec": {"containers": [{"name": "c", "command": ["x", null], "env": [{"name": "E", "value": null}, null]}], "volumes": null, "bogus": null},
    });
    assert_eq!(pods.behaviour.normalize(&mut pod), Ok(vec!["spec.bogus".to_owned()]));
    assert_eq!(pod["metadata"], json!({"name": "p", "labels": {"a": "", "b": "c"}}));
    assert_eq!(
        pod["spec"],
        json!({"containers": [{"name": "c", "command": ["x", ""], "env": [{"name": "E"}, {"name": ""}]}]})
    );
}

#[test]
fn reports_are_bounded() {
    let fields: serde_json::Map<String, Value> =
        (0..1000).map(|n| (format!("x{n}"), json!(1))).collect();
    let unknown = find("", "v1", "configmaps")
        .unwrap()
        .behaviour
        .normalize(&mut Value::Object(fields))
        .unwrap();
    assert_eq!(unknown.len(), 100);
}
