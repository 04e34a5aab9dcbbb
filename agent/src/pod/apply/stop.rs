//! The end: hooks, signals, last words, and what is removed.

use std::net::IpAddr;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{LifecycleHandler, Pod};
use tokio::time::Instant;

use super::super::context::Context;
use super::super::hooks;
use super::super::model::{Attempt, container_named, spec, uid};
use super::{labels_of, lift_cpu_limit, termination_log};
use crate::events::Severity;
use crate::runtime::{Container, LogOptions, Output, Runtime, RuntimeError};
use crate::volume;

/// Limits of what is kept of a termination message.
const MESSAGE_BYTES: usize = 4096;
const MESSAGE_LOG_BYTES: usize = 2048;
const MESSAGE_LOG_LINES: i64 = 80;

/// What is left of the grace period at least after a preStop hook; upstream's
/// own figure.
const AFTER_HOOK: Duration = Duration::from_secs(2);

/// How long a container may take to end once it is killed, before its CPU
/// limit is lifted. Thousands of processes end in less, and within their limit
/// nobody else notices.
const AFTER_KILL: Duration = Duration::from_secs(5);

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
    let lift = async || lift_cpu_limit(ctx, pod, id).await;
    end(ctx.runtime.as_ref(), id, left, lift).await?;
    match ctx.runtime.inspect(id).await {
        Ok(container) => Ok(Some(container)),
        Err(RuntimeError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Stops a container, and has it end soon after it was killed: `lift` frees it
/// from its CPU limit.
///
/// A killed process still has to run to end, in the CPU time of its container.
/// Of that a fork bomb at its memory limit leaves nothing, for the kernel looks
/// for memory in it: the kill would take effect minutes later.
async fn end(
    runtime: &dyn Runtime,
    id: &str,
    grace: Duration,
    lift: impl AsyncFnOnce() -> Result<(), String>,
) -> Result<(), RuntimeError> {
    let mut stop = pin!(runtime.stop(id, grace));
    if let Ok(ended) = tokio::time::timeout(grace + AFTER_KILL, &mut stop).await {
        return ended;
    }
    if let Err(error) = lift().await {
        // It may have ended by now; if not, it will in its own time.
        tracing::debug!(error, container = id, "CPU limit not lifted");
    }
    stop.await
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
    let warning = hooks::run(ctx.runtime.as_ref(), id, hook, host.copied(), &container).await?;
    if let Some(warning) = warning {
        ctx.recorder.pod(pod, None, Severity::Warning, "LifecycleHTTPFallback", warning);
    }
    Ok(())
}

/// Removes everything of a pod from this node: its sandbox, and what else there
/// is of it. What fails does not keep the rest from going; all failures are
/// returned.
pub async fn clean_up(ctx: &Context, pod: &Pod, sandbox: Option<Attempt>) -> Result<(), String> {
    let mut failures = Vec::new();
    if let Some(sandbox) = sandbox {
        ctx.runtime.kill_now(&sandbox.container).await;
    }
    match ctx.runtime.ids(&labels_of(ctx, pod)).await {
        Ok(found) => {
            let removals = found.iter().map(|id| ctx.runtime.remove(id));
            let removed = futures::future::join_all(removals).await;
            failures
                .extend(removed.into_iter().filter_map(Result::err).map(|error| error.to_string()));
        }
        Err(error) => failures.push(error.to_string()),
    }
    failures.extend(ctx.network.detach(uid(pod)).await.err());
    if failures.is_empty() {
        failures.extend(ctx.cgroups.remove(uid(pod)).await.err());
    }
    // Files go last: a container that is still there may write to them.
    if failures.is_empty() {
        let removed = volume::remove(&ctx.config.pod_dir(uid(pod))).await;
        failures.extend(removed.err().map(|error| error.to_string()));
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::memory::Memory;
    use crate::runtime::{ContainerSpec, Limits};

    /// A running container of a runtime in which those with a CPU limit do not
    /// come to their end.
    async fn throttled(cpu_quota_us: Option<i64>) -> (Memory, String) {
        let runtime = Memory::new();
        runtime.add_image("img:1");
        runtime.throttle();
        let limits = Limits { cpu_quota_us, pids: Some(7), ..Limits::default() };
        let spec = ContainerSpec { image: "img:1".into(), limits, ..ContainerSpec::default() };
        let id = runtime.create(&spec).await.unwrap();
        runtime.start(&id).await.unwrap();
        (runtime, id)
    }

    fn lift(runtime: &Memory, id: &str) -> impl AsyncFnOnce() -> Result<(), String> {
        async move || runtime.lift_cpu_limit(id).await.map_err(|error| error.to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_no_time_to_end_is_given_some_after_its_grace_period() {
        let (runtime, id) = throttled(Some(50_000)).await;
        let since = Instant::now();
        let grace = Duration::from_secs(30);
        end(&runtime, &id, grace, lift(&runtime, &id)).await.unwrap();
        assert_eq!(since.elapsed(), grace + AFTER_KILL);
        let ended = runtime.inspect(&id).await.unwrap();
        assert!(!ended.is_running());
        assert_eq!(ended.limits, Limits { pids: Some(7), ..Limits::default() });
    }

    #[tokio::test(start_paused = true)]
    async fn what_ends_in_its_grace_period_keeps_its_limits() {
        let (runtime, id) = throttled(None).await;
        runtime.slow_stops(Duration::from_secs(30));
        end(&runtime, &id, Duration::from_secs(30), lift(&runtime, &id)).await.unwrap();
        assert!(!runtime.calls().contains(&format!("lift_cpu_limit {id}")));
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_helped_is_waited_for() {
        let (runtime, id) = throttled(None).await;
        runtime.slow_stops(2 * AFTER_KILL);
        // It ends of itself before its limit is lifted.
        let (ended, ()) =
            tokio::join!(end(&runtime, &id, Duration::ZERO, lift(&runtime, &id)), async {
                runtime.exit(&id, 137);
            });
        ended.unwrap();
        assert!(runtime.calls().contains(&format!("lift_cpu_limit {id}")));
    }
}
