//! `fsGroup`: gives a volume to the group that the pod's processes belong to.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::Path;

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
