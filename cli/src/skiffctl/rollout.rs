//! `rollout`: watches and steers the rollouts of deployments.

use std::time::Duration;

use anyhow::{Context, bail};
use futures::{AsyncBufReadExt, TryStreamExt};
use http::Method;
use serde_json::{Value, json};

use super::args::{RolloutArgs, RolloutCommand};
use super::connect::Session;
use super::discover::{Kind, encode};
use super::{logs, output, target};

/// Numbers the revisions of a deployment, on it and on its replica sets.
const REVISION: &str = "deployment.kubernetes.io/revision";
/// Tells the template of one replica set from that of another; not a part of
/// what a person wrote.
const TEMPLATE_HASH: &str = "pod-template-hash";

pub(super) async fn run(session: &Session, args: RolloutArgs) -> anyhow::Result<()> {
    match args.command {
        RolloutCommand::Status { targets, timeout, watch } => {
            let seconds = logs::seconds(&timeout)?;
            let waited = status(session, &targets, watch);
            if seconds == 0 {
                return waited.await;
            }
            let limit = Duration::from_secs(seconds);
            tokio::time::timeout(limit, waited)
                .await
                .context("timed out waiting for the condition")?
        }
        RolloutCommand::History { targets, revision } => history(session, &targets, revision).await,
        RolloutCommand::Undo { targets, to_revision } => undo(session, &targets, to_revision).await,
        RolloutCommand::Restart { targets } => {
            let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let annotations = json!({"kubectl.kubernetes.io/restartedAt": now});
            let patch = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
            change(session, &targets, "restarted", |_| Ok(patch.clone())).await
        }
        RolloutCommand::Pause { targets } => {
            change(session, &targets, "paused", |object| pause(object, true)).await
        }
        RolloutCommand::Resume { targets } => {
            change(session, &targets, "resumed", |object| pause(object, false)).await
        }
    }
}

fn pause(object: &Value, wanted: bool) -> anyhow::Result<Value> {
    if object["spec"]["paused"].as_bool().unwrap_or(false) == wanted {
        bail!(
            "{} is {} already",
            object["metadata"]["name"],
            if wanted { "paused" } else { "not paused" }
        );
    }
    Ok(json!({"spec": {"paused": wanted}}))
}

async fn change(
    session: &Session,
    targets: &[String],
    done: &str,
    patch: impl Fn(&Value) -> anyhow::Result<Value>,
) -> anyhow::Result<()> {
    for (kind, name) in target::parse_named(session, targets).await? {
        let path = kind.object_path(&session.namespace, &name);
        let patch = patch(&session.get(&path).await?)?;
        session.call(Method::PATCH, &path, Some(&patch)).await?;
        println!("{}/{name} {done}", kind.full_singular());
    }
    Ok(())
}

async fn status(session: &Session, targets: &[String], watch: bool) -> anyhow::Result<()> {
    let (kind, name) = target::parse_one(session, targets).await?;
    only_deployments(&kind)?;
    let path = format!(
        "{}?fieldSelector={}",
        kind.path(Some(&session.namespace)),
        encode(&format!("metadata.name={name}"))
    );
    let mut said = String::new();
    loop {
        let list = session.get(&path).await?;
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        let Some(object) = target::items(list).into_iter().next() else {
            // The server's own words for an object that is not there.
            return session.get(&kind.object_path(&session.namespace, &name)).await.map(drop);
        };
        if report(&object, &mut said)? || !watch {
            return Ok(());
        }
        let stream = session
            .stream(&format!("{path}&watch=true&resourceVersion={version}"), "application/json")
            .await?;
        let mut lines = stream.lines();
        while let Some(line) = lines.try_next().await? {
            let event: Value = serde_json::from_str(&line)?;
            match event["type"].as_str() {
                Some("DELETED") => bail!("{name} was deleted"),
                // History moved on; look anew.
                Some("ERROR") => break,
                Some("BOOKMARK") => {}
                _ => {
                    if report(&event["object"], &mut said)? {
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// Says what is new; true when the rollout is complete.
fn report(deployment: &Value, said: &mut String) -> anyhow::Result<bool> {
    let (message, done) = progress(deployment)?;
    if message != *said {
        println!("{message}");
        *said = message;
    }
    Ok(done)
}

/// How far a deployment's rollout is, in `kubectl`'s words.
fn progress(deployment: &Value) -> anyhow::Result<(String, bool)> {
    let name = deployment["metadata"]["name"].as_str().unwrap_or_default();
    let status = &deployment["status"];
    let number = |value: &Value| value.as_i64().unwrap_or(0);
    if number(&deployment["metadata"]["generation"]) > number(&status["observedGeneration"]) {
        return Ok(("Waiting for deployment spec update to be observed...".into(), false));
    }
    let late = status["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|condition| condition["reason"] == "ProgressDeadlineExceeded");
    if late {
        bail!("deployment {name:?} exceeded its progress deadline");
    }
    let wanted = deployment["spec"]["replicas"].as_i64().unwrap_or(1);
    let (updated, total, available) = (
        number(&status["updatedReplicas"]),
        number(&status["replicas"]),
        number(&status["availableReplicas"]),
    );
    let waiting = format!("Waiting for deployment {name:?} rollout to finish:");
    Ok(if updated < wanted {
        (format!("{waiting} {updated} out of {wanted} new replicas have been updated..."), false)
    } else if total > updated {
        (format!("{waiting} {} old replicas are pending termination...", total - updated), false)
    } else if available < updated {
        (format!("{waiting} {available} of {updated} updated replicas are available..."), false)
    } else {
        (format!("deployment {name:?} successfully rolled out"), true)
    })
}

fn only_deployments(kind: &Kind) -> anyhow::Result<()> {
    if kind.full_plural() != "deployments.apps" {
        bail!("rollouts of {} are not supported; only those of deployments", kind.plural);
    }
    Ok(())
}

/// The replica sets of a deployment by revision, oldest first.
async fn revisions(
    session: &Session,
    kind: &Kind,
    name: &str,
) -> anyhow::Result<(Value, Vec<(i64, Value)>)> {
    only_deployments(kind)?;
    let deployment = session.get(&kind.object_path(&session.namespace, name)).await?;
    let selector = target::selector_of(&deployment).unwrap_or_default();
    let sets = session.kinds().await?.find("replicasets.apps")?;
    let list = session
        .get(&format!(
            "{}?labelSelector={}",
            sets.path(Some(&session.namespace)),
            encode(&selector)
        ))
        .await?;
    let owned = |set: &Value| {
        let owners = set["metadata"]["ownerReferences"].as_array();
        owners.into_iter().flatten().any(|owner| owner["uid"] == deployment["metadata"]["uid"])
    };
    let mut found: Vec<(i64, Value)> = target::items(list)
        .into_iter()
        .filter(owned)
        .filter_map(|set| Some((revision_of(&set)?, set)))
        .collect();
    found.sort_by_key(|(revision, _)| *revision);
    Ok((deployment, found))
}

fn revision_of(object: &Value) -> Option<i64> {
    object["metadata"]["annotations"][REVISION].as_str()?.parse().ok()
}

async fn history(
    session: &Session,
    targets: &[String],
    revision: Option<i64>,
) -> anyhow::Result<()> {
    let (kind, name) = target::parse_one(session, targets).await?;
    let (_, revisions) = revisions(session, &kind, &name).await?;
    println!("{}/{name} ", kind.full_singular());
    if let Some(wanted) = revision {
        let found = revisions.into_iter().find(|(revision, _)| *revision == wanted);
        let (_, set) =
            found.with_context(|| format!("unable to find the specified revision {wanted}"))?;
        println!("with revision #{wanted}");
        print!("{}", serde_yaml::to_string(&set["spec"]["template"])?);
        return Ok(());
    }
    let mut rows = vec![vec!["REVISION".to_owned(), "CHANGE-CAUSE".to_owned()]];
    for (revision, set) in revisions {
        let cause = set["metadata"]["annotations"]["kubernetes.io/change-cause"]
            .as_str()
            .unwrap_or("<none>");
        rows.push(vec![revision.to_string(), cause.to_owned()]);
    }
    print!("{}", output::columns(&rows));
    Ok(())
}

async fn undo(session: &Session, targets: &[String], to_revision: i64) -> anyhow::Result<()> {
    let (kind, name) = target::parse_one(session, targets).await?;
    let (deployment, revisions) = revisions(session, &kind, &name).await?;
    if deployment["spec"]["paused"] == true {
        bail!(
            "you cannot rollback a paused deployment; resume it first with 'skiffctl rollout resume' and try again"
        );
    }
    let set = plan_undo(&deployment, &revisions, to_revision)?;
    let mut template = set["spec"]["template"].clone();
    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
        labels.remove(TEMPLATE_HASH);
    }
    let path = kind.object_path(&session.namespace, &name);
    // The whole template is replaced: fields that the old one lacked must go.
    let patch = json!([{"op": "replace", "path": "/spec/template", "value": template}]);
    let changed = session.patch(&path, "application/json-patch+json", &patch).await?;
    let same = changed["metadata"]["generation"] == deployment["metadata"]["generation"];
    println!(
        "{}/{name} {}",
        kind.full_singular(),
        if same { "skipped rollback (current template already matches)" } else { "rolled back" }
    );
    Ok(())
}

/// The replica set to go back to: the one of `to_revision`, or for 0 the one
/// before the current.
fn plan_undo<'a>(
    deployment: &Value,
    revisions: &'a [(i64, Value)],
    to_revision: i64,
) -> anyhow::Result<&'a Value> {
    let current =
        revision_of(deployment).or(revisions.last().map(|(revision, _)| *revision)).unwrap_or(0);
    let found = match to_revision {
        0 => revisions.iter().rev().find(|(revision, _)| *revision < current),
        wanted => revisions.iter().find(|(revision, _)| *revision == wanted),
    };
    match found {
        Some((_, set)) => Ok(set),
        None if to_revision == 0 => {
            bail!("no rollout history found for deployment {}", deployment["metadata"]["name"])
        }
        None => bail!("unable to find specified revision {to_revision} in history"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_in_kubectls_words() {
        let deployment = |observed: i64, updated: i64, total: i64, available: i64| {
            json!({"metadata": {"name": "web", "generation": 2}, "spec": {"replicas": 3}, "status": {
                "observedGeneration": observed, "updatedReplicas": updated, "replicas": total, "availableReplicas": available}})
        };
        let cases = [
            (deployment(1, 3, 3, 3), "Waiting for deployment spec update to be observed...", false),
            (
                deployment(2, 1, 4, 3),
                "Waiting for deployment \"web\" rollout to finish: 1 out of 3 new replicas have been updated...",
                false,
            ),
            (
                deployment(2, 3, 4, 3),
                "Waiting for deployment \"web\" rollout to finish: 1 old replicas are pending termination...",
                false,
            ),
            (
                deployment(2, 3, 3, 2),
                "Waiting for deployment \"web\" rollout to finish: 2 of 3 updated replicas are available...",
                false,
            ),
            (deployment(2, 3, 3, 3), "deployment \"web\" successfully rolled out", true),
        ];
        for (object, message, done) in cases {
            assert_eq!(progress(&object).unwrap(), (message.to_owned(), done));
        }
        let mut late = deployment(2, 1, 4, 3);
        late["status"]["conditions"] =
            json!([{"type": "Progressing", "reason": "ProgressDeadlineExceeded"}]);
        assert!(progress(&late).is_err());
    }

    #[test]
    fn undo_finds_the_revision() {
        let set = |revision: i64| {
            (revision, json!({"metadata": {"annotations": {REVISION: revision.to_string()}}}))
        };
        let (_, deployment) = set(4);
        let revisions = [set(1), set(3), set(4)];
        let undo = |to: i64| plan_undo(&deployment, &revisions, to).ok().and_then(revision_of);
        assert_eq!(undo(0), Some(3));
        assert_eq!(undo(1), Some(1));
        assert_eq!(undo(2), None);
        assert!(plan_undo(&deployment, &revisions[2..], 0).is_err());
    }
}
