//! The worker of one pod: plans, starts jobs, reports, and waits.
//!
//! It wakes for the API, the runtime, probes, ended jobs and deadlines; each
//! wake-up means "look again". Whatever takes time is a job in `jobs`, so a
//! pod that pulls an image for minutes can still be deleted. What arrives
//! meanwhile is kept in the [`super::inbox::Inbox`], which holds the newest of
//! everything and therefore cannot overflow.
//!
//! A job that panics takes the worker and the agent with it.

mod act;
mod done;
mod mirror;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::admit::Refusal;
use super::api::Tokens;
use super::apply;
use super::context::Context;
use super::inbox::Inbox;
use super::model::{Attempt, Disruption, Health, Observed, Work, back_off, spec, uid, waits_until};
use super::plan::{Plan, outcome, plan_pod};
use super::report::Reported;
use super::resize::{self, Pending};
use super::status::{disruption_of, user_in};
use crate::events::Severity;
use crate::runtime::{Container, RuntimeError, State, labels};
use crate::volume::Volumes;

pub(super) use done::Done;
use mirror::Mirror;

/// Why the worker looks again after a failed step, and when.
#[derive(Default)]
pub(super) struct Retry {
    failed_at: Option<Timestamp>,
    count: u32,
}

impl Retry {
    fn failed(&mut self, now: Timestamp) {
        self.count += 1;
        self.failed_at = Some(now);
    }

    fn succeeded(&mut self) {
        *self = Self::default();
    }

    pub(super) fn waits_until(&self, now: Timestamp) -> Option<Timestamp> {
        // Quick at first: most failures are a restart of something.
        let wait = back_off(self.count).as_secs() / 10;
        waits_until(self.failed_at?, SignedDuration::from_secs(wait.max(1)), now)
    }

    pub(super) fn waits(&self, now: Timestamp) -> bool {
        self.waits_until(now).is_some()
    }
}

/// The worker of one pod.
pub struct Worker {
    pub(super) ctx: Arc<Context>,
    inbox: Arc<Inbox>,
    /// The pod as the API has it.
    pub(super) pod: Arc<Pod>,
    /// The pod as it is run: while a resize has to wait, with the resources
    /// that it has been given.
    wanted: Arc<Pod>,
    pub(super) gone: bool,
    mirror: Mirror,
    mirror_retry: Retry,
    pub(super) observed: Observed,
    volumes: Option<Volumes>,
    tokens: Tokens,
    /// The status that the API has from us.
    pub(super) reported: Option<Reported>,
    pub(super) reporting: bool,
    pub(super) report_retry: Retry,
    /// Until when there may come more to report.
    pub(super) report_held: Option<Timestamp>,
    /// Covers clean-up and deletion.
    end_retry: Retry,
    volumes_stale: bool,
    volumes_retry: Retry,
    pub(super) jobs: JoinSet<Done>,
    /// The jobs that can be abandoned, by container.
    starting: BTreeMap<String, AbortHandle>,
    /// Stops under way; a job that was overtaken no longer counts.
    stopping: BTreeMap<String, AbortHandle>,
    probed: BTreeSet<String>,
    pub(super) deleted: bool,
    /// The runtime is away: nothing is planned on what was known of it.
    runtime_lost: bool,
}

impl Worker {
    /// A worker for `pod`, whose containers on this node are `found`, or which
    /// may not come.
    pub fn new(
        ctx: Arc<Context>,
        inbox: Arc<Inbox>,
        pod: Arc<Pod>,
        gone: bool,
        found: Vec<Container>,
        refused: Option<Refusal>,
    ) -> Self {
        let mut observed = Observed::new(found);
        observed.disruption = disruption_of(&pod);
        observed.refused = refused;
        if let Some(Refusal { reason, message }) = &observed.refused {
            ctx.recorder.pod(&pod, None, Severity::Warning, reason, message.clone());
        }
        Self {
            ctx,
            inbox,
            wanted: pod.clone(),
            mirror: Mirror::of(&pod),
            mirror_retry: Retry::default(),
            pod,
            gone,
            observed,
            volumes: None,
            tokens: Tokens::default(),
            reported: None,
            reporting: false,
            report_retry: Retry::default(),
            report_held: None,
            end_retry: Retry::default(),
            volumes_stale: false,
            volumes_retry: Retry::default(),
            jobs: JoinSet::new(),
            starting: BTreeMap::new(),
            stopping: BTreeMap::new(),
            probed: BTreeSet::new(),
            deleted: false,
            runtime_lost: false,
        }
    }

    /// Works until the pod is gone from the API and from this node, or until
    /// cancelled; then everything of the pod goes on running.
    pub async fn run(mut self, cancel: CancellationToken) {
        self.fill_in().await;
        loop {
            let now = Timestamp::now();
            if self.pod.metadata.deletion_timestamp.is_some() {
                self.begin_to_end(now);
            }
            self.settle_resize();
            // Whoever has just begun to run counts as started only after its probe says so.
            self.watch_probes().await;
            let plan = if self.runtime_lost {
                Plan::default()
            } else {
                plan_pod(&self.wanted, self.gone, &self.observed, now)
            };
            self.release_devices(now);
            let again = self.act(&plan, now).await;
            self.ensure_mirror(now);
            self.report(now);
            self.inbox.set_over(self.is_over());
            if again {
                continue;
            }
            if self.gone && self.observed.cleaned {
                return self.leave().await;
            }
            let due = [
                plan.deadline,
                self.volumes_due(now),
                self.end_retry.waits_until(now),
                self.report_retry.waits_until(now),
                self.report_held,
                self.mirror_retry.waits_until(now),
            ];
            let due = due.into_iter().flatten().min();
            let sleep = async {
                match due {
                    Some(at) => {
                        let wait = Duration::try_from(at.duration_since(Timestamp::now()))
                            .unwrap_or_default();
                        // At least a moment, should the clocks disagree.
                        tokio::time::sleep(wait + Duration::from_millis(1)).await;
                    }
                    None => std::future::pending().await,
                }
            };
            let inbox = self.inbox.clone();
            tokio::select! {
                () = cancel.cancelled() => return,
                () = inbox.wake.notified() => self.take_news().await,
                Some(done) = self.jobs.join_next(), if !self.jobs.is_empty() => self.take_joined(done).await,
                () = sleep => {}
            }
            // What came of other jobs meanwhile is taken in one go.
            while let Some(done) = self.jobs.try_join_next() {
                self.take_joined(done).await;
            }
        }
    }

    /// Gives up the pod's devices when nothing of it can use them any more: before
    /// its end is reported or its object deleted, because then the next pod may
    /// come for them.
    fn release_devices(&self, now: Timestamp) {
        let quiet = self.observed.busy.is_empty() && self.observed.running().next().is_none();
        let over = quiet && outcome(&self.pod, &self.observed, now).is_some();
        if over || self.observed.cleaned {
            self.ctx.devices.release(uid(&self.pod));
        }
    }

    /// Remembers when the pod's deletion became known, and what has to be known
    /// of it at that time.
    fn begin_to_end(&mut self, now: Timestamp) {
        if self.observed.ending_since.is_none() {
            self.observed.ending_since = Some(now);
            self.observed.served = self.ctx.objects.is_served(&self.pod);
        }
    }

    /// Decides what a resize comes to: what the pod asks for or, while the node
    /// has no room for that, what it has been given.
    fn settle_resize(&mut self) {
        let given = self.reported.as_ref().map(|own| &own.status).or(self.pod.status.as_ref());
        let asked = given.filter(|given| resize::is_asked(&self.pod, given));
        let refused = asked.filter(|_| !self.inbox.resizes(&self.pod)).and_then(|given| {
            // One after another: what begins takes room at once.
            let _one = self.ctx.pods.resizing.lock().unwrap_or_else(PoisonError::into_inner);
            let pods = self.ctx.pods.pods_and_resizes();
            let others = pods.iter().map(|(pod, resizes)| (pod.as_ref(), *resizes));
            let room = &self.ctx.allocatable;
            let used = resize::used_by_others(&self.pod, others, room);
            let refused = resize::judge(&self.pod, room, &used);
            if refused.is_none() {
                self.inbox.begin_resize(&self.pod);
            }
            Some((refused?, given))
        });
        self.wanted = match &refused {
            Some((_, given)) => Arc::new(resize::as_given(&self.pod, given)),
            None => self.pod.clone(),
        };
        let pending = refused.map(|(pending, _)| pending);
        self.inbox.wait_for_room(pending.as_ref().is_some_and(Pending::is_deferred));
        self.observed.resize_pending = pending;
    }

    /// The node ends the pod. One that is on its way already goes on as it was
    /// told; one that an earlier agent began to end learns until when.
    fn disrupt(&mut self, why: Disruption) {
        match (&self.observed.disruption, &why) {
            (None, Disruption::Evicted { .. } | Disruption::Preempted) => {
                let message = why.message().to_owned();
                self.ctx.recorder.pod(&self.pod, None, Severity::Warning, why.reason(), message);
            }
            (None | Some(Disruption::Shutdown { .. }), Disruption::Shutdown { .. }) => {}
            // It has become more urgent.
            (
                Some(Disruption::Evicted { message, grace }),
                Disruption::Evicted { grace: now, .. },
            ) if now < grace => {
                let (message, grace) = (message.clone(), *now);
                self.observed.disruption = Some(Disruption::Evicted { message, grace });
                return;
            }
            (Some(_), _) => return,
        }
        self.observed.disruption = Some(why);
    }

    /// Whether the pod has ended because its machine shuts down, and the API
    /// has been told or does not listen.
    fn is_over(&self) -> bool {
        matches!(self.observed.disruption, Some(Disruption::Shutdown { .. }))
            && self.observed.busy.is_empty()
            && self.observed.running().next().is_none()
            && !self.reporting
    }

    async fn take_joined(&mut self, joined: Result<Done, JoinError>) {
        match joined {
            Ok(done) => self.take_done(done).await,
            // Half-done work is nothing to go on from, and must not be hidden.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Abandoned, or overtaken by a more urgent stop.
            Err(_) => {}
        }
    }

    async fn leave(mut self) {
        self.remove_mirror().await;
        for id in std::mem::take(&mut self.probed) {
            self.ctx.probes.forget(&id).await;
        }
        self.ctx.objects.release(uid(&self.pod));
        self.ctx.devices.release(uid(&self.pod));
    }

    async fn take_news(&mut self) {
        let news = self.inbox.take();
        if let Some(pod) = news.pod {
            // A change of labels or annotations may show in a volume.
            if pod.metadata.labels != self.pod.metadata.labels
                || pod.metadata.annotations != self.pod.metadata.annotations
            {
                self.volumes_stale = true;
                self.retry_configs();
            }
            // It may mount what nobody has mounted before.
            if spec(&pod).ephemeral_containers != spec(&self.pod).ephemeral_containers {
                self.volumes = None;
                self.volumes_stale = true;
            }
            if pod.metadata.generation != self.pod.metadata.generation {
                self.observed.resize_failures.clear();
            }
            self.pod = pod;
        }
        self.gone |= news.gone;
        if let Some(why) = news.disruption {
            self.disrupt(why);
        }
        if let Some(mirror) = news.mirror {
            self.take_mirror(mirror);
        }
        if let Some(found) = news.containers {
            self.runtime_lost = false;
            // Whatever failed may have failed because the runtime was going.
            self.observed.forget_failures();
            self.take_containers(found).await;
        }
        self.runtime_lost |= news.runtime_lost;
        for id in news.touched {
            // The job that stops or removes a container looks at it itself.
            if !self.is_in_hand(&id) {
                self.inspect(&id).await;
            }
        }
        for id in news.started {
            // The job that starts a container looks at it itself.
            if self.starting.is_empty() && !self.is_known_to_run(&id) {
                self.inspect(&id).await;
            }
        }
        for (id, health) in news.health {
            let known = self.observed.health.entry(id).or_default();
            let hook_pending = known.hook_pending;
            *known = Health {
                hook_pending,
                condemned: known.condemned.take().or(health.condemned),
                ..health
            };
        }
        if news.objects {
            self.volumes_stale = true;
            // What was missing may be there now.
            self.observed.setup_failure = None;
            self.retry_configs();
        }
    }

    /// What a container's spec refers to has changed: it is looked at again
    /// without waiting.
    fn retry_configs(&mut self) {
        let failures = &mut self.observed.failures;
        failures.retain(|_, failure| failure.reason != "CreateContainerConfigError");
    }

    /// Takes over a fresh list; what jobs are about is left to their results.
    async fn take_containers(&mut self, found: Vec<Container>) {
        let mut fresh = Observed::new(found);
        let busy = std::mem::take(&mut self.observed.busy);
        fresh.health = std::mem::take(&mut self.observed.health);
        fresh.failures = std::mem::take(&mut self.observed.failures);
        fresh.resize_failures = std::mem::take(&mut self.observed.resize_failures);
        fresh.setup_failure = self.observed.setup_failure.take();
        fresh.refused = self.observed.refused.take();
        fresh.disruption = self.observed.disruption.take();
        fresh.cleaned = self.observed.cleaned;
        fresh.ending_since = self.observed.ending_since;
        fresh.served = self.observed.served;
        if fresh.sandbox.as_ref().map(Attempt::id)
            == self.observed.sandbox.as_ref().map(Attempt::id)
        {
            fresh.ips = std::mem::take(&mut self.observed.ips);
        }
        fresh.busy = busy;
        self.observed = fresh;
        self.fill_in().await;
    }

    fn is_known_to_run(&self, id: &str) -> bool {
        let mut running = self
            .observed
            .live_sandbox()
            .into_iter()
            .chain(self.observed.running().map(|(_, attempt)| attempt));
        running.any(|attempt| attempt.id() == id)
    }

    /// Whether a job is about to tell how this container ended.
    fn is_in_hand(&self, id: &str) -> bool {
        let busy = &self.observed.busy;
        if busy.get(labels::SANDBOX) == Some(&Work::Clearing) {
            return true;
        }
        let stops = |(name, _): (&str, &Attempt)| matches!(busy.get(name), Some(Work::Stopping(_)));
        self.observed.find(id).is_some_and(stops)
    }

    /// Reads what the runtime's answer leaves out.
    async fn fill_in(&mut self) {
        self.read_messages().await;
        self.learn_users().await;
    }

    /// Learns whom containers run as. What has been told once stands: a process
    /// may become another user later.
    async fn learn_users(&mut self) {
        let reported = self.reported.as_ref().map(|own| &own.status);
        let told = [reported, self.pod.status.as_ref()];
        for attempt in self.observed.containers.values_mut().flatten() {
            if attempt.user.is_some() || attempt.container.state == State::Created {
                continue;
            }
            let known = told.into_iter().flatten().find_map(|told| user_in(told, attempt.id()));
            attempt.user = match known {
                Some(user) => Some(user),
                None => self.ctx.runtime.user(&attempt.container).await,
            };
        }
    }

    /// Reads the termination messages that are not known yet.
    async fn read_messages(&mut self) {
        for (name, attempts) in &mut self.observed.containers {
            for attempt in attempts.iter_mut().filter(|attempt| attempt.message.is_empty()) {
                if attempt.exit_code().is_some() {
                    attempt.message =
                        apply::termination_message(&self.ctx, &self.pod, name, attempt).await;
                }
            }
        }
    }

    async fn inspect(&mut self, id: &str) {
        match self.ctx.runtime.inspect(id).await {
            Ok(container) => self.observe(container).await,
            Err(RuntimeError::NotFound(_)) => self.observed.remove(id),
            // The runtime is away; the list after its return tells.
            Err(error) => debug!(%error, id, "container not inspected"),
        }
    }

    async fn observe(&mut self, container: Container) {
        let id = container.id.clone();
        self.observed.insert(container);
        self.fill_in().await;
        let ended = self
            .observed
            .containers
            .values()
            .flatten()
            .any(|attempt| attempt.id() == id && !attempt.is_running());
        if ended {
            // Why it was killed is part of what it shows until the next one runs.
            let killed = |health: &Health| health.condemned.is_some();
            if !self.observed.health.get(&id).is_some_and(killed) {
                self.observed.health.remove(&id);
            }
            if self.probed.remove(&id) {
                self.ctx.probes.forget(&id).await;
            }
        }
    }
}
