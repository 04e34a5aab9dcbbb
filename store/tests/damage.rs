//! Damaged, foreign, locked and full data directories.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use skiff_store::{
    Draft, Entry, Key, KeyRange, Revision, Store, StoreConfig, StoreError, Txn, Write,
};

const CHILD_DIR: &str = "SKIFF_STORE_DAMAGE_DIR";

fn put(name: &str, text: &str, sealed: bool) -> Txn {
    let draft = Draft { bytes: Bytes::copy_from_slice(text.as_bytes()), revision_at: None, sealed };
    Txn::default().write(Write::Put(Key::from(name), draft))
}

fn config(dir: &Path) -> StoreConfig {
    StoreConfig { snapshot_log_bytes: 100_000, ..StoreConfig::new(dir, [5; 32]) }
}

async fn fill(store: &Store, writes: u32) {
    for n in 0..writes {
        let text = format!("value {n} {}", "y".repeat((n * 31 % 700) as usize));
        store.commit(put(&format!("key/{}", n % 97), &text, n % 4 == 0)).await.unwrap();
    }
}

fn visible(store: &Store) -> (Revision, Vec<Arc<Entry>>) {
    let snapshot = store.snapshot();
    (snapshot.revision(), snapshot.range(&KeyRange::all()).cloned().collect())
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for file in std::fs::read_dir(dir).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_dir() {
            found.extend(files(&file.path()));
        } else {
            found.push(file.path());
        }
    }
    found
}

fn size(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    // A file may be gone by the time it is looked at.
    files(dir).iter().filter_map(|file| Some(file.metadata().ok()?.blocks() * 512)).sum()
}

fn copy_dir(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(&file, target).unwrap();
    }
}

fn newest(dir: &Path, suffix: &str) -> PathBuf {
    files(dir).into_iter().filter(|file| file.to_string_lossy().ends_with(suffix)).max().unwrap()
}

fn flip(file: &Path, at: usize) {
    let mut content = std::fs::read(file).unwrap();
    content[at] ^= 0x10;
    std::fs::write(file, content).unwrap();
}

/// A store that was closed in peace, and what it held.
async fn closed_store(writes: u32) -> (tempfile::TempDir, (Revision, Vec<Arc<Entry>>)) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(config(dir.path())).await.unwrap();
    fill(&store, writes).await;
    let held = visible(&store);
    store.close().await.unwrap();
    (dir, held)
}

#[tokio::test]
async fn a_damaged_state_tree_is_rebuilt_never_served() {
    let (dir, held) = closed_store(600).await;
    let tree = dir.path().join("state").join("db");
    let len = std::fs::metadata(&tree).unwrap().len() as usize;
    // Places all over the file, each in a copy of its own.
    for n in 0..24 {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(dir.path(), copy.path());
        let file = copy.path().join("state").join("db");
        flip(&file, (n * len / 24 + n * 13) % len);
        if n % 5 == 0 {
            std::fs::OpenOptions::new()
                .write(true)
                .open(&file)
                .unwrap()
                .set_len((len * n / 24) as u64)
                .unwrap();
        }
        let store = Store::open(config(copy.path())).await.unwrap();
        assert_eq!(visible(&store), held, "place {n}");
        fill(&store, 20).await;
        let held = visible(&store);
        store.close().await.unwrap();
        let store = Store::open(config(copy.path())).await.unwrap();
        assert_eq!(visible(&store), held, "place {n}, after the repair");
        store.close().await.unwrap();
    }
}

/// Not a test of its own: what the child process below does.
#[test]
#[ignore = "runs as the child of another test"]
fn open_without_unwinding() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    // A release build aborts where this one would unwind.
    std::panic::set_hook(Box::new(|_| std::process::abort()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(config(Path::new(&dir))).await.unwrap();
        println!("REVISION {}", store.revision());
        store.close().await.unwrap();
    });
}

#[tokio::test]
async fn a_damaged_state_tree_is_rebuilt_where_a_panic_ends_the_process() {
    let (dir, (revision, _)) = closed_store(600).await;
    let len = std::fs::metadata(dir.path().join("state").join("db")).unwrap().len() as usize;
    for n in 0..8 {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(dir.path(), copy.path());
        let file = copy.path().join("state").join("db");
        if n % 2 == 0 {
            flip(&file, (n * len / 8 + n * 13) % len);
        } else {
            std::fs::write(&file, &std::fs::read(&file).unwrap()[..len * n / 8]).unwrap();
        }
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["open_without_unwinding", "--exact", "--ignored", "--nocapture"])
            .env(CHILD_DIR, copy.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "place {n}: {}: {said}", output.status);
        assert!(said.contains(&format!("REVISION {revision}")), "place {n}: {said}");
    }
}

#[tokio::test]
async fn a_tree_that_was_in_use_is_thrown_away() {
    let (dir, held) = closed_store(100).await;
    std::fs::write(dir.path().join("state.busy"), b"").unwrap();
    let store = Store::open(config(dir.path())).await.unwrap();
    assert_eq!(visible(&store), held);
    assert!(store.stats().loaded_index < store.stats().applied_index - 1, "{:?}", store.stats());
    store.close().await.unwrap();
    assert!(!dir.path().join("state.busy").exists());
    let store = Store::open(config(dir.path())).await.unwrap();
    assert_eq!(store.stats().loaded_index, store.stats().applied_index - 1, "the tree is back");
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_damaged_log_refuses_to_start() {
    let (dir, _) = closed_store(300).await;
    let log = newest(&dir.path().join("log"), ".raftlog");
    let len = std::fs::metadata(&log).unwrap().len() as usize;
    let mut refused = 0;
    for n in 1..16 {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(dir.path(), copy.path());
        // Every byte of the log counts after a clean close, except in entries
        // that were given up already.
        flip(&newest(&copy.path().join("log"), ".raftlog"), len * n / 16);
        match Store::open(config(copy.path())).await {
            Ok(store) => assert_eq!(store.stats().last_index, 303, "place {n}"),
            Err(StoreError::Damaged(reason)) => {
                assert!(reason.contains("log is damaged"), "{reason}");
                refused += 1;
            }
            Err(other) => panic!("place {n}: {other}"),
        }
    }
    assert!(refused > 0);
}

#[tokio::test]
async fn a_log_that_lost_its_end_refuses_to_start() {
    // Cut after a clean close: every batch is known to have been there.
    let (dir, _) = closed_store(300).await;
    let log = newest(&dir.path().join("log"), ".raftlog");
    let len = std::fs::metadata(&log).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(len - 100).unwrap();
    let error = Store::open(config(dir.path())).await.unwrap_err();
    assert!(error.to_string().contains("log is damaged"), "{error}");
}

#[tokio::test]
async fn a_hole_in_the_log_is_not_taken_for_a_torn_tail() {
    // As after a crash: no note of a clean close, batches behind the damage.
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig::new(dir.path(), [5; 32]);
    let store = Store::open(config.clone()).await.unwrap();
    fill(&store, 300).await;
    store.close().await.unwrap();
    std::fs::remove_file(dir.path().join("log").join("CLOSED")).unwrap();
    std::fs::remove_dir_all(dir.path().join("state")).unwrap();
    let log = newest(&dir.path().join("log"), ".raftlog");
    let len = std::fs::metadata(&log).unwrap().len() as usize;
    for n in 2..14 {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(dir.path(), copy.path());
        flip(&newest(&copy.path().join("log"), ".raftlog"), len * n / 16);
        let error = Store::open(StoreConfig::new(copy.path(), [5; 32])).await.unwrap_err();
        assert!(error.to_string().contains("log is damaged"), "place {n}: {error}");
    }
}

#[tokio::test]
async fn a_torn_last_batch_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig::new(dir.path(), [5; 32]);
    let store = Store::open(config.clone()).await.unwrap();
    fill(&store, 50).await;
    store.close().await.unwrap();
    std::fs::remove_file(dir.path().join("log").join("CLOSED")).unwrap();
    // The tree must not remember what the log is about to lose.
    std::fs::remove_dir_all(dir.path().join("state")).unwrap();
    let log = newest(&dir.path().join("log"), ".raftlog");
    let len = std::fs::metadata(&log).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(len - 30).unwrap();
    let store = Store::open(config).await.unwrap();
    assert_eq!(store.revision(), Revision(49));
    fill(&store, 10).await;
    assert_eq!(store.revision(), Revision(59));
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_damaged_snapshot_is_refused_when_it_is_needed() {
    let (dir, held) = closed_store(600).await;
    let snapshot = newest(&dir.path().join("snapshot"), ".snapshot");
    flip(&snapshot, 200);
    // The tree is whole: nobody needs the snapshot. (And nobody writes another.)
    let store = Store::open(StoreConfig::new(dir.path(), [5; 32])).await.unwrap();
    assert_eq!(visible(&store), held);
    store.close().await.unwrap();
    std::fs::remove_dir_all(dir.path().join("state")).unwrap();
    let error = Store::open(config(dir.path())).await.unwrap_err();
    assert!(error.to_string().contains("snapshot is damaged"), "{error}");
}

#[tokio::test]
async fn secrets_never_touch_the_disk_in_clear() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(config(dir.path())).await.unwrap();
    for n in 0..400 {
        let secret = format!("TOP-SECRET-{n} {}", "TOP-SECRET ".repeat(n % 50));
        store.commit(put(&format!("secrets/{}", n % 40), &secret, true)).await.unwrap();
        store.commit(put(&format!("plain/{}", n % 40), "in the clear", false)).await.unwrap();
    }
    assert!(store.stats().snapshot_index > 0);
    let check = || {
        let contains = |text: &[u8]| {
            files(dir.path())
                .iter()
                .filter(|file| memchr::memmem::find(&std::fs::read(file).unwrap(), text).is_some())
                .count()
        };
        assert_eq!(contains(b"TOP-SECRET"), 0);
        assert!(contains(b"in the clear") >= 2, "the search itself works");
    };
    check();
    store.close().await.unwrap();
    check();
    let store = Store::open(config(dir.path())).await.unwrap();
    assert!(store.snapshot().get("secrets/7").unwrap().value.starts_with(b"TOP-SECRET"));
    store.close().await.unwrap();
    let other = StoreConfig { sealing_key: [6; 32], ..config(dir.path()) };
    let error = Store::open(other).await.unwrap_err();
    assert!(error.to_string().contains("made with another sealing key"), "{error}");
}

#[tokio::test]
async fn endless_rewrites_take_bounded_space() {
    const OBJECTS: usize = 1000;
    const VALUE: usize = 4 << 10;
    const ROUNDS: usize = 70;
    let dir = tempfile::tempdir().unwrap();
    let config =
        StoreConfig { history_bytes: 1 << 20, snapshot_log_bytes: 2 << 20, ..config(dir.path()) };
    let bound = config.disk_bound((OBJECTS * (VALUE + 64)) as u64);
    assert!(bound * 2 < (OBJECTS * VALUE * ROUNDS) as u64, "more is written than may be kept");
    let store = Store::open(config).await.unwrap();
    let value = "z".repeat(VALUE);
    let mut largest = 0;
    for round in 0..ROUNDS {
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..OBJECTS {
            let (store, text) = (store.clone(), format!("{round} {value}"));
            tasks.spawn(async move {
                store.commit(put(&format!("key/{n}"), &text, false)).await.unwrap()
            });
        }
        tasks.join_all().await;
        largest = largest.max(size(dir.path()));
    }
    assert!(largest < bound, "{} of {} MiB", largest >> 20, bound >> 20);
    println!("largest: {} of {} MiB, {:?}", largest >> 20, bound >> 20, store.stats());
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let (dir, _) = closed_store(1).await;
    let path = dir.path().join("FORMAT");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("skiff-store 1", "skiff-store 2")).unwrap();
    let error = Store::open(config(dir.path())).await.unwrap_err();
    assert!(error.to_string().contains("has format 2, this program reads format 1"), "{error}");
    std::fs::write(&path, "something else").unwrap();
    assert!(matches!(Store::open(config(dir.path())).await, Err(StoreError::Disk(_))));
    std::fs::remove_file(&path).unwrap();
    let error = Store::open(config(dir.path())).await.unwrap_err();
    assert!(error.to_string().contains("a log but no FORMAT file"), "{error}");
}

#[tokio::test]
async fn a_directory_has_one_user() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(config(dir.path())).await.unwrap();
    let error = Store::open(config(dir.path())).await.unwrap_err();
    assert!(matches!(error, StoreError::Locked(_)), "{error}");
    store.close().await.unwrap();
    Store::open(config(dir.path())).await.unwrap().close().await.unwrap();
}
