//! What is on the disk after the store has gone, and what comes back from it.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use skiff_store::{Draft, Key, KeyRange, Revision, Store, StoreConfig, Txn, Write};

fn put(name: &str, text: &str, sealed: bool) -> Txn {
    let draft = Draft { bytes: Bytes::copy_from_slice(text.as_bytes()), revision_at: None, sealed };
    Txn::default().write(Write::Put(Key::from(name), draft))
}

#[tokio::test]
async fn everything_is_there_after_a_clean_close() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig::new(dir.path(), [1; 32]);
    for round in 0..4u64 {
        let store = Store::open(config.clone()).await.unwrap();
        assert_eq!(store.revision(), Revision(round * 50));
        for n in 0..50 {
            store.commit(put(&format!("{round}/{n}"), "value", n % 3 == 0)).await.unwrap();
        }
        assert_eq!(store.snapshot().len() as u64, (round + 1) * 50);
        assert!(store.snapshot().range(&KeyRange::all()).all(|entry| entry.value == "value"));
        store.close().await.unwrap();
    }
}

/// Everything that readers can see, for comparisons before and after.
fn visible(store: &Store) -> (Revision, u128, Vec<std::sync::Arc<skiff_store::Entry>>) {
    let snapshot = store.snapshot();
    (snapshot.revision(), store.stats().digest, snapshot.range(&KeyRange::all()).cloned().collect())
}

/// Writes that touch every path: new keys, replacements, deletions, values in
/// many rows of the tree, secrets.
async fn fill(store: &Store, rounds: u32) {
    for n in 0..rounds {
        store
            .commit(put(&format!("small/{}", n % 50), &format!("value {n}"), false))
            .await
            .unwrap();
        store
            .commit(put(&format!("secret/{}", n % 10), &format!("SECRET-{n}"), true))
            .await
            .unwrap();
        if n % 10 == 0 {
            let large = "x".repeat(((n as usize * 7919) % 200_000) + 1);
            store.commit(put(&format!("large/{}", n % 30), &large, false)).await.unwrap();
        }
        if n % 3 == 0 {
            let txn = Txn::default()
                .write(Write::Delete(Key::from(format!("small/{}", (n * 7) % 50))))
                .write(Write::Delete(Key::from(format!("large/{}", (n * 7) % 30))));
            store.commit(txn).await.unwrap();
        }
    }
}

#[tokio::test]
async fn watches_resume_across_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig::new(dir.path(), [1; 32]);
    let store = Store::open(config.clone()).await.unwrap();
    fill(&store, 200).await;
    let mut watch = store.watch(KeyRange::all(), Revision(0)).unwrap();
    let mut before = Vec::new();
    while watch.revision() < store.revision() {
        before.extend(watch.next().await.unwrap());
    }
    let was = visible(&store);
    let applied = store.stats().applied_index;
    store.close().await.unwrap();

    let store = Store::open(config).await.unwrap();
    assert_eq!(store.stats().loaded_index, applied, "from the tree, without a replay");
    assert_eq!(visible(&store), was);
    let mut watch = store.watch(KeyRange::all(), Revision(0)).unwrap();
    let mut after = Vec::new();
    while watch.revision() < store.revision() {
        after.extend(watch.next().await.unwrap());
    }
    assert_eq!(before, after);
    store.close().await.unwrap();
}

#[tokio::test]
async fn snapshots_and_truncation_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // Small enough for many snapshots in a short test.
    let config =
        StoreConfig { snapshot_log_bytes: 100_000, ..StoreConfig::new(dir.path(), [1; 32]) };
    for _ in 0..3 {
        let store = Store::open(config.clone()).await.unwrap();
        fill(&store, 300).await;
        assert!(store.stats().snapshot_index > 0, "{:?}", store.stats());
        let was = visible(&store);
        let (snapshot, applied) = (store.stats().snapshot_index, store.stats().applied_index);
        store.close().await.unwrap();
        let store = Store::open(config.clone()).await.unwrap();
        assert_eq!(visible(&store), was);
        assert_eq!(store.stats().loaded_index, applied, "from the tree");
        // Another start, this time without the tree.
        store.close().await.unwrap();
        std::fs::remove_dir_all(dir.path().join("state")).unwrap();
        let store = Store::open(config.clone()).await.unwrap();
        assert_eq!(visible(&store), was);
        let loaded = store.stats().loaded_index;
        assert!(loaded >= snapshot, "from a snapshot: {loaded}, the one before was {snapshot}");
        store.close().await.unwrap();
    }
}
