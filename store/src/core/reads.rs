//! Reads that must see everything acknowledged before them, on any member.
//!
//! Raft is asked from which index on the state is current; when that index has
//! been applied here, the published state is the answer. One question is on its
//! way at a time and serves all who asked before it was sent; whoever comes
//! later waits for the next one. Every question has its own context, and a
//! silent one is repeated: Raft drops questions without a word while nobody
//! leads or the leader has not committed in its term.

use super::{Core, Ticket};
use crate::group::Read;
use crate::log::LogStore;
use crate::types::StoreError;

/// Ticks after which a silent question is asked again.
const RETRY_TICKS: u64 = 3;

/// Somebody who waits, until a tick.
struct Waiting {
    ticket: Ticket,
    until: u64,
}

/// A question on its way.
struct Asked {
    context: Vec<u8>,
    at: u64,
    waiting: Vec<Waiting>,
}

/// All reads that wait.
pub(super) struct Reads {
    run: u64,
    patience: u64,
    next: u64,
    gathering: Vec<Waiting>,
    asked: Option<Asked>,
    /// Answered by Raft; readable once this index is applied.
    current: Vec<(u64, Vec<Waiting>)>,
}

impl Reads {
    pub(super) fn new(run: u64, patience: u64) -> Self {
        let (gathering, current) = (Vec::new(), Vec::new());
        Self { run, patience, next: 0, gathering, asked: None, current }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.gathering.is_empty() && self.asked.is_none() && self.current.is_empty()
    }

    /// The context of the next question, if one should be asked now.
    fn question(&mut self, now: u64) -> Option<Vec<u8>> {
        match &mut self.asked {
            None if self.gathering.is_empty() => return None,
            Some(asked) if now < asked.at + RETRY_TICKS => return None,
            _ => {}
        }
        self.next += 1;
        let mut context = self.run.to_le_bytes().to_vec();
        context.extend_from_slice(&self.next.to_le_bytes());
        // A repeated question answers those who came meanwhile as well.
        let mut waiting = self.asked.take().map_or_else(Vec::new, |asked| asked.waiting);
        waiting.append(&mut self.gathering);
        self.asked = Some(Asked { context: context.clone(), at: now, waiting });
        Some(context)
    }

    /// Raft has answered. Answers to questions that were repeated meanwhile are
    /// not needed any more.
    pub(super) fn answered(&mut self, reads: Vec<Read>) {
        for read in reads {
            if let Some(asked) = self.asked.take_if(|asked| asked.context == read.context) {
                self.current.push((read.index, asked.waiting));
            }
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
        self.asked.take_if(|asked| asked.waiting.is_empty());
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

    /// Asks again what was not answered, and gives up who has waited too long.
    pub(super) fn retry_reads(&mut self) {
        self.ask();
        for ticket in self.reads.late(self.ticks) {
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
        reads.answered(answer(first, 1));
        assert!(reads.readable(9).is_empty(), "an answer to the old question");
        assert!(reads.late(9).is_empty());
        assert_eq!(reads.late(10), [1]);
        reads.answered(answer(second, 1));
        assert!(reads.readable(9).is_empty() && reads.is_empty());
    }
}
