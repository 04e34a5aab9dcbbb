//! Who belongs to the group: part of the applied state, changed by the log.
//!
//! The same five fields that Raft's joint consensus knows, in our own type, so
//! that they can be written to disk with our own codec; beside them where each
//! member is found. Ids are given out by the group and never again, so that a
//! member that lost its disk cannot come back and vote twice.
//!
//! [`Members::plan`] decides whether a [`Change`] may be proposed,
//! [`Members::follow`] what a committed one leaves behind. Both are pure.

use std::collections::BTreeMap;

use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState};

use crate::types::StoreError;
use crate::wire::{self, Kind, Reader, WireError, put_bytes, put_u32, put_u64};

/// More voters only make each write wait for more disks.
pub(crate) const MAX_VOTERS: usize = 5;

/// Where a member is found, and what it calls itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contact {
    /// `HOST:PORT` that its peers dial.
    pub address: String,
    /// A name for people, such as the host's.
    pub name: String,
    /// The leader makes it a voter as soon as it has caught up.
    pub promote: bool,
}

/// The members of the group at one place of the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Members {
    pub(crate) voters: Vec<u64>,
    pub(crate) learners: Vec<u64>,
    /// Voters of the outgoing configuration while a change is under way.
    pub(crate) voters_outgoing: Vec<u64>,
    /// Voters that become learners when the change is over.
    pub(crate) learners_next: Vec<u64>,
    /// Raft leaves the joint configuration by itself.
    pub(crate) auto_leave: bool,
    /// Tells this group from one that a lost quorum left behind. Drawn anew
    /// when a member begins a group of one by force.
    pub(crate) group: u64,
    /// The highest id ever given out.
    pub(crate) last_id: u64,
    /// Where members are found, as far as they have said so.
    pub(crate) contacts: BTreeMap<u64, Contact>,
}

/// What can be changed about the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Adds a member that receives everything and decides nothing.
    AddLearner {
        /// Zero: the leader gives out the next one.
        id: u64,
        /// Where it is found.
        contact: Contact,
    },
    /// Makes a learner a voter; in the same step, if asked, `replaces` leaves.
    Promote {
        /// The learner.
        id: u64,
        /// The voter that leaves.
        replaces: Option<u64>,
    },
    /// Removes a member for good.
    Remove {
        /// Who leaves.
        id: u64,
    },
    /// Notes where a member is found from now on.
    Contact {
        /// Whose address it is.
        id: u64,
        /// The new one.
        contact: Contact,
    },
}

/// A [`Change`] on its way: the content of one log entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proposal {
    /// See [`wire::Batch`].
    pub(crate) origin: u64,
    pub(crate) seq: u64,
    pub(crate) change: Change,
}

impl Change {
    /// The member it is about; zero for one that has no id yet.
    pub(crate) fn member(&self) -> u64 {
        match self {
            Self::AddLearner { id, .. }
            | Self::Promote { id, .. }
            | Self::Remove { id }
            | Self::Contact { id, .. } => *id,
        }
    }
}

/// Why a change of members is not proposed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) why: String,
    /// The same change may do a little later.
    pub(crate) passing: bool,
}

impl Refusal {
    /// Something else has to end first.
    pub(crate) fn for_now(why: impl Into<String>) -> Self {
        Self { why: why.into(), passing: true }
    }
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self { why, passing: false }
    }
}

impl From<Refusal> for StoreError {
    fn from(Refusal { why, passing }: Refusal) -> Self {
        if passing { Self::MembershipBusy(why) } else { Self::Membership(why) }
    }
}

impl Members {
    /// A group of one.
    pub(crate) fn single(id: u64) -> Self {
        Self { voters: vec![id], last_id: id, ..Self::default() }
    }

    /// Whether one voter decides alone and no change of that is under way.
    pub(crate) fn is_single(&self) -> bool {
        self.voters.len() == 1 && self.voters_outgoing.is_empty()
    }

    /// Whether a change of voters has been applied by half.
    pub(crate) fn is_joint(&self) -> bool {
        !self.voters_outgoing.is_empty()
    }

    /// Everybody, once each.
    pub(crate) fn ids(&self) -> Vec<u64> {
        let lists = [&self.voters, &self.learners, &self.voters_outgoing, &self.learners_next];
        let mut ids: Vec<u64> = lists.into_iter().flatten().copied().collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Whether `id` belongs to the group.
    pub(crate) fn contains(&self, id: u64) -> bool {
        self.ids().binary_search(&id).is_ok()
    }

    /// Whether `id` belonged to the group and does no more. A group that has
    /// not learned of a new member yet has not given out its id either.
    pub(crate) fn has_removed(&self, id: u64) -> bool {
        id <= self.last_id && !self.contains(id)
    }

    /// What Raft must be told for `change`, with a new member's id filled in;
    /// or why it may not be.
    pub(crate) fn plan(&self, change: Change) -> Result<(Change, ConfChangeV2), Refusal> {
        if self.is_joint() {
            return Err(Refusal::for_now("another change is under way"));
        }
        let voter = |id: u64| self.voters.contains(&id);
        let learner = |id: u64| self.learners.contains(&id);
        let known = |id: u64| {
            if voter(id) || learner(id) { Ok(()) } else { Err(format!("there is no member {id}")) }
        };
        let (change, steps) = match change {
            Change::AddLearner { contact, .. } => {
                if let Some((id, _)) =
                    self.contacts.iter().find(|(_, other)| other.address == contact.address)
                {
                    let at = contact.address;
                    return Err(format!("member {id} is at {at} already; remove it first").into());
                }
                let id = self.last_id.max(self.ids().last().copied().unwrap_or(0)) + 1;
                let step = (ConfChangeType::AddLearnerNode, id);
                (Change::AddLearner { id, contact }, vec![step])
            }
            Change::Promote { id, replaces } => {
                known(id)?;
                if voter(id) {
                    return Err(format!("member {id} is a voter already").into());
                }
                let mut steps = vec![(ConfChangeType::AddNode, id)];
                if let Some(old) = replaces {
                    if !voter(old) {
                        return Err(format!("there is no voter {old}").into());
                    }
                    steps.push((ConfChangeType::RemoveNode, old));
                } else if self.voters.len() >= MAX_VOTERS {
                    return Err(format!("the group has {MAX_VOTERS} voters already").into());
                }
                (change, steps)
            }
            Change::Remove { id } => {
                known(id)?;
                if self.voters == [id] {
                    return Err(format!("member {id} is the only voter").into());
                }
                (change, vec![(ConfChangeType::RemoveNode, id)])
            }
            // Raft takes a member in the part that it already has as no change.
            Change::Contact { id, .. } => {
                known(id)?;
                let same = if voter(id) {
                    ConfChangeType::AddNode
                } else {
                    ConfChangeType::AddLearnerNode
                };
                (change, vec![(same, id)])
            }
        };
        let steps: Vec<_> = steps
            .into_iter()
            .map(|(kind, node_id)| {
                let mut step = ConfChangeSingle { node_id, ..ConfChangeSingle::default() };
                step.set_change_type(kind);
                step
            })
            .collect();
        let mut conf_change = ConfChangeV2::default();
        conf_change.set_changes(steps.into());
        Ok((change, conf_change))
    }

    /// The members after Raft has changed its configuration to `conf` because
    /// of `change`; `None` when it only left a joint configuration.
    pub(crate) fn follow(&self, conf: &ConfState, change: Option<&Change>) -> Self {
        let mut members = Self {
            group: self.group,
            last_id: self.last_id,
            contacts: self.contacts.clone(),
            ..Self::from(conf)
        };
        match change {
            Some(Change::AddLearner { id, contact } | Change::Contact { id, contact }) => {
                members.contacts.insert(*id, contact.clone());
            }
            Some(Change::Promote { id, .. }) => {
                if let Some(contact) = members.contacts.get_mut(id) {
                    contact.promote = false;
                }
            }
            Some(Change::Remove { .. }) | None => {}
        }
        let ids = members.ids();
        members.contacts.retain(|id, _| ids.binary_search(id).is_ok());
        members.last_id = members.last_id.max(ids.last().copied().unwrap_or(0));
        members
    }

    /// Appends the members to a record. What only groups with addresses have
    /// is written only for those.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        for ids in [&self.voters, &self.learners, &self.voters_outgoing, &self.learners_next] {
            put_u32(out, ids.len() as u32);
            ids.iter().for_each(|id| put_u64(out, *id));
        }
        let highest = self.ids().last().copied().unwrap_or(0);
        let more = !self.contacts.is_empty() || self.group != 0 || self.last_id > highest;
        out.push(u8::from(self.auto_leave) | if more { MORE } else { 0 });
        if more {
            put_u64(out, self.group);
            put_u64(out, self.last_id);
            put_u32(out, self.contacts.len() as u32);
            for (id, contact) in &self.contacts {
                put_u64(out, *id);
                contact.encode(out);
            }
        }
    }

    /// Reads the members from a record.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let mut ids = || -> Result<Vec<u64>, WireError> {
            (0..reader.count()?).map(|_| reader.u64()).collect()
        };
        let (voters, learners, voters_outgoing, learners_next) = (ids()?, ids()?, ids()?, ids()?);
        let flags = reader.u8()?;
        if flags > MORE | 1 {
            return Err(WireError::Nonsense("unknown flags of members"));
        }
        let auto_leave = flags & 1 != 0;
        let mut members = Self {
            voters,
            learners,
            voters_outgoing,
            learners_next,
            auto_leave,
            ..Self::default()
        };
        members.last_id = members.ids().last().copied().unwrap_or(0);
        if flags & MORE != 0 {
            members.group = reader.u64()?;
            members.last_id = reader.u64()?;
            for _ in 0..reader.count()? {
                members.contacts.insert(reader.u64()?, Contact::decode(reader)?);
            }
        }
        Ok(members)
    }
}

/// The flag that group, last id and contacts follow.
const MORE: u8 = 2;

impl Contact {
    /// Appends the contact to a record.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.address.as_bytes());
        put_bytes(out, self.name.as_bytes());
        out.push(u8::from(self.promote));
    }

    /// Reads a contact from a record.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let (address, name) = (reader.text()?, reader.text()?);
        Ok(Self { address, name, promote: reader.flag()? })
    }
}

impl Proposal {
    /// Frames the proposal as the context of a log entry.
    pub(crate) fn encode(&self) -> Vec<u8> {
        wire::frame(Kind::Change, |out| {
            put_u64(out, self.origin);
            put_u64(out, self.seq);
            let (tag, id) = match &self.change {
                Change::AddLearner { id, .. } => (1, id),
                Change::Promote { id, .. } => (2, id),
                Change::Remove { id } => (3, id),
                Change::Contact { id, .. } => (4, id),
            };
            out.push(tag);
            put_u64(out, *id);
            match &self.change {
                Change::AddLearner { contact, .. } | Change::Contact { contact, .. } => {
                    contact.encode(out);
                }
                Change::Promote { replaces, .. } => put_u64(out, replaces.unwrap_or(0)),
                Change::Remove { .. } => {}
            }
        })
    }

    /// Reads what [`Proposal::encode`] wrote.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = wire::open_frame(Kind::Change, bytes)?;
        let (origin, seq) = (reader.u64()?, reader.u64()?);
        let (tag, id) = (reader.u8()?, reader.u64()?);
        let change = match tag {
            1 => Change::AddLearner { id, contact: Contact::decode(&mut reader)? },
            2 => Change::Promote { id, replaces: Some(reader.u64()?).filter(|id| *id != 0) },
            3 => Change::Remove { id },
            4 => Change::Contact { id, contact: Contact::decode(&mut reader)? },
            _ => return Err(WireError::Nonsense("unknown change of members")),
        };
        reader.end()?;
        Ok(Self { origin, seq, change })
    }
}

impl From<&Members> for ConfState {
    fn from(members: &Members) -> Self {
        let mut conf = ConfState::default();
        conf.set_voters(members.voters.clone());
        conf.set_learners(members.learners.clone());
        conf.set_voters_outgoing(members.voters_outgoing.clone());
        conf.set_learners_next(members.learners_next.clone());
        conf.set_auto_leave(members.auto_leave);
        conf
    }
}

impl From<&ConfState> for Members {
    fn from(conf: &ConfState) -> Self {
        Self {
            voters: conf.get_voters().to_vec(),
            learners: conf.get_learners().to_vec(),
            voters_outgoing: conf.get_voters_outgoing().to_vec(),
            learners_next: conf.get_learners_next().to_vec(),
            auto_leave: conf.get_auto_leave(),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contact(address: &str) -> Contact {
        Contact { address: address.into(), name: "m".into(), promote: true }
    }

    fn three() -> Members {
        Members {
            voters: vec![1, 2, 3],
            learners: vec![5],
            last_id: 7,
            contacts: [(1, contact("a:1")), (5, contact("e:1"))].into(),
            ..Members::default()
        }
    }

    #[test]
    fn changes_are_planned_or_refused() {
        let add = |address: &str| Change::AddLearner { id: 0, contact: contact(address) };
        let five = Members { voters: vec![1, 2, 3, 4, 6], ..three() };
        let joint = Members { voters_outgoing: vec![1, 2], ..three() };
        let cases = [
            ("ids are never used again", three(), add("n:1"), Ok((8, 1))),
            (
                "an address is used once",
                three(),
                add("a:1"),
                Err("member 1 is at a:1 already; remove it first"),
            ),
            ("promote", three(), Change::Promote { id: 5, replaces: None }, Ok((5, 1))),
            ("replace", three(), Change::Promote { id: 5, replaces: Some(2) }, Ok((5, 2))),
            (
                "replace nobody",
                three(),
                Change::Promote { id: 5, replaces: Some(9) },
                Err("there is no voter 9"),
            ),
            (
                "promote a voter",
                three(),
                Change::Promote { id: 2, replaces: None },
                Err("member 2 is a voter already"),
            ),
            (
                "promote nobody",
                three(),
                Change::Promote { id: 4, replaces: None },
                Err("there is no member 4"),
            ),
            (
                "a sixth voter",
                five.clone(),
                Change::Promote { id: 5, replaces: None },
                Err("the group has 5 voters already"),
            ),
            ("replace in five", five, Change::Promote { id: 5, replaces: Some(1) }, Ok((5, 2))),
            ("remove", three(), Change::Remove { id: 3 }, Ok((3, 1))),
            (
                "remove the last",
                Members::single(1),
                Change::Remove { id: 1 },
                Err("member 1 is the only voter"),
            ),
            ("two at once", joint, Change::Remove { id: 3 }, Err("another change is under way")),
        ];
        for (name, members, change, expected) in cases {
            let observed = members
                .plan(change)
                .map(|(change, conf)| (change.member(), conf.get_changes().len()));
            let passing = name == "two at once";
            let refusal = |why: &str| Refusal { why: why.to_owned(), passing };
            assert_eq!(observed, expected.map_err(refusal), "{name}");
        }
    }

    #[test]
    fn only_who_was_a_member_is_removed() {
        let cases = [
            ("a voter", 3, false),
            ("a learner", 5, false),
            ("one that left", 4, true),
            ("the last id ever given out", 7, true),
            ("one whose addition is still on its way", 8, false),
        ];
        for (name, id, expected) in cases {
            assert_eq!(three().has_removed(id), expected, "{name}");
        }
        let leaving = Members { voters_outgoing: vec![1, 2, 3, 4], ..three() };
        assert!(!leaving.has_removed(4), "half of a change is not enough");
        assert!(!Members::default().has_removed(2), "it knows nobody yet");
    }

    #[test]
    fn contacts_follow_their_members() {
        let members = three();
        let mut conf = ConfState::from(&members);
        let (change, _) = members.plan(Change::Promote { id: 5, replaces: Some(1) }).unwrap();
        conf.set_voters(vec![2, 3, 5]);
        conf.set_learners(vec![]);
        let after = members.follow(&conf, Some(&change));
        assert_eq!(after.contacts.keys().collect::<Vec<_>>(), [&5]);
        assert!(!after.contacts[&5].promote);
        assert_eq!(after.last_id, 7);
    }

    #[test]
    fn members_and_changes_come_back_as_they_went() {
        for members in [Members::single(1), three(), Members { group: 9, ..Members::single(4) }] {
            let bytes = wire::frame(Kind::Bootstrap, |out| members.encode(out));
            let mut reader = wire::open_frame(Kind::Bootstrap, &bytes).unwrap();
            assert_eq!(Members::decode(&mut reader).unwrap(), members);
        }
        let changes = [
            Change::AddLearner { id: 4, contact: contact("n:1") },
            Change::Promote { id: 4, replaces: Some(2) },
            Change::Promote { id: 4, replaces: None },
            Change::Remove { id: 2 },
            Change::Contact { id: 1, contact: contact("x:2") },
        ];
        for change in changes {
            let proposal = Proposal { origin: 3, seq: 4, change };
            assert_eq!(Proposal::decode(&proposal.encode()), Ok(proposal));
        }
    }
}
