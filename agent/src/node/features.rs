//! What the hardware is, as labels, so that a selector can ask for it.
//!
//! The names are those of Node Feature Discovery, so that manifests written
//! for it work: `feature.node.kubernetes.io/cpu-cpuid.AVX2=true`,
//! `…/pci-0302_10de.present=true`, `…/kernel-version.major=6`.
//!
//! GPUs have labels of their own, see [`crate::devices::facts`].
//!
//! Read once, at the start. What cannot be read is not there, and its label goes
//! from the node ([`super::register`]).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::devices::facts::Facts;

const PREFIX: &str = "feature.node.kubernetes.io/";
/// Longest value of a label.
const VALUE_LENGTH: usize = 63;
/// Classes of PCI devices that are worth a label: displays (GPUs among them),
/// co-processors and accelerators. The first digits of a class name a family.
const PCI_CLASSES: [&str; 3] = ["03", "0b40", "12"];
/// Abilities of processors that programs are built for: the kernel's name and
/// the label's.
const CPU_FLAGS: [(&str, &str); 22] = [
    ("aes", "AESNI"),
    ("amx_bf16", "AMXBF16"),
    ("amx_int8", "AMXINT8"),
    ("amx_tile", "AMXTILE"),
    ("asimd", "ASIMD"),
    ("asimddp", "ASIMDDP"),
    ("avx", "AVX"),
    ("avx2", "AVX2"),
    ("avx512_bf16", "AVX512BF16"),
    ("avx512_vnni", "AVX512VNNI"),
    ("avx512bw", "AVX512BW"),
    ("avx512f", "AVX512F"),
    ("fma", "FMA3"),
    ("gfni", "GFNI"),
    ("hypervisor", "HYPERVISOR"),
    ("sha_ni", "SHA"),
    ("sse4_2", "SSE42"),
    ("sve", "SVE"),
    ("sve2", "SVE2"),
    ("svm", "SVM"),
    ("vaes", "VAES"),
    ("vmx", "VMX"),
];

/// The labels of the machine whose `/proc` and `/sys` are below `root`.
pub(super) fn labels(root: &Path) -> BTreeMap<String, String> {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let mut labels = cpu(&read("proc/cpuinfo"));
    labels.extend(kernel(read("proc/sys/kernel/osrelease").trim()));
    labels.extend(pci_devices(&root.join("sys/bus/pci/devices")));
    if count(&root.join("sys/devices/system/node"), "node") > 1 {
        labels.insert("memory-numa".into(), "true".into());
    }
    let labels = labels.into_iter().map(|(name, value)| (format!("{PREFIX}{name}"), value));
    labels.chain(Facts::read(root).labels()).collect()
}

/// Whether a label can be one of those.
pub(super) fn is_own(label: &str) -> bool {
    [PREFIX, "nvidia.com/", "amd.com/"].iter().any(|prefix| label.starts_with(prefix))
}

/// Flags and model of the first processor; the others are alike.
fn cpu(info: &str) -> BTreeMap<String, String> {
    let field = |name: &str| {
        let fields = info.lines().filter_map(|line| line.split_once(':'));
        fields.into_iter().find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
    };
    let flags: Vec<&str> =
        field("flags").or_else(|| field("Features")).unwrap_or_default().split(' ').collect();
    let mut labels: BTreeMap<String, String> = CPU_FLAGS
        .iter()
        .filter(|(flag, _)| flags.contains(flag))
        .map(|(_, name)| (format!("cpu-cpuid.{name}"), "true".to_owned()))
        .collect();
    for (name, key) in [("vendor_id", "vendor_id"), ("family", "cpu family"), ("id", "model")] {
        if let Some(value) = field(key).and_then(label_value) {
            labels.insert(format!("cpu-model.{name}"), value);
        }
    }
    let number = |key| field(key).and_then(|text| text.parse::<u32>().ok());
    if let (Some(threads), Some(cores)) = (number("siblings"), number("cpu cores")) {
        labels.insert("cpu-hardware_multithreading".into(), (threads > cores).to_string());
    }
    labels
}

fn kernel(release: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    labels.extend(label_value(release).map(|full| ("kernel-version.full".to_owned(), full)));
    let mut numbers = release.split(['.', '-']);
    for part in ["major", "minor"] {
        if let Some(number) = numbers.next().filter(|text| text.parse::<u32>().is_ok()) {
            labels.insert(format!("kernel-version.{part}"), number.to_owned());
        }
    }
    labels
}

fn pci_devices(dir: &Path) -> BTreeMap<String, String> {
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let devices = fs::read_dir(dir).into_iter().flatten().flatten();
    devices
        .filter_map(|device| {
            let path = device.path();
            pci_label(&read(&path.join("class")), &read(&path.join("vendor")))
        })
        .map(|name| (name, "true".to_owned()))
        .collect()
}

/// The label of a device, from `0x030200` and `0x10de`.
fn pci_label(class: &str, vendor: &str) -> Option<String> {
    let class = class.strip_prefix("0x")?.get(..4)?;
    let vendor = vendor.strip_prefix("0x")?;
    let shown = PCI_CLASSES.iter().any(|family| class.starts_with(family));
    shown.then(|| format!("pci-{class}_{vendor}.present"))
}

/// The text as a label's value; `None` when nothing is left of it.
pub(crate) fn label_value(text: &str) -> Option<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let text: String =
        text.chars().map(|c| if allowed(c) { c } else { '_' }).take(VALUE_LENGTH).collect();
    let text = text.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    (!text.is_empty()).then(|| text.to_owned())
}

fn count(dir: &Path, prefix: &str) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let numbered = |name: &str| {
        let number = name.strip_prefix(prefix);
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    entries.filter(|entry| entry.file_name().to_str().is_some_and(numbered)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn processors_say_what_they_can() {
        let intel = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\n\
                     siblings\t: 4\ncpu cores\t: 2\nflags\t\t: fpu avx2 vmx\n\n\
                     processor\t: 1\nflags\t\t: fpu avx2 vmx amx_tile\n";
        let expected = table(&[
            ("cpu-cpuid.AVX2", "true"),
            ("cpu-cpuid.VMX", "true"),
            ("cpu-hardware_multithreading", "true"),
            ("cpu-model.family", "6"),
            ("cpu-model.id", "143"),
            ("cpu-model.vendor_id", "GenuineIntel"),
        ]);
        assert_eq!(cpu(intel), expected);
        let arm = "processor\t: 0\nFeatures\t: fp asimd sve\n";
        assert_eq!(cpu(arm), table(&[("cpu-cpuid.ASIMD", "true"), ("cpu-cpuid.SVE", "true")]));
        assert_eq!(cpu(""), table(&[]));
    }

    #[test]
    fn kernels_have_versions() {
        let expected = table(&[
            ("kernel-version.full", "6.1.0-13-amd64"),
            ("kernel-version.major", "6"),
            ("kernel-version.minor", "1"),
        ]);
        assert_eq!(kernel("6.1.0-13-amd64"), expected);
        assert_eq!(
            kernel("6.6.0+"),
            table(&[
                ("kernel-version.full", "6.6.0"),
                ("kernel-version.major", "6"),
                ("kernel-version.minor", "6"),
            ]),
            "a value ends with a letter or digit"
        );
        assert_eq!(kernel("custom"), table(&[("kernel-version.full", "custom")]));
    }

    #[test]
    fn only_devices_that_compute_get_a_label() {
        let cases = [
            ("0x030200", "0x10de", Some("pci-0302_10de.present")),
            ("0x120000", "0x1da3", Some("pci-1200_1da3.present")),
            ("0x020000", "0x8086", None),
            ("", "", None),
        ];
        for (class, vendor, expected) in cases {
            assert_eq!(pci_label(class, vendor).as_deref(), expected, "{class} {vendor}");
        }
    }

    #[test]
    fn values_are_values_of_labels() {
        let cases = [("a b", Some("a_b")), ("(R)", Some("R")), ("++", None), ("", None)];
        for (text, expected) in cases {
            assert_eq!(label_value(text).as_deref(), expected, "{text:?}");
        }
        let here = labels(Path::new("/"));
        assert!(here.keys().any(|name| name.starts_with(PREFIX)), "{here:?}");
        assert!(here.keys().all(|name| is_own(name)), "{here:?}");
    }
}
