//! The store beside etcd: synced writes of 256 bytes, linearizable reads, and
//! both under watches; a group of one and a group of three; same machine, same
//! run.
//!
//! Both sides have every write on the disks of a majority before they answer,
//! and are called at the leader. They take turns, round by round, so that a
//! noisy machine is noisy for both; the table shows medians and their ratio.
//! Every watcher has to tell of every write, once, or there is no result.
//!
//! What the comparison is and is not: etcd answers over loopback gRPC, which is
//! how an API server would use it; our store is called in its own process,
//! which is how ours uses it. Resident memory of our group of one therefore
//! includes the load generator, etcd's does not; with three members it is that
//! of those that only follow, on both sides. Our members speak TLS to each
//! other, etcd's do not.

mod etcd;
mod load;
mod member;
mod skiff;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::load::{Measured, Row, Work};
use crate::member::Joining;

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
    /// What clients do.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "writes,reads,mixed")]
    work: Vec<Work>,
    /// Sizes of the group.
    #[arg(long, value_delimiter = ',', default_value = "1,3")]
    members: Vec<usize>,
    /// Numbers of concurrent clients that write or read.
    #[arg(long, value_delimiter = ',', default_value = "1,1000")]
    clients: Vec<usize>,
    /// Clients of the mixed load, and as many watchers.
    #[arg(long, default_value_t = 100)]
    mixed: usize,
    /// Where the data directories are made. It should be the disk that the
    /// cluster will use.
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// The etcd program.
    #[arg(long, default_value = "etcd")]
    etcd: PathBuf,
}

/// Parts of our own side, in processes of their own.
#[derive(Subcommand)]
enum Side {
    /// Measures the store and prints the result as JSON.
    #[command(hide = true)]
    Skiff {
        #[arg(long, value_parser = json::<Row>)]
        row: Row,
        #[arg(long)]
        dir: PathBuf,
    },
    /// Is one more member of the group, until killed.
    #[command(hide = true)]
    Member {
        #[arg(long, value_parser = json::<Joining>)]
        joining: Joining,
        #[arg(long)]
        number: usize,
        #[arg(long)]
        dir: PathBuf,
    },
}

fn json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    serde_json::from_str(text)
}

fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match flags.command {
        Some(Side::Skiff { row, dir }) => {
            let measured = runtime.block_on(skiff::measure(&dir, row))?;
            println!("{}", serde_json::to_string(&measured)?);
            Ok(())
        }
        Some(Side::Member { joining, number, dir }) => runtime.block_on(joining.run(&dir, number)),
        None => runtime.block_on(compare(&flags)),
    }
}

impl Flags {
    /// The rows of the table.
    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for &members in &self.members {
            for &work in &self.work {
                let row = |clients, watchers| Row {
                    work,
                    members,
                    clients,
                    watchers,
                    seconds: self.seconds,
                };
                match work {
                    Work::Writes | Work::Reads => {
                        rows.extend(self.clients.iter().map(|clients| row(*clients, 0)));
                    }
                    Work::Mixed => rows.push(row(self.mixed, self.mixed)),
                }
            }
        }
        rows
    }
}

async fn compare(flags: &Flags) -> anyhow::Result<()> {
    println!(
        "| members | load | clients | | calls/s | p50 | p99 | resident | disk per write |\n|---|---|---|---|---|---|---|---|---|"
    );
    // Kept to the end: deleting one side's files must not slow down the other.
    let mut dirs = Vec::new();
    for row in flags.rows() {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..flags.rounds {
            let dir = tempfile::tempdir_in(&flags.dir).context("cannot make a data directory")?;
            settle().await;
            ours.push(skiff::measure_apart(dir.path(), row).await?);
            settle().await;
            theirs.push(etcd::measure(&flags.etcd, dir.path(), row).await?);
            dirs.push(dir);
        }
        let (ours, theirs) = (Measured::median(&ours), Measured::median(&theirs));
        show(row, "skiff", &ours);
        show(row, "etcd", &theirs);
        println!(
            "| | | | ratio | {:.2} | {:.2} | {:.2} | {:.2} | {} |",
            ours.per_second / theirs.per_second,
            ours.p50_micros / theirs.p50_micros,
            ours.p99_micros / theirs.p99_micros,
            ours.rss_mib / theirs.rss_mib,
            match (ours.disk_bytes_per_write, theirs.disk_bytes_per_write) {
                (Some(ours), Some(theirs)) => format!("{:.2}", ours / theirs),
                _ => "–".to_owned(),
            }
        );
    }
    Ok(())
}

/// Lets the disk finish what others left to it.
async fn settle() {
    nix::unistd::sync();
    tokio::time::sleep(Duration::from_secs(1)).await;
}

fn show(row: Row, name: &str, measured: &Measured) {
    let load = match row.work {
        Work::Writes => "writes".to_owned(),
        Work::Reads => "reads".to_owned(),
        Work::Mixed => format!("¼ writes, {} watchers", row.watchers),
    };
    println!(
        "| {} | {load} | {} | {name} | {:.0} | {:.0} µs | {:.0} µs | {:.1} MiB | {} |",
        row.members,
        row.clients,
        measured.per_second,
        measured.p50_micros,
        measured.p99_micros,
        measured.rss_mib,
        measured.disk_bytes_per_write.map_or("–".to_owned(), |bytes| format!("{bytes:.0} B"))
    );
}
