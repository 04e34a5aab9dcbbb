//! `logs`: prints what containers have said.

use anyhow::{Context, bail};
use futures::{AsyncBufReadExt, AsyncReadExt, TryStreamExt};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use super::args::LogsArgs;
use super::connect::Session;
use super::discover::{Kind, encode};
use super::target;

pub(super) async fn run(session: &Session, args: LogsArgs) -> anyhow::Result<()> {
    let kind = session.kinds().await?.find("pods")?;
    let pods = match (&args.target, &args.selector) {
        (Some(word), None) => vec![target::pod(session, word).await?],
        (None, Some(selector)) => {
            let path = format!(
                "{}?labelSelector={}",
                kind.path(Some(&session.namespace)),
                encode(selector)
            );
            let found = target::items(session.get(&path).await?);
            if found.is_empty() {
                bail!("no pods have the labels {selector}");
            }
            found
        }
        _ => bail!("name a pod, or select pods with -l"),
    };
    let mut sources = Vec::new();
    for pod in &pods {
        for container in containers(&args, pod) {
            sources.push((name(pod)?, container));
        }
    }
    if args.follow && sources.len() > 1 {
        let streams = sources
            .iter()
            .map(|(pod, container)| print(session, kind, &args, pod, container.as_deref()));
        return futures::future::try_join_all(streams).await.map(drop);
    }
    for (pod, container) in &sources {
        print(session, kind, &args, pod, container.as_deref()).await?;
    }
    Ok(())
}

fn name(pod: &Value) -> anyhow::Result<String> {
    Ok(pod["metadata"]["name"].as_str().context("the pod has no name")?.to_owned())
}

/// The containers to print; `None` leaves the choice to the server.
fn containers(args: &LogsArgs, pod: &Value) -> Vec<Option<String>> {
    if args.all_containers {
        let lists = ["initContainers", "containers"].map(|list| pod["spec"][list].as_array());
        let named = lists.into_iter().flatten().flatten();
        return named
            .filter_map(|container| container["name"].as_str())
            .map(|name| Some(name.to_owned()))
            .collect();
    }
    let annotated =
        pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
    vec![
        args.container
            .clone()
            .or_else(|| args.container_word.clone())
            .or_else(|| annotated.map(str::to_owned)),
    ]
}

async fn print(
    session: &Session,
    kind: &Kind,
    args: &LogsArgs,
    pod: &str,
    container: Option<&str>,
) -> anyhow::Result<()> {
    let path =
        format!("{}/log?{}", kind.object_path(&session.namespace, pod), query(args, container)?);
    let mut stream = session.stream(&path, "*/*").await?;
    let mut stdout = tokio::io::stdout();
    if args.prefix {
        let prefix = format!("[pod/{pod}/{}] ", container.unwrap_or_default());
        let mut lines = stream.lines();
        while let Some(line) = lines.try_next().await? {
            stdout.write_all(format!("{prefix}{line}\n").as_bytes()).await?;
        }
        return Ok(stdout.flush().await?);
    }
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        stdout.write_all(&buffer[..length]).await?;
        stdout.flush().await?;
    }
}

fn query(args: &LogsArgs, container: Option<&str>) -> anyhow::Result<String> {
    // One of many pods is shown by its end, one alone whole.
    let tail = args.tail.or(args.selector.is_some().then_some(10)).filter(|lines| *lines >= 0);
    let since = args.since.as_deref().map(seconds).transpose()?;
    let pairs = [
        ("container", container.map(encode)),
        ("follow", args.follow.then(|| "true".into())),
        ("previous", args.previous.then(|| "true".into())),
        ("timestamps", args.timestamps.then(|| "true".into())),
        ("tailLines", tail.map(|lines| lines.to_string())),
        ("sinceSeconds", since.map(|seconds| seconds.to_string())),
        ("sinceTime", args.since_time.as_deref().map(encode)),
        ("limitBytes", args.limit_bytes.map(|bytes| bytes.to_string())),
    ];
    let set: Vec<String> =
        pairs.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", value?))).collect();
    Ok(set.join("&"))
}

/// Reads `90s`, `5m`, `1h30m`, rounded up to whole seconds.
pub(super) fn seconds(text: &str) -> anyhow::Result<u64> {
    let wrong = || format!("{text:?} is not a duration such as 30s, 5m or 1h30m");
    let mut total = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits =
            rest.find(|character: char| !character.is_ascii_digit()).with_context(wrong)?;
        let number: u64 = rest[..digits].parse().with_context(wrong)?;
        rest = &rest[digits..];
        let (factor, length) = match rest {
            _ if rest.starts_with("ms") => (0, 2),
            _ if rest.starts_with('s') => (1, 1),
            _ if rest.starts_with('m') => (60, 1),
            _ if rest.starts_with('h') => (3600, 1),
            _ => bail!(wrong()),
        };
        total += if factor == 0 { number.div_ceil(1000) } else { number * factor };
        rest = &rest[length..];
    }
    if text.is_empty() { bail!(wrong()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expected) in
            [("30s", 30), ("5m", 300), ("1h30m", 5400), ("1500ms", 2), ("0s", 0)]
        {
            assert_eq!(seconds(text).unwrap(), expected, "{text}");
        }
        for text in ["", "5", "m", "-1s", "1d"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
