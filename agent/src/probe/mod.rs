//! Probes: asks running containers how they are.
//!
//! One task owns all probes of the node. It sleeps until the next one is due;
//! a thousand probes are a thousand entries in one heap. A probe that is due
//! runs as a task of its own, so a slow one delays no other.
//!
//! Until a startup probe has succeeded, the others wait. Verdicts go to the
//! pod's worker, which decides what follows from them.

mod check;
mod grpc;
pub mod http;
mod state;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use rand::Rng;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::events::{About, Recorder, Severity};
use crate::pod::model::{Condemned, Health};
use crate::runtime::Runtime;
use check::{Check, Outcome};
use state::{Change, Machine};

/// Commands waiting for the probe task. Senders wait when it is full.
const QUEUE: usize = 256;

/// Which of a container's probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Startup,
    Readiness,
    Liveness,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

/// A running container to be probed.
#[derive(Clone)]
pub struct Target {
    /// Itself, as the subject of events.
    pub about: About,
    /// Its spec.
    pub container: Container,
    /// The runtime's id.
    pub id: String,
    /// Where its ports are.
    pub host: Option<IpAddr>,
    /// What was known of it before the agent restarted.
    pub known: Health,
}

/// Receives a container's health: pod UID, container id, health.
pub type Report = Arc<dyn Fn(&str, &str, Health) + Send + Sync>;

/// The probes of this node; cheap to clone.
#[derive(Clone)]
pub struct Probes {
    commands_tx: mpsc::Sender<Command>,
}

enum Command {
    Watch(Box<Target>),
    End(String),
    Forget(String),
}

impl Probes {
    /// The probes and the task that runs them.
    pub fn new(
        runtime: Arc<dyn Runtime>,
        recorder: Recorder,
        report: Report,
        cancel: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (commands_tx, commands_rx) = mpsc::channel(QUEUE);
        let task = Task {
            runtime,
            recorder,
            report,
            targets: BTreeMap::new(),
            due: BinaryHeap::new(),
            running: JoinSet::new(),
            next_token: 0,
        };
        (Self { commands_tx }, task.run(commands_rx, cancel))
    }

    /// Begins to probe a container.
    pub async fn watch(&self, target: Target) {
        // A closed queue means that the agent is stopping.
        drop(self.commands_tx.send(Command::Watch(Box::new(target))).await);
    }

    /// A container is being stopped: it may still be ready or not, but nobody
    /// asks any more whether it lives.
    pub async fn end(&self, id: &str) {
        drop(self.commands_tx.send(Command::End(id.to_owned())).await);
    }

    /// Stops probing a container.
    pub async fn forget(&self, id: &str) {
        drop(self.commands_tx.send(Command::Forget(id.to_owned())).await);
    }
}

/// What is known of a container before its probes have run.
pub fn initial_health(container: &Container, was_ready: bool) -> Health {
    Health {
        ready: container.readiness_probe.as_ref().map(|_| was_ready),
        started: container.startup_probe.as_ref().map(|_| was_ready),
        ..Health::default()
    }
}

struct Task {
    runtime: Arc<dyn Runtime>,
    recorder: Recorder,
    report: Report,
    targets: BTreeMap<String, Entry>,
    due: BinaryHeap<Reverse<(Instant, u64, String, Kind)>>,
    running: JoinSet<(String, Kind, u64, Outcome)>,
    next_token: u64,
}

struct Entry {
    target: Target,
    health: Health,
    machines: BTreeMap<Kind, Machine>,
    /// Tells this watch from an earlier one of the same container.
    token: u64,
}

impl Task {
    async fn run(mut self, mut commands_rx: mpsc::Receiver<Command>, cancel: CancellationToken) {
        loop {
            let next = self.due.peek().map(|Reverse((at, ..))| *at);
            let sleep = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                command = commands_rx.recv() => match command {
                    Some(Command::Watch(target)) => self.watch(*target),
                    Some(Command::End(id)) => {
                        if let Some(entry) = self.targets.get_mut(&id) {
                            entry.machines.retain(|kind, _| *kind == Kind::Readiness);
                        }
                    }
                    Some(Command::Forget(id)) => {
                        self.targets.remove(&id);
                    }
                    None => return,
                },
                Some(ended) = self.running.join_next(), if !self.running.is_empty() => {
                    if let Ok((id, kind, token, outcome)) = ended {
                        self.take(&id, kind, token, outcome);
                    }
                }
                () = sleep => self.start_due(),
            }
        }
    }

    fn watch(&mut self, target: Target) {
        let container = &target.container;
        let probes = [
            (Kind::Startup, &container.startup_probe),
            (Kind::Readiness, &container.readiness_probe),
            (Kind::Liveness, &container.liveness_probe),
        ];
        let machines: BTreeMap<_, _> = probes
            .into_iter()
            .filter_map(|(kind, probe)| {
                Some((kind, Machine::new(probe.as_ref()?, initial(kind, &target.known))))
            })
            .collect();
        self.next_token += 1;
        let token = self.next_token;
        let id = target.id.clone();
        let health = target.known.clone();
        let starting = machines.contains_key(&Kind::Startup) && health.started != Some(true);
        for (kind, machine) in &machines {
            if starting == (*kind == Kind::Startup) {
                self.schedule(&id, *kind, token, Instant::now() + machine.initial_delay());
            }
        }
        self.targets.insert(id, Entry { target, health, machines, token });
    }

    fn schedule(&mut self, id: &str, kind: Kind, token: u64, at: Instant) {
        self.due.push(Reverse((at, token, id.to_owned(), kind)));
    }

    fn start_due(&mut self) {
        let now = Instant::now();
        while self.due.peek().is_some_and(|Reverse((at, ..))| *at <= now) {
            let Some(Reverse((_, token, id, kind))) = self.due.pop() else { return };
            let Some(entry) = self.targets.get(&id).filter(|entry| entry.token == token) else {
                continue;
            };
            let probe = probe_of(&entry.target.container, kind);
            let Some(probe) = probe.filter(|_| entry.machines.contains_key(&kind)) else {
                continue;
            };
            let check = Check::of(probe, &entry.target);
            let runtime = self.runtime.clone();
            self.running.spawn(async move { (id, kind, token, check.run(runtime.as_ref()).await) });
        }
    }

    /// Takes in what a probe found, and schedules the next one.
    fn take(&mut self, id: &str, kind: Kind, token: u64, outcome: Outcome) {
        let Some(entry) = self.targets.get_mut(id).filter(|entry| entry.token == token) else {
            return;
        };
        let Some(machine) = entry.machines.get_mut(&kind) else { return };
        let before = entry.health.clone();
        let name = entry.target.container.name.clone();
        if let Some((reason, text)) = event(kind, &outcome) {
            self.recorder.about(entry.target.about.clone(), Severity::Warning, reason, text);
        }
        let period = machine.period();
        let mut others = Vec::new();
        let mut more = true;
        let change = match outcome {
            Outcome::Success(_) => machine.step(true),
            Outcome::Failure(_) => machine.step(false),
            // The verdict stays what it is.
            Outcome::Unknown(_) => None,
        };
        match (change, kind) {
            (None, _) => {}
            (Some(Change::Healthy), Kind::Readiness) => entry.health.ready = Some(true),
            (Some(Change::Unhealthy), Kind::Readiness) => entry.health.ready = Some(false),
            (Some(Change::Healthy), Kind::Startup) => {
                entry.health.started = Some(true);
                // Its work is done; the others begin.
                more = false;
                others = entry
                    .machines
                    .keys()
                    .copied()
                    .filter(|other| *other != Kind::Startup)
                    .collect();
            }
            (Some(Change::Unhealthy), Kind::Startup | Kind::Liveness) => {
                more = false;
                let word = kind.word().to_lowercase();
                entry.health.condemned = Some(Condemned {
                    message: format!("Container {name} failed {word} probe, will be restarted"),
                    grace_seconds: probe_of(&entry.target.container, kind)
                        .and_then(|probe| probe.termination_grace_period_seconds),
                });
            }
            (Some(Change::Healthy), Kind::Liveness) => {}
        }
        // Most probes find what is known already, which is no news to the pod.
        if entry.health != before {
            (self.report)(&entry.target.about.uid, id, entry.health.clone());
        }
        let now = Instant::now();
        if more {
            self.schedule(id, kind, token, now + period);
        }
        for other in others {
            let machine = self.targets.get(id).and_then(|entry| entry.machines.get(&other));
            let wait = machine.map_or(Duration::ZERO, first_wait);
            self.schedule(id, other, token, now + wait);
        }
    }
}

/// The event that tells of what a probe found: its reason and its message.
fn event(kind: Kind, outcome: &Outcome) -> Option<(&'static str, String)> {
    let word = kind.word();
    match outcome {
        Outcome::Failure(message) => Some(("Unhealthy", format!("{word} probe failed: {message}"))),
        Outcome::Unknown(message) => {
            let text = format!("{word} probe errored and resulted in unknown state: {message}");
            Some(("Unhealthy", text))
        }
        Outcome::Success(Some(warning)) => {
            Some(("ProbeWarning", format!("{word} probe warning: {warning}")))
        }
        Outcome::Success(None) => None,
    }
}

/// How long after the startup probe's success another one begins. Spread, so
/// that pods started together are not asked together.
fn first_wait(machine: &Machine) -> Duration {
    let delay = machine.initial_delay();
    if delay.is_zero() {
        machine.period().mul_f64(rand::rng().random_range(0.0..0.1))
    } else {
        delay
    }
}

/// What a probe's verdict is before its first result.
fn initial(kind: Kind, known: &Health) -> bool {
    match kind {
        Kind::Startup => known.started == Some(true),
        Kind::Readiness => known.ready == Some(true),
        Kind::Liveness => true,
    }
}

fn probe_of(container: &Container, kind: Kind) -> Option<&Probe> {
    match kind {
        Kind::Startup => container.startup_probe.as_ref(),
        Kind::Readiness => container.readiness_probe.as_ref(),
        Kind::Liveness => container.liveness_probe.as_ref(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;

    use super::*;
    use crate::pod::fake_api::FakeApi;
    use crate::runtime::ContainerSpec;
    use crate::runtime::memory::Memory;

    /// A runtime with a running container, and the container's id.
    async fn running() -> (Arc<Memory>, String) {
        let runtime = Arc::new(Memory::new());
        runtime.add_image("img:1");
        let spec =
            ContainerSpec { name: "c".into(), image: "img:1".into(), ..ContainerSpec::default() };
        let id = runtime.create(&spec).await.unwrap();
        runtime.start(&id).await.unwrap();
        (runtime, id)
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_being_stopped_is_asked_only_whether_it_is_ready() {
        let (runtime, id) = running().await;
        let cancel = CancellationToken::new();
        let (recorder, _events) =
            Recorder::new(FakeApi::new().client(), "n1".into(), cancel.clone());
        let (health_tx, mut health_rx) = mpsc::unbounded_channel();
        let report: Report = Arc::new(move |_: &str, _: &str, health| drop(health_tx.send(health)));
        let (probes, task) = Probes::new(runtime.clone(), recorder, report, cancel.clone());
        let task = tokio::spawn(task);
        let probe = |command: &str| json!({"exec": {"command": [command]}, "periodSeconds": 1, "failureThreshold": 1});
        let container: Container = serde_json::from_value(json!({
            "name": "c", "readinessProbe": probe("ready"), "livenessProbe": probe("live"),
        }))
        .unwrap();
        let known = initial_health(&container, false);
        let about = About::default();
        probes.watch(Target { about, container, id: id.clone(), host: None, known }).await;
        while health_rx.recv().await.unwrap().ready != Some(true) {}
        probes.end(&id).await;
        let codes = BTreeMap::from([("ready", 1), ("live", 1)]);
        codes.into_iter().for_each(|(program, code)| runtime.set_exec_code(program, code));
        let mut last = health_rx.recv().await.unwrap();
        while last.ready != Some(false) {
            last = health_rx.recv().await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(last.condemned, None);
        assert!(health_rx.try_recv().is_err(), "nothing else is found out");
        cancel.cancel();
        task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_hears_of_what_changed_and_of_nothing_else() {
        let (runtime, id) = running().await;
        let heard = Arc::new(AtomicUsize::new(0));
        let report: Report = {
            let heard = heard.clone();
            Arc::new(move |_, _, _| {
                heard.fetch_add(1, Ordering::Relaxed);
            })
        };
        let cancel = CancellationToken::new();
        let (probes, task) =
            Probes::new(runtime.clone(), Recorder::silent(), report, cancel.clone());
        let task = tokio::spawn(task);
        let container: Container = serde_json::from_value(json!({"name": "c", "readinessProbe":
            {"exec": {"command": ["ask"]}, "periodSeconds": 10, "failureThreshold": 2}}))
        .unwrap();
        let known = initial_health(&container, false);
        probes.watch(Target { about: About::default(), container, id, host: None, known }).await;
        let asked = || runtime.calls().iter().filter(|call| call.starts_with("exec ")).count();
        tokio::time::sleep(Duration::from_secs(95)).await;
        assert_eq!((asked(), heard.load(Ordering::Relaxed)), (10, 1), "it became ready");
        runtime.set_exec_code("ask", 1);
        tokio::time::sleep(Duration::from_secs(50)).await;
        assert_eq!((asked(), heard.load(Ordering::Relaxed)), (15, 2), "it is no longer ready");
        cancel.cancel();
        task.await.unwrap();
    }
}
