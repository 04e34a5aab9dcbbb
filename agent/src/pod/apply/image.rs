//! The image of a container or of a volume, from this machine, its registry or
//! another node.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container as Spec, Pod};
use tokio::time::Instant;

use super::super::context::Context;
use super::super::model::{spec, uid};
use super::Failed;
use crate::events::Severity;
use crate::images::access::{Access, PullSecret};
use crate::images::{self, ImageError, Policy};
use crate::runtime::{Image, Progress};

/// How often a long pull tells how far it is.
const TELL_PERIOD: Duration = Duration::from_secs(30);

/// Finds or pulls the container's image, as its policy says.
pub(super) async fn image(ctx: &Context, pod: &Pod, container: &Spec) -> Result<Image, Failed> {
    let asked = container.image.as_deref().unwrap_or_default();
    find_image(ctx, pod, Some(&container.name), asked, Policy::of(container)).await
}

/// Finds or pulls the image `asked`, for a container or for the pod.
pub(in crate::pod) async fn find_image(
    ctx: &Context,
    pod: &Pod,
    container: Option<&str>,
    asked: &str,
    policy: Policy,
) -> Result<Image, Failed> {
    let say = |severity, reason: &str, message: String| {
        ctx.recorder.pod(pod, container, severity, reason, message);
    };
    let failed = |error: ImageError| {
        let failed = Failed::new(error.reason(), &error);
        match &error {
            ImageError::InvalidName(_) => {
                say(Severity::Warning, "InspectFailed", error.to_string())
            }
            ImageError::Never(_) | ImageError::Withheld(_) => {
                say(Severity::Warning, "ErrImageNeverPull", error.to_string())
            }
            ImageError::Pull { message } => {
                say(
                    Severity::Warning,
                    "Failed",
                    format!("Failed to pull image \"{asked}\": {message}"),
                );
            }
        }
        say(Severity::Warning, "Failed", format!("Error: {}", failed.reason));
        failed
    };
    let Some(name) = images::normalized(asked) else {
        return Err(failed(ImageError::InvalidName(asked.to_owned())));
    };
    let mut secrets = None;
    if policy != Policy::Always {
        let local = ctx
            .images
            .local(&name)
            .await
            .map_err(|error| Failed::new("ImageInspectError", error))?;
        if let Some(image) = local {
            let access = ctx.images.access(&image);
            if access != Access::Everybody {
                secrets = Some(pull_secrets(ctx, pod, &name).await);
            }
            if access.permits(&Access::of(secrets.iter().flat_map(|found| &found.found))) {
                say(
                    Severity::Normal,
                    "Pulled",
                    format!("Container image \"{asked}\" already present on machine"),
                );
                return Ok(image);
            }
            if policy == Policy::Never {
                return Err(failed(ImageError::Withheld(asked.to_owned())));
            }
        } else if policy == Policy::Never {
            return Err(failed(ImageError::Never(asked.to_owned())));
        }
    }
    say(Severity::Normal, "Pulling", format!("Pulling image \"{asked}\""));
    let secrets = match secrets {
        Some(secrets) => secrets,
        None => pull_secrets(ctx, pod, &name).await,
    };
    if !secrets.missing.is_empty() {
        let message = format!(
            "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
            secrets.missing.join(", ")
        );
        say(Severity::Warning, "FailedToRetrieveImagePullSecret", message);
    }
    let since = Instant::now();
    let last = Mutex::new(since);
    let told = |now: Progress| {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() >= TELL_PERIOD {
            *last = Instant::now();
            let (came, all) = (now.came >> 20, now.all >> 20);
            let message = format!("Pulling image \"{asked}\": {came} of {all} MiB so far");
            say(Severity::Normal, "Pulling", message);
        }
    };
    let pulled = ctx.images.pull(&name, &secrets.found, &told).await.map_err(failed)?;
    let took = since.elapsed().as_millis();
    let size = pulled.image.size;
    let from = pulled.node.map(|node| format!(" from node {node}")).unwrap_or_default();
    say(
        Severity::Normal,
        "Pulled",
        format!(
            "Successfully pulled image \"{asked}\"{from} in {took}ms. Image size: {size} bytes."
        ),
    );
    Ok(pulled.image)
}

/// What a pod brings to the registry of an image.
struct PullSecrets<'a> {
    /// The entries that are for the registry.
    found: Vec<PullSecret>,
    /// The names of Secrets that are not there. They are passed over, as upstream
    /// does: the image may be public.
    missing: Vec<&'a str>,
}

async fn pull_secrets<'a>(ctx: &Context, pod: &'a Pod, image: &str) -> PullSecrets<'a> {
    let (mut secrets, mut missing) = (Vec::new(), Vec::new());
    for reference in spec(pod).image_pull_secrets.iter().flatten() {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        match ctx.objects.secrets.get(namespace, &reference.name, uid(pod)).await {
            Ok(Some(secret)) => secrets.push(secret),
            Ok(None) | Err(_) => missing.push(reference.name.as_str()),
        }
    }
    PullSecrets { found: images::pull_secrets(image, &secrets), missing }
}
