//! The load: clients that each write as fast as they are answered.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

/// Length of every value.
pub(crate) const VALUE_BYTES: usize = 256;

/// Keys written over and over.
const KEYS: usize = 10_000;

/// What one measurement found.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Measured {
    pub(crate) per_second: f64,
    pub(crate) p50_micros: f64,
    pub(crate) p99_micros: f64,
    pub(crate) rss_mib: f64,
    pub(crate) disk_bytes_per_write: f64,
    pub(crate) writes: usize,
}

impl Measured {
    /// The median of each column.
    pub(crate) fn median(rounds: Vec<Self>) -> Self {
        let column = |value: fn(&Self) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
        };
        Self {
            per_second: column(|m| m.per_second),
            p50_micros: column(|m| m.p50_micros),
            p99_micros: column(|m| m.p99_micros),
            rss_mib: column(|m| m.rss_mib),
            disk_bytes_per_write: column(|m| m.disk_bytes_per_write),
            writes: rounds.iter().map(|m| m.writes).sum(),
        }
    }
}

/// One client. It owns what it writes with.
pub(crate) trait Client: Send + 'static {
    /// Writes `value` under `key` and returns when it is durable.
    fn write(
        &mut self,
        key: String,
        value: Vec<u8>,
    ) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// Lets all clients write for `span`, after a tenth of it to warm up, and
/// fills in rate and latencies.
pub(crate) async fn run<C: Client>(clients: Vec<C>, span: Duration) -> anyhow::Result<Measured> {
    let begin = Instant::now() + span / 10;
    let end = begin + span;
    let count = clients.len();
    let mut tasks = JoinSet::new();
    for (number, mut client) in clients.into_iter().enumerate() {
        tasks.spawn(async move {
            let mut micros: Vec<u32> = Vec::new();
            for n in 0.. {
                let sent = Instant::now();
                if sent >= end {
                    break;
                }
                let key = format!("/registry/bench/{:08}", (n * count + number) % KEYS);
                client.write(key, vec![b'v'; VALUE_BYTES]).await?;
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
        writes: micros.len(),
        ..Measured::default()
    })
}
