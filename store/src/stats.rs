//! Numbers about a running store, for metrics and status pages.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::members::Contact;
use crate::types::Revision;

/// Upper bounds of the sync latency buckets, in microseconds. The last bucket
/// is unbounded.
pub const SYNC_BUCKETS_MICROS: [u64; 10] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 1_000_000];

/// A moment of the store in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stats {
    /// This member's id in the group.
    pub member: u64,
    /// The Raft term.
    pub term: u64,
    /// The member that leads; zero if none is known.
    pub leader: u64,
    /// Voters and learners.
    pub members: u64,
    /// Log entries that the slowest other member lacks, as a leader sees it.
    pub lag: u64,
    /// Index of the newest log entry.
    pub last_index: u64,
    /// Index of the newest applied log entry.
    pub applied_index: u64,
    /// Index up to which a durable snapshot replaces the log.
    pub snapshot_index: u64,
    /// Index up to which this run found the state already applied when it
    /// started; what came after was replayed from the log.
    pub loaded_index: u64,
    /// The newest revision.
    pub revision: Revision,
    /// The oldest revision from which a watch may resume.
    pub compacted: Revision,
    /// A digest over all live entries: equal on members with equal
    /// `applied_index`.
    pub digest: u128,
    /// Live keys.
    pub keys: u64,
    /// Bytes of live keys and values.
    pub key_value_bytes: u64,
    /// Events in the history window.
    pub history_events: u64,
    /// Bytes that the history window keeps in memory.
    pub history_bytes: u64,
    /// Bytes of the log on disk.
    pub log_bytes: u64,
    /// Bytes of the state tree and of snapshots on disk, as last measured.
    pub state_bytes: u64,
    /// Durable writes to the log.
    pub syncs: u64,
    /// Time spent in them.
    pub sync_time: Duration,
    /// How many took at most [`SYNC_BUCKETS_MICROS`]; one more bucket at the
    /// end holds the rest. Not cumulative.
    pub sync_histogram: [u64; SYNC_BUCKETS_MICROS.len() + 1],
    /// Transactions committed or refused by a compare.
    pub transactions: u64,
}

/// A member of the group, as another one knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its id.
    pub id: u64,
    /// Where it is found.
    pub contact: Contact,
    /// Whether it has a vote.
    pub voter: bool,
    /// Whether it leads.
    pub leader: bool,
    /// The newest log entry that it is known to hold. Only the leader knows.
    pub matched_index: Option<u64>,
    /// Whether it has been heard of lately. Only the leader knows.
    pub active: Option<bool>,
}

/// Counters that the driver moves and anybody reads.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) member: AtomicU64,
    pub(crate) last_index: AtomicU64,
    pub(crate) snapshot_index: AtomicU64,
    pub(crate) loaded_index: AtomicU64,
    pub(crate) log_bytes: AtomicU64,
    pub(crate) state_bytes: AtomicU64,
    pub(crate) transactions: AtomicU64,
    syncs: AtomicU64,
    sync_micros: AtomicU64,
    sync_buckets: [AtomicU64; SYNC_BUCKETS_MICROS.len() + 1],
}

impl Counters {
    /// Counts one durable write.
    pub(crate) fn synced(&self, took: Duration) {
        let micros = took.as_micros() as u64;
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.sync_micros.fetch_add(micros, Ordering::Relaxed);
        let bucket = SYNC_BUCKETS_MICROS.partition_point(|bound| *bound < micros);
        self.sync_buckets[bucket].fetch_add(1, Ordering::Relaxed);
    }

    /// Copies the counters into `stats`.
    pub(crate) fn read(&self, stats: &mut Stats) {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        stats.member = get(&self.member);
        stats.last_index = get(&self.last_index);
        stats.snapshot_index = get(&self.snapshot_index);
        stats.loaded_index = get(&self.loaded_index);
        stats.log_bytes = get(&self.log_bytes);
        stats.state_bytes = get(&self.state_bytes);
        stats.transactions = get(&self.transactions);
        stats.syncs = get(&self.syncs);
        stats.sync_time = Duration::from_micros(get(&self.sync_micros));
        stats.sync_histogram = std::array::from_fn(|bucket| get(&self.sync_buckets[bucket]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sync_times_fall_into_their_buckets() {
        let counters = Counters::default();
        for micros in [0, 100, 101, 1_000_000, 1_000_001] {
            counters.synced(Duration::from_micros(micros));
        }
        let mut stats = Stats::default();
        counters.read(&mut stats);
        assert_eq!(stats.sync_histogram, [2, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!(stats.syncs, 5);
    }
}
