//! Pods through the machine's own `kubectl`, as a user makes them; a watch
//! tells when they run and when they are gone.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::{IMAGE, WAIT};

/// What the pods are found by.
const SELECTOR: &str = "bench=pods";

/// The columns of the watch: what happened, which pod, its phase.
const COLUMNS: &str = "jsonpath={.type} {.object.metadata.name} {.object.status.phase}{\"\\n\"}";

/// How long `kubectl` may take to begin a watch on nothing.
const WATCH_BEGINS: Duration = Duration::from_millis(500);

/// The pods of one namespace of a cluster.
#[derive(Clone, Copy)]
pub struct Pods<'a> {
    /// How `kubectl` finds the cluster.
    pub kubeconfig: &'a Path,
    /// The namespace.
    pub namespace: &'a str,
}

impl Pods<'_> {
    /// One-container pods of `names`.
    pub fn plain(names: &[String]) -> Value {
        list(names.iter().map(|name| pod(name, vec![container("c")])).collect())
    }

    /// From `kubectl apply` to all of `pods`, a List, Running.
    pub fn start(&self, pods: &Value) -> anyhow::Result<Duration> {
        let count = pods["items"].as_array().context("no list")?.len();
        let mut watch = Watch::begin(self)?;
        let begin = Instant::now();
        self.kubectl(&["apply", "-f", "-"], Some(&pods.to_string()))?;
        watch.until(count, |event, phase| event != "DELETED" && phase == "Running")?;
        Ok(begin.elapsed())
    }

    /// From `kubectl delete` to all of the `count` pods gone.
    pub fn delete(&self, count: usize) -> anyhow::Result<Duration> {
        let mut watch = Watch::begin(self)?;
        let begin = Instant::now();
        self.kubectl(&["delete", "pods", "-l", SELECTOR, "--wait=false"], None)?;
        watch.until(count, |event, _| event == "DELETED")?;
        Ok(begin.elapsed())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.env("KUBECONFIG", self.kubeconfig).args(["--namespace", self.namespace]);
        command.args(arguments).stdout(Stdio::piped());
        command
    }

    /// What `kubectl` says.
    pub fn kubectl(&self, arguments: &[&str], input: Option<&str>) -> anyhow::Result<String> {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().context("kubectl")?;
        child.stdin.take().context("no stdin")?.write_all(input.unwrap_or_default().as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("kubectl {arguments:?} failed");
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// Puts pods into a List.
pub fn list(items: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

/// A pod of `containers`.
pub fn pod(name: &str, containers: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"bench": "pods"}},
           "spec": {"terminationGracePeriodSeconds": 1, "containers": containers}})
}

/// A container that waits.
pub fn container(name: &str) -> Value {
    json!({"name": name, "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": WAIT})
}

struct Watch {
    kubectl: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watch {
    fn begin(pods: &Pods<'_>) -> anyhow::Result<Self> {
        let mut kubectl = pods
            .command(&["get", "pods", "-l", SELECTOR, "--watch", "--output-watch-events"])
            .args(["-o", COLUMNS])
            .stderr(Stdio::null())
            .spawn()?;
        let lines = BufReader::new(kubectl.stdout.take().context("no stdout")?).lines();
        std::thread::sleep(WATCH_BEGINS);
        Ok(Self { kubectl, lines })
    }

    /// Reads on until `count` pods have come so far.
    fn until(&mut self, count: usize, far: impl Fn(&str, &str) -> bool) -> anyhow::Result<()> {
        let mut there = BTreeSet::new();
        while there.len() < count {
            let line = self.lines.next().context("the watch ended")??;
            let words: Vec<&str> = line.split(' ').collect();
            if let [event, name, phase] = words[..]
                && far(event, phase)
            {
                there.insert(name.to_owned());
            }
        }
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}
