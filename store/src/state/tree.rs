//! The applied state in a `sled` tree.
//!
//! One tree, three kinds of rows, told apart by their first byte: entries by
//! key, events by revision, and the one record that says what the rows amount
//! to.
//!
//! What `sled` 0.34 needs to be a good servant here:
//! - Open, it costs tens of megabytes and up to eight threads; closed, nothing,
//!   once the allocator has been told to give the memory back. So it is open
//!   only while it is read or saved, which is rare.
//! - Its `flush` is not an `fsync`; its file is synced here after each save.
//! - A damaged tree may make it panic, and a release build does not survive a
//!   panic. So checksums of its files are kept from one use to the next
//!   ([`sums`]), and a tree that does not match them is never opened.
//! - A save interrupted by a crash leaves a mixture. So a marker file lies
//!   beside the tree, durably, whenever the tree is in use. Whoever finds it
//!   throws the tree away: snapshot and log know everything it knew, except for
//!   the history window.
//! - Values above a quarter of a segment go to files of their own that leak, so
//!   records are cut into rows of 16 KiB under segments of 256 KiB.
//! - A batch keeps all that it replaced in memory until its end, so a save is
//!   many small batches; the marker makes it one.

use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sled::{Batch, Db};

use super::{Raw, Save, StateError, StateStore, decode_meta, encode_meta, sums};
use crate::log::engine::write_durably;
use crate::sealing::Sealer;
use crate::types::{Event, Revision};
use crate::wire::{self, WireError};

const META: &[u8] = b"m";
const ENTRY: u8 = b'e';
const EVENT: u8 = b'h';

/// Bytes of a record in one row.
const ROW_BYTES: usize = 16 << 10;
const SEGMENT_BYTES: usize = 256 << 10;
const CACHE_BYTES: u64 = 1 << 20;

/// Records in one batch.
const MAX_BATCH: usize = 64;

/// A dropped tree gives up its files in the background. How often that is
/// looked for, and how long is waited in between.
const CLOSE_TRIES: u32 = 400;
const CLOSE_PAUSE: Duration = Duration::from_millis(5);

/// A tree in a directory. Holds nothing open.
pub(crate) struct TreeState {
    dir: PathBuf,
    sealer: Arc<Sealer>,
}

impl TreeState {
    /// A tree in `dir`.
    pub(crate) fn new(dir: &Path, sealer: Arc<Sealer>) -> Self {
        Self { dir: dir.to_path_buf(), sealer }
    }

    /// Lies beside the tree while it is in use.
    fn marker(&self) -> PathBuf {
        self.dir.with_extension("busy")
    }

    /// Lies beside the tree while it is not in use.
    fn sums(&self) -> PathBuf {
        self.dir.with_extension("sums")
    }

    fn open(&self) -> Result<Db, StateError> {
        sled::Config::new()
            .path(&self.dir)
            .segment_size(SEGMENT_BYTES)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None)
            .mode(sled::Mode::LowSpace)
            .open()
            .map_err(|error| failure("opened", &error))
    }

    /// Opens the tree for `work` and returns when it is closed again, nobody
    /// writes to its files any more, and their checksums are durable.
    fn with<T>(&self, work: impl FnOnce(&Db) -> Result<T, StateError>) -> Result<T, StateError> {
        let db = self.open()?;
        let result = work(&db);
        drop(db);
        self.wait_closed()?;
        skiff_memory::give_back();
        let result = result?;
        sums::record(&self.dir, &self.sums()).map_err(|error| failure("synced", &error))?;
        Ok(result)
    }

    /// `sled` holds a lock on its file for as long as any of its threads may
    /// write to it.
    fn wait_closed(&self) -> Result<(), StateError> {
        let file = File::open(self.dir.join("db")).map_err(|error| failure("closed", &error))?;
        for _ in 0..CLOSE_TRIES {
            match file.try_lock() {
                Ok(()) => return Ok(()),
                Err(TryLockError::WouldBlock) => std::thread::sleep(CLOSE_PAUSE),
                Err(TryLockError::Error(error)) => return Err(failure("closed", &error)),
            }
        }
        Err(failure("closed", &"it stays in use"))
    }

    fn read(&self, db: &Db) -> Result<Raw, StateError> {
        let mut raw = Raw::default();
        if let Some(bytes) = db.get(META).map_err(|error| failure("read", &error))? {
            raw.meta = Some(decode_meta(&bytes).map_err(|error| damaged(&error))?);
        }
        read_records(db, ENTRY, |name, bytes| {
            let entry =
                Arc::new(wire::decode_entry(bytes, &self.sealer).map_err(|error| damaged(&error))?);
            if entry.key.as_bytes() != name {
                return Err(StateError::Damaged(format!(
                    "{} lies in the place of another key",
                    entry.key
                )));
            }
            raw.entries.insert(entry.key.clone(), entry);
            Ok(())
        })?;
        read_records(db, EVENT, |_, bytes| {
            raw.events
                .push(wire::decode_event(bytes, &self.sealer).map_err(|error| damaged(&error))?);
            Ok(())
        })?;
        Ok(raw)
    }

    fn write(&self, db: &Db, save: &Save) -> Result<(), StateError> {
        let mut writer = Writer { db, batch: Batch::default(), records: 0 };
        for change in &save.changes {
            let rows = change.old.as_ref().map_or(0, |old| row_count(wire::entry_frame_len(old)));
            match (&change.new, &change.old) {
                (Some(new), _) => {
                    let frame = wire::encode_entry(new, &self.sealer)
                        .map_err(|error| failure("sealed", &error))?;
                    writer.put(ENTRY, new.key.as_bytes(), &frame, rows)?;
                }
                (None, Some(old)) => writer.put(ENTRY, old.key.as_bytes(), &[], rows)?,
                (None, None) => {}
            }
        }
        for (event, nth, of) in places(&save.events) {
            if event.revision > save.meta.floor {
                let frame = wire::encode_event(event, nth, of, &self.sealer)
                    .map_err(|error| failure("sealed", &error))?;
                writer.put(EVENT, &event_name(event.revision, nth), &frame, 0)?;
            }
        }
        // What fell out of the window since the last save.
        let past = row(EVENT, &event_name(Revision(save.meta.floor.0 + 1), 0), 0);
        for key in db.range(vec![EVENT]..past).keys() {
            writer.remove(&key.map_err(|error| failure("read", &error))?)?;
        }
        writer.batch.insert(META, encode_meta(&save.meta));
        writer.commit()?;
        db.flush().map_err(|error| failure("flushed", &error))?;
        Ok(())
    }
}

impl StateStore for TreeState {
    fn load(&mut self) -> Result<Raw, StateError> {
        let marker = self.marker();
        if marker.exists() {
            return Err(StateError::Damaged("it was in use when the last run ended".into()));
        }
        if !self.dir.exists() {
            return Ok(Raw::default());
        }
        if !sums::hold(&self.dir, &self.sums()).map_err(|error| failure("read", &error))? {
            return Err(StateError::Damaged("its files do not match their checksums".into()));
        }
        // A process that dies here leaves the marker; the machine that dies
        // leaves files that do not match. So the marker needs no sync.
        std::fs::write(&marker, b"").map_err(|error| failure("opened", &error))?;
        let raw = self.with(|db| self.read(db))?;
        remove(&marker)?;
        Ok(raw)
    }

    fn save(&mut self, save: &Save) -> Result<(), StateError> {
        let marker = self.marker();
        write_durably(&marker, b"").map_err(|error| failure("opened", &error))?;
        self.with(|db| self.write(db, save))?;
        remove(&marker)
    }

    fn wipe(&mut self) -> Result<(), StateError> {
        match std::fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(failure("removed", &error));
            }
            _ => {}
        }
        remove(&self.sums())?;
        remove(&self.marker())
    }

    fn bytes(&self) -> u64 {
        let Ok(files) = std::fs::read_dir(&self.dir) else { return 0 };
        // Only a measure: a file that is gone by now counts nothing.
        files.filter_map(|file| Some(file.ok()?.metadata().ok()?.len())).sum()
    }
}

/// Collects rows and writes them in batches.
struct Writer<'a> {
    db: &'a Db,
    batch: Batch,
    records: usize,
}

impl Writer<'_> {
    /// Writes a record in place of one that took `old_rows`; an empty record
    /// is none.
    fn put(
        &mut self,
        kind: u8,
        name: &[u8],
        record: &[u8],
        old_rows: u32,
    ) -> Result<(), StateError> {
        let mut rows = 0;
        for chunk in record.chunks(ROW_BYTES) {
            self.batch.insert(row(kind, name, rows), chunk);
            rows += 1;
        }
        for stale in rows..old_rows {
            self.batch.remove(row(kind, name, stale));
        }
        self.count()
    }

    fn remove(&mut self, key: &[u8]) -> Result<(), StateError> {
        self.batch.remove(key);
        self.count()
    }

    fn count(&mut self) -> Result<(), StateError> {
        self.records += 1;
        if self.records < MAX_BATCH { Ok(()) } else { self.commit() }
    }

    fn commit(&mut self) -> Result<(), StateError> {
        self.records = 0;
        self.db
            .apply_batch(std::mem::take(&mut self.batch))
            .map_err(|error| failure("written", &error))
    }
}

/// Puts the rows of each record of `kind` together again.
fn read_records(
    db: &Db,
    kind: u8,
    mut each: impl FnMut(&[u8], &[u8]) -> Result<(), StateError>,
) -> Result<(), StateError> {
    let mut name = Vec::new();
    let mut record = Vec::new();
    for pair in db.scan_prefix([kind]) {
        let (key, chunk) = pair.map_err(|error| failure("read", &error))?;
        let (body, number) =
            key[1..].split_last_chunk::<4>().ok_or_else(|| damaged(&WireError::Length))?;
        if u32::from_be_bytes(*number) == 0 {
            if !record.is_empty() {
                each(&name, &record)?;
            }
            name =
                if kind == ENTRY { body.strip_suffix(&[0]).unwrap_or(body) } else { body }.to_vec();
            record.clear();
        }
        record.extend_from_slice(&chunk);
    }
    if record.is_empty() { Ok(()) } else { each(&name, &record) }
}

/// The key of a row. A zero byte ends the name, so that no name is the
/// beginning of another row's; names that hold text have no zero bytes, names
/// of events have a fixed length.
fn row(kind: u8, name: &[u8], number: u32) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + name.len() + 5);
    key.push(kind);
    key.extend_from_slice(name);
    if kind == ENTRY {
        key.push(0);
    }
    key.extend_from_slice(&number.to_be_bytes());
    key
}

fn row_count(frame_len: usize) -> u32 {
    frame_len.div_ceil(ROW_BYTES) as u32
}

fn event_name(revision: Revision, nth: u32) -> [u8; 12] {
    let mut name = [0; 12];
    name[..8].copy_from_slice(&revision.0.to_be_bytes());
    name[8..].copy_from_slice(&nth.to_be_bytes());
    name
}

/// Each event with its place among those of its revision, and their number.
pub(super) fn places(events: &[Arc<Event>]) -> impl Iterator<Item = (&Arc<Event>, u32, u32)> {
    events.chunk_by(|a, b| a.revision == b.revision).flat_map(|same| {
        let of = same.len() as u32;
        same.iter().zip(0..).map(move |(event, nth)| (event, nth, of))
    })
}

fn remove(path: &Path) -> Result<(), StateError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failure("removed", &error)),
        _ => Ok(()),
    }
}

fn failure(doing: &'static str, error: &dyn std::fmt::Display) -> StateError {
    StateError::Io { doing, reason: error.to_string() }
}

fn damaged(error: &WireError) -> StateError {
    StateError::Damaged(error.to_string())
}
