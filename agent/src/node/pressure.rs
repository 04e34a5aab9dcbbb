//! What runs short on the machine, from `/proc` and the file systems. The
//! node's conditions say it, and the eviction of pods acts on it.

use std::fs;
use std::path::Path;

use nix::sys::statvfs::statvfs;

use super::machine::meminfo;

/// Below this much available memory the node is under pressure; the kubelet's
/// own limit.
const MEMORY_LEFT_BYTES: u64 = 100 << 20;
/// Below this share of a disk, in percent, and below this many bytes. The share
/// is the kubelet's own limit; alone it would call a terabyte disk full with a
/// hundred gigabytes left.
const DISK_LEFT_PERCENT: u64 = 10;
const DISK_LEFT_BYTES: u64 = 5 << 30;
/// Below this share of its inodes.
const INODES_LEFT_PERCENT: u64 = 5;
/// Below this share of process ids.
const PIDS_LEFT_PERCENT: u64 = 5;

/// Something of which too little is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// Of what.
    pub kind: Kind,
    /// How much there should be at least.
    pub least: u64,
    /// How much there is.
    pub left: u64,
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
}

/// What runs short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pressures {
    /// Memory.
    pub memory: Option<Shortage>,
    /// Room for files: on the agent's disk or on the runtime's.
    pub disk: Option<Shortage>,
    /// Process ids.
    pub pids: Option<Shortage>,
}

impl Pressures {
    /// What runs short now. What cannot be read does not.
    pub(super) fn read(data_dir: &Path, runtime_dir: Option<&Path>) -> Self {
        let memory = fs::read_to_string("/proc/meminfo").ok();
        let memory = memory.and_then(|text| meminfo(&text, "MemAvailable"));
        Self {
            memory: memory.and_then(|left| shortage(Kind::Memory, left, MEMORY_LEFT_BYTES)),
            disk: [Some(data_dir), runtime_dir].into_iter().flatten().find_map(of_disk),
            pids: pids().and_then(|(left, all)| share(Kind::Pids, left, all, PIDS_LEFT_PERCENT)),
        }
    }

    /// All of them, the most urgent first.
    pub fn all(&self) -> impl Iterator<Item = Shortage> + use<> {
        [self.memory, self.disk, self.pids].into_iter().flatten()
    }

    /// The node's conditions that hold.
    pub fn conditions(&self) -> Vec<&'static str> {
        let named = [
            ("MemoryPressure", self.memory),
            ("DiskPressure", self.disk),
            ("PIDPressure", self.pids),
        ];
        named.into_iter().filter_map(|(name, short)| short.map(|_| name)).collect()
    }
}

fn shortage(kind: Kind, left: u64, least: u64) -> Option<Shortage> {
    (left < least).then_some(Shortage { kind, least, left })
}

/// A shortage below `percent` of all.
fn share(kind: Kind, left: u64, all: u64, percent: u64) -> Option<Shortage> {
    shortage(kind, left, all.saturating_mul(percent) / 100)
}

fn of_disk(path: &Path) -> Option<Shortage> {
    let disk = statvfs(path).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(disk.fragment_size());
    let (left, all) = (bytes(disk.blocks_available()), bytes(disk.blocks()));
    of_bytes(left, all)
        .or_else(|| share(Kind::Inodes, disk.files_available(), disk.files(), INODES_LEFT_PERCENT))
}

fn of_bytes(left: u64, all: u64) -> Option<Shortage> {
    let least = all.saturating_mul(DISK_LEFT_PERCENT) / 100;
    shortage(Kind::Disk, left, least.min(DISK_LEFT_BYTES))
}

/// Process ids that are free, and all.
fn pids() -> Option<(u64, u64)> {
    let most: u64 = fs::read_to_string("/proc/sys/kernel/pid_max").ok()?.trim().parse().ok()?;
    let load = fs::read_to_string("/proc/loadavg").ok()?;
    // The fourth field is running/all.
    let all: u64 = load.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()?;
    Some((most.saturating_sub(all), most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_full_when_both_share_and_bytes_say_so() {
        const GIB: u64 = 1 << 30;
        let cases = [
            ("half empty", 10 * GIB, 20 * GIB, None),
            ("a large disk with room", 20 * GIB, 1000 * GIB, None),
            ("a large disk without", 4 * GIB, 1000 * GIB, Some(5 * GIB)),
            ("a small disk with room", 2 * GIB, 10 * GIB, None),
            ("a small disk without", GIB / 2, 10 * GIB, Some(GIB)),
            ("a file system that does not count", 0, 0, None),
        ];
        for (name, left, all, least) in cases {
            let expected = least.map(|least| Shortage { kind: Kind::Disk, least, left });
            assert_eq!(of_bytes(left, all), expected, "{name}");
        }
    }

    #[test]
    fn pressures_are_named_as_the_conditions_are() {
        let short = |kind| shortage(kind, 1, 2);
        let all = Pressures {
            memory: short(Kind::Memory),
            disk: short(Kind::Inodes),
            pids: short(Kind::Pids),
        };
        assert_eq!(all.conditions(), ["MemoryPressure", "DiskPressure", "PIDPressure"]);
        let resources: Vec<_> = all.all().map(|short| short.kind.resource()).collect();
        assert_eq!(resources, ["memory", "inodes", "pids"]);
        assert!(Pressures::default().conditions().is_empty());
    }
}
