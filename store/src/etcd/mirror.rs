//! The mirror: every live entry and the history window, kept by one watch.
//!
//! It plays the driver's part: it alone publishes, in the order of revisions.
//! A lost connection costs time and nothing else, because the watch resumes
//! after the last revision seen. When etcd has compacted that one meanwhile,
//! the mirror loads everything anew, and our own watches are told so.
//!
//! Whoever leads also has etcd forget what is older than the history window,
//! as upstream's API server does; marks of when a revision was seen are set by
//! events, so an idle cluster compacts nothing and wakes nobody.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::client::{Client, revision};
use super::grpc::CallError;
use super::lead::{Leader, Seen};
use super::proto::{self, CompactRequest, Nothing, RangeRequest, WatchCreate, WatchRequest};
use super::writer::entry;
use super::{EtcdConfig, end};
use crate::history::History;
use crate::log::Position;
use crate::machine::{Entries, Machine};
use crate::members::Members;
use crate::sealing::Sealer;
use crate::types::{Key, KeyRange, Revision, StoreError};
use crate::view::{Applied, Shared, Snapshot, View};

/// Keys in one answer while everything is loaded.
const PAGE: i64 = 500;

/// How long to wait before etcd is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Revisions marked with their time in one window.
const MARKS: u32 = 10;

/// See the module.
pub(super) struct Mirror {
    client: Client,
    sealer: Arc<Sealer>,
    shared: Arc<Shared>,
    machine: Machine,
    leader: Option<Leader>,
    started: Instant,
    window: Duration,
    /// Revisions and when they were seen, not yet compacted.
    marks: VecDeque<(Duration, Revision)>,
}

/// Why following stops.
enum Stop {
    /// Try again.
    Lost(CallError),
    /// What comes next is no longer in etcd.
    Compacted,
    /// Nothing will help.
    Fatal(StoreError),
}

impl From<CallError> for Stop {
    fn from(error: CallError) -> Self {
        Self::Lost(error)
    }
}

impl Mirror {
    /// Loads everything.
    pub(super) async fn load(
        client: Client,
        sealer: Arc<Sealer>,
        config: &EtcdConfig,
    ) -> Result<Self, StoreError> {
        let (machine, leader) = load(&client, &sealer).await?;
        let at = machine.revision();
        let shared = Arc::new(Shared::new(View {
            snapshot: Snapshot::new(machine.entries().clone(), at),
            digest: machine.digest(),
            bytes: machine.bytes(),
            // No members: nobody here may answer for etcd's quorum.
            applied: Applied {
                position: Position::default(),
                members: Arc::new(Members::default()),
            },
            history: History::new(at, config.history_window, config.history_bytes),
        }));
        Ok(Self {
            client,
            sealer,
            shared,
            machine,
            leader,
            started: Instant::now(),
            window: config.history_window,
            marks: VecDeque::new(),
        })
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Follows etcd until nothing helps.
    pub(super) async fn run(mut self, seen_tx: watch::Sender<Seen>) {
        loop {
            match self.follow(&seen_tx).await {
                Stop::Lost(error) => {
                    tracing::warn!(%error, "lost sight of etcd, will try again");
                    seen_tx.send_modify(|seen| seen.connected = false);
                    self.client.channel.leave().await;
                    tokio::time::sleep(RETRY).await;
                }
                Stop::Compacted => {
                    tracing::warn!("etcd has compacted what was not seen yet, loading anew");
                    match load(&self.client, &self.sealer).await {
                        Ok((machine, leader)) => self.replace(machine, leader),
                        Err(error @ StoreError::Disk(_)) => return self.fail(error),
                        Err(error) => {
                            tracing::warn!(%error, "cannot load from etcd, will try again");
                            tokio::time::sleep(RETRY).await;
                        }
                    }
                }
                Stop::Fatal(error) => return self.fail(error),
            }
        }
    }

    fn fail(&self, error: StoreError) {
        tracing::error!(%error, "the store has failed");
        end(&self.shared, error);
    }

    async fn follow(&mut self, seen_tx: &watch::Sender<Seen>) -> Stop {
        match self.try_follow(seen_tx).await {
            Ok(never) => match never {},
            Err(stop) => stop,
        }
    }

    async fn try_follow(
        &mut self,
        seen_tx: &watch::Sender<Seen>,
    ) -> Result<std::convert::Infallible, Stop> {
        let newest = self.client.newest().await?;
        if newest < self.machine.revision() {
            // Restored from a backup: revisions that we gave out would come
            // again with other content.
            return Err(Stop::Fatal(StoreError::Disk(format!(
                "etcd is at revision {newest} and has been at {} before",
                self.machine.revision()
            ))));
        }
        let create = WatchCreate {
            // From the first possible key to the last.
            key: vec![0],
            range_end: vec![0],
            start_revision: self.machine.revision().0 as i64 + 1,
        };
        let mut answers = self
            .client
            .channel
            .stream::<proto::WatchResponse>(proto::WATCH, &WatchRequest { create: Some(create) })
            .await?;
        loop {
            let answer = answers.next().await?;
            if answer.compact_revision > 0 {
                return Err(Stop::Compacted);
            }
            if answer.canceled {
                return Err(Stop::Lost(CallError::Failed(answer.cancel_reason)));
            }
            self.apply(answer.events).map_err(Stop::Fatal)?;
            let seen = Seen { connected: true, leader: self.leader };
            seen_tx.send_if_modified(|known| std::mem::replace(known, seen) != seen);
            self.compact().await?;
        }
    }

    /// Applies and publishes the events of one answer: whole revisions.
    fn apply(&mut self, events: Vec<proto::Event>) -> Result<(), StoreError> {
        let Some(last) = events.iter().filter_map(|event| event.kv.as_ref()).last() else {
            return Ok(());
        };
        let newest = Revision(last.mod_revision as u64);
        let leader_key = self.client.aside("leader");
        let mut changes = Vec::new();
        for event in events {
            let Some(kv) = event.kv else { continue };
            let deleted = event.kind == proto::DELETE;
            if kv.key == leader_key {
                self.leader = if deleted { None } else { Leader::of(&kv) };
            }
            let Some(key) = self.client.key(&kv.key).map(Key::from) else { continue };
            let at = Revision(kv.mod_revision as u64);
            let now = if deleted { None } else { Some(entry(key.clone(), &kv, &self.sealer)?) };
            changes.extend(self.machine.follow(&key, now, at));
        }
        self.machine.reach(newest);
        self.publish(|history, now| {
            history.push(changes, now);
            history.reach(newest);
        });
        Ok(())
    }

    /// Begins anew with what was loaded; what lies between is not known.
    fn replace(&mut self, machine: Machine, leader: Option<Leader>) {
        self.machine = machine;
        self.leader = leader;
        let at = self.machine.revision();
        self.publish(|history, _| history.drop_through(at));
    }

    fn publish(&self, change: impl FnOnce(&mut History, Duration)) {
        let revision = self.machine.revision();
        {
            let mut view = self.shared.view_mut();
            change(&mut view.history, self.started.elapsed());
            view.snapshot = Snapshot::new(self.machine.entries().clone(), revision);
            view.digest = self.machine.digest();
            view.bytes = self.machine.bytes();
        }
        self.shared
            .newest_tx
            .send_if_modified(|newest| std::mem::replace(newest, revision) != revision);
    }

    /// Has etcd forget what is older than the window, if we lead.
    async fn compact(&mut self) -> Result<(), CallError> {
        let now = self.started.elapsed();
        if self.marks.back().is_none_or(|(at, _)| now - *at >= self.window / MARKS) {
            self.marks.push_back((now, self.machine.revision()));
        }
        let mut past = None;
        while let Some((at, revision)) = self.marks.front().copied()
            && now - at > self.window
        {
            self.marks.pop_front();
            past = Some(revision);
        }
        let Some(past) = past.filter(|_| self.shared.leadership_tx.borrow().is_leader) else {
            return Ok(());
        };
        let request = CompactRequest { revision: past.0 as i64 };
        match self.client.channel.call::<Nothing>(proto::COMPACT, &request).await {
            Ok(_) => tracing::debug!(revision = past.0, "etcd compacted"),
            // Somebody else, or etcd itself, was faster.
            Err(error) => tracing::debug!(%error, "etcd did not compact"),
        }
        Ok(())
    }
}

/// All our entries and the leader, at one revision.
async fn load(client: &Client, sealer: &Sealer) -> Result<(Machine, Option<Leader>), StoreError> {
    let request = RangeRequest { key: client.aside("leader"), ..RangeRequest::default() };
    let answer = client.range(&request).await?;
    let at = revision(answer.header)?;
    let leader = answer.kvs.first().and_then(Leader::of);
    let all = KeyRange::prefix(&format!("{}/", client.prefix));
    let end = all.end.as_deref().unwrap_or("\0").as_bytes().to_vec();
    let mut from = all.start.as_bytes().to_vec();
    let mut entries = Entries::new();
    loop {
        let request =
            RangeRequest { key: from, range_end: end.clone(), limit: PAGE, revision: at.0 as i64 };
        let answer = client.range(&request).await?;
        for kv in &answer.kvs {
            let Some(key) = client.key(&kv.key).map(Key::from) else { continue };
            entries.insert(key.clone(), Arc::new(entry(key, kv, sealer)?));
        }
        match answer.kvs.last() {
            Some(last) if answer.more => {
                from = [&last.key[..], &[0]].concat();
            }
            _ => return Ok((Machine::restore(entries, at), leader)),
        }
    }
}
