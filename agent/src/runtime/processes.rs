//! Processes of containers, as the machine sees them.

use std::io;

use nix::sys::signal::{Signal, kill as signal, killpg};
use nix::unistd::{Pid, getpgid};

use super::User;

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

/// Whom the process `pid` of this container runs as.
pub(super) fn user(pid: i32, container: &str) -> Option<User> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    // Looked at afterwards: then what was read was the container's.
    is_of(pid, container).ok()?.then(|| parse_user(&status)).flatten()
}

/// Reads the ids from a process's `status`: the real ones, which come first.
fn parse_user(status: &str) -> Option<User> {
    let field = |name: &str| {
        let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
        let ids: Option<Vec<i64>> = rest.split_whitespace().map(|id| id.parse().ok()).collect();
        ids
    };
    Some(User {
        uid: *field("Uid:")?.first()?,
        gid: *field("Gid:")?.first()?,
        groups: field("Groups:")?,
    })
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
    fn a_process_says_whom_it_runs_as() {
        let status = "Name:\tsleep\nUid:\t1000\t0\t0\t0\nGid:\t3000\t0\t0\t0\nFDSize:\t64\nGroups:\t7 3000 \n";
        let expected = User { uid: 1000, gid: 3000, groups: vec![7, 3000] };
        assert_eq!(parse_user(status), Some(expected));
        let alone = parse_user("Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t \n").unwrap();
        assert_eq!(alone, User::default());
        assert_eq!(parse_user("Name:\tsleep\n"), None);
        assert_eq!(user(1, "0123456789abcdef"), None, "another's process");
    }

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
