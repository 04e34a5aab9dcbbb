//! Proposals: who waits for which batch, and when a batch is known to be lost.
//!
//! Transactions that wait together become one batch, the content of one log
//! entry. A leader proposes it itself; any other member forwards it to the
//! leader it knows, for the term it knows; without a leader it waits.
//!
//! Only the leader of the term that a batch was meant for may propose it, and
//! in the log every entry of a term comes before every entry of a later one. So
//! as soon as an entry of a later term is applied and the batch was not among
//! those before it, it can never take effect, and is proposed again in the new
//! term, unchanged: a caller sees a slow write instead of an error. It is in the
//! log at most once at any time.
//!
//! A batch that is lost on its way while the term goes on (a connection broke)
//! cannot be told from a slow one. So it is sent again after a while, under the
//! same number, and the leader proposes no number twice: a leader that forgets
//! its numbers has lost its term as well. Callers that wait in vain hear in the
//! end that their write may still take effect.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::numbers::Numbers;
use super::{Core, Done, Ticket};
use crate::log::LogStore;
use crate::members::{Proposal, Refusal};
use crate::types::StoreError;
use crate::wire;
use crate::wire::peer::{Forward, Payload, PeerMessage};

/// Bytes of transactions in one log entry.
const MAX_BATCH_BYTES: usize = 1 << 20;

/// Bytes of proposals that wait, in the log or for a leader. Above it new ones
/// are refused.
const MAX_WAITING_BYTES: usize = 64 << 20;

/// Ticks after which a forwarded proposal is sent again for the first time; from
/// then on each wait is twice the last. Longer than a loaded group takes, and a
/// few times within the patience of ten seconds.
const SEND_AGAIN: u64 = 10;

/// A batch or a change of members with its callers.
#[derive(Debug)]
struct Waiting {
    payload: Payload,
    tickets: Vec<Ticket>,
    /// The tick at which its callers are told that nobody knows.
    until: u64,
    /// The term in which it was proposed or forwarded last.
    term: Option<u64>,
    /// How it was forwarded in that term.
    sent: Option<Sent>,
}

/// A proposal on its way to the leader.
#[derive(Debug)]
struct Sent {
    number: u64,
    /// The tick at which it is sent again, and the wait after that.
    again: u64,
    wait: u64,
}

/// All that was proposed here and has not come back.
#[derive(Debug)]
pub(super) struct Proposals {
    run: u64,
    patience: u64,
    next_seq: u64,
    waiting: BTreeMap<u64, Waiting>,
    bytes: usize,
    /// Batches that no leader has been told of, in order.
    idle: VecDeque<u64>,
    /// Number of the last message with a proposal.
    forwarded: u64,
    /// A leader's memory: the numbers from each run in `taken_term`.
    taken: HashMap<u64, Numbers>,
    taken_term: u64,
}

impl Proposals {
    pub(super) fn new(run: u64, patience: u64) -> Self {
        Self {
            run,
            patience,
            next_seq: 0,
            waiting: BTreeMap::new(),
            bytes: 0,
            idle: VecDeque::new(),
            forwarded: 0,
            taken: HashMap::new(),
            taken_term: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn add(&mut self, payload: impl FnOnce(u64, u64) -> Payload, tickets: Vec<Ticket>, now: u64) {
        let seq = self.next_seq;
        self.next_seq += 1;
        let payload = payload(self.run, seq);
        self.bytes += payload.len();
        let until = now + self.patience;
        self.waiting.insert(seq, Waiting { payload, tickets, until, term: None, sent: None });
        self.idle.push_back(seq);
    }

    fn take(&mut self, seq: u64) -> Option<Waiting> {
        let waiting = self.waiting.remove(&seq)?;
        self.bytes -= waiting.payload.len();
        Some(waiting)
    }

    /// The callers of a proposal that came back in the log; nobody for those of
    /// other members and other runs.
    pub(super) fn committed(&mut self, origin: u64, seq: u64) -> Vec<Ticket> {
        if origin != self.run {
            return Vec::new();
        }
        self.take(seq).map_or_else(Vec::new, |waiting| waiting.tickets)
    }

    /// Whether a forwarded proposal is new in this term.
    fn is_new(&mut self, term: u64, run: u64, number: u64) -> bool {
        if self.taken_term != term {
            self.taken.clear();
            self.taken_term = term;
        }
        #[cfg(test)]
        if crate::sim::planted::is_planted(crate::sim::planted::Fault::RepeatForwards) {
            return true;
        }
        !self.taken.get(&run).is_some_and(|numbers| numbers.contains(number))
    }

    /// A forwarded proposal need not come again in this term.
    fn took(&mut self, run: u64, number: u64) {
        self.taken.entry(run).or_default().insert(number);
    }
}

impl Payload {
    fn len(&self) -> usize {
        let (Self::Batch(data) | Self::Change(data)) = self;
        data.len()
    }
}

impl<L: LogStore> Core<L> {
    /// Proposes encoded transactions, as few log entries as their size allows.
    pub(crate) fn propose(&mut self, txns: Vec<(Ticket, Vec<u8>)>) {
        let mut batch = Vec::new();
        let mut bytes = 0;
        for (ticket, txn) in txns {
            if self.proposals.bytes + bytes > MAX_WAITING_BYTES {
                let error = StoreError::Unavailable("too many writes are waiting".into());
                self.answers.push((ticket, Err(error)));
                continue;
            }
            if !batch.is_empty() && bytes + txn.len() > MAX_BATCH_BYTES {
                self.add_batch(std::mem::take(&mut batch));
                bytes = 0;
            }
            bytes += txn.len();
            batch.push((ticket, txn));
        }
        if !batch.is_empty() {
            self.add_batch(batch);
        }
        self.hand_out();
    }

    fn add_batch(&mut self, batch: Vec<(Ticket, Vec<u8>)>) {
        let (tickets, txns): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        let encode = |run, seq| {
            Payload::Batch(wire::encode_batch(run, seq, txns.iter().map(Vec::as_slice)).into())
        };
        self.proposals.add(encode, tickets, self.ticks);
    }

    /// Proposes a change of members.
    pub(crate) fn change(&mut self, ticket: Option<Ticket>, change: crate::members::Change) {
        let encode =
            |origin, seq| Payload::Change(Proposal { origin, seq, change }.encode().into());
        self.proposals.add(encode, ticket.into_iter().collect(), self.ticks);
        self.hand_out();
    }

    /// Gives what waits to the leader, whoever it is.
    pub(super) fn hand_out(&mut self) {
        let term = self.group.term();
        let leads = self.group.is_raft_leader();
        let leader = self.group.leadership().leader;
        while let Some(seq) = self.proposals.idle.front().copied() {
            let Some(waiting) = self.proposals.waiting.get_mut(&seq) else {
                self.proposals.idle.pop_front();
                continue;
            };
            if leads {
                let result = match &waiting.payload {
                    Payload::Batch(data) => self.group.propose(data.clone()),
                    Payload::Change(data) => {
                        let data = data.clone();
                        self.proposals.idle.pop_front();
                        waiting.term = Some(term);
                        if let Err(refusal) = self.propose_change(&data) {
                            self.refused(seq, refusal);
                        }
                        continue;
                    }
                };
                // Dropped: too much is on its way already, or the leadership
                // is. Tried again with the next tick.
                if result.is_err() {
                    return;
                }
            } else if let Some(leader) = leader {
                self.proposals.forwarded += 1;
                let (number, run) = (self.proposals.forwarded, self.proposals.run);
                let again = self.ticks + SEND_AGAIN;
                waiting.sent = Some(Sent { number, again, wait: 2 * SEND_AGAIN });
                let payload = waiting.payload.clone();
                let forward = Forward { term, run, number, seq, payload };
                self.outbox.push((leader, PeerMessage::Forward(forward)));
            } else {
                return;
            }
            waiting.term = Some(term);
            self.proposals.idle.pop_front();
        }
    }

    /// Sends the leader once more what it may not have got. In another term it
    /// is another leader, and [`Core::lost_before`] decides.
    fn send_again(&mut self) {
        let (term, now) = (self.group.term(), self.ticks);
        let Some(leader) = self.group.leadership().leader.filter(|_| !self.group.is_raft_leader())
        else {
            return;
        };
        for (seq, waiting) in &mut self.proposals.waiting {
            let Some(sent) = waiting.sent.as_mut().filter(|_| waiting.term == Some(term)) else {
                continue;
            };
            if sent.again > now {
                continue;
            }
            sent.again = now + sent.wait;
            sent.wait *= 2;
            let (number, run, payload) = (sent.number, self.proposals.run, waiting.payload.clone());
            let forward = Forward { term, run, number, seq: *seq, payload };
            self.outbox.push((leader, PeerMessage::Forward(forward)));
        }
    }

    /// Another member forwards a proposal. What this member may not propose is
    /// dropped: its sender finds out by the term.
    pub(super) fn forwarded(&mut self, from: u64, forward: Forward) {
        let Forward { term, run, number, seq, payload } = forward;
        if !self.group.is_raft_leader() || term != self.group.term() {
            return;
        }
        if !self.proposals.is_new(term, run, number) {
            return;
        }
        match payload {
            Payload::Batch(data) => match self.group.propose(data) {
                Ok(()) => self.proposals.took(run, number),
                // It is in no log, and welcome when it comes again.
                Err(error) => tracing::debug!(%error, from, "a forwarded batch is dropped"),
            },
            Payload::Change(data) => {
                // Whatever becomes of it: its sender may have been told that it
                // was refused, and then it must not take effect later.
                self.proposals.took(run, number);
                if let Err(refusal) = self.propose_change(&data) {
                    self.outbox.push((from, PeerMessage::Refused { seq, refusal }));
                }
            }
        }
    }

    /// The leader has not proposed a change of members.
    pub(super) fn refused(&mut self, seq: u64, refusal: Refusal) {
        let is_change = |waiting: &Waiting| matches!(waiting.payload, Payload::Change(_));
        if !self.proposals.waiting.get(&seq).is_some_and(is_change) {
            return;
        }
        if let Some(waiting) = self.proposals.take(seq) {
            fail(&mut self.answers, waiting.tickets, &refusal.into());
        }
    }

    /// An entry of `term` is being applied: what was meant for an earlier term
    /// and has not come back is lost.
    pub(super) fn lost_before(&mut self, term: u64) {
        let lost: Vec<u64> = (self.proposals.waiting.iter())
            .filter(|(_, waiting)| waiting.term.is_some_and(|meant| meant < term))
            .map(|(seq, _)| *seq)
            .collect();
        for seq in lost {
            let Some(waiting) = self.proposals.waiting.get_mut(&seq) else { continue };
            match waiting.payload {
                Payload::Batch(_) => {
                    (waiting.term, waiting.sent) = (None, None);
                    self.proposals.idle.push_back(seq);
                }
                // It was decided about a group that may have changed.
                Payload::Change(_) => self.refused(seq, Refusal::for_now("the leader changed")),
            }
        }
    }

    /// Offers again what waits for a leader, or may be lost on its way to it, and
    /// gives up what has waited too long, or has nobody to wait for.
    pub(super) fn retry_proposals(&mut self) {
        self.hand_out();
        self.send_again();
        let (now, hopeless) = (self.ticks, self.is_hopeless());
        let late: Vec<u64> = (self.proposals.waiting.iter())
            .filter(|(_, waiting)| waiting.until <= now || (hopeless && waiting.term.is_none()))
            .map(|(seq, _)| *seq)
            .collect();
        for seq in late {
            let Some(waiting) = self.proposals.take(seq) else { continue };
            let reason = match (waiting.term, self.leadership.leader) {
                (None, None) => "there is no leader",
                _ => "no answer from the group in time, the write may still take effect",
            };
            fail(&mut self.answers, waiting.tickets, &StoreError::Unavailable(reason.into()));
        }
    }

    /// Forgets who waited, after a snapshot has jumped over what they waited
    /// for: nobody can tell any more what became of it.
    pub(super) fn skip_proposals(&mut self) {
        let told: Vec<u64> = (self.proposals.waiting.iter())
            .filter(|(_, waiting)| waiting.term.is_some())
            .map(|(seq, _)| *seq)
            .collect();
        let error = StoreError::Unavailable(
            "this member fell behind, the write may have taken effect".into(),
        );
        for seq in told {
            let Some(waiting) = self.proposals.take(seq) else { continue };
            fail(&mut self.answers, waiting.tickets, &error);
        }
    }
}

fn fail(
    answers: &mut Vec<(Ticket, Result<Done, StoreError>)>,
    tickets: Vec<Ticket>,
    error: &StoreError,
) {
    answers.extend(tickets.into_iter().map(|ticket| (ticket, Err(error.clone()))));
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn each_number_is_new_once_in_a_term() {
        let mut proposals = Proposals::new(1, 10);
        let cases = [
            (5, 7, 1, true),
            (5, 7, 1, false),
            (5, 7, 3, true),
            (5, 7, 2, true),
            (5, 7, 2, false),
            (5, 8, 1, true),
            (6, 7, 3, true),
            (6, 7, 3, false),
        ];
        for (term, run, number, expected) in cases {
            assert_eq!(proposals.is_new(term, run, number), expected, "{term} {run} {number}");
            // What was not taken stays new.
            assert_eq!(proposals.is_new(term, run, number), expected, "{term} {run} {number}");
            proposals.took(run, number);
        }
    }

    #[test]
    fn only_callers_of_this_run_are_found() {
        let mut proposals = Proposals::new(1, 10);
        proposals.add(|_, _| Payload::Batch(Bytes::from_static(b"x")), vec![4, 5], 0);
        assert!(proposals.committed(2, 0).is_empty());
        assert_eq!(proposals.committed(1, 0), [4, 5]);
        assert!(proposals.committed(1, 0).is_empty());
        assert!(proposals.is_empty() && proposals.bytes == 0);
    }
}
