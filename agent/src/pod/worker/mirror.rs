//! What the API shows of a static pod: a mirror, made again when somebody
//! deletes it.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::super::api;
use super::super::static_pods::{is_static, mirror_of};
use super::{Done, Worker};

/// How the API knows a worker's pod.
#[derive(Debug)]
pub(super) enum Mirror {
    /// It is the API's own.
    None,
    /// The API has not said yet what it has.
    Unknown,
    /// The API has none.
    Missing,
    /// It is being made.
    Making,
    /// The pod with the identity and the status that the API gives it.
    There(Arc<Pod>),
}

impl Mirror {
    pub(super) fn of(pod: &Pod) -> Self {
        if is_static(pod) { Self::Unknown } else { Self::None }
    }
}

impl Worker {
    /// The pod as the API has it; `None` while it has none.
    pub(in crate::pod) fn shown(&self) -> Option<Arc<Pod>> {
        match &self.mirror {
            Mirror::None => Some(self.pod.clone()),
            Mirror::There(shown) => Some(shown.clone()),
            Mirror::Unknown | Mirror::Missing | Mirror::Making => None,
        }
    }

    /// Takes over what the API has as the pod's mirror.
    pub(super) fn take_mirror(&mut self, mirror: Option<Arc<Pod>>) {
        let Some(mirror) = mirror else {
            self.mirror = Mirror::Missing;
            return;
        };
        let known = self.shown().and_then(|shown| shown.metadata.uid.clone());
        if known != mirror.metadata.uid {
            // Another object: it has nothing from us yet.
            self.reported = None;
        }
        let mut shown = (*self.pod).clone();
        shown.metadata = mirror.metadata.clone();
        shown.status.clone_from(&mirror.status);
        self.mirror = Mirror::There(Arc::new(shown));
    }

    /// Makes the mirror if there is none.
    pub(super) fn ensure_mirror(&mut self, now: Timestamp) {
        if !matches!(self.mirror, Mirror::Missing) || self.gone || self.mirror_retry.waits(now) {
            return;
        }
        self.mirror = Mirror::Making;
        let (ctx, mirror) = (self.ctx.clone(), mirror_of(&self.pod));
        self.jobs.spawn(async move { Done::Mirrored(api::create_mirror(&ctx, &mirror).await) });
    }

    /// The mirror was made, or not.
    pub(super) fn take_mirrored(
        &mut self,
        result: Result<Option<Arc<Pod>>, String>,
        now: Timestamp,
    ) {
        match result {
            Ok(made) => {
                self.mirror_retry.succeeded();
                // One that was there already comes through the watch.
                if let (Some(made), Mirror::Making) = (made, &self.mirror) {
                    self.take_mirror(Some(made));
                }
            }
            Err(error) => {
                tracing::debug!(error, "mirror not made, will be tried again");
                self.mirror_retry.failed(now);
                if matches!(self.mirror, Mirror::Making) {
                    self.mirror = Mirror::Missing;
                }
            }
        }
    }

    /// Takes the mirror of a pod that has gone out of the API.
    pub(super) async fn remove_mirror(&self) {
        if let Mirror::There(shown) = &self.mirror
            && let Err(error) = api::delete_object(&self.ctx, shown).await
        {
            // The next start of the agent finds it without its pod.
            tracing::warn!(error, "mirror not deleted");
        }
    }
}
