//! Who comes, who goes, and who is told.

use std::collections::BTreeSet;

use super::*;
use crate::group::FIRST;
use crate::members::Change;
use crate::types::Revision;

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
