//! Clusters for tests: one machine, or a lab.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::{Output, eventually, kubectl_in, run, skiff};

/// How long `skiff up` may take on a busy machine before the test gives up.
/// What it should take is measured in `bench/`.
const START_LIMIT: Duration = Duration::from_secs(60);

/// One `skiff up`, in the host's network namespace or another.
pub struct Cluster {
    dir: TempDir,
    namespace: Option<String>,
    port: u16,
    process: Option<Child>,
    /// The line it printed when it was ready.
    pub ready_line: String,
}

impl Cluster {
    /// Starts a cluster in a folder of its own.
    pub fn up() -> Self {
        Self::up_where(None)
    }

    /// The same in a network namespace (`ip netns`).
    pub fn up_in(namespace: &str) -> Self {
        Self::up_where(Some(namespace.to_owned()))
    }

    fn up_where(namespace: Option<String>) -> Self {
        crate::need_root();
        let dir =
            tempfile::Builder::new().prefix("skiff-e2e-").tempdir().expect("a temporary folder");
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .port();
        let ready_line = String::new();
        let mut cluster = Self { dir, namespace, port, process: None, ready_line };
        cluster.start();
        cluster
    }

    /// Starts the process, again if it was stopped, and waits until it is ready.
    pub fn start(&mut self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("skiff.log"))
            .expect("the log");
        let mut process =
            self.command().stdout(Stdio::piped()).stderr(log).spawn().expect("skiff starts");
        let stdout = BufReader::new(process.stdout.take().expect("it is piped"));
        self.process = Some(process);
        let (line_tx, line_rx) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // The test may have stopped listening.
                let _ = line_tx.send(line);
            }
        });
        match line_rx.recv_timeout(START_LIMIT) {
            Ok(line) if line.starts_with("skiff: ready in ") => self.ready_line = line,
            other => panic!("skiff up is not ready: {other:?}\n{}", self.log()),
        }
    }

    /// The command line of this cluster's `skiff up`.
    pub fn command(&self) -> Command {
        let mut command = skiff(&[
            "up",
            "--node-name",
            "solo",
            "--api-port",
            &self.port.to_string(),
            "--data-dir",
        ]);
        command.arg(self.data_dir());
        self.within(command)
    }

    /// `command` in the cluster's network namespace.
    fn within(&self, command: Command) -> Command {
        let Some(namespace) = &self.namespace else { return command };
        let mut entered = Command::new("nsenter");
        entered.arg(format!("--net=/run/netns/{namespace}"));
        entered.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => entered.env(name, value),
                None => entered.env_remove(name),
            };
        }
        entered
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir().join("admin.kubeconfig")
    }

    /// The API server's port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    /// Runs `kubectl`.
    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        run(self.within(kubectl_in(&self.kubeconfig(), arguments)), None)
    }

    /// Runs `kubectl` with `input` on its standard input.
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Output {
        run(self.within(kubectl_in(&self.kubeconfig(), arguments)), Some(input))
    }

    /// Sends the process a signal and waits for its end; gives its exit code.
    pub fn end(&mut self, signal: Signal) -> Option<i32> {
        let mut process = self.process.take().expect("it runs");
        kill(Pid::from_raw(process.id().cast_signed()), signal).expect("it can be signalled");
        process.wait().expect("it ends").code()
    }

    /// Removes everything it made, with the program's own command.
    pub fn down(&mut self) -> Output {
        let mut command = skiff(&["down", "--purge", "--data-dir"]);
        command.arg(self.data_dir());
        let output = run(self.within(command), None);
        if let Some(mut process) = self.process.take() {
            process.wait().expect("it ends");
        }
        output
    }

    /// What the process has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("skiff.log")).unwrap_or_default()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!(
                "skiff's log, the last lines:\n{}",
                tail.into_iter().rev().collect::<Vec<_>>().join("\n")
            );
            eprintln!("{}", account(&self.kubeconfig()));
        }
        let output = self.down();
        if output.code != 0 {
            eprintln!("clean-up failed: {}", output.stderr);
        }
    }
}

/// One `skiff lab`.
pub struct Lab {
    dir: TempDir,
    variables: Vec<(&'static str, String)>,
    /// The line it printed when it was ready.
    pub ready_line: String,
}

impl Lab {
    /// Starts a lab of one master and `nodes` nodes.
    pub fn up(nodes: u32) -> Self {
        Self::up_with(1, nodes)
    }

    /// Starts a lab of several masters.
    pub fn up_with(masters: u32, nodes: u32) -> Self {
        let mut lab = Self::planned();
        lab.begin(masters, nodes);
        lab
    }

    /// A lab that is not up yet: something can be done to its folder first.
    pub fn planned() -> Self {
        crate::need_root();
        let dir =
            tempfile::Builder::new().prefix("skiff-lab-").tempdir().expect("a temporary folder");
        Self { dir, variables: Vec::new(), ready_line: String::new() }
    }

    /// Sets a variable of its machines' processes, as `SKIFF_EVICTION_HARD`.
    pub fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.variables.push((name, value.into()));
    }

    /// Starts it.
    pub fn begin(&mut self, masters: u32, nodes: u32) {
        let (masters, nodes) = (masters.to_string(), nodes.to_string());
        let output = self.lab(&["up", "--masters", &masters, "--nodes", &nodes]);
        assert_eq!(output.code, 0, "lab up failed: {}\n{}", output.stderr, self.logs());
        self.ready_line = output.ok();
    }

    /// The lab's folder.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("lab")
    }

    /// Runs `skiff lab …` for this lab.
    pub fn lab(&self, arguments: &[&str]) -> Output {
        let mut command = skiff(&["lab", "--dir"]);
        command.arg(self.path()).args(arguments);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        run(command, None)
    }

    /// Runs a command on one machine.
    pub fn exec(&self, machine: &str, words: &[&str]) -> Output {
        self.lab(&[&["exec", machine, "--"], words].concat())
    }

    /// The machines as `lab status -o json` shows them.
    pub fn machines(&self) -> Vec<Value> {
        let text = self.lab(&["status", "-o", "json"]).ok();
        let status: Value = serde_json::from_str(&text).expect("the status is JSON");
        status["machines"].as_array().expect("machines are a list").clone()
    }

    /// The administrator's kubeconfig, usable from the host.
    pub fn kubeconfig(&self) -> PathBuf {
        self.path().join("admin.kubeconfig")
    }

    /// Runs `kubectl` on the host.
    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        run(kubectl_in(&self.kubeconfig(), arguments), None)
    }

    /// Runs `kubectl` on the host with `input` on its standard input.
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Output {
        run(kubectl_in(&self.kubeconfig(), arguments), Some(input))
    }

    /// Waits until a `kubectl` command prints what `accept` accepts.
    #[track_caller]
    pub fn wait(
        &self,
        what: &str,
        limit: Duration,
        arguments: &[&str],
        accept: impl Fn(&str) -> bool,
    ) -> String {
        eventually(what, limit, || {
            let said = self.kubectl(arguments).result()?;
            if accept(&said) { Ok(said) } else { Err(said) }
        })
    }

    fn logs(&self) -> String {
        let mut text = String::new();
        for entry in std::fs::read_dir(self.path()).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                text.push_str(&format!("== {}\n{}\n", path.display(), tail(&path)));
            }
        }
        text
    }
}

/// What the cluster itself has to say of a test that failed.
fn account(kubeconfig: &Path) -> String {
    let ask = |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        let said = run(kubectl_in(kubeconfig, &words), None);
        format!("== kubectl {}\n{}{}\n", words.join(" "), said.stdout, said.stderr)
    };
    [
        "get nodes,pods,deployments,replicasets -A -o wide --request-timeout=5s",
        "get events -A --sort-by=.metadata.creationTimestamp --request-timeout=5s",
    ]
    .map(ask)
    .concat()
}

fn tail(path: &Path) -> String {
    let log = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = log.lines().rev().take(40).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the lab's logs, the last lines:\n{}", self.logs());
            eprintln!("{}", account(&self.kubeconfig()));
        }
        let output = self.lab(&["down"]);
        if output.code != 0 {
            eprintln!("clean-up failed: {}", output.stderr);
        }
    }
}
