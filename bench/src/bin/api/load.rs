//! Connections that each ask as fast as they are answered.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::client::{Connection, Target, get, write};
use crate::serve::Process;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Objects that gets choose from.
const READ: usize = 100;

/// Names that no run has used before.
static NAMES: AtomicUsize = AtomicUsize::new(0);

/// What the connections ask for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// New small ConfigMaps.
    Create,
    /// One of a hundred of them.
    Get,
    /// One's own ConfigMap again and again, naming the version that it was.
    Update,
}

impl Work {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Get => "get",
            Self::Update => "update",
        }
    }
}

/// What one measurement found.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(crate) per_second: f64,
    pub(crate) p50_micros: f64,
    pub(crate) p99_micros: f64,
    /// CPU time of the server per request.
    pub(crate) server_micros: f64,
}

impl Measured {
    /// From the time that each request took, in microseconds.
    pub(crate) fn of(mut micros: Vec<u32>, span: Duration) -> Self {
        micros.sort_unstable();
        Self {
            per_second: micros.len() as f64 / span.as_secs_f64(),
            p50_micros: percentile(&micros, 0.5),
            p99_micros: percentile(&micros, 0.99),
            server_micros: f64::NAN,
        }
    }
}

pub(crate) fn percentile(sorted: &[u32], part: f64) -> f64 {
    let place = (sorted.len() as f64 * part) as usize;
    sorted.get(place.min(sorted.len().saturating_sub(1))).copied().map_or(f64::NAN, f64::from)
}

/// Lets all connections work for `span`, after a fifth of it to warm up.
pub(crate) async fn run(
    target: &Target,
    server: &Process,
    work: Work,
    connections: usize,
    span: Duration,
) -> anyhow::Result<Measured> {
    if work == Work::Get {
        let mut connection = Connection::open(target).await?;
        for n in 0..READ {
            // It may be there from the run before.
            connection.send(&write("POST", MAPS, &map(&format!("read-{n}"), ""))).await?;
        }
    }
    let begin = Instant::now() + span / 5;
    let end = begin + span;
    let mut tasks = JoinSet::new();
    for number in 0..connections {
        let mut worker = Worker::new(target, work, number).await?;
        tasks.spawn(async move {
            let mut micros: Vec<u32> = Vec::new();
            loop {
                let sent = Instant::now();
                if sent >= end {
                    return anyhow::Ok(micros);
                }
                worker.ask().await?;
                if sent >= begin {
                    micros.push(u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX));
                }
            }
        });
    }
    tokio::time::sleep_until(begin.into()).await;
    let before = server.cpu()?;
    tokio::time::sleep_until(end.into()).await;
    let used = server.cpu()?.saturating_sub(before);
    let mut micros = Vec::new();
    while let Some(task) = tasks.join_next().await {
        micros.extend(task??);
    }
    let count = micros.len().max(1) as f64;
    let server_micros = used.as_secs_f64() * 1e6 / count;
    Ok(Measured { server_micros, ..Measured::of(micros, span) })
}

struct Worker {
    connection: Connection,
    work: Work,
    name: String,
    version: String,
    turn: usize,
}

impl Worker {
    async fn new(target: &Target, work: Work, number: usize) -> anyhow::Result<Self> {
        let connection = Connection::open(target).await?;
        let name = format!("own-{}", NAMES.fetch_add(1, Ordering::Relaxed));
        let mut worker = Self { connection, work, name, version: String::new(), turn: number };
        if work == Work::Update {
            let request = write("POST", MAPS, &map(&worker.name, ""));
            let (_, body) = worker.connection.send(&request).await?;
            worker.version = version(&body);
        }
        Ok(worker)
    }

    async fn ask(&mut self) -> anyhow::Result<()> {
        self.turn += 1;
        let request = match self.work {
            Work::Create => {
                let name = format!("made-{}", NAMES.fetch_add(1, Ordering::Relaxed));
                write("POST", MAPS, &map(&name, ""))
            }
            Work::Get => get(&format!("{MAPS}/read-{}", self.turn % READ)),
            Work::Update => {
                write("PUT", &format!("{MAPS}/{}", self.name), &map(&self.name, &self.version))
            }
        };
        let (code, body) = self.connection.send(&request).await?;
        ensure!(code < 300, "{code}: {}", String::from_utf8_lossy(&body));
        if self.work == Work::Update {
            self.version = version(&body);
        }
        Ok(())
    }
}

/// A small ConfigMap. Each version differs from the one before.
fn map(name: &str, version: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","resourceVersion":"{version}"}},"data":{{"key":"value","after":"{version}"}}}}"#
    )
}

/// Reading one field takes no parser: it is the first that can vary.
fn version(body: &Bytes) -> String {
    const FIELD: &[u8] = b"\"resourceVersion\":\"";
    let found = memchr::memmem::find(body, FIELD).map(|at| &body[at + FIELD.len()..]);
    let digits = found.unwrap_or_default().iter().take_while(|byte| byte.is_ascii_digit());
    digits.map(|byte| char::from(*byte)).collect()
}

/// A field of a JSON answer, for requests that are not measured.
pub(crate) fn read(body: &[u8]) -> anyhow::Result<Value> {
    serde_json::from_slice(body).context("an answer that is not JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found() {
        let body = Bytes::from_static(br#"{"metadata":{"resourceVersion":"42","name":"a"}}"#);
        assert_eq!(version(&body), "42");
        assert_eq!(version(&Bytes::new()), "");
    }

    #[test]
    fn percentiles_of_few_and_many() {
        let all: Vec<u32> = (1..=100).collect();
        assert_eq!((percentile(&all, 0.5), percentile(&all, 0.99)), (51.0, 100.0));
        assert!(percentile(&[], 0.5).is_nan());
    }
}
