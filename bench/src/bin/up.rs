//! One machine: start-up, size, idle cost, and pods beside bare Docker.
//!
//! Prints a table of what was measured against what. Runs as root with Docker,
//! the images of `scripts/build-images` and the release binaries; removes all
//! that it makes.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use serde_json::{Value, json};

/// The image that pods and bare containers run.
const IMAGE: &str = "skiff-example/busybox:latest";
/// Marks bare containers, so that they are found and removed.
const LABEL: &str = "skiff-bench";

#[derive(Parser)]
struct Args {
    /// The binaries
    #[arg(long, default_value = "target/release")]
    binaries: PathBuf,
    /// How many starts are timed
    #[arg(long, default_value_t = 5)]
    starts: usize,
    /// Seconds over which the idle process is watched
    #[arg(long, default_value_t = 60)]
    idle: u64,
    /// How many pods are started at once
    #[arg(long, default_value_t = 20)]
    pods: usize,
    /// How many rounds of pods, the median counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let skiff =
        args.binaries.join("skiff").canonicalize().context("build the release binaries first")?;
    println!("| what | measured | budget |");
    println!("|---|---|---|");
    let size = std::fs::metadata(&skiff)?.len();
    row("stripped binary", &format!("{:.1} MB", megabytes(size)), "30 MB");

    let mut starts = Vec::new();
    for _ in 0..args.starts {
        let cluster = Cluster::start(&skiff)?;
        starts.push(cluster.started_in.as_secs_f64());
    }
    let (fastest, middle, slowest) = spread(&mut starts);
    row(
        "`skiff up` to ready, empty data directory",
        &format!("{middle:.2} s (median of {}, {fastest:.2}–{slowest:.2})", args.starts),
        "2 s",
    );

    let mut cluster = Cluster::start(&skiff)?;
    cluster.restart(&skiff)?;
    row(
        "`skiff up` to ready, again on its data",
        &format!("{:.2} s", cluster.started_in.as_secs_f64()),
        "2 s",
    );
    // Start-up work, such as the renewal of leases just written, settles first.
    std::thread::sleep(Duration::from_secs(10));
    let (cpu_before, written_before) = (cluster.cpu()?, cluster.written()?);
    std::thread::sleep(Duration::from_secs(args.idle));
    let (cpu, written) = (cluster.cpu()? - cpu_before, cluster.written()? - written_before);
    row(
        "resident memory, idle",
        &format!(
            "{:.1} MB (of it private {:.1} MB)",
            cluster.memory("Rss")?,
            cluster.memory("Private_Dirty")?
        ),
        "60 MB",
    );
    let share = cpu.as_secs_f64() / args.idle as f64 * 100.0;
    row(&format!("CPU, idle, over {} s", args.idle), &format!("{share:.2}% of a core"), "0.5%");
    row(
        &format!("written to disk, idle, over {} s", args.idle),
        &format!("{} kB", written / 1024),
        "leases only",
    );

    let (mut pods, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..args.rounds {
        bare.push(bare_containers(args.pods)?.as_secs_f64());
        pods.push(cluster.run_pods(args.pods)?.as_secs_f64());
    }
    let ((_, bare, _), (_, pods_time, _)) = (spread(&mut bare), spread(&mut pods));
    row(
        &format!("{} one-container pods, create to Running", args.pods),
        &format!("{pods_time:.2} s; bare Docker {bare:.2} s; ratio {:.2}", pods_time / bare),
        "1.5 × (later 1.2 ×)",
    );
    row("resident memory after the pods", &format!("{:.1} MB", cluster.memory("Rss")?), "");
    Ok(())
}

fn row(what: &str, measured: &str, budget: &str) {
    println!("| {what} | {measured} | {budget} |");
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Smallest, middle and largest.
fn spread(values: &mut [f64]) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[0], values[values.len() / 2], values[values.len() - 1])
}

/// A `skiff up` in a folder of its own.
struct Cluster {
    dir: tempfile::TempDir,
    skiff: PathBuf,
    process: Child,
    started_in: Duration,
    port: u16,
}

impl Cluster {
    fn start(skiff: &Path) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("skiff-bench-").tempdir()?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let (process, started_in) = launch(skiff, dir.path(), port)?;
        Ok(Self { dir, skiff: skiff.to_owned(), process, started_in, port })
    }

    fn restart(&mut self, skiff: &Path) -> anyhow::Result<()> {
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.process.id().cast_signed()),
            nix::sys::signal::Signal::SIGTERM,
        )?;
        self.process.wait()?;
        (self.process, self.started_in) = launch(skiff, self.dir.path(), self.port)?;
        Ok(())
    }

    /// Time that the process has spent on a core so far.
    fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        // Fields 14 and 15 of proc(5), counted behind the name in brackets.
        let fields: Vec<&str> =
            stat[stat.rfind(')').context("no name")? + 2..].split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        let per_second =
            nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no tick")?;
        Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
    }

    /// Bytes that the process has caused to be written to a disk.
    fn written(&self) -> anyhow::Result<u64> {
        let io = std::fs::read_to_string(format!("/proc/{}/io", self.process.id()))?;
        let line = io
            .lines()
            .find_map(|line| line.strip_prefix("write_bytes: "))
            .context("no write_bytes")?;
        Ok(line.trim().parse()?)
    }

    /// One entry of the process's memory, in MB.
    fn memory(&self, entry: &str) -> anyhow::Result<f64> {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.process.id()))?;
        let line = rollup
            .lines()
            .find(|line| line.starts_with(&format!("{entry}:")))
            .context("no such entry")?;
        let kilobytes: f64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
        Ok(kilobytes * 1024.0 / 1e6)
    }

    fn kubectl(&self, arguments: &[&str], input: Option<&str>) -> anyhow::Result<String> {
        let kubeconfig = self.dir.path().join("data/admin.kubeconfig");
        let mut command = Command::new("kubectl");
        command
            .env("KUBECONFIG", kubeconfig)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().context("kubectl")?;
        child.stdin.take().context("no stdin")?.write_all(input.unwrap_or_default().as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("kubectl {arguments:?} failed");
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// From `apply` to all of them Running, then removes them.
    fn run_pods(&self, count: usize) -> anyhow::Result<Duration> {
        let pod = |number: usize| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("p{number}"), "labels": {"bench": "pods"}},
                   "spec": {"terminationGracePeriodSeconds": 0, "containers": [
                       {"name": "c", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["sleep", "3600"]}]}})
        };
        let list = json!({"apiVersion": "v1", "kind": "List", "items": (0..count).map(pod).collect::<Vec<_>>()});
        let kubeconfig = self.dir.path().join("data/admin.kubeconfig");
        let mut watch = Command::new("kubectl")
            .env("KUBECONFIG", kubeconfig)
            .args([
                "get",
                "pods",
                "-l",
                "bench=pods",
                "--watch",
                "-o",
                "jsonpath={.metadata.name} {.status.phase}{\"\\n\"}",
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        std::thread::sleep(Duration::from_millis(500));
        let begin = Instant::now();
        self.kubectl(&["apply", "-f", "-"], Some(&list.to_string()))?;
        let mut running = std::collections::BTreeSet::new();
        let mut lines = BufReader::new(watch.stdout.take().context("no stdout")?).lines();
        while running.len() < count {
            let line = lines.next().context("the watch ended")??;
            if let Some(name) = line.strip_suffix(" Running") {
                running.insert(name.to_owned());
            }
        }
        let taken = begin.elapsed();
        watch.kill()?;
        watch.wait()?;
        self.kubectl(&["delete", "pods", "-l", "bench=pods"], None)?;
        Ok(taken)
    }
}

fn launch(skiff: &Path, dir: &Path, port: u16) -> anyhow::Result<(Child, Duration)> {
    let log = std::fs::File::create(dir.join("log"))?;
    let begin = Instant::now();
    let mut process = Command::new(skiff)
        .args(["up", "--node-name", "bench", "--api-port", &port.to_string(), "--data-dir"])
        .arg(dir.join("data"))
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()?;
    let mut line = String::new();
    BufReader::new(process.stdout.take().context("no stdout")?).read_line(&mut line)?;
    if !line.starts_with("skiff: ready") {
        bail!("skiff up is not ready: {line:?}\n{}", std::fs::read_to_string(dir.join("log"))?);
    }
    Ok((process, begin.elapsed()))
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let down = Command::new(&self.skiff)
            .args(["down", "--purge", "--data-dir"])
            .arg(self.dir.path().join("data"))
            .status();
        if !down.is_ok_and(|status| status.success()) {
            eprintln!("clean-up failed");
        }
        // It has ended by now; this only collects it.
        let _ = self.process.wait();
    }
}

/// What the same Docker needs for as many pairs of containers: one without a
/// network, one joined to it. All pairs at once, over Docker's own API.
fn bare_containers(count: usize) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    let pairs: Vec<_> = (0..count).map(|_| std::thread::spawn(bare_pair)).collect();
    let mut ids = Vec::new();
    for pair in pairs {
        ids.extend(pair.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??);
    }
    let taken = begin.elapsed();
    let removals: Vec<_> = ids
        .into_iter()
        .map(|id| {
            std::thread::spawn(move || {
                docker("DELETE", &format!("/containers/{id}?force=true"), None)
            })
        })
        .collect();
    for removal in removals {
        removal.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
    }
    Ok(taken)
}

fn bare_pair() -> anyhow::Result<Vec<String>> {
    let start = |network: String| -> anyhow::Result<String> {
        let config = json!({"Image": IMAGE, "Cmd": ["sleep", "3600"], "Labels": {LABEL: "1"}, "HostConfig": {"NetworkMode": network}});
        let created = docker("POST", "/containers/create", Some(&config))?;
        let id = created["Id"].as_str().context("no id")?.to_owned();
        docker("POST", &format!("/containers/{id}/start"), None)?;
        Ok(id)
    };
    let sandbox = start("none".into())?;
    let joined = start(format!("container:{sandbox}"))?;
    Ok(vec![joined, sandbox])
}

fn docker(method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
    let mut stream = UnixStream::connect("/var/run/docker.sock")?;
    let body = body.map(Value::to_string).unwrap_or_default();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: docker\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if !status.starts_with('2') {
        bail!("docker {method} {path}: {head}\n{body}");
    }
    Ok(serde_json::from_str(body).unwrap_or(Value::Null))
}
