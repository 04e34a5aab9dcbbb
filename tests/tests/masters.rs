//! Three masters: the leader dies under load, nothing that was acknowledged is
//! lost, and it comes back as one of the others.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use skiff_tests::{Footprint, Lab, eventually, kubectl_in, run, step};

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
