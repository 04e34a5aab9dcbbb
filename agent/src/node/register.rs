//! The node makes itself known: its object, labels and taints.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, NodeSpec, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt;
use serde_json::json;
use skiff_api::volume::LOCAL_VOLUMES_DIR;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::{NodeAgent, features};
use crate::events::Severity;
use crate::runtime::sandbox_image;
use crate::volume::persistent::volumes_dir;
use skiff_client::{Api, chain};

/// The first and the longest wait for an API that does not answer.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

impl NodeAgent {
    /// Creates the Node object or brings its labels up to date, trying until
    /// the API answers. `Ok(None)` when cancelled.
    pub async fn register(&self, cancel: &CancellationToken) -> anyhow::Result<Option<Node>> {
        let mut wait = RETRY_MIN;
        loop {
            match self.try_register().await {
                Ok(node) => {
                    self.recorder.node(
                        &node,
                        Severity::Normal,
                        "Starting",
                        "Starting skiff agent.",
                    );
                    return Ok(Some(node));
                }
                // What the API understood and refused will not get better.
                Err(kube::Error::Api(status))
                    if (400..500).contains(&status.code) && !retryable(status.code) =>
                {
                    return Err(anyhow::anyhow!(status.message.clone())).with_context(|| {
                        format!("the API refuses to register node {}", self.config.node_name)
                    });
                }
                Err(error) => debug!(error = chain(&error), "node not registered yet"),
            }
            tokio::select! {
                () = cancel.cancelled() => return Ok(None),
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(RETRY_MAX);
        }
    }

    async fn try_register(&self) -> kube::Result<Node> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let name = &self.config.node_name;
        if nodes.get_opt(name).await?.is_some() {
            let patch =
                json!({"metadata": {"labels": self.labels(), "annotations": self.annotations()}});
            return nodes.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        }
        let node = Node {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                labels: Some(self.labels()),
                annotations: Some(self.annotations()),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec { taints: self.taints(), ..NodeSpec::default() }),
            status: None,
        };
        let created = nodes.create(&PostParams::default(), &node).await?;
        info!(node = name, "registered");
        Ok(created)
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let arch = sandbox_image::architecture();
        let mut labels: BTreeMap<String, String> = [
            ("kubernetes.io/hostname", self.config.node_name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", arch),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", arch),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        labels.extend(features::labels(&self.config.hardware_root));
        // What the user says is stronger.
        labels.extend(self.config.node_labels.clone());
        labels
    }

    /// Where the node keeps local volumes, for whoever makes their objects.
    fn annotations(&self) -> BTreeMap<String, String> {
        let dir = &self.config.data_dir;
        let dir = volumes_dir(&std::path::absolute(dir).unwrap_or_else(|_| dir.clone()));
        BTreeMap::from([(LOCAL_VOLUMES_DIR.to_owned(), dir.to_string_lossy().into_owned())])
    }

    fn taints(&self) -> Option<Vec<Taint>> {
        let taints: Vec<_> =
            self.config.register_taints.iter().filter_map(|text| parse_taint(text)).collect();
        (!taints.is_empty()).then_some(taints)
    }

    /// The node's slice of the cluster network, waiting until it has one.
    /// `None` when cancelled.
    pub async fn pod_cidr(&self, cancel: &CancellationToken) -> Option<String> {
        let mut stream = self.watch_self().applied_objects();
        loop {
            let node = tokio::select! {
                () = cancel.cancelled() => return None,
                node = stream.next() => node?,
            };
            match node {
                Ok(node) => {
                    if let Some(cidr) = node.spec.and_then(|spec| spec.pod_cidr) {
                        return Some(cidr);
                    }
                }
                Err(error) => debug!(%error, "watch on our node broke, will resume"),
            }
        }
    }
}

fn retryable(code: u16) -> bool {
    matches!(code, 401 | 403 | 404 | 409 | 429)
}

/// Reads `key=value:Effect` or `key:Effect`.
fn parse_taint(text: &str) -> Option<Taint> {
    let (pair, effect) = text.rsplit_once(':')?;
    let (key, value) = match pair.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (pair, None),
    };
    Some(Taint { key: key.to_owned(), value, effect: effect.to_owned(), time_added: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_are_read() {
        let cases = [
            ("a=b:NoSchedule", Some(("a", Some("b"), "NoSchedule"))),
            ("x/y:NoExecute", Some(("x/y", None, "NoExecute"))),
            ("a", None),
        ];
        for (text, expected) in cases {
            let found = parse_taint(text);
            let found = found
                .as_ref()
                .map(|taint| (taint.key.as_str(), taint.value.as_deref(), taint.effect.as_str()));
            assert_eq!(found, expected, "{text}");
        }
    }
}
