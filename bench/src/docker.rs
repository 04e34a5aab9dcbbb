//! The floor: what the same Docker engine needs by itself, asked over its own
//! API, and Swarm, which is built into it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::{IMAGE, WAIT};

/// Marks bare containers.
const LABEL: &str = "skiff-bench";

/// Swarm's service.
const SERVICE: &str = "skiff-bench";

/// The network that Swarm makes on the host and leaves behind.
const SWARM_NETWORK: &str = "docker_gwbridge";

/// How often Swarm is asked how far it is; it has no way to be told.
const SWARM_CHECK: Duration = Duration::from_millis(20);

/// Containers as pods are made of them: one without a network, one joined to it.
pub struct Pairs {
    pairs: Vec<Pair>,
}

/// The ids of two containers.
#[derive(Clone)]
struct Pair {
    sandbox: String,
    joined: String,
}

impl Pairs {
    /// Starts `count` pairs, all at once, and says how long it took.
    pub fn start(count: usize) -> anyhow::Result<(Self, Duration)> {
        let begin = Instant::now();
        let pairs = all_at_once(vec![(); count], |()| Pair::start())?;
        Ok((Self { pairs }, begin.elapsed()))
    }

    /// Ends them as pods end, all at once, and says how long it took: the
    /// joined container is asked to stop, then both are removed.
    pub fn remove(self) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        all_at_once(self.pairs, Pair::remove)?;
        Ok(begin.elapsed())
    }
}

impl Pair {
    fn start() -> anyhow::Result<Self> {
        let start = |network: &str| -> anyhow::Result<String> {
            let config = json!({"Image": IMAGE, "Cmd": WAIT, "Labels": {LABEL: "1"}, "HostConfig": {"NetworkMode": network}});
            let created = call("POST", "/containers/create", Some(&config))?;
            let id = created["Id"].as_str().context("no id")?.to_owned();
            call("POST", &format!("/containers/{id}/start"), None)?;
            Ok(id)
        };
        let sandbox = start("none")?;
        let joined = start(&format!("container:{sandbox}"))?;
        Ok(Self { sandbox, joined })
    }

    fn remove(self) -> anyhow::Result<()> {
        call("POST", &format!("/containers/{}/stop?t=1", self.joined), None)?;
        for id in [self.joined, self.sandbox] {
            call("DELETE", &format!("/containers/{id}?force=true"), None)?;
        }
        Ok(())
    }
}

fn all_at_once<I: Send + 'static, O: Send + 'static>(
    inputs: Vec<I>,
    act: impl Fn(I) -> anyhow::Result<O> + Copy + Send + 'static,
) -> anyhow::Result<Vec<O>> {
    let threads: Vec<_> =
        inputs.into_iter().map(|input| std::thread::spawn(move || act(input))).collect();
    let ended = threads.into_iter().map(std::thread::JoinHandle::join);
    ended.map(|end| end.map_err(|_| anyhow::anyhow!("a thread panicked"))?).collect()
}

/// The engine as a Swarm of one, until it is dropped.
pub struct Swarm;

impl Swarm {
    /// Makes the engine a Swarm. One that is a Swarm already is somebody's.
    pub fn init() -> anyhow::Result<Self> {
        let info = call("GET", "/info", None)?;
        if info["Swarm"]["LocalNodeState"] != "inactive" {
            bail!("this Docker belongs to a swarm, which is not to be touched");
        }
        docker(&["swarm", "init", "--advertise-addr", "127.0.0.1"])?;
        Ok(Self)
    }

    /// From `docker service create` to all tasks running.
    pub fn start(&self, count: usize) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        let replicas = count.to_string();
        let mut create = vec!["service", "create", "--detach", "--no-resolve-image"];
        create.extend(["--replicas", &replicas, "--name", SERVICE, IMAGE]);
        create.extend(WAIT);
        docker(&create)?;
        loop {
            let services = call("GET", "/v1.41/services?status=true", None)?;
            if services[0]["ServiceStatus"]["RunningTasks"] == json!(count) {
                return Ok(begin.elapsed());
            }
            std::thread::sleep(SWARM_CHECK);
        }
    }

    /// From `docker service rm` to none of its containers left.
    pub fn remove(&self) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        docker(&["service", "rm", SERVICE])?;
        let label = format!("com.docker.swarm.service.name={SERVICE}");
        wait_until_none(&label)?;
        Ok(begin.elapsed())
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        for command in [&["swarm", "leave", "--force"][..], &["network", "rm", SWARM_NETWORK]] {
            if let Err(error) = docker(command) {
                eprintln!("clean-up: {error:#}");
            }
        }
    }
}

/// Waits until Docker has no container with a label.
pub fn wait_until_none(label: &str) -> anyhow::Result<()> {
    // The braces, brackets and quotes of JSON, as a URL may hold them.
    let filters = format!("%7B%22label%22%3A%5B%22{}%22%5D%7D", label.replace('=', "%3D"));
    let path = format!("/containers/json?all=true&filters={filters}");
    while call("GET", &path, None)?.as_array().is_some_and(|left| !left.is_empty()) {
        std::thread::sleep(SWARM_CHECK);
    }
    Ok(())
}

fn docker(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("docker").args(arguments).output().context("docker")?;
    if !output.status.success() {
        bail!("docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// One request to the engine.
fn call(method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
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
