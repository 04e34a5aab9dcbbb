//! How much log is kept for a member that is merely slow.
//!
//! A saved state lets all log before it go. A follower that is a moment behind
//! would then need the whole state for the sake of a few entries. So members of
//! a group keep the entries just before a saved state, up to a number of bytes;
//! all of them do, because any may come to lead. Who is further behind gets a
//! snapshot.
//!
//! What an entry takes is known when it is applied. Remembered are a few places
//! of the log with what was applied up to each; the cut is made at one of them.

use std::collections::VecDeque;

use crate::log::Position;

/// Places remembered within the bytes that are kept.
const MARKS: u64 = 16;

/// Places of the log, and bytes applied up to them.
#[derive(Debug)]
pub(super) struct Tail {
    /// Most bytes that are kept.
    bytes: u64,
    /// Oldest first.
    marks: VecDeque<(Position, u64)>,
    /// Where the log has been applied to.
    end: (Position, u64),
}

impl Tail {
    /// Nothing before `applied` is kept.
    pub(super) fn new(bytes: u64, applied: Position) -> Self {
        let end = (applied, 0);
        Self { bytes, marks: VecDeque::from([end]), end }
    }

    /// An entry was applied.
    pub(super) fn note(&mut self, position: Position, bytes: u64) {
        self.end = (position, self.end.1 + bytes);
        let last = self.marks.back().map_or(0, |mark| mark.1);
        if self.end.1 - last >= (self.bytes / MARKS).max(1) {
            self.marks.push_back(self.end);
        }
    }

    /// The log begins anew after `position`.
    pub(super) fn restart(&mut self, position: Position) {
        *self = Self::new(self.bytes, position);
    }

    /// Where to cut a log whose entries up to `covered` are saved.
    pub(super) fn cut(&mut self, covered: Position) -> Position {
        let after = self.marks.iter().find(|mark| mark.0.index >= covered.index);
        let upto = after.map_or(self.end.1, |mark| mark.1);
        let kept = |mark: &(Position, u64)| upto - mark.1 <= self.bytes;
        let before = |mark: &&(Position, u64)| mark.0.index <= covered.index;
        let Some((cut, _)) = self.marks.iter().filter(before).find(|mark| kept(mark)).copied()
        else {
            return covered;
        };
        self.marks.retain(|mark| mark.0.index >= cut.index);
        cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64) -> Position {
        Position { index, term: 2 }
    }

    /// Entries 11 to 100 of ten bytes each.
    fn applied(bytes: u64) -> Tail {
        let mut tail = Tail::new(bytes, at(10));
        (11..=100).for_each(|index| tail.note(at(index), 10));
        tail
    }

    #[test]
    fn as_much_is_kept_as_may_be() {
        let cases = [
            ("nothing is kept", 0, 60, 60),
            ("less than an entry", 5, 60, 60),
            ("ten entries", 100, 60, 50),
            ("up to the end", 100, 100, 90),
            ("never what was not there at the start", 10_000, 60, 10),
            ("a state from before the start", 100, 5, 5),
            // Marks are 40 bytes apart: what is kept may be less, never more.
            ("between two marks", 640, 100, 38),
        ];
        for (name, bytes, covered, expected) in cases {
            let cut = applied(bytes).cut(at(covered));
            assert_eq!(cut, at(expected), "{name}");
            assert!((covered - cut.index) * 10 <= bytes.max(10), "{name}: no more than allowed");
        }
    }

    #[test]
    fn old_places_are_forgotten() {
        let mut tail = applied(100);
        assert_eq!(tail.cut(at(60)), at(50));
        assert_eq!(tail.cut(at(60)), at(50), "again");
        assert_eq!(tail.marks.front().map(|mark| mark.0), Some(at(50)));
        tail.restart(at(500));
        tail.note(at(501), 10);
        assert_eq!(tail.cut(at(501)), at(500));
        assert!(tail.marks.len() <= 2);
    }
}
