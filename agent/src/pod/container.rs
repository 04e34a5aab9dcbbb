//! What a pod's containers look like to the runtime. Pure: everything that
//! has to be read or asked for comes in with [`Inputs`].

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, SeccompProfile, SecurityContext};

use super::accounts::Accounts;
use super::admit::sysctl_name;
use super::env::expand;
use super::model::{spec, spec_hash, uid};
use super::resources;
use crate::devices::{Granted, VISIBLE};
use crate::runtime::{ContainerSpec, Image, Limits, Mount, Propagation, labels, sandbox_image};

/// Why a container cannot be created from its spec: a
/// `CreateContainerConfigError` with this message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// Who a container belongs to.
#[derive(Debug, Clone)]
pub struct Owner<'a> {
    /// The installation.
    pub instance: &'a str,
    /// The node.
    pub node: &'a str,
    /// The pod.
    pub pod: &'a Pod,
}

/// What a container is made from besides its spec.
#[derive(Debug, Clone)]
pub struct Inputs<'a> {
    /// Its number.
    pub attempt: u32,
    /// Restarts in a row before it.
    pub crashes: u32,
    /// The sandbox it joins.
    pub sandbox_id: &'a str,
    /// That sandbox's number.
    pub sandbox: u32,
    /// The container whose processes it sees instead of its own.
    pub target: Option<&'a str>,
    /// Its image.
    pub image: &'a Image,
    /// The image's accounts, where they are needed; see [`needs_accounts`].
    pub accounts: Arc<Accounts>,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// Mounts of volumes, already resolved to paths on the host.
    pub volumes: Vec<Mount>,
    /// The folder of the pod's files.
    pub pod_dir: &'a Path,
    /// Where its termination message is written on the host.
    pub termination_log: &'a Path,
    /// The text of the seccomp profile of this machine that it asks for.
    pub seccomp: Option<String>,
    /// Memory of the node, for the out-of-memory score.
    pub node_memory_bytes: u64,
    /// How many processes it may have.
    pub pids: Option<i64>,
    /// The cgroup of its pod, if that has one.
    pub cgroup_parent: Option<String>,
    /// The devices that it gets.
    pub devices: Granted,
}

/// Default place of the termination message.
const TERMINATION_PATH: &str = "/dev/termination-log";

/// The labels of one container of a pod.
pub fn labels_of(
    owner: &Owner<'_>,
    container: &str,
    attempt: u32,
    sandbox: u32,
) -> BTreeMap<String, String> {
    let meta = &owner.pod.metadata;
    let mut all = labels::of_container(
        owner.instance,
        owner.node,
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
        container,
    );
    all.insert(labels::POD_UID.into(), uid(owner.pod).into());
    all.insert(labels::ATTEMPT.into(), attempt.to_string());
    all.insert(labels::SANDBOX_ATTEMPT.into(), sandbox.to_string());
    all
}

/// The name of a container, unique on the machine: a second attempt to create
/// the same one fails instead of running it twice.
pub fn name_of(owner: &Owner<'_>, container: &str, attempt: u32) -> String {
    let meta = &owner.pod.metadata;
    let container = if container == labels::SANDBOX { "POD" } else { container };
    format!(
        "skiff_{}_{container}_{}_{}_{}_{attempt}",
        owner.instance,
        meta.name.as_deref().unwrap_or_default(),
        meta.namespace.as_deref().unwrap_or_default(),
        uid(owner.pod),
    )
}

/// The kernel's limit.
const MAX_HOSTNAME: usize = 64;

/// The sandbox: nothing but namespaces and a process that waits.
///
/// `hostname` is its own where its network is; `netns` is the network namespace that a pod with `hostNetwork` shares when
/// that is not Docker's own; the sandbox's process moves there by itself.
pub fn sandbox(
    owner: &Owner<'_>,
    attempt: u32,
    image: &str,
    netns: Option<&Path>,
    hostname: String,
) -> ContainerSpec {
    let spec = spec(owner.pod);
    let host_network = spec.host_network == Some(true);
    let joined = netns.filter(|_| host_network);
    let mut mounts = Vec::new();
    if let Some(netns) = joined {
        let source = netns.to_string_lossy().into_owned();
        mounts.push(Mount {
            source,
            target: NETNS_PATH.into(),
            read_only: true,
            propagation: Propagation::Private,
        });
    }
    let sysctls = spec.security_context.as_ref().and_then(|context| context.sysctls.as_ref());
    ContainerSpec {
        name: name_of(owner, labels::SANDBOX, attempt),
        labels: labels_of(owner, labels::SANDBOX, attempt, attempt),
        image: image.to_owned(),
        entrypoint: vec![sandbox_image::PAUSE_PATH.into()],
        args: joined.map(|_| NETNS_PATH.to_owned()).into_iter().collect(),
        // In a namespace of its own that is the node's, not the machine's.
        hostname: match (host_network, joined) {
            (false, _) => Some(hostname),
            (true, Some(_)) => Some(owner.node.chars().take(MAX_HOSTNAME).collect()),
            (true, None) => None,
        },
        network: if host_network && joined.is_none() { "host" } else { "none" }.into(),
        ipc: if spec.host_ipc == Some(true) { "host" } else { "shareable" }.into(),
        pid: if spec.host_pid == Some(true) { "host" } else { "" }.into(),
        mounts,
        // The last to be killed: it takes the whole pod with it.
        oom_score_adj: -998,
        cap_add: joined.map(|_| "SYS_ADMIN".to_owned()).into_iter().collect(),
        sysctls: sysctls
            .into_iter()
            .flatten()
            .map(|sysctl| (sysctl_name(&sysctl.name), sysctl.value.clone()))
            .collect(),
        read_only_rootfs: true,
        ..ContainerSpec::default()
    }
}

/// Where the sandbox finds the network namespace it moves to.
const NETNS_PATH: &str = "/netns";

/// One container of the pod.
pub fn container(
    owner: &Owner<'_>,
    container: &Container,
    inputs: Inputs<'_>,
) -> Result<ContainerSpec, ConfigError> {
    let spec = spec(owner.pod);
    let context = container.security_context.clone().unwrap_or_default();
    let get = |name: &str| {
        inputs.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    };
    let expanded = |list: Option<&Vec<String>>| -> Vec<String> {
        list.into_iter().flatten().map(|text| expand(text, get)).collect()
    };
    let entrypoint = expanded(container.command.as_ref());
    let args = expanded(container.args.as_ref());
    if entrypoint.is_empty() && args.is_empty() && !inputs.image.has_command {
        return Err(ConfigError("no command specified".into()));
    }
    let (user, groups) = identity(owner.pod, container, &context, inputs.image, &inputs.accounts)?;
    let capabilities = context.capabilities.clone().unwrap_or_default();
    let mut all = labels_of(owner, &container.name, inputs.attempt, inputs.sandbox);
    all.insert(labels::CRASHES.into(), inputs.crashes.to_string());
    all.insert(labels::SPEC_HASH.into(), spec_hash(container));
    let joined = format!("container:{}", inputs.sandbox_id);
    let mut env = inputs.env.clone();
    let privileged = context.privileged == Some(true);
    if let Some(visible) = &inputs.devices.visible
        // Who may see all devices may also say which.
        && !(privileged && get(VISIBLE).is_some())
    {
        env.retain(|(name, _)| name != VISIBLE);
        env.push((VISIBLE.to_owned(), visible.clone()));
    }
    Ok(ContainerSpec {
        name: name_of(owner, &container.name, inputs.attempt),
        labels: all,
        image: inputs.image.id.clone(),
        // With a command of its own the image's arguments do not apply.
        args,
        entrypoint,
        env: env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        working_dir: container.working_dir.clone().filter(|dir| !dir.is_empty()),
        user,
        groups,
        hostname: None,
        domainname: None,
        network: joined.clone(),
        ipc: if spec.host_ipc == Some(true) { "host".into() } else { joined.clone() },
        pid: match (spec.host_pid, spec.share_process_namespace, inputs.target) {
            (Some(true), _, _) => "host".into(),
            (_, Some(true), _) => joined,
            (_, _, Some(target)) => format!("container:{target}"),
            _ => String::new(),
        },
        mounts: mounts(container, &inputs),
        devices: inputs.devices.requests.clone(),
        limits: Limits {
            pids: inputs.pids,
            ..resources::limits(spec, container.resources.as_ref())
        },
        cgroup_parent: inputs.cgroup_parent,
        oom_score_adj: resources::oom_score_adj(spec, container, inputs.node_memory_bytes),
        privileged,
        cap_add: capabilities.add.unwrap_or_default(),
        cap_drop: capabilities.drop.unwrap_or_default(),
        security_opt: security_options(owner.pod, &context, inputs.seccomp.as_deref()),
        sysctls: BTreeMap::new(),
        read_only_rootfs: context.read_only_root_filesystem == Some(true),
        tty: container.tty == Some(true),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        stop_signal: container
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.stop_signal.clone()),
        unmasked_proc: context.proc_mount.as_deref() == Some("Unmasked"),
        shm_size: None,
        handler: None,
    })
}

/// Who the container runs as. `runAsNonRoot` is checked here, because only
/// here the image is known.
fn identity(
    pod: &Pod,
    container: &Container,
    context: &SecurityContext,
    image: &Image,
    accounts: &Accounts,
) -> Result<(Option<String>, Vec<i64>), ConfigError> {
    let of_pod = spec(pod).security_context.clone().unwrap_or_default();
    let user = context.run_as_user.or(of_pod.run_as_user);
    let group = context.run_as_group.or(of_pod.run_as_group);
    let meta = &pod.metadata;
    let of_this = format!(
        "(pod: \"{}_{}({})\", container: {})",
        meta.name.as_deref().unwrap_or_default(),
        meta.namespace.as_deref().unwrap_or_default(),
        uid(pod),
        container.name
    );
    if context.run_as_non_root.or(of_pod.run_as_non_root) == Some(true) {
        let image_user = image.user.split(':').next().unwrap_or_default();
        match (user, image_user.parse::<i64>()) {
            (Some(0), _) => {
                let message = format!("container's runAsUser breaks non-root policy {of_this}");
                return Err(ConfigError(message));
            }
            (Some(_), _) => {}
            (None, Ok(uid)) if uid != 0 => {}
            (None, Err(_)) if !image_user.is_empty() && image_user != "root" => {
                return Err(ConfigError(format!(
                    "container has runAsNonRoot and image has non-numeric user ({image_user}), cannot verify user is non-root {of_this}"
                )));
            }
            (None, _) => {
                return Err(ConfigError(format!(
                    "container has runAsNonRoot and image will run as root {of_this}"
                )));
            }
        }
    }
    let asked = Asked::of(pod, context, image);
    let mut groups = of_pod.supplemental_groups.unwrap_or_default();
    groups.extend(of_pod.fs_group);
    let group = match (group, asked.strict) {
        // By its own group the engine adds no others.
        (None, true) if !asked.with_group => accounts.own_group(&asked.user),
        (group, true) => group,
        (group, false) => {
            if asked.with_group {
                groups.extend(accounts.further_groups(&asked.user));
            }
            group
        }
    };
    groups.sort_unstable();
    groups.dedup();
    let user = match (user, group) {
        (Some(user), Some(group)) => Some(format!("{user}:{group}")),
        (Some(user), None) => Some(user.to_string()),
        (None, Some(group)) => Some(format!("{}:{group}", asked.user)),
        (None, None) => None,
    };
    Ok((user, groups))
}

/// Whether the image's accounts decide on the container's groups in a way that
/// the engine does not know of.
pub fn needs_accounts(pod: &Pod, container: &Container, image: &Image) -> bool {
    let context = container.security_context.clone().unwrap_or_default();
    let asked = Asked::of(pod, &context, image);
    asked.strict != asked.with_group
}

/// Who is asked for, by the pod or else by the image.
struct Asked {
    /// Name or id.
    user: String,
    /// Whether it comes with a group.
    with_group: bool,
    /// Whether the image adds no groups.
    strict: bool,
}

impl Asked {
    fn of(pod: &Pod, context: &SecurityContext, image: &Image) -> Self {
        let of_pod = spec(pod).security_context.as_ref();
        let user = context.run_as_user.or(of_pod.and_then(|of_pod| of_pod.run_as_user));
        let group = context.run_as_group.or(of_pod.and_then(|of_pod| of_pod.run_as_group));
        let (own_user, own_group) = image.user.split_once(':').unwrap_or((&image.user, ""));
        let own_user = if own_user.is_empty() { "0" } else { own_user };
        let policy = of_pod.and_then(|of_pod| of_pod.supplemental_groups_policy.as_deref());
        Self {
            user: user.map_or_else(|| own_user.to_owned(), |user| user.to_string()),
            with_group: group.is_some() || (user.is_none() && !own_group.is_empty()),
            strict: policy == Some("Strict"),
        }
    }
}

/// The seccomp profile that a container is to run under, its own or the pod's.
pub fn seccomp_profile<'a>(
    pod: &'a Pod,
    context: &'a SecurityContext,
) -> Option<&'a SeccompProfile> {
    let of_pod = spec(pod).security_context.as_ref();
    let of_pod = of_pod.and_then(|context| context.seccomp_profile.as_ref());
    context.seccomp_profile.as_ref().or(of_pod)
}

/// `seccomp` is the text of a profile of this machine, if one is asked for.
fn security_options(pod: &Pod, context: &SecurityContext, seccomp: Option<&str>) -> Vec<String> {
    let mut options = Vec::new();
    if context.allow_privilege_escalation == Some(false) {
        options.push("no-new-privileges:true".to_owned());
    }
    let of_pod = spec(pod).security_context.as_ref();
    match (seccomp_profile(pod, context).map(|profile| profile.type_.as_str()), seccomp) {
        (Some("Unconfined"), _) => options.push("seccomp=unconfined".to_owned()),
        (Some("Localhost"), Some(profile)) => options.push(format!("seccomp={profile}")),
        _ => {}
    }
    let app_armor = context
        .app_armor_profile
        .as_ref()
        .or(of_pod.and_then(|context| context.app_armor_profile.as_ref()));
    match app_armor.map(|profile| (profile.type_.as_str(), profile.localhost_profile.as_deref())) {
        Some(("Unconfined", _)) => options.push("apparmor=unconfined".to_owned()),
        Some(("Localhost", Some(profile))) => options.push(format!("apparmor={profile}")),
        _ => {}
    }
    let selinux = context
        .se_linux_options
        .as_ref()
        .or(of_pod.and_then(|context| context.se_linux_options.as_ref()));
    if let Some(selinux) = selinux {
        let parts = [
            ("user", &selinux.user),
            ("role", &selinux.role),
            ("type", &selinux.type_),
            ("level", &selinux.level),
        ];
        options.extend(
            parts
                .into_iter()
                .filter_map(|(key, value)| Some(format!("label={key}:{}", value.as_ref()?))),
        );
    }
    options
}

/// Volumes, the pod's own files, and the file for the termination message.
/// What the container mounts itself takes the place of ours.
fn mounts(container: &Container, inputs: &Inputs<'_>) -> Vec<Mount> {
    let mut mounts = inputs.volumes.clone();
    let file = |source: &Path, target: &str| Mount {
        source: source.to_string_lossy().into_owned(),
        target: target.to_owned(),
        read_only: false,
        propagation: Propagation::Private,
    };
    let termination = container.termination_message_path.as_deref().unwrap_or(TERMINATION_PATH);
    let mut own = vec![
        file(&inputs.pod_dir.join("resolv.conf"), "/etc/resolv.conf"),
        file(inputs.termination_log, termination),
        file(&inputs.pod_dir.join("etc-hosts"), "/etc/hosts"),
    ];
    own.retain(|mount| mounts.iter().all(|known| known.target != mount.target));
    mounts.extend(own);
    mounts
}

#[cfg(test)]
mod tests;
