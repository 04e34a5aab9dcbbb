//! Volumes: the folders behind a pod's `volumes`, laid out under its own
//! folder on the host, and the mounts that show them to its containers.
//!
//! Reads config maps, secrets, claims and tokens through [`Lookup`]. Writes
//! below `DATA/pods/UID/` and `DATA/volumes/` only, except for the folders that
//! a `hostPath` asks to create. Preparing is repeatable: doing it again after an object changed
//! is the live update.
//!
//! What holds secrets lies in memory (tmpfs), never on the disk. Mounts are
//! made in the machine's own mount namespace, where Docker looks.
//!
//! An image volume is a copy (`image`), made once for the pod, unless no
//! container mounts it.
//!
//! Left out: network storage. A claim is served when its volume is a folder on
//! this machine ([`persistent`]).

mod atomic;
mod empty_dir;
mod host_path;
mod image;
mod mount_points;
pub mod mounts;
mod ownership;
pub mod payload;
pub mod persistent;
mod subpath;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, ImageVolumeSource, PersistentVolume, Pod, Secret,
    ServiceAccountTokenProjection, Volume, VolumeMount,
};
use tokio::io::AsyncReadExt;

use ownership::GroupChange;
use persistent::Source;
use skiff_api::volume::claim_name;

use crate::pod::env::{Sources, expand};
use crate::pod::model::{all_containers, spec};
use crate::runtime::{Mount, Propagation, Tar};

/// Why a volume is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VolumeError {
    /// What is behind it is missing, or cannot be made.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {message}")]
    Mount {
        /// The volume.
        volume: String,
        /// What is wrong.
        message: String,
    },
    /// Its image is not to be had.
    #[error(transparent)]
    Image(#[from] NoImage),
}

/// Why there is no image, with the reason that a container without its image
/// would show.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct NoImage {
    /// Reason in Kubernetes' spelling, such as `ErrImagePull`.
    pub reason: &'static str,
    /// What went wrong.
    pub message: String,
}

impl VolumeError {
    /// The reason of the event and of the pod's wait.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Mount { .. } => "FailedMount",
            Self::Image(error) => error.reason,
        }
    }
}

/// What volumes read from the API.
#[async_trait]
pub trait Lookup: Send + Sync {
    /// A config map of the pod's namespace; `Ok(None)` if there is none.
    async fn config_map(&self, name: &str) -> Result<Option<Arc<ConfigMap>>, String>;
    /// A secret of the pod's namespace.
    async fn secret(&self, name: &str) -> Result<Option<Arc<Secret>>, String>;
    /// A token for the pod's service account and when it is to be renewed.
    async fn token(&self, projection: &ServiceAccountTokenProjection) -> Result<Token, String>;
    /// The volume that a claim is bound to. A claim that is `owned` must have
    /// been made for the pod.
    async fn claimed_volume(&self, claim: &str, owned: bool) -> Result<PersistentVolume, String>;
    /// An image as the runtime saves it, pulled as its policy says.
    async fn image(&self, source: &ImageVolumeSource) -> Result<Tar, NoImage>;
}

/// A service account's token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The token itself.
    pub token: String,
    /// When to ask for the next.
    pub renew_at: Timestamp,
}

/// A pod's volumes, ready to be mounted.
#[derive(Debug, Clone, Default)]
pub struct Volumes {
    /// Where each is on the host.
    pub paths: BTreeMap<String, Prepared>,
    /// When one of them has to be prepared again.
    pub renew_at: Option<Timestamp>,
}

/// One volume on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prepared {
    /// Its folder or file.
    pub path: PathBuf,
    /// Whether containers may only read it.
    pub read_only: bool,
    /// Whether it shows an image.
    pub of_image: bool,
}

/// Why a container cannot have its mounts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct NoMount {
    /// What the container waits for: `CreateContainerConfigError`, or
    /// `CreateContainerError` where upstream leaves the mount to its runtime.
    pub reason: &'static str,
    /// What is wrong.
    pub message: String,
}

/// The folder of a volume that is the pod's own.
pub(crate) fn folder_of(pod_dir: &Path, volume: &str) -> PathBuf {
    pod_dir.join("volumes").join(volume)
}

/// Lays out all volumes of `pod`.
pub async fn prepare(
    pod: &Pod,
    pod_dir: &Path,
    sources: &Sources,
    lookup: &dyn Lookup,
) -> Result<Volumes, VolumeError> {
    let mut volumes = Volumes::default();
    let fs_group = spec(pod).security_context.as_ref().and_then(|context| context.fs_group);
    for volume in spec(pod).volumes.iter().flatten() {
        let failed = |message| VolumeError::Mount { volume: volume.name.clone(), message };
        let prepared = if let Some(source) = &volume.image {
            if !is_mounted(pod, &volume.name) {
                continue;
            }
            let path = match image::find(pod_dir, &volume.name) {
                Ok(path) => path,
                Err(path) => {
                    let laid_out = image::lay_out(lookup.image(source).await?, &path).await;
                    laid_out.map(|()| path).map_err(|error| failed(error.to_string()))?
                }
            };
            Prepared { path, read_only: true, of_image: true }
        } else {
            prepare_one(pod, volume, pod_dir, fs_group, sources, lookup, &mut volumes.renew_at)
                .await
                .map_err(failed)?
        };
        volumes.paths.insert(volume.name.clone(), prepared);
    }
    Ok(volumes)
}

async fn prepare_one(
    pod: &Pod,
    volume: &Volume,
    pod_dir: &Path,
    fs_group: Option<i64>,
    sources: &Sources,
    lookup: &dyn Lookup,
    renew_at: &mut Option<Timestamp>,
) -> Result<Prepared, String> {
    let dir = folder_of(pod_dir, &volume.name);
    let text = |error: std::io::Error| error.to_string();
    if let Some(source) = &volume.empty_dir {
        let medium = empty_dir::medium(pod, source, &sources.allocatable)?;
        let group = fs_group.and_then(|group| u32::try_from(group).ok());
        let target = dir.clone();
        blocking(move || empty_dir::ensure(&target, &medium, group)).await.map_err(text)?;
        return Ok(Prepared { path: dir, ..Prepared::default() });
    }
    if let Some(host) = &volume.host_path {
        let (path, kind) = (host.path.clone(), host.type_.clone());
        return blocking(move || host_path::ensure(Path::new(&path), kind.as_deref()))
            .await
            .map(|()| Prepared { path: PathBuf::from(&host.path), ..Prepared::default() })
            .map_err(text);
    }
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    if let Some(claim) = claim_name(name, volume) {
        let source = lookup.claimed_volume(&claim, volume.ephemeral.is_some()).await?;
        let source = persistent::source(&source, &volumes_beside(pod_dir))?;
        // Upstream leaves the owner of a hostPath alone.
        let group = fs_group.filter(|_| !matches!(source, Source::HostPath(..)));
        let path = persistent::ensure(source).await.map_err(text)?;
        let read_only = volume
            .persistent_volume_claim
            .as_ref()
            .is_some_and(|source| source.read_only == Some(true));
        if let Some(group) = group.filter(|_| !read_only) {
            let (path, change) = (path.clone(), GroupChange::of(pod));
            blocking(move || ownership::give_volume_to_group(&path, group, change))
                .await
                .map_err(text)?;
        }
        return Ok(Prepared { path, read_only, of_image: false });
    }
    let Some(found) = payload::gather(pod, volume, sources, lookup).await? else {
        return Err("this kind of volume is not supported on this node".into());
    };
    if let Some(at) = found.renew_at {
        *renew_at = Some(renew_at.map_or(at, |known| known.min(at)));
    }
    let target = dir.clone();
    blocking(move || {
        mounts::ensure_dir(&target, 0o755)?;
        if found.secret {
            mounts::ensure_tmpfs(&target, "mode=755")?;
        }
        atomic::write(&target, &found.files, fs_group)
    })
    .await
    .map_err(text)?;
    Ok(Prepared { path: dir, read_only: true, of_image: false })
}

/// Whether any container of the pod mounts the volume.
fn is_mounted(pod: &Pod, volume: &str) -> bool {
    let containers = all_containers(pod);
    let mut mounts = containers.iter().flat_map(|one| one.volume_mounts.iter().flatten());
    mounts.any(|mount| mount.name == volume)
}

/// The folder of local volumes that belongs to a pod's `DATA/pods/UID`.
fn volumes_beside(pod_dir: &Path) -> PathBuf {
    persistent::volumes_dir(pod_dir.ancestors().nth(2).unwrap_or(pod_dir))
}

/// The mounts of one container, in the order of its spec.
pub async fn container_mounts(
    container: &Container,
    volumes: &Volumes,
    env: &[(String, String)],
    pod_dir: &Path,
) -> Result<Vec<Mount>, NoMount> {
    let wrong = |message| NoMount { reason: "CreateContainerConfigError", message };
    let mut found = Vec::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let volume = volumes.paths.get(&mount.name).ok_or_else(|| {
            wrong(format!(
                "cannot find volume \"{}\" to mount into container \"{}\"",
                mount.name, container.name
            ))
        })?;
        let sub = match (&mount.sub_path, &mount.sub_path_expr) {
            (Some(sub), _) if !sub.is_empty() => Some(sub.clone()),
            (_, Some(expression)) if !expression.is_empty() => {
                Some(expanded(expression, env).map_err(wrong)?)
            }
            _ => None,
        };
        let what = if sub.is_some() { "subPath for volumeMount" } else { "volumeMount" };
        let place = pod_dir.join("subpaths").join(&mount.name).join(&container.name);
        let path =
            source_of(volume, sub, is_deeply_read_only(mount), place.join(index.to_string()))
                .await
                .map_err(|error| {
                    let (name, container) = (&mount.name, &container.name);
                    let failed = wrong(format!(
                        "failed to prepare {what} {name:?} of container {container:?}: {error}"
                    ));
                    // An image stays as it is, and so does what it lacks.
                    let reason =
                        if volume.of_image { "CreateContainerError" } else { failed.reason };
                    NoMount { reason, ..failed }
                })?;
        found.push(Mount {
            source: path.to_string_lossy().into_owned(),
            target: mount.mount_path.clone(),
            read_only: volume.read_only || mount.read_only == Some(true),
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => Propagation::HostToContainer,
                Some("Bidirectional") => Propagation::Bidirectional,
                _ => Propagation::Private,
            },
        });
    }
    Ok(found)
}

/// A `subPathExpr` with the values of its variables, each of which has to have
/// one.
fn expanded(expression: &str, env: &[(String, String)]) -> Result<String, String> {
    let missing = RefCell::new(None);
    let path = expand(expression, |name| {
        let value = env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        if value.is_none() {
            missing.replace(Some(name.to_owned()));
        }
        value
    });
    match missing.into_inner() {
        Some(name) => Err(format!("missing value for {name:?}")),
        None => Ok(path),
    }
}

/// Where Docker finds what a container mounts: the volume itself or, in `place`,
/// a part of it, or the whole made read-only in depth.
async fn source_of(
    volume: &Prepared,
    sub: Option<String>,
    deep: bool,
    place: PathBuf,
) -> std::io::Result<PathBuf> {
    if sub.is_none() && !deep {
        return Ok(volume.path.clone());
    }
    let Prepared { path: root, read_only, .. } = volume.clone();
    blocking(move || {
        match sub {
            Some(sub) => subpath::bind(&root, Path::new(&sub), &place, read_only)?,
            None => subpath::bind_whole(&root, &place)?,
        }
        if deep {
            mounts::make_read_only(&place)?;
        }
        Ok(place)
    })
    .await
}

/// Whether what is mounted below the volume is to be read-only as well, which
/// Docker before version 25 does not do by itself.
pub(crate) fn is_deeply_read_only(mount: &VolumeMount) -> bool {
    mount.read_only == Some(true)
        && matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"))
}

/// Removes a pod's folder and everything mounted below it.
pub async fn remove(pod_dir: &Path) -> std::io::Result<()> {
    let dir = pod_dir.to_path_buf();
    blocking(move || mounts::remove_tree(&dir)).await
}

/// The first bytes of a file that a container can write to, and with that make
/// as long as it likes.
pub(crate) async fn read_start(path: &Path, bytes: usize) -> std::io::Result<Vec<u8>> {
    let file = tokio::fs::File::open(path).await?;
    let mut read = Vec::new();
    file.take(bytes as u64).read_to_end(&mut read).await?;
    Ok(read)
}

/// The first bytes of the file `sub` in the volume at `root`, which containers
/// write to: no symbolic link in it leads out, and what is no file is not read.
pub(crate) async fn read_beneath(root: &Path, sub: &str, bytes: usize) -> std::io::Result<String> {
    let (root, sub) = (root.to_owned(), sub.to_owned());
    let read = blocking(move || subpath::read(&root, Path::new(&sub), bytes)).await?;
    String::from_utf8(read).map_err(std::io::Error::other)
}

/// The file or folder `sub` in `root`, into which others may write: no symbolic
/// link in it leads out, and what is neither is not opened.
pub(crate) async fn open_beneath(root: &Path, sub: &str) -> std::io::Result<std::fs::File> {
    let (root, sub) = (root.to_owned(), sub.to_owned());
    blocking(move || subpath::open_to_read(&root, Path::new(&sub))).await
}

/// Runs file work where it does not hold up other pods.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sub_path_needs_a_value_for_each_variable() {
        let env = [("POD".to_owned(), "p".to_owned()), ("EMPTY".to_owned(), String::new())];
        let missing = |name: &str| Err(format!("missing value for {name:?}"));
        let cases = [
            ("logs/$(POD)", Ok("logs/p".to_owned())),
            ("$(POD)$(EMPTY)", Ok("p".to_owned())),
            ("$(NONE)/$(POD)", missing("NONE")),
            ("$$(NONE)", Ok("$(NONE)".to_owned())),
        ];
        for (expression, expected) in cases {
            assert_eq!(expanded(expression, &env), expected, "{expression}");
        }
    }
}
