//! `apply`: creates what is missing, and changes what differs from the files.
//!
//! Three-way: what the files said last time is kept in an annotation, so that
//! a field taken out of a file is taken out of the object, while fields that
//! others have set stay. With `--server-side` the server does all that.

mod server_side;

use anyhow::{Context, bail};
use http::Method;
use serde_json::{Value, json};
use skiff_api::catalogue;
use skiff_api::patch::three_way;

use super::args::ApplyArgs;
use super::connect::Session;
use super::discover::Kind;
use super::get::is_not_found;
use super::manifest;
use super::output::Format;

/// Where the last applied manifest is kept; `kubectl` keeps it there too.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Whom the fields belong to that are applied here.
const CLIENT_SIDE: &str = "skiffctl-client-side-apply";
/// A conflict means that somebody wrote between read and patch; look again.
const ATTEMPTS: u32 = 5;

pub(super) async fn run(session: &Session, args: ApplyArgs) -> anyhow::Result<()> {
    if args.files.filename.is_empty() {
        bail!("must specify one of -f; name the files to apply");
    }
    if args.server_side && args.dry_run == "client" {
        bail!("--dry-run=client says nothing of --server-side; use --dry-run=server");
    }
    let format = args.output.as_deref().map(|output| Format::parse(Some(output))).transpose()?;
    let objects = manifest::load(&args.files)?;
    let kinds = session.kinds().await?;
    // Everything is understood before anything is changed.
    let planned = objects
        .into_iter()
        .map(|object| {
            let kind = kinds.of(&object)?.clone();
            if object["metadata"]["name"].as_str().is_none_or(str::is_empty) {
                bail!("a {} has no metadata.name", kind.kind);
            }
            Ok((kind, object))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut failed = 0;
    let mut printed = Vec::new();
    for (kind, object) in planned {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        match apply(session, &args, &kind, object).await {
            Ok((what, live)) => match &format {
                None => println!("{}/{name} {what}{}", kind.full_singular(), dry(&args.dry_run)),
                Some(_) => printed.push((kind, live)),
            },
            // One refused object must not keep the others out.
            Err(error) => {
                failed += 1;
                eprintln!("{}", super::explain(&error));
            }
        }
    }
    if let Some(format) = format {
        let alone = printed.len() == 1;
        format.print(printed, alone)?;
    }
    if failed > 0 {
        bail!("{failed} of the objects could not be applied");
    }
    Ok(())
}

fn dry(mode: &str) -> &'static str {
    match mode {
        "client" => " (dry run)",
        "server" => " (server dry run)",
        _ => "",
    }
}

/// What was done, and the object as it is then.
async fn apply(
    session: &Session,
    args: &ApplyArgs,
    kind: &Kind,
    mut wanted: Value,
) -> anyhow::Result<(&'static str, Value)> {
    let namespace =
        wanted["metadata"]["namespace"].as_str().unwrap_or(&session.namespace).to_owned();
    let name = wanted["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if kind.namespaced && wanted["metadata"]["namespace"].is_null() {
        wanted["metadata"]["namespace"] = namespace.clone().into();
    }
    let path = kind.object_path(&namespace, &name);
    if args.server_side {
        let applied = server_side::apply(session, args, kind, &path, &wanted).await?;
        return Ok(("serverside-applied", applied));
    }
    annotate(&mut wanted)?;
    let query = options(args, args.field_manager.as_deref().unwrap_or(CLIENT_SIDE));
    for attempt in 1.. {
        let live = match session.get(&path).await {
            Ok(live) => live,
            Err(error) if is_not_found(&error) => {
                if args.dry_run == "client" {
                    return Ok(("created", wanted));
                }
                let created = session
                    .call(
                        Method::POST,
                        &format!("{}{query}", kind.path(Some(&namespace))),
                        Some(&wanted),
                    )
                    .await?;
                return Ok(("created", created));
            }
            Err(error) => return Err(error),
        };
        let (patch, content_type) = plan_patch(kind, &wanted, &live)?;
        if patch.as_object().is_some_and(serde_json::Map::is_empty) {
            return Ok(("unchanged", live));
        }
        if args.dry_run == "client" {
            return Ok(("configured", wanted));
        }
        match session.patch(&format!("{path}{query}"), content_type, &patch).await {
            Ok(changed) => {
                let same =
                    changed["metadata"]["resourceVersion"] == live["metadata"]["resourceVersion"];
                return Ok((if same { "unchanged" } else { "configured" }, changed));
            }
            Err(error) if attempt < ATTEMPTS && is_conflict(&error) => {}
            Err(error) => return Err(error),
        }
    }
    bail!("others keep changing {}/{name}; try again", kind.full_singular())
}

/// The options of a write, as a query.
fn options(args: &ApplyArgs, manager: &str) -> String {
    let validation = match args.validate.as_str() {
        "ignore" | "false" => "Ignore",
        "warn" => "Warn",
        _ => "Strict",
    };
    let dry_run = if args.dry_run == "server" { "&dryRun=All" } else { "" };
    let mut query = form_urlencoded::Serializer::for_suffix("?".to_owned(), 1);
    query.append_pair("fieldManager", manager).append_pair("fieldValidation", validation);
    query.finish() + dry_run
}

fn is_conflict(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<kube::Error>(), Some(kube::Error::Api(status)) if status.code == 409)
}

/// Writes the manifest into its own annotation, letter for letter as `kubectl`
/// does, so that the two find nothing to change after one another.
fn annotate(wanted: &mut Value) -> anyhow::Result<()> {
    let metadata = wanted["metadata"].as_object_mut().context("metadata is not a mapping")?;
    let annotations = metadata.entry("annotations").or_insert(Value::Null);
    if annotations.is_null() {
        *annotations = json!({});
    }
    let annotations =
        annotations.as_object_mut().context("metadata.annotations is not a mapping")?;
    annotations.remove(LAST_APPLIED);
    let text = go_json(wanted)? + "\n";
    wanted["metadata"]["annotations"][LAST_APPLIED] = text.into();
    Ok(())
}

/// JSON as Go's encoder writes it: keys sorted, and the characters that matter
/// in HTML escaped.
fn go_json(value: &Value) -> anyhow::Result<String> {
    let mut sorted = value.clone();
    sorted.sort_all_objects();
    let text = serde_json::to_string(&sorted)?;
    // Outside of strings these characters do not occur in JSON.
    Ok(text
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029"))
}

/// The patch from the live object to the wanted one, and its content type: a
/// strategic merge where the kind's type is known, a merge patch elsewhere.
fn plan_patch(kind: &Kind, wanted: &Value, live: &Value) -> anyhow::Result<(Value, &'static str)> {
    let last = live["metadata"]["annotations"][LAST_APPLIED].as_str();
    let original: Value = match last {
        Some(text) => serde_json::from_str(text)
            .context("the annotation with the last applied manifest is damaged")?,
        None => json!({}),
    };
    let shape = catalogue::find(&kind.group, &kind.version, &kind.plural)
        .and_then(|resource| resource.behaviour.shape());
    let content_type = if shape.is_some() {
        "application/strategic-merge-patch+json"
    } else {
        "application/merge-patch+json"
    };
    Ok((three_way(&original, wanted, live, shape), content_type))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_annotation_is_written_as_kubectl_writes_it() {
        let mut object = json!({"kind": "A", "apiVersion": "v1", "spec": {"b": "x && y < z", "a": [1]}, "metadata": {"name": "n"}});
        annotate(&mut object).unwrap();
        let expected = concat!(
            r#"{"apiVersion":"v1","kind":"A","metadata":{"annotations":{},"name":"n"},"#,
            r#""spec":{"a":[1],"b":"x \u0026\u0026 y \u003c z"}}"#,
            "\n"
        );
        assert_eq!(object["metadata"]["annotations"][LAST_APPLIED], expected);
        // Applying what was read back does not nest the annotation in itself.
        annotate(&mut object).unwrap();
        assert_eq!(object["metadata"]["annotations"][LAST_APPLIED], expected);
    }
}
