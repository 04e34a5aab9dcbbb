//! `skiff server --store etcd://…`: the same API server on Debian's etcd.

#![allow(clippy::unwrap_used)]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skiff_tests::{Output, eventually, kubectl_in, run, skiff, step};

const LIMIT: Duration = Duration::from_secs(60);

/// A process of ours that does not outlive the test.
struct Running(Child);

impl Running {
    fn start(mut command: Command) -> Self {
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn end(&mut self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn etcd(dir: &Path, port: u16) -> Command {
    let mut command = Command::new("etcd");
    let (client, peer) =
        (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{}", free_port()));
    command
        .args(["--name", "test", "--data-dir", dir.to_str().unwrap()])
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("test={peer}")]);
    command
}

fn server(dir: &Path, port: u16, etcd: u16) -> Command {
    let mut command = skiff(&["server", "--data-dir", dir.to_str().unwrap()]);
    command.args(["--api-port", &port.to_string()]);
    command.args(["--store", &format!("etcd://127.0.0.1:{etcd}")]);
    command
}

fn kubectl(data_dir: &Path, words: &str) -> Output {
    let words: Vec<_> = words.split(' ').collect();
    run(kubectl_in(&data_dir.join("admin.kubeconfig"), &words), None)
}

fn serves(data_dir: &Path) {
    eventually("the server is ready", LIMIT, || kubectl(data_dir, "get --raw /readyz").result());
}

#[test]
fn the_state_is_in_etcd_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let (data_dir, etcd_port) = (dir.path().join("data"), free_port());

    step("without etcd it does not start, and says so");
    let refused = run(server(&data_dir, free_port(), etcd_port), None).refused();
    assert!(refused.contains(&etcd_port.to_string()) && refused.lines().count() == 1, "{refused}");

    step("with etcd it serves, and controllers work");
    let _etcd = Running::start(etcd(&dir.path().join("etcd"), etcd_port));
    eventually("etcd listens", LIMIT, || {
        std::net::TcpStream::connect(("127.0.0.1", etcd_port)).map_err(|error| error.to_string())
    });
    let mut first = Running::start(server(&data_dir, free_port(), etcd_port));
    serves(&data_dir);
    kubectl(&data_dir, "create namespace shop").ok();
    eventually("its account", LIMIT, || {
        kubectl(&data_dir, "get serviceaccount default -n shop").result()
    });
    assert!(!data_dir.join("store").exists());
    let backup = dir.path().join("backup");
    let mut command = skiff(&["backup", backup.to_str().unwrap(), "--data-dir"]);
    command.arg(&data_dir);
    assert!(run(command, None).ok().starts_with("skiff: backup of "));

    step("a second master with the same keys takes over");
    let other = dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let copied = run(
        {
            let mut command = Command::new("cp");
            command.arg("-a").arg(data_dir.join("pki")).arg(&other);
            command
        },
        None,
    );
    copied.ok();
    let _second = Running::start(server(&other, free_port(), etcd_port));
    serves(&other);
    first.end(Signal::SIGKILL);
    kubectl(&other, "get namespace shop").ok();
    kubectl(&other, "create namespace again").ok();
    eventually("the second one leads", LIMIT, || {
        kubectl(&other, "get serviceaccount default -n again").result()
    });
}
