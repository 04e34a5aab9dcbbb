//! The handle that everybody holds. `config` says how a store is opened,
//! `launch` starts what works for it.

mod config;
mod launch;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::backup::Backup;
use crate::disk;
use crate::driver::{QUEUE, Request};
use crate::etcd::{self, EtcdConfig};
use crate::members::{Change, Members};
use crate::peers::memory::MemoryNetwork;
use crate::peers::stream::{PeerError, Streams};
use crate::sealing::Sealer;
use crate::stats::{MemberStatus, Stats};
use crate::types::{Committed, KeyRange, Leadership, Revision, StoreError, Txn};
use crate::validate::{Limits, validate};
use crate::view::{Shared, Snapshot};
use crate::watch::Watch;
use crate::wire;
pub use config::StoreConfig;
pub(crate) use launch::{KeeperStart, Parts};
use launch::{Launch, in_memory, start};

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

impl Store {
    /// Opens the store in `config.dir`, or makes a new one. When this returns,
    /// everything ever acknowledged is readable and the store takes writes.
    pub async fn open(config: StoreConfig) -> Result<Self, StoreError> {
        let mut launch = launch(&config)?;
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
        let launch =
            Launch::new(&config.sealing_key, config.max_txn_bytes, config.request_timeout)?;
        let (requests_tx, requests_rx) = mpsc::channel(QUEUE);
        let shared = etcd::open(&config, launch.sealer.clone(), requests_rx).await?;
        Ok(launch.store(shared, requests_tx, None))
    }

    /// A store in memory: the same code without a disk, for tests.
    pub async fn memory() -> Result<Self, StoreError> {
        let config = StoreConfig::new("", [0; 32]);
        start(launch(&config)?, move || in_memory(1, Members::single(1), &config)).await
    }

    /// A group of `size` stores in memory over `network`, for tests. Returns
    /// them in the order of their ids, from 1, without waiting for a leader.
    pub async fn memory_group(size: u64, network: &MemoryNetwork) -> Result<Vec<Self>, StoreError> {
        let mut stores = Vec::new();
        for id in 1..=size {
            let config = StoreConfig::new("", [0; 32]);
            let mut launch = launch(&config)?;
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

fn launch(config: &StoreConfig) -> Result<Launch, StoreError> {
    Launch::new(&config.sealing_key, config.max_txn_bytes, config.request_timeout)
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("revision", &self.revision()).finish_non_exhaustive()
    }
}
