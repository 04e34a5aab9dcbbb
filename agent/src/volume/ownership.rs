//! `fsGroup`: gives a volume to the group that the pod's processes belong to.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;

use crate::pod::model::spec;

/// When a persistent volume that was used before is given to the group anew
/// (`fsGroupChangePolicy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GroupChange {
    /// Every time.
    Always,
    /// When its root is not the group's yet.
    OnRootMismatch,
}

impl GroupChange {
    /// What the pod asks for.
    pub(super) fn of(pod: &Pod) -> Self {
        let context = spec(pod).security_context.as_ref();
        match context.and_then(|context| context.fs_group_change_policy.as_deref()) {
            Some("OnRootMismatch") => Self::OnRootMismatch,
            _ => Self::Always,
        }
    }
}

/// Gives a volume that outlives its pods to the group.
pub(super) fn give_volume_to_group(path: &Path, group: i64, change: GroupChange) -> io::Result<()> {
    if change == GroupChange::OnRootMismatch {
        let root = fs::metadata(path)?;
        let wanted = 0o2770;
        if i64::from(root.gid()) == group && root.permissions().mode() & wanted == wanted {
            return Ok(());
        }
    }
    give_to_group(path, group, false)
}

/// Makes `path` and all below belong to `group`, readable and, unless
/// `read_only`, writable by it. New files in its folders will belong to the
/// group too. Symbolic links are not followed.
pub(super) fn give_to_group(path: &Path, group: i64, read_only: bool) -> io::Result<()> {
    let group = u32::try_from(group).map_err(io::Error::other)?;
    let meta = fs::symlink_metadata(path)?;
    lchown(path, None, Some(group))?;
    if meta.file_type().is_symlink() {
        return Ok(());
    }
    let mut mode = meta.permissions().mode() | if read_only { 0o440 } else { 0o660 };
    if meta.is_dir() {
        mode |= 0o2110;
    }
    fs::set_permissions(path, Permissions::from_mode(mode & 0o7777))?;
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            give_to_group(&entry?.path(), group.into(), read_only)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_whose_root_fits_is_left_alone_if_the_pod_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let group = i64::from(nix::unistd::getegid().as_raw());
        give_volume_to_group(dir.path(), group, GroupChange::OnRootMismatch).unwrap();
        let mode = || fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode() & 0o660, 0o660, "the root was another's");
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        give_volume_to_group(dir.path(), group, GroupChange::OnRootMismatch).unwrap();
        assert_eq!(mode(), 0o600);
        give_volume_to_group(dir.path(), group, GroupChange::Always).unwrap();
        assert_eq!(mode() & 0o660, 0o660);
    }
}
