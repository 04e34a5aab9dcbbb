//! Our side: the store called in its own process, its other members in
//! processes of their own.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, ensure};
use skiff_store::{Draft, Key, KeyRange, Store, Txn, Write};
use tokio::process::{Child, Command};

use crate::load::{self, Client, Measured, PREFIX, Row, Watch};
use crate::member::{self, Authority};

#[derive(Clone)]
struct Caller(Store);

impl Client for Caller {
    type Watch = skiff_store::Watch;

    async fn write(&mut self, key: String, value: Vec<u8>) -> anyhow::Result<()> {
        let draft = Draft { bytes: value.into(), revision_at: None, sealed: false };
        self.0.commit(Txn::default().write(Write::Put(Key::from(key), draft))).await?;
        Ok(())
    }

    async fn read(&mut self, key: String) -> anyhow::Result<()> {
        let found = self.0.snapshot_latest().await?.get(&key);
        ensure!(found.is_some(), "{key} is not there");
        Ok(())
    }

    async fn watch(&mut self) -> anyhow::Result<Self::Watch> {
        Ok(self.0.watch(KeyRange::prefix(PREFIX), self.0.revision())?)
    }
}

impl Watch for skiff_store::Watch {
    async fn next(&mut self) -> anyhow::Result<u64> {
        Ok(Self::next(self).await?.len() as u64)
    }
}

/// Measures in this process.
pub(crate) async fn measure(dir: &Path, row: Row) -> anyhow::Result<Measured> {
    let authority = Authority::create(dir)?;
    let store = member::begin(dir, &authority).await?;
    let mut pids = vec![std::process::id()];
    // Killed when they are dropped, at the end.
    let mut others: Vec<Child> = Vec::new();
    for number in 2..=row.members {
        let joining = member::Joining::ask(&store).await?;
        let other = Command::new(std::env::current_exe()?)
            .args(["member", "--joining", &serde_json::to_string(&joining)?])
            .args(["--number", &number.to_string(), "--dir"])
            .arg(dir)
            .kill_on_drop(true)
            .spawn()?;
        pids.push(other.id().context("a member ended at once")?);
        others.push(other);
        joining.done(&store).await?;
    }
    let callers = (0..row.clients).map(|_| Caller(store.clone())).collect();
    let measured = load::measure(callers, row, &pids).await?;
    store.close().await?;
    Ok(measured)
}

/// Measures in a child, so that its memory is not ours.
pub(crate) async fn measure_apart(dir: &Path, row: Row) -> anyhow::Result<Measured> {
    let output = Command::new(std::env::current_exe()?)
        .args(["skiff", "--row", &serde_json::to_string(&row)?, "--dir"])
        .arg(dir)
        .stderr(Stdio::inherit())
        .output()
        .await?;
    ensure!(output.status.success(), "the store's side failed: {}", output.status);
    serde_json::from_slice(&output.stdout).context("the store's side printed no result")
}
