//! One machine: start-up, size, idle cost, and pods beside bare Docker.
//!
//! Prints a table of what was measured against what. Runs as root with Docker,
//! the images of `scripts/build-images` and the release binaries; removes all
//! that it makes.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use skiff_bench::docker::Pairs;
use skiff_bench::pods::Pods;
use skiff_bench::process;
use skiff_bench::report::{head, megabytes, row, spread};

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
    head();
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
    let pid = cluster.process.id();
    let (cpu_before, written_before) = (process::cpu(pid)?, process::written(pid)?);
    std::thread::sleep(Duration::from_secs(args.idle));
    let (cpu, written) = (process::cpu(pid)? - cpu_before, process::written(pid)? - written_before);
    row(
        "resident memory, idle",
        &format!(
            "{:.1} MB (of it private {:.1} MB)",
            megabytes(process::resident(pid)?),
            megabytes(process::memory(pid, "Private_Dirty")?)
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
        let (pairs, taken) = Pairs::start(args.pods)?;
        bare.push(taken.as_secs_f64());
        pairs.remove()?;
        pods.push(cluster.run_pods(args.pods)?.as_secs_f64());
    }
    let ((_, bare, _), (_, pods_time, _)) = (spread(&mut bare), spread(&mut pods));
    row(
        &format!("{} one-container pods, create to Running", args.pods),
        &format!("{pods_time:.2} s; bare Docker {bare:.2} s; ratio {:.2}", pods_time / bare),
        "1.5 × (later 1.2 ×)",
    );
    row(
        "resident memory after the pods",
        &format!("{:.1} MB", megabytes(process::resident(pid)?)),
        "",
    );
    Ok(())
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

    /// From `apply` to all of them Running, then removes them.
    fn run_pods(&self, count: usize) -> anyhow::Result<Duration> {
        let kubeconfig = self.dir.path().join("data/admin.kubeconfig");
        let pods = Pods { kubeconfig: &kubeconfig, namespace: "default" };
        let names: Vec<String> = (0..count).map(|number| format!("p{number}")).collect();
        let taken = pods.start(&Pods::plain(&names))?;
        pods.delete(count)?;
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
