//! An etcd of a test's own: Debian's `etcd-server` on loopback, in a folder
//! that goes with it.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use skiff_store::{EtcdConfig, Store};

/// How long etcd may take to start on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A running etcd. Dropping it stops it.
pub struct EtcdServer {
    process: Child,
    pub endpoint: String,
    dir: tempfile::TempDir,
}

/// Whether `etcd` is installed. Where it must be, as in CI, a missing one fails.
pub fn etcd_is_there() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&path).any(|folder| folder.join("etcd").is_file());
    let needed = std::env::var_os("SKIFF_NEED_ETCD").is_some();
    assert!(there || !needed, "etcd is missing: apt-get install etcd-server");
    if !there {
        eprintln!("etcd is missing (Debian package etcd-server): not tested on it");
    }
    there
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

impl EtcdServer {
    pub fn start() -> Self {
        Self::start_with("http", &[])
    }

    /// Starts an etcd that speaks TLS, with the flags that say how.
    pub fn start_tls(flags: &[&str]) -> Self {
        Self::start_with("https", flags)
    }

    fn start_with(scheme: &str, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = free_address();
        let process = spawn(dir.path(), &endpoint, scheme, flags);
        let mut server = Self { process, endpoint, dir };
        server.wait();
        server
    }

    /// Whether any of its files holds these bytes.
    pub fn holds(&self, bytes: &[u8]) -> bool {
        fn search(dir: &std::path::Path, bytes: &[u8]) -> bool {
            std::fs::read_dir(dir).unwrap().any(|file| {
                let path = file.unwrap().path();
                if path.is_dir() {
                    return search(&path, bytes);
                }
                memchr::memmem::find(&std::fs::read(path).unwrap(), bytes).is_some()
            })
        }
        search(self.dir.path(), bytes)
    }

    /// Kills it without warning and starts it again on the same data.
    pub fn restart(&mut self) {
        self.kill();
        self.process = spawn(self.dir.path(), &self.endpoint, "http", &[]);
        self.wait();
    }

    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn wait(&mut self) {
        let deadline = Instant::now() + START_LIMIT;
        while std::net::TcpStream::connect(&self.endpoint).is_err() {
            assert!(self.process.try_wait().unwrap().is_none(), "etcd ended at its start");
            assert!(Instant::now() < deadline, "etcd does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn config(&self) -> EtcdConfig {
        EtcdConfig::new(vec![self.endpoint.clone()], [1; 32])
    }

    /// A store on it that leads.
    pub async fn store(&self) -> Store {
        let store = Store::etcd(self.config()).await.unwrap();
        let mut leadership = store.leadership();
        let led = leadership.wait_for(|leadership| leadership.is_leader);
        tokio::time::timeout(START_LIMIT, led).await.unwrap().unwrap();
        store
    }
}

fn spawn(dir: &std::path::Path, endpoint: &str, scheme: &str, flags: &[&str]) -> Child {
    let client = format!("{scheme}://{endpoint}");
    let peer = format!("http://{}", free_address());
    Command::new("etcd")
        .args(["--name", "test", "--log-level", "error"])
        // Alone it need not wait a second for others before it leads.
        .args(["--heartbeat-interval", "10", "--election-timeout", "50"])
        .arg("--data-dir")
        .arg(dir.join("data"))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("test={peer}")])
        .args(flags)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
