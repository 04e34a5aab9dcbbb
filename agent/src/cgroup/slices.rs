//! Slices of systemd: cgroups that are its to make and to set. What others
//! write into their files it would overwrite. Thin.

use anyhow::Context as _;
use futures::StreamExt;
use zbus::zvariant::{OwnedObjectPath, Value};
use zbus::{Connection, Proxy};

use super::files::weight;
use crate::bus;
use crate::runtime::Limits;

/// systemd's own word for "no limit".
const INFINITY: u64 = u64::MAX;

/// systemd over D-Bus.
pub struct Systemd {
    manager: Proxy<'static>,
}

/// One property of a unit.
type Property = (&'static str, Value<'static>);

impl Systemd {
    /// Connects to the bus at `address`, or to the machine's.
    pub async fn connect(address: Option<&str>) -> anyhow::Result<Self> {
        let bus: Connection = bus::connect(address).await?;
        let manager = Proxy::new(
            &bus,
            "org.freedesktop.systemd1",
            "/org/freedesktop/systemd1",
            "org.freedesktop.systemd1.Manager",
        )
        .await?;
        Ok(Self { manager })
    }

    /// Starts a slice with these limits, or sets them on the one that is there.
    /// It goes with the machine's next start at the latest.
    pub async fn ensure(
        &self,
        slice: &str,
        uid: &str,
        limits: &Limits,
        unified: bool,
    ) -> anyhow::Result<()> {
        let mut all = properties(limits, unified);
        if self.is_active(slice).await {
            let set = self.manager.call("SetUnitProperties", &(slice, true, all)).await;
            return set.with_context(|| format!("systemd: limits of {slice}"));
        }
        all.extend([
            ("Description", Value::from(format!("Pod {uid} of Skiff"))),
            ("DefaultDependencies", Value::from(false)),
            ("CPUAccounting", Value::from(true)),
            ("MemoryAccounting", Value::from(true)),
            ("TasksAccounting", Value::from(true)),
        ]);
        let others: Vec<(&str, Vec<Property>)> = Vec::new();
        self.job("StartTransientUnit", slice, &(slice, "replace", all, others)).await
    }

    /// Stops a slice; with that it is gone. One that is not there is fine.
    pub async fn stop(&self, slice: &str) -> anyhow::Result<()> {
        self.job("StopUnit", slice, &(slice, "replace")).await
    }

    async fn is_active(&self, slice: &str) -> bool {
        let unit: Result<OwnedObjectPath, _> = self.manager.call("GetUnit", &(slice,)).await;
        let Ok(path) = unit else { return false };
        let bus = self.manager.connection();
        let destination = self.manager.destination().to_owned();
        let unit = Proxy::new(bus, destination, path, "org.freedesktop.systemd1.Unit").await;
        let Ok(unit) = unit else { return false };
        unit.get_property::<String>("ActiveState").await.is_ok_and(|state| state == "active")
    }

    /// Calls for a job and waits until it is done.
    async fn job<B>(&self, method: &str, slice: &str, body: &B) -> anyhow::Result<()>
    where
        B: serde::Serialize + zbus::zvariant::DynamicType,
    {
        let failed = || format!("systemd: {method} of {slice}");
        let mut ended = self.manager.receive_signal("JobRemoved").await.with_context(failed)?;
        let _: () = self.manager.call("Subscribe", &()).await.with_context(failed)?;
        let asked: Result<OwnedObjectPath, zbus::Error> = self.manager.call(method, body).await;
        let job = match asked {
            Err(error) if is_unknown(&error) => return Ok(()),
            asked => asked.with_context(failed)?,
        };
        let wait = async {
            while let Some(message) = ended.next().await {
                let (_, path, _, result): (u32, OwnedObjectPath, String, String) =
                    message.body().deserialize()?;
                if path == job {
                    anyhow::ensure!(result == "done", "it ended with {result:?}");
                    return Ok(());
                }
            }
            anyhow::bail!("the bus has gone")
        };
        tokio::time::timeout(bus::ANSWER_TIMEOUT, wait)
            .await
            .with_context(failed)?
            .with_context(failed)
    }
}

/// Whether systemd has no such unit.
fn is_unknown(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::MethodError(name, ..)
        if name.as_str() == "org.freedesktop.systemd1.NoSuchUnit")
}

/// The limits in systemd's words.
fn properties(limits: &Limits, unified: bool) -> Vec<Property> {
    let number = |value: i64| u64::try_from(value).unwrap_or_default();
    let most = |value: Option<i64>| Value::from(value.map_or(INFINITY, number));
    let shares = limits.cpu_shares.unwrap_or(1024);
    // Of 100 ms to that of a second, which systemd keeps in hundredths.
    let quota = limits.cpu_quota_us.map(|quota| (quota * 10 + 9_999) / 10_000 * 10_000);
    let weighed = if unified {
        ("CPUWeight", Value::from(number(weight(shares))))
    } else {
        ("CPUShares", Value::from(number(shares)))
    };
    let memory = if unified { "MemoryMax" } else { "MemoryLimit" };
    vec![
        weighed,
        ("CPUQuotaPerSecUSec", most(quota)),
        (memory, most(limits.memory_bytes)),
        ("TasksMax", most(limits.pids)),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::fake_systemd::FakeSystemd;
    use super::*;

    #[test]
    fn limits_are_properties_of_a_slice() {
        let limits = Limits {
            cpu_shares: Some(102),
            cpu_quota_us: Some(1_234),
            memory_bytes: Some(64 << 20),
            ..Limits::default()
        };
        let of = |unified| -> Vec<(&str, u64)> {
            let all = properties(&limits, unified).into_iter();
            all.map(|(name, value)| (name, u64::try_from(value).unwrap())).collect()
        };
        let quota = ("CPUQuotaPerSecUSec", 20_000);
        let tasks = ("TasksMax", INFINITY);
        assert_eq!(of(true), [("CPUWeight", 4), quota, ("MemoryMax", 64 << 20), tasks]);
        assert_eq!(of(false), [("CPUShares", 102), quota, ("MemoryLimit", 64 << 20), tasks]);
    }

    #[tokio::test]
    async fn a_slice_is_started_once_and_set_from_then_on() {
        let dir = tempfile::tempdir().unwrap();
        let fake = FakeSystemd::start(dir.path()).await;
        let systemd = Systemd::connect(Some(&fake.bus.address)).await.unwrap();
        let slice = "system-skiff_1_u.slice";
        for memory in [64 << 20, 32 << 20] {
            let limits = Limits { memory_bytes: Some(memory), ..Limits::default() };
            systemd.ensure(slice, "u", &limits, true).await.unwrap();
            let expected = properties(&limits, true).into_iter();
            let expected =
                expected.map(|(name, value)| (name.to_owned(), u64::try_from(value).unwrap()));
            assert_eq!(fake.limits(slice), Some(expected.collect()));
        }
        for _ in 0..2 {
            systemd.stop(slice).await.unwrap();
            assert_eq!(fake.limits(slice), None);
        }
    }
}
