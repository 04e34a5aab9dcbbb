//! `scale`: sets how many replicas are wanted.

use anyhow::bail;
use http::Method;
use serde_json::json;

use super::args::ScaleArgs;
use super::connect::Session;
use super::target;

pub(super) async fn run(session: &Session, args: ScaleArgs) -> anyhow::Result<()> {
    if args.replicas < 0 {
        bail!("--replicas={} is negative", args.replicas);
    }
    for (kind, name) in target::parse_named(session, &args.targets).await? {
        if !kind.subresources.iter().any(|subresource| subresource == "scale") {
            bail!("{} cannot be scaled", kind.plural);
        }
        let path = format!("{}/scale", kind.object_path(&session.namespace, &name));
        if let Some(expected) = args.current_replicas {
            let now = session.get(&path).await?["spec"]["replicas"].as_i64().unwrap_or(0);
            if now != expected {
                bail!("{} {name} has {now} replicas, not {expected}", kind.singular);
            }
        }
        session
            .call(Method::PATCH, &path, Some(&json!({"spec": {"replicas": args.replicas}})))
            .await?;
        println!("{}/{name} scaled", kind.full_singular());
    }
    Ok(())
}
