//! Runner: turns queued keys into passes.
//!
//! A controller is its `pass`: look at the caches, compare, write. The runner
//! adds what all of them share: several keys at once but one pass per key,
//! back-off after errors, a later look when a pass asks for one, and a span
//! that names the object.

use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, debug_span, warn};

use crate::error::{Error, chain};
use crate::queue::Queue;

/// Passes of one controller that may run at once. Each mostly waits for the
/// API server, which batches their writes into one disk sync.
const CONCURRENT_PASSES: usize = 16;

/// When the object wants another look, should nothing change before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// When something changes.
    OnChange,
    /// After this long: something becomes true by time alone.
    After(Duration),
}

impl From<Option<Duration>> for Next {
    fn from(delay: Option<Duration>) -> Self {
        delay.map_or(Self::OnChange, Self::After)
    }
}

/// One promise of the API and how to keep it.
pub(crate) trait Controller: Send + Sync + 'static {
    /// What a pass is about, usually an object's key.
    type Key: Clone + Eq + Hash + Debug + Send + Sync + 'static;
    /// Its name in logs.
    const NAME: &'static str;

    /// Compares desired and observed state for `key` and makes them equal.
    fn pass(&self, key: &Self::Key) -> impl Future<Output = Result<Next, Error>> + Send;
}

/// Runs passes for the keys of `queue` until cancelled. Cancelling drops the
/// running passes between two writes: a lost leadership must not write on.
pub(crate) async fn run<C: Controller>(
    controller: Arc<C>,
    queue: Queue<C::Key>,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let mut passes: JoinSet<(C::Key, Result<Next, Error>)> = JoinSet::new();
    loop {
        tokio::select! {
            () = cancel.cancelled() => {
                passes.shutdown().await;
                return Ok(());
            }
            Some(ended) = passes.join_next_with_id() => settle::<C>(&queue, ended)?,
            key = queue.next(), if passes.len() < CONCURRENT_PASSES => {
                let controller = Arc::clone(&controller);
                let span = debug_span!("pass", controller = C::NAME, key = ?key);
                passes.spawn(async move {
                    let next = controller.pass(&key).await;
                    (key, next)
                }.instrument(span));
            }
        }
    }
}

type Ended<K> = Result<(Id, (K, Result<Next, Error>)), tokio::task::JoinError>;

/// Decides when the key of an ended pass comes back.
fn settle<C: Controller>(queue: &Queue<C::Key>, ended: Ended<C::Key>) -> anyhow::Result<()> {
    // A panic is a bug of ours: the supervisor ends the process's controllers.
    let (_, (key, next)) = ended?;
    match next {
        Ok(next) => {
            queue.succeeded(&key);
            if let Next::After(delay) = next {
                queue.add_after(key.clone(), delay);
            }
        }
        Err(err) => {
            let retry = queue.failed(&key);
            if err.is_expected() {
                debug!(controller = C::NAME, ?key, ?retry, error = chain(&err), "pass incomplete");
            } else {
                warn!(controller = C::NAME, ?key, ?retry, error = chain(&err), "pass failed");
            }
        }
    }
    queue.done(&key);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    struct Flaky {
        passes: Mutex<Vec<&'static str>>,
    }

    impl Controller for Flaky {
        type Key = &'static str;
        const NAME: &'static str = "flaky";

        async fn pass(&self, key: &&'static str) -> Result<Next, Error> {
            let mut passes = self.passes.lock().unwrap();
            passes.push(key);
            match (*key, passes.len()) {
                ("fails twice", 1 | 2) => Err(Error::Invalid("not yet".into())),
                ("looks again", 1) => Ok(Next::After(Duration::from_secs(30))),
                _ => Ok(Next::OnChange),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn keys_come_back_when_they_should() {
        for (key, passes) in [("fails twice", 3), ("looks again", 2), ("plain", 1)] {
            let controller = Arc::new(Flaky { passes: Mutex::default() });
            let queue = Queue::new();
            queue.add(key);
            let cancel = CancellationToken::new();
            let running = tokio::spawn(run(Arc::clone(&controller), queue, cancel.clone()));
            tokio::time::sleep(Duration::from_secs(120)).await;
            cancel.cancel();
            running.await.unwrap().unwrap();
            assert_eq!(controller.passes.lock().unwrap().len(), passes, "{key}");
        }
    }
}
