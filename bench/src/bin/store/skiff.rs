//! Our side: the store in a process of its own.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use skiff_store::{Draft, Key, Store, StoreConfig, Txn, Write};

use crate::load::{self, Client, Measured};
use crate::process;

struct Writer(Store);

impl Client for Writer {
    async fn write(&mut self, key: String, value: Vec<u8>) -> anyhow::Result<()> {
        let draft = Draft { bytes: value.into(), revision_at: None, sealed: false };
        self.0.commit(Txn::default().write(Write::Put(Key::from(key), draft))).await?;
        Ok(())
    }
}

/// Measures in this process.
pub(crate) async fn measure(
    dir: &Path,
    clients: usize,
    span: Duration,
) -> anyhow::Result<Measured> {
    let store = Store::open(StoreConfig::new(dir.join("store"), [1; 32])).await?;
    let before = process::disk_bytes(std::process::id())?;
    let mut measured =
        load::run((0..clients).map(|_| Writer(store.clone())).collect(), span).await?;
    measured.rss_mib = process::rss_mib(std::process::id())?;
    // The transactions of the warm-up were written as well.
    let writes = store.stats().transactions as f64;
    measured.disk_bytes_per_write = (process::disk_bytes(std::process::id())? - before) / writes;
    store.close().await?;
    Ok(measured)
}

/// Measures in a child, so that its memory is not ours.
pub(crate) async fn measure_apart(
    dir: &Path,
    clients: usize,
    span: Duration,
) -> anyhow::Result<Measured> {
    let output = tokio::process::Command::new(std::env::current_exe()?)
        .args([
            "skiff",
            "--clients",
            &clients.to_string(),
            "--seconds",
            &span.as_secs().to_string(),
            "--dir",
        ])
        .arg(dir)
        .stderr(std::process::Stdio::inherit())
        .output()
        .await?;
    anyhow::ensure!(output.status.success(), "the store's side failed: {}", output.status);
    serde_json::from_slice(&output.stdout).context("the store's side printed no result")
}
