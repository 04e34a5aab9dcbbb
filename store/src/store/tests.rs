//! Stores whose disk fails or hesitates.

use bytes::Bytes;
use raft::eraftpb::{Entry, HardState};

use super::*;
use crate::group::FIRST;
use crate::history::History;
use crate::keeper::MemoryKeeper;
use crate::log::memory::MemoryLog;
use crate::log::{LogError, LogStore, Position};
use crate::machine::Machine;
use crate::types::{Draft, Key, Write};
use crate::view::Applied;

/// A log whose disk is full after some appends, or stuck for a while.
struct Faulty {
    log: MemoryLog,
    appends_left: u32,
    delay: Duration,
}

impl LogStore for Faulty {
    fn bootstrap(&self) -> Option<Members> {
        self.log.bootstrap()
    }

    fn initialize(&mut self, members: &Members) -> Result<(), LogError> {
        self.log.initialize(members)
    }

    fn hard_state(&self) -> HardState {
        self.log.hard_state()
    }

    fn truncated(&self) -> Position {
        self.log.truncated()
    }

    fn last_index(&self) -> u64 {
        self.log.last_index()
    }

    fn append(&mut self, entries: &[Entry], hard_state: &HardState) -> Result<(), LogError> {
        let full = || LogError::Io { doing: "written", reason: "no space left".into() };
        self.appends_left = self.appends_left.checked_sub(1).ok_or_else(full)?;
        std::thread::sleep(self.delay);
        self.log.append(entries, hard_state)
    }

    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, LogError> {
        self.log.entries(low, high, max_bytes)
    }

    fn term(&self, index: u64) -> Result<u64, LogError> {
        self.log.term(index)
    }

    fn truncate(&mut self, to: Position) -> Result<(), LogError> {
        self.log.truncate(to)
    }

    fn reset(&mut self, to: Position, hard_state: &HardState) -> Result<(), LogError> {
        self.log.reset(to, hard_state)
    }

    fn bytes(&self) -> u64 {
        self.log.bytes()
    }

    fn close(&mut self) -> Result<(), LogError> {
        self.log.close()
    }
}

async fn faulty(appends_left: u32, delay: Duration) -> Result<Store, StoreError> {
    let mut config = StoreConfig::new("", [0; 32]);
    config.request_timeout = Duration::from_millis(200);
    start(launch(&config).unwrap(), move || {
        let members = Members::single(1);
        let mut log = Faulty { log: MemoryLog::default(), appends_left, delay };
        log.initialize(&members).unwrap();
        Ok(Parts {
            member: 1,
            log,
            machine: Machine::default(),
            applied: Applied { position: FIRST, members: Arc::new(members) },
            history: History::new(Revision(0), Duration::from_secs(1), 1000),
            keeper: Box::new(|_| Ok(Box::new(MemoryKeeper))),
            kept_log_bytes: 0,
            lock: None,
        })
    })
    .await
}

fn put(key: &str) -> Txn {
    let draft = Draft { bytes: Bytes::from_static(b"v"), revision_at: None, sealed: false };
    Txn::default().write(Write::Put(Key::from(key), draft))
}

#[tokio::test]
async fn a_failing_disk_ends_the_store() {
    // The first append is the vote and the entry that begins the term.
    assert!(matches!(faulty(0, Duration::ZERO).await, Err(StoreError::Disk(_))));
    let store = faulty(4, Duration::ZERO).await.unwrap();
    let mut watch = store.watch(KeyRange::all(), Revision(0)).unwrap();
    let failed = tokio::spawn({
        let store = store.clone();
        async move { store.failed().await }
    });
    for n in 1..=3 {
        assert_eq!(store.commit(put("a")).await.unwrap().revision, Revision(n));
    }
    let error = store.commit(put("a")).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Disk(reason) if reason.contains("no space left")),
        "{error}"
    );
    assert!(matches!(failed.await.unwrap(), StoreError::Disk(_)));
    assert!(matches!(store.commit(put("a")).await, Err(StoreError::Disk(_))));
    assert!(matches!(store.snapshot_latest().await, Err(StoreError::Disk(_))));
    // What was committed before may still be read and was given out.
    assert_eq!(watch.next().await.unwrap().len(), 3);
    assert!(matches!(watch.next().await, Err(StoreError::Disk(_))));
    assert_eq!(store.revision(), Revision(3));
    assert!(matches!(store.close().await, Err(StoreError::Disk(_))));
}

#[tokio::test]
async fn a_sole_leader_reads_while_its_disk_is_busy() {
    let store = faulty(100, Duration::from_millis(100)).await.unwrap();
    store.commit(put("a")).await.unwrap();
    let writing = tokio::spawn({
        let store = store.clone();
        async move { store.commit(put("b")).await }
    });
    // The write is on its way to the disk when the read comes.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let snapshot = store.snapshot_latest().await.unwrap();
    assert!(!writing.is_finished(), "a read does not wait for the disk");
    assert!(snapshot.get("a").is_some(), "what was acknowledged is there");
    writing.await.unwrap().unwrap();
    assert!(store.snapshot_latest().await.unwrap().get("b").is_some());
    store.clone().close().await.unwrap();
    assert!(matches!(store.snapshot_latest().await, Err(StoreError::Closed)));
}

#[tokio::test]
async fn a_stuck_disk_does_not_hang_its_callers() {
    let store = faulty(100, Duration::from_millis(500)).await.unwrap();
    let error = store.commit(put("a")).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(error.is_retryable());
    // "May still take effect": here it does.
    store.watch(KeyRange::all(), Revision(0)).unwrap().next().await.unwrap();
    store.close().await.unwrap();
}
