//! What a cluster costs that does nothing: CPU, memory and disk writes of
//! every master and node of a lab.

use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use skiff_bench::process;
use skiff_bench::report::megabytes;
use skiff_tests::{Lab, eventually};

/// How long a lab may take to be ready in all its parts.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Parser)]
struct Args {
    /// How many masters
    #[arg(long, default_value_t = 3)]
    masters: u32,
    /// How many nodes
    #[arg(long, default_value_t = 1)]
    nodes: u32,
    /// Seconds over which they are watched
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// A process of the lab, and what it had cost before.
struct Watched {
    what: String,
    pid: u32,
    cpu: Duration,
    written: u64,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let lab = Lab::up_with(args.masters, args.nodes);
    eventually("all machines", LIMIT, || {
        let machines = lab.machines();
        let ready = machines.iter().all(|machine| machine["ready"] == true);
        if ready { Ok(()) } else { Err(format!("{machines:?}")) }
    });
    // Start-up work, such as the renewal of leases just written, settles first.
    std::thread::sleep(Duration::from_secs(15));
    let mut watched = Vec::new();
    for machine in lab.machines() {
        let role = machine["role"].as_str().context("no role")?;
        let what = if machine["leader"] == true { "leading master" } else { role };
        let pid = machine["pid"].as_u64().context("no process")?.try_into()?;
        let (cpu, written) = (process::cpu(pid)?, process::written(pid)?);
        watched.push(Watched { what: what.to_owned(), pid, cpu, written });
    }
    std::thread::sleep(Duration::from_secs(args.seconds));
    println!("| idle over {} s | CPU | resident | written |", args.seconds);
    println!("|---|---|---|---|");
    for one in watched {
        let cpu = process::cpu(one.pid)? - one.cpu;
        let share = cpu.as_secs_f64() / args.seconds as f64 * 100.0;
        let resident = megabytes(process::resident(one.pid)?);
        let written = (process::written(one.pid)? - one.written) / 1024;
        println!("| {} | {share:.2}% of a core | {resident:.1} MB | {written} kB |", one.what);
    }
    Ok(())
}
