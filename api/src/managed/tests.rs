//! Ownership as upstream's tests and users know it, and the laws that hold for
//! any object.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::shape::Struct;

const T1: &str = "2026-01-01T00:00:01Z";
const T2: &str = "2026-01-01T00:00:02Z";

fn shape(name: &str) -> &'static Struct {
    Struct::named(name).unwrap()
}

fn writer<'a>(manager: &'a str, now: &'a str) -> Writer<'a> {
    Writer { manager, subresource: "", api_version: "v1", now }
}

/// The managers as `manager operation: paths`.
fn owners(managers: &Managers) -> Vec<String> {
    let list = serde_json::to_value(managers).unwrap();
    let entries = list.as_array().unwrap().iter().map(|entry| {
        let fields = FieldSet::parse(&entry["fieldsV1"]).unwrap();
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        format!("{} {}: {}", text("manager"), text("operation"), fields.paths(usize::MAX).join(" "))
    });
    entries.collect()
}

fn apply(
    managers: &mut Managers,
    live: &Value,
    manager: &str,
    config: Value,
) -> Result<Value, Vec<String>> {
    let map = shape("core.v1.ConfigMap");
    managers
        .apply(live, &config, map, &writer(manager, T2), false)
        .map_err(|conflicts| shown(&conflicts))
}

/// Conflicts as `MANAGER PATH…`.
fn shown(conflicts: &[Conflict]) -> Vec<String> {
    let show = |c: &Conflict| format!("{} {}", c.manager, c.fields.paths(usize::MAX).join(" "));
    conflicts.iter().map(show).collect()
}

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": data})
}

#[test]
fn a_new_object_is_its_writers() {
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "d", "namespace": "n", "uid": "u", "creationTimestamp": T1, "generation": 1,
            "labels": {"app": "d"}, "generateName": "x-"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "d"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}},
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": {
                "containers": [{"name": "c", "image": "i", "args": ["a", "b"], "resources": {},
                    "ports": [{"containerPort": 80, "protocol": "TCP"}]}],
                "nodeSelector": {"a": "b"}, "securityContext": {}}}},
        "status": {"replicas": 1},
    });
    let mut managers = Managers::default();
    managers.create(&deployment, shape("apps.v1.Deployment"), &writer("m", T1), |set| {
        set.remove_field("status");
    });
    let written = serde_json::to_value(&managers).unwrap();
    let expected = json!([{"manager": "m", "operation": "Update", "apiVersion": "v1", "time": T1,
        "fieldsType": "FieldsV1", "fieldsV1": {
            "f:metadata": {"f:generateName": {}, "f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:replicas": {}, "f:selector": {},
                "f:strategy": {"f:type": {}, "f:rollingUpdate": {".": {}, "f:maxSurge": {}}},
                "f:template": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {
                    "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:image": {}, "f:args": {},
                        "f:resources": {}, "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}":
                            {".": {}, "f:containerPort": {}, "f:protocol": {}}}}},
                    "f:nodeSelector": {}, "f:securityContext": {}}}}}}]);
    assert_eq!(written, expected);
    assert_eq!(Managers::parse(&written), Some(managers));
}

#[test]
fn an_update_takes_what_it_changes() {
    let old = map(json!({"a": "1", "b": "1", "c": "1"}));
    let new = map(json!({"a": "2", "b": "1", "d": "1"}));
    let config_map = shape("core.v1.ConfigMap");
    let mut managers = Managers::default();
    managers.create(&old, config_map, &writer("first", T1), |_| {});
    let before = managers.clone();
    managers.update(compare(&old, &old, config_map), &writer("second", T2));
    assert_eq!(managers, before, "nothing changed, so nobody took anything");
    managers.update(compare(&old, &new, config_map), &writer("second", T2));
    assert_eq!(
        owners(&managers),
        ["first Update: .data .data.b", "second Update: .data.a .data.d"]
    );
    // What nobody tracks stays untracked.
    let mut untracked = Managers::default();
    untracked.update(compare(&old, &new, config_map), &writer("second", T2));
    assert!(untracked.is_empty());
}

#[test]
fn an_applier_owns_what_it_names() {
    let mut managers = Managers::default();
    let live = json!({});
    let one = apply(&mut managers, &live, "one", map(json!({"a": "1", "b": "1"}))).unwrap();
    assert_eq!(one["data"], json!({"a": "1", "b": "1"}));
    assert_eq!(owners(&managers), ["one Apply: .data.a .data.b"]);

    // Agreeing shares, disagreeing is a conflict.
    let shared = apply(&mut managers, &one, "two", map(json!({"a": "1", "c": "1"}))).unwrap();
    assert_eq!(owners(&managers), ["one Apply: .data.a .data.b", "two Apply: .data.a .data.c"]);
    let before = managers.clone();
    let refused = apply(&mut managers, &shared, "two", map(json!({"a": "2", "c": "1"})));
    assert_eq!(refused, Err(vec!["\"one\" .data.a".to_owned()]));
    assert_eq!(managers, before, "a refusal changes nothing");

    // Who drops a field gives it up; the last to do so removes it.
    let kept = apply(&mut managers, &shared, "one", map(json!({"b": "1"}))).unwrap();
    assert_eq!(kept["data"], json!({"a": "1", "b": "1", "c": "1"}));
    let gone = apply(&mut managers, &kept, "two", map(json!({"c": "1"}))).unwrap();
    assert_eq!(gone["data"], json!({"b": "1", "c": "1"}));
    assert_eq!(owners(&managers), ["one Apply: .data.b", "two Apply: .data.c"]);
}

#[test]
fn force_takes_fields_over() {
    let config_map = shape("core.v1.ConfigMap");
    let live = map(json!({"a": "1", "b": "1"}));
    let mut managers = Managers::default();
    managers.create(&live, config_map, &writer("edit", T1), |_| {});
    let config = map(json!({"a": "2"}));
    let refused = apply(&mut managers, &live, "me", config.clone());
    assert_eq!(refused, Err(vec!["\"edit\" using v1 .data.a".to_owned()]));
    let forced = managers.apply(&live, &config, config_map, &writer("me", T2), true).unwrap();
    assert_eq!(forced["data"], json!({"a": "2", "b": "1"}));
    assert_eq!(owners(&managers), ["me Apply: .data.a", "edit Update: .data .data.b"]);
}

#[test]
fn what_was_there_before_is_somebodys() {
    let mut managers = Managers::default();
    let live = map(json!({"a": "1"}));
    let refused = apply(&mut managers, &live, "me", map(json!({"a": "2"})));
    assert_eq!(refused, Err(vec!["\"before-first-apply\" using v1 .data.a".to_owned()]));
    apply(&mut managers, &live, "me", map(json!({"b": "2"}))).unwrap();
    assert_eq!(
        owners(&managers),
        ["me Apply: .data.b", "before-first-apply Update: .data .data.a"]
    );
}

#[test]
fn time_moves_only_with_a_change() {
    let config_map = shape("core.v1.ConfigMap");
    let mut managers = Managers::default();
    let config = map(json!({"a": "1"}));
    let live = managers.apply(&json!({}), &config, config_map, &writer("me", T1), false).unwrap();
    let before = managers.clone();
    let again = managers.apply(&live, &config, config_map, &writer("me", T2), false).unwrap();
    assert_eq!((again, &managers), (live.clone(), &before));
    let more = map(json!({"a": "1", "b": "1"}));
    managers.apply(&live, &more, config_map, &writer("me", T2), false).unwrap();
    assert!(!managers.same_but_for_time(&before));
    assert!(serde_json::to_string(&managers).unwrap().contains(T2));
}

#[test]
fn lists_merge_by_item() {
    let pod = shape("core.v1.Pod");
    let spec = |containers: Value| json!({"spec": {"containers": containers}});
    let live = json!({"metadata": {"finalizers": ["x", "y"]}, "spec": {"containers": [
        {"name": "a", "image": "1"}, {"name": "b", "image": "1", "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}});
    let cases = [
        ("the order of the object", spec(json!([{"name": "b", "image": "2"}])), "a:1 b:2"),
        ("a new one at the end", spec(json!([{"name": "c"}])), "a:1 b:1 c:"),
        ("the order of the configuration", spec(json!([{"name": "b"}, {"name": "a"}])), "b:1 a:1"),
        ("between", spec(json!([{"name": "a"}, {"name": "c"}, {"name": "b"}])), "a:1 c: b:1"),
        ("before what both have", spec(json!([{"name": "c"}, {"name": "b"}])), "a:1 c: b:1"),
    ];
    for (name, config, expected) in cases {
        let merged = merge::merge(live.clone(), &config, pod);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let seen: Vec<_> = merged["spec"]["containers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| format!("{}:{}", text(&c["name"]), text(&c["image"])))
            .collect();
        assert_eq!(seen.join(" "), expected, "{name}");
    }
    // A port without a protocol is the TCP port; a set takes what is new.
    let config = json!({"metadata": {"finalizers": ["y", "z"]}, "spec": {"containers": [
        {"name": "b", "ports": [{"containerPort": 80, "name": "web"}]}]}});
    let merged = merge::merge(live, &config, pod);
    assert_eq!(
        merged["spec"]["containers"][1]["ports"],
        json!([{"containerPort": 80, "protocol": "TCP", "name": "web"}])
    );
    assert_eq!(merged["metadata"]["finalizers"], json!(["x", "y", "z"]));
}

#[test]
fn atomic_things_change_as_a_whole() {
    let service = shape("core.v1.Service");
    let mut managers = Managers::default();
    let a = json!({"spec": {"selector": {"a": "1"}, "externalIPs": ["1"]}});
    let live = managers.apply(&json!({}), &a, service, &writer("a", T1), false).unwrap();
    let b = json!({"spec": {"selector": {"b": "1"}}});
    let refused = managers.apply(&live, &b, service, &writer("b", T2), false).unwrap_err();
    assert_eq!(shown(&refused), ["\"a\" .spec.selector"]);
    let forced = managers.apply(&live, &b, service, &writer("b", T2), true).unwrap();
    assert_eq!(forced, json!({"spec": {"selector": {"b": "1"}, "externalIPs": ["1"]}}));
    assert_eq!(owners(&managers), ["a Apply: .spec.externalIPs", "b Apply: .spec.selector"]);
}

#[test]
fn a_dropped_item_goes_with_its_defaults() {
    let deployment = shape("apps.v1.Deployment");
    let config = |containers: Value| {
        json!({"metadata": {"name": "d"}, "spec": {
        "strategy": {"type": "RollingUpdate"}, "template": {"spec": {"containers": containers}}}})
    };
    let mut managers = Managers::default();
    let two =
        config(json!([{"name": "a"}, {"name": "b", "securityContext": {"privileged": true}}]));
    let mut live = managers.apply(&json!({}), &two, deployment, &writer("me", T1), false).unwrap();
    // What a server fills in is nobody's and goes with what it stands in.
    live["spec"]["template"]["spec"]["containers"][1]["imagePullPolicy"] = json!("Always");
    live["spec"]["strategy"]["rollingUpdate"] = json!({"maxSurge": 1});
    let one = json!({"metadata": {"name": "d"}, "spec": {"template": {"spec": {"containers": [{"name": "a"}]}}}});
    let left = managers.apply(&live, &one, deployment, &writer("me", T2), false).unwrap();
    assert_eq!(left, one);
}

#[test]
fn what_others_keep_in_an_item_keeps_the_item() {
    let pod = shape("core.v1.Pod");
    let mut managers = Managers::default();
    let both =
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "i"}]}});
    let live = managers.apply(&json!({}), &both, pod, &writer("a", T1), false).unwrap();
    let more =
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "tty": true}]}});
    let live = managers.apply(&live, &more, pod, &writer("b", T1), false).unwrap();
    let none = json!({"metadata": {"name": "p"}});
    let left = managers.apply(&live, &none, pod, &writer("a", T2), false).unwrap();
    assert_eq!(left["spec"]["containers"], json!([{"name": "a", "tty": true}]));
    let left = managers.apply(&left, &none, pod, &writer("b", T2), false).unwrap();
    assert_eq!(left, none);
}

#[test]
fn clients_may_garble_or_clear_the_list() {
    let live = json!([{"manager": "a", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:data": {}}}]);
    let parsed = Managers::parse(&live).unwrap();
    let mut given = live.clone();
    given[0]["manager"] = json!("b");
    let entry = |change: fn(&mut Value)| {
        let mut entries = given.clone();
        change(&mut entries[0]);
        entries
    };
    let kept = [
        json!([]),
        json!(null),
        entry(|e| e["fieldsType"] = json!("FieldsV2")),
        entry(|e| e["operation"] = json!("Guess")),
        entry(|e| e["apiVersion"] = json!("")),
        entry(|e| e["fieldsV1"] = json!({"data": {}})),
    ];
    for given in kept {
        assert_eq!(Managers::given_or_live(Some(&given), Some(&live)), parsed, "{given}");
    }
    assert_eq!(Managers::given_or_live(None, Some(&live)), parsed);
    let owned = owners(&Managers::given_or_live(Some(&given), Some(&live)));
    assert_eq!(owned, ["b Update: .data"]);
    assert!(Managers::given_or_live(Some(&json!([{}])), Some(&live)).is_empty());
}

#[test]
fn old_updaters_become_one() {
    let config_map = shape("core.v1.ConfigMap");
    let mut managers = Managers::default();
    let mut live = map(json!({}));
    managers.create(&live, config_map, &writer("creator", T1), |_| {});
    for at in 0..20 {
        let mut new = live.clone();
        new["data"][format!("k{at:02}")] = json!("v");
        let (name, now) = (format!("m{at:02}"), format!("2026-01-01T00:01:{at:02}Z"));
        managers.update(compare(&live, &new, config_map), &writer(&name, &now));
        live = new;
    }
    let owners = owners(&managers);
    assert_eq!(owners.len(), 10);
    assert!(
        owners[0].starts_with("ancient-changes Update: .data .data.k00 .data.k01"),
        "{owners:?}"
    );
    assert_eq!(owners[9], "m19 Update: .data.k19");
}

#[test]
fn kubectl_takes_over_what_it_applied_by_itself() {
    let config_map = shape("core.v1.ConfigMap");
    let applied = map(json!({"a": "1", "b": "1"}));
    let mut live = applied.clone();
    live["metadata"]["annotations"] = json!({LAST_APPLIED: applied.to_string()});
    let mut managers = Managers::default();
    managers.create(&live, config_map, &writer("kubectl-client-side-apply", T1), |_| {});
    // Someone has changed b since.
    let mut changed = live.clone();
    changed["data"]["b"] = json!("edited");
    managers.update(compare(&live, &changed, config_map), &writer("edit", T1));

    let config = map(json!({"a": "2", "b": "2"}));
    let conflicts =
        managers.apply(&changed, &config, config_map, &writer(KUBECTL, T2), false).unwrap_err();
    assert_eq!(conflicts.len(), 2);
    let left = allowed_conflicts(conflicts.clone(), &changed, config_map, Some);
    assert_eq!(shown(&left), ["\"edit\" using v1 .data.b"]);
    let all = allowed_conflicts(conflicts, &applied, config_map, Some);
    assert_eq!(all.len(), 2, "without the annotation nothing is allowed");

    let mut object = changed.clone();
    sync_last_applied(&mut object, &config);
    let text = object["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap();
    let mut expected = config.clone();
    expected["metadata"]["annotations"] = json!({});
    assert_eq!(text, format!("{expected}\n"));
    let mut plain = applied.clone();
    sync_last_applied(&mut plain, &config);
    assert_eq!(plain, applied, "no annotation is made");
}

/// Configurations of a Deployment, some of them strange.
fn config() -> impl Strategy<Value = Value> {
    let name = || prop::sample::select(vec!["a", "b", "c"]);
    let text = prop::sample::select(vec!["1", "2"]);
    let labels = || prop::option::of(prop::collection::btree_map(name(), text.clone(), 0..3));
    let port = (80..82, prop::option::of(prop::sample::select(vec!["TCP", "UDP"])))
        .prop_map(|(port, protocol)| json!({"containerPort": port, "protocol": protocol}));
    let port = port.prop_map(|mut port| {
        if port["protocol"].is_null() {
            port.as_object_mut().unwrap().remove("protocol");
        }
        port
    });
    let container = (name(), prop::option::of(text.clone()), prop::collection::vec(port, 0..3))
        .prop_map(|(name, image, ports)| {
            let mut container = json!({"name": name, "image": image, "ports": ports});
            if image.is_none() {
                container.as_object_mut().unwrap().remove("image");
            }
            container
        });
    let containers = prop::collection::vec(container, 0..3);
    let finalizers = prop::collection::vec(name(), 0..3);
    (labels(), labels(), containers, finalizers, prop::option::of(0..2)).prop_map(
        |(labels, selector, containers, finalizers, replicas)| {
            let mut config = json!({
                "metadata": {"name": "d", "labels": labels, "finalizers": finalizers},
                "spec": {"replicas": replicas, "template": {"spec": {"containers": containers, "nodeSelector": selector}}},
            });
            prune_nulls(&mut config);
            config
        },
    )
}

fn prune_nulls(value: &mut Value) {
    if let Value::Object(map) = value {
        map.retain(|_, value| !value.is_null());
        map.values_mut().for_each(prune_nulls);
    }
}

/// Configurations that server-side apply accepts.
fn valid() -> impl Strategy<Value = Value> {
    config().prop_filter("duplicates", |config| check(config, shape("apps.v1.Deployment")).is_ok())
}

/// The object without what an empty list or map says.
fn plain(mut object: Value) -> Value {
    crate::shape::canonicalize(&mut object, shape("apps.v1.Deployment")).unwrap();
    fn drop_empty(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.values_mut().for_each(drop_empty);
                map.retain(|_, value| {
                    !value.as_object().is_some_and(|m| m.is_empty())
                        && !value.as_array().is_some_and(|a| a.is_empty())
                });
            }
            Value::Array(items) => items.iter_mut().for_each(drop_empty),
            _ => {}
        }
    }
    drop_empty(&mut object);
    object
}

proptest! {
    #[test]
    fn applying_twice_is_applying_once(live in valid(), config in valid()) {
        let deployment = shape("apps.v1.Deployment");
        let mut managers = Managers::default();
        let once = managers.apply(&live, &config, deployment, &writer("me", T1), true).unwrap();
        let before = managers.clone();
        let twice = managers.apply(&once, &config, deployment, &writer("me", T2), false).unwrap();
        prop_assert_eq!(&twice, &once);
        prop_assert_eq!(managers, before);
    }

    #[test]
    fn what_is_applied_and_dropped_leaves_no_trace(live in valid(), config in valid()) {
        let deployment = shape("apps.v1.Deployment");
        let mut managers = Managers::default();
        managers.create(&live, deployment, &writer("creator", T1), |_| {});
        let named = json!({"metadata": {"name": "d"}});
        let before = managers.clone();
        if let Ok(applied) = managers.apply(&live, &config, deployment, &writer("me", T1), false) {
            let back = managers.apply(&applied, &named, deployment, &writer("me", T2), false).unwrap();
            // Lists may have been put into another order.
            let same = compare(&plain(live), &plain(back), deployment);
            prop_assert!(same.is_empty(), "{:?}", same);
            prop_assert_eq!(owners(&managers), owners(&before));
        }
    }

    #[test]
    fn everything_named_is_there_and_owned(live in valid(), config in valid()) {
        let (deployment, config) = (shape("apps.v1.Deployment"), plain(config));
        let mut managers = Managers::default();
        let object = managers.apply(&live, &config, deployment, &writer("me", T1), true).unwrap();
        let mut missing = fields(&config, deployment);
        missing.subtract(&fields(&object, deployment));
        prop_assert!(missing.is_empty(), "{:?}", missing.paths(usize::MAX));
        let changes = compare(&object, &merge::merge(object.clone(), &config, deployment), deployment);
        prop_assert!(changes.is_empty());
    }

    #[test]
    fn a_change_is_the_sum_of_its_parts(old in valid(), new in valid()) {
        let deployment = shape("apps.v1.Deployment");
        let changes = compare(&old, &new, deployment);
        prop_assert!(compare(&new, &new, deployment).is_empty());
        // Back again is the same the other way round.
        let back = compare(&new, &old, deployment);
        prop_assert_eq!(changes.removed.intersection(&back.written), changes.removed.clone());
        prop_assert_eq!(back.removed.intersection(&changes.written), back.removed);
    }

    #[test]
    fn any_list_of_managers_is_read_or_not(text in r#"\[\{("[a-z:.{}]{0,6}":(\{\}|"x"|1|null),?){0,3}\}\]"#) {
        if let Ok(value) = serde_json::from_str::<Value>(&text) {
            // A refusal is as good as a result; a panic is neither.
            let _ = Managers::parse(&value);
            let _ = FieldSet::parse(&value[0]);
        }
    }
}
