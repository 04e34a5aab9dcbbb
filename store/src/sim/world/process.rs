//! Members of the group: their disks, and their processes, which start, take
//! turns and die.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;

use super::calls::Waiting;
use super::{Happening, PATIENCE, TICK_MS, World};
use crate::checker::Told;
use crate::core::{Core, CoreParts, Done, Outside, Ticket};
use crate::members::{Contact, Members};
use crate::sim::disk::{Disk, Opened, SimKeeper, SimLog};
use crate::sim::planted::{Fault, is_planted};
use crate::types::StoreError;
use crate::view::Shared;
use crate::wire::peer::PeerMessage;

/// One member: its disk, and its process while it lives.
pub(super) struct Member {
    pub(super) disk: Disk,
    pub(super) life: Option<Life>,
    pub(super) incarnation: u64,
    /// It does nothing until then.
    pub(super) paused_until: u64,
    /// Milliseconds between its ticks: clocks differ.
    pub(super) tick: u64,
    /// Its disk is lost, or it left the group: it never starts again.
    pub(super) ended: bool,
}

/// A process.
pub(super) struct Life {
    pub(super) core: Core<SimLog>,
    pub(super) shared: Arc<Shared>,
    pub(super) left: Left,
    /// The newest revision that was looked at.
    published: u64,
}

/// What left a process in one turn.
#[derive(Default)]
pub(super) struct Left {
    now: Duration,
    messages: Vec<(u64, PeerMessage)>,
    pub(super) answers: Vec<(Ticket, Result<Done, StoreError>)>,
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

impl Member {
    pub(super) fn new(rng: &mut StdRng, failpoint: f64, members: Option<&Members>) -> Self {
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

impl World {
    /// A member's process starts from what is on its disk.
    pub(super) fn start(&mut self, id: u64) -> Result<(), String> {
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
    pub(super) fn turn(&mut self, id: u64) -> Result<(), String> {
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
    pub(super) fn came_of(
        &mut self,
        id: u64,
        turned: Result<(), StoreError>,
    ) -> Result<(), String> {
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
                self.oracle.leaves(id)?;
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
        self.oracle.belong(&view.applied.members);
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

    /// The process is gone, whatever it was doing.
    pub(super) fn crash(&mut self, id: u64) {
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
}

/// Where a member is found.
pub(super) fn contact(id: u64) -> Contact {
    Contact { address: format!("10.0.0.{id}:1"), name: format!("m{id}"), promote: false }
}
