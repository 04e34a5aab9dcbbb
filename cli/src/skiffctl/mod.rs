//! `skiffctl`: the client for people who know `kubectl`.
//!
//! The same verbs, flags and output formats, over the same public API. In
//! reading order: [`args`] is what can be said; `connect` finds the cluster,
//! `discover` what it serves, `target` what a command names; one file per
//! verb follows; `output` prints.

pub mod args;

mod connect;
mod discover;
mod manifest;
mod target;

mod apply;
mod delete;
mod describe;
mod exec;
mod expose;
mod get;
mod image;
mod logs;
mod rollout;
mod run;
mod scale;
mod set;

mod jsonpath;
mod output;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use connect::Session;

/// Exit code of a command that failed.
const FAILED: u8 = 1;

/// Parses the command line and runs the verb.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = end_with_the_reader() {
        return fail(&error);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    // rustls is told once which cryptography to use; a second call changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match runtime.block_on(perform(cli)) {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

/// Rust ignores SIGPIPE, so that `skiffctl get pods | head` would end in a
/// panic; a program in a pipeline ends quietly with its reader.
fn end_with_the_reader() -> anyhow::Result<()> {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: the default disposition runs no code of ours.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
    Ok(())
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("{}", explain(error));
    ExitCode::from(FAILED)
}

/// An error on one line, the server's own words in `kubectl`'s form.
fn explain(error: &anyhow::Error) -> String {
    match error.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) if !status.reason.is_empty() => {
            format!("Error from server ({}): {}", status.reason, status.message)
        }
        Some(kube::Error::Api(status)) => format!("Error from server: {}", status.message),
        _ => format!("error: {error:#}"),
    }
}

async fn perform(cli: Cli) -> anyhow::Result<ExitCode> {
    let session = Session::open(&cli.global).await?;
    match cli.command {
        Command::Get(args) => get::run(&session, args).await?,
        Command::Describe(args) => describe::run(&session, args).await?,
        Command::Apply(args) => apply::run(&session, args).await?,
        Command::Delete(args) => delete::run(&session, args).await?,
        Command::Logs(args) => logs::run(&session, args).await?,
        Command::Exec(args) => return exec::run(&session, args).await,
        Command::Scale(args) => scale::run(&session, args).await?,
        Command::Set(args) => set::run(&session, args).await?,
        Command::Rollout(args) => rollout::run(&session, args).await?,
        Command::Expose(args) => expose::run(&session, args).await?,
        Command::Run(args) => run::run(&session, args).await?,
        Command::Image(args) => image::run(&session, args).await?,
        Command::Version => connect::version(&session).await?,
        Command::ApiResources => discover::print(&session).await?,
    }
    Ok(ExitCode::SUCCESS)
}
