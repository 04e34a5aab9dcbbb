//! The store beside etcd: synced writes of 256 bytes, same machine, same run.
//!
//! Both sides are a group of one that has every write on its disk before it
//! answers. They take turns, round by round, so that a noisy machine is noisy
//! for both; the table shows medians and their ratio.
//!
//! What the comparison is and is not: etcd answers over loopback gRPC, which is
//! how an API server would use it; our store is called in its own process,
//! which is how ours uses it. Resident memory of the store's side therefore
//! includes the load generator, etcd's does not.

mod etcd;
mod load;
mod process;
mod skiff;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::load::Measured;

/// Compares the store with Debian's etcd-server.
#[derive(Parser)]
struct Flags {
    #[command(subcommand)]
    command: Option<Side>,
    /// Seconds per measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Measurements of each kind; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Numbers of concurrent clients.
    #[arg(long, value_delimiter = ',', default_value = "1,1000")]
    clients: Vec<usize>,
    /// Where the data directories are made. It should be the disk that the
    /// cluster will use.
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// The etcd program.
    #[arg(long, default_value = "etcd")]
    etcd: PathBuf,
}

/// One measurement of our own store, in a process of its own.
#[derive(Subcommand)]
enum Side {
    /// Measures the store and prints the result as JSON.
    #[command(hide = true)]
    Skiff {
        #[arg(long)]
        clients: usize,
        #[arg(long)]
        seconds: u64,
        #[arg(long)]
        dir: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match flags.command {
        Some(Side::Skiff { clients, seconds, dir }) => {
            let measured =
                runtime.block_on(skiff::measure(&dir, clients, Duration::from_secs(seconds)))?;
            println!("{}", serde_json::to_string(&measured)?);
            Ok(())
        }
        None => runtime.block_on(compare(&flags)),
    }
}

async fn compare(flags: &Flags) -> anyhow::Result<()> {
    let span = Duration::from_secs(flags.seconds);
    println!(
        "{:>7} {:>6} {:>10} {:>10} {:>10} {:>9} {:>13}",
        "clients", "store", "writes/s", "p50 us", "p99 us", "RSS MiB", "disk B/write"
    );
    // Kept to the end: deleting one side's files must not slow down the other.
    let mut dirs = Vec::new();
    for &clients in &flags.clients {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..flags.rounds {
            let dir = tempfile::tempdir_in(&flags.dir).context("cannot make a data directory")?;
            settle().await;
            ours.push(skiff::measure_apart(dir.path(), clients, span).await?);
            settle().await;
            theirs.push(etcd::measure(&flags.etcd, dir.path(), clients, span).await?);
            dirs.push(dir);
        }
        let (ours, theirs) = (Measured::median(ours), Measured::median(theirs));
        row(clients, "skiff", &ours);
        row(clients, "etcd", &theirs);
        println!(
            "{clients:>7}  ratio {:>9.2}x {:>9.2}x {:>9.2}x {:>8.2}x {:>12.2}x",
            ours.per_second / theirs.per_second,
            ours.p50_micros / theirs.p50_micros,
            ours.p99_micros / theirs.p99_micros,
            ours.rss_mib / theirs.rss_mib,
            ours.disk_bytes_per_write / theirs.disk_bytes_per_write,
        );
    }
    Ok(())
}

/// Lets the disk finish what others left to it.
async fn settle() {
    nix::unistd::sync();
    tokio::time::sleep(Duration::from_secs(1)).await;
}

fn row(clients: usize, name: &str, measured: &Measured) {
    println!(
        "{clients:>7} {name:>6} {:>10.0} {:>10.0} {:>10.0} {:>9.1} {:>13.0}",
        measured.per_second,
        measured.p50_micros,
        measured.p99_micros,
        measured.rss_mib,
        measured.disk_bytes_per_write
    );
}
