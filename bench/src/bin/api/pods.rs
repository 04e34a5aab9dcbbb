//! Ten thousand pods: what they weigh, and how long it takes to list them.

use std::time::Instant;

use anyhow::ensure;
use serde_json::json;
use skiff_bench::report::mebibytes;
use tokio::task::JoinSet;

use crate::client::{Connection, Target, get, write};
use crate::load::read;
use crate::serve::Process;

const PODS: &str = "/api/v1/namespaces/default/pods";

/// Connections that create the pods.
const CONNECTIONS: usize = 32;

/// Lists of each kind; the median counts.
const LISTS: usize = 9;

/// Bytes that a stored pod shall have.
const SIZE: usize = 2048;

/// Creates `count` pods of 2 KB and prints memory and lists.
pub(crate) async fn measure(
    target: &Target,
    server: &Process,
    floor: &Target,
    count: usize,
) -> anyhow::Result<()> {
    let mut connection = Connection::open(target).await?;
    let account = json!({"metadata": {"name": "default"}}).to_string();
    let path = "/api/v1/namespaces/default/serviceaccounts";
    connection.send(&write("POST", path, &account)).await?;
    // What the server adds of its own is found out with one pod.
    let (_, body) = connection.send(&write("POST", PODS, &pod("probe", 0))).await?;
    let padding = SIZE.saturating_sub(body.len());
    let before = server.resident()?;
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for first in 0..CONNECTIONS {
        let target = target.clone();
        tasks.spawn(async move {
            let mut connection = Connection::open(&target).await?;
            for n in (first..count).step_by(CONNECTIONS) {
                let request = write("POST", PODS, &pod(&format!("pod-{n:06}"), padding));
                let (code, body) = connection.send(&request).await?;
                ensure!(code == 201, "{code}: {}", String::from_utf8_lossy(&body));
            }
            anyhow::Ok(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    let after = server.resident()?;
    println!(
        "{count} pods of {SIZE} bytes: created {rate:.0}/s; resident {:.1} MiB, before {:.1} MiB",
        mebibytes(after),
        mebibytes(before),
    );
    let (whole, _) = list(&mut connection, "").await?;
    ensure!(read(&whole)?["items"].as_array().map_or(0, Vec::len) >= count, "pods are missing");
    for (name, query) in [("500", "?limit=500"), ("all", "")] {
        let (body, millis) = list(&mut connection, query).await?;
        let mut bare = Connection::open(floor).await?;
        let floor = repeat(&mut bare, &format!("/bytes/{}", body.len())).await?;
        println!(
            "list of {name:>5} pods: {millis:>7.2} ms, {:.1} MB; as many bytes from hello {floor:.2} ms; ratio {:.2}",
            body.len() as f64 / 1e6,
            millis / floor,
        );
    }
    println!("resident after the lists: {:.1} MiB", mebibytes(server.resident()?));
    Ok(())
}

async fn list(connection: &mut Connection, query: &str) -> anyhow::Result<(bytes::Bytes, f64)> {
    let path = format!("{PODS}{query}");
    let (code, body) = connection.send(&get(&path)).await?;
    ensure!(code == 200, "{code}: {}", String::from_utf8_lossy(&body));
    Ok((body, repeat(connection, &path).await?))
}

/// The median time of a GET, in milliseconds.
async fn repeat(connection: &mut Connection, path: &str) -> anyhow::Result<f64> {
    let mut millis = Vec::new();
    for _ in 0..LISTS {
        let begun = Instant::now();
        connection.send(&get(path)).await?;
        millis.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    millis.sort_by(f64::total_cmp);
    Ok(millis.get(LISTS / 2).copied().unwrap_or(f64::NAN))
}

fn pod(name: &str, padding: usize) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {"app": "bench"},
            "annotations": {"example.com/padding": "x".repeat(padding)},
        },
        "spec": {"containers": [{"name": "c", "image": "example.com/bench:1"}]},
    })
    .to_string()
}
