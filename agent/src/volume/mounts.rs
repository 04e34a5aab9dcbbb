//! Folders, tmpfs and bind mounts, made where Docker sees them.
//!
//! An agent of a lab may run in a mount namespace of its own; what it mounts
//! there would be invisible to Docker. So mounts are made on a thread that
//! has moved to the machine's first mount namespace.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use super::mount_points::{below, is_mount_point, outermost};

/// How many mounts on top of each other are taken away; one place has one or two.
const STACKED: usize = 16;

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
        if is_mount_point(dir)? {
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
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    })
}

/// Unmounts everything at or below `dir`.
fn unmount_below(dir: &Path) -> io::Result<()> {
    for _ in 0..STACKED {
        let points = outermost(dir)?;
        if points.is_empty() {
            return Ok(());
        }
        for point in points {
            // A copy of a mount that is shared with the host's would take what is
            // mounted there along: of a hostPath, the host's own.
            let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
            mount(None::<&str>, &point, None::<&str>, private, None::<&str>)?;
            // With all that is mounted in it, and lazily: a process that still has
            // it open must not keep the pod.
            umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
        }
    }
    let message = format!("something is mounted in {}", dir.display());
    Err(io::Error::new(io::ErrorKind::ResourceBusy, message))
}

/// Makes all mounts at and below `dir` read-only, and keeps from it what others
/// mount later. They have to be ours alone.
pub(super) fn make_read_only(dir: &Path) -> io::Result<()> {
    in_host_namespace(|| {
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(None::<&str>, dir, None::<&str>, private, None::<&str>)?;
        for (point, options) in below(dir)? {
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
    fn what_is_mounted_in_a_folder_goes_and_its_files_stay() {
        let temporary = tempfile::tempdir().unwrap();
        let (pod, host) = (temporary.path().join("pod"), temporary.path().join("host"));
        let place = pod.join("volumes/data");
        fs::create_dir_all(&place).unwrap();
        fs::create_dir_all(&host).unwrap();
        fs::write(host.join("theirs"), "text").unwrap();
        in_host_namespace(|| {
            let none = None::<&str>;
            // One upon the other, and one in that.
            mount(Some("tmpfs"), &place, Some("tmpfs"), MsFlags::empty(), none)?;
            mount(Some(&host), &place, none, MsFlags::MS_BIND, none)?;
            let inner = place.join("inner");
            fs::create_dir(&inner)?;
            mount(Some("tmpfs"), &inner, Some("tmpfs"), MsFlags::empty(), none)?;
            fs::write(inner.join("ours"), "text")
        })
        .unwrap();
        remove_tree(&pod).unwrap();
        assert!(!pod.exists());
        let left: Vec<_> =
            fs::read_dir(&host).unwrap().map(|one| one.unwrap().file_name()).collect();
        assert!(left.contains(&"theirs".into()) && left.contains(&"inner".into()), "{left:?}");
        assert_eq!(fs::read_dir(host.join("inner")).unwrap().count(), 0);
        remove_tree(&pod).unwrap();
    }

    #[test]
    fn what_a_mount_forbids_stays_forbidden() {
        let flags = restrictions("rw,nosuid,nodev,relatime");
        assert_eq!(flags, MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_RELATIME);
        assert_eq!(restrictions("ro"), MsFlags::empty());
    }
}
