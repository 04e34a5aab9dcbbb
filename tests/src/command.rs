//! Runs programs and keeps what they say.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::repository;

/// What a program said and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its exit code; -1 when a signal ended it.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    command: String,
}

impl Output {
    /// The standard output of a program that succeeded, without the last line break.
    #[track_caller]
    pub fn ok(&self) -> String {
        assert_eq!(
            self.code, 0,
            "{} failed\nstdout: {}\nstderr: {}",
            self.command, self.stdout, self.stderr
        );
        self.stdout.trim_end().to_owned()
    }

    /// The same as a `Result`, for [`crate::eventually`].
    pub fn result(&self) -> Result<String, String> {
        if self.code == 0 {
            Ok(self.stdout.trim_end().to_owned())
        } else {
            Err(format!("{}: {}", self.command, self.stderr.trim()))
        }
    }

    /// The standard error of a program that failed, and failed in its own way:
    /// a signal or a panic is not a refusal.
    #[track_caller]
    pub fn refused(&self) -> String {
        assert!(
            self.code > 0,
            "{} was expected to be refused, but ended with {}\n{}",
            self.command,
            self.code,
            self.stdout
        );
        assert!(!self.stderr.contains("panicked"), "{}: {}", self.command, self.stderr);
        self.stderr.trim_end().to_owned()
    }
}

/// Runs `command` to its end, with `input` on its standard input.
pub fn run(mut command: Command, input: Option<&str>) -> Output {
    let shown = format!("{command:?}");
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{shown}: {error}"));
    if let Some(input) = input {
        let mut stdin = child.stdin.take().expect("it is piped");
        // A program that refuses early need not read everything.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().unwrap_or_else(|error| panic!("{shown}: {error}"));
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        command: shown,
    }
}

/// Programs are tested as they are released, unless `TEST_BINARIES` names
/// another folder (`target/debug`).
fn binary(name: &str) -> PathBuf {
    let folder = std::env::var_os("TEST_BINARIES").unwrap_or("target/release".into());
    let path = repository().join(folder).join(name);
    assert!(path.exists(), "{} is missing; run `make build`", path.display());
    path
}

/// `skiff` with arguments, from the release build.
pub fn skiff(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("skiff"));
    // What the caller's environment says must not change what is tested.
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SKIFF_"))
    {
        command.env_remove(name);
    }
    command.args(arguments);
    command
}

/// `skiffctl` with arguments, from the release build.
pub fn skiffctl(kubeconfig: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("skiffctl"));
    command.env("KUBECONFIG", kubeconfig).args(arguments);
    command
}

/// The machine's `kubectl` with arguments.
pub fn kubectl_in(kubeconfig: &Path, arguments: &[&str]) -> Command {
    kubectl_at(Path::new("kubectl"), kubeconfig, arguments)
}

/// A `kubectl` with arguments. Its discovery cache is kept apart per cluster,
/// since clusters come and go on the same port.
fn kubectl_at(program: &Path, kubeconfig: &Path, arguments: &[&str]) -> Command {
    let cache = kubeconfig.with_extension("cache");
    let mut command = Command::new(program);
    command.env("KUBECONFIG", kubeconfig).arg("--cache-dir").arg(cache).args(arguments);
    command
}

/// A `kubectl` of some version, for tests that run with more than one.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: PathBuf,
    minor: u32,
}

impl Kubectl {
    /// The machine's own.
    pub fn machines() -> Self {
        Self::at("kubectl".into())
    }

    /// The machine's own and the oldest that is tested, where it can be had.
    pub fn all() -> Vec<Self> {
        let fetch = Command::new(repository().join("scripts/fetch-kubectl-1.20"));
        print!("{}", run(fetch, None).ok());
        let oldest = repository().join("target/kubectl-1.20/kubectl");
        let oldest = oldest.exists().then(|| Self::at(oldest));
        [Self::machines()].into_iter().chain(oldest).collect()
    }

    fn at(program: PathBuf) -> Self {
        let mut command = Command::new(&program);
        command.args(["version", "--client", "-o", "json"]);
        let said: serde_json::Value =
            serde_json::from_str(&run(command, None).ok()).expect("the version is JSON");
        let minor = said["clientVersion"]["minor"].as_str().unwrap_or_default();
        // Some builders write `20+`.
        let minor = minor.trim_end_matches('+').parse().expect("the minor version is a number");
        Self { program, minor }
    }

    /// Its version: 20 for 1.20.
    pub fn minor(&self) -> u32 {
        self.minor
    }

    /// Itself with arguments.
    pub fn command(&self, kubeconfig: &Path, arguments: &[&str]) -> Command {
        kubectl_at(&self.program, kubeconfig, arguments)
    }
}
