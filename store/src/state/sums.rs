//! Checksums over the files of a closed state tree.
//!
//! `sled` panics on many kinds of damage, and a release build does not survive
//! a panic. So the tree is never opened on trust: when it is closed, the
//! SHA-256 of each of its files is written beside it, and only files that still
//! match are opened. The list is text as `sha256sum -c` reads it.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};

use crate::log::engine::write_durably;

/// Writes the checksums of all files under `dir` to `list`, durably, unless
/// they stand there already.
pub(super) fn record(dir: &Path, list: &Path) -> std::io::Result<()> {
    let observed = sums(dir)?;
    match std::fs::read(list) {
        Ok(recorded) if recorded == observed.as_bytes() => return Ok(()),
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    for file in files(dir)? {
        File::open(file)?.sync_all()?;
    }
    File::open(dir)?.sync_all()?;
    write_durably(list, observed.as_bytes())
}

/// Whether the files under `dir` are those that `list` was made of.
pub(super) fn hold(dir: &Path, list: &Path) -> std::io::Result<bool> {
    let recorded = match std::fs::read(list) {
        Ok(recorded) => recorded,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    Ok(recorded == sums(dir)?.as_bytes())
}

/// One line per file, in the order of their names.
fn sums(dir: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let mut buffer = vec![0; 64 << 10];
    for path in files(dir)? {
        let mut context = Context::new(&SHA256);
        let mut file = File::open(&path)?;
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                len => context.update(&buffer[..len]),
            }
        }
        for byte in context.finish().as_ref() {
            text.push_str(&format!("{byte:02x}"));
        }
        let name = path.strip_prefix(dir).unwrap_or(&path);
        text.push_str(&format!("  {}\n", name.display()));
    }
    Ok(text)
}

/// All files under `dir`, sorted.
fn files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for file in std::fs::read_dir(dir)? {
        let file = file?;
        if file.file_type()?.is_dir() {
            found.extend(files(&file.path())?);
        } else {
            found.push(file.path());
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_is_noticed() {
        type Change = fn(&Path);
        let cases: [(&str, Change, bool); 6] = [
            ("nothing", |_| {}, true),
            ("a bit", |dir| std::fs::write(dir.join("db"), b"contenu").unwrap(), false),
            ("the length", |dir| std::fs::write(dir.join("db"), b"content.").unwrap(), false),
            ("a file more", |dir| std::fs::write(dir.join("blobs/2"), b"").unwrap(), false),
            ("a file less", |dir| std::fs::remove_file(dir.join("blobs/1")).unwrap(), false),
            ("the list", |dir| std::fs::remove_file(dir.with_extension("sums")).unwrap(), false),
        ];
        for (name, change, holds) in cases {
            let temporary = tempfile::tempdir().unwrap();
            let dir = temporary.path().join("state");
            let list = dir.with_extension("sums");
            std::fs::create_dir_all(dir.join("blobs")).unwrap();
            std::fs::write(dir.join("db"), b"content").unwrap();
            std::fs::write(dir.join("blobs/1"), b"large").unwrap();
            record(&dir, &list).unwrap();
            change(&dir);
            assert_eq!(hold(&dir, &list).unwrap(), holds, "{name}");
            record(&dir, &list).unwrap();
            assert!(hold(&dir, &list).unwrap(), "{name}, recorded again");
        }
    }
}
