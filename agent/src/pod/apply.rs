//! Carries out the steps of a plan. Each function is one job of a worker: it
//! talks to Docker, the pod network and the API, and returns what came of it.
//!
//! Jobs are safe to repeat: a container that an interrupted job left behind is
//! found by its name and taken over or replaced.

mod cgroup;
mod image;
mod sandbox;
mod start;
mod stop;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::Pod;

use super::context::Context;
use super::model::{Attempt, uid};
use crate::runtime::{Container, ContainerSpec, RuntimeError, labels};
use crate::volume::Volumes;

pub use cgroup::{lift_cpu_limit, resize};
pub(super) use image::find_image;
pub use sandbox::{prepare_volumes, release_sandbox, set_up};
pub use start::start;
pub use stop::{clean_up, discard, run_hook, stop, termination_message};

/// A step that failed.
#[derive(Debug, Clone)]
pub struct Failed {
    /// Reason in Kubernetes' spelling.
    pub reason: &'static str,
    /// What went wrong.
    pub message: String,
    /// The container that was created nevertheless.
    pub container: Option<Container>,
}

impl Failed {
    fn new(reason: &'static str, message: impl ToString) -> Self {
        Self { reason, message: message.to_string(), container: None }
    }
}

/// A pod ready for its containers.
#[derive(Debug, Clone)]
pub struct Ready {
    /// The sandbox.
    pub sandbox: Container,
    /// The pod's addresses; empty with the host's network.
    pub ips: Vec<IpAddr>,
    /// Its volumes.
    pub volumes: Volumes,
}

/// What a container's start needs to know of its pod.
#[derive(Debug, Clone)]
pub struct Start {
    /// The container's name.
    pub name: String,
    /// Its number.
    pub attempt: u32,
    /// Restarts in a row before it.
    pub crashes: u32,
    /// The sandbox it joins.
    pub sandbox: Attempt,
    /// The pod's addresses.
    pub ips: Vec<IpAddr>,
    /// The pod's volumes.
    pub volumes: Volumes,
    /// The container whose processes it sees, by the runtime's id, or why
    /// there is none.
    pub target: Result<Option<String>, String>,
}

/// Creates a container, or takes the place of one that an interrupted start
/// left behind under the same name.
async fn create(ctx: &Context, spec: &ContainerSpec) -> Result<String, RuntimeError> {
    let spec = &ContainerSpec {
        oom_score_adj: spec.oom_score_adj.max(ctx.least_oom_score),
        ..spec.clone()
    };
    match ctx.runtime.create(spec).await {
        Err(RuntimeError::Conflict(message)) => {
            let left = ctx.runtime.inspect(&spec.name).await?;
            if left.is_running() || left.label(labels::INSTANCE) != spec.labels[labels::INSTANCE] {
                return Err(RuntimeError::Conflict(message));
            }
            ctx.runtime.remove(&left.id).await?;
            ctx.runtime.create(spec).await
        }
        other => other,
    }
}

/// Where a container may leave its last words.
fn termination_log(ctx: &Context, pod: &Pod, container: &str, attempt: u32) -> PathBuf {
    ctx.config
        .pod_dir(uid(pod))
        .join("containers")
        .join(container)
        .join(format!("{attempt}.message"))
}

/// All containers of a pod, as Docker has them now.
pub async fn containers_of(ctx: &Context, pod: &Pod) -> Result<Vec<Container>, RuntimeError> {
    ctx.runtime.list(&labels_of(ctx, pod)).await
}

/// What all containers of a pod carry.
fn labels_of(ctx: &Context, pod: &Pod) -> BTreeMap<String, String> {
    let mut wanted = labels::of_node(&ctx.config.instance, &ctx.config.node_name);
    wanted.insert(labels::POD_UID.into(), uid(pod).into());
    wanted
}
