//! Image garbage collection: when the disk of the runtime is nearly full, the
//! images that Skiff brought and nobody uses go, the longest unused first.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Images;
use super::ledger::Brought;
use crate::runtime::{Image, Runtime, RuntimeError};

/// How full the runtime's disk may become with images that nobody uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// From this share of the disk on, in percent, images go. Default: 85.
    pub high_percent: u8,
    /// Down to this share. Default: 80.
    pub low_percent: u8,
    /// How long after its last use an image stays at least: one this young may
    /// be what a pod that is starting waits for. Default: two minutes.
    pub least_age: Duration,
}

impl Default for Marks {
    fn default() -> Self {
        Self { high_percent: 85, low_percent: 80, least_age: Duration::from_secs(120) }
    }
}

/// How often the disk is looked at when no image comes.
const PERIOD: Duration = Duration::from_secs(300);

/// How full a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// All bytes.
    pub capacity: u64,
    /// Bytes that are left for use.
    pub available: u64,
}

impl Disk {
    /// The file system of `path`; `None` when it cannot be asked.
    pub fn of(path: &Path) -> Option<Self> {
        let found = nix::sys::statvfs::statvfs(path).ok()?;
        let unit = found.fragment_size();
        Some(Self { capacity: found.blocks() * unit, available: found.blocks_available() * unit })
    }

    /// The bytes that have to go, zero below the high mark.
    fn to_free(self, marks: Marks) -> u64 {
        let used = self.capacity.saturating_sub(self.available);
        // As the kubelet has it, a mark of 100 is never reached.
        if self.capacity == 0
            || marks.high_percent >= 100
            || used.saturating_mul(100) / self.capacity < marks.high_percent.into()
        {
            return 0;
        }
        used.saturating_sub(self.capacity.saturating_mul(marks.low_percent.into()) / 100)
    }
}

/// The names to remove, in this order, to free `bytes`: of images that nobody has
/// used since then.
fn plan(
    ledger: &BTreeMap<String, Brought>,
    images: &[Image],
    in_use: &BTreeSet<String>,
    bytes: u64,
    unused_since: Timestamp,
) -> Vec<String> {
    let mut idle: Vec<(&Brought, &String, &Image)> = ledger
        .iter()
        .filter(|(_, brought)| brought.used <= unused_since)
        .filter_map(|(name, brought)| {
            // Under the name we brought it, and still the same image.
            let image = images.iter().find(|image| {
                image.id == brought.id
                    && (image.tags.contains(name) || image.digests.contains(name))
            })?;
            (!in_use.contains(&image.id)).then_some((brought, name, image))
        })
        .collect();
    idle.sort_by_key(|(brought, name, _)| (brought.used, *name));
    let mut freed: u64 = 0;
    let mut names = Vec::new();
    for (_, name, image) in idle {
        if freed >= bytes {
            break;
        }
        freed = freed.saturating_add(u64::try_from(image.size).unwrap_or(0));
        names.push(name.clone());
    }
    names
}

impl Images {
    /// Makes room on the runtime's disk, at once, whenever an image came, and now
    /// and then, until cancelled.
    pub async fn keep_room(self, cancel: CancellationToken) {
        loop {
            if let Err(error) = self.make_room().await {
                warn!(%error, "cannot look for images to remove");
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.came.notified() => {}
                () = tokio::time::sleep(PERIOD) => {}
            }
        }
    }

    /// Looks at the runtime's disk now and makes room if it is nearly full; how
    /// many images went.
    pub async fn make_room(&self) -> Result<usize, RuntimeError> {
        let root = self.runtime.version().await?.root_dir;
        match Disk::of(Path::new(&root)) {
            Some(disk) => self.collect(disk, Timestamp::now()).await,
            None => Ok(0),
        }
    }

    /// Removes unused images that Skiff brought, if the disk asks for it; how
    /// many went.
    pub async fn collect(&self, disk: Disk, now: Timestamp) -> Result<usize, RuntimeError> {
        let in_use = self.in_use(now).await?;
        match disk.to_free(self.marks) {
            0 => Ok(0),
            bytes => self.free(bytes, &in_use, now).await,
        }
    }

    /// Removes all unused images that Skiff brought; how many went.
    pub async fn remove_unused(&self, now: Timestamp) -> Result<usize, RuntimeError> {
        let in_use = self.in_use(now).await?;
        self.free(u64::MAX, &in_use, now).await
    }

    /// The ids of images that have containers of anybody. Of those, being used
    /// is noted: a long life of its pod does not make an image an old one.
    async fn in_use(&self, now: Timestamp) -> Result<BTreeSet<String>, RuntimeError> {
        let containers = self.runtime.list(&BTreeMap::new()).await?;
        let in_use = containers.into_iter().map(|container| container.image_id).collect();
        self.ledger.in_use(&in_use, now);
        Ok(in_use)
    }

    async fn free(
        &self,
        bytes: u64,
        in_use: &BTreeSet<String>,
        now: Timestamp,
    ) -> Result<usize, RuntimeError> {
        let runtime: &dyn Runtime = self.runtime.as_ref();
        let images = runtime.images().await?;
        let unused_since = now - SignedDuration::try_from(self.marks.least_age).unwrap_or_default();
        let mut removed = 0;
        for name in plan(&self.ledger.all(), &images, in_use, bytes, unused_since) {
            match runtime.remove_image(&name).await {
                Ok(()) => {
                    info!(image = name, "removed to make room");
                    self.ledger.gone(&name);
                    self.forget(&name);
                    removed += 1;
                }
                Err(error) => warn!(image = name, %error, "image not removed"),
            }
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::access::Access;
    use super::*;
    use crate::runtime::ContainerSpec;
    use crate::runtime::memory::Memory;

    #[test]
    fn a_disk_is_emptied_to_the_low_mark_once_it_reaches_the_high_one() {
        for (used, expected) in [(0, 0), (84, 0), (85, 5), (90, 10), (100, 20)] {
            let disk = Disk { capacity: 100, available: 100 - used };
            assert_eq!(disk.to_free(Marks::default()), expected, "{used}%");
        }
        assert_eq!(Disk { capacity: 0, available: 0 }.to_free(Marks::default()), 0);
        let full = Disk { capacity: 100, available: 0 };
        assert_eq!(
            full.to_free(Marks { high_percent: 50, low_percent: 40, ..Marks::default() }),
            60
        );
        assert_eq!(
            full.to_free(Marks { high_percent: 100, ..Marks::default() }),
            0,
            "switched off"
        );
    }

    #[tokio::test]
    async fn only_what_skiff_brought_and_nobody_uses_goes_oldest_first() {
        let memory = Arc::new(Memory::new());
        let images = Images::new(memory.clone());
        let at = |second| Timestamp::from_second(second).unwrap();
        for (name, second) in [("used:1", 1), ("old:1", 2), ("newer:1", 3), ("fresh:1", 1000)] {
            memory.add_image(name);
            let id = memory.image(name).await.unwrap().unwrap().id;
            images.ledger.brought(name, &id, Access::Everybody, at(second));
        }
        memory.add_image("theirs:1");
        images.ledger.brought("replaced:1", "sha256:before", Access::Everybody, at(1));
        memory.add_image("replaced:1");
        let spec = ContainerSpec { name: "c".into(), image: "used:1".into(), ..Default::default() };
        let container = memory.create(&spec).await.unwrap();

        let names = |images: Vec<Image>| {
            images.into_iter().flat_map(|image| image.tags).collect::<BTreeSet<_>>()
        };
        let quiet = Disk { capacity: 100, available: 50 };
        assert_eq!(images.collect(quiet, at(1010)).await.unwrap(), 0);
        let size = memory.image("old:1").await.unwrap().unwrap().size.unsigned_abs();
        let nearly = Disk { capacity: size * 5, available: 0 };
        assert_eq!(images.collect(nearly, at(1010)).await.unwrap(), 1);
        assert!(!names(memory.images().await.unwrap()).contains("old:1"), "the oldest suffices");
        let full = Disk { capacity: size * 1000, available: 0 };
        images.collect(full, at(1010)).await.unwrap();
        let left: Vec<String> = names(memory.images().await.unwrap()).into_iter().collect();
        assert_eq!(left, ["fresh:1", "replaced:1", "theirs:1", "used:1"]);
        assert_eq!(images.remove_unused(at(1010)).await.unwrap(), 0);
        assert_eq!(images.remove_unused(at(2000)).await.unwrap(), 1, "nobody waits for it");
        // The first one was in use all the time.
        memory.remove(&container).await.unwrap();
        assert_eq!(images.remove_unused(at(2100)).await.unwrap(), 0);
        assert_eq!(images.remove_unused(at(2120)).await.unwrap(), 1);
    }
}
