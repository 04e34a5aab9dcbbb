//! `image`: images on every node, without a registry.
//!
//! Goes through the API server to each node's agent, so whoever may use
//! `nodes/proxy` may do this. What is removed here is what the user names;
//! nothing else is touched. A node that fails does not keep the others from it;
//! all failures are told in the end. A tar is held in memory while it is sent: the
//! client library takes no body that is still to come.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request};
use kube::client::Body;
use serde_json::Value;

use super::args::{ImageAction, ImageArgs};
use super::connect::Session;
use super::discover::encode;
use super::output::columns;

pub(super) async fn run(session: &Session, args: ImageArgs) -> anyhow::Result<()> {
    let nodes = nodes(session, &args.node).await?;
    match args.action {
        ImageAction::Load { files } => load(session, &nodes, &files).await,
        ImageAction::Ls => list(session, &nodes).await,
        ImageAction::Rm { names } => remove(session, &nodes, &names).await,
    }
}

/// The nodes to work on: those asked for, or all that are ready.
async fn nodes(session: &Session, wanted: &[String]) -> anyhow::Result<Vec<String>> {
    let listed = session.get("/api/v1/nodes").await?;
    let (ready, silent) =
        plan_nodes(listed["items"].as_array().map_or(&[], Vec::as_slice), wanted)?;
    for node in silent {
        eprintln!("node/{node} is not ready, left out");
    }
    if ready.is_empty() {
        bail!("no node is ready");
    }
    Ok(ready)
}

/// Nodes that are ready, and those that are not, of the wanted or of all.
fn plan_nodes(nodes: &[Value], wanted: &[String]) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let name = |node: &Value| node["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    for wanted in wanted {
        if !nodes.iter().any(|node| name(node) == *wanted) {
            bail!("there is no node {wanted}");
        }
    }
    let is_ready = |node: &&Value| {
        let mut conditions = node["status"]["conditions"].as_array().into_iter().flatten();
        conditions.any(|one| one["type"] == "Ready" && one["status"] == "True")
    };
    let (ready, silent): (Vec<&Value>, Vec<&Value>) = nodes
        .iter()
        .filter(|node| wanted.is_empty() || wanted.contains(&name(node)))
        .partition(is_ready);
    Ok((ready.into_iter().map(name).collect(), silent.into_iter().map(name).collect()))
}

/// What went wrong on some nodes.
#[derive(Default)]
struct Failures(Vec<String>);

impl Failures {
    fn add(&mut self, what: String, error: &anyhow::Error) {
        // A node answers in plain words, which the client library takes for a
        // status that it cannot read.
        let why = match error.downcast_ref() {
            Some(kube::Error::Api(status)) => status.message.trim().to_owned(),
            _ => format!("{error:#}"),
        };
        self.0.push(format!("{what}: {why}"));
    }

    fn result(self) -> anyhow::Result<()> {
        if self.0.is_empty() { Ok(()) } else { bail!(self.0.join("; ")) }
    }
}

async fn load(session: &Session, nodes: &[String], files: &[PathBuf]) -> anyhow::Result<()> {
    let mut failures = Failures::default();
    for file in files {
        let tar = read(file).with_context(|| format!("cannot read {}", file.display()))?;
        for node in nodes {
            match load_one(session, node, tar.clone()).await {
                Ok(loaded) => {
                    loaded.iter().for_each(|image| println!("{image} loaded on node/{node}"));
                }
                Err(error) => {
                    failures
                        .add(format!("{} is not loaded on node {node}", file.display()), &error);
                }
            }
        }
    }
    failures.result()
}

/// The file, or standard input.
fn read(file: &Path) -> std::io::Result<Bytes> {
    if file != Path::new("-") {
        return std::fs::read(file).map(Bytes::from);
    }
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

/// Sends a tar to a node. The node answers at once and says how it went when
/// it is done.
async fn load_one(session: &Session, node: &str, tar: Bytes) -> anyhow::Result<Vec<String>> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("/api/v1/nodes/{}/proxy/images", encode(node)))
        .header(http::header::CONTENT_TYPE, "application/x-tar")
        .body(Body::from(tar))?;
    let response = session.client.send(request).await?;
    let status = response.status();
    let answer = response.into_body().collect_bytes().await?;
    let text = String::from_utf8_lossy(&answer);
    if !status.is_success() {
        bail!("the server answered {status}: {}", text.trim());
    }
    outcome(text.lines().last().unwrap_or_default())
}

/// The names of the images that were loaded, or why none were.
fn outcome(line: &str) -> anyhow::Result<Vec<String>> {
    let said: Value = serde_json::from_str(line).context("the node did not say how it went")?;
    if let Some(error) = said["error"].as_str() {
        bail!("{error}");
    }
    let names = said["loaded"].as_array().into_iter().flatten();
    Ok(names.filter_map(|name| name.as_str().map(str::to_owned)).collect())
}

async fn list(session: &Session, nodes: &[String]) -> anyhow::Result<()> {
    let answers: Vec<(&String, anyhow::Result<Value>)> = futures::stream::iter(nodes)
        .map(async |node| {
            (node, session.get(&format!("/api/v1/nodes/{}/proxy/images", encode(node))).await)
        })
        .buffered(8)
        .collect()
        .await;
    let mut known = Vec::new();
    let mut failures = Failures::default();
    for (node, answer) in answers {
        match answer {
            Ok(answer) => known.push((node.as_str(), answer)),
            Err(error) => failures.add(format!("images of node {node} are not listed"), &error),
        }
    }
    print!("{}", columns(&rows(&known)));
    failures.result()
}

/// One row per image, with the nodes that have it.
fn rows(known: &[(&str, Value)]) -> Vec<Vec<String>> {
    let mut found: BTreeMap<(String, String), (u64, Vec<&str>)> = BTreeMap::new();
    for (node, answer) in known {
        for image in answer["images"].as_array().into_iter().flatten() {
            let id = image["id"].as_str().unwrap_or_default().trim_start_matches("sha256:");
            let id: String = id.chars().take(12).collect();
            let size = image["size"].as_u64().unwrap_or_default();
            for name in image["names"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                let entry = found.entry((name.to_owned(), id.clone())).or_default();
                entry.0 = size;
                entry.1.push(node);
            }
        }
    }
    let header = ["IMAGE", "IMAGE ID", "SIZE", "NODES"].map(str::to_owned).to_vec();
    let rows = found.into_iter().map(|((name, id), (size, nodes))| {
        vec![name, id, format!("{:.1}MB", size as f64 / 1e6), nodes.join(",")]
    });
    std::iter::once(header).chain(rows).collect()
}

async fn remove(session: &Session, nodes: &[String], names: &[String]) -> anyhow::Result<()> {
    let mut failures = Failures::default();
    for name in names {
        let mut found = false;
        for node in nodes {
            let uri = format!("/api/v1/nodes/{}/proxy/images?name={}", encode(node), encode(name));
            let request = Request::delete(uri).body(Vec::new())?;
            match session.client.request_text(request).await {
                Ok(_) => {
                    found = true;
                    println!("{name} removed from node/{node}");
                }
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => {
                    found = true;
                    failures.add(format!("{name} is not removed from node {node}"), &error.into());
                }
            }
        }
        if !found {
            failures.0.push(format!("no node has an image {name}"));
        }
    }
    failures.result()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, ready: &str) -> Value {
        json!({"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": ready}]}})
    }

    #[test]
    fn nodes_are_all_that_are_ready_or_those_asked_for() {
        let nodes = [node("a", "True"), node("b", "Unknown"), node("c", "True")];
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let cases = [
            (names(&[]), Some((names(&["a", "c"]), names(&["b"])))),
            (names(&["c"]), Some((names(&["c"]), names(&[])))),
            (names(&["d"]), None),
        ];
        for (wanted, expected) in cases {
            assert_eq!(plan_nodes(&nodes, &wanted).ok(), expected, "{wanted:?}");
        }
    }

    #[test]
    fn an_image_is_one_row_with_its_nodes() {
        let image = |id: &str| json!({"images": [{"id": format!("sha256:{id}"), "names": ["web:1"], "size": 1_500_000}]});
        let known = [("a", image("1")), ("b", image("1")), ("c", image("2"))];
        let rows = rows(&known);
        assert_eq!(rows[1], ["web:1", "1", "1.5MB", "a,b"]);
        assert_eq!(rows[2], ["web:1", "2", "1.5MB", "c"]);
    }

    #[test]
    fn all_failures_are_told_in_the_nodes_own_words() {
        let mut failures = Failures::default();
        failures.add("a is not loaded".into(), &anyhow::anyhow!("no space").context("tar"));
        let status = kube::core::Status::failure("in use\n", "Failed to parse error data");
        failures.add("b is not removed".into(), &kube::Error::Api(status.boxed()).into());
        let told = failures.result().unwrap_err().to_string();
        assert_eq!(told, "a is not loaded: tar: no space; b is not removed: in use");
        assert!(Failures::default().result().is_ok());
    }

    #[test]
    fn a_node_says_how_it_went() {
        assert_eq!(outcome(r#"{"loaded":["a:1"]}"#).unwrap(), ["a:1"]);
        assert_eq!(outcome(r#"{"error":"no space"}"#).unwrap_err().to_string(), "no space");
        assert!(outcome("").is_err());
    }
}
