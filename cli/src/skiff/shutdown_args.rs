//! The flags about shutdowns of the machine. The names are the kubelet's.

use std::time::Duration;

use clap::Args;
use skiff_agent::shutdown::plan::{GraceError, GracePeriods, Rank};

use super::args::duration;

/// How long pods have to end when the machine shuts down.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Shutdown of the machine")]
pub struct ShutdownArgs {
    /// How long pods have to end when the machine shuts down; without, they end as Docker ends them
    #[arg(long, value_name = "DURATION", env = "SKIFF_SHUTDOWN_GRACE_PERIOD",
          default_value = "0s", value_parser = duration)]
    pub shutdown_grace_period: Duration,
    /// The last part of that, which is for pods of priority 2000000000 and above
    #[arg(long, value_name = "DURATION", env = "SKIFF_SHUTDOWN_GRACE_PERIOD_CRITICAL_PODS",
          default_value = "0s", value_parser = duration)]
    pub shutdown_grace_period_critical_pods: Duration,
    /// Instead of both: how long the pods from each priority on have, such as 0=20s,1000=10s
    #[arg(long, value_name = "PRIORITY=DURATION,…", value_delimiter = ',', value_parser = rank,
          env = "SKIFF_SHUTDOWN_GRACE_PERIOD_BY_POD_PRIORITY",
          conflicts_with_all = ["shutdown_grace_period", "shutdown_grace_period_critical_pods"])]
    pub shutdown_grace_period_by_pod_priority: Vec<Rank>,
}

impl ShutdownArgs {
    /// The periods that the flags come to.
    pub fn periods(&self) -> Result<GracePeriods, GraceError> {
        if self.shutdown_grace_period_by_pod_priority.is_empty() {
            let critical = self.shutdown_grace_period_critical_pods;
            return GracePeriods::new(self.shutdown_grace_period, critical);
        }
        GracePeriods::by_priority(self.shutdown_grace_period_by_pod_priority.iter().copied())
    }
}

/// Reads `PRIORITY=DURATION`.
fn rank(text: &str) -> Result<Rank, String> {
    let (priority, grace) = text.split_once('=').ok_or("expected PRIORITY=DURATION")?;
    let priority = priority.parse().map_err(|_| format!("{priority:?} is not a priority"))?;
    Ok(Rank { priority, grace: duration(grace)? })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::args::{Cli, Command};
    use super::*;

    fn periods(flags: &[&str]) -> Result<GracePeriods, String> {
        let typed = ["skiff", "up"].iter().chain(flags);
        let cli = Cli::try_parse_from(typed).map_err(|error| error.kind().to_string())?;
        cli.check()?;
        let Command::Up(args) = cli.command else { return Err("another command".into()) };
        args.node.shutdown.periods().map_err(|error| error.to_string())
    }

    #[test]
    fn flags_come_to_periods_or_say_why_not() {
        let seconds = Duration::from_secs;
        let (all, critical) =
            ("--shutdown-grace-period=30s", "--shutdown-grace-period-critical-pods=10s");
        let ranks = "--shutdown-grace-period-by-pod-priority=1000=5s,-1=1m";
        assert!(periods(&[]).unwrap().is_off());
        assert_eq!(
            periods(&[all, critical]),
            Ok(GracePeriods::new(seconds(30), seconds(10)).unwrap())
        );
        let rank = |priority, grace| Rank { priority, grace: seconds(grace) };
        assert_eq!(
            periods(&[ranks]),
            Ok(GracePeriods::by_priority([rank(1000, 5), rank(-1, 60)]).unwrap())
        );
        assert!(periods(&[critical]).unwrap_err().contains("critical pods cannot have 10s"));
        assert!(periods(&[all, ranks]).unwrap_err().contains("cannot be used"));
        assert!(periods(&["--shutdown-grace-period-by-pod-priority=0=1s,0=2s"]).is_err());
        assert!(periods(&["--shutdown-grace-period-by-pod-priority=a=1s"]).is_err());
    }
}
