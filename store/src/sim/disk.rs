//! A disk that can fail at every step, and the log and the state on it.
//!
//! What is on the disk outlives the process; what a process has only in its
//! memory does not. At each operation the process may die, before the disk has
//! done it or after. A batch is on the disk as a whole or not at all: the real
//! log writes each as one record with a checksum, and has tests of its own for
//! torn ones.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use raft::eraftpb::{Entry, HardState};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::planted::{Fault, is_planted};
use crate::group::FIRST;
use crate::history::History;
use crate::keeper::StateKeeper;
use crate::log::memory::MemoryLog;
use crate::log::{LogError, LogStore, Position};
use crate::machine::{Entries, Machine};
use crate::members::Members;
use crate::state::Meta;
use crate::types::{Revision, StoreError};
use crate::view::{Applied, Shared, Snapshot, View};

/// Calls of the keeper between the begin and the end of a save: the real one
/// has a thread of its own.
const SAVE_TAKES: u32 = 5;

/// One member's disk. Clones are the same disk.
#[derive(Clone)]
pub(super) struct Disk(Arc<Mutex<Content>>);

struct Content {
    log: MemoryLog,
    /// Writes that a lying disk still has in its cache.
    unsynced: Vec<(Vec<Entry>, HardState)>,
    tree: Option<Saved>,
    snapshot: Option<Saved>,
    /// From the leader, not yet in force.
    received: Option<Saved>,
    full: bool,
    failpoint: f64,
    rng: StdRng,
}

/// An applied state.
#[derive(Clone)]
struct Saved {
    entries: Entries,
    revision: Revision,
    applied: Applied,
}

/// Parts of a disk that may turn out damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Tree,
    Snapshot,
    Both,
    Log,
}

/// When the process dies, seen from the disk.
enum Fate {
    Lives,
    DiesBefore,
    DiesAfter,
}

impl Content {
    fn fate(&mut self) -> Fate {
        if self.full {
            return Fate::DiesBefore;
        }
        if !self.rng.random_bool(self.failpoint) {
            return Fate::Lives;
        }
        if self.rng.random_bool(0.5) { Fate::DiesBefore } else { Fate::DiesAfter }
    }

    /// Does `work` unless the process dies before; an error says that it died.
    fn at_risk(&mut self, work: impl FnOnce(&mut Self)) -> Result<(), LogError> {
        match self.fate() {
            Fate::Lives => work(self),
            Fate::DiesBefore => return Err(died()),
            Fate::DiesAfter => {
                work(self);
                return Err(died());
            }
        }
        Ok(())
    }
}

fn died() -> LogError {
    LogError::Io { doing: "used", reason: "the simulated process dies here".into() }
}

fn refused(error: LogError) -> StoreError {
    StoreError::Disk(error.to_string())
}

impl Disk {
    /// An empty disk. With members it belongs to one that began the group.
    pub(super) fn new(seed: u64, failpoint: f64, members: Option<&Members>) -> Self {
        let mut log = MemoryLog::default();
        if let Some(members) = members {
            log.initialize(members).expect("memory does not fail");
        }
        Self(Arc::new(Mutex::new(Content {
            log,
            unsynced: Vec::new(),
            tree: None,
            snapshot: None,
            received: None,
            full: false,
            failpoint,
            rng: StdRng::seed_from_u64(seed),
        })))
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills the disk, or makes room again.
    pub(super) fn set_full(&self, full: bool) {
        self.content().full = full;
    }

    /// No more failpoints.
    pub(super) fn calm_down(&self) {
        let mut content = self.content();
        content.full = false;
        content.failpoint = 0.0;
    }

    /// The process is gone, and with it what the disk only had in its cache.
    pub(super) fn lose_power(&self) {
        self.content().unsynced.clear();
    }

    /// Whether a member could start again without this part.
    pub(super) fn survives(&self, part: Part) -> bool {
        let content = self.content();
        let from_the_start = content.log.truncated().index <= FIRST.index;
        match part {
            Part::Tree => content.snapshot.is_some() || from_the_start,
            Part::Snapshot => content.tree.is_some() || from_the_start,
            Part::Both => from_the_start,
            Part::Log => false,
        }
    }

    /// A checksum does not match any more: the part is as good as gone.
    pub(super) fn damage(&self, part: Part) {
        let mut content = self.content();
        if matches!(part, Part::Tree | Part::Both) {
            content.tree = None;
        }
        if matches!(part, Part::Snapshot | Part::Both) {
            content.snapshot = None;
        }
    }

    /// Puts together what the disk holds, as `disk::open` does for a real one.
    pub(super) fn open(&self, history_bytes: usize) -> Result<Opened, String> {
        let mut content = self.content();
        if let Some(received) = content.received.take() {
            let position = received.applied.position;
            content.tree = None;
            if content.log.truncated().index < position.index && !is_planted(Fault::HalfSnapshot) {
                let mut hard_state = content.log.hard_state();
                hard_state.term = hard_state.term.max(position.term);
                hard_state.commit = position.index;
                content.log.reset(position, &hard_state).expect("memory does not fail");
            }
            content.snapshot = Some(received);
        }
        let truncated = content.log.truncated();
        let reaches = |saved: &&Saved| saved.applied.position.index >= truncated.index;
        let tree = content.tree.as_ref().filter(reaches);
        let saved = match tree.or(content.snapshot.as_ref().filter(reaches)).cloned() {
            Some(saved) => saved,
            None if truncated.index <= FIRST.index => Saved {
                entries: Entries::new(),
                revision: Revision(0),
                applied: Applied {
                    position: if content.log.bootstrap().is_some() {
                        FIRST
                    } else {
                        Position::default()
                    },
                    members: Arc::new(content.log.bootstrap().unwrap_or_default()),
                },
            },
            None => return Err(format!("no state since entry {}", truncated.index)),
        };
        if saved.applied.position.index > content.log.last_index() {
            return Err(format!(
                "the log ends at entry {}, entry {} was applied",
                content.log.last_index(),
                saved.applied.position.index
            ));
        }
        let machine = Machine::restore(saved.entries, saved.revision);
        let shared = Arc::new(Shared::new(View {
            snapshot: Snapshot::new(machine.entries().clone(), machine.revision()),
            digest: machine.digest(),
            bytes: machine.bytes(),
            applied: saved.applied.clone(),
            history: History::new(saved.revision, Duration::from_secs(300), history_bytes),
        }));
        let log = SimLog { seen: content.log.clone(), disk: self.clone() };
        Ok(Opened { log, machine, applied: saved.applied, shared })
    }
}

/// What a member starts from.
pub(super) struct Opened {
    pub(super) log: SimLog,
    pub(super) machine: Machine,
    pub(super) applied: Applied,
    pub(super) shared: Arc<Shared>,
}

/// A log on a [`Disk`].
pub(super) struct SimLog {
    /// As the process sees it.
    seen: MemoryLog,
    disk: Disk,
}

impl LogStore for SimLog {
    fn bootstrap(&self) -> Option<Members> {
        self.seen.bootstrap()
    }

    fn initialize(&mut self, members: &Members) -> Result<(), LogError> {
        self.seen.initialize(members)?;
        self.disk.content().log.initialize(members)
    }

    fn hard_state(&self) -> HardState {
        self.seen.hard_state()
    }

    fn truncated(&self) -> Position {
        self.seen.truncated()
    }

    fn last_index(&self) -> u64 {
        self.seen.last_index()
    }

    fn append(&mut self, entries: &[Entry], hard_state: &HardState) -> Result<(), LogError> {
        self.seen.append(entries, hard_state)?;
        let mut hard_state = hard_state.clone();
        if is_planted(Fault::ForgetVote) {
            hard_state.vote = 0;
        }
        self.disk.content().at_risk(|content| {
            content.unsynced.push((entries.to_vec(), hard_state));
            let kept_back = usize::from(is_planted(Fault::AcknowledgeBeforeSync));
            let synced = content.unsynced.len() - kept_back;
            for (entries, hard_state) in content.unsynced.drain(..synced) {
                content.log.append(&entries, &hard_state).expect("memory does not fail");
            }
        })
    }

    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, LogError> {
        self.seen.entries(low, high, max_bytes)
    }

    fn term(&self, index: u64) -> Result<u64, LogError> {
        self.seen.term(index)
    }

    fn truncate(&mut self, to: Position) -> Result<(), LogError> {
        self.seen.truncate(to)?;
        self.disk
            .content()
            .at_risk(|content| content.log.truncate(to).expect("memory does not fail"))
    }

    fn reset(&mut self, to: Position, hard_state: &HardState) -> Result<(), LogError> {
        self.seen.reset(to, hard_state)?;
        self.disk.content().at_risk(|content| {
            content.unsynced.clear();
            content.log.reset(to, hard_state).expect("memory does not fail");
        })
    }

    fn bytes(&self) -> u64 {
        self.seen.bytes()
    }

    fn close(&mut self) -> Result<(), LogError> {
        Ok(())
    }
}

/// Saves the state to a [`Disk`], some turns after it was due.
pub(super) struct SimKeeper {
    disk: Disk,
    shared: Arc<Shared>,
    every: u64,
    uncovered: u64,
    saving: Option<(Saved, u32)>,
}

impl SimKeeper {
    pub(super) fn new(disk: Disk, shared: Arc<Shared>, every: u64) -> Self {
        Self { disk, shared, every, uncovered: 0, saving: None }
    }
}

impl StateKeeper for SimKeeper {
    fn note(&mut self, _: u64) {
        self.uncovered += 1;
    }

    fn follow(&mut self, _: u64, _: u64, _: Position) -> Result<Option<Position>, StoreError> {
        let Some((mut saved, left)) = self.saving.take() else {
            if self.uncovered >= self.every {
                self.uncovered = 0;
                let view = self.shared.view();
                let saved = Saved {
                    entries: view.snapshot.entries().clone(),
                    revision: view.snapshot.revision(),
                    applied: view.applied.clone(),
                };
                drop(view);
                self.saving = Some((saved, SAVE_TAKES));
            }
            return Ok(None);
        };
        if left > 0 {
            self.saving = Some((saved, left - 1));
            return Ok(None);
        }
        if is_planted(Fault::ApplyTwice) {
            let view = self.shared.view();
            saved.entries = view.snapshot.entries().clone();
            saved.revision = view.snapshot.revision();
        }
        let position = saved.applied.position;
        // Two files, and the process may die between them.
        let mut content = self.disk.content();
        content.at_risk(|content| content.snapshot = Some(saved.clone())).map_err(refused)?;
        content.at_risk(|content| content.tree = Some(saved)).map_err(refused)?;
        Ok(Some(position))
    }

    fn receive(&mut self, meta: &Meta, entries: &Entries) -> Result<(), StoreError> {
        self.saving = None;
        let (entries, applied) = (entries.clone(), meta.applied.clone());
        let saved = Saved { entries, revision: meta.revision, applied };
        self.disk.content().at_risk(|content| content.received = Some(saved)).map_err(refused)
    }

    fn adopt(&mut self) -> Result<(), StoreError> {
        self.uncovered = 0;
        let adopt = |content: &mut Content| {
            content.snapshot = content.received.take();
            content.tree = None;
        };
        self.disk.content().at_risk(adopt).map_err(refused)
    }

    fn close(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}
