//! What admission has to say beside yes and no.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Warnings for the client and annotations for the audit log of one request.
/// Shared by everything that works on the request.
#[derive(Debug, Default)]
pub struct Notes(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    warnings: Vec<String>,
    annotations: BTreeMap<String, String>,
}

impl Notes {
    /// Adds a warning, once: a write that lost a race is admitted again.
    pub fn warn(&self, warning: impl Into<String>) {
        let (warning, mut taken) = (warning.into(), self.lock());
        if !taken.warnings.contains(&warning) {
            taken.warnings.push(warning);
        }
    }

    /// Adds an annotation to the audit log's entry.
    pub fn annotate(&self, key: &str, value: impl Into<String>) {
        self.lock().annotations.insert(key.to_owned(), value.into());
    }

    /// The warnings so far.
    pub fn warnings(&self) -> Vec<String> {
        self.lock().warnings.clone()
    }

    /// The annotations so far.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        self.lock().annotations.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
