//! What goes wrong: processes, machines, networks, disks, and the group itself
//! changed in the middle of it.

use rand::Rng as _;

use super::{Happening, Trouble, Waiting, World, contact};
use crate::members::{Change, Contact};
use crate::sim::disk::Part;

impl World {
    pub(super) fn trouble(&mut self, trouble: Trouble) -> Result<(), String> {
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
}
