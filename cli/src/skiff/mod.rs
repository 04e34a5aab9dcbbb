//! `skiff`: runs masters, nodes, both in one process, and labs of many.
//!
//! In reading order: [`args`], [`resource_args`] and [`shutdown_args`] are what can be said,
//! [`config_file`] where else it may be said; `up`, `server` and `agent` start the parts that `master`
//! and `node` put together; `backup`, `restore`, `down`, `token` and `lab` do what their names say.

pub mod args;
pub mod config_file;
pub mod resource_args;
pub mod shutdown_args;

mod up;

mod agent;
mod server;

mod cluster_info;
mod damage;
pub mod etcd_url;
mod join;
mod master;
mod masters;
mod node;
mod roster;

mod preflight;
mod ready;
mod supervise;

mod backup;
mod down;
mod lab;
mod member;
mod restore;
mod token;

use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use args::{Cli, Command};
use supervise::Next;

/// Exit code of a command that failed.
const FAILED: u8 = 1;
/// Exit code of a command line that makes no sense; clap uses the same.
const USAGE: u8 = 2;

/// Parses the command line, runs the command, and says on one line what went wrong.
pub fn main() -> ExitCode {
    let arguments = match config_file::expand(std::env::args_os().collect()) {
        Ok(arguments) => arguments,
        Err(error) => return fail(&error, USAGE),
    };
    let cli = Cli::parse_from(arguments);
    if let Err(error) = cli.check() {
        return fail(&anyhow::Error::msg(error), USAGE);
    }
    match run(cli) {
        Ok(code) => code,
        Err(error) => fail(&error, FAILED),
    }
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("skiff: error: {error:#}");
    ExitCode::from(code)
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Up(args) => wait_for(&args.common.log.clone(), up::run(args)).and_then(follow),
        Command::Server(args) => {
            wait_for(&args.common.log.clone(), server::run(args)).and_then(follow)
        }
        Command::Agent(args) => {
            wait_for(&args.common.log.clone(), agent::run(args)).and_then(follow)
        }
        Command::Down(args) => wait_for("warn", down::run(args)),
        Command::Token(args) => wait_for("warn", token::run(args)),
        Command::Member(args) => wait_for("warn", member::run(args)),
        Command::Status(args) => wait_for("warn", member::status(args)),
        Command::Backup(args) => wait_for("warn", backup::run(args)),
        Command::Restore(args) => restore::run(&args),
        Command::Lab(args) => return lab::run(args),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Does what is to follow on a daemon's clean stop. A start in place keeps the
/// process id, which is what others know the daemon by.
fn follow(next: Next) -> anyhow::Result<()> {
    match next {
        Next::Exit => Ok(()),
        Next::StartAgain => {
            let mut arguments = std::env::args_os();
            let mut again = std::process::Command::new("/proc/self/exe");
            if let Some(name) = arguments.next() {
                again.arg0(name);
            }
            // Returns only if it fails.
            Err(again.args(arguments).exec()).context("cannot start again")
        }
    }
}

/// Runs a command to its end on a runtime of two threads: the machines Skiff
/// is made for have few cores, and every thread holds memory.
fn wait_for<T>(log: &str, command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    log_to_stderr(log)?;
    skiff_memory::keep_together();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(command);
    // Blocking work that nobody waits for any more must not hold up the exit.
    runtime.shutdown_background();
    result
}

/// What the program has to say goes to stderr; stdout is for results.
fn log_to_stderr(filter: &str) -> anyhow::Result<()> {
    let targets: Targets = filter.parse().map_err(|error| {
        anyhow::anyhow!("--log {filter}: {error}; try `info` or `info,skiff_agent=debug`")
    })?;
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
    tracing_subscriber::registry().with(targets).with(lines).init();
    // rustls is told once which cryptography to use; a second call changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(())
}
