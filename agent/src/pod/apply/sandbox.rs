//! The pod around its containers: files, volumes, sandbox, network.

use std::net::IpAddr;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::node::v1::RuntimeClass;
use skiff_client::{Api, chain};

use super::super::api::{ApiLookup, Tokens};
use super::super::container;
use super::super::context::Context;
use super::super::env::Sources;
use super::super::files;
use super::super::model::{Attempt, spec, uid};
use super::{Failed, Ready, cgroup, create};
use crate::network::HostPort;
use crate::runtime::{Container, ContainerSpec, RuntimeError, State, labels, sandbox_image};
use crate::volume::{self, Volumes};

/// Prepares the pod's files and volumes, starts its sandbox and plugs it in.
pub async fn set_up(
    ctx: &Context,
    pod: &Pod,
    attempt: u32,
    old: Option<Attempt>,
    tokens: Tokens,
) -> Result<Ready, Failed> {
    if spec(pod).host_users == Some(false) {
        // Docker maps users for all of its containers or for none.
        let message = "the container runtime cannot give a pod a user namespace (hostUsers: false)";
        return Err(Failed::new("FailedCreatePodSandBox", message));
    }
    let volumes = prepare_volumes(ctx, pod, &[], tokens).await?;
    let sandbox = match old {
        // Alive: only its network is missing.
        Some(old) if old.is_running() => old.container,
        old => {
            let parent = cgroup::parent(ctx, pod).await;
            let parent = parent.map_err(|error| Failed::new("FailedCreatePodContainer", error))?;
            let netns = ctx.netns.as_deref();
            let hostname = files::sandbox_hostname(pod, &ctx.config.cluster_domain)
                .map_err(|error| Failed::new("FailedCreatePodSandBox", error))?;
            let owner = ctx.owner(pod);
            let spec = container::sandbox(&owner, attempt, &ctx.sandbox_image, netns, hostname);
            let spec = ContainerSpec { cgroup_parent: parent, ..with_devices(ctx, pod, spec) };
            let spec = spec.with_handler(&runtime_handler(ctx, pod).await?);
            let permit = ctx.starts.acquire().await;
            let started = start_sandbox(ctx, &spec).await;
            drop(permit);
            let started = started.map_err(|error| Failed::new("FailedCreatePodSandBox", error))?;
            if let Some(old) = old
                && let Err(error) = ctx.runtime.remove(old.id()).await
            {
                tracing::warn!(%error, id = old.id(), "dead sandbox not removed");
            }
            started
        }
    };
    let mut ips = Vec::new();
    if spec(pod).host_network != Some(true) {
        let State::Running { pid, .. } = sandbox.state else {
            return Err(Failed::new(
                "FailedCreatePodSandBox",
                "the sandbox ended right after its start",
            ));
        };
        let ports = HostPort::all_of(spec(pod));
        let attached = ctx.network.attach(uid(pod), pid, &ports).await;
        ips.push(attached.map_err(|error| Failed::new("FailedCreatePodSandBox", error))?);
    }
    write_hosts(ctx, pod, &ips)
        .await
        .map_err(|error| Failed::new("FailedCreatePodSandBox", error))?;
    Ok(Ready { sandbox, ips, volumes })
}

/// The container with the label that says which devices its pod has.
pub(super) fn with_devices(ctx: &Context, pod: &Pod, mut spec: ContainerSpec) -> ContainerSpec {
    let label = ctx.devices.label(pod);
    spec.labels.extend(label.map(|label| (labels::DEVICES.to_owned(), label)));
    spec
}

/// The handler that the pod's RuntimeClass names, which is the name of one of
/// Docker's runtimes; empty for Docker's own choice.
async fn runtime_handler(ctx: &Context, pod: &Pod) -> Result<String, Failed> {
    let Some(name) = &spec(pod).runtime_class_name else { return Ok(String::new()) };
    let classes = Api::<RuntimeClass>::all(ctx.client.clone());
    let class = classes.get(name).await.map_err(|error| {
        let message = format!("RuntimeClass {name:?} not read: {}", chain(&error));
        Failed::new("FailedCreatePodSandBox", message)
    })?;
    Ok(class.handler)
}

async fn start_sandbox(ctx: &Context, spec: &ContainerSpec) -> Result<Container, RuntimeError> {
    let id = match create(ctx, spec).await {
        Err(RuntimeError::NotFound(_)) => {
            // Someone cleaned up Docker's images.
            sandbox_image::ensure(ctx.runtime.as_ref()).await?;
            create(ctx, spec).await?
        }
        other => other?,
    };
    if let Err(error) = ctx.runtime.start(&id).await {
        // The next try makes another one; without this each would leave its own.
        if let Err(error) = ctx.runtime.remove(&id).await {
            tracing::warn!(%error, id, "sandbox that did not start is not removed");
        }
        return Err(error);
    }
    ctx.runtime.inspect(&id).await
}

/// Writes the pod's `/etc/hosts` and `/etc/resolv.conf` sources.
async fn write_hosts(ctx: &Context, pod: &Pod, ips: &[IpAddr]) -> std::io::Result<()> {
    let dir = ctx.config.pod_dir(uid(pod));
    let hosts = if spec(pod).host_network == Some(true) {
        let own = tokio::fs::read_to_string("/etc/hosts").await.unwrap_or_default();
        files::node_hosts(pod, &own)
    } else {
        files::hosts(pod, ips, &ctx.config.cluster_domain)
    };
    write_once(dir.join("etc-hosts"), hosts).await
}

/// Writes a file in place: containers have it mounted, so its inode stays.
/// What a pod changed in it is left alone as long as the text is ours.
async fn write_once(path: PathBuf, text: String) -> std::io::Result<()> {
    let known = volume::read_start(&path, text.len()).await;
    if known.is_ok_and(|known| known == text.as_bytes()) {
        return Ok(());
    }
    tokio::fs::write(path, text).await
}

/// Lays out the pod's volumes; repeating it brings them up to date.
pub async fn prepare_volumes(
    ctx: &Context,
    pod: &Pod,
    ips: &[IpAddr],
    tokens: Tokens,
) -> Result<Volumes, Failed> {
    let failed = |error: &dyn ToString| Failed::new("FailedMount", error.to_string());
    let dir = ctx.config.pod_dir(uid(pod));
    let resolv = {
        // A node without a resolver has nothing to pass on.
        let host = tokio::fs::read_to_string("/etc/resolv.conf").await.unwrap_or_default();
        files::resolv_conf(pod, ctx.config.cluster_dns, &ctx.config.cluster_domain, &host)
    };
    let made = {
        let dir = dir.clone();
        volume::blocking(move || volume::mounts::ensure_dir(&dir, 0o700)).await
    };
    made.map_err(|error| failed(&error))?;
    write_once(dir.join("resolv.conf"), resolv).await.map_err(|error| failed(&error))?;
    let sources = base_sources(ctx, pod, ips);
    let lookup = ApiLookup { ctx, pod, tokens };
    let prepared = volume::prepare(pod, &dir, &sources, &lookup).await;
    prepared.map_err(|error| Failed::new(error.reason(), error))
}

/// What variables and volumes may say of the node and the pod.
pub(super) fn base_sources(ctx: &Context, pod: &Pod, ips: &[IpAddr]) -> Sources {
    let ips = if spec(pod).host_network == Some(true) { &ctx.node_ips } else { ips };
    Sources {
        host_ips: ctx.node_ips.iter().map(IpAddr::to_string).collect(),
        pod_ips: ips.iter().map(IpAddr::to_string).collect(),
        allocatable: ctx.allocatable.clone(),
        ..Sources::default()
    }
}

/// Removes the sandbox and the pod's cgroup and unplugs the pod; dead containers stay.
pub async fn release_sandbox(
    ctx: &Context,
    pod: &Pod,
    sandbox: Option<Attempt>,
) -> Result<(), String> {
    if spec(pod).host_network != Some(true) {
        ctx.network.detach(uid(pod)).await?;
    }
    if let Some(sandbox) = sandbox {
        ctx.runtime.kill_now(&sandbox.container).await;
        ctx.runtime.remove(sandbox.id()).await.map_err(|error| error.to_string())?;
    }
    ctx.cgroups.remove(uid(pod)).await
}
