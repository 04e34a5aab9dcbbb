//! Snapshots on disk: all live entries at one place of the log, in one file.
//!
//! Together with the log after it, the newest snapshot is everything that the
//! store knows. Before the log gives up its older entries the snapshot is
//! whole and durable: written aside, `fsync`ed, renamed into place, the
//! directory `fsync`ed. Every record has its checksum, and the head's count and
//! digest must come out, so a damaged snapshot is never served.
//!
//! A file is a head, one record per entry in key order, and a tail; each record
//! behind its length.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::log::Position;
use crate::machine::{Entries, Machine};
use crate::sealing::Sealer;
use crate::state::{Meta, decode_meta, encode_meta};
use crate::wire::{self, Kind, WireError};

/// Largest record: an entry of the largest transaction, with room to spare.
const MAX_RECORD: u32 = 256 << 20;

const SUFFIX: &str = "snapshot";

/// A snapshot from the leader that the log does not follow yet.
const RECEIVED: &str = "received";

/// A snapshot cannot be written or is not what was written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    /// The disk refused.
    #[error("snapshot: {0}")]
    Io(#[from] std::io::Error),
    /// A record is not what was written.
    #[error("snapshot is damaged: {0}")]
    Record(#[from] WireError),
    /// The whole is not the sum of its records.
    #[error("snapshot is damaged: {0}")]
    Damaged(&'static str),
}

/// Writes the snapshot and forgets older ones. Durable on return.
pub(crate) fn write(
    dir: &Path,
    meta: &Meta,
    entries: &Entries,
    sealer: &Sealer,
) -> Result<u64, SnapshotError> {
    let path = path(dir, meta.applied.position);
    let bytes = write_file(&path, meta, entries, sealer)?;
    for old in list(dir)? {
        if old != path {
            std::fs::remove_file(old)?;
        }
    }
    Ok(bytes)
}

/// Writes a whole snapshot to `path`, or nothing.
fn write_file(
    path: &Path,
    meta: &Meta,
    entries: &Entries,
    sealer: &Sealer,
) -> Result<u64, SnapshotError> {
    let aside = path.with_extension("tmp");
    let mut file = BufWriter::with_capacity(256 << 10, File::create(&aside)?);
    let head = encode_meta(meta);
    let mut bytes = put_record(&mut file, &head)?;
    for entry in entries.values() {
        let record = wire::encode_entry(entry, sealer).map_err(WireError::from)?;
        bytes += put_record(&mut file, &record)?;
    }
    bytes += put_record(&mut file, &wire::frame(Kind::SnapshotTail, |_| {}))?;
    let file = file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    file.sync_all()?;
    std::fs::rename(&aside, path)?;
    if let Some(dir) = path.parent() {
        File::open(dir)?.sync_all()?;
    }
    Ok(bytes)
}

/// Reads the newest snapshot; `None` if none was ever written.
pub(crate) fn read(dir: &Path, sealer: &Sealer) -> Result<Option<(Machine, Meta)>, SnapshotError> {
    let Some(path) = newest_path(dir)? else { return Ok(None) };
    let mut file = BufReader::with_capacity(256 << 10, File::open(path)?);
    let meta = decode_meta(&get_record(&mut file)?)?;
    let mut entries = Entries::new();
    for _ in 0..meta.count {
        let entry = Arc::new(wire::decode_entry(&get_record(&mut file)?, sealer)?);
        entries.insert(entry.key.clone(), entry);
    }
    wire::open_frame(Kind::SnapshotTail, &get_record(&mut file)?)?.end()?;
    let machine = Machine::restore(entries, meta.revision);
    if (machine.entries().len() as u64, machine.digest()) != (meta.count, meta.digest) {
        return Err(SnapshotError::Damaged("its entries do not add up"));
    }
    Ok(Some((machine, meta)))
}

/// The place of the newest snapshot, without a look at what it holds.
pub(crate) fn newest(dir: &Path) -> Result<Option<Position>, SnapshotError> {
    let Some(path) = newest_path(dir)? else { return Ok(None) };
    let mut file = BufReader::new(File::open(path)?);
    // A head that does not read covers nothing; whoever needs the snapshot says
    // what is wrong with it.
    let meta = get_record(&mut file).and_then(|head| Ok(decode_meta(&head)?));
    Ok(meta.ok().map(|meta| meta.applied.position))
}

fn newest_path(dir: &Path) -> std::io::Result<Option<PathBuf>> {
    let whole = |path: &PathBuf| path.extension().is_some_and(|extension| extension == SUFFIX);
    Ok(list(dir)?.into_iter().filter(whole).max())
}

/// Writes a snapshot that came from the leader, beside the one in force.
/// Durable on return.
pub(crate) fn receive(
    dir: &Path,
    meta: &Meta,
    entries: &Entries,
    sealer: &Sealer,
) -> Result<(), SnapshotError> {
    let path = path(dir, meta.applied.position).with_extension(RECEIVED);
    write_file(&path, meta, entries, sealer)?;
    Ok(())
}

/// The received snapshot that a crash kept from being adopted.
pub(crate) fn received(dir: &Path) -> Result<Option<Position>, SnapshotError> {
    let mut newest = None;
    for file in std::fs::read_dir(dir)? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == RECEIVED) {
            newest = newest.max(Some(path));
        }
    }
    let Some(path) = newest else { return Ok(None) };
    let mut file = BufReader::new(File::open(path)?);
    Ok(Some(decode_meta(&get_record(&mut file)?)?.applied.position))
}

/// Puts the received snapshot of `position` in force, once the log follows it.
pub(crate) fn adopt(dir: &Path, position: Position) -> Result<(), SnapshotError> {
    let path = path(dir, position);
    std::fs::rename(path.with_extension(RECEIVED), &path)?;
    File::open(dir)?.sync_all()?;
    Ok(())
}

/// Bytes of all snapshots.
pub(crate) fn bytes(dir: &Path) -> std::io::Result<u64> {
    list(dir)?.iter().map(|path| Ok(path.metadata()?.len())).sum()
}

/// Names sort as the log does.
fn path(dir: &Path, position: Position) -> PathBuf {
    dir.join(format!("{:016x}-{:016x}.{SUFFIX}", position.index, position.term))
}

/// Snapshots and what is left of unfinished ones.
fn list(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for file in std::fs::read_dir(dir)? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == SUFFIX || extension == "tmp") {
            paths.push(path);
        }
    }
    Ok(paths)
}

fn put_record(file: &mut impl Write, record: &[u8]) -> std::io::Result<u64> {
    file.write_all(&(record.len() as u32).to_le_bytes())?;
    file.write_all(record)?;
    Ok(4 + record.len() as u64)
}

/// Reads one record.
pub(crate) fn get_record(file: &mut impl Read) -> Result<Vec<u8>, SnapshotError> {
    let cut = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => SnapshotError::Damaged("it ends too early"),
        _ => SnapshotError::Io(error),
    };
    let mut len = [0; 4];
    file.read_exact(&mut len).map_err(cut)?;
    let len = u32::from_le_bytes(len);
    if len > MAX_RECORD {
        return Err(SnapshotError::Damaged("a record is impossibly long"));
    }
    // Read through `take`, so that a wrong length costs no memory up front.
    let mut record = Vec::new();
    file.take(u64::from(len)).read_to_end(&mut record)?;
    if record.len() < len as usize {
        return Err(SnapshotError::Damaged("it ends too early"));
    }
    Ok(record)
}
