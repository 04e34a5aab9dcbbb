//! One machine: `skiff up`, the guestbook on it, restarts, and a clean end.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use skiff_tests::{
    Cluster, Footprint, Load, assert_no_sandbox_image, containers_of, eventually, fetch,
    repository, run, skiff, step,
};

const LIMIT: Duration = Duration::from_secs(60);

fn docker(arguments: &[&str]) -> String {
    let mut command = Command::new("docker");
    command.args(arguments);
    run(command, None).ok()
}

fn service(cluster: &Cluster, path: &str) -> String {
    cluster.kubectl(&["get", "service", "flask-app", "-o", &format!("jsonpath={{{path}}}")]).ok()
}

fn ready_pods(cluster: &Cluster, count: usize) {
    eventually("pods of flask-app", LIMIT, || {
        let pods =
            cluster.kubectl(&["get", "pods", "-l", "app=flask-app", "--no-headers"]).result()?;
        let ready =
            pods.lines().filter(|line| line.contains("1/1") && line.contains("Running")).count();
        if ready == count && pods.lines().count() == count { Ok(()) } else { Err(pods) }
    });
}

#[test]
fn the_guestbook_on_one_machine() {
    let before = Footprint::take();
    let mut cluster = Cluster::up();
    assert!(
        cluster.ready_line.ends_with(cluster.kubeconfig().to_str().unwrap()),
        "{}",
        cluster.ready_line
    );

    step("a second skiff on the same folder is refused, and the first goes on");
    let refused = run(cluster.command(), None).refused();
    assert!(refused.contains("in use") && refused.contains("--data-dir"), "{refused}");
    assert_eq!(refused.lines().count(), 1, "{refused}");
    let other = tempfile::tempdir().unwrap();
    let port = cluster.port().to_string();
    let taken = run(
        skiff(&["up", "--api-port", &port, "--data-dir", other.path().to_str().unwrap()]),
        None,
    )
    .refused();
    assert!(taken.contains(&port) && taken.contains("--api-port"), "{taken}");

    step("the guestbook is applied");
    let folder = repository().join("examples/guestbook");
    let folder = folder.to_str().unwrap();
    let applied = cluster.kubectl(&["apply", "-f", folder]).ok();
    assert_eq!(applied.lines().count(), 4, "{applied}");
    cluster.kubectl(&["rollout", "status", "deployment/redis", "--timeout=60s"]).ok();
    cluster.kubectl(&["rollout", "status", "deployment/flask-app", "--timeout=60s"]).ok();
    let again = cluster.kubectl(&["apply", "-f", folder]).ok();
    assert!(again.lines().all(|line| line.ends_with("unchanged")), "{again}");

    step("the counter counts through ClusterIP, NodePort and name");
    let vip: SocketAddr = format!("{}:80", service(&cluster, ".spec.clusterIP")).parse().unwrap();
    let node_ip = cluster
        .kubectl(&["get", "node", "solo", "-o", "jsonpath={.status.addresses[0].address}"])
        .ok();
    let node_port: SocketAddr = format!("{node_ip}:30080").parse().unwrap();
    let count = |answer: &str| answer.trim().rsplit_once('=').unwrap().1.parse::<u64>().unwrap();
    let first = fetch(vip, "/").unwrap();
    assert!(
        first.starts_with("[flask-app-") && first.contains("] Redis counter value="),
        "{first}"
    );
    let second = fetch(node_port, "/").unwrap();
    let pod = cluster
        .kubectl(&[
            "get",
            "pods",
            "-l",
            "app=flask-app",
            "-o",
            "jsonpath={.items[0].metadata.name}",
        ])
        .ok();
    let third =
        cluster.kubectl(&["exec", &pod, "--", "wget", "-q", "-O", "-", "http://flask-app"]).ok();
    assert_eq!([count(&second), count(&third)], [count(&first) + 1, count(&first) + 2]);

    step("scale to 4, then v2 under load without a failed request");
    cluster.kubectl(&["scale", "deployment/flask-app", "--replicas=4"]).ok();
    ready_pods(&cluster, 4);
    let load = Load::start(vip, 4);
    cluster
        .kubectl(&["set", "image", "deployment/flask-app", "flask-app=mjbright/flask-web:v2"])
        .ok();
    cluster.kubectl(&["rollout", "status", "deployment/flask-app", "--timeout=120s"]).ok();
    ready_pods(&cluster, 4);
    let (good, failures) = load.stop();
    assert!(
        failures.is_empty() && good > 50,
        "{good} good, {} failed: {failures:?}",
        failures.len()
    );
    assert_eq!(fetch(vip, "/version").unwrap().trim(), "v2");
    cluster.kubectl(&["rollout", "undo", "deployment/flask-app"]).ok();
    cluster.kubectl(&["rollout", "status", "deployment/flask-app", "--timeout=120s"]).ok();
    ready_pods(&cluster, 4);
    assert_eq!(fetch(vip, "/version").unwrap().trim(), "v1");

    step("a killed container is restarted, a deleted pod replaced");
    let pod = cluster
        .kubectl(&[
            "get",
            "pods",
            "-l",
            "app=flask-app",
            "-o",
            "jsonpath={.items[0].metadata.name}",
        ])
        .ok();
    let id = cluster
        .kubectl(&["get", "pod", &pod, "-o", "jsonpath={.status.containerStatuses[0].containerID}"])
        .ok();
    docker(&["kill", id.strip_prefix("docker://").unwrap()]);
    eventually("a restart", LIMIT, || {
        let query = "jsonpath={.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}";
        let said = cluster.kubectl(&["get", "pod", &pod, "-o", query]).result()?;
        if said == "1 true" { Ok(()) } else { Err(said) }
    });
    let exit = "jsonpath={.status.containerStatuses[0].lastState.terminated.exitCode}";
    assert_eq!(cluster.kubectl(&["get", "pod", &pod, "-o", exit]).ok(), "137");
    cluster.kubectl(&["delete", "pod", &pod]).ok();
    assert!(cluster.kubectl(&["get", "pod", &pod]).refused().contains("NotFound"));
    ready_pods(&cluster, 4);
    eventually("four endpoints", LIMIT, || {
        let said = cluster
            .kubectl(&[
                "get",
                "endpoints",
                "flask-app",
                "-o",
                "jsonpath={.subsets[*].addresses[*].ip}",
            ])
            .result()?;
        if said.split_whitespace().count() == 4 { Ok(()) } else { Err(said) }
    });

    step("a clean stop and a start: pods run on and are adopted");
    let running = containers_of(&cluster.data_dir(), true);
    assert_eq!(running.len(), 10, "five pods of a sandbox and a container each");
    let restarts =
        ["get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[0].restartCount}"];
    let counted = cluster.kubectl(&restarts).ok();
    assert_eq!(cluster.end(Signal::SIGTERM), Some(0));
    assert_eq!(containers_of(&cluster.data_dir(), true), running, "a stop leaves the pods alone");
    // Not the counter: names are answered by the process that was stopped.
    fetch(vip, "/version").expect("service addresses work without their master");
    cluster.start();
    ready_pods(&cluster, 4);
    assert_eq!(containers_of(&cluster.data_dir(), true), running, "a start leaves the pods alone");
    assert_eq!(cluster.kubectl(&restarts).ok(), counted);

    step("a power cut of the process loses nothing");
    let created = cluster.kubectl(&["create", "configmap", "kept", "--from-literal=a=1"]).ok();
    assert_eq!(created, "configmap/kept created");
    assert_eq!(cluster.end(Signal::SIGKILL), None);
    cluster.start();
    assert_eq!(
        cluster.kubectl(&["get", "configmap", "kept", "-o", "jsonpath={.data.a}"]).ok(),
        "1"
    );
    ready_pods(&cluster, 4);
    assert_eq!(containers_of(&cluster.data_dir(), true), running);

    step("secrets are not on the disk in clear");
    cluster
        .kubectl(&["create", "secret", "generic", "s", "--from-literal=key=correct-horse-battery"])
        .ok();
    let mut grep = Command::new("grep");
    // in base64, as the object holds it, and as it was typed
    grep.args(["-rlE", "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5|correct-horse-battery"])
        .arg(cluster.data_dir().join("store"));
    assert_eq!(run(grep, None).stdout, "");

    step("down leaves nothing, twice");
    cluster.down().ok();
    assert!(!cluster.data_dir().exists());
    assert_eq!(containers_of(&cluster.data_dir(), false), Vec::<String>::new());
    Footprint::take().assert_unchanged_since(&before);
    assert_no_sandbox_image();
    cluster.down().ok();
}
