//! Three masters: the leader dies under load, nothing that was acknowledged is
//! lost, and it comes back as one of the others.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use skiff_tests::{Footprint, Lab, eventually, kubectl_in, run, skiff, step};

const LIMIT: Duration = Duration::from_secs(60);

/// The goal is one second in the median and two in nearly all cases; a busy
/// machine that runs other tests gets some more.
const FAILOVER: Duration = Duration::from_secs(10);

fn leader(lab: &Lab) -> Result<String, String> {
    let machines = lab.machines();
    let leader = machines.iter().find(|machine| machine["leader"] == true);
    let leader = leader.ok_or_else(|| format!("nobody leads: {machines:?}"))?;
    Ok(leader["name"].as_str().unwrap().to_owned())
}

/// Creates ConfigMaps, one after another, and returns the acknowledged ones.
fn write(kubeconfig: &std::path::Path, stop: &AtomicBool) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("load-{n}");
        let arguments = ["create", "configmap", &name, "--request-timeout=5s"];
        if run(kubectl_in(kubeconfig, &arguments), None).code == 0 {
            acknowledged.push(name);
        }
    }
    acknowledged
}

#[test]
fn a_leader_dies_and_comes_back() {
    let before = Footprint::take();
    let lab = Lab::up_with(3, 1);
    let machines = lab.machines();
    assert!(machines.iter().all(|machine| machine["ready"] == true), "{machines:?}");
    assert_eq!(machines.iter().filter(|machine| machine["leader"] == true).count(), 1);

    step("the leader is killed while somebody writes");
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (kubeconfig, stop) = (lab.kubeconfig(), stop.clone());
        move || write(&kubeconfig, &stop)
    });
    eventually("some writes", LIMIT, || {
        let said = lab.kubectl(&["get", "configmap", "load-5"]).result();
        said.map(drop)
    });
    let first = leader(&lab).unwrap();
    lab.lab(&["kill", &first]).ok();
    let killed = Instant::now();
    eventually("a write after the leader's death", FAILOVER, || {
        let name = format!("after-{}", killed.elapsed().as_millis());
        let create = ["create", "configmap", &name, "--request-timeout=2s"];
        lab.kubectl(&create).result().map(drop)
    });
    let second = eventually("another leader", LIMIT, || leader(&lab));
    assert_ne!(first, second);

    step("controllers and nodes go on with the new one");
    lab.kubectl(&["create", "namespace", "second"]).ok();
    let account = ["get", "serviceaccount", "default", "-n", "second", "-o", "name"];
    lab.wait("a service account", LIMIT, &account, |said| said.contains("default"));

    step("it comes back");
    lab.lab(&["start", &first]).ok();
    eventually("all masters", LIMIT, || {
        let machines = lab.machines();
        let ready = machines.iter().all(|machine| machine["ready"] == true);
        if ready { Ok(()) } else { Err(format!("{machines:?}")) }
    });
    stop.store(true, Ordering::Relaxed);
    let acknowledged = writer.join().unwrap();
    assert!(acknowledged.len() > 5);

    step("nothing is lost, whoever is asked");
    lab.lab(&["kill", &second]).ok();
    eventually("a leader after the second death", LIMIT, || leader(&lab));
    let there = eventually("an answer", LIMIT, || {
        lab.kubectl(&["get", "configmaps", "-o", "name", "--request-timeout=5s"]).result()
    });
    for name in acknowledged {
        assert!(there.lines().any(|line| line == format!("configmap/{name}")), "{name} is lost");
    }
    drop(lab);
    Footprint::take().assert_unchanged_since(&before);
}

fn members(lab: &Lab) -> Result<Vec<serde_json::Value>, String> {
    let said = lab.kubectl(&["get", "--raw", "/skiff/v1/members"]).result()?;
    let group: serde_json::Value = serde_json::from_str(&said).map_err(|e| e.to_string())?;
    Ok(group["members"].as_array().cloned().unwrap_or_default())
}

#[test]
fn a_removed_master_ends_and_its_machine_joins_again() {
    let mut lab = Lab::up_with(3, 0);
    lab.lab(&["stop", "master-3"]).ok();
    let id = eventually("its removal", LIMIT, || {
        let members = members(&lab)?;
        let third = members.iter().find(|member| member["name"] == "master-3");
        let id = third.ok_or(format!("{members:?}"))?["id"].clone();
        let remove = format!("/skiff/v1/members/{id}");
        lab.kubectl(&["delete", "--raw", &remove]).result().map(|_| id)
    });
    assert_eq!(lab.machines()[2]["pid"], serde_json::Value::Null);

    step("with its old data it is told, and ends");
    let dir = lab.path().join("master-3");
    let serve = [&program(), "server", "--master-name", "master-3", "--data-dir"];
    let ended = lab.exec("master-3", &[&serve[..], &[dir.to_str().unwrap()]].concat());
    let said = ended.refused();
    assert_eq!(ended.code, 1, "{said}");
    let last = said.lines().last().unwrap();
    assert!(last.contains("was removed from the group"), "{said}");
    assert!(last.contains("`skiff member add`") && last.contains("--join URL"), "{said}");

    step("without them it joins, under a new id");
    std::fs::remove_dir_all(dir.join("store")).unwrap();
    std::fs::remove_file(dir.join("master.json")).unwrap();
    lab.begin(3, 0);
    let voters: Vec<_> = members(&lab).unwrap();
    assert!(voters.iter().all(|member| member["voter"] == true), "{voters:?}");
    assert!(voters.len() == 3 && voters.iter().all(|member| member["id"] != id), "{voters:?}");
}

fn program() -> String {
    skiff(&[]).get_program().to_str().unwrap().to_owned()
}

/// Takes a master's way to the other two, so that it lives and has no quorum.
/// Everybody else still reaches it.
fn strand(lab: &Lab, stranded: &str) {
    for machine in lab.machines() {
        let (name, address) = (&machine["name"], machine["address"].as_str().unwrap());
        if machine["role"] == "master" && name != stranded {
            let peer = format!("{address}/32");
            lab.exec(stranded, &["ip", "route", "add", "blackhole", &peer]).ok();
        }
    }
}

#[test]
fn a_master_without_quorum_is_left_by_everybody() {
    let before = Footprint::take();
    // Nodes and the host's front door all begin with the first one.
    let lab = Lab::up_with(3, 2);
    let master_dir = lab.path().join("master-1");
    let make = [&program(), "token", "create", "--data-dir", master_dir.to_str().unwrap()];
    let token = lab.exec("master-1", &make).ok();
    lab.lab(&["stop", "node-2"]).ok();

    step("the first master lives and is alone");
    strand(&lab, "master-1");
    let url =
        |at: usize| format!("https://{}:6443", lab.machines()[at]["address"].as_str().unwrap());
    let (alone, other) = (url(0), url(1));
    eventually("it is not ready", LIMIT, || {
        let ask = ["curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "3"];
        let said = lab.exec("node-1", &[&ask[..], &[&format!("{alone}/readyz")]].concat()).stdout;
        if said.starts_with('5') { Ok(()) } else { Err(said) }
    });

    step("the front door leads to another one");
    eventually("a write", FAILOVER, || {
        let create = ["create", "configmap", "after", "--request-timeout=5s"];
        lab.kubectl(&create).result().map(drop)
    });

    step("a node goes on with another one");
    let run = ["run", "one", "--image=skiff-example/busybox:latest", "--image-pull-policy=Never"];
    lab.kubectl(&[&run[..], &["--", "sleep", "600"]].concat()).ok();
    lab.kubectl(&["wait", "--for=condition=Ready", "pod/one", "--timeout=60s"]).ok();

    step("a new one joins: its first address is dead, its second has no quorum");
    let dir = lab.path().join("joiner");
    let servers = format!("https://172.29.0.99:6443,{alone},{other}");
    let agent = [&program(), "agent", "--server", &servers, "--token", token.trim()];
    let named = ["--node-name", "joiner", "--data-dir", dir.to_str().unwrap()];
    let seconds = ["timeout", "--signal=TERM", "20"];
    lab.exec("node-2", &[&seconds[..], &agent, &named].concat());
    let ready = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
    lab.kubectl(&["get", "node", "joiner", "-o", ready]).ok();
    lab.lab(&["down"]).ok();
    drop(lab);
    Footprint::take().assert_unchanged_since(&before);
}
