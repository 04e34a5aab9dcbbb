//! `skiff down`: removes every trace, and can be repeated.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::args::DownArgs;
use super::preflight;

/// How long a running Skiff may take to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// Stops the Skiff of this data directory, then removes its containers and the
/// interfaces, routes and rules of this network namespace. Carries on past
/// failures and reports them all.
pub(super) async fn run(args: DownArgs) -> anyhow::Result<()> {
    preflight::need_root("skiff down")?;
    let data_dir = std::path::absolute(&args.data_dir)?;
    stop_running(&data_dir).await?;
    let mut failed = Vec::new();
    if let Err(failures) = skiff_agent::teardown(&data_dir, &args.docker_socket).await {
        failed.extend(failures);
    }
    if let Err(error) = skiff_proxy::teardown().await {
        failed.push(format!("{error:#}"));
    }
    if !failed.is_empty() {
        bail!("not everything could be removed: {}", failed.join("; "));
    }
    if args.purge { purge(&data_dir) } else { Ok(()) }
}

async fn stop_running(data_dir: &Path) -> anyhow::Result<()> {
    let Some(pid) = preflight::holder(data_dir) else { return Ok(()) };
    kill(Pid::from_raw(pid), Signal::SIGTERM)
        .with_context(|| format!("cannot stop the skiff process {pid}"))?;
    let deadline = Instant::now() + STOP_PATIENCE;
    while preflight::holder(data_dir) == Some(pid) {
        if Instant::now() > deadline {
            bail!("the skiff process {pid} does not stop; kill it and run `skiff down` again");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Deletes the data directory, but never a folder that Skiff has not used: a
/// slip of the keyboard must not delete a home.
fn purge(data_dir: &Path) -> anyhow::Result<()> {
    if !data_dir.exists() {
        return Ok(());
    }
    if !preflight::is_data_dir(data_dir) {
        bail!(
            "{} does not look like a data directory of Skiff; it is left alone",
            data_dir.display()
        );
    }
    std::fs::remove_dir_all(data_dir)
        .with_context(|| format!("cannot delete {}", data_dir.display()))
}
