//! `run`: one pod from an image.

use anyhow::{Context, bail};
use http::Method;
use serde_json::{Map, Value, json};

use super::args::RunArgs;
use super::connect::Session;
use super::output::Format;

pub(super) async fn run(session: &Session, args: RunArgs) -> anyhow::Result<()> {
    let pod = plan_pod(&args)?;
    let pods = session.kinds().await?.find("pods")?;
    let created = match args.dry_run.as_str() {
        "client" => pod,
        mode => {
            let query = if mode == "server" { "?dryRun=All" } else { "" };
            session
                .call(
                    Method::POST,
                    &format!("{}{query}", pods.path(Some(&session.namespace))),
                    Some(&pod),
                )
                .await?
        }
    };
    match &args.output {
        Some(output) => Format::parse(Some(output))?.print(vec![(pods.clone(), created)], true),
        None => {
            println!(
                "pod/{} created{}",
                args.name,
                if args.dry_run == "none" { "" } else { " (dry run)" }
            );
            Ok(())
        }
    }
}

fn plan_pod(args: &RunArgs) -> anyhow::Result<Value> {
    if args.image.is_empty() {
        bail!("--image is required");
    }
    let labels = match &args.labels {
        Some(text) => text
            .split(',')
            .map(|pair| {
                pair.split_once('=')
                    .map(|(key, value)| (key.to_owned(), value.into()))
                    .with_context(|| format!("{pair:?} is not key=value"))
            })
            .collect::<anyhow::Result<Map<String, Value>>>()?,
        None => Map::from_iter([("run".to_owned(), args.name.clone().into())]),
    };
    let mut container = json!({"name": args.name, "image": args.image});
    let env = args
        .env
        .iter()
        .map(|pair| {
            pair.split_once('=')
                .map(|(name, value)| json!({"name": name, "value": value}))
                .with_context(|| format!("{pair:?} is not NAME=VALUE"))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    if !env.is_empty() {
        container["env"] = env.into();
    }
    if let Some(port) = args.port {
        container["ports"] = json!([{"containerPort": port}]);
    }
    if !args.words.is_empty() {
        container[if args.command { "command" } else { "args" }] = json!(args.words);
    }
    if let Some(policy) = &args.image_pull_policy {
        container["imagePullPolicy"] = policy.clone().into();
    }
    Ok(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": args.name, "labels": labels},
        "spec": {"containers": [container], "restartPolicy": args.restart}
    }))
}
