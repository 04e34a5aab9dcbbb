//! Transactions, and the batches of them that log entries hold.

use super::frame::{
    Kind, Reader, WireError, frame, open_frame, put_bytes, put_u32, put_u64, put_value,
};
use crate::sealing::{SealError, Sealer};
use crate::types::{Compare, Draft, Revision, Txn, Write};

/// The transactions of one log entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    /// The run of the process that proposed it, drawn at random at each start.
    pub(crate) origin: u64,
    /// The proposer's number for it.
    pub(crate) seq: u64,
    pub(crate) txns: Vec<Txn>,
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
    let mut reader = Reader::new(bytes);
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

fn write_bytes(write: &Write) -> usize {
    match write {
        Write::Put(key, draft) => 48 + key.len() + draft.bytes.len(),
        Write::Delete(key) => 8 + key.len(),
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
    }
}
