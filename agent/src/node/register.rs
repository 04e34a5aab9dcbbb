//! The node makes itself known: its object, labels and taints.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, NodeSpec, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt;
use serde_json::{Value, json};
use skiff_api::volume::LOCAL_VOLUMES_DIR;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::{NodeAgent, features};
use crate::events::Severity;
use crate::runtime::sandbox_image;
use crate::volume::persistent::volumes_dir;
use skiff_client::{Api, chain};

/// Labels by name, or annotations.
type Labels = BTreeMap<String, String>;

/// Annotation of a node: which of its labels were read from the hardware.
const HARDWARE_LABELS: &str = "skiff.dev/hardware-labels";

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
        let hardware = features::labels(&self.config.hardware_root);
        let mut labels = json!(self.labels(&hardware));
        let annotations = self.annotations(&hardware);
        if let Some(known) = nodes.get_opt(name).await? {
            for gone in outdated(&known, &hardware) {
                // What the user says by now stands.
                labels.as_object_mut().map(|labels| labels.entry(gone).or_insert(Value::Null));
            }
            let patch = json!({"metadata": {"labels": labels, "annotations": annotations}});
            return nodes.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        }
        let node = Node {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                labels: Some(self.labels(&hardware)),
                annotations: Some(annotations),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec { taints: self.taints(), ..NodeSpec::default() }),
            status: None,
        };
        let created = nodes.create(&PostParams::default(), &node).await?;
        info!(node = name, "registered");
        Ok(created)
    }

    fn labels(&self, hardware: &Labels) -> Labels {
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
        labels.extend(hardware.clone());
        // What the user says is stronger.
        labels.extend(self.config.node_labels.clone());
        labels
    }

    /// Where the node keeps local volumes, for whoever makes their objects; and
    /// which labels are the hardware's, for the next agent.
    fn annotations(&self, hardware: &Labels) -> Labels {
        let dir = &self.config.data_dir;
        let dir = volumes_dir(&std::path::absolute(dir).unwrap_or_else(|_| dir.clone()));
        let own = hardware.keys().filter(|name| !self.config.node_labels.contains_key(*name));
        let own: Vec<&str> = own.map(String::as_str).collect();
        BTreeMap::from([
            (LOCAL_VOLUMES_DIR.to_owned(), dir.to_string_lossy().into_owned()),
            (HARDWARE_LABELS.to_owned(), own.join(",")),
        ])
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

/// The labels that an earlier agent read from the hardware, and that are not true
/// any more. Only what an agent wrote goes: its annotation names it.
fn outdated(known: &Node, hardware: &Labels) -> Vec<String> {
    let annotations = known.metadata.annotations.as_ref();
    let written = annotations.and_then(|all| all.get(HARDWARE_LABELS)).map(String::as_str);
    let labels = written.unwrap_or_default().split(',').filter(|name| features::is_own(name));
    labels.filter(|name| !hardware.contains_key(*name)).map(str::to_owned).collect()
}

fn retryable(code: u16) -> bool {
    matches!(code, 401 | 403 | 404 | 409 | 429)
}

/// Reads `key=value:Effect` or `key:Effect`.
pub(crate) fn parse_taint(text: &str) -> Option<Taint> {
    let (pair, effect) = text.rsplit_once(':')?;
    let (key, value) = match pair.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (pair, None),
    };
    Some(Taint { key: key.to_owned(), value, effect: effect.to_owned(), time_added: None })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::Config;
    use crate::events::Recorder;
    use crate::pod::fake_api::FakeApi;
    use crate::runtime::memory::Memory;

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

    #[tokio::test]
    async fn labels_of_hardware_go_with_it_and_the_users_stay() {
        let api = FakeApi::new();
        let dir = tempfile::tempdir().unwrap();
        let proc = dir.path().join("proc");
        std::fs::create_dir(&proc).unwrap();
        let register = async |flags: &str, node_labels: &[(&str, &str)]| {
            std::fs::write(proc.join("cpuinfo"), format!("flags : {flags}\n")).unwrap();
            let label = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            let config = Config {
                hardware_root: dir.path().to_owned(),
                node_labels: node_labels.iter().map(label).collect(),
                ..Config::new("n1", dir.path())
            };
            let runtime = Arc::new(Memory::new());
            let node = NodeAgent::new(config, api.client(), runtime, Recorder::silent()).unwrap();
            node.register(&CancellationToken::new()).await.unwrap().unwrap();
            api.get("/api/v1/nodes/n1").unwrap()["metadata"]["labels"].clone()
        };
        let name = |flag: &str| format!("feature.node.kubernetes.io/cpu-cpuid.{flag}");
        let labels = register("avx avx2 aes", &[]).await;
        assert_eq!(labels[name("AVX2")], "true");

        // Somebody else finds out more, in the same names.
        let mut node = api.get("/api/v1/nodes/n1").unwrap();
        node["metadata"]["labels"][name("SGX")] = json!("true");
        node["metadata"]["labels"]["example.com/own"] = json!("true");
        let told = node["metadata"]["annotations"][HARDWARE_LABELS].as_str().unwrap().to_owned();
        node["metadata"]["annotations"][HARDWARE_LABELS] = json!(format!("{told},example.com/own"));
        api.put("/api/v1/nodes/n1", node);
        let labels = register("avx", &[(&name("AESNI"), "said")]).await;
        assert_eq!(labels[name("AVX")], "true");
        assert_eq!(labels[name("AVX2")], Value::Null, "the machine cannot do that any more");
        assert_eq!(labels[name("SGX")], "true", "not ours");
        assert_eq!(labels["example.com/own"], "true", "whatever an annotation says");
        assert_eq!(labels[name("AESNI")], "said", "the user's by now");
        let labels = register("avx", &[]).await;
        assert_eq!(labels[name("AESNI")], "said", "the user's labels are left alone");
    }
}
