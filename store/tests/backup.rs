//! Backups of a running store, and what becomes of them.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use skiff_store::{
    BackupError, Draft, Entry, Key, KeyRange, REVISION_GAP, Revision, Store, StoreConfig,
    StoreError, Txn, Write, inspect, restore,
};

const SECRET: &str = "TOP-SECRET";

fn config(dir: &Path) -> StoreConfig {
    StoreConfig::new(dir.join("store"), [5; 32])
}

fn put(name: &str, text: String, sealed: bool) -> Txn {
    let draft = Draft { bytes: Bytes::from(text), revision_at: None, sealed };
    Txn::default().write(Write::Put(Key::from(name), draft))
}

async fn fill(store: &Store, from: u64, to: u64) {
    for n in from..to {
        let text = format!("{SECRET} {n} {}", "y".repeat((n * 131 % 3000) as usize));
        store.commit(put(&format!("key/{}", n % 150), text, true)).await.unwrap();
        store.commit(put(&format!("plain/{n}"), n.to_string(), false)).await.unwrap();
    }
}

fn entries(store: &Store) -> Vec<Arc<Entry>> {
    store.snapshot().range(&KeyRange::all()).cloned().collect()
}

/// Backs `store` up while it is written to; also what it held.
async fn back_up(store: &Store, dir: &Path) -> (PathBuf, Revision, Vec<Arc<Entry>>) {
    let backup = store.backup().await.unwrap();
    let (contents, held) = (backup.contents(), entries(store));
    assert_eq!(contents.revision, store.revision());
    let mut file = Vec::new();
    for (n, piece) in backup.enumerate() {
        file.extend_from_slice(&piece.unwrap());
        if n % 2 == 0 {
            // The backup stays what it was when it began.
            store.commit(put(&format!("later/{n}"), "later".into(), false)).await.unwrap();
            store.commit(Txn::default().write(Write::Delete(Key::from("plain/0")))).await.unwrap();
        }
    }
    let path = dir.join("backup");
    std::fs::write(&path, file).unwrap();
    assert_eq!(inspect(&path).unwrap(), contents);
    (path, contents.revision, held)
}

#[tokio::test]
async fn a_backup_becomes_a_store_that_goes_on() {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = Store::open(config(old.path())).await.unwrap();
    fill(&store, 0, 400).await;
    let (backup, revision, held) = back_up(&store, old.path()).await;
    assert!(std::fs::metadata(&backup).unwrap().len() > 3 * (64 << 10), "several pieces");
    assert!(store.revision() > revision, "it was written to meanwhile");
    let newest = store.revision();
    store.close().await.unwrap();

    let restored = restore(&config(new.path()), &backup).unwrap();
    assert_eq!((restored.revision, restored.keys), (revision, held.len() as u64));
    let store = Store::open(config(new.path())).await.unwrap();
    assert_eq!(entries(&store), held);
    assert_eq!(store.revision(), Revision(revision.0 + REVISION_GAP));
    // A client of the old group lists again; it does not wait for ever.
    for known in [revision, newest] {
        let error = store.watch(KeyRange::all(), known).unwrap_err();
        assert!(matches!(error, StoreError::Compacted { .. }), "{error}");
    }
    let again = store.commit(put("again", "1".into(), false)).await.unwrap();
    assert_eq!(again.revision, Revision(revision.0 + REVISION_GAP + 1));
    store.close().await.unwrap();
    let store = Store::open(config(new.path())).await.unwrap();
    assert_eq!(entries(&store).len(), held.len() + 1);
    assert_eq!(store.revision(), again.revision);
    store.close().await.unwrap();

    let error = restore(&config(new.path()), &backup).unwrap_err();
    assert!(matches!(error, BackupError::Exists(_)), "{error}");
}

#[tokio::test]
async fn an_empty_store_can_be_backed_up() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::memory().await.unwrap();
    let pieces: Vec<u8> = store.backup().await.unwrap().flat_map(|piece| piece.unwrap()).collect();
    let path = dir.path().join("backup");
    std::fs::write(&path, pieces).unwrap();
    let config = StoreConfig::new(dir.path().join("store"), [0; 32]);
    assert_eq!(restore(&config, &path).unwrap().keys, 0);
    let store = Store::open(config).await.unwrap();
    assert_eq!(store.revision(), Revision(REVISION_GAP));
    store.close().await.unwrap();
}

#[tokio::test]
async fn secrets_stay_sealed_and_foreign_damaged_and_newer_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(config(dir.path())).await.unwrap();
    fill(&store, 0, 60).await;
    let (path, ..) = back_up(&store, dir.path()).await;
    store.close().await.unwrap();
    let whole = std::fs::read(&path).unwrap();
    assert!(memchr::memmem::find(&whole, SECRET.as_bytes()).is_none());
    assert!(memchr::memmem::find(&whole, b"plain/17").is_some(), "the search itself works");

    let new = tempfile::tempdir().unwrap();
    let try_restore = |content: &[u8]| {
        std::fs::write(&path, content).unwrap();
        let (inspected, restored) = (inspect(&path), restore(&config(new.path()), &path));
        assert!(!new.path().join("store").exists(), "nothing is left of a refused one");
        let restored = restored.unwrap_err();
        assert_eq!(inspected.unwrap_err().to_string(), restored.to_string());
        restored
    };
    for cut in [20, whole.len() / 2, whole.len() - 1] {
        let error = try_restore(&whole[..cut]);
        assert!(matches!(error, BackupError::Damaged(_)), "{cut}: {error}");
    }
    for at in (15..whole.len()).step_by(whole.len() / 40) {
        let mut flipped = whole.clone();
        flipped[at] ^= 4;
        assert!(matches!(try_restore(&flipped), BackupError::Damaged(_)), "{at}");
    }
    let longer = [&whole[..], b"!"].concat();
    assert!(matches!(try_restore(&longer), BackupError::Damaged(_)));
    let newer = [b"skiff-backup 2\n", &whole[15..]].concat();
    assert!(matches!(try_restore(&newer), BackupError::Newer(2)));
    for foreign in [&b""[..], b"skiff-backup", b"PK\x03\x04", b"skiff-backup one\n", &[0; 4096]] {
        assert!(matches!(try_restore(foreign), BackupError::NotABackup));
    }

    // The key is missing where it matters, not where it does not.
    std::fs::write(&path, &whole).unwrap();
    inspect(&path).unwrap();
    let other = StoreConfig { sealing_key: [6; 32], ..config(new.path()) };
    assert!(matches!(restore(&other, &path), Err(BackupError::Key)));
}

#[tokio::test]
async fn a_restored_store_whose_snapshot_is_lost_does_not_start_empty() {
    let (dir, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = Store::open(config(dir.path())).await.unwrap();
    fill(&store, 0, 10).await;
    let (path, ..) = back_up(&store, dir.path()).await;
    store.close().await.unwrap();
    restore(&config(new.path()), &path).unwrap();
    std::fs::remove_dir_all(new.path().join("store").join("snapshot")).unwrap();
    let error = Store::open(config(new.path())).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Damaged(reason) if reason.contains("has no snapshot")),
        "{error}"
    );
}

#[tokio::test]
async fn compaction_by_revision_is_told_to_watches() {
    let store = Store::memory().await.unwrap();
    fill(&store, 0, 10).await;
    store.compact(Revision(12)).unwrap();
    assert_eq!(store.stats().compacted, Revision(12));
    let error = store.watch(KeyRange::all(), Revision(11)).unwrap_err();
    assert!(matches!(error, StoreError::Compacted { oldest: Revision(12), .. }), "{error}");
    let mut watch = store.watch(KeyRange::all(), Revision(12)).unwrap();
    assert_eq!(watch.next().await.unwrap()[0].revision, Revision(13));
    assert!(matches!(store.compact(Revision(11)), Err(StoreError::Compacted { .. })));
    assert!(matches!(store.compact(Revision(21)), Err(StoreError::Future { .. })));
}
