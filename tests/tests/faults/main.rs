//! Real masters in trouble: killed, paused, cut off and without room on the
//! disk, over and over, while people write, read and watch.
//!
//! Nothing that was acknowledged may be lost, no answer may be older than what
//! somebody knew before, and no watch may miss or repeat anything: what people
//! saw is judged by the checker of the store's simulation. In the end the
//! troubles stop, and everybody has to be served.
//!
//! `SKIFF_FAULT_SECONDS`, `SKIFF_FAULT_SEED` and `SKIFF_KILL_ROUNDS` make it
//! longer, or like another run. A seed repeats the troubles, not the instants
//! at which they hit.

#![allow(clippy::unwrap_used)]

mod people;
mod record;
mod trouble;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use people::{NAMESPACE, People, Seat};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use skiff_lab::Plan;
use skiff_tests::{Lab, SmallDisk, eventually, step};
use trouble::Round;

const LIMIT: Duration = Duration::from_secs(60);
/// The port that masters of a lab serve on.
const PORT: u16 = 6443;
/// More than a store of so little state ever needs, as `docs/running.md` says:
/// it is full only when it was filled.
const SMALL_DISK_MEGABYTES: u32 = 160;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// The seed of this run, printed.
fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = number("SKIFF_FAULT_SEED", now.as_millis() as u64 % 1_000_000);
    step(&format!("seed {seed}"));
    seed
}

fn plan(lab: &Lab) -> Plan {
    serde_json::from_slice(&std::fs::read(lab.path().join("lab.json")).unwrap()).unwrap()
}

/// A seat beside each master, and `roaming` ones at the switch.
fn seats(lab: &Lab, roaming: usize) -> Vec<Seat> {
    let plan = plan(lab);
    let url = |master: &skiff_lab::Machine| format!("https://{}:{PORT}", master.address);
    let all: Vec<String> = plan.masters().map(url).collect();
    let alone = all.len() == 1;
    let seat = |namespace: &str, masters: Vec<String>| Seat {
        namespace: namespace.to_owned(),
        kubeconfig: lab.kubeconfig(),
        // Whoever may ask others finds one that has the history.
        lists_again: masters.len() == 1 && !alone,
        masters,
    };
    let beside = plan.masters().map(|master| seat(&master.namespace, vec![url(master)]));
    let roaming = std::iter::repeat_n(seat(&plan.switch, all.clone()), roaming);
    beside.chain(roaming).collect()
}

/// Makes the namespace; the revision after which watches begin.
fn prepare(lab: &Lab) -> u64 {
    let query = ["create", "namespace", NAMESPACE, "-o", "jsonpath={.metadata.resourceVersion}"];
    lab.kubectl(&query).ok().parse().unwrap()
}

/// Waits until all masters serve.
fn all_serve(lab: &Lab) {
    eventually("all masters", LIMIT, || {
        let machines = lab.machines();
        let ready = machines.iter().all(|machine| machine["ready"] == true);
        if ready { Ok(()) } else { Err(format!("{machines:?}")) }
    });
}

#[test]
fn three_masters_in_all_kinds_of_trouble_keep_their_promises() {
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut lab = Lab::planned();
    // Declared later, it goes before the lab does, which removes the folder.
    let disk = SmallDisk::mount(&lab.path().join("master-3"), SMALL_DISK_MEGABYTES);
    lab.begin(3, 0);
    let machines: Vec<String> = plan(&lab).masters().map(|master| master.name.clone()).collect();
    let people = People::start(&seats(&lab, 2), prepare(&lab), seed);

    let end = Instant::now() + Duration::from_secs(number("SKIFF_FAULT_SECONDS", 30));
    let mut rounds = 0;
    while Instant::now() < end {
        let round = Round::choose(&mut rng, &machines, "master-3");
        println!("{:>6} acknowledged, {round:?}", people.acknowledged());
        round.run(&lab, &machines, &disk);
        rounds += 1;
    }
    step("all is mended");
    all_serve(&lab);
    let summary = people.finish().unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    println!("{rounds} rounds, {summary:?}");
    for machine in &machines {
        // Whatever happens to a master, it ends with a word about it.
        let log = trouble::log(&lab, machine);
        assert!(!log.contains("panicked at"), "{machine}: {log}");
    }
    // A cluster in which nothing works keeps all promises, too.
    assert!(summary.acknowledged > 10 * rounds && summary.watched > 10 * rounds);
}

/// Waits until so many more calls were told of their effect.
fn some_writes(people: &People, count: usize) {
    let enough = people.acknowledged() + count;
    eventually("writes", LIMIT, || {
        let now = people.acknowledged();
        if now >= enough { Ok(()) } else { Err(format!("{now} of {enough}")) }
    });
}

#[test]
fn a_stale_answer_would_be_noticed() {
    let lab = Lab::up_with(3, 0);
    let seats = seats(&lab, 1);
    let mut people = People::start(&seats, prepare(&lab), seed());
    people.seat_a_believer(&seats[2]);
    some_writes(&people, 20);
    lab.lab(&["partition", "master-3"]).ok();
    // Its own state stays where it is while the others go on.
    some_writes(&people, 50);
    lab.lab(&["heal"]).ok();
    all_serve(&lab);
    let found = people.finish();
    assert!(
        found.as_ref().is_err_and(|why| why.contains("was known before it began")),
        "{found:?}"
    );
}

#[test]
fn a_master_killed_over_and_over_loses_nothing() {
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let lab = Lab::up_with(1, 0);
    let people = People::start(&seats(&lab, 3), prepare(&lab), seed);
    let rounds = number("SKIFF_KILL_ROUNDS", 10);
    for _ in 0..rounds {
        some_writes(&people, rng.random_range(1..80));
        lab.lab(&["kill", "master-1"]).ok();
        lab.lab(&["start", "master-1"]).ok();
    }
    all_serve(&lab);
    let summary = people.finish().unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    println!("{rounds} rounds, {summary:?}");
}
