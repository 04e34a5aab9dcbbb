//! `hostPath`: checks that what is there is what the pod expects.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use super::mounts::ensure_dir;

/// Checks the path, or makes it where its type says so.
pub(super) fn ensure(path: &Path, kind: Option<&str>) -> io::Result<()> {
    let kind = kind.unwrap_or_default();
    let failed = |doing: &str, error: io::Error| {
        io::Error::new(error.kind(), format!("cannot {doing} {}: {error}", path.display()))
    };
    let made = match kind {
        // Docker refuses a bind mount of nothing; the kubelet lets the runtime
        // make a folder.
        "" | "DirectoryOrCreate" if !path.exists() => Some(ensure_dir(path, 0o755)),
        "FileOrCreate" if !path.exists() => Some(File::create_new(path).map(drop)),
        "" => return Ok(()),
        _ => None,
    };
    if let Some(made) = made {
        return made.map_err(|error| failed("make", error));
    }
    let found = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        other => Some(other.map_err(|error| failed("look at", error))?.file_type()),
    };
    let (fits, noun) = match kind {
        "Directory" | "DirectoryOrCreate" => {
            (found.is_some_and(|found| found.is_dir()), "a directory")
        }
        "File" | "FileOrCreate" => (found.is_some_and(|found| found.is_file()), "a file"),
        "Socket" => (found.is_some_and(|found| found.is_socket()), "a socket file"),
        "CharDevice" => (found.is_some_and(|found| found.is_char_device()), "a character device"),
        "BlockDevice" => (found.is_some_and(|found| found.is_block_device()), "a block device"),
        other => return Err(io::Error::other(format!("{other} is an invalid volume type"))),
    };
    if fits {
        return Ok(());
    }
    Err(io::Error::other(format!("hostPath type check failed: {} is not {noun}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked_or_made() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "").unwrap();
        let cases = [
            ("file", Some("File"), true),
            ("file", Some("Directory"), false),
            ("file", Some("Socket"), false),
            ("none", Some("Directory"), false),
            ("none", Some("File"), false),
            ("made", Some("DirectoryOrCreate"), true),
            ("made", Some("Directory"), true),
            ("made-file", Some("FileOrCreate"), true),
            ("made-file", Some("File"), true),
            ("anything", None, true),
            ("file", Some("Nonsense"), false),
        ];
        for (name, kind, fits) in cases {
            assert_eq!(ensure(&at(name), kind).is_ok(), fits, "{name} as {kind:?}");
        }
    }

    #[test]
    fn what_cannot_be_made_is_named() {
        for kind in [None, Some("DirectoryOrCreate"), Some("FileOrCreate")] {
            let refused = ensure(Path::new("/proc/skiff/there"), kind).unwrap_err().to_string();
            assert!(refused.starts_with("cannot make /proc/skiff/there: "), "{refused}");
        }
    }
}
