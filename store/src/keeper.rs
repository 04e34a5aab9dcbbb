//! The keeper: saves the applied state behind the log's back.
//!
//! Its thread writes snapshots and the state tree from what the driver has
//! published, so a write never waits for either: the log alone makes it
//! durable. It works when a certain amount of log has been written since the
//! last time, never by the clock, so an idle store writes nothing.
//!
//! A checkpoint is due after `snapshot_log_bytes` of log, or as much as the
//! state itself is large, which keeps its cost in proportion to what was
//! written. It writes a snapshot first, which lets the log before it go, and
//! then brings the state tree up to date: only the difference to the last
//! save, however often a key changed in between. A clean close saves the tree
//! alone.
//!
//! If the log runs away from a slow keeper, the driver waits for it: a full
//! disk would be worse than slow writes.
//!
//! A tree that grew out of proportion to what it holds is thrown away and
//! written anew.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use imbl::ordmap::DiffItem;

use crate::log::Position;
use crate::machine::Entries;
use crate::sealing::Sealer;
use crate::snapshot_file;
use crate::state::{Change, Meta, Save, StateError, StateStore};
use crate::types::{Event, Revision, StoreError};
use crate::view::{Shared, View};

/// The driver waits when this many times the wanted log has piled up.
const PATIENCE: u64 = 4;

/// History that is saved with the tree: what watches can resume from after a
/// restart. More would cost every start its reading.
const SAVED_HISTORY_BYTES: usize = 4 << 20;

/// The tree may take this many times the state, and this much in any case.
const TREE_FACTOR: u64 = 4;
const TREE_SLACK: u64 = 32 << 20;

/// Rounding of all files, and what one round of the driver adds unasked.
const DISK_SLACK: u64 = 32 << 20;

/// Most bytes of disk that a store needs whose live keys and values take
/// `state_bytes`, however often they are written.
pub(crate) fn disk_bound(state_bytes: u64, snapshot_log_bytes: u64, kept_log_bytes: u64) -> u64 {
    // Before a checkpoint begins, while it is written, and what frames add; and
    // what stays for slow followers.
    let log = snapshot_log_bytes.max(state_bytes) * (1 + PATIENCE + 1) + kept_log_bytes;
    // The old one stays until the new one is whole.
    let snapshots = 2 * state_bytes;
    // A save may add everything once more before the tree is found too large.
    let tree = TREE_SLACK + (TREE_FACTOR + 1) * state_bytes;
    log + snapshots + tree + DISK_SLACK
}

/// What keeps the applied state beside the log.
pub(crate) trait StateKeeper: Send {
    /// Counts log that was applied.
    fn note(&mut self, bytes: u64);

    /// Saves the published state when there is enough to save. Returns the
    /// place up to which the log may be given up, once after each save.
    fn follow(
        &mut self,
        state_bytes: u64,
        log_bytes: u64,
        applied: Position,
    ) -> Result<Option<Position>, StoreError>;

    /// Writes a state that came from the leader. Durable on return, but not yet
    /// in force: the log is replaced next, then comes [`StateKeeper::adopt`].
    /// An open after a crash in between does the rest.
    fn receive(&mut self, meta: &Meta, entries: &Entries) -> Result<(), StoreError>;

    /// The received state is the state from now on.
    fn adopt(&mut self) -> Result<(), StoreError>;

    /// Saves what can be saved and stops.
    fn close(&mut self) -> Result<(), StoreError>;
}

/// The twin in memory. Nothing is replayed, so nothing needs the log but slow
/// followers.
pub(crate) struct MemoryKeeper;

/// Log that a store in memory keeps, and what is left of it when it is cut.
const MEMORY_LOG_BYTES: u64 = 1 << 20;
pub(crate) const MEMORY_KEPT_BYTES: u64 = MEMORY_LOG_BYTES / 2;

impl StateKeeper for MemoryKeeper {
    fn note(&mut self, _: u64) {}

    fn follow(
        &mut self,
        _: u64,
        log_bytes: u64,
        applied: Position,
    ) -> Result<Option<Position>, StoreError> {
        Ok((log_bytes > MEMORY_LOG_BYTES).then_some(applied))
    }

    fn receive(&mut self, _: &Meta, _: &Entries) -> Result<(), StoreError> {
        Ok(())
    }

    fn adopt(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    fn close(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// The driver's side.
pub(crate) struct Keeper {
    jobs_tx: SyncSender<Job>,
    done_rx: Receiver<Result<Position, StoreError>>,
    thread: Option<JoinHandle<()>>,
    snapshots: PathBuf,
    sealer: Arc<Sealer>,
    /// Received and not yet adopted.
    received: Option<Position>,
    snapshot_log_bytes: u64,
    /// Log since the last checkpoint was begun.
    uncovered: u64,
    busy: bool,
}

enum Job {
    /// Snapshot and tree.
    Checkpoint,
    /// The tree alone.
    Save,
    /// Nothing more.
    End,
}

/// The thread's side.
pub(crate) struct Work {
    pub(crate) shared: Arc<Shared>,
    pub(crate) state: Box<dyn StateStore>,
    pub(crate) snapshots: PathBuf,
    pub(crate) sealer: Arc<Sealer>,
    /// What the state tree holds.
    pub(crate) saved: Entries,
    pub(crate) saved_revision: Revision,
}

impl Keeper {
    /// Starts the thread. `uncovered` is the log that no snapshot covers yet.
    pub(crate) fn start(
        work: Work,
        snapshot_log_bytes: u64,
        uncovered: u64,
    ) -> Result<Self, StoreError> {
        // One job at a time; the driver never sends another before the answer.
        let (jobs_tx, jobs_rx) = sync_channel(1);
        let (done_tx, done_rx) = sync_channel(1);
        let (snapshots, sealer) = (work.snapshots.clone(), work.sealer.clone());
        let thread = std::thread::Builder::new()
            .name("skiff-keeper".into())
            .spawn(move || work.run(&jobs_rx, &done_tx))
            .map_err(|error| {
                StoreError::Unavailable(format!("cannot start the keeper's thread: {error}"))
            })?;
        Ok(Self {
            jobs_tx,
            done_rx,
            thread: Some(thread),
            snapshots,
            sealer,
            received: None,
            snapshot_log_bytes,
            uncovered,
            busy: false,
        })
    }

    fn send(&mut self, job: Job) -> Result<(), StoreError> {
        self.jobs_tx.send(job).map_err(|_| gone())?;
        self.busy = true;
        Ok(())
    }

    /// Waits for the job under way.
    fn settle(&mut self) -> Result<(), StoreError> {
        if self.busy {
            self.busy = false;
            self.done_rx.recv().map_err(|_| gone())??;
        }
        Ok(())
    }
}

impl StateKeeper for Keeper {
    fn note(&mut self, bytes: u64) {
        self.uncovered += bytes;
    }

    fn follow(
        &mut self,
        state_bytes: u64,
        _: u64,
        _: Position,
    ) -> Result<Option<Position>, StoreError> {
        let wanted = self.snapshot_log_bytes.max(state_bytes);
        let mut covered = None;
        if self.busy {
            let done = if self.uncovered > wanted.saturating_mul(PATIENCE) {
                self.done_rx.recv().map_err(|_| gone())?
            } else {
                match self.done_rx.try_recv() {
                    Ok(done) => done,
                    Err(TryRecvError::Empty) => return Ok(None),
                    Err(TryRecvError::Disconnected) => return Err(gone()),
                }
            };
            self.busy = false;
            covered = Some(done?);
        }
        if self.uncovered >= wanted {
            self.uncovered = 0;
            self.send(Job::Checkpoint)?;
        }
        Ok(covered)
    }

    fn receive(&mut self, meta: &Meta, entries: &Entries) -> Result<(), StoreError> {
        // A snapshot under way would take the received one for an older.
        self.settle()?;
        snapshot_file::receive(&self.snapshots, meta, entries, &self.sealer)
            .map_err(|error| StoreError::Disk(error.to_string()))?;
        self.received = Some(meta.applied.position);
        self.uncovered = 0;
        Ok(())
    }

    fn adopt(&mut self) -> Result<(), StoreError> {
        let Some(position) = self.received.take() else { return Ok(()) };
        snapshot_file::adopt(&self.snapshots, position)
            .map_err(|error| StoreError::Disk(error.to_string()))
    }

    fn close(&mut self) -> Result<(), StoreError> {
        self.settle()?;
        self.send(Job::Save)?;
        self.settle()?;
        self.send(Job::End)?;
        match self.thread.take() {
            Some(thread) => thread.join().map_err(|_| gone()),
            None => Ok(()),
        }
    }
}

fn gone() -> StoreError {
    StoreError::Disk("the keeper's thread panicked".into())
}

impl Work {
    fn run(mut self, jobs_rx: &Receiver<Job>, done_tx: &SyncSender<Result<Position, StoreError>>) {
        while let Ok(job @ (Job::Checkpoint | Job::Save)) = jobs_rx.recv() {
            let done = self.work(&job);
            if done_tx.send(done).is_err() {
                return;
            }
        }
    }

    /// Returns the place that is safe without the log before it.
    fn work(&mut self, job: &Job) -> Result<Position, StoreError> {
        let covered = match job {
            Job::Checkpoint => self.snapshot()?,
            Job::Save | Job::End => Position::default(),
        };
        self.save()?;
        let snapshots = snapshot_file::bytes(&self.snapshots)
            .map_err(|error| StoreError::Disk(error.to_string()))?;
        let bytes = self.state.bytes() + snapshots;
        self.shared.counters.state_bytes.store(bytes, Ordering::Relaxed);
        Ok(covered)
    }

    /// Writes what changed since the last save.
    fn save(&mut self) -> Result<(), StoreError> {
        let disk = |error: StateError| StoreError::Disk(error.to_string());
        let (entries, events, meta, state_bytes) = {
            let view = self.shared.view();
            let meta = meta(&view);
            let from = self.saved_revision.max(meta.floor);
            let events = view.history.after(from).cloned().collect();
            (view.snapshot.entries().clone(), events, meta, view.bytes)
        };
        self.state
            .save(&Save { changes: changes(&self.saved, &entries), events, meta: meta.clone() })
            .map_err(disk)?;
        self.saved = entries;
        self.saved_revision = meta.revision;
        if self.state.bytes() > TREE_SLACK + TREE_FACTOR * state_bytes {
            self.rewrite(&meta).map_err(disk)?;
        }
        Ok(())
    }

    /// Writes the tree anew, without what it no longer needs.
    fn rewrite(&mut self, meta: &Meta) -> Result<(), StateError> {
        let (events, floor) = {
            let view = self.shared.view();
            // The window may have moved on since `meta` was taken.
            let floor = meta.floor.max(view.history.floor()).min(meta.revision);
            let upto = |event: &&Arc<Event>| event.revision <= meta.revision;
            (view.history.after(floor).take_while(upto).cloned().collect(), floor)
        };
        let meta = Meta { floor, ..meta.clone() };
        self.state.wipe()?;
        self.state.save(&Save { changes: changes(&Entries::new(), &self.saved), events, meta })
    }

    fn snapshot(&self) -> Result<Position, StoreError> {
        let (entries, meta) = {
            let view = self.shared.view();
            (view.snapshot.entries().clone(), meta(&view))
        };
        snapshot_file::write(&self.snapshots, &meta, &entries, &self.sealer)
            .map_err(|error| StoreError::Disk(error.to_string()))?;
        Ok(meta.applied.position)
    }
}

fn meta(view: &View) -> Meta {
    Meta {
        applied: view.applied.clone(),
        revision: view.snapshot.revision(),
        floor: view.history.floor_within(SAVED_HISTORY_BYTES),
        count: view.snapshot.len() as u64,
        digest: view.digest,
    }
}

/// The keys whose entries differ. Costs what changed, since both maps share
/// everything else.
pub(crate) fn changes(old: &Entries, new: &Entries) -> Vec<Change> {
    old.diff(new)
        .map(|item| match item {
            DiffItem::Add(_, new) => Change { old: None, new: Some(new.clone()) },
            DiffItem::Update { old: (_, old), new: (_, new) } => {
                Change { old: Some(old.clone()), new: Some(new.clone()) }
            }
            DiffItem::Remove(_, old) => Change { old: Some(old.clone()), new: None },
        })
        .collect()
}
