//! Reads that must see everything acknowledged before them, on any member.
//!
//! Raft is asked from which index on the state is current; when that index has
//! been applied here, the published state is the answer. One question is on its
//! way at a time and serves all who asked before it was sent; whoever comes
//! later waits for the next one. Every question has its own context, and beside
//! a silent one another is asked: Raft drops questions without a word while nobody
//! leads or the leader has not committed in its term.

use std::collections::VecDeque;

use super::{Core, Ticket};
use crate::group::Read;
use crate::log::LogStore;
use crate::types::StoreError;

/// Ticks after which a silent question is asked again.
const RETRY_TICKS: u64 = 3;

/// Somebody who waits, until a tick.
#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    until: u64,
}

/// A question on its way, with those who came since the one before it.
#[derive(Debug)]
struct Asked {
    context: Vec<u8>,
    at: u64,
    waiting: Vec<Waiting>,
}

/// All reads that wait.
#[derive(Debug)]
pub(super) struct Reads {
    run: u64,
    patience: u64,
    next: u64,
    gathering: Vec<Waiting>,
    /// Oldest first; more than one only while the answers are slow to come.
    asked: VecDeque<Asked>,
    /// Answered by Raft; readable once this index is applied.
    current: Vec<(u64, Vec<Waiting>)>,
}

impl Reads {
    pub(super) fn new(run: u64, patience: u64) -> Self {
        let (gathering, asked, current) = (Vec::new(), VecDeque::new(), Vec::new());
        Self { run, patience, next: 0, gathering, asked, current }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.gathering.is_empty() && self.asked.is_empty() && self.current.is_empty()
    }

    /// The context of the next question, if one should be asked now.
    fn question(&mut self, now: u64) -> Option<Vec<u8>> {
        match self.asked.back() {
            None if self.gathering.is_empty() => return None,
            Some(asked) if now < asked.at + RETRY_TICKS => return None,
            _ => {}
        }
        self.next += 1;
        let mut context = self.run.to_le_bytes().to_vec();
        context.extend_from_slice(&self.next.to_le_bytes());
        let waiting = std::mem::take(&mut self.gathering);
        self.asked.push_back(Asked { context: context.clone(), at: now, waiting });
        Some(context)
    }

    /// Raft has answered. An answer serves all who asked before its question
    /// was sent: also those of the questions before it, which may be lost.
    pub(super) fn answered(&mut self, reads: Vec<Read>) {
        for read in reads {
            let Some(last) = self.asked.iter().position(|asked| asked.context == read.context)
            else {
                continue;
            };
            let waiting = self.asked.drain(..=last).flat_map(|asked| asked.waiting).collect();
            self.current.push((read.index, waiting));
        }
    }

    /// Takes those who may read now that `applied` is applied.
    pub(super) fn readable(&mut self, applied: u64) -> Vec<Ticket> {
        let mut tickets = Vec::new();
        self.current.retain_mut(|(index, waiting)| {
            if *index > applied {
                return true;
            }
            tickets.extend(waiting.drain(..).map(|waiting| waiting.ticket));
            false
        });
        tickets
    }

    /// Takes those who have waited too long.
    fn late(&mut self, now: u64) -> Vec<Ticket> {
        let mut late = Vec::new();
        let mut sift = |waiting: &mut Vec<Waiting>| {
            waiting.retain(|waiting| {
                let keep = waiting.until > now;
                if !keep {
                    late.push(waiting.ticket);
                }
                keep
            });
        };
        sift(&mut self.gathering);
        self.asked.iter_mut().for_each(|asked| sift(&mut asked.waiting));
        self.current.iter_mut().for_each(|(_, waiting)| sift(waiting));
        self.current.retain(|(_, waiting)| !waiting.is_empty());
        if self.asked.iter().all(|asked| asked.waiting.is_empty()) {
            self.asked.clear();
        }
        late
    }
}

impl<L: LogStore> Core<L> {
    /// Callers ask for a state that holds everything acknowledged before.
    pub(crate) fn read(&mut self, tickets: Vec<Ticket>) {
        let until = self.ticks + self.reads.patience;
        self.reads.gathering.extend(tickets.into_iter().map(|ticket| Waiting { ticket, until }));
        self.ask();
    }

    /// Sends the next question, if it is time.
    pub(super) fn ask(&mut self) {
        if let Some(context) = self.reads.question(self.ticks) {
            self.group.read_index(context);
        }
    }

    /// Asks again what was not answered, and gives up who has waited too long, or
    /// has nobody to wait for.
    pub(super) fn retry_reads(&mut self) {
        self.ask();
        let now = if self.is_hopeless() { u64::MAX } else { self.ticks };
        for ticket in self.reads.late(now) {
            let error = StoreError::Unavailable("no leader confirms the read".into());
            self.answers.push((ticket, Err(error)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(context: Vec<u8>, index: u64) -> Vec<Read> {
        vec![Read { index, context }]
    }

    #[test]
    fn one_question_serves_all_who_asked_before_it() {
        let mut reads = Reads::new(1, 10);
        let add = |reads: &mut Reads, ticket| {
            reads.gathering.push(Waiting { ticket, until: 10 });
        };
        assert_eq!(reads.question(0), None, "nobody asks");
        add(&mut reads, 1);
        add(&mut reads, 2);
        let first = reads.question(0).unwrap();
        add(&mut reads, 3);
        assert_eq!(reads.question(0), None, "one at a time");
        reads.answered(answer(first, 5));
        assert!(reads.readable(4).is_empty(), "not applied yet");
        assert_eq!(reads.readable(5), [1, 2]);
        let second = reads.question(0).unwrap();
        reads.answered(answer(second, 5));
        assert_eq!(reads.readable(5), [3]);
        assert!(reads.is_empty());
    }

    #[test]
    fn silence_is_met_with_a_new_question_and_then_an_error() {
        let mut reads = Reads::new(1, 10);
        reads.gathering.push(Waiting { ticket: 1, until: 10 });
        let first = reads.question(0).unwrap();
        assert_eq!(reads.question(RETRY_TICKS - 1), None);
        let second = reads.question(RETRY_TICKS).unwrap();
        assert_ne!(first, second);
        assert!(reads.late(9).is_empty());
        assert_eq!(reads.late(10), [1]);
        reads.answered(answer(first, 1));
        reads.answered(answer(second, 1));
        assert!(reads.readable(9).is_empty() && reads.is_empty());
    }

    #[test]
    fn a_late_answer_serves_those_who_asked_before_its_question() {
        let mut reads = Reads::new(1, 100);
        let ask = |reads: &mut Reads, ticket, now| {
            reads.gathering.push(Waiting { ticket, until: 100 });
            reads.question(now).unwrap()
        };
        let first = ask(&mut reads, 1, 0);
        let second = ask(&mut reads, 2, RETRY_TICKS);
        let third = ask(&mut reads, 3, 2 * RETRY_TICKS);
        reads.answered(answer(first, 5));
        assert_eq!(reads.readable(5), [1], "the others came after that question");
        // The second answer is lost, the third serves both.
        reads.answered(answer(third, 5));
        assert_eq!(reads.readable(5), [2, 3]);
        reads.answered(answer(second, 5));
        assert!(reads.readable(5).is_empty() && reads.is_empty());
    }
}
