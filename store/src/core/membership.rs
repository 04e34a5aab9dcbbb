//! Changes of the group: applied when they come back in the log, and the few
//! that a member wants by itself.
//!
//! A member whose address is not the one the group knows says so. The leader
//! makes a learner that joined to vote into a voter as soon as it has caught
//! up, so that a new voter never makes writes wait for a long catch-up. A
//! leader that is to be removed hands its leadership over first.
//!
//! Who was removed while it was away, or unreachable, is in no leader's mind any
//! more. So a member that has not heard a leader for a while knocks at those it
//! knows, and whoever has applied its removal says so. A member that is behind
//! knows neither a new member nor its id, and says nothing.

use std::sync::Arc;

use raft::eraftpb::{ConfChangeV2, Entry};

use super::{Core, Done, LEADERLESS, Ticket, fatal};
use crate::log::{LogStore, Position};
use crate::members::{Change, Members, Proposal, Refusal};
#[cfg(test)]
use crate::sim::planted::{Fault, is_planted};
use crate::types::StoreError;
use crate::wire::peer::PeerMessage;

/// Log entries that a learner may lack to count as caught up.
const CAUGHT_UP: u64 = 64;

/// Ticks between two changes that a member wants by itself.
const HOUSEKEEPING_TICKS: u64 = 10;

impl<L: LogStore> Core<L> {
    /// Proposes a change that this leader, or another member, has encoded.
    pub(super) fn propose_change(&mut self, data: &[u8]) -> Result<(), Refusal> {
        let Proposal { origin, seq, change } =
            Proposal::decode(data).map_err(|error| error.to_string())?;
        if change == (Change::Remove { id: self.member })
            || matches!(change, Change::Promote { replaces: Some(id), .. } if id == self.member)
        {
            let heir = self.heir();
            let heir = heir.ok_or("no other voter is up to date to take over".to_owned())?;
            self.group.transfer_to(heir);
            let leader = self.member;
            return Err(Refusal::for_now(format!(
                "member {leader} leads and hands over to member {heir}"
            )));
        }
        let (change, plan): (Change, ConfChangeV2) = self.applied.members.plan(change)?;
        self.group
            .propose_change(&Proposal { origin, seq, change }, &plan)
            .map_err(|dropped| Refusal::for_now(dropped.to_string()))
    }

    /// The voter that has come farthest of those heard of lately.
    fn heir(&self) -> Option<u64> {
        let voters = &self.applied.members.voters;
        let followers = self.group.followers().into_iter();
        let candidates = followers.filter(|(id, _, active)| *active && voters.contains(id));
        candidates.max_by_key(|(_, matched, _)| *matched).map(|(id, ..)| id)
    }

    /// Hands the leadership over, if this member leads and another can.
    pub(crate) fn hand_over(&mut self) {
        if self.group.is_raft_leader()
            && let Some(heir) = self.heir()
        {
            self.group.transfer_to(heir);
        }
    }

    /// Applies a change that came back in the log.
    pub(super) fn apply_change(
        &mut self,
        entry: &Entry,
        answers: &mut Vec<(Ticket, Result<Done, StoreError>)>,
    ) -> Result<(), StoreError> {
        let changed = self.group.change_members(entry).map_err(fatal)?;
        self.applied.members = Arc::new(changed.members);
        if let Some(Proposal { origin, seq, change }) = changed.proposal {
            let answer = match changed.refused {
                None => Ok(Done::Changed(change.member())),
                Some(refusal) => Err(StoreError::from(refusal)),
            };
            match &answer {
                Ok(_) => tracing::info!(?change, "the group has changed"),
                Err(why) => tracing::info!(?change, %why, "the group has not changed"),
            }
            for ticket in self.proposals.committed(origin, seq) {
                answers.push((ticket, answer.clone()));
            }
        }
        self.removed |= self.members().has_removed(self.member);
        Ok(())
    }

    /// Asks the others whether this member still belongs to them, each time
    /// that it has heard no leader for a while.
    pub(super) fn knock(&mut self) {
        let silent = self.ticks - self.heard;
        if self.leadership.is_leader || silent == 0 || !silent.is_multiple_of(LEADERLESS) {
            return;
        }
        let others = self.members().ids().into_iter().filter(|id| *id != self.member);
        let knocks: Vec<_> = others.map(|id| (id, PeerMessage::Knock)).collect();
        self.outbox.extend(knocks);
    }

    /// Another member asks whether it still belongs to the group.
    pub(super) fn knocked(&mut self, from: u64) {
        let removed = self.members().has_removed(from);
        #[cfg(test)]
        let removed = removed
            || is_planted(Fault::TurnAwayLearners) && !self.members().voters.contains(&from);
        if removed {
            let position = self.applied.position;
            self.outbox.push((from, PeerMessage::Removed { position }));
        }
    }

    /// Another member has applied the removal of this one.
    pub(super) fn turned_away(&mut self, from: u64, position: Position) {
        // What this member has applied itself says the opposite.
        if position.index <= self.applied.position.index {
            return;
        }
        tracing::info!(by = from, index = position.index, "told of this member's removal");
        self.removed = true;
    }

    /// Who belongs to the group.
    pub(crate) fn members(&self) -> &Arc<Members> {
        &self.applied.members
    }

    /// The change that this member wants by itself, if any.
    fn wish(&self) -> Option<Change> {
        let members = self.members();
        if members.is_joint() || self.leadership.leader.is_none() {
            return None;
        }
        if let Some(contact) = &self.contact
            && members.contains(self.member)
        {
            let known = members.contacts.get(&self.member);
            let promote = known.is_some_and(|known| known.promote);
            let contact = crate::members::Contact { promote, ..contact.clone() };
            if known != Some(&contact) {
                return Some(Change::Contact { id: self.member, contact });
            }
        }
        if !self.leadership.is_leader {
            return None;
        }
        let last = self.group.log().last_index();
        self.group.followers().into_iter().find_map(|(id, matched, active)| {
            let wanted = members.learners.contains(&id)
                && members.contacts.get(&id).is_some_and(|contact| contact.promote);
            // Raft takes a new member for alive before it was ever heard of.
            let answers = active && matched > 0;
            (wanted && answers && matched + CAUGHT_UP >= last)
                .then_some(Change::Promote { id, replaces: None })
        })
    }

    /// Whether there is something to do with the next tick.
    pub(super) fn wants_housekeeping(&self) -> bool {
        self.wish().is_some()
    }

    /// Proposes what this member wants by itself.
    pub(super) fn keep_house(&mut self) {
        if self.housekept.is_some_and(|at| self.ticks < at + HOUSEKEEPING_TICKS) {
            return;
        }
        if let Some(change) = self.wish() {
            self.housekept = Some(self.ticks);
            self.change(None, change);
        }
    }
}
