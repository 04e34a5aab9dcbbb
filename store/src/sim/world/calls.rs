//! Calls of members' callers, and what becomes of them.

use super::{Happening, Member, World};
use crate::checker::Told;
use crate::core::{Done, Ticket};
use crate::sim::planted::{Fault, is_planted};
use crate::types::{KeyRange, StoreError};

/// What a ticket stands for.
pub(super) enum Waiting {
    Call { caller: usize, call: usize },
    Membership,
}

impl World {
    /// Somebody calls.
    pub(super) fn call(&mut self, caller: usize) -> Result<(), String> {
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

    pub(super) fn answered(
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

    pub(super) fn told(&mut self, caller: usize, call: usize, told: Told) {
        self.callers[caller].hear(&told);
        self.history.tell(call, told);
        self.after(250, Happening::Call { caller });
    }
}
