//! What must never happen inside the group, whatever callers see of it.

use std::collections::{BTreeMap, BTreeSet};

use raft::eraftpb::{Message, MessageType};

use crate::members::Members;
use crate::types::Leadership;
use crate::wire::peer::PeerMessage;

/// Remembers across all crashes, as nobody in the group can.
#[derive(Default)]
pub(super) struct Oracle {
    /// The digest of the state after each log entry.
    digests: BTreeMap<u64, u128>,
    leaders: BTreeMap<u64, u64>,
    /// By voter and term.
    votes: BTreeMap<(u64, u64), u64>,
    terms: BTreeMap<u64, u64>,
    /// Whose removal somebody has applied.
    removed: BTreeSet<u64>,
}

impl Oracle {
    /// A member has applied the log up to `index`.
    pub(super) fn applied(&mut self, member: u64, index: u64, digest: u128) -> Result<(), String> {
        let known = *self.digests.entry(index).or_insert(digest);
        if known == digest {
            return Ok(());
        }
        Err(format!("member {member} has another state than others after entry {index}"))
    }

    /// A member has applied that these are the members.
    pub(super) fn belong(&mut self, members: &Members) {
        self.removed.extend((1..=members.last_id).filter(|id| members.has_removed(*id)));
    }

    /// A member ends because it was removed.
    pub(super) fn leaves(&self, member: u64) -> Result<(), String> {
        if self.removed.contains(&member) {
            return Ok(());
        }
        Err(format!("member {member} leaves, but nobody has removed it"))
    }

    /// A member says who leads.
    pub(super) fn leads(&mut self, member: u64, leadership: Leadership) -> Result<(), String> {
        if !leadership.is_leader {
            return Ok(());
        }
        let known = *self.leaders.entry(leadership.term).or_insert(member);
        if known == member {
            return Ok(());
        }
        Err(format!("members {known} and {member} both lead in term {}", leadership.term))
    }

    /// A member sends a message: a promise that it must keep for ever.
    pub(super) fn sends(&mut self, from: u64, message: &PeerMessage) -> Result<(), String> {
        let PeerMessage::Raft(message) = message else { return Ok(()) };
        if !is_of_its_own_term(message) {
            return Ok(());
        }
        let newest = self.terms.entry(from).or_default();
        if message.term < *newest {
            return Err(format!("member {from} went back from term {newest} to {}", message.term));
        }
        *newest = message.term;
        let choice = match message.get_msg_type() {
            MessageType::MsgRequestVote => from,
            MessageType::MsgRequestVoteResponse if !message.reject => message.to,
            _ => return Ok(()),
        };
        let known = *self.votes.entry((from, message.term)).or_insert(choice);
        if known == choice {
            return Ok(());
        }
        Err(format!("member {from} votes for {known} and {choice} in term {}", message.term))
    }
}

/// A question before an election names the term that would come, and some
/// messages name none.
fn is_of_its_own_term(message: &Message) -> bool {
    message.term != 0
        && !matches!(
            message.get_msg_type(),
            MessageType::MsgRequestPreVote | MessageType::MsgRequestPreVoteResponse
        )
}
