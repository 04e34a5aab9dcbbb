//! A lost quorum: one member begins a new group with what it holds.
//!
//! Everything in its log counts, committed or not: what was acknowledged and
//! reached this member is in there, and nobody can tell the rest apart any more.
//! Changes of members do not count. The outcome is written as a received
//! snapshot with the new group in it, so that a crash in between leaves the old
//! group or the new one.
//!
//! The new group has a number of its own: a member of the old one that is
//! started by mistake is not listened to.

use std::path::Path;
use std::sync::Arc;

use raft::eraftpb::EntryType;

use super::{adopt_received, disk, load_snapshot, load_tree, log_failure};
use crate::core::apply_txn;
use crate::log::engine::EngineLog;
use crate::log::{LogStore, Position};
use crate::machine::Machine;
use crate::members::Members;
use crate::sealing::Sealer;
use crate::snapshot_file;
use crate::state::Meta;
use crate::state::tree::TreeState;
use crate::types::StoreError;
use crate::view::Applied;
use crate::wire;

/// Entries replayed at once.
const PAGE: u64 = 1024;

/// Makes `member` the only one of a new group.
pub(super) fn begin_group(
    dir: &Path,
    member: u64,
    bootstrap: &Members,
    log: &mut EngineLog,
    sealer: &Arc<Sealer>,
) -> Result<(), StoreError> {
    let snapshots = dir.join("snapshot");
    let mut tree = TreeState::new(&dir.join("state"), sealer.clone());
    let loaded = match load_tree(&mut tree, log)? {
        Some(loaded) => loaded,
        None => load_snapshot(&snapshots, log, bootstrap.clone(), sealer)?,
    };
    let old = loaded.applied.members.clone();
    if !old.contains(member) {
        return Err(StoreError::Membership(format!(
            "member {member} has not received anything of its group yet; use another member"
        )));
    }
    let (mut machine, mut position) = (loaded.machine, loaded.applied.position);
    replay(log, sealer, &mut machine, &mut position)?;

    let mut members = Members::single(member);
    // Never zero, and never the old one.
    members.group = old.group.wrapping_add(rand::random::<u32>().max(1).into());
    members.last_id = old.last_id.max(old.ids().last().copied().unwrap_or(member));
    members.contacts = old.contacts.clone();
    members.contacts.retain(|id, _| *id == member);
    let meta = Meta {
        applied: Applied { position, members: Arc::new(members) },
        revision: machine.revision(),
        floor: machine.revision(),
        count: machine.entries().len() as u64,
        digest: machine.digest(),
    };
    tracing::warn!(member, left = ?old.ids(), index = position.index, "beginning a new group of one");
    snapshot_file::receive(&snapshots, &meta, machine.entries(), sealer)
        .map_err(|error| disk(&snapshots, &error))?;
    adopt_received(dir, sealer, log)
}

fn replay(
    log: &EngineLog,
    sealer: &Sealer,
    machine: &mut Machine,
    position: &mut Position,
) -> Result<(), StoreError> {
    while position.index < log.last_index() {
        let low = position.index + 1;
        let high = (low + PAGE).min(log.last_index() + 1);
        let entries =
            log.entries(low, high, u64::MAX).map_err(|e| log_failure(Path::new("log"), &e))?;
        for entry in entries {
            *position = Position { index: entry.index, term: entry.term };
            if entry.get_entry_type() != EntryType::EntryNormal || entry.data.is_empty() {
                continue;
            }
            let batch = wire::decode_batch(&entry.data, sealer).map_err(|error| {
                StoreError::Damaged(format!("log entry {}: {error}", entry.index))
            })?;
            for txn in batch.txns {
                // What a compare refuses is as good an outcome as any.
                let _ = apply_txn(machine, txn, entry.term);
            }
        }
    }
    Ok(())
}
