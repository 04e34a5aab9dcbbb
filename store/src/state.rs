//! The applied state on a disk: what it must do, whatever it is made of.
//!
//! The state is a copy that can always be rebuilt from a snapshot and the log.
//! It may therefore lag behind, and it may be refused as damaged; what it may
//! not do is to be wrong. [`check`] decides that from a count and a digest over
//! all entries that were saved with it.
//!
//! Two implementations pass the same tests: [`tree::TreeState`] on `sled`, and
//! a twin in memory.

#[cfg(test)]
pub(crate) mod memory;
mod sums;
pub(crate) mod tree;

use std::collections::HashMap;
use std::sync::Arc;

use crate::log::Position;
use crate::machine::{Entries, Machine};
use crate::members::Members;
use crate::types::{Entry, Event, Key, Revision};
use crate::view::Applied;
use crate::wire::{self, Kind, WireError, put_u64, put_u128};

/// Why a state cannot be used or saved.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// It is not what was saved. Wipe it and rebuild.
    #[error("the state tree is damaged: {0}")]
    Damaged(String),
    /// The disk refused.
    #[error("the state tree cannot be {doing}: {reason}")]
    Io { doing: &'static str, reason: String },
}

/// What is saved with the entries, in the same atomic step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) applied: Applied,
    pub(crate) revision: Revision,
    /// The history window begins after this revision.
    pub(crate) floor: Revision,
    pub(crate) count: u64,
    pub(crate) digest: u128,
}

/// A change of one key since the last save: `old` is what the state holds.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) old: Option<Arc<Entry>>,
    pub(crate) new: Option<Arc<Entry>>,
}

/// Everything that a save writes.
#[derive(Debug)]
pub(crate) struct Save {
    pub(crate) changes: Vec<Change>,
    /// Events since the last save.
    pub(crate) events: Vec<Arc<Event>>,
    pub(crate) meta: Meta,
}

/// What a load brings back, not yet checked.
#[derive(Debug, Default)]
pub(crate) struct Raw {
    pub(crate) meta: Option<Meta>,
    pub(crate) entries: Entries,
    /// Each with its place and the number of places at its revision.
    pub(crate) events: Vec<(Event, u32, u32)>,
}

/// A state that has passed its checks.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) machine: Machine,
    pub(crate) applied: Applied,
    pub(crate) floor: Revision,
    pub(crate) events: Vec<Arc<Event>>,
}

/// A durable copy of the applied state.
pub(crate) trait StateStore: Send {
    /// Reads everything.
    fn load(&mut self) -> Result<Raw, StateError>;

    /// Saves changes, durably, so that a later load sees all of them or finds
    /// nothing.
    fn save(&mut self, save: &Save) -> Result<(), StateError>;

    /// Forgets everything.
    fn wipe(&mut self) -> Result<(), StateError>;

    /// Bytes that the state takes on its disk.
    fn bytes(&self) -> u64;
}

/// Accepts a state only if it is what was saved. `None`: nothing was saved.
pub(crate) fn check(raw: Raw) -> Result<Option<Loaded>, StateError> {
    let Some(meta) = raw.meta else {
        if raw.entries.is_empty() && raw.events.is_empty() {
            return Ok(None);
        }
        return Err(StateError::Damaged("its summary is missing".into()));
    };
    let machine = Machine::restore(raw.entries, meta.revision);
    let count = machine.entries().len() as u64;
    if (count, machine.digest()) != (meta.count, meta.digest) {
        return Err(StateError::Damaged(format!(
            "{count} entries do not add up to the {} that were saved",
            meta.count
        )));
    }
    if machine.entries().values().any(|entry| entry.modified > meta.revision) {
        return Err(StateError::Damaged("an entry is newer than the state".into()));
    }
    check_events(&raw.events, meta.floor, meta.revision)?;
    let events = share(raw.events, machine.entries());
    Ok(Some(Loaded { machine, applied: meta.applied, floor: meta.floor, events }))
}

/// Every revision in the window has all of its events, in order.
fn check_events(
    events: &[(Event, u32, u32)],
    floor: Revision,
    newest: Revision,
) -> Result<(), StateError> {
    let mut expected = (Revision(floor.0 + 1), 0);
    for (event, nth, of) in events {
        if (event.revision, *nth) != expected || nth >= of {
            return Err(StateError::Damaged(format!(
                "the history has a gap at revision {}",
                expected.0
            )));
        }
        expected = if nth + 1 == *of {
            (Revision(event.revision.0 + 1), 0)
        } else {
            (event.revision, nth + 1)
        };
    }
    if expected != (Revision(newest.0 + 1), 0) {
        return Err(StateError::Damaged(format!("the history ends before revision {newest}")));
    }
    Ok(())
}

/// Makes events and live entries share what is the same entry, as they did
/// before they were saved.
fn share(events: Vec<(Event, u32, u32)>, entries: &Entries) -> Vec<Arc<Event>> {
    let mut newest: HashMap<Key, Arc<Entry>> = HashMap::new();
    let same = |known: Option<&Arc<Entry>>, read: Arc<Entry>| match known {
        Some(known) if known.modified == read.modified => known.clone(),
        _ => read,
    };
    events
        .into_iter()
        .map(|(mut event, _, _)| {
            event.previous = event.previous.map(|entry| same(newest.get(&entry.key), entry));
            event.entry = event.entry.map(|entry| {
                let entry = same(entries.get(&*entry.key), entry);
                newest.insert(entry.key.clone(), entry.clone());
                entry
            });
            Arc::new(event)
        })
        .collect()
}

/// Frames the record that makes a save complete.
pub(crate) fn encode_meta(meta: &Meta) -> Vec<u8> {
    wire::frame(Kind::Applied, |out| {
        put_u64(out, meta.applied.position.index);
        put_u64(out, meta.applied.position.term);
        meta.applied.members.encode(out);
        put_u64(out, meta.revision.0);
        put_u64(out, meta.floor.0);
        put_u64(out, meta.count);
        put_u128(out, meta.digest);
    })
}

/// Reads what [`encode_meta`] wrote.
pub(crate) fn decode_meta(bytes: &[u8]) -> Result<Meta, WireError> {
    let mut reader = wire::open_frame(Kind::Applied, bytes)?;
    let position = Position { index: reader.u64()?, term: reader.u64()? };
    let members = Arc::new(Members::decode(&mut reader)?);
    let meta = Meta {
        applied: Applied { position, members },
        revision: Revision(reader.u64()?),
        floor: Revision(reader.u64()?),
        count: reader.u64()?,
        digest: reader.u128()?,
    };
    reader.end()?;
    Ok(meta)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::group::FIRST;
    use crate::history::History;
    use crate::sealing::Sealer;
    use crate::types::{Draft, Txn, Write};

    /// A machine with what belongs to it, and the last save.
    struct World {
        machine: Machine,
        history: History,
        saved: Entries,
        saved_revision: Revision,
    }

    impl World {
        fn new() -> Self {
            let history = History::new(Revision(0), std::time::Duration::from_secs(300), 4_000);
            Self {
                machine: Machine::default(),
                history,
                saved: Entries::new(),
                saved_revision: Revision(0),
            }
        }

        fn put(&mut self, key: &str, len: usize, sealed: bool) {
            let draft = Draft { bytes: Bytes::from(vec![b'v'; len]), revision_at: None, sealed };
            self.apply(Txn::default().write(Write::Put(Key::from(key), draft)));
        }

        fn apply(&mut self, txn: Txn) {
            let outcome = self.machine.apply(txn).unwrap();
            self.history.push(outcome.events, std::time::Duration::ZERO);
        }

        fn save(&mut self) -> Save {
            let entries = self.machine.entries().clone();
            let meta = Meta {
                applied: Applied { position: FIRST, members: Arc::new(Members::single(1)) },
                revision: self.machine.revision(),
                floor: self.history.floor(),
                count: entries.len() as u64,
                digest: self.machine.digest(),
            };
            let events = self.history.after(self.saved_revision.max(meta.floor)).cloned().collect();
            let changes = crate::keeper::changes(&self.saved, &entries);
            self.saved = entries;
            self.saved_revision = meta.revision;
            Save { changes, events, meta }
        }
    }

    fn both(test: impl Fn(&str, &mut dyn StateStore)) {
        test("memory", &mut memory::MemoryState::default());
        let dir = tempfile::tempdir().unwrap();
        let sealer = Arc::new(Sealer::new(&[1; 32]).unwrap());
        test("tree", &mut tree::TreeState::new(&dir.path().join("state"), sealer));
    }

    #[test]
    fn what_is_saved_is_loaded() {
        both(|kind, state| {
            assert!(check(state.load().unwrap()).unwrap().is_none(), "{kind}: nothing yet");
            let mut world = World::new();
            for round in 0..30usize {
                world.put("grows and shrinks", (round * 30_011) % 100_000, false);
                world.put(&format!("k{}", round % 7), round, round % 2 == 0);
                world.put("two", 1, false);
                let both = Txn::default()
                    .write(Write::Delete(Key::from("two")))
                    .write(Write::Delete(Key::from(format!("k{}", round % 5))));
                world.apply(both);
                state.save(&world.save()).unwrap();
                let loaded = check(state.load().unwrap()).unwrap().unwrap();
                assert!(loaded.machine.entries() == world.machine.entries(), "{kind}");
                assert_eq!(loaded.machine.digest(), world.machine.digest(), "{kind}");
                assert_eq!(loaded.floor, world.history.floor(), "{kind}");
                let events: Vec<_> = world.history.after(world.history.floor()).cloned().collect();
                assert_eq!(loaded.events, events, "{kind}");
            }
            assert!(world.history.floor() > Revision(0), "the window has moved");
            state.wipe().unwrap();
            assert!(check(state.load().unwrap()).unwrap().is_none(), "{kind}: wiped");
        });
    }

    #[test]
    fn large_saves_go_out_in_parts() {
        both(|kind, state| {
            let mut world = World::new();
            for n in 0..20_000 {
                world.put(&format!("k{n}"), 3, false);
            }
            state.save(&world.save()).unwrap();
            let loaded = check(state.load().unwrap()).unwrap().unwrap();
            assert_eq!(loaded.machine.entries().len(), 20_000, "{kind}");
        });
    }

    #[test]
    fn a_state_that_is_not_what_was_saved_is_refused() {
        let mut world = World::new();
        (0..10).for_each(|n| world.put(&format!("k{n}"), n, false));
        let mut state = memory::MemoryState::default();
        state.save(&world.save()).unwrap();
        type Spoil = fn(&mut Raw);
        let cases: [(&str, Spoil); 7] = [
            ("an entry is missing", |raw| drop(raw.entries.remove("k3"))),
            ("an entry is older", |raw| {
                let old = Entry { modified: Revision(1), ..raw.entries["k3"].as_ref().clone() };
                raw.entries.insert(old.key.clone(), Arc::new(old));
            }),
            ("the summary is missing", |raw| raw.meta = None),
            ("an event is missing", |raw| drop(raw.events.remove(4))),
            ("the newest event is missing", |raw| drop(raw.events.pop())),
            ("the oldest event is missing", |raw| drop(raw.events.remove(0))),
            ("an event of a revision is missing", |raw| raw.events[9].2 = 2),
        ];
        for (name, spoil) in cases {
            let mut raw = state.load().unwrap();
            spoil(&mut raw);
            assert!(matches!(check(raw), Err(StateError::Damaged(_))), "{name}");
        }
        assert!(check(state.load().unwrap()).unwrap().is_some());
    }

    #[test]
    fn loaded_events_share_their_entries() {
        let mut world = World::new();
        world.put("a", 10, false);
        world.put("a", 20, false);
        let mut state = memory::MemoryState::default();
        state.save(&world.save()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let sealer = Arc::new(Sealer::new(&[1; 32]).unwrap());
        let mut tree = tree::TreeState::new(&dir.path().join("state"), sealer);
        world.saved = Entries::new();
        world.saved_revision = Revision(0);
        tree.save(&world.save()).unwrap();
        let loaded = check(tree.load().unwrap()).unwrap().unwrap();
        let first = loaded.events[0].entry.as_ref().unwrap();
        let before = loaded.events[1].previous.as_ref().unwrap();
        let last = loaded.events[1].entry.as_ref().unwrap();
        assert!(Arc::ptr_eq(first, before));
        assert!(Arc::ptr_eq(last, &loaded.machine.entries()["a"]));
    }
}
