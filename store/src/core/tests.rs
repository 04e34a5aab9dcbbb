//! Groups of cores without a clock, a network or a disk.

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
struct Left {
    messages: VecDeque<(u64, PeerMessage)>,
    answers: BTreeMap<Ticket, Result<Done, StoreError>>,
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
const KEPT: u64 = 100 << 10;

/// In ticks.
const SECOND: usize = 10;

struct Member {
    core: Core<MemoryLog>,
    shared: Arc<Shared>,
    left: Left,
}

/// A group whose messages arrive at once, unless an end is cut off.
struct World {
    members: BTreeMap<u64, Member>,
    /// Those that ended because they were removed.
    removed: BTreeSet<u64>,
    cut: BTreeSet<u64>,
    next_ticket: Ticket,
}

fn sealer() -> Arc<Sealer> {
    Arc::new(Sealer::new(&[3; 32]).unwrap())
}

fn contact(id: u64) -> Contact {
    Contact { address: format!("10.0.0.{id}:1"), name: format!("m{id}"), promote: false }
}

/// A member as it starts: with the others, or (`members` is empty) to join.
fn member(id: u64, members: &Members) -> Member {
    let mut log = MemoryLog::default();
    let mut applied = Applied { position: Position::default(), members: Arc::new(members.clone()) };
    if !members.voters.is_empty() {
        log.initialize(members).unwrap();
        applied.position = FIRST;
    }
    started(id, log, applied)
}

/// A member with this log, of which it has applied so much.
fn parts(id: u64, log: MemoryLog, applied: Applied) -> CoreParts<MemoryLog> {
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
fn started(id: u64, log: MemoryLog, applied: Applied) -> Member {
    let parts = parts(id, log, applied);
    let shared = parts.shared.clone();
    let mut member = Member { core: Core::new(parts).unwrap(), shared, left: Left::default() };
    member.core.start(&mut member.left).unwrap();
    member
}

impl World {
    fn new(size: u64) -> Self {
        let contacts = (1..=size).map(|id| (id, contact(id))).collect();
        let members =
            Members { voters: (1..=size).collect(), last_id: size, contacts, ..Members::default() };
        let members = (1..=size).map(|id| (id, member(id, &members))).collect();
        Self { members, removed: BTreeSet::new(), cut: BTreeSet::new(), next_ticket: 0 }
    }

    /// Lets everybody do what they can until nothing moves.
    fn settle(&mut self) {
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

    fn tick(&mut self, times: usize) {
        for _ in 0..times {
            self.members.values_mut().for_each(|member| member.core.tick());
            self.settle();
        }
    }

    /// Ticks until somebody who is not cut off leads and all agree.
    fn elect(&mut self) -> u64 {
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

    fn core(&self, id: u64) -> &Core<MemoryLog> {
        &self.members[&id].core
    }

    fn put(&mut self, id: u64, key: &str, compares: Vec<Compare>) -> Ticket {
        let draft = Draft { bytes: Bytes::from(vec![b'v'; 100]), revision_at: None, sealed: true };
        let txn = Txn { compares, writes: vec![Write::Put(Key::from(key), draft)] };
        let txn = wire::encode_txn(&txn, &sealer()).unwrap();
        self.next_ticket += 1;
        self.members.get_mut(&id).unwrap().core.propose(vec![(self.next_ticket, txn)]);
        self.next_ticket
    }

    fn read(&mut self, id: u64) -> Ticket {
        self.next_ticket += 1;
        self.members.get_mut(&id).unwrap().core.read(vec![self.next_ticket]);
        self.next_ticket
    }

    fn change(&mut self, id: u64, change: Change) -> Ticket {
        self.next_ticket += 1;
        self.members.get_mut(&id).unwrap().core.change(Some(self.next_ticket), change);
        self.next_ticket
    }

    fn answer(&self, id: u64, ticket: Ticket) -> Option<&Result<Done, StoreError>> {
        self.members[&id].left.answers.get(&ticket)
    }

    fn committed(&self, id: u64, ticket: Ticket) -> Option<u64> {
        match self.answer(id, ticket)? {
            Ok(Done::Committed(committed)) => Some(committed.revision.0),
            other => panic!("{other:?}"),
        }
    }

    fn agree(&self) {
        let states: BTreeSet<_> = (self.members.values())
            .map(|member| (member.core.applied.position.index, member.core.machine.digest()))
            .collect();
        assert_eq!(states.len(), 1, "{states:?}");
    }
}

#[test]
fn three_write_and_read_on_each_of_them() {
    let mut world = World::new(3);
    world.elect();
    for id in 1..=3 {
        let ticket = world.put(id, "a", vec![]);
        world.settle();
        assert_eq!(world.committed(id, ticket), Some(id));
        assert_eq!(world.members[&id].shared.view().snapshot.revision(), Revision(id));
        let read = world.read(id);
        world.settle();
        assert_eq!(world.answer(id, read), Some(&Ok(Done::Readable)));
    }
    world.tick(2);
    world.agree();
}

#[test]
fn a_group_of_one_leads_at_once_after_a_crash() {
    let bare = Members::single(1);
    let members = [(1, member(1, &bare))].into();
    let mut world =
        World { members, removed: BTreeSet::new(), cut: BTreeSet::new(), next_ticket: 0 };
    // The log tells by a later write that the first change was committed.
    for key in ["a", "b"] {
        world.put(1, key, Vec::new());
        world.tick(1);
    }
    let told = world.core(1).members().clone();
    assert_ne!(*told, bare, "it has told where it is found");
    // Nothing of what was applied is on the disk: the change comes again.
    let applied = Applied { position: FIRST, members: Arc::new(bare) };
    let again = started(1, world.core(1).group.log().clone(), applied);
    assert!(again.core.leadership.is_leader);
    assert_eq!(*again.core.members(), told);
}

#[test]
fn a_run_repeats_itself() {
    let run = || {
        let mut world = World::new(3);
        let leader = world.elect();
        (leader, world.members.values().map(|member| member.core.ticks).collect::<Vec<_>>())
    };
    assert_eq!(run(), run());
}

#[test]
fn the_loss_of_a_leader_loses_nothing() {
    let mut world = World::new(3);
    let first = world.elect();
    let other = if first == 1 { 2 } else { 1 };
    let before = world.put(other, "before", vec![]);
    world.settle();
    assert_eq!(world.committed(other, before), Some(1));

    world.cut.insert(first);
    // One write goes to the cut-off leader, one to a member that has not
    // noticed: the first comes to nothing there, the second waits.
    let lost = world.put(first, "lost", vec![]);
    let waits = world.put(other, "waits", vec![]);
    let read = world.read(first);
    world.settle();
    assert_eq!(world.answer(other, waits), None);
    let second = world.elect();
    assert_ne!(second, first);
    assert_eq!(world.committed(other, waits), Some(2), "proposed again in the new term");
    world.tick(10);
    assert_eq!(world.core(first).leadership.leader, None, "it knows that it leads no more");
    assert_eq!(world.answer(first, lost), None, "it cannot know");

    world.cut.clear();
    world.elect();
    world.tick(5);
    assert_eq!(world.committed(first, lost), Some(3), "late, but once");
    assert_eq!(world.answer(first, read), Some(&Ok(Done::Readable)));
    world.agree();
}

#[test]
fn without_a_quorum_callers_get_an_error_in_time() {
    let mut world = World::new(3);
    let leader = world.elect();
    world.cut.extend([1, 2, 3]);
    let write = world.put(leader, "a", vec![]);
    world.tick(20);
    let late = world.put(leader, "a", vec![]);
    let read = world.read(leader);
    world.tick(51);
    for ticket in [write, late, read] {
        assert!(
            matches!(world.answer(leader, ticket), Some(Err(StoreError::Unavailable(_)))),
            "{:?}",
            world.answer(leader, ticket)
        );
    }
    assert!(world.core(leader).proposals.is_empty() && world.core(leader).reads.is_empty());
    assert_eq!(world.core(leader).leadership.leader, None);
}

#[test]
fn a_forwarded_write_that_is_lost_is_sent_again() {
    let mut world = World::new(3);
    let leader = world.elect();
    let other = if leader == 1 { 2 } else { 1 };
    let term = world.core(leader).leadership.term;
    // One message is lost, the next one arrives.
    world.cut.insert(other);
    let lost = world.put(other, "lost", vec![]);
    world.settle();
    world.cut.clear();
    let next = world.put(other, "next", vec![]);
    world.settle();
    assert_eq!(world.committed(other, next), Some(1));
    assert_eq!(world.answer(other, lost), None);
    world.tick(SECOND);
    assert_eq!(world.committed(other, lost), Some(2));
    assert_eq!(world.core(leader).leadership.term, term, "without an election");
    world.tick(5 * SECOND);
    assert_eq!(world.core(leader).machine.revision(), Revision(2), "once");
    world.agree();
}

#[test]
fn a_slow_write_is_sent_again_and_takes_effect_once() {
    let mut world = World::new(3);
    let leader = world.elect();
    let [other, third] = [(leader % 3) + 1, (leader + 1) % 3 + 1];
    // The leader gets it and cannot commit it: nobody hears its followers.
    let deaf = |world: &mut World, ticks: usize| {
        let mut forwards = 0;
        for _ in 0..ticks {
            world.members.values_mut().for_each(|member| member.core.tick());
            for id in [other, third, leader] {
                let member = world.members.get_mut(&id).unwrap();
                member.core.turn(&mut member.left).unwrap();
                for (to, message) in std::mem::take(&mut member.left.messages) {
                    let told = matches!(message, PeerMessage::Forward(_));
                    forwards += usize::from(told);
                    if id == leader || told {
                        world.members.get_mut(&to).unwrap().core.step(id, message);
                    }
                }
            }
        }
        forwards
    };
    let term = world.core(leader).leadership.term;
    let slow = world.put(other, "slow", vec![]);
    let last = world.core(leader).group.log().last_index();
    assert_eq!(deaf(&mut world, SECOND / 2), 1);
    let forwarded = world.core(leader).group.log().last_index();
    assert_eq!(forwarded, last + 1);
    // Before the leader notices that nobody answers.
    let waiting = &mut world.members.get_mut(&other).unwrap().core;
    waiting.ticks += SECOND as u64;
    assert_eq!(deaf(&mut world, 1), 1, "sent again");
    assert_eq!(world.core(leader).leadership.term, term);
    assert_eq!(world.core(leader).group.log().last_index(), forwarded, "not proposed again");
    world.tick(5);
    assert_eq!(world.committed(other, slow), Some(1));
    world.agree();
}

#[test]
fn callers_do_not_wait_for_a_leader_that_has_been_gone_for_long() {
    let mut world = World::new(3);
    let leader = world.elect();
    world.cut.extend([1, 2, 3]);
    while world.core(leader).leadership.leader.is_some() {
        world.tick(1);
    }
    // An election may come to something yet.
    let (waits, asks) = (world.put(leader, "a", vec![]), world.read(leader));
    world.tick(SECOND);
    assert_eq!((world.answer(leader, waits), world.answer(leader, asks)), (None, None));
    world.tick(2 * SECOND);
    let (late, too) = (world.put(leader, "b", vec![]), world.read(leader));
    world.tick(1);
    for ticket in [waits, asks, late, too] {
        let answer = world.answer(leader, ticket);
        assert!(matches!(answer, Some(Err(StoreError::Unavailable(_)))), "{answer:?}");
    }
    world.cut.clear();
    world.elect();
    let again = world.put(leader, "c", vec![]);
    world.tick(2);
    assert_eq!(world.committed(leader, again), Some(1), "what was given up never takes effect");
}

#[test]
fn late_writes_of_a_deposed_leader_are_refused() {
    let mut world = World::new(3);
    let first = world.elect();
    let term = world.core(first).leadership.term;
    let good = world.put(first, "a", vec![Compare::Term(term)]);
    world.settle();
    assert_eq!(world.committed(first, good), Some(1));
    world.cut.insert(first);
    world.elect();
    world.cut.clear();
    world.elect();
    let late = world.put(first, "a", vec![Compare::Term(term)]);
    world.tick(5);
    assert!(
        matches!(world.answer(first, late), Some(Err(StoreError::Deposed { .. }))),
        "{:?}",
        world.answer(first, late)
    );
}

#[test]
fn a_member_joins_by_snapshot_and_becomes_a_voter() {
    let mut world = World::new(1);
    assert!(world.core(1).leadership.is_leader);
    // More than a memory log keeps, and more than a chunk carries.
    for n in 0..15_000 {
        world.put(1, &format!("k{n}"), vec![]);
        if n % 1000 == 0 {
            world.settle();
        }
    }
    world.settle();
    assert!(world.core(1).group.log().truncated().index > 1, "the log alone is not enough");
    let add = Change::AddLearner { id: 0, contact: Contact { promote: true, ..contact(2) } };
    let ticket = world.change(1, add);
    world.settle();
    assert_eq!(world.answer(1, ticket), Some(&Ok(Done::Changed(2))));
    assert!(world.core(1).needs_ticks());

    world.members.insert(2, member(2, &Members::default()));
    let mut ticks = 0;
    while world.core(1).members().voters != [1, 2] {
        assert!(ticks < 100, "{:?}", world.core(1).members());
        // A message is lost now and then.
        if ticks % 3 == 1 {
            world.cut.insert(2);
            world.members.values_mut().for_each(|member| member.core.tick());
            world.settle();
            world.cut.clear();
        }
        world.tick(1);
        ticks += 1;
    }
    world.tick(5);
    world.agree();
    assert_eq!(world.core(2).members().voters, [1, 2]);
    assert_eq!(world.members[&2].shared.view().snapshot.len(), 15_000);
    let write = world.put(2, "by the new one", vec![]);
    world.tick(3);
    assert!(world.committed(2, write).is_some());
    // Its history begins where its snapshot ended.
    assert!(world.members[&2].shared.view().history.check(Revision(1)).is_err());
}

#[test]
fn who_is_merely_slow_needs_no_snapshot() {
    // Bytes that it has missed when it is back; and whether its log went on
    // from where it was.
    for (missed, goes_on) in [(KEPT / 2, true), (2 * KEPT, false)] {
        let mut world = World::new(3);
        let leader = world.elect();
        let slow = if leader == 1 { 2 } else { 1 };
        let write = |world: &mut World, bytes: u64| {
            let log = world.core(leader).group.log();
            let (mut index, mut written) = (log.last_index(), 0);
            while written < bytes {
                world.put(leader, "a", vec![]);
                world.settle();
                let log = world.core(leader).group.log();
                written += log.entries(index + 1, index + 2, 1).unwrap()[0].data.len() as u64;
                index += 1;
            }
        };
        // Until the log has been cut once, and is about to be again.
        while world.core(leader).group.log().truncated() == FIRST {
            write(&mut world, KEPT / 4);
        }
        let kept = world.core(leader).group.log().bytes();
        assert!(kept > KEPT / 2 && kept < 2 * KEPT, "{kept}");
        world.tick(1);
        world.cut.insert(slow);
        let since = world.core(slow).applied.position.index;
        // A saved state covers all of it while the member is away.
        write(&mut world, missed);
        let leading = &mut world.members.get_mut(&leader).unwrap().core;
        leading.keeper = Box::new(SavesAlways);
        write(&mut world, 1);
        let began = world.core(leader).group.log().truncated().index;
        assert_eq!(began <= since, goes_on, "{missed}: {began} {since}");
        world.cut.clear();
        world.tick(3 * SECOND);
        world.agree();
        // A snapshot would have begun its log anew.
        let went_on = world.core(slow).group.log().truncated().index <= since;
        assert_eq!(went_on, goes_on, "{missed}");
    }
}

/// Covers whatever has been applied, at once.
struct SavesAlways;

impl StateKeeper for SavesAlways {
    fn note(&mut self, _: u64) {}

    fn follow(
        &mut self,
        _: u64,
        _: u64,
        applied: Position,
    ) -> Result<Option<Position>, StoreError> {
        Ok(Some(applied))
    }

    fn receive(
        &mut self,
        _: &crate::state::Meta,
        _: &crate::machine::Entries,
    ) -> Result<(), StoreError> {
        Ok(())
    }

    fn adopt(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    fn close(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[test]
fn a_dead_member_is_replaced_under_a_new_id() {
    let mut world = World::new(3);
    let leader = world.elect();
    let dead = if leader == 3 { 2 } else { 3 };
    world.members.remove(&dead);
    let add = Change::AddLearner { id: 0, contact: contact(4) };
    let add = world.change(leader, add);
    world.settle();
    assert_eq!(world.answer(leader, add), Some(&Ok(Done::Changed(4))));
    world.members.insert(4, member(4, &Members::default()));
    world.tick(10);
    let replace = world.change(leader, Change::Promote { id: 4, replaces: Some(dead) });
    world.tick(10);
    assert_eq!(world.answer(leader, replace), Some(&Ok(Done::Changed(4))));
    let members = world.core(4).members();
    assert!(!members.contains(dead) && members.voters.contains(&4) && !members.is_joint());
    world.agree();
}

#[test]
fn a_leader_hands_over_before_it_leaves() {
    let mut world = World::new(3);
    let leader = world.elect();
    let refused = world.change(leader, Change::Remove { id: leader });
    world.tick(3);
    assert!(matches!(world.answer(leader, refused), Some(Err(StoreError::MembershipBusy(_)))));
    let heir = world.elect();
    assert_ne!(heir, leader);
    world.cut.insert(leader);
    let removed = world.change(heir, Change::Remove { id: leader });
    world.tick(5);
    assert_eq!(world.answer(heir, removed), Some(&Ok(Done::Changed(leader))));
    assert!(!world.core(heir).members().contains(leader));
    // Nobody listens to it any more, and nobody is disturbed by it; it is told.
    let term = world.core(heir).leadership.term;
    world.cut.clear();
    world.tick(40);
    assert_eq!(world.core(heir).leadership.term, term);
    assert!(world.removed.contains(&leader));
}

#[test]
fn a_removed_follower_stops() {
    let mut world = World::new(3);
    let leader = world.elect();
    let gone = if leader == 3 { 2 } else { 3 };
    world.change(leader, Change::Remove { id: gone });
    world.tick(20);
    assert!(world.removed.contains(&gone), "it did not learn of it");
}

/// Stops a member, and starts it again with what was on its disk.
fn away(world: &mut World, id: u64) -> impl FnOnce() -> Member + use<> {
    let Core { group, applied, .. } = world.members.remove(&id).unwrap().core;
    move || started(id, group.log().clone(), applied)
}

#[test]
fn a_member_that_was_removed_while_away_is_told() {
    for part in ["voter", "learner"] {
        let mut world = World::new(3);
        let leader = world.elect();
        let add = Change::AddLearner { id: 0, contact: contact(4) };
        world.change(leader, add);
        world.settle();
        world.members.insert(4, member(4, &Members::default()));
        world.tick(10);
        let gone = match part {
            "learner" => 4,
            _ if leader == 3 => 2,
            _ => 3,
        };
        let back = away(&mut world, gone);
        world.change(leader, Change::Remove { id: gone });
        world.tick(2);
        assert!(!world.core(leader).members().contains(gone));
        let term = world.core(leader).leadership.term;

        world.members.insert(gone, back());
        world.tick(LEADERLESS as usize + 1);
        assert!(world.removed.contains(&gone), "the {part} waits for ever");
        assert_eq!(world.core(leader).leadership.term, term, "the others are not disturbed");
    }
}

#[test]
fn a_member_that_knows_of_its_removal_does_not_start_again() {
    let mut world = World::new(3);
    let leader = world.elect();
    let gone = if leader == 3 { 2 } else { 3 };
    let log = away(&mut world, gone)().core.group.log().clone();
    world.change(leader, Change::Remove { id: gone });
    world.tick(2);
    // It had applied and saved it, and nothing more.
    let members = world.core(leader).members().clone();
    let position = Position { index: log.last_index(), term: log.hard_state().term };
    let mut core = Core::new(parts(gone, log, Applied { position, members })).unwrap();
    assert_eq!(core.start(&mut Left::default()), Err(StoreError::Removed));
}

#[test]
fn nobody_is_turned_away_by_a_member_that_is_behind() {
    let mut world = World::new(3);
    let leader = world.elect();
    let behind = if leader == 3 { 2 } else { 3 };
    world.cut.insert(behind);
    world.change(leader, Change::AddLearner { id: 0, contact: contact(4) });
    world.settle();
    world.members.insert(4, member(4, &Members::default()));
    world.tick(10);
    assert!(world.core(4).members().contains(4) && !world.core(behind).members().contains(4));

    // The two are alone with each other.
    world.cut = [1, 2, 3].into_iter().filter(|id| *id != behind).collect();
    world.tick(10 * SECOND);
    assert_eq!(world.removed, BTreeSet::new());

    // Nor does a word that is older than what it knows.
    let position = world.core(4).applied.position;
    world.members.get_mut(&4).unwrap().core.step(behind, PeerMessage::Removed { position });
    assert!(!world.core(4).removed);
}

#[test]
fn a_changed_address_is_told() {
    let mut world = World::new(3);
    world.elect();
    let moved = Contact { address: "10.9.9.9:1".into(), ..contact(2) };
    world.members.get_mut(&2).unwrap().core.contact = Some(moved.clone());
    world.tick(15);
    assert_eq!(world.core(3).members().contacts[&2], moved);
}

#[test]
fn an_idle_group_writes_nothing() {
    let mut world = World::new(3);
    world.elect();
    world.tick(20);
    let before: Vec<_> = (world.members.values())
        .map(|member| (member.core.group.log().last_index(), member.core.group.term()))
        .collect();
    world.tick(200);
    let after: Vec<_> = (world.members.values())
        .map(|member| (member.core.group.log().last_index(), member.core.group.term()))
        .collect();
    assert_eq!(before, after);
}
