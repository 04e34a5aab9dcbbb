//! GPUs on a real Docker: an engine of its own that finds a program by the name
//! of NVIDIA's hook, on a machine that is made up.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::facts::Facts;
use super::facts::tests::nvidia_machine;
use super::offer::{self, Offers};
use crate::config::Config;
use crate::runtime::docker::Docker;
use crate::runtime::{ContainerSpec, DeviceRequest, Runtime, labels, sandbox_image};

/// How long the engine may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// The program by which Docker knows that it can serve GPUs.
const HOOK: &str = "nvidia-container-runtime-hook";

/// An engine with a folder of its own; it ends with this.
struct Engine {
    dir: tempfile::TempDir,
    process: Child,
}

impl Engine {
    /// Starts an engine, with the hook in its `PATH` or without. `None` where
    /// Docker is not installed.
    async fn start(hook: bool) -> Option<Self> {
        let path = std::env::var("PATH").unwrap_or_default();
        let has = |program| std::env::split_paths(&path).any(|dir| dir.join(program).exists());
        if has(HOOK) || !has("dockerd") {
            // A machine with GPUs of its own is none to make up another on.
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let bin = at("bin");
        std::fs::create_dir(&bin).unwrap();
        if hook {
            write_hook(&bin, &at("seen"));
        }
        let flag = |name: &str, value: PathBuf| format!("--{name}={}", value.display());
        let name = dir.path().file_name().unwrap().to_string_lossy().replace('.', "");
        // In a network namespace of its own: a Docker without a bridge removes the
        // bridge of the machine's own Docker.
        let process = Command::new("unshare")
            .args(["--net", "dockerd"])
            .args([flag("data-root", at("data")), flag("exec-root", at("exec"))])
            .args([flag("pidfile", at("pid")), format!("--host=unix://{}", at("sock").display())])
            .args(["--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false"])
            // What works on any file system, also on one of another Docker.
            .arg("--storage-driver=vfs")
            .args([format!("--containerd-namespace=skiff{name}")])
            .args([format!("--containerd-plugins-namespace=skiff{name}-plugins")])
            .env("PATH", format!("{}:{path}", bin.display()))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(at("log")).unwrap())
            .spawn()
            .unwrap();
        let mut engine = Self { dir, process };
        let begun = Instant::now();
        while engine.docker().version().await.is_err() {
            let ended = engine.process.try_wait().unwrap();
            let log = || std::fs::read_to_string(engine.dir.path().join("log")).unwrap();
            assert!(ended.is_none() && begun.elapsed() < PATIENCE, "{ended:?} {}", log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        sandbox_image::ensure(&engine.docker()).await.unwrap();
        Some(engine)
    }

    fn docker(&self) -> Docker {
        Docker::new(self.dir.path().join("sock"))
    }

    /// What is offered on a machine with two GPUs.
    async fn offers(&self) -> Offers {
        nvidia_machine(self.dir.path(), &["GPU-a", "GPU-b"]);
        let config = Config::new("n", self.dir.path());
        let offers = offer::find(&Facts::read(self.dir.path()), &self.docker(), &config).await;
        let wanted = labels::of_node(&config.instance, "n");
        assert!(self.docker().list(&wanted).await.unwrap().is_empty(), "nothing is left");
        offers
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let pid = i32::try_from(self.process.id()).unwrap();
        let asked = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGTERM,
        );
        if asked.is_err() || self.process.wait().is_err() {
            eprintln!("dockerd {pid} does not end");
        }
    }
}

/// A program that notes which GPUs the container is to see that it is run for.
fn write_hook(bin: &Path, seen: &Path) {
    let hook = bin.join(HOOK);
    let text = format!(
        "#!/bin/sh\n\
         bundle=$(sed -n 's/.*\"bundle\":\"\\([^\"]*\\)\".*/\\1/p')\n\
         grep -o 'NVIDIA_VISIBLE_DEVICES=[^\"]*' \"$bundle/config.json\" >> {}\n\
         exit 0\n",
        seen.display()
    );
    std::fs::write(&hook, text).unwrap();
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn docker_hands_out_gpus_where_it_has_the_hook() {
    let Some(engine) = Engine::start(true).await else { return };
    let offers = engine.offers().await;
    let pool = &offers.pools["nvidia.com/gpu"];
    assert_eq!(
        (pool.driver, pool.ids.as_slice()),
        (offer::NVIDIA, &["GPU-a".to_owned(), "GPU-b".into()][..])
    );
    let docker = engine.docker();
    let spec = ContainerSpec {
        name: "gpu".into(),
        image: sandbox_image::name(),
        network: "none".into(),
        devices: vec![DeviceRequest { driver: pool.driver.into(), ids: vec!["GPU-b".into()] }],
        ..ContainerSpec::default()
    };
    let id = docker.create(&spec).await.unwrap();
    docker.start(&id).await.unwrap();
    docker.remove(&id).await.unwrap();
    let seen = std::fs::read_to_string(engine.dir.path().join("seen")).unwrap();
    assert_eq!(seen, "NVIDIA_VISIBLE_DEVICES=GPU-b\n");
}

#[tokio::test]
async fn docker_hands_out_none_where_it_has_no_hook() {
    let Some(engine) = Engine::start(false).await else { return };
    assert_eq!(engine.offers().await, Offers { nvidia: true, ..Offers::default() });
}
