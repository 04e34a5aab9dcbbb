//! What goes wrong with the masters of a lab, and how it is mended.
//!
//! A seed decides what happens to whom and for how long; when exactly it hits
//! is the machine's business. Most troubles leave a majority, some do not.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use skiff_tests::{Lab, SmallDisk};

/// How long a master with a full disk may go on before the disk is freed
/// again: it needs no new room for a while.
const FULL: Duration = Duration::from_secs(6);

/// One kind of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trouble {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, and SIGCONT when mended.
    Pause,
    /// No packets to or from other machines.
    Cut,
    /// No room on the disk; only for the machine that has a small one.
    FullDisk,
}

/// Troubles of machines, all at once, and how long they last.
#[derive(Debug, PartialEq)]
pub(crate) struct Round {
    pub(crate) troubles: Vec<(Trouble, String)>,
    pub(crate) lasts: Duration,
    /// Peace afterwards.
    pub(crate) rests: Duration,
}

impl Round {
    /// Decides what happens next.
    pub(crate) fn choose(rng: &mut StdRng, machines: &[String], small: &str) -> Self {
        let one = |rng: &mut StdRng| {
            let machine = machines.choose(rng).cloned().unwrap_or_default();
            match rng.random_range(0..10) {
                0..4 => (Trouble::Kill, machine),
                4..6 => (Trouble::Pause, machine),
                6..8 => (Trouble::Cut, machine),
                _ => (Trouble::FullDisk, small.to_owned()),
            }
        };
        let mut troubles = vec![one(rng)];
        match rng.random_range(0..10) {
            // Another one at the same time, of the same machine or of another.
            0..2 => troubles.push(one(rng)),
            // A power cut.
            2 => troubles = machines.iter().map(|name| (Trouble::Kill, name.clone())).collect(),
            _ => {}
        }
        Self {
            troubles,
            lasts: Duration::from_millis(rng.random_range(200..3500)),
            rests: Duration::from_millis(rng.random_range(200..2500)),
        }
    }

    fn of(&self, machine: &str, kinds: &[Trouble]) -> bool {
        self.troubles.iter().any(|(kind, name)| name == machine && kinds.contains(kind))
    }

    /// Lets it happen, and mends it. Panics when a master ends that had no
    /// reason to.
    pub(crate) fn run(&self, lab: &Lab, machines: &[String], disk: &SmallDisk) {
        let cut: Vec<&str> = self.names(Trouble::Cut);
        if !cut.is_empty() {
            lab.lab(&[&["partition"], &cut[..]].concat()).ok();
        }
        for name in self.names(Trouble::Pause) {
            signal(lab, name, Signal::SIGSTOP);
        }
        for name in self.names(Trouble::Kill) {
            lab.lab(&["kill", name]).ok();
        }
        if let Some(name) = self.names(Trouble::FullDisk).first() {
            self.fill(lab, name, disk);
        }
        std::thread::sleep(self.lasts);
        disk.free();
        for name in self.names(Trouble::Pause) {
            signal(lab, name, Signal::SIGCONT);
        }
        lab.lab(&["heal"]).ok();
        for name in machines {
            if self.of(name, &[Trouble::FullDisk]) {
                // It may be about to end, which must not look like a new end.
                lab.lab(&["kill", name]).ok();
            } else if !self.of(name, &[Trouble::Kill]) {
                assert!(pid(lab, name).is_some(), "{name} has ended by itself in {self:?}");
            }
            // Whoever runs is left alone.
            lab.lab(&["start", name]).ok();
        }
        std::thread::sleep(self.rests);
    }

    fn names(&self, kind: Trouble) -> Vec<&str> {
        let of_kind = self.troubles.iter().filter(|(trouble, _)| *trouble == kind);
        of_kind.map(|(_, name)| name.as_str()).collect()
    }

    /// Leaves no room until the master has ended, or for so long.
    fn fill(&self, lab: &Lab, name: &str, disk: &SmallDisk) {
        let begin = Instant::now();
        // A master that another trouble keeps from writing needs no room.
        let writes = !self.of(name, &[Trouble::Kill, Trouble::Pause]);
        while writes && begin.elapsed() < FULL && pid(lab, name).is_some() {
            // It gives up old files and thereby gets room.
            disk.fill();
            std::thread::sleep(Duration::from_millis(50));
        }
        if writes && pid(lab, name).is_none() {
            let log = log(lab, name);
            let last = log.lines().last().unwrap_or_default();
            println!("        {name} ended after {:.1?}: {last}", begin.elapsed());
        }
    }
}

/// What a machine's processes have said so far.
pub(crate) fn log(lab: &Lab, machine: &str) -> String {
    std::fs::read_to_string(lab.path().join(format!("{machine}.log"))).expect("a log")
}

/// The process of a machine, if it runs.
fn pid(lab: &Lab, machine: &str) -> Option<u32> {
    skiff_lab::process::running(&lab.path().join(format!("{machine}.pid")))
}

fn signal(lab: &Lab, machine: &str, signal: Signal) {
    // Another trouble may have ended it.
    if let Some(pid) = pid(lab, machine) {
        kill(Pid::from_raw(pid.cast_signed()), signal).expect("it can be signalled");
    }
}

#[test]
fn a_seed_decides_what_goes_wrong() {
    use rand::SeedableRng as _;
    let machines = ["m1", "m2", "m3"].map(String::from);
    let rounds = |seed| {
        let mut rng = StdRng::seed_from_u64(seed);
        let rounds = std::iter::repeat_with(|| Round::choose(&mut rng, &machines, "m3"));
        rounds.take(200).collect::<Vec<_>>()
    };
    assert_eq!(rounds(1), rounds(1));
    assert_ne!(rounds(1), rounds(2));
    let mut kinds: Vec<_> =
        rounds(1).iter().flat_map(|round| round.troubles.clone()).map(|(kind, _)| kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds, [Trouble::Kill, Trouble::Pause, Trouble::Cut, Trouble::FullDisk]);
    assert!(rounds(1).iter().any(|round| round.troubles.len() == 3), "power cuts happen");
}
