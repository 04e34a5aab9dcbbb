//! Computes a pod's status from its containers. Pure.
//!
//! Times are cut to whole seconds, as the API keeps them, so that a status
//! computed twice compares equal and is written once. A condition keeps its
//! transition time while its status stays the same.

mod container;

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStatus, HostIP, Pod, PodCondition,
    PodIP, PodStatus, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::model::{
    Attempt, DEADLINE_EXCEEDED, Disruption, Failure, Observed, PULL_ERROR_SHOWN, Work,
    as_container, is_sidecar, known_end, spec, uid, waits_until,
};
use super::plan::{Outcome, is_pull, outcome};
use super::resize::{other_limits, restart_key};
use super::resources::qos_class;
use super::restart::{ended_for_good, restarts};
use crate::runtime::{State, labels};
pub use container::user_in;
use container::{
    close, container_user, image_id, message_bytes, mount_statuses, terminated, waiting,
};

/// The node has no room for a resize.
pub const RESIZE_PENDING: &str = "PodResizePending";
/// A resize is being carried out.
pub const RESIZE_IN_PROGRESS: &str = "PodResizeInProgress";

/// The pod goes because of its node or its cluster, not by itself.
const DISRUPTION_TARGET: &str = "DisruptionTarget";
/// It is the node that makes it go.
const BY_NODE: &str = "TerminationByKubelet";

/// Why this node decided to end the pod, before the agent was restarted.
pub fn disruption_of(pod: &Pod) -> Option<Disruption> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let told = conditions.iter().find(|one| {
        one.type_ == DISRUPTION_TARGET
            && one.status == "True"
            && one.reason.as_deref() == Some(BY_NODE)
    });
    Some(Disruption::from_condition(told?.message.as_deref().unwrap_or_default()))
}

/// The status of `pod`. `node_ips` are the addresses of its node.
pub fn compute(pod: &Pod, observed: &Observed, node_ips: &[IpAddr], now: Timestamp) -> PodStatus {
    let old = pod.status.clone().unwrap_or_default();
    let ended = outcome(pod, observed, now);
    let view = View { pod, observed, ended, now };

    let phase = view.phase();
    let done = matches!(phase, "Succeeded" | "Failed");
    let mut ips: Vec<_> = observed.ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect();
    if spec(pod).host_network == Some(true) && observed.sandbox.is_some() {
        ips = node_ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect();
    }
    if ips.is_empty() && (done || pod.metadata.deletion_timestamp.is_some()) {
        // What it had stays readable after its network is gone.
        ips = old.pod_ips.clone().unwrap_or_default();
    }
    let mut container_statuses: Vec<_> =
        spec(pod).containers.iter().map(|container| view.container(container, false)).collect();
    let inits = spec(pod).init_containers.as_deref().unwrap_or_default();
    let mut init_statuses: Vec<_> =
        inits.iter().map(|container| view.container(container, true)).collect();
    let ephemeral = spec(pod).ephemeral_containers.iter().flatten();
    let ephemeral_statuses: Vec<_> = ephemeral
        .map(|own| ContainerStatus { ready: false, ..view.container(&as_container(own), false) })
        .collect();
    let told = old.container_statuses.is_some() || !observed.containers.is_empty();
    if observed.refused.is_some() || (ended.is_some() && !told) {
        // It was refused and has no containers to tell of, and never will.
        container_statuses.clear();
        init_statuses.clear();
    }
    if done {
        view.close(&mut init_statuses, &mut container_statuses);
    }
    let (reason, message) = match ended {
        Some(Outcome::DeadlineExceeded) => (
            Some(DEADLINE_EXCEEDED.to_owned()),
            Some("Pod was active on the node longer than the specified deadline".to_owned()),
        ),
        Some(Outcome::Refused) => match &observed.refused {
            Some(refusal) => (
                Some(refusal.reason.clone().into_owned()),
                Some(format!("Pod was rejected: {}", refusal.message)),
            ),
            None => (old.reason.clone(), old.message.clone()),
        },
        // Until nothing runs any more only the condition tells.
        Some(Outcome::Evicted | Outcome::Terminated) if done => match &observed.disruption {
            Some(why) => (Some(why.reason().to_owned()), Some(why.message().to_owned())),
            None => (old.reason.clone(), old.message.clone()),
        },
        _ => (old.reason.clone(), old.message.clone()),
    };
    PodStatus {
        conditions: Some(view.conditions(phase, old.conditions.as_deref().unwrap_or_default())),
        container_statuses: (!container_statuses.is_empty()).then_some(container_statuses),
        init_container_statuses: (!init_statuses.is_empty()).then_some(init_statuses),
        ephemeral_container_statuses: (!ephemeral_statuses.is_empty())
            .then_some(ephemeral_statuses),
        host_ip: node_ips.first().map(IpAddr::to_string),
        host_ips: Some(node_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        message,
        observed_generation: pod.metadata.generation,
        phase: Some(phase.to_owned()),
        pod_ip: ips.first().map(|ip| ip.ip.clone()),
        pod_ips: (!ips.is_empty()).then_some(ips),
        qos_class: Some(old.qos_class.clone().unwrap_or_else(|| qos_class(spec(pod)).to_owned())),
        reason,
        start_time: Some(old.start_time.clone().unwrap_or_else(|| seconds(now))),
        // The rest belongs to others and is left as it is.
        ..old
    }
}

/// The time cut to whole seconds.
pub fn seconds(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

struct View<'a> {
    pod: &'a Pod,
    observed: &'a Observed,
    ended: Option<Outcome>,
    now: Timestamp,
}

impl View<'_> {
    fn phase(&self) -> &'static str {
        let running = self.observed.running().next().is_some();
        let deleting = self.pod.metadata.deletion_timestamp.is_some();
        // Whoever only stops or clears up finds nothing to change any more.
        let ends = |work: &Work| matches!(work, Work::Stopping(_) | Work::Clearing);
        if !running && self.observed.busy.values().all(ends) {
            match self.ended {
                Some(Outcome::Succeeded) => return "Succeeded",
                Some(
                    Outcome::Failed
                    | Outcome::DeadlineExceeded
                    | Outcome::Refused
                    | Outcome::Evicted
                    | Outcome::Terminated,
                ) => return "Failed",
                // A deleted pod ends as its containers did, and without any it
                // has failed.
                None if deleting => {
                    let names = spec(self.pod).containers.iter().map(|container| &container.name);
                    let mut codes =
                        names.map(|name| self.observed.latest(name).and_then(Attempt::exit_code));
                    return if codes.all(|code| code == Some(0)) { "Succeeded" } else { "Failed" };
                }
                None => {}
            }
        }
        let was_running =
            self.pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
        let never_ran = spec(self.pod).containers.iter().any(|container| {
            self.observed
                .latest(&container.name)
                .is_none_or(|attempt| attempt.container.state == State::Created)
        });
        if never_ran && !was_running { "Pending" } else { "Running" }
    }

    fn conditions(&self, phase: &str, old: &[PodCondition]) -> Vec<PodCondition> {
        let spec = spec(self.pod);
        let inits = spec.init_containers.as_deref().unwrap_or_default();
        let not_initialized: Vec<_> = inits
            .iter()
            .filter(|init| !self.is_initialized(init))
            .map(|init| init.name.as_str())
            .collect();
        let serving = inits.iter().filter(|init| is_sidecar(init)).chain(&spec.containers);
        let not_ready: Vec<_> = serving
            .filter(|container| {
                self.observed
                    .latest(&container.name)
                    .is_none_or(|attempt| !self.observed.is_ready(attempt))
            })
            .map(|container| container.name.as_str())
            .collect();

        let sandbox_ready = self.observed.live_sandbox().is_some()
            && (!self.observed.ips.is_empty() || spec.host_network == Some(true));
        let initialized = match phase {
            "Succeeded" => Verdict::because(true, "PodCompleted", String::new()),
            _ if not_initialized.is_empty() => Verdict::yes(),
            _ => Verdict::because(
                false,
                "ContainersNotInitialized",
                format!("containers with incomplete status: [{}]", not_initialized.join(" ")),
            ),
        };
        let containers_ready = match phase {
            "Succeeded" => Verdict::because(false, "PodCompleted", String::new()),
            "Failed" => Verdict::because(false, "PodFailed", String::new()),
            _ if not_ready.is_empty() => Verdict::yes(),
            _ => Verdict::because(
                false,
                "ContainersNotReady",
                format!("containers with unready status: [{}]", not_ready.join(" ")),
            ),
        };
        let ready = match self.closed_gate(old) {
            Some(gate) if containers_ready.holds => Verdict::because(
                false,
                "ReadinessGatesNotReady",
                format!("condition \"{gate}\" is not True"),
            ),
            _ => containers_ready.clone(),
        };
        let mut verdicts = vec![
            ("PodReadyToStartContainers", Verdict { holds: sandbox_ready, ..Verdict::yes() }),
            ("Initialized", initialized),
            ("Ready", ready),
            ("ContainersReady", containers_ready),
            ("PodScheduled", Verdict::yes()),
        ];
        if let Some(pending) = &self.observed.resize_pending {
            let verdict = Verdict::because(true, pending.reason, pending.message.clone());
            verdicts.push((RESIZE_PENDING, verdict));
        }
        if let Some(why) = &self.observed.disruption {
            let verdict = Verdict::because(true, BY_NODE, why.condition().to_owned());
            verdicts.push((DISRUPTION_TARGET, verdict));
        }
        verdicts.extend(self.resize_in_progress().map(|verdict| (RESIZE_IN_PROGRESS, verdict)));
        let verdicts = verdicts.into_iter();
        verdicts.map(|(kind, verdict)| self.condition(kind, verdict, old)).collect()
    }

    /// Whether some container still has other limits than it should, or is yet
    /// to be restarted for them.
    fn resize_in_progress(&self) -> Option<Verdict> {
        if self.ended.is_some() || self.pod.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let all = spec(self.pod).init_containers.iter().flatten().chain(&spec(self.pod).containers);
        let mut late = all.filter(|container| {
            let running = self.observed.current(&container.name).filter(|found| found.is_running());
            running.is_some_and(|attempt| {
                other_limits(spec(self.pod), container, attempt).is_some()
                    || (!restart_key(container).is_empty() && !attempt.is_made_from(container))
            })
        });
        let first = late.next()?;
        let failed = late
            .chain([first])
            .find_map(|container| self.observed.resize_failures.get(&container.name));
        Some(match failed {
            Some(failure) => Verdict::because(true, failure.reason, failure.message.clone()),
            None => Verdict::yes(),
        })
    }

    /// A readiness gate that its owner has not opened.
    fn closed_gate(&self, old: &[PodCondition]) -> Option<String> {
        let gates = spec(self.pod).readiness_gates.iter().flatten();
        let open =
            |gate: &str| old.iter().any(|known| known.type_ == gate && known.status == "True");
        gates.map(|gate| gate.condition_type.clone()).find(|gate| !open(gate))
    }

    fn condition(&self, kind: &str, verdict: Verdict, old: &[PodCondition]) -> PodCondition {
        let status = if verdict.holds { "True" } else { "False" };
        let known = old.iter().find(|known| known.type_ == kind && known.status == status);
        PodCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            last_probe_time: None,
            last_transition_time: known
                .and_then(|known| known.last_transition_time.clone())
                .or_else(|| Some(seconds(self.now))),
            reason: verdict.reason.map(str::to_owned),
            message: (!verdict.message.is_empty()).then_some(verdict.message),
            observed_generation: self.pod.metadata.generation,
        }
    }

    fn is_initialized(&self, init: &Container) -> bool {
        let spec = spec(self.pod);
        // Once a main container ran, initialization is over.
        if spec.containers.iter().any(|container| self.observed.latest(&container.name).is_some()) {
            return true;
        }
        match self.observed.latest(&init.name) {
            Some(attempt) if is_sidecar(init) => self.observed.is_started(attempt),
            Some(attempt) => attempt.exit_code() == Some(0),
            None => false,
        }
    }

    fn container(&self, container: &Container, init: bool) -> ContainerStatus {
        let latest = self.observed.latest(&container.name);
        if latest.is_none()
            && let Some((known, _)) = known_end(self.pod, &container.name)
            && (init || self.ended.is_some() || ended_for_good(self.pod, container))
        {
            return known.clone();
        }
        let previous = self.observed.previous(&container.name);
        let words = message_bytes(self.pod);
        let ended = |attempt: Option<&Attempt>| terminated(attempt?, words);
        let (state, last_state) = match latest {
            None => (self.waiting(container, init), None),
            Some(attempt) => match &attempt.container.state {
                State::Created => (self.waiting(container, init), ended(previous)),
                State::Running { started, .. } => {
                    let running = ContainerStateRunning { started_at: Some(seconds(*started)) };
                    let state = ContainerState { running: Some(running), ..Default::default() };
                    (state, ended(previous))
                }
                State::Exited { .. } => match self.restart_reason(container, attempt) {
                    Some(waiting) => (waiting, ended(latest)),
                    None => (ended(latest).unwrap_or_default(), ended(previous)),
                },
            },
        };
        let ready = latest.is_some_and(|attempt| {
            // A regular init container is ready when it has done its work.
            if init && !is_sidecar(container) {
                attempt.exit_code() == Some(0)
            } else {
                self.observed.is_ready(attempt)
            }
        });
        ContainerStatus {
            container_id: latest.map(|attempt| format!("docker://{}", attempt.id())),
            image: container.image.clone().unwrap_or_default(),
            image_id: latest.map(image_id).unwrap_or_default(),
            last_state: Some(last_state.unwrap_or_default()),
            name: container.name.clone(),
            ready,
            restart_count: latest
                .and_then(|attempt| i32::try_from(attempt.number).ok())
                .unwrap_or_default(),
            started: Some(latest.is_some_and(|attempt| self.observed.is_started(attempt))),
            state: Some(state),
            resources: self.enforced(container, latest),
            allocated_resources: latest
                .and(container.resources.as_ref())
                .and_then(|resources| resources.requests.clone()),
            volume_mounts: mount_statuses(container),
            user: latest.and_then(|attempt| attempt.user.as_ref()).map(container_user),
            ..Default::default()
        }
    }

    /// What a container may use: what it asks for, or what it had until the
    /// runtime has taken that over.
    fn enforced(
        &self,
        container: &Container,
        latest: Option<&Attempt>,
    ) -> Option<ResourceRequirements> {
        let latest = latest?;
        if !latest.is_running() || other_limits(spec(self.pod), container, latest).is_none() {
            return container.resources.clone();
        }
        let status = self.pod.status.as_ref()?;
        let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        let known = all.filter(|known| known.name == container.name);
        known.filter_map(|known| known.resources.clone()).next()
    }

    /// Of an ended pod nothing waits any more: a container that has no end of
    /// its own has failed, unless its turn had not come.
    fn close(&self, inits: &mut [ContainerStatus], containers: &mut [ContainerStatus]) {
        let own = spec(self.pod).init_containers.as_deref().unwrap_or_default();
        let done = own.iter().take_while(|init| self.is_initialized(init)).count();
        for status in inits.iter_mut().take(done + 1) {
            close(status);
        }
        if done == own.len() {
            containers.iter_mut().for_each(close);
        }
    }

    /// The state of a container that has not been started yet.
    fn waiting(&self, container: &Container, init: bool) -> ContainerState {
        if let Some(failure) = self.observed.failures.get(&container.name) {
            return self.failed(container.image.as_deref(), failure);
        }
        // A volume's image holds up all containers, as their own would.
        if let Some(failure) = self.observed.setup_failure.as_ref().filter(|one| one.is_of_image())
        {
            return self.failed(None, failure);
        }
        let inits = spec(self.pod).init_containers.as_deref().unwrap_or_default();
        let pending = inits.iter().any(|init| !self.is_initialized(init));
        let reason = if pending || (init && !inits.is_empty()) {
            "PodInitializing"
        } else {
            "ContainerCreating"
        };
        waiting(reason, String::new())
    }

    /// `image` is the container's; without, it is a volume that has none.
    fn failed(&self, image: Option<&str>, failure: &Failure) -> ContainerState {
        let shown_until = waits_until(failure.at, PULL_ERROR_SHOWN, self.now);
        if is_pull(failure) && shown_until.is_none() {
            let what = image.map_or_else(
                || "the image of a volume".to_owned(),
                |image| format!("image \"{image}\""),
            );
            let message =
                format!("Back-off pulling {what}: {}: {}", failure.reason, failure.message);
            return waiting("ImagePullBackOff", message);
        }
        waiting(failure.reason, failure.message.clone())
    }

    /// Why a container that ended does not run again yet; `None` when it will
    /// not, or starts at once.
    fn restart_reason(&self, container: &Container, attempt: &Attempt) -> Option<ContainerState> {
        if self.ended.is_some() || self.pod.metadata.deletion_timestamp.is_some() {
            return None;
        }
        if let Some(failure) = self.observed.failures.get(&container.name) {
            return Some(self.failed(container.image.as_deref(), failure));
        }
        if !restarts(self.pod, container, attempt.exit_code()?) {
            return None;
        }
        let due = attempt.successor_waits_until(container, self.now);
        let due = due.filter(|_| !self.observed.busy.contains_key(&container.name));
        let Some(due) = due else {
            // Who crashed shows it; who was killed to be started again is on
            // its way.
            let health = self.observed.health.get(attempt.id());
            let killed = health.is_some_and(|health| health.condemned.is_some());
            return killed.then(|| waiting("ContainerCreating", String::new()));
        };
        if let State::Exited { started: None, error, .. } = &attempt.container.state {
            return Some(waiting("RunContainerError", error.clone()));
        }
        let State::Exited { finished, .. } = &attempt.container.state else { return None };
        let wait = due.duration_since(*finished).as_secs();
        let wait =
            if wait >= 60 { format!("{}m{}s", wait / 60, wait % 60) } else { format!("{wait}s") };
        let (namespace, name) = (
            attempt.container.label(labels::POD_NAMESPACE),
            attempt.container.label(labels::POD_NAME),
        );
        Some(waiting(
            "CrashLoopBackOff",
            format!(
                "back-off {wait} restarting failed container={} pod={name}_{namespace}({})",
                container.name,
                uid(self.pod)
            ),
        ))
    }
}

#[derive(Clone)]
struct Verdict {
    holds: bool,
    reason: Option<&'static str>,
    message: String,
}

impl Verdict {
    fn yes() -> Self {
        Self { holds: true, reason: None, message: String::new() }
    }

    fn because(holds: bool, reason: &'static str, message: String) -> Self {
        Self { holds, reason: Some(reason), message }
    }
}

#[cfg(test)]
mod tests;
