//! A group in a simulated world: its clock, its network, its disks, the people
//! who use it, and what goes wrong.
//!
//! One queue of events in order of time; whoever handles an event adds those
//! that follow from it. Everything that looks like chance comes from the seed,
//! so the same seed is the same run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::callers::{Caller, Watcher};
use super::disk::{Disk, Opened, Part, SimKeeper, SimLog};
use super::history::{History, Told};
use super::oracle::Oracle;
use super::plan::Plan;
use super::planted::{Fault, is_planted};
use crate::core::{Core, CoreParts, Done, Outside, TICK, Ticket};
use crate::members::{Change, Contact, Members};
use crate::sealing::Sealer;
use crate::types::{KeyRange, StoreError};
use crate::view::Shared;
use crate::wire::peer::PeerMessage;

/// Ticks that a call waits for the group.
const PATIENCE: u64 = 30;

/// Milliseconds between two ticks of a sound clock.
const TICK_MS: u64 = TICK.as_millis() as u64;

/// Milliseconds after the faults within which the group has to work again.
const RECOVERY_MS: u64 = 20_000;

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

    fn trouble(&mut self, trouble: Trouble) -> Result<(), String> {
        let living = self.living();
        let Some(id) = self.pick(&living) else { return Ok(()) };
        match trouble {
            Trouble::Crash => {
                self.crash(id);
                self.damage(id);
                self.after(4_000, Happening::Restart { member: id });
            }
            Trouble::Pause => {
                // From a hiccup to longer than an election.
                let until = self.now + self.rng.random_range(50..4_000);
                if let Some(member) = self.members.get_mut(&id) {
                    member.paused_until = until;
                }
            }
            Trouble::Partition => {
                let ids: Vec<u64> = self.members.keys().copied().collect();
                let inside: Vec<bool> = ids.iter().map(|_| self.rng.random_bool(0.5)).collect();
                let both_ways = self.rng.random_bool(0.6);
                let mut cut = Vec::new();
                for (a, a_inside) in ids.iter().zip(&inside) {
                    for (b, b_inside) in ids.iter().zip(&inside) {
                        if *a_inside && !*b_inside {
                            cut.push((*a, *b));
                            if both_ways {
                                cut.push((*b, *a));
                            }
                        }
                    }
                }
                self.cut.extend(&cut);
                self.after(5_000, Happening::Mend { cut });
            }
            Trouble::FullDisk => {
                if let Some(member) = self.members.get(&id) {
                    member.disk.set_full(true);
                }
                self.after(3_000, Happening::Room { member: id });
            }
            Trouble::Membership => return self.change_members(id),
        }
        Ok(())
    }

    /// Something on the disk of a crashed member may be damaged. Only a
    /// minority may lose its disk for good: nothing protects against more.
    fn damage(&mut self, id: u64) {
        if !self.rng.random_bool(self.plan.damage) {
            return;
        }
        let part = [Part::Tree, Part::Snapshot, Part::Both, Part::Log];
        let part = part[self.rng.random_range(0..part.len())];
        let lost = self.members.values().filter(|member| member.ended).count();
        let can_lose = self.plan.membership == 0.0 && (lost as u64 + 1) * 2 < self.plan.members;
        let Some(member) = self.members.get_mut(&id) else { return };
        if member.disk.survives(part) {
            member.disk.damage(part);
        } else if can_lose {
            // It would refuse to start and say so.
            member.ended = true;
        }
    }

    fn change_members(&mut self, through: u64) -> Result<(), String> {
        let Some(life) = self.members.get(&through).and_then(|member| member.life.as_ref()) else {
            return Ok(());
        };
        let members = life.shared.view().applied.members.clone();
        let others: Vec<u64> = members.ids();
        let add = members.voters.len() < 3 || self.rng.random_bool(0.4);
        let change = if add && self.members.len() < 7 {
            // It is found under the number that it will get if all goes well.
            let contact = Contact { promote: true, ..contact(members.last_id + 1) };
            Change::AddLearner { id: 0, contact }
        } else if members.voters.len() > 1 {
            let Some(id) = self.pick(&others) else { return Ok(()) };
            Change::Remove { id }
        } else {
            return Ok(());
        };
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        self.tickets.insert((through, ticket), Waiting::Membership);
        if let Some(life) = self.members.get_mut(&through).and_then(|member| member.life.as_mut()) {
            life.core.change(Some(ticket), change);
        }
        self.turn(through)
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

    /// The faults are over. The group has to elect, to take writes everywhere
    /// and to agree.
    fn recover(&mut self) -> Result<(), String> {
        self.calm = true;
        self.cut.clear();
        self.queue.retain(|_, happening| {
            !matches!(happening, Happening::Trouble(_) | Happening::Restart { .. })
        });
        let ids: Vec<u64> = self.members.keys().copied().collect();
        for id in &ids {
            if let Some(member) = self.members.get_mut(id) {
                member.disk.calm_down();
                member.paused_until = self.now;
            }
            self.start(*id)?;
        }
        let deadline = self.now + RECOVERY_MS;
        let mut why = String::from("nothing was tried");
        while self.now < deadline {
            self.until(self.now + 500)?;
            match self.works() {
                Ok(()) => return self.settle(),
                Err(reason) => why = reason,
            }
        }
        Err(format!("the group does not recover: {why}\n{}", self.describe()))
    }

    /// A line for each member, for whoever looks for a failure's cause.
    fn describe(&self) -> String {
        let line = |(id, member): (&u64, &Member)| match &member.life {
            None => format!("member {id}: no process, ended: {}\n", member.ended),
            Some(life) => {
                let view = life.shared.view();
                let (leadership, applied) = (*life.shared.leadership_tx.borrow(), &view.applied);
                let (core, published) = (&life.core, view.snapshot.revision());
                format!("member {id}: {leadership:?}, {applied:?}, {published:?}, {core:?}\n")
            }
        };
        let waiting = |((member, _), waiting): (&(u64, Ticket), &Waiting)| match waiting {
            Waiting::Call { call, .. } => {
                let asked = self.history.asked(*call);
                format!("call {call} waits at member {member}: {asked:?}\n")
            }
            Waiting::Membership => format!("a change waits at member {member}\n"),
        };
        let waiting = self.tickets.iter().map(waiting);
        self.members.iter().map(line).chain(waiting).collect()
    }

    /// Whether there is a leader whom all its members follow.
    fn works(&self) -> Result<(), String> {
        let lives = || self.members.iter().filter_map(|(id, m)| Some((*id, m.life.as_ref()?)));
        let leaders: Vec<_> =
            lives().filter(|(_, life)| life.shared.leadership_tx.borrow().is_leader).collect();
        let [(leader, life)] = leaders[..] else {
            return Err(format!("{} members lead", leaders.len()));
        };
        let members = life.shared.view().applied.members.clone();
        for (id, other) in lives().filter(|(id, _)| members.contains(*id)) {
            if other.shared.leadership_tx.borrow().leader != Some(leader) {
                return Err(format!("member {id} does not follow {leader}"));
            }
        }
        Ok(())
    }

    /// Calls through every member, then silence: all agree in the end.
    fn settle(&mut self) -> Result<(), String> {
        let before = self.history.acknowledged();
        self.until(self.now + 5_000)?;
        if self.history.acknowledged() == before {
            return Err(format!("the mended group takes no writes\n{}", self.describe()));
        }
        self.queue.retain(|_, happening| !matches!(happening, Happening::Call { .. }));
        self.callers.iter_mut().for_each(|caller| caller.rests = true);
        self.until(self.now + 6_000)?;
        let newest = self.history.newest();
        let Some(leader) = self.leader() else {
            return Err("the mended group has lost its leader again".into());
        };
        let (members, position, digest) = {
            let view = leader.shared.view();
            (view.applied.members.clone(), view.applied.position, view.digest)
        };
        for (id, member) in self.members.iter().filter(|(id, _)| members.contains(**id)) {
            let Some(life) = &member.life else { continue };
            let view = life.shared.view();
            if (view.applied.position, view.digest) != (position, digest) {
                return Err(format!(
                    "member {id} is at {:?}, the leader at {position:?}",
                    view.applied.position
                ));
            }
            if view.snapshot.revision().0 != newest {
                return Err(format!(
                    "member {id} ends at revision {}, {newest} was published",
                    view.snapshot.revision()
                ));
            }
        }
        Ok(())
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
