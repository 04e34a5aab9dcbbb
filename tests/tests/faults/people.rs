//! The people who use the cluster while things go wrong: callers that create,
//! replace, patch, delete and read ConfigMaps, one call at a time each, and
//! watches that follow all of them.
//!
//! Everybody has a seat. Some sit in a master's own namespace and ask that
//! master alone, also while it is cut off, which is where a stale answer would
//! come from. Others sit at the switch and ask whichever master they like.
//! Whom a call asked does not matter to the checker.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{
    Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions,
    WatchEvent, WatchParams,
};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;
use skiff_lab::netns;
use skiff_store::checker::{Asked, Change, Told};
use skiff_store::{Compare, Draft, Revision, Txn, Write};
use skiff_tests::client_of;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::record::{Answer, Recorder, Stretch, Summary};

/// Where all of it happens.
pub(crate) const NAMESPACE: &str = "faults";
/// Tells our objects from those that controllers make.
const LABEL: &str = "faults=yes";
/// Few, so that callers meet.
const KEYS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// How long a caller waits for an answer before it goes on without.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long somebody who could not be served waits before the next try.
const PAUSE: Duration = Duration::from_millis(50);
/// How long watches and last writes may take once everything is mended.
const CONVERGENCE: Duration = Duration::from_secs(60);

/// A place to ask from, and whom.
#[derive(Debug, Clone)]
pub(crate) struct Seat {
    /// The network namespace.
    pub(crate) namespace: String,
    pub(crate) kubeconfig: PathBuf,
    /// `https://…` of each master that is asked.
    pub(crate) masters: Vec<String>,
    /// Its master may receive a snapshot from others, after which it has no
    /// history to go on from: a watch then begins anew with a list.
    pub(crate) lists_again: bool,
}

impl Seat {
    /// Does `work` from here, on a thread of its own.
    fn take<T, F>(
        &self,
        work: impl FnOnce(Vec<Api<ConfigMap>>) -> F + Send + 'static,
    ) -> JoinHandle<T>
    where
        T: Send + 'static,
        F: Future<Output = T>,
    {
        let seat = self.clone();
        std::thread::spawn(move || {
            let namespace = seat.namespace.clone();
            let run = move || async move { Ok(work(seat.clients().await).await) };
            netns::run_in(&namespace, run).expect("the namespace is there")
        })
    }

    async fn clients(&self) -> Vec<Api<ConfigMap>> {
        let mut clients = Vec::new();
        for master in &self.masters {
            let client = client_of(&self.kubeconfig, master).await;
            clients.push(Api::namespaced(client, NAMESPACE));
        }
        clients
    }
}

/// What is done to one key, or to all.
#[derive(Debug, Clone, Copy)]
enum Call {
    Create,
    /// At this revision, or unconditionally.
    Replace(Option<u64>),
    Patch,
    /// At this revision, or unconditionally.
    Delete(Option<u64>),
    Get,
    /// The newest state, or whatever the master has.
    List(Freshness),
}

/// What a list has to show.
#[derive(Debug, Clone, Copy)]
enum Freshness {
    Newest,
    Any,
}

impl Call {
    /// Decides on a call, given when the key was last written as far as known.
    fn choose(rng: &mut StdRng, modified: Option<u64>) -> Self {
        match rng.random_range(0..20) {
            0..4 => Self::Create,
            4..7 => Self::Replace(modified),
            7..9 => Self::Replace(None),
            9..11 => Self::Patch,
            11 => Self::Delete(None),
            12 => Self::Delete(modified),
            13..17 => Self::Get,
            _ => Self::List(Freshness::Newest),
        }
    }

    /// The same in the store's words.
    fn asked(self, key: &str, number: usize) -> Asked {
        let condition = match self {
            Self::Get => return Asked::Get(key.into()),
            Self::List(_) => return Asked::Read,
            Self::Create => Compare::Absent(key.into()),
            Self::Replace(Some(seen)) | Self::Delete(Some(seen)) => {
                Compare::Unchanged(key.into(), Revision(seen))
            }
            Self::Replace(None) | Self::Patch | Self::Delete(None) => Compare::Present(key.into()),
        };
        let write = match self {
            Self::Delete(_) => Write::Delete(key.into()),
            _ => {
                let bytes = number.to_string().into_bytes().into();
                Write::Put(key.into(), Draft { bytes, revision_at: None, sealed: false })
            }
        };
        Asked::Write(Txn::default().when(condition).write(write))
    }

    async fn send(self, api: &Api<ConfigMap>, key: &str, number: usize) -> kube::Result<Answer> {
        let written = |map: ConfigMap| {
            Answer::Told(Told::Written { revision: revision(&map.metadata), changed: true })
        };
        Ok(match self {
            Self::Create => {
                written(api.create(&PostParams::default(), &object(key, number, None)).await?)
            }
            Self::Replace(seen) => {
                let map = object(key, number, seen);
                written(api.replace(key, &PostParams::default(), &map).await?)
            }
            Self::Patch => {
                let patch = Patch::Merge(json!({"data": {"call": number.to_string()}}));
                written(api.patch(key, &PatchParams::default(), &patch).await?)
            }
            Self::Delete(seen) => {
                let preconditions = seen.map(|seen| Preconditions {
                    resource_version: Some(seen.to_string()),
                    uid: None,
                });
                let how = DeleteParams { preconditions, ..DeleteParams::default() };
                let said = api.delete(key, &how).await?;
                let uid = said.right().and_then(|status| status.details).map(|about| about.uid);
                Answer::Deleted(uid.unwrap_or_default())
            }
            Self::Get => Answer::Told(Told::Got(api.get_opt(key).await?.as_ref().map(entry))),
            Self::List(freshness) => {
                let ours = ListParams::default().labels(LABEL);
                let list = match freshness {
                    Freshness::Newest => api.list(&ours).await?,
                    Freshness::Any => api.list(&ours.match_any()).await?,
                };
                let entries = list.items.iter().map(|map| {
                    let (revision, value) = entry(map);
                    (map.metadata.name.clone().unwrap_or_default(), revision, value)
                });
                let entries = entries.collect();
                let revision = list.metadata.resource_version.as_deref().map_or(0, number_in);
                Answer::Told(Told::Read { revision, entries })
            }
        })
    }

    /// What an error says of the call's effect; an error of its own if nobody
    /// should get that answer.
    fn refused(self, error: kube::Error) -> Result<Told, String> {
        let kube::Error::Api(status) = error else {
            // The connection broke, before or after the request arrived.
            return Ok(Told::Nothing);
        };
        match (status.code, self) {
            (409, Self::Create | Self::Replace(Some(_)) | Self::Delete(Some(_)))
            | (404, Self::Replace(_) | Self::Patch | Self::Delete(_)) => Ok(Told::Refused),
            // The server gave up among others who write the same key.
            (409, Self::Replace(None) | Self::Patch | Self::Delete(None)) => Ok(Told::Nothing),
            (429 | 500.., _) => Ok(Told::Nothing),
            _ => Err(format!("{self:?} is answered {status:?}")),
        }
    }
}

/// A ConfigMap that names the call that wrote it.
fn object(key: &str, number: usize, seen: Option<u64>) -> ConfigMap {
    let (label, value) = LABEL.split_once('=').unwrap_or_default();
    // Padding makes the log grow, so that full disks and snapshots come in good time.
    let data = [("call", number.to_string()), ("padding", "x".repeat(10_000))];
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(key.to_owned()),
            labels: Some(BTreeMap::from([(label.to_owned(), value.to_owned())])),
            resource_version: seen.map(|seen| seen.to_string()),
            ..ObjectMeta::default()
        },
        data: Some(data.map(|(name, value)| (name.to_owned(), value)).into()),
        ..ConfigMap::default()
    }
}

fn number_in(text: &str) -> u64 {
    text.parse().expect("revisions are numbers")
}

fn revision(metadata: &ObjectMeta) -> u64 {
    metadata.resource_version.as_deref().map_or(0, number_in)
}

/// When an object was written, and the call that it names.
fn entry(map: &ConfigMap) -> (u64, Vec<u8>) {
    let call = map.data.as_ref().and_then(|data| data.get("call"));
    (revision(&map.metadata), call.cloned().unwrap_or_default().into_bytes())
}

/// Somebody who calls, waits for the answer and calls again.
struct Caller {
    apis: Vec<Api<ConfigMap>>,
    recorder: Arc<Recorder>,
    rng: StdRng,
    /// When each key was last written, as far as it has heard.
    modified: BTreeMap<String, u64>,
}

impl Caller {
    /// Calls what `choose` says until told to stop.
    async fn run(mut self, stop: Arc<AtomicBool>, choose: fn(&mut StdRng, Option<u64>) -> Call) {
        while !stop.load(Ordering::Relaxed) {
            let key = KEYS[self.rng.random_range(0..KEYS.len())];
            let call = choose(&mut self.rng, self.modified.get(key).copied());
            self.call(call, key).await;
            // Leaves something of the machine to the masters.
            sleep(Duration::from_millis(self.rng.random_range(1..10))).await;
        }
    }

    /// Calls until one call is answered; what it showed.
    async fn insist(&mut self, call: Call, key: impl Fn(usize) -> String) -> Result<u64, String> {
        let deadline = Instant::now() + CONVERGENCE;
        for attempt in 0.. {
            if let Some(revision) = self.call(call, &key(attempt)).await {
                return Ok(revision);
            }
            if Instant::now() > deadline {
                break;
            }
            sleep(PAUSE).await;
        }
        Err(format!("{call:?} was not answered within {CONVERGENCE:?}"))
    }

    /// One call of a key, or of all keys; the revision that the answer showed.
    async fn call(&mut self, call: Call, key: &str) -> Option<u64> {
        let number = self.recorder.begin(|number| call.asked(key, number));
        let api = self.apis.choose(&mut self.rng).expect("somebody to ask").clone();
        let answer = match timeout(PATIENCE, call.send(&api, key, number)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Answer::Told(call.refused(error).unwrap_or_else(|wrong| {
                self.recorder.wrong(wrong);
                Told::Nothing
            })),
            Err(_) => Answer::Told(Told::Nothing),
        };
        self.hear(key, &answer);
        let shown = match &answer {
            Answer::Told(Told::Written { revision, .. } | Told::Read { revision, .. }) => {
                Some(*revision)
            }
            _ => None,
        };
        self.recorder.answer(number, answer);
        shown
    }

    fn hear(&mut self, key: &str, answer: &Answer) {
        match answer {
            Answer::Told(Told::Written { revision, .. } | Told::Got(Some((revision, _)))) => {
                self.modified.insert(key.to_owned(), *revision);
            }
            Answer::Deleted(_) | Answer::Told(Told::Got(None)) => drop(self.modified.remove(key)),
            Answer::Told(Told::Read { entries, .. }) => {
                let entries = entries.iter().map(|(key, revision, _)| (key.clone(), *revision));
                self.modified = entries.collect();
            }
            Answer::Told(_) => {}
        }
    }
}

/// Where all watches have to arrive in the end, and by when.
#[derive(Debug, Clone, Copy)]
struct Goal {
    revision: u64,
    deadline: Instant,
}

/// Somebody who follows all our objects, at whichever master is there.
struct Watcher {
    apis: Vec<Api<ConfigMap>>,
    recorder: Arc<Recorder>,
    /// What was told since the last time that a stretch was complete.
    stretch: Stretch,
    goal: watch::Receiver<Option<Goal>>,
    lists_again: bool,
    /// Why the last watch ended.
    complaint: String,
}

impl Watcher {
    /// Watches until the goal is reached.
    async fn run(mut self) -> Result<(), String> {
        let apis = self.apis.clone();
        for api in apis.iter().cycle() {
            if self.follow(api).await? {
                return Ok(());
            }
            sleep(PAUSE).await;
        }
        Err("there is nobody to ask".into())
    }

    /// One watch, until it ends; whether the goal is reached.
    async fn follow(&mut self, api: &Api<ConfigMap>) -> Result<bool, String> {
        let params = WatchParams::default().labels(LABEL);
        let from = self.stretch.to.to_string();
        let stream = match timeout(PATIENCE, api.watch(&params, &from)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return self.ended(error.to_string()),
            Err(_) => return self.ended("no answer".into()),
        };
        pin_mut!(stream);
        loop {
            if self.is_there()? {
                self.complete(self.stretch.to);
                return Ok(true);
            }
            let event = match timeout(PATIENCE, stream.next()).await {
                Ok(Some(Ok(event))) => event,
                Ok(Some(Err(error))) => return self.ended(error.to_string()),
                Ok(None) => return self.ended("it ended".into()),
                // Who has the choice does not wait for a master that may be gone.
                Err(_) if self.apis.len() > 1 => return self.ended("silence".into()),
                Err(_) => continue,
            };
            match event {
                WatchEvent::Added(map) | WatchEvent::Modified(map) => self.tell(&map, false),
                WatchEvent::Deleted(map) => self.tell(&map, true),
                WatchEvent::Bookmark(mark) => {
                    self.complete(number_in(&mark.metadata.resource_version));
                }
                WatchEvent::Error(status) if status.code == 410 && self.lists_again => {
                    self.complete(self.stretch.to);
                    return self.list_again(api).await;
                }
                WatchEvent::Error(status) => return self.ended(format!("{status:?}")),
            }
        }
    }

    /// Leaves out what happened since, as others have seen it.
    async fn list_again(&mut self, api: &Api<ConfigMap>) -> Result<bool, String> {
        let list = Call::List(Freshness::Newest);
        let number = self.recorder.begin(|number| list.asked("", number));
        let answer = match timeout(PATIENCE, list.send(api, "", number)).await {
            Ok(Ok(answer)) => answer,
            _ => Answer::Told(Told::Nothing),
        };
        if let Answer::Told(Told::Read { revision, .. }) = &answer {
            println!("        a watch is too old at {}, goes on at {revision}", self.stretch.to);
            self.stretch = Stretch { after: *revision, to: *revision, told: Vec::new() };
        }
        self.recorder.answer(number, answer);
        self.ended("the list did not help".into())
    }

    fn tell(&mut self, map: &ConfigMap, deleted: bool) {
        let (revision, value) = entry(map);
        let change = Change {
            key: map.metadata.name.clone().unwrap_or_default(),
            value: (!deleted).then_some(value),
        };
        self.stretch.told.push((revision, change.clone()));
        self.stretch.to = self.stretch.to.max(revision);
        let uid = map.metadata.uid.clone().filter(|_| deleted);
        self.recorder.watched(revision, change, uid);
    }

    /// Everything up to `to` was told.
    fn complete(&mut self, to: u64) {
        let next = Stretch { after: to, to, told: Vec::new() };
        self.recorder.stretch(Stretch { to, ..std::mem::replace(&mut self.stretch, next) });
    }

    /// The watch is over; the next one goes on where this one was.
    fn ended(&mut self, why: String) -> Result<bool, String> {
        self.complaint = why;
        self.complete(self.stretch.to);
        self.is_there()
    }

    fn is_there(&self) -> Result<bool, String> {
        let Some(goal) = *self.goal.borrow() else { return Ok(false) };
        if self.stretch.to >= goal.revision {
            return Ok(true);
        }
        if Instant::now() < goal.deadline {
            return Ok(false);
        }
        let Self { stretch, complaint, .. } = self;
        Err(format!("a watch stays at {} of {}: {complaint}", stretch.to, goal.revision))
    }
}

/// Everybody.
pub(crate) struct People {
    seats: Vec<Seat>,
    recorder: Arc<Recorder>,
    stop: Arc<AtomicBool>,
    goal: watch::Sender<Option<Goal>>,
    callers: Vec<JoinHandle<()>>,
    watchers: Vec<JoinHandle<Result<(), String>>>,
}

impl People {
    /// Seats a caller and a watcher on each seat. None of our objects is there
    /// yet; watches begin at revision `from`.
    pub(crate) fn start(seats: &[Seat], from: u64, seed: u64) -> Self {
        let recorder = Arc::new(Recorder::default());
        let stop = Arc::new(AtomicBool::new(false));
        let (goal, goal_rx) = watch::channel(None);
        let callers = seats.iter().zip(seed..).map(|(seat, seed)| {
            let (recorder, stop) = (recorder.clone(), stop.clone());
            seat.take(move |apis| caller(apis, recorder, seed).run(stop, Call::choose))
        });
        let watchers = seats.iter().map(|seat| {
            let (recorder, goal) = (recorder.clone(), goal_rx.clone());
            let stretch = Stretch { after: from, to: from, told: Vec::new() };
            let lists_again = seat.lists_again;
            seat.take(move |apis| {
                let complaint = String::new();
                Watcher { apis, recorder, stretch, goal, lists_again, complaint }.run()
            })
        });
        let (callers, watchers) = (callers.collect(), watchers.collect());
        Self { seats: seats.to_vec(), recorder, stop, goal, callers, watchers }
    }

    /// Seats somebody who takes whatever the master has for the newest state,
    /// which it need not be.
    pub(crate) fn seat_a_believer(&mut self, seat: &Seat) {
        let (recorder, stop) = (self.recorder.clone(), self.stop.clone());
        let believe = |_: &mut StdRng, _| Call::List(Freshness::Any);
        self.callers.push(seat.take(move |apis| caller(apis, recorder, 0).run(stop, believe)));
    }

    /// Calls that were told of their effect so far.
    pub(crate) fn acknowledged(&self) -> usize {
        self.recorder.acknowledged()
    }

    /// Ends it, everything being mended: each seat has to get a last write and
    /// a last read answered, every watch has to arrive there, and all that was
    /// seen must have been possible.
    pub(crate) fn finish(self) -> Result<Summary, String> {
        self.stop.store(true, Ordering::Relaxed);
        for caller in self.callers {
            caller.join().map_err(|_| "a caller panicked")?;
        }
        let last: Vec<_> = (self.seats.iter().enumerate())
            .map(|(number, seat)| {
                let recorder = self.recorder.clone();
                seat.take(move |apis| async move {
                    let mut caller = caller(apis, recorder, number as u64);
                    let key = |attempt| format!("last-{number}-{attempt}");
                    caller.insist(Call::Create, key).await?;
                    caller.insist(Call::List(Freshness::Newest), |_| String::new()).await
                })
            })
            .collect();
        let mut revision = 0;
        for seat in last {
            revision = revision.max(seat.join().map_err(|_| "a last caller panicked")??);
        }
        // An event at or after the goal, which others' changes may have moved
        // beyond our last one.
        let recorder = self.recorder.clone();
        let last = self.seats[0].take(move |apis| async move {
            caller(apis, recorder, 0).insist(Call::Create, |attempt| format!("end-{attempt}")).await
        });
        let end = last.join().map_err(|_| "the last caller panicked")??;
        assert!(end > revision, "{end} comes after {revision}");
        let deadline = Instant::now() + CONVERGENCE;
        self.goal.send_replace(Some(Goal { revision: end, deadline }));
        for watcher in self.watchers {
            watcher.join().map_err(|_| "a watcher panicked")??;
        }
        let recorder = Arc::into_inner(self.recorder).ok_or("somebody still records")?;
        recorder.check()
    }
}

fn caller(apis: Vec<Api<ConfigMap>>, recorder: Arc<Recorder>, seed: u64) -> Caller {
    Caller { apis, recorder, rng: StdRng::seed_from_u64(seed), modified: BTreeMap::new() }
}
