//! Processes of containers, as the machine sees them.

use std::io;

use nix::sys::signal::{Signal, kill as signal, killpg};
use nix::unistd::{Pid, getpgid};

/// Kills the process `pid` of the container with this id, and the group that it
/// leads. A process that is not the container's is left alone: the number may
/// be another's by now.
pub(super) fn kill(pid: i32, container: &str) -> io::Result<()> {
    if pid <= 1 || !is_of(pid, container)? {
        return Ok(());
    }
    let pid = Pid::from_raw(pid);
    let leads = getpgid(Some(pid)).is_ok_and(|group| group == pid);
    Ok(if leads { killpg(pid, Signal::SIGKILL) } else { signal(pid, Signal::SIGKILL) }?)
}

/// Whether the process is in a control group of the container.
fn is_of(pid: i32, container: &str) -> io::Result<bool> {
    match std::fs::read_to_string(format!("/proc/{pid}/cgroup")) {
        Ok(groups) => Ok(!container.is_empty() && groups.contains(container)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn processes_of_others_are_left_alone() {
        let mut other = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(other.id()).unwrap();
        kill(pid, "0123456789abcdef").unwrap();
        kill(pid, "").unwrap();
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
        kill(pid, "0123456789abcdef").unwrap();
    }
}
