//! `delete`: removes objects, and waits until they are gone.

use anyhow::bail;
use futures::{AsyncBufReadExt, TryStreamExt};
use http::Method;
use serde_json::{Value, json};

use super::args::DeleteArgs;
use super::connect::Session;
use super::discover::{Kind, encode};
use super::get::is_not_found;
use super::{manifest, target};

/// One object to delete.
struct Doomed {
    kind: Kind,
    namespace: String,
    name: String,
}

pub(super) async fn run(session: &Session, args: DeleteArgs) -> anyhow::Result<()> {
    if args.force && args.grace_period.is_some_and(|seconds| seconds > 0) {
        bail!("--force and a --grace-period greater than 0 cannot go together");
    }
    let doomed = doomed(session, &args).await?;
    if doomed.is_empty() {
        println!("No resources found");
    }
    let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy(&args.cascade)});
    if let Some(seconds) = args.grace_period.or(args.force.then_some(0)) {
        options["gracePeriodSeconds"] = seconds.into();
    }
    let mut failed = None;
    let mut going = Vec::new();
    for object in doomed {
        let path = object.kind.object_path(&object.namespace, &object.name);
        match session.call(Method::DELETE, &path, Some(&options)).await {
            Ok(answer) => {
                println!(
                    "{} {:?} {}deleted",
                    object.kind.full_singular(),
                    object.name,
                    if args.force { "force " } else { "" }
                );
                going.push((object, answer));
            }
            Err(error) if args.ignore_not_found && is_not_found(&error) => {}
            Err(error) => {
                if let Some(earlier) = failed.replace(error) {
                    eprintln!("{}", super::explain(&earlier));
                }
            }
        }
    }
    if args.wait && !args.force {
        for (object, answer) in &going {
            wait_until_gone(session, object, answer).await?;
        }
    }
    failed.map_or(Ok(()), Err)
}

fn policy(cascade: &str) -> &'static str {
    match cascade {
        "foreground" => "Foreground",
        "orphan" => "Orphan",
        _ => "Background",
    }
}

async fn doomed(session: &Session, args: &DeleteArgs) -> anyhow::Result<Vec<Doomed>> {
    let kinds = session.kinds().await?;
    if !args.files.filename.is_empty() {
        return manifest::load(&args.files)?
            .iter()
            .map(|object| {
                let metadata = &object["metadata"];
                let Some(name) = metadata["name"].as_str() else {
                    bail!("an object has no metadata.name")
                };
                let namespace = metadata["namespace"].as_str().unwrap_or(&session.namespace);
                Ok(Doomed {
                    kind: kinds.of(object)?.clone(),
                    namespace: namespace.into(),
                    name: name.into(),
                })
            })
            .collect();
    }
    let mut doomed = Vec::new();
    for target in target::parse(session, &args.targets).await? {
        if let Some(name) = target.name {
            if args.selector.is_some() || args.all {
                bail!("a name, and a selector or --all, cannot go together");
            }
            doomed.push(Doomed { kind: target.kind, namespace: session.namespace.clone(), name });
            continue;
        }
        if args.selector.is_none() && !args.all {
            bail!("name the {} to delete, or select them with -l or --all", target.kind.plural);
        }
        let namespace = (!args.all_namespaces).then_some(session.namespace.as_str());
        let query =
            args.selector.as_ref().map(|selector| format!("?labelSelector={}", encode(selector)));
        let list = session
            .get(&format!("{}{}", target.kind.path(namespace), query.unwrap_or_default()))
            .await?;
        doomed.extend(target::items(list).iter().map(|item| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let metadata = &item["metadata"];
            Doomed {
                kind: target.kind.clone(),
                namespace: text(&metadata["namespace"]),
                name: text(&metadata["name"]),
            }
        }));
    }
    Ok(doomed)
}

/// Watches the object from where the deletion left it. One that was deleted
/// at once, or has another uid by now, is gone.
async fn wait_until_gone(session: &Session, object: &Doomed, answer: &Value) -> anyhow::Result<()> {
    let uid = answer["metadata"]["uid"]
        .as_str()
        .or(answer["details"]["uid"].as_str())
        .unwrap_or_default();
    loop {
        let field = encode(&format!("metadata.name={}", object.name));
        let path = format!("{}?fieldSelector={field}", object.kind.path(Some(&object.namespace)));
        let list = session.get(&path).await?;
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        if !target::items(list).iter().any(|item| item["metadata"]["uid"] == uid) {
            return Ok(());
        }
        let stream = session
            .stream(&format!("{path}&watch=true&resourceVersion={version}"), "application/json")
            .await?;
        let mut lines = stream.lines();
        while let Some(line) = lines.try_next().await? {
            let event: Value = serde_json::from_str(&line)?;
            match event["type"].as_str() {
                Some("DELETED") => return Ok(()),
                // History moved on; look anew.
                Some("ERROR") => break,
                _ => {}
            }
        }
    }
}
