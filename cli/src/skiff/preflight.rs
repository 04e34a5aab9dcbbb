//! What has to be so before anything is started: each failure says what to do.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// How long Docker may take to answer a ping before it counts as hanging.
const DOCKER_PATIENCE: Duration = Duration::from_secs(10);

/// Interfaces, rules and containers are for root to make.
pub(super) fn need_root(command: &str) -> anyhow::Result<()> {
    if nix::unistd::Uid::effective().is_root() {
        return Ok(());
    }
    bail!("{command} makes network interfaces and rules, which needs root; run `sudo {command}`")
}

/// The rules of services are programmed through `nft`.
pub(super) fn need_nft() -> anyhow::Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|folder| folder.join("nft").is_file()) {
        return Ok(());
    }
    bail!("the program nft is missing; install it with `apt-get install nftables`")
}

/// Asks Docker for a sign of life.
pub(super) fn need_docker(socket: &Path) -> anyhow::Result<()> {
    let ping = || -> std::io::Result<String> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(DOCKER_PATIENCE))?;
        stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let start =
        "start Docker (`systemctl start docker`), or install it with `apt-get install docker.io`";
    match ping() {
        Ok(answer) if answer.starts_with("HTTP/1.") && answer.contains(" 200 ") => Ok(()),
        Ok(answer) => {
            bail!(
                "Docker at {} answers {:?}; {start}",
                socket.display(),
                answer.lines().next().unwrap_or_default()
            )
        }
        Err(error) => bail!("Docker does not answer at {}: {error}; {start}", socket.display()),
    }
}

/// The API server's port must be free on all addresses.
pub(super) fn need_free_port(port: u16) -> anyhow::Result<()> {
    match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            bail!(
                "port {port} is used by another program; stop it, or choose another port with --api-port"
            )
        }
        Err(error) => Err(error).with_context(|| format!("cannot listen on port {port}")),
    }
}

/// Holds a data directory for this process. The kernel lets go of it when the
/// process ends, however it ends.
#[derive(Debug)]
pub(super) struct DataDir {
    /// The directory, absolute.
    pub(super) path: PathBuf,
    _lock: File,
}

/// The file that the lock is on.
const LOCK_FILE: &str = "skiff.lock";

impl DataDir {
    /// Makes the directory if it is missing (0700) and takes it.
    pub(super) fn take(path: &Path) -> anyhow::Result<Self> {
        let path = std::path::absolute(path)?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot make the data directory {}", path.display()))?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .read(true)
            .open(path.join(LOCK_FILE))
            .with_context(|| format!("cannot open {}", path.join(LOCK_FILE).display()))?;
        match fcntl(&lock, FcntlArg::F_SETLK(&whole_file())) {
            Ok(_) => Ok(Self { path, _lock: lock }),
            Err(Errno::EAGAIN | Errno::EACCES) => {
                let by = holder(&path).map_or(String::new(), |pid| format!(" by process {pid}"));
                bail!(
                    "the data directory {} is in use{by}; stop that skiff, or choose another with --data-dir",
                    path.display()
                )
            }
            Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }
}

/// The process that holds a data directory.
pub(super) fn holder(path: &Path) -> Option<i32> {
    let lock = File::options().read(true).write(true).open(path.join(LOCK_FILE)).ok()?;
    let mut query = whole_file();
    fcntl(&lock, FcntlArg::F_GETLK(&mut query)).ok()?;
    (query.l_type != libc::F_UNLCK as libc::c_short).then_some(query.l_pid)
}

/// Whether Skiff has used this folder.
pub(super) fn is_data_dir(path: &Path) -> bool {
    path.join(LOCK_FILE).is_file()
}

fn whole_file() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// The name of this machine, as a Kubernetes name.
pub(super) fn host_name() -> anyhow::Result<String> {
    let name = nix::unistd::gethostname()?.to_string_lossy().to_lowercase();
    if name.is_empty() {
        bail!("this machine has no host name; give the node one with --node-name");
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_docker_says_how_to_get_one() {
        let error = need_docker(Path::new("/nonexistent/docker.sock")).unwrap_err().to_string();
        assert!(
            error.contains("/nonexistent/docker.sock")
                && error.contains("apt-get install docker.io"),
            "{error}"
        );
    }

    #[test]
    fn a_used_port_is_named() {
        let taken = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = need_free_port(port).unwrap_err().to_string();
        assert!(error.contains(&port.to_string()) && error.contains("--api-port"), "{error}");
        drop(taken);
        need_free_port(port).unwrap();
    }

    #[test]
    fn a_folder_that_nobody_holds_has_no_holder() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(holder(dir.path()), None);
        let taken = DataDir::take(&dir.path().join("data")).unwrap();
        assert!(taken.path.join(LOCK_FILE).exists());
    }
}
