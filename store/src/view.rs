//! What readers see: snapshots, and the one place they are published.
//!
//! The driver alone writes; it replaces the snapshot and extends the history
//! window under one short lock, so that a reader who combines both (list, then
//! watch) finds no gap and no repeat between them. Nobody holds the lock
//! across an `await` or while walking entries.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::history::History;
use crate::log::Position;
use crate::machine::{self, Entries};
use crate::members::Members;
use crate::stats::Counters;
use crate::types::{Entry, KeyRange, Leadership, Revision, StoreError};

/// Snapshots kept on request, and how long.
const MAX_PINS: usize = 64;
const MAX_PIN_AGE: Duration = Duration::from_secs(600);

/// Events undone at once under the lock when an old snapshot is rebuilt.
const UNDO_STEP: usize = 1024;

/// All live entries at one revision. Immutable; cloning costs nothing.
#[derive(Clone, Debug)]
pub struct Snapshot {
    entries: Entries,
    revision: Revision,
}

impl Snapshot {
    pub(crate) fn new(entries: Entries, revision: Revision) -> Self {
        Self { entries, revision }
    }

    /// The revision at which these entries were the live ones.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The entry of `key`, if it lives.
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.entries.get(key).cloned()
    }

    /// The live entries of `range` in key order.
    pub fn range(&self, range: &KeyRange) -> impl Iterator<Item = &Arc<Entry>> + use<'_> {
        machine::range(&self.entries, range)
    }

    /// Number of live entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing lives.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn entries(&self) -> &Entries {
        &self.entries
    }
}

/// How far the log has been applied, and who the members are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(crate) position: Position,
    pub(crate) members: Arc<Members>,
}

/// The newest state.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) snapshot: Snapshot,
    pub(crate) digest: u128,
    pub(crate) bytes: u64,
    pub(crate) applied: Applied,
    pub(crate) history: History,
}

/// What the driver and all handles share.
pub(crate) struct Shared {
    view: RwLock<View>,
    pins: Mutex<VecDeque<(Instant, Snapshot)>>,
    /// The newest published revision; wakes watches.
    pub(crate) newest_tx: watch::Sender<Revision>,
    pub(crate) leadership_tx: watch::Sender<Leadership>,
    /// Counts the changes of the group.
    pub(crate) members_tx: watch::Sender<u64>,
    /// What a leader knows of the others: id, matching index, lately active.
    followers: Mutex<Vec<(u64, u64, bool)>>,
    /// Why the store ended, once it has.
    pub(crate) ended_tx: watch::Sender<Option<StoreError>>,
    pub(crate) counters: Counters,
}

impl Shared {
    pub(crate) fn new(view: View) -> Self {
        Self {
            newest_tx: watch::Sender::new(view.snapshot.revision),
            view: RwLock::new(view),
            pins: Mutex::default(),
            leadership_tx: watch::Sender::new(Leadership::default()),
            members_tx: watch::Sender::new(0),
            followers: Mutex::default(),
            ended_tx: watch::Sender::new(None),
            counters: Counters::default(),
        }
    }

    // A panic while a guard was held ends the store anyway (the driver is the
    // only writer); readers may still see what was published before.

    pub(crate) fn view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn view_mut(&self) -> RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn followers(&self) -> MutexGuard<'_, Vec<(u64, u64, bool)>> {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pins(&self) -> MutexGuard<'_, VecDeque<(Instant, Snapshot)>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest state, if this member alone makes up the group and leads
    /// it: then nothing was acknowledged anywhere that is not published here.
    /// `None` if others have to be asked.
    pub(crate) fn sole_leaders(&self) -> Result<Option<Snapshot>, StoreError> {
        if let Some(error) = self.ended_tx.borrow().clone() {
            return Err(error);
        }
        // Leadership is looked at under the same lock as the members: a change
        // of the group is published before it can cost the leadership.
        let view = self.view();
        let alone = view.applied.members.is_single() && self.leadership_tx.borrow().is_leader;
        Ok(alone.then(|| view.snapshot.clone()))
    }

    /// Why calls fail from now on.
    pub(crate) fn ended(&self) -> StoreError {
        self.ended_tx.borrow().clone().unwrap_or(StoreError::Closed)
    }

    /// Forgets the changes up to `revision`.
    pub(crate) fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let mut view = self.view_mut();
        view.history.check(revision)?;
        view.history.drop_through(revision);
        Ok(())
    }

    /// Keeps `snapshot` for a while.
    pub(crate) fn pin(&self, snapshot: &Snapshot) {
        let now = Instant::now();
        let mut pins = self.pins();
        pins.retain(|(at, pinned)| {
            now.duration_since(*at) < MAX_PIN_AGE && pinned.revision != snapshot.revision
        });
        if pins.len() >= MAX_PINS {
            pins.pop_front();
        }
        pins.push_back((now, snapshot.clone()));
    }

    /// The state at `revision`: the newest, a pinned one, or one rebuilt by
    /// undoing the events since then.
    pub(crate) fn snapshot_at(&self, revision: Revision) -> Result<Snapshot, StoreError> {
        let newest = self.view().snapshot.clone();
        if revision == newest.revision {
            return Ok(newest);
        }
        let now = Instant::now();
        let pinned = self
            .pins()
            .iter()
            .find(|(at, pinned)| {
                pinned.revision == revision && now.duration_since(*at) < MAX_PIN_AGE
            })
            .map(|(_, pinned)| pinned.clone());
        match pinned {
            Some(pinned) => Ok(pinned),
            None => self.rebuild(newest, revision),
        }
    }

    fn rebuild(&self, mut snapshot: Snapshot, revision: Revision) -> Result<Snapshot, StoreError> {
        loop {
            // Some revisions at a time: undoing a long window must not keep
            // writers waiting. The window may lose its oldest part meanwhile,
            // so the check is repeated.
            let step = self.view().history.before(snapshot.revision, revision, UNDO_STEP)?;
            let Some(oldest) = step.last() else {
                snapshot.revision = revision;
                return Ok(snapshot);
            };
            let below = Revision(oldest.revision.0 - 1);
            step.iter().for_each(|event| machine::undo(&mut snapshot.entries, event));
            snapshot.revision = below;
        }
    }
}
