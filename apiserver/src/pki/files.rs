//! Files of the key store: written whole or not at all, private keys readable
//! by their owner only.
//!
//! A file is written beside its place, synced and renamed, so a crash leaves
//! the old file or the new one. Permissions are set when the file is made;
//! tightening them afterwards would leave a moment in which others can read.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::PkiError;

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Mode 0600: keys and everything that contains one.
    Private,
    /// Mode 0644: certificates and public keys.
    Public,
}

/// Makes `dir` with mode 0700 unless it is there.
pub fn ensure_dir(dir: &Path) -> Result<(), PkiError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at(dir))
}

/// Replaces the content of `path`.
pub fn write(path: &Path, content: &[u8], access: Access) -> Result<(), PkiError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    let beside = PathBuf::from(beside);

    let written = (|| {
        let mode = match access {
            Access::Private => 0o600,
            Access::Public => 0o644,
        };
        // A leftover of a crash must not hand its mode on to a new key.
        remove(&beside)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(parent)?.sync_all()
    })();
    if written.is_err() {
        // The first error is the one worth telling; the leftover is harmless.
        let _ = fs::remove_file(&beside);
    }
    written.map_err(at(path))
}

/// Reads a file; `None` when there is none.
pub fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path)(error)),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> PkiError + '_ {
    move |source| PkiError::File { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_are_private_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.key");
        assert_eq!(read(&path).unwrap(), None);
        for content in ["one", "two"] {
            write(&path, content.as_bytes(), Access::Private).unwrap();
            assert_eq!(read(&path).unwrap().as_deref(), Some(content));
            let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600);
        }
        write(&path, b"public", Access::Public).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }
}
