//! What pods use of what runs short, by their UID.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::limits::is_on_disk;
use super::rank::PodUse;
use crate::config::Config;
use crate::node::Kind;
use crate::pod::model::{spec, uid};
use crate::runtime::{Result, Runtime, RuntimeError, labels};
use crate::usage::Meter;
use crate::volume::{blocking, folder_of};

/// Memory in bytes, or processes, of the containers that run.
pub(super) async fn running(meter: &Meter, kind: Kind) -> Result<BTreeMap<String, PodUse>> {
    let mut uses: BTreeMap<String, PodUse> = BTreeMap::new();
    for one in meter.containers().await? {
        let used = if kind == Kind::Pids { one.stats.processes } else { one.stats.memory_bytes };
        uses.entry(one.uid).or_default().containers.insert(one.name, used);
    }
    Ok(uses)
}

/// Which parts of a pod are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    /// Its volumes.
    pub(super) volumes: bool,
    /// What its containers wrote, and their logs.
    pub(super) containers: bool,
}

impl Place {
    /// Everything.
    pub(super) const ALL: Self = Self { volumes: true, containers: true };
}

/// What `pods` left on the disk: bytes, or files for [`Kind::Inodes`]. The
/// runtime counts bytes of containers only. Reads every folder in question.
pub(super) async fn disk(
    runtime: &dyn Runtime,
    config: &Config,
    pods: &[Arc<Pod>],
    kind: Kind,
    place: Place,
) -> Result<BTreeMap<String, PodUse>> {
    let mut uses: BTreeMap<String, PodUse> =
        pods.iter().map(|pod| (uid(pod).to_owned(), PodUse::default())).collect();
    if kind == Kind::Disk && place.containers {
        let wanted = labels::of_node(&config.instance, &config.node_name);
        for container in runtime.list(&wanted).await? {
            let Some(used) = uses.get_mut(container.label(labels::POD_UID)) else { continue };
            let taken = match runtime.disk_use(&container.id).await {
                Ok(taken) => taken,
                // It went meanwhile, and what it took with it.
                Err(RuntimeError::NotFound(_)) => continue,
                Err(error) => return Err(error),
            };
            let name = container.label(labels::CONTAINER).to_owned();
            *used.containers.entry(name).or_default() += taken.layer_bytes + taken.log_bytes;
        }
    }
    for pod in pods.iter().filter(|_| place.volumes) {
        let Some(used) = uses.get_mut(uid(pod)) else { continue };
        for volume in spec(pod).volumes.iter().flatten().filter(|volume| is_on_disk(volume)) {
            let dir = folder_of(&config.pod_dir(uid(pod)), &volume.name);
            // A pod that has not begun has no folder, one that goes no more.
            let Ok(tree) = blocking(move || Tree::of(&dir)).await else { continue };
            let amount = if kind == Kind::Inodes { tree.files } else { tree.bytes };
            used.volumes.insert(volume.name.clone(), amount);
        }
    }
    Ok(uses)
}

/// What a folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Tree {
    /// Bytes on the disk.
    bytes: u64,
    /// Files and folders, itself not counted.
    files: u64,
}

impl Tree {
    /// Counts all below `root` that is on its file system; links are not
    /// followed, and a file of many names counts once. What vanishes
    /// meanwhile does not count.
    fn of(root: &Path) -> io::Result<Self> {
        let device = fs::symlink_metadata(root)?.dev();
        let mut tree = Self::default();
        let mut known = HashSet::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                let Ok(found) = entry.metadata() else { continue };
                if found.dev() != device || (found.nlink() > 1 && !known.insert(found.ino())) {
                    continue;
                }
                // In units of 512 bytes whatever the file system's block is.
                tree.bytes += found.blocks() * 512;
                tree.files += 1;
                if found.is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        Ok(tree)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_counts_each_file_once_and_follows_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("volume");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/file"), vec![1; 1 << 20]).unwrap();
        let one = Tree::of(&root).unwrap();
        assert_eq!(one.files, 3);
        assert!(one.bytes >= 1 << 20, "{one:?}");
        fs::hard_link(root.join("a/b/file"), root.join("again")).unwrap();
        assert_eq!(Tree::of(&root).unwrap(), one);
        fs::write(dir.path().join("outside"), vec![1; 1 << 20]).unwrap();
        std::os::unix::fs::symlink(dir.path(), root.join("out")).unwrap();
        let linked = Tree::of(&root).unwrap();
        assert_eq!(linked.files, 4);
        assert!(linked.bytes < one.bytes + (1 << 20), "{linked:?}");
        assert!(Tree::of(&dir.path().join("none")).is_err());
    }
}
