//! Files that change all at once.
//!
//! The files lie in a folder of their own, `..data` points to it, and what the
//! pod sees are links through `..data`. An update writes a new folder and
//! turns the one link: a reader sees the old files or the new ones.
//!
//! ```text
//! key      -> ..data/key
//! ..data   -> ..1764929411000000000
//! ..1764929411000000000/key
//! ```

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path};

use super::mounts::ensure_dir;
use super::ownership::give_to_group;
use super::payload::Files;

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";

/// Makes `dir` show exactly `files`. Does nothing if it does already.
pub(super) fn write(dir: &Path, files: &Files, group: Option<i64>) -> io::Result<()> {
    for path in files.keys() {
        // `..` anywhere would leave the volume, or look like our own files.
        let inside = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
        if !inside || path.starts_with("..") {
            return Err(io::Error::other(format!("invalid path in volume: {path}")));
        }
    }
    let old = fs::read_link(dir.join(DATA)).ok();
    if old.as_ref().is_some_and(|old| holds(&dir.join(old), files)) {
        return Ok(());
    }
    let version = format!("..{}", jiff::Timestamp::now().as_nanosecond());
    let next = dir.join(&version);
    ensure_dir(&next, 0o755)?;
    for (path, file) in files {
        let at = next.join(path);
        if let Some(parent) = at.parent() {
            ensure_dir(parent, 0o755)?;
        }
        fs::write(&at, &file.content)?;
        fs::set_permissions(&at, Permissions::from_mode(file.mode & 0o7777))?;
        if let Some(group) = group {
            give_to_group(&at, group, true)?;
        }
    }
    let pending = dir.join(DATA_NEXT);
    if let Err(error) = fs::remove_file(&pending)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    symlink(&version, &pending)?;
    fs::rename(&pending, dir.join(DATA))?;
    show(dir, files)?;
    if let Some(old) = old {
        fs::remove_dir_all(dir.join(old))?;
    }
    Ok(())
}

/// Links the first part of every path, and removes links of what is no more.
fn show(dir: &Path, files: &Files) -> io::Result<()> {
    let wanted: BTreeSet<_> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &wanted {
        let link = dir.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(name.as_ref()) {
            fs::remove_file(dir.join(name.as_ref()))?;
        }
    }
    Ok(())
}

/// Whether the folder has these files and no others.
fn holds(dir: &Path, files: &Files) -> bool {
    let same = files.iter().all(|(path, file)| {
        let at = dir.join(path);
        let mode = fs::metadata(&at).map(|meta| meta.permissions().mode() & 0o777);
        // A group may have been given more than the mode says.
        let mode_fits = mode.is_ok_and(|mode| mode & file.mode & 0o777 == file.mode & 0o777);
        mode_fits && fs::read(&at).is_ok_and(|content| content == file.content)
    });
    same && count(dir).is_ok_and(|count| count == files.len())
}

fn count(dir: &Path) -> io::Result<usize> {
    let mut total = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        total += if entry.file_type()?.is_dir() { count(&entry.path())? } else { 1 };
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::super::payload::FileContent;
    use super::*;

    fn files(entries: &[(&str, &str)]) -> Files {
        let file = |text: &str| FileContent { content: text.as_bytes().to_vec(), mode: 0o640 };
        entries.iter().map(|(path, text)| ((*path).to_owned(), file(text))).collect()
    }

    #[test]
    fn updates_replace_everything_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).ok();
        write(dir.path(), &files(&[("a", "1"), ("sub/b", "2")]), None).unwrap();
        assert_eq!((read("a"), read("sub/b")), (Some("1".into()), Some("2".into())));
        assert_eq!(fs::metadata(dir.path().join("a")).unwrap().permissions().mode() & 0o777, 0o640);

        let version = fs::read_link(dir.path().join(DATA)).unwrap();
        write(dir.path(), &files(&[("a", "1"), ("sub/b", "2")]), None).unwrap();
        assert_eq!(
            fs::read_link(dir.path().join(DATA)).unwrap(),
            version,
            "nothing changed, nothing written"
        );

        write(dir.path(), &files(&[("a", "3"), ("c", "4")]), None).unwrap();
        assert_eq!(
            (read("a"), read("sub/b"), read("c")),
            (Some("3".into()), None, Some("4".into()))
        );
        assert!(!dir.path().join(version).exists(), "the old version is gone");
    }

    #[test]
    fn paths_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["../x", "/x", "a/../../x", "..data", "..x"] {
            assert!(write(dir.path(), &files(&[(path, "1")]), None).is_err(), "{path}");
        }
    }
}
