//! What a worker starts: the jobs of its plan, refreshes of volumes, probes.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use tracing::{debug, warn};

use super::super::api;
use super::super::apply;
use super::super::context::Context;
use super::super::model::{Work, container_named, spec};
use super::super::plan::{Action, Plan};
use super::{Done, Worker};
use crate::events::{About, Severity};
use crate::probe::{Target, initial_health};
use crate::runtime::{Limits, labels};

/// Marks a refresh of volumes in `busy`. A slash cannot occur in a name.
pub(super) const VOLUMES: &str = "/volumes";

impl Worker {
    /// Starts what the plan says. True when the plan has to be made anew.
    pub(super) async fn act(&mut self, plan: &Plan, now: Timestamp) -> bool {
        for action in &plan.actions {
            match action {
                Action::SetUp { attempt } => self.set_up(*attempt),
                Action::Start { container, attempt, crashes } => {
                    self.start(container, *attempt, *crashes)
                }
                Action::Stop { container, id, grace, message } => {
                    self.ctx.probes.end(id).await;
                    self.stop(container, id, *grace, message, now)
                }
                Action::Resize { container, id, limits } => {
                    self.resize(container, id, limits.clone());
                }
                Action::Remove { ids } => {
                    for id in ids {
                        let Some((name, attempt)) = self.observed.find(id) else { continue };
                        match apply::discard(&self.ctx, &self.pod, name, attempt).await {
                            Ok(()) => self.observed.remove(id),
                            Err(error) => warn!(%error, id, "old container not removed"),
                        }
                    }
                }
                Action::Abandon => return self.abandon().await,
                Action::ReleaseSandbox if !self.end_retry.waits(now) => {
                    let sandbox = self.observed.sandbox.clone();
                    self.whole_pod(|ctx, pod| async move {
                        Done::Released(apply::release_sandbox(&ctx, &pod, sandbox).await)
                    });
                }
                Action::CleanUp if !self.end_retry.waits(now) && self.has_told(now) => {
                    let sandbox = self.observed.sandbox.clone();
                    self.whole_pod(|ctx, pod| async move {
                        Done::Cleaned(apply::clean_up(&ctx, &pod, sandbox).await)
                    });
                }
                Action::DeleteObject
                    if !self.end_retry.waits(now) && !self.deleted && !self.reporting =>
                {
                    if !self.observed.busy.contains_key(labels::SANDBOX) {
                        self.whole_pod(|ctx, pod| async move {
                            Done::Deleted(api::delete_object(&ctx, &pod).await)
                        });
                    }
                }
                Action::ReleaseSandbox | Action::CleanUp | Action::DeleteObject => {}
            }
        }
        if self.volumes_due(now).is_some_and(|due| due <= now) {
            self.refresh_volumes();
        }
        false
    }

    /// Whether the API has the final status: it has to, before what that tells
    /// of is removed. A pod that is gone has none.
    fn has_told(&mut self, now: Timestamp) -> bool {
        if self.gone {
            return true;
        }
        self.report(now);
        !self.reporting && !self.report_retry.waits(now)
    }

    /// Starts a job about the pod as a whole.
    fn whole_pod<F>(&mut self, job: impl FnOnce(Arc<Context>, Arc<Pod>) -> F)
    where
        F: Future<Output = Done> + Send + 'static,
    {
        self.observed.busy.insert(labels::SANDBOX.into(), Work::Clearing);
        self.jobs.spawn(job(self.ctx.clone(), self.pod.clone()));
    }

    fn set_up(&mut self, attempt: u32) {
        let changed = self.observed.sandbox.as_ref().is_some_and(|old| !old.is_running());
        if changed && self.observed.setup_failure.is_none() {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            self.ctx.recorder.pod(&self.pod, None, Severity::Normal, "SandboxChanged", message);
        }
        self.observed.busy.insert(labels::SANDBOX.into(), Work::Starting);
        let (ctx, pod, old, tokens) = (
            self.ctx.clone(),
            self.wanted.clone(),
            self.observed.sandbox.clone(),
            self.tokens.clone(),
        );
        let handle = self.jobs.spawn(async move {
            Done::SetUp(apply::set_up(&ctx, &pod, attempt, old, tokens).await)
        });
        self.starting.insert(labels::SANDBOX.into(), handle);
    }

    fn start(&mut self, name: &str, attempt: u32, crashes: u32) {
        let Some(sandbox) = self.observed.live_sandbox().cloned() else { return };
        // After a restart of the agent the volumes have to be looked at once.
        let Some(volumes) = self.volumes.clone() else {
            self.volumes_stale = true;
            return self.refresh_volumes();
        };
        let start = apply::Start {
            name: name.to_owned(),
            attempt,
            crashes,
            sandbox,
            ips: self.observed.ips.clone(),
            volumes,
            target: self.target_of(name),
        };
        self.observed.busy.insert(name.to_owned(), Work::Starting);
        let (ctx, pod) = (self.ctx.clone(), self.wanted.clone());
        let handle = self.jobs.spawn(async move {
            let result = apply::start(&ctx, &pod, &start).await;
            Done::Start(start.name, result)
        });
        self.starting.insert(name.to_owned(), handle);
    }

    /// The container whose processes an ephemeral container wants to see.
    fn target_of(&self, name: &str) -> Result<Option<String>, String> {
        let ephemeral = spec(&self.pod).ephemeral_containers.iter().flatten();
        let target = ephemeral.filter(|own| own.name == name).find_map(|own| {
            own.target_container_name.as_deref().filter(|target| !target.is_empty())
        });
        let Some(target) = target else { return Ok(None) };
        match self.observed.current(target) {
            Some(attempt) if attempt.is_running() => Ok(Some(attempt.id().to_owned())),
            Some(_) => Err(format!("container {target} is not running")),
            None => Err(format!("unable to find target container {target}")),
        }
    }

    fn resize(&mut self, name: &str, id: &str, limits: Limits) {
        self.observed.busy.insert(name.to_owned(), Work::Resizing);
        let (ctx, pod) = (self.ctx.clone(), self.wanted.clone());
        let (name, id) = (name.to_owned(), id.to_owned());
        self.jobs.spawn(async move {
            let result = apply::resize(&ctx, &pod, &id, &limits).await;
            Done::Resize(name, id, result)
        });
    }

    fn stop(&mut self, name: &str, id: &str, grace: Duration, message: &str, now: Timestamp) {
        let until = SignedDuration::try_from(grace).map_or(now, |grace| now + grace);
        self.observed.busy.insert(name.to_owned(), Work::Stopping(until));
        let (ctx, pod, ips) = (self.ctx.clone(), self.pod.clone(), self.observed.ips.clone());
        let (name, id, message) = (name.to_owned(), id.to_owned(), message.to_owned());
        let key = name.clone();
        let handle = self.jobs.spawn(async move {
            let result = apply::stop(&ctx, &pod, &name, &id, grace, &message, &ips).await;
            Done::Stop(name, id, result)
        });
        if let Some(overtaken) = self.stopping.insert(key, handle) {
            overtaken.abort();
        }
    }

    /// Ends all starts and looks at what they left behind.
    async fn abandon(&mut self) -> bool {
        for (name, job) in std::mem::take(&mut self.starting) {
            job.abort();
            self.observed.busy.remove(&name);
        }
        match apply::containers_of(&self.ctx, &self.pod).await {
            Ok(found) => self.take_containers(found).await,
            // Clean-up lists once more and removes whatever is there.
            Err(error) => debug!(%error, "containers not listed"),
        }
        true
    }

    /// When the volumes have to be brought up to date.
    pub(super) fn volumes_due(&self, now: Timestamp) -> Option<Timestamp> {
        if self.observed.cleaned || self.gone || self.observed.live_sandbox().is_none() {
            return None;
        }
        if self.observed.busy.contains_key(VOLUMES) {
            return None;
        }
        let stale = self.volumes_stale.then_some(now);
        let due = stale.or(self.volumes.as_ref().and_then(|volumes| volumes.renew_at));
        due.map(|due| self.volumes_retry.waits_until(now).map_or(due, |retry| retry.max(due)))
    }

    fn refresh_volumes(&mut self) {
        if self.observed.busy.contains_key(VOLUMES) || self.volumes_retry.waits(Timestamp::now()) {
            return;
        }
        self.volumes_stale = false;
        self.observed.busy.insert(VOLUMES.into(), Work::Clearing);
        let (ctx, pod, ips, tokens) =
            (self.ctx.clone(), self.pod.clone(), self.observed.ips.clone(), self.tokens.clone());
        self.jobs.spawn(async move {
            Done::Volumes(apply::prepare_volumes(&ctx, &pod, &ips, tokens).await)
        });
    }

    /// Has every running container with probes probed.
    pub(super) async fn watch_probes(&mut self) {
        let mut targets = Vec::new();
        for (name, attempt) in self.observed.running() {
            let Some(container) = container_named(&self.pod, name) else { continue };
            let probes =
                [&container.liveness_probe, &container.readiness_probe, &container.startup_probe];
            let pending =
                self.observed.health.get(attempt.id()).is_some_and(|health| health.hook_pending);
            if self.probed.contains(attempt.id())
                || pending
                || probes.iter().all(|probe| probe.is_none())
            {
                continue;
            }
            targets.push((container.into_owned(), attempt.id().to_owned()));
        }
        for (container, id) in targets {
            let mut known = initial_health(&container, self.was_ready(&id));
            if let Some(health) = self.observed.health.get(&id) {
                known.condemned.clone_from(&health.condemned);
            }
            self.observed.health.insert(id.clone(), known.clone());
            self.probed.insert(id.clone());
            let host = if spec(&self.pod).host_network == Some(true) {
                self.ctx.node_ips.first().copied()
            } else {
                self.host()
            };
            let about = About::pod(&self.pod, Some(&container.name));
            self.ctx.probes.watch(Target { about, container, id, host, known }).await;
        }
    }

    fn host(&self) -> Option<IpAddr> {
        let known =
            self.pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()?.parse().ok());
        self.observed.ips.first().copied().or(known)
    }

    /// Whether the API has this very container as ready, from before the agent
    /// restarted.
    fn was_ready(&self, id: &str) -> bool {
        let status = self.pod.status.as_ref();
        let all = status.into_iter().flat_map(|status| {
            status.container_statuses.iter().chain(&status.init_container_statuses).flatten()
        });
        let wanted = format!("docker://{id}");
        all.filter(|known| known.container_id.as_ref() == Some(&wanted)).any(|known| known.ready)
    }
}
