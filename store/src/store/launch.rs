//! From parts to a store that runs: its driver's thread, and how that ends.

use std::fs::File;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::{Inner, Store, StoreConfig};
use crate::core::{Core, CoreParts, TICK};
use crate::driver::{Driver, QUEUE, Request};
use crate::group::FIRST;
use crate::history::History;
use crate::keeper::{self, MemoryKeeper, StateKeeper};
use crate::log::LogStore;
use crate::log::memory::MemoryLog;
use crate::machine::Machine;
use crate::members::{Contact, Members};
use crate::peers::stream::Streams;
use crate::peers::{Alone, Transport};
use crate::sealing::Sealer;
use crate::types::{Revision, StoreError};
use crate::validate::Limits;
use crate::view::{Applied, Shared, Snapshot, View};

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

/// The parts of a member without a disk.
pub(super) fn in_memory(
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
pub(super) struct Launch {
    pub(super) sealer: Arc<Sealer>,
    pub(super) limits: Limits,
    pub(super) request_timeout: Duration,
    /// Where peers find this member.
    pub(super) contact: Option<Contact>,
    pub(super) transport: Arc<dyn Transport>,
    /// The same, if it takes streams from outside.
    pub(super) streams: Option<Arc<Streams>>,
}

impl Launch {
    pub(super) fn new(
        sealing_key: &[u8; 32],
        max_txn_bytes: usize,
        request_timeout: Duration,
    ) -> Result<Self, StoreError> {
        let sealer =
            Sealer::new(sealing_key).map_err(|error| StoreError::Invalid(error.to_string()))?;
        Ok(Self {
            sealer: Arc::new(sealer),
            limits: Limits { txn_bytes: max_txn_bytes },
            request_timeout,
            contact: None,
            transport: Arc::new(Alone),
            streams: None,
        })
    }

    /// The handle of a store whose other side is `thread`, or a task that ends
    /// with `requests_tx`.
    pub(super) fn store(
        self,
        shared: Arc<Shared>,
        requests_tx: mpsc::Sender<Request>,
        thread: Option<JoinHandle<()>>,
    ) -> Store {
        let Self { sealer, limits, request_timeout, streams, .. } = self;
        let thread = Mutex::new(thread);
        Store {
            inner: Arc::new(Inner {
                shared,
                sealer,
                requests_tx,
                limits,
                request_timeout,
                streams,
                thread,
            }),
        }
    }
}

/// Starts the driver's thread, which opens its parts itself: opening waits for
/// the disk.
pub(super) async fn start<L: LogStore>(
    launch: Launch,
    open: impl FnOnce() -> Result<Parts<L>, StoreError> + Send + 'static,
) -> Result<Store, StoreError> {
    let (requests_tx, mut requests_rx) = mpsc::channel(QUEUE);
    let (ready_tx, ready_rx) = oneshot::channel();
    let wiring = Wiring {
        sealer: launch.sealer.clone(),
        patience: launch.request_timeout.as_millis().div_ceil(TICK.as_millis()) as u64,
        contact: launch.contact.clone(),
        transport: launch.transport.clone(),
        incoming: requests_tx.downgrade(),
    };
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
    Ok(launch.store(shared, requests_tx, Some(thread)))
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
