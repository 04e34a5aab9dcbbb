//! `set image`: changes the images of a workload's containers.

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::args::{SetArgs, SetCommand};
use super::connect::Session;
use super::target;

pub(super) async fn run(session: &Session, args: SetArgs) -> anyhow::Result<()> {
    let SetCommand::Image { words } = args.command;
    let (images, targets): (Vec<String>, Vec<String>) =
        words.into_iter().partition(|word| word.contains('='));
    if images.is_empty() {
        bail!("say which image, as CONTAINER=IMAGE");
    }
    let images = images
        .iter()
        .map(|word| word.split_once('=').context("not CONTAINER=IMAGE"))
        .collect::<Result<Vec<_>, _>>()?;
    for (kind, name) in target::parse_named(session, &targets).await? {
        let path = kind.object_path(&session.namespace, &name);
        let object = session.get(&path).await?;
        // A pod has its containers in its spec, a workload in its template.
        let (spec, in_template) = match object["spec"]["template"]["spec"].as_object() {
            Some(_) => (&object["spec"]["template"]["spec"], true),
            None => (&object["spec"], false),
        };
        let patch = plan_images(spec, &images)
            .with_context(|| format!("{}/{name}", kind.full_singular()))?;
        if patch == json!({}) {
            continue;
        }
        let patch = if in_template {
            json!({"spec": {"template": {"spec": patch}}})
        } else {
            json!({"spec": patch})
        };
        let changed =
            session.patch(&path, "application/strategic-merge-patch+json", &patch).await?;
        if changed["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
            println!("{}/{name} image updated", kind.full_singular());
        }
    }
    Ok(())
}

/// The strategic merge patch of a pod spec that sets `images`.
fn plan_images(spec: &Value, images: &[(&str, &str)]) -> anyhow::Result<Value> {
    let mut patch = json!({});
    for (container, image) in images {
        let mut found = false;
        for list in ["initContainers", "containers"] {
            for existing in spec[list].as_array().into_iter().flatten() {
                let name = existing["name"].as_str().unwrap_or_default();
                if *container != "*" && *container != name {
                    continue;
                }
                found = true;
                if existing["image"] != *image {
                    if !patch[list].is_array() {
                        patch[list] = json!([]);
                    }
                    if let Some(entries) = patch[list].as_array_mut() {
                        entries.push(json!({"name": name, "image": image}));
                    }
                }
            }
        }
        if !found {
            bail!("unable to find container named {container:?}");
        }
    }
    Ok(patch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changes_is_sent() {
        let spec = json!({"containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "y:1"}], "initContainers": [{"name": "i", "image": "z:1"}]});
        let plan =
            |images: &[(&str, &str)]| plan_images(&spec, images).map_err(|error| error.to_string());
        assert_eq!(
            plan(&[("a", "x:2")]),
            Ok(json!({"containers": [{"name": "a", "image": "x:2"}]}))
        );
        assert_eq!(plan(&[("a", "x:1")]), Ok(json!({})));
        assert_eq!(
            plan(&[("i", "z:2")]),
            Ok(json!({"initContainers": [{"name": "i", "image": "z:2"}]}))
        );
        assert_eq!(plan(&[("*", "n:1")]).unwrap()["containers"].as_array().unwrap().len(), 2);
        assert_eq!(plan(&[("ghost", "x")]), Err("unable to find container named \"ghost\"".into()));
    }
}
