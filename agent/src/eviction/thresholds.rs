//! What a node wants to be left of its memory, disks and process ids, and
//! when it runs short of it. Pure.
//!
//! A hard threshold takes effect at once, a soft one when it was crossed for
//! its grace period. The node's condition follows either at once, and stays for
//! a while after the last shortage (the transition period), so that a node on
//! the edge does not call for pods and send them away in turns. With a minimum
//! reclaim a shortage is over only when so much more is left.
//!
//! The words are the kubelet's: `memory.available<100Mi,nodefs.available<10%`.
//! `nodefs` is the file system of the data directory, `imagefs` that of Docker.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::SignedDuration;
use skiff_api::quantity::Quantity;
use tokio::time::Instant;

use crate::node::{Kind, Pressures, Shortage};
use crate::pod::model::EVICTION_GRACE;

/// Below this much available memory the node is under pressure; the kubelet's
/// own limit.
const MEMORY_LEFT_BYTES: u64 = 100 << 20;
/// Below this share of a disk, in percent, and below this many bytes. The share
/// is the kubelet's own limit; alone it would call a terabyte disk full with a
/// hundred gigabytes left.
const DISK_LEFT_PERCENT: f64 = 10.0;
const DISK_LEFT_BYTES: u64 = 5 << 30;
/// Below this share of its inodes.
const INODES_LEFT_PERCENT: f64 = 5.0;
/// Below this share of process ids.
const PIDS_LEFT_PERCENT: f64 = 5.0;
/// How long a condition stays after the last shortage; the kubelet's default.
const TRANSITION: Duration = Duration::from_secs(5 * 60);

/// What is measured, the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// `memory.available`.
    Memory,
    /// `nodefs.available`.
    Nodefs,
    /// `nodefs.inodesFree`.
    NodefsInodes,
    /// `imagefs.available`.
    Imagefs,
    /// `imagefs.inodesFree`.
    ImagefsInodes,
    /// `pid.available`.
    Pids,
}

impl Signal {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Memory,
        Self::Nodefs,
        Self::NodefsInodes,
        Self::Imagefs,
        Self::ImagefsInodes,
        Self::Pids,
    ];

    /// Its name in flags.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory.available",
            Self::Nodefs => "nodefs.available",
            Self::NodefsInodes => "nodefs.inodesFree",
            Self::Imagefs => "imagefs.available",
            Self::ImagefsInodes => "imagefs.inodesFree",
            Self::Pids => "pid.available",
        }
    }

    /// What runs short when it is low.
    pub fn kind(self) -> Kind {
        match self {
            Self::Memory => Kind::Memory,
            Self::Nodefs | Self::Imagefs => Kind::Disk,
            Self::NodefsInodes | Self::ImagefsInodes => Kind::Inodes,
            Self::Pids => Kind::Pids,
        }
    }

    fn named(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|signal| signal.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("{name:?} is not one of {names}")
        })
    }
}

/// An amount, or a share of all there is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// Bytes, files or process ids.
    Amount(u64),
    /// Percent of all.
    Percent(f64),
    /// The smaller of a share and an amount.
    PercentUpTo(f64, u64),
}

impl Bound {
    /// How much that is of `all`.
    pub fn of(self, all: u64) -> u64 {
        // Beyond 2^53 bytes a byte more or less is no matter.
        let share = |percent: f64| (all as f64 * percent / 100.0) as u64;
        match self {
            Self::Amount(amount) => amount,
            Self::Percent(percent) => share(percent),
            Self::PercentUpTo(percent, amount) => share(percent).min(amount),
        }
    }

    fn read(text: &str) -> Result<Self, String> {
        if let Some(percent) = text.strip_suffix('%') {
            let percent = percent.parse().ok().filter(|percent| (0.0..=100.0).contains(percent));
            return percent
                .map(Self::Percent)
                .ok_or_else(|| format!("{text:?} is not a share from 0% to 100%"));
        }
        let amount: Option<Quantity> = text.parse().ok();
        let bytes = amount.and_then(|amount| u64::try_from(amount.bytes()).ok());
        bytes.map(Self::Amount).ok_or_else(|| {
            format!("{text:?} is neither an amount such as 500Mi nor a share such as 10%")
        })
    }

    /// Whether it asks for something that can be: the kubelet takes none and
    /// all of a resource for "no threshold".
    fn is_real(self) -> bool {
        !matches!(self, Self::Amount(0))
            && !matches!(self, Self::Percent(share) if share <= 0.0 || share >= 100.0)
    }
}

/// Thresholds by signal.
pub type Bounds = BTreeMap<Signal, Bound>;
/// Grace periods by signal.
pub type Graces = BTreeMap<Signal, Duration>;

/// Reads `memory.available<100Mi,nodefs.available<10%`.
pub fn read_thresholds(text: &str) -> Result<Bounds, String> {
    read(text, '<', "memory.available<100Mi", Bound::read)
}

/// Reads `memory.available=200Mi,nodefs.available=5%`.
pub fn read_reclaims(text: &str) -> Result<Bounds, String> {
    read(text, '=', "nodefs.available=500Mi", Bound::read)
}

/// Reads `memory.available=1m30s`.
pub fn read_graces(text: &str) -> Result<Graces, String> {
    read(text, '=', "memory.available=1m30s", read_duration)
}

/// Reads `90s`, `1m30s` or `2h`.
pub fn read_duration(text: &str) -> Result<Duration, String> {
    let read: Option<SignedDuration> = text.parse().ok();
    read.and_then(|duration| Duration::try_from(duration).ok())
        .ok_or_else(|| format!("{text:?} is not a duration such as 90s or 1m30s"))
}

fn read<T>(
    text: &str,
    operator: char,
    example: &str,
    value: impl Fn(&str) -> Result<T, String>,
) -> Result<BTreeMap<Signal, T>, String> {
    let mut all = BTreeMap::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, amount) = part
            .split_once(operator)
            .ok_or_else(|| format!("{part:?} is not of the form {example}"))?;
        let signal = Signal::named(name.trim())?;
        if all.insert(signal, value(amount.trim())?).is_some() {
            return Err(format!("{} is there twice", signal.name()));
        }
    }
    Ok(all)
}

/// When a node runs short, and what it does.
#[derive(Debug, Clone, PartialEq)]
pub struct Thresholds {
    /// Those that take effect at once.
    pub hard: Bounds,
    /// Those that take effect after their grace period.
    pub soft: Bounds,
    /// The grace periods of the soft ones.
    pub soft_grace: Graces,
    /// How long pods have at most that go for a soft one, in seconds; less than
    /// nothing for as long as they ask for. Default: 0, which is a second.
    pub soft_pod_grace: i64,
    /// How much more than its threshold has to be left until a shortage is over.
    pub reclaim: Bounds,
    /// How long a condition stays after the last shortage. Default: 5 min.
    pub transition: Duration,
}

impl Default for Thresholds {
    fn default() -> Self {
        let disk = Bound::PercentUpTo(DISK_LEFT_PERCENT, DISK_LEFT_BYTES);
        let inodes = Bound::Percent(INODES_LEFT_PERCENT);
        let hard = [
            (Signal::Memory, Bound::Amount(MEMORY_LEFT_BYTES)),
            (Signal::Nodefs, disk),
            (Signal::NodefsInodes, inodes),
            (Signal::Imagefs, disk),
            (Signal::ImagefsInodes, inodes),
            (Signal::Pids, Bound::Percent(PIDS_LEFT_PERCENT)),
        ];
        Self {
            hard: hard.into(),
            soft: Bounds::new(),
            soft_grace: Graces::new(),
            soft_pod_grace: 0,
            reclaim: Bounds::new(),
            transition: TRANSITION,
        }
    }
}

impl Thresholds {
    /// How long a pod has to end that goes for a shortage and asks for `own`.
    pub fn pod_grace(&self, is_hard: bool, own: Duration) -> Duration {
        if is_hard {
            return EVICTION_GRACE;
        }
        // Less than nothing is no limit.
        let most = u64::try_from(self.soft_pod_grace).map_or(own, Duration::from_secs);
        most.min(own).max(EVICTION_GRACE)
    }
}

/// How much is left of something, and how much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// What is left.
    pub left: u64,
    /// All there is.
    pub all: u64,
}

/// Follows one node's readings.
#[derive(Debug)]
pub struct Watch {
    thresholds: Thresholds,
    /// Since when a threshold has been crossed; hard ones by `true`.
    crossed: BTreeMap<(Signal, bool), Instant>,
    /// When something of a kind was short last.
    short_at: BTreeMap<&'static str, Instant>,
}

impl Watch {
    /// A watch that has seen nothing yet.
    pub fn new(thresholds: Thresholds) -> Self {
        Self { thresholds, crossed: BTreeMap::new(), short_at: BTreeMap::new() }
    }

    /// What is short after these readings. What has no reading is not.
    pub fn look(&mut self, readings: &BTreeMap<Signal, Reading>, now: Instant) -> Pressures {
        let Thresholds { hard, soft, soft_grace, reclaim, transition, .. } = &self.thresholds;
        let all = hard.iter().map(|one| (one, true)).chain(soft.iter().map(|one| (one, false)));
        let mut urgent: Option<Shortage> = None;
        for ((signal, bound), is_hard) in all.filter(|((_, bound), _)| bound.is_real()) {
            let key = (*signal, is_hard);
            let short = readings.get(signal).and_then(|reading| {
                let least = bound.of(reading.all);
                // Once crossed, more has to be left until it is over.
                let more = reclaim.get(signal).filter(|_| self.crossed.contains_key(&key));
                let wanted = least.saturating_add(more.map_or(0, |more| more.of(reading.all)));
                let short = Shortage { signal: *signal, least, left: reading.left, is_hard };
                (reading.left < wanted).then_some(short)
            });
            let Some(short) = short else {
                self.crossed.remove(&key);
                continue;
            };
            self.short_at.insert(signal.kind().condition(), now);
            let since = *self.crossed.entry(key).or_insert(now);
            let grace = soft_grace.get(signal).copied().filter(|_| !is_hard).unwrap_or_default();
            let order = |short: &Shortage| (short.signal, !short.is_hard);
            if now.duration_since(since) >= grace
                && urgent.as_ref().is_none_or(|known| order(&short) < order(known))
            {
                urgent = Some(short);
            }
        }
        // A shortage seen just now holds even with no transition at all.
        let holds = |kind: Kind| {
            let at = self.short_at.get(kind.condition());
            at.is_some_and(|at| *at == now || now.duration_since(*at) < *transition)
        };
        Pressures {
            memory: holds(Kind::Memory),
            disk: holds(Kind::Disk),
            pids: holds(Kind::Pids),
            urgent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MI: u64 = 1 << 20;
    const GI: u64 = 1 << 30;

    #[test]
    fn flags_are_read_in_the_kubelets_words() {
        let read = read_thresholds("memory.available<100Mi, nodefs.available<7.5%").unwrap();
        let expected =
            [(Signal::Memory, Bound::Amount(100 * MI)), (Signal::Nodefs, Bound::Percent(7.5))];
        assert_eq!(read, Bounds::from(expected));
        assert!(read_thresholds("").unwrap().is_empty());
        let grace = read_graces("memory.available=1m30s").unwrap();
        assert_eq!(grace, Graces::from([(Signal::Memory, Duration::from_secs(90))]));
        let reclaim = read_reclaims("pid.available=10").unwrap();
        assert_eq!(reclaim, Bounds::from([(Signal::Pids, Bound::Amount(10))]));
        let wrong = [
            ("memory.available>1Mi", "not of the form memory.available<100Mi"),
            ("memory<1Mi", "\"memory\" is not one of memory.available, nodefs.available"),
            ("memory.available<much", "neither an amount"),
            ("memory.available<-1Mi", "neither an amount"),
            ("memory.available<101%", "not a share"),
            ("memory.available<1Mi,memory.available<2Mi", "memory.available is there twice"),
        ];
        for (text, said) in wrong {
            let error = read_thresholds(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
        for text in ["soon", "-5s", "5"] {
            assert!(read_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_disk_is_full_by_default_when_both_share_and_bytes_say_so() {
        let bound = Thresholds::default().hard[&Signal::Nodefs];
        let cases = [(1000 * GI, 5 * GI), (20 * GI, 2 * GI), (0, 0)];
        for (all, least) in cases {
            assert_eq!(bound.of(all), least, "{all}");
        }
    }

    /// A watch with thresholds, driven second by second.
    struct Driven {
        watch: Watch,
        begun: Instant,
    }

    impl Driven {
        fn new(change: impl FnOnce(&mut Thresholds)) -> Self {
            let mut thresholds = Thresholds { hard: Bounds::new(), ..Thresholds::default() };
            change(&mut thresholds);
            Self { watch: Watch::new(thresholds), begun: Instant::now() }
        }

        /// Whether memory is called short at a second with so much left of 100,
        /// and whether somebody has to go.
        fn memory(&mut self, second: u64, left: u64) -> (bool, Option<bool>) {
            let readings = BTreeMap::from([(Signal::Memory, Reading { left, all: 100 })]);
            let found = self.watch.look(&readings, self.begun + Duration::from_secs(second));
            (found.memory, found.urgent.map(|short| short.is_hard))
        }
    }

    #[test]
    fn a_condition_outlasts_its_shortage_by_the_transition_period() {
        let mut node = Driven::new(|thresholds| {
            thresholds.hard = read_thresholds("memory.available<10").unwrap();
            thresholds.transition = Duration::from_secs(60);
        });
        assert_eq!(node.memory(0, 10), (false, None));
        assert_eq!(node.memory(10, 9), (true, Some(true)));
        assert_eq!(node.memory(20, 50), (true, None), "it is over but may come back");
        assert_eq!(node.memory(69, 50), (true, None));
        assert_eq!(node.memory(70, 50), (false, None));
        let mut quick = Driven::new(|thresholds| {
            thresholds.hard = read_thresholds("memory.available<10%").unwrap();
            thresholds.transition = Duration::ZERO;
        });
        assert_eq!(quick.memory(0, 9), (true, Some(true)));
        assert_eq!(quick.memory(1, 50), (false, None));
    }

    #[test]
    fn a_soft_threshold_waits_for_its_grace_period() {
        let mut node = Driven::new(|thresholds| {
            thresholds.hard = read_thresholds("memory.available<10").unwrap();
            thresholds.soft = read_thresholds("memory.available<20").unwrap();
            thresholds.soft_grace = read_graces("memory.available=30s").unwrap();
        });
        assert_eq!(node.memory(0, 15), (true, None), "the condition does not wait");
        assert_eq!(node.memory(10, 25), (true, None), "and begins anew");
        assert_eq!(node.memory(20, 15), (true, None));
        assert_eq!(node.memory(49, 15), (true, None));
        assert_eq!(node.memory(50, 15), (true, Some(false)));
        assert_eq!(node.memory(51, 5), (true, Some(true)), "the hard one comes first");
    }

    #[test]
    fn a_shortage_lasts_until_enough_is_left() {
        let mut node = Driven::new(|thresholds| {
            thresholds.hard = read_thresholds("memory.available<10").unwrap();
            thresholds.reclaim = read_reclaims("memory.available=20").unwrap();
            thresholds.transition = Duration::ZERO;
        });
        assert_eq!(node.memory(0, 29), (false, None));
        assert_eq!(node.memory(1, 9), (true, Some(true)));
        assert_eq!(node.memory(2, 29), (true, Some(true)));
        assert_eq!(node.memory(3, 30), (false, None));
        assert_eq!(node.memory(4, 29), (false, None));
    }

    #[test]
    fn no_threshold_is_never_crossed() {
        for text in ["", "memory.available<0", "memory.available<0%", "memory.available<100%"] {
            let mut node =
                Driven::new(|thresholds| thresholds.hard = read_thresholds(text).unwrap());
            assert_eq!(node.memory(0, 0), (false, None), "{text}");
        }
        let mut unread = Watch::new(Thresholds::default());
        assert_eq!(unread.look(&BTreeMap::new(), Instant::now()), Pressures::default());
    }

    #[test]
    fn the_most_urgent_comes_first() {
        let mut watch = Watch::new(Thresholds::default());
        let none = Reading { left: 0, all: 100 };
        let readings = Signal::ALL.map(|signal| (signal, none)).into();
        let found = watch.look(&readings, Instant::now());
        assert_eq!(found.urgent.unwrap().signal, Signal::Memory);
        assert_eq!(found.conditions(), ["MemoryPressure", "DiskPressure", "PIDPressure"]);
        let disks = [Signal::Imagefs, Signal::Pids].map(|signal| (signal, none)).into();
        let found = Watch::new(Thresholds::default()).look(&disks, Instant::now());
        assert_eq!(found.urgent.unwrap().signal, Signal::Imagefs);
        assert_eq!(found.conditions(), ["DiskPressure", "PIDPressure"]);
    }

    #[test]
    fn only_a_soft_threshold_gives_pods_time() {
        let own = Duration::from_secs(30);
        for (most, is_hard, expected) in
            [(0, false, 1), (10, false, 10), (60, false, 30), (-1, false, 30), (60, true, 1)]
        {
            let thresholds = Thresholds { soft_pod_grace: most, ..Thresholds::default() };
            let grace = thresholds.pod_grace(is_hard, own);
            assert_eq!(grace, Duration::from_secs(expected), "{most} {is_hard}");
        }
    }
}
