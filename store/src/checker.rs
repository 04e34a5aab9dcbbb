//! What callers asked and were told, and whether it could have been so.
//!
//! Every change of the store has a revision, and a revision has one place in
//! the order of all changes. So nobody has to search for an order that explains
//! what callers saw, which is hard: it is given, and checking a history is
//! linear in its length. A history is linearizable when
//!
//! - each revision is the effect of exactly one call, and each call has at most
//!   one, whatever it was told;
//! - a call that was told of its effect had it, at the revision it was told,
//!   with its conditions true just before;
//! - a read, and a refused condition, show the state at one revision;
//! - time is respected: what a call shows or does is not older than anything
//!   that another caller knew of when it began.
//!
//! A write whose caller was told nothing may take effect at any later time.
//!
//! What watches told is compared with the changes in stretches: after one
//! revision and up to another there were these changes, in this order, and no
//! others.
//!
//! The simulation checks its runs with this, and so do tests of real processes
//! (feature `checker`), whose callers see the store through an API: there not
//! every change is recorded ([`History::of_some_keys`]), and some answers say
//! less ([`Told::Refused`], [`Told::Got`]).

use std::collections::{BTreeMap, BTreeSet};

use crate::types::{Compare, Event, Txn, Write};

/// One call.
#[derive(Debug)]
struct Call {
    asked: Asked,
    /// The newest revision that anybody had been told of when it began.
    known: u64,
    told: Option<Told>,
}

/// What a caller wants.
#[derive(Debug)]
pub enum Asked {
    /// A transaction. The value of each put is the number of the call.
    Write(Txn),
    /// The newest state of all keys.
    Read,
    /// The newest state of one key.
    Get(String),
}

/// What a caller hears.
#[derive(Debug)]
pub enum Told {
    /// It took effect.
    Written {
        /// The revision of the effect, or the newest one if there was none.
        revision: u64,
        /// Whether anything changed by it.
        changed: bool,
    },
    /// A condition did not hold.
    Conflict {
        /// The key of the condition.
        key: String,
        /// When the key was last written, if it is there.
        modified: Option<u64>,
    },
    /// A condition did not hold; how the key is instead was not said.
    Refused,
    /// The term that it was meant for is over.
    Deposed,
    /// The state of all keys.
    Read {
        /// The revision of the state.
        revision: u64,
        /// Keys, when each was last written, values.
        entries: Vec<(String, u64, Vec<u8>)>,
    },
    /// When the key was last written and its value, if it is there.
    Got(Option<(u64, Vec<u8>)>),
    /// Nobody knows what became of it, or nothing did.
    Nothing,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// Its new value, `None` for a deletion.
    pub value: Option<Vec<u8>>,
}

/// All calls and all changes of a run.
#[derive(Default)]
pub struct History {
    calls: Vec<Call>,
    /// The changes of each revision, as members published them.
    changes: BTreeMap<u64, Vec<Change>>,
    known: u64,
    /// The same counter numbers changes of keys that are not recorded.
    some_keys: bool,
}

impl History {
    /// A history in which only the changes of some keys are recorded: revisions
    /// may be missing between them.
    pub fn of_some_keys() -> Self {
        Self { some_keys: true, ..Self::default() }
    }

    /// The number of the next call.
    pub fn next_call(&self) -> usize {
        self.calls.len()
    }

    /// A call begins; its number.
    pub fn begin(&mut self, asked: Asked) -> usize {
        self.calls.push(Call { asked, known: self.known, told: None });
        self.calls.len() - 1
    }

    /// What a call is about.
    pub fn asked(&self, call: usize) -> &Asked {
        &self.calls[call].asked
    }

    /// The caller is told.
    pub fn tell(&mut self, call: usize, told: Told) {
        let shown = match &told {
            Told::Written { revision, .. } | Told::Read { revision, .. } => *revision,
            Told::Conflict { modified, .. } => modified.unwrap_or(0),
            Told::Got(found) => found.as_ref().map_or(0, |(revision, _)| *revision),
            Told::Refused | Told::Deposed | Told::Nothing => 0,
        };
        self.known = self.known.max(shown);
        self.calls[call].told = Some(told);
    }

    /// A member has published events; all must publish the same.
    pub fn publish(&mut self, events: &[Event]) -> Result<(), String> {
        for whole in events.chunk_by(|a, b| a.revision == b.revision) {
            self.happened(whole[0].revision.0, whole.iter().map(Change::of).collect())?;
        }
        Ok(())
    }

    /// Somebody has been told of all changes at one revision; everybody must be
    /// told the same.
    pub fn happened(&mut self, revision: u64, changes: Vec<Change>) -> Result<(), String> {
        // Only what is decided is told, so who asks from now on must see it.
        self.known = self.known.max(revision);
        match self.changes.get(&revision) {
            None => {
                self.changes.insert(revision, changes);
                Ok(())
            }
            Some(known) if *known == changes => Ok(()),
            Some(known) => Err(format!("revision {revision} is {changes:?} and {known:?}")),
        }
    }

    /// The newest revision published anywhere.
    pub fn newest(&self) -> u64 {
        self.changes.last_key_value().map_or(0, |(revision, _)| *revision)
    }

    /// How many calls were told of an effect.
    pub fn acknowledged(&self) -> usize {
        self.calls.iter().filter(|call| matches!(call.told, Some(Told::Written { .. }))).count()
    }

    /// Checks one stretch of a watch: what it told of keys with this prefix
    /// after one revision, until it had told of everything up to another.
    pub fn check_watch(
        &self,
        prefix: &str,
        after: u64,
        to: u64,
        told: &[(u64, Change)],
    ) -> Result<(), String> {
        let there_was: Vec<(u64, &Change)> = (self.changes.range(after + 1..to.max(after) + 1))
            .flat_map(|(revision, changes)| changes.iter().map(|change| (*revision, change)))
            .filter(|(_, change)| change.key.starts_with(prefix))
            .collect();
        if told.iter().map(|(revision, change)| (*revision, change)).eq(there_was.iter().copied()) {
            return Ok(());
        }
        Err(format!(
            "a watch of {prefix:?} told {told:?} after {after} and up to {to}, there was {there_was:?}"
        ))
    }

    /// Checks all calls, at the end of the run.
    pub fn check(&self) -> Result<(), String> {
        if !self.some_keys {
            for (revision, expected) in self.changes.keys().zip(1..) {
                if *revision != expected {
                    return Err(format!("revision {expected} is missing"));
                }
            }
        }
        let states = States::of(&self.changes);
        let mut deleted = Vec::new();
        let mut terms: BTreeMap<u64, u64> = BTreeMap::new();
        for (number, call) in self.calls.iter().enumerate() {
            let wrong =
                |why: String| Err(format!("call {number} {:?} {:?}: {why}", call.asked, call.told));
            match (&call.asked, &call.told) {
                (Asked::Write(txn), Some(Told::Written { revision, changed })) => {
                    if *revision > self.newest() || *revision < call.known + u64::from(*changed) {
                        return wrong(format!("{} was known before it began", call.known));
                    }
                    if let Err(why) = self.check_written(txn, *revision, *changed, &states) {
                        return wrong(why);
                    }
                    let is_delete = |write: &&Write| matches!(write, Write::Delete(_));
                    if *changed && txn.writes.iter().any(|write| is_delete(&write)) {
                        deleted.push(*revision);
                    }
                    for compare in &txn.compares {
                        if let Compare::Term(term) = compare {
                            terms.insert(*revision, *term);
                        }
                    }
                }
                (Asked::Write(txn), Some(Told::Conflict { key, modified })) => {
                    let Some(compare) = txn.compares.iter().find(|c| key_of(c) == Some(key)) else {
                        return wrong("it named no condition on that key".into());
                    };
                    if holds(compare, *modified) {
                        return wrong("the condition holds for what it was told".into());
                    }
                    if !states.ever(key, *modified, call.known) {
                        return wrong(format!("never so after revision {}", call.known));
                    }
                }
                (Asked::Write(txn), Some(Told::Refused)) => {
                    if !states.ever_refused(&txn.compares, call.known) {
                        return wrong(format!("all held at any time after {}", call.known));
                    }
                }
                (Asked::Get(key), Some(Told::Got(found))) => {
                    let modified = found.as_ref().map(|(revision, _)| *revision);
                    if !states.ever(key, modified, call.known) {
                        return wrong(format!("never so after revision {}", call.known));
                    }
                    if let Some((revision, value)) = found
                        && states.last(key, *revision).and_then(|(_, value)| value.as_ref())
                            != Some(value)
                    {
                        return wrong(format!("revision {revision} wrote another value"));
                    }
                }
                (Asked::Read, Some(Told::Read { revision, entries })) => {
                    let future = !self.some_keys && *revision > self.newest();
                    if *revision < call.known || future {
                        return wrong(format!("{} was known before it began", call.known));
                    }
                    if states.at(*revision) != *entries {
                        return wrong(format!("the state was {:?}", states.at(*revision)));
                    }
                }
                (Asked::Write(_), Some(Told::Deposed)) | (_, None | Some(Told::Nothing)) => {}
                (asked, told) => return wrong(format!("{asked:?} cannot bring {told:?}")),
            }
        }
        let mut order = terms.values();
        if !order.clone().is_sorted() {
            return Err(format!(
                "a deposed leader wrote: {:?}",
                order.by_ref().collect::<Vec<_>>()
            ));
        }
        deleted.sort_unstable();
        if let Some(twice) = deleted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("two calls were told of the deletion at revision {}", twice[0]));
        }
        self.check_owners(&deleted)
    }

    fn check_written(
        &self,
        txn: &Txn,
        revision: u64,
        changed: bool,
        states: &States,
    ) -> Result<(), String> {
        let before = if changed { revision - 1 } else { revision };
        for compare in &txn.compares {
            if let Some(key) = key_of(compare)
                && !holds(compare, states.modified(key, before))
            {
                return Err(format!("{compare:?} did not hold at revision {before}"));
            }
        }
        let mut expected = Vec::new();
        for write in &txn.writes {
            match write {
                Write::Put(key, draft) => {
                    let value = Some(draft.bytes.to_vec());
                    expected.push(Change { key: key.to_string(), value });
                }
                Write::Delete(key) if states.modified(key, before).is_some() => {
                    expected.push(Change { key: key.to_string(), value: None });
                }
                Write::Delete(_) => {}
            }
        }
        let none = Vec::new();
        let found = if changed { self.changes.get(&revision).unwrap_or(&none) } else { &none };
        if *found == expected { Ok(()) } else { Err(format!("revision {revision} is {found:?}")) }
    }

    /// Each change has a call that wanted it, and each call had its effect
    /// once. Values name the call that wrote them.
    fn check_owners(&self, acknowledged_deletes: &[u64]) -> Result<(), String> {
        let acknowledged: BTreeSet<u64> = acknowledged_deletes.iter().copied().collect();
        let mut written: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        let mut orphans: BTreeMap<&str, usize> = BTreeMap::new();
        for (revision, changes) in &self.changes {
            for change in changes {
                match &change.value {
                    Some(value) => {
                        let call = self.owner(value, *revision)?;
                        if let Some(before) = written.insert(value.clone(), *revision)
                            && before != *revision
                        {
                            return Err(format!(
                                "call {call} took effect at revisions {before} and {revision}"
                            ));
                        }
                    }
                    None if acknowledged.contains(revision) => {}
                    None => *orphans.entry(&change.key).or_default() += 1,
                }
            }
        }
        // Deletions without an answer carry no name; there cannot be more of
        // them than callers who asked.
        for (key, count) in orphans {
            let asked = self.calls.iter().filter(|call| {
                let told = matches!(call.told, None | Some(Told::Nothing));
                let deletes = |write: &Write| matches!(write, Write::Delete(k) if **k == *key);
                told && matches!(&call.asked, Asked::Write(txn) if txn.writes.iter().any(deletes))
            });
            let asked = asked.count();
            if count > asked {
                return Err(format!("{key} was deleted {count} times, {asked} asked for it"));
            }
        }
        Ok(())
    }

    /// The call that wrote `value`, which may have had an effect at `revision`.
    fn owner(&self, value: &[u8], revision: u64) -> Result<usize, String> {
        let number: usize = (std::str::from_utf8(value).ok())
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| format!("revision {revision} holds {value:?}, which nobody wrote"))?;
        let call = self.calls.get(number).ok_or_else(|| format!("there is no call {number}"))?;
        let may = match &call.told {
            Some(Told::Written { revision: told, changed }) => *changed && *told == revision,
            Some(Told::Nothing) | None => revision > call.known,
            Some(
                Told::Conflict { .. }
                | Told::Refused
                | Told::Deposed
                | Told::Read { .. }
                | Told::Got(_),
            ) => false,
        };
        if may {
            Ok(number)
        } else {
            Err(format!("call {number} was told {:?}, it has written {revision}", call.told))
        }
    }
}

impl Change {
    /// What an event of a watch says.
    pub fn of(event: &Event) -> Self {
        Self {
            key: event.key().to_string(),
            value: event.entry.as_ref().map(|entry| entry.value.to_vec()),
        }
    }
}

fn key_of(compare: &Compare) -> Option<&str> {
    match compare {
        Compare::Absent(key) | Compare::Unchanged(key, _) | Compare::Present(key) => Some(key),
        Compare::Term(_) => None,
    }
}

fn holds(compare: &Compare, modified: Option<u64>) -> bool {
    match compare {
        Compare::Absent(_) => modified.is_none(),
        Compare::Present(_) => modified.is_some(),
        Compare::Unchanged(_, expected) => modified == Some(expected.0),
        Compare::Term(_) => true,
    }
}

/// The life of one key: its changes, in order.
type Life = Vec<(u64, Option<Vec<u8>>)>;

/// The state at every revision.
struct States(BTreeMap<String, Life>);

impl States {
    fn of(changes: &BTreeMap<u64, Vec<Change>>) -> Self {
        let mut keys: BTreeMap<String, Life> = BTreeMap::new();
        for (revision, changes) in changes {
            for change in changes {
                let life = keys.entry(change.key.clone()).or_default();
                life.push((*revision, change.value.clone()));
            }
        }
        Self(keys)
    }

    fn last(&self, key: &str, revision: u64) -> Option<&(u64, Option<Vec<u8>>)> {
        let life = self.0.get(key)?;
        life[..life.partition_point(|(at, _)| *at <= revision)].last()
    }

    /// When the key was written last, if it lives at `revision`.
    fn modified(&self, key: &str, revision: u64) -> Option<u64> {
        self.last(key, revision).filter(|(_, value)| value.is_some()).map(|(at, _)| *at)
    }

    /// When the key was written last, at `from` and after each later change.
    fn since(&self, key: &str, from: u64) -> impl Iterator<Item = Option<u64>> {
        let life = self.0.get(key).map_or(&[][..], Vec::as_slice);
        let later = &life[life.partition_point(|(at, _)| *at <= from)..];
        std::iter::once(self.modified(key, from))
            .chain(later.iter().map(|(at, value)| value.is_some().then_some(*at)))
    }

    /// Whether the key was so at some revision from `from` on.
    fn ever(&self, key: &str, modified: Option<u64>, from: u64) -> bool {
        self.since(key, from).any(|was| was == modified)
    }

    /// Whether one of the conditions did not hold at some revision from `from` on.
    fn ever_refused(&self, compares: &[Compare], from: u64) -> bool {
        compares.iter().any(|compare| {
            key_of(compare).is_some_and(|key| self.since(key, from).any(|was| !holds(compare, was)))
        })
    }

    /// All live keys.
    fn at(&self, revision: u64) -> Vec<(String, u64, Vec<u8>)> {
        (self.0.keys())
            .filter_map(|key| {
                let (at, value) = self.last(key, revision)?;
                Some((key.clone(), *at, value.clone()?))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
