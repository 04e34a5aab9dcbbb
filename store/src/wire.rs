//! Our own binary forms: transactions in log entries, entries and events on disk.
//!
//! Everything that reaches a disk is a *frame*: a version byte, a kind byte,
//! the body, and a CRC-32 over all of it. Numbers are little-endian, texts and
//! byte strings carry a 32-bit length that is checked against what is left
//! before anything is allocated, so a damaged frame costs an error and never
//! memory. Values marked `sealed` are encrypted inside the body.
//!
//! One log entry holds one *batch*: every transaction that waited when the
//! batch was made, with the proposer's own number, by which it finds the
//! callers again when the batch is applied.

pub(crate) mod peer;

use bytes::Bytes;

use crate::sealing::{SEALING_BYTES, SealError, Sealer};
use crate::types::{Compare, Draft, Entry, Event, Key, Revision, Txn, Write};

/// The version of all frames below. A change of any layout raises it.
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

/// The transactions of one log entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    /// The run of the process that proposed it, drawn at random at each start.
    pub(crate) origin: u64,
    /// The proposer's number for it.
    pub(crate) seq: u64,
    pub(crate) txns: Vec<Txn>,
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

/// Encodes one transaction, sealing what asks for it. This runs on the
/// caller's task, so that encryption never queues up behind the log.
pub(crate) fn encode_txn(txn: &Txn, sealer: &Sealer) -> Result<Vec<u8>, SealError> {
    let mut out = Vec::with_capacity(64 + txn.writes.iter().map(write_bytes).sum::<usize>());
    put_u32(&mut out, txn.compares.len() as u32);
    for compare in &txn.compares {
        match compare {
            Compare::Absent(key) => {
                out.push(1);
                put_bytes(&mut out, key.as_bytes());
            }
            Compare::Unchanged(key, revision) => {
                out.push(2);
                put_bytes(&mut out, key.as_bytes());
                put_u64(&mut out, revision.0);
            }
            Compare::Present(key) => {
                out.push(3);
                put_bytes(&mut out, key.as_bytes());
            }
            Compare::Term(term) => {
                out.push(4);
                put_u64(&mut out, *term);
            }
        }
    }
    put_u32(&mut out, txn.writes.len() as u32);
    for write in &txn.writes {
        match write {
            Write::Put(key, draft) => {
                out.push(1);
                put_bytes(&mut out, key.as_bytes());
                out.push(u8::from(draft.sealed));
                // A hole at `u32::MAX` is no hole: no value is that long.
                put_u32(&mut out, draft.revision_at.unwrap_or(u32::MAX));
                put_value(&mut out, key, &draft.bytes, draft.sealed, sealer)?;
            }
            Write::Delete(key) => {
                out.push(2);
                put_bytes(&mut out, key.as_bytes());
            }
        }
    }
    Ok(out)
}

/// Frames already encoded transactions as the content of one log entry.
pub(crate) fn encode_batch<'a>(
    origin: u64,
    seq: u64,
    txns: impl ExactSizeIterator<Item = &'a [u8]>,
) -> Vec<u8> {
    frame(Kind::Batch, |out| {
        put_u64(out, origin);
        put_u64(out, seq);
        put_u32(out, txns.len() as u32);
        for txn in txns {
            put_bytes(out, txn);
        }
    })
}

/// Reads the content of one log entry.
pub(crate) fn decode_batch(bytes: &[u8], sealer: &Sealer) -> Result<Batch, WireError> {
    let mut reader = open_frame(Kind::Batch, bytes)?;
    let (origin, seq) = (reader.u64()?, reader.u64()?);
    let count = reader.count()?;
    let mut txns = Vec::with_capacity(count);
    for _ in 0..count {
        txns.push(decode_txn(reader.bytes()?, sealer)?);
    }
    reader.end()?;
    Ok(Batch { origin, seq, txns })
}

/// Reads what [`encode_txn`] made.
pub(crate) fn decode_txn(bytes: &[u8], sealer: &Sealer) -> Result<Txn, WireError> {
    let mut reader = Reader(bytes);
    let mut txn = Txn::default();
    for _ in 0..reader.count()? {
        txn.compares.push(match reader.u8()? {
            1 => Compare::Absent(reader.key()?),
            2 => Compare::Unchanged(reader.key()?, Revision(reader.u64()?)),
            3 => Compare::Present(reader.key()?),
            4 => Compare::Term(reader.u64()?),
            _ => return Err(WireError::Nonsense("unknown compare")),
        });
    }
    for _ in 0..reader.count()? {
        let tag = reader.u8()?;
        let key = reader.key()?;
        txn.writes.push(match tag {
            1 => {
                let sealed = reader.flag()?;
                let revision_at = Some(reader.u32()?).filter(|at| *at != u32::MAX);
                let bytes = reader.value(&key, sealed, sealer)?;
                if revision_at.is_some_and(|at| at as usize > bytes.len()) {
                    return Err(WireError::Nonsense("revision hole outside the value"));
                }
                Write::Put(key, Draft { bytes, revision_at, sealed })
            }
            2 => Write::Delete(key),
            _ => return Err(WireError::Nonsense("unknown write")),
        });
    }
    reader.end()?;
    Ok(txn)
}

/// Frames one draft, as it is kept where the entry's revisions are known from
/// elsewhere.
pub(crate) fn encode_draft(
    key: &str,
    draft: &Draft,
    sealer: &Sealer,
) -> Result<Vec<u8>, SealError> {
    let mut result = Ok(());
    let frame = frame(Kind::Draft, |out| {
        out.push(u8::from(draft.sealed));
        put_u32(out, draft.revision_at.unwrap_or(u32::MAX));
        result = put_value(out, key, &draft.bytes, draft.sealed, sealer);
    });
    result.map(|()| frame)
}

/// Reads what [`encode_draft`] made.
pub(crate) fn decode_draft(key: &str, bytes: &[u8], sealer: &Sealer) -> Result<Draft, WireError> {
    let mut reader = open_frame(Kind::Draft, bytes)?;
    let sealed = reader.flag()?;
    let revision_at = Some(reader.u32()?).filter(|at| *at != u32::MAX);
    let bytes = reader.value(key, sealed, sealer)?;
    reader.end()?;
    if revision_at.is_some_and(|at| at as usize > bytes.len()) {
        return Err(WireError::Nonsense("revision hole outside the value"));
    }
    Ok(Draft { bytes, revision_at, sealed })
}

/// Frames one live entry.
pub(crate) fn encode_entry(entry: &Entry, sealer: &Sealer) -> Result<Vec<u8>, SealError> {
    let mut result = Ok(());
    let frame = frame(Kind::Entry, |out| result = put_entry(out, entry, sealer));
    result.map(|()| frame)
}

/// Length of what [`encode_entry`] makes, without making it.
pub(crate) fn entry_frame_len(entry: &Entry) -> usize {
    const FIXED: usize = 2 + (4 + 8 + 8 + 1 + 4) + 4;
    let sealing = if entry.sealed { SEALING_BYTES } else { 0 };
    FIXED + entry.key.len() + entry.value.len() + sealing
}

/// Reads one live entry.
pub(crate) fn decode_entry(bytes: &[u8], sealer: &Sealer) -> Result<Entry, WireError> {
    let mut reader = open_frame(Kind::Entry, bytes)?;
    let entry = reader.entry(sealer)?;
    reader.end()?;
    Ok(entry)
}

/// Frames one event of the history window, the `nth` of `of` at its revision.
pub(crate) fn encode_event(
    event: &Event,
    nth: u32,
    of: u32,
    sealer: &Sealer,
) -> Result<Vec<u8>, SealError> {
    let mut result = Ok(());
    let frame = frame(Kind::Event, |out| {
        put_u64(out, event.revision.0);
        put_u32(out, nth);
        put_u32(out, of);
        for side in [&event.entry, &event.previous] {
            out.push(u8::from(side.is_some()));
            if let (Some(entry), Ok(())) = (side, &result) {
                result = put_entry(out, entry, sealer);
            }
        }
    });
    result.map(|()| frame)
}

/// Reads one event: the event, its place and the number of places.
pub(crate) fn decode_event(bytes: &[u8], sealer: &Sealer) -> Result<(Event, u32, u32), WireError> {
    let mut reader = open_frame(Kind::Event, bytes)?;
    let revision = Revision(reader.u64()?);
    let (nth, of) = (reader.u32()?, reader.u32()?);
    let mut side = || -> Result<_, WireError> {
        Ok(if reader.flag()? { Some(std::sync::Arc::new(reader.entry(sealer)?)) } else { None })
    };
    let (entry, previous) = (side()?, side()?);
    reader.end()?;
    if entry.is_none() && previous.is_none() {
        return Err(WireError::Nonsense("an event without a before and an after"));
    }
    Ok((Event { revision, entry, previous }, nth, of))
}

fn write_bytes(write: &Write) -> usize {
    match write {
        Write::Put(key, draft) => 48 + key.len() + draft.bytes.len(),
        Write::Delete(key) => 8 + key.len(),
    }
}

fn put_entry(out: &mut Vec<u8>, entry: &Entry, sealer: &Sealer) -> Result<(), SealError> {
    put_bytes(out, entry.key.as_bytes());
    put_u64(out, entry.created.0);
    put_u64(out, entry.modified.0);
    out.push(u8::from(entry.sealed));
    put_value(out, &entry.key, &entry.value, entry.sealed, sealer)
}

fn put_value(
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

/// Reads a frame's body from front to back.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
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

    fn key(&mut self) -> Result<Key, WireError> {
        std::str::from_utf8(self.bytes()?)
            .map(Key::from)
            .map_err(|_| WireError::Nonsense("a key that is not text"))
    }

    fn value(&mut self, key: &str, sealed: bool, sealer: &Sealer) -> Result<Bytes, WireError> {
        let bytes = self.bytes()?;
        // Copied, not sliced: a small value must not keep a whole batch alive.
        if sealed { Ok(sealer.open(key, bytes)?) } else { Ok(Bytes::copy_from_slice(bytes)) }
    }

    fn entry(&mut self, sealer: &Sealer) -> Result<Entry, WireError> {
        let key = self.key()?;
        let (created, modified) = (Revision(self.u64()?), Revision(self.u64()?));
        let sealed = self.flag()?;
        let value = self.value(&key, sealed, sealer)?;
        Ok(Entry { key, value, created, modified, sealed })
    }

    /// Nothing may be left.
    pub(crate) fn end(self) -> Result<(), WireError> {
        if self.0.is_empty() { Ok(()) } else { Err(WireError::Length) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::machine::tests::txns;

    fn sealer() -> Sealer {
        Sealer::new(&[9; 32]).unwrap()
    }

    fn encode(txns: &[Txn], sealer: &Sealer) -> Vec<u8> {
        let encoded: Vec<_> = txns.iter().map(|txn| encode_txn(txn, sealer).unwrap()).collect();
        encode_batch(7, 8, encoded.iter().map(Vec::as_slice))
    }

    proptest! {
        #[test]
        fn batches_come_back_as_they_went(txns in txns()) {
            let sealer = sealer();
            let bytes = encode(&txns, &sealer);
            prop_assert_eq!(decode_batch(&bytes, &sealer), Ok(Batch { origin: 7, seq: 8, txns }));
        }

        #[test]
        fn damaged_batches_are_refused(txns in txns(), at: prop::sample::Index, bit in 0..8u8, cut: prop::sample::Index) {
            let sealer = sealer();
            let bytes = encode(&txns, &sealer);
            let mut flipped = bytes.clone();
            flipped[at.index(bytes.len())] ^= 1 << bit;
            prop_assert!(decode_batch(&flipped, &sealer).is_err());
            prop_assert!(decode_batch(&bytes[..cut.index(bytes.len())], &sealer).is_err());
        }

        // Even behind a right checksum nonsense is an error, not a panic and
        // not an allocation of what a length claims.
        #[test]
        fn nonsense_is_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let sealer = sealer();
            for kind in [Kind::Batch, Kind::Entry, Kind::Event] {
                let bytes = frame(kind, |out| out.extend_from_slice(&body));
                let _ = decode_batch(&bytes, &sealer);
                let _ = decode_entry(&bytes, &sealer);
                let _ = decode_event(&bytes, &sealer);
            }
        }
    }

    #[test]
    fn entries_and_events_come_back_as_they_went() {
        let sealer = sealer();
        let entry = |key: &str, len: usize, sealed: bool| {
            let (created, modified) = (Revision(3), Revision(u64::MAX));
            Entry {
                key: Key::from(key),
                value: Bytes::from(vec![7; len]),
                created,
                modified,
                sealed,
            }
        };
        for entry in [entry("a", 0, false), entry("ключ/ä", 5, true), entry("b", 100_000, true)]
        {
            let bytes = encode_entry(&entry, &sealer).unwrap();
            assert_eq!(bytes.len(), entry_frame_len(&entry), "{}", entry.key);
            assert_eq!(decode_entry(&bytes, &sealer), Ok(entry.clone()));
            let entry = std::sync::Arc::new(entry);
            for (after, before) in [(true, true), (true, false), (false, true)] {
                let event = Event {
                    revision: Revision(9),
                    entry: after.then(|| entry.clone()),
                    previous: before.then(|| entry.clone()),
                };
                let bytes = encode_event(&event, 1, 2, &sealer).unwrap();
                assert_eq!(decode_event(&bytes, &sealer), Ok((event, 1, 2)));
            }
        }
    }

    #[test]
    fn frames_of_another_version_or_kind_are_refused() {
        let sealer = sealer();
        let mut newer = vec![VERSION + 1, Kind::Entry as u8];
        newer.extend_from_slice(&crc32fast::hash(&newer).to_le_bytes());
        assert_eq!(decode_entry(&newer, &sealer), Err(WireError::Version(VERSION + 1)));
        let event = frame(Kind::Event, |_| {});
        assert_eq!(decode_entry(&event, &sealer), Err(WireError::Nonsense("unexpected kind")));
        assert_eq!(decode_entry(&[], &sealer), Err(WireError::Length));
    }
}
