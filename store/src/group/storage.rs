//! What Raft reads of a log, and where its own log lines go.

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use crate::log::{LogError, LogStore};
use crate::members::Members;

/// A log together with what has been applied of it.
pub(super) struct RaftLog<L> {
    pub(super) log: L,
    pub(super) members: Members,
    pub(super) applied: u64,
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

    /// Asked for on behalf of a member that needs entries that the log has
    /// given up. Names the state that has been applied; its content travels
    /// beside Raft (see [`crate::core::snapshots`]).
    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        if request_index > self.applied {
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = self.applied;
        metadata.term = self.term(self.applied)?;
        metadata.set_conf_state(ConfState::from(&self.members));
        Ok(snapshot)
    }
}

fn storage_error(error: LogError) -> raft::Error {
    raft::Error::Store(StorageError::Other(Box::new(error)))
}

/// Raft's own log lines, as `tracing` events.
pub(super) fn logger() -> slog::Logger {
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
