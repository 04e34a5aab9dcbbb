//! The state's in-memory twin.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Meta, Raw, Save, StateError, StateStore};
use crate::types::{Entry, Event, Key};

/// A state that is saved nowhere.
#[derive(Default)]
pub(crate) struct MemoryState {
    meta: Option<Meta>,
    entries: BTreeMap<Key, Arc<Entry>>,
    events: Vec<(Event, u32, u32)>,
}

impl StateStore for MemoryState {
    fn load(&mut self) -> Result<Raw, StateError> {
        let entries =
            self.entries.iter().map(|(key, entry)| (key.clone(), entry.clone())).collect();
        Ok(Raw { meta: self.meta.clone(), entries, events: self.events.clone() })
    }

    fn save(&mut self, save: &Save) -> Result<(), StateError> {
        for change in &save.changes {
            if let Some(old) = &change.old {
                self.entries.remove(&old.key);
            }
            if let Some(new) = &change.new {
                self.entries.insert(new.key.clone(), new.clone());
            }
        }
        for (event, nth, of) in super::tree::places(&save.events) {
            self.events.push((event.as_ref().clone(), nth, of));
        }
        self.events.retain(|(event, _, _)| event.revision > save.meta.floor);
        self.meta = Some(save.meta.clone());
        Ok(())
    }

    fn wipe(&mut self) -> Result<(), StateError> {
        *self = Self::default();
        Ok(())
    }

    fn bytes(&self) -> u64 {
        0
    }
}
