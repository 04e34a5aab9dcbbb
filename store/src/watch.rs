//! A watch: a place in the history window that moves forward.

use std::sync::Arc;

use tokio::sync::watch;

use crate::types::{Event, KeyRange, Revision, StoreError};
use crate::view::Shared;

/// Events looked at in one go. Bounds the time under the lock and the size of
/// one batch; a revision is never split, so a batch may be a little larger.
const PAGE: usize = 512;

/// Every change of a range of keys after a revision, in order, each once.
///
/// Holds no events and no queue: a watch that is not polled costs a few words,
/// and one that fell out of the history window gets
/// [`StoreError::Compacted`].
pub struct Watch {
    shared: Arc<Shared>,
    range: KeyRange,
    seen: Revision,
    newest_rx: watch::Receiver<Revision>,
    ended_rx: watch::Receiver<Option<StoreError>>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch")
            .field("range", &self.range)
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}

impl Watch {
    pub(crate) fn new(
        shared: Arc<Shared>,
        range: KeyRange,
        after: Revision,
    ) -> Result<Self, StoreError> {
        shared.view().history.check(after)?;
        let newest_rx = shared.newest_tx.subscribe();
        let ended_rx = shared.ended_tx.subscribe();
        Ok(Self { shared, range, seen: after, newest_rx, ended_rx })
    }

    /// The next events, at least one, whole revisions, in order.
    ///
    /// Cancel-safe: dropping the future loses nothing, the next call starts
    /// where the last finished one ended.
    pub async fn next(&mut self) -> Result<Vec<Arc<Event>>, StoreError> {
        loop {
            // Marked before the look: a change in between is then noticed by
            // `changed` below instead of being slept through.
            self.newest_rx.borrow_and_update();
            let events = self.try_next()?;
            if !events.is_empty() {
                return Ok(events);
            }
            tokio::select! {
                biased;
                changed = self.newest_rx.changed() => changed.map_err(|_| StoreError::Closed)?,
                ended = self.ended_rx.wait_for(Option::is_some) => {
                    return Err(ended.ok().and_then(|ended| ended.clone()).unwrap_or(StoreError::Closed));
                }
            }
        }
    }

    /// The next events if there are any yet, without waiting.
    pub fn try_next(&mut self) -> Result<Vec<Arc<Event>>, StoreError> {
        loop {
            let page = self.shared.view().history.page(&self.range, self.seen, PAGE)?;
            let progressed = page.seen > self.seen;
            self.seen = page.seen;
            if !page.events.is_empty() || !progressed {
                return Ok(page.events);
            }
        }
    }

    /// Everything up to this revision has been given out or did not concern
    /// the range. What a bookmark may say.
    pub fn revision(&self) -> Revision {
        self.seen
    }
}
