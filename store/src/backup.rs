//! Backups: the whole state at one revision, in one file.
//!
//! A file is a line that people can read, a head, one record per live entry in
//! key order, and a tail with the SHA-256 of everything before it. Sealed
//! values stay sealed under the store's key, which is not in the file; the head
//! carries the key's fingerprint, so that a wrong one is noticed at once.
//!
//! [`Backup`] makes the file piece by piece out of an immutable snapshot, so a
//! backup of any size holds up no write and takes little memory. [`inspect`]
//! proves a file whole without the key; [`restore`] makes a new group of one
//! from it.
//!
//! A restored store goes on [`REVISION_GAP`] revisions later: whatever the old
//! group wrote after the backup, no revision is ever given out twice, and a
//! client that saw later ones is told to list again instead of waiting for
//! changes that it believes to have seen.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::HardState;
use ring::digest::{Context, SHA256};

use crate::disk;
use crate::group::FIRST;
use crate::log::engine::EngineLog;
use crate::log::{LogStore, Position};
use crate::machine::{self, Entries, Machine};
use crate::members::Members;
use crate::sealing::{SealError, Sealer};
use crate::snapshot_file::{self, SnapshotError};
use crate::state::Meta;
use crate::store::StoreConfig;
use crate::types::{Key, KeyRange, Revision, StoreError};
use crate::view::{Applied, Snapshot};
use crate::wire::{self, Kind, WireError, put_bytes, put_u64, put_u128};

/// The first word of every backup, and the version that this program writes.
const MAGIC: &str = "skiff-backup";
const FORMAT: u32 = 1;

/// A longer first line is not ours.
const MAX_TITLE: usize = 64;

/// Bytes of one piece, a little more with the entry that fills it.
const PIECE_BYTES: usize = 64 << 10;

/// How far a restored store's revisions begin after those of the backup: more
/// than any group writes between a backup and its loss.
pub const REVISION_GAP: u64 = 1_000_000_000;

/// Why a file is not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Something else altogether.
    #[error("this is not a backup of Skiff")]
    NotABackup,
    /// Written by a newer program.
    #[error(
        "this backup has format {0}, this program reads format {FORMAT}: use the program that wrote it"
    )]
    Newer(u32),
    /// Not what was written: cut short or changed.
    #[error("this backup is damaged ({0}): use another one")]
    Damaged(String),
    /// The sealing key is another one.
    #[error("this backup was made under another sealing key")]
    Key,
    /// There is something where the new store should go.
    #[error("{} holds a store already", .0.display())]
    Exists(PathBuf),
    /// The disk refused.
    #[error("{0}")]
    Disk(String),
}

/// What a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contents {
    /// The revision whose state it is.
    pub revision: Revision,
    /// Live keys.
    pub keys: u64,
}

/// A backup on its way out: its pieces, in order.
pub struct Backup {
    snapshot: Snapshot,
    digest: u128,
    sealer: Arc<Sealer>,
    sum: Context,
    next: Next,
}

enum Next {
    Head,
    /// Entries from this key on.
    Entries(Key),
    Tail,
    Nothing,
}

impl Backup {
    pub(crate) fn new(snapshot: Snapshot, digest: u128, sealer: Arc<Sealer>) -> Self {
        Self { snapshot, digest, sealer, sum: Context::new(&SHA256), next: Next::Head }
    }

    /// What the backup holds.
    pub fn contents(&self) -> Contents {
        Contents { revision: self.snapshot.revision(), keys: self.snapshot.len() as u64 }
    }

    fn head(&self) -> Vec<u8> {
        let mut piece = format!("{MAGIC} {FORMAT}\n").into_bytes();
        let Contents { revision, keys } = self.contents();
        let head = wire::frame(Kind::BackupHead, |out| {
            out.extend_from_slice(&self.sealer.fingerprint());
            put_u64(out, revision.0);
            put_u64(out, keys);
            put_u128(out, self.digest);
        });
        put_bytes(&mut piece, &head);
        piece
    }

    /// Entries from `from` on, and where the next piece begins.
    fn entries(&self, from: Key) -> Result<(Vec<u8>, Next), SealError> {
        let mut piece = Vec::with_capacity(PIECE_BYTES + (PIECE_BYTES >> 2));
        let rest = KeyRange { start: from, end: None };
        for entry in machine::range(self.snapshot.entries(), &rest) {
            if piece.len() >= PIECE_BYTES {
                return Ok((piece, Next::Entries(entry.key.clone())));
            }
            put_bytes(&mut piece, &wire::encode_entry(entry, &self.sealer)?);
        }
        Ok((piece, Next::Tail))
    }

    fn tail(&self) -> Vec<u8> {
        let sum = self.sum.clone().finish();
        let mut piece = Vec::new();
        put_bytes(
            &mut piece,
            &wire::frame(Kind::BackupTail, |out| out.extend_from_slice(sum.as_ref())),
        );
        piece
    }
}

impl Iterator for Backup {
    type Item = Result<Bytes, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (piece, next) = match std::mem::replace(&mut self.next, Next::Nothing) {
            Next::Head => (self.head(), Next::Entries(Key::from(""))),
            Next::Entries(from) => match self.entries(from) {
                Ok(piece) => piece,
                Err(error) => return Some(Err(StoreError::Invalid(error.to_string()))),
            },
            Next::Tail => (self.tail(), Next::Nothing),
            Next::Nothing => return None,
        };
        self.sum.update(&piece);
        self.next = next;
        Some(Ok(piece.into()))
    }
}

/// Proves a file whole, without the key that opens its sealed values.
pub fn inspect(file: &Path) -> Result<Contents, BackupError> {
    let (mut records, head) = Records::open(file)?;
    for _ in 0..head.contents.keys {
        wire::open_frame(Kind::Entry, &records.next()?)?;
    }
    records.end()?;
    Ok(head.contents)
}

/// Makes a new store in `config.dir` out of a backup: a new group of one whose
/// revisions continue after those of the backup. The directory appears whole
/// or not at all.
pub fn restore(config: &StoreConfig, file: &Path) -> Result<Contents, BackupError> {
    let dir = &config.dir;
    match std::fs::read_dir(dir).map(|mut files| files.next().is_none()) {
        Ok(true) => {}
        Ok(false) => return Err(BackupError::Exists(dir.clone())),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed(dir, &error)),
    }
    let sealer = Sealer::new(&config.sealing_key).map_err(|_| BackupError::Key)?;
    let machine = load(file, &sealer)?;
    let contents = Contents { revision: machine.revision(), keys: machine.entries().len() as u64 };
    let aside = dir.with_extension("restoring");
    match std::fs::remove_dir_all(&aside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(&aside, &error)),
        _ => {}
    }
    build(&aside, &machine, &sealer)?;
    std::fs::rename(&aside, dir)
        .and_then(|()| File::open(dir.parent().unwrap_or(Path::new(".")))?.sync_all())
        .map_err(|error| failed(dir, &error))?;
    Ok(contents)
}

/// Writes what a store would have written that had applied one entry and given
/// up its log up to there: the snapshot is then the only truth, and its loss
/// is noticed.
fn build(dir: &Path, machine: &Machine, sealer: &Sealer) -> Result<(), BackupError> {
    let broken = |error: &dyn std::fmt::Display| failed(dir, error);
    let snapshots = dir.join("snapshot");
    std::fs::create_dir_all(&snapshots).map_err(|error| broken(&error))?;
    disk::write_format(dir, sealer).map_err(|error| broken(&error))?;
    // Members of the old group shall not take this one for theirs.
    let members = Members { group: rand::random(), ..Members::single(disk::FIRST_MEMBER) };
    let position = Position { index: FIRST.index + 1, term: FIRST.term };
    let mut log = EngineLog::open(&dir.join("log")).map_err(|error| broken(&error))?;
    let hard_state =
        HardState { term: position.term, commit: position.index, ..HardState::default() };
    log.initialize(&members)
        .and_then(|()| log.reset(position, &hard_state))
        .and_then(|()| log.close())
        .map_err(|error| broken(&error))?;
    let revision = Revision(machine.revision().0 + REVISION_GAP);
    let meta = Meta {
        applied: Applied { position, members: Arc::new(members) },
        revision,
        floor: revision,
        count: machine.entries().len() as u64,
        digest: machine.digest(),
    };
    snapshot_file::write(&snapshots, &meta, machine.entries(), sealer)
        .and_then(|_| Ok(File::open(dir)?.sync_all()?))
        .map_err(|error| broken(&error))
}

/// Everything in a backup, checked.
fn load(file: &Path, sealer: &Sealer) -> Result<Machine, BackupError> {
    let (mut records, head) = Records::open(file)?;
    if head.fingerprint != sealer.fingerprint() {
        return Err(BackupError::Key);
    }
    let mut entries = Entries::new();
    for _ in 0..head.contents.keys {
        let entry = Arc::new(wire::decode_entry(&records.next()?, sealer)?);
        entries.insert(entry.key.clone(), entry);
    }
    records.end()?;
    let machine = Machine::restore(entries, head.contents.revision);
    let count = machine.entries().len() as u64;
    if (count, machine.digest()) != (head.contents.keys, head.digest) {
        return Err(BackupError::Damaged("its entries do not add up".into()));
    }
    Ok(machine)
}

struct Head {
    fingerprint: [u8; 8],
    contents: Contents,
    digest: u128,
}

/// A backup's records, read from front to back.
struct Records {
    file: BufReader<File>,
    sum: Context,
}

impl Records {
    fn open(path: &Path) -> Result<(Self, Head), BackupError> {
        let file = File::open(path).map_err(|error| failed(path, &error))?;
        let mut records =
            Self { file: BufReader::with_capacity(256 << 10, file), sum: Context::new(&SHA256) };
        records.title()?;
        let record = records.next()?;
        let mut reader = wire::open_frame(Kind::BackupHead, &record)?;
        let mut fingerprint = [0; 8];
        for byte in &mut fingerprint {
            *byte = reader.u8()?;
        }
        let contents = Contents { revision: Revision(reader.u64()?), keys: reader.u64()? };
        let digest = reader.u128()?;
        reader.end()?;
        Ok((records, Head { fingerprint, contents, digest }))
    }

    /// Reads the first line.
    fn title(&mut self) -> Result<(), BackupError> {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            match self.file.read_exact(&mut byte) {
                Ok(()) if line.len() < MAX_TITLE => line.push(byte[0]),
                Err(error) if error.kind() != ErrorKind::UnexpectedEof => {
                    return Err(BackupError::Disk(error.to_string()));
                }
                _ => return Err(BackupError::NotABackup),
            }
        }
        self.sum.update(&line);
        let line = String::from_utf8(line).map_err(|_| BackupError::NotABackup)?;
        let version = line.trim_end().strip_prefix(MAGIC).and_then(|rest| rest.strip_prefix(' '));
        match version.and_then(|version| version.parse().ok()) {
            Some(FORMAT) => Ok(()),
            Some(version) => Err(BackupError::Newer(version)),
            None => Err(BackupError::NotABackup),
        }
    }

    fn next(&mut self) -> Result<Vec<u8>, BackupError> {
        let record = self.read()?;
        self.sum.update(&(record.len() as u32).to_le_bytes());
        self.sum.update(&record);
        Ok(record)
    }

    /// Compares the sum; nothing may follow it.
    fn end(mut self) -> Result<(), BackupError> {
        let tail = self.read()?;
        let mut reader = wire::open_frame(Kind::BackupTail, &tail)?;
        for expected in self.sum.finish().as_ref() {
            if reader.u8()? != *expected {
                return Err(BackupError::Damaged("its checksum does not match".into()));
            }
        }
        reader.end()?;
        match self.file.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(BackupError::Damaged("something follows its end".into())),
            Err(error) => Err(BackupError::Disk(error.to_string())),
        }
    }

    fn read(&mut self) -> Result<Vec<u8>, BackupError> {
        snapshot_file::get_record(&mut self.file).map_err(|error| match error {
            SnapshotError::Io(error) => BackupError::Disk(error.to_string()),
            SnapshotError::Record(error) => error.into(),
            SnapshotError::Damaged(reason) => BackupError::Damaged(reason.into()),
        })
    }
}

impl From<WireError> for BackupError {
    fn from(error: WireError) -> Self {
        Self::Damaged(error.to_string())
    }
}

fn failed(path: &Path, error: &dyn std::fmt::Display) -> BackupError {
    BackupError::Disk(format!("{}: {error}", path.display()))
}
