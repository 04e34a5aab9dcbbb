//! systemd-logind over D-Bus: how long it lets a shutdown be delayed, the lock
//! that delays one, and its notices. Thin: it decides nothing.

use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt;
use nix::sys::signal::Signal;
use zbus::proxy::SignalStream;
use zbus::zvariant::OwnedFd;
use zbus::{Connection, Proxy};

use crate::bus;

/// A connection to logind.
pub struct Logind {
    bus: Connection,
    manager: Proxy<'static>,
}

/// What logind says of shutdowns.
pub struct Notices(SignalStream<'static>);

impl Logind {
    /// Connects to the bus at `address`, or to the machine's.
    pub async fn connect(address: Option<&str>) -> anyhow::Result<Self> {
        let bus = bus::connect(address).await?;
        let manager = Proxy::new(
            &bus,
            "org.freedesktop.login1",
            "/org/freedesktop/login1",
            "org.freedesktop.login1.Manager",
        )
        .await?;
        Ok(Self { bus, manager })
    }

    /// How long it lets a shutdown be delayed.
    pub async fn longest_delay(&self) -> anyhow::Result<Duration> {
        let micros: u64 = self.property("InhibitDelayMaxUSec").await?;
        Ok(Duration::from_micros(micros))
    }

    /// Whether a shutdown has begun.
    pub async fn is_shutting_down(&self) -> anyhow::Result<bool> {
        self.property("PreparingForShutdown").await
    }

    /// Asked each time: logind does not tell when some of them change.
    async fn property<T>(&self, name: &str) -> anyhow::Result<T>
    where
        T: TryFrom<zbus::zvariant::OwnedValue>,
        T::Error: Into<zbus::Error>,
    {
        let properties = zbus::fdo::PropertiesProxy::new(
            &self.bus,
            self.manager.destination().to_owned(),
            self.manager.path().to_owned(),
        )
        .await?;
        let value = properties
            .get(self.manager.interface().to_owned(), name)
            .await
            .context("systemd-logind does not answer")?;
        T::try_from(value).map_err(|error| anyhow::Error::new(error.into()))
    }

    /// What it says from now on.
    pub async fn notices(&self) -> anyhow::Result<Notices> {
        let signals = self.manager.receive_signal("PrepareForShutdown").await;
        Ok(Notices(signals.context("cannot hear of shutdowns")?))
    }

    /// Delays shutdowns until the lock is closed.
    pub async fn delay_shutdowns(&self) -> anyhow::Result<OwnedFd> {
        let what = ("shutdown", "skiff", "Pods have to end in order", "delay");
        self.manager.call("Inhibit", &what).await.context("cannot delay shutdowns")
    }

    /// Has it read its settings anew. systemd passes the signal on.
    pub async fn reload(&self) -> anyhow::Result<()> {
        let systemd = Proxy::new(
            &self.bus,
            "org.freedesktop.systemd1",
            "/org/freedesktop/systemd1",
            "org.freedesktop.systemd1.Manager",
        )
        .await?;
        let whom = ("systemd-logind.service", "all", Signal::SIGHUP as i32);
        systemd.call("KillUnit", &whom).await.context("cannot have logind read its settings")
    }
}

impl Notices {
    /// The next one: true when a shutdown begins, false when it was called off.
    /// `None` when the bus is gone.
    pub async fn next(&mut self) -> Option<anyhow::Result<bool>> {
        let message = self.0.next().await?;
        Some(message.body().deserialize().context("logind says what it should not"))
    }
}
