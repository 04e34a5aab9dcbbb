//! Members that talk to each other without a clock, a network or a disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::group::FIRST;
use crate::history::History;
use crate::keeper::MemoryKeeper;
use crate::log::memory::MemoryLog;
use crate::members::Change;
use crate::types::{Draft, Key, Revision, Write};
use crate::view::View;

/// What left a core.
#[derive(Default)]
pub(super) struct Left {
    pub(super) messages: VecDeque<(u64, PeerMessage)>,
    pub(super) answers: BTreeMap<Ticket, Result<Done, StoreError>>,
}

impl Outside for Left {
    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn send(&mut self, to: u64, message: PeerMessage) {
        self.messages.push_back((to, message));
    }

    fn answer(&mut self, ticket: Ticket, result: Result<Done, StoreError>) {
        assert!(self.answers.insert(ticket, result).is_none(), "one answer each");
    }
}

/// Log that the members keep for slow ones, in bytes.
pub(super) const KEPT: u64 = 100 << 10;

/// In ticks.
pub(super) const SECOND: usize = 10;

pub(super) struct Member {
    pub(super) core: Core<MemoryLog>,
    pub(super) shared: Arc<Shared>,
    pub(super) left: Left,
}

/// A group whose messages arrive at once, unless an end is cut off.
pub(super) struct World {
    pub(super) members: BTreeMap<u64, Member>,
    /// Those that ended because they were removed.
    pub(super) removed: BTreeSet<u64>,
    pub(super) cut: BTreeSet<u64>,
    pub(super) next_ticket: Ticket,
}

pub(super) fn sealer() -> Arc<Sealer> {
    Arc::new(Sealer::new(&[3; 32]).unwrap())
}

pub(super) fn contact(id: u64) -> Contact {
    Contact { address: format!("10.0.0.{id}:1"), name: format!("m{id}"), promote: false }
}

/// A member as it starts: with the others, or (`members` is empty) to join.
pub(super) fn member(id: u64, members: &Members) -> Member {
    let mut log = MemoryLog::default();
    let mut applied = Applied { position: Position::default(), members: Arc::new(members.clone()) };
    if !members.voters.is_empty() {
        log.initialize(members).unwrap();
        applied.position = FIRST;
    }
    started(id, log, applied)
}

/// A member with this log, of which it has applied so much.
pub(super) fn parts(id: u64, log: MemoryLog, applied: Applied) -> CoreParts<MemoryLog> {
    let machine = Machine::default();
    let shared = Arc::new(Shared::new(View {
        snapshot: Snapshot::new(machine.entries().clone(), machine.revision()),
        digest: 0,
        bytes: 0,
        applied: applied.clone(),
        history: History::new(Revision(0), Duration::from_secs(300), 1 << 20),
    }));
    CoreParts {
        member: id,
        run: id * 100,
        seed: 7,
        patience: 50,
        contact: Some(contact(id)),
        log,
        machine,
        applied,
        keeper: Box::new(MemoryKeeper),
        kept_log_bytes: KEPT,
        sealer: sealer(),
        shared,
    }
}

/// The same, started.
pub(super) fn started(id: u64, log: MemoryLog, applied: Applied) -> Member {
    let parts = parts(id, log, applied);
    let shared = parts.shared.clone();
    let mut member = Member { core: Core::new(parts).unwrap(), shared, left: Left::default() };
    member.core.start(&mut member.left).unwrap();
    member
}

impl World {
    pub(super) fn new(size: u64) -> Self {
        let contacts = (1..=size).map(|id| (id, contact(id))).collect();
        let members =
            Members { voters: (1..=size).collect(), last_id: size, contacts, ..Members::default() };
        let members = (1..=size).map(|id| (id, member(id, &members))).collect();
        Self { members, removed: BTreeSet::new(), cut: BTreeSet::new(), next_ticket: 0 }
    }

    /// Lets everybody do what they can until nothing moves.
    pub(super) fn settle(&mut self) {
        loop {
            let mut moved = false;
            let ids: Vec<u64> = self.members.keys().copied().collect();
            for id in ids {
                let member = self.members.get_mut(&id).unwrap();
                let turned = member.core.turn(&mut member.left);
                let messages = std::mem::take(&mut member.left.messages);
                if turned == Err(StoreError::Removed) {
                    self.members.remove(&id);
                    self.removed.insert(id);
                } else {
                    turned.unwrap();
                }
                for (to, message) in messages {
                    moved = true;
                    // Everything goes through the codec.
                    let message = PeerMessage::decode(&message.encode()).unwrap();
                    if self.cut.contains(&id) || self.cut.contains(&to) {
                        continue;
                    }
                    if let Some(peer) = self.members.get_mut(&to) {
                        peer.core.step(id, message);
                    }
                }
            }
            if !moved {
                return;
            }
        }
    }

    pub(super) fn tick(&mut self, times: usize) {
        for _ in 0..times {
            self.members.values_mut().for_each(|member| member.core.tick());
            self.settle();
        }
    }

    /// Ticks until somebody who is not cut off leads and all agree.
    pub(super) fn elect(&mut self) -> u64 {
        for _ in 0..60 {
            self.tick(1);
            let leaders: BTreeSet<_> = (self.members.iter())
                .filter(|(id, _)| !self.cut.contains(id))
                .map(|(_, member)| member.core.leadership.leader)
                .collect();
            if let [Some(leader)] = leaders.into_iter().collect::<Vec<_>>()[..]
                && !self.cut.contains(&leader)
                && self.core(leader).leadership.is_leader
            {
                return leader;
            }
        }
        panic!("no leader within six seconds");
    }

    pub(super) fn core(&self, id: u64) -> &Core<MemoryLog> {
        &self.members[&id].core
    }

    pub(super) fn put(&mut self, id: u64, key: &str, compares: Vec<Compare>) -> Ticket {
        let draft = Draft { bytes: Bytes::from(vec![b'v'; 100]), revision_at: None, sealed: true };
        let txn = Txn { compares, writes: vec![Write::Put(Key::from(key), draft)] };
        let txn = wire::encode_txn(&txn, &sealer()).unwrap();
        self.next_ticket += 1;
        self.members.get_mut(&id).unwrap().core.propose(vec![(self.next_ticket, txn)]);
        self.next_ticket
    }

    pub(super) fn read(&mut self, id: u64) -> Ticket {
        self.next_ticket += 1;
        self.members.get_mut(&id).unwrap().core.read(vec![self.next_ticket]);
        self.next_ticket
    }

    pub(super) fn change(&mut self, id: u64, change: Change) -> Ticket {
        self.next_ticket += 1;
        self.members.get_mut(&id).unwrap().core.change(Some(self.next_ticket), change);
        self.next_ticket
    }

    pub(super) fn answer(&self, id: u64, ticket: Ticket) -> Option<&Result<Done, StoreError>> {
        self.members[&id].left.answers.get(&ticket)
    }

    pub(super) fn committed(&self, id: u64, ticket: Ticket) -> Option<u64> {
        match self.answer(id, ticket)? {
            Ok(Done::Committed(committed)) => Some(committed.revision.0),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn agree(&self) {
        let states: BTreeSet<_> = (self.members.values())
            .map(|member| (member.core.applied.position.index, member.core.machine.digest()))
            .collect();
        assert_eq!(states.len(), 1, "{states:?}");
    }
}
