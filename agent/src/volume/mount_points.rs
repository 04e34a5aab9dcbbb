//! Where something is mounted.
//!
//! The kernel's table of mounts grows with every container of the machine, and
//! nobody can mount while it is being read. So a place is asked by itself whether
//! something is mounted there, and the table only where the kernel does not tell
//! (before Linux 5.8) or where there are many places.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Statx, StatxAttributes, StatxFlags, statx};

/// How many files a folder may have to be looked through. For more, reading
/// the table is quicker.
const PLACES: usize = 500;

/// A mount point and the options that are its own.
pub(super) type Row = (PathBuf, String);

/// Whether something is mounted at `place`; nothing is where there is no file.
pub(super) fn is_mount_point(place: &Path) -> io::Result<bool> {
    let Some(look) = look(place)? else { return Ok(false) };
    match is_mounted(&look) {
        Some(mounted) => Ok(mounted),
        None => Ok(table()?.iter().any(|(point, _)| point == place)),
    }
}

/// The mount points at and below `dir` that are in no other of them.
pub(super) fn outermost(dir: &Path) -> io::Result<Vec<PathBuf>> {
    if let Some(found) = looked_through(dir, PLACES)? {
        return Ok(found);
    }
    Ok(outermost_of(below(dir)?.into_iter().map(|(point, _)| point).collect()))
}

/// Those of `points` that are in no other.
fn outermost_of(mut points: Vec<PathBuf>) -> Vec<PathBuf> {
    points.sort();
    points.dedup_by(|inner, outer| inner.starts_with(outer));
    points
}

/// All mounts at and below `dir`, in the order of mounting.
pub(super) fn below(dir: &Path) -> io::Result<Vec<Row>> {
    Ok(table()?.into_iter().filter(|(point, _)| point.starts_with(dir)).collect())
}

/// What the places of `dir` say themselves. `None` if the kernel does not tell or
/// there are more of them than `places`.
fn looked_through(dir: &Path, places: usize) -> io::Result<Option<Vec<PathBuf>>> {
    let mut found = Vec::new();
    let mut seen = 0;
    let mut open = vec![dir.to_owned()];
    while let Some(place) = open.pop() {
        let Some(look) = look(&place)? else { continue };
        match is_mounted(&look) {
            None => return Ok(None),
            Some(true) => found.push(place),
            Some(false) if FileType::from_raw_mode(look.stx_mode.into()).is_dir() => {
                for entry in fs::read_dir(&place)? {
                    open.push(entry?.path());
                    seen += 1;
                    if seen > places {
                        return Ok(None);
                    }
                }
            }
            Some(false) => {}
        }
    }
    Ok(Some(found))
}

/// What the kernel says of a place; nothing of one that is not there.
fn look(place: &Path) -> io::Result<Option<Statx>> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match statx(CWD, place, flags, StatxFlags::TYPE) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => Ok(Some(other?)),
    }
}

/// Whether a mount begins there. `None` if the kernel does not tell.
fn is_mounted(look: &Statx) -> Option<bool> {
    let tells = look.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT);
    tells.then(|| look.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// The mounts of the calling thread's namespace, in the order of mounting.
fn table() -> io::Result<Vec<Row>> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo")?;
    let row = |line: &str| {
        let mut fields = line.split(' ').skip(4);
        Some((unescaped(fields.next()?), fields.next()?.to_owned()))
    };
    Ok(table.lines().filter_map(row).collect())
}

/// The kernel writes blanks in paths as octal escapes.
fn unescaped(field: &str) -> PathBuf {
    if !field.contains('\\') {
        return PathBuf::from(field);
    }
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    PathBuf::from(
        escapes.iter().fold(field.to_owned(), |text, (escape, plain)| text.replace(escape, plain)),
    )
}

#[cfg(test)]
mod tests {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};

    use super::super::mounts::in_host_namespace;
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        assert_eq!(unescaped("/a\\040b\\134c"), Path::new("/a b\\c"));
        assert_eq!(unescaped("/plain"), Path::new("/plain"));
    }

    #[test]
    fn a_folder_and_the_table_know_the_same_mounts() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().canonicalize().unwrap().join("a pod");
        let [outer, plain] = ["outer", "plain/deep"].map(|name| dir.join(name));
        let (inner, file, bound) = (outer.join("inner"), dir.join("file"), dir.join("bound"));
        fs::create_dir_all(&outer).unwrap();
        fs::create_dir_all(&plain).unwrap();
        fs::write(&file, "text").unwrap();
        fs::write(&bound, "").unwrap();
        std::os::unix::fs::symlink(&outer, dir.join("link")).unwrap();
        in_host_namespace(|| {
            let none = None::<&str>;
            mount(Some("tmpfs"), &outer, Some("tmpfs"), MsFlags::empty(), none)?;
            fs::create_dir(&inner)?;
            mount(Some("tmpfs"), &inner, Some("tmpfs"), MsFlags::empty(), none)?;
            mount(Some(&file), &bound, none, MsFlags::MS_BIND, none)?;

            assert!([&outer, &inner, &bound].iter().all(|at| is_mount_point(at).unwrap()));
            let others = [&dir, &plain, &file, &dir.join("link"), &dir.join("none")];
            assert!(!others.iter().any(|at| is_mount_point(at).unwrap()));
            let mut rows: Vec<_> = below(&dir)?.into_iter().map(|(point, _)| point).collect();
            rows.sort();
            assert_eq!(rows, [bound.clone(), outer.clone(), inner.clone()]);
            let mut found = looked_through(&dir, PLACES)?.unwrap();
            found.sort();
            assert_eq!(found, [bound.clone(), outer.clone()]);
            // Of too many places the table tells.
            assert_eq!(looked_through(&dir, 3)?, None);
            let of_table = outermost_of(rows);
            assert_eq!(of_table, found);

            for at in [&bound, &outer] {
                umount2(at, MntFlags::MNT_DETACH)?;
            }
            assert_eq!(outermost(&dir)?, [] as [PathBuf; 0]);
            assert_eq!(outermost(&dir.join("none"))?, [] as [PathBuf; 0]);
            Ok(())
        })
        .unwrap();
    }
}
