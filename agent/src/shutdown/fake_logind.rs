//! A logind that tests can have: on a bus of its own, with a `dbus-daemon` that
//! ends with it. It counts delay locks and sends notices when told to.

#![expect(missing_docs, reason = "zbus makes a trait of the signals that has none")]

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use zbus::Connection;
use zbus::object_server::SignalEmitter;
use zbus::zvariant;

use crate::bus::testing::Bus;

const PATH: &str = "/org/freedesktop/login1";

/// The bus, and logind on it.
pub struct FakeLogind {
    /// Where the bus is.
    pub address: String,
    _daemon: Bus,
    bus: Connection,
    state: Arc<Mutex<State>>,
}

struct State {
    /// The other ends of the locks that were given out.
    locks: Vec<OwnedFd>,
    delay: Duration,
    /// Where its settings are.
    conf_dir: PathBuf,
    begun: bool,
}

impl FakeLogind {
    /// One that lets a shutdown be delayed by `delay`, unless a file in
    /// `conf_dir` says something else. The bus is a socket in `dir`.
    pub async fn start(dir: &Path, conf_dir: &Path, delay: Duration) -> Self {
        let daemon = Bus::start(dir);
        let address = daemon.address.clone();
        let conf_dir = conf_dir.to_owned();
        let state = State { locks: vec![], delay, conf_dir, begun: false };
        let state = Arc::new(Mutex::new(state));
        let bus = zbus::connection::Builder::address(address.as_str())
            .and_then(|bus| bus.name("org.freedesktop.login1"))
            .and_then(|bus| bus.name("org.freedesktop.systemd1"))
            .and_then(|bus| bus.serve_at(PATH, Manager(state.clone())))
            .and_then(|bus| bus.serve_at("/org/freedesktop/systemd1", Systemd(state.clone())))
            .unwrap();
        let bus = bus.build().await.unwrap();
        Self { address, _daemon: daemon, bus, state }
    }

    /// Tells everybody that a shutdown begins, or that it does not after all.
    pub async fn prepare_for_shutdown(&self, begins: bool) {
        lock(&self.state).begun = begins;
        let emitter = SignalEmitter::new(&self.bus, PATH).unwrap();
        Manager::prepare_for_shutdown(&emitter, begins).await.unwrap();
    }

    /// How many locks are held.
    pub fn locks(&self) -> usize {
        let mut state = lock(&self.state);
        state.locks.retain(|end| !is_closed(end));
        state.locks.len()
    }

    /// Waits until so many locks are held.
    pub async fn until_locks(&self, count: usize) {
        let wait = async {
            while self.locks() != count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), wait).await;
        assert!(waited.is_ok(), "{} locks are held, not {count}", self.locks());
    }

    /// How long it lets a shutdown be delayed now.
    pub fn delay(&self) -> Duration {
        lock(&self.state).delay
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether nobody has the other end of this pipe any more.
fn is_closed(end: &OwnedFd) -> bool {
    use std::os::fd::AsFd;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut ends = [PollFd::new(end.as_fd(), PollFlags::POLLIN)];
    poll(&mut ends, PollTimeout::ZERO).unwrap();
    ends[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

struct Manager(Arc<Mutex<State>>);

#[zbus::interface(name = "org.freedesktop.login1.Manager")]
impl Manager {
    fn inhibit(&self, what: &str, who: &str, _why: &str, mode: &str) -> zvariant::OwnedFd {
        assert_eq!((what, who, mode), ("shutdown", "skiff", "delay"));
        let (ours, theirs) = nix::unistd::pipe().unwrap();
        lock(&self.0).locks.push(ours);
        theirs.into()
    }

    #[zbus(property, name = "InhibitDelayMaxUSec")]
    fn longest_delay(&self) -> u64 {
        u64::try_from(lock(&self.0).delay.as_micros()).unwrap()
    }

    #[zbus(property)]
    fn preparing_for_shutdown(&self) -> bool {
        lock(&self.0).begun
    }

    /// A shutdown begins, or does not after all.
    #[zbus(signal)]
    async fn prepare_for_shutdown(emitter: &SignalEmitter<'_>, begins: bool) -> zbus::Result<()>;
}

struct Systemd(Arc<Mutex<State>>);

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Systemd {
    /// The signal has logind read its settings.
    fn kill_unit(&self, name: &str, whom: &str, signal: i32) {
        assert_eq!((name, whom, signal), ("systemd-logind.service", "all", 1));
        let mut state = lock(&self.0);
        let files = std::fs::read_dir(&state.conf_dir).into_iter().flatten().flatten();
        let texts = files.map(|file| std::fs::read_to_string(file.path()).unwrap());
        let seconds = texts.flat_map(|text| {
            let lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines
                .into_iter()
                .filter_map(|line| line.strip_prefix("InhibitDelayMaxSec=")?.parse().ok())
        });
        if let Some(seconds) = seconds.last() {
            state.delay = Duration::from_secs(seconds);
        }
    }
}
