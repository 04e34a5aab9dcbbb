//! Folders, tmpfs and bind mounts, made where Docker sees them.
//!
//! An agent of a lab may run in a mount namespace of its own; what it mounts
//! there would be invisible to Docker. So mounts are made on a thread that
//! has moved to the machine's first mount namespace.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// Makes the folder with exactly this mode.
pub fn ensure_dir(dir: &Path, mode: u32) -> io::Result<()> {
    ensure_dir_of(dir, mode, None)
}

/// The same for a group. One that is there is left as it is.
///
/// The folder gets its name last: whoever is killed before that leaves none
/// that looks finished.
pub(super) fn ensure_dir_of(dir: &Path, mode: u32, group: Option<u32>) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    let mut hidden = OsString::from(".");
    hidden.push(dir.file_name().unwrap_or_default());
    let half = dir.with_file_name(hidden);
    match fs::create_dir(&half) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if group.is_some() {
        chown(&half, None, group)?;
    }
    // The process's umask does not apply to this.
    fs::set_permissions(&half, Permissions::from_mode(mode))?;
    match fs::rename(&half, dir) {
        // Somebody else was quicker.
        Err(_) if dir.is_dir() => Ok(()),
        other => other,
    }
}

/// Mounts a tmpfs at `dir` unless something is mounted there.
///
/// Kernels that can do it never move its pages to a swap device.
pub(super) fn ensure_tmpfs(dir: &Path, options: &str) -> io::Result<()> {
    ensure_mount(dir, "tmpfs", &format!("{options},noswap"))
        .or_else(|_| ensure_mount(dir, "tmpfs", options))
}

/// Mounts a file system without a device at `dir` unless something is mounted
/// there.
pub(super) fn ensure_mount(dir: &Path, kind: &str, options: &str) -> io::Result<()> {
    in_host_namespace(|| {
        if mount_points()?.iter().any(|point| point == dir) {
            return Ok(());
        }
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        Ok(mount(Some(kind), dir, Some(kind), flags, Some(options))?)
    })
}

/// Removes a folder with all that is mounted in it, and nothing of what the
/// host has mounted elsewhere. One that is not there is removed.
///
/// All of it happens where the mounts were made: an agent of a lab may see a
/// mount still that is gone there, and would remove the host's files in it.
pub(super) fn remove_tree(dir: &Path) -> io::Result<()> {
    in_host_namespace(|| {
        unmount_below(dir)?;
        if mount_points()?.iter().any(|point| point.starts_with(dir)) {
            let message = format!("something is mounted in {}", dir.display());
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
        }
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    })
}

/// Unmounts everything at or below `dir`, innermost first.
fn unmount_below(dir: &Path) -> io::Result<()> {
    let mut points: Vec<_> =
        mount_points()?.into_iter().filter(|point| point.starts_with(dir)).collect();
    // A copy of a mount that is shared with the host's would take what is
    // mounted there along: of a hostPath, the host's own.
    for point in &points {
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(None::<&str>, point, None::<&str>, private, None::<&str>)?;
    }
    points.reverse();
    for point in points {
        // Lazily: a process that still has it open must not keep the pod.
        umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
    }
    Ok(())
}

/// Makes all mounts at and below `dir` read-only, and keeps from it what others
/// mount later. They have to be ours alone.
pub(super) fn make_read_only(dir: &Path) -> io::Result<()> {
    in_host_namespace(|| {
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(None::<&str>, dir, None::<&str>, private, None::<&str>)?;
        for (point, options) in mount_table()?.into_iter().filter(|(at, _)| at.starts_with(dir)) {
            let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            let flags = flags | restrictions(&options);
            mount(None::<&str>, &point, None::<&str>, flags, None::<&str>)?;
        }
        Ok(())
    })
}

/// What a mount forbids already; a change of it would lift the rest.
fn restrictions(options: &str) -> MsFlags {
    let flag = |option| match option {
        "nosuid" => MsFlags::MS_NOSUID,
        "nodev" => MsFlags::MS_NODEV,
        "noexec" => MsFlags::MS_NOEXEC,
        "noatime" => MsFlags::MS_NOATIME,
        "nodiratime" => MsFlags::MS_NODIRATIME,
        "relatime" => MsFlags::MS_RELATIME,
        _ => MsFlags::empty(),
    };
    options.split(',').map(flag).collect()
}

/// All mount points of the calling thread's namespace, in the order of mounting.
pub(super) fn mount_points() -> io::Result<Vec<PathBuf>> {
    Ok(mount_table()?.into_iter().map(|(point, _)| point).collect())
}

/// The same, each with the options that are its own.
fn mount_table() -> io::Result<Vec<(PathBuf, String)>> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo")?;
    let row = |line: &str| {
        let mut fields = line.split(' ').skip(4);
        Some((unescaped(fields.next()?), fields.next()?.to_owned()))
    };
    Ok(table.lines().filter_map(row).collect())
}

/// The kernel writes blanks in paths as octal escapes.
fn unescaped(field: &str) -> PathBuf {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    PathBuf::from(
        escapes.iter().fold(field.to_owned(), |text, (escape, plain)| text.replace(escape, plain)),
    )
}

/// Runs `work` on a thread in the mount namespace of the machine.
pub(super) fn in_host_namespace<T: Send>(
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let host = Path::new("/proc/1/ns/mnt");
    let inode = |path: &Path| fs::metadata(path).map(|meta| meta.ino());
    // Where process 1 may not be looked at, we are inside a container
    // ourselves, and Docker with us.
    let Ok(machine) = inode(host) else { return work() };
    if machine == inode(Path::new("/proc/thread-self/ns/mnt"))? {
        return work();
    }
    let worker = move || {
        let namespace = File::open(host)?;
        // A thread that shares its working directory cannot change namespace.
        unshare(CloneFlags::CLONE_FS)?;
        setns(namespace, CloneFlags::CLONE_NEWNS)?;
        work()
    };
    std::thread::scope(|scope| {
        scope
            .spawn(worker)
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the mounting thread panicked")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        assert_eq!(unescaped("/a\\040b\\134c"), Path::new("/a b\\c"));
    }

    #[test]
    fn what_a_mount_forbids_stays_forbidden() {
        let flags = restrictions("rw,nosuid,nodev,relatime");
        assert_eq!(flags, MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_RELATIME);
        assert_eq!(restrictions("ro"), MsFlags::empty());
    }
}
