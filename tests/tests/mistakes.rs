//! Pods that ask for what cannot be: each says so in its status and in an
//! event, in the words that people search for, and a pod beside them does not
//! notice. So do pods that come to a node past the scheduler and do not fit.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use serde_json::{Value, json};
use skiff_tests::{Lab, eventually, step};

/// A spec that cannot come true, and what is said of it.
struct Mistake {
    name: &'static str,
    /// Laid over the spec of a pod that sleeps.
    spec: Value,
    /// Part of the container's state.
    state: &'static str,
    /// Part of an event's message.
    told: &'static str,
}

fn mistakes() -> Vec<Mistake> {
    let container = |more: Value| {
        let mut container = json!({"name": "a", "image": "skiff-example/busybox:latest",
            "imagePullPolicy": "Never", "command": ["sleep", "600"]});
        container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        container
    };
    let mistake = |name, spec, state, told| Mistake { name, spec, state, told };
    let mounted = |volume: Value, mount: Value| json!({"volumes": [volume], "containers": [container(json!({"volumeMounts": [mount]}))]});
    let key = json!({"name": "settings", "key": "absent"});
    let out = json!({"name": "v", "mountPath": "/v", "subPath": "out"});
    let mut escape = mounted(json!({"name": "v", "emptyDir": {}}), out);
    escape["initContainers"] = json!([container(json!({"name": "link",
        "command": ["ln", "-s", "/etc", "/v/out"],
        "volumeMounts": [{"name": "v", "mountPath": "/v"}]}))]);
    vec![
        mistake(
            "image-never-pulled",
            json!({"containers": [container(json!({"image": "skiff-example/absent:1"}))]}),
            "ErrImageNeverPull",
            "is not present with pull policy of Never",
        ),
        mistake(
            "image-without-registry",
            // Nobody listens there.
            json!({"containers": [container(json!({"image": "127.0.0.1:9/absent:1",
                "imagePullPolicy": "IfNotPresent"}))]}),
            "ImagePull",
            "Failed to pull image \"127.0.0.1:9/absent:1\"",
        ),
        mistake(
            "command-absent",
            json!({"containers": [container(json!({"command": ["/no/such/command"]}))]}),
            "no such file or directory",
            "no such file or directory",
        ),
        mistake(
            "key-absent",
            json!({"containers": [container(json!({"env": [
                {"name": "V", "valueFrom": {"configMapKeyRef": key}}]}))]}),
            "CreateContainerConfigError",
            "couldn't find key absent in ConfigMap default/settings",
        ),
        mistake(
            "secret-absent",
            mounted(
                json!({"name": "v", "secret": {"secretName": "absent"}}),
                json!({"name": "v", "mountPath": "/v"}),
            ),
            "ContainerCreating",
            "secret \"absent\" not found",
        ),
        mistake(
            "path-unwritable",
            mounted(
                json!({"name": "v", "hostPath": {"path": "/proc/skiff", "type": "DirectoryOrCreate"}}),
                json!({"name": "v", "mountPath": "/v"}),
            ),
            "ContainerCreating",
            "/proc/skiff",
        ),
        mistake("link-leads-out", escape, "CreateContainerConfigError", "subPath"),
    ]
}

#[test]
fn what_cannot_be_is_said_and_bothers_nobody_else() {
    let lab = Lab::up(1);
    let kubectl = |line: &str| lab.kubectl(&line.split(' ').collect::<Vec<_>>());
    let get = |what: &str, path: &str| kubectl(&format!("get {what} -o jsonpath={{{path}}}")).ok();
    let pod = |name: &str, spec: &Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
    let script = |script: &str| {
        json!({"terminationGracePeriodSeconds": 1, "containers": [{"name": "a",
            "image": "skiff-example/busybox:latest", "imagePullPolicy": "Never",
            "command": ["sh", "-c", script]}]})
    };
    kubectl("create configmap settings --from-literal=there=1").ok();
    let mistakes = mistakes();
    let mut items = vec![
        pod("steady", &script("trap 'exit 0' TERM; while :; do sleep 0.2; done")),
        pod("stubborn", &script("trap '' TERM; while :; do sleep 0.2; done")),
    ];
    items.extend(mistakes.iter().map(|mistake| pod(mistake.name, &mistake.spec)));
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    lab.kubectl_with(&["apply", "-f", "-"], &list.to_string()).ok();

    step("each says what is wrong");
    let about = |what: &str, wanted: &str, found: &dyn Fn() -> String| {
        eventually(what, Duration::from_secs(60), || {
            let found = found();
            if found.contains(wanted) { Ok(()) } else { Err(format!("no {wanted:?}: {found}")) }
        });
    };
    for Mistake { name, state, told, .. } in &mistakes {
        let of_pod = format!("pod {name}");
        about(name, state, &|| get(&of_pod, ".status.containerStatuses[0]"));
        let events = format!("events --field-selector=involvedObject.name={name}");
        about(name, told, &|| get(&events, ".items[*].message"));
    }

    step("who comes past the scheduler and does not fit is refused");
    let past = |name: &str, more: Value| {
        let mut spec = script("sleep 600");
        spec["nodeName"] = json!(get("node", ".items[0].metadata.name"));
        spec["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": 8079}]);
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        lab.kubectl_with(&["apply", "-f", "-"], &pod(name, &spec).to_string()).ok();
    };
    past("fits", json!({}));
    kubectl("wait --for=condition=Ready pod/fits --timeout=60s").ok();
    let mut large = script("sleep 600");
    large["containers"][0]["resources"] = json!({"requests": {"cpu": "1000"}});
    let refused = [
        ("no-room", json!({"containers": large["containers"]}), "OutOfcpu"),
        ("no-label", json!({"nodeSelector": {"disk": "ssd"}}), "NodeAffinity"),
        ("no-port", json!({}), "NodePorts"),
    ];
    for (name, more, reason) in refused {
        past(name, more);
        let of_pod = format!("pod {name}");
        about(name, &format!("Failed {reason}"), &|| {
            get(&of_pod, ".status.phase") + " " + &get(&of_pod, ".status.reason")
        });
    }

    step("they go when they are told to, and so does one that does not listen");
    kubectl("wait --for=condition=Ready pod/steady pod/stubborn --timeout=60s").ok();
    let mut names: Vec<_> = mistakes.iter().map(|mistake| mistake.name).collect();
    names.extend(["fits", "no-room", "no-label", "no-port"]);
    kubectl(&format!("delete pod stubborn {} --timeout=60s", names.join(" "))).ok();

    step("the pod beside them ran on");
    assert_eq!(get("pod steady", ".status.containerStatuses[0].restartCount"), "0");
    assert_eq!(get("pod", ".items[*].metadata.name"), "steady");
    let ready = get("pod steady", ".status.conditions[?(@.type=='Ready')].status");
    assert_eq!(ready, "True");
}
