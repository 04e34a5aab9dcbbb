//! A group in a simulated world: its clock, its network, its disks, the people
//! who use it, and what goes wrong.
//!
//! One queue of events in order of time; whoever handles an event adds those
//! that follow from it. Everything that looks like chance comes from the seed,
//! so the same seed is the same run.

mod recovery;
mod trouble;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::callers::{Caller, Watcher};
use super::disk::{Disk, Opened, SimKeeper, SimLog};
use super::oracle::Oracle;
use super::plan::Plan;
use super::planted::{Fault, is_planted};
use crate::checker::{History, Told};
use crate::core::{Core, CoreParts, Done, Outside, TICK, Ticket};
use crate::members::{Contact, Members};
use crate::sealing::Sealer;
use crate::types::{KeyRange, StoreError};
use crate::view::Shared;
use crate::wire::peer::PeerMessage;

/// Ticks that a call waits for the group.
const PATIENCE: u64 = 30;

/// Milliseconds between two ticks of a sound clock.
const TICK_MS: u64 = TICK.as_millis() as u64;

/// Something that happens at a time.
enum Happening {
    Tick { member: u64, incarnation: u64 },
    Arrive { from: u64, to: u64, message: Vec<u8> },
    Call { caller: usize },
    Look { watcher: usize },
    Trouble(Trouble),
    Restart { member: u64 },
    Mend { cut: Vec<(u64, u64)> },
    Room { member: u64 },
}

/// Kinds of trouble.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    Crash,
    Pause,
    Partition,
    FullDisk,
    Membership,
}

/// One member: its disk, and its process while it lives.
struct Member {
    disk: Disk,
    life: Option<Life>,
    incarnation: u64,
    /// It does nothing until then.
    paused_until: u64,
    /// Milliseconds between its ticks: clocks differ.
    tick: u64,
    /// Its disk is lost, or it left the group: it never starts again.
    ended: bool,
}

/// A process.
pub(super) struct Life {
    core: Core<SimLog>,
    pub(super) shared: Arc<Shared>,
    left: Left,
    /// The newest revision that was looked at.
    published: u64,
}

/// What left a process in one turn.
#[derive(Default)]
struct Left {
    now: Duration,
    messages: Vec<(u64, PeerMessage)>,
    answers: Vec<(Ticket, Result<Done, StoreError>)>,
}

impl Outside for Left {
    fn now(&self) -> Duration {
        self.now
    }

    fn send(&mut self, to: u64, message: PeerMessage) {
        self.messages.push((to, message));
    }

    fn answer(&mut self, ticket: Ticket, result: Result<Done, StoreError>) {
        self.answers.push((ticket, result));
    }
}

/// What a ticket stands for.
enum Waiting {
    Call { caller: usize, call: usize },
    Membership,
}

/// The world of one run.
pub(super) struct World {
    plan: Plan,
    rng: StdRng,
    now: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    scheduled: u64,
    members: BTreeMap<u64, Member>,
    cut: BTreeSet<(u64, u64)>,
    calm: bool,
    sealer: Arc<Sealer>,
    next_run: u64,
    tickets: BTreeMap<(u64, Ticket), Waiting>,
    next_ticket: Ticket,
    callers: Vec<Caller>,
    watchers: Vec<Watcher>,
    history: History,
    oracle: Oracle,
}

/// What a run came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) acknowledged: usize,
    pub(super) revision: u64,
    pub(super) watched: usize,
    pub(super) happenings: u64,
}

impl World {
    pub(super) fn new(plan: Plan) -> Self {
        let mut rng = StdRng::seed_from_u64(plan.seed.wrapping_add(1));
        let ids = 1..=plan.members;
        let members = Members {
            voters: ids.clone().collect(),
            last_id: plan.members,
            contacts: ids.clone().map(|id| (id, contact(id))).collect(),
            ..Members::default()
        };
        let members =
            ids.map(|id| (id, Member::new(&mut rng, plan.failpoint, Some(&members)))).collect();
        let callers = (0..plan.clients).map(|_| Caller::default()).collect();
        let prefixes = ["", "a/", "b/"];
        let watchers =
            (0..plan.watchers).map(|at| Watcher::new(prefixes[at % prefixes.len()])).collect();
        Self {
            plan,
            rng,
            now: 0,
            queue: BTreeMap::new(),
            scheduled: 0,
            members,
            cut: BTreeSet::new(),
            calm: false,
            sealer: Arc::new(Sealer::new(&[3; 32]).expect("a key of the right length")),
            next_run: 0,
            tickets: BTreeMap::new(),
            next_ticket: 0,
            callers,
            watchers,
            history: History::default(),
            oracle: Oracle::default(),
        }
    }

    /// The whole run.
    pub(super) fn run(mut self) -> Result<Summary, String> {
        for id in self.members.keys().copied().collect::<Vec<_>>() {
            self.start(id)?;
        }
        for caller in 0..self.callers.len() {
            self.after(200, Happening::Call { caller });
        }
        for watcher in 0..self.watchers.len() {
            self.after(200, Happening::Look { watcher });
        }
        let rates = [
            (self.plan.crashes, Trouble::Crash),
            (self.plan.pauses, Trouble::Pause),
            (self.plan.partitions, Trouble::Partition),
            (self.plan.full_disks, Trouble::FullDisk),
            (self.plan.membership, Trouble::Membership),
        ];
        for (rate, trouble) in rates {
            let count = rate * self.plan.duration as f64 / 1000.0;
            for _ in 0..count.round() as u64 {
                let at = self.rng.random_range(500..self.plan.duration);
                self.at(at, Happening::Trouble(trouble));
            }
        }
        let end = self.plan.duration;
        self.until(end)?;
        self.recover()?;
        self.history.check()?;
        Ok(Summary {
            acknowledged: self.history.acknowledged(),
            revision: self.history.newest(),
            watched: self.watchers.iter().map(|watcher| watcher.received).sum(),
            happenings: self.scheduled,
        })
    }

    fn until(&mut self, end: u64) -> Result<(), String> {
        while let Some(entry) = self.queue.first_entry()
            && entry.key().0 <= end
        {
            self.now = entry.key().0;
            let happening = entry.remove();
            self.handle(happening)?;
        }
        self.now = end;
        Ok(())
    }

    fn at(&mut self, time: u64, happening: Happening) {
        self.scheduled += 1;
        self.queue.insert((time, self.scheduled), happening);
    }

    /// Within the next `most` milliseconds.
    fn after(&mut self, most: u64, happening: Happening) {
        let time = self.now + self.rng.random_range(1..=most.max(1));
        self.at(time, happening);
    }

    fn handle(&mut self, happening: Happening) -> Result<(), String> {
        match happening {
            Happening::Tick { member: id, incarnation } => {
                let Some(member) = self.members.get_mut(&id) else { return Ok(()) };
                if member.incarnation != incarnation {
                    return Ok(());
                }
                let Some(life) = &mut member.life else { return Ok(()) };
                // A paused process gets the ticks that it missed all at once,
                // as one whose clock jumps does.
                let (at, paused) = (self.now + member.tick, member.paused_until);
                if life.core.needs_ticks() {
                    life.core.tick();
                }
                self.at(at.max(paused), Happening::Tick { member: id, incarnation });
                self.turn(id)
            }
            Happening::Arrive { from, to, message } => self.arrive(from, to, message),
            Happening::Call { caller } => self.call(caller),
            Happening::Look { watcher } => {
                self.after(300, Happening::Look { watcher });
                let living = self.living();
                let Some(id) = self.pick(&living) else { return Ok(()) };
                let shared = |id: u64| {
                    let life = self.members.get(&id)?.life.as_ref()?;
                    Some(life.shared.clone())
                };
                self.watchers[watcher].look(id, shared, &self.history)
            }
            Happening::Trouble(trouble) => self.trouble(trouble),
            Happening::Restart { member } => self.start(member),
            Happening::Mend { cut } => {
                cut.iter().for_each(|pair| {
                    self.cut.remove(pair);
                });
                Ok(())
            }
            Happening::Room { member } => {
                if let Some(member) = self.members.get(&member) {
                    member.disk.set_full(false);
                }
                Ok(())
            }
        }
    }

    fn living(&self) -> Vec<u64> {
        let living = self
            .members
            .iter()
            .filter(|(_, member)| member.life.is_some() && member.paused_until <= self.now);
        living.map(|(id, _)| *id).collect()
    }

    fn leader(&self) -> Option<&Life> {
        let mut lives = self.members.values().filter_map(|member| member.life.as_ref());
        lives.find(|life| life.shared.leadership_tx.borrow().is_leader)
    }

    fn pick(&mut self, ids: &[u64]) -> Option<u64> {
        (!ids.is_empty()).then(|| ids[self.rng.random_range(0..ids.len())])
    }

    /// A member's process starts from what is on its disk.
    fn start(&mut self, id: u64) -> Result<(), String> {
        let seed = self.rng.random();
        self.next_run += 1;
        let Some(member) = self.members.get_mut(&id) else { return Ok(()) };
        if member.life.is_some() || member.ended {
            return Ok(());
        }
        let opened = member.disk.open(self.plan.history_bytes);
        let Opened { log, machine, applied, shared } =
            opened.map_err(|why| format!("member {id} refuses its own disk: {why}"))?;
        let keeper = SimKeeper::new(member.disk.clone(), shared.clone(), self.plan.save_every);
        let published = machine.revision().0;
        let core = Core::new(CoreParts {
            member: id,
            run: self.next_run,
            seed,
            patience: PATIENCE,
            contact: Some(contact(id)),
            log,
            machine,
            applied,
            keeper: Box::new(keeper),
            kept_log_bytes: self.plan.kept_log_bytes,
            sealer: self.sealer.clone(),
            shared: shared.clone(),
        });
        let core = core.map_err(|error| format!("member {id} does not start: {error}"))?;
        member.incarnation += 1;
        member.life = Some(Life { core, shared, left: Left::default(), published });
        let incarnation = member.incarnation;
        self.after(TICK_MS, Happening::Tick { member: id, incarnation });
        let Some(life) = self.members.get_mut(&id).and_then(|member| member.life.as_mut()) else {
            return Ok(());
        };
        let started = life.core.start(&mut life.left);
        self.came_of(id, started)
    }

    /// Lets a member do what it can.
    fn turn(&mut self, id: u64) -> Result<(), String> {
        let now = Duration::from_millis(self.now);
        let Some(life) = self.members.get_mut(&id).and_then(|member| member.life.as_mut()) else {
            return Ok(());
        };
        life.left.now = now;
        let turned = life.core.turn(&mut life.left);
        self.came_of(id, turned)
    }

    /// Takes what a turn brought: what is published, messages, answers; and the
    /// end of the process, if that is what it brought.
    fn came_of(&mut self, id: u64, turned: Result<(), StoreError>) -> Result<(), String> {
        self.observe(id)?;
        let Some(life) = self.members.get_mut(&id).and_then(|member| member.life.as_mut()) else {
            return Ok(());
        };
        let left = std::mem::take(&mut life.left);
        for (to, message) in left.messages {
            self.oracle.sends(id, &message)?;
            self.send(id, to, message.encode());
        }
        for (ticket, answer) in left.answers {
            self.answered(id, ticket, answer)?;
        }
        match turned {
            Ok(()) => Ok(()),
            Err(StoreError::Removed) => {
                self.crash(id);
                if let Some(member) = self.members.get_mut(&id) {
                    member.ended = true;
                }
                Ok(())
            }
            Err(StoreError::Disk(_)) => {
                self.crash(id);
                self.after(3_000, Happening::Restart { member: id });
                Ok(())
            }
            Err(other) => Err(format!("member {id} ends with {other}")),
        }
    }

    /// Compares what a member has published with what all others have.
    fn observe(&mut self, id: u64) -> Result<(), String> {
        let Some(life) = self.members.get_mut(&id).and_then(|member| member.life.as_mut()) else {
            return Ok(());
        };
        let leadership = *life.shared.leadership_tx.borrow();
        self.oracle.leads(id, leadership)?;
        let mut view = life.shared.view_mut();
        self.oracle.applied(id, view.applied.position.index, view.digest)?;
        let from = life.published.max(view.history.floor().0);
        let events: Vec<_> = (view.history.after(crate::types::Revision(from)))
            .map(|event| (**event).clone())
            .collect();
        life.published = view.snapshot.revision().0;
        if is_planted(Fault::LoseWatchEvent) && view.history.len() > 5 {
            view.history.lose_oldest();
        }
        drop(view);
        self.history.publish(&events).map_err(|why| format!("member {id}: {why}"))
    }

    fn send(&mut self, from: u64, to: u64, message: Vec<u8>) {
        if !self.calm && self.rng.random_bool(self.plan.loss) {
            return;
        }
        let times = if !self.calm && self.rng.random_bool(self.plan.repeat) { 2 } else { 1 };
        for _ in 0..times {
            // Each copy takes its own time, so that they overtake each other.
            let message = message.clone();
            self.after(self.plan.delay, Happening::Arrive { from, to, message });
        }
    }

    fn arrive(&mut self, from: u64, to: u64, message: Vec<u8>) -> Result<(), String> {
        if self.cut.contains(&(from, to)) {
            return Ok(());
        }
        let Some(member) = self.members.get_mut(&to) else { return Ok(()) };
        if member.paused_until > self.now {
            let until = member.paused_until;
            self.at(until, Happening::Arrive { from, to, message });
            return Ok(());
        }
        let Some(life) = &mut member.life else { return Ok(()) };
        let message = PeerMessage::decode(&message).map_err(|error| error.to_string())?;
        life.core.step(from, message);
        self.turn(to)
    }

    /// The process is gone, whatever it was doing.
    fn crash(&mut self, id: u64) {
        let Some(member) = self.members.get_mut(&id) else { return };
        member.life = None;
        member.disk.lose_power();
        let lost: Vec<_> =
            self.tickets.range((id, 0)..=(id, Ticket::MAX)).map(|(key, _)| *key).collect();
        for key in lost {
            if let Some(Waiting::Call { caller, call }) = self.tickets.remove(&key) {
                self.told(caller, call, Told::Nothing);
            }
        }
    }

    /// Somebody calls.
    fn call(&mut self, caller: usize) -> Result<(), String> {
        let mut living = self.living();
        if self.calm {
            // Who left without hearing of it answers nobody, rightly.
            let group = self.leader().map(|life| life.shared.view().applied.members.clone());
            living.retain(|id| group.as_ref().is_none_or(|members| members.contains(*id)));
        }
        let Some(id) = self.pick(&living) else {
            self.after(200, Happening::Call { caller });
            return Ok(());
        };
        self.ask(caller, id)
    }

    fn ask(&mut self, caller: usize, id: u64) -> Result<(), String> {
        let Some(life) = self.members.get_mut(&id).and_then(|member| member.life.as_mut()) else {
            return Ok(());
        };
        let leadership = *life.shared.leadership_tx.borrow();
        let (call, txn) = self.callers[caller].begin(&mut self.rng, &mut self.history, leadership);
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        self.tickets.insert((id, ticket), Waiting::Call { caller, call });
        match txn {
            Some(txn) => {
                let txn = crate::wire::encode_txn(&txn, &self.sealer)
                    .map_err(|error| error.to_string())?;
                life.core.propose(vec![(ticket, txn)]);
            }
            None if is_planted(Fault::SkipReadIndex) => {
                life.left.answers.push((ticket, Ok(Done::Readable)));
            }
            // As `Store::snapshot_latest`: a sole leader need not ask.
            None => match life.shared.sole_leaders() {
                Ok(Some(_)) => life.left.answers.push((ticket, Ok(Done::Readable))),
                Ok(None) => life.core.read(vec![ticket]),
                Err(error) => life.left.answers.push((ticket, Err(error))),
            },
        }
        self.turn(id)
    }

    fn answered(
        &mut self,
        id: u64,
        ticket: Ticket,
        answer: Result<Done, StoreError>,
    ) -> Result<(), String> {
        let Some(waiting) = self.tickets.remove(&(id, ticket)) else {
            return Err(format!("member {id} answers ticket {ticket} twice"));
        };
        let (caller, call) = match waiting {
            Waiting::Call { caller, call } => (caller, call),
            Waiting::Membership => {
                if let Ok(Done::Changed(new)) = answer
                    && !self.members.contains_key(&new)
                {
                    let member = Member::new(&mut self.rng, self.plan.failpoint, None);
                    self.members.insert(new, member);
                    self.start(new)?;
                }
                return Ok(());
            }
        };
        let told = match answer {
            Ok(Done::Committed(committed)) => Told::Written {
                changed: !(committed.entries.is_empty() && committed.deleted.is_empty()),
                revision: committed.revision.0,
            },
            Ok(Done::Readable) => {
                let Some(life) = self.members.get(&id).and_then(|member| member.life.as_ref())
                else {
                    return Ok(());
                };
                let snapshot = life.shared.view().snapshot.clone();
                let entries = snapshot
                    .range(&KeyRange::all())
                    .map(|entry| (entry.key.to_string(), entry.modified.0, entry.value.to_vec()));
                Told::Read { revision: snapshot.revision().0, entries: entries.collect() }
            }
            Err(StoreError::Conflict { key, current }) => Told::Conflict {
                key: key.to_string(),
                modified: current.map(|entry| entry.modified.0),
            },
            Err(StoreError::Deposed { .. }) => Told::Deposed,
            Err(StoreError::Unavailable(_)) => Told::Nothing,
            other => return Err(format!("call {call} is answered {other:?}")),
        };
        self.told(caller, call, told);
        Ok(())
    }

    fn told(&mut self, caller: usize, call: usize, told: Told) {
        self.callers[caller].hear(&told);
        self.history.tell(call, told);
        self.after(250, Happening::Call { caller });
    }
}

impl Member {
    fn new(rng: &mut StdRng, failpoint: f64, members: Option<&Members>) -> Self {
        Self {
            disk: Disk::new(rng.random(), failpoint, members),
            life: None,
            incarnation: 0,
            paused_until: 0,
            tick: rng.random_range(TICK_MS * 9 / 10..=TICK_MS * 11 / 10),
            ended: false,
        }
    }
}

fn contact(id: u64) -> Contact {
    Contact { address: format!("10.0.0.{id}:1"), name: format!("m{id}"), promote: false }
}
