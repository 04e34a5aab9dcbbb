//! Volumes that outlive their pods, images on the nodes, and what they use: a
//! lab of two nodes.

#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::time::Duration;

use skiff_tests::{Lab, Output, run, skiffctl, step};

const LIMIT: Duration = Duration::from_secs(60);

/// A claim of this name; `more` are further lines of its spec.
fn claim(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata:\n  name: {name}\nspec:\n  \
         accessModes: [ReadWriteOnce]\n  resources:\n    requests:\n      storage: 1Mi\n{more}"
    )
}

/// A pod that runs `script` with the claim of its volume at `/data`.
fn pod(name: &str, claim: &str, script: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  restartPolicy: Never\n  \
         terminationGracePeriodSeconds: 0\n  containers:\n  - name: c\n    image: skiff-example/busybox:latest\n    \
         imagePullPolicy: IfNotPresent\n    command: [sh, -c, {script:?}]\n    volumeMounts:\n    - name: v\n      \
         mountPath: /data\n  volumes:\n  - name: v\n    persistentVolumeClaim:\n      claimName: {claim}\n"
    )
}

fn field(lab: &Lab, object: &str, path: &str) -> String {
    lab.kubectl(&["get", object, "-o", &format!("jsonpath={{{path}}}")]).ok()
}

fn image(lab: &Lab, arguments: &[&str]) -> Output {
    run(skiffctl(&lab.kubeconfig(), &[&["image"], arguments].concat()), None)
}

fn docker(arguments: &[&str]) -> Output {
    let mut command = Command::new("docker");
    command.args(arguments);
    run(command, None)
}

#[test]
fn data_outlives_pods_and_images_reach_every_node() {
    let lab = Lab::up(2);
    let create = |text: &str| lab.kubectl_with(&["apply", "-f", "-"], text).ok();

    step("a claim without a class waits for its first pod");
    create(&claim("data", ""));
    assert_eq!(field(&lab, "pvc/data", ".spec.storageClassName"), "local");
    lab.wait("the reason", LIMIT, &["describe", "pvc", "data"], |said| {
        said.contains("waiting for first consumer to be created before binding")
    });

    step("the pod gets a folder on its node");
    create(&pod("writer", "data", "echo kept > /data/file; sleep 3600"));
    lab.kubectl(&["wait", "--for=condition=Ready", "pod/writer", "--timeout=60s"]).ok();
    assert_eq!(field(&lab, "pvc/data", ".status.phase"), "Bound");
    let node = field(&lab, "pod/writer", ".spec.nodeName");
    let volume = field(&lab, "pvc/data", ".spec.volumeName");
    let folder = field(&lab, &format!("pv/{volume}"), ".spec.local.path");
    assert_eq!(std::fs::read_to_string(format!("{folder}/file")).unwrap(), "kept\n");
    assert!(folder.contains(&node), "{folder} is not on {node}");

    step("a later pod finds the data, and only on that node");
    create(&pod("reader", "data", "cat /data/file; sleep 3600"));
    lab.kubectl(&["wait", "--for=condition=Ready", "pod/reader", "--timeout=60s"]).ok();
    assert_eq!(field(&lab, "pod/reader", ".spec.nodeName"), node);
    lab.wait("its output", LIMIT, &["logs", "reader"], |said| said.trim() == "kept");
    lab.kubectl(&["cordon", &node]).ok();
    create(&pod("stranger", "data", "true"));
    lab.wait("why it waits", LIMIT, &["describe", "pod", "stranger"], |said| {
        said.contains("1 node(s) didn't match PersistentVolume's node affinity")
    });
    lab.kubectl(&["uncordon", &node]).ok();

    step("a claim in use stays; then claim, volume and folder go");
    lab.kubectl(&["delete", "pvc", "data", "--wait=false"]).ok();
    assert_ne!(field(&lab, "pvc/data", ".metadata.deletionTimestamp"), "");
    assert!(std::path::Path::new(&folder).exists());
    lab.kubectl(&["delete", "pod", "writer", "reader", "stranger", "--now"]).ok();
    lab.wait("no claims and volumes", LIMIT, &["get", "pvc,pv", "--no-headers"], str::is_empty);
    assert!(!std::path::Path::new(&folder).exists(), "{folder} is left");

    step("a volume made by hand binds to the claim that fits, and is kept");
    let mine = tempfile::tempdir().unwrap();
    let path = mine.path().to_str().unwrap();
    create(&format!(
        "apiVersion: v1\nkind: PersistentVolume\nmetadata:\n  name: disk\nspec:\n  capacity:\n    storage: 5Mi\n  \
         accessModes: [ReadWriteOnce]\n  storageClassName: manual\n  local:\n    path: {path}\n  nodeAffinity:\n    \
         required:\n      nodeSelectorTerms:\n      - matchExpressions:\n        - key: kubernetes.io/hostname\n          \
         operator: In\n          values: [node-2]\n"
    ));
    create(&claim("large", "  storageClassName: manual\n  volumeMode: Block\n"));
    create(&claim("fits", "  storageClassName: manual\n"));
    lab.wait("it is bound", LIMIT, &["get", "pv", "disk", "--no-headers"], |said| {
        said.contains("Bound") && said.contains("default/fits")
    });
    assert_eq!(field(&lab, "pvc/large", ".status.phase"), "Pending");
    create(&pod("user", "fits", "echo mine > /data/file"));
    lab.wait("it has run", LIMIT, &["get", "pod", "user", "--no-headers"], |said| {
        said.contains("Completed")
    });
    assert_eq!(field(&lab, "pod/user", ".spec.nodeName"), "node-2");
    lab.kubectl(&["delete", "pod/user", "pvc/fits", "pvc/large"]).ok();
    lab.wait("it is released", LIMIT, &["get", "pv", "disk", "--no-headers"], |said| {
        said.contains("Released")
    });
    assert_eq!(std::fs::read_to_string(mine.path().join("file")).unwrap(), "mine\n");

    step("an image is put on every node, listed and removed");
    let name = format!("skiff-e2e/copy-{}:1", std::process::id());
    let tar = mine.path().join("image.tar");
    docker(&["tag", "skiff-example/busybox:latest", &name]).ok();
    docker(&["save", "-o", tar.to_str().unwrap(), &name]).ok();
    docker(&["rmi", &name]).ok();
    assert!(!image(&lab, &["ls"]).ok().contains(&name));
    let loaded = image(&lab, &["load", tar.to_str().unwrap()]).ok();
    for node in ["node-1", "node-2"] {
        assert!(loaded.contains(&format!("{name} loaded on node/{node}")), "{loaded}");
    }
    let listed = image(&lab, &["ls"]).ok();
    let row = listed.lines().find(|line| line.starts_with(&name)).unwrap();
    assert!(row.ends_with("node-1,node-2"), "{row}");
    image(&lab, &["rm", &name]).ok();
    assert!(image(&lab, &["rm", &name]).refused().contains("no node has an image"));
    std::fs::write(&tar, "this is no tar").unwrap();
    assert!(image(&lab, &["load", tar.to_str().unwrap()]).refused().contains("is not loaded"));

    step("top shows nodes and pods");
    create(&claim("busy", ""));
    create(&pod("busy", "busy", "while true; do :; done"));
    lab.kubectl(&["wait", "--for=condition=Ready", "pod/busy", "--timeout=60s"]).ok();
    let nodes = lab.kubectl(&["top", "nodes", "--no-headers"]).ok();
    assert_eq!(nodes.lines().count(), 2, "{nodes}");
    lab.wait("its use of CPU", LIMIT, &["top", "pod", "busy", "--no-headers"], |said| {
        let milli =
            said.split_whitespace().nth(1).and_then(|cpu| cpu.strip_suffix('m')?.parse().ok());
        milli.is_some_and(|milli: u64| milli > 50)
    });
}
