//! Images and where they come from: a registry that wants a password, and a
//! disk on which there is no room for all of them.

#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::time::Duration;

use serde_json::{Value, json};
use skiff_tests::{Dockerd, Dockers, Registry, eventually, run, skiffctl, step};

const BUSYBOX: &str = "skiff-example/busybox:latest";
const MIB: usize = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);

/// A pod with one container; `more` goes into its spec.
fn pod(name: &str, image: &str, policy: &str, more: Value) -> Value {
    let mut spec = json!({"terminationGracePeriodSeconds": 0, "containers": [
        {"name": "c", "image": image, "imagePullPolicy": policy, "command": ["sleep", "3600"]}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
}

fn apply(lab: &Dockers, objects: &[Value]) {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    lab.kubectl_with(&["apply", "-f", "-"], &list.to_string()).ok();
}

/// The status of a pod's container, once `accept` takes it.
fn wait(lab: &Dockers, name: &str, accept: impl Fn(&Value) -> bool) -> Value {
    eventually(name, LIMIT, || {
        let said = lab.kubectl(&["get", "pod", name, "-o", "json"]).result()?;
        let pod: Value = serde_json::from_str(&said).map_err(|error| error.to_string())?;
        let status = &pod["status"]["containerStatuses"][0];
        if accept(status) { Ok(status.clone()) } else { Err(pod["status"].to_string()) }
    })
}

fn runs(status: &Value) -> bool {
    status["state"]["running"].is_object()
}

/// Waits until a pod waits because its image is not to be had, and both its
/// status and its events say `why`.
fn refused(lab: &Dockers, name: &str, why: &str) {
    let of = |status: &Value, key: &str| {
        status["state"]["waiting"][key].as_str().unwrap_or_default().to_owned()
    };
    wait(lab, name, |status| {
        matches!(of(status, "reason").as_str(), "ErrImagePull" | "ImagePullBackOff")
            && of(status, "message").contains(why)
    });
    let field = format!("involvedObject.name={name}");
    let path = r#"jsonpath={range .items[*]}{.reason}: {.message}{"\n"}{end}"#;
    let events = ["get", "events", "--field-selector", &field, "-o", path];
    lab.wait("its events", LIMIT, &events, |told| {
        let pulled =
            |line: &str| line.starts_with("Failed: Failed to pull image \"") && line.contains(why);
        told.lines().any(pulled) && told.contains("Failed: Error: ErrImagePull")
    });
}

/// A secret with the password of the registry.
fn secret(name: &str, password: &str) -> Value {
    let entry = json!({"username": Registry::USER, "password": password});
    let config = json!({"auths": {Registry::HOST: entry}}).to_string();
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
        "type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": config},
    })
}

#[test]
fn a_private_registry_gives_images_to_those_with_the_password() {
    let mut lab = Dockers::up(&[false]);
    let docker = lab.docker(1);
    docker.give(BUSYBOX);
    let local = docker.docker(&["inspect", "-f", "{{.Id}}", BUSYBOX]).ok();
    let registry = Registry::start(docker);
    let image = format!("{}/team/tool:1", Registry::HOST);
    let digest = registry.take(docker, BUSYBOX, &image);
    let exact = format!("{}/team/tool@{digest}", Registry::HOST);
    let with = |name: &str| json!({"imagePullSecrets": [{"name": name}]});

    step("without the password there is no image, and everybody is told why");
    let none = format!("{}/team/none:1", Registry::HOST);
    apply(
        &lab,
        &[
            secret("right", Registry::PASSWORD),
            secret("wrong", "close sesame"),
            pod("without", &image, "IfNotPresent", json!({})),
            pod("mistaken", &image, "IfNotPresent", with("wrong")),
            pod("nameless", &none, "IfNotPresent", with("right")),
        ],
    );
    refused(&lab, "without", "no basic auth credentials");
    refused(&lab, "mistaken", "unauthorized");
    refused(&lab, "nameless", "not found");
    wait(&lab, "without", |status| {
        let waiting = &status["state"]["waiting"];
        waiting["reason"] == "ImagePullBackOff"
            && waiting["message"].as_str().unwrap().contains("no basic auth credentials")
    });
    lab.kubectl(&["delete", "pod", "--all", "--now"]).ok();

    step("with it there is, by the pod, by its service account, and by digest");
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "puller"},
        "imagePullSecrets": [{"name": "right"}],
    });
    let puller = json!({"serviceAccountName": "puller"});
    apply(&lab, &[account, pod("own", &image, "IfNotPresent", with("right"))]);
    let mut mounting = pod("mounting", BUSYBOX, "Never", with("right"));
    mounting["spec"]["volumes"] =
        json!([{"name": "v", "image": {"reference": image, "pullPolicy": "Always"}}]);
    mounting["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    let own = wait(&lab, "own", runs);
    assert_eq!(own["imageID"], exact, "what was pulled is told by its digest");
    apply(
        &lab,
        &[
            pod("account", &image, "Always", puller),
            pod("exact", &exact, "Always", with("right")),
            mounting,
            pod("local", BUSYBOX, "IfNotPresent", json!({})),
            pod("asked", &image, "Always", json!({})),
        ],
    );
    for name in ["account", "exact"] {
        assert_eq!(wait(&lab, name, runs)["imageID"], exact, "{name}");
    }
    wait(&lab, "mounting", runs);
    let inside = lab.kubectl(&["exec", "mounting", "--", "ls", "/v/bin"]).ok();
    assert!(inside.contains("busybox"), "the image of a volume as well: {inside}");
    // That the image is here by now is nothing to one who has to ask.
    refused(&lab, "asked", "no basic auth credentials");

    step("nor to one who would not ask and has no password, under whatever name");
    // Docker no longer has the image by a name that somebody else gave it.
    lab.kubectl(&["delete", "pod", "local", "mounting", "--now"]).ok();
    lab.docker(1).docker(&["rmi", BUSYBOX]).ok();
    apply(
        &lab,
        &[
            secret("again", Registry::PASSWORD),
            pod("present", &image, "IfNotPresent", json!({})),
            pod("by-id", local.trim(), "Never", json!({})),
            pod("never", &exact, "Never", with("wrong")),
            pod("again", &exact, "Never", with("again")),
        ],
    );
    refused(&lab, "present", "no basic auth credentials");
    for name in ["by-id", "never"] {
        let waits = wait(&lab, name, |status| status["state"]["waiting"]["message"].is_string());
        let waiting = &waits["state"]["waiting"];
        assert_eq!(waiting["reason"], "ErrImageNeverPull", "{waiting}");
        let said = waiting["message"].as_str().unwrap();
        assert!(said.contains("image pull secret that this pod does not bring"), "{said}");
    }
    wait(&lab, "again", runs);

    step("while the registry is away, what is here runs, but not what has to be asked for");
    drop(registry);
    apply(
        &lab,
        &[
            pod("kept", &exact, "IfNotPresent", with("right")),
            pod("away", &image, "Always", with("right")),
        ],
    );
    wait(&lab, "kept", runs);
    refused(&lab, "away", "connection refused");

    step("what never was in a registry is told by its id");
    lab.kubectl(&["delete", "pod", "--all", "--now"]).ok();
    let docker = lab.docker(1);
    docker.give(BUSYBOX);
    docker.docker(&["rmi", &image]);
    docker.docker(&["rmi", &exact]);
    apply(&lab, &[pod("local", BUSYBOX, "IfNotPresent", json!({}))]);
    assert_eq!(wait(&lab, "local", runs)["imageID"], local.trim());
}

/// What the disk of the runtime has, in MiB, and what an image takes of it.
const DISK: u32 = 400;
const IMAGE: usize = 40;

/// Makes an image that takes as much as the others and shares nothing with them.
fn make(docker: &Dockerd, name: &str) {
    let mut blob = tempfile::NamedTempFile::new().unwrap();
    blob.write_all(name.as_bytes()).unwrap();
    for _ in 0..IMAGE {
        blob.write_all(&vec![b'x'; MIB]).unwrap();
    }
    docker.docker(&["create", "--name", "made", BUSYBOX]).ok();
    docker.docker(&["cp", blob.path().to_str().unwrap(), "made:/blob"]).ok();
    docker.docker(&["commit", "made", name]).ok();
    docker.docker(&["rm", "made"]).ok();
}

#[test]
fn on_a_full_disk_the_longest_unused_images_of_skiff_go() {
    let mut lab = Dockers::planned(&[false], Some(DISK));
    // Five images are below the high mark, six are not; four are below the low one.
    lab.set("SKIFF_IMAGE_GC_HIGH_THRESHOLD", "56");
    lab.set("SKIFF_IMAGE_GC_LOW_THRESHOLD", "43");
    lab.set("SKIFF_MINIMUM_IMAGE_TTL_DURATION", "0s");
    lab.begin(1, 1);
    lab.docker(1).give(BUSYBOX);

    step("some images are Skiff's, and one is not");
    let archives = tempfile::tempdir().unwrap();
    make(lab.docker(1), "theirs:1");
    let bring = |lab: &mut Dockers, name: &str| {
        let docker = lab.docker(1);
        make(docker, name);
        let archive = archives.path().join(name);
        let archive = archive.to_str().unwrap();
        docker.docker(&["save", "--output", archive, name]).ok();
        docker.docker(&["rmi", name]).ok();
        run(skiffctl(&lab.kubeconfig(), &["image", "load", archive]), None).ok();
    };
    for name in ["first:1", "second:1", "third:1", "used:1"] {
        bring(&mut lab, name);
    }
    let left = |lab: &mut Dockers| {
        let said = lab.docker(1).docker(&["images", "--format", "{{.Repository}}"]).ok();
        let names = ["theirs", "first", "second", "third", "used", "fourth"];
        names.into_iter().filter(|name| said.lines().any(|line| line == *name)).collect::<Vec<_>>()
    };
    assert_eq!(left(&mut lab), ["theirs", "first", "second", "third", "used"]);

    step("one is in use, and one was");
    apply(
        &lab,
        &[pod("uses", "used:1", "Never", json!({})), pod("used", "first:1", "Never", json!({}))],
    );
    for name in ["uses", "used"] {
        wait(&lab, name, runs);
    }
    lab.kubectl(&["delete", "pod", "used"]).ok();
    let containers = ["ps", "--all", "--quiet", "--filter", "ancestor=first:1"];
    eventually("its container is gone", LIMIT, || {
        let said = lab.docker(1).docker(&containers).ok();
        if said.is_empty() { Ok(()) } else { Err(said) }
    });

    step("another one makes the disk too full: two have to go");
    bring(&mut lab, "fourth:1");
    let expected = ["theirs", "first", "used", "fourth"];
    eventually("room is made", LIMIT, || {
        let left = left(&mut lab);
        if left == expected { Ok(()) } else { Err(format!("{left:?}")) }
    });
    let used = lab.docker(1).docker(&["ps", "--quiet", "--filter", "ancestor=used:1"]).ok();
    assert_eq!(used.lines().count(), 1);
}
