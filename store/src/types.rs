//! The nouns of the store: keys, revisions, entries, transactions, events.

use std::sync::Arc;

use bytes::Bytes;

/// The store's one counter. Every committed transaction that writes takes the
/// next revision, so revisions have no gaps and never repeat. It is what
/// Kubernetes calls `resourceVersion`.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Revision(pub u64);

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A key. Ordered by its bytes; the meaning of its parts is the caller's.
pub type Key = Arc<str>;

/// A half-open range of keys, `start <= key < end`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// First key of the range.
    pub start: Key,
    /// First key after the range; `None` reaches to the last key.
    pub end: Option<Key>,
}

impl KeyRange {
    /// Every key.
    pub fn all() -> Self {
        Self { start: Key::from(""), end: None }
    }

    /// Exactly one key.
    pub fn one(key: &str) -> Self {
        Self { start: Key::from(key), end: Some(Key::from(format!("{key}\0"))) }
    }

    /// Every key that begins with `prefix`.
    pub fn prefix(prefix: &str) -> Self {
        // The first key after the range is the prefix with its last character
        // raised by one. A character that cannot be raised is dropped and the
        // one before it raised instead.
        let mut chars: Vec<char> = prefix.chars().collect();
        let mut end = None;
        while let Some(last) = chars.pop() {
            if let Some(next) = next_char(last) {
                chars.push(next);
                end = Some(Key::from(chars.into_iter().collect::<String>()));
                break;
            }
        }
        Self { start: Key::from(prefix), end }
    }

    /// Whether `key` lies in the range.
    pub fn contains(&self, key: &str) -> bool {
        *self.start <= *key && self.end.as_deref().is_none_or(|end| key < end)
    }
}

/// The character after `c`. UTF-8 orders as code points do, so this holds for
/// the bytes as well.
fn next_char(c: char) -> Option<char> {
    let next = u32::from(c) + 1;
    // Surrogates are not characters; skip over them.
    char::from_u32(if next == 0xD800 { 0xE000 } else { next })
}

/// A value about to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// The bytes to store.
    pub bytes: Bytes,
    /// Where in `bytes` the decimal revision of the write itself is inserted
    /// when the write is applied. A Kubernetes object carries its own
    /// `resourceVersion`, which nobody knows before the commit; with this hole
    /// the object is encoded once and shared by every later reader.
    pub revision_at: Option<u32>,
    /// Encrypt the value wherever it touches a disk or a peer's disk. Memory
    /// and readers see the plain bytes.
    pub sealed: bool,
}

/// A live key with its value. Immutable and shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Key,
    /// The value, its own revision already inserted.
    pub value: Bytes,
    /// The revision that created the key (since its last deletion).
    pub created: Revision,
    /// The revision of the last write.
    pub modified: Revision,
    /// The value is encrypted wherever it touches a disk (see [`Draft`]).
    pub sealed: bool,
}

/// One condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key must not exist.
    Absent(Key),
    /// The key must exist and have been written last at this revision.
    Unchanged(Key, Revision),
    /// The key must exist.
    Present(Key),
    /// The log entry that carries the transaction must be of this Raft term:
    /// what a leader decided must not take effect once another one leads.
    Term(u64),
}

/// One write of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Creates or replaces a key.
    Put(Key, Draft),
    /// Deletes a key; nothing happens if it is not there.
    Delete(Key),
}

/// All compares hold and all writes happen at one revision, or none does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Txn {
    /// Conditions, checked in order when the transaction is applied.
    pub compares: Vec<Compare>,
    /// Writes, on distinct keys.
    pub writes: Vec<Write>,
}

impl Txn {
    /// Adds a condition.
    pub fn when(mut self, compare: Compare) -> Self {
        self.compares.push(compare);
        self
    }

    /// Adds a write.
    pub fn write(mut self, write: Write) -> Self {
        self.writes.push(write);
        self
    }
}

/// What a committed transaction left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The revision of the transaction. A transaction that changed nothing
    /// takes no revision and answers with the newest one.
    pub revision: Revision,
    /// The entries that its puts made, in the order of the puts.
    pub entries: Vec<Arc<Entry>>,
    /// The entries that its deletes removed, in the order of the deletes that
    /// found one.
    pub deleted: Vec<Arc<Entry>>,
}

/// Who leads the group, as this member knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leadership {
    /// The Raft term.
    pub term: u64,
    /// The member that leads in this term, if known.
    pub leader: Option<u64>,
    /// Whether this member is the leader and has committed in its own term,
    /// so that it may act for the cluster.
    pub is_leader: bool,
}

/// One change, as watches see it. `entry` is `None` for a deletion, `previous`
/// is `None` for a creation; both are never `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The revision of the change.
    pub revision: Revision,
    /// The key after the change.
    pub entry: Option<Arc<Entry>>,
    /// The key before the change.
    pub previous: Option<Arc<Entry>>,
}

impl Event {
    /// The key that changed.
    pub fn key(&self) -> &Key {
        match (&self.entry, &self.previous) {
            (Some(entry), _) | (None, Some(entry)) => &entry.key,
            (None, None) => unreachable!("an event has a before or an after"),
        }
    }
}

/// What can go wrong between a caller and the store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// A compare failed: someone wrote first. Read again and reapply.
    #[error("{key} is not as the write expected it")]
    Conflict {
        /// The key whose compare failed.
        key: Key,
        /// What is there instead.
        current: Option<Arc<Entry>>,
    },
    /// The transaction was meant for a term that is over: its author leads no
    /// more.
    #[error("the leader of term {term} has been replaced")]
    Deposed {
        /// The term it was meant for.
        term: u64,
    },
    /// The group cannot be changed in this way.
    #[error("the members cannot be changed so: {0}")]
    Membership(String),
    /// The group cannot be changed at this moment: another change is under
    /// way, or the leadership is moving. The same change may do a little later.
    #[error("the members cannot be changed now: {0}; try again")]
    MembershipBusy(String),
    /// This member has been removed from its group. The process must stop.
    #[error("this member was removed from the group")]
    Removed,
    /// The revision lies before the history window. List again.
    #[error("revision {wanted} has been compacted, the oldest one kept is {oldest}")]
    Compacted {
        /// The revision asked for.
        wanted: Revision,
        /// The oldest revision from which a watch may resume.
        oldest: Revision,
    },
    /// The revision lies in the future. Ask later.
    #[error("revision {wanted} has not been reached, the newest one is {newest}")]
    Future {
        /// The revision asked for.
        wanted: Revision,
        /// The newest revision.
        newest: Revision,
    },
    /// The group has no leader that answers in time. A write may or may not
    /// take effect later.
    #[error("the store has no quorum: {0}")]
    Unavailable(String),
    /// The transaction can never succeed (too large, a key twice…).
    #[error("the transaction is not valid: {0}")]
    Invalid(String),
    /// The disk refused. The process must stop; with a disk that works it can
    /// go on.
    #[error("the store's disk failed: {0}")]
    Disk(String),
    /// The disk holds something else than what was written, and nobody knows
    /// what that was. The process must stop, and can go on only with a state
    /// from elsewhere: that of the group, or a backup.
    #[error("{0}; what was acknowledged may be lost, so this member does not go on with it")]
    Damaged(String),
    /// Another process, or another handle of this one, uses the directory.
    #[error("{0} is in use by another process")]
    Locked(String),
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Whether the same call may succeed later without being changed.
    pub fn is_retryable(&self) -> bool {
        // No `_` arm: each new variant gets a decision.
        match self {
            Self::Future { .. } | Self::Unavailable(_) | Self::Locked(_) => true,
            Self::MembershipBusy(_) => true,
            Self::Conflict { .. } | Self::Compacted { .. } | Self::Invalid(_) => false,
            Self::Deposed { .. } | Self::Membership(_) | Self::Removed => false,
            Self::Disk(_) | Self::Damaged(_) | Self::Closed => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_what_they_say() {
        let cases = [
            ("all", KeyRange::all(), vec!["", "a", "\u{10FFFF}"], vec![]),
            ("one", KeyRange::one("a"), vec!["a"], vec!["", "a/", "aa", "b"]),
            (
                "prefix",
                KeyRange::prefix("a/"),
                vec!["a/", "a/b", "a/\u{10FFFF}"],
                vec!["a", "a0", "b"],
            ),
            ("prefix ends in ~", KeyRange::prefix("~"), vec!["~", "~z"], vec!["}", "\u{7f}"]),
            (
                "prefix before surrogates",
                KeyRange::prefix("\u{D7FF}"),
                vec!["\u{D7FF}x"],
                vec!["\u{E000}"],
            ),
            (
                "prefix of the last character",
                KeyRange::prefix("\u{10FFFF}"),
                vec!["\u{10FFFF}a"],
                vec!["z"],
            ),
            ("carried", KeyRange::prefix("a\u{10FFFF}"), vec!["a\u{10FFFF}b"], vec!["a", "b"]),
            ("empty prefix", KeyRange::prefix(""), vec!["", "z"], vec![]),
        ];
        for (name, range, inside, outside) in cases {
            for key in inside {
                assert!(range.contains(key), "{name}: {key:?} lies inside");
            }
            for key in outside {
                assert!(!range.contains(key), "{name}: {key:?} lies outside");
            }
        }
    }
}
