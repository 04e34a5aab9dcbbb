//! D-Bus, by which the machine's systemd is spoken to.

use std::time::Duration;

use anyhow::Context as _;
use zbus::{Connection, connection};

/// How long the bus may take to answer.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to the bus at `address`, or to the machine's.
pub(crate) async fn connect(address: Option<&str>) -> anyhow::Result<Connection> {
    let builder = match address {
        Some(address) => connection::Builder::address(address)?,
        None => connection::Builder::system()?,
    };
    let built = builder.method_timeout(ANSWER_TIMEOUT).build();
    built.await.context("no system bus (D-Bus) answers")
}

/// A bus that tests can have, with its own `dbus-daemon`, which ends with it.
#[cfg(test)]
pub(crate) mod testing {
    use std::io::{BufRead, BufReader};
    use std::path::Path;
    use std::process::{Child, Command, Stdio};

    /// The bus.
    pub(crate) struct Bus {
        /// Where it is.
        pub(crate) address: String,
        daemon: Child,
    }

    impl Bus {
        /// A bus that is a socket in `dir`.
        pub(crate) fn start(dir: &Path) -> Self {
            let mut daemon = Command::new("dbus-daemon")
                .args(["--session", "--nofork", "--nopidfile", "--print-address"])
                .arg(format!("--address=unix:path={}", dir.join("bus").display()))
                .stdout(Stdio::piped())
                .spawn()
                .expect("dbus-daemon is needed: apt-get install dbus");
            let mut address = String::new();
            BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut address).unwrap();
            Self { address: address.trim().to_owned(), daemon }
        }
    }

    impl Drop for Bus {
        fn drop(&mut self) {
            // It may have ended already.
            let _ = self.daemon.kill();
            let _ = self.daemon.wait();
        }
    }
}
