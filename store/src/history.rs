//! The history window: the newest events, in order, for watches to follow.
//!
//! One ring holds every recent event once; a watch is only a place in it. A
//! slow watcher therefore costs nothing while it lags, and learns that it fell
//! out of the window (`Compacted`) instead of losing an event silently.
//!
//! Events older than the window's age are dropped when new ones arrive, so an
//! idle store drops nothing and wakes nobody. A byte bound stands above the
//! age: a burst shortens the window rather than filling the memory. The values
//! that events keep alive are those already replaced, so those are counted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::types::{Event, KeyRange, Revision, StoreError};

/// What an event with its entry takes beside values, counted towards the byte
/// bound.
const EVENT_OVERHEAD: usize = 320;

/// Events kept whatever their age, so that a quiet cluster can always resume.
const ALWAYS_KEPT: usize = 1000;

/// The events after `floor` up to `newest`, complete and in order.
#[derive(Debug)]
pub(crate) struct History {
    ring: VecDeque<(Duration, Arc<Event>)>,
    floor: Revision,
    newest: Revision,
    bytes: usize,
    max_age: Duration,
    max_bytes: usize,
}

/// What a watcher has not seen yet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) events: Vec<Arc<Event>>,
    /// Everything up to here has been looked at.
    pub(crate) seen: Revision,
}

impl History {
    /// An empty window whose next event is the one after `revision`.
    pub(crate) fn new(revision: Revision, max_age: Duration, max_bytes: usize) -> Self {
        Self {
            ring: VecDeque::new(),
            floor: revision,
            newest: revision,
            bytes: 0,
            max_age,
            max_bytes,
        }
    }

    /// Adds the events of one transaction at time `now`.
    pub(crate) fn push(&mut self, events: Vec<Arc<Event>>, now: Duration) {
        for event in events {
            debug_assert!(event.revision >= self.newest, "events arrive in order");
            self.newest = event.revision;
            self.bytes += event_bytes(&event);
            self.ring.push_back((now, event));
        }
        self.trim(now);
    }

    fn trim(&mut self, now: Duration) {
        while let Some((at, event)) = self.ring.front() {
            let too_old = self.ring.len() > ALWAYS_KEPT && now.saturating_sub(*at) > self.max_age;
            // The newest revision stays whole, however large it is.
            if !(too_old || self.bytes > self.max_bytes) || event.revision == self.newest {
                break;
            }
            // A revision leaves as a whole: half of one would be a gap.
            let floor = event.revision;
            self.drop_through(floor);
        }
    }

    /// Forgets every event up to and including `revision`.
    pub(crate) fn drop_through(&mut self, revision: Revision) {
        while let Some((_, event)) =
            self.ring.front().filter(|(_, event)| event.revision <= revision)
        {
            self.bytes -= event_bytes(event);
            self.ring.pop_front();
        }
        self.floor = self.floor.max(revision);
        self.newest = self.newest.max(revision);
    }

    /// Goes on to a revision that changed nothing here.
    pub(crate) fn reach(&mut self, revision: Revision) {
        self.newest = self.newest.max(revision);
    }

    /// A bug on purpose: the oldest event is gone, and nobody can tell.
    #[cfg(test)]
    pub(crate) fn lose_oldest(&mut self) {
        if let Some((_, event)) = self.ring.pop_front() {
            self.bytes -= event_bytes(&event);
        }
    }

    /// The revision from which the oldest resume is possible.
    pub(crate) fn floor(&self) -> Revision {
        self.floor
    }

    /// Where the window would begin if it kept at most `max` bytes.
    pub(crate) fn floor_within(&self, max: usize) -> Revision {
        let mut bytes = 0;
        let cut = self.ring.iter().rev().find(|(_, event)| {
            bytes += event_bytes(event);
            bytes > max
        });
        // A revision that does not fit as a whole is left out as a whole.
        cut.map_or(self.floor, |(_, event)| event.revision)
    }

    /// Bytes that the window keeps alive.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of events in the window.
    pub(crate) fn len(&self) -> usize {
        self.ring.len()
    }

    /// Whether a watch may start after `revision`.
    pub(crate) fn check(&self, revision: Revision) -> Result<(), StoreError> {
        if revision < self.floor {
            return Err(StoreError::Compacted { wanted: revision, oldest: self.floor });
        }
        if revision > self.newest {
            return Err(StoreError::Future { wanted: revision, newest: self.newest });
        }
        Ok(())
    }

    /// The next events of `range` after `after`, at most about `max` looked at
    /// in one go, never a part of a revision.
    pub(crate) fn page(
        &self,
        range: &KeyRange,
        after: Revision,
        max: usize,
    ) -> Result<Page, StoreError> {
        self.check(after)?;
        let mut page = Page { events: Vec::new(), seen: after };
        for (looked_at, event) in self.after(after).enumerate() {
            if looked_at >= max && event.revision != page.seen {
                return Ok(page);
            }
            if range.contains(event.key()) {
                page.events.push(event.clone());
            }
            page.seen = event.revision;
        }
        page.seen = self.newest;
        Ok(page)
    }

    /// Events from `newest` back to, but without, `oldest`: newest first, about
    /// `max` of them, never a part of a revision.
    pub(crate) fn before(
        &self,
        newest: Revision,
        oldest: Revision,
        max: usize,
    ) -> Result<Vec<Arc<Event>>, StoreError> {
        self.check(oldest)?;
        let end = self.ring.partition_point(|(_, event)| event.revision <= newest);
        let mut step: Vec<Arc<Event>> = Vec::new();
        for (_, event) in self.ring.range(..end).rev() {
            let whole = step.last().is_none_or(|last| last.revision != event.revision);
            if event.revision <= oldest || (whole && step.len() >= max) {
                break;
            }
            step.push(event.clone());
        }
        Ok(step)
    }

    /// Events after `revision`, oldest first. The caller has checked it.
    pub(crate) fn after(&self, revision: Revision) -> impl Iterator<Item = &Arc<Event>> {
        let start = self.ring.partition_point(|(_, event)| event.revision <= revision);
        self.ring.range(start..).map(|(_, event)| event)
    }
}

fn event_bytes(event: &Event) -> usize {
    EVENT_OVERHEAD + event.previous.as_ref().map_or(0, |previous| previous.value.len())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::types::{Entry, Key};

    const SECOND: Duration = Duration::from_secs(1);

    fn event(revision: u64, key: &str, replaced_bytes: usize) -> Arc<Event> {
        let entry = |len: usize, modified: u64| {
            Arc::new(Entry {
                key: Key::from(key),
                value: Bytes::from(vec![0; len]),
                created: Revision(1),
                modified: Revision(modified),
                sealed: false,
            })
        };
        let previous = (replaced_bytes > 0).then(|| entry(replaced_bytes, revision - 1));
        Arc::new(Event { revision: Revision(revision), entry: Some(entry(1, revision)), previous })
    }

    fn revisions(page: &Page) -> Vec<u64> {
        page.events.iter().map(|event| event.revision.0).collect()
    }

    #[test]
    fn pages_are_whole_revisions_in_order() {
        let mut history = History::new(Revision(10), SECOND, 1 << 20);
        for revision in 11..=20 {
            // Three events each, one of another range.
            let events = vec![
                event(revision, "a/1", 0),
                event(revision, "b/1", 0),
                event(revision, "a/2", 0),
            ];
            history.push(events, Duration::ZERO);
        }
        let a = KeyRange::prefix("a/");
        let cases = [
            (
                "from the floor, in one go",
                10,
                100,
                Ok((20, (11..=20).flat_map(|r| [r, r]).collect())),
            ),
            ("at most four looked at: two revisions", 10, 4, Ok((12, vec![11, 11, 12, 12]))),
            ("at most one looked at: still a whole one", 17, 1, Ok((18, vec![18, 18]))),
            ("the end", 20, 100, Ok((20, vec![]))),
            (
                "before the floor",
                9,
                100,
                Err("revision 9 has been compacted, the oldest one kept is 10"),
            ),
            ("the future", 21, 100, Err("revision 21 has not been reached, the newest one is 20")),
        ];
        for (name, after, max, expected) in cases {
            let observed = history.page(&a, Revision(after), max);
            let observed = observed
                .as_ref()
                .map(|page| (page.seen.0, revisions(page)))
                .map_err(ToString::to_string);
            assert_eq!(observed, expected.map_err(str::to_string), "{name}");
        }
    }

    #[test]
    fn paging_through_sees_each_event_once() {
        let mut history = History::new(Revision(0), SECOND, 1 << 20);
        for revision in 1..=50 {
            history.push(
                (0..revision % 4 + 1).map(|n| event(revision, &format!("k{n}"), 0)).collect(),
                SECOND,
            );
        }
        for max in [1, 2, 3, 7, 1000] {
            let (mut seen, mut all) = (Revision(0), Vec::new());
            while seen < Revision(50) {
                let page = history.page(&KeyRange::all(), seen, max).unwrap();
                assert!(page.seen > seen);
                seen = page.seen;
                all.extend(page.events);
            }
            let expected: Vec<_> = history.after(Revision(0)).cloned().collect();
            assert_eq!(all, expected, "pages of {max}");
        }
    }

    #[test]
    fn age_shortens_the_window_but_keeps_the_newest_thousand() {
        let mut history = History::new(Revision(0), 10 * SECOND, 1 << 30);
        for revision in 1..=1500 {
            history.push(vec![event(revision, "a", 0)], Duration::ZERO);
        }
        assert_eq!((history.len(), history.floor()), (1500, Revision(0)), "young");
        history.push(vec![event(1501, "a", 0)], 10 * SECOND);
        assert_eq!(history.len(), 1501, "just in time");
        history.push(vec![event(1502, "a", 0)], 11 * SECOND);
        assert_eq!((history.len(), history.floor()), (1000, Revision(502)), "old");
    }

    #[test]
    fn bytes_shorten_the_window_by_whole_revisions() {
        let mut history = History::new(Revision(0), SECOND, 10_000);
        assert_eq!(history.floor_within(0), Revision(0), "empty");
        for revision in 1..=100 {
            history
                .push(vec![event(revision, "a", 500), event(revision, "b", 500)], Duration::ZERO);
            assert!(history.bytes() <= 10_000);
        }
        assert_eq!(history.len() % 2, 0);
        assert_eq!(
            history.after(history.floor()).next().unwrap().revision,
            Revision(history.floor().0 + 1)
        );
        let newest = 2 * (500 + EVENT_OVERHEAD);
        assert_eq!(history.floor_within(newest), Revision(99), "one revision fits");
        assert_eq!(history.floor_within(newest - 1), Revision(100), "half of one does not");
        assert_eq!(history.floor_within(1 << 20), history.floor(), "everything fits");
        // A single change larger than the window is still given out.
        history.push(vec![event(101, "a", 50_000)], Duration::ZERO);
        assert_eq!((history.len(), history.floor()), (1, Revision(100)));
    }

    #[test]
    fn walking_back_gives_whole_revisions_newest_first() {
        let mut history = History::new(Revision(0), SECOND, 1 << 20);
        for revision in 1..=5 {
            history.push(vec![event(revision, "a", 0), event(revision, "b", 0)], SECOND);
        }
        let step = |newest, oldest, max| -> Vec<u64> {
            let step = history.before(Revision(newest), Revision(oldest), max).unwrap();
            step.iter().map(|event| event.revision.0).collect()
        };
        assert_eq!(step(5, 3, 100), [5, 5, 4, 4]);
        assert_eq!(step(5, 0, 3), [5, 5, 4, 4]);
        assert_eq!(step(3, 3, 100), [0u64; 0]);
    }
}
