//! The end: hooks, signals, last words, and what is removed.

use std::net::IpAddr;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{LifecycleHandler, Pod};
use tokio::time::Instant;

use super::super::context::Context;
use super::super::hooks;
use super::super::model::{Attempt, container_named, spec, uid};
use super::{containers_of, termination_log};
use crate::events::Severity;
use crate::runtime::{Container, LogOptions, Output, RuntimeError};
use crate::volume;

/// Limits of what is kept of a termination message.
const MESSAGE_BYTES: usize = 4096;
const MESSAGE_LOG_BYTES: usize = 2048;
const MESSAGE_LOG_LINES: i64 = 80;

/// What is left of the grace period at least after a preStop hook; upstream's
/// own figure.
const AFTER_HOOK: Duration = Duration::from_secs(2);

/// What a container that ended had to say.
pub async fn termination_message(
    ctx: &Context,
    pod: &Pod,
    name: &str,
    attempt: &Attempt,
) -> String {
    let path = termination_log(ctx, pod, name, attempt.number);
    // A container that could not start has no file; an unreadable one is
    // worth no more than none.
    let written = volume::read_start(&path, MESSAGE_BYTES).await.unwrap_or_default();
    if !written.is_empty() {
        return String::from_utf8_lossy(&written).into_owned();
    }
    let fallback = container_named(pod, name).is_some_and(|container| {
        container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError")
    });
    if !fallback || attempt.exit_code() == Some(0) {
        return String::new();
    }
    let options = LogOptions {
        tail: Some(MESSAGE_LOG_LINES),
        stdout: true,
        stderr: true,
        ..LogOptions::default()
    };
    let Ok(mut pieces) = ctx.runtime.logs(attempt.id(), &options).await else {
        return String::new();
    };
    let mut text = Vec::new();
    while let Some(Ok(Output::Stdout(piece) | Output::Stderr(piece))) = pieces.next().await {
        text.extend_from_slice(&piece);
        // A line may be of any length, and only the end is kept.
        text.drain(..text.len().saturating_sub(MESSAGE_LOG_BYTES));
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Removes a container that nobody needs any more, and what it left as its
/// last words.
pub async fn discard(
    ctx: &Context,
    pod: &Pod,
    name: &str,
    attempt: &Attempt,
) -> Result<(), RuntimeError> {
    ctx.runtime.remove(attempt.id()).await?;
    let words = termination_log(ctx, pod, name, attempt.number);
    match tokio::fs::remove_file(&words).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            // It goes with the pod's folder at the latest.
            tracing::debug!(%error, file = %words.display(), "last words not removed");
        }
        _ => {}
    }
    Ok(())
}

/// Stops one container: preStop hook, signal, and the end of its grace period.
pub async fn stop(
    ctx: &Context,
    pod: &Pod,
    name: &str,
    id: &str,
    grace: Duration,
    message: &str,
    ips: &[IpAddr],
) -> Result<Option<Container>, RuntimeError> {
    let told =
        if message.is_empty() { format!("Stopping container {name}") } else { message.to_owned() };
    ctx.recorder.pod(pod, Some(name), Severity::Normal, "Killing", told);
    let since = Instant::now();
    let hook = container_named(pod, name)
        .and_then(|container| container.lifecycle.as_ref()?.pre_stop.clone());
    if let Some(hook) = &hook
        && !grace.is_zero()
    {
        let run = run_hook(ctx, pod, name, id, hook, ips);
        match tokio::time::timeout(grace, run).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                ctx.recorder.pod(pod, Some(name), Severity::Warning, "FailedPreStopHook", error);
            }
            Err(_) => tracing::info!(container = name, "preStop hook used up the grace period"),
        }
    }
    // Whatever the hook took, the signal is heard before the kill.
    let left = grace.saturating_sub(since.elapsed()).max(AFTER_HOOK.min(grace));
    ctx.runtime.stop(id, left).await?;
    match ctx.runtime.inspect(id).await {
        Ok(container) => Ok(Some(container)),
        Err(RuntimeError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Runs a lifecycle hook of a container.
pub async fn run_hook(
    ctx: &Context,
    pod: &Pod,
    name: &str,
    id: &str,
    hook: &LifecycleHandler,
    ips: &[IpAddr],
) -> Result<(), String> {
    let host = match spec(pod).host_network {
        Some(true) => ctx.node_ips.first(),
        _ => ips.first(),
    };
    let container = container_named(pod, name).unwrap_or_default();
    hooks::run(ctx.runtime.as_ref(), id, hook, host.copied(), &container).await
}

/// Removes everything of a pod from this node. What fails does not keep the
/// rest from going; all failures are returned.
pub async fn clean_up(ctx: &Context, pod: &Pod) -> Result<(), String> {
    let mut failures = Vec::new();
    match containers_of(ctx, pod).await {
        Ok(found) => {
            let removals = found.iter().map(|container| ctx.runtime.remove(&container.id));
            let removed = futures::future::join_all(removals).await;
            failures
                .extend(removed.into_iter().filter_map(Result::err).map(|error| error.to_string()));
        }
        Err(error) => failures.push(error.to_string()),
    }
    failures.extend(ctx.network.detach(uid(pod)).await.err());
    // Files go last: a container that is still there may write to them.
    if failures.is_empty() {
        let removed = volume::remove(&ctx.config.pod_dir(uid(pod))).await;
        failures.extend(removed.err().map(|error| error.to_string()));
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
}
