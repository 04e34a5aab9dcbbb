//! The kernel's folders of cgroups, in both of its versions.
//!
//! Version 1 has a tree for each controller, version 2 one for all of them, and
//! a machine may have both (then controllers are in the trees of version 1).
//! Paths count from where the engine has a tree mounted, and are reached through
//! the engine's root folder: ours may be another.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::runtime::Limits;

/// Where Docker's `cgroupfs` driver has its containers.
pub const DOCKER: &str = "docker";
/// Where its `systemd` driver has them.
pub const SYSTEM_SLICE: &str = "system.slice";

/// The controllers that limit pods.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// The one that limits huge pages.
const HUGE_PAGES: &str = "hugetlb";
/// The period that CPU quotas refer to.
const CPU_PERIOD_US: i64 = 100_000;

/// Where trees of cgroups are mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hierarchies {
    /// By controller, or `name=…` for trees without one.
    v1: BTreeMap<String, PathBuf>,
    v2: Option<PathBuf>,
}

/// One file of a limit: its controller, its name, what to write.
type Setting = (&'static str, &'static str, String);

impl Hierarchies {
    /// As the process sees them; as we do when there is none.
    pub fn of_process(pid: Option<i32>) -> io::Result<Self> {
        let of = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
        let mounts = std::fs::read_to_string(format!("/proc/{of}/mountinfo"))?;
        Ok(Self::parse(&mounts, &PathBuf::from(format!("/proc/{of}/root"))))
    }

    fn parse(mounts: &str, root: &Path) -> Self {
        let mut found = Self::default();
        for line in mounts.lines() {
            let Some((place, kind)) = line.split_once(" - ") else { continue };
            let Some(point) = place.split_whitespace().nth(4) else { continue };
            let mut kind = kind.split_whitespace();
            let (Some(kind), Some(options)) = (kind.next(), kind.nth(1)) else { continue };
            let path = root.join(point.trim_start_matches('/'));
            match kind {
                "cgroup2" => found.v2 = found.v2.or(Some(path)),
                "cgroup" => {
                    for controller in options.split(',').filter(|option| *option != "rw") {
                        found.v1.entry(controller.to_owned()).or_insert_with(|| path.clone());
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// Whether limits are set in the tree of version 2.
    pub fn is_unified(&self) -> bool {
        CONTROLLERS.iter().all(|controller| !self.v1.contains_key(*controller))
    }

    /// Makes `folder` and sets its limits.
    pub fn make(&self, folder: &str, limits: &Limits) -> io::Result<()> {
        if self.is_unified() {
            self.control(folder, &CONTROLLERS)?;
        }
        for (controller, file, value) in settings(limits, self.is_unified()) {
            let tree = self.v1.get(controller).or(self.v2.as_ref().filter(|_| self.is_unified()));
            let written = match tree {
                Some(tree) => set(&tree.join(folder), file, &value),
                None => Err(none()),
            };
            match written {
                // Without the controller there is no limit to be taken back.
                Err(error) if error.kind() == ErrorKind::NotFound && is_none(file, &value) => {}
                Err(error) => return Err(named(error, file)),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Sets how many huge pages `folder` may have. A kernel that does not count
    /// them has no such limit, upstream's nodes neither.
    pub fn limit_huge_pages(&self, folder: &str, limits: &Limits) -> io::Result<()> {
        if limits.huge_pages.is_empty() {
            return Ok(());
        }
        let (tree, limit) = match (self.v1.get(HUGE_PAGES), &self.v2) {
            (Some(tree), _) => (tree, "limit_in_bytes"),
            (None, Some(tree)) if self.is_unified() => {
                self.control(folder, &[HUGE_PAGES])?;
                (tree, "max")
            }
            _ => return Ok(()),
        };
        for (page, bytes) in &limits.huge_pages {
            let file = format!("{HUGE_PAGES}.{}.{limit}", page_name(*page));
            match set(&tree.join(folder), &file, &bytes.to_string()) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    tracing::debug!(folder, file, "the kernel does not limit these huge pages");
                }
                Err(error) => return Err(named(error, &file)),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Whether huge pages have a tree that systemd does not know of.
    pub fn counts_huge_pages_apart(&self) -> bool {
        self.v1.contains_key(HUGE_PAGES)
    }

    /// Makes the parents of `folder` in the tree of version 2 and has it
    /// controlled.
    fn control(&self, folder: &str, controllers: &[&str]) -> io::Result<()> {
        let mut parent = self.v2.clone().ok_or_else(|| named(none(), "cgroup2"))?;
        let mut parts = Path::new(folder).components().peekable();
        while let Some(part) = parts.next() {
            hand_down(&parent, controllers)?;
            parent.push(part);
            if parts.peek().is_some() {
                make_dir(&parent)?;
            }
        }
        Ok(())
    }

    /// Whether some tree has this folder.
    pub fn has(&self, folder: &str) -> bool {
        self.trees().iter().any(|tree| tree.join(folder).exists())
    }

    /// Removes `folder` from all trees: the engine makes its parents in each.
    pub fn remove(&self, folder: &str) -> io::Result<()> {
        for tree in self.trees() {
            let path = tree.join(folder);
            remove_tree(&path).map_err(|error| named(error, &path.display().to_string()))?;
        }
        Ok(())
    }

    /// The names of all folders beside those of the engine's containers.
    pub fn children(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for tree in self.trees() {
            for parent in [DOCKER, SYSTEM_SLICE] {
                let entries = std::fs::read_dir(tree.join(parent)).into_iter().flatten().flatten();
                names.extend(entries.filter_map(|entry| entry.file_name().into_string().ok()));
            }
        }
        names
    }

    fn trees(&self) -> BTreeSet<&PathBuf> {
        self.v1.values().chain(&self.v2).collect()
    }
}

/// The weight in version 2, 1 to 10,000, of one in version 1, 2 to 262,144; as
/// the engine's own runtime has it for containers.
pub fn weight(cpu_shares: i64) -> i64 {
    1 + (cpu_shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

/// What is written where for these limits.
fn settings(limits: &Limits, unified: bool) -> Vec<Setting> {
    let number = |value: Option<i64>, none: &str| {
        value.map_or_else(|| none.to_owned(), |value| value.to_string())
    };
    let shares = limits.cpu_shares.unwrap_or(1024);
    let pids = ("pids", "pids.max", number(limits.pids, "max"));
    if unified {
        let quota = format!("{} {CPU_PERIOD_US}", number(limits.cpu_quota_us, "max"));
        return vec![
            ("cpu", "cpu.weight", weight(shares).to_string()),
            ("cpu", "cpu.max", quota),
            ("memory", "memory.max", number(limits.memory_bytes, "max")),
            pids,
        ];
    }
    vec![
        ("cpu", "cpu.shares", shares.to_string()),
        ("cpu", "cpu.cfs_period_us", CPU_PERIOD_US.to_string()),
        ("cpu", "cpu.cfs_quota_us", number(limits.cpu_quota_us, "-1")),
        // Old kernels count what is below only when told to.
        ("memory", "memory.use_hierarchy", "1".into()),
        ("memory", "memory.limit_in_bytes", number(limits.memory_bytes, "-1")),
        pids,
    ]
}

/// A size of pages in the kernel's words.
fn page_name(bytes: i64) -> String {
    match bytes {
        _ if bytes >= 1 << 30 => format!("{}GB", bytes >> 30),
        _ if bytes >= 1 << 20 => format!("{}MB", bytes >> 20),
        _ => format!("{}KB", bytes >> 10),
    }
}

/// Whether this sets no limit.
fn is_none(file: &str, value: &str) -> bool {
    let prepares =
        ["cpu.shares", "cpu.weight", "cpu.cfs_period_us", "memory.use_hierarchy"].contains(&file);
    prepares || value == "-1" || value.starts_with("max")
}

fn set(dir: &Path, file: &str, value: &str) -> io::Result<()> {
    make_dir(dir)?;
    let path = dir.join(file);
    if std::fs::read_to_string(&path)?.trim() == value {
        return Ok(());
    }
    std::fs::write(path, value)
}

fn make_dir(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir).map_err(|error| match error.kind() {
        // Not to be taken for a controller that is missing.
        ErrorKind::NotFound => io::Error::other(error),
        _ => error,
    })
}

/// Has the folders below `dir` controlled, as far as it is itself.
fn hand_down(dir: &Path, controllers: &[&str]) -> io::Result<()> {
    let words = |file| -> io::Result<BTreeSet<String>> {
        let text = std::fs::read_to_string(dir.join(file));
        let text = text.map_err(|error| named(error, file))?;
        Ok(text.split_whitespace().map(str::to_owned).collect())
    };
    let (own, below) = (words("cgroup.controllers")?, words("cgroup.subtree_control")?);
    let missing = controllers.iter().filter(|one| own.contains(**one) && !below.contains(**one));
    let text: Vec<_> = missing.map(|controller| format!("+{controller}")).collect();
    if text.is_empty() {
        return Ok(());
    }
    let file = "cgroup.subtree_control";
    std::fs::write(dir.join(file), text.join(" ")).map_err(|error| named(error, file))
}

/// Removes a folder with those in it; their files go with them.
fn remove_tree(dir: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match std::fs::remove_dir(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn none() -> io::Error {
    io::Error::new(ErrorKind::NotFound, "the machine has no such controller")
}

fn named(error: io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
29 28 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw
30 28 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:10 - cgroup cgroup rw,cpu,cpuacct
31 28 0:28 / /sys/fs/cgroup/memory rw,nosuid shared:11 - cgroup cgroup rw,memory
32 28 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
33 28 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
34 28 0:31 / / rw - ext4 /dev/vda rw
";

    const LIMITS: Limits = Limits {
        cpu_shares: Some(512),
        cpu_quota_us: Some(50_000),
        memory_bytes: Some(64 << 20),
        pids: Some(100),
        huge_pages: BTreeMap::new(),
    };

    #[test]
    fn controllers_are_found_where_they_are_mounted() {
        let hybrid = Hierarchies::parse(HYBRID, Path::new("/proc/7/root"));
        assert!(!hybrid.is_unified());
        let of = |name: &str| hybrid.v1.get(name).map(|path| path.to_str().unwrap());
        assert_eq!(of("cpu"), Some("/proc/7/root/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(of("name=systemd"), Some("/proc/7/root/sys/fs/cgroup/systemd"));
        assert_eq!(hybrid.trees().len(), 5);
        let only = "29 28 0:26 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        let unified = Hierarchies::parse(only, Path::new("/"));
        assert!(unified.is_unified());
        assert_eq!(unified.v2.unwrap(), Path::new("/sys/fs/cgroup"));
    }

    #[test]
    fn limits_are_files_of_either_version() {
        let words = |limits: &Limits, unified| -> Vec<String> {
            let all = settings(limits, unified).into_iter();
            all.map(|(_, file, value)| format!("{file}={value}")).collect()
        };
        let expected = ["cpu.weight=20", "cpu.max=50000 100000", "memory.max=67108864"];
        assert_eq!(words(&LIMITS, true)[..3], expected);
        let none = ["cpu.weight=39", "cpu.max=max 100000", "memory.max=max", "pids.max=max"];
        assert_eq!(words(&Limits::default(), true), none);
        let first = words(&LIMITS, false);
        for expected in
            ["cpu.shares=512", "cpu.cfs_quota_us=50000", "memory.limit_in_bytes=67108864"]
        {
            assert!(first.iter().any(|found| found == expected), "{expected}: {first:?}");
        }
        assert!(words(&Limits::default(), false).contains(&"cpu.cfs_quota_us=-1".into()));
    }

    #[test]
    fn weights_are_those_of_containers() {
        assert_eq!([2, 102, 1024, 262_144, 0].map(weight), [1, 4, 39, 10_000, 1]);
    }

    /// A folder that looks like the kernel's, in which files do not come by
    /// themselves.
    fn tree(root: &Path, folder: &str, files: &[&str]) {
        std::fs::create_dir_all(root.join(folder)).unwrap();
        files.iter().for_each(|file| std::fs::write(root.join(folder).join(file), "x").unwrap());
    }

    #[test]
    fn a_limit_that_cannot_be_set_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let found = Hierarchies { v1: BTreeMap::new(), v2: Some(dir.path().to_owned()) };
        for folder in [".", "docker"] {
            let files = ["cgroup.controllers", "cgroup.subtree_control"];
            tree(dir.path(), folder, &files);
            std::fs::write(dir.path().join(folder).join(files[0]), "cpu io memory").unwrap();
        }
        let all = ["cpu.weight", "cpu.max", "memory.max"];
        tree(dir.path(), "docker/pod", &all);
        let text = |file: &str| std::fs::read_to_string(dir.path().join(file)).unwrap();
        let error = found.make("docker/pod", &LIMITS).unwrap_err().to_string();
        assert!(error.starts_with("pids.max: "), "{error}");
        assert_eq!(text("cgroup.subtree_control"), "+cpu +memory", "what it has itself");
        assert_eq!(text("docker/pod/memory.max"), "67108864");
        found.make("docker/pod", &Limits { pids: None, ..LIMITS }).unwrap();
        let nowhere = Hierarchies::default().make("docker/pod", &LIMITS).unwrap_err();
        assert!(nowhere.to_string().contains("cgroup2"), "{nowhere}");
    }

    #[test]
    fn huge_pages_are_limited_where_they_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let text = |file: &str| std::fs::read_to_string(dir.path().join(file)).unwrap();
        let limits =
            Limits { huge_pages: [(2 << 20, 64 << 20), (1 << 30, 0)].into(), ..Limits::default() };
        let unified = Hierarchies { v1: BTreeMap::new(), v2: Some(dir.path().to_owned()) };
        for folder in [".", "docker"] {
            tree(dir.path(), folder, &["cgroup.controllers", "cgroup.subtree_control"]);
            std::fs::write(dir.path().join(folder).join("cgroup.controllers"), "cpu hugetlb")
                .unwrap();
        }
        // Pages of another size are not counted.
        tree(dir.path(), "docker/pod", &["hugetlb.2MB.max"]);
        unified.limit_huge_pages("docker/pod", &limits).unwrap();
        assert_eq!(text("docker/pod/hugetlb.2MB.max"), "67108864");
        assert_eq!(text("docker/cgroup.subtree_control"), "+hugetlb");

        let v1 = [(HUGE_PAGES.to_owned(), dir.path().join("v1")), ("cpu".into(), "/none".into())];
        let first = Hierarchies { v1: v1.into(), v2: None };
        let files = ["hugetlb.2MB.limit_in_bytes", "hugetlb.1GB.limit_in_bytes"];
        tree(dir.path(), "v1/docker/pod", &files);
        first.limit_huge_pages("docker/pod", &limits).unwrap();
        assert_eq!(files.map(|file| text(&format!("v1/docker/pod/{file}"))), ["67108864", "0"]);

        let uncounted = Hierarchies { v1: [("cpu".into(), "/none".into())].into(), v2: None };
        uncounted.limit_huge_pages("docker/pod", &limits).unwrap();
        assert_eq!(page_name(64 << 10), "64KB");
    }

    #[test]
    fn removal_takes_what_is_below_and_may_be_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let trees = ["cpu", "memory"].map(|name| (name.to_owned(), dir.path().join(name)));
        let found = Hierarchies { v1: trees.into(), v2: None };
        tree(dir.path(), "memory/docker/skiff-1-u/left", &[]);
        assert!(found.has("docker/skiff-1-u"));
        assert_eq!(found.children(), BTreeSet::from(["skiff-1-u".to_owned()]));
        for _ in 0..2 {
            found.remove("docker/skiff-1-u").unwrap();
            assert!(!found.has("docker/skiff-1-u") && found.has("docker"));
        }
    }
}
