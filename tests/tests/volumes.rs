//! Volumes that outlive their pods, images on the nodes, and what they use: a
//! lab of two nodes.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
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

    step("a claim for one pod is for one, also for pods that come past the scheduler");
    create(&claim("alone", "").replace("ReadWriteOnce", "ReadWriteOncePod"));
    create(&pod("first", "alone", "sleep 3600"));
    lab.kubectl(&["wait", "--for=condition=Ready", "pod/first", "--timeout=60s"]).ok();
    let node = field(&lab, "pod/first", ".spec.nodeName");
    let second = pod("second", "alone", "sleep 3600");
    create(&second.replace("spec:\n", &format!("spec:\n  nodeName: {node}\n")));
    lab.wait("why it waits", LIMIT, &["describe", "pod", "second"], |said| {
        said.contains("ReadWriteOncePod access mode and is already in use by another pod")
    });
    lab.kubectl(&["delete", "pod", "first", "--now"]).ok();
    lab.kubectl(&["wait", "--for=condition=Ready", "pod/second", "--timeout=60s"]).ok();
    lab.kubectl(&["delete", "pod/second", "pvc/alone", "--now"]).ok();
    lab.wait("no claims and volumes", LIMIT, &["get", "pvc,pv", "--no-headers"], str::is_empty);

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

/// Volumes that begin and end with their pod.
const OWN: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: own}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: skiff-example/busybox:latest
    imagePullPolicy: Never
    command: [sh, -c, "echo kept > /scratch/file && sleep 3600"]
    volumeMounts:
    - {name: scratch, mountPath: /scratch}
    - {name: tool, mountPath: /tool}
    - {name: tool, mountPath: /part, subPath: bin}
    - {name: host, mountPath: /plain, readOnly: true}
    - {name: above, mountPath: /sub, subPath: outer}
    - {name: host, mountPath: /deep, readOnly: true, recursiveReadOnly: Enabled}
  volumes:
  - name: scratch
    ephemeral:
      volumeClaimTemplate:
        metadata: {labels: {tier: scratch}}
        spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
  - {name: tool, image: {reference: "skiff-example/busybox:latest", pullPolicy: Never}}
  - {name: host, hostPath: {path: /dev}}
  - {name: above, hostPath: {path: MOUNTED}}
"#;

/// A folder of the machine with a mount in a mount that is shared, as all are
/// where systemd made them.
struct Shared(tempfile::TempDir);

impl Shared {
    fn new() -> Self {
        let shared = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(shared.outer()).unwrap();
        let mount = |words: &[&str]| {
            let mut command = Command::new("mount");
            command.args(words);
            run(command, None).ok()
        };
        let (outer, inner) = (shared.outer(), shared.inner());
        mount(&["-t", "tmpfs", "skiff-e2e", outer.to_str().unwrap()]);
        mount(&["--make-shared", outer.to_str().unwrap()]);
        std::fs::create_dir(&inner).unwrap();
        mount(&["-t", "tmpfs", "skiff-e2e", inner.to_str().unwrap()]);
        shared
    }

    fn outer(&self) -> PathBuf {
        self.0.path().join("outer")
    }

    fn inner(&self) -> PathBuf {
        self.outer().join("inner")
    }

    fn is_whole(&self) -> bool {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut points = table.lines().filter_map(|line| line.split(' ').nth(4));
        points.any(|point| Path::new(point) == self.inner())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let mut command = Command::new("umount");
        command.arg("-R").arg(self.outer());
        run(command, None);
    }
}

/// Shows a key of a config map, whole and by `subPath`, and ends when told to.
const SHOWN: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: shown}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: skiff-example/busybox:latest
    imagePullPolicy: Never
    command: [sh, -c, "cat /part; echo; while ! rm /end; do sleep 0.1; done 2>/dev/null"]
    volumeMounts:
    - {name: conf, mountPath: /all}
    - {name: conf, mountPath: /part, subPath: key}
  volumes:
  - {name: conf, configMap: {name: conf}}
"#;

#[test]
fn some_volumes_come_with_their_pod() {
    let lab = Lab::up(1);
    let create = |text: &str| lab.kubectl_with(&["apply", "-f", "-"], text).ok();
    let shared = Shared::new();
    let inside = |command: &str| lab.kubectl(&["exec", "own", "--", "sh", "-c", command]);
    let own = OWN.replace("MOUNTED", shared.0.path().to_str().unwrap());
    create(&own);
    lab.kubectl(&["wait", "--for=condition=Ready", "pod/own", "--timeout=60s"]).ok();

    step("a claim was made for it");
    assert_eq!(field(&lab, "pvc/own-scratch", ".status.phase"), "Bound");
    assert_eq!(field(&lab, "pvc/own-scratch", ".metadata.labels.tier"), "scratch");
    assert_eq!(field(&lab, "pvc/own-scratch", ".metadata.ownerReferences[0].name"), "own");

    step("an image's files are there as they are, and stay so");
    assert!(inside("ls /tool/bin").ok().contains("busybox"));
    assert_eq!(inside("ls /part").ok(), inside("ls /tool/bin").ok());
    assert_eq!(inside("ls -a /tool | grep -c dockerenv").stdout.trim(), "0", "the engine's file");
    assert!(inside("touch /tool/new").refused().contains("Read-only file system"));

    step("a mount is read-only in depth only where that is asked for");
    let name = format!("skiff-e2e-{}", std::process::id());
    inside(&format!("touch /plain/shm/{name} && rm /plain/shm/{name}")).ok();
    assert!(inside("touch /plain/new").refused().contains("Read-only file system"));
    let refused = inside(&format!("touch /deep/shm/{name}")).refused();
    assert!(refused.contains("Read-only file system"), "{refused}");
    for (path, told) in [("/plain", "Disabled"), ("/deep", "Enabled")] {
        let mount = format!("volumeMounts[?(@.mountPath=='{path}')].recursiveReadOnly");
        assert_eq!(field(&lab, "pod/own", &format!(".status.containerStatuses[0].{mount}")), told);
    }

    step("a container that starts anew finds the new file behind its subPath");
    lab.kubectl(&["create", "configmap", "conf", "--from-literal=key=old"]).ok();
    create(SHOWN);
    lab.wait("the old value", LIMIT, &["logs", "shown"], |said| said.trim() == "old");
    let new = r#"{"data": {"key": "new"}}"#;
    lab.kubectl(&["patch", "configmap", "conf", "--type=merge", "-p", new]).ok();
    let whole = ["exec", "shown", "--", "cat", "/all/key"];
    lab.wait("the new value", LIMIT, &whole, |said| said == "new");
    lab.kubectl(&["exec", "shown", "--", "touch", "/end"]).ok();
    lab.wait("the new value by subPath", LIMIT, &["logs", "shown"], |said| said.trim() == "new");
    lab.kubectl(&["delete", "pod/shown", "configmap/conf", "--now"]).ok();

    step("a claim that came before there was a default class gets it");
    let default = |is: &str| {
        let annotation = format!("storageclass.kubernetes.io/is-default-class={is}");
        lab.kubectl(&["annotate", "sc", "local", "--overwrite", &annotation]).ok();
    };
    default("false");
    create(&claim("early", ""));
    assert_eq!(field(&lab, "pvc/early", ".spec.storageClassName"), "");
    default("true");
    let class = ["get", "pvc/early", "-o", "jsonpath={.spec.storageClassName}"];
    lab.wait("its class", LIMIT, &class, |said| said == "local");
    lab.kubectl(&["delete", "pvc/early"]).ok();

    step("a claim that is somebody else's is not taken");
    create(&claim("other-scratch", ""));
    create(&own.replace("name: own", "name: other"));
    lab.wait("why it waits", LIMIT, &["describe", "pod", "other"], |said| {
        said.contains(
            "PVC default/other-scratch was not created for pod default/other (pod is not owner)",
        )
    });
    assert_eq!(field(&lab, "pod/other", ".status.phase"), "Pending");

    step("an image that is nowhere shows at the containers");
    let nowhere = own
        .replace("name: own", "name: none")
        .replace("\"skiff-example/busybox:latest\"", "none:1");
    create(&nowhere);
    lab.wait("the reason", LIMIT, &["get", "pod", "none", "--no-headers"], |said| {
        said.contains("ErrImageNeverPull")
    });

    step("what an image lacks shows at the container that wants it");
    create(&own.replace("name: own", "name: part").replace("subPath: bin", "subPath: none"));
    lab.wait("the reason", LIMIT, &["get", "pod", "part", "--no-headers"], |said| {
        said.contains("CreateContainerError")
    });

    step("the claims go with their pods, the other one and what is the host's stay");
    assert!(inside("ls /sub").ok().contains("inner") && shared.is_whole());
    lab.kubectl(&["delete", "pod", "--all", "--now"]).ok();
    assert!(shared.is_whole());
    lab.wait("only one claim is left", LIMIT, &["get", "pvc", "--no-headers"], |said| {
        said.lines().count() == 1 && said.starts_with("other-scratch")
    });
}
