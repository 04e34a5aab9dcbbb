//! The wires of a lab, with real namespaces: machines reach each other, a
//! partition separates them, healing joins them, removal leaves nothing.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use skiff_lab::{Plan, netns, switch};

/// Namespaces of a plan are removed even when an assertion fails.
struct Wired(Plan);

impl Drop for Wired {
    fn drop(&mut self) {
        let left: Vec<_> = switch::remove(&self.0);
        assert!(left.is_empty() || std::thread::panicking(), "{left:?}");
    }
}

fn pings(plan: &Plan, from: &str, to: &str) -> bool {
    let (from, to) = (plan.machine(from).unwrap(), plan.machine(to).unwrap());
    // A refused connection proves that packets go both ways; a lost one times out.
    let address = std::net::SocketAddr::new(to.address.into(), 9);
    netns::run_in(&from.namespace, move || async move {
        let attempt = tokio::net::TcpStream::connect(address);
        Ok(match tokio::time::timeout(std::time::Duration::from_millis(700), attempt).await {
            Ok(Err(error)) => error.kind() == std::io::ErrorKind::ConnectionRefused,
            Ok(Ok(_)) => true,
            Err(_) => false,
        })
    })
    .unwrap()
}

#[test]
fn wires_are_made_cut_mended_and_removed() {
    if !nix::unistd::Uid::effective().is_root() {
        println!("skipped: network namespaces need root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let wired = Wired(Plan::new(dir.path(), 1, 2, 1).unwrap());
    let plan = &wired.0;
    switch::ensure(plan).unwrap();
    switch::ensure(plan).expect("making it twice changes nothing");
    assert!(pings(plan, "node-1", "node-2"));
    assert!(pings(plan, "master-1", "node-1"));

    switch::partition(plan, &[plan.machine("node-2").unwrap()]).unwrap();
    assert!(!pings(plan, "node-1", "node-2"));
    assert!(!pings(plan, "node-2", "master-1"));
    assert!(pings(plan, "node-1", "master-1"), "those not named still talk");

    switch::heal(plan).unwrap();
    assert!(pings(plan, "node-1", "node-2"));

    let namespaces: Vec<String> =
        plan.machines.iter().map(|machine| machine.namespace.clone()).collect();
    drop(wired);
    let listed = Command::new("ip").args(["netns", "list"]).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for name in namespaces {
        assert!(
            !listed.contains(&name) && !Path::new("/run/netns").join(&name).exists(),
            "{name} is left"
        );
    }
}
