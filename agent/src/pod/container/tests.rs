//! What containers are made of, by the pods that they are of.

use serde_json::json;

use super::*;
use crate::runtime::DeviceRequest;

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(
        json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec}),
    )
    .unwrap()
}

/// The variable `A`, and those that the spec has.
fn own_env(pod: &Pod) -> Vec<(String, String)> {
    let own = spec(pod).containers[0].env.iter().flatten();
    let own = own.map(|one| (one.name.clone(), one.value.clone().unwrap_or_default()));
    std::iter::once(("A".into(), "a".into())).chain(own).collect()
}

fn build(spec_json: serde_json::Value, image: &Image) -> Result<ContainerSpec, ConfigError> {
    build_with(spec_json, image, Granted::default())
}

fn build_with(
    spec_json: serde_json::Value,
    image: &Image,
    devices: Granted,
) -> Result<ContainerSpec, ConfigError> {
    let pod = pod(spec_json);
    let owner = Owner { instance: "i", node: "n", pod: &pod };
    let inputs = Inputs { devices, ..inputs(&pod, image) };
    container(&owner, &spec(&pod).containers[0], inputs)
}

fn inputs<'a>(pod: &Pod, image: &'a Image) -> Inputs<'a> {
    Inputs {
        attempt: 2,
        crashes: 1,
        sandbox_id: "sb",
        sandbox: 0,
        target: Some("t"),
        image,
        accounts: Arc::default(),
        env: own_env(pod),
        volumes: Vec::new(),
        pod_dir: Path::new("/pods/u"),
        termination_log: Path::new("/pods/u/t"),
        seccomp: Some("{}".into()),
        node_memory_bytes: 1 << 30,
        cgroup_parent: None,
        pids: Some(100),
        devices: Granted::default(),
    }
}

fn image(user: &str) -> Image {
    Image { id: "sha256:1".into(), user: user.into(), has_command: true, ..Image::default() }
}

#[test]
fn groups_of_the_image_come_by_policy() {
    let accounts = Accounts::parse("root:x:0:0::/:\napp:x:1000:1001::/:\n", "extra:x:50000:app\n");
    let accounts = Arc::new(accounts);
    let made = |policy: &str, mut context: serde_json::Value, user: &str| {
        context["supplementalGroupsPolicy"] = json!(policy);
        context["supplementalGroups"] = json!([7]);
        let pod = pod(json!({"containers": [{"name": "c"}], "securityContext": context}));
        let wanted = &spec(&pod).containers[0];
        let image = image(user);
        let known = needs_accounts(&pod, wanted, &image).then(|| accounts.clone());
        let inputs = Inputs { accounts: known.unwrap_or_default(), ..inputs(&pod, &image) };
        let owner = Owner { instance: "i", node: "n", pod: &pod };
        container(&owner, wanted, inputs).map(|made| (made.user, made.groups)).unwrap()
    };
    let user = |user: &str| (Some(user.to_owned()), vec![7]);
    let merged = |user: &str| (Some(user.to_owned()), vec![7, 50000]);
    let cases = [
        // Docker itself merges where no group is named.
        (json!({}), "", (None, vec![7]), user("0:0")),
        (json!({}), "app", (None, vec![7]), user("app:1001")),
        (json!({"runAsUser": 1000}), "", user("1000"), user("1000:1001")),
        (json!({"runAsUser": 4711}), "app", user("4711"), user("4711:0")),
        (json!({"runAsUser": 0}), "app", user("0"), user("0:0")),
        (
            json!({"runAsUser": 1000, "runAsGroup": 3000}),
            "",
            merged("1000:3000"),
            user("1000:3000"),
        ),
        (json!({"runAsGroup": 5}), "app", merged("app:5"), user("app:5")),
        (json!({}), "app:app", (None, vec![7, 50000]), (None, vec![7])),
        (json!({"runAsUser": 1000}), "other:other", user("1000"), user("1000:1001")),
    ];
    for (context, image, merge, strict) in cases {
        assert_eq!(made("Merge", context.clone(), image), merge, "{context} of {image:?}");
        assert_eq!(
            made("Strict", context.clone(), image),
            strict,
            "strict: {context} of {image:?}"
        );
    }
}

#[test]
fn run_as_non_root_is_checked_against_the_image() {
    let root =
        "container has runAsNonRoot and image will run as root (pod: \"p_ns(u)\", container: c)";
    let named = "container has runAsNonRoot and image has non-numeric user (redis), cannot verify user is non-root (pod: \"p_ns(u)\", container: c)";
    let cases = [
        (json!({"runAsNonRoot": true}), "", Err(root)),
        (json!({"runAsNonRoot": true}), "0:0", Err(root)),
        (json!({"runAsNonRoot": true}), "redis", Err(named)),
        (json!({"runAsNonRoot": true}), "1000", Ok(None)),
        (json!({"runAsNonRoot": true, "runAsUser": 7}), "", Ok(Some("7"))),
        (
            json!({"runAsNonRoot": true, "runAsUser": 0}),
            "",
            Err("container's runAsUser breaks non-root policy (pod: \"p_ns(u)\", container: c)"),
        ),
        (json!({"runAsUser": 7, "runAsGroup": 8}), "", Ok(Some("7:8"))),
        (json!({"runAsGroup": 8}), "9", Ok(Some("9:8"))),
    ];
    for (context, user, expected) in cases {
        let found = build(
            json!({"containers": [{"name": "c", "securityContext": context.clone()}]}),
            &image(user),
        );
        let found = found.map(|spec| spec.user).map_err(|error| error.0);
        assert_eq!(
            found,
            expected.map(|user| user.map(str::to_owned)).map_err(str::to_owned),
            "{context} {user}"
        );
    }
}

#[test]
fn a_container_joins_its_sandbox() {
    let cases = [
        (json!({}), "container:sb", "container:sb", "container:t"),
        (json!({"shareProcessNamespace": true}), "container:sb", "container:sb", "container:sb"),
        (json!({"hostPID": true, "hostIPC": true}), "container:sb", "host", "host"),
    ];
    for (mut spec, network, ipc, pid) in cases {
        spec["containers"] = json!([{"name": "c", "command": ["x", "$(A)"]}]);
        let built = build(spec.clone(), &image("")).unwrap();
        assert_eq!(
            (built.network.as_str(), built.ipc.as_str(), built.pid.as_str()),
            (network, ipc, pid),
            "{spec}"
        );
        assert_eq!(built.entrypoint, ["x", "a"]);
        assert_eq!(built.labels[labels::ATTEMPT], "2");
    }
}

#[test]
fn profiles_become_dockers_options() {
    let seccomp =
        |kind: &str| json!({"seccompProfile": {"type": kind, "localhostProfile": "p.json"}});
    let armor = json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": "k8s-x"}});
    let cases = [
        (json!({}), json!({}), vec![]),
        (json!({}), seccomp("RuntimeDefault"), vec![]),
        (json!({}), seccomp("Unconfined"), vec!["seccomp=unconfined"]),
        (json!({}), seccomp("Localhost"), vec!["seccomp={}"]),
        (seccomp("Localhost"), seccomp("RuntimeDefault"), vec![]),
        (seccomp("Unconfined"), json!({}), vec!["seccomp=unconfined"]),
        (json!({}), armor, vec!["apparmor=k8s-x"]),
        (json!({}), json!({"allowPrivilegeEscalation": false}), vec!["no-new-privileges:true"]),
    ];
    for (pod, own, expected) in cases {
        let spec = json!({"securityContext": pod.clone(),
            "containers": [{"name": "c", "securityContext": own.clone()}]});
        assert_eq!(build(spec, &image("")).unwrap().security_opt, expected, "{pod} {own}");
    }
}

#[test]
fn a_mount_of_the_pod_replaces_ours() {
    let built = build(json!({"containers": [{"name": "c"}]}), &image("")).unwrap();
    let targets: Vec<_> = built.mounts.iter().map(|mount| mount.target.as_str()).collect();
    assert_eq!(targets, ["/etc/resolv.conf", "/dev/termination-log", "/etc/hosts"]);
}

#[test]
fn the_host_network_is_entered_by_path_or_by_name() {
    let pod = pod(json!({"containers": [], "hostNetwork": true}));
    let owner = Owner { instance: "i", node: "n", pod: &pod };
    let of = |netns| sandbox(&owner, 0, "img", netns, "p".into());
    assert_eq!(of(None).network, "host");
    let entered = of(Some(Path::new("/proc/7/ns/net")));
    assert_eq!(
        (entered.network.as_str(), entered.args.as_slice()),
        ("none", ["/netns".to_owned()].as_slice())
    );
}

#[test]
fn a_container_sees_the_gpus_that_it_was_given_whatever_it_says() {
    let request = DeviceRequest { driver: "nvidia".into(), ids: vec!["GPU-1".into()] };
    let granted = |visible: &str| Granted {
        requests: vec![request.clone()],
        visible: Some(visible.to_owned()),
    };
    let all = || json!([{"name": VISIBLE, "value": "all"}]);
    let privileged = || json!({"privileged": true});
    let cases = [
        ("on a node without GPUs", json!({"name": "c", "env": all()}), Granted::default(), "all"),
        ("none", json!({"name": "c"}), granted("void"), "void"),
        ("one", json!({"name": "c", "env": all()}), granted("GPU-1"), "GPU-1"),
        (
            "privileged",
            json!({"name": "c", "securityContext": privileged()}),
            granted("void"),
            "void",
        ),
        (
            "privileged, and it says which",
            json!({"name": "c", "env": all(), "securityContext": privileged()}),
            granted("void"),
            "all",
        ),
    ];
    for (name, mut container, granted, expected) in cases {
        container["command"] = json!(["x"]);
        let built = build_with(json!({"containers": [container]}), &image(""), granted.clone());
        let built = built.unwrap();
        let told: Vec<_> = built
            .env
            .iter()
            .filter_map(|one| one.strip_prefix("NVIDIA_VISIBLE_DEVICES="))
            .collect();
        assert_eq!(told, [expected], "{name}");
        assert_eq!(built.devices, granted.requests, "{name}");
    }
}
