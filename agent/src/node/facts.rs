//! What the runtime knows and the node tells: version and images.
//!
//! Asked rarely, and beside everything else: a runtime that hangs must not cost
//! the node its lease. One that gives no answer for that long is down, although
//! its event stream stays open.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::ContainerImage;
use tokio::time::Instant;

use crate::runtime::{Image, Result, Runtime, Version};

/// How often the runtime is asked.
const PERIOD: Duration = Duration::from_secs(300);
/// How soon it is asked again after it gave no answer.
const RETRY: Duration = Duration::from_secs(1);
/// Images named in the status.
const MAX_IMAGES: usize = 50;

/// A question to the runtime under way.
type Question = BoxFuture<'static, Result<(Version, Vec<Image>)>>;

/// What the runtime has told.
#[derive(Default)]
pub(super) struct Facts {
    /// Its version, once it is known.
    pub(super) version: Option<Version>,
    /// Its images.
    pub(super) images: Vec<ContainerImage>,
    /// Why it gave no answer when it was asked last.
    pub(super) silence: Option<String>,
    asked_at: Option<Instant>,
    has_answered: bool,
    question: Option<Question>,
}

impl Facts {
    /// Asks the runtime if it is time to. `is_up` says that nothing else calls
    /// it down.
    pub(super) fn ask(&mut self, runtime: &Arc<dyn Runtime>, is_up: bool) {
        let is_missing = self.version.is_none() || self.silence.is_some();
        let period = if is_missing && is_up { RETRY } else { PERIOD };
        let is_due = self.asked_at.is_none_or(|at| at.elapsed() >= period);
        if self.question.is_none() && is_due {
            self.asked_at = Some(Instant::now());
            let runtime = runtime.clone();
            let question = async move { Ok((runtime.version().await?, runtime.images().await?)) };
            self.question = Some(question.boxed());
        }
    }

    /// Waits for the answer, for ever while nothing is asked. May be dropped and
    /// called again.
    pub(super) async fn answered(&mut self) {
        let Some(question) = &mut self.question else { return std::future::pending().await };
        let answer = question.await;
        self.question = None;
        self.has_answered = true;
        match answer {
            Ok((version, images)) => {
                self.version = Some(version);
                self.images = named_images(images);
                self.silence = None;
            }
            // What was known before still holds.
            Err(error) => self.silence = Some(error.reason().to_owned()),
        }
    }

    /// Whether there was an answer, or none in time.
    pub(super) fn has_answered(&self) -> bool {
        self.has_answered
    }

    /// The runtime has gone or come back: it is asked anew.
    pub(super) fn outdate(&mut self) {
        (self.silence, self.asked_at, self.question) = (None, None, None);
    }
}

/// The largest images that have a name.
fn named_images(mut images: Vec<Image>) -> Vec<ContainerImage> {
    images.retain(|image| !image.tags.is_empty() || !image.digests.is_empty());
    images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    images.truncate(MAX_IMAGES);
    images
        .into_iter()
        .map(|image| ContainerImage {
            names: Some(image.digests.into_iter().chain(image.tags).collect()),
            size_bytes: Some(image.size),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::docker::Docker;
    use crate::runtime::memory::Memory;

    #[tokio::test(start_paused = true)]
    async fn a_runtime_is_asked_rarely_and_again_when_it_was_silent() {
        let memory = Arc::new(Memory::new());
        let runtime: Arc<dyn Runtime> = memory.clone();
        let mut facts = Facts::default();
        facts.ask(&runtime, true);
        facts.answered().await;
        assert!(facts.has_answered() && facts.version.is_some() && facts.silence.is_none());
        // How long after the last question, whether something else calls it
        // down, and whether it is asked.
        let asked = |facts: &Facts| facts.question.is_some();
        tokio::time::advance(PERIOD - RETRY).await;
        facts.ask(&runtime, true);
        assert!(!asked(&facts), "too early");
        tokio::time::advance(RETRY).await;
        memory.set_down(true);
        facts.ask(&runtime, true);
        facts.answered().await;
        assert_eq!(facts.silence.as_deref(), Some("stopped"));
        assert!(facts.version.is_some(), "what was known holds");
        tokio::time::advance(RETRY).await;
        facts.ask(&runtime, false);
        assert!(!asked(&facts), "somebody else waits for it already");
        memory.set_down(false);
        facts.ask(&runtime, true);
        facts.answered().await;
        assert_eq!(facts.silence, None);
        facts.outdate();
        facts.ask(&runtime, true);
        assert!(asked(&facts), "it came back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_runtime_that_hangs_holds_nobody_up_and_is_called_down_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("docker.sock");
        // It lets everybody in and says nothing.
        let _hanging = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let runtime: Arc<dyn Runtime> = Arc::new(Docker::new(&socket));
        let mut facts = Facts::default();
        facts.ask(&runtime, true);
        tokio::select! {
            () = facts.answered() => panic!("an answer"),
            () = tokio::time::sleep(Duration::from_secs(10)) => {}
        }
        assert!(!facts.has_answered());
        facts.answered().await;
        assert_eq!(facts.silence.as_deref(), Some("no answer in time"));
    }
}
