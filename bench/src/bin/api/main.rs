//! The API server over TLS, as clients outside drive it, beside its floors.
//!
//! The server runs in a process of its own over a store on disk: every write
//! is synced before it is answered. The clients share the machine with it, so
//! each rate stands beside the same load on a server that does nothing but
//! answer (`hello`: hyper and rustls), and writes beside a loop of `fdatasync`.
//! What a request costs the server is its CPU time, which the clients' share of
//! the machine does not blur.

mod client;
mod fanout;
mod floor;
mod load;
mod pods;
mod serve;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use crate::client::Target;
use crate::load::{Measured, Work};
use crate::serve::Process;

/// Measures the API server.
#[derive(Parser)]
struct Flags {
    #[command(subcommand)]
    side: Option<Side>,
    /// Seconds per measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Numbers of connections.
    #[arg(long, value_delimiter = ',', default_value = "1,64")]
    connections: Vec<usize>,
    /// Pods to store, list and weigh.
    #[arg(long, default_value_t = 10_000)]
    pods: usize,
    /// Watches on one object.
    #[arg(long, default_value_t = 1_000)]
    watches: usize,
    /// Changes that the watches see.
    #[arg(long, default_value_t = 100)]
    changes: usize,
    /// Where the data directory is made. It should be the disk that the
    /// cluster will use.
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
}

/// A server in a process of its own: says where it listens, ends with its
/// standard input.
#[derive(Subcommand)]
enum Side {
    /// The API server.
    #[command(hide = true)]
    Serve {
        #[arg(long)]
        dir: PathBuf,
    },
    /// A server that answers every request alike.
    #[command(hide = true)]
    Hello {
        #[arg(long)]
        dir: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match &flags.side {
        Some(Side::Serve { dir }) => runtime.block_on(serve::api(dir)),
        Some(Side::Hello { dir }) => runtime.block_on(serve::hello(dir)),
        None => runtime.block_on(measure(&flags)),
    }
}

async fn measure(flags: &Flags) -> anyhow::Result<()> {
    let dir = tempfile::tempdir_in(&flags.dir).context("cannot make a data directory")?;
    let api = Process::start("serve", dir.path()).await?;
    let hello = Process::start("hello", dir.path()).await?;
    let target = Target::from_kubeconfig(&dir.path().join("admin.kubeconfig"), api.address)?;
    let floor = target.at(hello.address);
    let span = Duration::from_secs(flags.seconds);

    let syncs = floor::syncs(dir.path(), span.min(Duration::from_secs(3)))?;
    println!(
        "disk floor: {:.0} fdatasync/s of one block each, median {:.0} us",
        syncs.per_second, syncs.p50_micros
    );
    println!();
    println!(
        "{:>11} {:>5} {:>9} {:>9} {:>9} {:>12} {:>9} {:>14}",
        "", "conns", "per s", "p50 us", "p99 us", "server us", "hello/s", "ratio to hello"
    );
    for &connections in &flags.connections {
        for work in [Work::Create, Work::Get, Work::Update] {
            let bare = load::run(&floor, &hello, work, connections, span).await?;
            let measured = load::run(&target, &api, work, connections, span).await?;
            row(work, connections, &measured, &bare);
        }
    }
    println!();
    pods::measure(&target, &api, &floor, flags.pods).await?;
    println!();
    fanout::measure(&target, &api, flags.watches, flags.changes).await?;
    hello.stop().await?;
    api.stop().await
}

fn row(work: Work, connections: usize, measured: &Measured, bare: &Measured) {
    println!(
        "{:>11} {connections:>5} {:>9.0} {:>9.0} {:>9.0} {:>12.0} {:>9.0} {:>14.2}",
        work.name(),
        measured.per_second,
        measured.p50_micros,
        measured.p99_micros,
        measured.server_micros,
        bare.per_second,
        measured.per_second / bare.per_second,
    );
}
