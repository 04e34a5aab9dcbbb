//! A node whose disk runs full: what it says, who goes, and that it needs no API
//! server for it.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use skiff_tests::{Lab, SmallDisk, eventually, step};

const MIB: usize = 1 << 20;
/// The room on the node's disk, and what has to be left of it.
const DISK_MIB: u32 = 400;
const LEFT: &str = "nodefs.available<200Mi";

/// A pod with a volume; `request` is of `ephemeral-storage`.
fn pod(name: &str, request: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: skiff-example/busybox:latest
    imagePullPolicy: Never
    command: [sleep, \"3600\"]
    resources: {{requests: {{ephemeral-storage: {request}}}}}
    volumeMounts: [{{name: scratch, mountPath: /scratch}}]
  volumes: [{{name: scratch, emptyDir: {{}}}}]
"
    )
}

/// Writes so much into a pod's volume.
fn write(dir: &Path, mebibytes: usize) {
    let mut file = File::create(dir.join("file")).unwrap();
    for _ in 0..mebibytes {
        file.write_all(&vec![b'x'; MIB]).unwrap();
    }
}

fn until(what: &str, check: impl Fn() -> Result<(), String>) {
    eventually(what, Duration::from_secs(60), check);
}

fn same(found: String, expected: &str) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(found) }
}

#[test]
fn a_node_without_room_evicts_who_takes_most() {
    let mut lab = Lab::planned();
    // Declared after the lab, so that it goes first: the lab removes its folder.
    let _disk = SmallDisk::mount(&lab.path().join("node-1"), DISK_MIB);
    lab.set("SKIFF_EVICTION_HARD", LEFT);
    lab.set("SKIFF_EVICTION_PRESSURE_TRANSITION_PERIOD", "10s");
    lab.begin(1, 1);
    let kubectl = |line: &str| lab.kubectl(&line.split(' ').collect::<Vec<_>>());
    let get = |what: &str, path: &str| kubectl(&format!("get {what} -o jsonpath={{{path}}}")).ok();
    let pressure = || get("node node-1", ".status.conditions[?(@.type=='DiskPressure')].status");
    let taints = || get("node node-1", ".spec.taints[*].key");
    let volume = |pod: &str| {
        let uid = get(&format!("pod {pod}"), ".metadata.uid");
        lab.path().join("node-1/pods").join(uid).join("volumes/scratch")
    };
    for (name, request) in [("modest", "80Mi"), ("hoarder", "10Mi"), ("late", "10Mi")] {
        lab.kubectl_with(&["apply", "-f", "-"], &pod(name, request)).ok();
    }
    kubectl("wait --for=condition=Ready pod/modest pod/hoarder pod/late --timeout=60s").ok();
    let allocatable = get("node node-1", ".status.allocatable.ephemeral-storage");
    assert_ne!(allocatable, get("node node-1", ".status.capacity.ephemeral-storage"));
    assert_eq!((pressure().as_str(), taints().as_str()), ("False", ""));

    step("the pod that is furthest beyond its request goes");
    write(&volume("modest"), 60);
    let files = volume("hoarder");
    write(&files, 160);
    until("it is evicted", || same(get("pod hoarder", ".status.reason"), "Evicted"));
    let said = get("pod hoarder", ".status.message");
    let begin =
        "The node was low on resource: ephemeral-storage. Threshold quantity: 200Mi, available: ";
    assert!(said.starts_with(begin), "{said}");
    let target = ".status.conditions[?(@.type=='DisruptionTarget')].reason";
    assert_eq!(get("pod hoarder", target), "TerminationByKubelet");

    step("the node says so for as long as it has been told to, and takes nobody");
    until("the condition", || same(pressure(), "True"));
    until("the taint", || same(taints(), "node.kubernetes.io/disk-pressure"));
    until("its files are gone", || if files.exists() { Err("still there".into()) } else { Ok(()) });
    until("the condition is over", || same(pressure(), "False"));
    until("the taint is gone", || same(taints(), ""));
    assert_eq!(get("pod modest", ".status.phase"), "Running");

    step("while no API server answers, too, which hears of it later");
    let files = volume("late");
    lab.lab(&["kill", "master-1"]).ok();
    write(&files, 160);
    until("its files are gone", || if files.exists() { Err("still there".into()) } else { Ok(()) });
    lab.lab(&["start", "master-1"]).ok();
    until("it is told", || {
        let asked = kubectl("get pod late -o jsonpath={.status.reason}").result()?;
        same(asked, "Evicted")
    });
    assert_eq!(get("pod modest", ".status.phase"), "Running");
}
