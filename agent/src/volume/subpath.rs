//! `subPath`: a part of a volume, opened so that no symbolic link inside it
//! can lead out.
//!
//! Whoever writes to the volume could swap a folder for a link between our
//! check and Docker's mount. So the part is opened beneath the volume's root
//! by the kernel, and what was opened is bound to a place that only we can
//! write to; Docker mounts that.

use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, mkdirat};

use super::mount_points::is_mount_point;
use super::mounts::{ensure_dir, in_host_namespace};

/// Binds `root`/`sub` to `target`. A missing part is made a folder, unless the
/// volume is read-only.
pub(super) fn bind(root: &Path, sub: &Path, target: &Path, read_only: bool) -> io::Result<()> {
    bind_opened(target, || open_beneath(root, sub, !read_only))
}

/// Binds all of a volume to `target`, for mounts that are to differ from those
/// that others see.
pub(super) fn bind_whole(root: &Path, target: &Path) -> io::Result<()> {
    bind_opened(target, || Ok(open(root, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?))
}

/// The first bytes of the file `root`/`sub`.
pub(super) fn read(root: &Path, sub: &Path, bytes: usize) -> io::Result<Vec<u8>> {
    let file = open_to_read(root, sub)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other(format!("{} is not a file", sub.display())));
    }
    let mut read = Vec::new();
    file.take(bytes as u64).read_to_end(&mut read)?;
    Ok(read)
}

/// The file or folder `root`/`sub`.
pub(super) fn open_to_read(root: &Path, sub: &Path) -> io::Result<File> {
    let found = open_beneath(root, sub, false)?;
    let opened = format!("/proc/thread-self/fd/{}", found.as_raw_fd());
    let kind = fs::metadata(&opened)?;
    // A pipe or a device would hold up or surprise whoever reads it.
    if !kind.is_file() && !kind.is_dir() {
        return Err(io::Error::other(format!("{} is not a file", sub.display())));
    }
    File::open(&opened)
}

fn bind_opened(target: &Path, open: impl FnOnce() -> io::Result<OwnedFd> + Send) -> io::Result<()> {
    in_host_namespace(|| {
        let part = open()?;
        let opened = format!("/proc/thread-self/fd/{}", part.as_raw_fd());
        let found = fs::metadata(&opened)?;
        if is_mount_point(target)? {
            let bound = fs::metadata(target)?;
            if (bound.dev(), bound.ino()) == (found.dev(), found.ino()) {
                return Ok(());
            }
            // The name means another file by now, as it does after an update of
            // a config map. A container that starts anew gets that one.
            umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
        }
        make_place(target, found.is_dir())?;
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        Ok(mount(Some(opened.as_str()), target, None::<&str>, flags, None::<&str>)?)
    })
}

/// Makes what a folder or a file can be mounted over.
fn make_place(target: &Path, folder: bool) -> io::Result<()> {
    if let Some(parent) = target.parent() {
        ensure_dir(parent, 0o750)?;
    }
    match fs::symlink_metadata(target) {
        Ok(there) if there.is_dir() == folder => return Ok(()),
        Ok(there) if there.is_dir() => fs::remove_dir(target)?,
        Ok(_) => fs::remove_file(target)?,
        Err(_) => {}
    }
    if folder { ensure_dir(target, 0o750) } else { File::create(target).map(drop) }
}

/// Opens `root`/`sub` without leaving `root`, making folders that are missing.
fn open_beneath(root: &Path, sub: &Path, create: bool) -> io::Result<OwnedFd> {
    let parts = sub.components().filter(|part| !matches!(part, Component::CurDir));
    let parts: Vec<_> = parts
        .map(|part| match part {
            Component::Normal(name) => Ok(name),
            _ => {
                Err(io::Error::other(format!("{} is not a path inside the volume", sub.display())))
            }
        })
        .collect::<io::Result<_>>()?;
    let root = File::open(root)?;
    // Whoever may write to the volume may write to its parts.
    let mode = root.metadata()?.permissions().mode() & 0o7777;
    let root: OwnedFd = root.into();
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let how = OpenHow::new()
        .flags(flags)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let mut path = std::path::PathBuf::new();
    let mut found = openat2(&root, ".", how)?;
    for part in parts {
        path.push(part);
        // Always from the root: a link inside the volume may go up in it.
        found = match openat2(&root, path.as_path(), how) {
            Err(Errno::ENOENT) if create => {
                mkdirat(&found, part, Mode::from_bits_truncate(0o700))?;
                let made = openat2(&root, path.as_path(), how)?;
                allow(&made, mode)?;
                made
            }
            Err(Errno::EXDEV) => {
                return Err(io::Error::other(format!("{} leads out of the volume", sub.display())));
            }
            other => other?,
        };
    }
    Ok(found)
}

/// Gives what was opened these permissions, whatever the process's umask. Goes
/// by the descriptor: the name may point elsewhere by now.
fn allow(opened: &OwnedFd, mode: u32) -> io::Result<()> {
    let path = format!("/proc/thread-self/fd/{}", opened.as_raw_fd());
    let special = fs::metadata(&path)?.permissions().mode() & 0o7000;
    fs::set_permissions(&path, Permissions::from_mode(special | mode))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_leads_out_of_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("volume");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        symlink("/etc", root.join("out")).unwrap();
        symlink("../..", root.join("up")).unwrap();
        symlink("a/b", root.join("in")).unwrap();
        let cases = [
            ("a/b", false, true),
            ("in", false, true),
            ("./a", false, true),
            ("out", false, false),
            ("out/passwd", false, false),
            ("up", false, false),
            ("../x", false, false),
            ("/etc", false, false),
            ("new/deep", false, false),
            ("new/deep", true, true),
        ];
        for (sub, create, works) in cases {
            assert_eq!(
                open_beneath(&root, Path::new(sub), create).is_ok(),
                works,
                "{sub}, create {create}"
            );
        }
        std::fs::write(root.join("a/b/file"), "text").unwrap();
        let text = |sub: &str| read(&root, Path::new(sub), 3).ok();
        assert_eq!(text("in/file").as_deref(), Some(b"tex".as_slice()), "no more than asked for");
        assert_eq!((text("a"), text("out/passwd"), text("nowhere")), (None, None, None));
        let mode = |path: &str| std::fs::metadata(root.join(path)).unwrap().permissions().mode();
        assert_eq!(mode("new/deep"), mode(""), "made parts are as open as the volume");
    }
}
