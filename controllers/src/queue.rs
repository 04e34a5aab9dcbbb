//! Queue: the keys that want a pass.
//!
//! A key waits at most once; while a pass for it runs it is not handed out
//! again, but asking for it meanwhile leads to one more pass. Keys may be due
//! later, and a failing key comes back after a delay that doubles. There is no
//! ticking: the queue sleeps until the next key is due.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// First delay after a failure.
const BACKOFF_START: Duration = Duration::from_millis(10);
/// Longest delay after failures in a row.
const BACKOFF_LIMIT: Duration = Duration::from_secs(60);

/// Keys waiting for a pass. Clones share them.
pub(crate) struct Queue<K>(Arc<Inner<K>>);

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Inner<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

struct State<K> {
    /// Keys to hand out now, in order of arrival.
    ready: VecDeque<K>,
    /// The same keys, plus keys to hand out once their running pass ends.
    waiting: HashSet<K>,
    /// Keys whose pass runs.
    running: HashSet<K>,
    /// When each delayed key is due, and the same in order of time.
    due: HashMap<K, (Instant, u64)>,
    timeline: BTreeSet<(Instant, u64)>,
    timeline_keys: HashMap<u64, K>,
    sequence: u64,
    failures: HashMap<K, u32>,
}

impl<K: Clone + Eq + Hash> Queue<K> {
    /// An empty queue.
    pub(crate) fn new() -> Self {
        let state = State {
            ready: VecDeque::new(),
            waiting: HashSet::new(),
            running: HashSet::new(),
            due: HashMap::new(),
            timeline: BTreeSet::new(),
            timeline_keys: HashMap::new(),
            sequence: 0,
            failures: HashMap::new(),
        };
        Self(Arc::new(Inner { state: Mutex::new(state), wake: Notify::new() }))
    }

    /// Asks for a pass as soon as possible.
    pub(crate) fn add(&self, key: K) {
        if self.state().push(key) {
            self.0.wake.notify_one();
        }
    }

    /// Asks for a pass after `delay`. An earlier request stands.
    pub(crate) fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        self.state().delay(key, Instant::now() + delay);
        // The sleeper may have to wake earlier than it meant to.
        self.0.wake.notify_one();
    }

    /// Waits for the next key and marks its pass as running. Cancel-safe.
    pub(crate) async fn next(&self) -> K {
        loop {
            let due = {
                let mut state = self.state();
                state.ripen(Instant::now());
                if let Some(key) = state.pop() {
                    return key;
                }
                state.timeline.first().map(|(at, _)| *at)
            };
            match due {
                Some(at) => tokio::select! {
                    () = self.0.wake.notified() => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => self.0.wake.notified().await,
            }
        }
    }

    /// Ends the pass of `key`: it may be handed out again.
    pub(crate) fn done(&self, key: &K) {
        let mut state = self.state();
        state.running.remove(key);
        if state.waiting.contains(key) {
            state.ready.push_back(key.clone());
            drop(state);
            self.0.wake.notify_one();
        }
    }

    /// Forgets the key's failures.
    pub(crate) fn succeeded(&self, key: &K) {
        self.state().failures.remove(key);
    }

    /// Asks for a pass after the key's back-off and returns that delay.
    pub(crate) fn failed(&self, key: &K) -> Duration {
        let delay = {
            let mut state = self.state();
            let failures = state.failures.entry(key.clone()).or_insert(0);
            let delay = BACKOFF_START.saturating_mul(1 << (*failures).min(20)).min(BACKOFF_LIMIT);
            *failures += 1;
            delay
        };
        self.add_after(key.clone(), delay);
        delay
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    /// Whether the key can be handed out now.
    fn push(&mut self, key: K) -> bool {
        self.undelay(&key);
        if !self.waiting.insert(key.clone()) || self.running.contains(&key) {
            return false;
        }
        self.ready.push_back(key);
        true
    }

    fn pop(&mut self) -> Option<K> {
        let key = self.ready.pop_front()?;
        self.waiting.remove(&key);
        self.running.insert(key.clone());
        Some(key)
    }

    fn delay(&mut self, key: K, at: Instant) {
        if self.waiting.contains(&key) || self.due.get(&key).is_some_and(|(due, _)| *due <= at) {
            return;
        }
        self.undelay(&key);
        self.sequence += 1;
        self.timeline.insert((at, self.sequence));
        self.timeline_keys.insert(self.sequence, key.clone());
        self.due.insert(key, (at, self.sequence));
    }

    fn undelay(&mut self, key: &K) {
        if let Some(entry) = self.due.remove(key) {
            self.timeline.remove(&entry);
            self.timeline_keys.remove(&entry.1);
        }
    }

    /// Moves the keys that have become due to the ready ones.
    fn ripen(&mut self, now: Instant) {
        while let Some(&(at, sequence)) = self.timeline.first() {
            if at > now {
                return;
            }
            match self.timeline_keys.get(&sequence).cloned() {
                Some(key) => {
                    self.push(key);
                }
                None => {
                    self.timeline.pop_first();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes what is ready without waiting.
    async fn take(queue: &Queue<&'static str>) -> Option<&'static str> {
        tokio::time::timeout(Duration::ZERO, queue.next()).await.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn one_pass_per_key_at_a_time() {
        let queue = Queue::new();
        queue.add("a");
        queue.add("a");
        assert_eq!(take(&queue).await, Some("a"));
        queue.add("a");
        assert_eq!(take(&queue).await, None, "its pass still runs");
        queue.done(&"a");
        assert_eq!(take(&queue).await, Some("a"));
        queue.done(&"a");
        assert_eq!(take(&queue).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_request_wins() {
        let queue = Queue::new();
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(5));
        queue.add_after("a", Duration::from_secs(2));
        queue.add_after("a", Duration::from_secs(9));
        queue.add_after("b", Duration::from_secs(3));
        assert_eq!(queue.next().await, "a");
        assert_eq!(start.elapsed(), Duration::from_secs(2));
        assert_eq!(queue.next().await, "b");
        assert_eq!(start.elapsed(), Duration::from_secs(3));
        queue.done(&"a");
        queue.add_after("a", Duration::from_secs(10));
        queue.add("a");
        assert_eq!(take(&queue).await, Some("a"));
        queue.done(&"a");
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(take(&queue).await, None, "the immediate request replaced the delayed one");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_and_success_forgets() {
        let queue = Queue::new();
        let delays: Vec<u128> = (0..4).map(|_| queue.failed(&"a").as_millis()).collect();
        assert_eq!(delays, [10, 20, 40, 80]);
        for _ in 0..30 {
            queue.failed(&"a");
        }
        assert_eq!(queue.failed(&"a"), BACKOFF_LIMIT);
        queue.succeeded(&"a");
        assert_eq!(queue.failed(&"a"), BACKOFF_START);
    }
}
