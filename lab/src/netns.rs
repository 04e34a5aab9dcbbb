//! Named network namespaces, the same that `ip netns` knows.

use std::fs::{self, File};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// Where iproute2 keeps named namespaces.
const NETNS_DIR: &str = "/run/netns";

/// The file that stands for a namespace.
pub fn path(name: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(name)
}

/// Makes a namespace with its loopback interface down, as the kernel does.
/// One that is there already is kept.
pub fn ensure(name: &str) -> io::Result<()> {
    let path = path(name);
    if is_namespace(&path) {
        return Ok(());
    }
    ensure_shared_dir()?;
    File::create(&path)?;
    // A thread of its own: the namespace a thread enters is the thread's.
    let target = path.clone();
    let made = on_thread(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        mount(
            Some("/proc/thread-self/ns/net"),
            &target,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )?;
        Ok(())
    });
    if made.is_err() {
        fs::remove_file(&path)?;
    }
    made
}

/// Deletes a namespace and every interface in it. One that is not there is fine.
pub fn remove(name: &str) -> io::Result<()> {
    let path = path(name);
    if !path.exists() {
        return Ok(());
    }
    match umount2(&path, MntFlags::MNT_DETACH) {
        // Not a mount point: left over from a crash between two steps.
        Ok(()) | Err(nix::errno::Errno::EINVAL) => fs::remove_file(&path)?,
        Err(error) => return Err(error.into()),
    }
    // The folder was made a mount point for the first namespace; with the last
    // one it goes, whoever made it: an empty folder says nothing.
    if fs::read_dir(NETNS_DIR)?.next().is_none() {
        while umount2(NETNS_DIR, MntFlags::MNT_DETACH).is_ok() {}
        fs::remove_dir(NETNS_DIR)?;
    }
    Ok(())
}

/// Moves the calling thread into a namespace, for good.
pub fn enter(name: &str) -> io::Result<()> {
    let file = File::open(path(name))?;
    setns(file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
}

/// Runs `work` in a namespace, on a thread of its own with its own runtime.
pub fn run_in<T, F, Fut>(name: &str, work: F) -> io::Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = io::Result<T>>,
{
    let name = name.to_owned();
    on_thread(move || {
        enter(&name)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(work())
    })
}

fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let thread = std::thread::Builder::new().name("netns".into()).spawn(work)?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
}

/// A namespace's file is a mount of the kernel's nsfs, an orphan is plain.
fn is_namespace(path: &Path) -> bool {
    nix::sys::statfs::statfs(path)
        .is_ok_and(|stat| stat.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
}

/// The folder has to be a shared mount, so that namespaces made here show up
/// in other mount namespaces and can be deleted from there; iproute2 does the same.
fn ensure_shared_dir() -> io::Result<()> {
    fs::create_dir_all(NETNS_DIR)?;
    let none = None::<&str>;
    let share = || mount(none, NETNS_DIR, none, MsFlags::MS_SHARED | MsFlags::MS_REC, none);
    if share().is_err() {
        mount(Some(NETNS_DIR), NETNS_DIR, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
        share()?;
    }
    Ok(())
}
