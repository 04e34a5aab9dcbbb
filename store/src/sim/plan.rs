//! What a seed decides about its run: how large the group is, how hard the
//! world is to it, and what goes wrong how often.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// The circumstances of one run. Rates are per second of simulated time.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) members: u64,
    /// Milliseconds with faults; then everything is mended.
    pub(super) duration: u64,
    pub(super) clients: usize,
    pub(super) watchers: usize,
    /// Shares of messages that are lost and that arrive twice.
    pub(super) loss: f64,
    pub(super) repeat: f64,
    /// Longest way of a message, in milliseconds.
    pub(super) delay: u64,
    pub(super) crashes: f64,
    pub(super) pauses: f64,
    pub(super) partitions: f64,
    pub(super) full_disks: f64,
    pub(super) membership: f64,
    /// Share of disk operations at which the process dies.
    pub(super) failpoint: f64,
    /// Share of restarts that find something damaged on the disk.
    pub(super) damage: f64,
    /// Log entries between two saves of the state.
    pub(super) save_every: u64,
    /// Bytes of history that a member keeps.
    pub(super) history_bytes: usize,
    /// Bytes of log that a member keeps for slow ones.
    pub(super) kept_log_bytes: u64,
}

impl Plan {
    pub(super) fn of(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        // Every kind of trouble is absent from some runs, so that no trouble
        // hides behind another.
        let mut rate = |often: f64, share: f64| {
            if rng.random_bool(share) { rng.random_range(0.0..often) } else { 0.0 }
        };
        let (loss, repeat) = (rate(0.2, 0.6), rate(0.2, 0.6));
        let (crashes, pauses, partitions) = (rate(0.5, 0.7), rate(0.4, 0.5), rate(0.5, 0.6));
        let (full_disks, membership) = (rate(0.2, 0.3), rate(0.4, 0.4));
        let (failpoint, damage) = (rate(0.02, 0.6), rate(0.6, 0.4));
        Self {
            seed,
            members: *[1, 3, 3, 3, 5].get(rng.random_range(0..5)).unwrap_or(&3),
            duration: rng.random_range(6_000..16_000),
            clients: rng.random_range(1..6),
            watchers: rng.random_range(1..4),
            loss,
            repeat,
            delay: rng.random_range(1..150),
            crashes,
            pauses,
            partitions,
            full_disks,
            membership,
            failpoint,
            damage,
            save_every: rng.random_range(5..80),
            history_bytes: rng.random_range(4_000..60_000),
            kept_log_bytes: if rng.random_bool(0.5) { 0 } else { rng.random_range(0..8_000) },
        }
    }
}
