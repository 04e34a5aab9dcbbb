//! The store through its public handle: commits, conflicts, lists, watches.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::EtcdServer;
use skiff_store::{
    Compare, Draft, Key, KeyRange, Revision, Store, StoreConfig, StoreError, Txn, Write,
};

fn key(name: &str) -> Key {
    Key::from(name)
}

fn draft(text: &str) -> Draft {
    Draft { bytes: Bytes::copy_from_slice(text.as_bytes()), revision_at: None, sealed: false }
}

fn put(name: &str, text: &str) -> Txn {
    Txn::default().write(Write::Put(key(name), draft(text)))
}

fn delete(name: &str) -> Txn {
    Txn::default().write(Write::Delete(key(name)))
}

/// What a store stands on.
enum Ground {
    Memory,
    Disk(#[expect(dead_code)] tempfile::TempDir),
    Etcd(#[expect(dead_code)] Box<EtcdServer>),
}

/// All kinds of store, so that every test below holds for each. Etcd's own
/// revisions do not begin at zero, so tests count from where they began.
async fn stores() -> Vec<(&'static str, Store, Ground)> {
    let dir = tempfile::tempdir().unwrap();
    let disk = Store::open(StoreConfig::new(dir.path(), [1; 32])).await.unwrap();
    let mut stores = vec![
        ("memory", Store::memory().await.unwrap(), Ground::Memory),
        ("disk", disk, Ground::Disk(dir)),
    ];
    if common::etcd_is_there() {
        let etcd = EtcdServer::start();
        stores.push(("etcd", etcd.store().await, Ground::Etcd(Box::new(etcd))));
    }
    stores
}

/// Names the revisions after the newest one.
fn counting(store: &Store) -> impl Fn(u64) -> Revision + use<> {
    let Revision(base) = store.revision();
    move |n| Revision(base + n)
}

#[tokio::test]
async fn a_write_is_read_back_at_its_revision() {
    for (kind, store, _ground) in stores().await {
        let at = counting(&store);
        let committed = store.commit(put("a", "1")).await.unwrap();
        assert_eq!(committed.revision, at(1), "{kind}");
        let entry = store.snapshot().get("a").unwrap();
        assert_eq!(committed.entries, std::slice::from_ref(&entry), "{kind}");
        assert_eq!((entry.created, entry.modified, &entry.value[..]), (at(1), at(1), &b"1"[..]));

        let replaced = store.commit(put("a", "2")).await.unwrap();
        assert_eq!(replaced.entries[0].created, at(1), "{kind}: a replacement keeps its creation");
        let gone = store.commit(delete("a")).await.unwrap();
        assert_eq!(gone.deleted, replaced.entries, "{kind}");
        let again = store.commit(put("a", "3")).await.unwrap();
        assert_eq!(again.entries[0].created, at(4), "{kind}: a new life begins anew");
    }
}

#[tokio::test]
async fn the_revision_is_spliced_into_its_hole() {
    for (kind, store, _ground) in stores().await {
        let at = counting(&store);
        for round in 1..=11u64 {
            let hole = Draft {
                bytes: Bytes::from_static(b"{\"rv\":\"\"}"),
                revision_at: Some(7),
                sealed: round % 2 == 0,
            };
            let committed =
                store.commit(Txn::default().write(Write::Put(key("a"), hole))).await.unwrap();
            let expected = format!("{{\"rv\":\"{}\"}}", at(round));
            assert_eq!(committed.entries[0].value, expected, "{kind}");
        }
    }
}

#[tokio::test]
async fn failed_and_empty_transactions_take_no_revision() {
    for (kind, store, _ground) in stores().await {
        let at = counting(&store);
        store.commit(put("a", "1")).await.unwrap();
        let entry = store.snapshot().get("a").unwrap();
        let refused = [
            ("absent", Compare::Absent(key("a")), Some(entry.clone())),
            ("unchanged", Compare::Unchanged(key("a"), at(9)), Some(entry.clone())),
            ("present", Compare::Present(key("b")), None),
            ("unchanged but gone", Compare::Unchanged(key("b"), at(1)), None),
        ];
        for (name, compare, expected) in refused {
            match store.commit(put("c", "x").when(compare)).await {
                Err(StoreError::Conflict { current, .. }) => {
                    assert_eq!(current, expected, "{kind}: {name}")
                }
                other => panic!("{kind}: {name}: {other:?}"),
            }
        }
        assert_eq!(
            store.commit(delete("b")).await.unwrap().revision,
            at(1),
            "{kind}: nothing to delete"
        );
        assert_eq!(
            store.commit(Txn::default()).await.unwrap().revision,
            at(1),
            "{kind}: nothing at all"
        );
        assert_eq!(store.commit(put("c", "x")).await.unwrap().revision, at(2), "{kind}: no gap");
    }
}

#[tokio::test]
async fn one_of_many_writers_of_the_same_revision_wins() {
    for (kind, store, _ground) in stores().await {
        let at = counting(&store);
        store.commit(put("counter", "0")).await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let store = store.clone();
            tasks.spawn(async move {
                // Each adds ten, retrying whenever somebody else was first.
                for _ in 0..10 {
                    loop {
                        let entry = store.snapshot().get("counter").unwrap();
                        let number: u64 =
                            std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
                        let txn = put("counter", &(number + 1).to_string())
                            .when(Compare::Unchanged(key("counter"), entry.modified));
                        match store.commit(txn).await {
                            Ok(_) => break,
                            Err(StoreError::Conflict { .. }) => {}
                            Err(other) => panic!("{other}"),
                        }
                    }
                }
            });
        }
        tasks.join_all().await;
        assert_eq!(store.snapshot().get("counter").unwrap().value, "160", "{kind}");
        assert_eq!(store.revision(), at(161), "{kind}");
    }
}

#[tokio::test]
async fn a_snapshot_does_not_move() {
    for (kind, store, _ground) in stores().await {
        let at = counting(&store);
        for n in 0..10 {
            store.commit(put(&format!("k{n}"), "old")).await.unwrap();
        }
        let before = store.snapshot();
        store.commit(put("k3", "new")).await.unwrap();
        store.commit(delete("k4")).await.unwrap();
        store.commit(put("k99", "new")).await.unwrap();
        let old: Vec<_> =
            before.range(&KeyRange::prefix("k")).map(|entry| entry.key.to_string()).collect();
        assert_eq!(old.len(), 10, "{kind}");
        assert!(before.range(&KeyRange::all()).all(|entry| entry.value == "old"), "{kind}");
        // The same state again, now by its number.
        let again = store.snapshot_at(before.revision()).unwrap();
        assert!(again.range(&KeyRange::all()).eq(before.range(&KeyRange::all())), "{kind}");
        assert_eq!(store.snapshot_latest().await.unwrap().revision(), at(13), "{kind}");
        let empty = KeyRange { start: key("z"), end: Some(key("a")) };
        assert_eq!(before.range(&empty).count(), 0, "{kind}: a range that ends before it starts");
        assert!(matches!(store.snapshot_at(at(14)), Err(StoreError::Future { .. })), "{kind}");
    }
}

#[tokio::test]
async fn a_watch_sees_everything_once_and_in_order() {
    for (kind, store, _ground) in stores().await {
        let at = counting(&store);
        let mut watch = store.watch(KeyRange::prefix("a/"), at(0)).unwrap();
        let writer = {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..300u32 {
                    store.commit(put(&format!("a/{}", n % 7), &n.to_string())).await.unwrap();
                    store.commit(put(&format!("b/{n}"), "other")).await.unwrap();
                }
            })
        };
        let mut seen = Vec::new();
        while seen.len() < 300 {
            // Dropping `next` half way must lose nothing.
            let Ok(events) = tokio::time::timeout(Duration::from_micros(300), watch.next()).await
            else {
                continue;
            };
            seen.extend(events.unwrap());
        }
        writer.await.unwrap();
        for (n, event) in seen.iter().enumerate() {
            assert_eq!(event.revision, at(2 * n as u64 + 1), "{kind}");
            assert_eq!(event.entry.as_ref().unwrap().value, n.to_string(), "{kind}");
            assert_eq!(event.previous.is_some(), n >= 7, "{kind}");
        }
        assert!(watch.try_next().unwrap().is_empty(), "{kind}");
        assert_eq!(
            watch.revision(),
            store.revision(),
            "{kind}: progress covers what did not concern it"
        );
    }
}

#[tokio::test]
async fn list_then_watch_has_no_gap_under_load() {
    for (kind, store, _ground) in stores().await {
        let all = counting(&store)(400);
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let store = store.clone();
                tokio::spawn(async move {
                    for n in 0..100 {
                        store
                            .commit(put(&format!("{writer}/{}", n % 5), &n.to_string()))
                            .await
                            .unwrap();
                    }
                })
            })
            .collect();
        let mut followers = tokio::task::JoinSet::new();
        for _ in 0..8 {
            tokio::task::yield_now().await;
            let store = store.clone();
            followers.spawn(async move {
                let start = store.snapshot();
                let mut state: std::collections::BTreeMap<Key, Bytes> = start
                    .range(&KeyRange::all())
                    .map(|entry| (entry.key.clone(), entry.value.clone()))
                    .collect();
                let mut watch = store.watch(KeyRange::all(), start.revision()).unwrap();
                while watch.revision() < all {
                    for event in watch.next().await.unwrap() {
                        let entry = event.entry.as_ref().unwrap();
                        state.insert(entry.key.clone(), entry.value.clone());
                    }
                }
                state
            });
        }
        for writer in writers {
            writer.await.unwrap();
        }
        let expected: std::collections::BTreeMap<Key, Bytes> = store
            .snapshot()
            .range(&KeyRange::all())
            .map(|entry| (entry.key.clone(), entry.value.clone()))
            .collect();
        for state in followers.join_all().await {
            assert_eq!(state, expected, "{kind}");
        }
    }
}

#[tokio::test]
async fn watches_outside_the_window_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { history_bytes: 20_000, ..StoreConfig::new(dir.path(), [1; 32]) };
    let store = Store::open(config).await.unwrap();
    let mut slow = store.watch(KeyRange::all(), Revision(0)).unwrap();
    for n in 0..500 {
        store.commit(put("a", &n.to_string())).await.unwrap();
    }
    let oldest = store.stats().compacted;
    assert!(oldest > Revision(300), "the window is bounded by bytes, it begins after {oldest}");
    match slow.next().await {
        Err(StoreError::Compacted { wanted: Revision(0), oldest: told }) => {
            assert_eq!(told, oldest)
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        store.watch(KeyRange::all(), Revision(oldest.0 - 1)),
        Err(StoreError::Compacted { .. })
    ));
    assert!(matches!(store.watch(KeyRange::all(), Revision(501)), Err(StoreError::Future { .. })));
    assert!(matches!(store.snapshot_at(Revision(1)), Err(StoreError::Compacted { .. })));
    let mut resumed = store.watch(KeyRange::all(), oldest).unwrap();
    assert_eq!(resumed.next().await.unwrap()[0].revision, Revision(oldest.0 + 1));
}

#[tokio::test]
async fn a_pinned_snapshot_outlives_the_window() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { history_bytes: 1000, ..StoreConfig::new(dir.path(), [1; 32]) };
    let store = Store::open(config).await.unwrap();
    store.commit(put("a", "old")).await.unwrap();
    let old = store.snapshot();
    store.pin(&old);
    for n in 0..100 {
        store.commit(put("a", &n.to_string())).await.unwrap();
    }
    assert_eq!(store.snapshot_at(Revision(1)).unwrap().get("a").unwrap().value, "old");
    assert!(matches!(store.snapshot_at(Revision(2)), Err(StoreError::Compacted { .. })));
}

#[tokio::test]
async fn closing_ends_every_clone() {
    for (kind, store, _ground) in stores().await {
        let at = counting(&store);
        let clone = store.clone();
        let mut watch = store.watch(KeyRange::all(), at(0)).unwrap();
        let watching = tokio::spawn(async move { watch.next().await });
        store.close().await.unwrap();
        assert!(matches!(watching.await.unwrap(), Err(StoreError::Closed)), "{kind}");
        assert!(matches!(clone.commit(put("a", "1")).await, Err(StoreError::Closed)), "{kind}");
        clone.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_store_of_one_leads_from_the_start() {
    for (kind, store, _ground) in stores().await {
        let leadership = *store.leadership().borrow();
        assert!(leadership.is_leader, "{kind}: {leadership:?}");
        assert_eq!(leadership.leader, Some(store.stats().member), "{kind}");
    }
}

#[tokio::test]
async fn many_writers_share_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(StoreConfig::new(dir.path(), [1; 32])).await.unwrap();
    let before = store.stats().syncs;
    let store = Arc::new(store);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..200 {
        let store = store.clone();
        tasks.spawn(async move { store.commit(put(&format!("k{n}"), "v")).await.unwrap() });
    }
    tasks.join_all().await;
    let stats = store.stats();
    assert_eq!(stats.transactions, 200);
    assert!(stats.syncs - before < 100, "{} syncs for 200 writes", stats.syncs - before);
}
