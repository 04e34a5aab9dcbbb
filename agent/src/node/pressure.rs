//! What is left on the machine, from `/proc` and the file systems. The node's
//! conditions say what runs short, and the eviction of pods acts on it; when
//! that is, [`crate::eviction::thresholds`] decides.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use nix::sys::statvfs::statvfs;

use super::machine::meminfo;
use crate::eviction::thresholds::{Reading, Signal};

/// Something of which too little is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// Where.
    pub signal: Signal,
    /// How much there should be at least.
    pub least: u64,
    /// How much there is.
    pub left: u64,
    /// Whether the threshold is a hard one.
    pub is_hard: bool,
}

/// What a node can run short of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bytes of memory.
    Memory,
    /// Bytes of a disk.
    Disk,
    /// Files on a disk.
    Inodes,
    /// Process ids.
    Pids,
}

impl Kind {
    /// The name of the resource in the words of Kubernetes.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "ephemeral-storage",
            Self::Inodes => "inodes",
            Self::Pids => "pids",
        }
    }

    /// The node's condition that says so.
    pub fn condition(self) -> &'static str {
        match self {
            Self::Memory => "MemoryPressure",
            Self::Disk | Self::Inodes => "DiskPressure",
            Self::Pids => "PIDPressure",
        }
    }
}

/// What runs short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pressures {
    /// Whether the node calls itself short of memory.
    pub memory: bool,
    /// The same of room for files, on the agent's disk or on the runtime's.
    pub disk: bool,
    /// The same of process ids.
    pub pids: bool,
    /// What somebody has to give up something of now.
    pub urgent: Option<Shortage>,
}

impl Pressures {
    /// The node's conditions that hold.
    pub fn conditions(&self) -> Vec<&'static str> {
        let named = [(Kind::Memory, self.memory), (Kind::Disk, self.disk), (Kind::Pids, self.pids)];
        named.into_iter().filter(|(_, holds)| *holds).map(|(kind, _)| kind.condition()).collect()
    }
}

/// What is left now. What cannot be read is not there.
pub(super) fn read(data_dir: &Path, runtime_dir: Option<&Path>) -> BTreeMap<Signal, Reading> {
    let meminfo = |name| meminfo(&fs::read_to_string("/proc/meminfo").ok()?, name);
    let memory = meminfo("MemAvailable").zip(meminfo("MemTotal"));
    let memory = memory.map(|(left, all)| Reading { left, all });
    let (nodefs, imagefs) = (disk(data_dir), runtime_dir.and_then(disk));
    [
        (Signal::Memory, memory),
        (Signal::Nodefs, nodefs.map(|disk| disk.bytes)),
        (Signal::NodefsInodes, nodefs.map(|disk| disk.inodes)),
        (Signal::Imagefs, imagefs.map(|disk| disk.bytes)),
        (Signal::ImagefsInodes, imagefs.map(|disk| disk.inodes)),
        (Signal::Pids, pids()),
    ]
    .into_iter()
    .filter_map(|(signal, reading)| Some((signal, reading?)))
    .collect()
}

#[derive(Clone, Copy)]
struct Disk {
    bytes: Reading,
    inodes: Reading,
}

fn disk(path: &Path) -> Option<Disk> {
    let disk = statvfs(path).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(disk.fragment_size());
    Some(Disk {
        bytes: Reading { left: bytes(disk.blocks_available()), all: bytes(disk.blocks()) },
        inodes: Reading { left: disk.files_available(), all: disk.files() },
    })
}

/// Process ids, for each of which the machine has a thread at most.
pub(crate) fn pids() -> Option<Reading> {
    let most = u64::try_from(crate::config::most_pids()?).ok()?;
    let load = fs::read_to_string("/proc/loadavg").ok()?;
    // The fourth field is running/all.
    let all: u64 = load.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()?;
    Some(Reading { left: most.saturating_sub(all), all: most })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_something_left_of_everything() {
        let here = Path::new("/");
        for (signal, reading) in read(here, Some(here)) {
            // A file system that does not count its files says 0 of 0.
            assert!(reading.left <= reading.all, "{signal:?} {reading:?}");
        }
        let unknown = read(here, None);
        assert!(unknown.contains_key(&Signal::Memory) && unknown.contains_key(&Signal::Nodefs));
        assert!(!unknown.contains_key(&Signal::Imagefs));
    }
}
