//! One member's part in the Raft group: `raft` on top of a [`LogStore`].
//!
//! [`Group::turn`] handles one `Ready` in the order that Raft's safety rests
//! on: a leader's messages may go out while its own disk is still writing (a
//! leader counts itself only once it is durable), everybody else's only after
//! entries and hard state are durable; then committed entries come back to be
//! applied. An error from the log leaves the group unusable; the caller must
//! stop the process.
//!
//! Has no clock, no network and no randomness of its own: ticks, messages,
//! campaigns and the seed of its election timeouts come from the caller, so
//! that a simulated world can drive it. A group of one needs no ticks at all:
//! it campaigns once at its start and leads until it ends.

mod storage;

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeV2, Entry, EntryType, HardState, Message, MessageType};
use raft::{Config, INVALID_ID, ProgressState, RawNode, ReadOnlyOption, SnapshotStatus, StateRole};

use crate::log::{LogError, LogStore, Position};
use crate::members::{Members, Proposal, Refusal};
use crate::types::Leadership;
use storage::{RaftLog, logger};

/// Where every group begins. Not zero, so that a new member cannot mistake an
/// empty log for a complete one and always receives a snapshot first.
pub(crate) const FIRST: Position = Position { index: 1, term: 1 };

/// Entries fetched from the log at once.
const MAX_COMMITTED_PER_READY: u64 = 16 << 20;

/// Proposals accepted before the log has taken them.
const MAX_UNCOMMITTED: u64 = 64 << 20;

/// Entries in one message. Above it one entry is one message.
const MAX_MESSAGE_BYTES: u64 = 1 << 20;

/// Messages with entries that a follower has not answered yet.
const MAX_INFLIGHT: usize = 64;

/// Ticks (of 100 ms) between a leader's heartbeats.
const HEARTBEAT_TICKS: usize = 2;

/// Ticks of silence after which a leader gives up and a follower believes that
/// there is none, so that it gives its vote to another.
const ELECTION_TICKS: usize = 7;

/// Ticks of silence after which a follower stands for election: at least and
/// less than. The first of two is at 0.9 s on average, so that half of all
/// losses of a leader last less than a second; a disk or a machine that stalls
/// for half a second costs no leader.
const CAMPAIGN_TICKS: (usize, usize) = (8, 12);

/// A member of the group.
pub(crate) struct Group<L: LogStore> {
    node: RawNode<RaftLog<L>>,
    /// The newest term in which this member led and applied an entry of its
    /// own: from then on it knows all that was ever committed.
    own_term: u64,
    seed: u64,
}

/// What one turn brought.
#[derive(Default)]
pub(crate) struct Progress {
    /// A snapshot that has replaced log and state.
    pub(crate) restored: Option<Position>,
    /// Entries to apply, in order. The caller reports back by
    /// [`Group::applied`].
    pub(crate) committed: Vec<Entry>,
    /// Reads that may be answered as soon as this index is applied.
    pub(crate) reads: Vec<Read>,
}

/// What a turn needs of its caller, in the order it needs it.
pub(crate) trait Turn<L> {
    /// Sends a message; all that it promises is durable.
    fn send(&mut self, message: Message);

    /// A write to the log begins and has ended.
    fn syncing(&mut self) {}
    fn synced(&mut self) {}

    /// Replaces state and log by the received snapshot at `position`, durably:
    /// a crash in between leaves one or the other as a whole.
    fn restore(
        &mut self,
        log: &mut L,
        position: Position,
        hard_state: &HardState,
    ) -> Result<Members, LogError>;
}

/// An answer to [`Group::read_index`].
pub(crate) struct Read {
    pub(crate) index: u64,
    pub(crate) context: Vec<u8>,
}

/// What a committed change of members came to.
pub(crate) struct Changed {
    pub(crate) members: Members,
    /// None when Raft itself ended a change.
    pub(crate) proposal: Option<Proposal>,
    pub(crate) refused: Option<Refusal>,
}

/// Why a proposal was not taken.
#[derive(Debug, thiserror::Error)]
#[error("the proposal was dropped: {0}")]
pub(crate) struct Dropped(String);

impl<L: LogStore> Group<L> {
    /// Member `id` with its log and what it has applied so far (not more than
    /// the log holds).
    pub(crate) fn new(
        id: u64,
        log: L,
        applied: u64,
        members: &Members,
        seed: u64,
    ) -> Result<Self, LogError> {
        let config = Config {
            id,
            applied,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            min_election_tick: CAMPAIGN_TICKS.0,
            max_election_tick: CAMPAIGN_TICKS.1,
            check_quorum: true,
            pre_vote: true,
            max_size_per_msg: MAX_MESSAGE_BYTES,
            max_inflight_msgs: MAX_INFLIGHT,
            max_uncommitted_size: MAX_UNCOMMITTED,
            max_committed_size_per_ready: MAX_COMMITTED_PER_READY,
            read_only_option: ReadOnlyOption::Safe,
            ..Config::default()
        };
        let log = RaftLog { log, members: members.clone(), applied };
        let node = RawNode::new(&config, log, &logger())
            .map_err(|error| LogError::Damaged(format!("Raft refuses it: {error}")))?;
        let mut group = Self { node, own_term: 0, seed };
        group.settle_timeout();
        Ok(group)
    }

    /// Stands for election at once.
    pub(crate) fn campaign(&mut self) -> Result<(), LogError> {
        let result = self.node.campaign();
        self.settle_timeout();
        result.map_err(|error| LogError::Damaged(format!("cannot campaign: {error}")))
    }

    /// Time passes.
    pub(crate) fn tick(&mut self) {
        self.node.tick();
        self.settle_timeout();
    }

    /// Takes a message from another member.
    pub(crate) fn step(&mut self, message: Message) {
        // Messages of members that have left, or to terms that are over, are
        // refused here. They need no answer.
        if let Err(error) = self.node.step(message) {
            tracing::debug!(%error, "a message was not taken");
        }
        self.settle_timeout();
    }

    /// Raft draws a new election timeout whenever its role or term changes, by
    /// a random number of its own. It is replaced by one that follows from
    /// seed, member and term, so that a run can be repeated.
    fn settle_timeout(&mut self) {
        let raft = &mut self.node.raft;
        let mixed = [raft.id, raft.term]
            .into_iter()
            .fold(self.seed, |hash, part| (hash ^ part).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let span = (CAMPAIGN_TICKS.1 - CAMPAIGN_TICKS.0) as u64;
        let ticks = CAMPAIGN_TICKS.0 + ((mixed >> 32) % span) as usize;
        raft.set_randomized_election_timeout(ticks);
    }

    /// Offers an entry to the group. Only a leader takes it.
    pub(crate) fn propose(&mut self, data: Bytes) -> Result<(), Dropped> {
        self.offer(Entry { data, ..Entry::default() })
    }

    /// Offers a change of members. Only a leader takes it, and only one at a
    /// time.
    pub(crate) fn propose_change(
        &mut self,
        proposal: &Proposal,
        change: &ConfChangeV2,
    ) -> Result<(), Dropped> {
        if self.node.raft.has_pending_conf() {
            return Err(Dropped("another change of members is under way".into()));
        }
        let data = change.write_to_bytes().map_err(|error| Dropped(error.to_string()))?;
        let mut entry =
            Entry { data: data.into(), context: proposal.encode().into(), ..Entry::default() };
        entry.set_entry_type(EntryType::EntryConfChangeV2);
        self.offer(entry)
    }

    fn offer(&mut self, entry: Entry) -> Result<(), Dropped> {
        if !self.is_raft_leader() {
            // Raft would forward it itself, and nobody could tell whether it
            // was lost.
            return Err(Dropped("this member does not lead".into()));
        }
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.node.raft.id;
        message.set_entries(vec![entry].into());
        self.node.raft.step(message).map_err(|error| Dropped(error.to_string()))
    }

    /// Asks from which index on a read is current. Raft drops the question
    /// silently while there is no leader that has committed in its term, so
    /// the caller retries.
    pub(crate) fn read_index(&mut self, context: Vec<u8>) {
        self.node.read_index(context);
    }

    /// Whether [`Group::turn`] has something to do.
    pub(crate) fn has_turn(&self) -> bool {
        self.node.has_ready()
    }

    /// Handles one `Ready`.
    pub(crate) fn turn(&mut self, caller: &mut impl Turn<L>) -> Result<Progress, LogError> {
        let mut progress = Progress::default();
        let mut ready = self.node.ready();

        // 1. A leader's messages promise nothing about its own disk.
        ready.take_messages().into_iter().for_each(|message| caller.send(message));

        // 2. What the log must remember is durable before anything else
        //    happens. A commit index that moved alone is no such thing.
        let hard_state = self.node.raft.hard_state();
        if !ready.snapshot().is_empty() {
            let metadata = ready.snapshot().get_metadata();
            let position = Position { index: metadata.index, term: metadata.term };
            let store = self.node.mut_store();
            store.members = caller.restore(&mut store.log, position, &hard_state)?;
            progress.restored = Some(position);
        }
        if ready.must_sync() {
            caller.syncing();
            self.node.mut_store().log.append(ready.entries(), &hard_state)?;
            caller.synced();
        }

        // 3. Now messages may promise it.
        ready.take_persisted_messages().into_iter().for_each(|message| caller.send(message));
        progress.reads = ready
            .take_read_states()
            .into_iter()
            .map(|read| Read { index: read.index, context: read.request_ctx })
            .collect();

        // 4. What was committed before, then what this write committed. The
        //    new commit index reaches the disk with the next write; it can
        //    always be found again.
        progress.committed = ready.take_committed_entries();
        let mut light = self.node.advance_append(ready);
        light.take_messages().into_iter().for_each(|message| caller.send(message));
        progress.committed.extend(light.take_committed_entries());
        Ok(progress)
    }

    /// Notes that everything up to `index` has been applied.
    pub(crate) fn applied(&mut self, index: u64) {
        self.node.mut_store().applied = index;
        self.node.advance_apply_to(index);
        let term = self.node.raft.term;
        if self.is_raft_leader()
            && self.own_term != term
            && self.node.store().log.term(index).is_ok_and(|applied| applied == term)
        {
            self.own_term = term;
        }
    }

    /// Applies a change of membership that came back as a committed entry.
    pub(crate) fn change_members(&mut self, entry: &Entry) -> Result<Changed, LogError> {
        let damaged = |error: &dyn std::fmt::Display| {
            LogError::Damaged(format!("entry {}: membership change: {error}", entry.index))
        };
        if entry.get_entry_type() != EntryType::EntryConfChangeV2 {
            return Err(damaged(&"not of a kind that this program writes"));
        }
        let members = self.node.store().members.clone();
        let (proposal, change) = if entry.context.is_empty() {
            (None, ConfChangeV2::default())
        } else {
            let proposal = Proposal::decode(&entry.context).map_err(|error| damaged(&error))?;
            // The plan is made anew from our own record: what lies in the
            // entry for Raft may have come from another machine. All members
            // plan from the same state, so all refuse it or none.
            match members.plan(proposal.change.clone()) {
                Ok((_, change)) => (Some(proposal), change),
                Err(refusal) => {
                    let proposal = Some(proposal);
                    return Ok(Changed { members, proposal, refused: Some(refusal) });
                }
            }
        };
        let conf = self.node.apply_conf_change(&change).map_err(|error| damaged(&error))?;
        let members = members.follow(&conf, proposal.as_ref().map(|proposal| &proposal.change));
        self.node.mut_store().members = members.clone();
        self.settle_timeout();
        Ok(Changed { members, proposal, refused: None })
    }

    /// Who leads, as far as this member knows.
    pub(crate) fn leadership(&self) -> Leadership {
        let raft = &self.node.raft;
        Leadership {
            term: raft.term,
            leader: Some(raft.leader_id).filter(|id| *id != INVALID_ID),
            is_leader: self.is_raft_leader() && self.own_term == raft.term,
        }
    }

    /// Whether Raft leads here, even if nothing has been committed in its term
    /// yet.
    pub(crate) fn is_raft_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// The Raft term.
    pub(crate) fn term(&self) -> u64 {
        self.node.raft.term
    }

    /// What is known to be committed.
    pub(crate) fn committed(&self) -> u64 {
        self.node.raft.raft_log.committed
    }

    /// How far each other member has come, as a leader sees it: id, last
    /// matching index, whether it has been heard of lately.
    pub(crate) fn followers(&self) -> Vec<(u64, u64, bool)> {
        if !self.is_raft_leader() {
            return Vec::new();
        }
        let own = self.node.raft.id;
        let mut followers: Vec<_> = (self.node.raft.prs().iter())
            .filter(|(id, _)| **id != own)
            .map(|(id, progress)| (*id, progress.matched, progress.recent_active))
            .collect();
        followers.sort_unstable();
        followers
    }

    /// Whether a leader waits for `id` to take a snapshot.
    pub(crate) fn is_sending_snapshot(&self, id: u64) -> bool {
        self.is_raft_leader()
            && (self.node.raft.prs().get(id))
                .is_some_and(|progress| progress.state == ProgressState::Snapshot)
    }

    /// The snapshot for `id` did not arrive; Raft makes another.
    pub(crate) fn snapshot_failed(&mut self, id: u64) {
        self.node.report_snapshot(id, SnapshotStatus::Failure);
    }

    /// Messages to `id` are being lost.
    pub(crate) fn unreachable(&mut self, id: u64) {
        self.node.report_unreachable(id);
    }

    /// Hands the leadership to `id`.
    pub(crate) fn transfer_to(&mut self, id: u64) {
        self.node.transfer_leader(id);
        self.settle_timeout();
    }

    /// Forgets log entries that a durable snapshot covers.
    pub(crate) fn truncate(&mut self, to: Position) -> Result<(), LogError> {
        self.node.mut_store().log.truncate(to)
    }

    /// The log, for its numbers.
    pub(crate) fn log(&self) -> &L {
        &self.node.store().log
    }

    /// Ends in peace.
    pub(crate) fn close(&mut self) -> Result<(), LogError> {
        self.node.mut_store().log.close()
    }
}
