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
