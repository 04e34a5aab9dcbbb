//! `emptyDir`: a folder that begins empty and goes with its pod, on the disk,
//! in memory or in huge pages.
//!
//! It appears with its mode and its group or not at all, so that an agent that
//! was killed in between leaves nothing half made. What pods do to it later
//! stays as they did it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::mounts;
use crate::pod::model::spec;
use crate::pod::resources::{memory_limit, parse};

/// Where its files are, and what limits them there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Medium {
    /// On the disk, where the eviction of pods minds the size.
    Disk,
    /// In memory.
    Memory {
        /// How much fits in.
        size_bytes: Option<i64>,
    },
    /// In huge pages of this many bytes.
    HugePages(i64),
}

/// What `source` asks for. Memory holds no more than the pod may use, nor than
/// the node can give.
pub(super) fn medium(
    pod: &Pod,
    source: &EmptyDirVolumeSource,
    allocatable: &BTreeMap<String, Quantity>,
) -> Result<Medium, String> {
    let bytes = |quantity: Option<&Quantity>| {
        quantity.and_then(parse).map(|size| size.bytes()).filter(|size| *size > 0)
    };
    match source.medium.as_deref().unwrap_or_default() {
        "" => Ok(Medium::Disk),
        "Memory" => {
            let limits = [
                bytes(source.size_limit.as_ref()),
                memory_limit(pod),
                bytes(allocatable.get("memory")),
            ];
            Ok(Medium::Memory { size_bytes: limits.into_iter().flatten().min() })
        }
        other => match other.strip_prefix("HugePages") {
            Some("") => page_of(pod).map(Medium::HugePages),
            Some(page) => {
                let size = page.strip_prefix('-').map(|size| Quantity(size.into()));
                bytes(size.as_ref())
                    .map(Medium::HugePages)
                    .ok_or(format!("unknown storage medium {other:?}"))
            }
            None => Err(format!("unknown storage medium {other:?}")),
        },
    }
}

/// The one size of huge pages that the pod's containers ask for.
fn page_of(pod: &Pod) -> Result<i64, String> {
    let spec = spec(pod);
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let requests = all.filter_map(|one| one.resources.as_ref()?.requests.as_ref());
    let mut sizes: Vec<i64> = requests
        .flat_map(|requests| requests.keys())
        .filter_map(|name| parse(&Quantity(name.strip_prefix("hugepages-")?.into())))
        .map(|size| size.bytes())
        .collect();
    sizes.sort_unstable();
    sizes.dedup();
    match sizes[..] {
        [one] => Ok(one),
        [] => Err("medium HugePages needs a container that requests huge pages".into()),
        _ => Err("medium HugePages can't be used with requests of multiple page sizes".into()),
    }
}

/// Makes the folder, for `group` if there is one.
pub(super) fn ensure(dir: &Path, medium: &Medium, group: Option<u32>) -> io::Result<()> {
    mounts::ensure_dir_of(dir, mode(0o777, group), group)?;
    // What memory backs is open to all as /tmp is: nobody removes the files of
    // others.
    let options = |mode| {
        let mut options = format!("mode={mode:o}");
        if let Some(group) = group {
            options.push_str(&format!(",gid={group}"));
        }
        options
    };
    match medium {
        Medium::Disk => Ok(()),
        Medium::Memory { size_bytes } => {
            let mut options = options(mode(0o1777, group));
            if let Some(size) = size_bytes {
                options.push_str(&format!(",size={size}"));
            }
            mounts::ensure_tmpfs(dir, &options)
        }
        Medium::HugePages(page) => {
            let options = format!("{},pagesize={page}", options(mode(0o777, group)));
            mounts::ensure_mount(dir, "hugetlbfs", &options)
        }
    }
}

/// New files in a group's folder belong to the group too.
fn mode(mode: u32, group: Option<u32>) -> u32 {
    if group.is_some() { mode | 0o2770 } else { mode }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn memory_is_no_larger_than_what_the_pod_and_the_node_may_use() {
        let allocatable = [("memory".to_owned(), Quantity("1Gi".into()))].into();
        let limited = json!({"limits": {"memory": "64Mi"}});
        let huge = json!({"requests": {"hugepages-2Mi": "4Mi"}});
        let memory = |size: i64| Ok(Medium::Memory { size_bytes: Some(size << 20) });
        let cases: [(Value, Vec<Value>, Result<Medium, ()>); 10] = [
            (json!({}), vec![json!({})], Ok(Medium::Disk)),
            (json!({"medium": "Memory"}), vec![json!({})], memory(1024)),
            (json!({"medium": "Memory", "sizeLimit": "10Mi"}), vec![json!({})], memory(10)),
            (json!({"medium": "Memory"}), vec![limited.clone(), limited.clone()], memory(128)),
            (json!({"medium": "Memory"}), vec![limited.clone(), json!({})], memory(1024)),
            (json!({"medium": "Memory", "sizeLimit": "2Gi"}), vec![limited], memory(64)),
            (json!({"medium": "HugePages"}), vec![huge], Ok(Medium::HugePages(2 << 20))),
            (json!({"medium": "HugePages"}), vec![json!({})], Err(())),
            (json!({"medium": "HugePages-1Gi"}), vec![json!({})], Ok(Medium::HugePages(1 << 30))),
            (json!({"medium": "Tape"}), vec![json!({})], Err(())),
        ];
        for (source, resources, expected) in cases {
            let containers: Vec<Value> =
                resources.iter().map(|own| json!({"name": "c", "resources": own})).collect();
            let pod = serde_json::from_value(json!({"spec": {"containers": containers}})).unwrap();
            let given = serde_json::from_value(source.clone()).unwrap();
            let found = medium(&pod, &given, &allocatable);
            assert_eq!(found.map_err(drop), expected, "{source} with {resources:?}");
        }
    }

    #[test]
    fn a_folder_comes_whole_and_is_left_alone_afterwards() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("v");
        let group = nix::unistd::getegid().as_raw();
        // What an agent left that was killed half-way.
        fs::create_dir(parent.path().join(".v")).unwrap();
        ensure(&dir, &Medium::Disk, Some(group)).unwrap();
        let found = fs::metadata(&dir).unwrap();
        assert_eq!((found.permissions().mode() & 0o7777, found.gid()), (0o2777, group));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);

        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
        ensure(&dir, &Medium::Disk, Some(group)).unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o7777, 0o700);
    }
}
