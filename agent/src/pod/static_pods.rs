//! Static pods: manifests in a folder of this node, run whatever the API says.
//!
//! A static pod's UID is the hash of its node, its file and what stands in it,
//! so an edited file is another pod. For the API the agent writes a mirror of
//! it, with a UID of its own and the static one in an annotation; the mirror
//! shows the pod's status, and deleting it deletes nothing but the mirror.
//!
//! The folder is watched, not polled. A file that cannot be read as a pod is
//! passed over with a line in the log.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use skiff_api::catalogue;
use tokio::net::unix::pipe;
use tracing::warn;

use super::model::uid;

/// Says where a pod comes from; `file` for a static one.
const SOURCE: &str = "kubernetes.io/config.source";
/// The UID of a static pod, on the pod itself.
const HASH: &str = "kubernetes.io/config.hash";
/// The UID of a static pod, on its mirror.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// A folder of manifests, watched for changes.
pub struct Folder {
    path: PathBuf,
    node: String,
    /// Notices are read like bytes of a pipe.
    changes: pipe::Receiver,
}

impl Folder {
    /// Begins to watch `path` for pods of `node`.
    pub fn open(path: &Path, node: &str) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let changes = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE;
        inotify.add_watch(path, changes)?;
        let changes = pipe::Receiver::from_owned_fd_unchecked(OwnedFd::from(inotify))?;
        Ok(Self { path: path.to_owned(), node: node.to_owned(), changes })
    }

    /// Waits until something in the folder has changed since it was last told.
    pub async fn changed(&self) -> io::Result<()> {
        loop {
            self.changes.readable().await?;
            // What it was does not matter: the folder is read anew.
            match self.changes.try_read(&mut [0; 4096]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read.map(drop),
            }
        }
    }

    /// The pods in the folder now, by UID.
    pub fn read(&self) -> BTreeMap<String, Pod> {
        let mut pods = BTreeMap::new();
        for (file, read) in self.texts() {
            match read
                .map_err(|error| error.to_string())
                .and_then(|text| parse(&text, &file, &self.node))
            {
                Ok(pod) => {
                    pods.insert(uid(&pod).to_owned(), pod);
                }
                Err(error) => warn!(file = %file.display(), error, "no static pod"),
            }
        }
        pods
    }

    /// The files that are not hidden, as editors' half-written ones are.
    fn texts(&self) -> Vec<(PathBuf, io::Result<String>)> {
        let entries = match std::fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) => return vec![(self.path.clone(), Err(error))],
        };
        let files = entries.filter_map(Result::ok).filter(|entry| {
            let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            !hidden && entry.path().is_file()
        });
        files.map(|file| (file.path(), std::fs::read_to_string(file.path()))).collect()
    }
}

/// Reads one manifest, in YAML or JSON, as a pod of `node`.
fn parse(text: &str, file: &Path, node: &str) -> Result<Pod, String> {
    let mut pod: Value = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
    if (pod["apiVersion"].as_str(), pod["kind"].as_str()) != (Some("v1"), Some("Pod")) {
        return Err("it is not a Pod of v1".to_owned());
    }
    let kind = catalogue::find("", "v1", "pods").ok_or("pods are unknown")?;
    let unknown = kind.decode(&mut pod)?;
    if let Some(field) = unknown.first() {
        return Err(format!("unknown field {field:?}"));
    }
    let mut hash = Sha256::new();
    for part in [node.as_bytes(), file.as_os_str().as_encoded_bytes(), text.as_bytes()] {
        hash.update(part);
        hash.update([0]);
    }
    let hash: String = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let name = pod["metadata"]["name"].as_str().ok_or("it has no name")?;
    pod["metadata"]["name"] = json!(format!("{name}-{node}"));
    if !pod["metadata"]["namespace"].is_string() {
        pod["metadata"]["namespace"] = json!("default");
    }
    pod["spec"]["nodeName"] = json!(node);
    pod["metadata"]["annotations"][SOURCE] = json!("file");
    pod["metadata"]["annotations"][HASH] = json!(hash);
    kind.behaviour.default(&mut pod);
    kind.behaviour.prepare_create(&mut pod);
    let errors = kind.behaviour.validate_create(&pod);
    if let Some(error) = errors.first() {
        return Err(format!("{}: {}", error.field, error.detail));
    }
    pod["metadata"]["uid"] = json!(hash);
    serde_json::from_value(pod).map_err(|error| error.to_string())
}

/// Whether a pod comes from a folder of this node.
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, SOURCE) == Some("file") && mirrored(pod).is_none()
}

/// The UID of the static pod that `pod` is a mirror of.
pub fn mirrored(pod: &Pod) -> Option<&str> {
    annotation(pod, MIRROR)
}

fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// What the API gets to see of a static pod.
pub fn mirror_of(pod: &Pod) -> Pod {
    let mut mirror = pod.clone();
    mirror.status = None;
    mirror.metadata.uid = None;
    let annotations = mirror.metadata.annotations.get_or_insert_default();
    annotations.insert(MIRROR.to_owned(), uid(pod).to_owned());
    mirror
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web}
spec: {containers: [{name: a, image: 'img:1'}]}
";

    #[test]
    fn a_manifest_is_a_pod_of_its_node() {
        let file = Path::new("/etc/pods/web.yaml");
        let pod = parse(MANIFEST, file, "n1").unwrap();
        assert_eq!(pod.metadata.name.as_deref(), Some("web-n1"));
        assert_eq!(pod.metadata.namespace.as_deref(), Some("default"));
        assert_eq!(pod.spec.as_ref().unwrap().node_name.as_deref(), Some("n1"));
        assert_eq!(pod.spec.as_ref().unwrap().restart_policy.as_deref(), Some("Always"));
        assert!(is_static(&pod));
        let mirror = mirror_of(&pod);
        assert_eq!(mirrored(&mirror), pod.metadata.uid.as_deref());
        assert!(!is_static(&mirror) && mirror.metadata.uid.is_none());
        // The same again is the same pod; anything else is another.
        assert_eq!(parse(MANIFEST, file, "n1").unwrap(), pod);
        for (text, file, node) in [
            (MANIFEST.replace("img:1", "img:2"), "/etc/pods/web.yaml", "n1"),
            (MANIFEST.to_owned(), "/etc/pods/copy.yaml", "n1"),
            (MANIFEST.to_owned(), "/etc/pods/web.yaml", "n2"),
        ] {
            let other = parse(&text, Path::new(file), node).unwrap();
            assert_ne!(other.metadata.uid, pod.metadata.uid);
        }
    }

    #[test]
    fn what_is_no_pod_is_said() {
        let cases = [
            ("{", "did not find"),
            ("kind: Service\napiVersion: v1", "it is not a Pod of v1"),
            (&MANIFEST.replace("image", "imag"), "unknown field"),
            (&MANIFEST.replace("{name: web}", "{}"), "it has no name"),
            (&MANIFEST.replace("name: a,", "name: A_,"), "spec.containers[0].name"),
        ];
        for (text, expected) in cases {
            let error = parse(text, Path::new("/f"), "n1").unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[tokio::test]
    async fn a_folder_tells_of_changes() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path(), "n1").unwrap();
        assert!(folder.read().is_empty());
        std::fs::write(dir.path().join("web.yaml"), MANIFEST).unwrap();
        std::fs::write(dir.path().join(".web.yaml.swp"), "half").unwrap();
        std::fs::write(dir.path().join("bad.yaml"), "no pod").unwrap();
        folder.changed().await.unwrap();
        assert_eq!(folder.read().len(), 1, "what is no pod hinders no other");
        std::fs::remove_file(dir.path().join("web.yaml")).unwrap();
        folder.changed().await.unwrap();
        assert!(folder.read().is_empty());
        assert!(Folder::open(&dir.path().join("none"), "n1").is_err());
    }
}
