//! A machine that gets another address while its cluster runs, as a laptop does
//! between two networks.

#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::time::Duration;

use skiff_tests::{Cluster, eventually, run, step};

const LIMIT: Duration = Duration::from_secs(60);
const FIRST: &str = "172.30.9.1";
const SECOND: &str = "172.30.10.1";

/// A network namespace with one network card, removed at the end.
struct Machine {
    namespace: String,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { namespace: format!("skiff-moved-{}", std::process::id()) };
        machine.host(&["netns", "add", &machine.namespace]);
        machine.ip(&["link", "set", "lo", "up"]);
        machine.ip(&["link", "add", "card", "type", "veth", "peer", "name", "socket"]);
        machine.ip(&["link", "set", "socket", "up"]);
        machine.ip(&["link", "set", "card", "up"]);
        machine.ip(&["address", "add", &format!("{FIRST}/24"), "dev", "card"]);
        machine.ip(&["route", "add", "default", "dev", "card"]);
        machine
    }

    fn host(&self, arguments: &[&str]) {
        let mut command = Command::new("ip");
        command.args(arguments);
        run(command, None).ok();
    }

    fn ip(&self, arguments: &[&str]) {
        self.host(&[&["-n", &self.namespace], arguments].concat());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let mut delete = Command::new("ip");
        delete.args(["netns", "delete", &self.namespace]);
        let output = run(delete, None);
        if output.code != 0 {
            eprintln!("clean-up failed: {}", output.stderr);
        }
    }
}

#[test]
fn a_machine_moves_and_its_pods_run_on() {
    let machine = Machine::new();
    let cluster = Cluster::up_in(&machine.namespace);
    let ask = |path: &str, object: &[&str]| {
        let mut line = vec!["get"];
        line.extend(object);
        let output = format!("jsonpath={{{path}}}");
        line.extend(["-o", &output]);
        cluster.kubectl(&line).result()
    };
    let address = r#".status.addresses[?(@.type=="InternalIP")].address"#;

    step("a pod runs, reached through the node's first address");
    assert_eq!(ask(address, &["node", "solo"]).unwrap(), FIRST);
    let image = "--image=skiff-example/busybox:latest";
    let sleep = ["--image-pull-policy=IfNotPresent", "--", "sleep", "3600"];
    cluster.kubectl(&[&["run", "stays", image], &sleep[..]].concat()).ok();
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/stays", "--timeout=60s"]).ok();
    assert_eq!(cluster.kubectl(&["exec", "stays", "--", "echo", "before"]).ok(), "before");
    let container = ask(".status.containerStatuses[0].containerID", &["pod", "stays"]).unwrap();
    let process = cluster.pid();

    step("the address changes, and the node says so");
    machine.ip(&["address", "add", &format!("{SECOND}/24"), "dev", "card"]);
    machine.ip(&["address", "delete", &format!("{FIRST}/24"), "dev", "card"]);
    eventually("the node's new address", LIMIT, || {
        match ask(address, &["node", "solo"])?.as_str() {
            SECOND => Ok(()),
            other => Err(other.to_owned()),
        }
    });

    step("the pod runs on and is reached through the new one");
    eventually("the pod's host", LIMIT, || {
        match ask(".status.hostIP", &["pod", "stays"])?.as_str() {
            SECOND => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    eventually("a command in the pod", LIMIT, || {
        cluster.kubectl(&["exec", "stays", "--", "echo", "after"]).result()
    });
    let same = ask(".status.containerStatuses[0].containerID", &["pod", "stays"]).unwrap();
    assert_eq!(same, container, "nothing was restarted");
    assert_eq!(cluster.pid(), process, "the daemon is the same process");

    step("a new pod comes up as well, and the service of the API leads to the new address");
    cluster.kubectl(&[&["run", "new", image], &sleep[..]].concat()).ok();
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/new", "--timeout=60s"]).ok();
    let endpoint = ask(".subsets[0].addresses[0].ip", &["endpoints", "kubernetes"]).unwrap();
    assert_eq!(endpoint, SECOND);
}
