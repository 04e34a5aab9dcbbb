//! One container: what it is made from, and its start.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container as Spec, Pod};

use super::super::container::{self, Inputs};
use super::super::context::Context;
use super::super::env::{self, EnvFile, FileKey, Sources};
use super::super::model::{container_named, uid};
use super::image::image;
use super::sandbox::{base_sources, with_devices};
use super::{Failed, Start, cgroup, create, termination_log};
use crate::events::Severity;
use crate::images;
use crate::runtime::{Container, ContainerSpec, Image, labels};
use crate::volume::{self, Volumes};

/// How much of a file with variables is read: containers write it.
const ENV_FILE_BYTES: usize = 1 << 20;

/// Gets the image, creates and starts one container.
pub async fn start(ctx: &Context, pod: &Pod, start: &Start) -> Result<Container, Failed> {
    let Some(wanted) = container_named(pod, &start.name) else {
        return Err(Failed::new(
            "CreateContainerConfigError",
            format!("no container {} in the pod", start.name),
        ));
    };
    let say = |severity, reason: &str, message: String| {
        ctx.recorder.pod(pod, Some(&start.name), severity, reason, message);
    };
    let image = image(ctx, pod, &wanted).await?;
    let spec = container_spec(ctx, pod, &wanted, start, &image).await.inspect_err(|failed| {
        say(Severity::Warning, "Failed", format!("Error: {}", failed.message));
    })?;
    let permit = ctx.starts.acquire().await;
    let timer = ctx.metrics.start_seconds.start_timer();
    let id = create(ctx, &spec).await.map_err(|error| {
        say(Severity::Warning, "Failed", format!("Error: {error}"));
        Failed::new("CreateContainerError", error)
    })?;
    say(Severity::Normal, "Created", format!("Created container: {}", start.name));
    let started = ctx.runtime.start(&id).await;
    drop(permit);
    timer.observe_duration();
    if start.attempt > 0 {
        ctx.metrics.restarts.inc();
    }
    let found = ctx.runtime.inspect(&id).await;
    match started {
        Ok(()) => {
            say(Severity::Normal, "Started", format!("Started container {}", start.name));
            found.map_err(|error| Failed::new("RunContainerError", error))
        }
        Err(error) => {
            say(Severity::Warning, "Failed", format!("Error: {error}"));
            // The container stays as the record of the failed attempt.
            Err(Failed { container: found.ok(), ..Failed::new("RunContainerError", error) })
        }
    }
}

/// Reads what the container's spec refers to and builds what Docker gets.
async fn container_spec(
    ctx: &Context,
    pod: &Pod,
    wanted: &Spec,
    start: &Start,
    image: &Image,
) -> Result<ContainerSpec, Failed> {
    let config_error = |message: String| Failed::new("CreateContainerConfigError", message);
    let target = start.target.clone().map_err(config_error)?;
    let mut sources = env_sources(ctx, pod, wanted, &start.ips).await.map_err(config_error)?;
    sources.files = env_files(wanted, &start.volumes).await;
    let env = env::resolve(pod, wanted, &sources).map_err(|error| config_error(error.0))?;
    let seccomp = seccomp_text(ctx, pod, wanted).await.map_err(config_error)?;
    let pod_dir = ctx.config.pod_dir(uid(pod));
    let volumes = volume::container_mounts(wanted, &start.volumes, &env, &pod_dir)
        .await
        .map_err(|error| Failed::new(error.reason, error))?;
    let termination_log = termination_log(ctx, pod, &start.name, start.attempt);
    make_empty(&termination_log).await.map_err(|error| config_error(error.to_string()))?;
    let accounts = if container::needs_accounts(pod, wanted, image) {
        let read = ctx.accounts.of(image, ctx.runtime.as_ref(), &ctx.config).await;
        read.map_err(|error| config_error(format!("cannot read the image's accounts: {error}")))?
    } else {
        Arc::default()
    };
    let parent = cgroup::parent(ctx, pod).await;
    let parent = parent.map_err(|error| Failed::new("CreateContainerError", error))?;
    let inputs = Inputs {
        attempt: start.attempt,
        crashes: start.crashes,
        sandbox_id: start.sandbox.id(),
        sandbox: start.sandbox.number,
        target: target.as_deref(),
        image,
        accounts,
        env,
        volumes,
        pod_dir: &pod_dir,
        termination_log: &termination_log,
        seccomp,
        node_memory_bytes: ctx.memory_bytes,
        pids: ctx.config.container_pids,
        cgroup_parent: parent,
        devices: ctx.devices.grant(pod, wanted).await.map_err(config_error)?,
    };
    let made = container::container(&ctx.owner(pod), wanted, inputs);
    // As its sandbox: they share namespaces.
    let handler = start.sandbox.container.label(labels::HANDLER);
    let mut spec = made
        .map(|spec| with_devices(ctx, pod, spec).with_handler(handler))
        .map_err(|error| config_error(error.0))?;
    let asked = wanted.image.as_deref().unwrap_or_default();
    spec.labels.insert(labels::IMAGE.into(), images::reference(asked, image));
    Ok(spec)
}

/// The profile of this machine that the container is to run under: a file
/// below `seccomp/` in the data directory. Its name has been checked not to
/// lead out of there.
async fn seccomp_text(
    ctx: &Context,
    pod: &Pod,
    container: &Spec,
) -> Result<Option<String>, String> {
    let context = container.security_context.clone().unwrap_or_default();
    let profile = container::seccomp_profile(pod, &context);
    let local = profile.filter(|profile| profile.type_ == "Localhost");
    let Some(name) = local.and_then(|profile| profile.localhost_profile.as_deref()) else {
        return Ok(None);
    };
    let path = ctx.config.data_dir.join("seccomp").join(name);
    let read = tokio::fs::read_to_string(&path).await;
    read.map(Some)
        .map_err(|error| format!("cannot load seccomp profile {:?}: {error}", path.display()))
}

async fn env_sources(
    ctx: &Context,
    pod: &Pod,
    container: &Spec,
    ips: &[IpAddr],
) -> Result<Sources, String> {
    let mut sources = base_sources(ctx, pod, ips);
    sources.services = ctx.services(pod).await;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let from = container.env_from.iter().flatten();
    let keys = container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref());
    let maps = from
        .clone()
        .filter_map(|from| from.config_map_ref.as_ref())
        .map(|reference| reference.name.clone());
    let map_keys = keys
        .clone()
        .filter_map(|from| from.config_map_key_ref.as_ref())
        .map(|key| key.name.clone());
    for name in maps.chain(map_keys) {
        let found = ctx.objects.config_maps.get(namespace, &name, uid(pod)).await?;
        sources.config_maps.insert(name, found);
    }
    let secrets =
        from.filter_map(|from| from.secret_ref.as_ref()).map(|reference| reference.name.clone());
    let secret_keys =
        keys.filter_map(|from| from.secret_key_ref.as_ref()).map(|key| key.name.clone());
    for name in secrets.chain(secret_keys) {
        let found = ctx.objects.secrets.get(namespace, &name, uid(pod)).await?;
        sources.secrets.insert(name, found);
    }
    Ok(sources)
}

/// The files in volumes that the container's variables come from.
async fn env_files(container: &Spec, volumes: &Volumes) -> BTreeMap<FileKey, EnvFile> {
    let mut files = BTreeMap::new();
    let sources = container.env.iter().flatten().filter_map(|one| one.value_from.as_ref());
    for key in sources.filter_map(|from| from.file_key_ref.as_ref()) {
        let read = match volumes.paths.get(&key.volume_name) {
            Some(volume) => volume::read_beneath(&volume.path, &key.path, ENV_FILE_BYTES)
                .await
                .map_err(|error| error.to_string()),
            None => Err(format!("volume {:?} is not there", key.volume_name)),
        };
        files.insert((key.volume_name.clone(), key.path.clone()), read);
    }
    files
}

/// An empty file that any user in the container may write to.
async fn make_empty(path: &Path) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        tokio::fs::create_dir_all(parent).await?;
    }
    tokio::fs::write(path, "").await?;
    tokio::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).await
}
