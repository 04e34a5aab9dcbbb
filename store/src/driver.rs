//! The driver: the one thread that writes.
//!
//! It takes everything that waits in the queue, makes one log entry of it, has
//! it saved by one `fdatasync`, applies it, publishes the new state and answers
//! the callers, in this order. A single caller waits for nobody; under load
//! the next batch gathers while the disk is busy with the last (group commit).
//!
//! A plain thread, because it waits for the disk: it would hold up other tasks
//! of an asynchronous worker. When nothing is queued it sleeps without a timer.
//!
//! Whatever fails here fails for good. The driver then stops, every caller gets
//! [`StoreError::Disk`] and [`Store::failed`](crate::Store::failed) fires, so
//! that the process ends instead of serving from a store that cannot remember.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use raft::eraftpb::{Entry, EntryType};
use tokio::sync::{mpsc, oneshot};

use crate::group::{Group, Progress};
use crate::keeper::Keeper;
use crate::log::{LogError, LogStore, Position};
use crate::machine::Machine;
use crate::sealing::Sealer;
use crate::types::{Committed, Event, Leadership, StoreError};
use crate::view::{Applied, Shared, Snapshot};
use crate::wire;

/// Requests that wait for the driver. When it is full, callers wait.
pub(crate) const QUEUE: usize = 4096;

/// Bytes of transactions in one log entry, and requests taken in one round.
const MAX_BATCH_BYTES: usize = 1 << 20;
const MAX_ROUND: usize = 4096;
const MAX_ROUND_BYTES: usize = 16 << 20;

/// Log that a store in memory keeps.
const MEMORY_LOG_BYTES: u64 = 1 << 20;

/// The answer to a transaction.
pub(crate) type Reply = oneshot::Sender<Result<Committed, StoreError>>;

/// Who waits for the end.
pub(crate) type Closer = oneshot::Sender<Result<(), StoreError>>;

/// What callers ask of the driver.
pub(crate) enum Request {
    /// An encoded transaction.
    Commit { txn: Vec<u8>, reply: Reply },
    /// A snapshot that holds everything acknowledged before the question.
    Read { reply: oneshot::Sender<Result<Snapshot, StoreError>> },
    /// Save what can be saved and stop.
    Close { reply: Closer },
}

/// What the driver cannot know by itself and a simulation provides.
pub(crate) struct Outside {
    /// Monotonic time since some start.
    pub(crate) clock: Box<dyn Fn() -> Duration + Send>,
    /// A number that no other run of any member has: it tells this run's
    /// batches from those of earlier runs in the same log.
    pub(crate) run: u64,
}

/// Callers of one proposed batch.
struct Pending {
    seq: u64,
    replies: Vec<Reply>,
}

/// Readers that wait for one read index.
struct Reading {
    context: u64,
    replies: Vec<oneshot::Sender<Result<Snapshot, StoreError>>>,
}

/// The writing side of a store.
pub(crate) struct Driver<L: LogStore> {
    group: Group<L>,
    machine: Machine,
    applied: Applied,
    sealer: Arc<Sealer>,
    shared: Arc<Shared>,
    /// None in memory.
    keeper: Option<Keeper>,
    outside: Outside,
    next_seq: u64,
    pending: VecDeque<Pending>,
    reading: Vec<Reading>,
    leadership: Leadership,
}

/// What a round of requests wants.
#[derive(Default)]
struct Round {
    txns: Vec<(Vec<u8>, Reply)>,
    reads: Vec<oneshot::Sender<Result<Snapshot, StoreError>>>,
    close: Option<Closer>,
    bytes: usize,
}

impl Round {
    fn add(&mut self, request: Request) {
        match request {
            Request::Commit { txn, reply } => {
                self.bytes += txn.len();
                self.txns.push((txn, reply));
            }
            Request::Read { reply } => self.reads.push(reply),
            Request::Close { reply } => self.close = Some(reply),
        }
    }

    fn is_full(&self) -> bool {
        self.close.is_some()
            || self.txns.len() + self.reads.len() >= MAX_ROUND
            || self.bytes >= MAX_ROUND_BYTES
    }
}

impl<L: LogStore> Driver<L> {
    pub(crate) fn new(
        group: Group<L>,
        machine: Machine,
        applied: Applied,
        sealer: Arc<Sealer>,
        shared: Arc<Shared>,
        keeper: Option<Keeper>,
        outside: Outside,
    ) -> Self {
        Self {
            group,
            machine,
            applied,
            sealer,
            shared,
            keeper,
            outside,
            next_seq: 0,
            pending: VecDeque::new(),
            reading: Vec::new(),
            leadership: Leadership::default(),
        }
    }

    /// Campaigns and applies what the log holds. A group of one leads on
    /// return.
    pub(crate) fn start(&mut self) -> Result<(), StoreError> {
        if self.applied.members.voters.len() == 1 {
            self.group.campaign().map_err(fatal)?;
        }
        self.settle()
    }

    /// Serves requests until asked to close or all handles are gone. Returns
    /// how it ended and who waits for the end, to be answered once this driver
    /// is dropped and every file closed.
    pub(crate) fn run(
        &mut self,
        requests: &mut mpsc::Receiver<Request>,
    ) -> (Result<(), StoreError>, Option<Closer>) {
        let mut closer = None;
        while closer.is_none() {
            let Some(first) = requests.blocking_recv() else { break };
            let mut round = Round::default();
            round.add(first);
            while !round.is_full() {
                match requests.try_recv() {
                    Ok(request) => round.add(request),
                    Err(_) => break,
                }
            }
            self.propose(round.txns);
            self.ask(round.reads);
            closer = round.close;
            if let Err(error) = self.settle() {
                return (Err(error), closer);
            }
        }
        (self.finish(), closer)
    }

    fn finish(&mut self) -> Result<(), StoreError> {
        if let Some(keeper) = self.keeper.take() {
            keeper.close()?;
        }
        self.group.close().map_err(fatal)
    }

    /// Proposes transactions, as few log entries as their size allows.
    fn propose(&mut self, txns: Vec<(Vec<u8>, Reply)>) {
        let mut batch = Vec::new();
        let mut bytes = 0;
        for (txn, reply) in txns {
            if !batch.is_empty() && bytes + txn.len() > MAX_BATCH_BYTES {
                self.propose_batch(std::mem::take(&mut batch));
                bytes = 0;
            }
            bytes += txn.len();
            batch.push((txn, reply));
        }
        if !batch.is_empty() {
            self.propose_batch(batch);
        }
    }

    fn propose_batch(&mut self, batch: Vec<(Vec<u8>, Reply)>) {
        let seq = self.next_seq;
        self.next_seq += 1;
        let data =
            wire::encode_batch(self.outside.run, seq, batch.iter().map(|(txn, _)| txn.as_slice()));
        let replies = batch.into_iter().map(|(_, reply)| reply).collect();
        match self.group.propose(data) {
            Ok(()) => self.pending.push_back(Pending { seq, replies }),
            Err(dropped) => fail(replies, &StoreError::Unavailable(dropped.to_string())),
        }
    }

    /// Asks Raft whether reads may be answered. One question serves all that
    /// wait.
    fn ask(&mut self, replies: Vec<oneshot::Sender<Result<Snapshot, StoreError>>>) {
        if replies.is_empty() {
            return;
        }
        if !self.leadership.is_leader {
            let error = StoreError::Unavailable("this member does not lead".into());
            for reply in replies {
                let _ = reply.send(Err(error.clone()));
            }
            return;
        }
        let context = self.next_seq;
        self.next_seq += 1;
        self.group.read_index(context.to_le_bytes().to_vec());
        self.reading.push(Reading { context, replies });
    }

    /// Lets Raft finish everything it can.
    fn settle(&mut self) -> Result<(), StoreError> {
        while self.group.has_turn() {
            let started = (self.outside.clock)();
            let progress = self.group.turn().map_err(fatal)?;
            if progress.synced {
                let took = (self.outside.clock)().saturating_sub(started);
                self.shared.counters.synced(took);
            }
            self.digest(progress)?;
        }
        self.follow_leadership();
        let covered = match &mut self.keeper {
            Some(keeper) => keeper.follow(self.machine.bytes())?,
            // Without a disk nothing is replayed, so nothing needs the log.
            None => (self.group.log().bytes() > MEMORY_LOG_BYTES).then_some(self.applied.position),
        };
        if let Some(covered) = covered {
            self.group.truncate(covered).map_err(fatal)?;
            self.shared.counters.snapshot_index.store(covered.index, Ordering::Relaxed);
        }
        self.shared.counters.log_bytes.store(self.group.log().bytes(), Ordering::Relaxed);
        Ok(())
    }

    /// Applies, publishes, answers.
    fn digest(&mut self, progress: Progress) -> Result<(), StoreError> {
        // A group of one has nobody to write to.
        debug_assert!(progress.messages.is_empty());
        if !progress.committed.is_empty() {
            let mut answers = Vec::new();
            let mut events = Vec::new();
            for entry in &progress.committed {
                self.apply(entry, &mut answers, &mut events)?;
                if let Some(keeper) = &mut self.keeper {
                    keeper.note(entry.data.len() as u64);
                }
            }
            self.publish(events);
            self.group.applied(self.applied.position.index);
            self.shared.counters.transactions.fetch_add(answers.len() as u64, Ordering::Relaxed);
            for (reply, answer) in answers {
                // A caller that stopped waiting does not need its answer.
                let _ = reply.send(answer);
            }
        }
        for read in progress.reads {
            debug_assert!(
                read.index <= self.applied.position.index,
                "one member applies what it commits"
            );
            let Some(at) =
                self.reading.iter().position(|r| r.context.to_le_bytes() == read.context[..])
            else {
                continue;
            };
            let snapshot = self.shared.view().snapshot.clone();
            for reply in self.reading.swap_remove(at).replies {
                let _ = reply.send(Ok(snapshot.clone()));
            }
        }
        Ok(())
    }

    fn apply(
        &mut self,
        entry: &Entry,
        answers: &mut Vec<(Reply, Result<Committed, StoreError>)>,
        events: &mut Vec<Vec<Arc<Event>>>,
    ) -> Result<(), StoreError> {
        self.applied.position = Position { index: entry.index, term: entry.term };
        match entry.get_entry_type() {
            EntryType::EntryNormal => {}
            EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                self.applied.members = Arc::new(self.group.change_members(entry).map_err(fatal)?);
                return Ok(());
            }
        }
        // A new leader begins its term with an empty entry.
        if entry.data.is_empty() {
            return Ok(());
        }
        let batch = wire::decode_batch(&entry.data, &self.sealer)
            .map_err(|error| StoreError::Disk(format!("log entry {}: {error}", entry.index)))?;
        let mut replies = self.callers(batch.origin, batch.seq).into_iter();
        for txn in batch.txns {
            let answer = match self.machine.apply(txn) {
                Ok(outcome) => {
                    if !outcome.events.is_empty() {
                        events.push(outcome.events);
                    }
                    Ok(outcome.committed)
                }
                Err(refusal) => {
                    Err(StoreError::Conflict { key: refusal.key, current: refusal.current })
                }
            };
            if let Some(reply) = replies.next() {
                answers.push((reply, answer));
            }
        }
        Ok(())
    }

    /// The callers of a batch of this run; nobody for batches of others.
    fn callers(&mut self, origin: u64, seq: u64) -> Vec<Reply> {
        if origin != self.outside.run {
            return Vec::new();
        }
        // Batches commit in the order they were proposed. Those passed over
        // were lost with a leadership.
        while let Some(pending) = self.pending.pop_front() {
            if pending.seq == seq {
                return pending.replies;
            }
            fail(pending.replies, &StoreError::Unavailable("the leader changed".into()));
        }
        Vec::new()
    }

    fn publish(&mut self, events: Vec<Vec<Arc<Event>>>) {
        self.shared.counters.last_index.store(self.group.log().last_index(), Ordering::Relaxed);
        let now = (self.outside.clock)();
        let revision = self.machine.revision();
        {
            let mut view = self.shared.view_mut();
            for events in events {
                view.history.push(events, now);
            }
            view.snapshot = Snapshot::new(self.machine.entries().clone(), revision);
            view.digest = self.machine.digest();
            view.bytes = self.machine.bytes();
            view.applied = self.applied.clone();
        }
        self.shared
            .newest_tx
            .send_if_modified(|newest| std::mem::replace(newest, revision) != revision);
    }

    fn follow_leadership(&mut self) {
        let leadership = self.group.leadership();
        if leadership != self.leadership {
            self.leadership = leadership;
            self.shared.leadership_tx.send_replace(leadership);
            if !leadership.is_leader {
                let error = StoreError::Unavailable("this member lost its leadership".into());
                self.pending.drain(..).for_each(|pending| fail(pending.replies, &error));
            }
        }
    }
}

fn fail(replies: Vec<Reply>, error: &StoreError) {
    for reply in replies {
        let _ = reply.send(Err(error.clone()));
    }
}

fn fatal(error: LogError) -> StoreError {
    StoreError::Disk(error.to_string())
}
