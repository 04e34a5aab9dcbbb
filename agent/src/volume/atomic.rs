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
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
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
        // Whoever turned the link may have been killed right then.
        return show(dir, files);
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
        if file.user.is_some() {
            chown(&at, file.user, None)?;
        }
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
    remove_others(dir, &version)
}

/// Removes the versions before this one, also those that were never shown.
fn remove_others(dir: &Path, version: &str) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("..") && name != version && entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
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
        let fits = fs::metadata(&at).is_ok_and(|meta| {
            // A group may have been given more than the mode says.
            let wanted = file.mode & 0o777;
            meta.permissions().mode() & wanted == wanted
                && file.user.is_none_or(|user| meta.uid() == user)
        });
        fits && fs::read(&at).is_ok_and(|content| content == file.content)
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
        let file =
            |text: &str| FileContent { content: text.as_bytes().to_vec(), mode: 0o640, user: None };
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
    fn what_a_killed_agent_left_is_put_right() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = files(&[("a", "1"), ("b", "2")]);
        write(dir.path(), &wanted, None).unwrap();
        // Killed after the link was turned, and before.
        fs::remove_file(dir.path().join("b")).unwrap();
        write(dir.path(), &wanted, None).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("b")).unwrap(), "2");
        fs::create_dir(dir.path().join("..123")).unwrap();
        symlink("..123", dir.path().join(DATA_NEXT)).unwrap();
        write(dir.path(), &files(&[("a", "3")]), None).unwrap();
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let version = fs::read_link(dir.path().join(DATA)).unwrap();
        assert_eq!(names, [version.to_str().unwrap(), DATA, "a"]);
    }

    #[test]
    fn paths_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["../x", "/x", "a/../../x", "..data", "..x"] {
            assert!(write(dir.path(), &files(&[(path, "1")]), None).is_err(), "{path}");
        }
    }
}
