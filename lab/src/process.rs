//! Skiff processes in namespaces: started detached, found again by a file with
//! their process id, stopped by that id.
//!
//! A process id is worth nothing once its process is gone and the number was
//! handed out again, so the file holds the start time beside it.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, setsid};

use crate::netns;

/// How often a stop looks whether the process has ended. Not a poll of a
/// running system: it lasts as long as the stop.
const STOP_CHECK: Duration = Duration::from_millis(10);

/// A command that will run in a namespace.
pub fn command(namespace: &str, program: &Path) -> io::Result<Command> {
    let namespace = File::open(netns::path(namespace))?;
    let mut command = Command::new(program);
    // SAFETY: between fork and exec only setns is called, a bare system call.
    unsafe {
        command
            .pre_exec(move || setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(io::Error::from));
    }
    Ok(command)
}

/// Starts `command` detached from this process and its terminal, its output
/// appended to `log`, and notes it in `pid_file`.
pub fn start(mut command: Command, log: &Path, pid_file: &Path) -> io::Result<u32> {
    let log = File::options().create(true).append(true).open(log)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // SAFETY: setsid is a bare system call.
    unsafe {
        command.pre_exec(|| setsid().map(drop).map_err(io::Error::from));
    }
    let child = command.spawn()?;
    let pid = child.id();
    let started = start_time(pid).unwrap_or_default();
    fs::write(pid_file, format!("{pid} {started}\n"))?;
    Ok(pid)
}

/// The process noted in `pid_file`, if it is still that process and alive.
pub fn running(pid_file: &Path) -> Option<u32> {
    let noted = fs::read_to_string(pid_file).ok()?;
    let (pid, started) = noted.trim().split_once(' ')?;
    let pid = pid.parse().ok()?;
    (start_time(pid)?.to_string() == started).then_some(pid)
}

/// Kills at once, as a power cut would, and waits until the process is gone.
pub fn kill_now(pid_file: &Path) -> io::Result<()> {
    signal_and_wait(pid_file, Signal::SIGKILL, Duration::from_secs(10)).map(drop)
}

/// Asks the process to stop and waits; kills it when it does not within `grace`.
pub fn stop(pid_file: &Path, grace: Duration) -> io::Result<()> {
    if signal_and_wait(pid_file, Signal::SIGTERM, grace)? { Ok(()) } else { kill_now(pid_file) }
}

fn signal_and_wait(pid_file: &Path, signal: Signal, grace: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + grace;
    if let Some(pid) = running(pid_file) {
        match kill(Pid::from_raw(pid.cast_signed()), signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    while let Some(pid) = running(pid_file) {
        if Instant::now() > deadline {
            return Ok(false);
        }
        reap(pid);
        std::thread::sleep(STOP_CHECK);
    }
    match fs::remove_file(pid_file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(true),
    }
}

/// A child of this very process stays a zombie until somebody asks. One that
/// an earlier command started is not ours to reap, and the error says no more.
fn reap(pid: u32) {
    use nix::sys::wait::{WaitPidFlag, waitpid};
    let _ = waitpid(Pid::from_raw(pid.cast_signed()), Some(WaitPidFlag::WNOHANG));
}

/// When a live process started, in clock ticks since boot: field 22 of
/// `/proc/PID/stat` (proc(5)). `None` for zombies: they run nothing any more.
///
/// A killed process shows as a zombie as soon as its first thread is gone; as
/// long as field 20 counts others, its files, ports and locks are still held.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the name in brackets, may itself hold spaces and brackets.
    let after_name = &stat[stat.rfind(')')? + 2..];
    let fields: Vec<&str> = after_name.split(' ').collect();
    let field = |number: usize| fields.get(number - 3).copied();
    let threads: u64 = field(20)?.parse().ok()?;
    let ended = matches!(field(3)?, "Z" | "X") && threads <= 1;
    (!ended).then(|| field(22)?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_stopped_and_not_mistaken() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        assert_eq!(running(&pid_file), None);
        let mut sleeper = Command::new("sleep");
        sleeper.arg("60");
        let pid = start(sleeper, &dir.path().join("log"), &pid_file).unwrap();
        assert_eq!(running(&pid_file), Some(pid));

        // Another process under the same number is not ours.
        let noted = fs::read_to_string(&pid_file).unwrap();
        fs::write(&pid_file, format!("{pid} 1\n")).unwrap();
        assert_eq!(running(&pid_file), None);
        fs::write(&pid_file, noted).unwrap();

        stop(&pid_file, Duration::from_secs(5)).unwrap();
        assert_eq!(running(&pid_file), None);
        stop(&pid_file, Duration::from_secs(5)).unwrap();
    }

    #[test]
    fn one_that_lost_its_first_thread_still_runs() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        let mut headless = Command::new("python3");
        // The bare system call ends the calling thread alone.
        headless.arg("-c").arg(format!(
            "import ctypes, threading, time\n\
             threading.Thread(target=time.sleep, args=(60,)).start()\n\
             ctypes.CDLL(None).syscall({}, 0)",
            nix::libc::SYS_exit
        ));
        let log = dir.path().join("log");
        let pid = start(headless, &log, &pid_file).unwrap();
        let is_zombie = || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            stat.contains(") Z ")
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !is_zombie() {
            assert!(Instant::now() < deadline, "{}", fs::read_to_string(&log).unwrap());
            std::thread::sleep(STOP_CHECK);
        }
        assert_eq!(running(&pid_file), Some(pid));
        kill_now(&pid_file).unwrap();
        assert_eq!(running(&pid_file), None);
    }

    #[test]
    fn one_that_ignores_the_request_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        let mut stubborn = Command::new("sh");
        stubborn.args(["-c", "trap '' TERM; while :; do sleep 0.1; done"]);
        start(stubborn, &dir.path().join("log"), &pid_file).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        stop(&pid_file, Duration::from_millis(200)).unwrap();
        assert_eq!(running(&pid_file), None);
    }
}
