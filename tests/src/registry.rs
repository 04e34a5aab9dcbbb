//! A registry of images that wants a password, beside the Docker of a node.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::{Dockerd, eventually, run};

/// A registry that runs until it is dropped.
pub struct Registry {
    dir: TempDir,
    process: Child,
}

impl Registry {
    /// Where it is, as the names of its images begin. Only Docker's own node
    /// sees it there, and Docker needs no TLS for it.
    pub const HOST: &str = "127.0.0.1:5000";
    /// Who may read and write.
    pub const USER: &str = "skiff";
    /// With this password.
    pub const PASSWORD: &str = "open sesame";
    /// The password as `htpasswd -B` writes it.
    const HASH: &str = "$2y$05$GDG5N5vz2xYqGrIWX21HqOKK9j5jOoLbrL/iK9QrRKiY3tC/6NKJe";

    /// Starts it and waits until it answers.
    pub fn start(docker: &Dockerd) -> Self {
        let dir = tempfile::Builder::new().prefix("skiff-registry-").tempdir().expect("a folder");
        let path = |name: &str| dir.path().join(name);
        let write = |path: &Path, text: &str| std::fs::write(path, text).expect("a file");
        write(&path("users"), &format!("{}:{}\n", Self::USER, Self::HASH));
        let config = serde_json::json!({
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": path("data")}},
            "http": {"addr": Self::HOST},
            "auth": {"htpasswd": {"realm": "tests", "path": path("users")}},
        });
        // What is JSON is YAML as well.
        write(&path("config.yml"), &config.to_string());
        let log = std::fs::File::create(path("log")).expect("its log");
        let mut command = docker.beside("docker-registry");
        command.arg("serve").arg(path("config.yml"));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("its log")).stderr(log);
        let process = command.spawn().expect("docker-registry starts");
        let registry = Self { dir, process };
        eventually("the registry answers", Duration::from_secs(30), || {
            let mut asked = docker.beside("curl");
            asked.args(["--silent", &format!("http://{}/v2/", Self::HOST)]);
            let said = run(asked, None);
            if said.code == 0 { Ok(()) } else { Err(registry.log()) }
        });
        registry
    }

    /// Gives it an image of `docker` under `name`, which `docker` forgets; tells
    /// the digest.
    pub fn take(&self, docker: &Dockerd, image: &str, name: &str) -> String {
        let config = self.dir.path().to_str().expect("a plain path");
        let docker =
            |arguments: &[&str]| docker.docker(&[&["--config", config], arguments].concat()).ok();
        docker(&["login", "-u", Self::USER, "-p", Self::PASSWORD, Self::HOST]);
        docker(&["tag", image, name]);
        let told = docker(&["push", name]);
        docker(&["rmi", name]);
        let digest = told.split_whitespace().find(|word| word.starts_with("sha256:"));
        digest.expect("the digest of what was pushed").to_owned()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("== the registry\n{}", self.log());
        }
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
