//! What members say to each other, in frames of our own: Raft's messages, and
//! those around them that forward proposals and carry snapshots.
//!
//! Raft's own types are written field by field. Protobuf never sees a byte that
//! came from elsewhere.

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType, Snapshot};

use super::{Kind, Reader, WireError, frame, open_frame, put_bytes, put_u32, put_u64};
use crate::log::Position;
use crate::members::{Members, Refusal};

/// A message from one member to another.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum PeerMessage {
    /// One of Raft's. A snapshot's carries the summary of the state alone.
    Raft(Box<Message>),
    /// A proposal for the leader of `term`.
    Forward(Forward),
    /// Why a forwarded change of members was not proposed.
    Refused { seq: u64, refusal: Refusal },
    /// Asks for the records of a snapshot after a key; none for the first.
    Pull { position: Position, after: Option<String> },
    /// The records asked for: framed entries in key order. None without the
    /// snapshot: it is gone.
    Chunk { position: Position, after: Option<String>, records: Option<Vec<Bytes>>, last: bool },
    /// Asks whether the sender still belongs to the group: it hears of no leader.
    Knock,
    /// It does not, by what the group had agreed on up to `position`.
    Removed { position: Position },
}

/// A proposal on its way to the leader.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Forward {
    /// The term it is meant for. No other leader may propose it: the sender
    /// knows by that when it is lost.
    pub(crate) term: u64,
    /// The sender's run and its number in that run, always growing, so that a
    /// repeated message is not proposed twice.
    pub(crate) run: u64,
    pub(crate) number: u64,
    /// See [`super::Batch`].
    pub(crate) seq: u64,
    pub(crate) payload: Payload,
}

/// What is proposed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Payload {
    /// A framed batch.
    Batch(Bytes),
    /// A framed [`Proposal`](crate::members::Proposal).
    Change(Bytes),
}

impl PeerMessage {
    /// Frames the message.
    pub(crate) fn encode(&self) -> Vec<u8> {
        frame(Kind::Peer, |out| match self {
            Self::Raft(message) => {
                out.push(1);
                put_message(out, message);
            }
            Self::Forward(forward) => {
                out.push(2);
                for number in [forward.term, forward.run, forward.number, forward.seq] {
                    put_u64(out, number);
                }
                let (tag, data) = match &forward.payload {
                    Payload::Batch(data) => (1, data),
                    Payload::Change(data) => (2, data),
                };
                out.push(tag);
                put_bytes(out, data);
            }
            Self::Refused { seq, refusal } => {
                out.push(3);
                put_u64(out, *seq);
                put_bytes(out, refusal.why.as_bytes());
                out.push(u8::from(refusal.passing));
            }
            Self::Pull { position, after } => {
                out.push(4);
                put_position(out, *position);
                put_optional(out, after.as_deref());
            }
            Self::Chunk { position, after, records, last } => {
                out.push(5);
                put_position(out, *position);
                put_optional(out, after.as_deref());
                out.push(u8::from(records.is_some()));
                let records = records.as_deref().unwrap_or_default();
                put_u32(out, records.len() as u32);
                records.iter().for_each(|record| put_bytes(out, record));
                out.push(u8::from(*last));
            }
            Self::Knock => out.push(6),
            Self::Removed { position } => {
                out.push(7);
                put_position(out, *position);
            }
        })
    }

    /// Reads what [`PeerMessage::encode`] wrote.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = open_frame(Kind::Peer, bytes)?;
        let message = match reader.u8()? {
            1 => Self::Raft(Box::new(message(&mut reader)?)),
            2 => {
                let (term, run, number, seq) =
                    (reader.u64()?, reader.u64()?, reader.u64()?, reader.u64()?);
                let payload = match reader.u8()? {
                    1 => Payload::Batch(data(&mut reader)?),
                    2 => Payload::Change(data(&mut reader)?),
                    _ => return Err(WireError::Nonsense("unknown proposal")),
                };
                Self::Forward(Forward { term, run, number, seq, payload })
            }
            3 => Self::Refused {
                seq: reader.u64()?,
                refusal: Refusal { why: reader.text()?, passing: reader.flag()? },
            },
            4 => Self::Pull { position: position(&mut reader)?, after: optional(&mut reader)? },
            5 => {
                let (position, after) = (position(&mut reader)?, optional(&mut reader)?);
                let there = reader.flag()?;
                let records = (0..reader.count()?)
                    .map(|_| data(&mut reader))
                    .collect::<Result<Vec<_>, _>>()?;
                let records = there.then_some(records);
                Self::Chunk { position, after, records, last: reader.flag()? }
            }
            6 => Self::Knock,
            7 => Self::Removed { position: position(&mut reader)? },
            _ => return Err(WireError::Nonsense("unknown message")),
        };
        reader.end()?;
        Ok(message)
    }
}

/// The kinds of messages that travel, with their numbers on the wire. The
/// others are between Raft and its own process.
const KINDS: [(u8, MessageType); 12] = [
    (1, MessageType::MsgAppend),
    (2, MessageType::MsgAppendResponse),
    (3, MessageType::MsgRequestVote),
    (4, MessageType::MsgRequestVoteResponse),
    (5, MessageType::MsgSnapshot),
    (6, MessageType::MsgHeartbeat),
    (7, MessageType::MsgHeartbeatResponse),
    (8, MessageType::MsgTimeoutNow),
    (9, MessageType::MsgReadIndex),
    (10, MessageType::MsgReadIndexResp),
    (11, MessageType::MsgRequestPreVote),
    (12, MessageType::MsgRequestPreVoteResponse),
];

/// Whether a message of this kind may travel.
pub(crate) fn travels(kind: MessageType) -> bool {
    KINDS.iter().any(|(_, other)| *other == kind)
}

fn put_message(out: &mut Vec<u8>, message: &Message) {
    // A kind without a number gets zero, which no reader takes.
    let kind = KINDS.iter().find(|(_, kind)| *kind == message.get_msg_type());
    out.push(kind.map_or(0, |(tag, _)| *tag));
    for number in [
        message.to,
        message.from,
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.commit_term,
        message.request_snapshot,
        message.reject_hint,
    ] {
        put_u64(out, number);
    }
    out.push(u8::from(message.reject));
    put_u64(out, message.priority.cast_unsigned());
    put_bytes(out, &message.context);
    put_u32(out, message.entries.len() as u32);
    for entry in message.entries.iter() {
        put_entry(out, entry);
    }
    let snapshot = message.get_snapshot();
    out.push(u8::from(!snapshot.is_empty()));
    if !snapshot.is_empty() {
        let metadata = snapshot.get_metadata();
        put_u64(out, metadata.index);
        put_u64(out, metadata.term);
        Members::from(metadata.get_conf_state()).encode(out);
        put_bytes(out, &snapshot.data);
    }
}

fn message(reader: &mut Reader<'_>) -> Result<Message, WireError> {
    let tag = reader.u8()?;
    let (_, kind) = KINDS
        .iter()
        .find(|(number, _)| *number == tag)
        .ok_or(WireError::Nonsense("unknown kind of Raft message"))?;
    let mut message = Message::default();
    message.set_msg_type(*kind);
    for field in [
        &mut message.to,
        &mut message.from,
        &mut message.term,
        &mut message.log_term,
        &mut message.index,
        &mut message.commit,
        &mut message.commit_term,
        &mut message.request_snapshot,
        &mut message.reject_hint,
    ] {
        *field = reader.u64()?;
    }
    message.reject = reader.flag()?;
    message.priority = reader.u64()?.cast_signed();
    message.context = data(reader)?;
    let entries = (0..reader.count()?).map(|_| entry(reader)).collect::<Result<Vec<_>, _>>()?;
    message.set_entries(entries.into());
    if reader.flag()? {
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = reader.u64()?;
        metadata.term = reader.u64()?;
        metadata.set_conf_state(ConfState::from(&Members::decode(reader)?));
        snapshot.data = data(reader)?;
        message.set_snapshot(snapshot);
    }
    Ok(message)
}

fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    out.push(match entry.get_entry_type() {
        EntryType::EntryNormal => 0,
        EntryType::EntryConfChange => 1,
        EntryType::EntryConfChangeV2 => 2,
    });
    put_u64(out, entry.term);
    put_u64(out, entry.index);
    put_bytes(out, &entry.data);
    put_bytes(out, &entry.context);
}

fn entry(reader: &mut Reader<'_>) -> Result<Entry, WireError> {
    let mut entry = Entry::default();
    entry.set_entry_type(match reader.u8()? {
        0 => EntryType::EntryNormal,
        // Nobody writes the first version.
        2 => EntryType::EntryConfChangeV2,
        _ => return Err(WireError::Nonsense("unknown kind of log entry")),
    });
    entry.term = reader.u64()?;
    entry.index = reader.u64()?;
    entry.data = data(reader)?;
    entry.context = data(reader)?;
    Ok(entry)
}

fn data(reader: &mut Reader<'_>) -> Result<Bytes, WireError> {
    Ok(Bytes::copy_from_slice(reader.bytes()?))
}

fn put_position(out: &mut Vec<u8>, position: Position) {
    put_u64(out, position.index);
    put_u64(out, position.term);
}

fn position(reader: &mut Reader<'_>) -> Result<Position, WireError> {
    Ok(Position { index: reader.u64()?, term: reader.u64()? })
}

fn put_optional(out: &mut Vec<u8>, text: Option<&str>) {
    out.push(u8::from(text.is_some()));
    put_bytes(out, text.unwrap_or_default().as_bytes());
}

fn optional(reader: &mut Reader<'_>) -> Result<Option<String>, WireError> {
    let there = reader.flag()?;
    let text = reader.text()?;
    Ok(there.then_some(text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn raft(tag: usize, numbers: [u64; 6], entries: &[(u64, Vec<u8>)], reject: bool) -> Message {
        let mut message = Message::default();
        let (_, kind) = KINDS[tag % KINDS.len()];
        message.set_msg_type(kind);
        [message.to, message.from, message.term, message.log_term, message.index, message.commit] =
            numbers;
        message.reject = reject;
        message.priority = -1;
        message.context = Bytes::from_static(b"context");
        let entries: Vec<_> = entries
            .iter()
            .map(|(index, data)| {
                let mut entry = Entry { index: *index, term: 3, ..Entry::default() };
                entry.data = Bytes::from(data.clone());
                if index % 2 == 0 {
                    entry.set_entry_type(EntryType::EntryConfChangeV2);
                }
                entry
            })
            .collect();
        message.set_entries(entries.into());
        if kind == MessageType::MsgSnapshot {
            let metadata = message.mut_snapshot().mut_metadata();
            (metadata.index, metadata.term) = (9, 2);
            metadata.set_conf_state(ConfState::from(&Members::single(4)));
            message.mut_snapshot().data = Bytes::from_static(b"summary");
        }
        message
    }

    fn messages() -> impl Strategy<Value = PeerMessage> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..20);
        let after = || prop::option::of("[a-z/]{0,9}");
        let position =
            || (any::<u64>(), any::<u64>()).prop_map(|(index, term)| Position { index, term });
        let entries = prop::collection::vec((any::<u64>(), bytes()), 0..4);
        prop_oneof![
            (0..KINDS.len(), any::<[u64; 6]>(), entries, any::<bool>()).prop_map(
                |(tag, numbers, entries, reject)| {
                    PeerMessage::Raft(Box::new(raft(tag, numbers, &entries, reject)))
                }
            ),
            (any::<[u64; 4]>(), bytes(), any::<bool>()).prop_map(
                |([term, run, number, seq], data, batch)| {
                    let data = Bytes::from(data);
                    let payload = if batch { Payload::Batch(data) } else { Payload::Change(data) };
                    PeerMessage::Forward(Forward { term, run, number, seq, payload })
                }
            ),
            (any::<u64>(), "[a-z ]{0,9}", any::<bool>()).prop_map(|(seq, why, passing)| {
                PeerMessage::Refused { seq, refusal: Refusal { why, passing } }
            }),
            Just(PeerMessage::Knock),
            position().prop_map(|position| PeerMessage::Removed { position }),
            (position(), after())
                .prop_map(|(position, after)| PeerMessage::Pull { position, after }),
            (
                position(),
                after(),
                prop::option::of(prop::collection::vec(bytes(), 0..3)),
                any::<bool>()
            )
                .prop_map(|(position, after, records, last)| {
                    let records =
                        records.map(|records| records.into_iter().map(Bytes::from).collect());
                    PeerMessage::Chunk { position, after, records, last }
                }),
        ]
    }

    proptest! {
        #[test]
        fn messages_come_back_as_they_went(message in messages()) {
            prop_assert_eq!(PeerMessage::decode(&message.encode()), Ok(message));
        }

        #[test]
        fn damaged_messages_are_refused(message in messages(), at: prop::sample::Index, bit in 0..8u8, cut: prop::sample::Index) {
            let bytes = message.encode();
            let mut flipped = bytes.clone();
            flipped[at.index(bytes.len())] ^= 1 << bit;
            prop_assert!(PeerMessage::decode(&flipped).is_err());
            prop_assert!(PeerMessage::decode(&bytes[..cut.index(bytes.len())]).is_err());
        }

        #[test]
        fn nonsense_is_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = PeerMessage::decode(&frame(Kind::Peer, |out| out.extend_from_slice(&body)));
        }
    }

    #[test]
    fn what_stays_at_home_does_not_travel() {
        for kind in [MessageType::MsgHup, MessageType::MsgPropose, MessageType::MsgSnapStatus] {
            let mut message = Message::default();
            message.set_msg_type(kind);
            let bytes = PeerMessage::Raft(Box::new(message)).encode();
            assert_eq!(
                PeerMessage::decode(&bytes),
                Err(WireError::Nonsense("unknown kind of Raft message"))
            );
            assert!(!travels(kind));
        }
    }
}
