//! Processes of containers, as the machine sees them.

use std::io;
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill as signal, killpg};
use nix::unistd::{Pid, getpgid};
use rustix::process::{self, PidfdFlags, pidfd_open, pidfd_send_signal};

use super::User;

/// How many milliseconds a killed process may take to be gone before Docker is
/// asked all the same.
const GONE: u16 = 1000;

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

/// Kills the first process of the container with this id, and waits until it is
/// gone. A process that is not the container's is left alone.
///
/// To kill a container Docker starts another program (`runc kill`), which takes
/// about as much of the processor as all that the agent does for the end of a pod.
///
/// It blocks meanwhile: some milliseconds, at most a second.
pub(super) fn kill_first(pid: i32, container: &str) -> io::Result<()> {
    let Some(raw) = process::Pid::from_raw(pid) else { return Ok(()) };
    // The handle comes first: what is looked at then is its process or none.
    let process = pidfd_open(raw, PidfdFlags::empty())?;
    if !is_of(pid, container)? {
        return Ok(());
    }
    pidfd_send_signal(&process, process::Signal::KILL)?;
    let mut waits = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    match poll(&mut waits, PollTimeout::from(GONE))? {
        0 => Err(io::Error::new(io::ErrorKind::TimedOut, "it is slow to go")),
        _ => Ok(()),
    }
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
    fn processes_of_others_are_left_alone_when_a_container_is_killed() {
        let mut other = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(other.id()).unwrap();
        kill_first(pid, "0123456789abcdef").unwrap();
        kill_first(pid, "").unwrap();
        kill_first(0, "0123456789abcdef").unwrap();
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(kill_first(pid, "0123456789abcdef").is_err());
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
