//! The engine's own process: which namespaces it lives in and what it may do.
//!
//! Found through the credentials of its socket, because only that says which
//! process answers. With socket activation that is process 1, whose rights and
//! namespaces are the engine's too.

use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

/// The capability to lower a process's out-of-memory score.
const CAP_SYS_RESOURCE: u32 = 24;

/// The process behind the engine's socket; `None` when it cannot be told.
pub fn process(socket: &Path) -> Option<i32> {
    let stream = UnixStream::connect(socket).ok()?;
    let pid = getsockopt(&stream, PeerCredentials).ok()?.pid();
    (pid > 0).then_some(pid)
}

/// Our network namespace, when the engine lives in another: then pods that
/// want the host's network get ours by this path.
pub fn foreign_netns(engine: Option<i32>) -> Option<PathBuf> {
    let inode = |path: String| std::fs::metadata(path).map(|meta| meta.ino()).ok();
    let own = inode("/proc/self/ns/net".into())?;
    let engines = inode(format!("/proc/{}/ns/net", engine.unwrap_or(1)))?;
    (engines != own).then(|| PathBuf::from(format!("/proc/{}/ns/net", std::process::id())))
}

/// The lowest out-of-memory score that the engine may give. An engine inside
/// a container often may not go below its own.
pub fn least_oom_score(engine: Option<i32>) -> i64 {
    let of = engine.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let Ok(status) = std::fs::read_to_string(format!("/proc/{of}/status")) else { return 0 };
    if may_lower(&status) {
        return -1000;
    }
    let own = std::fs::read_to_string(format!("/proc/{of}/oom_score_adj")).ok();
    own.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Whether the kernel enforces AppArmor profiles.
pub fn enforces_app_armor() -> bool {
    let switch = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    switch.is_ok_and(|text| text.trim() == "Y")
}

fn may_lower(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits =
        effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or_default();
    bits & (1 << CAP_SYS_RESOURCE) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_capability_is_read_from_the_status() {
        assert!(may_lower("Name:\tx\nCapEff:\t000001ffffffffff\n"));
        assert!(!may_lower("Name:\tx\nCapEff:\t000001fffeffffff\n"));
        assert!(!may_lower(""));
    }
}
