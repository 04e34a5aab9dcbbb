//! As much of systemd as slices need, on a bus of its own: units by name with
//! the limits that they were given.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use zbus::Connection;
use zbus::object_server::SignalEmitter;
use zbus::zvariant::{OwnedObjectPath, OwnedValue};

use crate::bus::testing::Bus;

const PATH: &str = "/org/freedesktop/systemd1";

type Limits = BTreeMap<String, u64>;
type Units = Arc<Mutex<BTreeMap<String, Limits>>>;

/// The bus, and systemd on it.
pub(super) struct FakeSystemd {
    pub(super) bus: Bus,
    _service: Connection,
    units: Units,
}

impl FakeSystemd {
    /// One without slices; the bus is a socket in `dir`.
    pub(super) async fn start(dir: &Path) -> Self {
        let bus = Bus::start(dir);
        let units = Units::default();
        let service = zbus::connection::Builder::address(bus.address.as_str())
            .and_then(|service| service.name("org.freedesktop.systemd1"))
            .and_then(|service| service.serve_at(PATH, Manager(units.clone())))
            .and_then(|service| service.serve_at("/unit", Unit))
            .unwrap();
        Self { bus, _service: service.build().await.unwrap(), units }
    }

    /// A slice's limits, by systemd's names for them.
    pub(super) fn limits(&self, slice: &str) -> Option<Limits> {
        lock(&self.units).get(slice).cloned()
    }
}

fn lock(units: &Units) -> std::sync::MutexGuard<'_, BTreeMap<String, Limits>> {
    units.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The numbers among the properties of a unit.
fn numbers(properties: Vec<(String, OwnedValue)>) -> Limits {
    let all = properties.into_iter();
    all.filter_map(|(name, value)| Some((name, u64::try_from(value).ok()?))).collect()
}

/// Its own errors.
#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.freedesktop.systemd1")]
enum Refused {
    #[zbus(error)]
    Bus(zbus::Error),
    NoSuchUnit(String),
    UnitExists(String),
}

fn unknown(name: &str) -> Refused {
    Refused::NoSuchUnit(format!("Unit {name} not loaded."))
}

struct Manager(Units);

impl Manager {
    async fn end(emitter: &SignalEmitter<'_>, unit: &str) -> OwnedObjectPath {
        let path = OwnedObjectPath::try_from("/job/7").unwrap();
        // Others' jobs end, too.
        let other = OwnedObjectPath::try_from("/job/6").unwrap();
        Self::job_removed(emitter, 6, other, "other.service", "failed").await.unwrap();
        Self::job_removed(emitter, 7, path.clone(), unit, "done").await.unwrap();
        path
    }
}

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    fn subscribe(&self) {}

    fn get_unit(&self, name: &str) -> Result<OwnedObjectPath, Refused> {
        let known = lock(&self.0).contains_key(name);
        known.then(|| OwnedObjectPath::try_from("/unit").unwrap()).ok_or_else(|| unknown(name))
    }

    async fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: Vec<(String, OwnedValue)>,
        others: Vec<(String, Vec<(String, OwnedValue)>)>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> Result<OwnedObjectPath, Refused> {
        assert_eq!((mode, others.len()), ("replace", 0));
        if lock(&self.0).insert(name.to_owned(), numbers(properties)).is_some() {
            return Err(Refused::UnitExists(format!("Unit {name} already exists.")));
        }
        Ok(Self::end(&emitter, name).await)
    }

    fn set_unit_properties(
        &self,
        name: &str,
        runtime: bool,
        properties: Vec<(String, OwnedValue)>,
    ) -> Result<(), Refused> {
        assert!(runtime, "nothing is to be left after the machine's next start");
        lock(&self.0).get_mut(name).ok_or_else(|| unknown(name))?.extend(numbers(properties));
        Ok(())
    }

    async fn stop_unit(
        &self,
        name: &str,
        _mode: &str,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> Result<OwnedObjectPath, Refused> {
        lock(&self.0).remove(name).ok_or_else(|| unknown(name))?;
        Ok(Self::end(&emitter, name).await)
    }

    #[zbus(signal)]
    async fn job_removed(
        emitter: &SignalEmitter<'_>,
        id: u32,
        job: OwnedObjectPath,
        unit: &str,
        result: &str,
    ) -> zbus::Result<()>;
}

struct Unit;

#[zbus::interface(name = "org.freedesktop.systemd1.Unit")]
impl Unit {
    #[zbus(property)]
    fn active_state(&self) -> &str {
        "active"
    }
}
