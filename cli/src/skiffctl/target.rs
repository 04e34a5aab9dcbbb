//! What a command names: `TYPE NAME…`, `TYPE/NAME…`, or just `TYPE`.

use anyhow::{Context, bail};
use serde_json::Value;

use super::connect::Session;
use super::discover::{Kind, encode};

/// A kind, and one of its objects or all of them.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) kind: Kind,
    pub(super) name: Option<String>,
}

/// Understands the words of a command.
pub(super) async fn parse(session: &Session, words: &[String]) -> anyhow::Result<Vec<Target>> {
    let kinds = session.kinds().await?;
    if words.iter().any(|word| word.contains('/')) {
        return words
            .iter()
            .map(|word| {
                let (kind, name) = word.split_once('/').with_context(|| {
                    format!("{word:?} is not TYPE/NAME, as the other words are")
                })?;
                if name.is_empty() || name.contains('/') {
                    bail!("{word:?} is not TYPE/NAME");
                }
                Ok(Target { kind: kinds.find(kind)?.clone(), name: Some(name.to_owned()) })
            })
            .collect();
    }
    let Some((types, names)) = words.split_first() else {
        bail!("you must say what; a type such as `pods`, or TYPE/NAME");
    };
    let mut targets = Vec::new();
    for word in types.split(',').filter(|word| !word.is_empty()) {
        for kind in kinds.expand(word)? {
            if names.is_empty() {
                targets.push(Target { kind: kind.clone(), name: None });
            }
            targets.extend(
                names.iter().map(|name| Target { kind: kind.clone(), name: Some(name.clone()) }),
            );
        }
    }
    Ok(targets)
}

/// The same, where every word has to name an object.
pub(super) async fn parse_named(
    session: &Session,
    words: &[String],
) -> anyhow::Result<Vec<(Kind, String)>> {
    let targets = parse(session, words).await?;
    targets
        .into_iter()
        .map(|target| {
            let name = target
                .name
                .with_context(|| format!("name the {} that is meant", target.kind.singular))?;
            Ok((target.kind, name))
        })
        .collect()
}

/// The one object that the words name.
pub(super) async fn parse_one(
    session: &Session,
    words: &[String],
) -> anyhow::Result<(Kind, String)> {
    let mut named = parse_named(session, words).await?;
    match (named.pop(), named.is_empty()) {
        (Some(one), true) => Ok(one),
        _ => bail!("name exactly one object"),
    }
}

/// A pod by a word: its name, or TYPE/NAME of what owns it.
pub(super) async fn pod(session: &Session, word: &str) -> anyhow::Result<Value> {
    let kinds = session.kinds().await?;
    let pods = kinds.find("pods")?;
    let Some((kind, name)) = word.split_once('/') else {
        return session.get(&pods.object_path(&session.namespace, word)).await;
    };
    let kind = kinds.find(kind)?;
    let object = session.get(&kind.object_path(&session.namespace, name)).await?;
    if kind.plural == "pods" {
        return Ok(object);
    }
    let selector = selector_of(&object).with_context(|| format!("{word} selects no pods"))?;
    let path =
        format!("{}?labelSelector={}", pods.path(Some(&session.namespace)), encode(&selector));
    let mut found = items(session.get(&path).await?);
    // One that runs is more useful than one that waits.
    found.sort_by_key(|pod| pod["status"]["phase"] != "Running");
    found.into_iter().next().with_context(|| format!("no pods of {word} found"))
}

/// The items of a list.
pub(super) fn items(list: Value) -> Vec<Value> {
    match list {
        Value::Object(mut list) => match list.remove("items") {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// The label selector of a workload or a service, as text.
pub(super) fn selector_of(object: &Value) -> Option<String> {
    let selector = &object["spec"]["selector"];
    // Services and replication controllers have the labels themselves there.
    let labels = selector.get("matchLabels").unwrap_or(selector).as_object()?;
    let terms: Vec<String> = labels
        .iter()
        .filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)))
        .collect();
    (!terms.is_empty()).then(|| terms.join(","))
}
