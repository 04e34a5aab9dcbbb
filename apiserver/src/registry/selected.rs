//! What field selectors have found in the objects that were written last.
//!
//! Every node watches the pods that name it in `spec.nodeName`, and so each of
//! these watches has to know that field of every pod that changes. Reading it out
//! of the pod anew for each of them would make a pod's change dearer with every
//! node; here the first watch that asks reads it, and the others find it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use skiff_store::{Entry, Key, Revision};

use crate::status::ApiError;

/// Of how many objects the fields are kept. Watches are at most a burst of
/// changes behind each other; one that is further behind reads for itself.
const OBJECTS: usize = 512;

/// The fields of an object that selectors asked for, each with its value.
type Fields = Vec<(String, Option<String>)>;

/// The newest objects' fields, shared by all watches.
#[derive(Clone, Default)]
pub(crate) struct Selected(Arc<Mutex<Recent>>);

#[derive(Default)]
struct Recent {
    found: HashMap<(Key, Revision), Fields>,
    /// In the order in which they came.
    order: VecDeque<(Key, Revision)>,
}

impl Selected {
    /// The values of `fields` in an object; `read` is asked for them if they are
    /// not known.
    pub(super) fn of(
        &self,
        entry: &Entry,
        fields: &[&str],
        read: impl FnOnce() -> Result<Fields, ApiError>,
    ) -> Result<Fields, ApiError> {
        let at = (entry.key.clone(), entry.modified);
        if let Some(known) = self.known(&at, fields) {
            return Ok(known);
        }
        let values = read()?;
        self.keep(at, &values);
        Ok(values)
    }

    fn recent(&self) -> std::sync::MutexGuard<'_, Recent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, at: &(Key, Revision), fields: &[&str]) -> Option<Fields> {
        let recent = self.recent();
        let found = recent.found.get(at)?;
        let known = |field: &&str| found.iter().find(|(name, _)| name == field).cloned();
        fields.iter().map(known).collect()
    }

    fn keep(&self, at: (Key, Revision), values: &Fields) {
        let mut recent = self.recent();
        let recent = &mut *recent;
        if let Some(found) = recent.found.get_mut(&at) {
            let new =
                values.iter().filter(|(name, _)| !found.iter().any(|(known, _)| known == name));
            let new: Fields = new.cloned().collect();
            found.extend(new);
            return;
        }
        if recent.order.len() >= OBJECTS
            && let Some(oldest) = recent.order.pop_front()
        {
            recent.found.remove(&oldest);
        }
        recent.order.push_back(at.clone());
        recent.found.insert(at, values.clone());
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn entry(key: &str, revision: u64) -> Entry {
        Entry {
            key: key.into(),
            value: Bytes::new(),
            created: Revision(1),
            modified: Revision(revision),
            sealed: false,
        }
    }

    fn value(name: &str, value: &str) -> Fields {
        vec![(name.to_owned(), Some(value.to_owned()))]
    }

    fn unasked() -> Result<Fields, ApiError> {
        panic!("it is known")
    }

    #[test]
    fn an_object_is_read_once_for_each_field() {
        let selected = Selected::default();
        let pod = entry("/pods/a/p", 7);
        let node = || Ok(value("spec.nodeName", "n1"));
        assert_eq!(selected.of(&pod, &["spec.nodeName"], node).unwrap(), node().unwrap());
        assert_eq!(selected.of(&pod, &["spec.nodeName"], unasked).unwrap(), node().unwrap());
        let both = || Ok([value("spec.nodeName", "n1"), value("status.phase", "Running")].concat());
        let fields = ["spec.nodeName", "status.phase"];
        assert_eq!(selected.of(&pod, &fields, both).unwrap(), both().unwrap());
        assert_eq!(selected.of(&pod, &fields, unasked).unwrap(), both().unwrap());
        assert_eq!(selected.recent().found.len(), 1);
    }

    #[test]
    fn another_object_or_a_later_one_is_another() {
        let selected = Selected::default();
        let fields = ["spec.nodeName"];
        for (key, revision, node) in [("p", 7, "n1"), ("q", 7, "n2"), ("p", 8, "n3")] {
            let read = || Ok(value("spec.nodeName", node));
            let found = selected.of(&entry(key, revision), &fields, read).unwrap();
            assert_eq!(found, value("spec.nodeName", node), "{key} {revision}");
        }
    }

    #[test]
    fn the_oldest_are_forgotten_and_failures_are_not_kept() {
        let selected = Selected::default();
        let fields = ["f"];
        let broken = selected.of(&entry("p", 1), &fields, || Err(ApiError::internal("damaged")));
        assert!(broken.is_err());
        for revision in 1..=OBJECTS as u64 + 1 {
            selected.of(&entry("p", revision), &fields, || Ok(value("f", "v"))).unwrap();
        }
        assert_eq!(selected.recent().found.len(), OBJECTS);
        assert_eq!(selected.recent().order.len(), OBJECTS);
        let mut read = false;
        let again = || {
            read = true;
            Ok(value("f", "v"))
        };
        selected.of(&entry("p", 1), &fields, again).unwrap();
        assert!(read);
    }
}
