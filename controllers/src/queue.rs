//! Queue: the keys that want a pass.
//!
//! A key waits at most once; while a pass for it runs it is not handed out
//! again, but asking for it meanwhile leads to one more pass. Keys may be due
//! later, and a failing key comes back after a delay that doubles. A change may
//! be what the key was waiting for, so it cuts that delay short; but to a second
//! and not to nothing, since it may also be what the failing pass itself wrote.
//! There is no ticking: the queue sleeps until the next key is due.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// First delay after a failure.
const BACKOFF_START: Duration = Duration::from_millis(10);
/// Longest delay after failures in a row.
const BACKOFF_LIMIT: Duration = Duration::from_secs(60);

/// Longest delay after failures in a row when something asks for the key.
const BACKOFF_AFTER_CHANGE: Duration = Duration::from_secs(1);

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
    /// When each delayed key is due, and the same in order of time. The number
    /// tells keys of one moment apart.
    due: HashMap<K, (Instant, u64)>,
    timeline: BTreeMap<(Instant, u64), K>,
    sequence: u64,
    failures: HashMap<K, Failures>,
}

/// The failures of a key since it last succeeded.
struct Failures {
    count: u32,
    /// The key rests until then, whatever asks for it.
    rests_until: Instant,
}

impl<K: Clone + Eq + Hash> Queue<K> {
    /// An empty queue.
    pub(crate) fn new() -> Self {
        let state = State {
            ready: VecDeque::new(),
            waiting: HashSet::new(),
            running: HashSet::new(),
            due: HashMap::new(),
            timeline: BTreeMap::new(),
            sequence: 0,
            failures: HashMap::new(),
        };
        Self(Arc::new(Inner { state: Mutex::new(state), wake: Notify::new() }))
    }

    /// Asks for a pass as soon as possible.
    pub(crate) fn add(&self, key: K) {
        self.state().push(key, Instant::now());
        self.0.wake.notify_one();
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
                state.timeline.first_key_value().map(|((at, _), _)| *at)
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
        if state.waiting.remove(key) {
            state.push(key.clone(), Instant::now());
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
            let now = Instant::now();
            let failures = state.failures.entry(key.clone());
            let failures = failures.or_insert(Failures { count: 0, rests_until: now });
            let factor = 1 << failures.count.min(20);
            let delay = BACKOFF_START.saturating_mul(factor).min(BACKOFF_LIMIT);
            failures.count += 1;
            failures.rests_until = now + delay.min(BACKOFF_AFTER_CHANGE);
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
    /// Makes the key ready: now, when its pass ends, or when it has rested.
    fn push(&mut self, key: K, now: Instant) {
        let runs = self.running.contains(&key);
        let rests_until = self.failures.get(&key).map(|failures| failures.rests_until);
        if let Some(at) = rests_until.filter(|at| *at > now && !runs) {
            return self.delay(key, at);
        }
        self.undelay(&key);
        if self.waiting.insert(key.clone()) && !runs {
            self.ready.push_back(key);
        }
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
        self.timeline.insert((at, self.sequence), key.clone());
        self.due.insert(key, (at, self.sequence));
    }

    fn undelay(&mut self, key: &K) {
        if let Some(entry) = self.due.remove(key) {
            self.timeline.remove(&entry);
        }
    }

    /// Moves the keys that have become due to the ready ones.
    fn ripen(&mut self, now: Instant) {
        while let Some(next) = self.timeline.first_entry().filter(|next| next.key().0 <= now) {
            let key = next.remove();
            self.due.remove(&key);
            self.push(key, now);
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
    async fn a_key_that_wakes_itself_still_backs_off() {
        // The pass fails; what asks for the key is an event about what it wrote.
        let rests = |asked_while_running: bool| async move {
            let queue = Queue::new();
            queue.add("a");
            let mut rests = Vec::new();
            for _ in 0..9 {
                let before = Instant::now();
                let key = queue.next().await;
                rests.push(before.elapsed().as_millis());
                if asked_while_running {
                    queue.add("a");
                }
                queue.failed(&key);
                queue.done(&key);
                queue.add("a");
            }
            queue.next().await;
            queue.succeeded(&"a");
            queue.done(&"a");
            queue.add("a");
            assert_eq!(take(&queue).await, Some("a"), "a success ends it");
            rests
        };
        let expected = [0, 10, 20, 40, 80, 160, 320, 640, 1000];
        assert_eq!(rests(false).await, expected);
        assert_eq!(rests(true).await, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_cuts_a_long_back_off_short() {
        let queue = Queue::new();
        queue.add("a");
        for _ in 0..20 {
            let key = queue.next().await;
            queue.failed(&key);
            queue.done(&key);
        }
        assert_eq!(take(&queue).await, None);
        tokio::time::advance(BACKOFF_AFTER_CHANGE).await;
        assert_eq!(take(&queue).await, None, "nothing changed");
        queue.add("a");
        assert_eq!(take(&queue).await, Some("a"), "it has rested and somebody asks");
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
