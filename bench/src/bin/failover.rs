//! Failover: from the SIGKILL of the leader of three masters to the next
//! acknowledged write through one that lives, and to the first act of the
//! controllers.
//!
//! Both are seen from outside. From the kill on, a ReplicaSet is created every
//! few milliseconds, at the two other masters in turn, without waiting for the
//! answers of those before; the first answer that is an acknowledgement ends
//! the one measurement. A watch opened before the kill ends the other when it
//! tells of the first pod that the ReplicaSet controller has made of them.
//! The lab has no nodes, so these pods stay pending.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Parser;
use futures::stream::FuturesUnordered;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use skiff_lab::{Plan, netns, process};
use skiff_tests::{Lab, client_of, eventually};

/// How often a write is tried.
const EVERY: Duration = Duration::from_millis(20);
/// How long a round may take before it counts as broken.
const LIMIT: Duration = Duration::from_secs(60);
/// The port that masters of a lab serve on.
const PORT: u16 = 6443;

#[derive(Parser)]
struct Args {
    /// How often the leader is killed
    #[arg(long, default_value_t = 30)]
    rounds: usize,
}

/// What one round took.
struct Failover {
    write: Duration,
    controllers: Duration,
}

/// One round, as those see it who live through it.
struct Round {
    number: usize,
    kubeconfig: PathBuf,
    leader: Pid,
    /// `https://…` of the other masters.
    others: Vec<String>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let lab = Lab::up_with(3, 0);
    let plan: Plan = serde_json::from_slice(&std::fs::read(lab.path().join("lab.json"))?)?;
    let (mut writes, mut controllers) = (Vec::new(), Vec::new());
    for number in 0..args.rounds {
        let leader = leader(&lab);
        let others = plan.masters().filter(|master| master.name != leader);
        let pid = process::running(&lab.path().join(format!("{leader}.pid")));
        let round = Round {
            number,
            kubeconfig: lab.kubeconfig(),
            leader: Pid::from_raw(pid.context("the leader is gone")?.cast_signed()),
            others: others.map(|master| format!("https://{}:{PORT}", master.address)).collect(),
        };
        let run = move || async move { Ok(round.run().await) };
        let failover = netns::run_in(&plan.switch, run)??;
        writes.push(failover.write);
        controllers.push(failover.controllers);
        eprintln!(
            "round {number}: {leader} killed, write {:.0?}, controllers {:.0?}",
            failover.write, failover.controllers
        );
        lab.lab(&["start", &leader]).ok();
    }
    println!("| after the leader's SIGKILL | median | p99 | budget |");
    println!("|---|---|---|---|");
    row("next acknowledged write", &mut writes, "1 s, 2 s");
    row("controllers active", &mut controllers, "2 s");
    Ok(())
}

fn row(what: &str, times: &mut [Duration], budget: &str) {
    times.sort_unstable();
    // Of fewer than a hundred rounds this is the slowest one.
    let place = |percent: usize| (times.len() * percent / 100).min(times.len() - 1);
    let [median, p99] = [50, 99].map(|percent| times[place(percent)].as_secs_f64());
    println!("| {what} | {median:.2} s | {p99:.2} s | {budget} |");
}

/// Waits until all masters serve and one leads; its name.
fn leader(lab: &Lab) -> String {
    eventually("three masters and a leader", LIMIT, || {
        let machines = lab.machines();
        let ready = machines.iter().all(|machine| machine["ready"] == true);
        let leader = machines.iter().find(|machine| machine["leader"] == true);
        let name = leader.and_then(|leader| leader["name"].as_str()).filter(|_| ready);
        name.map(str::to_owned).ok_or_else(|| format!("{machines:?}"))
    })
}

impl Round {
    async fn run(&self) -> anyhow::Result<Failover> {
        tokio::time::timeout(LIMIT, self.measure()).await.context("nobody takes over")?
    }

    async fn measure(&self) -> anyhow::Result<Failover> {
        let mut clients = Vec::new();
        for server in &self.others {
            let client = client_of(&self.kubeconfig, server).await;
            // The connection is there when it is needed, as a client's is.
            client.apiserver_version().await?;
            clients.push(client);
        }
        let sets = clients.iter().cloned().map(Api::<ReplicaSet>::default_namespaced);
        let sets: Vec<_> = sets.collect();
        let pods: Api<Pod> = Api::default_namespaced(clients[0].clone());
        let ours = format!("round={}", self.number);
        let (of_ours, watch) =
            (ListParams::default().labels(&ours), WatchParams::default().labels(&ours));
        let now = pods.list(&of_ours).await?.metadata.resource_version.unwrap_or_default();
        let events = pods.watch(&watch, &now).await?;

        kill(self.leader, Signal::SIGKILL)?;
        let killed = Instant::now();
        let write = async {
            self.first_write(&sets).await?;
            anyhow::Ok(killed.elapsed())
        };
        let controllers = async {
            let mut events = std::pin::pin!(events);
            match events.try_next().await?.context("the watch ended")? {
                WatchEvent::Added(_) => Ok(killed.elapsed()),
                other => bail!("the first event of a pod is {other:?}"),
            }
        };
        let (write, controllers) = tokio::try_join!(write, controllers)?;
        sets[0].delete_collection(&DeleteParams::background(), &of_ours).await?;
        Ok(Failover { write, controllers })
    }

    /// Tries at all in turn, until one attempt is acknowledged.
    async fn first_write(&self, sets: &[Api<ReplicaSet>]) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(EVERY);
        let mut attempts = FuturesUnordered::new();
        let mut places = sets.iter().cycle().zip(0..);
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let (set, attempt) = places.next().context("no masters")?;
                    attempts.push(self.attempt(set, attempt));
                }
                // A refusal says that nobody leads yet.
                Some(Ok(_)) = attempts.next() => return Ok(()),
            }
        }
    }

    async fn attempt(&self, set: &Api<ReplicaSet>, attempt: usize) -> kube::Result<ReplicaSet> {
        let labels = json!({"round": self.number.to_string()});
        let set_of_one = json!({
            "metadata": {"name": format!("round-{}-{attempt}", self.number), "labels": labels},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"round": self.number.to_string(), "attempt": attempt.to_string()}},
                "template": {
                    "metadata": {"labels": {"round": self.number.to_string(), "attempt": attempt.to_string()}},
                    "spec": {"containers": [{"name": "none", "image": "none"}]},
                },
            },
        });
        let body = serde_json::from_value(set_of_one).map_err(kube::Error::SerdeError)?;
        set.create(&PostParams::default(), &body).await
    }
}
