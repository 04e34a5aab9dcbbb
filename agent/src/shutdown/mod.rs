//! Graceful node shutdown: pods end in order before their machine goes off.
//!
//! systemd-logind tells of a shutdown before it begins, and waits for whoever
//! holds a delay lock: [`logind`] speaks to it over D-Bus. [`plan`] says who
//! ends when and is pure; [`drop_in`] has logind wait as long as that takes.
//! The pods' workers do the rest, told as they are of an eviction.
//!
//! From the first notice on the node is not ready and refuses pods. A plain
//! stop of the agent is not a shutdown: it gives back the lock, and pods go on
//! running.
//!
//! Left out: machines without logind, where pods end as Docker ends them; and
//! static pods that ended before a shutdown was called off, which start again
//! with the agent.

pub mod drop_in;
#[cfg(test)]
pub mod fake_logind;
pub mod logind;
pub mod plan;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::drop_in::DropIn;
use self::logind::{Logind, Notices};
use self::plan::GracePeriods;
use crate::config::Config;
use crate::events::{Recorder, Severity};
use crate::pod::directory::Directory;
use crate::pod::model::{Disruption, uid};

/// What logind is asked for beyond the pods' time: the last of them is killed
/// at its end, and the API has to hear of it.
const MARGIN: Duration = Duration::from_secs(2);
/// How often logind is asked whether it has read its settings anew, and the
/// wait in between. It takes the signal to do so when it gets round to it.
const RELOAD_LOOKS: u32 = 20;
const RELOAD_WAIT: Duration = Duration::from_millis(100);
/// The event that tells of a shutdown; upstream's name.
const EVENT: &str = "NodeShutdown";

/// Ends the pods of one node when its machine shuts down.
pub struct Shutdown {
    node_name: String,
    periods: GracePeriods,
    drop_in: DropIn,
    bus: Option<String>,
    directory: Arc<Directory>,
    recorder: Recorder,
    /// Whether the machine shuts down, for the node's condition and for pods
    /// that come.
    begun_tx: watch::Sender<bool>,
}

impl Shutdown {
    /// For the pods in `directory`; `begun_tx` is told when the machine begins
    /// to shut down, and when it does not after all.
    pub fn new(
        config: &Config,
        directory: Arc<Directory>,
        recorder: Recorder,
        begun_tx: watch::Sender<bool>,
    ) -> Self {
        Self {
            node_name: config.node_name.clone(),
            periods: config.shutdown.clone(),
            drop_in: DropIn::new(&config.logind_conf_dir, &config.instance),
            bus: None,
            directory,
            recorder,
            begun_tx,
        }
    }

    /// The same on the bus at this address instead of the machine's own.
    #[cfg(test)]
    pub(crate) fn on_bus(self, address: &str) -> Self {
        Self { bus: Some(address.to_owned()), ..self }
    }

    /// Works until cancelled. A machine that cannot tell of its shutdowns is
    /// asked once; its pods end as Docker ends them.
    pub async fn run(self, cancel: CancellationToken) {
        let work = async {
            if self.periods.is_off() {
                return self.forget().await;
            }
            match self.work().await {
                Err(error) if *self.begun_tx.borrow() => {
                    info!("{error:#}, as its machine goes off")
                }
                Err(error) => warn!(
                    error = format!("{error:#}"),
                    "shutdowns of this machine cannot be awaited, its pods will end without grace"
                ),
                Ok(()) => {}
            }
        };
        cancel.run_until_cancelled(work).await;
        cancel.cancelled().await;
    }

    /// Takes back what an earlier start with grace periods asked of logind.
    async fn forget(&self) {
        match self.drop_in.remove() {
            Ok(false) => {}
            Ok(true) => reload(self.bus.as_deref()).await,
            Err(error) => warn!(%error, "a setting of logind is left behind"),
        }
    }

    async fn work(&self) -> anyhow::Result<()> {
        let logind = Logind::connect(self.bus.as_deref()).await?;
        let mut notices = logind.notices().await?;
        let periods = self.settle(&logind).await?;
        // A shutdown may have begun before there was anybody to hear of it.
        let mut begun = logind.is_shutting_down().await?;
        let mut lock = None;
        loop {
            self.begun_tx.send_replace(begun);
            if begun {
                self.tell("Shutdown manager detected shutdown event");
                tokio::select! {
                    () = self.end_pods(&periods) => {
                        lock = None;
                        turned(&mut notices, begun).await?;
                    }
                    turned = turned(&mut notices, begun) => turned?,
                }
                self.tell("Shutdown manager detected shutdown cancellation");
            } else {
                if lock.is_none() {
                    lock = Some(logind.delay_shutdowns().await?);
                    info!(seconds = periods.total().as_secs(), "shutdowns wait for pods");
                }
                turned(&mut notices, begun).await?;
            }
            begun = !begun;
        }
    }

    /// Has logind wait as long as the pods may take. What it does not grant is
    /// taken from the periods.
    async fn settle(&self, logind: &Logind) -> anyhow::Result<GracePeriods> {
        let wanted = self.periods.total() + MARGIN;
        let mut granted = logind.longest_delay().await?;
        if granted < wanted || self.drop_in.exists() {
            match self.drop_in.write(wanted) {
                Ok(false) => {}
                Ok(true) => {
                    logind.reload().await?;
                    for _ in 0..RELOAD_LOOKS {
                        granted = logind.longest_delay().await?;
                        if granted >= wanted {
                            break;
                        }
                        sleep(RELOAD_WAIT).await;
                    }
                }
                Err(error) => warn!(%error, "logind cannot be told to wait for pods"),
            }
        }
        if granted < wanted {
            let (granted, wanted) = (granted.as_secs(), wanted.as_secs());
            warn!(granted, wanted, "logind waits less long than pods may take; they get less time");
        }
        Ok(self.periods.within(granted.saturating_sub(MARGIN)))
    }

    /// Ends the pods, one rank after the other. The last one's time is also for
    /// those who have not ended in their own.
    async fn end_pods(&self, periods: &GracePeriods) {
        let pods = self.directory.pods();
        let turns = periods.turns(&pods);
        let last = turns.len().saturating_sub(1);
        let mut told = Vec::new();
        for (number, turn) in turns.iter().enumerate() {
            let until = SignedDuration::try_from(turn.grace).unwrap_or_default();
            let until = Some(Timestamp::now() + until);
            let uids: Vec<_> = turn.pods.iter().map(|pod| uid(pod)).collect();
            info!(pods = uids.len(), seconds = turn.grace.as_secs(), "ending pods");
            for uid in &uids {
                self.directory.disrupt(uid, Disruption::Shutdown { until });
            }
            let (patience, awaited) = if number == last {
                told.extend_from_slice(&uids);
                (turn.grace + MARGIN, &told)
            } else {
                (turn.grace, &uids)
            };
            if timeout(patience, self.directory.all_over(awaited)).await.is_err() {
                warn!("some pods did not end in their time");
            }
            told.extend(uids);
        }
    }

    fn tell(&self, message: &str) {
        let mut node = Node::default();
        node.metadata.name = Some(self.node_name.clone());
        self.recorder.node(&node, Severity::Normal, EVENT, message);
    }
}

/// Waits until logind says something else than `begun`.
async fn turned(notices: &mut Notices, begun: bool) -> anyhow::Result<()> {
    loop {
        if notices.next().await.context("the system bus is gone")?? != begun {
            return Ok(());
        }
    }
}

/// Removes what the installation has asked of logind.
pub(crate) async fn teardown(conf_dir: PathBuf, instance: &str) -> std::io::Result<()> {
    if DropIn::new(&conf_dir, instance).remove()? {
        reload(None).await;
    }
    Ok(())
}

/// Has logind read its settings anew.
async fn reload(bus: Option<&str>) {
    let reloaded = async { Logind::connect(bus).await?.reload().await };
    if let Err(error) = reloaded.await {
        // It does so when it starts, at the latest.
        info!(error = format!("{error:#}"), "logind has not read its settings anew");
    }
}
