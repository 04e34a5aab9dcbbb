//! The GPUs of the machine, from `/proc` and `/sys`.
//!
//! NVIDIA's driver tells of each GPU in `/proc/driver/nvidia/gpus/ADDRESS/information`;
//! AMD's lets the PCI device in `/sys` say more than others do. What has no
//! driver is of no use to a container and does not count here; its PCI label
//! shows it all the same.
//!
//! The labels are those of GPU Feature Discovery and of AMD's node labeller.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The vendor and the driver of AMD's GPUs.
const AMD: (&str, &str) = ("0x1002", "amdgpu");
/// What the driver writes for the UUID of a GPU that nobody has used yet.
const UNKNOWN: char = '?';

/// The GPUs of one machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Those of NVIDIA, by the order of their PCI addresses.
    pub nvidia: Vec<Gpu>,
    /// The version of NVIDIA's driver.
    pub nvidia_driver: Option<String>,
    /// Those of AMD, in the same order.
    pub amd: Vec<Gpu>,
}

/// One GPU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gpu {
    /// What it is called.
    pub model: Option<String>,
    /// By which it is known whatever slot it is in.
    pub uuid: Option<String>,
    /// Bytes of its own memory; NVIDIA's driver does not say.
    pub memory_bytes: Option<u64>,
}

impl Facts {
    /// Reads the machine whose `/proc` and `/sys` are below `root`.
    pub fn read(root: &Path) -> Self {
        let version = fs::read_to_string(root.join("proc/driver/nvidia/version"));
        Self {
            nvidia: folders(&root.join("proc/driver/nvidia/gpus"))
                .filter_map(|dir| nvidia(&fs::read_to_string(dir.join("information")).ok()?))
                .collect(),
            nvidia_driver: version.ok().as_deref().and_then(driver_version),
            amd: folders(&root.join("sys/bus/pci/devices")).filter_map(|dir| amd(&dir)).collect(),
        }
    }

    /// What a selector can ask for.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::new();
        let mut put = |name: &str, value: Option<String>| {
            labels.extend(value.map(|value| (name.to_owned(), value)));
        };
        if let Some(first) = self.nvidia.first() {
            put("nvidia.com/gpu.present", Some("true".to_owned()));
            put("nvidia.com/gpu.count", Some(self.nvidia.len().to_string()));
            put("nvidia.com/gpu.product", first.model.as_deref().and_then(product));
            let version = self.nvidia_driver.as_deref().unwrap_or_default();
            put("nvidia.com/cuda.driver-version.full", self.nvidia_driver.clone());
            let mut numbers = version.split('.').filter(|text| !text.is_empty());
            for part in ["major", "minor", "revision"] {
                let name = format!("nvidia.com/cuda.driver-version.{part}");
                put(&name, numbers.next().map(str::to_owned));
            }
        }
        if let Some(first) = self.amd.first() {
            put("amd.com/gpu.count", Some(self.amd.len().to_string()));
            put("amd.com/gpu.product-name", first.model.as_deref().and_then(product));
            let gib = first.memory_bytes.map(|bytes| (bytes + (1 << 29)) >> 30);
            put("amd.com/gpu.vram", gib.map(|gib| format!("{gib}G")));
        }
        labels
    }
}

/// The folders in `dir`, by name.
fn folders(dir: &Path) -> impl Iterator<Item = std::path::PathBuf> {
    let mut found: Vec<_> =
        fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found.into_iter()
}

/// A GPU from what NVIDIA's driver says of it; `None` for one that the driver
/// was told to leave alone.
fn nvidia(information: &str) -> Option<Gpu> {
    let field = |name: &str| {
        let fields = information.lines().filter_map(|line| line.split_once(':'));
        let mut values =
            fields.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim());
        values.next().filter(|value| !value.is_empty())
    };
    if field("GPU Excluded").is_some_and(|excluded| excluded.eq_ignore_ascii_case("yes")) {
        return None;
    }
    Some(Gpu {
        model: field("Model").map(str::to_owned),
        uuid: field("GPU UUID").filter(|uuid| !uuid.contains(UNKNOWN)).map(str::to_owned),
        memory_bytes: None,
    })
}

/// A PCI device, if it is a GPU or an accelerator that AMD's driver runs.
fn amd(dir: &Path) -> Option<Gpu> {
    let read = |name: &str| {
        let text = fs::read_to_string(dir.join(name)).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let (vendor, driver) = AMD;
    let bound = fs::read_link(dir.join("driver")).ok()?;
    if read("vendor")? != vendor || bound.file_name()?.to_str()? != driver {
        return None;
    }
    Some(Gpu {
        model: read("product_name"),
        uuid: read("unique_id"),
        memory_bytes: read("mem_info_vram_total").and_then(|text| text.parse().ok()),
    })
}

/// The version in `NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  …`:
/// the first word that is numbers with dots between them.
fn driver_version(text: &str) -> Option<String> {
    let first = text.lines().next()?;
    let is_version =
        |word: &&str| word.contains('.') && word.split('.').all(|part| part.parse::<u32>().is_ok());
    first.split_whitespace().find(is_version).map(str::to_owned)
}

/// A model as the value of a label, with dashes for spaces.
fn product(model: &str) -> Option<String> {
    let words: Vec<_> = model.split_whitespace().collect();
    crate::node::label_value(&words.join("-"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Writes the files of a machine with GPUs of NVIDIA with these UUIDs.
    pub(crate) fn nvidia_machine(root: &Path, uuids: &[&str]) {
        let driver = root.join("proc/driver/nvidia");
        for (slot, uuid) in uuids.iter().enumerate() {
            let dir = driver.join(format!("gpus/0000:0{slot}:00.0"));
            fs::create_dir_all(&dir).unwrap();
            let text = format!(
                "Model: \t\t NVIDIA A100-SXM4-40GB\nIRQ:   \t\t 148\nGPU UUID: \t {uuid}\n\
                 Bus Location: \t 0000:0{slot}:00.0\nDevice Minor: \t {slot}\nGPU Excluded:\t No\n"
            );
            fs::write(dir.join("information"), text).unwrap();
        }
        let version = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n\
                       GCC version:  gcc version 12.2.0\n";
        fs::write(driver.join("version"), version).unwrap();
    }

    #[test]
    fn a_machine_without_gpus_has_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Facts::read(dir.path()), Facts::default());
        assert!(Facts::default().labels().is_empty());
    }

    #[test]
    fn nvidias_driver_tells_of_its_gpus() {
        let dir = tempfile::tempdir().unwrap();
        nvidia_machine(dir.path(), &["GPU-1", "GPU-????????-????"]);
        let excluded = dir.path().join("proc/driver/nvidia/gpus/0000:0f:00.0");
        fs::create_dir_all(&excluded).unwrap();
        fs::write(excluded.join("information"), "Model: X\nGPU Excluded: Yes\n").unwrap();
        let facts = Facts::read(dir.path());
        let uuids: Vec<_> = facts.nvidia.iter().map(|gpu| gpu.uuid.as_deref()).collect();
        assert_eq!(uuids, [Some("GPU-1"), None]);
        let labels: Vec<_> = facts.labels().into_iter().collect();
        let expected = [
            ("nvidia.com/cuda.driver-version.full", "535.104.05"),
            ("nvidia.com/cuda.driver-version.major", "535"),
            ("nvidia.com/cuda.driver-version.minor", "104"),
            ("nvidia.com/cuda.driver-version.revision", "05"),
            ("nvidia.com/gpu.count", "2"),
            ("nvidia.com/gpu.present", "true"),
            ("nvidia.com/gpu.product", "NVIDIA-A100-SXM4-40GB"),
        ];
        assert_eq!(labels, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }

    #[test]
    fn amds_driver_tells_in_sys() {
        let dir = tempfile::tempdir().unwrap();
        let devices = dir.path().join("sys/bus/pci/devices");
        let device = |slot: &str, vendor: &str, driver: &str| {
            let device = devices.join(slot);
            fs::create_dir_all(&device).unwrap();
            fs::write(device.join("vendor"), format!("{vendor}\n")).unwrap();
            std::os::unix::fs::symlink(format!("../../drivers/{driver}"), device.join("driver"))
                .unwrap();
            device
        };
        let card = device("0000:03:00.0", "0x1002", "amdgpu");
        fs::write(card.join("product_name"), "AMD Instinct MI210\n").unwrap();
        fs::write(card.join("mem_info_vram_total"), "68702699520\n").unwrap();
        device("0000:03:00.1", "0x1002", "snd_hda_intel");
        device("0000:04:00.0", "0x8086", "amdgpu");
        let facts = Facts::read(dir.path());
        assert_eq!(facts.amd.len(), 1);
        let labels: Vec<_> = facts.labels().into_iter().collect();
        let expected = [
            ("amd.com/gpu.count", "1"),
            ("amd.com/gpu.product-name", "AMD-Instinct-MI210"),
            ("amd.com/gpu.vram", "64G"),
        ];
        assert_eq!(labels, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }
}
