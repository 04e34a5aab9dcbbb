//! Persistent volumes that lie on this machine: folders of our own, `local`
//! folders and `hostPath`.
//!
//! Folders of the class `local` stand beside the pods' folders, under
//! `DATA/volumes/NAME`. They are made when a pod first mounts them and removed
//! when the API server asks for it. Whatever a volume's object says, nothing
//! outside `DATA/volumes` is made or removed for it.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_api::volume::{LOCAL_PROVISIONER, PROVISIONED_BY};

use super::mount_points;
use super::mounts::{ensure_dir, in_host_namespace};
use super::{blocking, host_path};

/// Where a persistent volume is on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// A folder that we made, or will.
    Ours(PathBuf),
    /// A folder that somebody has made.
    Local(PathBuf),
    /// A path with the type that is expected there.
    HostPath(PathBuf, Option<String>),
}

/// The folder of all local volumes of an agent's data directory.
pub fn volumes_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("volumes")
}

/// Why the claim must not serve the pod with this UID, as upstream says it:
/// `owned` claims are those that are made for a pod.
pub fn refused_claim(claim: &PersistentVolumeClaim, pod: &Pod, owned: bool) -> Option<String> {
    let owners = claim.metadata.owner_references.iter().flatten();
    let mut controllers = owners.filter(|owner| owner.controller == Some(true));
    let is_own = controllers.any(|owner| Some(&owner.uid) == pod.metadata.uid.as_ref());
    let name = |meta: &ObjectMeta| {
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        format!("{}/{}", part(&meta.namespace), part(&meta.name))
    };
    (owned && !is_own).then(|| {
        let (claim, pod) = (name(&claim.metadata), name(&pod.metadata));
        format!("PVC {claim} was not created for pod {pod} (pod is not owner)")
    })
}

/// Why the volume that a claim names is not the claim's.
pub fn refused_volume(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<String> {
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let bound = reference.and_then(|reference| reference.uid.as_deref()).unwrap_or_default();
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    (claim.metadata.uid.as_deref() != Some(bound)).then(|| {
        format!("found PV object {name} with its pv.Spec.ClaimRef.UID \"{bound}\" not point to the expected PVC UID")
    })
}

/// Where `volume` is, or why it is not on this machine.
pub(super) fn source(volume: &PersistentVolume, volumes_dir: &Path) -> Result<Source, String> {
    let spec = volume.spec.as_ref().ok_or("the volume has no spec")?;
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err("block devices are not supported on this node".into());
    }
    let maker = volume.metadata.annotations.as_ref().and_then(|all| all.get(PROVISIONED_BY));
    if let Some(host) = &spec.host_path {
        return Ok(Source::HostPath(PathBuf::from(&host.path), host.type_.clone()));
    }
    let local = spec.local.as_ref().ok_or("the claim's volume is not a local folder")?;
    if maker.map(String::as_str) != Some(LOCAL_PROVISIONER) {
        return Ok(Source::Local(PathBuf::from(&local.path)));
    }
    let own = folder(volume.metadata.name.as_deref().unwrap_or_default(), volumes_dir)?;
    if Path::new(&local.path) == own {
        Ok(Source::Ours(own))
    } else {
        Err(format!(
            "volume lies in {}, this node keeps its volumes in {}",
            local.path,
            volumes_dir.display()
        ))
    }
}

/// The folder of the volume `name`, which must be a plain name.
fn folder(name: &str, volumes_dir: &Path) -> Result<PathBuf, String> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(part)), None) => Ok(volumes_dir.join(part)),
        _ => Err(format!("{name:?} is not the name of a volume")),
    }
}

/// Makes sure that the volume is there; gives its path.
pub(super) async fn ensure(source: Source) -> io::Result<PathBuf> {
    blocking(move || match source {
        // Open to every user, as an emptyDir is: the pod's user is not known
        // to whoever makes a volume.
        Source::Ours(path) => {
            if let Some(parent) = path.parent() {
                ensure_dir(parent, 0o711)?;
            }
            ensure_dir(&path, 0o777)?;
            Ok(path)
        }
        Source::Local(path) => match fs::metadata(&path) {
            Ok(found) if found.is_dir() => Ok(path),
            Ok(_) => Err(io::Error::other(format!("path \"{}\" is no folder", path.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(io::Error::other(format!("path \"{}\" does not exist", path.display())))
            }
            Err(error) => Err(error),
        },
        Source::HostPath(path, kind) => host_path::ensure(&path, kind.as_deref()).map(|()| path),
    })
    .await
}

/// Removes the folder of the volume `name` with all that is in it. One that is
/// not there is removed. `InvalidInput` if it is no name, `ResourceBusy` while
/// something is mounted in it.
pub async fn remove(name: &str, volumes_dir: &Path) -> io::Result<()> {
    let path = folder(name, volumes_dir)
        .map_err(|message| io::Error::new(io::ErrorKind::InvalidInput, message))?;
    blocking(move || {
        let busy = in_host_namespace(|| Ok(!mount_points::below(&path)?.is_empty()))?;
        if busy {
            let message = format!("something is mounted in {}", path.display());
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
        }
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found?,
        };
        // What a pod forbade itself to write, we may still remove; as root this
        // is only for the folder's own sake.
        fs::set_permissions(&path, Permissions::from_mode(0o700))?;
        fs::remove_dir_all(&path)
    })
    .await
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn volume(name: &str, maker: Option<&str>, spec: Value) -> PersistentVolume {
        let annotations = maker.map(|maker| json!({PROVISIONED_BY: maker}));
        let volume = json!({"metadata": {"name": name, "annotations": annotations}, "spec": spec});
        serde_json::from_value(volume).unwrap()
    }

    #[test]
    fn a_volume_is_found_where_it_may_be() {
        let ours = Some(LOCAL_PROVISIONER);
        let local = |path: &str| json!({"local": {"path": path}});
        let at = |path: &str| PathBuf::from(path);
        let cases = [
            (
                volume("v", ours, local("/data/volumes/v")),
                Some(Source::Ours(at("/data/volumes/v"))),
            ),
            (volume("v", None, local("/mnt/disk")), Some(Source::Local(at("/mnt/disk")))),
            (
                volume("v", None, json!({"hostPath": {"path": "/x", "type": "Directory"}})),
                Some(Source::HostPath(at("/x"), Some("Directory".into()))),
            ),
            (volume("v", ours, local("/etc")), None),
            (volume("..", ours, local("/data/volumes/..")), None),
            (volume("v", None, json!({"nfs": {"server": "a", "path": "/"}})), None),
            (
                volume("v", None, json!({"local": {"path": "/dev/sdb"}, "volumeMode": "Block"})),
                None,
            ),
        ];
        for (volume, expected) in cases {
            assert_eq!(source(&volume, Path::new("/data/volumes")).ok(), expected, "{volume:?}");
        }
    }

    #[test]
    fn claims_and_volumes_have_to_know_each_other() {
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}}),
        )
        .unwrap();
        let claim = |owner: &str| -> PersistentVolumeClaim {
            let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true});
            let meta =
                json!({"name": "p-v", "namespace": "ns", "uid": "c", "ownerReferences": [owner]});
            serde_json::from_value(json!({"metadata": meta})).unwrap()
        };
        assert_eq!(refused_claim(&claim("u"), &pod, true), None);
        assert_eq!(refused_claim(&claim("other"), &pod, false), None, "it was named");
        assert_eq!(
            refused_claim(&claim("other"), &pod, true).as_deref(),
            Some("PVC ns/p-v was not created for pod ns/p (pod is not owner)")
        );
        let bound = |uid: &str| volume("v", None, json!({"claimRef": {"name": "p-v", "uid": uid}}));
        assert_eq!(refused_volume(&bound("c"), &claim("u")), None);
        assert!(refused_volume(&bound("before"), &claim("u")).is_some());
        assert!(refused_volume(&volume("v", None, json!({})), &claim("u")).is_some());
    }

    #[tokio::test]
    async fn our_folders_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = volumes_dir(dir.path());
        let path = ensure(Source::Ours(volumes.join("v"))).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o777);
        fs::write(path.join("file"), "kept").unwrap();
        ensure(Source::Ours(path.clone())).await.unwrap();
        assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "kept");
        fs::create_dir(dir.path().join("pods")).unwrap();
        for name in ["", ".", "..", "../pods", "/etc", "v/../../pods"] {
            let refused = remove(name, &volumes).await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{name:?}");
        }
        remove("v", &volumes).await.unwrap();
        remove("v", &volumes).await.unwrap();
        assert!(!path.exists() && dir.path().join("pods").exists());
    }

    #[tokio::test]
    async fn other_folders_must_be_there() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        for (name, fits) in [("", true), ("file", false), ("none", false)] {
            let found = ensure(Source::Local(dir.path().join(name))).await;
            assert_eq!(found.is_ok(), fits, "{name:?}: {found:?}");
        }
    }
}
