//! Which master a node speaks to: the decision alone.
//!
//! Masters are kept in the order in which they are tried: the one that answered
//! last, the others of the cluster, and behind them what the command line named
//! and the cluster does not know, such as the address of a load balancer.
//!
//! A master that says that it has no quorum goes to the end. If nobody has one,
//! going round helps nobody: each move makes the next one wait longer.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long a node stays at least where it has moved, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(20));

/// After so long without a move the next pause is the first one again.
const SETTLED: Duration = Duration::from_secs(60);

/// The masters that a node knows of.
#[derive(Debug, Default)]
pub(super) struct Roster {
    /// What the command line named.
    given: Vec<SocketAddr>,
    order: Vec<SocketAddr>,
    /// When the node last left a master without quorum, and how long it stays
    /// after that.
    moved: Option<(Instant, Duration)>,
}

impl Roster {
    /// Those that the command line named; nothing else is known yet.
    pub(super) fn new(given: Vec<SocketAddr>) -> Self {
        Self { order: given.clone(), given, moved: None }
    }

    /// In the order in which they are tried.
    pub(super) fn order(&self) -> &[SocketAddr] {
        &self.order
    }

    /// The cluster says that these are its masters.
    pub(super) fn follow(&mut self, published: &[SocketAddr]) {
        let mut order: Vec<_> =
            self.order.iter().copied().filter(|known| published.contains(known)).collect();
        for master in published.iter().chain(&self.given) {
            if !order.contains(master) {
                order.push(*master);
            }
        }
        self.order = order;
    }

    /// This one answers.
    pub(super) fn prefer(&mut self, master: SocketAddr) {
        if let Some(place) = self.order.iter().position(|other| *other == master) {
            self.order[..=place].rotate_right(1);
        }
    }

    /// This one says that it has no quorum. Whether to leave it.
    pub(super) fn lost_quorum(&mut self, master: SocketAddr, now: Instant) -> bool {
        let pause = match self.moved {
            Some((at, pause)) if now < at + pause => return false,
            Some((at, pause)) if now < at + SETTLED => (pause * 2).min(PAUSE.1),
            _ => PAUSE.0,
        };
        let Some(place) = self.order.iter().position(|other| *other == master) else {
            return false;
        };
        if self.order.len() == 1 {
            return false;
        }
        self.order[place..].rotate_left(1);
        self.moved = Some((now, pause));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masters(ports: &[u16]) -> Vec<SocketAddr> {
        ports.iter().map(|port| ([10, 0, 0, 1], *port).into()).collect()
    }

    #[test]
    fn the_clusters_list_wins_over_the_command_line() {
        let cases = [
            ("nothing published yet", &[1, 2][..], &[][..], &[1, 2][..]),
            ("one more", &[1], &[1, 2], &[1, 2]),
            ("the one in use stays first", &[3], &[1, 2, 3], &[3, 1, 2]),
            ("a load balancer comes last", &[9], &[1, 2], &[1, 2, 9]),
            ("one that has left comes last if it was named", &[1, 2], &[2, 3], &[2, 3, 1]),
        ];
        for (name, given, published, expected) in cases {
            let mut roster = Roster::new(masters(given));
            roster.follow(&masters(published));
            assert_eq!(roster.order(), masters(expected), "{name}");
        }
        let mut roster = Roster::new(masters(&[1]));
        roster.follow(&masters(&[1, 2, 3]));
        roster.follow(&masters(&[1, 3]));
        assert_eq!(roster.order(), masters(&[1, 3]), "one that was only published is forgotten");
    }

    #[test]
    fn who_has_no_quorum_is_tried_last() {
        let [one, two, three] = [1, 2, 3].map(|port| masters(&[port])[0]);
        let now = Instant::now();
        let mut roster = Roster::new(vec![one, two, three]);
        assert!(roster.lost_quorum(one, now));
        assert_eq!(roster.order(), [two, three, one]);
        assert!(!roster.lost_quorum(masters(&[4])[0], now + SETTLED), "nobody we know");
        let mut alone = Roster::new(vec![one]);
        assert!(!alone.lost_quorum(one, now), "there is no other");
    }

    #[test]
    fn a_node_does_not_run_in_circles() {
        let mut roster = Roster::new(masters(&[1, 2, 3]));
        let start = Instant::now();
        let moves = |roster: &mut Roster, seconds: std::ops::Range<u64>| {
            // Every second the first master says that it has no quorum.
            let moved = |second: &u64| {
                roster.lost_quorum(roster.order()[0], start + Duration::from_secs(*second))
            };
            seconds.filter(moved).collect::<Vec<_>>()
        };
        assert_eq!(moves(&mut roster, 0..100), [0, 1, 3, 7, 15, 31, 51, 71, 91]);
        assert_eq!(moves(&mut roster, 200..204), [200, 201, 203], "a new trouble");
    }
}
