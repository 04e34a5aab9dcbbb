//! The end of the log files: torn by a crash, or damaged?
//!
//! After a crash the engine drops what does not read at the end of its newest
//! file. It cannot tell a batch that never finished from one that was
//! acknowledged and damaged later, nor does it look whether whole batches
//! follow. We can: every batch carries a mark with its ordinal, and batch
//! `n + 2` exists only if batch `n + 1` was durable. So the newest file is
//! read before the engine opens it, and afterwards every whole mark in it must
//! have an ordinal of at most one more than the last recovered one.
//!
//! What remains undecidable: damage to the very last batch after a crash looks
//! like a torn write and is dropped. After a clean close even that is known,
//! because the last ordinal is written down.

use std::path::Path;

use super::LogError;
use crate::wire::{self, Kind};

/// First bytes of every mark's body, to find marks in raw files.
pub(super) const MAGIC: &[u8; 8] = b"skiffmrk";

/// Length of a framed mark: version, kind, magic, four numbers, checksum.
const MARK_LEN: usize = 2 + 8 + 4 * 8 + 4;

/// What the files say before anything is dropped from them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tail {
    /// The highest ordinal of a whole mark in the newest file.
    newest_mark: Option<u64>,
    /// The ordinal written down at a clean close.
    closed_at: Option<u64>,
}

/// Reads the newest log file of `dir`.
pub(super) fn read(dir: &Path) -> std::io::Result<Tail> {
    if !dir.exists() {
        return Ok(Tail::default());
    }
    let mut newest = None;
    for file in std::fs::read_dir(dir)? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "raftlog") {
            newest = newest.max(Some(path));
        }
    }
    let newest_mark = match newest {
        Some(path) => marks(&std::fs::read(path)?).max(),
        None => None,
    };
    let closed_at = match std::fs::read_to_string(dir.join(super::engine::CLOSED)) {
        Ok(text) => text.trim().parse().ok(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    Ok(Tail { newest_mark, closed_at })
}

/// Compares what the files held with the last mark that the engine recovered.
pub(super) fn check(tail: &Tail, recovered: u64) -> Result<(), LogError> {
    if let Some(closed_at) = tail.closed_at
        && closed_at != recovered
    {
        return Err(LogError::Damaged(format!(
            "it was closed after batch {closed_at}, but batch {recovered} is the last that reads"
        )));
    }
    match tail.newest_mark {
        Some(newest) if newest > recovered + 1 => Err(LogError::Damaged(format!(
            "batch {} does not read, although batch {newest} was written after it",
            recovered + 1
        ))),
        _ => Ok(()),
    }
}

/// Ordinals of all whole marks in `bytes`.
fn marks(bytes: &[u8]) -> impl Iterator<Item = u64> {
    memchr::memmem::find_iter(bytes, MAGIC).filter_map(|at| {
        // The frame begins two bytes (version and kind) before the magic.
        let frame = bytes.get(at.checked_sub(2)?..)?.get(..MARK_LEN)?;
        let mut reader = wire::open_frame(Kind::HardState, frame).ok()?;
        reader.u64().ok()?;
        reader.u64().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_damage_from_a_crash() {
        let cases = [
            ("a new log", None, None, 0, true),
            ("nothing dropped", Some(7), None, 7, true),
            ("the last batch torn, its mark whole", Some(8), None, 7, true),
            ("a batch lost in the middle", Some(9), None, 7, false),
            ("closed in peace", Some(7), Some(7), 7, true),
            ("closed in peace, last batch lost", Some(7), Some(8), 7, false),
        ];
        for (name, newest_mark, closed_at, recovered, whole) in cases {
            let tail = Tail { newest_mark, closed_at };
            assert_eq!(check(&tail, recovered).is_ok(), whole, "{name}");
        }
    }
}
