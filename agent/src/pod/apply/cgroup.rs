//! Limits that change or hold for a pod as a whole.

use k8s_openapi::api::core::v1::Pod;

use super::super::context::Context;
use super::super::model::{spec, uid};
use super::super::resources::{memory_limit_of, pod_limits};
use crate::runtime::{Container, Limits, labels};

/// The cgroup that the pod's containers are made in, brought up to date; `None`
/// for a pod that needs none of its own.
pub(super) async fn parent(ctx: &Context, pod: &Pod) -> Result<Option<String>, String> {
    let Some(limits) = pod_limits(pod, ctx.config.pod_pids, &ctx.allocatable) else {
        return Ok(None);
    };
    let made = ctx.cgroups.ensure(uid(pod), &limits).await;
    made.map(Some).map_err(|error| format!("cannot make the pod's cgroup: {error}"))
}

/// Changes the limits of a running container and returns it with them.
pub async fn resize(
    ctx: &Context,
    pod: &Pod,
    id: &str,
    limits: &Limits,
) -> Result<Container, String> {
    leaves_what_is_used(ctx, pod, id, limits).await?;
    // The pod's weight is that of its containers together.
    parent(ctx, pod).await?;
    ctx.runtime.update(id, limits).await.map_err(|error| error.to_string())?;
    let found = ctx.runtime.inspect(id).await.map_err(|error| error.to_string())?;
    let enforced = Limits { pids: limits.pids, ..found.limits.clone() };
    if enforced == *limits {
        Ok(found)
    } else {
        Err(format!("the runtime enforces {enforced:?} instead of {limits:?}"))
    }
}

/// A container that uses more than its new limit would be killed for it.
async fn leaves_what_is_used(
    ctx: &Context,
    pod: &Pod,
    id: &str,
    limits: &Limits,
) -> Result<(), String> {
    let found = ctx.runtime.inspect(id).await.map_err(|error| error.to_string())?;
    if limits
        .memory_bytes
        .is_none_or(|next| found.limits.memory_bytes.is_some_and(|now| now <= next))
    {
        return Ok(());
    }
    let name = found.label(labels::CONTAINER);
    let mut all = spec(pod).init_containers.iter().flatten().chain(&spec(pod).containers);
    let own = all.find(|own| own.name == name).and_then(|own| own.resources.as_ref());
    let Some(limit) = memory_limit_of(spec(pod), own) else { return Ok(()) };
    let used = ctx.runtime.stats(id).await.map_err(|error| error.to_string())?.memory_bytes;
    if i64::try_from(used).is_ok_and(|used| used < limit) {
        return Ok(());
    }
    Err(format!(
        "attempting to set container {name:?} memory limit ({limit}) below current usage ({used})"
    ))
}

/// Lets a container have all CPU time that others leave, whatever its pod's
/// limit. The next container that starts brings that back.
pub async fn lift_cpu_limit(ctx: &Context, pod: &Pod, id: &str) -> Result<(), String> {
    if let Some(limits) = pod_limits(pod, ctx.config.pod_pids, &ctx.allocatable)
        && limits.cpu_quota_us.is_some()
    {
        ctx.cgroups.ensure(uid(pod), &Limits { cpu_quota_us: None, ..limits }).await?;
    }
    ctx.runtime.lift_cpu_limit(id).await.map_err(|error| error.to_string())
}
