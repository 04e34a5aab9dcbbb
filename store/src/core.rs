//! The core of a member: Raft, the state machine and everything between them,
//! without a clock, a thread, a socket or randomness of its own.
//!
//! Calls bring what happens outside: [`Core::tick`] (100 ms have passed),
//! [`Core::step`] (a message has come), [`Core::propose`], [`Core::read`],
//! [`Core::change`] (a caller asks). They only note it. [`Core::turn`] then does
//! all that can be done, and hands what must leave the member to an
//! [`Outside`], in order: messages to send, answers to give. Log and saved
//! state sit behind [`LogStore`] and [`StateKeeper`]. The same calls with the
//! same seed do the same again.
//!
//! The parts: `proposals` knows who waits for which batch and when a batch is
//! lost or sent again, `reads` asks Raft whether a read is current, `snapshots`
//! carries the state to a member that is too far behind, `tail` says how much
//! log is kept for one that is merely slow, `membership` changes the group.
//!
//! An error of a turn is final: the caller drops the core and ends the process.

mod membership;
mod numbers;
mod proposals;
mod reads;
pub(crate) mod snapshots;
mod tail;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use raft::eraftpb::{Entry, EntryType, HardState, Message, MessageType};

use crate::group::{Group, Progress, Turn};
use crate::keeper::StateKeeper;
use crate::log::{LogError, LogStore, Position};
use crate::machine::{Machine, Outcome};
use crate::members::{Contact, Members};
use crate::sealing::Sealer;
use crate::types::{Committed, Compare, Event, Leadership, StoreError, Txn};
use crate::view::{Applied, Shared, Snapshot};
use crate::wire;
use crate::wire::peer::{PeerMessage, travels};
use proposals::Proposals;
use reads::Reads;
use snapshots::{Received, Receiving, Sendings};
use tail::Tail;

/// How much time a tick stands for.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// Ticks without a leader after which callers no longer wait for one: a few
/// elections. They may find one at another member.
const LEADERLESS: u64 = 30;

/// Names a caller's request until its answer.
pub(crate) type Ticket = u64;

/// What a request came to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Done {
    /// The transaction is durable and applied.
    Committed(Committed),
    /// The published state holds everything acknowledged before the question.
    Readable,
    /// The group has changed; which member it was about.
    Changed(u64),
}

/// The world around a core: where its effects go, in order.
pub(crate) trait Outside {
    /// Monotonic time since some start. Only for the age of history and for
    /// measuring; nothing is decided by it.
    fn now(&self) -> Duration;

    /// Sends a message, or loses it.
    fn send(&mut self, to: u64, message: PeerMessage);

    /// Answers a request. Each gets one answer.
    fn answer(&mut self, ticket: Ticket, result: Result<Done, StoreError>);
}

/// What a core is made of.
pub(crate) struct CoreParts<L> {
    pub(crate) member: u64,
    /// A number that no other run of any member has: it tells this run's
    /// batches from those of earlier runs in the same log.
    pub(crate) run: u64,
    /// Decides the election timeouts.
    pub(crate) seed: u64,
    /// Ticks that a request waits for the group before it is answered with an
    /// error.
    pub(crate) patience: u64,
    /// Where this member is found, if it has peers.
    pub(crate) contact: Option<Contact>,
    pub(crate) log: L,
    pub(crate) machine: Machine,
    pub(crate) applied: Applied,
    pub(crate) keeper: Box<dyn StateKeeper>,
    /// Log kept in a group for slow followers, in bytes, although a saved state
    /// covers it.
    pub(crate) kept_log_bytes: u64,
    pub(crate) sealer: Arc<Sealer>,
    /// Where the applied state is published for readers and watches.
    pub(crate) shared: Arc<Shared>,
}

/// A member of the group.
pub(crate) struct Core<L: LogStore> {
    member: u64,
    group: Group<L>,
    machine: Machine,
    applied: Applied,
    keeper: Box<dyn StateKeeper>,
    tail: Tail,
    sealer: Arc<Sealer>,
    shared: Arc<Shared>,
    contact: Option<Contact>,
    /// Ticks since the start.
    ticks: u64,
    proposals: Proposals,
    reads: Reads,
    sendings: Sendings,
    receiving: Option<Receiving>,
    received: Option<Received>,
    leadership: Leadership,
    /// The tick since which nobody leads.
    leaderless: Option<u64>,
    /// The tick at which a leader was last heard.
    heard: u64,
    /// This member has left the group, by a change that it or another one has
    /// applied.
    removed: bool,
    /// The tick at which this member last tried to change the group by itself.
    housekept: Option<u64>,
    outbox: Vec<(u64, PeerMessage)>,
    answers: Vec<(Ticket, Result<Done, StoreError>)>,
}

impl<L: LogStore> Core<L> {
    /// A member with what it remembers.
    pub(crate) fn new(parts: CoreParts<L>) -> Result<Self, StoreError> {
        let CoreParts { member, log, applied, .. } = parts;
        let group = Group::new(member, log, applied.position.index, &applied.members, parts.seed)
            .map_err(fatal)?;
        let removed = applied.members.has_removed(member);
        Ok(Self {
            member,
            group,
            machine: parts.machine,
            tail: Tail::new(parts.kept_log_bytes, applied.position),
            applied,
            keeper: parts.keeper,
            sealer: parts.sealer,
            shared: parts.shared,
            contact: parts.contact,
            ticks: 0,
            proposals: Proposals::new(parts.run, parts.patience),
            reads: Reads::new(parts.run, parts.patience),
            sendings: Sendings::default(),
            receiving: None,
            received: None,
            leadership: Leadership::default(),
            leaderless: Some(0),
            heard: 0,
            removed,
            housekept: None,
            outbox: Vec::new(),
            answers: Vec::new(),
        })
    }

    /// Applies what the log holds, and campaigns if this member is the only
    /// voter. On return a group of one leads, and knows where it is found.
    pub(crate) fn start(&mut self, outside: &mut impl Outside) -> Result<(), StoreError> {
        // Raft does not campaign while it has a change of members to apply.
        self.turn(outside)?;
        if self.applied.members.voters == [self.member] && self.applied.members.is_single() {
            self.group.campaign().map_err(fatal)?;
        }
        self.turn(outside)?;
        self.keep_house();
        self.turn(outside)
    }

    /// Whether time matters. A group of one that leads and has nothing to do
    /// needs none.
    pub(crate) fn needs_ticks(&self) -> bool {
        let rests =
            self.proposals.is_empty() && self.reads.is_empty() && !self.wants_housekeeping();
        !(self.is_alone() && self.leadership.is_leader && rests)
    }

    /// Whether it has been too long without a leader to wait for one.
    fn is_hopeless(&self) -> bool {
        self.leaderless.is_some_and(|since| self.ticks >= since + LEADERLESS)
    }

    /// Whether nobody follows, now or soon.
    fn is_alone(&self) -> bool {
        let members = self.members();
        members.is_single() && members.learners.is_empty()
    }

    /// A [`TICK`] has passed.
    pub(crate) fn tick(&mut self) {
        self.ticks += 1;
        self.group.tick();
        self.retry_proposals();
        self.retry_reads();
        self.tend_snapshots();
        self.keep_house();
        self.knock();
        *self.shared.followers() = self.group.followers();
    }

    /// A message has come from another member.
    pub(crate) fn step(&mut self, from: u64, message: PeerMessage) {
        match message {
            PeerMessage::Raft(message) if !travels(message.get_msg_type()) => {}
            PeerMessage::Raft(message) => {
                if is_of_a_leader(message.get_msg_type()) {
                    self.heard = self.ticks;
                }
                if message.get_msg_type() == MessageType::MsgSnapshot {
                    self.offered(from, *message);
                } else {
                    self.group.step(*message);
                }
            }
            PeerMessage::Forward(forward) => self.forwarded(from, forward),
            PeerMessage::Refused { seq, refusal } => self.refused(seq, refusal),
            PeerMessage::Pull { position, after } => self.pulled(from, position, after),
            PeerMessage::Chunk { position, after, records, last } => {
                self.chunk(from, position, after, records, last);
            }
            PeerMessage::Knock => self.knocked(from),
            PeerMessage::Removed { position } => self.turned_away(from, position),
        }
    }

    /// Messages to `id` are being lost.
    pub(crate) fn unreachable(&mut self, id: u64) {
        self.group.unreachable(id);
    }

    /// Does everything that can be done now.
    pub(crate) fn turn(&mut self, outside: &mut impl Outside) -> Result<(), StoreError> {
        loop {
            while self.group.has_turn() {
                let mut effects = Effects {
                    outside: &mut *outside,
                    member: self.member,
                    applied: &self.applied,
                    machine: &self.machine,
                    shared: &self.shared,
                    keeper: &mut *self.keeper,
                    sendings: &mut self.sendings,
                    received: &mut self.received,
                    ticks: self.ticks,
                    sync_began: Duration::ZERO,
                    failed: Vec::new(),
                };
                let progress = self.group.turn(&mut effects).map_err(fatal)?;
                let failed = effects.failed;
                self.digest(progress, outside)?;
                failed.into_iter().for_each(|id| self.group.snapshot_failed(id));
            }
            self.follow_leadership();
            if !self.group.has_turn() {
                break;
            }
        }
        for (to, message) in self.outbox.drain(..) {
            outside.send(to, message);
        }
        for (ticket, answer) in self.answers.drain(..) {
            outside.answer(ticket, answer);
        }
        let (log_bytes, state_bytes) = (self.group.log().bytes(), self.machine.bytes());
        let covered = self.keeper.follow(state_bytes, log_bytes, self.applied.position)?;
        if let Some(covered) = covered {
            let kept = self.tail.cut(covered);
            let cut = if self.is_alone() { covered } else { kept };
            self.group.truncate(cut).map_err(fatal)?;
            self.shared.counters.snapshot_index.store(covered.index, Ordering::Relaxed);
        }
        self.shared.counters.log_bytes.store(self.group.log().bytes(), Ordering::Relaxed);
        if self.removed { Err(StoreError::Removed) } else { Ok(()) }
    }

    /// Saves what can be saved and ends in peace.
    pub(crate) fn close(&mut self) -> Result<(), StoreError> {
        self.keeper.close()?;
        self.group.close().map_err(fatal)
    }

    /// Applies, publishes, answers.
    fn digest(&mut self, progress: Progress, outside: &mut impl Outside) -> Result<(), StoreError> {
        if let Some(position) = progress.restored {
            self.restored(position);
        }
        if !progress.committed.is_empty() {
            let mut answers = Vec::new();
            let mut events = Vec::new();
            for entry in &progress.committed {
                self.apply(entry, &mut answers, &mut events)?;
                self.keeper.note(entry.data.len() as u64);
                self.tail.note(self.applied.position, entry.data.len() as u64);
            }
            self.publish(events, outside.now(), false);
            self.group.applied(self.applied.position.index);
            self.shared.counters.transactions.fetch_add(answers.len() as u64, Ordering::Relaxed);
            // Nobody is answered before the state is published: callers read
            // their own writes.
            for (ticket, answer) in answers {
                outside.answer(ticket, answer);
            }
        }
        self.reads.answered(progress.reads);
        for ticket in self.reads.readable(self.applied.position.index) {
            outside.answer(ticket, Ok(Done::Readable));
        }
        // The next question, for those who came while one was on its way.
        self.ask();
        self.hand_out();
        Ok(())
    }

    fn apply(
        &mut self,
        entry: &Entry,
        answers: &mut Vec<(Ticket, Result<Done, StoreError>)>,
        events: &mut Vec<Vec<Arc<Event>>>,
    ) -> Result<(), StoreError> {
        let before = self.applied.position;
        self.applied.position = Position { index: entry.index, term: entry.term };
        if entry.term > before.term {
            self.lost_before(entry.term);
        }
        match entry.get_entry_type() {
            EntryType::EntryNormal => {}
            EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                return self.apply_change(entry, answers);
            }
        }
        // A new leader begins its term with an empty entry.
        if entry.data.is_empty() {
            return Ok(());
        }
        let batch = wire::decode_batch(&entry.data, &self.sealer)
            .map_err(|error| StoreError::Damaged(format!("log entry {}: {error}", entry.index)))?;
        let mut tickets = self.proposals.committed(batch.origin, batch.seq).into_iter();
        for txn in batch.txns {
            let answer = apply_txn(&mut self.machine, txn, entry.term).map(|outcome| {
                if !outcome.events.is_empty() {
                    events.push(outcome.events);
                }
                Done::Committed(outcome.committed)
            });
            if let Some(ticket) = tickets.next() {
                answers.push((ticket, answer));
            }
        }
        Ok(())
    }

    /// Publishes the applied state. After a jump the history begins anew.
    fn publish(&mut self, events: Vec<Vec<Arc<Event>>>, now: Duration, jumped: bool) {
        self.shared.counters.last_index.store(self.group.log().last_index(), Ordering::Relaxed);
        let revision = self.machine.revision();
        let changed = !Arc::ptr_eq(&self.shared.view().applied.members, &self.applied.members);
        {
            let mut view = self.shared.view_mut();
            for events in events {
                view.history.push(events, now);
            }
            if jumped {
                view.history.drop_through(revision);
            }
            view.snapshot = Snapshot::new(self.machine.entries().clone(), revision);
            view.digest = self.machine.digest();
            view.bytes = self.machine.bytes();
            view.applied = self.applied.clone();
        }
        self.shared
            .newest_tx
            .send_if_modified(|newest| std::mem::replace(newest, revision) != revision);
        if changed {
            self.shared.members_tx.send_modify(|count| *count += 1);
        }
    }

    fn follow_leadership(&mut self) {
        let leadership = self.group.leadership();
        if leadership == self.leadership {
            return;
        }
        let before = std::mem::replace(&mut self.leadership, leadership);
        self.shared.leadership_tx.send_replace(leadership);
        if before.leader.is_some() != leadership.leader.is_some() {
            self.leaderless = leadership.leader.is_none().then_some(self.ticks);
        }
        if (before.term, before.leader) != (leadership.term, leadership.leader) {
            self.retry_proposals();
            self.retry_reads();
        }
        if !self.group.is_raft_leader() {
            self.sendings.clear();
        }
    }
}

impl<L: LogStore> std::fmt::Debug for Core<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("member", &self.member)
            .field("ticks", &self.ticks)
            .field("proposals", &self.proposals)
            .field("reads", &self.reads)
            .finish_non_exhaustive()
    }
}

/// Applies a transaction of a log entry of `term`.
pub(crate) fn apply_txn(machine: &mut Machine, txn: Txn, term: u64) -> Result<Outcome, StoreError> {
    // The entry's term is the same on every member, so all refuse alike.
    for compare in &txn.compares {
        if let Compare::Term(meant) = compare
            && *meant != term
        {
            return Err(StoreError::Deposed { term: *meant });
        }
    }
    machine
        .apply(txn)
        .map_err(|refusal| StoreError::Conflict { key: refusal.key, current: refusal.current })
}

/// What one turn of the group may touch.
struct Effects<'a, O> {
    outside: &'a mut O,
    member: u64,
    applied: &'a Applied,
    machine: &'a Machine,
    shared: &'a Shared,
    keeper: &'a mut dyn StateKeeper,
    sendings: &'a mut Sendings,
    received: &'a mut Option<Received>,
    ticks: u64,
    sync_began: Duration,
    /// Members whose snapshot cannot be sent.
    failed: Vec<u64>,
}

impl<L: LogStore, O: Outside> Turn<L> for Effects<'_, O> {
    fn send(&mut self, mut message: Message) {
        let to = message.to;
        if message.get_msg_type() == MessageType::MsgSnapshot {
            let position = snapshots::position(&message);
            if position != self.applied.position {
                self.failed.push(to);
                return;
            }
            let meta = snapshots::summary(self.applied, self.machine);
            message.mut_snapshot().data = crate::state::encode_meta(&meta).into();
            self.sendings.begin(to, position, self.machine.entries().clone(), self.ticks);
        }
        debug_assert_ne!(to, self.member);
        self.outside.send(to, PeerMessage::Raft(Box::new(message)));
    }

    fn syncing(&mut self) {
        self.sync_began = self.outside.now();
    }

    fn synced(&mut self) {
        let took = self.outside.now().saturating_sub(self.sync_began);
        self.shared.counters.synced(took);
    }

    fn restore(
        &mut self,
        log: &mut L,
        position: Position,
        hard_state: &HardState,
    ) -> Result<Members, LogError> {
        let received = self
            .received
            .as_ref()
            .filter(|received| received.meta.applied.position == position)
            .ok_or_else(|| LogError::Damaged("a snapshot without its content".into()))?;
        let failure =
            |error: StoreError| LogError::Io { doing: "replaced", reason: error.to_string() };
        self.keeper.receive(&received.meta, received.machine.entries()).map_err(failure)?;
        log.reset(position, hard_state)?;
        self.keeper.adopt().map_err(failure)?;
        Ok(received.meta.applied.members.as_ref().clone())
    }
}

/// Whether only a leader sends this.
fn is_of_a_leader(kind: MessageType) -> bool {
    matches!(kind, MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot)
}

fn fatal(error: LogError) -> StoreError {
    match error {
        LogError::Damaged(_) => StoreError::Damaged(error.to_string()),
        LogError::Io { .. } => StoreError::Disk(error.to_string()),
    }
}
