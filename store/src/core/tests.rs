//! Groups of cores without a clock, a network or a disk.

mod membership;
mod world;

use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;
use crate::group::FIRST;
use crate::types::Revision;
use world::*;

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
