//! Our nouns to Docker's JSON and back. Pure.

use std::collections::BTreeMap;

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum,
    ContainerStatsResponse, CreateImageInfo, DeviceInfo, EventMessage, HostConfig,
    HostConfigCgroupnsModeEnum, HostConfigLogConfig, ImageInspect, ImageSummary, MountBindOptions,
    MountBindOptionsPropagationEnum, MountType, SystemInfo, SystemInfoCgroupDriverEnum,
};
use jiff::Timestamp;

use super::{
    CgroupDriver, Container, ContainerSpec, DeviceRequest, Event, EventKind, Image, Limits, Mount,
    Progress, Propagation, State, Stats, User,
};

/// The period that CPU quotas refer to.
pub(super) const CPU_PERIOD_US: i64 = 100_000;

/// Largest log file of a container and how many are kept, as the kubelet does.
const LOG_MAX_SIZE: &str = "10m";
const LOG_MAX_FILES: &str = "5";

/// The body of a create call.
pub(super) fn create_body(spec: &ContainerSpec) -> ContainerCreateBody {
    ContainerCreateBody {
        hostname: spec.hostname.clone(),
        domainname: spec.domainname.clone(),
        user: spec.user.clone(),
        tty: Some(spec.tty),
        open_stdin: Some(spec.stdin),
        stdin_once: Some(spec.stdin_once),
        env: Some(spec.env.clone()),
        cmd: not_empty(&spec.args),
        entrypoint: not_empty(&spec.entrypoint),
        image: Some(spec.image.clone()),
        working_dir: spec.working_dir.clone(),
        labels: Some(spec.labels.clone().into_iter().collect()),
        stop_signal: spec.stop_signal.clone(),
        // An image's own health check would run beside the pod's probes.
        healthcheck: Some(bollard::models::HealthConfig {
            test: Some(vec!["NONE".into()]),
            ..Default::default()
        }),
        host_config: Some(host_config(spec)),
        ..Default::default()
    }
}

fn host_config(spec: &ContainerSpec) -> HostConfig {
    let limits = &spec.limits;
    let log_options = [("max-size", LOG_MAX_SIZE), ("max-file", LOG_MAX_FILES)];
    HostConfig {
        network_mode: Some(spec.network.clone()),
        ipc_mode: Some(spec.ipc.clone()),
        pid_mode: Some(spec.pid.clone()),
        // A private cgroup namespace hides the host's tree; version 1 engines
        // default to the host's, so ask for what the engine does by itself.
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::EMPTY),
        mounts: Some(spec.mounts.iter().map(mount).collect()),
        device_requests: (!spec.devices.is_empty())
            .then(|| spec.devices.iter().map(device_request).collect()),
        cgroup_parent: spec.cgroup_parent.clone(),
        cpu_shares: limits.cpu_shares,
        cpu_period: limits.cpu_quota_us.map(|_| CPU_PERIOD_US),
        cpu_quota: limits.cpu_quota_us,
        memory: limits.memory_bytes,
        // Equal to memory: no swap, as a pod's limit means memory.
        memory_swap: limits.memory_bytes,
        pids_limit: limits.pids,
        oom_score_adj: Some(spec.oom_score_adj),
        privileged: Some(spec.privileged),
        cap_add: not_empty(&spec.cap_add),
        cap_drop: not_empty(&spec.cap_drop),
        security_opt: not_empty(&spec.security_opt),
        sysctls: Some(spec.sysctls.clone().into_iter().collect()),
        readonly_rootfs: Some(spec.read_only_rootfs),
        group_add: Some(spec.groups.iter().map(i64::to_string).collect()),
        shm_size: spec.shm_size,
        runtime: spec.handler.clone(),
        masked_paths: spec.unmasked_proc.then(Vec::new),
        readonly_paths: spec.unmasked_proc.then(Vec::new),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".into()),
            config: Some(log_options.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
        }),
        ..Default::default()
    }
}

/// A driver is chosen by its name and asked for its one capability.
fn device_request(request: &DeviceRequest) -> bollard::models::DeviceRequest {
    bollard::models::DeviceRequest {
        driver: Some(request.driver.clone()),
        count: Some(0),
        device_ids: Some(request.ids.clone()),
        capabilities: Some(vec![vec!["gpu".into()]]),
        options: None,
    }
}

/// The names of the devices that the engine discovered by itself.
pub(super) fn device_names(found: Option<Vec<DeviceInfo>>) -> Vec<String> {
    let found = found.into_iter().flatten();
    let by_cdi = found.filter(|device| device.source.as_deref() == Some("cdi"));
    by_cdi.filter_map(|device| device.id).collect()
}

/// Who makes cgroups. An engine without root's rights has only part of a tree
/// that is its user's.
pub(super) fn cgroup_driver(info: &SystemInfo) -> Option<CgroupDriver> {
    let mut options = info.security_options.iter().flatten();
    if options.any(|option| option.contains("name=rootless")) {
        return None;
    }
    match info.cgroup_driver {
        Some(SystemInfoCgroupDriverEnum::CGROUPFS) => Some(CgroupDriver::Cgroupfs),
        Some(SystemInfoCgroupDriverEnum::SYSTEMD) => Some(CgroupDriver::Systemd),
        _ => None,
    }
}

fn mount(mount: &Mount) -> bollard::models::Mount {
    bollard::models::Mount {
        typ: Some(MountType::BIND),
        source: Some(mount.source.clone()),
        target: Some(mount.target.clone()),
        read_only: Some(mount.read_only),
        bind_options: Some(MountBindOptions {
            propagation: match mount.propagation {
                // The engine's own choice: private, but for a mount that
                // contains its data directory, which it refuses as private.
                Propagation::Private => None,
                Propagation::HostToContainer => Some(MountBindOptionsPropagationEnum::RSLAVE),
                Propagation::Bidirectional => Some(MountBindOptionsPropagationEnum::RSHARED),
            },
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A container from an inspect call.
pub(super) fn container(found: ContainerInspectResponse) -> Container {
    let config = found.config.unwrap_or_default();
    let created =
        found.created.and_then(|at| Timestamp::from_nanosecond(at.unix_timestamp_nanos()).ok());
    let created = created.unwrap_or_default();
    let host = found.host_config.unwrap_or_default();
    Container {
        id: found.id.unwrap_or_default(),
        name: found.name.unwrap_or_default().trim_start_matches('/').to_owned(),
        labels: config.labels.unwrap_or_default().into_iter().collect(),
        image: config.image.unwrap_or_default(),
        image_id: found.image.unwrap_or_default(),
        created,
        state: state(found.state.unwrap_or_default(), created),
        limits: limits(&host),
        user: user(config.user.as_deref().unwrap_or_default(), &host),
    }
}

/// The user, where nothing is left to the image.
fn user(user: &str, config: &HostConfig) -> Option<User> {
    let groups = config.group_add.iter().flatten().map(|group| group.parse().ok());
    User::told(user, &groups.collect::<Option<Vec<i64>>>()?)
}

/// Docker writes 0 or -1 for "none".
fn limits(config: &HostConfig) -> Limits {
    let some = |value: Option<i64>| value.filter(|value| *value > 0);
    Limits {
        cpu_shares: some(config.cpu_shares),
        cpu_quota_us: some(config.cpu_quota),
        memory_bytes: some(config.memory),
        pids: some(config.pids_limit),
        ..Limits::default()
    }
}

fn state(state: bollard::models::ContainerState, created: Timestamp) -> State {
    let started = state.started_at.as_deref().and_then(time);
    if state.running.unwrap_or(false) {
        let pid = state.pid.and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
        return State::Running { pid, started: started.unwrap_or(created) };
    }
    let error = state.error.unwrap_or_default();
    // A failed start leaves the container "created" with an error and a code.
    if state.status == Some(ContainerStateStatusEnum::CREATED) && error.is_empty() {
        return State::Created;
    }
    State::Exited {
        exit_code: state.exit_code.and_then(|code| i32::try_from(code).ok()).unwrap_or(-1),
        oom_killed: state.oom_killed.unwrap_or(false),
        error,
        started,
        finished: state.finished_at.as_deref().and_then(time).or(started).unwrap_or(created),
    }
}

/// Docker writes year 1 for "never".
fn time(text: &str) -> Option<Timestamp> {
    text.parse::<Timestamp>().ok().filter(|at| at.as_second() > 0)
}

/// An image from an inspect call.
pub(super) fn image(found: ImageInspect) -> Image {
    let config = found.config.unwrap_or_default();
    let entrypoint = config.entrypoint.unwrap_or_default();
    let command = config.cmd.unwrap_or_default();
    Image {
        id: found.id.unwrap_or_default(),
        tags: found.repo_tags.unwrap_or_default(),
        digests: found.repo_digests.unwrap_or_default(),
        size: found.size.unwrap_or_default(),
        user: config.user.unwrap_or_default(),
        has_command: !entrypoint.is_empty() || !command.is_empty(),
        entrypoint,
        command,
    }
}

/// An image from a list, which does not say how it runs.
pub(super) fn image_summary(found: ImageSummary) -> Image {
    let named =
        |names: Vec<String>| names.into_iter().filter(|name| !name.starts_with("<none>")).collect();
    Image {
        id: found.id,
        tags: named(found.repo_tags),
        digests: named(found.repo_digests),
        size: found.size,
        ..Default::default()
    }
}

/// The layers of a pull, by id: what has come of each and what is to come.
#[derive(Debug, Default)]
pub(super) struct Layers(BTreeMap<String, (u64, u64)>);

impl Layers {
    /// Takes in what Docker says; the sum over all layers when that changes it.
    pub(super) fn take(&mut self, said: CreateImageInfo) -> Option<Progress> {
        let (id, detail) = (said.id?, said.progress_detail.unwrap_or_default());
        let number = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok());
        let known = self.0.get(&id).copied();
        let now = match said.status.as_deref()? {
            "Downloading" => (number(detail.current)?, number(detail.total)?),
            "Download complete" => known.map(|(_, all)| (all, all))?,
            _ => return None,
        };
        self.0.insert(id, now);
        let sum = |part: fn(&(u64, u64)) -> u64| self.0.values().map(part).sum();
        (known != Some(now)).then(|| Progress { came: sum(|one| one.0), all: sum(|one| one.1) })
    }
}

/// The name in what Docker says of an image that it loaded.
pub(super) fn loaded_image(said: &str) -> Option<String> {
    let name = said.trim().strip_prefix("Loaded image: ")?;
    Some(name.to_owned())
}

/// An event we asked for, `None` for any other.
pub(super) fn event(message: EventMessage) -> Option<Event> {
    let kind = match message.action.as_deref()? {
        "start" => EventKind::Started,
        "die" => EventKind::Died,
        "destroy" => EventKind::Removed,
        _ => return None,
    };
    let actor = message.actor?;
    let labels = actor.attributes.unwrap_or_default().into_iter().collect();
    Some(Event { id: actor.id?, labels, kind })
}

/// Use of CPU and memory, after cgroup version 1 or 2.
pub(super) fn stats(read: &ContainerStatsResponse, at: Timestamp) -> Stats {
    let cpu = read
        .cpu_stats
        .as_ref()
        .and_then(|cpu| cpu.cpu_usage.as_ref())
        .and_then(|usage| usage.total_usage);
    let memory = read.memory_stats.as_ref();
    let usage = memory.and_then(|memory| memory.usage).unwrap_or_default();
    let details = memory.and_then(|memory| memory.stats.as_ref());
    // The working set: what cannot be reclaimed without writing.
    let inactive = details
        .and_then(|stats| stats.get("total_inactive_file").or_else(|| stats.get("inactive_file")));
    Stats {
        at,
        cpu_nanos: cpu.unwrap_or_default(),
        memory_bytes: usage.saturating_sub(inactive.copied().unwrap_or_default()),
        processes: read.pids_stats.as_ref().and_then(|pids| pids.current).unwrap_or_default(),
    }
}

fn not_empty(list: &[String]) -> Option<Vec<String>> {
    (!list.is_empty()).then(|| list.to_vec())
}

#[cfg(test)]
mod tests {
    use bollard::models::ContainerState;

    use super::*;

    #[test]
    fn a_private_mount_leaves_its_propagation_to_the_engine() {
        use MountBindOptionsPropagationEnum::{RSHARED, RSLAVE};
        let cases = [
            (Propagation::Private, None),
            (Propagation::HostToContainer, Some(RSLAVE)),
            (Propagation::Bidirectional, Some(RSHARED)),
        ];
        for (propagation, expected) in cases {
            let (source, target) = ("/".to_owned(), "/host".to_owned());
            let made = mount(&Mount { source, target, read_only: false, propagation });
            assert_eq!(made.bind_options.unwrap().propagation, expected, "{propagation:?}");
        }
    }

    #[test]
    fn only_an_engine_of_root_has_cgroups_to_set() {
        let info = |driver, options: &[&str]| SystemInfo {
            cgroup_driver: Some(driver),
            security_options: Some(options.iter().map(|&option| option.to_owned()).collect()),
            ..SystemInfo::default()
        };
        let seccomp = "name=seccomp,profile=default";
        let cases = [
            (info(SystemInfoCgroupDriverEnum::CGROUPFS, &[seccomp]), Some(CgroupDriver::Cgroupfs)),
            (info(SystemInfoCgroupDriverEnum::SYSTEMD, &[]), Some(CgroupDriver::Systemd)),
            (info(SystemInfoCgroupDriverEnum::SYSTEMD, &[seccomp, "name=rootless"]), None),
            (info(SystemInfoCgroupDriverEnum::NONE, &[]), None),
            (SystemInfo::default(), None),
        ];
        for (info, expected) in cases {
            assert_eq!(cgroup_driver(&info), expected, "{info:?}");
        }
    }

    #[test]
    fn layers_of_a_pull_add_up() {
        use bollard::models::ProgressDetail;
        let mut layers = Layers::default();
        let mut say = |id: &str, status: &str, current: i64, total: i64| {
            let detail = ProgressDetail { current: Some(current), total: Some(total) };
            let said = CreateImageInfo {
                id: Some(id.into()),
                status: Some(status.into()),
                progress_detail: Some(detail),
                ..CreateImageInfo::default()
            };
            layers.take(said).map(|now| (now.came, now.all))
        };
        assert_eq!(say("latest", "Pulling from library/redis", 0, 0), None);
        assert_eq!(say("a", "Downloading", 10, 100), Some((10, 100)));
        assert_eq!(say("b", "Downloading", 5, 50), Some((15, 150)));
        assert_eq!(say("b", "Downloading", 5, 50), None, "nothing new");
        assert_eq!(say("a", "Download complete", 0, 0), Some((105, 150)));
        assert_eq!(say("a", "Extracting", 3, 300), None);
    }

    #[test]
    fn states_come_from_what_docker_says() {
        let created: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let started: Timestamp = "2026-01-01T00:00:01Z".parse().unwrap();
        let finished: Timestamp = "2026-01-01T00:00:02Z".parse().unwrap();
        let never = Some("0001-01-01T00:00:00Z".to_owned());
        let cases = [
            (
                "created",
                ContainerState {
                    status: Some(ContainerStateStatusEnum::CREATED),
                    started_at: never.clone(),
                    finished_at: never.clone(),
                    ..Default::default()
                },
                State::Created,
            ),
            (
                "running",
                ContainerState {
                    running: Some(true),
                    pid: Some(42),
                    started_at: Some("2026-01-01T00:00:01Z".into()),
                    finished_at: never.clone(),
                    ..Default::default()
                },
                State::Running { pid: 42, started },
            ),
            (
                "failed to start",
                ContainerState {
                    status: Some(ContainerStateStatusEnum::CREATED),
                    exit_code: Some(127),
                    error: Some("no such file".into()),
                    started_at: never.clone(),
                    finished_at: never,
                    ..Default::default()
                },
                State::Exited {
                    exit_code: 127,
                    oom_killed: false,
                    error: "no such file".into(),
                    started: None,
                    finished: created,
                },
            ),
            (
                "killed for memory",
                ContainerState {
                    status: Some(ContainerStateStatusEnum::EXITED),
                    exit_code: Some(137),
                    oom_killed: Some(true),
                    started_at: Some("2026-01-01T00:00:01Z".into()),
                    finished_at: Some("2026-01-01T00:00:02Z".into()),
                    ..Default::default()
                },
                State::Exited {
                    exit_code: 137,
                    oom_killed: true,
                    error: String::new(),
                    started: Some(started),
                    finished,
                },
            ),
        ];
        for (name, docker, expected) in cases {
            assert_eq!(state(docker, created), expected, "{name}");
        }
    }
}
