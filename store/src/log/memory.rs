//! The log's in-memory twin. Nothing survives it.

use std::collections::VecDeque;

use raft::eraftpb::{Entry, HardState};

use super::{LogError, LogStore, Position, entry_bytes, limit};
use crate::members::Members;

/// Entries in a queue.
#[derive(Clone, Default)]
pub(crate) struct MemoryLog {
    bootstrap: Option<Members>,
    hard_state: HardState,
    truncated: Position,
    entries: VecDeque<Entry>,
    bytes: u64,
}

impl MemoryLog {
    fn place(&self, index: u64) -> usize {
        (index - self.truncated.index - 1) as usize
    }
}

impl LogStore for MemoryLog {
    fn bootstrap(&self) -> Option<Members> {
        self.bootstrap.clone()
    }

    fn initialize(&mut self, members: &Members) -> Result<(), LogError> {
        let first = crate::group::FIRST;
        self.bootstrap = Some(members.clone());
        self.truncated = first;
        self.hard_state.term = first.term;
        self.hard_state.commit = first.index;
        Ok(())
    }

    fn hard_state(&self) -> HardState {
        self.hard_state.clone()
    }

    fn truncated(&self) -> Position {
        self.truncated
    }

    fn last_index(&self) -> u64 {
        self.entries.back().map_or(self.truncated.index, |entry| entry.index)
    }

    fn append(&mut self, entries: &[Entry], hard_state: &HardState) -> Result<(), LogError> {
        if let Some(first) = entries.first() {
            let keep = self.place(first.index);
            self.entries.truncate(keep);
            self.entries.extend(entries.iter().cloned());
            self.bytes = self.entries.iter().map(entry_bytes).sum();
        }
        self.hard_state = hard_state.clone();
        Ok(())
    }

    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, LogError> {
        let mut entries: Vec<_> =
            self.entries.range(self.place(low)..self.place(high)).cloned().collect();
        limit(&mut entries, max_bytes);
        Ok(entries)
    }

    fn term(&self, index: u64) -> Result<u64, LogError> {
        if index == self.truncated.index {
            return Ok(self.truncated.term);
        }
        Ok(self.entries[self.place(index)].term)
    }

    fn truncate(&mut self, to: Position) -> Result<(), LogError> {
        if to.index > self.truncated.index {
            let drop = (self.place(to.index) + 1).min(self.entries.len());
            self.entries.drain(..drop);
            self.truncated = to;
            self.bytes = self.entries.iter().map(entry_bytes).sum();
        }
        Ok(())
    }

    fn reset(&mut self, to: Position, hard_state: &HardState) -> Result<(), LogError> {
        self.entries.clear();
        self.bytes = 0;
        self.truncated = to;
        self.hard_state = hard_state.clone();
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn close(&mut self) -> Result<(), LogError> {
        Ok(())
    }
}
