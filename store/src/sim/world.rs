//! A group in a simulated world: its clock, its network, its disks, the people
//! who use it, and what goes wrong.
//!
//! One queue of events in order of time; whoever handles an event adds those
//! that follow from it. Everything that looks like chance comes from the seed,
//! so the same seed is the same run.
//!
//! `process` is a member that runs, `calls` what is asked of it, `trouble` what
//! goes wrong, `recovery` what must work again afterwards.

mod calls;
mod process;
mod recovery;
mod trouble;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::callers::{Caller, Watcher};
use super::oracle::Oracle;
use super::plan::Plan;
use crate::checker::History;
use crate::core::{TICK, Ticket};
use crate::members::Members;
use crate::sealing::Sealer;
use crate::wire::peer::PeerMessage;
use calls::Waiting;
use process::{Life, Member, contact};

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
}
