//! One supervisor per daemon: it owns every task, and stops them together.

use std::future::pending;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::bail;
use skiff_agent::address;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// How long tasks may take to end after they were asked to.
const GRACE: Duration = Duration::from_secs(10);

/// What is to follow when a daemon has stopped cleanly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing: it was asked to stop.
    Exit,
    /// Another start: its machine has another address now, and too much was
    /// told the old one to take it all back.
    StartAgain,
}

impl Next {
    /// The same, unless the daemon has not stopped cleanly. A start finds its
    /// way after a power cut too, so it does not depend on a clean stop.
    pub(super) fn unless(self, stopped: anyhow::Result<()>) -> anyhow::Result<Self> {
        match (self, stopped) {
            (Self::Exit, Err(error)) => Err(error),
            (Self::StartAgain, Err(error)) => {
                warn!(error = format!("{error:#}"), "starting again all the same");
                Ok(self)
            }
            (_, Ok(())) => Ok(self),
        }
    }
}

/// The tasks of a daemon.
pub(super) struct Supervisor {
    tasks: JoinSet<(&'static str, anyhow::Result<()>)>,
    /// Cancelled when the daemon stops.
    pub(super) cancel: CancellationToken,
}

impl Supervisor {
    pub(super) fn new() -> Self {
        Self { tasks: JoinSet::new(), cancel: CancellationToken::new() }
    }

    /// Adds a task that runs until cancelled.
    pub(super) fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.tasks.spawn(async move { (name, task.await) });
    }

    /// Waits for the end of `until`, unless a task ends first or a signal asks
    /// to stop; `None` for the signal.
    pub(super) async fn wait_until<T>(
        &mut self,
        until: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<Option<T>> {
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::select! {
            result = until => result.map(Some),
            _ = terminate.recv() => Ok(None),
            _ = interrupt.recv() => Ok(None),
            Some(ended) = self.tasks.join_next() => Err(ended_unasked(ended)),
        }
    }

    /// Serves until a signal asks to stop, a task ends, or the machine loses
    /// its address for another. `given` is one that the user has fixed.
    pub(super) async fn serve(
        &mut self,
        given: Option<IpAddr>,
        current: IpAddr,
        pick: impl Fn() -> anyhow::Result<IpAddr>,
    ) -> anyhow::Result<Next> {
        if given.is_some() {
            self.wait_until(pending::<anyhow::Result<()>>()).await?;
            return Ok(Next::Exit);
        }
        let Some(address) = self.wait_until(address::moved(current, pick)).await? else {
            return Ok(Next::Exit);
        };
        warn!(%current, %address, "this machine has another address, starting again with it");
        Ok(Next::StartAgain)
    }

    /// Stops all tasks and waits for them. A second signal cuts the wait short.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        self.cancel.cancel();
        let mut failed = Vec::new();
        let drain = async {
            while let Some(ended) = self.tasks.join_next().await {
                match ended {
                    Ok((_, Ok(()))) => {}
                    Ok((name, Err(error))) => failed.push(format!("{name}: {error:#}")),
                    Err(error) => failed.push(error.to_string()),
                }
            }
        };
        if timeout(GRACE, drain).await.is_err() {
            warn!(unfinished = self.tasks.len(), "grace period over, aborting");
            self.tasks.shutdown().await;
        }
        if !failed.is_empty() {
            bail!("not stopped cleanly: {}", failed.join("; "));
        }
        info!("stopped");
        Ok(())
    }
}

fn ended_unasked(
    ended: Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>,
) -> anyhow::Error {
    let error = match ended {
        Ok((name, Ok(()))) => anyhow::anyhow!("the {name} ended unasked"),
        Ok((name, Err(error))) => error.context(format!("the {name} failed")),
        Err(error) => anyhow::Error::new(error).context("a task broke off"),
    };
    error!(error = format!("{error:#}"), "stopping");
    error
}
