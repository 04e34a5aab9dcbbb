//! Who belongs to the group: part of the applied state, changed by the log.
//!
//! The same five fields that Raft's joint consensus knows, in our own type, so
//! that they can be written to disk with our own codec.

use raft::eraftpb::ConfState;

use crate::wire::{Reader, WireError, put_u32, put_u64};

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
}

impl Members {
    /// A group of one.
    pub(crate) fn single(id: u64) -> Self {
        Self { voters: vec![id], ..Self::default() }
    }

    /// Whether one voter decides alone and no change of that is under way.
    pub(crate) fn is_single(&self) -> bool {
        self.voters.len() == 1 && self.voters_outgoing.is_empty()
    }

    /// Appends the members to a record.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        for ids in [&self.voters, &self.learners, &self.voters_outgoing, &self.learners_next] {
            put_u32(out, ids.len() as u32);
            ids.iter().for_each(|id| put_u64(out, *id));
        }
        out.push(u8::from(self.auto_leave));
    }

    /// Reads the members from a record.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let mut ids = || -> Result<Vec<u64>, WireError> {
            (0..reader.count()?).map(|_| reader.u64()).collect()
        };
        let (voters, learners, voters_outgoing, learners_next) = (ids()?, ids()?, ids()?, ids()?);
        Ok(Self { voters, learners, voters_outgoing, learners_next, auto_leave: reader.flag()? })
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
        }
    }
}
