//! The state machine: transactions in, entries and events out.
//!
//! Pure and deterministic: the same transactions in the same order give the
//! same entries, revisions, events and digest on every member and at every
//! replay. It reads no clock, no disk and no randomness.
//!
//! The entries live in a persistent ordered map, so a snapshot is a clone in
//! constant time and a list never blocks a write.
//!
//! The digest is the wrapping sum of a hash per live entry. It moves with each
//! write at constant cost, does not depend on the order of writes to different
//! keys, and lets a state tree loaded from disk be checked as a whole: a key
//! that silently disappeared changes the sum.

use std::ops::Bound;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use imbl::OrdMap;
use ring::digest::{Context, SHA256};

use crate::types::{Committed, Compare, Draft, Entry, Event, Key, KeyRange, Revision, Txn, Write};

/// Live entries by key.
pub(crate) type Entries = OrdMap<Key, Arc<Entry>>;

/// The live entries and the newest revision.
#[derive(Clone, Default, Debug)]
pub(crate) struct Machine {
    entries: Entries,
    revision: Revision,
    digest: u128,
    bytes: u64,
}

/// What one applied transaction did.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) committed: Committed,
    /// In the order of the writes; empty if nothing changed.
    pub(crate) events: Vec<Arc<Event>>,
}

/// The first compare that did not hold.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) key: Key,
    pub(crate) current: Option<Arc<Entry>>,
}

impl Machine {
    /// A machine holding `entries`, as loaded from a disk.
    pub(crate) fn restore(entries: Entries, revision: Revision) -> Self {
        let digest =
            entries.values().fold(0u128, |sum, entry| sum.wrapping_add(entry_digest(entry)));
        let bytes = entries.values().map(|entry| entry_bytes(entry)).sum();
        Self { entries, revision, digest, bytes }
    }

    /// Applies one transaction: every write at one new revision, or nothing.
    pub(crate) fn apply(&mut self, txn: Txn) -> Result<Outcome, Refusal> {
        for compare in &txn.compares {
            self.check(compare)?;
        }
        let revision = Revision(self.revision.0 + 1);
        let mut outcome = Outcome {
            committed: Committed {
                revision: self.revision,
                entries: Vec::new(),
                deleted: Vec::new(),
            },
            events: Vec::with_capacity(txn.writes.len()),
        };
        for write in txn.writes {
            match write {
                Write::Put(key, draft) => self.put(key, draft, revision, &mut outcome),
                Write::Delete(key) => self.delete(&key, revision, &mut outcome),
            }
        }
        // A transaction that changed nothing must not consume a revision:
        // watchers would wait for an event that never comes.
        if !outcome.events.is_empty() {
            self.revision = revision;
            outcome.committed.revision = revision;
        }
        Ok(outcome)
    }

    /// A term is not the entries' business: whoever applies a log entry has
    /// compared it already.
    fn check(&self, compare: &Compare) -> Result<(), Refusal> {
        let (key, holds) = match compare {
            Compare::Absent(key) => (key, !self.entries.contains_key(&**key)),
            Compare::Present(key) => (key, self.entries.contains_key(&**key)),
            Compare::Unchanged(key, expected) => {
                (key, self.entries.get(&**key).is_some_and(|entry| entry.modified == *expected))
            }
            Compare::Term(_) => return Ok(()),
        };
        if holds {
            Ok(())
        } else {
            Err(Refusal { key: key.clone(), current: self.entries.get(&**key).cloned() })
        }
    }

    fn put(&mut self, key: Key, draft: Draft, revision: Revision, outcome: &mut Outcome) {
        let previous = self.entries.get(&*key).cloned();
        let entry = Arc::new(Entry {
            // The map's own key is reused, so that a key's text is kept once.
            key: previous.as_ref().map_or(key, |previous| previous.key.clone()),
            created: previous.as_ref().map_or(revision, |previous| previous.created),
            modified: revision,
            sealed: draft.sealed,
            value: fill(draft, revision),
        });
        if let Some(previous) = &previous {
            self.forget(previous);
        }
        self.digest = self.digest.wrapping_add(entry_digest(&entry));
        self.bytes += entry_bytes(&entry);
        self.entries.insert(entry.key.clone(), entry.clone());
        outcome.committed.entries.push(entry.clone());
        outcome.events.push(Arc::new(Event { revision, entry: Some(entry), previous }));
    }

    fn delete(&mut self, key: &str, revision: Revision, outcome: &mut Outcome) {
        let Some(previous) = self.entries.remove(key) else { return };
        self.forget(&previous);
        outcome.committed.deleted.push(previous.clone());
        outcome.events.push(Arc::new(Event { revision, entry: None, previous: Some(previous) }));
    }

    fn forget(&mut self, entry: &Entry) {
        self.digest = self.digest.wrapping_sub(entry_digest(entry));
        self.bytes -= entry_bytes(entry);
    }

    /// Takes over a change that somebody else has ordered: `now` is the entry
    /// after it, `None` if it was deleted.
    pub(crate) fn follow(
        &mut self,
        key: &str,
        now: Option<Entry>,
        revision: Revision,
    ) -> Option<Arc<Event>> {
        let previous = self.entries.get(key).cloned();
        if let Some(previous) = &previous {
            self.forget(previous);
        }
        let entry = now.map(|entry| {
            // The map's own key is reused, so that a key's text is kept once.
            let key = previous.as_ref().map_or(entry.key.clone(), |known| known.key.clone());
            Arc::new(Entry { key, ..entry })
        });
        match &entry {
            Some(entry) => {
                self.digest = self.digest.wrapping_add(entry_digest(entry));
                self.bytes += entry_bytes(entry);
                self.entries.insert(entry.key.clone(), entry.clone());
            }
            None => drop(self.entries.remove(key)),
        }
        self.reach(revision);
        (entry.is_some() || previous.is_some())
            .then(|| Arc::new(Event { revision, entry, previous }))
    }

    /// Goes on to a revision that changed nothing here.
    pub(crate) fn reach(&mut self, revision: Revision) {
        self.revision = self.revision.max(revision);
    }

    /// The live entries.
    pub(crate) fn entries(&self) -> &Entries {
        &self.entries
    }

    /// The newest revision.
    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    /// The digest of all live entries.
    pub(crate) fn digest(&self) -> u128 {
        self.digest
    }

    /// Bytes of all live keys and values.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Undoes `event` on `entries`, which must be the state right after it.
pub(crate) fn undo(entries: &mut Entries, event: &Event) {
    match &event.previous {
        Some(previous) => entries.insert(previous.key.clone(), previous.clone()),
        None => entries.remove(&**event.key()),
    };
}

/// The entries of `range`, in key order.
pub(crate) fn range<'a>(
    entries: &'a Entries,
    range: &KeyRange,
) -> impl Iterator<Item = &'a Arc<Entry>> + use<'a> {
    // A range that ends before it starts is empty, not a panic.
    let end = match range.end.as_deref() {
        Some(end) if *end < *range.start => Bound::Excluded(&*range.start),
        Some(end) => Bound::Excluded(end),
        None => Bound::Unbounded,
    };
    entries.range::<_, str>((Bound::Included(&*range.start), end)).map(|(_, entry)| entry)
}

/// The draft's bytes with the revision written into its hole.
pub(crate) fn fill(draft: Draft, revision: Revision) -> Bytes {
    // Moved: a value that was never cloned needs no count of its owners.
    let Some(at) = draft.revision_at else { return draft.bytes };
    let (before, after) = draft.bytes.split_at(at as usize);
    let digits = revision.to_string();
    let mut value = BytesMut::with_capacity(draft.bytes.len() + digits.len());
    value.extend_from_slice(before);
    value.extend_from_slice(digits.as_bytes());
    value.extend_from_slice(after);
    value.freeze()
}

/// One entry's part of the digest: the first half of a SHA-256 over all fields.
fn entry_digest(entry: &Entry) -> u128 {
    let mut context = Context::new(&SHA256);
    context.update(&(entry.key.len() as u64).to_le_bytes());
    context.update(entry.key.as_bytes());
    context.update(&entry.created.0.to_le_bytes());
    context.update(&entry.modified.0.to_le_bytes());
    context.update(&[u8::from(entry.sealed)]);
    context.update(&entry.value);
    let hash = context.finish();
    let mut half = [0; 16];
    half.copy_from_slice(&hash.as_ref()[..16]);
    u128::from_le_bytes(half)
}

fn entry_bytes(entry: &Entry) -> u64 {
    (entry.key.len() + entry.value.len()) as u64
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// The same rules on plain maps, written as simply as possible.
    #[derive(Default)]
    struct Model {
        live: BTreeMap<String, (String, u64, u64)>,
        revision: u64,
    }

    impl Model {
        /// The revision after the transaction, or the key that refused it.
        fn apply(&mut self, txn: &Txn) -> Result<u64, String> {
            for compare in &txn.compares {
                let (key, holds) = match compare {
                    Compare::Absent(key) => (key, !self.live.contains_key(&**key)),
                    Compare::Present(key) => (key, self.live.contains_key(&**key)),
                    Compare::Unchanged(key, at) => {
                        (key, self.live.get(&**key).is_some_and(|live| live.2 == at.0))
                    }
                    Compare::Term(_) => continue,
                };
                if !holds {
                    return Err(key.to_string());
                }
            }
            let next = self.revision + 1;
            let mut changed = false;
            for write in &txn.writes {
                match write {
                    Write::Put(key, draft) => {
                        let mut text = String::from_utf8(draft.bytes.to_vec()).unwrap();
                        if let Some(at) = draft.revision_at {
                            text.insert_str(at as usize, &next.to_string());
                        }
                        let created = self.live.get(&**key).map_or(next, |live| live.1);
                        self.live.insert(key.to_string(), (text, created, next));
                        changed = true;
                    }
                    Write::Delete(key) => changed |= self.live.remove(&**key).is_some(),
                }
            }
            if changed {
                self.revision = next;
            }
            Ok(self.revision)
        }
    }

    fn key() -> impl Strategy<Value = Key> {
        (0..6u8).prop_map(|n| Key::from(format!("k{n}")))
    }

    fn compare() -> impl Strategy<Value = Compare> {
        prop_oneof![
            key().prop_map(Compare::Absent),
            key().prop_map(Compare::Present),
            (key(), 0..20u64).prop_map(|(key, at)| Compare::Unchanged(key, Revision(at))),
        ]
    }

    fn write() -> impl Strategy<Value = Write> {
        let draft = ("[a-c]{0,4}", any::<bool>(), 0..5u32).prop_map(|(text, sealed, at)| Draft {
            revision_at: (at as usize <= text.len()).then_some(at),
            bytes: Bytes::from(text),
            sealed,
        });
        prop_oneof![3 => (key(), draft).prop_map(|(key, draft)| Write::Put(key, draft)), 1 => key().prop_map(Write::Delete)]
    }

    pub(crate) fn txns() -> impl Strategy<Value = Vec<Txn>> {
        let txn = (prop::collection::vec(compare(), 0..2), prop::collection::vec(write(), 0..4))
            .prop_map(|(compares, mut writes)| {
                // Writes are on distinct keys.
                let mut seen = std::collections::HashSet::new();
                writes.retain(|(Write::Put(key, _) | Write::Delete(key))| seen.insert(key.clone()));
                Txn { compares, writes }
            });
        prop::collection::vec(txn, 0..60)
    }

    proptest! {
        #[test]
        fn does_what_the_model_does(txns in txns()) {
            let mut machine = Machine::default();
            let mut model = Model::default();
            let mut undoing = Vec::new();
            for txn in txns {
                let before = machine.entries().clone();
                let expected = model.apply(&txn);
                match machine.apply(txn) {
                    Ok(outcome) => {
                        prop_assert_eq!(Ok(outcome.committed.revision.0), expected);
                        for event in &outcome.events {
                            prop_assert_eq!(event.revision, outcome.committed.revision);
                            prop_assert_eq!(event.previous.as_ref(), before.get(event.key()));
                            prop_assert_eq!(event.entry.as_ref(), machine.entries().get(event.key()));
                        }
                        undoing.push((before, outcome.events));
                    }
                    Err(refusal) => {
                        prop_assert_eq!(refusal.current.as_ref(), before.get(&refusal.key));
                        prop_assert_eq!(Err(refusal.key.to_string()), expected);
                        prop_assert!(machine.entries().ptr_eq(&before) || *machine.entries() == before);
                    }
                }
            }
            let observed: BTreeMap<_, _> = machine
                .entries()
                .values()
                .map(|entry| {
                    let text = String::from_utf8(entry.value.to_vec()).unwrap();
                    (entry.key.to_string(), (text, entry.created.0, entry.modified.0))
                })
                .collect();
            prop_assert_eq!(&observed, &model.live);
            prop_assert_eq!(machine.revision().0, model.revision);

            // The running digest and size are those of the entries themselves.
            let restored = Machine::restore(machine.entries().clone(), machine.revision());
            prop_assert_eq!((restored.digest(), restored.bytes()), (machine.digest(), machine.bytes()));

            // Events lead back the way they came.
            let mut entries = machine.entries().clone();
            for (before, events) in undoing.into_iter().rev() {
                events.iter().rev().for_each(|event| undo(&mut entries, event));
                prop_assert!(entries == before);
            }
        }
    }

    #[test]
    fn the_digest_notices_every_field() {
        let entry = Entry {
            key: Key::from("a"),
            value: Bytes::from_static(b"1"),
            created: Revision(1),
            modified: Revision(2),
            sealed: false,
        };
        let others = [
            ("key", Entry { key: Key::from("b"), ..entry.clone() }),
            ("value", Entry { value: Bytes::from_static(b"2"), ..entry.clone() }),
            ("created", Entry { created: Revision(2), ..entry.clone() }),
            ("modified", Entry { modified: Revision(3), ..entry.clone() }),
            ("sealed", Entry { sealed: true, ..entry.clone() }),
        ];
        for (name, other) in others {
            assert_ne!(entry_digest(&entry), entry_digest(&other), "{name}");
        }
    }
}
