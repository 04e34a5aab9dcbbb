//! `kill -9` in the middle of writes: nothing that was acknowledged is lost.
//!
//! The test runs itself again as a child process that writes and prints every
//! acknowledgement; the parent kills it without warning at an arbitrary moment,
//! opens the store and compares. Several rounds go over the same directory, so
//! that recovered state is crashed again, with thresholds so small that many
//! kills fall into saves, snapshots and truncations.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use skiff_store::{Draft, Key, KeyRange, Revision, Store, StoreConfig, StoreError, Txn, Write};

const DIR: &str = "SKIFF_STORE_CRASH_DIR";
const ROUND: &str = "SKIFF_STORE_CRASH_ROUND";
const WRITERS: u64 = 8;
const WRITES: u64 = 1000;
const ROUNDS: u64 = 8;

fn config(dir: &Path, round: u64) -> StoreConfig {
    let snapshot_log_bytes = if round.is_multiple_of(2) { 8 << 20 } else { 50_000 };
    StoreConfig { snapshot_log_bytes, ..StoreConfig::new(dir, [3; 32]) }
}

/// Not a test of its own: what the child process does.
#[test]
#[ignore = "runs as the child of the crash test"]
fn child() {
    let (Ok(dir), Ok(round)) = (std::env::var(DIR), std::env::var(ROUND)) else { return };
    let round: u64 = round.parse().unwrap();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(config(Path::new(&dir), round)).await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let store = store.clone();
            tasks.spawn(async move {
                for n in (writer..WRITES).step_by(WRITERS as usize) {
                    // Some keys are new, some are written in every round.
                    let name =
                        if n % 2 == 0 { format!("{round}/{n}") } else { format!("shared/{n}") };
                    let value = format!("{round}:{n}:{}", "x".repeat((n * 37 % 900) as usize));
                    let draft =
                        Draft { bytes: Bytes::from(value), revision_at: None, sealed: n % 5 == 0 };
                    let committed = store
                        .commit(Txn::default().write(Write::Put(Key::from(name.as_str()), draft)))
                        .await
                        .unwrap();
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "ACK {} {name} {round}:{n}:", committed.revision).unwrap();
                    out.flush().unwrap();
                }
            });
        }
        tasks.join_all().await;
    });
    println!("DONE");
    // Wait to be killed, so that no round ends in a clean close.
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn nothing_acknowledged_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // What was acknowledged: key to revision and beginning of the value.
    let mut acknowledged: BTreeMap<String, (u64, String)> = BTreeMap::new();
    let mut total = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .env(DIR, dir.path())
            .env(ROUND, round.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Somewhere in the middle, elsewhere in each round.
        let kill_after = 1 + (round * 389 + u64::from(std::process::id())) % WRITES;
        let mut count = 0;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some(rest) = line.strip_prefix("ACK ") {
                let fields: Vec<_> = rest.split(' ').collect();
                let [revision, name, value] = fields[..] else { continue };
                acknowledged.insert(name.into(), (revision.parse().unwrap(), value.into()));
                count += 1;
            }
            if count == kill_after || line == "DONE" {
                // The loop goes on to drain what was printed before the kill.
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(count >= kill_after, "round {round}: the child ended after {count} writes");
        total += count;

        runtime.block_on(async {
            // In odd rounds only a copy is opened: the next child then finds what
            // a crash left, after a crash.
            let copy = tempfile::tempdir().unwrap();
            let dir = if round % 2 == 1 { copy_dir(dir.path(), copy.path()) } else { dir.path() };
            let store = Store::open(config(dir, round)).await.unwrap();
            let snapshot = store.snapshot();
            for (name, (revision, value)) in &acknowledged {
                let entry =
                    snapshot.get(name).unwrap_or_else(|| panic!("round {round}: {name} is lost"));
                assert!(entry.modified >= Revision(*revision), "round {round}: {name} went back");
                if entry.modified == Revision(*revision) {
                    assert!(
                        entry.value.starts_with(value.as_bytes()),
                        "round {round}: {name} has another value"
                    );
                }
            }
            check_history(&store).await;
            store.close().await.unwrap();
        });
        if round % 3 == 2 {
            // The tree is only a copy. (It may be gone already, when the child
            // found it torn and died before its first save.)
            let _ = std::fs::remove_dir_all(dir.path().join("state"));
        }
    }
    assert!(total > ROUNDS);
}

fn copy_dir<'a>(from: &Path, to: &'a Path) -> &'a Path {
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let target = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy_dir(&file.path(), &target);
        } else {
            std::fs::copy(file.path(), target).unwrap();
        }
    }
    to
}

/// The history that survived leads exactly to the present.
async fn check_history(store: &Store) {
    let floor = store.stats().compacted;
    let mut watch = store.watch(KeyRange::all(), floor).unwrap();
    let mut expected = floor.0;
    let mut last: BTreeMap<Key, Revision> = BTreeMap::new();
    while watch.revision() < store.revision() {
        let events = match watch.next().await {
            Err(StoreError::Compacted { .. }) => panic!("the window moved without a write"),
            events => events.unwrap(),
        };
        for event in events {
            expected += 1;
            assert_eq!(event.revision, Revision(expected));
            if let (Some(previous), Some(known)) = (&event.previous, last.get(event.key())) {
                assert_eq!(previous.modified, *known, "{}", event.key());
            }
            last.insert(event.key().clone(), event.revision);
        }
    }
    assert_eq!(Revision(expected), store.revision());
    for (key, revision) in last {
        assert_eq!(store.snapshot().get(&key).unwrap().modified, revision);
    }
}
