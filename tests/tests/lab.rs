//! Several nodes: a lab of one master and three nodes, real packets between
//! them, and a node that dies.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use skiff_tests::{Footprint, Lab, containers_of, repository, step};

const LIMIT: Duration = Duration::from_secs(60);

/// Nodes that pods with this label run on.
fn nodes_of(lab: &Lab, selector: &str) -> Vec<String> {
    let query =
        "jsonpath={range .items[*]}{.spec.nodeName} {.metadata.deletionTimestamp}{\"\\n\"}{end}";
    let said = lab.kubectl(&["get", "pods", "-l", selector, "-o", query]).ok();
    said.lines().map(|line| line.trim().to_owned()).filter(|line| !line.contains(' ')).collect()
}

#[test]
fn three_nodes_and_one_dies() {
    let before = Footprint::take();
    let lab = Lab::up(3);

    step("the machines are there");
    let machines = lab.machines();
    let shown: Vec<(&str, &str, bool)> = (machines.iter())
        .map(|machine| {
            (
                machine["name"].as_str().unwrap(),
                machine["role"].as_str().unwrap(),
                machine["ready"].as_bool().unwrap(),
            )
        })
        .collect();
    let expected = [
        ("master-1", "master", true),
        ("node-1", "node", true),
        ("node-2", "node", true),
        ("node-3", "node", true),
    ];
    assert_eq!(shown, expected);
    assert_eq!(machines[0]["leader"], true);

    step("the guestbook spreads over the nodes");
    lab.kubectl(&["apply", "-f", repository().join("examples/guestbook").to_str().unwrap()]).ok();
    lab.kubectl(&["scale", "deployment/flask-app", "--replicas=6"]).ok();
    lab.kubectl(&["rollout", "status", "deployment/redis", "--timeout=60s"]).ok();
    lab.kubectl(&["rollout", "status", "deployment/flask-app", "--timeout=60s"]).ok();
    let nodes: BTreeSet<String> = nodes_of(&lab, "app=flask-app").into_iter().collect();
    assert_eq!(nodes.len(), 3, "{nodes:?}");

    step("pods reach pods, VIPs and names across nodes");
    let query =
        "jsonpath={range .items[*]}{.metadata.name} {.status.podIP} {.spec.nodeName}{\"\\n\"}{end}";
    let pods = lab.kubectl(&["get", "pods", "-l", "app=flask-app", "-o", query]).ok();
    let pods: Vec<Vec<&str>> = pods.lines().map(|line| line.split(' ').collect()).collect();
    let vip =
        lab.kubectl(&["get", "service", "flask-app", "-o", "jsonpath={.spec.clusterIP}"]).ok();
    for from in &pods {
        let wget = |url: &str| lab.kubectl(&["exec", from[0], "--", "wget", "-q", "-O", "-", url]);
        let other = pods.iter().find(|pod| pod[2] != from[2]).unwrap();
        let direct = wget(&format!("http://{}:5000/", other[1])).ok();
        assert!(direct.starts_with(&format!("[{}]", other[0])), "{direct}");
        for url in [
            format!("http://{vip}/"),
            "http://flask-app/".into(),
            "http://flask-app.default.svc.cluster.local/".into(),
        ] {
            let answer = wget(&url).ok();
            assert!(answer.contains("Redis counter value="), "{url} from {}: {answer}", from[0]);
        }
    }
    let address = machines[3]["address"].as_str().unwrap();
    let curl = |machine: &str, url: &str| {
        lab.exec(machine, &["curl", "-sS", "--fail", "--max-time", "5", url])
    };
    for machine in ["node-1", "node-2", "node-3"] {
        curl(machine, &format!("http://{vip}/")).ok();
        curl(machine, &format!("http://{address}:30080/")).ok();
    }
    assert!(curl("node-1", "http://10.96.200.200/").code != 0, "an address of no service refuses");

    step("logs, exec and describe reach pods on every node");
    for pod in &pods {
        assert!(lab.kubectl(&["logs", pod[0]]).ok().contains("Running on"));
        assert_eq!(lab.kubectl(&["exec", pod[0], "--", "hostname"]).ok(), pod[0]);
    }
    assert_ne!(lab.kubectl(&["exec", pods[0][0], "--", "sh", "-c", "exit 7"]).code, 0);

    step("a killed node's pods are replaced on the others");
    lab.lab(&["kill", "node-2"]).ok();
    lab.wait("node-2 is not ready", LIMIT, &["get", "node", "node-2", "--no-headers"], |said| {
        said.contains("NotReady")
    });
    lab.wait(
        "replacements",
        LIMIT,
        &["get", "pods", "-l", "app=flask-app", "-o", "wide", "--no-headers"],
        |said| {
            let ready = said.lines().filter(|line| {
                line.contains("1/1") && line.contains("Running") && !line.contains("node-2")
            });
            ready.count() == 6
        },
    );
    lab.kubectl(&["rollout", "status", "deployment/redis", "--timeout=60s"]).ok();
    lab.wait(
        "endpoints without node-2",
        LIMIT,
        &[
            "get",
            "endpointslices",
            "-l",
            "kubernetes.io/service-name=flask-app",
            "-o",
            "jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].nodeName}",
        ],
        |said| said.split_whitespace().count() == 6 && !said.contains("node-2"),
    );
    for _ in 0..10 {
        curl("node-1", &format!("http://{vip}/")).ok();
    }

    step("a node that comes back is ready again and forgets what was moved");
    lab.lab(&["start", "node-2"]).ok();
    lab.kubectl(&["wait", "--for=condition=Ready", "node/node-2", "--timeout=30s"]).ok();
    lab.wait(
        "six pods in all",
        LIMIT,
        &["get", "pods", "-l", "app=flask-app", "--no-headers"],
        |said| said.lines().count() == 6,
    );

    step("a node that is cut off is noticed, and joins again when healed");
    lab.lab(&["partition", "node-3"]).ok();
    lab.wait("node-3 is not ready", LIMIT, &["get", "node", "node-3", "--no-headers"], |said| {
        said.contains("NotReady")
    });
    lab.lab(&["heal"]).ok();
    lab.kubectl(&["wait", "--for=condition=Ready", "node/node-3", "--timeout=40s"]).ok();

    step("the master restarts and the nodes stay");
    lab.lab(&["kill", "master-1"]).ok();
    lab.lab(&["start", "master-1"]).ok();
    lab.wait("three nodes", LIMIT, &["get", "nodes", "--no-headers"], |said| {
        said.lines().filter(|line| line.contains(" Ready")).count() == 3
    });
    curl("node-1", &format!("http://{vip}/")).ok();

    step("down leaves nothing");
    lab.lab(&["down"]).ok();
    Footprint::take().assert_unchanged_since(&before);
    for name in ["node-1", "node-2", "node-3"] {
        assert_eq!(containers_of(&lab.path().join(name), false), Vec::<String>::new(), "{name}");
    }
    lab.lab(&["down"]).ok();
}

#[test]
fn what_a_lab_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let lab = |arguments: &[&str]| {
        let mut command = skiff_tests::skiff(&["lab", "--dir", dir.path().to_str().unwrap()]);
        command.args(arguments);
        skiff_tests::run(command, None)
    };
    assert!(lab(&["status"]).refused().contains("skiff lab up"));
    assert!(lab(&["kill", "node-1"]).refused().contains("there is no lab"));
    assert!(lab(&["up", "--masters", "2"]).code > 0);
    assert!(lab(&["up", "--nodes", "1000"]).refused().contains("at most"));
    assert_eq!(lab(&["bogus"]).code, 2);
    lab(&["down"]).ok();
}
