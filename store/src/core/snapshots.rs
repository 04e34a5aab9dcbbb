//! Snapshots on their way to a member that needs log entries which are gone.
//!
//! Raft's own snapshot message is an offer: it names a place of the log, and
//! beside it travels the summary (count, digest) of the state there. The member
//! that needs it pulls the records in key order, some at a time, each pull
//! saying after which key; so the stream has no state that a lost connection
//! could lose, and no queue. When the records add up to the summary, the offer
//! is given to Raft, which decides whether it is still wanted.
//!
//! The leader keeps the offered state by a clone of its persistent map, which
//! costs only what is written meanwhile. It forgets it when Raft sees the member
//! follow the log again, or when nobody has pulled for a while; then Raft makes
//! a new offer.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::Message;

use super::Core;
use crate::log::{LogStore, Position};
use crate::machine::{Entries, Machine};
use crate::state::{Meta, decode_meta};
use crate::view::Applied;
use crate::wire::{self, peer::PeerMessage};

/// Bytes of records in one chunk; one record is always sent.
const CHUNK_BYTES: usize = 1 << 20;

/// Ticks without a pull after which an offer has failed.
const OFFER_TICKS: u64 = 50;

/// Ticks without a chunk after which a pull is repeated, and how often.
const PULL_TICKS: u64 = 5;
const PULLS: u64 = 20;

/// States on offer, by member.
#[derive(Default)]
pub(super) struct Sendings(BTreeMap<u64, Sending>);

struct Sending {
    position: Position,
    entries: Entries,
    /// The tick of the last pull.
    pulled: u64,
}

/// A snapshot that is being pulled.
pub(super) struct Receiving {
    from: u64,
    offer: Message,
    meta: Meta,
    entries: Entries,
    /// The tick of the last chunk or pull, and pulls since the last chunk.
    asked: u64,
    pulls: u64,
}

/// A snapshot that is whole.
pub(super) struct Received {
    pub(super) meta: Meta,
    pub(super) machine: Machine,
}

/// The place that a snapshot message offers.
pub(super) fn position(message: &Message) -> Position {
    let metadata = message.get_snapshot().get_metadata();
    Position { index: metadata.index, term: metadata.term }
}

/// The summary of the applied state.
pub(super) fn summary(applied: &Applied, machine: &Machine) -> Meta {
    Meta {
        applied: applied.clone(),
        revision: machine.revision(),
        floor: machine.revision(),
        count: machine.entries().len() as u64,
        digest: machine.digest(),
    }
}

impl Sendings {
    pub(super) fn begin(&mut self, to: u64, position: Position, entries: Entries, now: u64) {
        self.0.insert(to, Sending { position, entries, pulled: now });
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

impl<L: LogStore> Core<L> {
    /// A leader offers a snapshot.
    pub(super) fn offered(&mut self, from: u64, offer: Message) {
        let position = position(&offer);
        // What this member has already, or will not take from a deposed
        // leader, Raft answers without the content.
        if position.index <= self.group.committed() || offer.term < self.group.term() {
            self.group.step(offer);
            return;
        }
        let meta = match decode_meta(&offer.get_snapshot().data) {
            Ok(meta) if meta.applied.position == position => meta,
            Ok(_) | Err(_) => {
                tracing::warn!(from, "a snapshot is offered with a summary of something else");
                return;
            }
        };
        match &mut self.receiving {
            // The same again, perhaps from another leader: go on.
            Some(receiving) if receiving.meta == meta => {
                receiving.from = from;
                receiving.offer = offer;
            }
            _ => {
                let (entries, asked, pulls) = (Entries::new(), self.ticks, 0);
                self.receiving = Some(Receiving { from, offer, meta, entries, asked, pulls });
            }
        }
        self.pull();
    }

    fn pull(&mut self) {
        let Some(receiving) = &mut self.receiving else { return };
        receiving.asked = self.ticks;
        receiving.pulls += 1;
        let position = receiving.meta.applied.position;
        let after = receiving.entries.get_max().map(|(key, _)| key.to_string());
        self.outbox.push((receiving.from, PeerMessage::Pull { position, after }));
    }

    /// A member pulls the next records.
    pub(super) fn pulled(&mut self, from: u64, position: Position, after: Option<String>) {
        let now = self.ticks;
        let sending = self.sendings.0.get_mut(&from).filter(|sending| sending.position == position);
        let (records, last) = match sending {
            None => (None, false),
            Some(sending) => {
                sending.pulled = now;
                let start = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
                let mut rest = sending.entries.range::<_, str>((start, Bound::Unbounded));
                let (mut records, mut bytes) = (Vec::new(), 0);
                let mut last = true;
                for (_, entry) in rest.by_ref() {
                    let Ok(record) = wire::encode_entry(entry, &self.sealer) else {
                        tracing::error!(key = %entry.key, "an entry cannot be sealed");
                        return;
                    };
                    bytes += record.len();
                    records.push(Bytes::from(record));
                    if bytes >= CHUNK_BYTES {
                        last = rest.next().is_none();
                        break;
                    }
                }
                (Some(records), last)
            }
        };
        self.outbox.push((from, PeerMessage::Chunk { position, after, records, last }));
    }

    /// Records have come.
    pub(super) fn chunk(
        &mut self,
        from: u64,
        position: Position,
        after: Option<String>,
        records: Option<Vec<Bytes>>,
        last: bool,
    ) {
        let Some(receiving) = &mut self.receiving else { return };
        let newest = receiving.entries.get_max().map(|(key, _)| key.to_string());
        if receiving.from != from || receiving.meta.applied.position != position || newest != after
        {
            // An answer to a pull that was repeated, or to an older offer.
            return;
        }
        let Some(records) = records else {
            // The leader has forgotten it and will offer another.
            self.receiving = None;
            return;
        };
        for record in records {
            match wire::decode_entry(&record, &self.sealer) {
                Ok(entry) => {
                    receiving.entries.insert(entry.key.clone(), Arc::new(entry));
                }
                Err(error) => {
                    tracing::warn!(%error, from, "a record of a snapshot does not read");
                    self.receiving = None;
                    return;
                }
            }
        }
        receiving.pulls = 0;
        if last { self.complete() } else { self.pull() }
    }

    fn complete(&mut self) {
        let Some(Receiving { from, offer, meta, entries, .. }) = self.receiving.take() else {
            return;
        };
        let machine = Machine::restore(entries, meta.revision);
        if (machine.entries().len() as u64, machine.digest()) != (meta.count, meta.digest) {
            tracing::warn!(from, "the records of a snapshot do not add up");
            return;
        }
        self.received = Some(Received { meta, machine });
        // Raft takes it, or knows better by now.
        self.group.step(offer);
    }

    /// Log and saved state have been replaced: the rest follows.
    pub(super) fn restored(&mut self, position: Position) {
        let Some(received) = self.received.take() else { return };
        tracing::info!(index = position.index, "caught up by a snapshot");
        self.machine = received.machine;
        self.applied = received.meta.applied;
        self.tail.restart(position);
        self.skip_proposals();
        self.publish(Vec::new(), std::time::Duration::ZERO, true);
        self.group.applied(position.index);
    }

    /// Repeats pulls that were lost, and gives up offers that nobody takes.
    pub(super) fn tend_snapshots(&mut self) {
        let now = self.ticks;
        if let Some(receiving) = &self.receiving
            && now >= receiving.asked + PULL_TICKS
        {
            if receiving.pulls < PULLS { self.pull() } else { self.receiving = None }
        }
        let mut over = Vec::new();
        for (id, sending) in &self.sendings.0 {
            if !self.group.is_sending_snapshot(*id) {
                over.push((*id, false));
            } else if now >= sending.pulled + OFFER_TICKS {
                over.push((*id, true));
            }
        }
        for (id, failed) in over {
            self.sendings.0.remove(&id);
            if failed {
                self.group.snapshot_failed(id);
            }
        }
    }
}
