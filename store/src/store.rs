//! The handle that everybody holds.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::backup::Backup;
use crate::core::{Core, CoreParts, TICK};
use crate::disk;
use crate::driver::{Driver, QUEUE, Request};
use crate::etcd::{self, EtcdConfig};
use crate::group::FIRST;
use crate::history::History;
use crate::keeper::{self, MemoryKeeper, StateKeeper};
use crate::log::LogStore;
use crate::log::memory::MemoryLog;
use crate::machine::Machine;
use crate::members::{Change, Contact, Members};
use crate::peers::memory::MemoryNetwork;
use crate::peers::stream::{PeerConfig, PeerError, Streams};
use crate::peers::{Alone, Transport};
use crate::sealing::Sealer;
use crate::stats::{MemberStatus, Stats};
use crate::types::{Committed, KeyRange, Leadership, Revision, StoreError, Txn};
use crate::validate::{Limits, validate};
use crate::view::{Applied, Shared, Snapshot, View};
use crate::watch::Watch;
use crate::wire;

/// How a store is opened.
#[derive(Clone)]
pub struct StoreConfig {
    /// The directory that the store owns alone. Made if missing.
    pub dir: PathBuf,
    /// Encrypts values marked `sealed`. A directory opens only with the key it
    /// was made with.
    pub sealing_key: [u8; 32],
    /// How long watches can resume. Default: five minutes.
    pub history_window: Duration,
    /// Memory that replaced values may take in the history window; above it
    /// the window becomes shorter. Default: 64 MiB.
    pub history_bytes: usize,
    /// Largest transaction, keys and values together. Default: 4 MiB.
    pub max_txn_bytes: usize,
    /// How long a commit or a most recent read waits for the group.
    /// Default: 10 s.
    pub request_timeout: Duration,
    /// Log written before a snapshot replaces it; more if the state itself is
    /// larger. Default: 8 MiB.
    pub snapshot_log_bytes: u64,
    /// Log that a member of a group keeps behind its snapshot: whoever is less
    /// far behind catches up by it, others by the snapshot. Default: 8 MiB.
    pub kept_log_bytes: u64,
    /// How this member and its peers find each other. Default: it has none.
    pub peers: Option<PeerConfig>,
    /// The id that a group has given to this member. Says that a new directory
    /// joins that group instead of beginning one; ignored in any other.
    pub joined_as: Option<u64>,
    /// After the loss of a quorum for good: this member becomes a new group of
    /// one with what it holds. What others acknowledged and it never received
    /// is lost, and those others must never be started again. Default: false.
    pub force_new_group: bool,
}

impl StoreConfig {
    /// The defaults for a store in `dir`.
    pub fn new(dir: impl Into<PathBuf>, sealing_key: [u8; 32]) -> Self {
        Self {
            dir: dir.into(),
            sealing_key,
            history_window: Duration::from_secs(300),
            history_bytes: 64 << 20,
            max_txn_bytes: 4 << 20,
            request_timeout: Duration::from_secs(10),
            snapshot_log_bytes: 8 << 20,
            kept_log_bytes: 8 << 20,
            peers: None,
            joined_as: None,
            force_new_group: false,
        }
    }

    /// Most bytes that the directory takes while live keys and values take
    /// `state_bytes`, however often they are written.
    pub fn disk_bound(&self, state_bytes: u64) -> u64 {
        keeper::disk_bound(state_bytes, self.snapshot_log_bytes, self.kept_log_bytes)
    }
}

impl std::fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The sealing key stays out of logs.
        f.debug_struct("StoreConfig").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// A revisioned key-value store. Clones share one store; it closes when asked
/// to, or when the last clone is gone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    sealer: Arc<Sealer>,
    requests_tx: mpsc::Sender<Request>,
    limits: Limits,
    request_timeout: Duration,
    streams: Option<Arc<Streams>>,
    /// The driver's thread, until somebody has joined it.
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What a driver is started from.
pub(crate) struct Parts<L> {
    pub(crate) member: u64,
    pub(crate) log: L,
    pub(crate) machine: Machine,
    pub(crate) applied: Applied,
    pub(crate) history: History,
    pub(crate) keeper: KeeperStart,
    /// See [`StoreConfig::kept_log_bytes`].
    pub(crate) kept_log_bytes: u64,
    /// Keeps the directory to this process; given back after all files are
    /// closed.
    pub(crate) lock: Option<File>,
}

/// Starts the keeper once there is something shared to keep.
pub(crate) type KeeperStart =
    Box<dyn FnOnce(Arc<Shared>) -> Result<Box<dyn StateKeeper>, StoreError> + Send>;

impl Store {
    /// Opens the store in `config.dir`, or makes a new one. When this returns,
    /// everything ever acknowledged is readable and the store takes writes.
    pub async fn open(config: StoreConfig) -> Result<Self, StoreError> {
        let mut launch = Launch::new(&config)?;
        if let Some(peers) = config.peers.clone() {
            launch.contact = Some(peers.contact.clone());
            let streams = Arc::new(Streams::new(peers));
            launch.streams = Some(streams.clone());
            launch.transport = streams;
        }
        let sealer = launch.sealer.clone();
        start(launch, move || disk::open(&config, sealer)).await
    }

    /// A store on an external etcd cluster. When this returns, everything in it
    /// is readable; leadership is settled soon after.
    pub async fn etcd(config: EtcdConfig) -> Result<Self, StoreError> {
        let sealer = Arc::new(
            Sealer::new(&config.sealing_key)
                .map_err(|error| StoreError::Invalid(error.to_string()))?,
        );
        let (requests_tx, requests_rx) = mpsc::channel(QUEUE);
        let shared = etcd::open(&config, sealer.clone(), requests_rx).await?;
        let limits = Limits { txn_bytes: config.max_txn_bytes };
        let (request_timeout, thread) = (config.request_timeout, Mutex::new(None));
        Ok(Self {
            inner: Arc::new(Inner {
                shared,
                sealer,
                requests_tx,
                limits,
                request_timeout,
                streams: None,
                thread,
            }),
        })
    }

    /// A store in memory: the same code without a disk, for tests.
    pub async fn memory() -> Result<Self, StoreError> {
        let config = StoreConfig::new("", [0; 32]);
        start(Launch::new(&config)?, move || in_memory(1, Members::single(1), &config)).await
    }

    /// A group of `size` stores in memory over `network`, for tests. Returns
    /// them in the order of their ids, from 1, without waiting for a leader.
    pub async fn memory_group(size: u64, network: &MemoryNetwork) -> Result<Vec<Self>, StoreError> {
        let mut stores = Vec::new();
        for id in 1..=size {
            let config = StoreConfig::new("", [0; 32]);
            let mut launch = Launch::new(&config)?;
            launch.transport = network.end(id);
            let members =
                Members { voters: (1..=size).collect(), last_id: size, ..Members::default() };
            stores.push(start(launch, move || in_memory(id, members, &config)).await?);
        }
        Ok(stores)
    }

    /// Changes the group's members, from any of them. Answers with the id of
    /// the member that it was about.
    pub async fn change_members(&self, change: Change) -> Result<u64, StoreError> {
        self.request(|reply| Request::Change { change, reply }).await
    }

    /// Asks this member to let another one lead, if it leads and another can.
    pub async fn hand_over(&self) -> Result<(), StoreError> {
        let sent = self.inner.requests_tx.send(Request::HandOver).await;
        sent.map_err(|_| self.inner.shared.ended())
    }

    /// Serves a stream from a peer until it ends. The caller has made sure, by
    /// its certificate, that the other side is a member's process.
    pub async fn accept_peer(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
    ) -> Result<(), PeerError> {
        match &self.inner.streams {
            Some(streams) => streams.accept(stream).await,
            None => Err(PeerError::Greeting("this store has no peers".into())),
        }
    }

    /// Who belongs to the group, as far as this member knows. How far the
    /// others have come is known to the leader alone.
    pub fn members(&self) -> Vec<MemberStatus> {
        let shared = &self.inner.shared;
        let leader = shared.leadership_tx.borrow().leader;
        let members = shared.view().applied.members.clone();
        let followers = shared.followers();
        let status = |id: &u64| {
            let follower = followers.iter().find(|follower| follower.0 == *id);
            MemberStatus {
                id: *id,
                contact: members.contacts.get(id).cloned().unwrap_or_default(),
                voter: members.voters.contains(id),
                leader: leader == Some(*id),
                matched_index: follower.map(|follower| follower.1),
                active: follower.map(|follower| follower.2),
            }
        };
        members.ids().iter().map(status).collect()
    }

    /// Notices every change of [`Store::members`] that the log brings.
    pub fn members_changed(&self) -> watch::Receiver<u64> {
        self.inner.shared.members_tx.subscribe()
    }

    /// Tells this group from others under the same authority; see
    /// [`StoreConfig::force_new_group`].
    pub fn group(&self) -> u64 {
        self.inner.shared.view().applied.members.group
    }

    /// Commits a transaction. When this returns `Ok`, the transaction is
    /// durable and applied; on [`StoreError::Unavailable`] it may still take
    /// effect.
    pub async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        validate(&txn, &self.inner.limits)?;
        let txn = wire::encode_txn(&txn, &self.inner.sealer)
            .map_err(|error| StoreError::Invalid(error.to_string()))?;
        self.request(|reply| Request::Commit { txn, reply }).await
    }

    /// The newest applied state. Holds at least everything that this process
    /// was answered about before.
    pub fn snapshot(&self) -> Snapshot {
        self.inner.shared.view().snapshot.clone()
    }

    /// A state that holds everything acknowledged anywhere in the group before
    /// the call.
    pub async fn snapshot_latest(&self) -> Result<Snapshot, StoreError> {
        if let Some(snapshot) = self.inner.shared.sole_leaders()? {
            return Ok(snapshot);
        }
        self.request(|reply| Request::Read { reply }).await
    }

    /// The state at an earlier revision, as long as the history window reaches
    /// back to it or somebody has [pinned](Store::pin) it.
    pub fn snapshot_at(&self, revision: Revision) -> Result<Snapshot, StoreError> {
        self.inner.shared.snapshot_at(revision)
    }

    /// Keeps a snapshot for [`Store::snapshot_at`], so that the pages of one
    /// list stay consistent. Bounded: 64 snapshots, ten minutes each.
    pub fn pin(&self, snapshot: &Snapshot) {
        self.inner.shared.pin(snapshot);
    }

    /// Everything acknowledged before the call, as one file of pieces.
    pub async fn backup(&self) -> Result<Backup, StoreError> {
        self.snapshot_latest().await?;
        let view = self.inner.shared.view();
        Ok(Backup::new(view.snapshot.clone(), view.digest, self.inner.sealer.clone()))
    }

    /// Forgets the changes up to `revision`: watches can resume after it, not
    /// before. What is forgotten by age and size needs no asking.
    pub fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.shared.compact(revision)
    }

    /// Follows the changes of `range` after revision `after`, usually that of
    /// the snapshot listed before.
    pub fn watch(&self, range: KeyRange, after: Revision) -> Result<Watch, StoreError> {
        Watch::new(self.inner.shared.clone(), range, after)
    }

    /// The newest revision.
    pub fn revision(&self) -> Revision {
        self.inner.shared.view().snapshot.revision()
    }

    /// Who leads, and every change of it.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.shared.leadership_tx.subscribe()
    }

    /// The store in numbers.
    pub fn stats(&self) -> Stats {
        let shared = &self.inner.shared;
        let mut stats = Stats::default();
        shared.counters.read(&mut stats);
        let leadership = *shared.leadership_tx.borrow();
        stats.term = leadership.term;
        stats.leader = leadership.leader.unwrap_or(0);
        let slowest = shared.followers().iter().map(|follower| follower.1).min();
        stats.lag = slowest.map_or(0, |matched| stats.last_index.saturating_sub(matched));
        let view = shared.view();
        stats.members = view.applied.members.ids().len() as u64;
        stats.applied_index = view.applied.position.index;
        stats.revision = view.snapshot.revision();
        stats.compacted = view.history.floor();
        stats.digest = view.digest;
        stats.keys = view.snapshot.len() as u64;
        stats.key_value_bytes = view.bytes;
        stats.history_events = view.history.len() as u64;
        stats.history_bytes = view.history.bytes() as u64;
        stats
    }

    /// Waits until the store has failed for good and says why. The process
    /// must then stop: nothing more can be saved. Pending after a clean close.
    pub async fn failed(&self) -> StoreError {
        let mut ended_rx = self.inner.shared.ended_tx.subscribe();
        loop {
            let ended = ended_rx.borrow_and_update().clone();
            match ended {
                Some(
                    error @ (StoreError::Disk(_) | StoreError::Damaged(_) | StoreError::Removed),
                ) => return error,
                _ if ended_rx.changed().await.is_ok() => {}
                _ => std::future::pending().await,
            }
        }
    }

    /// Saves the state and stops. Every clone answers
    /// [`StoreError::Closed`] from then on.
    pub async fn close(self) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.inner.requests_tx.send(Request::Close { reply }).await;
        // Closed by another clone already, or failed: join all the same.
        let result = match sent {
            Ok(()) => answer.await.unwrap_or_else(|_| Err(self.inner.shared.ended())),
            Err(_) => Err(self.inner.shared.ended()),
        };
        let thread = self.inner.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // Answered above; the thread only drops its files now. A panic in
            // it has been noted as the store's end.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        match result {
            Err(StoreError::Closed) => Ok(()),
            result => result,
        }
    }

    /// Asks the driver and waits for its answer, but not forever.
    async fn request<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Request,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            if self.inner.requests_tx.send(make(reply)).await.is_err() {
                return Err(self.inner.shared.ended());
            }
            answer.await.unwrap_or_else(|_| Err(self.inner.shared.ended()))
        };
        match timeout(self.inner.request_timeout, exchange).await {
            Ok(result) => result,
            Err(_) => Err(StoreError::Unavailable(format!(
                "no answer within {} s",
                self.inner.request_timeout.as_secs_f32()
            ))),
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("revision", &self.revision()).finish_non_exhaustive()
    }
}

/// The parts of a member without a disk.
fn in_memory(
    member: u64,
    members: Members,
    config: &StoreConfig,
) -> Result<Parts<MemoryLog>, StoreError> {
    let mut log = MemoryLog::default();
    log.initialize(&members).map_err(|error| StoreError::Disk(error.to_string()))?;
    Ok(Parts {
        member,
        log,
        machine: Machine::default(),
        applied: Applied { position: FIRST, members: Arc::new(members) },
        history: History::new(Revision(0), config.history_window, config.history_bytes),
        keeper: Box::new(|_| Ok(Box::new(MemoryKeeper))),
        kept_log_bytes: keeper::MEMORY_KEPT_BYTES,
        lock: None,
    })
}

/// What a store is told beside its parts.
struct Launch {
    sealer: Arc<Sealer>,
    limits: Limits,
    request_timeout: Duration,
    /// Where peers find this member.
    contact: Option<Contact>,
    transport: Arc<dyn Transport>,
    /// The same, if it takes streams from outside.
    streams: Option<Arc<Streams>>,
}

impl Launch {
    fn new(config: &StoreConfig) -> Result<Self, StoreError> {
        let sealer = Sealer::new(&config.sealing_key)
            .map_err(|error| StoreError::Invalid(error.to_string()))?;
        Ok(Self {
            sealer: Arc::new(sealer),
            limits: Limits { txn_bytes: config.max_txn_bytes },
            request_timeout: config.request_timeout,
            contact: None,
            transport: Arc::new(Alone),
            streams: None,
        })
    }
}

/// Starts the driver's thread, which opens its parts itself: opening waits for
/// the disk.
async fn start<L: LogStore>(
    launch: Launch,
    open: impl FnOnce() -> Result<Parts<L>, StoreError> + Send + 'static,
) -> Result<Store, StoreError> {
    let (requests_tx, mut requests_rx) = mpsc::channel(QUEUE);
    let (ready_tx, ready_rx) = oneshot::channel();
    let Launch { sealer, limits, request_timeout, contact, transport, streams } = launch;
    let incoming = requests_tx.downgrade();
    let patience = request_timeout.as_millis().div_ceil(TICK.as_millis()) as u64;
    let wiring = Wiring { sealer: sealer.clone(), patience, contact, transport, incoming };
    let runtime = Handle::current();
    let thread = std::thread::Builder::new()
        .name("skiff-store".into())
        .spawn(move || match prepare(open, wiring) {
            Ok(Prepared { mut driver, shared, lock }) => {
                // Declared after the driver, so that a panic is noted before
                // its callers learn that nobody answers.
                let end = End(shared.clone());
                // If nobody waits for the store any more, it closes at once.
                let _ = ready_tx.send(Ok(shared));
                let (result, closer) = driver.run(&mut requests_rx, &runtime);
                end.note(&result);
                drop(driver);
                drop(lock);
                drop(requests_rx);
                if let Some(closer) = closer {
                    // The closer may have stopped waiting.
                    let _ = closer.send(result);
                }
            }
            Err(error) => {
                let _ = ready_tx.send(Err(error));
            }
        })
        .map_err(|error| {
            StoreError::Unavailable(format!("cannot start the store's thread: {error}"))
        })?;
    let shared = ready_rx
        .await
        .unwrap_or_else(|_| Err(StoreError::Disk("the store did not survive its start".into())))?;
    let thread = Mutex::new(Some(thread));
    Ok(Store {
        inner: Arc::new(Inner {
            shared,
            sealer,
            requests_tx,
            limits,
            request_timeout,
            streams,
            thread,
        }),
    })
}

/// What the driver's thread puts its parts together with.
struct Wiring {
    sealer: Arc<Sealer>,
    patience: u64,
    contact: Option<Contact>,
    transport: Arc<dyn Transport>,
    incoming: mpsc::WeakSender<Request>,
}

/// A driver that has applied everything it may. A group of one leads.
struct Prepared<L: LogStore> {
    driver: Driver<L>,
    shared: Arc<Shared>,
    lock: Option<File>,
}

fn prepare<L: LogStore>(
    open: impl FnOnce() -> Result<Parts<L>, StoreError>,
    wiring: Wiring,
) -> Result<Prepared<L>, StoreError> {
    let Parts { member, log, machine, applied, history, keeper, kept_log_bytes, lock } = open()?;
    let shared = Arc::new(Shared::new(View {
        snapshot: Snapshot::new(machine.entries().clone(), machine.revision()),
        digest: machine.digest(),
        bytes: machine.bytes(),
        applied: applied.clone(),
        history,
    }));
    shared.counters.member.store(member, Ordering::Relaxed);
    shared.counters.loaded_index.store(applied.position.index, Ordering::Relaxed);
    let core = Core::new(CoreParts {
        member,
        run: rand::random(),
        seed: rand::random(),
        patience: wiring.patience,
        contact: wiring.contact,
        log,
        machine,
        applied,
        keeper: keeper(shared.clone())?,
        kept_log_bytes,
        sealer: wiring.sealer,
        shared: shared.clone(),
    })?;
    wiring.transport.begin(member, wiring.incoming);
    let mut driver = Driver::new(core, shared.clone(), wiring.transport);
    driver.start()?;
    Ok(Prepared { driver, shared, lock })
}

/// Tells everybody why the driver ended, even if it panicked.
struct End(Arc<Shared>);

impl End {
    fn note(&self, result: &Result<(), StoreError>) {
        let end = match result {
            Ok(()) => StoreError::Closed,
            Err(error) => {
                tracing::error!(%error, "the store has failed");
                error.clone()
            }
        };
        self.0
            .ended_tx
            .send_if_modified(|ended| ended.is_none().then(|| *ended = Some(end)).is_some());
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.note(&Err(StoreError::Disk("the store's driver panicked".into())));
        }
    }
}
