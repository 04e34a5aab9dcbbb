//! Every folder of `examples/` on a lab of two nodes: applied with real
//! `kubectl`, and waited for until it is what its comments promise. A folder
//! without a test here fails the test, so that examples cannot rot.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use skiff_tests::{Lab, eventually, repository, step};

const LIMIT: Duration = Duration::from_secs(60);

/// Waits for what a folder promises, once it was applied.
type Check = fn(&Lab);

/// The check of each folder.
const CHECKS: [(&str, Check); 7] = [
    ("daemonset", daemonset),
    ("guestbook", guestbook),
    ("jobs", jobs),
    ("pods", pods),
    ("scheduling", scheduling),
    ("services", services),
    ("tutorial-2018", tutorial_2018),
];

#[test]
fn every_example_is_as_it_says() {
    assert_eq!(folders(), CHECKS.iter().map(|(folder, _)| (*folder).to_owned()).collect());
    let lab = Lab::up(2);
    for (folder, check) in CHECKS {
        step(folder);
        let path = repository().join("examples").join(folder);
        let path = path.to_str().unwrap();
        lab.kubectl(&["apply", "-f", path]).ok();
        check(&lab);
        lab.kubectl(&["delete", "-f", path, "--timeout=60s"]).ok();
        kubectl_until(&lab, "no pods are left", "get pods -o name", str::is_empty);
    }
}

/// The folders of examples that hold manifests.
fn folders() -> BTreeSet<String> {
    let entries = std::fs::read_dir(repository().join("examples")).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !matches!(name.as_str(), "images" | "systemd"))
        .collect()
}

/// A `kubectl` command without spaces in its words, which has to succeed.
#[track_caller]
fn kubectl(lab: &Lab, line: &str) -> String {
    lab.kubectl(&line.split(' ').collect::<Vec<_>>()).ok()
}

#[track_caller]
fn kubectl_until(lab: &Lab, what: &str, line: &str, accept: impl Fn(&str) -> bool) -> String {
    lab.wait(what, LIMIT, &line.split(' ').collect::<Vec<_>>(), accept)
}

#[track_caller]
fn ready(lab: &Lab, pod: &str) {
    kubectl(lab, &format!("wait --for=condition=Ready pod/{pod} --timeout=60s"));
}

#[track_caller]
fn rolled_out(lab: &Lab, workload: &str) {
    kubectl(lab, &format!("rollout status {workload} --timeout=60s"));
}

/// Runs a shell command in a pod.
fn shell(lab: &Lab, pod: &str, command: &str) -> skiff_tests::Output {
    lab.kubectl(&["exec", pod, "--", "sh", "-c", command])
}

/// How many pods with this label run on each node.
fn pods_per_node(lab: &Lab, selector: &str) -> BTreeMap<String, usize> {
    let query = "jsonpath={range .items[*]}{.spec.nodeName}{\"\\n\"}{end}";
    let said = lab.kubectl(&["get", "pods", "-l", selector, "-o", query]).ok();
    let mut counts = BTreeMap::new();
    for node in said.lines() {
        *counts.entry(node.to_owned()).or_default() += 1;
    }
    counts
}

fn node_of(lab: &Lab, pod: &str) -> String {
    kubectl(lab, &format!("get pod {pod} -o jsonpath={{.spec.nodeName}}"))
}

/// Asks for a page from one of the lab's machines until it answers.
#[track_caller]
fn page(lab: &Lab, url: &str) -> String {
    eventually(url, LIMIT, || {
        lab.exec("node-1", &["curl", "-sS", "--fail", "--max-time", "5", url]).result()
    })
}

fn daemonset(lab: &Lab) {
    rolled_out(lab, "daemonset/node-page");
    let expected = [("node-1".to_owned(), 1), ("node-2".to_owned(), 1)];
    assert_eq!(pods_per_node(lab, "app=node-page"), expected.into());
    for machine in lab.machines().iter().filter(|machine| machine["role"] == "node") {
        let url = format!("http://{}:8099/", machine["address"].as_str().unwrap());
        assert_eq!(page(lab, &url), machine["name"].as_str().unwrap());
    }
}

fn guestbook(lab: &Lab) {
    rolled_out(lab, "deployment/redis");
    rolled_out(lab, "deployment/flask-app");
    let address = kubectl(lab, "get service flask-app -o jsonpath={.spec.clusterIP}");
    let answer = page(lab, &format!("http://{address}/"));
    assert!(answer.contains("Redis counter value="), "{answer}");
}

fn jobs(lab: &Lab) {
    kubectl(lab, "wait --for=condition=complete job/parallel --timeout=60s");
    let said = kubectl(lab, "logs -l job-name=parallel");
    let numbers: BTreeSet<&str> = said.lines().collect();
    let expected: Vec<String> = (0..6).map(|number| format!("number {number}")).collect();
    assert_eq!(numbers, expected.iter().map(String::as_str).collect());
    kubectl(lab, "wait --for=condition=failed job/failing --timeout=60s");
    assert_eq!(kubectl(lab, "get job failing -o jsonpath={.status.failed}"), "2");
}

fn pods(lab: &Lab) {
    for pod in ["probes", "init-and-sidecar", "volumes", "security-context"] {
        ready(lab, pod);
    }
    probes(lab);

    assert_eq!(kubectl(lab, "logs init-and-sidecar -c prepare"), "");
    kubectl_until(
        lab,
        "the sidecar reads what both others wrote",
        "logs init-and-sidecar -c log-reader",
        |said| said.starts_with("prepared\n"),
    );

    let variables = shell(lab, "volumes", "echo $COLOR, $PASSWORD, $GREETING, $MEMORY_LIMIT").ok();
    let node = node_of(lab, "volumes");
    assert_eq!(variables, format!("green, open-sesame, I run on {node}, 33554432"));
    let files = "cat /config/color; echo; cat /secret/password; echo; cat /about/labels; echo; \
                 cat /everything/color /everything/name /everything/password; echo; \
                 cat /etc/app.properties; stat -Lc %a /secret/password";
    let expected = "green\nopen-sesame\napp=\"volumes\"\ntier=\"example\"\n\
                    greenvolumesopen-sesame\ncolor.fallback = grey\n400";
    assert_eq!(shell(lab, "volumes", files).ok(), expected);

    assert_eq!(shell(lab, "security-context", "id").ok(), "uid=1000 gid=1000 groups=1000,2000");
    assert!(shell(lab, "security-context", "touch /file").refused().contains("Read-only"));
    shell(lab, "security-context", "touch /data/file").ok();
    let granted = shell(lab, "security-context", "grep -E 'CapBnd|NoNewPrivs' /proc/1/status").ok();
    assert_eq!(
        granted.split_whitespace().collect::<Vec<_>>(),
        ["CapBnd:", "0000000000000000", "NoNewPrivs:", "1"]
    );
}

/// Not ready is not restarted, not alive is.
fn probes(lab: &Lab) {
    shell(lab, "probes", "rm /www/ready").ok();
    kubectl(lab, "wait --for=condition=Ready=false pod/probes --timeout=60s");
    let restarts = "get pod probes -o jsonpath={.status.containerStatuses[0].restartCount}";
    assert_eq!(kubectl(lab, restarts), "0");
    shell(lab, "probes", "rm /tmp/alive").ok();
    kubectl_until(lab, "a restart", restarts, |said| said == "1");
    ready(lab, "probes");
}

fn scheduling(lab: &Lab) {
    rolled_out(lab, "deployment/spread");
    let two_each = [("node-1".to_owned(), 2), ("node-2".to_owned(), 2)];
    assert_eq!(pods_per_node(lab, "app=spread"), two_each.into());
    rolled_out(lab, "deployment/anti-affinity");
    let one_each = [("node-1".to_owned(), 1), ("node-2".to_owned(), 1)];
    assert_eq!(pods_per_node(lab, "app=anti-affinity"), one_each.into());
    ready(lab, "node-affinity");
    ready(lab, "pod-affinity");
    assert_eq!(node_of(lab, "pod-affinity"), node_of(lab, "node-affinity"));

    // What waits says why, and goes on when a node fits.
    kubectl_until(
        lab,
        "the reason",
        "get events --field-selector reason=FailedScheduling,involvedObject.name=node-selector",
        |said| {
            said.contains(
                "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector",
            )
        },
    );
    kubectl(lab, "label node node-2 disk=ssd");
    ready(lab, "node-selector");
    assert_eq!(node_of(lab, "node-selector"), "node-2");

    kubectl(lab, "taint node node-1 dedicated=gpu:NoSchedule");
    kubectl(lab, "label node node-1 dedicated=gpu");
    ready(lab, "tolerates");
    assert_eq!(node_of(lab, "tolerates"), "node-1");
    // Its first life began before the taint.
    let file = repository().join("examples/scheduling/tolerations.yaml");
    lab.kubectl(&["replace", "--force", "-f", file.to_str().unwrap()]).ok();
    ready(lab, "keeps-away");
    assert_eq!(node_of(lab, "keeps-away"), "node-2");
    for line in
        ["taint node node-1 dedicated-", "label node node-1 dedicated-", "label node node-2 disk-"]
    {
        kubectl(lab, line);
    }
}

fn services(lab: &Lab) {
    rolled_out(lab, "deployment/who");
    ready(lab, "client");
    let names = kubectl(lab, "get pods -l app=who -o jsonpath={.items[*].metadata.name}");
    let names: BTreeSet<&str> = names.split(' ').collect();
    let ask = |url: &str| {
        eventually(url, LIMIT, || {
            // Not `wget -T`: the static busybox of this image breaks off with it.
            shell(lab, "client", &format!("timeout 5 wget -q -O - {url}")).result()
        })
    };
    for url in ["http://cluster-ip/", "http://alias/", "http://headless:8080/"] {
        assert!(names.contains(ask(url).as_str()), "{url}");
    }
    let met: BTreeSet<String> = (0..8).map(|_| ask("http://sticky/")).collect();
    assert_eq!(met.len(), 1, "one client always meets the same pod");
    let node = kubectl(lab, "get node node-2 -o jsonpath={.status.addresses[0].address}");
    assert!(names.contains(page(lab, &format!("http://{node}:30081/")).as_str()));

    let mut addresses: Vec<String> =
        kubectl(lab, "get pods -l app=who -o jsonpath={.items[*].status.podIP}")
            .split(' ')
            .map(str::to_owned)
            .collect();
    let said = shell(lab, "client", "nslookup headless.default.svc.cluster.local").ok();
    let mut answered: Vec<String> = (said.lines())
        .filter_map(|line| line.strip_prefix("Address: "))
        .map(|address| address.trim().to_owned())
        .collect();
    addresses.sort();
    answered.sort();
    assert_eq!(answered, addresses);
}

fn tutorial_2018(lab: &Lab) {
    rolled_out(lab, "deployment/tutorial");
    assert_eq!(kubectl(lab, "get deployment tutorial -o jsonpath={.apiVersion}"), "apps/v1");
    let selector = kubectl(lab, "get deployment tutorial -o jsonpath={.spec.selector.matchLabels}");
    assert_eq!(selector, r#"{"run":"tutorial"}"#);
    let port = kubectl(lab, "get service tutorial -o jsonpath={.spec.ports[0].nodePort}");
    let node = kubectl(lab, "get node node-1 -o jsonpath={.status.addresses[0].address}");
    assert_eq!(page(lab, &format!("http://{node}:{port}/healthz")), "ok");
}
