//! A data directory: opening it, and putting together what it holds.
//!
//! ```text
//! DIR/FORMAT     version of everything below, fingerprint of the sealing key
//! DIR/MEMBER     the id that a group gave to this member; the first has none
//! DIR/LOCK       locked while a process uses the directory
//! DIR/log/       the Raft log: the truth since the snapshot
//! DIR/snapshot/  the newest snapshot: the truth before it
//! DIR/state/     the state tree: a copy of both, for a fast start
//! DIR/state.sums checksums of its files while it is not in use
//! DIR/state.busy lies there while the tree is in use
//! ```
//!
//! The newest state is the tree, if it is whole and not older than the
//! snapshot, or else the snapshot; the log does the rest. A damaged tree is
//! thrown away with a warning. A damaged snapshot matters only when the tree
//! cannot be used. A damaged log stops the start: nobody knows what it held.

mod force;

use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use crate::group::FIRST;
use crate::history::History;
use crate::keeper::{Keeper, StateKeeper, Work};
use crate::log::engine::{EngineLog, write_durably};
use crate::log::{LogError, LogStore, Position};
use crate::machine::{Entries, Machine};
use crate::members::Members;
use crate::sealing::Sealer;
use crate::snapshot_file;
use crate::state::tree::TreeState;
use crate::state::{self, Loaded, StateError, StateStore};
use crate::store::{KeeperStart, Parts, StoreConfig};
use crate::types::{Revision, StoreError};
use crate::view::Applied;

/// The version that this program writes. It reads no other yet.
const FORMAT: u32 = 1;

/// The only member of a new group.
pub(crate) const FIRST_MEMBER: u64 = 1;

/// Opens or makes the store in `config.dir`.
pub(crate) fn open(
    config: &StoreConfig,
    sealer: Arc<Sealer>,
) -> Result<Parts<EngineLog>, StoreError> {
    let dir = &config.dir;
    std::fs::create_dir_all(dir).map_err(|error| disk(dir, &error))?;
    let lock = lock(dir)?;
    check_format(dir, &sealer)?;
    let snapshots = dir.join("snapshot");
    std::fs::create_dir_all(&snapshots).map_err(|error| disk(&snapshots, &error))?;

    let mut log = EngineLog::open(&dir.join("log")).map_err(|error| log_failure(dir, &error))?;
    let member = identity(dir, config, &log)?;
    let members = match log.bootstrap() {
        Some(members) => members,
        // Everything it will know comes from the group, as a snapshot first.
        None if member != FIRST_MEMBER => Members::default(),
        None => {
            let members = Members::single(FIRST_MEMBER);
            log.initialize(&members).map_err(|error| log_failure(dir, &error))?;
            members
        }
    };

    adopt_received(dir, &sealer, &mut log)?;
    if config.force_new_group {
        force::begin_group(dir, member, &members, &mut log, &sealer)?;
    }

    let mut tree = TreeState::new(&dir.join("state"), sealer.clone());
    let from_tree = load_tree(&mut tree, &log)?;
    let (loaded, saved) = match from_tree {
        Some(loaded) => {
            let saved = (loaded.machine.entries().clone(), loaded.machine.revision());
            (loaded, saved)
        }
        // The tree is empty now; the first save writes all of it.
        None => (load_snapshot(&snapshots, &log, members, &sealer)?, (Entries::new(), Revision(0))),
    };

    let applied = loaded.applied.position.index;
    if applied > log.last_index() {
        let reason =
            format!("it ends at entry {}, but entry {applied} was applied", log.last_index());
        return Err(log_failure(dir, &LogError::Damaged(reason)));
    }

    let mut history = History::new(loaded.floor, config.history_window, config.history_bytes);
    history.push(loaded.events, std::time::Duration::ZERO);
    let covered = snapshot_file::newest(&snapshots).map_err(|e| disk(&snapshots, &e))?;
    let uncovered = log.entry_bytes_after(covered.map_or(0, |position| position.index));
    let snapshot_log_bytes = config.snapshot_log_bytes;
    let keeper: KeeperStart = Box::new(move |shared| {
        let (saved, saved_revision) = saved;
        let work = Work { shared, state: Box::new(tree), snapshots, sealer, saved, saved_revision };
        let keeper = Keeper::start(work, snapshot_log_bytes, uncovered)?;
        Ok(Box::new(keeper) as Box<dyn StateKeeper>)
    });
    Ok(Parts {
        member,
        log,
        machine: loaded.machine,
        applied: loaded.applied,
        history,
        keeper,
        kept_log_bytes: config.kept_log_bytes,
        lock: Some(lock),
    })
}

/// The member's id: the first one's, or what the group gave out, written down
/// before anything else.
fn identity(dir: &Path, config: &StoreConfig, log: &EngineLog) -> Result<u64, StoreError> {
    let path = dir.join("MEMBER");
    match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|error| disk(&path, &error)),
        Err(error) if error.kind() != ErrorKind::NotFound => Err(disk(&path, &error)),
        Err(_) => match config.joined_as {
            Some(id) if id != FIRST_MEMBER && log.bootstrap().is_none() => {
                write_durably(&path, format!("{id}\n").as_bytes()).map_err(|e| disk(&path, &e))?;
                Ok(id)
            }
            _ => Ok(FIRST_MEMBER),
        },
    }
}

/// Finishes what a crash interrupted: a snapshot came from the leader and is
/// whole, the log does not follow it yet.
fn adopt_received(dir: &Path, sealer: &Arc<Sealer>, log: &mut EngineLog) -> Result<(), StoreError> {
    let snapshots = &dir.join("snapshot");
    let Some(position) = snapshot_file::received(snapshots).map_err(|e| disk(snapshots, &e))?
    else {
        return Ok(());
    };
    // The tree may be of the same place and of another group.
    let mut tree = TreeState::new(&dir.join("state"), sealer.clone());
    tree.wipe().map_err(|error| StoreError::Disk(error.to_string()))?;
    if log.truncated().index < position.index {
        let mut hard_state = log.hard_state();
        hard_state.term = hard_state.term.max(position.term);
        hard_state.commit = position.index;
        log.reset(position, &hard_state).map_err(|error| log_failure(snapshots, &error))?;
    }
    snapshot_file::adopt(snapshots, position).map_err(|error| disk(snapshots, &error))
}

/// Keeps other processes out, as long as the file stays open.
fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("LOCK");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| disk(&path, &e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked(dir.display().to_string())),
        Err(TryLockError::Error(error)) => Err(disk(&path, &error)),
    }
}

/// Writes or checks the format file. It comes before everything else, so a
/// directory without one holds nothing of ours.
fn check_format(dir: &Path, sealer: &Sealer) -> Result<(), StoreError> {
    let path = dir.join("FORMAT");
    let fingerprint = fingerprint(sealer);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if dir.join("log").exists() {
                return Err(StoreError::Disk(format!(
                    "{} has a log but no FORMAT file",
                    dir.display()
                )));
            }
            return write_format(dir, sealer).map_err(|error| disk(&path, &error));
        }
        Err(error) => return Err(disk(&path, &error)),
    };
    let fields: Vec<_> = text.split_whitespace().collect();
    match fields[..] {
        ["skiff-store", version, found] => match version.parse::<u32>() {
            Ok(FORMAT) if found == fingerprint => Ok(()),
            Ok(FORMAT) => Err(StoreError::Invalid(format!(
                "{} was made with another sealing key",
                dir.display()
            ))),
            Ok(version) => Err(StoreError::Invalid(format!(
                "{} has format {version}, this program reads format {FORMAT}: use the program that wrote it",
                dir.display()
            ))),
            Err(_) => Err(StoreError::Disk(format!("{} is damaged", path.display()))),
        },
        _ => Err(StoreError::Disk(format!("{} is damaged", path.display()))),
    }
}

/// Begins a directory.
pub(crate) fn write_format(dir: &Path, sealer: &Sealer) -> std::io::Result<()> {
    let text = format!("skiff-store {FORMAT} {}\n", fingerprint(sealer));
    write_durably(&dir.join("FORMAT"), text.as_bytes())
}

fn fingerprint(sealer: &Sealer) -> String {
    sealer.fingerprint().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The state tree, if it can be used. Leaves an empty one otherwise.
fn load_tree(tree: &mut TreeState, log: &EngineLog) -> Result<Option<Loaded>, StoreError> {
    let reason = match tree.load().and_then(state::check) {
        // Everything applied has been in the log. If the log now ends before
        // that, it is the log that lost something.
        Ok(Some(loaded)) if loaded.applied.position.index >= log.truncated().index => {
            return Ok(Some(loaded));
        }
        Ok(Some(loaded)) => format!(
            "it ends at entry {}, the log begins after entry {}",
            loaded.applied.position.index,
            log.truncated().index
        ),
        Ok(None) => return Ok(None),
        Err(StateError::Damaged(reason) | StateError::Io { reason, .. }) => reason,
    };
    tracing::warn!(%reason, "rebuilding the state tree from snapshot and log");
    tree.wipe().map_err(|error| StoreError::Disk(error.to_string()))?;
    Ok(None)
}

/// The snapshot, or the beginning of everything if the log still reaches back
/// to it.
fn load_snapshot(
    dir: &Path,
    log: &EngineLog,
    members: Members,
    sealer: &Sealer,
) -> Result<Loaded, StoreError> {
    let truncated = log.truncated();
    let beginning = if members.voters.is_empty() { Position::default() } else { FIRST };
    match snapshot_file::read(dir, sealer) {
        Ok(Some((machine, meta))) if meta.applied.position.index >= truncated.index => {
            Ok(Loaded { machine, applied: meta.applied, floor: meta.revision, events: Vec::new() })
        }
        // A damaged snapshot is no loss while the log holds everything.
        _ if truncated == beginning => Ok(Loaded {
            machine: Machine::default(),
            applied: Applied { position: beginning, members: Arc::new(members) },
            floor: Revision(0),
            events: Vec::new(),
        }),
        Ok(_) => Err(StoreError::Damaged(format!(
            "{} has no snapshot of entry {}, before which the log was given up",
            dir.display(),
            truncated.index
        ))),
        Err(error) => Err(StoreError::Damaged(format!("{}: {error}", dir.display()))),
    }
}

fn disk(path: &Path, error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Disk(format!("{}: {error}", path.display()))
}

fn log_failure(dir: &Path, error: &LogError) -> StoreError {
    match error {
        LogError::Damaged(_) => {
            StoreError::Damaged(format!("{}: {error}", dir.join("log").display()))
        }
        LogError::Io { .. } => disk(&dir.join("log"), error),
    }
}
