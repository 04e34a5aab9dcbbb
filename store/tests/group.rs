//! A group of three stores through their public handles, over a network in
//! memory: everybody writes, reads and watches, and one may be lost.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use bytes::Bytes;
use skiff_store::{
    Compare, Draft, Key, KeyRange, MemoryNetwork, Revision, Store, StoreError, Txn, Write,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

fn put(name: &str, text: &str) -> Txn {
    let bytes = Bytes::copy_from_slice(text.as_bytes());
    let draft = Draft { bytes, revision_at: None, sealed: false };
    Txn::default().write(Write::Put(Key::from(name), draft))
}

/// The place of the store that leads, of those in `among`.
async fn leader(stores: &[Store], among: &[usize]) -> usize {
    let mut waiting = JoinSet::new();
    for at in among.iter().copied() {
        let mut leadership = stores[at].leadership();
        waiting.spawn(async move {
            leadership.wait_for(|leadership| leadership.is_leader).await.unwrap();
            at
        });
    }
    let first = timeout(Duration::from_secs(10), waiting.join_next()).await;
    first.expect("no leader within ten seconds").unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_members_write_read_and_watch_the_same() {
    let network = MemoryNetwork::default();
    let stores = Store::memory_group(3, &network).await.unwrap();
    leader(&stores, &[0, 1, 2]).await;
    let mut watches: Vec<_> =
        (stores.iter()).map(|store| store.watch(KeyRange::all(), Revision(0)).unwrap()).collect();
    for round in 0..30u64 {
        let writer = &stores[round as usize % 3];
        let committed = writer.commit(put("a", &round.to_string())).await.unwrap();
        assert_eq!(committed.revision, Revision(round + 1));
        assert_eq!(writer.revision(), committed.revision, "writers see their own writes");
        let reader = &stores[(round as usize + 1) % 3];
        let latest = reader.snapshot_latest().await.unwrap();
        assert_eq!(latest.revision(), committed.revision, "and everybody who asks");
    }
    let stale = put("a", "x").when(Compare::Unchanged(Key::from("a"), Revision(1)));
    assert!(matches!(stores[2].commit(stale).await, Err(StoreError::Conflict { .. })));
    for watch in &mut watches {
        let mut seen = 0;
        while seen < 30 {
            for event in watch.next().await.unwrap() {
                seen += 1;
                assert_eq!(event.revision, Revision(seen), "no gap and no repeat");
            }
        }
    }
    for store in stores {
        store.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_after_the_leader_is_cut_off() {
    let network = MemoryNetwork::default();
    let stores = Store::memory_group(3, &network).await.unwrap();
    let first = leader(&stores, &[0, 1, 2]).await;
    let others: Vec<usize> = (0..3).filter(|at| *at != first).collect();
    stores[others[0]].commit(put("a", "1")).await.unwrap();
    network.cut(first as u64 + 1);
    let began = Instant::now();
    stores[others[0]].commit(put("a", "2")).await.unwrap();
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    // The old leader knows soon that it leads no more, and answers nobody.
    let mut leadership = stores[first].leadership();
    let gave_up = leadership.wait_for(|leadership| leadership.leader.is_none());
    timeout(Duration::from_secs(3), gave_up).await.unwrap().unwrap();
    network.heal();
    let latest = timeout(Duration::from_secs(5), async {
        loop {
            match stores[first].snapshot_latest().await {
                Ok(latest) => return latest,
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
        }
    });
    assert_eq!(&latest.await.unwrap().get("a").unwrap().value[..], b"2");
}
