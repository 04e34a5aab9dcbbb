//! Events: what `kubectl describe` shows under a workload.
//!
//! Recording never holds a pass up: it puts the event into a bounded queue that
//! one task per process empties. An event that repeats within a while raises
//! the count of the one that is there instead of adding another. Events inform
//! people; losing one when the queue is full or the server refuses is logged
//! and nothing else.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use skiff_client::Api;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::error::{chain, is_not_found};
use crate::meta;

/// Events waiting to be sent. When full, further ones are dropped: a burst that
/// large is not read by anybody.
const QUEUE_CAPACITY: usize = 1024;
/// Distinct events remembered for counting repeats.
const REMEMBERED: usize = 512;
/// A repeat within this time counts; a later one is a new event.
const REPEAT_WINDOW: Duration = Duration::from_secs(600);

/// How an event is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Severity {
    /// Ordinary progress.
    Normal,
    /// Something a person should look at.
    Warning,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// What happened to which object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Happening {
    namespace: String,
    kind: String,
    name: String,
    uid: String,
    component: &'static str,
    severity: Severity,
    reason: &'static str,
    message: String,
}

struct Note {
    regarding: ObjectReference,
    happening: Happening,
    at: Timestamp,
}

/// Takes events and returns at once.
#[derive(Clone)]
pub(crate) struct Recorder {
    notes_tx: mpsc::Sender<Note>,
}

/// Sends what recorders took.
pub(crate) struct Sender {
    client: Client,
    notes_rx: mpsc::Receiver<Note>,
    recent: HashMap<Happening, Recent>,
    order: VecDeque<Happening>,
}

struct Recent {
    name: String,
    count: i32,
    at: Timestamp,
}

/// A recorder and the task body that sends its events.
pub(crate) fn channel(client: Client) -> (Recorder, Sender) {
    let (notes_tx, notes_rx) = mpsc::channel(QUEUE_CAPACITY);
    (
        Recorder { notes_tx },
        Sender { client, notes_rx, recent: HashMap::new(), order: VecDeque::new() },
    )
}

impl Recorder {
    /// Records an event about `regarding` in the name of `component`.
    pub(crate) fn record(
        &self,
        component: &'static str,
        regarding: &ObjectReference,
        severity: Severity,
        reason: &'static str,
        message: String,
    ) {
        let happening = Happening {
            // Events about cluster-scoped objects live in `default`.
            namespace: regarding
                .namespace
                .clone()
                .filter(|ns| !ns.is_empty())
                .unwrap_or_else(|| "default".into()),
            kind: regarding.kind.clone().unwrap_or_default(),
            name: regarding.name.clone().unwrap_or_default(),
            uid: regarding.uid.clone().unwrap_or_default(),
            component,
            severity,
            reason,
            message,
        };
        let note = Note { regarding: regarding.clone(), happening, at: meta::now() };
        if let Err(err) = self.notes_tx.try_send(note) {
            debug!(reason, error = %err, "event dropped");
        }
    }
}

impl Sender {
    /// Sends events until cancelled.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        loop {
            let note = tokio::select! {
                () = cancel.cancelled() => return,
                note = self.notes_rx.recv() => note,
            };
            let Some(note) = note else { return };
            if let Err(err) = self.send(&note).await {
                // A namespace on its way out refuses new events; so be it.
                if crate::error::is_namespace_terminating(&err) || is_not_found(&err) {
                    debug!(reason = note.happening.reason, error = chain(&err), "event refused");
                } else {
                    warn!(
                        reason = note.happening.reason,
                        error = chain(&err),
                        "cannot record event"
                    );
                }
            }
        }
    }

    async fn send(&mut self, note: &Note) -> Result<(), kube::Error> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &note.happening.namespace);
        if let Some(recent) = self.recent.get_mut(&note.happening)
            && meta::elapsed(recent.at, note.at) < REPEAT_WINDOW
        {
            let patch = json!({ "count": recent.count + 1, "lastTimestamp": meta::time(note.at) });
            match api.patch(&recent.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Ok(_) => {
                    recent.count += 1;
                    recent.at = note.at;
                    return Ok(());
                }
                // Expired or deleted: tell it as new.
                Err(err) if is_not_found(&err) => {}
                Err(err) => return Err(err),
            }
        }
        let event = new_event(note);
        let name = meta::name(&event.metadata).to_owned();
        api.create(&PostParams::default(), &event).await?;
        self.remember(note, name);
        Ok(())
    }

    fn remember(&mut self, note: &Note, name: String) {
        let recent = Recent { name, count: 1, at: note.at };
        if self.recent.insert(note.happening.clone(), recent).is_none() {
            self.order.push_back(note.happening.clone());
            if self.order.len() > REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.recent.remove(&oldest);
            }
        }
    }
}

fn new_event(note: &Note) -> Event {
    let happening = &note.happening;
    // Unique per object: the time in nanoseconds, as upstream names them.
    let name = format!("{}.{:x}", happening.name, Timestamp::now().as_nanosecond());
    Event {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(happening.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: note.regarding.clone(),
        type_: Some(happening.severity.as_str().to_owned()),
        reason: Some(happening.reason.to_owned()),
        message: Some(happening.message.clone()),
        count: Some(1),
        first_timestamp: Some(meta::time(note.at)),
        last_timestamp: Some(meta::time(note.at)),
        source: Some(EventSource { component: Some(happening.component.to_owned()), host: None }),
        reporting_component: Some(happening.component.to_owned()),
        ..Event::default()
    }
}
