//! Cgroups of pods: limits that hold for all containers of a pod together.
//!
//! Only a pod with such limits has one ([`crate::pod::resources::pod_limits`]).
//! Its containers, the sandbox among them, are made below it
//! (`HostConfig.CgroupParent`). It stands beside the cgroups of other
//! containers, so that weights are compared among equals:
//!
//! | Docker's driver | the pod's cgroup | made and set by |
//! |---|---|---|
//! | `cgroupfs` | `/docker/skiff-INSTANCE-UID` | us ([`files`]) |
//! | `systemd` | `system.slice/system-skiff_INSTANCE_UID.slice` | systemd ([`slices`]) |
//!
//! Which pods have one is read from the kernel's folders once, at the agent's
//! start; the limits themselves are never read back, but set again whenever a
//! container starts. What nobody made is not looked for: for all other pods
//! nothing is asked and nothing is called.
//!
//! Left out: an engine that runs without root's rights, and Docker's
//! `cgroup-parent` setting, which says where the other containers are.

#[cfg(test)]
mod fake_systemd;
pub mod files;
pub mod slices;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use async_trait::async_trait;

use self::files::Hierarchies;
use self::slices::Systemd;
use crate::runtime::{CgroupDriver, Limits, Runtime, daemon};
use crate::volume::blocking;

/// The cgroups of one node's pods.
#[async_trait]
pub trait PodCgroups: Send + Sync {
    /// Looks for those that an earlier agent left.
    async fn find(&self);

    /// The pods that have one.
    fn pods(&self) -> BTreeSet<String>;

    /// Makes the pod's, or gives it other limits, and returns what its
    /// containers name as their parent.
    async fn ensure(&self, uid: &str, limits: &Limits) -> Result<String, String>;

    /// Removes the pod's, which has no containers any more.
    async fn remove(&self, uid: &str) -> Result<(), String>;
}

/// Those of the machine, below its Docker's.
pub struct HostCgroups {
    runtime: Arc<dyn Runtime>,
    docker_socket: PathBuf,
    names: Names,
    /// The pods that have one.
    known: Mutex<BTreeSet<String>>,
}

impl HostCgroups {
    /// For the pods of one installation.
    pub fn new(runtime: Arc<dyn Runtime>, docker_socket: &Path, instance: &str) -> Self {
        Self {
            runtime,
            docker_socket: docker_socket.to_owned(),
            names: Names { instance: instance.to_owned() },
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The engine's cgroups. Read each time: another start of the engine is
    /// another process.
    async fn hierarchies(&self) -> anyhow::Result<Hierarchies> {
        let socket = self.docker_socket.clone();
        let read = blocking(move || Hierarchies::of_process(daemon::process(&socket))).await;
        read.context("cannot read where cgroups are mounted")
    }

    async fn make(&self, uid: &str, limits: &Limits) -> anyhow::Result<String> {
        // A name with more in it could lead elsewhere.
        let plain = |one: char| one.is_ascii_alphanumeric() || one == '-';
        anyhow::ensure!(!uid.is_empty() && uid.chars().all(plain), "{uid:?} cannot name a cgroup");
        let hierarchies = self.hierarchies().await?;
        match self.runtime.version().await?.cgroup_driver {
            Some(CgroupDriver::Cgroupfs) => {
                let folder = self.names.folder(uid);
                let (made, limits) = (folder.clone(), limits.clone());
                let make = move || {
                    hierarchies.make(&made, &limits)?;
                    hierarchies.limit_huge_pages(&made, &limits)
                };
                blocking(make).await?;
                Ok(format!("/{folder}"))
            }
            Some(CgroupDriver::Systemd) => {
                let slice = self.names.slice(uid);
                let systemd = Systemd::connect(None).await?;
                systemd.ensure(&slice, uid, limits, hierarchies.is_unified()).await?;
                // systemd knows nothing of huge pages.
                let (made, limits) = (format!("{}/{slice}", files::SYSTEM_SLICE), limits.clone());
                blocking(move || hierarchies.limit_huge_pages(&made, &limits)).await?;
                Ok(slice)
            }
            None => anyhow::bail!("the container runtime has none that others may set"),
        }
    }

    async fn unmake(&self, uid: &str) -> anyhow::Result<()> {
        let hierarchies = self.hierarchies().await?;
        let slice = self.names.slice(uid);
        if hierarchies.has(&format!("{}/{slice}", files::SYSTEM_SLICE)) {
            Systemd::connect(None).await?.stop(&slice).await?;
        }
        if hierarchies.counts_huge_pages_apart() {
            let (apart, slice) = (hierarchies.clone(), format!("{}/{slice}", files::SYSTEM_SLICE));
            blocking(move || apart.remove(&slice)).await?;
        }
        let folder = self.names.folder(uid);
        Ok(blocking(move || hierarchies.remove(&folder)).await?)
    }
}

#[async_trait]
impl PodCgroups for HostCgroups {
    async fn find(&self) {
        let Ok(hierarchies) = self.hierarchies().await else { return };
        let names = self.names.clone();
        let listed = blocking(move || {
            let all = hierarchies.children();
            Ok(all.iter().filter_map(|name| names.uid(name)).collect::<BTreeSet<_>>())
        });
        let found = listed.await.unwrap_or_default();
        self.known().extend(found);
    }

    fn pods(&self) -> BTreeSet<String> {
        self.known().clone()
    }

    async fn ensure(&self, uid: &str, limits: &Limits) -> Result<String, String> {
        // Before it is there: half of it may be there when something fails.
        self.known().insert(uid.to_owned());
        self.make(uid, limits).await.map_err(|error| format!("{error:#}"))
    }

    async fn remove(&self, uid: &str) -> Result<(), String> {
        if !self.known().contains(uid) {
            return Ok(());
        }
        let removed = self.unmake(uid).await;
        removed.map_err(|error| format!("cgroup of pod {uid} not removed: {error:#}"))?;
        self.known().remove(uid);
        Ok(())
    }
}

/// How the cgroups of an installation are named.
#[derive(Debug, Clone)]
struct Names {
    instance: String,
}

impl Names {
    fn folder(&self, uid: &str) -> String {
        format!("{}/skiff-{}-{uid}", files::DOCKER, self.instance)
    }

    /// A dash in the name of a slice stands for "below".
    fn slice(&self, uid: &str) -> String {
        format!("system-skiff_{}_{}.slice", self.instance, uid.replace('-', "_"))
    }

    /// The pod whose folder or slice this is.
    fn uid(&self, name: &str) -> Option<String> {
        let folder = name.strip_prefix(&format!("skiff-{}-", self.instance));
        let slice = || {
            let rest = name.strip_prefix(&format!("system-skiff_{}_", self.instance))?;
            Some(rest.strip_suffix(".slice")?.replace('_', "-"))
        };
        folder.map(str::to_owned).or_else(slice)
    }
}

/// Cgroups in memory: for tests and for nodes without a kernel.
#[derive(Debug, Default)]
pub struct Memory {
    inner: Mutex<Made>,
}

#[derive(Debug, Default)]
struct Made {
    limits: std::collections::BTreeMap<String, Limits>,
    failure: Option<String>,
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Made> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The limits of a pod's.
    pub fn limits(&self, uid: &str) -> Option<Limits> {
        self.lock().limits.get(uid).cloned()
    }

    /// From now on none can be made, for this reason.
    pub fn fail(&self, reason: Option<&str>) {
        self.lock().failure = reason.map(str::to_owned);
    }
}

#[async_trait]
impl PodCgroups for Memory {
    async fn find(&self) {}

    fn pods(&self) -> BTreeSet<String> {
        self.lock().limits.keys().cloned().collect()
    }

    async fn ensure(&self, uid: &str, limits: &Limits) -> Result<String, String> {
        let mut made = self.lock();
        if let Some(failure) = &made.failure {
            return Err(failure.clone());
        }
        made.limits.insert(uid.to_owned(), limits.clone());
        Ok(format!("/pod/{uid}"))
    }

    async fn remove(&self, uid: &str) -> Result<(), String> {
        self.lock().limits.remove(uid);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_found_by_the_name_of_its_cgroup() {
        let names = Names { instance: "12345678".into() };
        let uid = "8b0ad6a4-6c3e-4d5c-9a43-3d0c4c6a6f3b";
        let folder = names.folder(uid);
        assert_eq!(names.uid(folder.strip_prefix("docker/").unwrap()).as_deref(), Some(uid));
        let slice = names.slice(uid);
        assert_eq!(names.uid(&slice).as_deref(), Some(uid));
        assert_eq!(slice.matches('-').count(), 1, "directly below system.slice: {slice}");
        for other in ["skiff-87654321-u", "system-skiff_87654321_u.slice", "docker", "skiff-1"] {
            assert_eq!(names.uid(other), None, "{other}");
        }
    }

    #[tokio::test]
    async fn what_was_never_made_is_not_looked_for() {
        let runtime = Arc::new(crate::runtime::memory::Memory::new());
        let cgroups = HostCgroups::new(runtime.clone(), Path::new("/nonexistent"), "1");
        cgroups.remove("u").await.unwrap();
        assert!(runtime.calls().is_empty());
        // One that says nothing of its cgroups cannot have any of ours.
        let error = cgroups.ensure("u", &Limits::default()).await.unwrap_err();
        assert!(error.contains("none that others may set"), "{error}");
        let error = cgroups.ensure("../u", &Limits::default()).await.unwrap_err();
        assert!(error.contains("cannot name a cgroup"), "{error}");
    }
}
