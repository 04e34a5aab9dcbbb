//! The log's files, filled with zeros before they are written to.
//!
//! The engine makes room ahead of its writes, two megabytes at a time. Room
//! that is only allocated (`fallocate`) is noted as never written, so every
//! later write changes that note, and every `fdatasync` has to commit the file
//! system's journal besides the data. Room that holds zeros is simply
//! overwritten: a sync writes what was appended and nothing else. It costs each
//! byte of the log a second write, in large pieces.

use std::io::{Result, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use raft_engine::env::{DefaultFileSystem, FileSystem, Permission, WriteExt};

const ZEROS: &[u8] = &[0; 64 << 10];

/// The engine's own files but for what stands above.
pub(super) struct FilledFiles;

type Plain = DefaultFileSystem;

impl FileSystem for FilledFiles {
    type Handle = <Plain as FileSystem>::Handle;
    type Reader = <Plain as FileSystem>::Reader;
    type Writer = FilledFile;

    fn create<P: AsRef<Path>>(&self, path: P) -> Result<Self::Handle> {
        Plain {}.create(path)
    }

    fn open<P: AsRef<Path>>(&self, path: P, permission: Permission) -> Result<Self::Handle> {
        Plain {}.open(path, permission)
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> Result<()> {
        Plain {}.delete(path)
    }

    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> Result<()> {
        Plain {}.rename(from, to)
    }

    fn new_reader(&self, handle: Arc<Self::Handle>) -> Result<Self::Reader> {
        Plain {}.new_reader(handle)
    }

    fn new_writer(&self, handle: Arc<Self::Handle>) -> Result<Self::Writer> {
        Plain {}.new_writer(handle).map(FilledFile)
    }
}

/// A file open for writing.
pub(super) struct FilledFile(<Plain as FileSystem>::Writer);

impl FilledFile {
    fn fill(&mut self, offset: usize, size: usize) -> Result<()> {
        self.0.seek(SeekFrom::Start(offset as u64))?;
        let mut left = size;
        while left > 0 {
            let piece = left.min(ZEROS.len());
            self.0.write_all(&ZEROS[..piece])?;
            left -= piece;
        }
        Ok(())
    }
}

impl Write for FilledFile {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> Result<()> {
        self.0.flush()
    }
}

impl Seek for FilledFile {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        self.0.seek(to)
    }
}

impl WriteExt for FilledFile {
    fn truncate(&mut self, offset: usize) -> Result<()> {
        self.0.truncate(offset)
    }

    fn allocate(&mut self, offset: usize, size: usize) -> Result<()> {
        let back = self.0.stream_position()?;
        let filled = self.fill(offset, size);
        // Also when the disk is full: the engine then writes into what there is.
        self.0.seek(SeekFrom::Start(back))?;
        filled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_made_behind_the_writer_and_leaves_it_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let handle = Arc::new(FilledFiles.create(&path).unwrap());
        let mut writer = FilledFiles.new_writer(handle).unwrap();
        writer.write_all(b"one").unwrap();
        writer.allocate(3, 100_000).unwrap();
        writer.write_all(b"two").unwrap();
        let content = std::fs::read(&path).unwrap();
        assert_eq!((&content[..6], content.len()), (&b"onetwo"[..], 100_003));
        assert!(content[6..].iter().all(|byte| *byte == 0));
    }
}
