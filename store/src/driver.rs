//! The driver: the one thread that writes.
//!
//! It takes everything that waits in the queue, gives it to the [`Core`], and
//! lets the core do all that can be done: one log entry of all transactions,
//! one `fdatasync`, applied, published, answered. A single caller waits for
//! nobody; under load the next batch gathers while the disk is busy with the
//! last (group commit).
//!
//! A plain thread, because it waits for the disk: it would hold up other tasks
//! of an asynchronous worker. A group of one sleeps without a timer when
//! nothing is queued; a member of a larger one wakes for its ticks.
//!
//! Whatever fails here fails for good. The driver then stops, every caller gets
//! [`StoreError::Disk`] and [`Store::failed`](crate::Store::failed) fires, so
//! that the process ends instead of serving from a store that cannot remember.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout_at;

use crate::core::{Core, Done, Outside, TICK, Ticket};
use crate::log::LogStore;
use crate::members::{Change, Members};
use crate::peers::Transport;
use crate::types::{Committed, StoreError};
use crate::view::{Shared, Snapshot};
use crate::wire::peer::PeerMessage;

/// Requests that wait for the driver. When it is full, callers and peers wait.
pub(crate) const QUEUE: usize = 4096;

/// Requests taken in one round.
const MAX_ROUND: usize = 4096;
const MAX_ROUND_BYTES: usize = 16 << 20;

/// The answer to a request.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What callers and peers ask of the driver.
pub(crate) enum Request {
    /// An encoded transaction.
    Commit { txn: Vec<u8>, reply: Reply<Committed> },
    /// A snapshot that holds everything acknowledged before the question.
    Read { reply: Reply<Snapshot> },
    /// A change of members; answered with the member's id.
    Change { change: Change, reply: Reply<u64> },
    /// Another member says something.
    Step { from: u64, message: PeerMessage },
    /// Another member cannot be reached.
    Unreachable { id: u64 },
    /// Another member should lead, if this one does.
    HandOver,
    /// Save what can be saved and stop.
    Close { reply: Reply<()> },
}

/// The writing side of a store.
pub(crate) struct Driver<L: LogStore> {
    core: Core<L>,
    world: World,
    next_ticket: Ticket,
    /// The members that the transport knows of.
    members: Arc<Members>,
}

/// What lies outside the core in a real process.
struct World {
    started: Instant,
    callers: HashMap<Ticket, Caller>,
    shared: Arc<Shared>,
    transport: Arc<dyn Transport>,
}

/// Who waits for an answer.
enum Caller {
    Commit(Reply<Committed>),
    Read(Reply<Snapshot>),
    Change(Reply<u64>),
}

impl Outside for World {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn send(&mut self, to: u64, message: PeerMessage) {
        self.transport.send(to, message);
    }

    fn answer(&mut self, ticket: Ticket, result: Result<Done, StoreError>) {
        // A caller that stopped waiting does not need its answer.
        match (self.callers.remove(&ticket), result) {
            (Some(Caller::Commit(reply)), Ok(Done::Committed(committed))) => {
                let _ = reply.send(Ok(committed));
            }
            (Some(Caller::Read(reply)), Ok(Done::Readable)) => {
                let _ = reply.send(Ok(self.shared.view().snapshot.clone()));
            }
            (Some(Caller::Change(reply)), Ok(Done::Changed(id))) => {
                let _ = reply.send(Ok(id));
            }
            (Some(caller), Err(error)) => caller.fail(error),
            (Some(_), Ok(done)) => debug_assert!(false, "{done:?} answers another question"),
            (None, _) => {}
        }
    }
}

impl Caller {
    fn fail(self, error: StoreError) {
        match self {
            Self::Commit(reply) => drop(reply.send(Err(error))),
            Self::Read(reply) => drop(reply.send(Err(error))),
            Self::Change(reply) => drop(reply.send(Err(error))),
        }
    }
}

/// What a round of requests wants.
#[derive(Default)]
struct Round {
    txns: Vec<(Ticket, Vec<u8>)>,
    reads: Vec<Ticket>,
    close: Option<Reply<()>>,
    taken: usize,
    bytes: usize,
}

impl Round {
    fn is_full(&self) -> bool {
        self.close.is_some() || self.taken >= MAX_ROUND || self.bytes >= MAX_ROUND_BYTES
    }
}

impl<L: LogStore> Driver<L> {
    pub(crate) fn new(core: Core<L>, shared: Arc<Shared>, transport: Arc<dyn Transport>) -> Self {
        let world = World { started: Instant::now(), callers: HashMap::new(), shared, transport };
        let members = core.members().clone();
        world.transport.follow(&members);
        Self { core, world, next_ticket: 0, members }
    }

    /// Applies what the log holds. A group of one leads on return.
    pub(crate) fn start(&mut self) -> Result<(), StoreError> {
        self.core.start(&mut self.world)
    }

    /// Serves requests until asked to close or all handles are gone. Returns
    /// how it ended and who waits for the end, to be answered once this driver
    /// is dropped and every file closed.
    pub(crate) fn run(
        &mut self,
        requests: &mut mpsc::Receiver<Request>,
        runtime: &Handle,
    ) -> (Result<(), StoreError>, Option<Reply<()>>) {
        let mut closer = None;
        let mut next_tick = tokio::time::Instant::now() + TICK;
        while closer.is_none() {
            let ticking = self.core.needs_ticks();
            let first = if ticking {
                runtime.block_on(async { timeout_at(next_tick, requests.recv()).await })
            } else {
                Ok(requests.blocking_recv())
            };
            let mut round = Round::default();
            match first {
                Ok(Some(request)) => self.take(request, &mut round),
                Ok(None) => break,
                Err(_) => {}
            }
            while !round.is_full() {
                match requests.try_recv() {
                    Ok(request) => self.take(request, &mut round),
                    Err(_) => break,
                }
            }
            self.core.propose(round.txns);
            self.core.read(round.reads);
            // After the messages: a member that was held up looks first whether
            // its leader has spoken. Time that was slept through counts once.
            let now = tokio::time::Instant::now();
            if ticking && now >= next_tick {
                next_tick = now + TICK;
                self.core.tick();
            }
            closer = round.close;
            if let Err(error) = self.core.turn(&mut self.world) {
                return (Err(error), closer);
            }
            if !Arc::ptr_eq(&self.members, self.core.members()) {
                self.members = self.core.members().clone();
                self.world.transport.follow(&self.members);
            }
        }
        (self.core.close(), closer)
    }

    fn take(&mut self, request: Request, round: &mut Round) {
        round.taken += 1;
        match request {
            Request::Commit { txn, reply } => {
                round.bytes += txn.len();
                let ticket = self.ticket(Caller::Commit(reply));
                round.txns.push((ticket, txn));
            }
            Request::Read { reply } => {
                let ticket = self.ticket(Caller::Read(reply));
                round.reads.push(ticket);
            }
            Request::Change { change, reply } => {
                let ticket = self.ticket(Caller::Change(reply));
                self.core.change(Some(ticket), change);
            }
            Request::Step { from, message } => self.core.step(from, message),
            Request::Unreachable { id } => self.core.unreachable(id),
            Request::HandOver => self.core.hand_over(),
            Request::Close { reply } => round.close = Some(reply),
        }
    }

    fn ticket(&mut self, caller: Caller) -> Ticket {
        self.next_ticket += 1;
        self.world.callers.insert(self.next_ticket, caller);
        self.next_ticket
    }
}
