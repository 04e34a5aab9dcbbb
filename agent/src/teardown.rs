//! Removes what an agent leaves on the machine.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::cgroup::{HostCgroups, PodCgroups as _};
use crate::config::{Config, instance_of};
use crate::runtime::docker::Docker;
use crate::runtime::{Runtime, RuntimeError, labels, sandbox_image};
use crate::{network, shutdown, volume};

/// What a teardown removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Removed {
    /// Containers, sandboxes included.
    pub containers: usize,
    /// Folders of pods.
    pub pod_dirs: usize,
    /// Sandbox images that no container uses.
    pub images: usize,
}

/// Removes the containers of the installation in `data_dir`, its pods' cgroups,
/// files and mounts, the sandbox image unless another installation uses it, and the
/// pod network of this network namespace. Persistent volumes stay: they are
/// data. Repeating it is
/// fine. Carries on past failures and returns them all.
pub async fn teardown(data_dir: &Path, docker_socket: &Path) -> Result<Removed, Vec<String>> {
    let mut removed = Removed::default();
    let mut failures = Vec::new();
    let runtime = Arc::new(Docker::new(docker_socket));
    let wanted = BTreeMap::from([(labels::INSTANCE.to_owned(), instance_of(data_dir))]);
    match runtime.list(&wanted).await {
        Ok(found) => {
            let results = futures::future::join_all(
                found.iter().map(|container| runtime.remove(&container.id)),
            )
            .await;
            for result in results {
                match result {
                    Ok(()) => removed.containers += 1,
                    Err(error) => failures.push(error.to_string()),
                }
            }
        }
        // Without Docker there are no containers that run.
        Err(RuntimeError::Unavailable(reason)) if !docker_socket.exists() => {
            tracing::info!(reason, "no Docker here")
        }
        Err(error) => failures.push(format!("containers not removed: {error}")),
    }
    let instance = instance_of(data_dir);
    let cgroups = HostCgroups::new(runtime.clone(), docker_socket, &instance);
    cgroups.find().await;
    for uid in cgroups.pods() {
        failures.extend(cgroups.remove(&uid).await.err());
    }
    match sandbox_image::remove_unused(runtime.as_ref()).await {
        Ok(count) => removed.images = count,
        Err(RuntimeError::Unavailable(_)) => {}
        Err(error) => failures.push(format!("sandbox image not removed: {error}")),
    }
    if let Err(error) = network::teardown().await {
        failures.push(skiff_client::chain(&error));
    }
    let config = Config::new("", data_dir);
    if let Err(error) = shutdown::teardown(config.logind_conf_dir.clone(), &config.instance).await {
        failures.push(format!("a setting of logind not removed: {error}"));
    }
    for uid in pod_dirs(&config.data_dir.join("pods")) {
        match volume::remove(&config.pod_dir(&uid)).await {
            Ok(()) => removed.pod_dirs += 1,
            Err(error) => failures.push(format!("files of pod {uid} not removed: {error}")),
        }
    }
    if failures.is_empty() { Ok(removed) } else { Err(failures) }
}

fn pod_dirs(dir: &Path) -> Vec<String> {
    // No folder, no pods.
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
