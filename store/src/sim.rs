//! Deterministic simulation: whole groups in a world whose clock, network and
//! disks are made up, where everything goes wrong that can.
//!
//! One seed is one run. It decides how large the group is and what happens to
//! it ([`plan`]): messages lost, late, twice and out of order, partitions in
//! one direction or both, processes killed at any step of any disk operation,
//! paused for longer than an election, disks full or damaged, members added and
//! removed under load ([`world`], [`disk`]). Meanwhile callers write and read,
//! and watchers follow ([`callers`]). Checked is what callers saw
//! ([`checker`](crate::checker): linearizable, watches complete and in order) and what must
//! hold inside ([`oracle`]: one leader a term, no vote twice, no term backwards,
//! equal states at equal entries). In the end the faults stop, and the group
//! has to elect, take writes and agree.
//!
//! `make sim SEEDS=N` runs many; a failure names its seed, and
//! `make sim FROM=SEED SEEDS=1` shows it again. [`planted`] holds bugs that the
//! checks must find.

mod callers;
mod disk;
mod oracle;
mod plan;
pub(crate) mod planted;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use plan::Plan;
use planted::{Fault, plant};
use world::{Summary, World};

/// Seeds that a plain test run tries.
const SEEDS: u64 = 2000;

fn run(seed: u64, planted: Option<Fault>) -> Result<Summary, String> {
    plant(planted);
    // A member that panics has noticed something itself.
    let result = std::panic::catch_unwind(|| World::new(Plan::of(seed)).run());
    plant(None);
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("a member panics: {}", text.unwrap_or("without a word")))
    })
}

/// The first failing seed of a range, tried on all cores.
fn first_failure(
    seeds: std::ops::Range<u64>,
    planted: Option<Fault>,
    tally: &(dyn Fn(&Summary) + Sync),
) -> Option<(u64, String)> {
    let next = AtomicU64::new(seeds.start);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= seeds.end {
                            return None;
                        }
                        match run(seed, planted) {
                            Ok(summary) => tally(&summary),
                            Err(why) => {
                                next.store(seeds.end, Ordering::Relaxed);
                                return Some((seed, why));
                            }
                        }
                    }
                })
            })
            .collect();
        workers.into_iter().filter_map(|w| w.join().expect("a run panicked")).min()
    })
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn no_seed_breaks_a_promise() {
    let (from, count) = (number("SKIFF_SIM_FROM", 0), number("SKIFF_SIM_SEEDS", SEEDS));
    let [writes, watched, happenings] = [const { AtomicU64::new(0) }; 3];
    let tally = |summary: &Summary| {
        writes.fetch_add(summary.acknowledged as u64, Ordering::Relaxed);
        watched.fetch_add(summary.watched as u64, Ordering::Relaxed);
        happenings.fetch_add(summary.happenings, Ordering::Relaxed);
    };
    if let Some((seed, why)) = first_failure(from..from + count, None, &tally) {
        panic!("seed {seed}: {why}\nagain: make sim FROM={seed} SEEDS=1");
    }
    let [writes, watched, happenings] = [writes, watched, happenings].map(AtomicU64::into_inner);
    println!(
        "{count} seeds: {writes} writes acknowledged, {watched} events watched, {happenings} happenings"
    );
    // A world in which nothing works keeps all promises, too. A few seeds, run
    // again one by one, may be quiet ones.
    let busy = writes > 20 * count && watched > 10 * count;
    assert!(busy || count < SEEDS / 10, "too little happened");
}

#[test]
fn planted_bugs_are_found() {
    for (fault, within) in Fault::ALL {
        let found = first_failure(0..within, Some(fault), &|_| {});
        let (seed, why) = found.unwrap_or_else(|| panic!("{fault:?} was not found"));
        println!("{fault:?} is found by seed {seed}: {why}");
    }
}

#[test]
fn a_seed_is_the_same_run_again() {
    for seed in 0..20 {
        assert_eq!(run(seed, None), run(seed, None), "seed {seed}");
    }
}
