//! A lab whose nodes each have a Docker of their own: one that can be stopped,
//! paused and killed, and that has images which the other has not.

use std::fs::File;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tempfile::TempDir;

use crate::{Lab, Output, SmallDisk, eventually, run, skiff};

/// How long a Docker may take to answer after its start.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A lab of one master and of nodes with their own Dockers.
pub struct Dockers {
    // In this order they go: the lab's clean-up needs the Dockers.
    lab: Lab,
    nodes: Vec<Dockerd>,
    _dir: TempDir,
}

impl Dockers {
    /// Starts it; the Docker of each node is told whether its containers
    /// outlive it.
    pub fn up(live_restore: &[bool]) -> Self {
        let mut dockers = Self::planned(live_restore, None);
        dockers.begin(1, u32::try_from(live_restore.len()).expect("a few nodes"));
        dockers
    }

    /// Its Dockers, each on a disk of its own if a size in MiB is given, and the
    /// lab that is not up yet.
    pub fn planned(live_restore: &[bool], disk: Option<u32>) -> Self {
        let lab = Lab::planned();
        let dir = tempfile::Builder::new().prefix("skiff-docker-").tempdir().expect("a folder");
        let socket = format!("{}/{{node}}/docker.sock", dir.path().display());
        let count = u32::try_from(live_restore.len()).expect("a few nodes");
        let program = PathBuf::from(skiff(&[]).get_program());
        // The namespaces have to be there before the Dockers that live in them.
        let planned = skiff_lab::Lab::create(&lab.path(), 1, count, Some(&socket), &program);
        let planned = planned.expect("a plan");
        planned.ensure_network().expect("the lab's network");
        let mut nodes: Vec<Dockerd> = planned
            .plan
            .nodes()
            .zip(live_restore)
            .map(|(node, live)| Dockerd::new(dir.path(), &node.name, &node.namespace, *live))
            .collect();
        for node in &mut nodes {
            node.disk =
                disk.map(|mebibytes| SmallDisk::mount(&node.folder.join("data"), mebibytes));
            node.start();
        }
        Self { lab, nodes, _dir: dir }
    }

    /// The Docker of `node-NUMBER`.
    pub fn docker(&mut self, number: usize) -> &mut Dockerd {
        &mut self.nodes[number - 1]
    }
}

impl Deref for Dockers {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.lab
    }
}

impl DerefMut for Dockers {
    fn deref_mut(&mut self) -> &mut Lab {
        &mut self.lab
    }
}

impl Drop for Dockers {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.resume();
            if !node.is_running()
                && let Err(error) = node.launch()
            {
                eprintln!("{error}");
            }
        }
        if std::thread::panicking() {
            for node in &self.nodes {
                let log = node.log();
                let last: Vec<&str> = log.lines().rev().take(20).collect();
                let last = last.into_iter().rev().collect::<Vec<_>>().join("\n");
                eprintln!("== {}/log\n{last}", node.folder.display());
            }
        }
    }
}

/// One Docker in the network namespace of a node.
pub struct Dockerd {
    folder: PathBuf,
    namespace: String,
    process: Option<Child>,
    disk: Option<SmallDisk>,
}

impl Dockerd {
    fn new(dir: &Path, node: &str, namespace: &str, live_restore: bool) -> Self {
        let folder = dir.join(node);
        std::fs::create_dir_all(&folder).expect("a folder");
        // A file of its own: the machine's may say what the flags say, which
        // Docker refuses.
        let config = json!({"live-restore": live_restore}).to_string();
        std::fs::write(folder.join("daemon.json"), config).expect("its configuration");
        Self { folder, namespace: namespace.to_owned(), process: None, disk: None }
    }

    fn socket(&self) -> String {
        format!("unix://{}/docker.sock", self.folder.display())
    }

    /// Starts it, again if it was stopped, and waits until it answers.
    pub fn start(&mut self) {
        self.launch().expect("a Docker");
    }

    fn launch(&mut self) -> Result<(), String> {
        let path = |name: &str| self.folder.join(name);
        let log = File::options().create(true).append(true).open(path("log")).expect("its log");
        // One that was killed has left it, and its number may be another's now.
        let _ = std::fs::remove_file(path("pid"));
        let mut command = self.beside("dockerd");
        command.args(["--host", &self.socket()]);
        command.arg("--config-file").arg(path("daemon.json"));
        command.arg("--data-root").arg(path("data"));
        command.arg("--exec-root").arg(path("exec"));
        command.arg("--pidfile").arg(path("pid"));
        // Where the machine has a containerd all Dockers use it.
        command.args(["--containerd-namespace", &self.namespace]);
        command.args(["--containerd-plugins-namespace", &format!("{}-plugins", self.namespace)]);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("its log")).stderr(log);
        self.process = Some(command.spawn().expect("dockerd starts"));
        let deadline = Instant::now() + START_LIMIT;
        while Instant::now() < deadline && self.is_running() {
            if self.docker(&["version"]).code == 0 {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(format!("Docker does not answer: {}", self.log()))
    }

    /// A program in the network of its node.
    pub fn beside(&self, program: &str) -> Command {
        skiff_lab::process::command(&self.namespace, Path::new(program))
            .expect("the node's namespace")
    }

    /// Whether its process is there.
    fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| matches!(process.try_wait(), Ok(None)))
    }

    /// Stops it, as for an upgrade.
    pub fn stop(&mut self) {
        self.end(Signal::SIGTERM);
    }

    /// Kills it. Its containerd dies with it, a moment later, and is waited for:
    /// the next Docker would else take it for its own.
    pub fn kill(&mut self) {
        let noted = std::fs::read_to_string(self.folder.join("exec/containerd/containerd.pid"));
        self.end(Signal::SIGKILL);
        // Where the machine has a containerd there is none of Docker's.
        let Ok(pid) = noted else { return };
        let process = PathBuf::from(format!("/proc/{}", pid.trim()));
        eventually("containerd ends", START_LIMIT, || {
            if process.exists() { Err(format!("{} is there", process.display())) } else { Ok(()) }
        });
    }

    /// Lets it hang.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let Some(process) = &self.process else { return };
        match kill(Pid::from_raw(process.id().cast_signed()), signal) {
            // It has ended by itself.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => panic!("cannot signal Docker: {error}"),
        }
    }

    fn end(&mut self, signal: Signal) {
        self.signal(signal);
        if let Some(mut process) = self.process.take() {
            process.wait().expect("it ends");
        }
    }

    /// Runs `docker` with it.
    pub fn docker(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("docker");
        command.args(["--host", &self.socket()]).args(arguments);
        run(command, None)
    }

    /// Gives it an image of the machine's own Docker.
    pub fn give(&self, image: &str) {
        let mut command = Command::new("sh");
        command.args(["-c", "docker save \"$1\" | docker --host \"$2\" load", "give", image]);
        command.arg(self.socket());
        run(command, None).ok();
    }

    /// What it says of its containers, one per line, sorted.
    pub fn containers(&self, format: &str) -> Vec<String> {
        let said = self.docker(&["ps", "--all", "--no-trunc", "--format", format]).ok();
        let mut lines: Vec<String> = said.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        if self.is_running() {
            // Those of a lab that was not cleaned up would run on.
            let left = self.docker(&["ps", "--all", "--quiet"]).stdout;
            let left: Vec<&str> = left.lines().collect();
            if !left.is_empty() {
                self.docker(&[&["rm", "--force", "--volumes"], &left[..]].concat());
            }
            self.stop();
        }
        drop(self.disk.take());
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        // Those within others first.
        let places = mounts.lines().rev().filter_map(|line| line.split(' ').nth(1));
        for place in places.filter(|place| Path::new(place).starts_with(&self.folder)) {
            if let Err(error) = umount2(place, MntFlags::MNT_DETACH) {
                eprintln!("{place} stays mounted: {error}");
            }
        }
    }
}
