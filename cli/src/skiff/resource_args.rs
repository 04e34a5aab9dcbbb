//! The flags that say how much of the machine a node gives away, and what it
//! does when it runs short. The names are the kubelet's.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use skiff_agent::eviction::thresholds::{
    Bounds, Graces, Signal, Thresholds, read_duration, read_graces, read_reclaims, read_thresholds,
};
use skiff_agent::images::collect::Marks;
use skiff_api::quantity::Quantity;

/// What can be reserved.
const RESERVABLE: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// Amounts by resource.
pub type Amounts = BTreeMap<String, Quantity>;

/// How much of the machine a node gives away.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Resources of the node")]
pub struct ResourceArgs {
    /// How many pods the node takes
    #[arg(long, value_name = "N", env = "SKIFF_MAX_PODS", default_value_t = 110,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub max_pods: u32,
    /// Processes that one pod may have, -1 for no limit [default: a quarter of the machine's for each
    /// container]
    #[arg(long, value_name = "N", env = "SKIFF_POD_MAX_PIDS", value_parser = pids,
          allow_negative_numbers = true)]
    pub pod_max_pids: Option<i64>,
    /// Resources that are only counted, such as example.com/dongle=4
    #[arg(long, value_name = "NAME=N,…", env = "SKIFF_EXTENDED_RESOURCE", value_delimiter = ',',
          value_parser = extended)]
    pub extended_resource: Vec<(String, String)>,
    /// What is kept for the machine, such as cpu=100m,memory=200Mi
    #[arg(long, value_name = "NAME=AMOUNT,…", env = "SKIFF_SYSTEM_RESERVED", value_parser = amounts)]
    pub system_reserved: Option<Amounts>,
    /// What is kept for Skiff and Docker, in the same words
    #[arg(long, value_name = "NAME=AMOUNT,…", env = "SKIFF_KUBE_RESERVED", value_parser = amounts)]
    pub kube_reserved: Option<Amounts>,
    /// Below this a pod is evicted at once [default: memory.available<100Mi, disks <10% and 5Gi,
    /// inodes and pids <5%]
    #[arg(long, value_name = "SIGNAL<AMOUNT,…", env = "SKIFF_EVICTION_HARD", value_parser = read_thresholds)]
    pub eviction_hard: Option<Bounds>,
    /// Below this a pod is evicted after a grace period
    #[arg(long, value_name = "SIGNAL<AMOUNT,…", env = "SKIFF_EVICTION_SOFT", value_parser = read_thresholds)]
    pub eviction_soft: Option<Bounds>,
    /// The grace periods of --eviction-soft, such as memory.available=1m30s
    #[arg(long, value_name = "SIGNAL=DURATION,…", env = "SKIFF_EVICTION_SOFT_GRACE_PERIOD",
          value_parser = read_graces)]
    pub eviction_soft_grace_period: Option<Graces>,
    /// The seconds that a pod has at most to end when a soft threshold evicts it; -1 for as many as
    /// it asks for
    #[arg(
        long,
        value_name = "SECONDS",
        env = "SKIFF_EVICTION_MAX_POD_GRACE_PERIOD",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    pub eviction_max_pod_grace_period: i64,
    /// How much more than its threshold has to be left until a shortage is over
    #[arg(long, value_name = "SIGNAL=AMOUNT,…", env = "SKIFF_EVICTION_MINIMUM_RECLAIM",
          value_parser = read_reclaims)]
    pub eviction_minimum_reclaim: Option<Bounds>,
    /// How long a condition of the node stays after the last shortage
    #[arg(long, value_name = "DURATION", env = "SKIFF_EVICTION_PRESSURE_TRANSITION_PERIOD",
          default_value = "5m", value_parser = read_duration)]
    pub eviction_pressure_transition_period: Duration,
    /// From this share of Docker's disk on, in percent, unused images of Skiff's go; 100 for never
    #[arg(long, value_name = "PERCENT", env = "SKIFF_IMAGE_GC_HIGH_THRESHOLD", default_value_t = 85,
          value_parser = clap::value_parser!(u8).range(0..=100))]
    pub image_gc_high_threshold: u8,
    /// Down to this share
    #[arg(long, value_name = "PERCENT", env = "SKIFF_IMAGE_GC_LOW_THRESHOLD", default_value_t = 80,
          value_parser = clap::value_parser!(u8).range(0..=100))]
    pub image_gc_low_threshold: u8,
    /// How long after its last use an image stays at least
    #[arg(long, value_name = "DURATION", env = "SKIFF_MINIMUM_IMAGE_TTL_DURATION",
          default_value = "2m", value_parser = read_duration)]
    pub minimum_image_ttl_duration: Duration,
    /// Where proc and sys tell of the hardware; tests make up machines of their own
    #[arg(long, value_name = "DIR", env = "SKIFF_HARDWARE_ROOT", default_value = "/", hide = true)]
    pub hardware_root: std::path::PathBuf,
}

impl ResourceArgs {
    /// What is wrong between flags, and the way out.
    pub fn check(&self) -> Result<(), String> {
        let (high, low) = (self.image_gc_high_threshold, self.image_gc_low_threshold);
        if low >= high {
            return Err(format!(
                "--image-gc-low-threshold {low} is not below --image-gc-high-threshold {high}; images go from the high one down to the low one"
            ));
        }
        let none = Graces::new();
        let graces = self.eviction_soft_grace_period.as_ref().unwrap_or(&none);
        let soft = self.eviction_soft.iter().flatten();
        if let Some((signal, _)) = soft.into_iter().find(|(signal, _)| !graces.contains_key(signal))
        {
            let name = signal.name();
            return Err(format!(
                "--eviction-soft {name} has no grace period; add --eviction-soft-grace-period {name}=1m30s"
            ));
        }
        let stray = |signal: &&Signal| {
            !self.eviction_soft.as_ref().is_some_and(|soft| soft.contains_key(signal))
        };
        if let Some(signal) = graces.keys().find(stray) {
            let name = signal.name();
            return Err(format!(
                "--eviction-soft-grace-period {name} has no threshold; add --eviction-soft '{name}<AMOUNT' or leave it out"
            ));
        }
        Ok(())
    }

    /// When the node runs short.
    pub fn thresholds(&self) -> Thresholds {
        let default = Thresholds::default();
        Thresholds {
            hard: self.eviction_hard.clone().unwrap_or(default.hard),
            soft: self.eviction_soft.clone().unwrap_or_default(),
            soft_grace: self.eviction_soft_grace_period.clone().unwrap_or_default(),
            soft_pod_grace: self.eviction_max_pod_grace_period,
            reclaim: self.eviction_minimum_reclaim.clone().unwrap_or_default(),
            transition: self.eviction_pressure_transition_period,
        }
    }

    /// How full images may make the disk.
    pub fn image_marks(&self) -> Marks {
        Marks {
            high_percent: self.image_gc_high_threshold,
            low_percent: self.image_gc_low_threshold,
            least_age: self.minimum_image_ttl_duration,
        }
    }

    /// What of the machine is not for pods.
    pub fn reserved(&self) -> Amounts {
        let mut all = Amounts::new();
        for (name, amount) in self.system_reserved.iter().chain(&self.kube_reserved).flatten() {
            let known = all.remove(name).unwrap_or_else(|| Quantity::from_units(0));
            let sum = Quantity::from_millis(known.millis().saturating_add(amount.millis()));
            all.insert(name.clone(), sum);
        }
        all
    }
}

fn pids(text: &str) -> Result<i64, String> {
    match text.parse() {
        Ok(count) if count > 0 || count == -1 => Ok(count),
        _ => Err("expected a number above 0, or -1 for no limit".into()),
    }
}

/// Reads `cpu=100m,memory=200Mi`.
fn amounts(text: &str) -> Result<Amounts, String> {
    let mut all = Amounts::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, amount) =
            part.split_once('=').ok_or_else(|| format!("{part:?} is not of the form cpu=100m"))?;
        if !RESERVABLE.contains(&name) {
            return Err(format!("{name:?} is not one of {}", RESERVABLE.join(", ")));
        }
        let amount: Option<Quantity> = amount.parse().ok();
        let amount = amount
            .filter(|amount| !amount.is_negative())
            .ok_or_else(|| format!("{part:?} has no amount such as 100m or 200Mi"))?;
        all.insert(name.to_owned(), amount);
    }
    Ok(all)
}

/// Reads `example.com/dongle=4`.
fn extended(text: &str) -> Result<(String, String), String> {
    let (name, count) =
        text.split_once('=').ok_or("expected NAME=N such as example.com/dongle=4")?;
    let domain =
        name.split_once('/').filter(|(domain, rest)| !domain.is_empty() && !rest.is_empty());
    match domain {
        Some((domain, _)) if !domain.ends_with("kubernetes.io") => {}
        _ => {
            return Err(format!(
                "{name:?} is not a name in a domain of its own, such as example.com/dongle"
            ));
        }
    }
    match count.parse::<u32>() {
        Ok(count) => Ok((name.to_owned(), count.to_string())),
        Err(_) => Err(format!("{count:?} is not a whole number")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::skiff::args::{Cli, Command};

    fn parse(flags: &[&str]) -> Result<ResourceArgs, String> {
        let arguments = ["skiff", "up"].iter().chain(flags);
        let parsed = Cli::try_parse_from(arguments).map_err(|error| error.to_string())?;
        let Command::Up(args) = parsed.command else { return Err("not up".into()) };
        args.node.resources.check().map(|()| args.node.resources)
    }

    #[test]
    fn without_flags_the_defaults_stand() {
        let args = parse(&[]).unwrap();
        assert_eq!(args.thresholds(), Thresholds::default());
        assert_eq!(args.image_marks(), Marks::default());
        assert!(args.reserved().is_empty());
        assert_eq!((args.max_pods, args.pod_max_pids), (110, None));
    }

    #[test]
    fn what_is_said_stands() {
        let args = parse(&[
            "--eviction-hard=memory.available<1Gi",
            "--eviction-soft=nodefs.available<20%",
            "--eviction-soft-grace-period=nodefs.available=2m",
            "--eviction-pressure-transition-period=10s",
            "--eviction-max-pod-grace-period=-1",
            "--system-reserved=cpu=100m,memory=200Mi",
            "--kube-reserved=memory=56Mi",
            "--pod-max-pids=-1",
            "--minimum-image-ttl-duration=10s",
            "--extended-resource=example.com/dongle=4",
        ])
        .unwrap();
        let thresholds = args.thresholds();
        assert_eq!(thresholds.hard.len(), 1, "it takes the place of all defaults");
        assert_eq!(thresholds.soft_grace[&Signal::Nodefs], Duration::from_secs(120));
        assert_eq!(thresholds.transition, Duration::from_secs(10));
        assert_eq!(thresholds.soft_pod_grace, -1);
        let reserved = args.reserved();
        assert_eq!(reserved["cpu"].millis(), 100);
        assert_eq!(reserved["memory"].bytes(), 256 << 20);
        assert_eq!(args.pod_max_pids, Some(-1));
        assert_eq!(args.image_marks().least_age, Duration::from_secs(10));
        assert_eq!(args.extended_resource, [("example.com/dongle".into(), "4".into())]);
        let off = parse(&["--eviction-hard="]).unwrap();
        assert!(off.thresholds().hard.is_empty());
    }

    #[test]
    fn what_makes_no_sense_names_the_flag_and_the_way_out() {
        let cases = [
            ("--eviction-hard=memory<1Gi", "--eviction-hard", "memory.available"),
            ("--eviction-hard=memory.available=1Gi", "--eviction-hard", "memory.available<100Mi"),
            ("--eviction-soft=pid.available<10", "--eviction-soft", "pid.available=1m30s"),
            (
                "--eviction-soft-grace-period=pid.available=5s",
                "--eviction-soft-grace-period",
                "leave it out",
            ),
            (
                "--eviction-pressure-transition-period=5",
                "--eviction-pressure-transition-period",
                "90s",
            ),
            ("--image-gc-high-threshold=80", "--image-gc-high-threshold", "the low one"),
            ("--image-gc-high-threshold=101", "--image-gc-high-threshold", "0..=100"),
            ("--max-pods=0", "--max-pods", "1.."),
            ("--pod-max-pids=0", "--pod-max-pids", "-1"),
            ("--system-reserved=gpu=1", "--system-reserved", "cpu, memory"),
            ("--kube-reserved=cpu=-1", "--kube-reserved", "100m"),
            ("--extended-resource=dongle=4", "--extended-resource", "example.com/dongle"),
            ("--extended-resource=example.com/dongle=1.5", "--extended-resource", "whole number"),
        ];
        for (flag, named, way_out) in cases {
            let error = parse(&[flag]).unwrap_err();
            assert!(error.contains(named) && error.contains(way_out), "{flag}: {error}");
        }
    }
}
