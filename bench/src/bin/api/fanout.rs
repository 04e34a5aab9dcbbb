//! One object, many watches: how long a change takes to reach all of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::client::{Connection, Target, write};
use crate::load::percentile;
use crate::serve::Process;

const ONE: &str = "/api/v1/namespaces/default/configmaps/watched";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Between two changes, so that each is measured for itself.
const PAUSE: Duration = Duration::from_millis(100);

/// Opens `watches` watches on one ConfigMap, each on its own connection,
/// changes it `changes` times and prints the delays.
pub(crate) async fn measure(
    target: &Target,
    server: &Process,
    watches: usize,
    changes: usize,
) -> anyhow::Result<()> {
    let epoch = Instant::now();
    let mut writer = Connection::open(target).await?;
    let first = json!({"metadata": {"name": "watched"}, "data": {"at": "0"}}).to_string();
    let (code, _) = writer.send(&write("POST", MAPS, &first)).await?;
    ensure!(code == 201, "cannot make what is to be watched: {code}");
    // Every watch says once that it runs.
    let running = Arc::new(Semaphore::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..watches {
        let (target, running) = (target.clone(), Arc::clone(&running));
        tasks.spawn(async move { watch(&target, changes, epoch, &running).await });
    }
    let all = u32::try_from(watches).context("too many watches")?;
    let begun = tokio::time::timeout(Duration::from_secs(60), running.acquire_many(all)).await;
    drop(begun.context("not all watches began")??);

    let before = server.cpu()?;
    for _ in 0..changes {
        tokio::time::sleep(PAUSE).await;
        let at = epoch.elapsed().as_micros().to_string();
        let change = json!({"metadata": {"name": "watched"}, "data": {"at": at}}).to_string();
        let (code, _) = writer.send(&write("PUT", ONE, &change)).await?;
        ensure!(code == 200, "a change was refused: {code}");
    }
    let mut micros = Vec::new();
    while let Some(task) = tasks.join_next().await {
        micros.extend(task??);
    }
    let used = server.cpu()?.saturating_sub(before).as_secs_f64() * 1e6;
    micros.sort_unstable();
    println!(
        "fan-out to {watches} watches, {changes} changes: p50 {:.1} ms, p99 {:.1} ms, all {:.1} ms; server {:.1} us per event",
        percentile(&micros, 0.5) / 1e3,
        percentile(&micros, 0.99) / 1e3,
        percentile(&micros, 1.0) / 1e3,
        used / micros.len().max(1) as f64,
    );
    Ok(())
}

/// Follows the object; returns the delay of every change, in microseconds.
async fn watch(
    target: &Target,
    changes: usize,
    epoch: Instant,
    running: &Semaphore,
) -> anyhow::Result<Vec<u32>> {
    let stream = TokioIo::new(target.connect().await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    let connection = tokio::spawn(connection);
    let request =
        http::Request::get(format!("{MAPS}?watch=1&fieldSelector=metadata.name%3Dwatched"))
            .header("host", "bench")
            .body(Empty::<Bytes>::new())?;
    let mut body = sender.send_request(request).await?.into_body();
    let (mut delays, mut text, mut begun) = (Vec::with_capacity(changes), Vec::new(), false);
    while delays.len() < changes {
        let frame = body.frame().await.context("the watch ended")??;
        text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        while let Some(end) = memchr::memchr(b'\n', &text) {
            let now = epoch.elapsed().as_micros();
            let event: serde_json::Value = serde_json::from_slice(&text[..end])?;
            text.drain(..=end);
            let at = event["object"]["data"]["at"].as_str().context("an event of another kind")?;
            if begun {
                let delay = now.saturating_sub(at.parse()?);
                delays.push(u32::try_from(delay).unwrap_or(u32::MAX));
            } else {
                begun = true;
                running.add_permits(1);
            }
        }
    }
    connection.abort();
    Ok(delays)
}
