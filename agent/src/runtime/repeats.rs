//! Log lines that Docker hands out twice.
//!
//! A reader that follows a log may get the first lines of a file again: engines
//! before 23 open the file once more when they learn late that the log was
//! rotated. A time that a stream of the container has had before tells such a
//! line, for Docker gives each its own.
//!
//! Left out: terminals, whose pieces Docker does not keep apart, and a file that
//! begins inside a line of many pieces, which share one time.

use std::collections::VecDeque;

use bytes::Bytes;
use jiff::Timestamp;

use super::Output;

/// How many pieces of each stream are remembered: about a file of them, which
/// takes 512 KiB. What was longer ago is taken for new, so that nothing is ever
/// lost.
const REMEMBERED: usize = 1 << 16;

/// Length of Docker's times: `2026-01-01T00:00:00.000000000Z` and a blank.
const TIME: usize = 31;

/// What a follower has seen of a log, and whether it is to see the times.
#[derive(Debug)]
pub(super) struct Repeats {
    timestamps: bool,
    stdout: Seen,
    stderr: Seen,
}

impl Repeats {
    /// Nothing was seen yet.
    pub(super) fn new(timestamps: bool) -> Self {
        Self { timestamps, stdout: Seen::default(), stderr: Seen::default() }
    }

    /// A piece that begins with its time, if it is new, as the follower wants it.
    pub(super) fn pass(&mut self, piece: Output) -> Option<Output> {
        let (seen, bytes) = match &piece {
            Output::Stdout(bytes) => (&mut self.stdout, bytes),
            Output::Stderr(bytes) => (&mut self.stderr, bytes),
        };
        let Some(time) = time(bytes) else { return Some(piece) };
        if !seen.is_new(time, bytes.ends_with(b"\n")) {
            return None;
        }
        Some(match piece {
            piece if self.timestamps => piece,
            Output::Stdout(bytes) => Output::Stdout(bytes.slice(TIME..)),
            Output::Stderr(bytes) => Output::Stderr(bytes.slice(TIME..)),
        })
    }
}

/// A time in nanoseconds since 1970.
type Nanoseconds = i64;

fn time(bytes: &Bytes) -> Option<Nanoseconds> {
    let (time, blank) = bytes.get(..TIME)?.split_at(TIME - 1);
    if blank != b" " {
        return None;
    }
    let time: Timestamp = std::str::from_utf8(time).ok()?.parse().ok()?;
    time.as_nanosecond().try_into().ok()
}

/// What was seen of one stream.
#[derive(Debug, Default)]
struct Seen {
    /// The times of its last pieces, which ascend.
    times: VecDeque<Nanoseconds>,
    /// Whether the last one left its line open.
    open: bool,
    /// Which of `times` comes next while pieces come again.
    again: Option<usize>,
}

impl Seen {
    fn is_new(&mut self, time: Nanoseconds, ends_line: bool) -> bool {
        if let Some(next) = self.again.take()
            && self.times.get(next) == Some(&time)
        {
            self.again = Some(next + 1);
            return false;
        }
        if self.times.back().is_some_and(|last| time <= *last) {
            let first = self.times.partition_point(|known| *known < time);
            if self.times.get(first) != Some(&time) {
                // The clock was set back.
                self.times.clear();
            } else if !self.open || self.times.back() != Some(&time) {
                self.again = Some(first + 1);
                return false;
            }
        }
        if self.times.len() == REMEMBERED {
            self.times.pop_front();
        }
        self.times.push_back(time);
        self.open = !ends_line;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pieces that pass, of `SECOND TEXT`; `+` at the end leaves a line open.
    fn passed(pieces: &[&str]) -> Vec<String> {
        let mut repeats = Repeats::new(false);
        let pieces = pieces.iter().filter_map(|piece| {
            let (at, text) = piece.split_once(' ').unwrap();
            let ending = if text.ends_with('+') { "" } else { "\n" };
            let time = format!("{:.9}", Timestamp::from_second(at.parse().unwrap()).unwrap());
            let bytes = Bytes::from(format!("{time} {text}{ending}"));
            repeats.pass(if text.starts_with('e') {
                Output::Stderr(bytes)
            } else {
                Output::Stdout(bytes)
            })
        });
        let text = |piece| match piece {
            Output::Stdout(bytes) | Output::Stderr(bytes) => {
                String::from_utf8(bytes.to_vec()).unwrap().trim_end().to_owned()
            }
        };
        pieces.map(text).collect()
    }

    #[test]
    fn what_came_before_does_not_come_again() {
        let cases: [(&str, &[&str], &[&str]); 8] = [
            ("each once", &["1 a", "2 b"], &["a", "b"]),
            ("the last line", &["1 a", "2 b", "2 b", "3 c"], &["a", "b", "c"]),
            ("some lines", &["1 a", "2 b", "3 c", "2 b", "3 c", "4 d"], &["a", "b", "c", "d"]),
            ("twice", &["1 a", "2 b", "1 a", "1 a", "2 b", "3 c"], &["a", "b", "c"]),
            ("streams have times of their own", &["2 a", "1 e", "3 b"], &["a", "e", "b"]),
            ("pieces share a time", &["1 a+", "1 a+", "1 a", "2 b"], &["a+", "a+", "a", "b"]),
            (
                "they come again inside the line",
                &["1 a", "2 b+", "2 c+", "1 a", "2 b+", "2 c+", "2 d"],
                &["a", "b+", "c+", "d"],
            ),
            (
                "and from its middle on",
                &["1 a", "2 b+", "2 c", "3 d", "2 c", "3 d", "4 f"],
                &["a", "b+", "c", "d", "f"],
            ),
        ];
        for (name, pieces, expected) in cases {
            assert_eq!(passed(pieces), expected, "{name}");
        }
    }

    #[test]
    fn a_clock_that_is_set_back_hides_nothing() {
        let pieces = ["10 a", "20 b", "30 c", "11 d", "12 f", "12 f", "20 g", "31 h"];
        assert_eq!(passed(&pieces), ["a", "b", "c", "d", "f", "g", "h"]);
    }

    #[test]
    fn memory_has_an_end_and_what_is_forgotten_passes() {
        let mut seen = Seen::default();
        let many = i64::try_from(REMEMBERED).unwrap() + 1;
        assert!((0..many).all(|at| seen.is_new(at, true)));
        assert_eq!(seen.times.len(), REMEMBERED);
        assert!(!seen.is_new(1, true), "the oldest that is remembered");
        assert!(seen.is_new(0, true));
    }

    #[test]
    fn times_are_shown_to_who_asked_and_what_has_none_passes() {
        let line = Output::Stdout("2026-01-01T00:00:00.000000001Z a\n".into());
        assert_eq!(Repeats::new(true).pass(line.clone()), Some(line.clone()));
        assert_eq!(Repeats::new(false).pass(line), Some(Output::Stdout("a\n".into())));
        for odd in ["", "a\n", "2026-01-01T00:00:00.000000001Z", "2026-01-01T00:00:00.0000000001 a"]
        {
            let odd = Output::Stderr(odd.into());
            assert_eq!(Repeats::new(false).pass(odd.clone()), Some(odd));
        }
    }
}
