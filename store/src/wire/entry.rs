//! What is stored: drafts on their way to etcd, live entries, and events of the
//! history window.

use std::sync::Arc;

use super::frame::{
    Kind, Reader, WireError, frame, open_frame, put_bytes, put_u32, put_u64, put_value,
};
use crate::sealing::{SEALING_BYTES, SealError, Sealer};
use crate::types::{Draft, Entry, Event, Revision};

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
    let entry = entry(&mut reader, sealer)?;
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
        Ok(if reader.flag()? { Some(Arc::new(entry(&mut reader, sealer)?)) } else { None })
    };
    let (entry, previous) = (side()?, side()?);
    reader.end()?;
    if entry.is_none() && previous.is_none() {
        return Err(WireError::Nonsense("an event without a before and an after"));
    }
    Ok((Event { revision, entry, previous }, nth, of))
}

fn put_entry(out: &mut Vec<u8>, entry: &Entry, sealer: &Sealer) -> Result<(), SealError> {
    put_bytes(out, entry.key.as_bytes());
    put_u64(out, entry.created.0);
    put_u64(out, entry.modified.0);
    out.push(u8::from(entry.sealed));
    put_value(out, &entry.key, &entry.value, entry.sealed, sealer)
}

fn entry(reader: &mut Reader<'_>, sealer: &Sealer) -> Result<Entry, WireError> {
    let key = reader.key()?;
    let (created, modified) = (Revision(reader.u64()?), Revision(reader.u64()?));
    let sealed = reader.flag()?;
    let value = reader.value(&key, sealed, sealer)?;
    Ok(Entry { key, value, created, modified, sealed })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::types::Key;
    use crate::wire::decode_batch;

    fn sealer() -> Sealer {
        Sealer::new(&[9; 32]).unwrap()
    }

    proptest! {
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
            let entry = Arc::new(entry);
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
}
