//! The people who use the group: callers, one call at a time each, and
//! watchers.

use std::sync::Arc;

use bytes::Bytes;
use rand::Rng as _;
use rand::rngs::StdRng;

use crate::checker::{Asked, Change, History, Told};
use crate::types::{Compare, Draft, Key, KeyRange, Leadership, Revision, StoreError, Txn, Write};
use crate::view::Shared;
use crate::watch::Watch;

const KEYS: [&str; 6] = ["a/1", "a/2", "a/3", "b/1", "b/2", "c"];

/// What a caller asks for.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Mood {
    /// Reads, and writes of all kinds.
    #[default]
    Everything,
    /// Writes without a condition: nothing but the group keeps them from
    /// taking effect.
    Puts,
    /// Reads: nothing changes any more.
    Reads,
}

/// Somebody who calls, waits for the answer and calls again.
#[derive(Default)]
pub(super) struct Caller {
    /// When each key was last written, as far as it has heard.
    modified: [Option<u64>; KEYS.len()],
    /// What it asks for from now on.
    pub(super) mood: Mood,
}

impl Caller {
    /// Decides on the next call; none to write means to read.
    pub(super) fn begin(
        &mut self,
        rng: &mut StdRng,
        history: &mut History,
        leadership: Leadership,
    ) -> (usize, Option<Txn>) {
        let reads = match self.mood {
            Mood::Everything => rng.random_bool(0.3),
            Mood::Puts => false,
            Mood::Reads => true,
        };
        if reads {
            return (history.begin(Asked::Read), None);
        }
        let at = rng.random_range(0..KEYS.len());
        let key = Key::from(KEYS[at]);
        // The value names the call.
        let draft = Draft {
            bytes: Bytes::from(history.next_call().to_string()),
            revision_at: None,
            sealed: rng.random_bool(0.2),
        };
        let put = Txn::default().write(Write::Put(key.clone(), draft.clone()));
        let txn = match rng.random_range(0..10) {
            _ if self.mood == Mood::Puts => put,
            0..3 => put,
            3 => put.when(Compare::Absent(key)),
            4..6 => match self.modified[at] {
                Some(modified) => put.when(Compare::Unchanged(key, Revision(modified))),
                None => put,
            },
            6 => Txn::default().write(Write::Delete(key)),
            7 => Txn::default().when(Compare::Present(key.clone())).write(Write::Delete(key)),
            8 => {
                let other = Key::from(KEYS[(at + 1) % KEYS.len()]);
                put.write(Write::Put(other, draft))
            }
            // A leader's own controllers write so.
            _ if leadership.is_leader => put.when(Compare::Term(leadership.term)),
            _ => put,
        };
        (history.begin(Asked::Write(txn.clone())), Some(txn))
    }

    pub(super) fn hear(&mut self, told: &Told) {
        match told {
            Told::Read { entries, .. } => {
                for (key, modified) in KEYS.iter().zip(&mut self.modified) {
                    let found = entries.iter().find(|(found, ..)| found == key);
                    *modified = found.map(|(_, at, _)| *at);
                }
            }
            Told::Conflict { key, modified } => {
                if let Some(at) = KEYS.iter().position(|known| known == key) {
                    self.modified[at] = *modified;
                }
            }
            Told::Written { .. } | Told::Refused | Told::Deposed | Told::Got(_) | Told::Nothing => {
            }
        }
    }
}

/// Somebody who follows a range of keys, at whichever member is there.
pub(super) struct Watcher {
    prefix: &'static str,
    /// Where it watches.
    open: Option<(u64, Arc<Shared>, Watch)>,
    /// It has heard of everything up to this revision.
    seen: u64,
    /// Events it got.
    pub(super) received: usize,
}

impl Watcher {
    pub(super) fn new(prefix: &'static str) -> Self {
        Self { prefix, open: None, seen: 0, received: 0 }
    }

    /// Takes what there is, and compares it with what there should be. A watch
    /// whose member is gone goes on at another.
    pub(super) fn look(
        &mut self,
        other: u64,
        shared: impl Fn(u64) -> Option<Arc<Shared>>,
        history: &History,
    ) -> Result<(), String> {
        let lives = |(id, opened, _): &(u64, Arc<Shared>, Watch)| {
            shared(*id).is_some_and(|now| Arc::ptr_eq(opened, &now))
        };
        if !self.open.as_ref().is_some_and(lives) {
            self.open = None;
            let Some(shared) = shared(other) else { return Ok(()) };
            let range = KeyRange::prefix(self.prefix);
            match Watch::new(shared.clone(), range, Revision(self.seen)) {
                Ok(watch) => self.open = Some((other, shared, watch)),
                // It lists, and watches from there.
                Err(StoreError::Compacted { .. }) => self.list(&shared),
                // That member is behind; later, or another.
                Err(StoreError::Future { .. }) => {}
                Err(error) => return Err(format!("a watch is refused: {error}")),
            }
        }
        let Some((_, shared, watch)) = &mut self.open else { return Ok(()) };
        let events = match watch.try_next() {
            Ok(events) => events,
            Err(StoreError::Compacted { .. }) => {
                let shared = shared.clone();
                self.open = None;
                self.list(&shared);
                return Ok(());
            }
            Err(error) => return Err(format!("a watch ends: {error}")),
        };
        let told = watch.revision().0;
        let received: Vec<_> =
            (events.iter()).map(|event| (event.revision.0, Change::of(event))).collect();
        history.check_watch(self.prefix, self.seen, told, &received)?;
        self.received += received.len();
        self.seen = told;
        Ok(())
    }

    fn list(&mut self, shared: &Shared) {
        // A member that is behind must not send a client back.
        self.seen = self.seen.max(shared.view().snapshot.revision().0);
    }
}
