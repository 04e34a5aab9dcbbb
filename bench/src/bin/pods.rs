//! Pods beside the bare Docker floor and beside Docker Swarm, on the same
//! engine in the same run; one pod at a time; and an agent that probes.
//!
//! A lab of one master and one node runs the pods, so that the agent is a
//! process of its own. Runs as root with Docker, the images of
//! `scripts/build-images` and the release binaries; removes all that it makes,
//! and refuses an engine that belongs to a swarm.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use serde_json::{Value, json};
use skiff_bench::docker::{self, Pairs, Swarm};
use skiff_bench::pods::{self, Pods};
use skiff_bench::process;
use skiff_bench::report::{head, megabytes, row, spread};

#[derive(Parser)]
struct Args {
    /// The binaries
    #[arg(long, default_value = "target/release")]
    binaries: PathBuf,
    /// How many pods are started and deleted at once
    #[arg(long, value_delimiter = ',', default_value = "20,100")]
    pods: Vec<usize>,
    /// How many rounds of each, the median counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How many pods are started one after the other
    #[arg(long, default_value_t = 100)]
    singles: usize,
    /// Seconds over which the agent with 100 pods and 300 probes is watched
    #[arg(long, default_value_t = 60)]
    probing: u64,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let lab = Lab::up(&args.binaries)?;
    let kubeconfig = lab.dir.path().join("admin.kubeconfig");
    // Containers carry their pod's namespace, which tells them from others.
    let namespace = format!("bench-{}", std::process::id());
    let pods = Pods { kubeconfig: &kubeconfig, namespace: &namespace };
    pods.kubectl(&["create", "namespace", &namespace], None)?;
    let swarm = Swarm::init()?;
    head();
    let agent = lab.agent()?;
    row(
        "agent, idle",
        &format!("{:.1} MB resident", megabytes(process::resident(agent)?)),
        "25 MB",
    );
    for &count in &args.pods {
        side_by_side(pods, &swarm, count, args.rounds)?;
    }
    one_by_one(pods, args.singles)?;
    probing(&lab, pods, args.probing)
}

/// One round after the other, so that a neighbour on the machine bothers all
/// three alike.
fn side_by_side(pods: Pods<'_>, swarm: &Swarm, count: usize, rounds: usize) -> anyhow::Result<()> {
    let (mut bare, mut ours, mut theirs) = (Times::default(), Times::default(), Times::default());
    let names: Vec<String> = (0..count).map(|number| format!("p{number}")).collect();
    for _ in 0..rounds {
        let (pairs, started) = Pairs::start(count)?;
        bare.push(started, pairs.remove()?);

        let started = pods.start(&Pods::plain(&names))?;
        let begin = Instant::now();
        pods.delete(count)?;
        // The objects are gone; so must be what they stood for.
        docker::wait_until_none(&format!("skiff.pod.namespace={}", pods.namespace))?;
        ours.push(started, begin.elapsed());

        let started = swarm.start(count)?;
        theirs.push(started, swarm.remove()?);
    }
    let (bare, ours, theirs) = (bare.medians(), ours.medians(), theirs.medians());
    let figures = |ours: f64, bare: f64, theirs: f64| {
        format!(
            "{ours:.2} s; bare Docker {bare:.2} s, ratio {:.2}; Swarm {theirs:.2} s, ratio {:.2}",
            ours / bare,
            ours / theirs
        )
    };
    row(
        &format!("{count} pods, create to Running"),
        &figures(ours.0, bare.0, theirs.0),
        "1.2 × bare, 0.7 × Swarm",
    );
    row(&format!("{count} pods, delete to gone"), &figures(ours.1, bare.1, theirs.1), "1.3 × bare");
    Ok(())
}

/// Seconds of starts and of removals.
#[derive(Default)]
struct Times {
    starts: Vec<f64>,
    removals: Vec<f64>,
}

impl Times {
    fn push(&mut self, start: Duration, removal: Duration) {
        self.starts.push(start.as_secs_f64());
        self.removals.push(removal.as_secs_f64());
    }

    fn medians(mut self) -> (f64, f64) {
        (spread(&mut self.starts).1, spread(&mut self.removals).1)
    }
}

fn one_by_one(pods: Pods<'_>, count: usize) -> anyhow::Result<()> {
    let mut times = Vec::new();
    for number in 0..count {
        let started = pods.start(&Pods::plain(&[format!("single-{number}")]))?;
        times.push(started.as_secs_f64());
        pods.delete(1)?;
    }
    let (_, middle, slowest) = spread(&mut times);
    let p99 = times[(times.len() * 99).div_ceil(100) - 1];
    row(
        &format!("one pod at a time, {count} times, `kubectl apply` included"),
        &format!("p50 {middle:.2} s, p99 {p99:.2} s, slowest {slowest:.2} s"),
        "p99 2 s",
    );
    Ok(())
}

/// 100 pods with 150 containers, each with a readiness probe over HTTP and a
/// liveness probe over TCP, every 10 s.
fn probing(lab: &Lab, pods: Pods<'_>, seconds: u64) -> anyhow::Result<()> {
    let probed = |name: &str, port: u16| -> Value {
        let mut container = pods::container(name);
        let serve =
            format!("mkdir /www; echo ok >/www/index.html; exec httpd -f -p {port} -h /www");
        container["command"] = json!(["sh", "-c", serve]);
        container["readinessProbe"] =
            json!({"httpGet": {"path": "/", "port": port}, "periodSeconds": 10});
        container["livenessProbe"] = json!({"tcpSocket": {"port": port}, "periodSeconds": 10});
        container
    };
    let pod = |number: u32| {
        let mut containers = vec![probed("a", 8080)];
        if number.is_multiple_of(2) {
            containers.push(probed("b", 8081));
        }
        pods::pod(&format!("probed-{number}"), containers)
    };
    pods.start(&pods::list((0..100).map(pod).collect()))?;
    pods.kubectl(&["wait", "--for=condition=Ready", "pods", "--all", "--timeout=120s"], None)?;
    let agent = lab.agent()?;
    let before = process::cpu(agent)?;
    std::thread::sleep(Duration::from_secs(seconds));
    let share = (process::cpu(agent)? - before).as_secs_f64() / seconds as f64 * 100.0;
    row(
        &format!("agent with 100 pods and 300 probes every 10 s, over {seconds} s"),
        &format!("{share:.2}% of a core, {:.1} MB resident", megabytes(process::resident(agent)?)),
        "2%, 40 MB",
    );
    pods.delete(100)?;
    Ok(())
}

/// One master and one node, until it is dropped.
struct Lab {
    dir: tempfile::TempDir,
    skiff: PathBuf,
}

impl Lab {
    fn up(binaries: &Path) -> anyhow::Result<Self> {
        let skiff =
            binaries.join("skiff").canonicalize().context("build the release binaries first")?;
        let lab = Self { dir: tempfile::Builder::new().prefix("skiff-bench-").tempdir()?, skiff };
        lab.skiff(&["up", "--nodes", "1"])?;
        Ok(lab)
    }

    fn skiff(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.skiff);
        command.arg("lab").args(arguments).arg("--dir").arg(self.dir.path());
        let output = command.output()?;
        if !output.status.success() {
            bail!("lab {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The node's process.
    fn agent(&self) -> anyhow::Result<u32> {
        let status: Value = serde_json::from_str(&self.skiff(&["status", "-o", "json"])?)?;
        let machines = status["machines"].as_array().context("no machines")?;
        let node = machines.iter().find(|machine| machine["role"] == "node").context("no node")?;
        Ok(node["pid"].as_u64().context("no process")?.try_into()?)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = self.skiff(&["down"]) {
            eprintln!("clean-up: {error:#}");
        }
    }
}
