//! After the faults: whether a group that was mended works again.

use super::{Happening, Member, Ticket, Waiting, World};
use crate::sim::callers::Mood;

/// Milliseconds after the faults within which the group has to work again.
const RECOVERY_MS: u64 = 20_000;

/// Milliseconds that a call from before may go on waiting: its member may be
/// paused for a while still, and then has its patience.
const OLD_CALLS_MS: u64 = 10_000;

impl World {
    /// The faults are over. The group has to elect, to take writes everywhere
    /// and to agree.
    pub(super) fn recover(&mut self) -> Result<(), String> {
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
        // Calls that were hit by the faults end first: a lone caller makes no
        // other meanwhile.
        let old: Vec<_> = self.tickets.keys().copied().collect();
        let deadline = self.now + OLD_CALLS_MS;
        while old.iter().any(|ticket| self.tickets.contains_key(ticket)) {
            if self.now > deadline {
                return Err(format!("a call is never answered\n{}", self.describe()));
            }
            self.until(self.now + 100)?;
        }
        self.callers.iter_mut().for_each(|caller| caller.mood = Mood::Puts);
        let before = self.history.acknowledged();
        self.until(self.now + 5_000)?;
        if self.history.acknowledged() == before {
            return Err(format!("the mended group takes no writes\n{}", self.describe()));
        }
        self.queue.retain(|_, happening| !matches!(happening, Happening::Call { .. }));
        self.callers.iter_mut().for_each(|caller| caller.mood = Mood::Reads);
        self.until(self.now + 6_000)?;
        let newest = self.history.newest();
        let Some(leader) = self.leader() else {
            return Err("the mended group has lost its leader again".into());
        };
        let (members, position, digest) = {
            let view = leader.shared.view();
            (view.applied.members.clone(), view.applied.position, view.digest)
        };
        for (id, member) in &self.members {
            let Some(life) = &member.life else { continue };
            let view = life.shared.view();
            if !members.contains(*id) {
                // Who knows none of those that are left has nobody to ask.
                let knows = view.applied.members.ids().iter().any(|id| members.contains(*id));
                if knows {
                    return Err(format!("member {id} was removed and is not told"));
                }
                continue;
            }
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
