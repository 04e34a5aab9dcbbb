//! The log on `raft-engine`: append-only files, one `fdatasync` per batch.
//!
//! Entries go in as Raft made them; beside them each batch carries one *mark*,
//! our own checksummed record of term, vote, commit index and the batch's
//! ordinal. Ordinals have no holes, which is how damage is told from a crash:
//! batch `n + 1` is only written after batch `n` is durable, so a tail in which
//! a later mark is whole while an earlier batch is not was never torn by a
//! crash. See [`tail`](super::tail).
//!
//! The engine is configured small: files of 8 MiB, nothing preallocated beyond
//! its 2 MiB steps, no recycling, no compression (the tail check reads raw
//! marks), one recovery thread. Its metrics thread wakes twice a minute, its
//! only activity when idle.
//!
//! The newest entries stay in memory until they are applied: Raft asks for them
//! right after they are saved, and reading them back from the files would cost
//! a system call and a decode per write.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use raft::eraftpb::{Entry, HardState};
use raft_engine::{Command, Config, Engine, LogBatch, MessageExt, ReadableSize, RecoveryMode};

use super::{LogError, LogStore, Position, entry_bytes, limit, tail};
use crate::group::FIRST;
use crate::members::Members;
use crate::wire::{self, Kind, WireError, put_u64};

/// The engine can hold many groups; we have one.
const GROUP: u64 = 1;

const FILE_SIZE: ReadableSize = ReadableSize::mb(8);

/// Entries kept in memory beyond those of the last append.
const MAX_RECENT_BYTES: u64 = 256 << 10;

const MARK: &[u8] = b"mark";
const BOOTSTRAP: &[u8] = b"bootstrap";
const TRUNCATED: &[u8] = b"truncated";

/// Written when the log is closed in peace, removed when it is opened.
pub(super) const CLOSED: &str = "CLOSED";

struct RaftEntry;

impl MessageExt for RaftEntry {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

/// A log in a directory.
pub(crate) struct EngineLog {
    engine: Engine,
    dir: PathBuf,
    bootstrap: Option<Members>,
    hard_state: HardState,
    /// Ordinal of the last batch.
    ordinal: u64,
    truncated: Position,
    last_index: u64,
    /// The newest entries, without holes up to `last_index`.
    recent: VecDeque<Entry>,
    recent_bytes: u64,
    /// Places of the log as it was opened, with the bytes of all entries up to
    /// them.
    opened: Vec<(u64, u64)>,
}

impl EngineLog {
    /// Opens or creates the log in `dir`.
    pub(crate) fn open(dir: &Path) -> Result<Self, LogError> {
        let closed = dir.join(CLOSED);
        let was_closed = closed.exists();
        let before = tail::read(dir).map_err(|error| io("read", &error))?;
        let engine =
            Engine::open(config(dir)).map_err(|error| LogError::Damaged(error.to_string()))?;
        let mark = match engine.get(GROUP, MARK) {
            Some(bytes) => {
                Mark::decode(&bytes).map_err(|error| damaged("its last mark", &error))?
            }
            None => Mark::default(),
        };
        tail::check(&before, mark.ordinal)?;

        let bootstrap = read_record(&engine, BOOTSTRAP, Kind::Bootstrap, Members::decode)?;
        let truncated = read_record(&engine, TRUNCATED, Kind::Truncated, |reader| {
            Ok(Position { index: reader.u64()?, term: reader.u64()? })
        })?;
        let truncated =
            truncated.unwrap_or(if bootstrap.is_some() { FIRST } else { Position::default() });
        let last_index = engine.last_index(GROUP).unwrap_or(truncated.index).max(truncated.index);
        let mut log = Self {
            engine,
            dir: dir.to_path_buf(),
            bootstrap,
            hard_state: mark.hard_state,
            ordinal: mark.ordinal,
            truncated,
            last_index,
            recent: VecDeque::new(),
            recent_bytes: 0,
            opened: Vec::new(),
        };
        log.check_entries(was_closed)?;
        if was_closed {
            // From here on a crash may tear the tail again.
            std::fs::remove_file(&closed).map_err(|error| io("opened", &error))?;
            sync_dir(dir)?;
        }
        Ok(log)
    }

    /// Bytes of the entries after `index` that the log held when it was opened;
    /// some entries before it may be counted too.
    pub(crate) fn entry_bytes_after(&self, index: u64) -> u64 {
        let all = self.opened.last().map_or(0, |place| place.1);
        let before = self.opened.iter().rev().find(|place| place.0 <= index);
        all - before.map_or(0, |place| place.1)
    }

    /// Reads every entry once, which verifies its checksum. Unreadable entries
    /// at the end that no commit index on disk covers belong to a last batch
    /// that a crash tore apart: they were never acknowledged and are cut off.
    /// Any other is damage.
    fn check_entries(&mut self, was_closed: bool) -> Result<(), LogError> {
        let mut next = self.truncated.index + 1;
        if self.last_index < next {
            return Ok(());
        }
        if self.engine.first_index(GROUP).is_none_or(|first| first > next) {
            return Err(LogError::Damaged(format!("entry {next} is missing")));
        }
        while next <= self.last_index {
            let mut page = Vec::new();
            let high = (next + 1024).min(self.last_index + 1);
            let read =
                self.engine.fetch_entries_to::<RaftEntry>(GROUP, next, high, None, &mut page);
            let reason = match read {
                Ok(_) => page
                    .iter()
                    .zip(next..)
                    .find(|(entry, index)| entry.index != *index)
                    .map(|(entry, index)| format!("entry {index} calls itself {}", entry.index)),
                Err(error) => Some(error.to_string()),
            };
            let Some(reason) = reason else {
                let before = self.opened.last().map_or(0, |place| place.1);
                let bytes: u64 = page.iter().map(entry_bytes).sum();
                self.opened.push((high - 1, before + bytes));
                next = high;
                continue;
            };
            // Find the exact one: a page may reach into the torn batch.
            let bad =
                (next..high).find(|index| self.read(*index, *index + 1).is_err()).unwrap_or(next);
            if was_closed || bad <= self.hard_state.commit {
                return Err(LogError::Damaged(format!("entry {bad} does not read: {reason}")));
            }
            tracing::warn!(
                from = bad,
                to = self.last_index,
                "cutting off a log tail torn by a crash"
            );
            self.last_index = bad - 1;
        }
        Ok(())
    }

    fn read(&self, low: u64, high: u64) -> Result<Vec<Entry>, LogError> {
        let mut entries = Vec::with_capacity((high - low) as usize);
        self.engine
            .fetch_entries_to::<RaftEntry>(GROUP, low, high, None, &mut entries)
            .map_err(|error| LogError::Damaged(error.to_string()))?;
        Ok(entries)
    }

    fn first_recent(&self) -> u64 {
        self.last_index + 1 - self.recent.len() as u64
    }

    fn remember(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        while self.recent.back().is_some_and(|last| last.index >= first.index) {
            self.recent_bytes -= self.recent.pop_back().as_ref().map_or(0, entry_bytes);
        }
        for entry in entries {
            self.recent_bytes += entry_bytes(entry);
            self.recent.push_back(entry.clone());
            self.last_index = entry.index;
        }
        while self.recent_bytes > MAX_RECENT_BYTES && self.recent.len() > entries.len() {
            self.recent_bytes -= self.recent.pop_front().as_ref().map_or(0, entry_bytes);
        }
    }

    /// Begins the log after `to` and drops the entries up to `last`.
    fn give_up(&mut self, to: Position, last: u64, hard_state: &HardState) -> Result<(), LogError> {
        let record = wire::frame(Kind::Truncated, |out| {
            put_u64(out, to.index);
            put_u64(out, to.term);
        });
        let mark = Mark { hard_state: hard_state.clone(), ordinal: self.ordinal + 1 };
        let mut batch = LogBatch::default();
        batch.add_command(GROUP, Command::Compact { index: last + 1 });
        put(&mut batch, TRUNCATED, record)?;
        put(&mut batch, MARK, mark.encode())?;
        self.write(&mut batch, "truncated")?;
        self.ordinal = mark.ordinal;
        self.hard_state = mark.hard_state;
        self.truncated = to;
        self.engine.purge_expired_files().map_err(|error| io("purged", &error))?;
        Ok(())
    }

    fn write(&self, batch: &mut LogBatch, doing: &'static str) -> Result<(), LogError> {
        self.engine.write(batch, true).map_err(|error| io(doing, &error))?;
        Ok(())
    }
}

impl LogStore for EngineLog {
    fn bootstrap(&self) -> Option<Members> {
        self.bootstrap.clone()
    }

    fn initialize(&mut self, members: &Members) -> Result<(), LogError> {
        let hard_state =
            HardState { term: FIRST.term, commit: FIRST.index, ..HardState::default() };
        let mark = Mark { hard_state, ordinal: self.ordinal + 1 };
        let record = wire::frame(Kind::Bootstrap, |out| members.encode(out));
        let mut batch = LogBatch::default();
        put(&mut batch, BOOTSTRAP, record)?;
        put(&mut batch, MARK, mark.encode())?;
        self.write(&mut batch, "begun")?;
        self.bootstrap = Some(members.clone());
        self.truncated = FIRST;
        self.last_index = FIRST.index;
        self.hard_state = mark.hard_state;
        self.ordinal = mark.ordinal;
        Ok(())
    }

    fn hard_state(&self) -> HardState {
        self.hard_state.clone()
    }

    fn truncated(&self) -> Position {
        self.truncated
    }

    fn last_index(&self) -> u64 {
        self.last_index
    }

    fn append(&mut self, entries: &[Entry], hard_state: &HardState) -> Result<(), LogError> {
        let mark = Mark { hard_state: hard_state.clone(), ordinal: self.ordinal + 1 };
        let mut batch = LogBatch::with_capacity(2);
        if !entries.is_empty() {
            batch
                .add_entries::<RaftEntry>(GROUP, entries)
                .map_err(|error| io("written", &error))?;
        }
        put(&mut batch, MARK, mark.encode())?;
        self.write(&mut batch, "written")?;
        self.remember(entries);
        self.hard_state = mark.hard_state;
        self.ordinal = mark.ordinal;
        Ok(())
    }

    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, LogError> {
        let first_recent = self.first_recent();
        let mut entries = if low >= first_recent {
            let (from, to) = ((low - first_recent) as usize, (high - first_recent) as usize);
            self.recent.range(from..to).cloned().collect()
        } else {
            // Bounded here, because the engine allocates what it is asked for.
            self.read(low, high.min(low + 1024))?
        };
        limit(&mut entries, max_bytes);
        Ok(entries)
    }

    fn term(&self, index: u64) -> Result<u64, LogError> {
        if index == self.truncated.index {
            return Ok(self.truncated.term);
        }
        match index.checked_sub(self.first_recent()) {
            Some(place) if (place as usize) < self.recent.len() => {
                Ok(self.recent[place as usize].term)
            }
            _ => Ok(self.read(index, index + 1)?.first().map_or(0, |entry| entry.term)),
        }
    }

    fn truncate(&mut self, to: Position) -> Result<(), LogError> {
        if to.index <= self.truncated.index {
            return Ok(());
        }
        self.give_up(to, to.index, &self.hard_state.clone())
    }

    fn reset(&mut self, to: Position, hard_state: &HardState) -> Result<(), LogError> {
        self.give_up(to, to.index.max(self.last_index), hard_state)?;
        self.recent.clear();
        self.recent_bytes = 0;
        self.last_index = to.index;
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.engine.get_used_size() as u64
    }

    fn close(&mut self) -> Result<(), LogError> {
        self.engine.sync().map_err(|error| io("closed", &error))?;
        let ordinal = self.ordinal.to_string();
        write_durably(&self.dir.join(CLOSED), ordinal.as_bytes())
            .map_err(|error| io("closed", &error))
    }
}

/// What each batch says about itself and the group.
#[derive(Default)]
struct Mark {
    hard_state: HardState,
    ordinal: u64,
}

impl Mark {
    fn encode(&self) -> Vec<u8> {
        wire::frame(Kind::HardState, |out| {
            out.extend_from_slice(tail::MAGIC);
            put_u64(out, self.ordinal);
            put_u64(out, self.hard_state.term);
            put_u64(out, self.hard_state.vote);
            put_u64(out, self.hard_state.commit);
        })
    }

    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = wire::open_frame(Kind::HardState, bytes)?;
        if reader.u64()?.to_le_bytes() != *tail::MAGIC {
            return Err(WireError::Nonsense("not a mark"));
        }
        let ordinal = reader.u64()?;
        let (term, vote, commit) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let hard_state = HardState { term, vote, commit, ..HardState::default() };
        reader.end()?;
        Ok(Self { hard_state, ordinal })
    }
}

fn config(dir: &Path) -> Config {
    Config {
        dir: dir.to_string_lossy().into_owned(),
        // The tail check above takes care of what this tolerates too much.
        recovery_mode: RecoveryMode::TolerateTailCorruption,
        recovery_threads: 1,
        batch_compression_threshold: ReadableSize(0),
        target_file_size: FILE_SIZE,
        purge_threshold: FILE_SIZE,
        enable_log_recycle: false,
        ..Config::default()
    }
}

fn put(batch: &mut LogBatch, key: &[u8], value: Vec<u8>) -> Result<(), LogError> {
    batch.put(GROUP, key.to_vec(), value).map_err(|error| io("written", &error))
}

fn read_record<T>(
    engine: &Engine,
    key: &[u8],
    kind: Kind,
    decode: impl FnOnce(&mut wire::Reader<'_>) -> Result<T, WireError>,
) -> Result<Option<T>, LogError> {
    let Some(bytes) = engine.get(GROUP, key) else { return Ok(None) };
    wire::open_frame(kind, &bytes)
        .and_then(|mut reader| {
            let record = decode(&mut reader)?;
            reader.end()?;
            Ok(Some(record))
        })
        .map_err(|error| damaged("a record", &error))
}

fn io(doing: &'static str, error: &dyn std::fmt::Display) -> LogError {
    LogError::Io { doing, reason: error.to_string() }
}

fn damaged(what: &str, error: &dyn std::fmt::Display) -> LogError {
    LogError::Damaged(format!("{what}: {error}"))
}

/// Writes a small file so that it is whole or absent after a crash.
pub(crate) fn write_durably(path: &Path, content: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let temporary = path.with_extension("tmp");
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    match path.parent() {
        Some(dir) => std::fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

fn sync_dir(dir: &Path) -> Result<(), LogError> {
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| io("synced", &error))
}
