//! What came of a worker's jobs.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tracing::{debug, warn};

use super::super::apply::{self, Failed, Ready};
use super::super::model::{Condemned, Failure, container_named};
use super::super::report::Reported;
use super::Worker;
use super::act::VOLUMES;
use crate::events::Severity;
use crate::revision::Revision;
use crate::runtime::{Container, RuntimeError, labels};
use crate::volume::Volumes;

/// What a job came to.
pub(in crate::pod) enum Done {
    SetUp(Result<Ready, Failed>),
    Volumes(Result<Volumes, Failed>),
    Start(String, Result<Container, Failed>),
    Stop(String, String, Result<Option<Container>, RuntimeError>),
    Resize(String, String, Result<Container, String>),
    Hook(String, String, Result<(), String>),
    Released(Result<(), String>),
    Cleaned(Result<(), String>),
    Deleted(Result<(), String>),
    Mirrored(Result<Option<Arc<Pod>>, String>),
    Reported(Box<PodStatus>, Result<Option<Revision>, String>),
}

impl Worker {
    pub(super) async fn take_done(&mut self, done: Done) {
        let now = Timestamp::now();
        match done {
            Done::SetUp(result) => self.take_set_up(result, now).await,
            Done::Volumes(result) => self.take_volumes(result, now),
            Done::Start(name, result) => self.take_started(&name, result, now).await,
            Done::Stop(name, id, result) => self.take_stopped(&name, &id, result).await,
            Done::Resize(name, id, result) => self.take_resized(&name, &id, result, now).await,
            Done::Hook(name, id, result) => self.take_hooked(&name, id, result),
            Done::Released(result) => {
                self.observed.busy.remove(labels::SANDBOX);
                self.ended(result, "sandbox not released", now, |worker| {
                    worker.observed.sandbox = None;
                    worker.observed.ips.clear();
                });
            }
            Done::Cleaned(result) => {
                self.observed.busy.remove(labels::SANDBOX);
                self.ended(result, "pod not cleaned up", now, |worker| {
                    worker.observed.cleaned = true
                });
            }
            Done::Deleted(result) => {
                self.observed.busy.remove(labels::SANDBOX);
                self.ended(result, "pod's object not deleted", now, |worker| worker.deleted = true);
            }
            Done::Mirrored(result) => self.take_mirrored(result, now),
            Done::Reported(status, result) => self.take_reported(*status, result, now),
        }
    }

    async fn take_set_up(&mut self, result: Result<Ready, Failed>, now: Timestamp) {
        self.starting.remove(labels::SANDBOX);
        self.observed.busy.remove(labels::SANDBOX);
        match result {
            Ok(ready) => {
                self.observed.setup_failure = None;
                self.observed.ips = ready.ips;
                self.volumes = Some(ready.volumes);
                self.observe(ready.sandbox).await;
            }
            Err(failed) => {
                let count = self.observed.setup_failure.take().map_or(1, |old| old.count + 1);
                let failure = failure(failed, count, now);
                if !failure.is_of_image() {
                    self.warn(None, failure.reason, failure.message.clone());
                }
                self.observed.setup_failure = Some(failure);
                // A sandbox without a network may have been started.
                if let Ok(found) = apply::containers_of(&self.ctx, &self.pod).await {
                    self.take_containers(found).await;
                }
            }
        }
    }

    fn take_volumes(&mut self, result: Result<Volumes, Failed>, now: Timestamp) {
        self.observed.busy.remove(VOLUMES);
        match result {
            Ok(volumes) => {
                self.volumes_retry.succeeded();
                self.volumes = Some(volumes);
            }
            Err(failed) => {
                self.volumes_retry.failed(now);
                self.volumes_stale = true;
                self.warn(None, failed.reason, failed.message);
            }
        }
    }

    async fn take_started(
        &mut self,
        name: &str,
        result: Result<Container, Failed>,
        now: Timestamp,
    ) {
        self.starting.remove(name);
        self.observed.busy.remove(name);
        match result {
            Ok(container) => {
                self.observed.failures.remove(name);
                let id = container.id.clone();
                self.observe(container).await;
                self.run_post_start(name, id);
            }
            Err(failed) => match failed.container.clone() {
                // It counts as an attempt and backs off like a crash.
                Some(container) => {
                    self.observed.failures.remove(name);
                    self.observe(container).await;
                }
                None => {
                    let count = self.observed.failures.get(name).map_or(1, |old| old.count + 1);
                    self.observed.failures.insert(name.to_owned(), failure(failed, count, now));
                }
            },
        }
    }

    fn run_post_start(&mut self, name: &str, id: String) {
        let hook = container_named(&self.pod, name)
            .and_then(|container| container.lifecycle.as_ref()?.post_start.clone());
        let Some(hook) = hook else { return };
        self.observed.health.entry(id.clone()).or_default().hook_pending = true;
        let (ctx, pod, ips, name) =
            (self.ctx.clone(), self.pod.clone(), self.observed.ips.clone(), name.to_owned());
        self.jobs.spawn(async move {
            let result = apply::run_hook(&ctx, &pod, &name, &id, &hook, &ips).await;
            Done::Hook(name, id, result)
        });
    }

    fn take_hooked(&mut self, name: &str, id: String, result: Result<(), String>) {
        let health = self.observed.health.entry(id).or_default();
        health.hook_pending = false;
        if let Err(error) = result {
            const REASON: &str = "FailedPostStartHook";
            health.condemned = Some(Condemned { message: REASON.into(), grace_seconds: None });
            self.warn(Some(name), REASON, error);
        }
    }

    async fn take_stopped(
        &mut self,
        name: &str,
        id: &str,
        result: Result<Option<Container>, RuntimeError>,
    ) {
        self.stopping.remove(name);
        self.observed.busy.remove(name);
        match result {
            Ok(Some(container)) => self.observe(container).await,
            Ok(None) => self.observed.remove(id),
            Err(error) => {
                self.warn(Some(name), "FailedKillPod", error.to_string());
                // Tried again by the next plan, which would be at once.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }

    async fn take_resized(
        &mut self,
        name: &str,
        id: &str,
        result: Result<Container, String>,
        now: Timestamp,
    ) {
        self.observed.busy.remove(name);
        match result {
            Ok(container) => {
                self.observed.resize_failures.remove(name);
                self.observe(container).await;
            }
            Err(message) => {
                let failures = &mut self.observed.resize_failures;
                let count = failures.get(name).map_or(1, |old| old.count + 1);
                let failed = Failure { reason: "Error", message, at: now, count };
                failures.insert(name.to_owned(), failed);
                self.inspect(id).await;
            }
        }
    }

    fn take_reported(
        &mut self,
        status: PodStatus,
        result: Result<Option<Revision>, String>,
        now: Timestamp,
    ) {
        self.reporting = false;
        match result {
            Ok(revision) => {
                self.report_retry.succeeded();
                self.reported = Some(Reported { status, revision });
            }
            Err(error) => {
                debug!(error, "status not written, will be tried again");
                self.report_retry.failed(now);
            }
        }
    }

    /// Takes in how a step of the pod's end went.
    fn ended(
        &mut self,
        result: Result<(), String>,
        what: &str,
        now: Timestamp,
        then: impl FnOnce(&mut Self),
    ) {
        match result {
            Ok(()) => {
                self.end_retry.succeeded();
                then(self);
            }
            Err(error) => {
                warn!(error, pod = self.pod.metadata.name, "{what}, will be tried again");
                self.end_retry.failed(now);
            }
        }
    }

    /// An event that somebody may have to act on.
    fn warn(&self, container: Option<&str>, reason: &str, message: String) {
        self.ctx.recorder.pod(&self.pod, container, Severity::Warning, reason, message);
    }
}

fn failure(failed: Failed, count: u32, at: Timestamp) -> Failure {
    Failure { reason: failed.reason, message: failed.message, at, count }
}
