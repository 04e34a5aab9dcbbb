//! File systems that are soon full.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A file system of its own with little room.
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one at `path`.
    pub fn mount(path: &Path, megabytes: u32) -> Self {
        std::fs::create_dir_all(path).expect("a folder");
        let size = format!("size={megabytes}m");
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(size.as_str()))
            .expect("a small file system");
        Self { path: path.to_owned() }
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }

    /// Takes all room.
    pub fn fill(&self) {
        let mut filler =
            File::options().create(true).append(true).open(self.filler()).expect("a file");
        // First in large steps, then to the last byte.
        for size in [1 << 20, 4096, 1] {
            while filler.write_all(&vec![b'f'; size]).is_ok() {}
        }
    }

    /// Gives it back.
    pub fn free(&self) {
        match std::fs::remove_file(self.filler()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Who uses it may still run; what is held open goes with it.
        if let Err(error) = umount2(&self.path, MntFlags::MNT_DETACH) {
            eprintln!("{} stays mounted: {error}", self.path.display());
        }
    }
}
