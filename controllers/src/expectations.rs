//! Expectations: what a pass wrote must have come back through the cache
//! before the next pass for the same key may count again.
//!
//! A pass that created three pods and looks at the cache a moment later sees
//! none of them and would create three more. So each pass notes what it wrote:
//! for creations and updates the revision the server answered with (revisions
//! are one counter, and the watch is ordered, so a cache at or past that
//! revision has seen the write), for deletions the uid (the cache must show the
//! object as gone or going). The event that fulfils the last expectation
//! queues the key again, so waiting costs nothing.
//!
//! Should the event never come (the object was deleted by somebody else while
//! the watch was listing anew), expectations expire.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::time::Instant;

use crate::meta;

/// How long to trust an expectation. Long against any lag of a watch, short
/// against a user's patience.
const EXPIRY: Duration = Duration::from_secs(30);

/// Outstanding writes per key.
pub(crate) struct Expectations<K>(Mutex<HashMap<K, Expected>>);

struct Expected {
    revision: u64,
    deleted: HashSet<String>,
    since: Instant,
}

impl<K: Clone + Eq + Hash> Expectations<K> {
    /// Nothing is expected.
    pub(crate) fn new() -> Self {
        Self(Mutex::new(HashMap::new()))
    }

    /// Expects the cache to reach the revision of an object just written.
    pub(crate) fn wrote(&self, key: &K, written: &ObjectMeta) {
        let mut all = self.lock();
        let expected = Self::entry(&mut all, key);
        expected.revision = expected.revision.max(meta::revision(written));
    }

    /// Expects the cache to show the object of `uid` as gone or going. To be
    /// called before the deletion is sent, and taken back with
    /// `kept` if it is refused.
    pub(crate) fn deleting(&self, key: &K, uid: &str) {
        Self::entry(&mut self.lock(), key).deleted.insert(uid.to_owned());
    }

    /// The deletion of `uid` did not happen.
    pub(crate) fn kept(&self, key: &K, uid: &str) {
        if let Some(expected) = self.lock().get_mut(key) {
            expected.deleted.remove(uid);
        }
    }

    /// Forgets all about a key that is gone.
    pub(crate) fn forget(&self, key: &K) {
        self.lock().remove(key);
    }

    /// How long to wait at most before a pass may run, `None` when it may run
    /// now. `observed` is the cache's revision, `is_live` says whether the
    /// cache still shows the object of a uid as there to stay.
    pub(crate) fn wait(
        &self,
        key: &K,
        observed: u64,
        is_live: impl Fn(&str) -> bool,
    ) -> Option<Duration> {
        let mut all = self.lock();
        let expected = all.get_mut(key)?;
        expected.deleted.retain(|uid| is_live(uid));
        let age = expected.since.elapsed();
        if (expected.revision <= observed && expected.deleted.is_empty()) || age >= EXPIRY {
            all.remove(key);
            return None;
        }
        Some(EXPIRY - age)
    }

    fn entry<'a>(all: &'a mut HashMap<K, Expected>, key: &K) -> &'a mut Expected {
        let now = Instant::now();
        let expected = all.entry(key.clone()).or_insert_with(|| Expected {
            revision: 0,
            deleted: HashSet::new(),
            since: now,
        });
        expected.since = now;
        expected
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Expected>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(revision: u64) -> ObjectMeta {
        ObjectMeta { resource_version: Some(revision.to_string()), ..Default::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pass_waits_for_its_own_writes() {
        let expectations = Expectations::new();
        let gone = |_: &str| false;
        assert_eq!(expectations.wait(&"web", 5, gone), None, "nothing was written");
        expectations.wrote(&"web", &written(7));
        expectations.wrote(&"web", &written(6));
        assert!(expectations.wait(&"web", 6, gone).is_some());
        assert_eq!(expectations.wait(&"other", 6, gone), None, "keys are independent");
        assert_eq!(expectations.wait(&"web", 7, gone), None);

        expectations.deleting(&"web", "uid-1");
        expectations.deleting(&"web", "uid-2");
        expectations.kept(&"web", "uid-2");
        assert!(expectations.wait(&"web", 9, |uid| uid == "uid-1").is_some());
        assert_eq!(expectations.wait(&"web", 9, gone), None);
    }

    #[tokio::test(start_paused = true)]
    async fn expectations_expire() {
        let expectations = Expectations::new();
        expectations.wrote(&"web", &written(100));
        tokio::time::advance(EXPIRY - Duration::from_secs(1)).await;
        assert_eq!(expectations.wait(&"web", 0, |_| true), Some(Duration::from_secs(1)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(expectations.wait(&"web", 0, |_| true), None);
    }
}
