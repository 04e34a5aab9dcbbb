//! `skiff backup` and `skiff restore` of a cluster that runs.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use skiff_tests::{Footprint, Lab, Output, run, skiff, step};

const LIMIT: Duration = Duration::from_secs(60);

fn restore(file: &Path, data_dir: &Path) -> Output {
    let mut command = skiff(&["restore", "--data-dir"]);
    command.arg(data_dir).arg(file);
    run(command, None)
}

#[test]
fn a_cluster_comes_back_from_its_backup() {
    let before = Footprint::take();
    let lab = Lab::up(1);
    let kubectl = |words: &str| lab.kubectl(&words.split(' ').collect::<Vec<_>>());
    let revision = || -> u64 {
        let list: serde_json::Value =
            serde_json::from_str(&kubectl("get --raw /api/v1/configmaps").ok()).unwrap();
        list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
    };
    let data_dir = lab.path().join("master-1");
    let file = lab.path().join("state.backup");

    step("a backup of a running master");
    kubectl("create secret generic word --from-literal=word=TOP-SECRET").ok();
    kubectl("create configmap before --from-literal=a=1").ok();
    let (path, dir) = (file.to_str().unwrap(), data_dir.to_str().unwrap());
    let program = skiff(&[]).get_program().to_str().unwrap().to_owned();
    let said = lab.exec("master-1", &[&program, "backup", path, "--data-dir", dir]).ok();
    assert!(said.starts_with("skiff: backup of ") && said.contains(path), "{said}");
    kubectl("create configmap after --from-literal=a=1").ok();
    let newest = revision();

    step("what must not be restored is refused in one line");
    let spare = tempfile::tempdir().unwrap();
    let damaged = spare.path().join("damaged");
    let mut content = std::fs::read(&file).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    std::fs::write(&damaged, content).unwrap();
    for (file, target, words) in [
        (&file, &data_dir, "in use"),
        (&file, &spare.path().join("new"), "--pki"),
        (&damaged, &data_dir, "damaged"),
        (&data_dir.join("admin.kubeconfig"), &data_dir, "not a backup"),
    ] {
        let refused = restore(file, target).refused();
        assert!(refused.contains(words) && refused.lines().count() == 1, "{words}: {refused}");
    }

    step("the master loses its store and gets it back");
    lab.lab(&["stop", "master-1"]).ok();
    let refused = restore(&file, &data_dir).refused();
    assert!(refused.contains("holds a store already"), "{refused}");
    std::fs::remove_dir_all(data_dir.join("store")).unwrap();
    let said = restore(&file, &data_dir).ok();
    assert!(said.starts_with("skiff: restored "), "{said}");
    lab.lab(&["start", "master-1"]).ok();
    lab.wait("the master serves", LIMIT, &["get", "configmap", "before", "-o", "name"], |said| {
        said == "configmap/before"
    });
    let missing = kubectl("get configmap after").refused();
    assert!(missing.contains("NotFound"), "{missing}");
    let word = kubectl("get secret word -o jsonpath={.data.word}").ok();
    assert_eq!(word, "VE9QLVNFQ1JFVA==");
    assert!(revision() > newest, "{} after {newest}", revision());

    step("the node goes on with it");
    kubectl("create configmap again --from-literal=a=1").ok();
    kubectl("wait --for=condition=Ready node/node-1 --timeout=60s").ok();
    drop(lab);
    Footprint::take().assert_unchanged_since(&before);
}
