//! The load: clients that each call as fast as they are answered, and watchers
//! that follow what they write. Both sides are driven by the same code.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use skiff_bench::process;
use skiff_bench::report::mebibytes;
use tokio::task::JoinSet;

/// Length of every value.
const VALUE_BYTES: usize = 256;

/// Keys written and read over and over.
const KEYS: usize = 10_000;

/// Clients that fill the store before others read from it.
const FILLERS: usize = 200;

/// How long a watcher may take, after the load, to tell of the last write.
const WATCH_PATIENCE: Duration = Duration::from_secs(30);

/// What every key begins with.
pub(crate) const PREFIX: &str = "/registry/bench/";

/// What clients do.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum,
)]
pub(crate) enum Work {
    /// Each call is a synced write.
    Writes,
    /// Each call reads one key, the newest value as of the call.
    Reads,
    /// One call in four writes, the others read, while watchers follow.
    Mixed,
}

/// One row of the table.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
pub(crate) struct Row {
    pub(crate) work: Work,
    /// Members of the group. Clients call the leader.
    pub(crate) members: usize,
    pub(crate) clients: usize,
    pub(crate) watchers: usize,
    pub(crate) seconds: u64,
}

/// What one measurement found.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Measured {
    pub(crate) per_second: f64,
    pub(crate) p50_micros: f64,
    pub(crate) p99_micros: f64,
    /// Mean of the members that only follow, or of the only one.
    pub(crate) rss_mib: f64,
    /// Mean of all members; none where nothing is written.
    pub(crate) disk_bytes_per_write: Option<f64>,
}

impl Measured {
    /// The median of each column.
    pub(crate) fn median(rounds: &[Self]) -> Self {
        let middle = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied()
        };
        let column = |value: fn(&Self) -> f64| {
            middle(rounds.iter().map(value).collect()).unwrap_or(f64::NAN)
        };
        Self {
            per_second: column(|m| m.per_second),
            p50_micros: column(|m| m.p50_micros),
            p99_micros: column(|m| m.p99_micros),
            rss_mib: column(|m| m.rss_mib),
            disk_bytes_per_write: middle(
                rounds.iter().filter_map(|m| m.disk_bytes_per_write).collect(),
            ),
        }
    }
}

/// One client. It owns what it calls with.
pub(crate) trait Client: Clone + Send + 'static {
    /// What it watches with.
    type Watch: Watch;

    /// Writes `value` under `key` and returns when it is durable.
    fn write(
        &mut self,
        key: String,
        value: Vec<u8>,
    ) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Reads `key`, which is there, as it was at some moment of the call.
    fn read(&mut self, key: String) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Follows all keys from now on.
    fn watch(&mut self) -> impl Future<Output = anyhow::Result<Self::Watch>> + Send;
}

/// A watch of all keys.
pub(crate) trait Watch: Send + 'static {
    /// Waits for events; how many there are.
    fn next(&mut self) -> impl Future<Output = anyhow::Result<u64>> + Send;
}

/// Measures one row with clients of the group whose processes are `pids`, the
/// one that is called first.
pub(crate) async fn measure<C: Client>(
    clients: Vec<C>,
    row: Row,
    pids: &[u32],
) -> anyhow::Result<Measured> {
    if row.work != Work::Writes {
        fill(&clients).await?;
    }
    let mut watches = Vec::new();
    for client in clients.iter().cycle().take(row.watchers) {
        watches.push(client.clone().watch().await?);
    }
    let written = Arc::new(AtomicU64::new(0));
    let (goal_tx, goal) = tokio::sync::watch::channel(u64::MAX);
    let mut watchers = JoinSet::new();
    for watch in watches {
        watchers.spawn(follow(watch, goal.clone()));
    }
    let before = disk_bytes(pids)?;
    let mut measured = run(clients, row, &written).await?;
    let written = written.load(Ordering::Relaxed);
    let only_follow = pids.get(1..).filter(|followers| !followers.is_empty()).unwrap_or(pids);
    measured.rss_mib = mean(only_follow, |pid| process::resident(pid).map(mebibytes))?;
    if written > 0 {
        measured.disk_bytes_per_write = Some((disk_bytes(pids)? - before) / written as f64);
    }
    goal_tx.send_replace(written);
    let all = async {
        while let Some(watcher) = watchers.join_next().await {
            watcher??;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(WATCH_PATIENCE, all).await.context("a watch misses events")??;
    Ok(measured)
}

fn mean(pids: &[u32], value: fn(u32) -> anyhow::Result<f64>) -> anyhow::Result<f64> {
    let values = pids.iter().map(|pid| value(*pid)).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(values.iter().sum::<f64>() / values.len() as f64)
}

fn disk_bytes(pids: &[u32]) -> anyhow::Result<f64> {
    mean(pids, |pid| process::written(pid).map(|bytes| bytes as f64))
}

fn key(number: usize) -> String {
    format!("{PREFIX}{:08}", number % KEYS)
}

fn value() -> Vec<u8> {
    vec![b'v'; VALUE_BYTES]
}

/// Writes every key once.
async fn fill<C: Client>(clients: &[C]) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    for (number, mut client) in clients.iter().cycle().take(FILLERS).cloned().enumerate() {
        tasks.spawn(async move {
            for at in (number..KEYS).step_by(FILLERS) {
                client.write(key(at), value()).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    Ok(())
}

/// Counts events until there are as many as in the end were written.
async fn follow(
    mut watch: impl Watch,
    mut goal: tokio::sync::watch::Receiver<u64>,
) -> anyhow::Result<()> {
    let mut seen = 0;
    while seen < *goal.borrow_and_update() {
        tokio::select! {
            events = watch.next() => seen += events?,
            changed = goal.changed() => changed?,
        }
    }
    let goal = *goal.borrow();
    anyhow::ensure!(seen == goal, "a watch told of {seen} events, there were {goal}");
    Ok(())
}

/// Lets all clients call for as long as the row says, after a tenth of it to
/// warm up, and fills in rate and latencies.
async fn run<C: Client>(
    clients: Vec<C>,
    row: Row,
    written: &Arc<AtomicU64>,
) -> anyhow::Result<Measured> {
    let span = Duration::from_secs(row.seconds);
    let begin = Instant::now() + span / 10;
    let end = begin + span;
    let count = clients.len();
    let mut tasks = JoinSet::new();
    for (number, mut client) in clients.into_iter().enumerate() {
        let written = written.clone();
        tasks.spawn(async move {
            let mut micros: Vec<u32> = Vec::new();
            for n in 0.. {
                let sent = Instant::now();
                if sent >= end {
                    break;
                }
                let key = key(n * count + number);
                let writes = match row.work {
                    Work::Writes => true,
                    Work::Reads => false,
                    Work::Mixed => (n + number) % 4 == 0,
                };
                if writes {
                    client.write(key, value()).await?;
                    written.fetch_add(1, Ordering::Relaxed);
                } else {
                    client.read(key).await?;
                }
                if sent >= begin {
                    micros.push(sent.elapsed().as_micros().min(u128::from(u32::MAX)) as u32);
                }
            }
            anyhow::Ok(micros)
        });
    }
    let mut micros = Vec::new();
    while let Some(task) = tasks.join_next().await {
        micros.extend(task??);
    }
    micros.sort_unstable();
    let percentile = |part: f64| {
        let place = (micros.len() as f64 * part) as usize;
        micros.get(place.min(micros.len().saturating_sub(1))).copied().map_or(f64::NAN, f64::from)
    };
    Ok(Measured {
        per_second: micros.len() as f64 / span.as_secs_f64(),
        p50_micros: percentile(0.5),
        p99_micros: percentile(0.99),
        ..Measured::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tells of so many events at a time, then of none any more.
    struct Scripted(Vec<u64>);

    impl Watch for Scripted {
        async fn next(&mut self) -> anyhow::Result<u64> {
            match self.0.pop() {
                Some(events) => Ok(events),
                None => std::future::pending().await,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_watcher_counts_each_write_once() {
        for (told, expected) in [(vec![2, 3], true), (vec![2, 2], false), (vec![3, 3], false)] {
            let (_goal_tx, goal) = tokio::sync::watch::channel(5);
            let followed = follow(Scripted(told.clone()), goal);
            let result = tokio::time::timeout(WATCH_PATIENCE, followed).await;
            assert_eq!(result.is_ok_and(|counted| counted.is_ok()), expected, "{told:?}");
        }
    }

    #[test]
    fn the_median_leaves_out_what_was_not_written() {
        let measured = |per_second, disk_bytes_per_write| Measured {
            per_second,
            disk_bytes_per_write,
            ..Measured::default()
        };
        let rounds = [measured(3.0, None), measured(1.0, None), measured(2.0, None)];
        let median = Measured::median(&rounds);
        assert_eq!((median.per_second, median.disk_bytes_per_write), (2.0, None));
        assert_eq!(Measured::median(&[measured(1.0, Some(4.0))]).disk_bytes_per_write, Some(4.0));
    }
}
