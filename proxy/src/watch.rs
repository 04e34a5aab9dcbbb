//! The proxy's loop: events in, one transaction out.
//!
//! A batch is whatever events are there when we look. A single change is
//! applied at once; while it is being applied, further events gather and make
//! the next batch. No timer delays anything, and an idle cluster costs nothing
//! but a look every ten minutes at whether our table is still there.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt};
use serde::de::DeserializeOwned;
use skiff_client::{Api, chain};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::sync::Rules;
use crate::view::{ObjectName, View, read_service, read_slice};

/// How often we look whether somebody removed our table.
const RESYNC_PERIOD: Duration = Duration::from_secs(600);

/// How long after a failed transaction everything is loaded again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// How many events one batch may hold; more just make another batch.
const BATCH: usize = 4096;

enum Change {
    Service(Box<Event<Service>>),
    Slice(Box<Event<EndpointSlice>>),
}

/// A list under way: what it has contained so far.
#[derive(Debug, Default)]
struct Listing {
    listed: BTreeSet<ObjectName>,
    /// One list has been seen to its end.
    complete: bool,
}

/// Takes events in and remembers which services they touched.
struct Intake {
    view: Arc<RwLock<View>>,
    services: Listing,
    slices: Listing,
    dirty: BTreeSet<ObjectName>,
}

impl Intake {
    fn take(&mut self, change: Change) {
        let view = Arc::clone(&self.view);
        let mut view = view.write().unwrap_or_else(PoisonError::into_inner);
        match change {
            Change::Service(event) => self.take_service(&mut view, *event),
            Change::Slice(event) => self.take_slice(&mut view, *event),
        }
    }

    fn take_service(&mut self, view: &mut View, event: Event<Service>) {
        match event {
            Event::Init => self.services.listed.clear(),
            Event::InitApply(service) => {
                self.services.listed.insert(name_of(&service));
                self.put_service(view, &service);
            }
            Event::Apply(service) => self.put_service(view, &service),
            Event::InitDone => {
                self.dirty.extend(view.retain_services(&self.services.listed));
                self.services = Listing { complete: true, ..Listing::default() };
            }
            Event::Delete(service) => {
                let name = name_of(&service);
                if view.remove_service(&name) {
                    self.dirty.insert(name);
                }
            }
        }
    }

    fn take_slice(&mut self, view: &mut View, event: Event<EndpointSlice>) {
        match event {
            Event::Init => self.slices.listed.clear(),
            Event::InitApply(slice) => {
                self.slices.listed.insert(name_of(&slice));
                self.put_slice(view, &slice);
            }
            Event::Apply(slice) => self.put_slice(view, &slice),
            Event::InitDone => {
                self.dirty.extend(view.retain_slices(&self.slices.listed));
                self.slices = Listing { complete: true, ..Listing::default() };
            }
            Event::Delete(slice) => self.dirty.extend(view.remove_slice(&name_of(&slice))),
        }
    }

    fn put_service(&mut self, view: &mut View, service: &Service) {
        let name = name_of(service);
        if view.put_service(&name, read_service(service)) {
            self.dirty.insert(name);
        }
    }

    fn put_slice(&mut self, view: &mut View, slice: &EndpointSlice) {
        let name = name_of(slice);
        match read_slice(slice) {
            Some((service, slice)) => self.dirty.extend(view.put_slice(&name, &service, slice)),
            // Without the label it belongs to nobody (any more).
            None => self.dirty.extend(view.remove_slice(&name)),
        }
    }

    fn is_complete(&self) -> bool {
        self.services.complete && self.slices.complete
    }
}

fn name_of<K: kube::Resource>(object: &K) -> ObjectName {
    ObjectName::new(&object.namespace().unwrap_or_default(), &object.name_any())
}

/// Runs until cancelled.
pub(crate) async fn run(
    mut rules: Rules,
    view: Arc<RwLock<View>>,
    client: Client,
    ready: tokio::sync::watch::Sender<bool>,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let services = watch(client.clone(), Change::Service);
    let slices = watch(client, Change::Slice);
    let mut batches = Box::pin(stream::select(services, slices).ready_chunks(BATCH));

    let mut intake = Intake {
        view: Arc::clone(&view),
        services: Listing::default(),
        slices: Listing::default(),
        dirty: BTreeSet::new(),
    };
    let mut resync = tokio::time::interval_at(Instant::now() + RESYNC_PERIOD, RESYNC_PERIOD);
    resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut retry_at = None;
    loop {
        // Every arm is cancel-safe. A pass, once begun, finishes.
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            batch = batches.next() => {
                let Some(batch) = batch else { return Ok(()) };
                for change in batch {
                    match change {
                        Ok(change) => intake.take(change),
                        // The stream backs off and lists again by itself.
                        Err(err) => warn!(error = chain(&err), "a watch broke, will resume"),
                    }
                }
            }
            _ = resync.tick() => {
                if let Err(err) = rules.check().await {
                    warn!(error = chain(&err), "cannot look whether the rules are in force");
                }
            }
            () = sleep_until(retry_at) => {}
        }
        if !intake.is_complete() || (intake.dirty.is_empty() && !rules.is_stale()) {
            continue;
        }
        if retry_at.is_some_and(|at| Instant::now() < at) {
            continue;
        }
        let dirty = std::mem::take(&mut intake.dirty);
        let started = Instant::now();
        match rules.apply(&view, dirty).await {
            Ok(()) => {
                retry_at = None;
                if !ready.send_replace(true) {
                    info!(took = ?started.elapsed(), "rules and names of all services are served");
                }
            }
            Err(err) => {
                warn!(error = chain(&err), "cannot apply the rules, will load them all again");
                retry_at = Some(Instant::now() + RETRY_DELAY);
            }
        }
    }
}

/// The changes of one kind, in all namespaces.
fn watch<K>(
    client: Client,
    wrap: fn(Box<Event<K>>) -> Change,
) -> BoxStream<'static, watcher::Result<Change>>
where
    K: kube::Resource<DynamicType = ()> + DeserializeOwned + Send + 'static,
{
    let events = skiff_client::watch(Api::all(client), watcher::Config::default());
    events.map_ok(move |event| wrap(Box::new(event))).boxed()
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
