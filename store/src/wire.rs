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
//!
//! `frame` is what is around every record; inside are `txn` (batches), `entry`
//! (what is stored) and `peer` (what members say to each other).

mod frame;

mod entry;
pub(crate) mod peer;
mod txn;

pub(crate) use entry::{
    decode_draft, decode_entry, decode_event, encode_draft, encode_entry, encode_event,
    entry_frame_len,
};
pub(crate) use frame::{
    Kind, Reader, WireError, frame, open_frame, put_bytes, put_u32, put_u64, put_u128,
};
pub(crate) use txn::{decode_batch, decode_txn, encode_batch, encode_txn};
