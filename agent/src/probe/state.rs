//! When a row of probe results changes the verdict. Pure.

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;

/// The thresholds of one probe and how far it is from them.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    period: Duration,
    initial_delay: Duration,
    success_threshold: u32,
    failure_threshold: u32,
    healthy: bool,
    decided: bool,
    /// Equal results in a row.
    run: u32,
    last: bool,
}

/// The verdict changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Enough successes in a row.
    Healthy,
    /// Enough failures in a row.
    Unhealthy,
}

impl Machine {
    /// A machine that believes `healthy` until results say otherwise.
    pub(super) fn new(probe: &Probe, healthy: bool) -> Self {
        let seconds = |value: Option<i32>, default: u64, least: u64| {
            let value = value.map_or(default, |value| u64::try_from(value).unwrap_or_default());
            Duration::from_secs(value.max(least))
        };
        let count = |value: Option<i32>, default: u32| {
            value.map_or(default, |value| u32::try_from(value).unwrap_or_default()).max(1)
        };
        Self {
            period: seconds(probe.period_seconds, 10, 1),
            initial_delay: seconds(probe.initial_delay_seconds, 0, 0),
            success_threshold: count(probe.success_threshold, 1),
            failure_threshold: count(probe.failure_threshold, 3),
            healthy,
            decided: false,
            run: 0,
            last: healthy,
        }
    }

    pub(super) fn period(&self) -> Duration {
        self.period
    }

    pub(super) fn initial_delay(&self) -> Duration {
        self.initial_delay
    }

    /// Takes in one result; says if the verdict changed by it. A run of bad
    /// results is reported once, and so is the first verdict of all.
    pub(super) fn step(&mut self, success: bool) -> Option<Change> {
        if self.last == success {
            self.run = self.run.saturating_add(1);
        } else {
            self.last = success;
            self.run = 1;
        }
        let threshold = if success { self.success_threshold } else { self.failure_threshold };
        if self.run < threshold || (self.healthy == success && self.decided) {
            return None;
        }
        self.healthy = success;
        self.decided = true;
        Some(if success { Change::Healthy } else { Change::Unhealthy })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_count_results_in_a_row() {
        use Change::{Healthy, Unhealthy};
        type Case<'a> = (&'a str, i32, i32, bool, &'a str, &'a [Option<Change>]);
        let cases: [Case<'_>; 5] = [
            ("one success is enough", 1, 3, false, "+", &[Some(Healthy)]),
            ("three failures", 1, 3, true, "---", &[None, None, Some(Unhealthy)]),
            (
                "a success between starts over",
                1,
                2,
                true,
                "-+--",
                &[None, Some(Healthy), None, Some(Unhealthy)],
            ),
            ("two successes", 2, 3, false, "+-++", &[None, None, None, Some(Healthy)]),
            ("reported once", 1, 1, true, "--+", &[Some(Unhealthy), None, Some(Healthy)]),
        ];
        for (name, success, failure, healthy, results, expected) in cases {
            let probe = Probe {
                success_threshold: Some(success),
                failure_threshold: Some(failure),
                ..Probe::default()
            };
            let mut machine = Machine::new(&probe, healthy);
            let found: Vec<_> = results.chars().map(|result| machine.step(result == '+')).collect();
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn times_have_upstreams_defaults() {
        let machine = Machine::new(&Probe::default(), true);
        assert_eq!(
            (machine.period(), machine.initial_delay()),
            (Duration::from_secs(10), Duration::ZERO)
        );
        assert_eq!((machine.success_threshold, machine.failure_threshold), (1, 3));
    }
}
