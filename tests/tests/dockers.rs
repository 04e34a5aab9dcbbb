//! Nodes with a Docker of their own: images go from one to the other, and
//! Dockers and agents come and go while pods run.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use skiff_tests::{Dockerd, Dockers, eventually, run, skiffctl, step};

const BUSYBOX: &str = "skiff-example/busybox:latest";
const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);

/// A pod on a node with one container that runs.
fn pod(name: &str, node: &str, image: &str, policy: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 1, "containers": [
            container("c", image, policy, "trap 'exit 0' TERM; while :; do sleep 0.2; done")]},
    })
}

fn container(name: &str, image: &str, policy: &str, script: &str) -> Value {
    json!({"name": name, "image": image, "imagePullPolicy": policy, "command": ["sh", "-c", script]})
}

fn apply(lab: &Dockers, objects: &[Value]) {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    lab.kubectl_with(&["apply", "-f", "-"], &list.to_string()).ok();
}

fn get(lab: &Dockers, kind: &str, name: &str) -> Result<Value, String> {
    let said = lab.kubectl(&["get", kind, name, "-o", "json"]).result()?;
    serde_json::from_str(&said).map_err(|error| error.to_string())
}

/// Waits until an object is as `accept` wants it.
fn wait(lab: &Dockers, kind: &str, name: &str, accept: impl Fn(&Value) -> bool) -> Value {
    eventually(&format!("{kind} {name}"), LIMIT, || {
        let found = get(lab, kind, name)?;
        if accept(&found) { Ok(found) } else { Err(found["status"].to_string()) }
    })
}

fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let all = object["status"]["conditions"].as_array();
    all.into_iter().flatten().find(|one| one["type"] == kind).unwrap_or(&Value::Null)
}

fn is_ready(object: &Value) -> bool {
    condition(object, "Ready")["status"] == "True"
}

/// The status of a container by its name.
fn status<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let lists = ["containerStatuses", "initContainerStatuses"];
    let all = lists.iter().filter_map(|list| pod["status"][list].as_array()).flatten();
    all.into_iter().find(|one| one["name"] == name).unwrap_or(&Value::Null)
}

fn waits(pod: &Value, reason: &str) -> bool {
    status(pod, "c")["state"]["waiting"]["reason"] == reason
}

/// What the events of a pod say.
fn events(lab: &Dockers, pod: &str) -> String {
    let field = format!("involvedObject.name={pod}");
    lab.kubectl(&["get", "events", "--field-selector", &field, "-o", "jsonpath={..message}"]).ok()
}

fn images(docker: &Dockerd) -> String {
    docker.docker(&["images", "--all", "--format", "{{.Repository}}:{{.Tag}}"]).ok()
}

/// What the network card of a process's namespace has sent.
fn sent(pid: u64) -> u64 {
    let devices = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
    let card = devices.lines().find_map(|line| line.trim().strip_prefix("eth0:"));
    card.and_then(|card| card.split_whitespace().nth(8)?.parse().ok()).unwrap()
}

/// The agent of a node.
fn agent(lab: &Dockers, node: &str) -> u64 {
    let machines = lab.machines();
    machines.iter().find(|one| one["name"] == node).unwrap()["pid"].as_u64().unwrap()
}

#[test]
fn images_come_from_the_node_that_has_them() {
    let mut lab = Dockers::up(&[false, false]);
    lab.docker(1).give(BUSYBOX);

    step("what no registry gives comes from the other node");
    apply(&lab, &[pod("fetched", "node-2", BUSYBOX, "IfNotPresent")]);
    wait(&lab, "pod", "fetched", is_ready);
    let told = events(&lab, "fetched");
    assert!(told.contains(&format!("pulled image \"{BUSYBOX}\" from node node-1")), "{told}");

    let remove = ["image", "rm", BUSYBOX, "--node", "node-2"];
    let refused = run(skiffctl(&lab.kubeconfig(), &remove), None).refused();
    let expected = format!("error: {BUSYBOX} is not removed from node node-2: conflict: ");
    assert!(refused.starts_with(&expected), "a container uses it: {refused}");

    step("policies are kept, and a digest is nothing that a node could give");
    lab.docker(2).docker(&["tag", BUSYBOX, "own:1"]).ok();
    let digest = format!("skiff-example/busybox@sha256:{}", "1".repeat(64));
    let (never, always) = (["nowhere:1", "Never"], ["own:1", "Always"]);
    let cases = [
        ("here", ["own:1", "Never"], "", ""),
        ("never", never, "ErrImageNeverPull", "is not present with pull policy of Never"),
        // Asked for anew each time, and nobody gives it.
        ("always", always, "ErrImagePull", "Failed to pull image \"own:1\""),
        ("digest", [&digest, "IfNotPresent"], "ErrImagePull", "Failed to pull image"),
    ];
    let pods: Vec<Value> = cases
        .iter()
        .map(|(name, [image, policy], ..)| pod(name, "node-2", image, policy))
        .collect();
    apply(&lab, &pods);
    wait(&lab, "pod", "here", is_ready);
    for (name, _, reason, message) in &cases[1..] {
        wait(&lab, "pod", name, |pod| waits(pod, reason) || waits(pod, "ImagePullBackOff"));
        eventually(name, LIMIT, || {
            let told = events(&lab, name);
            if told.contains(message) { Ok(()) } else { Err(told) }
        });
    }

    step("skiffctl brings an image to all nodes and takes it away from them");
    let archive = lab.path().join("loaded.tar");
    let archive = archive.to_str().unwrap();
    lab.docker(2).docker(&["tag", BUSYBOX, "loaded:1"]).ok();
    lab.docker(2).docker(&["save", "--output", archive, "loaded:1"]).ok();
    lab.docker(2).docker(&["rmi", "loaded:1"]).ok();
    let image = |arguments: &[&str]| {
        run(skiffctl(&lab.kubeconfig(), &[&["image"], arguments].concat()), None)
    };
    image(&["load", archive]).ok();
    assert!(
        image(&["ls"])
            .ok()
            .lines()
            .any(|line| { line.starts_with("loaded:1") && line.ends_with("node-1,node-2") })
    );
    image(&["rm", "loaded:1"]).ok();
    for number in [1, 2] {
        let left = images(lab.docker(number));
        assert!(!left.contains("loaded:1") && left.contains(BUSYBOX), "node-{number}: {left}");
    }

    step("a node that dies in the middle leaves nothing behind, and is asked again");
    let first = lab.docker(1);
    first.docker(&["create", "--name", "made", BUSYBOX]).ok();
    let blob = tempfile::NamedTempFile::new().unwrap();
    blob.as_file().set_len(200 * MIB).unwrap();
    first.docker(&["cp", blob.path().to_str().unwrap(), "made:/blob"]).ok();
    first.docker(&["commit", "made", "heavy:1"]).ok();
    first.docker(&["rm", "made"]).ok();
    let holder = agent(&lab, "node-1");
    let before = sent(holder);
    apply(&lab, &[pod("heavy", "node-2", "heavy:1", "IfNotPresent")]);
    let deadline = Instant::now() + LIMIT;
    while sent(holder) < before + 20 * MIB {
        assert!(Instant::now() < deadline, "no image on its way");
        std::thread::sleep(Duration::from_millis(1));
    }
    kill(Pid::from_raw(i32::try_from(holder).unwrap()), Signal::SIGKILL).unwrap();
    let broken = wait(&lab, "pod", "heavy", |pod| {
        waits(pod, "ErrImagePull") || waits(pod, "ImagePullBackOff")
    });
    let message = status(&broken, "c")["state"]["waiting"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("from node node-1: "), "{message}");
    assert!(!images(lab.docker(2)).contains("heavy"), "half an image");
    lab.lab(&["start", "node-1"]).ok();
    wait(&lab, "pod", "heavy", is_ready);
    let told = events(&lab, "heavy");
    assert!(told.contains("pulled image \"heavy:1\" from node node-1"), "{told}");
}

/// Pods of all kinds on a node. Their containers tell in a volume how often they
/// ran.
fn pods_of(node: &str) -> Vec<Value> {
    let ran = |name: &str, then: &str| {
        let mut made =
            container(name, BUSYBOX, "Never", &format!("echo {name} >> /ran/{name}; {then}"));
        made["volumeMounts"] = json!([{"name": "ran", "mountPath": "/ran"}]);
        made
    };
    let stays = "while :; do sleep 0.2; done";
    let until_told = format!("trap 'exit 0' TERM; {stays}");
    let serve = format!("trap 'exit 0' TERM; echo here > index.html; httpd -p 80; {stays}");
    let exec = json!({"exec": {"command": ["true"]}, "periodSeconds": 1, "failureThreshold": 2, "timeoutSeconds": 5});
    let http = json!({"httpGet": {"path": "/index.html", "port": 80}, "periodSeconds": 1});
    let mut sidecar = ran("side", &until_told);
    sidecar["restartPolicy"] = json!("Always");
    let mut web = ran("c", &serve);
    web["workingDir"] = json!("/tmp");
    web["readinessProbe"] = http;
    web["livenessProbe"] = exec;
    let named = |name: &str, spec: Value| {
        let mut made = pod(&format!("{name}-{node}"), node, BUSYBOX, "Never");
        made["metadata"]["labels"] = json!({"app": format!("{name}-{node}")});
        made["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        made
    };
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": format!("job-{node}")},
        "spec": {"template": {"spec": {"nodeName": node, "restartPolicy": "Never",
            "containers": [container("c", BUSYBOX, "Never", "true")]}}},
    });
    vec![
        named(
            "web",
            json!({"volumes": [{"name": "ran", "emptyDir": {}}],
            "initContainers": [ran("init", "true"), sidecar], "containers": [web]}),
        ),
        named(
            "once",
            json!({"restartPolicy": "Never", "containers": [
            container("c", BUSYBOX, "Never", &format!("trap 'exit 3' TERM; {stays}")),
            container("done", BUSYBOX, "Never", "true")]}),
        ),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("web-{node}")},
            "spec": {"selector": {"app": format!("web-{node}")}, "ports": [{"port": 80}]}}),
        job,
    ]
}

/// How often a container of the web pod has run.
fn runs(lab: &Dockers, node: &str, name: &str) -> usize {
    let file = format!("/ran/{name}");
    let said = lab.kubectl(&["exec", &format!("web-{node}"), "-c", "c", "--", "cat", &file]).ok();
    said.lines().count()
}

/// Whether the other node's pods reach the web pod, by its address and through
/// its service.
fn is_reached(lab: &Dockers, node: &str) {
    let (name, client) =
        (format!("web-{node}"), if node == "node-1" { "node-2" } else { "node-1" });
    let pod = get(lab, "pod", &name).unwrap()["status"]["podIP"].as_str().unwrap().to_owned();
    let service =
        get(lab, "service", &name).unwrap()["spec"]["clusterIP"].as_str().unwrap().to_owned();
    for host in [pod, service] {
        let url = format!("http://{host}/index.html");
        let words = [
            "exec",
            &format!("web-{client}"),
            "-c",
            "side",
            "--",
            "timeout",
            "5",
            "wget",
            "-q",
            "-O",
            "-",
            &url,
        ];
        eventually(&url, LIMIT, || lab.kubectl(&words).result());
    }
}

/// The containers of the pods that are to outlive their Docker: what runs, and
/// what has ended.
fn all_of(docker: &Dockerd) -> Vec<String> {
    docker.containers("{{.ID}} {{.State}} {{.Names}}")
}

#[test]
fn dockers_and_agents_come_and_go() {
    let mut lab = Dockers::up(&[true, false]);
    let nodes = ["node-1", "node-2"];
    let objects: Vec<Value> = nodes.iter().flat_map(|node| pods_of(node)).collect();
    for number in [1, 2] {
        lab.docker(number).give(BUSYBOX);
    }
    apply(&lab, &objects);
    let finished = |job: &Value| condition(job, "Complete")["status"] == "True";
    for node in nodes {
        wait(&lab, "pod", &format!("web-{node}"), is_ready);
        wait(&lab, "job", &format!("job-{node}"), finished);
        wait(&lab, "pod", &format!("once-{node}"), |pod| {
            status(pod, "c")["started"] == true
                && status(pod, "done")["state"]["terminated"].is_object()
        });
        is_reached(&lab, node);
    }

    step("while Docker is away its node is not ready and says why, and its pods serve nobody");
    let kept = all_of(lab.docker(1));
    for number in [1, 2] {
        lab.docker(number).stop();
    }
    for node in nodes {
        let found = wait(&lab, "node", node, |node| !is_ready(node));
        let message = condition(&found, "Ready")["message"].as_str().unwrap();
        assert!(message.starts_with("container runtime is down: "), "{message}");
        wait(&lab, "pod", &format!("web-{node}"), |pod| !is_ready(pod));
        let healthy =
            lab.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/healthz")]);
        assert_eq!(healthy.ok(), "ok", "the agent answers");
    }

    step("Docker is back: what ran on is adopted");
    for number in [1, 2] {
        lab.docker(number).start();
    }
    for node in nodes {
        wait(&lab, "node", node, is_ready);
        wait(&lab, "pod", &format!("web-{node}"), is_ready);
    }
    let web = get(&lab, "pod", "web-node-1").unwrap();
    for name in ["init", "side", "c"] {
        assert_eq!(status(&web, name)["restartCount"], 0, "{name}");
        assert_eq!(runs(&lab, "node-1", name), 1, "{name}");
    }
    assert_eq!(all_of(lab.docker(1)), kept);
    assert_eq!(get(&lab, "pod", "once-node-1").unwrap()["status"]["phase"], "Running");

    step("what went with Docker runs again, once, in a new sandbox with a new network");
    let web = get(&lab, "pod", "web-node-2").unwrap();
    for name in ["side", "c"] {
        assert_eq!(status(&web, name)["restartCount"], 1, "{name}: {web}");
    }
    for name in ["init", "side", "c"] {
        assert_eq!(runs(&lab, "node-2", name), 2, "{name}");
    }
    let once = wait(&lab, "pod", "once-node-2", |pod| pod["status"]["phase"] == "Failed");
    assert_eq!(status(&once, "c")["state"]["terminated"]["exitCode"], 3);
    assert_eq!(status(&once, "done")["state"]["terminated"]["exitCode"], 0);
    let job = get(&lab, "job", "job-node-2").unwrap();
    assert_eq!((&job["status"]["succeeded"], &job["status"]["failed"]), (&json!(1), &Value::Null));
    let running = |docker: &Dockerd| {
        let all = docker.containers("{{.State}} {{.Names}}");
        let running = all.iter().filter(|line| line.starts_with("running "));
        running
            .map(|line| line.split('_').skip(2).take(2).collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
    };
    assert_eq!(running(lab.docker(2)), ["POD web-node-2", "c web-node-2", "side web-node-2"]);
    nodes.iter().for_each(|node| is_reached(&lab, node));

    step("a Docker that hangs costs nobody but those who wait for it");
    lab.docker(2).pause();
    apply(&lab, &[pod("late", "node-2", BUSYBOX, "Never")]);
    wait(&lab, "pod", "late", |pod| waits(pod, "ContainerCreating"));
    // Long enough for three failures of the exec probe.
    eventually("probes that come to nothing", LIMIT, || {
        let told = events(&lab, "web-node-2");
        let unknown = told.matches("Liveness probe errored and resulted in unknown state").count();
        if unknown > 0 { Ok(()) } else { Err(told) }
    });
    std::thread::sleep(Duration::from_secs(8));
    assert!(is_ready(&get(&lab, "pod", "web-node-2").unwrap()));
    lab.docker(2).resume();
    wait(&lab, "pod", "late", is_ready);
    let web = get(&lab, "pod", "web-node-2").unwrap();
    assert_eq!(status(&web, "c")["restartCount"], 1, "{web}");

    step("a Docker that is killed leaves to the next one what outlives it");
    lab.docker(1).kill();
    lab.docker(1).start();
    wait(&lab, "node", "node-1", is_ready);
    wait(&lab, "pod", "web-node-1", is_ready);
    assert_eq!(all_of(lab.docker(1)), kept);
    is_reached(&lab, "node-1");

    step("an agent that is killed while ten pods start starts each of them once");
    let names: Vec<String> = (0..10).map(|number| format!("ten-{number}")).collect();
    let ten: Vec<Value> = names.iter().map(|name| pod(name, "node-2", BUSYBOX, "Never")).collect();
    apply(&lab, &ten);
    eventually("some of them", LIMIT, || {
        let all = lab.docker(2).containers("{{.Names}}");
        if all.iter().any(|name| name.contains("_ten-")) { Ok(()) } else { Err("none".to_owned()) }
    });
    lab.lab(&["kill", "node-2"]).ok();
    lab.lab(&["start", "node-2"]).ok();
    for name in &names {
        let found = wait(&lab, "pod", name, is_ready);
        assert_eq!(status(&found, "c")["restartCount"], 0, "{name}");
    }
    let made = lab.docker(2).containers("{{.Names}}");
    assert_eq!(made.iter().filter(|name| name.contains("_ten-")).count(), 20, "{made:?}");
}
