//! A master alone, for tests of the API: no node, no namespaces, no root.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::{Kubectl, Output, run, skiff};

/// One `skiff server` on the loopback address.
pub struct Master {
    dir: TempDir,
    process: Child,
    client: Kubectl,
}

impl Master {
    /// Starts a master in a folder of its own and waits until it serves.
    pub fn up() -> Self {
        Self::up_for(Kubectl::machines())
    }

    /// The same for another client than the machine's `kubectl`.
    pub fn up_for(client: Kubectl) -> Self {
        let dir = tempfile::Builder::new().prefix("skiff-api-").tempdir().expect("a folder");
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let log = std::fs::File::create(dir.path().join("skiff.log")).expect("the log");
        let mut command =
            skiff(&["server", "--node-ip", "127.0.0.1", "--api-port", &port.to_string()]);
        command.arg("--data-dir").arg(dir.path().join("data"));
        let mut process = command.stdout(Stdio::piped()).stderr(log).spawn().expect("skiff starts");
        let mut said = String::new();
        let stdout = process.stdout.take().expect("it is piped");
        // The end of the process ends the line as well.
        BufReader::new(stdout).read_line(&mut said).expect("a line");
        let master = Self { dir, process, client };
        assert!(said.starts_with("skiff: serving on"), "{said:?}\n{}", master.log());
        master
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("data/admin.kubeconfig")
    }

    /// A folder for a test's own files.
    pub fn folder(&self) -> PathBuf {
        self.dir.path().to_path_buf()
    }

    /// The client that it was started for.
    pub fn client(&self) -> &Kubectl {
        &self.client
    }

    /// That client with arguments.
    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        self.client.command(&self.kubeconfig(), arguments)
    }

    /// Runs `kubectl`, its words separated by spaces.
    pub fn kubectl(&self, line: &str) -> Output {
        run(self.kubectl_command(&line.split(' ').collect::<Vec<_>>()), None)
    }

    /// Runs `kubectl` with `input` on its standard input.
    pub fn kubectl_with(&self, line: &str, input: &str) -> Output {
        run(self.kubectl_command(&line.split(' ').collect::<Vec<_>>()), Some(input))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("skiff.log")).unwrap_or_default()
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("skiff's log:\n{}", self.log());
        }
        // It may have ended already, which the wait finds out.
        let _ = kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGTERM);
        let _ = self.process.wait();
    }
}
