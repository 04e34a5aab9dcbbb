//! The Raft log on a disk: what it must do, whatever it is made of.
//!
//! Two implementations pass the same tests: [`engine::EngineLog`] on
//! `raft-engine` for real stores and [`memory::MemoryLog`] for tests of other
//! parts. A log never decides anything; Raft does.

pub(crate) mod engine;
pub(crate) mod memory;
mod tail;

use raft::eraftpb::{Entry, HardState};

use crate::members::Members;

/// A place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Position {
    pub(crate) index: u64,
    pub(crate) term: u64,
}

/// Why the log cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// The disk refused.
    #[error("the log cannot be {doing}: {reason}")]
    Io { doing: &'static str, reason: String },
    /// What is on the disk is not what was written.
    #[error("the log is damaged: {0}")]
    Damaged(String),
}

/// An ordered, durable list of entries with Raft's own three numbers.
pub(crate) trait LogStore: Send + 'static {
    /// The members that the group began with; `None` in a log that has never
    /// been bootstrapped.
    fn bootstrap(&self) -> Option<Members>;

    /// Makes a new log begin after [`Group`](crate::group::Group)'s first
    /// position with these members. Durable on return.
    fn initialize(&mut self, members: &Members) -> Result<(), LogError>;

    /// Term, vote and commit index as last saved.
    fn hard_state(&self) -> HardState;

    /// The position before the first entry still kept.
    fn truncated(&self) -> Position;

    /// Index of the last entry, or of [`LogStore::truncated`] if there is none.
    fn last_index(&self) -> u64;

    /// Saves entries (replacing any at the same or later indexes) and the hard
    /// state. **Durable on return**: nothing may be acknowledged, sent or voted
    /// before.
    fn append(&mut self, entries: &[Entry], hard_state: &HardState) -> Result<(), LogError>;

    /// Entries `low..high`, from the front and at most `max_bytes`, but at
    /// least one. Both ends lie inside the log.
    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, LogError>;

    /// The term of an entry inside the log or of its truncated position.
    fn term(&self, index: u64) -> Result<u64, LogError>;

    /// Forgets entries up to and including `to`, which something else durable
    /// covers by now.
    fn truncate(&mut self, to: Position) -> Result<(), LogError>;

    /// Forgets every entry and goes on after `to`, the place of a state that
    /// came from elsewhere. Durable on return.
    fn reset(&mut self, to: Position, hard_state: &HardState) -> Result<(), LogError>;

    /// Bytes that the log takes on its disk.
    fn bytes(&self) -> u64;

    /// Notes that everything is written and the process ends in peace, so that
    /// the next open may insist on a whole tail.
    fn close(&mut self) -> Result<(), LogError>;
}

/// Cuts a list of entries after `max_bytes`, keeping at least one.
fn limit(entries: &mut Vec<Entry>, max_bytes: u64) {
    let mut bytes = 0u64;
    let keep = entries
        .iter()
        .take_while(|entry| {
            bytes = bytes.saturating_add(entry_bytes(entry));
            bytes <= max_bytes
        })
        .count();
    entries.truncate(keep.max(1));
}

/// An entry's size, close enough for limits.
fn entry_bytes(entry: &Entry) -> u64 {
    (entry.data.len() + entry.context.len() + 32) as u64
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::group::FIRST;

    fn entry(index: u64, term: u64, len: usize) -> Entry {
        Entry { index, term, data: Bytes::from(vec![index as u8; len]), ..Entry::default() }
    }

    fn hard_state(term: u64, commit: u64) -> HardState {
        HardState { term, vote: 1, commit, ..HardState::default() }
    }

    fn check(kind: &str, log: &dyn LogStore, expected: &[(u64, u64)]) {
        let low = log.truncated().index + 1;
        assert_eq!(log.last_index(), expected.last().map_or(low - 1, |last| last.0), "{kind}");
        let Some((high, _)) = expected.last() else { return };
        let entries = log.entries(low, high + 1, u64::MAX).unwrap();
        let observed: Vec<_> = entries.iter().map(|entry| (entry.index, entry.term)).collect();
        assert_eq!(observed, expected, "{kind}");
        for (index, term) in expected {
            assert_eq!(log.term(*index).unwrap(), *term, "{kind}: {index}");
        }
    }
    /// The same for both logs; `again` closes and opens it, where that means
    /// anything.
    fn exercise<L: LogStore>(kind: &str, mut log: L, again: impl Fn(L) -> L) {
        assert_eq!(log.bootstrap(), None, "{kind}: new");
        let members = Members::single(3);
        log.initialize(&members).unwrap();
        check(kind, &log, &[]);
        log = again(log);
        assert_eq!(log.bootstrap(), Some(members), "{kind}");
        assert_eq!((log.truncated(), log.hard_state().commit), (FIRST, FIRST.index), "{kind}");

        log.append(&[entry(2, 2, 10), entry(3, 2, 0), entry(4, 2, 10)], &hard_state(2, 1)).unwrap();
        check(kind, &log, &[(2, 2), (3, 2), (4, 2)]);
        // A vote alone, without entries.
        log.append(&[], &hard_state(3, 2)).unwrap();
        log = again(log);
        assert_eq!(log.hard_state(), hard_state(3, 2), "{kind}");
        check(kind, &log, &[(2, 2), (3, 2), (4, 2)]);

        // A new leader replaces what was never committed.
        log.append(&[entry(3, 3, 5), entry(4, 3, 5)], &hard_state(3, 2)).unwrap();
        check(kind, &log, &[(2, 2), (3, 3), (4, 3)]);
        log.append(&[entry(4, 4, 5)], &hard_state(4, 2)).unwrap();
        log = again(log);
        check(kind, &log, &[(2, 2), (3, 3), (4, 4)]);
        assert_eq!(log.entries(2, 5, 1).unwrap().len(), 1, "{kind}: at least one");
        assert_eq!(log.entries(2, 5, 90).unwrap().len(), 2, "{kind}: as many as fit");

        log.truncate(Position { index: 3, term: 3 }).unwrap();
        check(kind, &log, &[(4, 4)]);
        log = again(log);
        check(kind, &log, &[(4, 4)]);
        assert_eq!(log.term(3).unwrap(), 3, "{kind}: the term before the first entry is known");
        log.truncate(Position { index: 2, term: 2 }).unwrap();
        assert_eq!(log.truncated().index, 3, "{kind}: never backwards");
        log.truncate(Position { index: 4, term: 4 }).unwrap();
        check(kind, &log, &[]);
        log = again(log);
        check(kind, &log, &[]);
        log.append(&[entry(5, 4, 3)], &hard_state(4, 4)).unwrap();
        log = again(log);
        check(kind, &log, &[(5, 4)]);

        // A snapshot from elsewhere: ahead of the log, then inside of it.
        log.reset(Position { index: 20, term: 5 }, &hard_state(6, 20)).unwrap();
        check(kind, &log, &[]);
        log = again(log);
        assert_eq!((log.truncated().index, log.term(20).unwrap()), (20, 5), "{kind}");
        assert_eq!(log.hard_state(), hard_state(6, 20), "{kind}");
        log.append(&[entry(21, 6, 3), entry(22, 6, 3), entry(23, 6, 3)], &hard_state(6, 20))
            .unwrap();
        log.reset(Position { index: 21, term: 7 }, &hard_state(7, 21)).unwrap();
        check(kind, &log, &[]);
        log.append(&[entry(22, 7, 9)], &hard_state(7, 21)).unwrap();
        check(kind, &log, &[(22, 7)]);
        log = again(log);
        check(kind, &log, &[(22, 7)]);
    }

    #[test]
    fn both_logs_remember() {
        exercise("memory", memory::MemoryLog::default(), |log| log);
        let dir = tempfile::tempdir().unwrap();
        exercise("closed", engine::EngineLog::open(dir.path()).unwrap(), |mut log| {
            log.close().unwrap();
            drop(log);
            engine::EngineLog::open(dir.path()).unwrap()
        });
        let dir = tempfile::tempdir().unwrap();
        exercise("dropped", engine::EngineLog::open(dir.path()).unwrap(), |log| {
            drop(log);
            engine::EngineLog::open(dir.path()).unwrap()
        });
    }

    #[test]
    fn an_opened_log_knows_what_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = engine::EngineLog::open(dir.path()).unwrap();
        log.initialize(&Members::single(1)).unwrap();
        assert_eq!(log.entry_bytes_after(0), 0, "nothing was there when it was opened");
        // Counted in pages of 1024 entries.
        let entries: Vec<_> = (2..=3000).map(|index| entry(index, 2, 10)).collect();
        log.append(&entries, &hard_state(2, 3000)).unwrap();
        drop(log);
        let log = engine::EngineLog::open(dir.path()).unwrap();
        let one = entry_bytes(&entries[0]);
        assert_eq!(log.entry_bytes_after(0), 2999 * one);
        assert_eq!(log.entry_bytes_after(1025), (3000 - 1025) * one);
        assert_eq!(log.entry_bytes_after(1026), (3000 - 1025) * one, "a few too many");
        assert_eq!(log.entry_bytes_after(3000), 0);
    }

    #[test]
    fn the_log_gives_space_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = engine::EngineLog::open(dir.path()).unwrap();
        log.initialize(&Members::single(1)).unwrap();
        let mut largest = 0;
        for index in 2..400u64 {
            log.append(&[entry(index, 2, 300_000)], &hard_state(2, index - 1)).unwrap();
            if index % 20 == 0 {
                log.truncate(Position { index: index - 5, term: 2 }).unwrap();
            }
            largest = largest.max(log.bytes());
        }
        assert!(largest < 40 << 20, "{largest} bytes");
    }
}
