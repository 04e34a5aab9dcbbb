//! One member's part in the Raft group: `raft` on top of a [`LogStore`].
//!
//! [`Group::turn`] handles one `Ready` in the order that Raft's safety rests
//! on: entries and hard state are durable first, only then do messages go out
//! and committed entries come back to be applied. An error from the log leaves
//! the group unusable; the caller must stop the process.
//!
//! Has no clock and no network: ticks, messages and campaigns come from the
//! caller, so that a simulated world can drive it. A group of one needs no
//! ticks at all: it campaigns once at its start and leads until it ends.
//!
//! Left out: sending a leader's messages before its own log is written. It
//! saves a follower one disk write of latency and matters from two members on.

use protobuf::Message as _;
use raft::eraftpb::{ConfChangeV2, Entry, EntryType, HardState, Message, Snapshot};
use raft::{
    Config, GetEntriesContext, RaftState, RawNode, ReadOnlyOption, StateRole, Storage, StorageError,
};

use crate::log::{LogError, LogStore, Position};
use crate::members::Members;
use crate::types::Leadership;

/// Where every group begins. Not zero, so that a new member cannot mistake an
/// empty log for a complete one and always receives a snapshot first.
pub(crate) const FIRST: Position = Position { index: 1, term: 1 };

/// Entries fetched from the log at once.
const MAX_COMMITTED_PER_READY: u64 = 16 << 20;

/// Proposals accepted before the log has taken them.
const MAX_UNCOMMITTED: u64 = 64 << 20;

/// Ticks without a leader before an election, and between heartbeats. A tick
/// is the caller's (100 ms in real time).
const ELECTION_TICKS: usize = 10;
const HEARTBEAT_TICKS: usize = 1;

/// A member of the group.
pub(crate) struct Group<L: LogStore> {
    node: RawNode<RaftLog<L>>,
    /// Index of the first entry of this member's own term, once it leads.
    own_term_from: Option<u64>,
}

/// What one turn brought.
#[derive(Default)]
pub(crate) struct Progress {
    /// Entries to apply, in order. The caller reports back by
    /// [`Group::applied`].
    pub(crate) committed: Vec<Entry>,
    /// Messages to send, in order; all that they promise is durable.
    pub(crate) messages: Vec<Message>,
    /// Reads that may be answered as soon as this index is applied.
    pub(crate) reads: Vec<Read>,
    /// Whether anything was written to the log.
    pub(crate) synced: bool,
}

/// An answer to [`Group::read_index`].
pub(crate) struct Read {
    pub(crate) index: u64,
    pub(crate) context: Vec<u8>,
}

/// Why a proposal was not taken.
#[derive(Debug, thiserror::Error)]
#[error("the proposal was dropped: {0}")]
pub(crate) struct Dropped(String);

impl<L: LogStore> Group<L> {
    /// Member `id` with its log and what it has applied so far.
    /// (not more than the log holds).
    pub(crate) fn new(id: u64, log: L, applied: u64, members: &Members) -> Result<Self, LogError> {
        let config = Config {
            id,
            applied,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            check_quorum: true,
            pre_vote: true,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 256,
            max_uncommitted_size: MAX_UNCOMMITTED,
            max_committed_size_per_ready: MAX_COMMITTED_PER_READY,
            read_only_option: ReadOnlyOption::Safe,
            ..Config::default()
        };
        let log = RaftLog { log, members: members.clone(), applied };
        let node = RawNode::new(&config, log, &logger())
            .map_err(|error| LogError::Damaged(format!("Raft refuses it: {error}")))?;
        Ok(Self { node, own_term_from: None })
    }

    /// Stands for election at once.
    pub(crate) fn campaign(&mut self) -> Result<(), LogError> {
        self.node.campaign().map_err(|error| LogError::Damaged(format!("cannot campaign: {error}")))
    }

    /// Offers an entry to the group.
    pub(crate) fn propose(&mut self, data: Vec<u8>) -> Result<(), Dropped> {
        self.node.propose(Vec::new(), data).map_err(|error| Dropped(error.to_string()))
    }

    /// Asks from which index on a read is current. Raft drops the question
    /// silently while it has no leader that has committed in its term, so the
    /// caller asks only when [`Leadership::is_leader`], or retries.
    pub(crate) fn read_index(&mut self, context: Vec<u8>) {
        self.node.read_index(context);
    }

    /// Whether [`Group::turn`] has something to do.
    pub(crate) fn has_turn(&self) -> bool {
        self.node.has_ready()
    }

    /// Handles one `Ready`.
    pub(crate) fn turn(&mut self) -> Result<Progress, LogError> {
        let mut progress = Progress::default();
        let mut ready = self.node.ready();
        assert!(ready.snapshot().is_empty(), "a group of one receives no snapshots");

        // 1. What the log must remember is durable before anything else
        //    happens.
        //    happens. A commit index that moved alone is no such thing.
        if ready.must_sync() {
            let hard_state = self.node.raft.hard_state();
            self.node.mut_store().log.append(ready.entries(), &hard_state)?;
            progress.synced = true;
        }

        // 2. Now messages may promise it.
        progress.messages = ready.take_messages();
        progress.messages.extend(ready.take_persisted_messages());
        progress.reads = ready
            .take_read_states()
            .into_iter()
            .map(|read| Read { index: read.index, context: read.request_ctx })
            .collect();

        // 3. What was committed before, then what this write committed. The
        //    new commit index reaches the disk with the next write; it can
        //    always be found again.
        progress.committed = ready.take_committed_entries();
        let mut light = self.node.advance_append(ready);
        progress.messages.extend(light.take_messages());
        progress.committed.extend(light.take_committed_entries());
        Ok(progress)
    }

    /// Notes that everything up to `index` has been applied.
    pub(crate) fn applied(&mut self, index: u64) {
        self.node.mut_store().applied = index;
        self.node.advance_apply_to(index);
        if self.node.raft.state != StateRole::Leader {
            self.own_term_from = None;
        } else if self.own_term_from.is_none()
            && self.node.store().log.term(index).is_ok_and(|term| term == self.node.raft.term)
        {
            self.own_term_from = Some(index);
        }
    }

    /// Applies a change of membership that came back as a committed entry.
    pub(crate) fn change_members(&mut self, entry: &Entry) -> Result<Members, LogError> {
        let damaged = |error: &dyn std::fmt::Display| {
            LogError::Damaged(format!("membership change: {error}"))
        };
        let change = match entry.get_entry_type() {
            EntryType::EntryConfChangeV2 => {
                ConfChangeV2::parse_from_bytes(&entry.data).map_err(|error| damaged(&error))?
            }
            EntryType::EntryConfChange | EntryType::EntryNormal => {
                return Err(damaged(&"not of a kind that this program writes"));
            }
        };
        let conf = self.node.apply_conf_change(&change).map_err(|error| damaged(&error))?;
        let members = Members::from(&conf);
        self.node.mut_store().members = members.clone();
        Ok(members)
    }

    /// Who leads, as far as this member knows.
    pub(crate) fn leadership(&self) -> Leadership {
        let raft = &self.node.raft;
        Leadership {
            term: raft.term,
            leader: Some(raft.leader_id).filter(|id| *id != raft::INVALID_ID),
            is_leader: raft.state == StateRole::Leader && self.own_term_from.is_some(),
        }
    }

    /// Forgets log entries that a durable snapshot covers.
    pub(crate) fn truncate(&mut self, to: Position) -> Result<(), LogError> {
        self.node.mut_store().log.truncate(to)
    }

    /// The log, for its numbers.
    pub(crate) fn log(&self) -> &L {
        &self.node.store().log
    }

    /// Ends in peace.
    pub(crate) fn close(&mut self) -> Result<(), LogError> {
        self.node.mut_store().log.close()
    }
}

/// What Raft reads of a log.
struct RaftLog<L> {
    log: L,
    members: Members,
    applied: u64,
}

impl<L: LogStore> Storage for RaftLog<L> {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let mut hard_state: HardState = self.log.hard_state();
        // The commit index on disk may lag behind what has been applied, and
        // whatever has been applied was committed.
        hard_state.commit = hard_state.commit.max(self.applied);
        Ok(RaftState { hard_state, conf_state: (&self.members).into() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.log.truncated().index {
            return Err(StorageError::Compacted.into());
        }
        if low == high {
            return Ok(Vec::new());
        }
        self.log.entries(low, high, max_size.into().unwrap_or(u64::MAX)).map_err(storage_error)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.log.truncated().index {
            return Err(StorageError::Compacted.into());
        }
        if index > self.log.last_index() {
            return Err(StorageError::Unavailable.into());
        }
        self.log.term(index).map_err(storage_error)
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.log.truncated().index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.log.last_index())
    }

    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        // Asked for only on behalf of another member.
        Err(StorageError::SnapshotTemporarilyUnavailable.into())
    }
}

fn storage_error(error: LogError) -> raft::Error {
    raft::Error::Store(StorageError::Other(Box::new(error)))
}

/// Raft's own log lines, as `tracing` events.
fn logger() -> slog::Logger {
    slog::Logger::root(ToTracing, slog::o!())
}

struct ToTracing;

impl slog::Drain for ToTracing {
    type Ok = ();
    type Err = slog::Never;

    fn log(
        &self,
        record: &slog::Record<'_>,
        _values: &slog::OwnedKVList,
    ) -> Result<(), slog::Never> {
        match record.level() {
            slog::Level::Critical | slog::Level::Error => {
                tracing::error!(target: "raft", "{}", record.msg())
            }
            slog::Level::Warning => tracing::warn!(target: "raft", "{}", record.msg()),
            slog::Level::Info | slog::Level::Debug => {
                tracing::debug!(target: "raft", "{}", record.msg())
            }
            slog::Level::Trace => tracing::trace!(target: "raft", "{}", record.msg()),
        }
        Ok(())
    }
}
