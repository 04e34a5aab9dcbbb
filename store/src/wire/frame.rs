//! Frames: what is around every record, and how its parts are put down and
//! read.

use bytes::Bytes;

use crate::sealing::{SealError, Sealer};
use crate::types::Key;

/// The version of all frames. A change of any layout raises it.
const VERSION: u8 = 1;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Batch = 1,
    Entry = 2,
    Event = 3,
    Applied = 4,
    HardState = 5,
    Bootstrap = 6,
    Truncated = 7,
    SnapshotTail = 8,
    Change = 9,
    Peer = 10,
    Greeting = 11,
    BackupHead = 32,
    BackupTail = 33,
    Draft = 34,
}

/// Bytes that are not what was once written.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum WireError {
    /// The frame ends before its content does, or carries more than it.
    #[error("a record is cut short or too long")]
    Length,
    /// The checksum does not match.
    #[error("a record's checksum does not match")]
    Checksum,
    /// Written by a newer program.
    #[error("a record has version {0}, this program reads {VERSION}")]
    Version(u8),
    /// Something impossible in a frame whose checksum is right.
    #[error("a record holds nonsense ({0})")]
    Nonsense(&'static str),
    /// A sealed value does not open.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// Wraps `body` into a frame.
pub(crate) fn frame(kind: Kind, body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![VERSION, kind as u8];
    body(&mut out);
    let checksum = crc32fast::hash(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out
}

/// Checks a frame and gives a reader over its body.
pub(crate) fn open_frame(kind: Kind, bytes: &[u8]) -> Result<Reader<'_>, WireError> {
    let (content, checksum) = bytes.split_last_chunk::<4>().ok_or(WireError::Length)?;
    if crc32fast::hash(content) != u32::from_le_bytes(*checksum) {
        return Err(WireError::Checksum);
    }
    match content {
        [VERSION, found, body @ ..] if *found == kind as u8 => Ok(Reader(body)),
        [VERSION, _, ..] => Err(WireError::Nonsense("unexpected kind")),
        [version, ..] => Err(WireError::Version(*version)),
        [] => Err(WireError::Length),
    }
}

/// Appends a 32-bit number.
pub(crate) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a 64-bit number.
pub(crate) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a 128-bit number.
pub(crate) fn put_u128(out: &mut Vec<u8>, value: u128) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends bytes behind their length.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    // Everything that gets here is bounded far below 4 GiB at the entrance.
    put_u32(out, bytes.len() as u32);
    out.extend_from_slice(bytes);
}

/// Appends a value, sealed if it has to be.
pub(super) fn put_value(
    out: &mut Vec<u8>,
    key: &str,
    value: &[u8],
    sealed: bool,
    sealer: &Sealer,
) -> Result<(), SealError> {
    if sealed {
        put_bytes(out, &sealer.seal(key, value)?);
    } else {
        put_bytes(out, value);
    }
    Ok(())
}

/// Reads a frame's body from front to back.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads what lies within a frame.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(WireError::Length)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(WireError::Length)?;
        self.0 = rest;
        Ok(*head)
    }

    /// One byte.
    pub(crate) fn u8(&mut self) -> Result<u8, WireError> {
        Ok(self.array::<1>()?[0])
    }

    /// A 32-bit number.
    pub(crate) fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    /// A 64-bit number.
    pub(crate) fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A 128-bit number.
    pub(crate) fn u128(&mut self) -> Result<u128, WireError> {
        self.array().map(u128::from_le_bytes)
    }

    /// A truth value.
    pub(crate) fn flag(&mut self) -> Result<bool, WireError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError::Nonsense("a flag that is neither 0 nor 1")),
        }
    }

    /// A number of things to come. Each takes at least one byte, so a count
    /// above what is left is nonsense and must not be allocated.
    pub(crate) fn count(&mut self) -> Result<usize, WireError> {
        let count = self.u32()? as usize;
        if count > self.0.len() { Err(WireError::Length) } else { Ok(count) }
    }

    /// Bytes behind their length.
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let len = self.u32()? as usize;
        self.take(len)
    }

    /// Text behind its length.
    pub(crate) fn text(&mut self) -> Result<String, WireError> {
        std::str::from_utf8(self.bytes()?)
            .map(str::to_owned)
            .map_err(|_| WireError::Nonsense("a text that is none"))
    }

    /// A key.
    pub(super) fn key(&mut self) -> Result<Key, WireError> {
        std::str::from_utf8(self.bytes()?)
            .map(Key::from)
            .map_err(|_| WireError::Nonsense("a key that is not text"))
    }

    /// A value; opened if it is sealed.
    pub(super) fn value(
        &mut self,
        key: &str,
        sealed: bool,
        sealer: &Sealer,
    ) -> Result<Bytes, WireError> {
        let bytes = self.bytes()?;
        // Copied, not sliced: a small value must not keep a whole batch alive.
        if sealed { Ok(sealer.open(key, bytes)?) } else { Ok(Bytes::copy_from_slice(bytes)) }
    }

    /// Nothing may be left.
    pub(crate) fn end(self) -> Result<(), WireError> {
        if self.0.is_empty() { Ok(()) } else { Err(WireError::Length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_another_version_or_kind_are_refused() {
        let open = |bytes: &[u8]| open_frame(Kind::Entry, bytes).map(drop);
        assert_eq!(open(&frame(Kind::Entry, |_| {})), Ok(()));
        let mut newer = vec![VERSION + 1, Kind::Entry as u8];
        newer.extend_from_slice(&crc32fast::hash(&newer).to_le_bytes());
        assert_eq!(open(&newer), Err(WireError::Version(VERSION + 1)));
        let event = frame(Kind::Event, |_| {});
        assert_eq!(open(&event), Err(WireError::Nonsense("unexpected kind")));
        assert_eq!(open(&[]), Err(WireError::Length));
    }
}
