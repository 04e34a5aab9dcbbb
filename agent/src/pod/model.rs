//! What is known of a pod on this node: the input of [`super::plan`] and
//! [`super::status`].
//!
//! Everything that must survive a restart of the agent is read back from the
//! containers' labels. What is lost, such as a failed pull's count, costs an
//! earlier retry and nothing else.

mod disruption;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::LazyLock;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    Container as ContainerSpec, ContainerStatus, EphemeralContainer, Pod, PodSpec,
};

use super::admit::Refusal;
use super::resize::{Pending, restart_key};
use crate::runtime::{Container, State, User, labels};

pub use disruption::{Disruption, EVICTED, EVICTION_GRACE, PREEMPTED, TERMINATED};

/// The reason in the status of a pod that ran longer than it may.
pub const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";

/// What this node has of one pod.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The newest sandbox, dead or alive.
    pub sandbox: Option<Attempt>,
    /// The pod's address, once its network is there.
    pub ips: Vec<IpAddr>,
    /// Containers by name, oldest attempt first.
    pub containers: BTreeMap<String, Vec<Attempt>>,
    /// Why the last try to start a container gave no running container.
    pub failures: BTreeMap<String, Failure>,
    /// Why the last try to set up volumes, sandbox or network failed.
    pub setup_failure: Option<Failure>,
    /// What probes and hooks said, by container id.
    pub health: BTreeMap<String, Health>,
    /// Why the pod may not run on this node.
    pub refused: Option<Refusal>,
    /// Why the node ends the pod.
    pub disruption: Option<Disruption>,
    /// Why a resize that the spec asks for has to wait.
    pub resize_pending: Option<Pending>,
    /// Why the last try to change the limits of a container failed.
    pub resize_failures: BTreeMap<String, Failure>,
    /// What jobs do to containers now; [`labels::SANDBOX`] stands for the
    /// sandbox with volumes and network, and for the pod as a whole.
    pub busy: BTreeMap<String, Work>,
    /// When this node learned that the pod has to go.
    pub ending_since: Option<Timestamp>,
    /// Whether a Service led to it then.
    pub served: bool,
    /// Nothing is left of the pod on this node.
    pub cleaned: bool,
}

/// One container of a pod: one attempt at keeping it running.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// What the runtime says.
    pub container: Container,
    /// How many there were before it.
    pub number: u32,
    /// Restarts in a row before it.
    pub crashes: u32,
    /// The sandbox it joined.
    pub sandbox: u32,
    /// What it left in its termination message file.
    pub message: String,
    /// Whom its first process runs as, once that is known.
    pub user: Option<User>,
}

/// What a job does to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Starts it.
    Starting,
    /// Changes its limits.
    Resizing,
    /// Stops it, at the latest at this time.
    Stopping(Timestamp),
    /// Clears up after it.
    Clearing,
}

/// A try that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Reason in Kubernetes' spelling, such as `ErrImagePull`.
    pub reason: &'static str,
    /// What went wrong.
    pub message: String,
    /// When.
    pub at: Timestamp,
    /// How often in a row.
    pub count: u32,
}

/// What probes and the postStart hook found out about a running container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// The readiness probe's verdict; `None` where there is no probe.
    pub ready: Option<bool>,
    /// The startup probe's verdict; `None` where there is no probe.
    pub started: Option<bool>,
    /// Whether the postStart hook still runs.
    pub hook_pending: bool,
    /// Why it has to be killed, when a probe or hook said so.
    pub condemned: Option<Condemned>,
}

/// A container that has to be killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condemned {
    /// Why, for the event.
    pub message: String,
    /// The probe's own grace period in seconds, if it has one.
    pub grace_seconds: Option<i64>,
}

/// How long a container must have run for its crashes to be forgotten.
pub const QUIET: SignedDuration = SignedDuration::from_mins(10);
/// The first wait before a restart.
pub const BACK_OFF_MIN: SignedDuration = SignedDuration::from_secs(10);
/// The longest wait before a restart.
pub const BACK_OFF_MAX: SignedDuration = SignedDuration::from_mins(5);
/// How long a failed pull shows as such before it shows as waiting.
pub const PULL_ERROR_SHOWN: SignedDuration = SignedDuration::from_secs(3);

/// The wait before try number `count` + 1: 10 s, doubling, at most 5 min.
pub fn back_off(count: u32) -> SignedDuration {
    if count == 0 {
        return SignedDuration::ZERO;
    }
    let doubled = BACK_OFF_MIN.checked_mul(1i32.checked_shl(count - 1).unwrap_or(i32::MAX).max(1));
    doubled.map_or(BACK_OFF_MAX, |wait| wait.min(BACK_OFF_MAX))
}

/// When a wait that began at `since` ends; `None` when it has. One that begins
/// ahead is from before the clock was set back: nobody knows how much of it is
/// left, and to wait until the clock has caught up may take days.
pub fn waits_until(since: Timestamp, wait: SignedDuration, now: Timestamp) -> Option<Timestamp> {
    if since > now {
        return None;
    }
    Some(since + wait).filter(|due| *due > now)
}

impl Failure {
    /// Whether an image is what is missing; then events have told so already.
    pub fn is_of_image(&self) -> bool {
        matches!(self.reason, "ErrImagePull" | "ErrImageNeverPull" | "InvalidImageName")
    }

    /// When to try again; `None` when that is now. Pulls and crashes back off;
    /// what the API may mend any moment is looked at more often.
    pub fn waits_until(&self, now: Timestamp) -> Option<Timestamp> {
        let wait = match self.reason {
            "CreateContainerConfigError" | "FailedMount" | "FailedCreatePodSandBox" => {
                back_off(self.count).min(SignedDuration::from_secs(20))
            }
            _ => back_off(self.count),
        };
        waits_until(self.at, wait, now)
    }
}

impl Attempt {
    /// Reads the labels of `container`.
    pub fn new(container: Container) -> Self {
        let number = |key| container.label(key).parse().unwrap_or(0);
        Self {
            number: number(labels::ATTEMPT),
            crashes: number(labels::CRASHES),
            sandbox: number(labels::SANDBOX_ATTEMPT),
            message: String::new(),
            user: None,
            container,
        }
    }

    /// The runtime's id.
    pub fn id(&self) -> &str {
        &self.container.id
    }

    /// Whether its process is there.
    pub fn is_running(&self) -> bool {
        self.container.is_running()
    }

    /// Its exit code, if it ended.
    pub fn exit_code(&self) -> Option<i32> {
        match self.container.state {
            State::Exited { exit_code, .. } => Some(exit_code),
            State::Created | State::Running { .. } => None,
        }
    }

    /// Whether it ran long enough for its crashes to be forgotten.
    fn was_quiet(&self) -> bool {
        match &self.container.state {
            State::Exited { started: Some(started), finished, .. } => {
                finished.duration_since(*started) >= QUIET
            }
            _ => false,
        }
    }

    /// Whether it was made from this spec. How often it crashed says nothing of
    /// one that is made from another.
    pub fn is_made_from(&self, container: &ContainerSpec) -> bool {
        self.container.label(labels::SPEC_HASH) == spec_hash(container)
    }

    /// The restarts in a row that its successor has behind it.
    pub fn crashes_of_next(&self, next: &ContainerSpec) -> u32 {
        match self.is_made_from(next) {
            true if self.was_quiet() => 1,
            true => self.crashes + 1,
            false => 0,
        }
    }

    /// When its successor may start; `None` when that is now, or it has not ended.
    pub fn successor_waits_until(&self, next: &ContainerSpec, now: Timestamp) -> Option<Timestamp> {
        let State::Exited { finished, .. } = self.container.state else { return None };
        if !self.is_made_from(next) {
            return None;
        }
        let wait = if self.was_quiet() { SignedDuration::ZERO } else { back_off(self.crashes) };
        waits_until(finished, wait, now)
    }
}

impl Observed {
    /// Sorts a pod's containers by name and attempt.
    pub fn new(found: impl IntoIterator<Item = Container>) -> Self {
        let mut observed = Self::default();
        for container in found {
            observed.insert(container);
        }
        observed
    }

    /// Adds a container or takes over its new state.
    pub fn insert(&mut self, container: Container) {
        let name = container.label(labels::CONTAINER).to_owned();
        let attempt = Attempt::new(container);
        if name == labels::SANDBOX {
            if self.sandbox.as_ref().is_none_or(|known| known.number <= attempt.number) {
                self.sandbox = Some(attempt);
            }
            return;
        }
        let attempts = self.containers.entry(name).or_default();
        match attempts.iter_mut().find(|known| known.id() == attempt.id()) {
            Some(known) => {
                // A job may hand in what it saw before the container ended.
                if let (State::Exited { finished, .. }, State::Running { started, .. }) =
                    (&known.container.state, &attempt.container.state)
                    && started <= finished
                {
                    return;
                }
                let message = std::mem::take(&mut known.message);
                let user = known.user.take();
                *known = Attempt { message, user, ..attempt };
            }
            None => {
                attempts.push(attempt);
                attempts.sort_by_key(|attempt| attempt.number);
            }
        }
    }

    /// Forgets a container that was removed.
    pub fn remove(&mut self, id: &str) {
        if self.sandbox.as_ref().is_some_and(|sandbox| sandbox.id() == id) {
            self.sandbox = None;
            self.ips.clear();
        }
        for attempts in self.containers.values_mut() {
            attempts.retain(|attempt| attempt.id() != id);
        }
        self.containers.retain(|_, attempts| !attempts.is_empty());
        self.health.remove(id);
    }

    /// Whatever failed may be tried again at once.
    pub fn forget_failures(&mut self) {
        self.failures.clear();
        self.resize_failures.clear();
        self.setup_failure = None;
    }

    /// The container with this id, with its name.
    pub fn find(&self, id: &str) -> Option<(&str, &Attempt)> {
        self.containers.iter().find_map(|(name, attempts)| {
            let found = attempts.iter().find(|attempt| attempt.id() == id)?;
            Some((name.as_str(), found))
        })
    }

    /// The newest attempt of a container.
    pub fn latest(&self, name: &str) -> Option<&Attempt> {
        self.containers.get(name)?.last()
    }

    /// The one before the newest.
    pub fn previous(&self, name: &str) -> Option<&Attempt> {
        self.containers.get(name)?.iter().rev().nth(1)
    }

    /// The sandbox, if it lives.
    pub fn live_sandbox(&self) -> Option<&Attempt> {
        self.sandbox.as_ref().filter(|sandbox| sandbox.is_running())
    }

    /// The newest attempt, if it belongs to the sandbox that lives now.
    pub fn current(&self, name: &str) -> Option<&Attempt> {
        let sandbox = self.live_sandbox()?;
        self.latest(name).filter(|attempt| attempt.sandbox == sandbox.number)
    }

    /// All containers that run, with their names.
    pub fn running(&self) -> impl Iterator<Item = (&str, &Attempt)> {
        self.containers.iter().flat_map(|(name, attempts)| {
            attempts
                .iter()
                .filter(|attempt| attempt.is_running())
                .map(move |attempt| (name.as_str(), attempt))
        })
    }

    /// Whether a running container has passed its startup probe and hook.
    pub fn is_started(&self, attempt: &Attempt) -> bool {
        let health = self.health.get(attempt.id());
        attempt.is_running()
            && health.is_none_or(|health| !health.hook_pending && health.started.unwrap_or(true))
    }

    /// Whether a container takes part in its pod's readiness.
    pub fn is_ready(&self, attempt: &Attempt) -> bool {
        let ready = self.health.get(attempt.id()).is_none_or(|health| health.ready.unwrap_or(true));
        self.is_started(attempt) && ready
    }
}

static NO_SPEC: LazyLock<PodSpec> = LazyLock::new(PodSpec::default);

/// A pod's spec. The API gives every pod one.
pub fn spec(pod: &Pod) -> &PodSpec {
    pod.spec.as_ref().unwrap_or(&NO_SPEC)
}

/// Whether an init container keeps running beside the others.
pub fn is_sidecar(container: &ContainerSpec) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// An ephemeral container as the container that it is once it runs.
pub fn as_container(ephemeral: &EphemeralContainer) -> ContainerSpec {
    let own = ephemeral.clone();
    ContainerSpec {
        args: own.args,
        command: own.command,
        env: own.env,
        env_from: own.env_from,
        image: own.image,
        image_pull_policy: own.image_pull_policy,
        lifecycle: own.lifecycle,
        liveness_probe: own.liveness_probe,
        name: own.name,
        ports: own.ports,
        readiness_probe: own.readiness_probe,
        resize_policy: own.resize_policy,
        resources: own.resources,
        restart_policy: own.restart_policy,
        restart_policy_rules: own.restart_policy_rules,
        security_context: own.security_context,
        startup_probe: own.startup_probe,
        stdin: own.stdin,
        stdin_once: own.stdin_once,
        termination_message_path: own.termination_message_path,
        termination_message_policy: own.termination_message_policy,
        tty: own.tty,
        volume_devices: own.volume_devices,
        volume_mounts: own.volume_mounts,
        working_dir: own.working_dir,
    }
}

/// All containers of a pod's spec: init, main and ephemeral ones.
pub fn all_containers(pod: &Pod) -> Vec<Cow<'_, ContainerSpec>> {
    let spec = spec(pod);
    let lasting = spec.init_containers.iter().flatten().chain(&spec.containers).map(Cow::Borrowed);
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    lasting.chain(ephemeral.map(|one| Cow::Owned(as_container(one)))).collect()
}

/// The container of this name in a pod's spec.
pub fn container_named<'a>(pod: &'a Pod, name: &str) -> Option<Cow<'a, ContainerSpec>> {
    all_containers(pod).into_iter().find(|container| container.name == name)
}

/// What the API has of a container that has ended, and its exit code. It stays
/// true when somebody removes the container, as those do who tidy up their
/// Docker.
pub fn known_end<'a>(pod: &'a Pod, name: &str) -> Option<(&'a ContainerStatus, i32)> {
    let status = pod.status.as_ref()?;
    let lists = [
        &status.container_statuses,
        &status.init_container_statuses,
        &status.ephemeral_container_statuses,
    ];
    let mut known = lists.into_iter().flatten().flatten().filter(|known| known.name == name);
    known.find_map(|known| Some((known, known.state.as_ref()?.terminated.as_ref()?.exit_code)))
}

/// Whether the API has the pod as one that has ended.
pub fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// The pod's UID.
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// The hash that tells whether a container was made from this spec. Only the
/// image of a pod's container may change while it lives, and resources; those
/// count where a change of them restarts the container.
pub fn spec_hash(container: &ContainerSpec) -> String {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    hash.update(container.name.as_bytes());
    hash.update([0]);
    hash.update(container.image.as_deref().unwrap_or_default().as_bytes());
    hash.update(restart_key(container).as_bytes());
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_back_ends_a_wait_and_prolongs_none() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let wait = SignedDuration::from_secs(10);
        let cases = [
            (at(100), Some(at(110))),
            (at(109), Some(at(110))),
            (at(110), None),
            (at(99), None),
            (at(0), None),
        ];
        for (now, expected) in cases {
            assert_eq!(waits_until(at(100), wait, now), expected, "at {now}");
        }
    }

    #[test]
    fn back_off_doubles_to_five_minutes() {
        let cases = [
            (0, 0),
            (1, 10),
            (2, 20),
            (3, 40),
            (4, 80),
            (5, 160),
            (6, 300),
            (7, 300),
            (31, 300),
            (500, 300),
        ];
        for (count, seconds) in cases {
            assert_eq!(back_off(count), SignedDuration::from_secs(seconds), "after {count}");
        }
    }
}
