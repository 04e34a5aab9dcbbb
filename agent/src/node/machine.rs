//! What the machine has, from `/proc` and the file systems.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use nix::sys::statvfs::statvfs;
use skiff_api::quantity::Quantity as Amount;

use crate::eviction::thresholds::{Bounds, Signal};
use crate::pod::resources::parse;

/// The machine, as it was at the start.
#[derive(Debug, Clone)]
pub struct Machine {
    cpus: usize,
    /// All memory in bytes.
    pub memory_bytes: u64,
    disk_bytes: u64,
    huge_pages: BTreeMap<String, u64>,
    /// Changes with every boot.
    pub(super) boot_id: String,
    /// Stays.
    pub(super) machine_id: String,
    pub(super) system_uuid: String,
    pub(super) kernel: String,
}

impl Machine {
    /// Reads the machine.
    pub fn read() -> io::Result<Self> {
        let line = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned());
        let machine_id = line("/etc/machine-id")
            .or_else(|_| line("/var/lib/dbus/machine-id"))
            .unwrap_or_default();
        Ok(Self {
            cpus: std::thread::available_parallelism()?.get(),
            memory_bytes: meminfo(&fs::read_to_string("/proc/meminfo")?, "MemTotal")
                .unwrap_or_default(),
            disk_bytes: statvfs("/")
                .map(|disk| disk.blocks() * disk.fragment_size())
                .unwrap_or_default(),
            huge_pages: huge_pages(),
            boot_id: line("/proc/sys/kernel/random/boot_id").unwrap_or_default(),
            // Virtual machines often have none that can be read.
            system_uuid: line("/sys/class/dmi/id/product_uuid")
                .unwrap_or_else(|_| machine_id.clone()),
            machine_id,
            kernel: line("/proc/sys/kernel/osrelease")?,
        })
    }

    /// All there is.
    pub(super) fn resources(
        &self,
        max_pods: u32,
        extended: &BTreeMap<String, String>,
    ) -> BTreeMap<String, Quantity> {
        let mut resources: BTreeMap<String, Quantity> = [
            ("cpu", self.cpus.to_string()),
            ("memory", format!("{}Ki", self.memory_bytes >> 10)),
            ("ephemeral-storage", format!("{}Ki", self.disk_bytes >> 10)),
            ("pods", max_pods.to_string()),
        ]
        .map(|(name, amount)| (name.to_owned(), Quantity(amount)))
        .into();
        resources.extend(
            self.huge_pages.iter().map(|(name, bytes)| (name.clone(), Quantity(bytes.to_string()))),
        );
        resources
            .extend(extended.iter().map(|(name, amount)| (name.clone(), Quantity(amount.clone()))));
        resources
    }
}

/// What of `capacity` is for pods: without what is reserved, what the node
/// evicts for to have left, and the memory that is set aside as huge pages.
pub(super) fn for_pods(
    capacity: &BTreeMap<String, Quantity>,
    reserved: &BTreeMap<String, Amount>,
    hard: &Bounds,
) -> BTreeMap<String, Quantity> {
    let bytes = |amount: &Quantity| parse(amount).map_or(0, Amount::bytes);
    let huge: i64 = capacity
        .iter()
        .filter(|(name, _)| name.starts_with("hugepages-"))
        .map(|(_, amount)| bytes(amount))
        .sum();
    let mut left = capacity.clone();
    for (name, signal) in [
        ("cpu", None),
        ("memory", Some(Signal::Memory)),
        ("ephemeral-storage", Some(Signal::Nodefs)),
    ] {
        let Some(all) = capacity.get(name).and_then(parse) else { continue };
        let kept = signal.and_then(|signal| hard.get(&signal)).map_or(0, |bound| {
            bound.of(u64::try_from(all.bytes()).unwrap_or(0)).try_into().unwrap_or(i64::MAX)
        });
        let huge = if name == "memory" { huge } else { 0 };
        let own = reserved.get(name).map_or(0, |own| own.millis());
        let taken = own.saturating_add(kept.saturating_add(huge).saturating_mul(1000));
        if taken > 0 {
            let millis = all.millis().saturating_sub(taken).max(0);
            let text = if name == "cpu" {
                Amount::from_millis(millis).to_string()
            } else {
                format!("{}Ki", (millis / 1000) >> 10)
            };
            left.insert(name.to_owned(), Quantity(text));
        }
    }
    left
}

/// A line of `/proc/meminfo` in bytes.
pub(crate) fn meminfo(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// Reserved huge pages, by resource name.
fn huge_pages() -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let Ok(sizes) = fs::read_dir("/sys/kernel/mm/hugepages") else { return found };
    for size in sizes.flatten() {
        let name = size.file_name().to_string_lossy().into_owned();
        let kib = name
            .strip_prefix("hugepages-")
            .and_then(|rest| rest.strip_suffix("kB")?.parse::<u64>().ok());
        let count = fs::read_to_string(size.path().join("nr_hugepages"))
            .ok()
            .and_then(|text| text.trim().parse::<u64>().ok());
        if let (Some(kib), Some(count)) = (kib, count) {
            let unit = if kib >= 1 << 20 {
                format!("{}Gi", kib >> 20)
            } else {
                format!("{}Mi", kib >> 10)
            };
            found.insert(format!("hugepages-{unit}"), count * (kib << 10));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_in_bytes() {
        let text = "MemTotal:       24687772 kB\nMemFree:  1 kB\nMemAvailable: 100 kB\n";
        assert_eq!(meminfo(text, "MemTotal"), Some(24_687_772 << 10));
        assert_eq!(meminfo(text, "MemAvailable"), Some(100 << 10));
        assert_eq!(meminfo(text, "Mem"), None);
    }

    #[test]
    fn what_is_kept_is_not_for_pods() {
        use crate::eviction::thresholds::read_thresholds;
        let quantities = |all: &[(&str, &str)]| -> BTreeMap<String, Quantity> {
            all.iter().map(|(name, text)| ((*name).into(), Quantity((*text).into()))).collect()
        };
        let all = [
            ("cpu", "4"),
            ("memory", "1048576Ki"),
            ("ephemeral-storage", "10240Ki"),
            ("pods", "9"),
        ];
        let capacity = quantities(&all);
        let reserved = |all: &[(&str, &str)]| -> BTreeMap<String, Amount> {
            all.iter().map(|(name, text)| ((*name).into(), text.parse().unwrap())).collect()
        };
        let hard = read_thresholds("memory.available<24Mi,nodefs.available<10%").unwrap();
        let cases = [
            (reserved(&[]), Bounds::new(), all),
            (
                reserved(&[("cpu", "250m"), ("memory", "100Mi")]),
                hard.clone(),
                [
                    ("cpu", "3750m"),
                    ("memory", "921600Ki"),
                    ("ephemeral-storage", "9216Ki"),
                    ("pods", "9"),
                ],
            ),
            (
                reserved(&[("cpu", "5"), ("memory", "2Gi")]),
                hard,
                [("cpu", "0"), ("memory", "0Ki"), ("ephemeral-storage", "9216Ki"), ("pods", "9")],
            ),
        ];
        for (reserved, hard, expected) in cases {
            assert_eq!(for_pods(&capacity, &reserved, &hard), quantities(&expected));
        }
        let mut paged = capacity.clone();
        paged.extend(quantities(&[("hugepages-2Mi", "512Mi")]));
        let left = for_pods(&paged, &BTreeMap::new(), &Bounds::new());
        assert_eq!(left["memory"].0, "524288Ki");
    }

    #[test]
    fn this_machine_has_something_to_give() {
        let machine = Machine::read().unwrap();
        let resources =
            machine.resources(110, &[("example.com/gpu".to_owned(), "2".to_owned())].into());
        assert_eq!(resources["pods"].0, "110");
        assert_eq!(resources["example.com/gpu"].0, "2");
        assert!(machine.memory_bytes > 0);
    }
}
